//! One probe for each row of `matrix.md`.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::frames::{BROADCAST, Mac, advertisement, arp, ethernet, hex, ipv4, ipv6, source_route, tagged, udp, v4};
use crate::host::sh;
use crate::world::{From, HOST_PORT, LOOPBACK_PORT, PORT, World};
use torpor::plan::network::mac;

const IP: u16 = 0x0800;
const IP6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

pub struct Probe {
    pub from: From,
    pub to: &'static str,
    pub protocol: &'static str,
    pub how: How,
    /// Who answers, or where it arrives, if it is open.
    pub who: &'static str,
}

/// Makes frames that carry a token.
type Make = Box<dyn Fn(&str) -> Vec<Vec<u8>> + Send + Sync>;

pub enum How {
    /// The probe program's arguments; `TOKEN` stands for what is to be recognised.
    Run(Vec<String>),
    /// Frames sent one after the other on that link, made of the token.
    Frames(&'static str, Make),
    /// Sent as frames too; whether it had an effect is seen in the router, by a command whose output then has that text.
    Effect(&'static str, Vec<u8>, String, String),
}

impl Probe {
    /// What the probe program is told for a frame.
    pub fn commands(&self, token: &str) -> Vec<Vec<String>> {
        let frame = |link: &str, f: &[u8]| vec!["frame".to_owned(), link.to_owned(), hex(f)];
        match &self.how {
            How::Run(args) => vec![args.iter().map(|a| a.replace("TOKEN", token)).collect()],
            How::Frames(link, make) => make(token).iter().map(|f| frame(link, f)).collect(),
            How::Effect(link, f, _, _) => vec![frame(link, f)],
        }
    }
}

struct List {
    all: Vec<Probe>,
    from: From,
}

impl List {
    fn add(&mut self, to: &'static str, protocol: &'static str, who: &'static str, how: How) {
        self.all.push(Probe { from: self.from, to, protocol, how, who });
    }

    fn run(&mut self, to: &'static str, protocol: &'static str, who: &'static str, args: &[&str]) {
        self.add(to, protocol, who, How::Run(args.iter().map(|a| (*a).to_owned()).collect()));
    }

    /// The same by TCP, UDP and ICMP.
    fn each(&mut self, to: &'static str, protocols: &[&'static str], who: &'static str, address: &str, port: u16) {
        for protocol in protocols {
            let at = format!("{address}:{port}");
            match *protocol {
                "TCP" => self.run(to, protocol, who, &["tcp", &at, "TOKEN"]),
                "UDP" => self.run(to, protocol, who, &["udp", &at, "TOKEN"]),
                _ => self.run(to, protocol, "echo", &["icmp", address, "TOKEN"]),
            }
        }
    }

    fn frame(
        &mut self,
        to: &'static str,
        who: &'static str,
        link: &'static str,
        make: impl Fn(&str) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) {
        self.add(to, "UDP frame", who, How::Frames(link, Box::new(make)));
    }
}

/// All of them.
pub fn all(w: &World) -> Vec<Probe> {
    let mut list = List { all: Vec::new(), from: From::Pod };
    from_pods(&mut list, w);
    list.from = From::Namespace;
    from_namespace(&mut list, w);
    list.from = From::Host;
    let own = w.pod.ports[0].host;
    list.each("pod", &["TCP", "UDP", "ICMP"], "pod", &w.pod.address, PORT);
    let own_udp = w.pod.ports[1].host;
    list.each("pod's forward on 127.0.0.1", &["TCP"], "pod", "127.0.0.1", own);
    list.each("pod's forward on 127.0.0.1", &["UDP"], "pod", "127.0.0.1", own_udp);
    list.each("pod's forward on its own address", &["TCP"], "pod", HOST, own);
    list.each("pod's forward on its own address", &["UDP"], "pod", HOST, own_udp);
    list.from = From::Outside;
    from_outside(&mut list, w);
    list.from = From::Stranger;
    list.each("pod", &["TCP", "UDP"], "pod", &w.pod.address, PORT);
    list.each("pod, by its forward", &["TCP"], "pod", HOST, own);
    list.each("pod, by its forward", &["UDP"], "pod", HOST, own_udp);
    list.all
}

const HOST: &str = "198.51.100.1";
const OUTSIDE: &str = "203.0.113.80";
const METADATA: &str = "169.254.169.254";

fn from_pods(list: &mut List, w: &World) {
    let every = ["TCP", "UDP", "ICMP"];
    let other = w.other.address.as_str();
    let gateway = gateway(&w.pod.address).to_string();
    let (end, far_end) = (w.host_end(&w.a), next(w.host_end(&w.b)).to_string());
    list.each("itself", &["TCP", "UDP"], "pod", &w.pod.address, PORT);
    list.each("other pod", &every, "other", other, PORT);
    list.each("other pod, by its forward", &["TCP"], "other", HOST, w.other.ports[0].host);
    list.each("other pod, by its forward", &["UDP"], "other", HOST, w.other.ports[1].host);
    list.each("itself, by its forward", &["TCP"], "pod", HOST, w.pod.ports[0].host);
    list.each("itself, by its forward", &["UDP"], "pod", HOST, w.pod.ports[1].host);
    let at = format!("{other}:{PORT}");
    list.run("other pod, strict source route", "UDP", "other", &["udp-by", "strict", &gateway, &at, "TOKEN"]);
    let forged = format!("{other}:0");
    let outside_at = format!("{OUTSIDE}:{PORT}");
    list.run("outside, as other pod", "UDP", "outside", &["udp-from", &forged, &outside_at, "TOKEN"]);
    list.each("stranger", &every, "stranger", &w.stranger.address, PORT);
    list.each("stranger, by its forward", &["TCP"], "stranger", HOST, w.stranger.ports[0].host);
    list.each("stranger, by its forward", &["UDP"], "stranger", HOST, w.stranger.ports[1].host);
    list.each("stranger's router", &["ICMP"], "echo", &far_end, 0);
    list.each("its own router", &["ICMP"], "echo", &next(end).to_string(), 0);
    list.each("its gateway", &["TCP", "ICMP"], "echo", &gateway, PORT);
    list.each("host", &every, "host", HOST, PORT);
    list.each("host's end of the link to the router", &every, "host", &end.to_string(), PORT);
    list.each("service on the host's loopback", &["TCP", "UDP"], "loopback", "127.0.0.1", LOOPBACK_PORT);
    list.run("API socket", "Unix", "unix", &["unix", &w.a.socket.display().to_string()]);
    list.run("abstract socket of the host", "Unix", "abstract", &["abstract", &w.abstract_name]);
    list.each("metadata address", &every, "outside", METADATA, 80);
    let mapped = format!("[::ffff:{METADATA}]:80");
    list.run("metadata address, IPv4 in IPv6", "TCP", "outside", &["tcp", &mapped, "TOKEN"]);
    list.each("other link-local address", &["UDP"], "outside", "169.254.7.7", PORT);
    list.each("255.255.255.255", &["UDP"], "host", "255.255.255.255", HOST_PORT);
    list.each("broadcast address of the host's network", &["UDP"], "host", "198.51.100.255", HOST_PORT);
    list.each("first address of the host's network", &["UDP"], "host", "198.51.100.0", HOST_PORT);
    list.each("224.0.0.251", &["UDP"], "host", "224.0.0.251", HOST_PORT);
    list.each("outside", &every, "outside", OUTSIDE, PORT);
    list.each("outside, at the number of a forward", &["TCP"], "outside", OUTSIDE, w.other.ports[0].host);
    list.each("outside, at the number of a forward", &["UDP"], "outside", OUTSIDE, w.other.ports[1].host);
    list.each("resolver", &["TCP", "UDP"], "outside", "192.0.2.53", 53);
    let v6 = format!("[2001:db8:ffff::80]:{PORT}");
    list.run("outside", "IPv6 TCP", "outside", &["tcp", &v6, "TOKEN"]);
    list.run("outside", "IPv6 UDP", "outside", &["udp6", &v6, "TOKEN"]);
    list.run("outside", "IPv6 ICMP", "echo", &["icmp", "2001:db8:ffff::80", "TOKEN"]);
    list.run("host", "IPv6 TCP", "host", &["tcp", &format!("[2001:db8::1]:{PORT}"), "TOKEN"]);
    list.run("all nodes", "IPv6 UDP", "host", &["udp6", &format!("[ff02::1]:{HOST_PORT}"), "TOKEN"]);
    for (to, kind) in [("raw IPv4", "ip"), ("raw ICMP", "icmp"), ("raw IPv6", "ip6"), ("its link", "packet")] {
        list.run(to, "raw", "socket", &["raw", kind]);
    }
}

fn gateway(pod: &str) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(v4(pod)) & !1)
}

fn next(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address) + 1)
}

fn from_namespace(list: &mut List, w: &World) {
    let own = v4(&w.pod.address);
    let gate = gateway(&w.pod.address);
    let (to_mac, own_mac): (Mac, Mac) = (mac(gate), mac(own));
    let (other, stranger) = (v4(&w.other.address), v4(&w.stranger.address));
    let (host, outside, end) = (v4(HOST), v4(OUTSIDE), w.host_end(&w.a));
    let local = Ipv4Addr::LOCALHOST;
    let packet = move |from, to, port| {
        move |token: &str| vec![ethernet(to_mac, own_mac, IP, &ipv4(from, to, &[], 0, &udp(port, token)))]
    };
    let mut send = |to: &'static str, who: &'static str, from: Ipv4Addr, address: Ipv4Addr, port: u16| {
        list.frame(to, who, "eth0", packet(from, address, port));
    };
    send("outside", "outside", own, outside, PORT);
    send("outside, as other pod", "outside", other, outside, PORT);
    send("outside, as the host", "outside", host, outside, PORT);
    send("outside, as somebody", "outside", v4("192.0.2.99"), outside, PORT);
    send("other pod", "other", own, other, PORT);
    send("other pod, as the outside", "other", outside, other, PORT);
    send("other pod, as the host", "other", end, other, PORT);
    send("other pod, by its forward", "other", own, host, w.other.ports[1].host);
    send("stranger", "stranger", own, stranger, PORT);
    send("host", "host", own, host, PORT);
    send("host, as 127.0.0.1", "host", local, host, PORT);
    send("service on the host's loopback", "loopback", own, local, LOOPBACK_PORT);
    send("metadata address", "outside", own, v4(METADATA), 80);
    list.frame("host, in fragments", "host", "eth0", move |token| {
        let whole = udp(PORT, token);
        let piece = |flags, bytes: &[u8]| ethernet(to_mac, own_mac, IP, &ipv4(own, host, &[], flags, bytes));
        vec![piece(0x2000, &whole[..8]), piece(1, &whole[8..])]
    });
    for (to, kind) in [("other pod, loose source route", 131), ("other pod, strict source route", 137)] {
        list.frame(to, "other", "eth0", move |token| {
            let inner = ipv4(own, gate, &source_route(kind, other), 0, &udp(PORT, token));
            vec![ethernet(to_mac, own_mac, IP, &inner)]
        });
    }
    let inner = move |token: &str| ipv4(own, other, &[], 0, &udp(PORT, token));
    list.frame("other pod, broadcast frame", "other", "eth0", move |t| {
        vec![ethernet(BROADCAST, own_mac, IP, &inner(t))]
    });
    list.frame("other pod, priority tag", "other", "eth0", move |t| {
        vec![ethernet(to_mac, own_mac, 0x8100, &tagged(0, IP, &inner(t)))]
    });
    list.frame("other pod, two tags", "other", "eth0", move |t| {
        vec![ethernet(to_mac, own_mac, 0x88a8, &tagged(5, 0x8100, &tagged(6, IP, &inner(t))))]
    });
    let ask = |who: Ipv4Addr| {
        let request = ethernet(BROADCAST, own_mac, ARP, &arp(1, (own_mac, own), ([0; 6], who)));
        How::Run(vec!["arp".into(), "eth0".into(), hex(&request), who.to_string()])
    };
    list.add("its gateway", "ARP", "arp", ask(gate));
    list.add("other pod, asked for", "ARP", "arp", ask(other));
    let false_mac: Mac = [2, 0xba, 0xd0, 0xba, 0xd0, 1];
    for (to, who) in [("other pod, claimed", other), ("host's end of the link to the router, claimed", end)] {
        let claim = ethernet(to_mac, own_mac, ARP, &arp(2, (false_mac, who), (to_mac, gate)));
        let seen = "02:ba:d0:ba:d0:01".to_owned();
        list.add(to, "ARP", "router", How::Effect("eth0", claim, "ip neigh show".into(), seen));
    }
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x74, 0, 0, 1);
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let multicast: Mac = [0x33, 0x33, 0, 0, 0, 1];
    let prefix = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0);
    let packet = ipv6(link_local, all_nodes, 58, &advertisement(prefix));
    let frame = ethernet(multicast, own_mac, IP6, &packet);
    let command = "sh -c 'ip -6 addr; ip -6 route'".to_owned();
    list.add(
        "router, as an IPv6 router",
        "IPv6 frame",
        "router",
        How::Effect("eth0", frame, command, "2001:db8:bad".into()),
    );
    let six = move |to_mac: Mac, to: Ipv6Addr| {
        let make = move |token: &str| {
            vec![ethernet(
                to_mac,
                own_mac,
                IP6,
                &ipv6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9), to, 17, &udp(HOST_PORT, token)),
            )]
        };
        How::Frames("eth0", Box::new(make))
    };
    list.add("all nodes", "IPv6 frame", "host", six(multicast, all_nodes));
    list.add("host", "IPv6 frame", "host", six(to_mac, "2001:db8::1".parse().unwrap()));
}

fn from_outside(list: &mut List, w: &World) {
    let forward = w.pod.ports[0].host;
    let by_udp = w.pod.ports[1].host;
    list.each("pod's forward", &["TCP"], "pod", HOST, forward);
    list.each("pod's forward", &["UDP"], "pod", HOST, by_udp);
    list.each("pod", &["TCP", "UDP", "ICMP"], "pod", &w.pod.address, PORT);
    list.each("router", &["ICMP"], "echo", &next(w.host_end(&w.a)).to_string(), 0);
    list.run("pod's forward", "IPv6 TCP", "pod", &["tcp", &format!("[2001:db8::1]:{forward}"), "TOKEN"]);
    let text = sh("ip -o link show lan0");
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|w| *w == "link/ether").unwrap();
    let mut to_mac: Mac = [0; 6];
    for (byte, part) in to_mac.iter_mut().zip(words[at + 1].split(':')) {
        *byte = u8::from_str_radix(part, 16).unwrap();
    }
    let own_mac: Mac = [2, 0, 0, 0, 0, 9];
    let (pod, other, end) = (v4(&w.pod.address), v4(&w.other.address), w.host_end(&w.a));
    let outside = v4("198.51.100.2");
    let mut send = |to: &'static str, who: &'static str, from: Ipv4Addr, address: Ipv4Addr, port: u16| {
        list.frame(to, who, "eth0", move |token| {
            vec![ethernet(to_mac, own_mac, IP, &ipv4(from, address, &[], 0, &udp(port, token)))]
        });
    };
    send("pod, as other pod", "pod", other, pod, PORT);
    send("pod, as the host", "pod", end, pod, PORT);
    send("pod's forward, as other pod", "pod", other, v4(HOST), by_udp);
    send("service on the host's loopback", "loopback", outside, Ipv4Addr::LOCALHOST, LOOPBACK_PORT);
}

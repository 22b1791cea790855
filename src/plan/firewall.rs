//! The firewall as text for `iptables-restore`.
//!
//! Isolation lives in the router's namespace, where no flush or reload of the host's firewall reaches it. The host has
//! only what must be there: address translation in chains of ours, and jumps to them that bear the instance's tag.
//!
//! A forward has two halves. The host leads its port to the same port of the router, and the router from there to the pod.
//! So the router knows what came by a forward, and lets nothing else in but what the host itself sends: neither another
//! host that has a route nor another instance's pods get to a pod's own address, whatever became of the host's rules.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::model::{InstanceTag, Protocol};
use crate::plan::network::Addressing;

/// A host port and where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForwardTo {
    /// Port on the host.
    pub host: u16,
    /// Transport.
    pub protocol: Protocol,
    /// The one address of the host that leads there; none: all.
    pub address: Option<Ipv4Addr>,
    /// Address and port of the pod.
    pub target: SocketAddrV4,
}

/// Names of the host's chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostChains {
    /// nat: forwards.
    pub forwards: String,
    /// nat: masquerade.
    pub masquerade: String,
    /// filter: what pods may send through the host.
    pub filter: String,
    /// filter: what pods may send to the host itself.
    pub input: String,
    comment: String,
    uplink: String,
}

/// A jump from a built-in chain: table, chain, rule.
pub type Jump = (&'static str, &'static str, Vec<String>);

impl HostChains {
    /// Of one instance.
    pub fn new(tag: &InstanceTag) -> Self {
        HostChains {
            forwards: format!("TORPOR-{tag}-FWD"),
            masquerade: format!("TORPOR-{tag}-MASQ"),
            filter: format!("TORPOR-{tag}-PASS"),
            input: format!("TORPOR-{tag}-IN"),
            comment: format!("torpor:{tag}"),
            uplink: crate::plan::network::uplink(tag),
        }
    }

    /// The rules by which built-in chains lead to ours. They stand first, so that another program's policy or rules
    /// (docker's `FORWARD` policy is DROP) don't cut pods off.
    pub fn jumps(&self) -> Vec<Jump> {
        let rule = |parts: &[&str], to: &str| {
            let mut all: Vec<String> = parts.iter().map(|s| (*s).to_owned()).collect();
            all.extend(["-m", "comment", "--comment", &self.comment, "-j", to].map(str::to_owned));
            all
        };
        vec![
            // Only what is addressed to the host itself: traffic that passes through is left alone.
            // Nor what our own pods send: to them the host and its forwards are closed.
            (
                "nat",
                "PREROUTING",
                rule(&["!", "-i", &self.uplink, "-m", "addrtype", "--dst-type", "LOCAL"], &self.forwards),
            ),
            (
                "nat",
                "OUTPUT",
                rule(&["!", "-d", "127.0.0.0/8", "-m", "addrtype", "--dst-type", "LOCAL"], &self.forwards),
            ),
            ("nat", "POSTROUTING", rule(&[], &self.masquerade)),
            ("filter", "FORWARD", rule(&[], &self.filter)),
            ("filter", "INPUT", rule(&["-i", &self.uplink], &self.input)),
        ]
    }

    /// The whole content of our chains: replaces what they held, in one step for each table.
    pub fn content(&self, network: &Addressing, forwards: &[ForwardTo]) -> String {
        let (cidr, router) = (network.cidr(), network.router_end());
        let mut text = String::from("*nat\n");
        let _ = writeln!(text, ":{} - [0:0]\n:{} - [0:0]", self.forwards, self.masquerade);
        for forward in forwards {
            let _ = writeln!(text, "-A {}", self.forward(router, forward));
        }
        // Not towards another instance's router, to which it would look like the host.
        let _ = writeln!(text, "-A {} -s {cidr} ! -d {cidr} ! -o tp-+ -j MASQUERADE", self.masquerade);
        let _ = writeln!(text, "COMMIT\n*filter\n:{} - [0:0]\n:{} - [0:0]", self.filter, self.input);
        // From pod to pod there is no way by the host either, not even to another instance's; and to pods only forwards
        // lead. What is not ours is not decided here.
        let (pass, uplink) = (&self.filter, &self.uplink);
        let _ = writeln!(
            text,
            "-A {pass} -i {uplink} -o tp-+ -j DROP\n-A {pass} -i {uplink} -j ACCEPT\n\
             -A {pass} -o {uplink} -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT\n\
             -A {pass} -o {uplink} -j DROP"
        );
        // The router drops this already; here it holds even while the router's list of our addresses is out of date.
        let _ = writeln!(
            text,
            "-A {} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n-A {} -j DROP",
            self.input, self.input
        );
        text.push_str("COMMIT\n");
        text
    }

    fn forward(&self, router: Ipv4Addr, ForwardTo { host, protocol, address, .. }: &ForwardTo) -> String {
        let at = address.map(|a| format!(" -d {a}")).unwrap_or_default();
        format!("{}{at} -p {protocol} --dport {host} -j DNAT --to-destination {router}", self.forwards)
    }

    /// What turns one set of forwards into another, in one step. It goes wrong as a whole where somebody else has taken
    /// away the chain or a rule.
    ///
    /// Where nothing goes, this is far cheaper than [`HostChains::content`]: the kernel waits until nobody looks at a rule
    /// that goes any more, and holds up whoever removed it for that long.
    pub fn change<'a>(
        &self,
        network: &Addressing,
        gone: impl Iterator<Item = &'a ForwardTo>,
        new: impl Iterator<Item = &'a ForwardTo>,
    ) -> String {
        let router = network.router_end();
        nat_change(gone.map(|f| self.forward(router, f)), new.map(|f| self.forward(router, f)))
    }

    /// Our chains and their tables.
    pub fn chains(&self) -> [(&'static str, &str); 4] {
        [("nat", &self.forwards), ("nat", &self.masquerade), ("filter", &self.filter), ("filter", &self.input)]
    }
}

fn nat_change(gone: impl Iterator<Item = String>, new: impl Iterator<Item = String>) -> String {
    let mut text = String::from("*nat\n");
    for rule in gone {
        let _ = writeln!(text, "-D {rule}");
    }
    for rule in new {
        let _ = writeln!(text, "-A {rule}");
    }
    text.push_str("COMMIT\n");
    text
}

fn router_forward(router: Ipv4Addr, ForwardTo { host, protocol, target, .. }: &ForwardTo) -> String {
    let up = crate::plan::network::ROUTER_UPLINK;
    format!("PREROUTING -i {up} -d {router} -p {protocol} --dport {host} -j DNAT --to-destination {target}")
}

/// The router's half of [`HostChains::change`].
pub fn router_change<'a>(
    network: &Addressing,
    gone: impl Iterator<Item = &'a ForwardTo>,
    new: impl Iterator<Item = &'a ForwardTo>,
) -> String {
    let router = network.router_end();
    nat_change(gone.map(|f| router_forward(router, f)), new.map(|f| router_forward(router, f)))
}

/// How many flows a pod may have to the outside: connections, and pairs of addresses and ports that exchange datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flows {
    /// Open at once.
    pub open: u32,
    /// New ones a second, in the long run. A connection that was closed is kept in mind by the kernel for two minutes.
    pub per_second: u32,
}

impl Flows {
    /// Of one pod, where the kernel keeps `most` in mind for all pods and programs together: an eighth of them in the worst
    /// case.
    pub fn of(most: u32) -> Self {
        Flows { open: (most / 32).clamp(64, 8192), per_second: (most / 1280).clamp(10, 200) }
    }
}

/// What the router lets through, and its half of the forwards. The whole tables of its namespace, each replaced in one step.
///
/// `own`: the host's addresses, which pods must not reach. `resolvers`: name servers they may ask nevertheless.
pub fn router(
    network: &Addressing,
    own: &[Ipv4Addr],
    resolvers: &[Ipv4Addr],
    flows: Flows,
    forwards: &[ForwardTo],
) -> String {
    let up = crate::plan::network::ROUTER_UPLINK;
    let (cidr, host, router) = (network.cidr(), network.host_end(), network.router_end());
    let mut text = String::from("*nat\n:PREROUTING ACCEPT [0:0]\n");
    for forward in forwards {
        let _ = writeln!(text, "-A {}", router_forward(router, forward));
    }
    text.push_str(
        "COMMIT\n*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:PODS - [0:0]\n:OUT - [0:0]\n\
         -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n",
    );
    // Towards pods: what the host itself sends, and what comes by a forward. Nobody else has the host's address: it drops
    // what comes to it with a source of its own.
    let _ = writeln!(text, "-A FORWARD -i {up} -s {host} -d {cidr} -j ACCEPT");
    let _ = writeln!(text, "-A FORWARD -i {up} -d {cidr} -m conntrack --ctstate DNAT -j ACCEPT");
    let _ = writeln!(text, "-A FORWARD ! -i {up} -o {up} -j PODS");
    // What is closed is dropped before it is counted. Beyond its limits a pod gets no new flows, and what it has goes on: every
    // flow of a pod is one of the host's too, which has no room for more than a few pods that flood it. The rate comes
    // first: the kernel looks through all that is open to count it.
    let Flows { open, per_second } = flows;
    let limits = format!(
        "-A OUT -m hashlimit --hashlimit-above {per_second}/sec --hashlimit-burst {} --hashlimit-mode srcip \
         --hashlimit-name pods -j DROP\n\
         -A OUT -m connlimit --connlimit-above {open} --connlimit-mask 32 --connlimit-saddr -j DROP",
        open / 2
    );
    for r in resolvers {
        for protocol in ["udp", "tcp"] {
            let _ = writeln!(text, "-A PODS -d {r} -p {protocol} --dport 53 -j OUT");
        }
    }
    let closed = ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"];
    for net in closed.iter().map(ToString::to_string).chain([cidr.to_string()]) {
        let _ = writeln!(text, "-A PODS -d {net} -j DROP");
    }
    for address in own {
        let _ = writeln!(text, "-A PODS -d {address} -j DROP");
    }
    let _ = writeln!(text, "-A PODS -j OUT\n{limits}\n-A OUT -j ACCEPT\nCOMMIT");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_it_was() {
        let chains = HostChains::new(&"abcdef".parse().unwrap());
        let network = Addressing::new("10.90.0.0/16".parse().unwrap()).unwrap();
        let forward =
            ForwardTo { host: 8080, protocol: Protocol::Tcp, address: None, target: "10.90.0.3:80".parse().unwrap() };
        insta::assert_snapshot!("host", chains.content(&network, &[forward]));
        let other = ForwardTo { host: 8081, ..forward };
        assert_eq!(
            chains.change(&network, [forward].iter(), [other].iter()),
            "*nat\n-D TORPOR-abcdef-FWD -p tcp --dport 8080 -j DNAT --to-destination 10.90.0.1\n\
             -A TORPOR-abcdef-FWD -p tcp --dport 8081 -j DNAT --to-destination 10.90.0.1\nCOMMIT\n"
        );
        let bound = ForwardTo { address: Some("192.0.2.1".parse().unwrap()), ..forward };
        assert_eq!(
            chains.change(&network, [bound].iter(), [forward].iter()),
            "*nat\n-D TORPOR-abcdef-FWD -d 192.0.2.1 -p tcp --dport 8080 -j DNAT --to-destination 10.90.0.1\n\
             -A TORPOR-abcdef-FWD -p tcp --dport 8080 -j DNAT --to-destination 10.90.0.1\nCOMMIT\n"
        );
        let datagrams = ForwardTo { protocol: Protocol::Udp, ..forward };
        assert_eq!(
            router_change(&network, [forward].iter(), [datagrams].iter()),
            "*nat\n-D PREROUTING -i up -d 10.90.0.1 -p tcp --dport 8080 -j DNAT --to-destination 10.90.0.3:80\n\
             -A PREROUTING -i up -d 10.90.0.1 -p udp --dport 8080 -j DNAT --to-destination 10.90.0.3:80\nCOMMIT\n"
        );
        let moved = ForwardTo { target: "10.90.0.5:80".parse().unwrap(), ..forward };
        assert_eq!(
            router_change(&network, [forward].iter(), [moved].iter()),
            "*nat\n-D PREROUTING -i up -d 10.90.0.1 -p tcp --dport 8080 -j DNAT --to-destination 10.90.0.3:80\n\
             -A PREROUTING -i up -d 10.90.0.1 -p tcp --dport 8080 -j DNAT --to-destination 10.90.0.5:80\nCOMMIT\n"
        );
        insta::assert_snapshot!(
            "router",
            router(
                &network,
                &["192.0.2.1".parse().unwrap()],
                &["169.254.169.254".parse().unwrap()],
                Flows::of(262_144),
                &[forward]
            )
        );
        assert_eq!(Flows::of(65_536), Flows { open: 2048, per_second: 51 });
        let jumps: Vec<String> = chains.jumps().iter().map(|(t, c, r)| format!("{t} {c} {}", r.join(" "))).collect();
        insta::assert_snapshot!("jumps", jumps.join("\n"));
    }
}

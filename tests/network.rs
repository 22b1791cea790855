//! The network driver on the real kernel: what reaches what, and that nothing stays.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use torpor::host::network::{Network, NetworkConfig, PodNet, RealNetwork};
use torpor::model::{InstanceTag, PodId, Protocol, RuntimeId};
use torpor::plan::firewall::ForwardTo;
use torpor::plan::network::Addressing;

/// Runs `work` inside a namespace, on a thread of its own.
fn inside<T: Send + 'static>(netns: &Path, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = std::fs::File::open(netns).unwrap();
    std::thread::spawn(move || {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
    .join()
    .unwrap()
}

fn reaches(to: SocketAddrV4) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&to.into(), Duration::from_millis(700)) else { return false };
    let mut said = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.read_to_string(&mut said).is_ok() && said == "pod"
}

/// A server inside a namespace that says "pod" to whoever comes.
fn serve_in(netns: &Path, port: u16) {
    let listener = inside(netns, move || TcpListener::bind(("0.0.0.0", port)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut s| s.write_all(b"pod"));
        }
    });
}

struct Instance {
    network: Arc<RealNetwork>,
    addressing: Addressing,
    tag: InstanceTag,
    run: tempfile::TempDir,
}

fn instance(third: u8) -> Instance {
    let tag = InstanceTag::random().unwrap();
    let run = tempfile::Builder::new().prefix(&format!("net-{tag}-")).tempdir_in("/run").unwrap();
    let cidr = format!("10.{}.{third}.0/24", 200).parse().unwrap();
    let addressing = Addressing::new(cidr).unwrap();
    let config = NetworkConfig { tag: tag.clone(), run_dir: run.path().into(), addressing, resolvers: vec![] };
    Instance { network: Arc::new(RealNetwork::open(config).unwrap()), addressing, tag, run }
}

fn pod(i: &Instance, n: u8) -> PodNet {
    let id = RuntimeId { pod: PodId::random().unwrap(), incarnation: 1 };
    let base = u32::from(i.addressing.host_end());
    PodNet::new(&i.addressing, &id, Ipv4Addr::from(base + 2 * u32::from(n) + 1))
}

/// Another host: a namespace with a link of its own to this one.
struct OtherHost {
    name: String,
    here: Ipv4Addr,
}

impl OtherHost {
    fn new(tag: &str, third: u8) -> Self {
        let name = format!("oh-{tag}");
        let here = Ipv4Addr::new(10, 201, third, 1);
        let sh = format!(
            "ip netns add {name} && ip link add o{tag} type veth peer name eth0 netns {name} && \
             ip addr add {here}/24 dev o{tag} && ip link set o{tag} up && \
             ip -n {name} addr add 10.201.{third}.2/24 dev eth0 && ip -n {name} link set eth0 up && ip -n {name} link set lo up"
        );
        assert!(std::process::Command::new("sh").args(["-ec", &sh]).status().unwrap().success());
        OtherHost { name, here }
    }
    fn netns(&self) -> std::path::PathBuf {
        Path::new("/run/netns").join(&self.name)
    }
}

impl Drop for OtherHost {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["link", "del", &self.name.replacen("oh-", "o", 1)]).status();
        let _ = std::process::Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_leads_elsewhere_already_is_refused() {
    if !support::root() {
        return;
    }
    let (first, second) = (instance(77), instance(77));
    first.network.ensure_router().await.unwrap();
    let e = second.network.ensure_router().await.unwrap_err();
    assert_eq!(e.code(), torpor::model::Code::InUse);
    assert!(e.report().contains(&format!("tp-{}", first.tag)), "{}", e.report());
    assert!(second.network.list().await.unwrap().is_empty() && !second.run.path().join("netns/router").exists());
    first.network.ensure_router().await.unwrap(); // its own is not in its way
    first.network.remove_all().await.unwrap();
    second.network.ensure_router().await.unwrap();
    second.network.remove_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_reached_by_their_forwards_and_reach_nobody_they_should_not() {
    if !support::root() {
        return;
    }
    let i = instance(1);
    let net = &i.network;
    net.ensure_router().await.unwrap();
    let (a, b) = (pod(&i, 1), pod(&i, 2));
    let (ns_a, ns_b) = (net.attach(&a).await.unwrap(), net.attach(&b).await.unwrap());
    assert_eq!(net.attach(&a).await.unwrap(), ns_a, "a second time changes nothing");
    serve_in(&ns_a, 80);
    serve_in(&ns_b, 80);
    let (to_a, to_b) = (SocketAddrV4::new(a.address, 80), SocketAddrV4::new(b.address, 80));
    net.set_forwards(&[ForwardTo { host: 28080, protocol: Protocol::Tcp, address: None, target: to_a }]).await.unwrap();
    let other = OtherHost::new(i.tag.as_str(), 1);
    let by_host = SocketAddrV4::new(other.here, 28080);

    // Forwards: from another host, from the host by its own address; the host itself reaches pods.
    assert!(inside(&other.netns(), move || reaches(by_host)), "from another host");
    assert!(reaches(by_host), "from the host by its own address");
    assert!(reaches(to_a) && reaches(to_b), "from the host");
    // Another host can't reach a pod's own address past the forwards of the host, nor a pod another pod.
    assert!(!inside(&ns_a, move || reaches(to_b)), "pod to pod");
    // The host's services, on any of its addresses, and the router's.
    let service = TcpListener::bind(("0.0.0.0", 28081)).unwrap();
    std::thread::spawn(move || {
        for stream in service.incoming() {
            let _ = stream.and_then(|mut s| s.write_all(b"pod"));
        }
    });
    assert!(reaches(SocketAddrV4::new(other.here, 28081)), "the service itself answers");
    net.heal().await.unwrap();
    for target in
        [other.here, i.addressing.host_end(), i.addressing.router_end(), a.gateway, Ipv4Addr::new(169, 254, 169, 254)]
    {
        let to = SocketAddrV4::new(target, 28081);
        assert!(!inside(&ns_a, move || reaches(to)), "pod to {target}");
    }
    // To the outside, here the other host.
    serve_in(&other.netns(), 81);
    let outside = SocketAddrV4::new(Ipv4Addr::new(10, 201, 1, 2), 81);
    assert!(inside(&ns_a, move || reaches(outside)), "pod to the outside");

    // Somebody flushes the host's firewall: isolation holds, forwards come back.
    // Only our own chains: other tests share this host.
    let chains = torpor::plan::firewall::HostChains::new(&i.tag);
    for (table, chain) in chains.chains() {
        assert!(
            std::process::Command::new("iptables").args(["-w", "-t", table, "-F", chain]).status().unwrap().success()
        );
    }
    assert!(!inside(&ns_a, move || reaches(to_b)));
    assert!(net.heal().await.unwrap());
    assert!(!net.heal().await.unwrap());
    assert!(inside(&other.netns(), move || reaches(by_host)), "healed");

    // One more, one less; and when what is to go is gone already.
    let forward = |host, target| ForwardTo { host, protocol: Protocol::Tcp, address: None, target };
    let to = |host| {
        let (netns, to) = (other.netns(), SocketAddrV4::new(other.here, host));
        move || inside(&netns, move || reaches(to))
    };
    net.set_forwards(&[forward(28080, to_a), forward(28082, to_b)]).await.unwrap();
    assert!(to(28080)() && to(28082)(), "one more");
    net.set_forwards(&[forward(28080, to_a)]).await.unwrap();
    assert!(to(28080)() && !to(28082)(), "one less");
    let flush = ["-w", "-t", "nat", "-F", &chains.forwards];
    assert!(std::process::Command::new("iptables").args(flush).status().unwrap().success());
    net.set_forwards(&[forward(28082, to_b)]).await.unwrap();
    assert!(!to(28080)() && to(28082)(), "another one");
    net.set_forwards(&[forward(28080, to_a)]).await.unwrap();
    assert!(!net.heal().await.unwrap(), "nothing is missing");

    // Taken off by a sandbox, put back before a restore.
    let flush = std::process::Command::new("nsenter")
        .arg(format!("--net={}", ns_a.display()))
        .args(["ip", "addr", "flush", "dev", "eth0"])
        .status();
    assert!(flush.unwrap().success());
    assert!(!reaches(to_a));
    net.readdress(&a).await.unwrap();
    assert!(reaches(to_a));

    assert_eq!(net.list().await.unwrap().len(), 2);
    assert!(net.remove_all().await.is_err(), "not while there are pods");
    for p in [&a, &b, &a] {
        net.detach(p).await.unwrap();
    }
    net.remove_all().await.unwrap();
    net.remove_all().await.unwrap();
    drop(other);
    let (tag, run) = (i.tag.clone(), i.run.path().to_owned());
    drop(i);
    assert_eq!(support::traces(tag.as_str()), Vec::<String>::new());
    assert!(!run.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoofed_source_address_is_dropped() {
    if !support::root() {
        return;
    }
    let i = instance(2);
    i.network.ensure_router().await.unwrap();
    let a = pod(&i, 1);
    let ns = i.network.attach(&a).await.unwrap();
    let other = OtherHost::new(i.tag.as_str(), 2);
    let far = Ipv4Addr::new(10, 201, 2, 2);
    // What arrives at the other host from the pod: its own address is translated, a borrowed one must not come at all.
    let socket = inside(&other.netns(), move || std::net::UdpSocket::bind((far, 9000)).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let send = move |from: Option<Ipv4Addr>| {
        if let Some(from) = from {
            let out = std::process::Command::new("ip")
                .args(["addr", "add", &format!("{from}/32"), "dev", "lo"])
                .output()
                .unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        }
        let s = std::net::UdpSocket::bind((from.unwrap_or(Ipv4Addr::UNSPECIFIED), 0)).unwrap();
        s.send_to(b"x", (far, 9000)).is_ok()
    };
    assert!(inside(&ns, move || send(None)));
    let mut bytes = [0; 8];
    socket.recv_from(&mut bytes).expect("the pod's own address gets through");
    let neighbour = Ipv4Addr::from(u32::from(a.address) + 2);
    for spoofed in [neighbour, Ipv4Addr::new(192, 0, 2, 9), i.addressing.host_end(), other.here] {
        assert!(inside(&ns, move || send(Some(spoofed))));
        assert!(socket.recv_from(&mut bytes).is_err(), "spoofed {spoofed}");
    }
    drop(other);
    i.network.detach(&a).await.unwrap();
    i.network.remove_all().await.unwrap();
    assert_eq!(support::traces(i.tag.as_str()), Vec::<String>::new());
}

/// The process that waits in the router's namespace for the next change.
fn prepared(router: &Path) -> nix::unistd::Pid {
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        if let [pid] = support::processes("iptables-", router)[..] {
            return nix::unistd::Pid::from_raw(pid);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no process waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_kills_the_process_that_waits_for_a_change_costs_no_change_and_doubles_none() {
    use nix::sys::signal::{Signal, kill};
    if !support::root() {
        return;
    }
    let i = instance(3);
    let router = i.run.path().join("netns/router");
    let target = SocketAddrV4::new(pod(&i, 1).address, 80);
    let to = |host| ForwardTo { host, protocol: Protocol::Tcp, address: None, target };
    let set = |n: u16| {
        let (network, forwards) = (i.network.clone(), (28100..28100 + n).map(to).collect::<Vec<_>>());
        async move { network.set_forwards(&forwards).await }
    };
    let once_in = |n: u16, netns: Option<&Path>| {
        let save = || std::process::Command::new("iptables-save").output().unwrap().stdout;
        let saved = String::from_utf8(netns.map_or_else(save, |n| inside(n, save))).unwrap();
        let ours = if netns.is_some() { "-A PREROUTING".into() } else { format!("-A TORPOR-{}-FWD", i.tag) };
        let rules: Vec<&str> = saved.lines().filter(|l| l.starts_with(&ours)).collect();
        (28100..28100 + n).all(|p| rules.iter().filter(|r| r.contains(&format!("--dport {p} "))).count() == 1)
    };
    let once = |n| once_in(n, None) && once_in(n, Some(&router));
    i.network.ensure_router().await.unwrap();
    set(1).await.unwrap();
    kill(prepared(&router), Signal::SIGKILL).unwrap();
    set(2).await.unwrap();
    assert!(once(2), "killed while it waited");
    let spare = prepared(&router);
    kill(spare, Signal::SIGSTOP).unwrap();
    let change = tokio::spawn(set(3));
    while !once_in(3, None) {
        assert!(!change.is_finished(), "it is made by the one that stands still");
        tokio::task::yield_now().await;
    }
    kill(spare, Signal::SIGKILL).unwrap();
    change.await.unwrap().unwrap();
    assert!(once(3), "killed while it was fed");

    // A router that is made anew.
    let spare = prepared(&router);
    i.network.remove_all().await.unwrap();
    assert!(!Path::new("/proc").join(spare.to_string()).exists(), "it would keep its namespace");
    i.network.ensure_router().await.unwrap();
    set(1).await.unwrap();
    assert!(once(1));
    // By somebody else, while one waits in it.
    let spare = prepared(&router);
    nix::mount::umount2(&router, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert!(
        std::process::Command::new("ip").args(["link", "del", &format!("tp-{}", i.tag)]).status().unwrap().success()
    );
    i.network.ensure_router().await.unwrap();
    assert!(!Path::new("/proc").join(spare.to_string()).exists(), "it would keep the one before");
    set(2).await.unwrap();
    assert!(once(2));
    i.network.remove_all().await.unwrap();
    assert_eq!(support::traces(i.tag.as_str()), Vec::<String>::new());
}

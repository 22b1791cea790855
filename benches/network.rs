//! A pod's network and one forward, against the nine commands that do the same by hand. Prints both in milliseconds, a pair a
//! line; `scripts/bench N1` makes a ratio of them.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench")]

use std::process::Command;
use std::time::{Duration, Instant};

use torpor::host::network::{Network, NetworkConfig, PodNet, RealNetwork};
use torpor::model::{InstanceTag, PodId, RuntimeId};
use torpor::plan::firewall::ForwardTo;
use torpor::plan::network::Addressing;

/// Before each: what the other left to do is done, and torpord's processes for the next change have started.
const PAUSE: Duration = Duration::from_millis(500);

fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}");
}

fn by_hand(n: u32) -> f64 {
    let (ns, link) = (format!("tb-hand-{n}"), format!("tbh{n}"));
    let begun = Instant::now();
    run(&format!("ip netns add {ns}"));
    run(&format!("ip link add {link} type veth peer name eth0 netns {ns}"));
    run(&format!("ip addr add 10.96.0.0/31 dev {link}"));
    run(&format!("ip link set {link} up"));
    run(&format!("ip -n {ns} addr add 10.96.0.1/31 dev eth0"));
    run(&format!("ip -n {ns} link set lo up"));
    run(&format!("ip -n {ns} link set eth0 up"));
    run(&format!("ip -n {ns} route add default via 10.96.0.0"));
    run("iptables -w -t nat -A PREROUTING -p tcp --dport 29999 -j DNAT --to-destination 10.96.0.1:80");
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    run("iptables -w -t nat -D PREROUTING -p tcp --dport 29999 -j DNAT --to-destination 10.96.0.1:80");
    run(&format!("ip link del {link}"));
    run(&format!("ip netns del {ns}"));
    took
}

#[tokio::main]
async fn main() {
    let tag = InstanceTag::random().unwrap();
    let run_dir = std::path::PathBuf::from(format!("/run/torpor-bench-{tag}"));
    std::fs::create_dir(&run_dir).unwrap();
    let addressing = Addressing::new("10.97.0.0/24".parse().unwrap()).unwrap();
    let config = NetworkConfig { tag, run_dir: run_dir.clone(), addressing, resolvers: vec![] };
    let network = RealNetwork::open(config).unwrap();
    network.ensure_router().await.unwrap();
    let address = addressing.next_free(&Default::default()).unwrap();
    for n in 0..16 {
        let id = RuntimeId { pod: PodId::random().unwrap(), incarnation: n + 1 };
        let pod = PodNet::new(&addressing, &id, address);
        let target = std::net::SocketAddrV4::new(address, 80);
        let forward = [ForwardTo { host: 29998, protocol: torpor::model::Protocol::Tcp, address: None, target }];
        std::thread::sleep(PAUSE);
        let begun = Instant::now();
        // As the daemon does it: the forward needs the address, not the link.
        tokio::try_join!(network.attach(&pod), network.set_forwards(&forward)).unwrap();
        let ours = begun.elapsed().as_secs_f64() * 1000.0;
        network.set_forwards(&[]).await.unwrap();
        network.detach(&pod).await.unwrap();
        std::thread::sleep(PAUSE);
        let theirs = by_hand(n);
        if n > 0 {
            println!("{ours} {theirs}");
        }
    }
    network.remove_all().await.unwrap();
    std::fs::remove_dir_all(run_dir).unwrap();
}

//! A host of the test's own, in a network namespace, with an outside: there a real flush of the whole firewall harms nobody.
//!
//! ```text
//! outside (198.51.100.2, 2001:db8::2, 203.0.113.80, 169.254.169.254, ...) -- lan0 (198.51.100.1, 2001:db8::1) host
//! host: two torpords: `pod` and `other` of the one, `stranger` of the other
//! ```
//!
//! Everything is gone when the last process in the namespaces has ended.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use torpor::api::types::{CreatePod, ExecPod, Pod, PortPair, PortSpec, VolumeSpec};

use crate::daemon::{Daemon, script};
use crate::support;

/// Port of all servers.
pub const PORT: u16 = 7000;
/// Another one of the host, which pods don't have.
pub const HOST_PORT: u16 = 7002;
/// UDP and TCP on the host's 127.0.0.1 alone.
pub const LOOPBACK_PORT: u16 = 7001;

/// Ends with its owner.
pub struct Server {
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct World {
    // The order is that of the end.
    pub a: Daemon,
    pub b: Daemon,
    pub pod: Pod,
    pub other: Pod,
    pub stranger: Pod,
    pub probe: PathBuf,
    /// Pid of a process that holds the outside.
    outside: u32,
    pub abstract_name: String,
    servers: Vec<Server>,
    _listener: std::os::unix::net::UnixListener,
}

pub fn sh(script: &str) -> String {
    let out = Command::new("sh").args(["-ec", script]).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn serve(command: &mut Command, args: &[&str]) -> Server {
    let mut child = command.args(args).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "serving\n");
    Server { child }
}

async fn pod(d: &Daemon, name: &str, probe: &Path) -> Pod {
    let volume =
        VolumeSpec { source: probe.parent().unwrap().display().to_string(), target: "/probe".into(), read_only: true };
    let asked = CreatePod {
        command: ["/probe/probe", "serve", name, "7000"].map(str::to_owned).to_vec(),
        ports: vec![PortSpec::Full(PortPair { pod: PORT, host: None, protocol: None })],
        volumes: vec![volume],
        ready: Some(torpor::api::types::ReadySpec { tcp: Some(PORT), ..Default::default() }),
        ..script(name, "")
    };
    d.client.create_pod(&asked).await.unwrap_or_else(|e| panic!("{name}: {e}\n{}", d.log()))
}

/// Puts the calling thread, and all that it starts from now on, on a host of its own.
pub fn new_host() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    sh("ip link set lo up
        sysctl -qw net.ipv4.ping_group_range='0 2147483647' net.ipv6.conf.all.forwarding=1 net.ipv4.ip_forward=1");
}

impl World {
    /// On the calling thread's host.
    pub async fn new() -> Self {
        let probe = support::program("tests/isolation/probe.rs");
        // Holds the namespace for as long as its input is open.
        let mut holder = Command::new("unshare");
        let holder = holder.args(["--net", "sh", "-c", "echo serving; exec cat"]).stdin(Stdio::piped());
        let outside = serve(holder, &[]);
        let pid = outside.child.id();
        sh(&format!(
            "ip link add lan0 type veth peer name eth0 netns {pid}
             ip addr add 198.51.100.1/24 brd + dev lan0
             ip addr add 2001:db8::1/64 dev lan0 nodad
             ip link set lan0 up
             nsenter --net=/proc/{pid}/ns/net sh -e <<'END'
             sysctl -qw net.ipv4.ping_group_range='0 2147483647'
             ip link set lo up
             ip addr add 198.51.100.2/24 dev eth0
             ip addr add 2001:db8::2/64 dev eth0 nodad
             ip link set eth0 up
             for a in 203.0.113.80 192.0.2.53 169.254.169.254 169.254.7.7; do ip addr add $a/32 dev lo; done
             ip addr add 2001:db8:ffff::80/128 dev lo
             # What torpor's pods have is looked for on the host.
             ip route add 10.0.0.0/8 via 198.51.100.1
             # Answers to pods go only to where the host has put its own address.
             ip rule add from 203.0.113.80 to 10.0.0.0/8 unreachable
END
             ip route add default via 198.51.100.2
             ip route add 169.254.0.0/16 via 198.51.100.2
             ip route add default via 2001:db8::2"
        ));
        let abstract_name = format!("torpor-test-{pid}");
        let name = std::os::unix::net::SocketAddr::from_abstract_name(&abstract_name);
        let listener = std::os::unix::net::UnixListener::bind_addr(&name.unwrap()).unwrap();
        let loopback = [4, 6]
            .map(|v| if v == 4 { format!("127.0.0.1:{LOOPBACK_PORT}") } else { format!("[::1]:{LOOPBACK_PORT}") });
        let mut servers = vec![outside];
        servers.push(serve(&mut Command::new(&probe), &["serve", "host", &PORT.to_string(), &HOST_PORT.to_string()]));
        servers.push(serve(&mut Command::new(&probe), &["serve", "loopback", &loopback[0], &loopback[1]]));
        let (a, b) = (Daemon::start(), Daemon::start());
        a.import("test").await;
        b.import("test").await;
        let (first, other, stranger) =
            (pod(&a, "pod", &probe).await, pod(&a, "other", &probe).await, pod(&b, "stranger", &probe).await);
        let mut world = World {
            a,
            b,
            pod: first,
            other,
            stranger,
            probe,
            outside: pid,
            abstract_name,
            servers,
            _listener: listener,
        };
        // By address: a datagram's answer must come from where it was sent to. One is at the number of a forward.
        let at = format!(
            "203.0.113.80:{PORT} 203.0.113.80:{} 198.51.100.2:{PORT} 192.0.2.53:53 169.254.169.254:80 169.254.7.7:{PORT} \
             [2001:db8:ffff::80]:{PORT}",
            world.other.ports[0].host
        );
        let mut args = vec!["serve", "outside"];
        args.extend(at.split_whitespace());
        let server = serve(&mut world.outside_command(&[]), &args);
        world.servers.push(server);
        world
    }

    /// The probe's program, run outside.
    fn outside_command(&self, args: &[String]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.outside)).arg(&self.probe).args(args);
        command
    }

    /// Runs the probe's program somewhere: what it says.
    pub async fn run(&self, from: From, args: Vec<String>) -> String {
        let mut command = match from {
            From::Pod => return self.inside(&self.a, "pod", args).await,
            From::Stranger => return self.inside(&self.b, "stranger", args).await,
            From::Namespace => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", self.netns(&self.pod).display())).arg(&self.probe).args(&args);
                command
            }
            From::Host => {
                let mut command = Command::new(&self.probe);
                command.args(&args);
                command
            }
            From::Outside => self.outside_command(&args),
        };
        let out = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output().unwrap()).await.unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    async fn inside(&self, d: &Daemon, pod: &str, args: Vec<String>) -> String {
        let mut command = vec!["/probe/probe".to_owned()];
        command.extend(args);
        let done = d.client.exec(pod, &ExecPod { command, ..ExecPod::default() }).await;
        let done = done.unwrap_or_else(|e| panic!("exec in {pod}: {e}\n{}", d.log()));
        assert_eq!(done.exit_code, 0, "{done:?}");
        done.stdout.trim().to_owned()
    }

    fn netns(&self, pod: &Pod) -> PathBuf {
        PathBuf::from(format!("/run/torpor/{}/netns/{}-{}", self.a.tag, pod.id, pod.incarnation))
    }

    /// A command in the router's namespace: what it prints.
    pub fn in_router(&self, command: &str) -> String {
        sh(&format!("nsenter --net=/run/torpor/{}/netns/router {command}", self.a.tag))
    }

    /// The host's end of the link to an instance's router; the router's end is the next address.
    pub fn host_end(&self, d: &Daemon) -> Ipv4Addr {
        let text = sh(&format!("ip -o -4 addr show tp-{}", d.tag));
        text.split_whitespace().nth(3).unwrap().split('/').next().unwrap().parse().unwrap()
    }

    /// What came in at each server: its name and the tokens.
    pub async fn arrived(&self) -> Vec<(&'static str, String)> {
        let at = |a: &str, p: u16| format!("{a}:{p}");
        let mut all = Vec::new();
        for (name, from, to) in [
            ("pod", From::Host, at(&self.pod.address, PORT)),
            ("other", From::Host, at(&self.other.address, PORT)),
            ("stranger", From::Host, at(&self.stranger.address, PORT)),
            ("host", From::Host, at("127.0.0.1", PORT)),
            ("loopback", From::Host, at("127.0.0.1", LOOPBACK_PORT)),
            ("outside", From::Outside, at("203.0.113.80", PORT)),
        ] {
            let said = self.run(from, vec!["tcp".into(), to, "?".into()]).await;
            let tokens = said.strip_prefix("answer").unwrap_or_else(|| panic!("{name}: {said}"));
            all.extend(tokens.split_whitespace().map(|t| (name, t.to_owned())));
        }
        all
    }
}

/// Where a probe is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// In a pod.
    Pod,
    /// In the pod's network namespace, as root: what somebody could do who broke out of gVisor's network stack.
    Namespace,
    /// On the host.
    Host,
    /// Outside.
    Outside,
    /// In a pod of another instance.
    Stranger,
}

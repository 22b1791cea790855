//! Two torpords on a host of the test's own: `pod` and `other` are pods of the one, `stranger` is one of the other. Servers
//! on the host and outside, and what came in at each of them.

use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use torpor::api::types::{CreatePod, ExecPod, Pod, PortPair, PortSpec, VolumeSpec};

use crate::daemon::{Daemon, script};
use crate::host::{Outside, Server, serve, sh};
use crate::support;

/// Port of all servers.
pub const PORT: u16 = 7000;
/// Another one of the host, which pods don't have.
pub const HOST_PORT: u16 = 7002;
/// UDP and TCP on the host's 127.0.0.1 alone.
pub const LOOPBACK_PORT: u16 = 7001;

pub struct World {
    // The order is that of the end.
    pub a: Daemon,
    pub b: Daemon,
    pub pod: Pod,
    pub other: Pod,
    pub stranger: Pod,
    pub probe: PathBuf,
    outside: Outside,
    pub abstract_name: String,
    servers: Vec<Server>,
    _listener: std::os::unix::net::UnixListener,
}

async fn pod(d: &Daemon, name: &str, probe: &Path) -> Pod {
    let volume =
        VolumeSpec { source: probe.parent().unwrap().display().to_string(), target: "/probe".into(), read_only: true };
    let asked = CreatePod {
        command: ["/probe/probe", "serve", name, "7000"].map(str::to_owned).to_vec(),
        ports: vec![
            PortSpec::Pod(PORT),
            PortSpec::Full(PortPair { pod: PORT, host: None, protocol: Some("udp".into()), address: None }),
        ],
        volumes: vec![volume],
        ready: Some(torpor::api::types::ReadySpec { tcp: Some(PORT), ..Default::default() }),
        ..script(name, "")
    };
    d.client.create_pod(&asked).await.unwrap_or_else(|e| panic!("{name}: {e}\n{}", d.log()))
}

impl World {
    /// On the calling thread's host.
    pub async fn new() -> Self {
        let probe = support::program("tests/isolation/probe.rs");
        let outside = Outside::new();
        let pid = outside.pid();
        let abstract_name = format!("torpor-test-{pid}");
        let name = std::os::unix::net::SocketAddr::from_abstract_name(&abstract_name);
        let listener = std::os::unix::net::UnixListener::bind_addr(&name.unwrap()).unwrap();
        let loopback = [4, 6]
            .map(|v| if v == 4 { format!("127.0.0.1:{LOOPBACK_PORT}") } else { format!("[::1]:{LOOPBACK_PORT}") });
        let mut servers =
            vec![serve(&mut Command::new(&probe), &["serve", "host", &PORT.to_string(), &HOST_PORT.to_string()])];
        servers.push(serve(&mut Command::new(&probe), &["serve", "loopback", &loopback[0], &loopback[1]]));
        let (a, b) = (Daemon::start(), Daemon::start());
        a.import("test").await;
        b.import("test").await;
        let (first, other, stranger) =
            (pod(&a, "pod", &probe).await, pod(&a, "other", &probe).await, pod(&b, "stranger", &probe).await);
        let mut world =
            World { a, b, pod: first, other, stranger, probe, outside, abstract_name, servers, _listener: listener };
        // By address: a datagram's answer must come from where it was sent to. Two are at the numbers of forwards.
        let at = format!(
            "203.0.113.80:{PORT} 203.0.113.80:{} 203.0.113.80:{} 198.51.100.2:{PORT} 192.0.2.53:53 169.254.169.254:80 169.254.7.7:{PORT} \
             [2001:db8:ffff::80]:{PORT}",
            world.other.ports[0].host, world.other.ports[1].host
        );
        let mut args = vec!["serve", "outside"];
        args.extend(at.split_whitespace());
        let server = serve(&mut world.outside.command(&world.probe), &args);
        world.servers.push(server);
        world
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
            From::Outside => {
                let mut command = self.outside.command(&self.probe);
                command.args(&args);
                command
            }
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

//! Forwards by TCP and UDP, given and taken while a pod runs or rests.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use torpor::api::types::{CreatePod, PortPair, PortSpec};

use crate::daemon::{self, Daemon, counter, get, try_get};

fn pair(pod: u16, host: Option<u16>, protocol: &str) -> PortPair {
    PortPair { pod, host, protocol: Some(protocol.into()), address: None }
}

/// An address of this host that is not one of its loopback.
fn own_address() -> Ipv4Addr {
    let out = Command::new("sh").args(["-c", "ip -o -4 addr show scope global"]).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let found = text.lines().find(|l| !l.contains(" tp-")).and_then(|l| l.split_whitespace().nth(3).map(str::to_owned));
    let found = found.expect("this host has an address");
    found.split('/').next().unwrap().parse().unwrap()
}

/// A client that keeps its port, so that the kernel takes all it says for one flow.
struct Asker(UdpSocket);

impl Asker {
    fn new(to: impl Into<SocketAddr>) -> Self {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(to.into()).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        Asker(socket)
    }

    fn once(&self, word: &str) -> Option<String> {
        let _ = self.0.send(word.as_bytes());
        let mut bytes = [0; 100];
        loop {
            let n = self.0.recv(&mut bytes).ok()?;
            let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
            // An answer to an earlier word may have been under way.
            if text.ends_with(word) {
                return Some(text);
            }
        }
    }

    /// Asks until it is answered; datagrams may get lost.
    fn ask(&self, word: &str) -> String {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(said) = self.once(word) {
                return said;
            }
            assert!(Instant::now() < end, "{word}: no answer");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_get_to_a_pod_and_forwards_outlive_its_sleep() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    // The same pod port by both transports.
    let ports = vec![PortSpec::Pod(80), PortSpec::Full(pair(80, None, "udp"))];
    let web = d.client.create_pod(&CreatePod { ports, ..counter("web") }).await.unwrap();
    let (tcp, udp) = (web.ports[0].host, web.ports[1].host);
    assert_eq!((web.ports[0].protocol.as_str(), web.ports[1].protocol.as_str()), ("tcp", "udp"));
    assert_eq!(get(tcp, "/"), "1");
    let near = Asker::new((Ipv4Addr::LOCALHOST, udp));
    let own = Asker::new((own_address(), udp));
    assert!(near.ask("a").ends_with(" a") && own.ask("b").ends_with(" b"));
    // The number of a TCP forward is free for UDP, and taken by then.
    let second = d.client.add_port("web", &pair(80, None, "tcp")).await.unwrap().host;
    let same = d.client.add_port("web", &pair(80, Some(second), "udp")).await.unwrap();
    assert_eq!((same.host, same.protocol.as_str()), (second, "udp"));
    assert!(Asker::new((Ipv4Addr::LOCALHOST, second)).ask("c").ends_with(" c"));
    assert_eq!(get(second, "/"), "2");
    let e = d.client.add_port("web", &pair(80, Some(second), "udp")).await.unwrap_err();
    assert_eq!(daemon::code(&e), "port_taken");
    // Nobody else can take a port that is held.
    assert!(UdpSocket::bind(("0.0.0.0", udp)).is_err());

    // Asleep nobody answers; awake the same clients are answered, by the flows that they have.
    d.sleep("web").await;
    assert_eq!((near.once("x"), own.once("x")), (None, None));
    let late = d.client.add_port("web", &pair(80, None, "tcp")).await.unwrap();
    assert_eq!(d.client.ports("web").await.unwrap().len(), 5);
    d.wake("web").await;
    assert!(near.ask("d").ends_with(" d") && own.ask("e").ends_with(" e"));
    assert_eq!((get(late.host, "/"), get(tcp, "/")), ("3".into(), "4".into()));

    // So is it after torpord was killed; and stop and start keep them too.
    d.kill();
    d.launch();
    assert!(near.ask("f").ends_with(" f") && own.ask("g").ends_with(" g"));
    d.stop("web").await;
    assert_eq!((near.once("y"), own.once("y")), (None, None));
    d.client.start("web").await.unwrap();
    assert!(near.ask("h").ends_with(" h") && own.ask("i").ends_with(" i"));
    assert_eq!(get(late.host, "/"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_that_was_taken_away_leads_nowhere_and_its_port_is_free() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    let web = d.counter("web").await;
    let tcp = web.ports[0].host;
    let udp = d.client.add_port("web", &pair(80, None, "udp")).await.unwrap().host;
    let own = Asker::new((own_address(), udp));
    own.ask("a");
    // A connection that is open, and one client's flow.
    let to = SocketAddr::from((own_address(), tcp));
    let mut open = std::net::TcpStream::connect(to).unwrap();
    d.client.remove_port("web", udp, "udp").await.unwrap();
    d.client.remove_port("web", tcp, "tcp").await.unwrap();
    assert_eq!(own.once("b"), None, "the flow goes on");
    open.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let said = std::io::Write::write_all(&mut open, b"GET / HTTP/1.0\r\n\r\n")
        .and_then(|()| std::io::Read::read(&mut open, &mut [0; 100]));
    assert!(said.is_err() || said.is_ok_and(|n| n == 0), "the connection goes on");
    assert!(try_get(to, "/").is_none());
    assert_eq!(d.client.ports("web").await.unwrap(), []);
    for (port, protocol) in [(tcp, "tcp"), (udp, "udp"), (1, "tcp")] {
        let e = d.client.remove_port("web", port, protocol).await.unwrap_err();
        assert_eq!(daemon::code(&e), "not_found");
    }
    // Another pod gets the very port: what the first one's client goes on to say gets there, and not to the first.
    d.client.create_pod(&CreatePod { ports: vec![], ..counter("other") }).await.unwrap();
    d.client.add_port("other", &pair(80, Some(udp), "udp")).await.unwrap();
    assert_eq!(own.ask("c"), "1 c");
    d.kill();
    d.launch();
    assert_eq!(d.client.ports("web").await.unwrap(), []);
    assert!(own.ask("d").ends_with(" d"));

    // By the command line.
    let torpor = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_torpor"))
            .args(args)
            .env("TORPOR_HOST", format!("unix://{}", d.socket.display()))
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, added, e) = torpor(&["port", "add", "web", &format!("{tcp}:81"), "80", "80/udp"]);
    assert_eq!(code, Some(0), "{e}");
    assert_eq!(added.lines().count(), 3, "{added}");
    let (_, listed, _) = torpor(&["port", "web"]);
    assert_eq!(listed, added);
    assert_eq!(torpor(&["port", "web", "81"]).1, format!("0.0.0.0:{tcp}\n"));
    assert_eq!(torpor(&["port", "web", "9"]).0, Some(1));
    assert!(torpor(&["ps"]).1.contains("->80/udp"));
    assert_eq!(torpor(&["port", "rm", "web", "80", &format!("{tcp}:81/tcp")]).0, Some(0));
    assert_eq!(d.client.ports("web").await.unwrap().len(), 1);
    assert_eq!(torpor(&["port", "rm", "web", "80"]).0, Some(1));
    // What is wrong is refused, and changes nothing.
    for bad in [pair(0, None, "udp"), pair(80, Some(0), "udp"), pair(80, Some(80), "udp"), pair(80, None, "icmp")] {
        let e = d.client.add_port("web", &bad).await.unwrap_err();
        assert_eq!(daemon::code(&e), "invalid_request", "{bad:?}");
    }
    let e = d.client.add_port("nosuch", &pair(80, None, "udp")).await.unwrap_err();
    assert_eq!(daemon::code(&e), "not_found");
    assert_eq!(d.client.ports("web").await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_one_address_leads_there_by_that_one_alone() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    let own = own_address();
    let line = format!(
        "torpor run -d --name web -p 127.0.0.1::80 -p {own}:0:80 -p :80 -p 127.0.0.1:0:53/udp --ready-tcp 80 test counter 80"
    );
    let (code, _, err) = crate::habits::shell(&d, &line);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let web = d.client.inspect("web").await.unwrap();
    let at: Vec<Option<String>> = web.ports.iter().map(|p| p.address.clone()).collect();
    let (local, one) = (Some("127.0.0.1".to_owned()), Some(own.to_string()));
    assert_eq!(at, [local.clone(), one.clone(), None, local]);
    let [near, far, all] = [0, 1, 2].map(|n| web.ports[n].host);
    let open = |ip: Ipv4Addr, port| try_get((ip, port).into(), "/").is_some();
    let check = |when: &str| {
        get(near, "/");
        let end = Instant::now() + Duration::from_secs(20);
        while !open(own, far) {
            assert!(Instant::now() < end, "{when}: {own}:{far} does not answer");
        }
        assert!(open(own, all) && open(Ipv4Addr::LOCALHOST, all), "{when}");
        assert!(!open(own, near) && !open(Ipv4Addr::LOCALHOST, far), "{when}");
    };
    check("at first");
    d.sleep("web").await;
    assert!(!open(own, far) && !open(Ipv4Addr::LOCALHOST, near));
    d.wake("web").await;
    check("awake again");
    d.kill();
    d.launch();
    check("after a restart of torpord");
    let (_, shown, _) = crate::habits::shell(&d, "torpor port web; torpor ps --format '{{.Ports}}'");
    assert!(
        shown.contains(&format!(
            "80/tcp -> 127.0.0.1:{near}\n80/tcp -> {own}:{far}\n80/tcp -> 0.0.0.0:{all}\n53/udp -> 127.0.0.1:"
        )),
        "{shown}"
    );
    assert!(shown.contains(&format!("127.0.0.1:{near}->80/tcp, {own}:{far}->80/tcp, {all}->80/tcp")), "{shown}");
    // A copy is as open as its original, no more.
    let snapshot = d.client.snapshot("web", &mut |_| ()).await.unwrap();
    let copy = d.client.restore_snapshot(&snapshot.id, Some("copy".into()), &mut |_| ()).await.unwrap();
    assert_eq!(copy.ports[0].address.as_deref(), Some("127.0.0.1"));
    get(copy.ports[0].host, "/");
    assert!(!open(own, copy.ports[0].host));
    d.client.remove_snapshot(&snapshot.id).await.unwrap();
    // One is taken away, and its number is free for another address.
    let line = format!("torpor port rm web 127.0.0.1:{near}:80 && torpor port add web {own}:{near}:80");
    let (code, _, err) = crate::habits::shell(&d, &line);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(open(own, near) && !open(Ipv4Addr::LOCALHOST, near));
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_are_not_the_host_s_are_refused_and_leave_nothing() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    for (publish, says) in [
        ("192.0.2.77:8080:80", "no address of this host"),
        ("192.0.2.77::80", "no address of this host"),
        ("224.0.0.1:8080:80", "no address of one host"),
        ("[::1]:8080:80", "IPv6"),
        ("localhost:8080:80", "no IPv4 address"),
    ] {
        let (code, out, err) = crate::habits::shell(&d, &format!("torpor run -d -p {publish} test sleep 1000"));
        assert!(code == Some(125) && out.is_empty() && err.contains(says) && err.contains("hint:"), "{publish}: {err}");
    }
    for address in ["", "::1", "x", "127.0.0.1:80"] {
        let port = PortPair { address: Some(address.into()), ..pair(80, None, "tcp") };
        let pod = CreatePod { ports: vec![PortSpec::Full(port)], ..counter("x") };
        assert_eq!(daemon::code(&d.client.create_pod(&pod).await.unwrap_err()), "invalid_request", "{address:?}");
    }
    assert!(d.client.pods().await.unwrap().is_empty());
}

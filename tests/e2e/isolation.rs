//! What a real pod reaches, and what it must not.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};

use crate::daemon::{self, Daemon, get};

/// The host's own addresses on its links, the loopback's left out, and those of other tests' instances, which come and go.
fn own_addresses(tag: &str) -> Vec<Ipv4Addr> {
    let out = std::process::Command::new("ip").args(["-o", "-4", "addr"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let ours = |l: &&str| !l.contains(" tp-") || l.contains(tag);
    let all = text
        .lines()
        .filter(ours)
        .filter_map(|l| l.split_whitespace().nth(3)?.split('/').next()?.parse::<Ipv4Addr>().ok());
    all.filter(|a| !a.is_loopback()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_reaches_neither_pods_nor_the_host_nor_link_local_addresses() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let a = d.counter("a").await;
    let b = d.counter("b").await;
    let service = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = service.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in service.incoming() {
            // Read first: a close with bytes unread would reset the connection.
            let _ = stream.and_then(|mut s| {
                let _ = s.read(&mut [0; 1024])?;
                s.write_all(b"HTTP/1.0 200 OK\r\n\r\nhost")
            });
        }
    });
    assert_eq!(daemon::try_get(([127, 0, 0, 1], port).into(), "/").as_deref(), Some("host"));
    let reach = async |target: String| {
        // Not wget: busybox' own, linked static, dies of looking names up.
        let (host, port) = target.split_once(':').unwrap();
        let script = format!(
            "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 2 nc {host} {port} | tail -n 1 | grep . || echo closed"
        );
        let done = d.exec("a", &script).await;
        assert_eq!(done.exit_code, 0, "{done:?}");
        assert_ne!(done.stdout.trim(), "", "{target}: {done:?}");
        done.stdout.trim().to_owned()
    };
    // Itself, so that the probe is known to work.
    assert_eq!(reach("127.0.0.1:80".into()).await, "1");
    assert_eq!(reach(format!("{}:80", a.address)).await, "2");
    let mut targets = vec![format!("{}:80", b.address), format!("169.254.169.254:{port}"), format!("127.0.0.1:{port}")];
    for own in own_addresses(&d.tag) {
        targets.push(format!("{own}:{port}"));
        targets.push(format!("{own}:{}", b.ports[0].host));
    }
    for target in targets {
        assert_eq!(reach(target.clone()).await, "closed", "{target}");
    }
    // IPv6 is closed: there is not even an address.
    let v6 =
        d.exec("a", "cat /proc/net/if_inet6 2>/dev/null | grep -v ' lo$'; ip -6 addr show dev eth0 2>/dev/null").await;
    assert_eq!(v6.stdout.trim(), "", "{v6:?}");
    // The other pod was never counted.
    assert_eq!(get(b.ports[0].host, "/"), "1");
    // Nor does a pod see torpor's own files, or gain privileges.
    let seen = d.exec("a", "ls /run/torpor /var/lib/torpor 2>&1; grep NoNewPrivs /proc/self/status; id -u").await;
    assert!(seen.stdout.contains("No such file") && !seen.stdout.contains("NoNewPrivs:\t0"), "{seen:?}");
}

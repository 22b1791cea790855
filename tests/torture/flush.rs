//! R12: somebody else on the host flushes torpor's rules, or takes its link down. Isolation never fails, and forwards are
//! back within seconds.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use torpor::api::types::Pod;

use crate::daemon::{Daemon, Options, counter};
use crate::load::Desk;
use crate::rest;
use crate::tally::Tally;

const KINDS: [&str; 5] = ["flush", "jumps", "all", "link-down", "link-gone"];
/// A forward is back within that.
const HEALED: Duration = Duration::from_secs(5);

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output();
    out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
}

/// What bears the instance's tag goes, and nothing else.
fn flush(tag: &str, jumps: bool, chains: bool) {
    for table in ["nat", "filter"] {
        let rules = run("iptables-save", &["-t", table]);
        let ours: Vec<&str> = rules.lines().filter(|l| l.contains(tag)).collect();
        let chain = |l: &&str| l.split([' ', ':']).find(|w| w.starts_with("TORPOR-")).map(str::to_owned);
        if jumps {
            for rule in ours.iter().filter(|l| l.starts_with("-A ") && !l.starts_with("-A TORPOR-")) {
                let args: Vec<String> = rule.replace('"', "").split(' ').skip(1).map(str::to_owned).collect();
                let mut all = vec!["-w", "-t", table, "-D"];
                all.extend(args.iter().map(String::as_str));
                run("iptables", &all);
            }
        }
        for chain in ours.iter().filter(|l| l.starts_with(':')).filter_map(chain) {
            if chains {
                run("iptables", &["-w", "-t", table, "-F", &chain]);
            }
            if chains && jumps {
                run("iptables", &["-w", "-t", table, "-X", &chain]);
            }
        }
    }
}

/// An address of the host's by which others reach it.
fn outside(tag: &str) -> Option<Ipv4Addr> {
    let text = run("ip", &["-o", "-4", "addr"]);
    let foreign = |l: &&str| !l.contains(" tp-") && !l.contains(tag);
    let all = text.lines().filter(foreign).filter_map(|l| l.split_whitespace().nth(3)?.split('/').next()?.parse().ok());
    all.into_iter().find(|a: &Ipv4Addr| !a.is_loopback())
}

fn break_it(tag: &str, kind: &str) {
    let link = format!("tp-{tag}");
    match kind {
        "flush" => flush(tag, false, true),
        "jumps" => flush(tag, true, false),
        "all" => flush(tag, true, true),
        "link-down" => drop(run("ip", &["link", "set", &link, "down"])),
        _ => drop(run("ip", &["link", "del", &link])),
    }
}

/// A service of the host's that no pod may reach.
fn service() -> std::io::Result<u16> {
    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut s| {
                let _ = s.read(&mut [0; 1024])?;
                s.write_all(b"HTTP/1.0 200 OK\r\n\r\nhost")
            });
        }
    });
    Ok(port)
}

pub async fn firewall(tally: &Arc<Tally>, trials: u64) {
    let d = Daemon::with(Options::default());
    d.import("test").await;
    let mut desk = Desk { client: d.client.clone(), tally: Arc::clone(tally), me: "flush" };
    let (Ok(a), Ok(b)) = (desk.client.create_pod(&counter("a")).await, desk.client.create_pod(&counter("b")).await)
    else {
        return tally.fail("two pods can't be made");
    };
    let (Ok(port), Some(host)) = (service(), outside(&d.tag)) else {
        return tally.fail("the host has no address or port to be reached by");
    };
    let forward = a.ports[0].host;
    for n in 0..trials {
        tally.begin_trial();
        let kind = KINDS[n as usize % KINDS.len()];
        desk.me = kind;
        break_it(&d.tag, kind);
        let begun = Instant::now();
        let tries = [(host, forward), (Ipv4Addr::LOCALHOST, forward)];
        let healed = tokio::task::spawn_blocking(move || {
            tries.map(|(address, port)| {
                loop {
                    if answers((address, port).into()) {
                        return Some(begun.elapsed());
                    }
                    if begun.elapsed() > 3 * HEALED {
                        return None;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            })
        });
        let targets = [format!("{}:80", b.address), format!("{host}:{port}"), format!("{host}:{forward}")];
        while !healed.is_finished() {
            closed(&desk, &a, &targets).await;
        }
        for (way, took) in ["by the host's address", "by 127.0.0.1"].iter().zip(healed.await.unwrap_or([None; 2])) {
            match took {
                Some(took) => tally.recovered(took, HEALED),
                None => desk.fail(&format!("the forward does not come back {way}")),
            }
        }
        closed(&desk, &a, &targets).await;
    }
    rest::empty(&d, tally).await;
    rest::end(d, tally);
}

fn answers(to: SocketAddr) -> bool {
    let Ok(mut stream) = std::net::TcpStream::connect_timeout(&to, Duration::from_millis(200)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let mut text = String::new();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").is_ok()
        && stream.read_to_string(&mut text).is_ok()
        && text.contains("200")
}

/// From inside the pod none of these answers; the pod itself does, so that the probe is known to work.
async fn closed(desk: &Desk, from: &Pod, targets: &[String]) {
    let mut script = String::new();
    for target in targets.iter().map(String::as_str).chain(["127.0.0.1:80"]) {
        let (host, port) = target.split_once(':').unwrap_or((target, "80"));
        script += &format!(
            "(printf 'GET /x HTTP/1.0\\r\\n\\r\\n' | timeout 1 nc {host} {port} | grep -q 200 && echo {target}) & "
        );
    }
    match desk.shell(&from.name, &(script + "wait")).await {
        Ok(out) => {
            let reached: Vec<&str> = out.lines().collect();
            if reached != ["127.0.0.1:80"] {
                desk.fail(&format!("from a pod were reached: {reached:?}"));
            }
        }
        Err(e) => desk.fail(&format!("exec: {e}")),
    }
}

//! Isolation: every row of `matrix.md` is tried with real pods; and again while somebody flushes the host's firewall.
#![allow(clippy::unwrap_used, clippy::print_stderr, dead_code, unreachable_pub, missing_docs, reason = "tests")]

#[path = "../e2e/daemon.rs"]
mod daemon;
mod frames;
#[path = "../support/host.rs"]
mod host;
mod probes;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use host::sh;
use probes::{How, Probe};
use table::{Expected, Row, rows};
use world::{From, World};

/// Runs on a host of its own, on this thread and those that it starts.
fn on_a_new_host(test: impl AsyncFnOnce(World)) {
    if !daemon::ready() {
        return;
    }
    host::new_host();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { test(World::new().await).await });
}

fn key(p: &Probe) -> (String, String, String) {
    let from = match p.from {
        From::Pod => "pod",
        From::Namespace => "namespace",
        From::Host => "host",
        From::Outside => "outside",
        From::Stranger => "stranger",
    };
    (from.into(), p.to.into(), p.protocol.into())
}

/// Tries the probes, some at a time: what each says.
async fn try_all(w: &World, probes: &[(usize, &Probe)], round: &str) -> BTreeMap<usize, String> {
    let tries = probes.iter().map(|(n, probe)| async move {
        let mut said = String::new();
        for args in probe.commands(&format!("{round}-{n}")) {
            said = w.run(probe.from, args).await;
        }
        if let How::Effect(_, _, command, text) = &probe.how
            && w.in_router(command).contains(text)
        {
            said = "answer router".into();
        }
        (*n, said)
    });
    futures::stream::iter(tries).buffer_unordered(8).collect().await
}

/// What became of one probe: as the table has it, or more.
fn judge(n: usize, probe: &Probe, said: &str, arrived: &[(&'static str, String)], round: &str) -> String {
    let token = format!("{round}-{n}");
    let mut at: Vec<&str> = arrived.iter().filter(|(_, t)| *t == token).map(|(name, _)| *name).collect();
    at.dedup();
    let one_way = matches!(probe.how, How::Frames(..));
    match said.split_once(' ') {
        Some(("answer", who)) if who == probe.who => "open".into(),
        Some(("no-socket", _)) => "no socket".into(),
        Some(("none", _)) if at == [probe.who] && one_way => "open".into(),
        Some(("none", _)) if at.is_empty() => "closed".into(),
        _ => format!("{said}; it arrived at {at:?}"),
    }
}

#[test]
fn every_row_of_the_matrix_is_as_it_says() {
    on_a_new_host(async |w| {
        let all = probes::all(&w);
        let rows = rows();
        let mut by_key: BTreeMap<_, &Row> = rows.iter().map(|r| (r.key(), r)).collect();
        assert_eq!(by_key.len(), rows.len(), "a row stands twice");
        let numbered: Vec<(usize, &Probe)> = all.iter().enumerate().collect();
        let begun = Instant::now();
        let said = try_all(&w, &numbered, "once").await;
        let arrived = w.arrived().await;
        let mut wrong = Vec::new();
        for (n, probe) in numbered {
            let got = judge(n, probe, &said[&n], &arrived, "once");
            match by_key.remove(&key(probe)) {
                None => wrong.push(format!("{:?}: no such row in matrix.md", key(probe))),
                Some(row) if row.expected.as_str() != got => {
                    wrong.push(format!("{:?}: {:?} is expected, but: {got} ({})", key(probe), row.expected, said[&n]));
                }
                Some(_) => {}
            }
        }
        wrong.extend(by_key.into_keys().map(|k| format!("{k:?}: no probe")));
        assert!(wrong.is_empty(), "{wrong:#?}");
        support::tried(all.len());
        eprintln!("{} probes in {:?}", all.len(), begun.elapsed());
    });
}

/// Once all at once, once each table of iptables, once what nft does.
const FLUSHES: [&str; 3] = ["iptables -F", "iptables -F; iptables -t nat -F", "nft flush ruleset"];

#[test]
fn isolation_holds_while_the_firewall_is_flushed_and_forwards_come_back() {
    on_a_new_host(async |w| {
        let all = probes::all(&w);
        let rows: BTreeMap<_, Row> = rows().into_iter().map(|r| (r.key(), r)).collect();
        let closed: Vec<(usize, &Probe)> =
            all.iter().enumerate().filter(|(_, p)| rows[&key(p)].expected == Expected::Closed).collect();
        assert!(closed.len() > 40);
        for (round, flush) in FLUSHES.into_iter().enumerate() {
            let round = format!("flush{round}");
            // Again and again, so that it is never whole for long while all are tried.
            let over = Arc::new(AtomicBool::new(false));
            let stop = Arc::clone(&over);
            let (sent, flushed) = tokio::sync::oneshot::channel();
            let flusher = std::thread::spawn(move || {
                sh(flush);
                let _ = sent.send(());
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(100));
                    sh(flush);
                }
            });
            flushed.await.unwrap();
            let said = try_all(&w, &closed, &round).await;
            over.store(true, Ordering::Relaxed);
            flusher.join().unwrap();
            let last = Instant::now();
            let forward = format!("198.51.100.1:{}", w.pod.ports[0].host);
            let healed = loop {
                let said = w.run(From::Outside, vec!["tcp".into(), forward.clone(), "healed".into()]).await;
                let outside = w.run(From::Pod, vec!["tcp".into(), "203.0.113.80:7000".into(), "healed".into()]).await;
                if said == "answer pod" && outside == "answer outside" {
                    break last.elapsed();
                }
                assert!(last.elapsed() < Duration::from_secs(20), "{flush}: {said}, {outside}\n{}", w.a.log());
            };
            assert!(healed <= Duration::from_secs(5), "{flush}: forwards were back after {healed:?}");
            let arrived = w.arrived().await;
            let open: Vec<String> = closed
                .iter()
                .map(|(n, p)| (key(p), judge(*n, p, &said[n], &arrived, &round)))
                .filter(|(_, got)| got != "closed")
                .map(|(key, got)| format!("{key:?}: {got}"))
                .collect();
            assert!(open.is_empty(), "while somebody runs {flush:?}: {open:#?}");
            support::tried(closed.len());
            eprintln!("{flush}: {} probes stayed closed, forwards were back after {healed:?}", closed.len());
        }
    });
}

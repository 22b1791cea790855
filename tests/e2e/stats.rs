//! What pods use is told as it is.

use std::time::Duration;

use futures::StreamExt;

use crate::daemon::{self, Daemon, get, script};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_uses_is_counted() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let web = d.counter("web").await;
    let first = d.client.stats("web").await.unwrap();
    assert_eq!((first.pod.as_str(), first.name.as_str()), (web.id.as_str(), "web"));
    assert_eq!((first.memory_limit, first.pids_limit), (256 << 20, web.resources.pids));
    assert!(first.memory > 5 << 20 && first.memory < first.memory_limit, "{first:?}");
    assert!(first.pids > 1 && first.cpu_ns > 1_000_000 && first.cpu_percent >= 0.0, "{first:?}");

    // Ten answers of 100 kB and what is written to the root are seen.
    d.exec("web", "head -c 20000000 /dev/urandom > /written; sync").await;
    for _ in 0..10 {
        get(web.ports[0].host, "/");
    }
    let then = d.client.stats("web").await.unwrap();
    assert!(then.network.rx_packets >= first.network.rx_packets + 30, "{then:?}");
    assert!(then.network.tx_packets >= first.network.tx_packets + 30, "{then:?}");
    assert!(then.network.rx_bytes > first.network.rx_bytes && then.network.tx_bytes > first.network.tx_bytes);
    assert!(then.disk >= first.disk + 19_000_000 && then.disk < first.disk + 60_000_000, "{first:?} {then:?}");
    assert!(then.cpu_ns > first.cpu_ns);

    // A stream goes on until the sandbox ends; a busy pod is seen to be busy.
    d.client.create_pod(&script("busy", "while :; do :; done")).await.unwrap();
    let mut lines = std::pin::pin!(d.client.stats_stream("busy").await.unwrap());
    let mut seen = Vec::new();
    for _ in 0..3 {
        let line = tokio::time::timeout(Duration::from_secs(30), lines.next()).await.unwrap().unwrap().unwrap();
        seen.push((line.cpu_percent, line.cpu_ns));
    }
    assert!(seen.iter().any(|s| s.0 > 10.0) && seen.is_sorted_by_key(|s| s.1), "{seen:?}");
    d.client.pause("busy").await.unwrap();
    let still = d.client.stats("busy").await.unwrap();
    let later = d.client.stats("busy").await.unwrap();
    assert!(later.cpu_ns - still.cpu_ns < 50_000_000, "{still:?} {later:?}");
    d.client.remove("busy", true).await.unwrap();
    let rest = tokio::time::timeout(Duration::from_secs(30), lines.collect::<Vec<_>>()).await.unwrap();
    assert!(rest.iter().all(Result::is_ok));

    d.sleep("web").await;
    assert_eq!(daemon::code(&d.client.stats("web").await.unwrap_err()), "wrong_state");
    assert_eq!(daemon::code(&d.client.stats_stream("web").await.err().unwrap()), "wrong_state");
    d.wake("web").await;
    let said = std::process::Command::new(env!("CARGO_BIN_EXE_torpor"))
        .args(["stats", "--no-stream"])
        .env("TORPOR_HOST", format!("unix://{}", d.socket.display()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(text.contains("MEMORY / LIMIT") && text.contains("web") && text.contains("/ 256.0 MiB"), "{text}");
}

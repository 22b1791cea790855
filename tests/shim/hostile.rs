//! Whatever comes from the pod, the shim serves.

use std::time::{Duration, Instant};

use torpor::channel::{Event, Stream};
use torpor::model::Code;

use crate::pod::{Pod, is_root, shell, until};

async fn serves(pod: &Pod) {
    for _ in 0..20 {
        let begun = Instant::now();
        pod.shim.status().await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(3), "it took {:?}", begun.elapsed());
    }
    let rss = std::fs::read_to_string(format!("/proc/{}/status", pod.shim.status().await.unwrap().shim_pid)).unwrap();
    let rss: u64 = rss.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok()).unwrap();
    assert!(rss < 32 * 1024, "{rss} KiB");
}

#[tokio::test]
async fn an_init_that_writes_rubbish_without_end() {
    if !is_root() {
        return;
    }
    let pod = Pod::bare(1 << 20, 3).await;
    let feed = "unshare --pid --fork --kill-child sh -c 'while :; do cat /dev/urandom; done' & echo $! > pid";
    pod.shim.create(&crate::pod::command(feed, "")).await.unwrap();
    serves(&pod).await;
    let out = pod.shim.exec(&shell("true"), vec![], Some(Duration::from_millis(100))).await.unwrap();
    assert!(out.timed_out, "nobody answered: it is given up");
    assert_eq!(pod.shim.shutdown().await.unwrap_err().code(), Code::WrongState);
    pod.kill_sandbox().await;
    until("the end", || async { pod.shim.status().await.unwrap().exit.is_some() }).await;
    pod.shim.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_init_that_writes_good_frames_nobody_asked_for() {
    if !is_root() {
        return;
    }
    let pod = Pod::bare(1 << 20, 3).await;
    let mut frames = Vec::new();
    for n in 1..50 {
        let process = if n % 2 == 0 { 0 } else { n };
        frames.extend(Event::Hello { version: 9, session: n, launched: true }.encode(0));
        frames.extend(Event::Output { process, stream: Stream::Stdout, data: vec![b'\n'; 100_000] }.encode(n));
        frames.extend(Event::Exited { process, code: Some(1), signal: Some(-5) }.encode(u64::MAX));
        frames.extend(Event::Probed { id: n, ready: true }.encode(n));
        frames.extend(Event::Identified { failed: None }.encode(0));
    }
    std::fs::write(pod.plan.dir.join("frames"), frames).unwrap();
    let feed = "unshare --pid --fork --kill-child sh -c 'while :; do cat frames; done' & echo $! > pid";
    pod.shim.create(&crate::pod::command(feed, "")).await.unwrap();
    serves(&pod).await;
    assert!(!pod.shim.status().await.unwrap().init_ready, "it never answered our hello");
}

#[tokio::test]
async fn a_pod_that_writes_faster_than_anybody_reads() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    pod.launch("yes yes-yes-yes").await;
    let flood = {
        let shim = pod.shim.clone();
        tokio::spawn(async move { shim.exec(&shell("yes | head -c 30000000"), vec![], None).await })
    };
    serves(&pod).await;
    let out = flood.await.unwrap().unwrap();
    assert!(out.truncated && out.stdout.len() == 16 << 20);
    assert_eq!(pod.exec("echo on").await.stdout, b"on\n");
}

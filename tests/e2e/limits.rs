//! Limits really hold, and their breach is told.

use std::time::{Duration, Instant};

use torpor::api::types::{CreatePod, Size};

use crate::daemon::{self, Daemon, script};

#[tokio::test(flavor = "multi_thread")]
async fn memory_processor_processes_and_disk_are_bounded() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    // Memory.
    let hog = CreatePod {
        memory: Some(Size::Text("96m".into())),
        ..script("hog", "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done")
    };
    d.client.create_pod(&hog).await.unwrap();
    let ended = d.client.wait("hog").await.unwrap();
    assert_eq!(ended.exit_reason, "oom", "{:?}\n{}", d.client.inspect("hog").await, d.log());
    assert_eq!(ended.exit_code, 137);
    // Processor: half of one, seen in the accounting over a second.
    let spin = CreatePod { cpus: Some(0.5), ..script("spin", "while :; do :; done") };
    let pod = d.client.create_pod(&spin).await.unwrap();
    let used = || -> u64 {
        let name = format!("torpor-{}/{}-{}", d.tag, pod.id, pod.incarnation);
        let v1 = std::fs::read_to_string(format!("/sys/fs/cgroup/cpuacct/{name}/cpuacct.usage"));
        v1.unwrap().trim().parse().unwrap()
    };
    let all = std::fs::read_to_string(format!("/sys/fs/cgroup/cpu/torpor-{}/cpu.shares", d.tag)).unwrap();
    let processors = std::thread::available_parallelism().unwrap().get();
    assert_eq!(all.trim().parse::<usize>().unwrap(), 1024 * processors, "the weight of all pods together");
    std::thread::sleep(Duration::from_millis(500));
    let (begun, before) = (Instant::now(), used());
    std::thread::sleep(Duration::from_secs(2));
    let share = Duration::from_nanos(used() - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    assert!((0.2..=0.58).contains(&share), "a pod of half a processor used {share}");
    d.client.remove("spin", true).await.unwrap();
    // Processes.
    let bomb = CreatePod { pids: Some(128), ..script("bomb", "bomb() { bomb | bomb & }; bomb; sleep 2; echo alive") };
    d.client.create_pod(&bomb).await.unwrap();
    let begun = Instant::now();
    d.client.pods().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "the API answers beside a fork bomb");
    tokio::time::timeout(Duration::from_secs(60), d.client.wait("bomb")).await.expect("it ends").unwrap();
    // Disk.
    let fill = CreatePod {
        disk: Some(Size::Text("16m".into())),
        ..script("fill", "dd if=/dev/zero of=/big bs=1M count=64; ls -l /big")
    };
    d.client.create_pod(&fill).await.unwrap();
    d.client.wait("fill").await.unwrap();
    use futures::StreamExt;
    let lines: Vec<_> = d.client.logs("fill", "").await.unwrap().map(|l| l.unwrap().line).collect().await;
    assert!(lines.iter().any(|l| l.contains("No space left")), "{lines:?}");
}

//! Limits really hold, and their breach is told.

use std::time::{Duration, Instant};

use torpor::api::types::{CreatePod, Size};

use crate::daemon::{self, Daemon, script};
use crate::support;

/// A file of the cgroup of that name, v1 or v2, wherever it is there.
fn in_cgroup(name: &str, file: &str) -> Option<String> {
    let text = support::cgroups(name).iter().find_map(|dir| std::fs::read_to_string(dir.join(file)).ok())?;
    Some(text.trim().to_owned())
}

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
    let name = format!("{}-{}", pod.id, pod.incarnation);
    // v1 counts nanoseconds in a file of its own, v2 microseconds beside other things.
    let used = || -> Duration {
        if let Some(ns) = in_cgroup(&name, "cpuacct.usage") {
            return Duration::from_nanos(ns.parse().unwrap());
        }
        let stat = in_cgroup(&name, "cpu.stat").unwrap();
        Duration::from_micros(stat.lines().find_map(|l| l.strip_prefix("usage_usec ")).unwrap().parse().unwrap())
    };
    // v1 alone weighs all pods together against single processes of the host.
    if let Some(shares) = in_cgroup(&format!("torpor-{}", d.tag), "cpu.shares") {
        let processors = std::thread::available_parallelism().unwrap().get();
        assert_eq!(shares.parse::<usize>().unwrap(), 1024 * processors, "the weight of all pods together");
    }
    std::thread::sleep(Duration::from_millis(500));
    let (begun, before) = (Instant::now(), used());
    std::thread::sleep(Duration::from_secs(2));
    let share = (used() - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    assert!((0.2..=0.58).contains(&share), "a pod of half a processor used {share}");
    d.client.remove("spin", true).await.unwrap();
    // Processes.
    let bomb = CreatePod { pids: Some(128), ..script("bomb", "bomb() { bomb | bomb & }; bomb; sleep 2; echo alive") };
    d.client.create_pod(&bomb).await.unwrap();
    let begun = Instant::now();
    d.client.pods().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "the API answers beside a fork bomb");
    let ended = tokio::time::timeout(Duration::from_secs(60), d.client.wait("bomb")).await.expect("it ends").unwrap();
    assert!(["exited", "pids"].contains(&ended.exit_reason.as_str()), "{ended:?}");
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

#[tokio::test(flavor = "multi_thread")]
async fn torpord_gives_up_what_it_has_no_use_for() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    let status = std::fs::read_to_string(format!("/proc/{}/status", d.pid().unwrap())).unwrap();
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        let mask = status.lines().find_map(|l| l.strip_prefix(set)).unwrap().trim();
        let mask = u64::from_str_radix(mask, 16).unwrap();
        // CAP_SYS_ADMIN it has; not CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_BOOT, CAP_SYS_TIME and CAP_SYSLOG (linux/capability.h).
        assert!(mask & (1 << 21) != 0, "{set} {mask:x}");
        assert!([16, 17, 22, 25, 34].iter().all(|c| mask & (1 << c) == 0), "{set} {mask:x}");
    }
}

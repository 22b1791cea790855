//! torpord is killed and started again.

use futures::StreamExt;

use crate::daemon::{self, Daemon, Options, get, script};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_finds_its_pods_again() {
    if !daemon::ready() {
        return;
    }
    for runsc in crate::sleep::engines() {
        finds_its_pods_again(Options { runsc: Some(runsc), ..Options::default() }).await;
    }
}

async fn finds_its_pods_again(options: Options) {
    let mut d = Daemon::with(options);
    d.import("test").await;
    let pod = d.counter("web").await;
    let port = pod.ports[0].host;
    assert_eq!(get(port, "/"), "1");
    let sleeper = d.counter("sleeper").await;
    assert_eq!(get(sleeper.ports[0].host, "/"), "1");
    d.sleep("sleeper").await;
    d.client
        .create_pod(&script("talk", "n=0; while [ $n -lt 2000 ]; do n=$((n+1)); echo line $n; done; sleep 1; exit 5"))
        .await
        .unwrap();
    d.client.create_pod(&script("later", "sleep 0.5; exit 6")).await.unwrap();
    // The program that waits for the next change of forwards ends with torpord.
    let router = std::path::PathBuf::from(format!("/run/torpor/{}/netns/router", d.tag));
    while crate::support::processes("iptables-", &router).is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    d.kill();
    // While nobody is there, pods answer other hosts and the host by its own addresses, and end.
    assert!(daemon::try_get(format!("{}:80", pod.address).parse().unwrap(), "/").is_some());
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(crate::support::processes("iptables-", &router), Vec::<i32>::new());
    d.launch();
    let now = d.client.inspect("web").await.unwrap();
    assert_eq!((now.state.as_str(), now.sandbox_pid, now.incarnation), ("running", pod.sandbox_pid, 1));
    assert_eq!(get(port, "/"), "3");
    assert_eq!(d.client.inspect("sleeper").await.unwrap().state, "sleeping");
    for (name, exit) in [("talk", 5), ("later", 6)] {
        let ended = d.client.wait(name).await.unwrap();
        assert_eq!((name, ended.exit_code), (name, exit));
    }
    let lines: Vec<_> = d.client.logs("talk", "").await.unwrap().map(|l| l.unwrap().line).collect().await;
    let wanted: Vec<String> = (1..=2000).map(|n| format!("line {n}")).collect();
    assert_eq!(lines, wanted);
    d.wake("sleeper").await;
    assert_eq!(get(sleeper.ports[0].host, "/"), "2");
    assert_eq!(d.exec("web", "echo ok").await.stdout, "ok\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_leaves_all_or_nothing() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    let base = d.counter("base").await;
    let port = base.ports[0].host;
    let mut count: u64 = get(port, "/").parse().unwrap();
    for round in 0_u64..12 {
        let client = d.client.clone();
        let busy = tokio::spawn(async move {
            let _ = client.create_pod(&daemon::counter(&format!("new-{round}"))).await;
        });
        let client = d.client.clone();
        let sleeping = tokio::spawn(async move { client.sleep("base", &mut |_| ()).await.is_ok() });
        tokio::time::sleep(std::time::Duration::from_millis(round * 30)).await;
        d.kill();
        let _ = busy.await;
        let slept = sleeping.await.unwrap_or(false);
        d.launch();
        for pod in d.client.pods().await.unwrap() {
            assert!(
                matches!(pod.state.as_str(), "running" | "sleeping" | "created"),
                "round {round}: {pod:?}\n{}",
                d.log()
            );
            if pod.name != "base" {
                assert_eq!(get(pod.ports[0].host, "/"), "1", "round {round}");
                d.client.remove(&pod.id, true).await.unwrap();
            }
        }
        let now = d.client.inspect("base").await.unwrap();
        assert!(!slept || now.state == "sleeping", "round {round}: an acknowledged sleep was lost");
        if now.state == "sleeping" {
            d.wake("base").await;
        }
        count += 1;
        assert_eq!(get(port, "/"), count.to_string(), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_is_replaced() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let pod = d.counter("web").await;
    let out = std::process::Command::new("pgrep")
        .args(["-f", &format!("torpor-shim --dir /run/torpor/{}/pods/{}", d.tag, pod.id)])
        .output()
        .unwrap();
    let shim: i32 = String::from_utf8_lossy(&out.stdout).trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).unwrap();
    let mut last = None;
    for _ in 0..100 {
        let exec = torpor::api::types::ExecPod { command: vec!["echo".into(), "ok".into()], ..Default::default() };
        match d.client.exec("web", &exec).await {
            Ok(done) => {
                assert_eq!(done.stdout, "ok\n");
                last = None;
                break;
            }
            Err(e) => last = Some(e),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(last.is_none(), "{last:?}\n{}", d.log());
    assert_eq!(d.client.inspect("web").await.unwrap().sandbox_pid, pod.sandbox_pid);
    assert_eq!(get(pod.ports[0].host, "/"), "1");
}

/// Somebody's snapshot stays what it is whatever becomes of a restore of it, and the pod can go on from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_outlives_a_restore_that_broke_off() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    let pod = d.counter("web").await;
    let port = pod.ports[0].host;
    assert_eq!(get(port, "/"), "1");
    let snapshot = d.client.snapshot("web", &mut |_| ()).await.unwrap().id;
    let mut interrupted = 0;
    for round in 0_u64..10 {
        let (client, id) = (d.client.clone(), snapshot.clone());
        let busy = tokio::spawn(async move { client.restore("web", &id, &mut |_| ()).await.is_ok() });
        tokio::time::sleep(std::time::Duration::from_millis(20 + round * 25)).await;
        d.kill();
        let _ = busy.await;
        d.launch();
        if d.client.inspect("web").await.unwrap().state == "failed" {
            interrupted += 1;
            d.kill(); // and once more
            d.launch();
            assert_eq!(d.wake("web").await.state, "running", "round {round}");
        }
        let count: u64 = get(port, "/").parse().unwrap();
        assert!(count >= 2, "round {round}: it counts from {count}");
        // The sleep's own snapshot replaces the one before it; somebody's is none of its business.
        d.sleep("web").await;
        d.wake("web").await;
        assert_eq!(get(port, "/"), (count + 1).to_string(), "round {round}");
        d.client.inspect_snapshot(&snapshot).await.unwrap();
    }
    assert!(interrupted > 0, "no restore was interrupted");
    d.client.remove("web", true).await.unwrap();
    d.client.inspect_snapshot(&snapshot).await.unwrap();
}

//! Commands that end are started again, as their pods' policy says.

use std::time::{Duration, Instant};

use futures::StreamExt;
use torpor::api::types::{CreatePod, Pod};

use crate::daemon::{self, Daemon, script};

fn with(policy: &str, pod: CreatePod) -> CreatePod {
    CreatePod { restart: Some(policy.into()), ..pod }
}

/// The pod, once it is as `wanted` says.
async fn when(d: &Daemon, pod: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let shown = d.client.inspect(pod).await.unwrap();
        if wanted(&shown) {
            return shown;
        }
        assert!(Instant::now() < end, "{shown:?}\n{}", d.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn end_sandbox(pod: &Pod) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pod.sandbox_pid.unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_command_is_started_again_as_often_as_was_asked() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let begun = Instant::now();
    // What it wrote is there the next time.
    let made =
        d.client.create_pod(&with("on-failure:2", script("f", "echo x >> /n; wc -l < /n; exit 3"))).await.unwrap();
    assert_eq!(made.restart, "on-failure:2");
    let follow = d.client.logs("f", "follow=true").await.unwrap();
    assert_eq!(d.client.wait("f").await.unwrap().exit_code, 3);
    assert!(begun.elapsed() > Duration::from_millis(300), "no pauses");
    let lines: Vec<_> = follow.map(|l| l.unwrap().line).collect().await;
    assert_eq!(lines, ["1", "2", "3"], "{}", d.log());
    let f = d.client.inspect("f").await.unwrap();
    assert_eq!((f.state.as_str(), f.restart_count, f.incarnation, f.restart_at), ("stopped", 2, 3, None));
    // Started by somebody, it has all its tries again.
    d.client.start("f").await.unwrap();
    let f = when(&d, "f", |p| p.restart_count == 2 && p.state == "stopped" && p.restart_at.is_none()).await;
    assert_eq!(f.incarnation, 6);

    d.client.create_pod(&with("on-failure", script("good", "exit 0"))).await.unwrap();
    d.client.wait("good").await.unwrap();
    assert_eq!(d.client.inspect("good").await.unwrap().restart_count, 0);
    let e = d.client.create_pod(&with("sometimes", script("bad", "exit 0"))).await.unwrap_err();
    assert_eq!(daemon::code(&e), "invalid_request");

    let said = std::process::Command::new(env!("CARGO_BIN_EXE_torpor"))
        .args(["run", "--restart", "on-failure:1", "test", "sh", "-c", "echo y; exit 4"])
        .env("TORPOR_HOST", format!("unix://{}", d.socket.display()))
        .output()
        .unwrap();
    assert_eq!((said.status.code(), String::from_utf8_lossy(&said.stdout).as_ref()), (Some(4), "y\ny\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_a_pod_does_not_get_it_back() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    for policy in ["unless-stopped", "always"] {
        d.client.create_pod(&with(policy, script(policy, "sleep 1000"))).await.unwrap();
        let pod = d.client.inspect(policy).await.unwrap();
        end_sandbox(&pod);
        let back = when(&d, policy, |p| p.state == "running" && p.restart_count == 1).await;
        assert_eq!((back.incarnation, back.address), (2, pod.address));
        d.stop(policy).await;
    }
    // One that waits for its restart, too.
    d.client.create_pod(&with("always", script("loop", "exit 1"))).await.unwrap();
    when(&d, "loop", |p| p.restart_count >= 3 && p.restart_at.is_some()).await;
    d.stop("loop").await;
    d.client.create_pod(&with("always", script("killed", "sleep 1000"))).await.unwrap();
    d.client.kill("killed", "KILL").await.unwrap();
    assert_eq!(d.client.wait("killed").await.unwrap().exit_code, 137);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for pod in ["unless-stopped", "always", "loop", "killed"] {
        let shown = d.client.inspect(pod).await.unwrap();
        assert_eq!((shown.state.as_str(), shown.restart_at), ("stopped", None), "{pod}");
    }
    d.client.remove("loop", false).await.unwrap();

    // When torpord starts, `always` means always.
    d.kill();
    d.launch();
    when(&d, "always", |p| p.state == "running").await;
    when(&d, "killed", |p| p.state == "running").await;
    assert_eq!(d.client.inspect("unless-stopped").await.unwrap().state, "stopped");
    // A sandbox that ended while torpord was away comes back, once.
    d.client.start("unless-stopped").await.unwrap();
    let gone = d.client.inspect("unless-stopped").await.unwrap();
    d.kill();
    end_sandbox(&gone);
    d.launch();
    let back = when(&d, "unless-stopped", |p| p.state == "running").await;
    assert_eq!((back.restart_count, back.incarnation), (1, gone.incarnation + 1));
    assert_eq!(d.exec("unless-stopped", "echo here").await.stdout, "here\n");
    // A restart outlives sleep and wake.
    d.sleep("unless-stopped").await;
    d.wake("unless-stopped").await;
    end_sandbox(&d.client.inspect("unless-stopped").await.unwrap());
    when(&d, "unless-stopped", |p| p.state == "running" && p.restart_count == 2).await;
}

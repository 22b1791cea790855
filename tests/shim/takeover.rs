//! Shims that are killed, and those that take over.

use std::time::Duration;

use futures::StreamExt;
use torpor::channel::Stream;
use torpor::host::logs::{self, LogQuery};
use torpor::host::shim::Shims;

use crate::pod::{Pod, is_root, until};

/// A program's numbers: every one once and in order, though shims are killed while it writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_line_is_lost_or_doubled_by_killed_shims() {
    if !is_root() {
        return;
    }
    const KILLS: u32 = 8;
    const ROUND: usize = 2000;
    let mut pod = Pod::bare(500_000, 10_000).await;
    pod.create("/init").await;
    let (end, ended) = tokio::sync::watch::channel(false);
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let follower = tokio::spawn(logs::read(&pod.plan.log_dir, query, ended).unwrap().map(Result::unwrap).concat());
    // In bursts of 300 KB, far more together than init keeps for a shim that is not there.
    let pad = "x".repeat(150);
    let rounds =
        format!("r=0; while [ ! -e /tmp/stop ]; do r=$((r+1)); seq -f \"{pad} $r %.0f\" 1 {ROUND}; sleep 0.1; done");
    pod.launch(&format!("({rounds}) & ({rounds}) >&2; wait; printf last; exit 9")).await;
    for _ in 0..KILLS {
        let last = LogQuery { tail: Some(1), ..LogQuery::default() };
        let before = pod.query(last).await;
        until("more lines", || async { pod.query(last).await != before }).await;
        pod.replace_shim().await;
    }
    pod.exec("touch /tmp/stop").await;
    let exit = pod.shim.wait().await.unwrap();
    assert_eq!((exit.code, exit.shim_lost), (Some(9), false));
    end.send(true).unwrap();
    let followed = follower.await.unwrap();
    let read = pod.log().await;
    assert!(followed == read, "{} lines followed, {} read", followed.len(), read.len());
    for (stream, extra) in [(Stream::Stdout, 1), (Stream::Stderr, 0)] {
        let lines: Vec<&str> = read.iter().filter(|l| l.stream == stream).map(|l| &*l.line).collect();
        let (lines, rest) = lines.split_at(lines.len() - extra);
        assert!(rest.len() == extra && lines.len().is_multiple_of(ROUND) && !lines.is_empty(), "{}", lines.len());
        for (n, line) in lines.iter().enumerate() {
            assert_eq!(*line, format!("{pad} {} {}", n / ROUND + 1, n % ROUND + 1));
        }
    }
}

#[tokio::test]
async fn an_exit_while_no_shim_lives_is_not_lost() {
    if !is_root() {
        return;
    }
    let mut pod = Pod::new().await;
    pod.launch("echo begun; while [ ! -e /tmp/go ]; do sleep 0.01; done; echo ended; exit 5").await;
    let root = pod.shim.status().await.unwrap();
    assert!(root.launched && root.init_ready);
    pod.exec("touch /tmp/going; (sleep 0.2; touch /tmp/go) >/dev/null 2>&1 &").await;
    pod.kill_shim().await;
    tokio::time::sleep(Duration::from_millis(500)).await; // nobody can tell: there is no shim
    assert!(pod.shim.status().await.is_err());
    assert!(pod.shims.connect(&pod.plan).await.unwrap().is_none());
    pod.shim = pod.shims.spawn(&pod.plan).await.unwrap();
    let exit = pod.shim.wait().await.unwrap();
    assert_eq!((exit.code, exit.shim_lost, exit.sandbox_died), (Some(5), false, false));
    let lines: Vec<String> = pod.log().await.into_iter().map(|l| l.line).collect();
    assert_eq!(lines, ["begun", "ended"]);
}

#[tokio::test]
async fn a_sandbox_that_ends_while_no_shim_lives_is_said_to_be_lost() {
    if !is_root() {
        return;
    }
    let mut pod = Pod::new().await;
    pod.launch("printf 'whole\\nhalf'; sleep 1000").await;
    until("the output", || async { !pod.log().await.is_empty() }).await;
    let sandbox = pod.shim.status().await.unwrap().sandbox_pid.unwrap();
    pod.kill_shim().await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(sandbox as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
    until("the end of the sandbox", || async { !std::path::Path::new(&format!("/proc/{sandbox}/fd/0")).exists() })
        .await;
    pod.shim = pod.shims.spawn(&pod.plan).await.unwrap();
    let exit = pod.shim.wait().await.unwrap();
    assert!(exit.code.is_none() && exit.sandbox_died, "{exit:?}");
    let lines: Vec<String> = pod.log().await.into_iter().map(|l| l.line).collect();
    assert_eq!(lines, ["whole", "half"]);
    pod.shim.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_sandbox_that_dies_under_its_shim_leaves_its_status() {
    if !is_root() {
        return;
    }
    for taken_over in [false, true] {
        let mut pod = Pod::new().await;
        pod.launch("sleep 1000").await;
        if taken_over {
            pod.replace_shim().await;
            assert!(pod.shim.status().await.unwrap().launched || pod.exec("true").await.exit_code == 0);
        }
        let waiting = pod.shim.clone();
        let wait = tokio::spawn(async move { waiting.wait().await });
        let exec = {
            let shim = pod.shim.clone();
            tokio::spawn(async move { shim.exec(&crate::pod::shell("sleep 100"), vec![], None).await })
        };
        until("the program", || async { pod.exec("pidof sleep | grep ' '").await.exit_code == 0 }).await;
        pod.kill_sandbox().await;
        let exit = wait.await.unwrap().unwrap();
        assert!(exit.sandbox_died && exit.code.is_none() && !exit.shim_lost, "{exit:?}");
        assert_eq!(exit.sandbox_status, Some(128 + 9), "taken over: {taken_over}");
        assert!(exec.await.unwrap().is_err());
        pod.shim.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn two_shims_never_serve_one_sandbox() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    let first = pod.shim.status().await.unwrap().shim_pid;
    let again = pod.shims.spawn(&pod.plan).await.unwrap();
    assert_eq!(again.status().await.unwrap().shim_pid, first);
    pod.launch("sleep 1000").await;
    assert_eq!(pod.exec("echo still").await.stdout, b"still\n");
}

#[tokio::test]
async fn a_launch_asked_for_again_after_a_takeover_is_answered() {
    if !is_root() {
        return;
    }
    let mut pod = Pod::new().await;
    pod.launch("echo once; sleep 1000").await;
    until("the line", || async { pod.log().await.len() == 1 }).await;
    pod.replace_shim().await;
    pod.launch("echo twice").await;
    assert_eq!(pod.exec("true").await.exit_code, 0);
    assert_eq!(pod.log().await.len(), 1);
}

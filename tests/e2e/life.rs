//! A pod's life awake.

use futures::StreamExt;
use torpor::api::types::{CreatePod, ExecPod, VolumeSpec};

use crate::daemon::{self, Daemon, counter, get, script};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_reached_by_its_port_and_runs_commands() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let pod = d.counter("web").await;
    assert_eq!((pod.state.as_str(), pod.name.as_str()), ("running", "web"));
    let port = pod.ports[0].host;
    assert_eq!((get(port, "/"), get(port, "/")), ("1".into(), "2".into()));

    let done = d.exec("web", "echo out; echo err >&2; hostname; cat /etc/resolv.conf; exit 3").await;
    assert_eq!(done.exit_code, 3);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\nweb\nnameserver 192.0.2.53\n", "err\n"));
    let hosts = d.exec("web", "cat /etc/hosts").await.stdout;
    assert!(hosts.contains(&format!("{}\tweb", pod.address)), "{hosts}");
    let done = d.exec("web", r"printf '\377\376\375'").await;
    assert_eq!((done.stdout.as_str(), done.stdout_encoding.as_str()), ("//79", "base64"));

    let run = async |e: ExecPod| d.client.exec(&pod.id[..6], &e).await;
    let sh = |s: &str| ExecPod { command: vec!["sh".into(), "-c".into(), s.into()], ..ExecPod::default() };
    let done = run(ExecPod { stdin: Some("in put".into()), ..sh("cat") }).await.unwrap();
    assert_eq!(done.stdout, "in put");
    let done = run(ExecPod {
        user: Some("ann".into()),
        working_dir: Some("/tmp".into()),
        ..sh("id -un; id -Gn; pwd; echo $HOME")
    })
    .await
    .unwrap();
    assert_eq!(done.stdout, "ann\nann staff\n/tmp\n/home/ann\n");
    let done = run(ExecPod { env: [("A".to_owned(), "b c".to_owned())].into(), ..sh("echo $A") }).await.unwrap();
    assert_eq!(done.stdout, "b c\n");
    let done = run(ExecPod { timeout_ms: Some(200), ..sh("sleep 100") }).await.unwrap();
    assert!(done.timed_out && done.exit_code == 137);
    let big = run(sh("head -c 3000000 /dev/zero | tr '\\0' x")).await.unwrap();
    assert_eq!(big.stdout.len(), 3_000_000);
    let e = run(ExecPod { command: vec!["nosuch".into()], ..ExecPod::default() }).await.unwrap_err();
    assert_eq!(daemon::code(&e), "command_not_found");
    let e = run(ExecPod { command: vec!["/etc/passwd".into()], ..ExecPod::default() }).await.unwrap_err();
    assert_eq!(daemon::code(&e), "command_not_executable");

    let e = d.client.remove("web", false).await.unwrap_err();
    assert_eq!(daemon::code(&e), "wrong_state");
    d.client.remove("web", true).await.unwrap();
    assert!(d.client.pods().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn output_exit_codes_and_following() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    d.client
        .create_pod(&script("talk", "for i in 1 2 3; do echo out $i; echo err $i >&2; done; printf tail; exit 7"))
        .await
        .unwrap();
    let ended = d.client.wait("talk").await.unwrap();
    assert_eq!((ended.exit_code, ended.exit_reason.as_str()), (7, "exited"));
    let lines: Vec<_> = d.client.logs("talk", "follow=true").await.unwrap().map(|l| l.unwrap()).collect().await;
    let of = |s: &str| lines.iter().filter(|l| l.stream == s).map(|l| l.line.as_str()).collect::<Vec<_>>();
    assert_eq!(of("stdout"), ["out 1", "out 2", "out 3", "tail"]);
    assert_eq!(of("stderr"), ["err 1", "err 2", "err 3"]);
    let tail: Vec<_> = d.client.logs("talk", "tail=2").await.unwrap().collect().await;
    assert_eq!(tail.len(), 2);

    // A follower sees lines as they come, and its end when the pod ends.
    d.client
        .create_pod(&script(
            "slow",
            "n=0; while [ $n -lt 300 ]; do n=$((n+1)); echo line $n; done; read x < /nofifo; sleep 0.2",
        ))
        .await
        .unwrap();
    let lines: Vec<_> = d.client.logs("slow", "follow=true").await.unwrap().map(|l| l.unwrap().line).collect().await;
    let numbers: Vec<&String> = lines.iter().filter(|l| l.starts_with("line")).collect();
    assert_eq!(numbers.len(), 300);
    assert_eq!(numbers[299], "line 300");

    // Signals.
    d.client
        .create_pod(&script("trap", "trap 'echo got; exit 9' USR1; echo ready; while :; do sleep 0.05; done"))
        .await
        .unwrap();
    let mut follow = std::pin::pin!(d.client.logs("trap", "follow=true").await.unwrap());
    assert_eq!(follow.next().await.unwrap().unwrap().line, "ready");
    d.client.kill("trap", "USR1").await.unwrap();
    assert_eq!(d.client.wait("trap").await.unwrap().exit_code, 9);
    d.client.create_pod(&script("deaf", "trap '' TERM; echo ready; while :; do sleep 0.05; done")).await.unwrap();
    let mut follow = Box::pin(d.client.logs("deaf", "follow=true").await.unwrap());
    assert_eq!(follow.next().await.unwrap().unwrap().line, "ready");
    let stop = torpor::api::types::StopPod { grace_seconds: Some(0), signal: None };
    assert_eq!(d.client.stop("deaf", &stop).await.unwrap().exit_code, Some(137));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_wrote_to_its_root_is_there_after_stop_and_start() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let pod = d.counter("web").await;
    d.exec("web", "echo data > /data; mkdir -p /new/dir; rm /www/index.html; echo y > /new/dir/x; rm -r /home; mkdir /home; chown 1000:50 /data; ln /data /hard").await;
    let stopped = d.stop("web").await;
    assert_eq!((stopped.state.as_str(), stopped.exit_code, stopped.last_error), ("stopped", Some(143), None));
    assert_eq!(stopped.sandbox_pid, None);
    for round in 0..2 {
        let again = d.client.start("web").await.unwrap();
        assert_eq!(
            (again.state.as_str(), again.address.clone(), again.ports.clone()),
            ("running", pod.address.clone(), pod.ports.clone())
        );
        let seen = d.exec("web", "cat /data /hard /new/dir/x; ls /www; ls -A /home; stat -c %u:%g:%h /data").await;
        assert_eq!(seen.stdout, "data\ndata\ny\n1000:50:2\n", "round {round}: {}", seen.stderr);
        d.stop("web").await;
    }
    // A command that ends by itself keeps its root too.
    d.client.create_pod(&script("once", "cat /kept 2>/dev/null || echo first; echo kept > /kept")).await.unwrap();
    d.client.wait("once").await.unwrap();
    d.client.start("once").await.unwrap();
    d.client.wait("once").await.unwrap();
    let lines: Vec<_> = d.client.logs("once", "").await.unwrap().map(|l| l.unwrap().line).collect().await;
    assert_eq!(lines, ["first", "kept"], "{:?}", d.client.inspect("once").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_was_changed_before_many_stops_is_whole() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    d.counter("web").await;
    for round in 0..20 {
        let before = format!("mkdir -p /kept/sub; rm -f /kept/sub/{}; echo {round} > /kept/sub/{round}", round - 1);
        let done = d.exec("web", &format!("{before}; echo {round} >> /all; rm -rf /gone; mkdir -p /gone/x")).await;
        assert_eq!(done.exit_code, 0, "{}", done.stderr);
        assert_eq!(d.stop("web").await.last_error, None, "round {round}");
        d.client.start("web").await.unwrap();
    }
    let seen = d.exec("web", "wc -l < /all; ls /kept/sub; cat /kept/sub/*; rm -r /kept /gone && ls -d /kept").await;
    assert_eq!(seen.stdout, "20\n19\n19\n", "{}", seen.stderr);
    // What they were made of is not kept.
    let kept = std::fs::read_dir(d.dir.join("state/blobs")).unwrap().count();
    assert!(kept < 14, "{kept} layers");
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_seen_on_both_sides_and_stay() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let host = d.dir.join("shared");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("from-host"), "h").unwrap();
    let volume =
        |source: &str, target: &str, read_only| VolumeSpec { source: source.into(), target: target.into(), read_only };
    let volumes = vec![
        volume("data", "/data", false),
        volume(&host.display().to_string(), "/host", false),
        volume(&host.display().to_string(), "/ro", true),
    ];
    d.client.create_pod(&CreatePod { volumes, ..counter("v") }).await.unwrap();
    let done = d.exec("v", "cat /host/from-host; echo p > /host/from-pod; echo d > /data/x; echo no > /ro/x").await;
    assert!(done.stdout == "h" && done.stderr.to_lowercase().contains("read-only"), "{done:?}");
    assert_eq!(std::fs::read_to_string(host.join("from-pod")).unwrap(), "p\n");
    d.sleep("v").await;
    std::fs::write(host.join("while-asleep"), "w").unwrap();
    d.wake("v").await;
    assert_eq!(d.exec("v", "cat /host/while-asleep /data/x").await.stdout, "wd\n");
    d.client.remove("v", true).await.unwrap();
    assert_eq!(std::fs::read_to_string(d.dir.join("state/volumes/data/x")).unwrap(), "d\n");
}

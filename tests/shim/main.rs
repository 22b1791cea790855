//! The real torpor-shim with the real torpor-init, without an engine.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "a test")]

mod gvisor;
mod hostile;
mod pod;
mod takeover;
mod terminals;

use std::time::Duration;

use pod::{Pod, is_root, shell, until};
use torpor::channel::{Exec, Identity, Launch, Probe, Stream};
use torpor::host::logs::LogQuery;
use torpor::host::shim::Shims;
use torpor::model::Code;

#[tokio::test]
async fn a_command_is_run_logged_and_its_exit_recorded() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    assert!(pod.shim.status().await.unwrap().sandbox_pid.is_some());
    // Somebody waits: the pod is held when its command has ended.
    let shim = pod.shim.clone();
    let wait = tokio::spawn(async move { shim.wait().await.unwrap() });
    tokio::task::yield_now().await;
    pod.launch("echo out; echo err >&2; printf half; hostname >&2; exit 3").await;
    let exit = wait.await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.sandbox_died), (Some(3), None, false));
    let recorded: torpor::host::shim::ExitRecord =
        serde_json::from_slice(&std::fs::read(pod.plan.dir.join("exit.json")).unwrap()).unwrap();
    assert_eq!(recorded, exit);
    let log = pod.log().await;
    let of = |s| log.iter().filter(|l| l.stream == s).map(|l| l.line.as_str()).collect::<Vec<_>>();
    assert_eq!((of(Stream::Stdout), of(Stream::Stderr)), (vec!["out", "half"], vec!["err", "pod"]));
    assert_eq!(pod.shim.exec(&shell("true"), vec![], None).await.unwrap_err().code(), Code::WrongState);
    assert_eq!(pod.shim.shutdown().await.unwrap_err().code(), Code::WrongState);
    pod.kill_sandbox().await;
    until("the end of the sandbox", || async { pod.shim.status().await.unwrap().sandbox_pid.is_none() }).await;
    pod.shim.shutdown().await.unwrap();
    assert!(pod.shims.connect(&pod.plan).await.unwrap().is_none());
}

#[tokio::test]
async fn a_command_that_is_missing_is_said_so() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    let launch = |c: &str| Launch { command: vec![c.into()], working_dir: "/".into(), ..Launch::default() };
    assert_eq!(pod.shim.launch(&launch("nothing-here")).await.unwrap_err().code(), Code::CommandNotFound);
    assert_eq!(pod.shim.launch(&launch("/etc/passwd")).await.unwrap_err().code(), Code::CommandNotExecutable);
    pod.launch("exec sleep 1000").await;
    let exec = |c: &str| Exec { command: vec![c.into()], ..Exec::default() };
    let e = pod.shim.exec(&exec("nothing-here"), vec![], None).await.unwrap_err();
    assert!(e.code() == Code::CommandNotFound && e.report().contains("nothing-here"), "{}", e.report());
    assert_eq!(pod.shim.exec(&exec("/etc"), vec![], None).await.unwrap_err().code(), Code::CommandNotExecutable);
}

#[tokio::test]
async fn programs_get_input_and_give_output_and_code() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    pod.launch("exec sleep 1000").await;
    let out = pod.exec("echo a; echo b >&2; exit 7").await;
    assert_eq!((out.exit_code, &*out.stdout, &*out.stderr), (7, &b"a\n"[..], &b"b\n"[..]));
    let input: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let out = pod.shim.exec(&shell("cat"), input.clone(), None).await.unwrap();
    assert!(out.stdout == input && !out.truncated);
    // A program that takes none of its input.
    let out = pod.shim.exec(&shell("exec true"), input, None).await.unwrap();
    assert_eq!(out.exit_code, 0);
    let out = pod.shim.exec(&shell("echo x; exec sleep 100"), vec![], Some(Duration::from_millis(300))).await.unwrap();
    assert_eq!((out.timed_out, out.exit_code, &*out.stdout), (true, 137, &b"x\n"[..]));
    let out = pod.exec("head -c 20000000 /dev/zero").await;
    assert_eq!((out.truncated, out.stdout.len(), out.exit_code), (true, 16 << 20, 0));
    let out = pod.exec("kill -9 $$").await;
    assert_eq!(out.exit_code, 137);
}

#[tokio::test]
async fn programs_are_who_and_where_they_are_asked_to_be() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    pod.launch("exec sleep 1000").await;
    let run = |user: &str, dir: &str, path: &str, line: &str| {
        let command = if line.is_empty() { vec!["tool".to_owned()] } else { shell(line).command };
        let exec = Exec {
            command,
            env: vec![format!("PATH={path}")],
            working_dir: Some(dir.to_owned()),
            user: Some(user.to_owned()),
            stdin: false,
        };
        let shim = pod.shim.clone();
        async move { shim.exec(&exec, vec![], None).await.map(|o| String::from_utf8(o.stdout).unwrap().trim().to_owned()) }
    };
    let ids = "echo $(id -u) $(id -g) $(id -G) $(pwd) $HOME";
    let usual = "/usr/bin:/bin";
    assert_eq!(run("", "/", usual, ids).await.unwrap(), "0 0 0 / /root");
    assert_eq!(run("4:5", "/tmp", usual, ids).await.unwrap().split(' ').next(), Some("4"));
    assert!(run("ann", "/", usual, ids).await.is_err());
    // Who somebody is may change while the pod runs, and so may what stands first in the search path.
    let pod = &pod;
    let add = |line: &str, file: &str| {
        let script = format!("echo '{line}' >> {file}");
        async move { drop(pod.exec(&script).await) }
    };
    add("ann:x:1000:1001::/home/ann:/bin/sh", "/etc/passwd").await;
    assert_eq!(run("ann", "/", usual, ids).await.unwrap(), "1000 1001 1001 / /home/ann");
    add("more:x:1002:ann", "/etc/group").await;
    assert_eq!(run("ann", "/dev", usual, ids).await.unwrap(), "1000 1001 1001 1002 /dev /home/ann");
    assert_eq!(run("", "/", usual, ids).await.unwrap(), "0 0 0 / /root");
    let path = "/absent:/tmp/first:/tmp/plain:/tmp/second";
    let tool = |dir: &str, mode: &str| {
        let text = format!("#!/bin/sh\\necho {dir}\\n");
        let script = format!("mkdir -p /tmp/{dir}; printf '{text}' > /tmp/{dir}/tool; chmod {mode} /tmp/{dir}/tool");
        async move { drop(pod.exec(&script).await) }
    };
    let code = |e: torpor::model::Error| e.code();
    assert_eq!(run("", "/", path, "").await.map_err(code), Err(Code::CommandNotFound));
    tool("plain", "644").await;
    assert_eq!(run("", "/", path, "").await.map_err(code), Err(Code::CommandNotExecutable));
    tool("second", "755").await;
    assert_eq!(run("", "/", path, "").await.unwrap(), "second");
    tool("first", "755").await;
    assert_eq!(run("", "/", path, "").await.unwrap(), "first");
    // No signal is blocked, and a broken pipe ends a program.
    assert_eq!(run("", "/", usual, "grep SigBlk /proc/self/status").await.unwrap(), "SigBlk:\t0000000000000000");
    assert_eq!(pod.exec("kill -PIPE $$; sleep 1").await.exit_code, 128 + 13);
}

#[tokio::test]
async fn the_log_is_rotated_and_bounded() {
    if !is_root() {
        return;
    }
    let pod = Pod::bare(20_000, 3).await;
    pod.create("/init").await;
    pod.launch("seq 1 5000; head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'a\\377b\\n'; exec sleep 1000").await;
    until("the last line", || async { pod.log().await.last().is_some_and(|l| l.line.starts_with('a')) }).await;
    let mut sizes = Vec::new();
    for entry in std::fs::read_dir(&pod.plan.log_dir).unwrap() {
        sizes.push(entry.unwrap().metadata().unwrap().len());
    }
    // A record that is longer than a file may be has one of its own.
    assert!(sizes.len() == 3 && sizes.iter().all(|n| *n <= 20_000), "{sizes:?}");
    let log = pod.log().await;
    let (last, long) = log.split_last().unwrap();
    assert_eq!(last.line, "a\u{fffd}b");
    let long: String = long.iter().filter(|l| l.line.starts_with('x')).map(|l| &*l.line).collect();
    assert!(long.len() % 16384 == 40000 % 16384);
    let tail = pod.query(LogQuery { tail: Some(1), ..LogQuery::default() }).await;
    assert_eq!(tail, std::slice::from_ref(last));
    assert!(pod.query(LogQuery { tail: Some(0), ..LogQuery::default() }).await.is_empty());
}

#[tokio::test]
async fn two_clients_at_once_and_one_that_vanishes() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    pod.launch("exec sleep 1000").await;
    let other = pod.shims.connect(&pod.plan).await.unwrap().unwrap();
    let many = (0..40).map(|n| {
        let shim = if n % 2 == 0 { pod.shim.clone() } else { other.clone() };
        tokio::spawn(async move { shim.exec(&shell(&format!("echo {n}; exit {n}")), vec![], None).await.unwrap() })
    });
    for (n, run) in many.collect::<Vec<_>>().into_iter().enumerate() {
        let out = run.await.unwrap();
        assert_eq!((out.exit_code, out.stdout), (n as i32, format!("{n}\n").into_bytes()));
    }
    // Gone in the middle of an exec: the program goes on.
    let script =
        shell("echo begun > /tmp/f; while [ ! -e /tmp/go ]; do sleep 0.01; done; seq 1 100000; echo done > /tmp/f");
    let shim = other.clone();
    let exec = tokio::spawn(async move { shim.exec(&script, vec![], None).await });
    until("its begin", || async { pod.exec("cat /tmp/f").await.stdout == b"begun\n" }).await;
    exec.abort();
    assert!(exec.await.is_err());
    pod.exec("touch /tmp/go").await;
    until("its end", || async { pod.exec("cat /tmp/f").await.stdout == b"done\n" }).await;
    assert_eq!(other.exec(&shell("echo x"), vec![], None).await.unwrap().stdout, b"x\n");
}

#[tokio::test]
async fn a_quiet_pod_keeps_what_comes_meanwhile() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    pod.launch("n=0; while :; do n=$((n+1)); echo $n; sleep 0.001; done").await;
    until("output", || async { pod.log().await.len() > 10 }).await;
    pod.shim.quiesce().await.unwrap();
    let before = pod.log().await.len();
    let shim = pod.shim.clone();
    let exec = tokio::spawn(async move { shim.exec(&shell("echo late"), vec![], None).await.unwrap() });
    tokio::time::sleep(Duration::from_millis(200)).await; // that nothing happens gives no event
    assert!(!exec.is_finished());
    assert_eq!(pod.log().await.len(), before);
    pod.shim.resume().await.unwrap();
    assert_eq!(exec.await.unwrap().stdout, b"late\n");
    until("more output", || async { pod.log().await.len() > before + 10 }).await;
    for (line, n) in pod.log().await.iter().zip(1..) {
        assert_eq!(line.line, n.to_string());
    }
}

#[tokio::test]
async fn signals_probes_and_identity_reach_the_pod() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    pod.launch("trap 'echo hup' HUP; trap 'exit 4' TERM; echo up; while :; do sleep 0.01; done").await;
    let ready = |c: &str| Probe::Exec { command: vec!["sh".into(), "-c".into(), c.into()] };
    pod.shim.probe(&ready("true"), Duration::from_secs(5)).await.unwrap();
    let e = pod.shim.probe(&ready("false"), Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(e.code(), Code::Timeout);
    let identity = Identity {
        hostname: "other".into(),
        hosts: "127.0.0.1 other\n".into(),
        machine_id: Some("0".repeat(32)),
        ..Identity::default()
    };
    pod.shim.identify(&identity).await.unwrap();
    assert_eq!(pod.exec("hostname; cat /etc/hosts").await.stdout, b"other\n127.0.0.1 other\n");
    until("the command", || async { pod.log().await.len() == 1 }).await;
    pod.shim.signal(1).await.unwrap();
    until("the signal", || async { pod.log().await.len() == 2 }).await;
    pod.shim.signal(15).await.unwrap();
    assert_eq!(pod.shim.wait().await.unwrap().code, Some(4));
}

#[tokio::test]
async fn an_engine_that_fails_or_hangs_is_quoted() {
    if !is_root() {
        return;
    }
    let pod = Pod::bare(1 << 20, 3).await;
    let e = pod.shim.launch(&pod::launch("true")).await.unwrap_err();
    assert_eq!(e.code(), Code::WrongState);
    let e = pod.shim.create(&pod::command("echo no such thing >&2; exit 3", "")).await.unwrap_err();
    assert!(e.code() == Code::Runtime && e.report().contains("no such thing"), "{}", e.report());
    let mut command = pod::command("echo from the log > engine.log; sleep 100", "");
    command.timeout = Duration::from_millis(300);
    command.log = Some(pod.plan.dir.join("engine.log"));
    let e = pod.shim.create(&command).await.unwrap_err();
    assert!(e.code() == Code::Timeout && e.report().contains("from the log"), "{}", e.report());
    let e = pod.shim.create(&pod::command("exit 0", "")).await.unwrap_err();
    assert_eq!(e.code(), Code::Runtime, "it named no sandbox");
    pod.create("/init").await;
    pod.launch("exit 0").await;
    assert_eq!(pod.shim.wait().await.unwrap().code, Some(0));
}

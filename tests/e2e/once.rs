//! Pods for one run, followed by the program that made them: all they say comes, and nothing of them stays, whoever dies.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::StreamExt;
use torpor::api::types::CreatePod;

use crate::daemon::{self, Daemon};
use crate::habits::shell;

async fn gone(d: &Daemon) {
    while !d.client.pods().await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_said_comes_and_nothing_stays() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    // It has ended long before all of it is read.
    let (code, out, _) =
        shell(&d, "torpor run --rm test sh -c 'seq 1 30000; exit 3' | (sleep 2; cat); exit ${PIPESTATUS[0]}");
    assert_eq!(code, Some(3));
    // When the program is over, so is the pod.
    assert!(d.client.pods().await.unwrap().is_empty());
    assert!(out.lines().map(|l| l.parse::<u32>().unwrap()).eq(1..=30_000), "{} lines", out.lines().count());
    gone(&d).await;
    for _ in 0..3 {
        for (line, code, said) in [
            ("torpor run --rm test sh -c 'echo a; exit 4'", 4, "a\n"),
            ("echo b | torpor run --rm -i test cat", 0, "b\n"),
            ("torpor run --rm -i test sh -c 'echo c; exit 5' < /dev/null", 5, "c\n"),
            ("torpor run --rm test nosuch", 127, ""),
            ("torpor run --rm test sh -c 'kill -9 $$'", 137, ""),
        ] {
            let (ended, out, err) = shell(&d, line);
            assert_eq!((ended, out.as_str()), (Some(code), said), "{line}: {err}");
            assert!(d.client.pods().await.unwrap().is_empty(), "{line}");
        }
    }
    gone(&d).await;
    // One that can't be begun for want of room is not left there either.
    assert_eq!(shell(&d, "torpor run --rm -m 15t test true").0, Some(125));
    gone(&d).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_killed_leaves_no_pod() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    for options in [&["--name", "a"][..], &["-i", "--name", "a"]] {
        let mut client = Command::new(env!("CARGO_BIN_EXE_torpor"))
            .args(["run", "--rm"])
            .args(options)
            .args(["test", "sh", "-c", "echo up; until [ -e /go ]; do usleep 20000; done"])
            .env("TORPOR_HOST", format!("unix://{}", d.socket.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 3];
        client.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        client.kill().unwrap();
        client.wait().unwrap();
        // It is still there, as without its client; it goes when it has ended, also over a torpord that was killed.
        assert!(d.client.inspect("a").await.unwrap().auto_remove);
        d.kill();
        d.launch();
        d.exec("a", "touch /go").await;
        gone(&d).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_killed_at_any_time_leave_no_pod() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    for n in 0..12 {
        let mut client = Command::new(env!("CARGO_BIN_EXE_torpor"))
            .args(["run", "--rm", "test", "true"])
            .env("TORPOR_HOST", format!("unix://{}", d.socket.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(n * 20)).await;
        client.kill().unwrap();
        client.wait().unwrap();
    }
    gone(&d).await;
    // Who says that they will read finds it, however short it was; and who does not come is not waited for long.
    let pod = CreatePod { auto_remove: true, follow: true, ..daemon::script("s", "echo short") };
    let id = d.client.create_pod(&pod).await.unwrap().id;
    d.client.wait(&id).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let lines: Vec<_> = d.client.logs(&id, "follow=true").await.unwrap().collect().await;
    assert_eq!(lines[0].as_ref().unwrap().line, "short");
    gone(&d).await;
    d.client.create_pod(&pod).await.unwrap();
    gone(&d).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_it_ended_is_told_by_its_id_after_it_has_gone() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let (_, id, _) = shell(&d, "torpor run -d --rm --name x test sh -c 'exit 9'");
    gone(&d).await;
    assert_eq!(d.client.wait(id.trim()).await.unwrap().exit_code, 9);
    // By its name it may be another one's.
    assert_eq!(daemon::code(&d.client.wait("x").await.unwrap_err()), "not_found");
    // Whoever follows it holds it, and not for longer.
    let (_, id, _) = shell(&d, "torpor run -d --rm --name y test sh -c 'until [ -e /go ]; do usleep 20000; done'");
    let lines = d.client.logs(id.trim(), "follow=true").await.unwrap();
    d.exec("y", "touch /go").await;
    d.client.wait("y").await.unwrap();
    drop(lines);
    gone(&d).await;
}

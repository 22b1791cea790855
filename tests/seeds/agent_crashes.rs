//! The pod agent, whose torpord is killed in the middle.

use std::time::Duration;

use crate::agent::{CONFIG, create};
use crate::world::{World, answered, content, until};

/// Milliseconds after which torpord is killed: from before the first effect to after the last.
const AFTER: [u64; 8] = [0, 10, 30, 60, 100, 160, 240, 400];

#[test]
fn a_kill_while_a_pod_is_made_leaves_a_pod_or_none() {
    let Some(mut w) = World::new(CONFIG, &[]) else { return };
    for after in AFTER {
        let making = w.begin(&create("crash"));
        std::thread::sleep(Duration::from_millis(after));
        w.daemon.kill();
        let told = answered(making).is_some_and(|a| a.status == 200);
        w.daemon.launch();
        let there = w.pods().len() == 1;
        assert!(there || !told, "an answered create is lost after {after} ms");
        // As a client does: it asks again, and has a pod that works.
        let again = w.curl(&create("crash"));
        assert_eq!(again.status, if there { 500 } else { 200 }, "{again:?}");
        w.exec("pod-crash", "echo here > /workspace/a");
        assert_eq!(content(&w.path("pods/crash")), [("a".to_owned(), "here\n".to_owned())]);
        assert_eq!(w.pod("pod-crash").ports[0].host, 30_000);
        w.post("/delete-pod", r#"{"podId":"crash"}"#).good();
        assert!(content(&w.path("pods")).is_empty());
    }
}

#[test]
fn a_kill_while_a_pod_is_put_back_leaves_one_whole_directory() {
    let Some(mut w) = World::new(CONFIG, &[]) else { return };
    w.curl(&create("back")).good();
    let (name, directory) = ("pod-back", w.path("pods/back"));
    w.exec(name, "cd /workspace && for n in $(seq 300); do echo then > $n; done");
    let then = content(&directory);
    let taken = w.curl("curl -X POST http://localhost:8080/snapshot/back").good();
    let restore = format!(
        r#"curl -X POST http://localhost:8080/restore-pod -d '{{"podId":"back","snapshotId":"{}"}}'"#,
        taken["snapshotId"].as_str().unwrap()
    );
    for after in AFTER {
        w.exec(name, "cd /workspace && rm -f * && for n in $(seq 200); do echo now > $n; done");
        let now = content(&directory);
        w.post("/stop-pod", r#"{"podId":"back"}"#).good();
        let restoring = w.begin(&restore);
        std::thread::sleep(Duration::from_millis(after));
        w.daemon.kill();
        let told = answered(restoring).is_some_and(|a| a.status == 200);
        w.daemon.launch();
        let pod = w.pod(name);
        let there = content(&directory);
        // It runs and has gone back, or it has not.
        match pod.state.as_str() {
            "running" => assert_eq!(there, then, "after {after} ms"),
            "stopped" | "failed" => assert!(there == now && !told, "after {after} ms"),
            other => panic!("{other} after {after} ms"),
        }
        until("what lay beside it goes", || content(&w.path("pods")).len() == 1);
        w.curl(&restore).good();
        assert_eq!((w.pod(name).state.as_str(), content(&directory)), ("running", then.clone()));
    }
    w.post("/delete-pod", r#"{"podId":"back"}"#).good();
    assert!(content(&w.path("pods")).is_empty());
}

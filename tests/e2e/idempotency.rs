//! Who asks again after a lost answer gets the first one.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::daemon::{self, Daemon};

/// A request on its way; its answer is not read yet.
fn send(socket: &Path, path: &str, key: &str, body: &str) -> Option<UnixStream> {
    let mut s = UnixStream::connect(socket).ok()?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nidempotency-key: {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    s.write_all((head + body).as_bytes()).ok()?;
    Some(s)
}

/// Status, whether it is the first answer once more, and the body.
fn receive(mut s: UnixStream) -> Option<(u16, bool, Value)> {
    let mut bytes = Vec::new();
    s.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, head.contains("idempotent-replayed: true"), serde_json::from_str(body).unwrap_or_default()))
}

fn post(d: &Daemon, path: &str, key: &str, body: &str) -> (u16, bool, Value) {
    receive(send(&d.socket, path, key, body).unwrap()).unwrap()
}

const POD: &str = r#"{"image":"test","command":["counter","80"],"memory":"128m","ready":{"tcp":80}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_done_once_and_answered_as_often_as_asked() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    // The client goes away before its answer comes; the next call waits for the one under way.
    drop(send(&d.socket, "/v1/pods", "one", POD).unwrap());
    let first = post(&d, "/v1/pods", "one", POD);
    assert_eq!(first.0, 201, "{first:?}");
    let again = post(&d, "/v1/pods", "\"one\"", POD);
    assert_eq!((again.0, again.1, &again.2), (201, true, &first.2));
    assert_eq!(d.client.pods().await.unwrap().len(), 1);
    // Many at once.
    let all: Vec<_> = std::thread::scope(|s| {
        let calls: Vec<_> = (0..8).map(|_| s.spawn(|| post(&d, "/v1/pods", "many", POD))).collect();
        calls.into_iter().map(|c| c.join().unwrap()).collect()
    });
    assert!(all.iter().all(|a| a.0 == 201 && a.2["id"] == all[0].2["id"]), "{all:?}");
    assert_eq!(all.iter().filter(|a| !a.1).count(), 1);
    assert_eq!(d.client.pods().await.unwrap().len(), 2);
    // Another request with the same key.
    for (path, body) in [("/v1/pods", POD.replace("128m", "129m")), ("/v1/pods?x=1", POD.into())] {
        let other = post(&d, path, "one", &body);
        assert_eq!((other.0, other.2["code"].as_str()), (422, Some("key_reused")), "{other:?}");
    }
    let bad = post(&d, "/v1/pods", "\"x", POD);
    assert_eq!((bad.0, bad.2["code"].as_str()), (400, Some("invalid_request")));
    // A refusal leaves the key free.
    let missing = POD.replace("test", "nosuch");
    assert_eq!(post(&d, "/v1/pods", "free", &missing).0, 404);
    assert_eq!(post(&d, "/v1/pods", "free", &missing).0, 404);
    let made = post(&d, "/v1/pods", "free", POD);
    assert_eq!((made.0, made.1), (201, false));
    // A program is not run twice; what it said is in no file.
    let id = first.2["id"].as_str().unwrap().to_owned();
    let exec = r#"{"command":["sh","-c","cat /proc/sys/kernel/random/uuid"]}"#;
    let path = format!("/v1/pods/{id}/exec");
    let said = post(&d, &path, "exec", exec);
    assert_eq!(said.2, post(&d, &path, "exec", exec).2);
    let uuid = said.2["stdout"].as_str().unwrap().trim().to_owned();
    assert_eq!(uuid.len(), 36, "{said:?}");
    d.kill();
    for file in std::fs::read_dir(d.dir.join("state")).unwrap().flatten() {
        let bytes = std::fs::read(file.path()).unwrap_or_default();
        assert!(memchr::memmem::find(&bytes, uuid.as_bytes()).is_none(), "{:?}", file.path());
    }
    d.launch();
    let lost = post(&d, &path, "exec", exec);
    assert_eq!((lost.0, lost.2["code"].as_str()), (409, Some("outcome_unknown")));
    let again = post(&d, "/v1/pods", "one", POD);
    assert_eq!((again.0, again.1, &again.2), (201, true, &first.2), "the first answer, whatever has become of it");
    // Whoever removed it meant it.
    d.client.remove(&id, true).await.unwrap();
    assert_eq!(post(&d, "/v1/pods", "one", POD).2["id"], first.2["id"]);
    assert_eq!(d.client.pods().await.unwrap().len(), 2);
    crate::support::tried(20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_leaves_one_pod() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    for n in 0..12_u32 {
        let key = format!("k{n}");
        let on_its_way = send(&d.socket, "/v1/pods", &key, POD).unwrap();
        std::thread::sleep(Duration::from_millis(u64::from(n) * 25)); // the moment of the kill is what is tried
        d.kill();
        drop(on_its_way);
        d.launch();
        let got = post(&d, "/v1/pods", &key, POD);
        assert_eq!(got.0, 201, "{got:?}");
        let pods = d.client.pods().await.unwrap();
        assert_eq!(pods.len(), 1, "{n}: {pods:?}");
        assert_eq!((pods[0].id.as_str(), pods[0].state.as_str()), (got.2["id"].as_str().unwrap(), "running"));
        d.client.remove(&pods[0].id, true).await.unwrap();
    }
    // The same with snapshots.
    let pod = post(&d, "/v1/pods", "for snapshots", POD).2["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/pods/{pod}/snapshots");
    for n in 0..6_u32 {
        let key = format!("s{n}");
        let on_its_way = send(&d.socket, &path, &key, "").unwrap();
        std::thread::sleep(Duration::from_millis(u64::from(n) * 60));
        d.kill();
        drop(on_its_way);
        d.launch();
        let got = post(&d, &path, &key, "");
        assert_eq!(got.0, 201, "{got:?}");
        let all = d.client.snapshots().await.unwrap();
        assert_eq!(all.len(), 1, "{n}: {all:?}");
        assert_eq!(Some(all[0].id.as_str()), got.2["id"].as_str());
        d.client.remove_snapshot(&all[0].id).await.unwrap();
    }
    crate::support::tried(18);
}

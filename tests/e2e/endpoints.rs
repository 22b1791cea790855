//! Every endpoint of the document, asked by the socket and by TCP for what it can't be: a clear refusal, and nothing changes. What
//! is asked is made from the document, so that a new endpoint is asked by itself.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon;
use crate::target::{By, Target, answer, clear, operations, schemas, with_query, wrong};

const JSON: &str = "application/json";
const HUGE: usize = 3 << 20;
/// A directory of the host can't be imported with a token, whatever else is wrong.
const REFUSED: [u16; 2] = [400, 403];

#[tokio::test(flavor = "multi_thread")]
async fn wrong_types_unknown_fields_huge_bodies_and_rubbish_are_refused_by_each() {
    if !daemon::ready() {
        return;
    }
    let document = torpor::daemon::http::document();
    let target = Target::new().await;
    let before = target.all().await;
    let rubbish: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let mut tried = 0;
    for operation in operations() {
        let (method, path) = (operation.method.as_str(), target.path(&operation, None));
        for by in [By::Socket, By::Tcp] {
            if let Some(schema) = &operation.body {
                let mut bodies = vec![];
                for schema in schemas(&document, schema) {
                    for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
                        bodies.extend(wrong(&document, schema).into_iter().map(|v| json!({field: v}).to_string()));
                    }
                }
                bodies.extend(wrong(&document, schema).iter().map(Value::to_string));
                bodies.extend(["[]", "{", "{}}", r#"{"nosuch":1}"#, "\"", "nul", "{\"a\":\u{0}}"].map(str::to_owned));
                for body in &bodies {
                    target.refused(by, method, &path, JSON, body.as_bytes(), &REFUSED);
                }
                target.refused(by, method, &path, JSON, &rubbish, &REFUSED);
                let huge = format!("{{\"x\":\"{}\"}}", "y".repeat(HUGE));
                target.refused(by, method, &path, JSON, huge.as_bytes(), &[413, 403]);
                if !operation.upload {
                    target.refused(by, method, &path, "text/plain", b"{}", &[415]);
                }
                tried += bodies.len() + 3;
            }
            if operation.upload {
                let huge = rubbish.repeat(HUGE / rubbish.len());
                target.refused(by, method, &path, "application/octet-stream", &huge, &[400, 422]);
            }
            // A body that nobody asked for changes nothing about who is not there.
            if operation.path.contains('{') {
                for name in
                    ["nosuch", "%00", "%ff%fe", "..%2f..%2fetc", "a%20b", &"x".repeat(5000), "%zz", "%F0%9F%92%A9"]
                {
                    let body = if name == "nosuch" { vec![b'z'; HUGE] } else { vec![] };
                    let kind = if operation.upload { "application/x-tar" } else { JSON };
                    target.refused(by, method, &target.path(&operation, Some(name)), kind, &body, &[400, 404, 413]);
                    tried += 1;
                }
            }
            for (name, _) in &operation.query {
                for value in ["%00", "%ff", "-1", "%5B%5D", "1e9", "../../etc", &"9".repeat(5000)] {
                    // Words that mean nothing to it, and are no harm.
                    let (status, text) =
                        target.ask(by, method, &with_query(&operation, &target, name, value), JSON, b"");
                    assert!(status < 500, "{by:?} {} {name}={value}: {status}", operation.id);
                    if status >= 400 {
                        clear(status, &text, &operation.id);
                    }
                    tried += 1;
                }
            }
            if !operation.query.is_empty() {
                let path = format!("{path}{}nosuch=1", if path.contains('?') { "&" } else { "?" });
                target.refused(by, method, &path, JSON, b"", &[400]);
            }
            // Another method is not some other endpoint.
            let (status, text) = target.ask(by, "BREW", &path, JSON, b"");
            assert!(matches!(status, 404 | 405), "{path}: {status}");
            clear(status, &text, &path);
        }
    }
    crate::support::tried(tried);
    target.unchanged(&before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_half_way_is_told_or_let_go_by_each() {
    if !daemon::ready() {
        return;
    }
    let target = Target::new().await;
    let before = target.all().await;
    let mut slow = Vec::new();
    for operation in operations() {
        let path = target.path(&operation, None);
        for by in [By::Socket, By::Tcp] {
            let takes_json = operation.body.is_some() && !operation.upload;
            let more = format!("content-type: {JSON}\r\ncontent-length: 500\r\n\r\n{{\"");
            let begun = target.head(by, &operation.method, &path, &more);
            if operation.body.is_some() || operation.upload {
                // Half a body, and no more will come.
                let mut line = target.connect(by);
                line.send(begun.as_bytes());
                line.end_of_requests();
                let now = Instant::now();
                if let Some((status, text)) = answer(&mut line) {
                    assert!((400..500).contains(&status), "{by:?} {}: {status}", operation.id);
                    clear(status, &text, &operation.id);
                }
                assert!(now.elapsed() < Duration::from_secs(10), "{by:?} {}: {:?}", operation.id, now.elapsed());
            }
            // Rubbish after an upgrade.
            if operation.upgrade {
                for frames in [
                    &b"\x00\x01\x02rubbish without a mask"[..],
                    &[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                    b"\xff\xff",
                    &[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe],
                ] {
                    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                        sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
                    let mut line = target.connect(by);
                    line.send(target.head(by, "GET", &path, upgrade).as_bytes());
                    let answered = answer(&mut line).unwrap();
                    assert_eq!(answered.0, 101, "{} {}", operation.id, String::from_utf8_lossy(&answered.1));
                    // Heads that are whole, whatever they say.
                    line.send(&[frames, &[0; 16]].concat());
                    line.patience(Duration::from_secs(10));
                    let now = Instant::now();
                    let mut piece = [0; 65536];
                    while let Ok(1..) = line.read(&mut piece) {}
                    assert!(now.elapsed() < Duration::from_secs(9), "{by:?} {} goes on after rubbish", operation.id);
                }
            }
            // Those who are slow are so all at once.
            let mut line = target.connect(by);
            line.send(target.head(by, &operation.method, &path, "x: ").as_bytes());
            slow.push((format!("the head of {by:?} {}", operation.id), line, 15));
            if takes_json {
                let mut line = target.connect(by);
                line.send(begun.as_bytes());
                slow.push((format!("the body of {by:?} {}", operation.id), line, 35));
            }
        }
    }
    crate::support::tried(slow.len());
    let begun = Instant::now();
    let waiting: Vec<_> = slow
        .into_iter()
        .map(|(what, mut line, limit)| {
            std::thread::spawn(move || {
                line.patience(Duration::from_secs(60));
                let answered = answer(&mut line);
                assert!(begun.elapsed() < Duration::from_secs(limit), "{what} is waited for {:?}", begun.elapsed());
                if what.contains("body") {
                    let (status, text) = answered.unwrap_or_else(|| panic!("{what}: no answer"));
                    assert!((400..500).contains(&status), "{what}: {status}");
                    clear(status, &text, &what);
                }
            })
        })
        .collect();
    // Nobody else waits meanwhile.
    let now = Instant::now();
    target.d.client.pods().await.unwrap();
    assert!(now.elapsed() < Duration::from_secs(5), "{:?}", now.elapsed());
    for thread in waiting {
        thread.join().unwrap();
    }
    // A terminal that was opened for rubbish is one all the same.
    for terminal in target.d.client.terminals("web").await.unwrap().into_iter().filter(|t| t.id != "term") {
        let _ = target.d.client.remove_terminal("web", &terminal.id).await;
    }
    target.unchanged(&before).await;
}

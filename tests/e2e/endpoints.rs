//! Every endpoint of the document, asked by the socket and by TCP for what it can't be: a clear refusal, and nothing changes. What
//! is asked is made from the document, so that a new endpoint is asked by itself.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use torpor::api::terminal::CreateTerminal;
use torpor::api::types::PortPair;

use crate::daemon::{self, counter};
use crate::target::{Answer, By, Operation, Target, answer, clear, operations, schemas, with_query, wrong};

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

/// Calls that do something to a pod, with bodies that are right; of others there is none.
fn body_of(id: &str, snapshot: &str) -> String {
    match id {
        "updatePod" => r#"{"labels":{"a":"b"}}"#.into(),
        "execPod" => r#"{"command":["true"]}"#.into(),
        "killPod" => r#"{"signal":"WINCH"}"#.into(),
        "addPort" => r#"{"pod":81}"#.into(),
        "renamePod" => r#"{"name":"web"}"#.into(),
        "restorePod" => json!({"snapshot": snapshot}).to_string(),
        "stopPod" => r#"{"graceSeconds":1}"#.into(),
        "putFiles" => "\0".repeat(1024),
        _ => String::new(),
    }
}

/// The pod runs, as before.
async fn mended(target: &Target) {
    let c = &target.d.client;
    match c.inspect("web").await.map(|p| p.state) {
        Err(_) => drop(c.create_pod(&counter("web")).await.unwrap()),
        Ok(state) => match state.as_str() {
            "running" => {}
            "paused" => drop(c.resume("web").await.unwrap()),
            "sleeping" => drop(target.d.wake("web").await),
            "stopped" => drop(c.start("web").await.unwrap()),
            other => panic!("the pod is {other} when both have their answers"),
        },
    }
    if c.inspect_terminal("web", "term").await.is_err() {
        let terminal = CreateTerminal { id: Some("term".into()), ..CreateTerminal::default() };
        c.create_terminal("web", &terminal).await.unwrap();
    }
    if c.ports("web").await.unwrap().is_empty() {
        c.add_port("web", &PortPair { pod: 80, host: None, protocol: None, address: None }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_at_one_pod_are_told_what_fits_by_each() {
    if !daemon::ready() {
        return;
    }
    let target = Target::new().await;
    let all: Vec<Operation> =
        operations().into_iter().filter(|o| o.path.starts_with("/v1/pods/{pod}") && o.method != "GET").collect();
    assert!(all.len() >= 15, "{}", all.len());
    let by_id = |id: &str| all.iter().find(|o| o.id == id).unwrap();
    // Each with itself, and with those that take the pod away under it.
    let mut tried = 0;
    for one in &all {
        for other in [one, by_id("deletePod"), by_id("sleepPod")] {
            mended(&target).await;
            let host = target.d.client.ports("web").await.unwrap()[0].host;
            let snapshot = match one.id.as_str() {
                "restorePod" => target.d.client.snapshot("web", &mut |_| ()).await.unwrap().id,
                _ => String::new(),
            };
            let call = |o: &Operation, by| {
                let path = target.path(o, None);
                let path = match o.id.as_str() {
                    "deletePod" => format!("{path}?force=true"),
                    "removePort" => format!("/v1/pods/web/ports/{host}"),
                    _ => path,
                };
                target.ask(
                    by,
                    &o.method,
                    &path,
                    if o.id == "putFiles" { "application/x-tar" } else { JSON },
                    body_of(&o.id, &snapshot).as_bytes(),
                )
            };
            let answers: Vec<Answer> = std::thread::scope(|s| {
                let both = [s.spawn(|| call(one, By::Socket)), s.spawn(|| call(other, By::Tcp))];
                both.into_iter().map(|c| c.join().unwrap()).collect()
            });
            let shown: Vec<String> =
                answers.iter().map(|(status, text)| format!("{status} {}", String::from_utf8_lossy(text))).collect();
            let shown = format!("{} and {}: {shown:?}", one.id, other.id);
            for (status, text) in &answers {
                assert!(*status < 300 || matches!(status, 404 | 409), "{shown}\n{}", target.d.log());
                if *status >= 400 {
                    clear(*status, text, &shown);
                }
            }
            // What the last one left is what is shown: by name, and in the list.
            let c = &target.d.client;
            let (found, listed) = (c.inspect("web").await, c.pods().await.unwrap());
            assert_eq!(found.is_ok(), listed.iter().any(|p| p.name == "web"), "{shown}");
            let gone = |n: usize| [one, other][n].id == "deletePod" && answers[n].0 == 204;
            assert_eq!(found.is_err(), gone(0) || gone(1), "{shown}: {found:?}");
            let ports: Vec<u16> = listed.iter().flat_map(|p| p.ports.iter().map(|f| f.host)).collect();
            assert_eq!(ports.iter().collect::<std::collections::BTreeSet<_>>().len(), ports.len(), "{ports:?}");
            let once = ["deletePod", "removePort", "deleteTerminal"];
            if one.id == other.id && once.contains(&one.id.as_str()) {
                assert_eq!(answers.iter().filter(|a| a.0 < 300).count(), 1, "{shown}");
            }
            tried += 1;
        }
    }
    crate::support::tried(tried);
    let log = target.d.log();
    assert!(!log.contains("panicked") && !log.contains("code=internal"), "{log}");
}

//! The container manager.

use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::get;
use crate::world::{Answer, SECRET, World, answered, until};

pub const CONFIG: &str = "
[[listen]]
address = '127.0.0.1:8080'
surface = 'containers'
[containers]
command = ['sh', '-c', 'echo \"[dev] ready on port 3000\"; exec sleep infinity']
memory = 268435456
[containers.images]
'node:24-slim' = 'test'
";

pub const ENV: [(&str, &str); 1] = [("API_SECRET", SECRET)];

// As in the document.
const HEALTH: &str = "
curl http://<HOST_IP>:8080/health
";
const LIST: &str = r#"
curl http://<HOST_IP>:8080/api/containers \
  -H "Authorization: Bearer $API_SECRET"
"#;
const INSPECT: &str = r#"
curl http://<HOST_IP>:8080/api/containers/<container_id> \
  -H "Authorization: Bearer $API_SECRET"
"#;
const CREATE: &str = r#"
curl -X POST http://<HOST_IP>:8080/api/containers \
  -H "Authorization: Bearer $API_SECRET" \
  -H "Content-Type: application/json" \
  -d '{
    "name": "my-project",
    "image": "node:24-slim",
    "ports": [3000],
    "volumeName": "owner-repo-node_modules"
  }'
"#;
const SETUP: &str = r#"
curl -X POST http://<HOST_IP>:8080/api/containers/<container_id>/setup \
  -H "Authorization: Bearer $API_SECRET" \
  -H "Content-Type: application/json" \
  -d '{
    "repo": "owner/repo",
    "branch": "main",
    "githubToken": "gho_...",
    "callbackUrl": "https://your-convex.convex.site/docker-status",
    "callbackSecret": "secret123",
    "hasMainImage": false,
    "buildMainImage": true,
    "envVars": {"NODE_ENV": "development"}
  }'
"#;
const DESTROY: &str = r#"
curl -X DELETE http://<HOST_IP>:8080/api/containers/<container_id> \
  -H "Authorization: Bearer $API_SECRET"
"#;
const EXEC: &str = r#"
curl -X POST http://<HOST_IP>:8080/api/containers/<container_id>/exec \
  -H "Authorization: Bearer $API_SECRET" \
  -H "Content-Type: application/json" \
  -d '{"command": "ls -la /app", "timeout": 60000}'
"#;

/// Runs a line of the document, with what stands for the host and the container filled in.
fn run(w: &World, line: &str, id: &str) -> Answer {
    w.curl(&line.replace("<HOST_IP>", "localhost").replace("<container_id>", id))
}

/// A create of that body.
pub fn make(w: &World, body: &Value) -> Answer {
    w.curl(&line(body))
}

pub fn line(body: &Value) -> String {
    format!(r#"curl -X POST http://localhost:8080/api/containers -H "Authorization: Bearer $API_SECRET" -d '{body}'"#)
}

fn exec(w: &World, id: &str, body: &Value) -> Answer {
    w.curl(&format!(
        r#"curl -X POST http://localhost:8080/api/containers/{id}/exec -H "Authorization: Bearer $API_SECRET" -d '{body}'"#
    ))
}

pub fn list(w: &World) -> Vec<Value> {
    run(w, LIST, "").good().as_array().unwrap().clone()
}

pub fn destroy(w: &World, id: &str) -> Answer {
    run(w, DESTROY, id)
}

pub fn count(w: &World) -> u64 {
    run(w, HEALTH, "").good()["containerCount"].as_u64().unwrap()
}

#[test]
fn the_document_s_lines_run_as_they_stand() {
    let Some(w) = World::new(CONFIG, &ENV) else { return };
    let health = run(&w, HEALTH, "").good();
    assert_eq!((&health["status"], &health["containerCount"]), (&json!("ok"), &json!(0)));
    assert!(health["uptime"].as_f64().unwrap() > 0.0 && health["uptime"].to_string().contains('.'));
    assert!(list(&w).is_empty());

    let made = run(&w, CREATE, "");
    assert_eq!(
        (made.status, made.json()["name"].as_str(), made.json()["hostPort"].as_u64()),
        (201, Some("my-project"), Some(10_000))
    );
    let id = made.good()["id"].as_str().unwrap().to_owned();
    assert!(id.len() == 8 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{id}");
    assert_eq!(count(&w), 1);

    let all = list(&w);
    let one = &all[0];
    assert_eq!((all.len(), one["id"].as_str(), one["state"].as_str()), (1, Some(&*id), Some("running")));
    assert!(one["status"].as_str().unwrap().starts_with("Up ") && one["ports"][0]["PublicPort"] == 10_000, "{one}");
    let whole = run(&w, INSPECT, &id).good();
    assert_eq!((whole["name"].as_str(), &whole["state"]["Running"]), (Some("my-project"), &json!(true)));
    assert!(whole["created"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());

    let done = run(&w, EXEC, &id).good();
    assert_eq!((&done["exitCode"], &done["stderr"]), (&json!(0), &json!("")));
    assert!(done["stdout"].as_str().unwrap().contains("node_modules"), "{done}");
    let done = exec(&w, &id, &json!({"command": "pwd; echo bad >&2; exit 3"})).good();
    assert_eq!(done, json!({"exitCode": 3, "stdout": "/app\n", "stderr": "bad\n"}));
    assert!(exec(&w, &id, &json!({"command": "sleep 100", "timeout": 200})).refused(500).contains("200 ms"));

    // A server in it is reached at its host port.
    exec(&w, &id, &json!({"command": "echo served > is && busybox httpd -p 3000 -h /app"})).good();
    assert_eq!(get(10_000, "/is"), "served\n");

    run(&w, SETUP, &id).refused(501);
    assert_eq!(run(&w, DESTROY, &id).good(), json!({"success": true}));
    for line in [INSPECT, DESTROY, EXEC, SETUP] {
        assert!(run(&w, line, &id).refused(404).contains(&id));
    }
    assert_eq!((count(&w), w.pods().len()), (0, 0));
}

#[test]
fn ports_are_recycled_and_volumes_are_shared() {
    let Some(w) = World::new(CONFIG, &ENV) else { return };
    let port = |body: Value| {
        let made = make(&w, &body).good();
        (made["id"].as_str().unwrap().to_owned(), made["hostPort"].as_u64())
    };
    let (a, at) = port(json!({"name": "a", "volumeName": "modules"}));
    assert_eq!(at, Some(10_000));
    let (b, at) = port(json!({"name": "b", "ports": [3000, 4000], "volumeName": "modules"}));
    assert_eq!(at, Some(10_001));
    let (_, at) = port(json!({"name": "c", "pool": true}));
    assert_eq!((at, count(&w)), (Some(10_003), 3));
    let hosts: Vec<u16> = w.pod("b").ports.iter().map(|p| p.host).collect();
    assert_eq!(hosts, [10_001, 10_002]);
    exec(&w, &a, &json!({"command": "echo shared > node_modules/x"})).good();
    assert_eq!(exec(&w, &b, &json!({"command": "cat /app/node_modules/x"})).good()["stdout"], "shared\n");
    destroy(&w, &a).good();
    assert_eq!(port(json!({"name": "d", "volumeName": "modules"})).1, Some(10_000));
    // The lowest two side by side are above; what was installed is still there for the next.
    assert_eq!(port(json!({"name": "e", "ports": [1, 2]})).1, Some(10_004));
    assert_eq!(w.exec("d", "cat /app/node_modules/x"), "shared\n");
    assert_eq!(make(&w, &json!({"name": "f", "ports": []})).good()["hostPort"], Value::Null);
}

#[test]
fn a_taken_name_is_told_with_the_id_that_has_it() {
    let Some(w) = World::new(CONFIG, &ENV) else { return };
    let both: Vec<_> = (0..2).map(|_| w.begin(&line(&json!({"name": "same"})))).collect();
    let mut answers: Vec<_> = both.into_iter().map(|c| answered(c).unwrap()).collect();
    answers.sort_by_key(|a| a.status);
    let id = answers[0].good()["id"].as_str().unwrap().to_owned();
    let text = answers[1].refused(409);
    // The client takes the id out of the text, deletes it, and asks again.
    let told = text.split("by container \"").nth(1).and_then(|t| t.split('"').next());
    assert_eq!(told, Some(&*id), "{text}");
    destroy(&w, &id).good();
    make(&w, &json!({"name": "same"})).good();
    assert!(make(&w, &json!({"name": "x", "image": "nosuch:1"})).refused(404).contains("No such image"));
    assert_eq!((count(&w), w.pods().len()), (1, 1));
}

#[test]
fn logs_come_as_events_without_names() {
    let Some(w) = World::new(CONFIG, &ENV) else { return };
    let made = make(&w, &json!({"name": "logs"})).good();
    let id = made["id"].as_str().unwrap();
    let begun = jiff::Timestamp::now().as_millisecond();
    let follow =
        |by: &str| w.prints(&format!("curl -N -i --max-time 2 'http://localhost:8080/api/containers/{id}/logs{by}"));
    for by in [format!("?token={SECRET}'"), "' -H \"Authorization: Bearer $API_SECRET\"".to_owned()] {
        let printed = follow(&by);
        assert!(printed.starts_with("HTTP/1.1 200 "), "{printed}");
        assert!(
            printed.contains("content-type: text/event-stream") && printed.contains("access-control-allow-origin: *")
        );
        let data: Vec<Value> = printed
            .lines()
            .filter_map(|l| l.strip_prefix("data: "))
            .map(|d| serde_json::from_str(d).unwrap())
            .collect();
        assert_eq!((data.len(), data[0]["line"].as_str()), (1, Some("[dev] ready on port 3000")), "{printed}");
        let at = data[0]["timestamp"].as_i64().unwrap();
        assert!((at - begun).abs() < 60_000 && data[0].as_object().unwrap().len() == 2);
    }
    assert!(follow("'").contains(" 401 ") && follow("?token=x'").contains(" 401 "));
    // It ends with the container.
    let open =
        w.begin(&format!("curl -N --max-time 60 'http://localhost:8080/api/containers/{id}/logs?token={SECRET}'"));
    std::thread::sleep(Duration::from_millis(300));
    destroy(&w, id).good();
    let answer = answered(open).unwrap();
    assert!(answer.status == 200 && answer.text.contains("ready on port"), "{answer:?}");
    assert!(!w.daemon.log().contains(SECRET));
}

#[test]
fn who_has_no_secret_is_refused_and_pages_may_ask() {
    let Some(w) = World::new(CONFIG, &ENV) else { return };
    for header in [
        "",
        "-H 'Authorization: Bearer x'",
        "-H 'Authorization: Basic eDp5'",
        &format!("-H 'Authorization: Bearer {SECRET}0'"),
    ] {
        for path in ["/api/containers", "/api/containers/abc12345", "/api/nosuch", "/nosuch"] {
            w.curl(&format!("curl http://localhost:8080{path} {header}")).refused(401);
        }
    }
    // By query only where a browser can't do otherwise.
    w.curl(&format!("curl 'http://localhost:8080/api/containers?token={SECRET}'")).refused(401);
    let page = w.prints("curl -i http://localhost:8080/health -H 'Origin: https://app.example'");
    assert!(page.contains("access-control-allow-origin: *"), "{page}");
    let asks = w.prints(
        "curl -i -X OPTIONS http://localhost:8080/api/containers -H 'Origin: https://app.example' \
         -H 'Access-Control-Request-Method: POST' -H 'Access-Control-Request-Headers: authorization'",
    );
    assert!(
        asks.starts_with("HTTP/1.1 204 ") && asks.contains("access-control-allow-headers: authorization"),
        "{asks}"
    );
}

#[test]
fn wrong_requests_are_refused_and_change_nothing() {
    let Some(w) = World::new(CONFIG, &ENV) else { return };
    let asked = |method: &str, path: &str, more: &str| {
        w.curl(&format!(
            r#"curl -X {method} --path-as-is "http://localhost:8080{path}" -H "Authorization: Bearer $API_SECRET" {more}"#
        ))
    };
    for body in [
        "",
        "{}",
        "[]",
        "null",
        "x",
        "{",
        r#"{"name":1}"#,
        r#"{"name":""}"#,
        r#"{"name":"../x"}"#,
        r#"{"name":"a/b"}"#,
        r#"{"name":"a","ports":3000}"#,
        r#"{"name":"a","ports":["3000"]}"#,
        r#"{"name":"a","ports":[70000]}"#,
        r#"{"name":"a","ports":[0]}"#,
        r#"{"name":"a","ports":[80,80]}"#,
        r#"{"name":"a","volumeName":"/etc"}"#,
        r#"{"name":"a","volumeName":"../state"}"#,
        r#"{"name":"a","image":"..//x"}"#,
        r#"{"name":"a","image":7}"#,
        r#"{"name":"a","pool":"yes"}"#,
    ] {
        asked("POST", "/api/containers", &format!("-d '{body}'")).refused(400);
    }
    let id = make(&w, &json!({"name": "a"})).good()["id"].as_str().unwrap().to_owned();
    let exec = format!("/api/containers/{id}/exec");
    for body in [
        "",
        "[]",
        r#"{"command":""}"#,
        r#"{"command":["ls"]}"#,
        r#"{"command":"ls","timeout":0}"#,
        r#"{"command":"ls","timeout":-1}"#,
        r#"{"command":"ls","timeout":"1"}"#,
        r#"{"command":"ls","timeout":1e30}"#,
        r#"{"command":"a\u0000b"}"#,
    ] {
        asked("POST", &exec, &format!("-d '{body}'")).refused(400);
    }
    let huge = r#"--data-binary @<(head -c 3000000 /dev/zero) -H 'Expect:'"#;
    for path in [exec.as_str(), "/api/containers"] {
        asked("POST", path, huge).refused(413);
    }
    for (method, path) in [("PUT", "/api/containers"), ("POST", "/health"), ("GET", exec.as_str())] {
        asked(method, path, "").refused(405);
    }
    for path in
        ["/api/containers/", "/api/containers/a/b", "/api/containers/..%2f..", "/api/containers/zzzzzzzz", "/api", "/"]
    {
        asked("GET", path, "").refused(404);
    }
    // Not by its name, nor by less than its id: that could be another's.
    for other in ["a", &id[..7]] {
        asked("DELETE", &format!("/api/containers/{other}"), "").refused(404);
    }
    until("the container is as it was", || count(&w) == 1);
    assert_eq!(w.pods().len(), 1);
}

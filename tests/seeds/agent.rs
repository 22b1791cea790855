//! The pod agent.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;

use crate::daemon::{get, try_get};
use crate::world::{World, answered, content};

pub const CONFIG: &str = "
[[listen]]
address = '127.0.0.1:8080'
surface = 'agent'
[agent]
pods = 'DIR/pods'
[agent.images]
'ubuntu:22.04' = 'test'
";

/// As in the document.
const CREATE_TEST_POD: &str = r#"
POD_ID="test-$(date +%s)"

curl -X POST http://localhost:8080/create-pod \
  -H "Content-Type: application/json" \
  -d '{
    "podId": "'$POD_ID'",
    "config": {
      "tier": "dev.small",
      "cpu": "0.5",
      "memory": "1g"
    }
  }'

echo "Created pod: $POD_ID"
"#;
const SNAPSHOT: &str = "
curl -X POST http://localhost:8080/snapshot/test-pod-123
";
const STOP: &str = r#"
curl -X POST http://localhost:8080/stop-pod \
  -d '{"podId":"test-pod-123"}'
"#;
const RESTORE: &str = r#"
curl -X POST http://localhost:8080/restore-pod \
  -d '{"podId":"test-pod-123","snapshotId":"snap-123"}'
"#;

pub fn create(id: &str) -> String {
    format!(
        r#"curl -X POST http://localhost:8080/create-pod -H "Content-Type: application/json" -d '{{"podId": "{id}", "config": {{"tier": "dev.small", "cpu": "0.5", "memory": "256m"}}}}'"#
    )
}

fn hosts(w: &World, name: &str) -> Vec<(u16, u16)> {
    w.pod(name).ports.iter().map(|p| (p.pod, p.host)).collect()
}

#[test]
fn the_document_s_lines_run_as_they_stand() {
    let Some(w) = World::new(CONFIG, &[]) else { return };
    assert_eq!(w.curl("curl http://localhost:8080/health").good(), serde_json::json!({"status": "healthy"}));

    let printed = w.prints(CREATE_TEST_POD);
    let (answer, line) = printed.trim_end().rsplit_once('\n').unwrap_or_else(|| panic!("{printed:?}"));
    // What curl writes after its answer stands before what the script says.
    let line = line.split("Created").last().unwrap();
    let id = line.strip_prefix(" pod: ").unwrap().to_owned();
    let made = crate::world::Answer { status: 200, media: "application/json".into(), text: answer.to_owned() }.good();
    assert_eq!(made["success"], true);
    let name = format!("pod-{id}");
    let pod = w.pod(&name);
    assert_eq!((made["containerId"].as_str(), made["internalIp"].as_str()), (Some(&*pod.id), Some(&*pod.address)));
    assert_eq!((pod.resources.cpus, pod.resources.memory, pod.image.as_str()), (0.5, 1 << 30, "test:latest"));
    assert_eq!(hosts(&w, &name), [(3000, 30_000), (3001, 30_001), (8080, 30_002)]);

    // The host reaches any of its ports by its address, and three by its own.
    for port in [3000, 3001, 8080, 5555] {
        w.exec(
            &name,
            &format!("mkdir /tmp/{port} && echo {port} > /tmp/{port}/is && busybox httpd -p {port} -h /tmp/{port}"),
        );
    }
    let inside: SocketAddr = format!("{}:5555", pod.address).parse().unwrap();
    assert_eq!(try_get(inside, "/is").unwrap(), "5555\n");
    for (host, port) in [(30_000, "3000\n"), (30_001, "3001\n"), (30_002, "8080\n")] {
        assert_eq!(get(host, "/is"), port);
    }

    // Its directory is seen on both sides.
    w.exec(&name, "echo inside > /workspace/a");
    let directory = w.path("pods").join(&id);
    assert_eq!(std::fs::read_to_string(directory.join("a")).unwrap(), "inside\n");
    std::fs::write(directory.join("b"), "outside").unwrap();
    assert_eq!(w.exec(&name, "cat /workspace/b"), "outside");

    // The next has the next three ports, and the lowest ones go to who comes after they were given back.
    w.curl(&create("test-pod-123")).good();
    assert_eq!(hosts(&w, "pod-test-pod-123")[0], (3000, 30_003));
    assert_eq!(w.post("/delete-pod", &format!(r#"{{"podId":"{id}"}}"#)).good(), serde_json::json!({"success": true}));
    assert!(!directory.exists());
    w.curl(&create("third")).good();
    assert_eq!(hosts(&w, "pod-third")[0], (3000, 30_000));

    snapshot_stop_restore(&w);
}

fn snapshot_stop_restore(w: &World) {
    let (name, directory) = ("pod-test-pod-123", w.path("pods/test-pod-123"));
    w.exec(name, "cd /workspace && echo one > file && chown 1000:50 file && mkdir -p src && echo x > src/deep && ln -s file link && ln file hard");
    w.exec(name, "echo kept > /tmp/root; sleep 4321 >/dev/null 2>&1 & echo $! > /tmp/pid");
    let before = (content(&directory), w.pod(name));
    let taken = w.curl(SNAPSHOT).good();
    assert_eq!(taken["success"], true);
    let snapshot = taken["snapshotId"].as_str().unwrap();

    w.exec(
        name,
        "cd /workspace && echo two > file && rm -r src link && echo new > new; rm /tmp/root; kill $(cat /tmp/pid)",
    );
    let changed = content(&directory);
    assert_ne!(changed, before.0);
    for _ in 0..2 {
        assert_eq!(w.curl(STOP).good(), serde_json::json!({"success": true}));
    }
    assert_eq!(w.pod(name).state, "stopped");

    // A snapshot that is not there changes nothing.
    assert!(w.curl(RESTORE).refused(400).contains("snap-123"));
    assert_eq!((w.pod(name).state.as_str(), content(&directory)), ("stopped", changed));

    assert_eq!(w.curl(&RESTORE.replace("snap-123", snapshot)).good(), serde_json::json!({"success": true}));
    let after = w.pod(name);
    assert_eq!((&after.id, &after.ports, &after.address), (&before.1.id, &before.1.ports, &before.1.address));
    assert_eq!((after.state.as_str(), content(&directory)), ("running", before.0));
    assert_eq!(
        w.exec(name, "cat /workspace/src/deep /workspace/link /tmp/root; kill -0 $(cat /tmp/pid) && echo runs"),
        "x\none\nkept\nruns\n"
    );
    let (file, hard) = (directory.join("file").metadata().unwrap(), directory.join("hard").metadata().unwrap());
    assert_eq!((file.uid(), file.gid(), file.ino()), (1000, 50, hard.ino()));
    // Nothing lies beside it, and what is written is seen on both sides.
    assert_eq!(content(&w.path("pods")).len(), 2);
    w.exec(name, "echo three > /workspace/file");
    assert_eq!(std::fs::read_to_string(directory.join("hard")).unwrap(), "three\n");
    // The same once more, from a running pod.
    w.curl(&RESTORE.replace("snap-123", snapshot)).good();
    assert_eq!(std::fs::read_to_string(directory.join("hard")).unwrap(), "one\n");
}

#[test]
fn wrong_requests_are_refused_and_change_nothing() {
    let Some(w) = World::new(CONFIG, &[]) else { return };
    std::fs::create_dir_all(w.path("pods/kept")).unwrap();
    std::fs::write(w.path("secret"), "mine").unwrap();
    std::fs::write(w.path("pods/kept/file"), "kept").unwrap();
    for path in ["/create-pod", "/stop-pod", "/delete-pod", "/restore-pod"] {
        for body in [
            "",
            "{}",
            "[]",
            "null",
            "x",
            "{",
            r#"{"podId":null}"#,
            r#"{"podId":[]}"#,
            r#"{"podId":{"a":1}}"#,
            r#"{"podId":true}"#,
            r#"{"podId":""}"#,
            r#"{"podId":"."}"#,
            r#"{"podId":".."}"#,
            r#"{"podId":"../x"}"#,
            r#"{"podId":"../secret"}"#,
            r#"{"podId":"a/../../secret"}"#,
            r#"{"podId":"/etc"}"#,
            r#"{"podId":"a b"}"#,
            r#"{"podId":"a\u0000"}"#,
            r#"{"podId":"$(id)"}"#,
            r#"{"podId":"-rf"}"#,
        ] {
            w.post(path, body).refused(400);
        }
        w.curl(&format!("head -c 100 /dev/urandom | curl -X POST http://localhost:8080{path} --data-binary @-"))
            .refused(400);
        let huge = format!(
            r#"head -c 3000000 /dev/zero | tr '\0' ' ' | curl -X POST http://localhost:8080{path} -H 'Expect:' --data-binary @-"#
        );
        w.curl(&huge).refused(413);
        w.curl(&format!("curl http://localhost:8080{path}")).refused(405);
    }
    for config in [
        r#"{"tier":"huge"}"#,
        r#"{"tier":1}"#,
        r#"{"cpu":"many"}"#,
        r#"{"cpu":"-1"}"#,
        r#"{"cpu":"NaN"}"#,
        r#"{"memory":"1k"}"#,
        r#"{"memory":"x"}"#,
        r#"{"memory":{}}"#,
        r#""dev.small""#,
    ] {
        w.post("/create-pod", &format!(r#"{{"podId":"a","config":{config}}}"#)).refused(400);
    }
    for path in ["/snapshot/..%2Fx", "/snapshot/%00", "/snapshot/%ff", "/snapshot/a%20b"] {
        w.curl(&format!("curl -X POST http://localhost:8080{path}")).refused(400);
    }
    for path in ["/snapshot/", "/snapshot/a/b", "/nosuch", "/", "/v1/pods", "/snapshot/../../etc"] {
        w.curl(&format!("curl --path-as-is -X POST http://localhost:8080{path}")).refused(404);
    }
    for (path, body) in [("/stop-pod", r#"{"podId":"no"}"#), ("/restore-pod", r#"{"podId":"no","snapshotId":"x"}"#)] {
        assert!(w.post(path, body).refused(500).contains("no"));
    }
    w.curl("curl -X POST http://localhost:8080/snapshot/no").refused(500);
    assert!(w.pods().is_empty());
    assert_eq!(content(&w.path("pods")), [("kept".to_owned(), "directory".to_owned())]);
    assert_eq!(
        (std::fs::read_to_string(w.path("secret")).unwrap(), content(&w.path("pods/kept")).len()),
        ("mine".into(), 1)
    );

    // A pod of another's making is not the agent's.
    let other = torpor::api::types::CreatePod { ports: Vec::new(), ..crate::daemon::script("pod-other", "sleep 1000") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(w.daemon.client.create_pod(&other)).unwrap();
    for path in ["/stop-pod", "/delete-pod"] {
        w.post(path, r#"{"podId":"other"}"#).refused(500);
    }
    w.curl(&create("other")).refused(500);
    assert_eq!((w.pod("pod-other").state.as_str(), w.path("pods/other").exists()), ("running", false));

    // Numbers, fields that nobody knows, and deleting what is not there are fine.
    w.post("/create-pod", r#"{"podId":7,"config":{"cpu":0.5,"memory":268435456,"disk":"?"},"more":[]}"#).good();
    assert_eq!(w.pod("pod-7").resources.memory, 256 << 20);
    w.post("/delete-pod", r#"{"podId":"7"}"#).good();
    w.post("/delete-pod", r#"{"podId":"7"}"#).good();
}

#[test]
fn two_clients_at_once_get_one_pod() {
    let Some(w) = World::new(CONFIG, &[]) else { return };
    for _ in 0..3 {
        let both: Vec<_> = (0..2).map(|_| w.begin(&create("same"))).collect();
        let mut answers: Vec<_> = both.into_iter().map(|c| answered(c).unwrap()).collect();
        answers.sort_by_key(|a| a.status);
        answers[0].good();
        assert!(answers[1].refused(500).contains("taken"));
        w.exec("pod-same", "echo here > /workspace/a");
        assert_eq!(content(&w.path("pods/same")).len(), 1);
        // One deletes while the other makes it anew: either is a pod with a directory, or neither is there.
        let delete = w.begin(r#"curl -X POST http://localhost:8080/delete-pod -d '{"podId":"same"}'"#);
        let make = w.begin(&create("same"));
        answered(delete).unwrap().good();
        let made = answered(make).unwrap();
        let there = w.pods().len() == 1;
        assert_eq!((made.status == 200, w.path("pods/same").exists()), (there, there), "{made:?}");
        if there {
            w.exec("pod-same", "echo here > /workspace/a");
            assert_eq!(content(&w.path("pods/same")).len(), 1);
            w.post("/delete-pod", r#"{"podId":"same"}"#).good();
        }
    }
}

#[test]
fn with_a_key_only_who_has_it_is_heard() {
    let Some(w) = World::new(CONFIG, &[("POD_HOST_API_KEY", "development-key")]) else { return };
    let stop =
        |header: &str| w.curl(&format!(r#"curl -X POST http://localhost:8080/stop-pod {header} -d '{{"podId":"x"}}'"#));
    w.curl("curl http://localhost:8080/health").good();
    for header in ["-H 'Authorization: Bearer development-key'", "-H 'X-API-Key: development-key'"] {
        assert!(stop(header).refused(500).contains("no pod x"));
    }
    for header in [
        "",
        "-H 'Authorization: Bearer development-ke'",
        "-H 'Authorization: Bearer development-keyy'",
        "-H 'Authorization: development-key'",
        "-H 'X-API-Key: Development-key'",
        "-H 'X-API-Key;'",
    ] {
        stop(header).refused(401);
    }
    w.curl("curl -X POST 'http://localhost:8080/stop-pod?token=development-key'").refused(401);
    assert!(!w.daemon.log().contains("development-key"));
}

//! Names, paths, annotations and words in requests that want to be more than that.

use serde_json::{Value, json};

use crate::canary::Canary;
use crate::daemon::{self, Daemon};

/// Sends JSON as it is; gives status and body.
fn send(d: &Daemon, method: &str, path: &str, body: &str) -> (u16, Value) {
    use std::io::{Read, Write};
    let mut s = std::os::unix::net::UnixStream::connect(&d.socket).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let _ = s.write_all(head.as_bytes());
    let _ = s.write_all(body.as_bytes());
    let mut bytes = Vec::new();
    s.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap_or_default())
}

/// Texts that are names to nobody.
fn names(canary: &str) -> Vec<String> {
    let mut all: Vec<String> = [
        "",
        " ",
        ".",
        "..",
        "../x",
        "../../etc/passwd",
        "/etc/passwd",
        "a/b",
        "a/../b",
        "a\\b",
        "..\\..\\x",
        "a\0b",
        "a\nb",
        "a\u{1b}[2Jb",
        "\u{202e}x",
        "ä",
        "%2e%2e%2f",
        "-rf",
        "--help",
        "~",
        "$HOME",
        "*",
        "a b",
        "a;b",
        "a|b",
        "a&b",
        "a'b",
        "a\"b",
        "a:b:c:d",
        "con\u{0}",
        "\u{feff}a",
        "a\u{200b}",
        "{}",
        "[]",
        "null\0",
    ]
    .map(str::to_owned)
    .into();
    all.extend([format!("$(touch {canary}/pwn)"), format!("`touch {canary}/pwn`"), format!("x;touch {canary}/pwn")]);
    all.extend(["x".repeat(64), "x".repeat(5000), format!("{}/pwn", canary), "../".repeat(40) + canary]);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_is_a_path_or_a_command() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    let canary = Canary::new(d.dir.join("canary"));
    d.import("test").await;
    let all = names(&canary.dir());
    let base = || json!({"image": "test", "command": ["true"], "start": false, "name": "made"});
    let mut tried = 0;
    let mut check = |what: &str, body: &Value, may_be: &dyn Fn(&str) -> bool, word: &str| {
        tried += 1;
        let (status, answer) = send(&d, "POST", "/v1/pods", &body.to_string());
        if status == 201 {
            assert!(may_be(word), "{what} {word:?} was taken: {answer}");
            send(&d, "DELETE", "/v1/pods/made?force=true", "");
            send(&d, "DELETE", &format!("/v1/pods/{}?force=true", answer["id"].as_str().unwrap()), "");
        } else {
            let code = answer["code"].as_str().unwrap_or_default();
            assert!(matches!(code, "invalid_request" | "not_found"), "{what} {word:?}: {status} {answer}");
            let detail = answer["detail"].as_str().unwrap();
            assert!(detail.len() < 2000 && !detail.chars().any(char::is_control), "{what} {word:?}: {detail:?}");
        }
        canary.check(what);
    };
    let never = |_: &str| false;
    let free = |s: &str| !s.contains('\0');
    for word in &all {
        for (key, may_be) in [
            ("name", &never as &dyn Fn(&str) -> bool),
            ("image", &never),
            ("tier", &never),
            ("user", &|s: &str| crate::requests::user(s)),
            ("hostname", &|s: &str| s == "x".repeat(63) || s == "null"),
            ("workingDir", &|s: &str| s.starts_with('/') && !s.contains('\0')),
        ] {
            // A name of 63 letters is a name.
            let mut body = base();
            body[key] = word.as_str().into();
            check(key, &body, may_be, word);
        }
        let with = |key: &str, value: Value| {
            let mut body = base();
            body[key] = value;
            body
        };
        check("volume", &with("volumes", json!([{"source": word, "target": "/v"}])), &|s| s.is_empty(), word);
        check(
            "target",
            &with("volumes", json!([{"source": "v", "target": word}])),
            &|s| s.starts_with('/') && !s.contains(['\0', '\n']) && !s.contains(".."),
            word,
        );
        check("variable", &with("env", json!({word: "x"})), &|s| !s.is_empty() && free(s), word);
        check("value", &with("env", json!({"A": word})), &free, word);
        check("label", &with("labels", json!({word: word})), &|s| (1..=128).contains(&s.len()), word);
        check(
            "probe",
            &with("ready", json!({"http": {"port": 80, "path": word}})),
            &|s| s.starts_with('/') && !s.contains(' '),
            word,
        );
    }
    // Nor in paths of the API.
    let escape = |s: &str| s.bytes().map(|b| format!("%{b:02x}")).collect::<String>();
    for word in all.iter().filter(|w| !w.is_empty() && w.len() < 2000) {
        for (method, path) in [
            ("GET", "/v1/pods/{}"),
            ("GET", "/v1/pods/{}/logs"),
            ("POST", "/v1/pods/{}/start"),
            ("DELETE", "/v1/pods/{}?force=true"),
            ("GET", "/v1/snapshots/{}"),
            ("DELETE", "/v1/snapshots/{}"),
            ("POST", "/v1/snapshots/{}/restore"),
            ("GET", "/v1/images/{}"),
            ("DELETE", "/v1/images/{}"),
        ] {
            tried += 1;
            let (status, answer) = send(&d, method, &path.replace("{}", &escape(word)), "");
            assert!(matches!(status, 400 | 404 | 405), "{method} {path} {word:?}: {status} {answer}");
            canary.check(path);
        }
        let (status, answer) = send(&d, "POST", &format!("/v1/images?name={}", escape(word)), "x");
        assert!(matches!(status, 400 | 422), "image {word:?}: {status} {answer}");
    }
    eprintln!("{tried} words tried");
    assert!(d.client.pods().await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(d.dir.join("state/pods")).unwrap().count(), 0);
    for entry in std::fs::read_dir(d.dir.join("state/volumes")).unwrap() {
        assert_eq!(entry.unwrap().file_name(), "v");
    }
    assert_eq!(std::fs::read_dir(d.dir.join("state/tmp")).unwrap().count(), 0);
}

pub fn user(s: &str) -> bool {
    torpor::model::is_user(s)
}

/// No key of a runtime, an orchestrator or a device interface is passed on: it is not even known.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_writes_into_the_bundle() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    let canary = Canary::new(d.dir.join("canary"));
    d.import("test").await;
    for (key, value) in [
        ("annotations", json!({"dev.gvisor.spec.mount.x.source": canary.dir()})),
        ("annotations", json!({"dev.gvisor.internal.checkpoint.path": canary.dir()})),
        ("annotations", json!({"io.kubernetes.cri.sandbox-log": "binary:///bin/sh"})),
        ("annotations", json!({"cdi.k8s.io/x": "vendor/device=all"})),
        ("mounts", json!([{"source": "/", "destination": "/host", "type": "bind"}])),
        ("hooks", json!({"prestart": [{"path": "/bin/sh"}]})),
        ("privileged", json!(true)),
        ("capabilities", json!(["CAP_SYS_ADMIN"])),
        ("devices", json!(["/dev/sda"])),
        ("network", json!("host")),
        ("namespaces", json!([])),
        ("runtime", json!("/bin/sh")),
        ("args", json!(["--network=host"])),
        ("cgroupParent", json!("/")),
        ("securityOpt", json!(["seccomp=unconfined"])),
        ("__proto__", json!({"start": true})),
        ("Name", json!("twice")),
    ] {
        let mut body = json!({"image": "test", "command": ["true"], "name": "x"});
        body[key] = value;
        let (status, answer) = send(&d, "POST", "/v1/pods", &body.to_string());
        assert_eq!((status, answer["code"].as_str()), (400, Some("invalid_request")), "{key}: {answer}");
    }
    let (status, _) = send(&d, "POST", "/v1/pods", r#"{"image":"test","name":"a","name":"b","command":["true"]}"#);
    assert_eq!(status, 400, "a key twice");
    // What is taken gets to init by its channel, never into a file of the engine's.
    let word = "dev.gvisor.flag.debug";
    let body = json!({
        "image": "test", "name": "said", "hostname": "host-of-it", "command": ["sh", "-c", "while :; do sleep 1; done", word],
        "env": {word: word}, "labels": {"dev.gvisor.spec.mount.x.source": "/", "io.kubernetes.cri.container-type": "sandbox"},
        "workingDir": "/home/ann", "user": "ann",
    });
    let (status, answer) = send(&d, "POST", "/v1/pods", &body.to_string());
    assert_eq!(status, 201, "{answer}");
    let id = answer["id"].as_str().unwrap();
    let bundle = std::fs::read_to_string(format!("/run/torpor/{}/pods/{id}-1/config.json", d.tag)).unwrap();
    let spec: Value = serde_json::from_str(&bundle).unwrap();
    assert!(!bundle.contains("gvisor") && !bundle.contains("kubernetes") && !bundle.contains("/home/ann"), "{bundle}");
    assert_eq!(spec["process"]["args"], json!(["/.torpor/init"]));
    assert!(spec.get("annotations").is_none_or(Value::is_null) && spec.get("hooks").is_none_or(Value::is_null));
    let pid = answer["sandboxPid"].as_u64().unwrap();
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    assert!(!line.contains(word) && !line.contains("allow-flag-override") && !line.contains("TESTONLY"), "{line}");
    canary.check("a bundle");
}

//! What the documents have people do on the host: docker's lines, each with torpor's in its place, and the secret's rotation.

use futures::StreamExt;
use serde_json::json;

use crate::agent;
use crate::containers::{CONFIG, ENV, count, list, make};
use crate::terminal;
use crate::world::{SECRET, World};

/// Lines that must all succeed; what they print.
fn lines(w: &World, script: &str) -> String {
    let printed = w.prints(&format!("set -e -o pipefail\n{script}\necho all of it"));
    assert!(printed.trim_end().ends_with("all of it"), "{script}: {printed}\n{}", w.daemon.log());
    printed
}

#[test]
fn docker_s_lines_of_the_container_manager() {
    let Some(w) = World::new(CONFIG, &ENV) else { return };
    for name in ["one", "two"] {
        make(&w, &json!({"name": name})).good();
    }
    assert!(lines(&w, "torpor doctor || true; torpor version").contains("torpord"));
    let shown = lines(&w, "torpor ps");
    assert!(shown.contains("one") && shown.contains("two"), "{shown}");
    assert!(lines(&w, "torpor system df").contains("Images"));
    // It is used, and it is younger than that.
    lines(&w, "torpor image prune -a --filter 'until=168h'");
    lines(&w, "torpor system prune -a");
    assert_eq!(count(&w), 2);
    make(&w, &json!({"name": "three"})).good();
    assert_eq!(lines(&w, "torpor rm -f $(torpor ps -aq)").lines().count(), 4);
    assert_eq!((count(&w), w.pods().len()), (0, 0));
    lines(&w, "torpor image prune -a --filter 'until=168h'");
    make(&w, &json!({"name": "four"})).good();
    lines(&w, "torpor rm -f $(torpor ps -aq)");
    assert!(lines(&w, "torpor system prune -a").contains("Removed images:\ntest"));
    assert!(make(&w, &json!({"name": "five"})).refused(404).contains("No such image"));
}

#[test]
fn docker_s_lines_of_the_pod_agent() {
    let Some(w) = World::new(
        &agent::CONFIG.replace("[agent]\n", "[agent]\ncommand = ['sh', '-c', 'echo begun; exec sleep infinity']\n"),
        &[],
    ) else {
        return;
    };
    w.curl(&agent::create("x")).good();
    // A pod is made before its command has said a word.
    while !lines(&w, "torpor logs pod-x").contains("begun") {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(lines(&w, "torpor exec pod-x sh -c 'echo from $(hostname)'").contains("from pod-x"));
    assert!(lines(&w, "torpor stats --no-stream pod-x").contains("pod-x"));
    // On a terminal, as people type it.
    let shell = r#"echo 'echo sum-$((40+2)); exit' | script -qec "torpor exec -it pod-x sh" /dev/null"#;
    assert!(lines(&w, shell).contains("sum-42"));
    w.post("/stop-pod", r#"{"podId":"x"}"#).good();
    assert!(lines(&w, "torpor ps -a").contains("stopped"));
}

/// As in the document.
const ROTATE: &str = r#"
NEW_SECRET=$(openssl rand -hex 32)
echo "API_SECRET=$NEW_SECRET" > /opt/docker-manager/.env
systemctl restart docker-manager
echo "New secret: $NEW_SECRET"
"#;

#[test]
fn the_secret_is_rotated_as_the_document_does() {
    let Some(mut w) = World::new(CONFIG, &ENV) else { return };
    let id = make(&w, &json!({"name": "kept"})).good()["id"].as_str().unwrap().to_owned();
    let mut open = w.block_on(terminal::open(&id, SECRET)).unwrap();
    // The unit reads the file and starts torpord with it: that part is done here.
    let file = w.path("environment");
    let script = ROTATE.replace("/opt/docker-manager/.env", file.to_str().unwrap());
    let printed = lines(&w, &script.replace("systemctl restart docker-manager\n", ""));
    let text = std::fs::read_to_string(&file).unwrap();
    let (name, new) = text.trim().split_once('=').unwrap();
    assert!(name == "API_SECRET" && new.len() == 64 && printed.contains(new), "{printed}");
    w.daemon.env = vec![(name.to_owned(), new.to_owned())];
    w.daemon.terminate();
    w.daemon.launch();
    // What was open by the old one is not any more.
    w.block_on(async {
        let ends = async {
            while let Some(Ok(m)) = open.next().await
                && !m.is_close()
            {}
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), ends).await.unwrap();
    });
    let asked = |secret: &str| {
        w.curl(&format!("curl http://localhost:8080/api/containers -H 'Authorization: Bearer {secret}'"))
    };
    asked(SECRET).refused(401);
    assert_eq!(asked(new).good()[0]["id"], id.as_str());
    assert_eq!(w.block_on(terminal::open(&id, SECRET)).err(), Some(401));
    w.block_on(terminal::open(&id, new)).unwrap();
    assert_eq!(w.exec("kept", "pwd"), "/app\n");
    assert!(!w.daemon.log().contains(new));
}

#[test]
fn no_other_process_has_the_secret() {
    let Some(w) = World::new(CONFIG, &ENV) else { return };
    make(&w, &json!({"name": "a", "volumeName": "v"})).good();
    assert_eq!(list(&w).len(), 1);
    let below = format!("/run/torpor/{}/", w.daemon.tag);
    let mut looked_at = 0;
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let of = |file: &str| std::fs::read(process.path().join(file)).unwrap_or_default();
        let line = String::from_utf8_lossy(&of("cmdline")).replace('\0', " ");
        if line.contains(&below) {
            let found = memchr::memmem::find(&of("environ"), SECRET.as_bytes());
            assert!(found.is_none() && !line.contains(SECRET), "{line}");
            looked_at += 1;
        }
    }
    // Shim, sandbox, gofer.
    assert!(looked_at >= 3, "{looked_at}");
    assert_eq!(w.exec("a", &format!("cat /proc/*/environ | grep -c {SECRET} || true")), "0\n");
}

//! Names that a shell completes, as bash asks for them.

use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use crate::daemon::{self, Daemon, script};
use crate::habits::shell;

/// What bash would offer for a line whose last word is being typed; `before` is set before it.
fn offered(d: &Daemon, before: &str, line: &[&str]) -> Vec<String> {
    let words: Vec<String> = line.iter().map(|w| format!("'{w}'")).collect();
    let last = line.last().unwrap();
    let (code, out, err) = shell(
        d,
        &format!(
            "source <(torpor completions bash); {before} COMP_WORDS=({}); COMP_CWORD={}; COMP_TYPE=9
             _clap_complete_torpor torpor '{last}' x; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.join(" "),
            line.len() - 1
        ),
    );
    assert_eq!((code, err.as_str()), (Some(0), ""), "{line:?}");
    out.lines().filter(|l| !l.is_empty()).map(|l| l.trim_end().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_completed_and_nothing_is_said_without_a_torpord() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    d.import("team/other").await;
    d.client.create_pod(&script("web", "sleep 1000")).await.unwrap();
    d.client.create_pod(&script("worker", "sleep 1000")).await.unwrap();
    let volume = d.client.create_volume("data").await.unwrap().name;
    let snapshot = d.client.snapshot("web", &mut |_| ()).await.unwrap().id;
    let at = |line: &[&str]| offered(&d, "", line);
    for command in ["stop", "restart", "inspect", "logs", "exec", "sleep", "port"] {
        assert_eq!(at(&["torpor", command, "w"]), ["web", "worker"], "{command}");
    }
    assert_eq!(at(&["torpor", "rm", "web", "wo"]), ["worker"]);
    assert_eq!(at(&["torpor", "run", "te"]), ["team/other:latest", "test:latest"]);
    assert_eq!(at(&["torpor", "rmi", "tes"]), ["test:latest"]);
    assert_eq!(at(&["torpor", "image", "rm", "team"]), ["team/other:latest"]);
    assert_eq!(at(&["torpor", "snapshot", "rm", &snapshot[..3]]), [snapshot.as_str()]);
    assert_eq!(at(&["torpor", "restore", "web", &snapshot[..3]]), [snapshot.as_str()]);
    assert_eq!(at(&["torpor", "volume", "rm", "d"]), [volume.as_str()]);
    assert_eq!(at(&["torpor", "run", "-v", "d"]), ["data:"]);
    assert!(at(&["torpor", "cp", "we"]).contains(&"web:".to_owned()));
    // What is new has a name of its own; commands and options are completed as ever.
    assert_eq!(at(&["torpor", "volume", "create", "d"]), Vec::<String>::new());
    assert_eq!(at(&["torpor", "resta"]), ["restart"]);
    assert_eq!(at(&["torpor", "ps", "--no-t"]), ["--no-trunc"]);
    for command in ["run", "create", "update"] {
        assert_eq!(at(&["torpor", command, "--on-shutdown", "s"]), ["stop", "sleep"], "{command}");
    }
    // The line may say which torpord is meant.
    let socket = d.socket.display().to_string();
    assert_eq!(
        offered(&d, "export TORPOR_HOST=unix:///nonexistent.sock;", &["torpor", "--host", &socket, "stop", "we"]),
        ["web"]
    );
    // One that is away, is none, or would have to be asked for a password: nothing, and not a word.
    for host in ["unix:///nonexistent.sock", "nonsense", "ssh://nobody@192.0.2.1", "tcp://127.0.0.1:1"] {
        assert!(offered(&d, &format!("export TORPOR_HOST={host};"), &["torpor", "stop", "w"]).is_empty(), "{host}");
    }
    // One that says nothing.
    let path = d.dir.join("silent.sock");
    let _silent = UnixListener::bind(&path).unwrap();
    let begun = Instant::now();
    let before = format!("export TORPOR_HOST=unix://{};", path.display());
    assert!(offered(&d, &before, &["torpor", "stop", "w"]).is_empty());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = crate::habits::shell(&d, &format!("torpor completions {shell}")).1;
        assert!(script.contains("TORPOR_COMPLETE"), "{shell}: {script}");
    }
    d.client.remove_snapshot(&snapshot).await.unwrap();
}

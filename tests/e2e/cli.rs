//! The command line as people use it.

use std::process::{Command, Output};

use crate::daemon::{self, Daemon, get, image};

fn torpor(d: &Daemon, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_torpor"))
        .args(args)
        .env("TORPOR_HOST", format!("unix://{}", d.socket.display()))
        .output()
        .unwrap()
}

fn said(o: &Output) -> String {
    String::from_utf8_lossy(&o.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_s_habits() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    let ok = |args: &[&str]| {
        let o = torpor(&d, args);
        assert!(o.status.success(), "{args:?}: {}\n{}", String::from_utf8_lossy(&o.stderr), d.log());
        said(&o)
    };
    ok(&["image", "import", "team/test:v1", &image().display().to_string()]);
    assert!(ok(&["image", "ls"]).contains("team/test:v1"));
    let run = |args: &[&str]| torpor(&d, &[&["run", "--rm", "team/test:v1"], args].concat());
    let o = run(&["sh", "-c", "echo out; echo err >&2; exit 4"]);
    assert_eq!(
        (o.status.code(), said(&o).as_str(), String::from_utf8_lossy(&o.stderr).as_ref()),
        (Some(4), "out\n", "err\n")
    );
    assert_eq!(run(&["nosuch"]).status.code(), Some(127));
    assert_eq!(run(&["/etc/passwd"]).status.code(), Some(126));
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    assert_eq!(torpor(&d, &["run", "nosuch", "x"]).status.code(), Some(125));
    let id = ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "80",
        "-e",
        "A=b",
        "-m",
        "256m",
        "--ready-tcp",
        "80",
        "team/test:v1",
        "counter",
    ]);
    assert_eq!(id.trim().len(), 16);
    let listed: serde_json::Value = serde_json::from_str(&ok(&["--json", "ps"])).unwrap();
    let port = u16::try_from(listed[0]["ports"][0]["host"].as_u64().unwrap()).unwrap();
    assert_eq!(get(port, "/"), "1");
    assert!(ok(&["ps"]).contains(&format!("{port}->80/tcp")));
    assert_eq!(ok(&["exec", "web", "sh", "-c", "echo $A"]), "b\n");
    assert_eq!(torpor(&d, &["exec", "web", "sh", "-c", "exit 9"]).status.code(), Some(9));
    ok(&["sleep", "web"]);
    assert!(ok(&["ps"]).contains("sleeping"));
    assert_eq!(torpor(&d, &["exec", "web", "true"]).status.code(), Some(125));
    ok(&["wake", "web"]);
    assert_eq!(get(port, "/"), "2");
    let snapshot = ok(&["snapshot", "create", "web"]);
    ok(&["snapshot", "restore", "--name", "copy", snapshot.trim()]);
    assert!(ok(&["snapshot", "ls"]).contains(snapshot.trim()));
    ok(&["logs", "web"]);
    ok(&["stop", "-t", "2", "web"]);
    ok(&["start", "web"]);
    assert_eq!(torpor(&d, &["rm", "web"]).status.code(), Some(1));
    ok(&["rm", "-f", "web", "copy"]);
    ok(&["snapshot", "rm", snapshot.trim()]);
    ok(&["image", "rm", "team/test:v1"]);
    ok(&["version"]);
    let doctor = torpor(&d, &["doctor"]);
    assert!(said(&doctor).contains("runsc") && said(&doctor).contains("store"));
    assert!(ok(&["completions", "bash"]).contains("torpor"));
    let away =
        Command::new(env!("CARGO_BIN_EXE_torpor")).args(["--host", "unix:///nonexistent.sock", "ps"]).output().unwrap();
    assert_eq!(away.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&away.stderr).contains("hint:"));
}

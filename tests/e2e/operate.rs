//! torpord is looked after while it runs: settings and log are changed, what it keeps is saved and put back, a host is repaired, a
//! torpor elsewhere talks to it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::daemon::{self, Daemon, Options, code, get, script};

fn torpor(d: &Daemon, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torpor"));
    command.args(args).env("TORPOR_HOST", format!("unix://{}", d.socket.display())).stdin(std::process::Stdio::null());
    command
}

fn text(out: &Output) -> String {
    [&out.stdout, &out.stderr].map(|b| String::from_utf8_lossy(b).into_owned()).concat()
}

/// A program of that name, first on PATH.
fn program(dir: &Path, name: &str, script: &str) {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn path_with(dir: &Path) -> String {
    format!("{}:{}", dir.display(), std::env::var("PATH").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_and_log_change_without_a_restart_and_a_bad_file_changes_nothing() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let config = d.dir.join("torpor.toml");
    let write = |more: &str| std::fs::write(&config, format!("resolvers = ['192.0.2.53']\n{more}")).unwrap();
    write("[tiers.tiny]\ncpus = 0.5\nmemory = '64m'\ndisk = '64m'\n");
    let done = d.client.reload().await.unwrap();
    assert_eq!((done.changed, done.needs_restart), (vec!["tiers".to_owned()], vec![]));
    let tiny =
        torpor::api::types::CreatePod { memory: None, tier: Some("tiny".into()), ..script("tiny", "sleep 1000") };
    let pod = d.client.create_pod(&tiny).await.unwrap();
    assert_eq!(pod.resources.memory, 64 << 20);

    // What is wrong is named with its line; the tier is still there.
    write("disk-reserve = 'much'\n");
    let e = d.client.reload().await.unwrap_err();
    assert_eq!(code(&e), "invalid_request");
    assert!(e.to_string().contains("line 2") && e.to_string().contains("disk-reserve"), "{e}");
    assert!(d.client.tiers().await.unwrap().iter().any(|t| t.name == "tiny"));
    // What can't be changed is named, and a key that there is not too. The pod is as it was.
    write("store = 's3://other'\ncache-bytes = 5\ndisk-reserve = 1048576\nnosuch = 1\n");
    let said = text(&torpor(&d, &["system", "reload"]).output().unwrap());
    assert!(said.contains("changed: disk-reserve, tiers"), "{said}");
    assert!(said.contains("cache-bytes") && said.contains("not known: nosuch"), "{said}");
    assert_eq!(d.client.inspect("tiny").await.unwrap().sandbox_pid, pod.sandbox_pid);
    // By a signal, as systemctl reload does.
    write("memory-overcommit = 2.0\n");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(d.pid().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while d.client.capacity().await.unwrap().memory.ratio < 2.0 {
        assert!(Instant::now() < end, "SIGHUP changes nothing: {}", d.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    assert_eq!(d.client.log_filter().await.unwrap().filter, "info");
    assert_eq!(code(&d.client.set_log_filter("a=b=c").await.unwrap_err()), "invalid_request");
    // What is told of a reload is seen, or not, as the filter says.
    let told = || d.log().matches("settings were read anew").count();
    let before = told();
    assert_eq!(text(&torpor(&d, &["system", "log", "warn"]).output().unwrap()), "warn\n");
    d.client.reload().await.unwrap();
    assert_eq!(told(), before);
    d.client.set_log_filter("info").await.unwrap();
    d.client.reload().await.unwrap();
    assert_eq!(told(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_brings_back_what_slept_and_what_was_kept() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    let asleep = d.counter("asleep").await;
    assert_eq!(get(asleep.ports[0].host, "/").trim(), "1");
    d.client.create_volume("data").await.unwrap();
    let mut keeper = script("keeper", "sleep 1000");
    keeper.volumes = serde_json::from_str(r#"[{"source": "data", "target": "/data"}]"#).unwrap();
    d.client.create_pod(&keeper).await.unwrap();
    d.exec("keeper", "echo on the root >/kept; echo in a volume >/data/file").await;
    d.stop("keeper").await;
    d.sleep("asleep").await;
    let runs = d.counter("runs").await;
    let file = d.dir.join("host.tar");
    let out = torpor(&d, &["system", "backup", file.to_str().unwrap()]).output().unwrap();
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(get(runs.ports[0].host, "/").trim(), "1", "a pod that runs goes on");
    // A file that is there is not overwritten, and nothing is put where there is state.
    assert!(!torpor(&d, &["system", "backup", file.to_str().unwrap()]).status().unwrap().success());

    // All is lost.
    for pod in d.client.pods().await.unwrap() {
        d.client.remove(&pod.id, true).await.unwrap();
    }
    d.terminate();
    std::fs::remove_dir_all(d.dir.join("state")).unwrap();
    let state = d.dir.join("state").display().to_string();
    let restore =
        || torpor(&d, &["system", "restore", file.to_str().unwrap(), "--state-dir", &state]).output().unwrap();
    let out = restore();
    assert!(out.status.success(), "{}", text(&out));
    let again = restore();
    assert!(!again.status.success() && text(&again).contains("there is state already"), "{}", text(&again));
    d.launch();
    let states: Vec<_> = d.client.pods().await.unwrap().iter().map(|p| (p.name.clone(), p.state.clone())).collect();
    let of = |name: &str| states.iter().find(|(n, _)| n == name).map(|(_, s)| s.as_str());
    assert_eq!(
        (of("asleep"), of("keeper"), of("runs")),
        (Some("sleeping"), Some("stopped"), Some("stopped")),
        "{states:?}"
    );
    let woken = d.wake("asleep").await;
    assert_eq!(get(woken.ports[0].host, "/").trim(), "2", "it goes on where it was");
    d.client.start("keeper").await.unwrap();
    assert_eq!(d.exec("keeper", "cat /kept /data/file").await.stdout, "on the root\nin a volume\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_is_explained_and_done_and_ports_that_others_hold_are_named() {
    if !daemon::ready() {
        return;
    }
    let bin = tempfile::tempdir().unwrap();
    let runsc = bin.path().join("runsc");
    let mut d = Daemon::with(Options { runsc: Some(runsc.clone()), ..Options::default() });
    let finding = async |d: &Daemon, check: &str| {
        d.client.doctor().await.unwrap().findings.into_iter().find(|f| f.check == check).unwrap()
    };
    assert_eq!(finding(&d, "runsc").await.status, "fail");
    for f in d.client.doctor().await.unwrap().findings {
        assert!(torpor::api::doctor::Check::of(&f.check).is_some(), "{f:?} is in no runbook");
    }
    let manual = text(&torpor(&d, &["doctor", "--help"]).output().unwrap());
    assert!(manual.contains("\nrunsc\n") && manual.contains("--fix: installs runsc"), "{manual}");

    // Nobody is asked, nothing is done.
    let mut asked = torpor(&d, &["doctor", "--fix"]);
    let said = text(&asked.env("PATH", path_with(bin.path())).output().unwrap());
    assert!(said.contains("apt-get install -y runsc") && said.contains("--yes does it without"), "{said}");
    let real = crate::support::runsc().unwrap();
    let apt = format!(
        "echo \"apt-get $*\" >>{}/said\n[ \"$1\" = update ] || ln -sf {} {}",
        bin.path().display(),
        real.display(),
        runsc.display()
    );
    program(bin.path(), "apt-get", &apt);
    program(bin.path(), "systemctl", &format!("echo \"systemctl $*\" >>{}/said", bin.path().display()));
    let mut fix = torpor(&d, &["doctor", "--fix", "--yes"]);
    let said = text(&fix.env("PATH", path_with(bin.path())).output().unwrap());
    assert!(said.contains("installs runsc from the packages") && said.contains("done"), "{said}");
    let done = std::fs::read_to_string(bin.path().join("said")).unwrap();
    assert!(done.starts_with("apt-get update\napt-get install -y runsc\n"), "{done}");
    d.terminate();
    d.launch();
    assert_eq!(finding(&d, "runsc").await.status, "ok");
    // From elsewhere nothing is repaired here.
    let mut far = torpor(&d, &["--host", "tcp://127.0.0.1:1", "doctor", "--fix"]);
    assert!(text(&far.output().unwrap()).contains("repairs the host that it runs on"));

    // A port of a pod that somebody took while torpord was away.
    d.import("test").await;
    let web = d.counter("web").await;
    assert_eq!(finding(&d, "ports").await.status, "ok");
    d.stop("web").await;
    d.terminate();
    let port = web.ports[0].host;
    let taken = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
    d.launch();
    let found = finding(&d, "ports").await;
    let own = format!("(process {})", std::process::id());
    assert!(
        found.status == "fail" && found.detail.contains(&port.to_string()) && found.detail.contains(&own),
        "{found:?}"
    );
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torpor_elsewhere_talks_to_it_by_ssh() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    d.client.create_pod(&script("web", "sleep 1000")).await.unwrap();
    // A login that says more than it should, and has torpor on its PATH.
    let bin = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_torpor"), bin.path().join("torpor")).unwrap();
    let ssh = format!(
        "echo \"$@\" >>{0}/asked\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nhost=$1\nshift\n\
         [ \"$host\" = vm ] || {{ echo \"ssh: Could not resolve hostname $host\" >&2; exit 255; }}\n\
         echo 'Welcome to vm.'\nexport TORPOR_HOST=unix://{1}\nexec \"$@\"",
        bin.path().display(),
        d.socket.display()
    );
    program(bin.path(), "ssh", &ssh);
    let far = |host: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_torpor"));
        command.args(args).env("TORPOR_HOST", host).env("PATH", path_with(bin.path()));
        command
    };
    let out = far("ssh://ann@vm:2222", &["ps"]).output().unwrap();
    assert!(out.status.success() && text(&out).contains("web"), "{}", text(&out));
    let asked = std::fs::read_to_string(bin.path().join("asked")).unwrap();
    assert!(asked.contains("-p 2222 -l ann -- vm torpor dial-stdio"), "{asked}");
    // Bytes of all kinds, both ways, and the program's own exit code.
    let mut child = far("ssh://vm", &["exec", "-i", "web", "sh", "-c", "md5sum; exit 7"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let bytes: Vec<u8> =
        (0..3_000_000_u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let out = child.wait_with_output().unwrap();
    let here = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(here.path(), &bytes).unwrap();
    let sum = text(&Command::new("md5sum").arg(here.path()).output().unwrap());
    assert_eq!((out.status.code(), &text(&out)[..32]), (Some(7), &sum[..32]));
    // Another socket there; a host that is not; and what is no host at all.
    let out = far(&format!("ssh://vm{}", d.socket.display()), &["version"]).output().unwrap();
    assert!(out.status.success(), "{}", text(&out));
    let out = far("ssh://nosuch", &["ps"]).output().unwrap();
    let said = text(&out);
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(
        said.contains("Could not resolve hostname nosuch") && said.contains("hint: is torpor installed there"),
        "{said}"
    );
    assert!(text(&far("ssh://-oProxyCommand=x", &["ps"]).output().unwrap()).contains("is no host"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_for_help_has_no_secret() {
    if !daemon::ready() {
        return;
    }
    const CANARY: &str = "canary-7c1f0e";
    let d = Daemon::start();
    d.import("test").await;
    let mut pod = script("web", &format!("echo {CANARY}; exec sleep 1000"));
    pod.env.insert("KEY".into(), CANARY.into());
    pod.labels.insert("team".into(), CANARY.into());
    pod.health = serde_json::from_value(
        serde_json::json!({"command": ["sh", "-c", format!("echo {CANARY}")], "intervalMs": 100}),
    )
    .unwrap();
    d.client.create_pod(&pod).await.unwrap();
    let request = torpor::api::types::CreateToken { scope: "admin".into(), ..Default::default() };
    let token = d.client.create_token(&request).await.unwrap().secret;
    let file = d.dir.join("help.txt");
    let out = torpor(&d, &["support-bundle", file.to_str().unwrap()]).output().unwrap();
    assert!(out.status.success(), "{}", text(&out));
    let bundle = std::fs::read_to_string(&file).unwrap();
    assert!(!bundle.contains(CANARY) && !bundle.contains(&token), "a secret is in it");
    for part in
        ["==== doctor", "==== pods", "\"name\": \"web\"", "==== metrics", "torpor_pods{", "==== traces", "==== kernel"]
    {
        assert!(bundle.contains(part), "{part} is missing");
    }
}

//! What a shell's user is used to: pipes that end early, codes of wrong usage, a log that is followed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::daemon::{self, Daemon, script};

/// What a line of a shell gives: its exit code, output and errors.
pub(crate) fn shell(d: &Daemon, line: &str) -> (Option<i32>, String, String) {
    let path = std::path::Path::new(env!("CARGO_BIN_EXE_torpor")).parent().unwrap().display().to_string();
    let o = Command::new("bash")
        .args(["-c", line])
        .env("PATH", format!("{path}:{}", std::env::var("PATH").unwrap()))
        .env("TORPOR_HOST", format!("unix://{}", d.socket.display()))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (o.status.code(), text(&o.stdout), text(&o.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_ends_what_it_read() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    d.client.create_pod(&script("t", "while true; do echo line; usleep 10000; done")).await.unwrap();
    for line in ["torpor exec t yes | head -n 1", "torpor logs -f t | head -n 1", "torpor logs t | head -n 1"] {
        let (_, out, err) = shell(&d, line);
        assert!(["y\n", "line\n"].contains(&out.as_str()) && err.is_empty(), "{line}: {out} {err}");
    }
    // `true` reads nothing: what is said comes after its end, or before it and is not read.
    for line in ["inspect t", "image ls", "ps", "sleep t", "wake t"] {
        let (code, _, err) = shell(&d, &format!("set -o pipefail; torpor {line} | (sleep 0.2; true)"));
        assert!([Some(0), Some(141)].contains(&code) && err.is_empty(), "{line}: {code:?} {err}");
        let (code, _, err) = shell(&d, &format!("torpor {line} >&-; exit 0"));
        assert!(code == Some(0) && !err.contains("panicked"), "{line}: {err}");
        if line == "sleep t" {
            d.wake("t").await;
            d.sleep("t").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_asked_ends_with_125_and_changes_nothing() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    for line in [
        "torpor run --bogus test true",
        "torpor run",
        "torpor exec t",
        "torpor run --cpus=-1 test true",
        "torpor run -d --rm --restart always test true",
        "torpor run --on-shutdown explode test true",
        "torpor run -v vol:/data -v vol:/data/ test true",
        "torpor run -m 100000g test true",
    ] {
        let (code, out, err) = shell(&d, line);
        assert!(code == Some(125) && out.is_empty() && !err.is_empty(), "{line}: {code:?} {out} {err}");
    }
    for line in ["torpor ps --bogus", "torpor logs --bogus exec"] {
        assert_eq!(shell(&d, line).0, Some(2), "{line}");
    }
    assert!(d.client.pods().await.unwrap().is_empty());
    let (_, _, err) = shell(&d, "torpor run -m 100000g test true");
    assert!(err.contains("16t at most"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_over_a_restart() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    let talk = "n=0; while [ $n -lt 400 ]; do n=$((n+1)); echo $n; usleep 10000; done";
    d.client.create_pod(&script("t", talk)).await.unwrap();
    let mut viewer = Command::new(env!("CARGO_BIN_EXE_torpor"))
        .args(["logs", "-f", "t"])
        .env("TORPOR_HOST", format!("unix://{}", d.socket.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(viewer.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut seen: Vec<String> = lines.by_ref().take(20).collect();
    d.kill();
    d.launch();
    seen.extend(lines);
    assert!(viewer.wait().unwrap().success());
    assert!(seen.iter().map(|l| l.parse::<u32>().unwrap()).eq(1..=400), "{seen:?}");
}

#[test]
fn a_store_that_can_not_be_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    for url in ["bogus", "http://x/y", "s3://", "gs://", "az://", "file://rel/x", "s3://key:secret@bucket"] {
        for check in [true, false] {
            let mut torpord = Command::new(env!("CARGO_BIN_EXE_torpord"));
            torpord.args(["--store", url, "--state-dir"]).arg(&state).arg("--socket").arg(dir.path().join("s"));
            let o = torpord.args(check.then_some("--check-config")).output().unwrap();
            let err = String::from_utf8_lossy(&o.stderr).into_owned();
            assert!(!o.status.success() && err.contains("the store's URL is wrong"), "{url}: {err}");
            assert!(!state.exists() && !err.contains("secret"), "{url}: {err}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_for_one_run_goes_when_it_has_ended_whoever_is_away() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    let gone = async |d: &Daemon, name: &str| {
        while d.client.inspect(name).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let (code, _, err) = shell(&d, "torpor run -d --rm --name a test sh -c 'exit 3'");
    assert_eq!((code, err.as_str()), (Some(0), ""));
    gone(&d, "a").await;
    // Who waits is told; who stops it as well; a torpord that was away makes up for it.
    assert_eq!(shell(&d, "torpor run -d --rm --name b test sleep 1000").0, Some(0));
    let waits = tokio::spawn({
        let client = d.client.clone();
        async move { client.wait("b").await }
    });
    shell(&d, "torpor run -d --rm --name c test sh -c 'until [ -e /go ]; do usleep 20000; done'");
    assert_eq!(shell(&d, "torpor kill -s KILL b").0, Some(0));
    assert_eq!(waits.await.unwrap().unwrap().exit_code, 137);
    gone(&d, "b").await;
    d.sleep("c").await;
    d.wake("c").await;
    shell(&d, "torpor exec -d c sh -c 'sleep 1; touch /go'");
    d.kill();
    std::thread::sleep(std::time::Duration::from_secs(2)); // it ends meanwhile
    d.launch();
    gone(&d, "c").await;
    assert!(d.client.pods().await.unwrap().is_empty());
    assert_eq!(
        shell(&d, "torpor create --name e test true >/dev/null && torpor --json rm e | tr -d ' \\n'").1,
        r#"{"name":"e"}"#
    );
}

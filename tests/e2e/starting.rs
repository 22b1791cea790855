//! torpord's flags and configuration refused before anything is made, and a torpord that is ended while it starts.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{self, image};
use crate::support;

fn torpord(dir: &Path) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_torpord"));
    c.env_remove("AZURE_STORAGE_ACCOUNT_NAME")
        .arg("--state-dir")
        .arg(dir.join("state"))
        .arg("--socket")
        .arg(dir.join("s"));
    c
}

/// What it says when it is refused.
fn refused(command: &mut Command) -> String {
    let o = command.output().unwrap();
    assert!(!o.status.success() && o.stdout.is_empty());
    String::from_utf8_lossy(&o.stderr).into_owned()
}

#[test]
fn settings_that_can_not_be_are_refused_with_what_can() {
    let dir = tempfile::tempdir().unwrap();
    for check in [true, false] {
        let with = |flag: &str, value: &str| {
            let mut c = torpord(dir.path());
            refused(c.args([flag, value]).args(check.then_some("--check-config")))
        };
        for cidr in ["8.8.8.8/33", "10.0.0.0", "x", "fd00::/16"] {
            let said = with("--pod-cidr", cidr);
            assert!(said.contains(&format!("pod-cidr {cidr:?}")) && said.contains("hint: "), "{said}");
        }
        let said = with("--store", "az://container/prefix");
        assert!(said.contains("storage account") && said.contains("AZURE_STORAGE_ACCOUNT_NAME"), "{said}");
    }
    let file = dir.path().join("torpor.toml");
    std::fs::write(&file, "nosuch-key = 1\nport-ragne = '1-2'\n").unwrap();
    let said = refused(torpord(dir.path()).arg("--check-config").arg("--config").arg(&file));
    assert!(said.contains("nosuch-key, port-ragne") || said.contains("port-ragne, nosuch-key"), "{said}");
    std::fs::write(&file, "port-range = '10000-10002'\n").unwrap();
    assert!(torpord(dir.path()).arg("--check-config").arg("--config").arg(&file).status().unwrap().success());
    assert!(!dir.path().join("state").exists());
}

#[test]
fn a_torpord_that_is_ended_while_it_starts_leaves_nothing() {
    if !daemon::ready() {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (runsc, asked) = (dir.path().join("runsc"), dir.path().join("asked"));
        // An engine that is slow to say what it is.
        let real = support::runsc().unwrap().display().to_string();
        let text = format!("#!/bin/sh\ntouch {}\nsleep 1\nexec {real} \"$@\"\n", asked.display());
        std::fs::write(&runsc, text).unwrap();
        std::fs::set_permissions(&runsc, std::fs::Permissions::from_mode(0o755)).unwrap();
        let libexec = std::env::var_os("TORPOR_LIBEXEC");
        let libexec = libexec.map_or_else(
            || Path::new(env!("CARGO_BIN_EXE_torpord")).ancestors().nth(2).unwrap().join("dist/bin"),
            Into::into,
        );
        let mut child = torpord(dir.path())
            .args(["--pod-cidr", "10.127.252.0/22", "--port-range", "29700-29799", "--runsc"])
            .arg(&runsc)
            .env("TORPOR_LIBEXEC", libexec)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while !asked.exists() {
            assert!(Instant::now() < end && child.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(5));
        }
        let tag = std::fs::read_to_string(dir.path().join("state/instance")).unwrap().trim().to_owned();
        assert!(Path::new("/run/torpor").join(&tag).exists());
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(support::traces(&tag), Vec::<String>::new());
        assert!(!Path::new("/run/torpor").join(&tag).exists() && !dir.path().join("s").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_no_image() {
    if !daemon::ready() {
        return;
    }
    let d = daemon::Daemon::start();
    let empty = d.dir.join("empty");
    std::fs::create_dir(&empty).unwrap();
    d.import("test").await;
    for line in [
        "tar c -T /dev/null | torpor image import x -".to_owned(),
        format!("tar cC {0} . | gzip | torpor image import x -", empty.display()),
        format!("tar cC {0} . | torpor image import --base test x -", empty.display()),
        format!("torpor image import x {}", empty.display()),
    ] {
        let (code, out, err) = crate::habits::shell(&d, &line);
        assert!(
            code == Some(1) && out.is_empty() && err.contains("no file in it") && err.contains("hint:"),
            "{line}: {err}"
        );
    }
    assert_eq!(d.client.images().await.unwrap().len(), 1, "{}", image().display());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_variable_is_not_set_and_help_keeps_what_is_common_apart() {
    if !daemon::ready() {
        return;
    }
    let d = daemon::Daemon::start();
    let (code, _, err) = crate::habits::shell(&d, "TORPOR_HOST= torpor ps");
    // The usual socket is another torpord's, or nobody's.
    assert!([Some(0), Some(3)].contains(&code) && !err.contains("no host"), "{err}");
    let (code, _, err) = crate::habits::shell(&d, "TORPOR_TOKEN_FILE= TORPOR_CA_FILE= torpor ps");
    assert_eq!((code, err.as_str()), (Some(0), ""));
    for command in ["ps", "run", "snapshot restore", "image import", "stop"] {
        let help = crate::habits::shell(&d, &format!("torpor {command} --help")).1;
        let (own, common) = help.split_once("Global options:").unwrap_or_else(|| panic!("{help}"));
        for option in ["--host <", "--json", "--token-file", "--ca-file"] {
            assert!(!own.contains(option) && common.contains(option), "{command} {option}: {help}");
        }
    }
}

//! What the Vagrantfile asks for, on each kind of machine, and whether Vagrant itself takes it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn there(program: &str) -> bool {
    support::has(program, Command::new(program).arg("--version").output().is_ok())
}

fn asked(platform: &str, arm64: &str) -> Value {
    let out = Command::new("ruby")
        .arg(root().join("tests/vagrant/record.rb"))
        .env("PLATFORM", platform)
        .env("ARM64", arm64)
        .env("VAGRANTFILE", root().join("vagrant/Vagrantfile"))
        .env_remove("TORPOR_SYNC")
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn each_kind_of_machine_gets_its_box_and_its_ports() {
    if !there("ruby") {
        return;
    }
    for (platform, arm64, architecture, qemu) in [
        ("arm64-darwin23", "1\n", "arm64", "aarch64"),
        // A Ruby for Intel on Apple silicon.
        ("x86_64-darwin23", "1\n", "arm64", "aarch64"),
        ("x86_64-darwin23", "", "amd64", "x86_64"),
        ("x86_64-linux-gnu", "", "amd64", "x86_64"),
        ("aarch64-linux", "", "arm64", "aarch64"),
    ] {
        let all = asked(platform, arm64);
        assert_eq!(all["architecture"], architecture, "{platform}");
        assert!(all["box"].as_str().unwrap().starts_with("bento/debian-"), "{all}");
        let forwarded: BTreeSet<u64> = all["networks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| {
                assert_eq!((&n["kind"], &n["host_ip"]), (&"forwarded_port".into(), &"127.0.0.1".into()), "{n}");
                assert_eq!(n["guest"], n["host"]);
                n["guest"].as_u64().unwrap()
            })
            .collect();
        let wanted = [8080, 9000, 9001].into_iter().chain(30_000..=30_100).collect::<BTreeSet<u64>>();
        assert_eq!(forwarded, wanted, "{platform}");
        let providers: Vec<&str> = all["providers"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(providers, ["libvirt", "parallels", "qemu", "utm", "virtualbox", "vmware_desktop"]);
        assert_eq!(all["providers"]["qemu"]["set"]["arch"], qemu, "{platform}");
        let folders = all["folders"].as_array().unwrap();
        let work = folders.iter().find(|f| f["to"] == "/work").unwrap();
        assert_eq!(Path::new(work["from"].as_str().unwrap()).canonicalize().unwrap(), root().canonicalize().unwrap());
        assert!(work["rsync__exclude"].as_array().unwrap().contains(&"target/".into()), "{work}");
        let inline = all["provisions"][0]["inline"].as_str().unwrap();
        assert!(inline.contains("$here/vagrant/provision") && inline.contains("here=/work"), "{inline}");
    }
}

#[test]
fn vagrant_takes_it() {
    if !there("vagrant") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let out = Command::new("vagrant")
        .args(["validate", "--ignore-provider"])
        .current_dir(root().join("vagrant"))
        .env("VAGRANT_HOME", home.path())
        .env("VAGRANT_DOTFILE_PATH", home.path().join("dot"))
        .env("VAGRANT_CHECKPOINT_DISABLE", "1")
        .output()
        .unwrap();
    let said = [out.stdout, out.stderr].map(|s| String::from_utf8_lossy(&s).into_owned()).concat();
    assert!(out.status.success() && said.contains("successfully"), "{said}");
}

#[test]
fn lima_forwards_and_provisions_the_same() {
    let text = std::fs::read_to_string(root().join("vagrant/lima.yaml")).unwrap();
    for line in [
        "/work/vagrant/provision --source /work",
        "guestSocket: \"/run/torpor/torpor.sock\"",
        "guestPort: 8080",
        "guestPortRange: [9000, 9001]",
        "guestPortRange: [30000, 30100]",
        "arch: \"aarch64\"",
        "arch: \"x86_64\"",
    ] {
        assert!(text.contains(line), "{line}");
    }
}

/// Options of the script that new machines are made hosts with, as its callers give them.
#[test]
fn what_is_run_in_new_machines_is_there() {
    use std::os::unix::fs::PermissionsExt;
    for script in ["vagrant/provision", "vagrant/connect", "scripts/dev-start.sh", "scripts/dev-clean.sh"] {
        let path = root().join(script);
        assert!(path.metadata().unwrap().permissions().mode() & 0o111 != 0, "{script}");
        let checked = Command::new("sh").arg("-n").arg(&path).output().unwrap();
        assert!(checked.status.success(), "{script}: {}", String::from_utf8_lossy(&checked.stderr));
    }
    let refused = Command::new("sh").arg(root().join("vagrant/provision")).arg("--nosuch").output().unwrap();
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--nosuch is not known"));
}

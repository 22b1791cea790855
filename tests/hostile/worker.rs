//! What the process that unpacks has given up, seen from outside while it waits for bytes.

use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support;

/// Capabilities that files of a layer need: chown, dac_override, fowner, fsetid, setfcap.
const KEPT: u64 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 31;

struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn the_worker_has_little_left() {
    if !support::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_torpord"))
        .args(["unpack-worker", "1000000", "100", "1"])
        .current_dir(dir.path())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let worker = Waiting(child);
    let at = |name: &str| format!("/proc/{}/{name}", worker.0.id());
    let status = || std::fs::read_to_string(at("status")).unwrap();
    let field = |name: &str| {
        let status = status();
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    let end = Instant::now() + Duration::from_secs(20);
    while field("Seccomp:") != "2" {
        assert!(Instant::now() < end, "{}", status());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((field("NoNewPrivs:"), field("Threads:")), ("1".into(), "1".into()));
    for (set, most) in [("CapInh:", 0), ("CapAmb:", 0), ("CapBnd:", 0), ("CapPrm:", KEPT), ("CapEff:", KEPT)] {
        let has = u64::from_str_radix(&field(set), 16).unwrap();
        assert_eq!(has & !most, 0, "{set} {has:x}");
    }
    let root = std::fs::metadata(at("root")).unwrap();
    let filled = std::fs::metadata(dir.path()).unwrap();
    assert_eq!((root.dev(), root.ino()), (filled.dev(), filled.ino()), "its root is the directory that it fills");
    for space in ["mnt", "net", "ipc", "uts"] {
        let own = std::fs::read_link(at(&format!("ns/{space}"))).unwrap();
        assert_ne!(own, std::fs::read_link(format!("/proc/self/ns/{space}")).unwrap(), "{space}");
    }
    // Standard input and output, and its root.
    let open = std::fs::read_dir(at("fd")).unwrap().count();
    assert!(open <= 4, "{open} open files");
    let mounts = std::fs::read_to_string(at("mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
}

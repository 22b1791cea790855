//! What tests of every kind need: gates for privileges, and a picture of the host before and after.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "shared by test binaries that each use a part of it"
)]

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

/// Whether a test that needs `what` can run. Without it the test is skipped with a reason; where `TORPOR_TEST_REQUIRE`
/// names it, it fails instead.
pub fn has(what: &str, there: bool) -> bool {
    let required = std::env::var("TORPOR_TEST_REQUIRE").unwrap_or_default();
    assert!(
        there || !required.split(',').any(|w| w == what),
        "this test needs {what}, which TORPOR_TEST_REQUIRE demands"
    );
    if !there {
        eprintln!("skipped: needs {what}");
    }
    there
}

/// Runs a program with that input; its exit code, and what it said on both streams.
pub fn fed(command: &mut Command, input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    use std::io::Write;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // At the same time: who only writes could wait for ever for somebody who only writes.
    let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let o = child.wait_with_output().unwrap();
    feed.join().unwrap();
    (o.status.code(), o.stdout, String::from_utf8_lossy(&o.stderr).into_owned())
}

/// Tells `scripts/torture` how much was tried: a line in the file that `TORPOR_TEST_TRIALS` names.
pub fn tried(trials: usize) {
    use std::io::Write;
    if let Some(path) = std::env::var_os("TORPOR_TEST_TRIALS") {
        let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
        file.write_all(format!("{trials}\n").as_bytes()).unwrap();
    }
}

/// Whether the test runs as root.
pub fn root() -> bool {
    has("root", nix::unistd::geteuid().is_root())
}

/// The runsc to test with.
pub fn runsc() -> Option<std::path::PathBuf> {
    let found = std::env::var_os("TORPOR_TEST_RUNSC").map(std::path::PathBuf::from).filter(|p| p.is_file());
    has("runsc", found.is_some()).then_some(found).flatten()
}

/// A program of one file, made with rustc alone, static, so that it runs in pods; made once for each state of its source.
/// It lies in a directory of its own.
pub fn program(source: &str) -> std::path::PathBuf {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let bytes = std::fs::read(&source).unwrap();
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    let name = source.file_stem().unwrap();
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{sum:x}", name.display()));
    let program = dir.join(name);
    if program.exists() {
        return program;
    }
    let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let made = work.path().join("made");
    std::fs::create_dir(&made).unwrap();
    let built = Command::new("rustc")
        .args(["--edition=2024", "-O", "-C", "target-feature=+crt-static", "-o"])
        .args([&made.join(name), &source])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    // Somebody else may have been quicker.
    if let Err(e) = std::fs::rename(&made, &dir) {
        assert!(program.exists(), "{e}");
    }
    program
}

fn lines(program: &str, args: &[&str]) -> BTreeSet<String> {
    let out = Command::new(program).args(args).output().unwrap();
    String::from_utf8_lossy(&out.stdout).lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect()
}

/// Processes in a network namespace, by the beginning of their program's name.
pub fn processes(name: &str, netns: &std::path::Path) -> Vec<i32> {
    use std::os::unix::fs::MetadataExt;
    let namespace = std::fs::metadata(netns).unwrap().ino();
    let there = std::fs::read_dir("/proc").unwrap().flatten().map(|e| e.path()).filter(|process| {
        std::fs::read_to_string(process.join("comm")).is_ok_and(|c| c.starts_with(name))
            && std::fs::metadata(process.join("ns/net")).is_ok_and(|n| n.ino() == namespace)
    });
    there.filter_map(|process| process.file_name()?.to_str()?.parse().ok()).collect()
}

/// Directories of the cgroup of that name, v1 or v2, wherever it is there.
pub fn cgroups(name: &str) -> Vec<std::path::PathBuf> {
    let found = Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", name]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(Into::into).collect()
}

/// What one instance could leave on the host: links, rules, mounts, cgroups and files that bear its tag.
pub fn traces(tag: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (program, args) in [("ip", &["-o", "link"][..]), ("iptables-save", &[]), ("ip", &["route"])] {
        found.extend(lines(program, args).into_iter().filter(|l| l.contains(tag)));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|l| l.contains(tag)).map(str::to_owned));
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let path = hierarchy.path().join(format!("torpor-{tag}"));
        if path.exists() {
            found.push(path.display().to_string());
        }
    }
    let run = std::path::Path::new("/run/torpor").join(tag);
    if run.exists() {
        found.push(run.display().to_string());
    }
    found
}

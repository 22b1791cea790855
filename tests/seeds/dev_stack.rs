//! The development stack: an S3 server, the pod agent and torpord, started, used and taken away by its scripts, on a host of the test's
//! own.

use std::path::Path;
use std::process::{Command, Output};

use crate::{daemon, host, support};

struct Stack {
    dir: tempfile::TempDir,
}

impl Stack {
    fn run(&self, script: &str, args: &[&str]) -> Output {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let log = std::fs::File::create(self.dir.path().join("out")).unwrap();
        // What is started keeps running: what it says must not hold us up.
        let status = Command::new(root.join("scripts").join(script))
            .args(args)
            .current_dir(self.dir.path())
            .env("DEV_STATE", self.dir.path().join("dev"))
            .env("DEV_PODS", self.dir.path().join("pods"))
            .env("DEV_IMAGE", daemon::image())
            .env("DEV_HOOK", "echo the hook ran in $(basename \"$PWD\")")
            .env("CARGO_TARGET_DIR", self.dir.path().join("nothing-built-here"))
            .env("TORPOR_LIBEXEC", daemon::libexec())
            .env(
                "PATH",
                format!("{}:{}:{}", bin().display(), self.dir.path().display(), std::env::var("PATH").unwrap()),
            )
            .env_remove("AWS_ACCESS_KEY_ID")
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .status()
            .unwrap();
        let stdout = std::fs::read(self.dir.path().join("out")).unwrap();
        Output { status, stdout, stderr: Vec::new() }
    }

    fn good(&self, script: &str, args: &[&str]) -> String {
        let out = self.run(script, args);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let log = std::fs::read_to_string(self.dir.path().join("dev/torpord.log")).unwrap_or_default();
        assert!(out.status.success(), "{script}: {text}\n{log}");
        text
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.run("dev-clean.sh", &[]);
    }
}

fn bin() -> std::path::PathBuf {
    Path::new(env!("CARGO_BIN_EXE_torpord")).parent().unwrap().to_owned()
}

fn curl(path: &str, body: &str) -> serde_json::Value {
    let out = Command::new("curl")
        .args(["-sS", "-X", "POST", &format!("http://localhost:8080{path}"), "-d", body])
        .output()
        .unwrap();
    serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|e| panic!("{e}: {path}: {}", String::from_utf8_lossy(&out.stdout)))
}

#[test]
fn the_stack_starts_makes_pods_saves_them_and_goes() {
    let there = Command::new("s3s-fs").arg("--help").output().is_ok();
    if !daemon::ready() || !support::has("s3", there) {
        return;
    }
    host::new_host();
    let runsc = support::runsc().unwrap();
    let dir = tempfile::Builder::new().prefix("torpor-dev-").tempdir_in("/var/tmp").unwrap();
    let stack = Stack { dir };
    std::os::unix::fs::symlink(runsc, stack.dir.path().join("runsc")).unwrap();
    let said = stack.good("dev-start.sh", &[]);
    for line in
        ["Development environment ready!", "- Pod Host API: http://localhost:8080", "the hook ran in torpor-dev-"]
    {
        assert!(said.contains(line), "{line} is not in {said}");
    }
    let made = stack.good("create-test-pod.sh", &["one"]);
    assert!(made.contains("\"success\":true") && made.contains("Created pod: one"), "{made}");
    std::fs::write(stack.dir.path().join("pods/one/file"), "kept").unwrap();
    let snapshot = curl("/snapshot/one", "");
    assert_eq!(snapshot["success"], true, "{snapshot}");
    let bucket = stack.dir.path().join("dev/s3/pinacle-snapshots");
    assert!(bucket.join("torpor.json").is_file() && bucket.join("v1/snapshots").is_dir(), "it is not in the bucket");
    // Started again, what runs stays.
    let again = stack.good("dev-start.sh", &[]);
    assert!(again.contains("ready!"), "{again}");
    assert_eq!(std::fs::read_to_string(stack.dir.path().join("pods/one/file")).unwrap(), "kept");
    // A torpord that was killed is started again, and the pod runs on.
    let pid = std::fs::read_to_string(stack.dir.path().join("dev/torpord.pid")).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.trim().parse().unwrap()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while std::net::TcpStream::connect("127.0.0.1:8080").is_ok() {
        assert!(std::time::Instant::now() < end, "it does not die");
    }
    stack.good("dev-start.sh", &[]);
    let socket = format!("unix://{}", stack.dir.path().join("dev/torpord.sock").display());
    let out = Command::new(bin().join("torpor")).arg("ps").env("TORPOR_HOST", socket).output().unwrap();
    let listed = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(listed.contains("pod-one") && listed.contains("running"), "{listed}");
    // The services end and come again with all that there was.
    stack.good("dev-clean.sh", &["--keep-data"]);
    assert!(std::net::TcpStream::connect("127.0.0.1:9000").is_err(), "the store still runs");
    stack.good("dev-start.sh", &[]);
    assert_eq!(curl("/stop-pod", r#"{"podId":"one"}"#)["success"], true);
    let body = format!(r#"{{"podId":"one","snapshotId":{}}}"#, snapshot["snapshotId"]);
    std::fs::write(stack.dir.path().join("pods/one/file"), "changed").unwrap();
    let restored = curl("/restore-pod", &body);
    assert_eq!(restored["success"], true, "{restored}");
    assert_eq!(std::fs::read_to_string(stack.dir.path().join("pods/one/file")).unwrap(), "kept");

    stack.good("dev-clean.sh", &[]);
    for gone in ["dev", "pods"] {
        assert!(!stack.dir.path().join(gone).exists(), "{gone} is left");
    }
    assert!(
        std::net::TcpStream::connect("127.0.0.1:8080").is_err()
            && std::net::TcpStream::connect("127.0.0.1:9000").is_err()
    );
}

//! The same under a real engine: FIFOs, takeover and the end of a sandbox as runsc makes them.

use std::path::PathBuf;
use std::process::Command;

use torpor::channel::Stream;
use torpor::host::shim::Shims;

use crate::pod::{Pod, binary, command, is_root, until};

/// The engine to test with; none: the test is skipped.
fn runsc() -> Option<PathBuf> {
    let found = std::env::var_os("TORPOR_TEST_RUNSC").map(PathBuf::from).filter(|p| p.exists());
    let required = std::env::var("TORPOR_TEST_REQUIRE").is_ok_and(|r| r.split([',', ' ']).any(|w| w == "runsc"));
    assert!(found.is_some() || !required, "runsc is required here: TORPOR_TEST_RUNSC names none");
    if found.is_none() {
        eprintln!("skipped: TORPOR_TEST_RUNSC names no runsc");
    }
    found
}

struct Sandbox {
    runsc: PathBuf,
    dir: PathBuf,
}

impl Sandbox {
    const FLAGS: &str = "--platform systrap --network none --ignore-cgroups --overlay2 root:memory";

    async fn new(pod: &Pod, runsc: PathBuf) -> Sandbox {
        let dir = pod.plan.dir.clone();
        for d in ["root/usr", "root/etc", "root/proc", "root/dev", "root/tmp", "runsc"] {
            std::fs::create_dir_all(dir.join(d)).unwrap();
        }
        for l in ["bin", "sbin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{l}"), dir.join("root").join(l)).unwrap();
        }
        std::fs::copy(binary("torpor-init"), dir.join("root/init")).unwrap();
        let capabilities = ["CAP_KILL", "CAP_SETUID", "CAP_SETGID"];
        let spec = serde_json::json!({
            "ociVersion": "1.0.0",
            "process": {"args": ["/init"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": [],
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities}},
            "root": {"path": dir.join("root")},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
            ],
            "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]},
        });
        std::fs::write(dir.join("config.json"), spec.to_string()).unwrap();
        let sandbox = Sandbox { runsc, dir };
        let create = format!(
            "exec {} --root $PWD/runsc {} create --bundle $PWD --pid-file $PWD/pid s",
            sandbox.runsc.display(),
            Self::FLAGS
        );
        pod.shim.create(&command(&create, "")).await.unwrap();
        assert!(sandbox.run(&["start", "s"]));
        sandbox
    }

    fn run(&self, args: &[&str]) -> bool {
        let mut command = Command::new(&self.runsc);
        command
            .arg("--root")
            .arg(self.dir.join("runsc"))
            .args(Self::FLAGS.split(' '))
            .args(args)
            .current_dir(&self.dir);
        command.output().is_ok_and(|o| o.status.success())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.run(&["delete", "--force", "s"]);
        let _ = nix::mount::umount2(&self.dir.join("runsc/null-netns"), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_survives_killed_shims_and_loses_no_line() {
    let (true, Some(runsc)) = (is_root(), runsc()) else { return };
    const LAST: u64 = 20_000;
    let mut pod = Pod::bare(500_000, 1000).await;
    let sandbox = Sandbox::new(&pod, runsc).await;
    let pad = "x".repeat(200);
    pod.launch(&format!("seq -f '{pad}%.0f' 1 {LAST}; printf last >&2; exit 9")).await;
    let mut kills = 0;
    while pod.shim.status().await.unwrap().exit.is_none() {
        pod.replace_shim().await;
        kills += 1;
        until("more lines", || async { !pod.log().await.is_empty() }).await;
    }
    let exit = pod.shim.wait().await.unwrap();
    assert_eq!((exit.code, exit.shim_lost, exit.sandbox_died), (Some(9), false, false));
    let lines = pod.log().await;
    let lines: Vec<&str> = lines.iter().filter(|l| l.stream == Stream::Stdout).map(|l| &*l.line).collect();
    assert_eq!(lines.len() as u64, LAST, "after {kills} kills");
    assert!(lines.iter().zip(1..=LAST).all(|(l, n)| **l == format!("{pad}{n}")));
    sandbox.run(&["kill", "s", "KILL"]);
    until("the end of the sandbox", || async { pod.shim.status().await.unwrap().sandbox_pid.is_none() }).await;
    pod.shim.shutdown().await.unwrap();
    assert!(pod.shims.connect(&pod.plan).await.unwrap().is_none());
}

#[tokio::test]
async fn a_program_runs_at_the_cost_of_its_own_fork() {
    let (true, Some(runsc)) = (is_root(), runsc()) else { return };
    let pod = Pod::bare(500_000, 5).await;
    let _sandbox = Sandbox::new(&pod, runsc).await;
    pod.launch("exec sleep 1000").await;
    let mut times = Vec::new();
    for _ in 0..30 {
        let begun = std::time::Instant::now();
        assert_eq!(pod.exec("exit 0").await.exit_code, 0);
        times.push(begun.elapsed());
    }
    times.sort();
    let shim = pod.shim.status().await.unwrap().shim_pid;
    let memory = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
    let pss = memory.lines().find(|l| l.starts_with("Pss:")).unwrap();
    println!("exec: {:?} at best, {:?} in the middle; shim {pss}", times[0], times[15]);
    let input = vec![7; 1 << 20];
    let out = pod.shim.exec(&crate::pod::shell("cat"), input.clone(), None).await.unwrap();
    assert!(out.stdout == input);
}

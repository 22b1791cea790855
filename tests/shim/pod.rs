//! A sandbox without an engine: torpor-init as PID 1 of namespaces of its own, on a root made of the host's directories.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use torpor::channel::{Exec, Launch};
use torpor::host::command::EngineCommand;
use torpor::host::logs::{self, LogLine, LogQuery};
use torpor::host::shim::{RealShims, Shim, ShimPlan, Shims};

/// Whether namespaces can be made here; where that must be so, panics when it is not.
pub(crate) fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let required = std::env::var("TORPOR_TEST_REQUIRE").is_ok_and(|r| r.split([',', ' ']).any(|w| w == "root"));
    assert!(root || !required, "root is required here");
    if !root {
        eprintln!("skipped: it needs root");
    }
    root
}

const CREATE: &str = r#"
set -e
exec 3<&0
unshare --pid --fork --kill-child --mount --uts --propagation private sh -c '
  set -e
  mount -t tmpfs tmpfs root
  for d in usr dev proc etc tmp; do mkdir root/$d; done
  for l in bin sbin lib lib64; do ln -s usr/$l root/$l; done
  mount --bind /usr root/usr; mount --rbind /dev root/dev; mount -t proc proc root/proc
  touch root/init; mount --bind "$INIT" root/init
  cp /etc/passwd /etc/group root/etc/
  exec 0<&3 3<&-
  exec chroot root $MAIN
' &
echo $! > pid
"#;

/// One sandbox and its shim; all of it is gone when dropped.
pub(crate) struct Pod {
    pub(crate) plan: ShimPlan,
    pub(crate) shim: Arc<dyn Shim>,
    pub(crate) shims: RealShims,
    dir: tempfile::TempDir,
}

impl Pod {
    /// A shim without a sandbox.
    pub(crate) async fn bare(log_max_bytes: u64, log_files: u32) -> Pod {
        let dir = tempfile::tempdir().unwrap();
        let plan = ShimPlan { dir: dir.path().join("run"), log_dir: dir.path().join("log"), log_max_bytes, log_files };
        for d in [&plan.dir, &plan.log_dir, &plan.dir.join("root")] {
            std::fs::create_dir(d).unwrap();
        }
        let shims = RealShims::new(binary("torpor-shim"), None);
        let shim = shims.spawn(&plan).await.unwrap();
        Pod { plan, shim, shims, dir }
    }

    /// A shim and a sandbox whose PID 1 is torpor-init.
    pub(crate) async fn new() -> Pod {
        let pod = Pod::bare(10 << 20, 5).await;
        pod.create("/init").await;
        pod
    }

    /// Makes the sandbox with that PID 1.
    pub(crate) async fn create(&self, main: &str) {
        self.shim.create(&command(CREATE, main)).await.unwrap();
    }

    pub(crate) async fn launch(&self, script: &str) {
        self.shim.launch(&launch(script)).await.unwrap();
    }

    pub(crate) async fn kill_shim(&self) {
        let pid = self.shim.status().await.unwrap().shim_pid;
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    }

    /// Kills the shim; another takes over.
    pub(crate) async fn replace_shim(&mut self) {
        self.kill_shim().await;
        self.shim = self.shims.spawn(&self.plan).await.unwrap();
    }

    pub(crate) async fn kill_sandbox(&self) {
        let pid = self.shim.status().await.unwrap().sandbox_pid.unwrap();
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    }

    pub(crate) async fn exec(&self, script: &str) -> torpor::host::shim::ExecOutput {
        self.shim.exec(&shell(script), Vec::new(), None).await.unwrap()
    }

    /// What is in the log now.
    pub(crate) async fn log(&self) -> Vec<LogLine> {
        self.query(LogQuery::default()).await
    }

    pub(crate) async fn query(&self, query: LogQuery) -> Vec<LogLine> {
        let (_ended, over) = tokio::sync::watch::channel(true);
        let stream = logs::read(&self.plan.log_dir, query, over).unwrap();
        stream.map(Result::unwrap).concat().await
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Shim and sandbox are told by their directory.
        for pid in processes(self.dir.path()) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// Processes that work in that directory, or have it in their arguments.
fn processes(dir: &Path) -> Vec<Pid> {
    let ours = |proc: &Path| {
        let cwd = std::fs::read_link(proc.join("cwd")).unwrap_or_default();
        let args = std::fs::read(proc.join("cmdline")).unwrap_or_default();
        cwd.starts_with(dir) || String::from_utf8_lossy(&args).contains(&*dir.to_string_lossy())
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|e| {
        let pid: i32 = e.file_name().to_str()?.parse().ok()?;
        (ours(&e.path()) && pid as u32 != std::process::id()).then_some(Pid::from_raw(pid))
    })
    .collect()
}

/// One of the programs: that of `TORPOR_TEST_BIN`, a directory, or the one just built.
pub(crate) fn binary(name: &str) -> PathBuf {
    let built =
        if name == "torpor-shim" { env!("CARGO_BIN_EXE_torpor-shim") } else { env!("CARGO_BIN_EXE_torpor-init") };
    std::env::var_os("TORPOR_TEST_BIN").map_or(built.into(), |dir| Path::new(&dir).join(name))
}

pub(crate) fn command(script: &str, main: &str) -> EngineCommand {
    let mut command = EngineCommand::new("/bin/sh", ["-c", script]);
    command.env.push(("INIT".into(), binary("torpor-init").to_string_lossy().into_owned()));
    command.env.push(("MAIN".into(), main.into()));
    command
}

pub(crate) fn launch(script: &str) -> Launch {
    Launch { command: words(script), working_dir: "/".into(), hostname: "pod".into(), ..Launch::default() }
}

pub(crate) fn shell(script: &str) -> Exec {
    Exec { command: words(script), ..Exec::default() }
}

fn words(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

/// Waits for what gives no event of its own.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let begun = Instant::now();
    while !check().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "waited for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

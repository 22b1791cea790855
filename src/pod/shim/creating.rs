//! The engine's create command while it runs.
#![allow(unsafe_code, reason = "code between fork and exec")]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt;

use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

use super::open_fifo;

/// Bytes of its log that are quoted.
const QUOTED: u64 = 2000;

pub(super) struct Creating {
    pub(super) pid: i32,
    /// Who asked for it.
    pub(super) connection: u64,
    pub(super) deadline: Instant,
    log: Option<PathBuf>,
}

/// What to run.
pub(super) struct Plan<'a> {
    pub(super) program: &'a Path,
    pub(super) args: &'a [String],
    pub(super) env: &'a [(String, String)],
    pub(super) timeout: Duration,
    pub(super) log: Option<PathBuf>,
}

impl Creating {
    pub(super) fn start(dir: &Path, connection: u64, plan: Plan<'_>) -> std::io::Result<Self> {
        // Openings of its own, for reading and writing: the pod never sees an end of file or a broken pipe when a shim dies.
        let stdio = |name| open_fifo(dir, name).map(Stdio::from);
        let mut command = Command::new(plan.program);
        command.args(plan.args).env_clear().envs(plan.env.iter().map(|(k, v)| (k, v)));
        command.stdin(stdio("in")?).stdout(stdio("out")?).stderr(stdio("err")?).process_group(0).current_dir(dir);
        // SAFETY: system calls only, between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // The shim is spared when memory is short; the sandbox must not be.
                if let Ok(fd) = nix::fcntl::open(
                    c"/proc/self/oom_score_adj",
                    nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_CLOEXEC,
                    nix::sys::stat::Mode::empty(),
                ) {
                    let _ = nix::unistd::write(&fd, b"0");
                }
                SigSet::all().thread_unblock().map_err(Into::into)
            });
        }
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(std::io::Error::other)?;
        Ok(Creating { pid, connection, deadline: Instant::now() + plan.timeout, log: plan.log })
    }

    pub(super) fn kill(&mut self) {
        let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
    }

    /// The end of its log; of the console, if it has none.
    pub(super) fn last_words(&self, dir: &Path) -> String {
        let log = self.log.as_deref().and_then(tail).filter(|t| !t.is_empty());
        log.or_else(|| tail(&dir.join("console.log"))).unwrap_or_default()
    }
}

fn tail(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(QUOTED))).ok()?;
    let mut bytes = Vec::new();
    file.take(QUOTED).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

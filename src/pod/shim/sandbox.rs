//! The sandbox process: made under the shim, watched, its end recorded.
#![allow(unsafe_code, reason = "pidfds and the subreaper flag have no safe wrapper in nix")]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::open_fifo;
use crate::channel::control::ExitRecord;

/// Bytes of the console that are kept.
const CONSOLE_LIMIT: u64 = 256 * 1024;

/// Two shims never serve one sandbox.
pub(super) fn lock(dir: &Path) -> std::io::Result<Flock<File>> {
    let file = File::create(dir.join("shim.lock"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e.into())
}

/// Orphans below us come to us: the sandbox, when `runsc create` has ended.
pub(super) fn become_reaper() -> nix::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// The next child that has ended.
pub(super) fn reap() -> Option<(i32, Option<i32>, Option<i32>)> {
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => return Some((pid.as_raw(), Some(code), None)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => return Some((pid.as_raw(), None, Some(signal as i32))),
            Ok(WaitStatus::StillAlive) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// The engine's create command while it runs.
pub(super) struct Creating {
    pub(super) pid: i32,
    pub(super) connection: u64,
    pub(super) deadline: Instant,
    log: Option<PathBuf>,
}

impl Creating {
    pub(super) fn start(
        dir: &Path,
        connection: u64,
        program: &Path,
        args: &[String],
        env: &[(String, String)],
        timeout: Duration,
        log: Option<PathBuf>,
    ) -> std::io::Result<Self> {
        // Openings of its own, for reading and writing: the pod never sees an end of file or a broken pipe when a shim dies.
        let stdio = |name| open_fifo(dir, name).map(Stdio::from);
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(env.iter().map(|(k, v)| (k, v)));
        command.stdin(stdio("in")?).stdout(stdio("out")?).stderr(stdio("err")?).process_group(0).current_dir(dir);
        // SAFETY: only unblocks signals, between fork and exec.
        unsafe {
            command.pre_exec(|| nix::sys::signal::SigSet::all().thread_unblock().map_err(Into::into));
        }
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(std::io::Error::other)?;
        Ok(Creating { pid, connection, deadline: Instant::now() + timeout, log })
    }

    pub(super) fn kill(&mut self) {
        let _ = nix::sys::signal::killpg(Pid::from_raw(self.pid), nix::sys::signal::Signal::SIGKILL);
    }

    /// The end of its log.
    pub(super) fn log_tail(&self) -> String {
        let read = || -> std::io::Result<String> {
            let path = self.log.as_ref().ok_or_else(|| std::io::Error::other("it has no log"))?;
            let mut file = File::open(path)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(2000)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        read().unwrap_or_else(|e| format!("its log can't be read: {e}"))
    }
}

/// The live sandbox, known by a pidfd so that a pid used again is never taken for it.
#[derive(Default)]
pub(super) struct Sandbox {
    pid: Option<i32>,
    pidfd: Option<OwnedFd>,
}

fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn pidfd_open(pid: i32) -> Option<OwnedFd> {
    // SAFETY: a plain system call; the descriptor it gives is ours alone.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: just opened, owned by nobody else.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Sandbox {
    /// The sandbox that an earlier shim recorded, if it still lives.
    pub(super) fn find(dir: &Path) -> Self {
        let found = || {
            let text = std::fs::read_to_string(dir.join("sandbox")).ok()?;
            let (pid, started) = text.trim().split_once(' ')?;
            let pid: i32 = pid.parse().ok()?;
            let pidfd = pidfd_open(pid)?;
            // Checked after the pidfd is open: the pid can't change hands any more.
            (start_time(pid)? == started.parse::<u64>().ok()?).then_some(Sandbox { pid: Some(pid), pidfd: Some(pidfd) })
        };
        found().unwrap_or_default()
    }

    /// Whether one was ever made here.
    pub(super) fn was_made(&self, dir: &Path) -> bool {
        dir.join("sandbox").exists()
    }

    /// Takes the pid that the engine wrote.
    pub(super) fn learn_pid(&mut self, dir: &Path) -> bool {
        let learnt = || {
            let pid: i32 = std::fs::read_to_string(dir.join("pid")).ok()?.trim().parse().ok()?;
            let pidfd = pidfd_open(pid)?;
            let new = dir.join("sandbox.new");
            std::fs::write(&new, format!("{pid} {}\n", start_time(pid)?)).ok()?;
            std::fs::rename(&new, dir.join("sandbox")).ok()?;
            Some((pid, pidfd))
        };
        match learnt() {
            Some((pid, pidfd)) => {
                (self.pid, self.pidfd) = (Some(pid), Some(pidfd));
                true
            }
            None => false,
        }
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.pid
    }

    pub(super) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn forget(&mut self) {
        *self = Sandbox::default();
    }

    /// Whether it has ended, though we may not have been told yet.
    pub(super) fn is_gone(&self) -> bool {
        let Some(fd) = &self.pidfd else { return true };
        let mut fds = [nix::poll::PollFd::new(fd.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).is_ok_and(|n| n > 0)
    }

    /// How it ended, if the kernel still knows (`PIDFD_GET_INFO`, Linux 6.15) or it is our child.
    pub(super) fn exit_status(&self) -> Option<(Option<i32>, Option<i32>)> {
        let pid = self.pid?;
        match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => return Some((Some(code), None)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Some((None, Some(signal as i32))),
            _ => {}
        }
        let status = pidfd_exit_code(self.pidfd.as_ref()?.as_raw_fd())?;
        if libc::WIFEXITED(status) {
            Some((Some(libc::WEXITSTATUS(status)), None))
        } else {
            Some((None, Some(libc::WTERMSIG(status))))
        }
    }
}

/// The wait status behind a pidfd (`struct pidfd_info` of linux/pidfd.h).
fn pidfd_exit_code(fd: i32) -> Option<i32> {
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroupid: u64,
        pids_and_creds: [u32; 11],
        exit_code: i32,
    }
    const EXIT: u64 = 1 << 3;
    let mut info = Info { mask: EXIT, ..Info::default() };
    // _IOWR(0xFF, 11, struct pidfd_info) with the 64 bytes of its first version.
    let request = (3_u64 << 30) | (64 << 16) | (0xFF << 8) | 11;
    debug_assert_eq!(std::mem::size_of::<Info>(), 64);
    // SAFETY: the kernel writes at most the 64 bytes that the request announces.
    let done = unsafe { libc::ioctl(fd, request, &raw mut info) };
    (done == 0 && info.mask & EXIT != 0).then_some(info.exit_code)
}

/// What the sandbox itself says on stderr: kept, bounded, for people.
pub(super) struct Console {
    fifo: OwnedFd,
    file: File,
    written: u64,
}

impl Console {
    pub(super) fn open(dir: &Path) -> std::io::Result<Self> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("console.log"))?;
        let written = file.metadata()?.len();
        Ok(Console { fifo: open_fifo(dir, "err")?, file, written })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fifo.as_fd()
    }

    pub(super) fn copy(&mut self) {
        let mut bytes = [0_u8; 8192];
        while let Ok(n) = nix::unistd::read(&self.fifo, &mut bytes) {
            if n == 0 {
                return;
            }
            self.keep(&bytes[..n]);
        }
    }

    pub(super) fn say(&mut self, text: &str) {
        self.keep(format!("{text}\n").as_bytes());
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = usize::try_from(CONSOLE_LIMIT.saturating_sub(self.written)).unwrap_or(0);
        let kept = &bytes[..bytes.len().min(room)];
        if self.file.write_all(kept).is_ok() {
            self.written += kept.len() as u64;
        }
    }
}

/// What an earlier shim recorded.
pub(super) fn read_exit(dir: &Path) -> Option<ExitRecord> {
    serde_json::from_slice(&std::fs::read(dir.join("exit.json")).ok()?).ok()
}

/// Records durably how it ended.
pub(super) fn write_exit(dir: &Path, exit: &ExitRecord) -> std::io::Result<()> {
    let new = dir.join("exit.json.new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(exit)?)?;
    file.sync_all()?;
    std::fs::rename(&new, dir.join("exit.json"))?;
    File::open(dir)?.sync_all()
}

//! The sandbox process: made under the shim, watched, its end recorded.
#![allow(unsafe_code, reason = "pidfds and the subreaper flag have no safe wrapper in nix")]

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::channel::control::ExitRecord;

/// How long a predecessor that is dying may hold the lock.
const DYING: Duration = Duration::from_secs(2);

/// Two shims never serve one sandbox.
pub(super) fn lock(dir: &Path) -> std::io::Result<Flock<File>> {
    let open = || File::options().create(true).truncate(false).write(true).mode(0o600).open(dir.join("shim.lock"));
    let begun = Instant::now();
    let mut file = open()?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            // Killed, it gives the lock back when the kernel has taken it apart; nothing tells when.
            Err((unlocked, Errno::EWOULDBLOCK)) if begun.elapsed() < DYING => file = unlocked,
            Err((_, Errno::EWOULDBLOCK)) => return Err(std::io::Error::other("another shim serves this sandbox")),
            Err((_, e)) => return Err(e.into()),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Orphans below us come to us: the sandbox, when `runsc create` has ended.
pub(super) fn become_reaper() -> nix::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// Kills every child of ours; whether there are any. Until it is reaped a child's pid is nobody else's.
pub(super) fn kill_children() -> bool {
    let me = std::process::id();
    let text = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap_or_default();
    let mut some = false;
    for pid in text.split_whitespace().filter_map(|p| p.parse().ok()) {
        some = true;
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    some
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

/// The live sandbox, known by a pidfd so that a pid used again is never taken for it.
#[derive(Default)]
pub(super) struct Sandbox {
    pid: Option<i32>,
    pidfd: Option<OwnedFd>,
    started: u64,
}

/// The fields of `/proc/PID/stat` from the third on.
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// When it was started, in clock ticks since boot: with the pid it names one process.
fn start_time(pid: i32) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

/// The wait status of a process that has ended and that its parent has not taken notice of.
fn zombie_status(pid: i32, started: u64) -> Option<i32> {
    let stat = stat(pid)?;
    let same = stat.get(19)?.parse() == Ok(started) && stat.first()? == "Z";
    same.then(|| stat.get(49)?.parse().ok())?
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
            let (pid, started): (i32, u64) = (pid.parse().ok()?, started.parse().ok()?);
            let pidfd = pidfd_open(pid)?;
            // Checked after the pidfd is open: the pid can't change hands any more.
            (start_time(pid)? == started).then_some(Sandbox { pid: Some(pid), pidfd: Some(pidfd), started })
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
            let started = start_time(pid)?;
            let new = dir.join("sandbox.new");
            std::fs::write(&new, format!("{pid} {started}\n")).ok()?;
            std::fs::rename(&new, dir.join("sandbox")).ok()?;
            Some(Sandbox { pid: Some(pid), pidfd: Some(pidfd), started })
        };
        learnt().map(|s| *self = s).is_some()
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

    /// Kills it: the process that was made here, never another that has its pid.
    pub(super) fn kill(&self) {
        if let Some(fd) = &self.pidfd {
            // SAFETY: a plain system call on a descriptor of ours.
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), libc::SIGKILL, 0, 0) };
        }
    }

    /// Whether it has ended, though we may not have been told yet.
    pub(super) fn is_gone(&self) -> bool {
        let Some(fd) = &self.pidfd else { return true };
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
    }

    /// How it ended, if the kernel still knows (`PIDFD_GET_INFO`, Linux 6.15) or it is our child.
    pub(super) fn exit_status(&self) -> Option<(Option<i32>, Option<i32>)> {
        let pid = self.pid?;
        match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => return Some((Some(code), None)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Some((None, Some(signal as i32))),
            _ => {}
        }
        // Until its parent has taken notice /proc has it, after that the pidfd.
        let status = zombie_status(pid, self.started).or_else(|| pidfd_exit_code(self.pidfd.as_ref()?.as_raw_fd()))?;
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
    let done = unsafe { libc::ioctl(fd, request as _, &raw mut info) };
    (done == 0 && info.mask & EXIT != 0).then_some(info.exit_code)
}

/// What an earlier shim recorded.
pub(super) fn read_exit(dir: &Path) -> Option<ExitRecord> {
    serde_json::from_slice(&std::fs::read(dir.join("exit.json")).ok()?).ok()
}

/// Records durably how it ended.
pub(super) fn write_exit(dir: &Path, exit: &ExitRecord) -> std::io::Result<()> {
    let new = dir.join("exit.json.new");
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(exit)?)?;
    file.sync_all()?;
    std::fs::rename(&new, dir.join("exit.json"))?;
    File::open(dir)?.sync_all()
}

//! Programs on real terminals.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by test binaries that each use a part of it"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

const LONG: Duration = Duration::from_secs(30);

/// A program, run on a terminal of its own.
pub struct Screen {
    pub master: File,
    replica: OwnedFd,
    child: Child,
    text: String,
}

impl Screen {
    /// Runs it, with variables on top of the caller's.
    pub fn run(line: &[&str], env: &[(&str, &str)]) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        resize(&pty.master, 90, 30);
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .args(line)
            .envs(env.iter().copied())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        Screen { master: File::from(pty.master), replica: pty.slave, child, text: String::new() }
    }

    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    fn more(&mut self, end: Instant) {
        let left = end.saturating_duration_since(Instant::now()).as_millis().min(60_000);
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::try_from(i32::try_from(left).unwrap()).unwrap()).unwrap();
        assert!(ready > 0, "nothing more came after {:?}", self.text);
        let mut bytes = [0; 4096];
        let n = self.master.read(&mut bytes).unwrap();
        self.text.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }

    /// Waits until that is shown; what was shown before it is forgotten.
    pub fn shows(&mut self, wanted: &str) -> String {
        let end = Instant::now() + LONG;
        loop {
            if let Some(at) = self.text.find(wanted) {
                let seen = self.text[..at + wanted.len()].to_owned();
                self.text.drain(..at + wanted.len());
                return seen;
            }
            self.more(end);
        }
    }

    /// Whether keys are edited and shown by the terminal itself, as before the program came.
    pub fn is_as_before(&self) -> bool {
        let flags = tcgetattr(&self.replica).unwrap().local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// The exit code, once it has come back and the terminal is what it was.
    pub fn ends(mut self) -> i32 {
        let end = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(self.is_as_before(), "the terminal was not given back");
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < end, "it does not end: {:?}", self.text);
            // What it still says is taken: a full terminal would hold it up.
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(20_u8)).unwrap() > 0 {
                self.more(end);
            }
        }
    }

    /// Pid of the program itself.
    pub fn pid(&self) -> Pid {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let end = Instant::now() + LONG;
        loop {
            let found = std::fs::read_to_string(&children).unwrap_or_default();
            if let Some(pid) = found.split_whitespace().next() {
                return Pid::from_raw(pid.parse().unwrap());
            }
            // It became the program itself where it did not have to fork.
            let name = std::fs::read_to_string(format!("/proc/{}/comm", self.child.id())).unwrap();
            if name.trim() != "setsid" {
                return Pid::from_raw(i32::try_from(self.child.id()).unwrap());
            }
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Gives a terminal a size.
pub fn resize(master: impl AsFd, cols: u16, rows: u16) {
    let size = rustix::termios::Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(master, size).unwrap();
}

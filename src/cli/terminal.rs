//! The caller's own terminal: raw while a program in a pod has it, and given back on every way out.

use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// The terminal on standard input without its own editing and keys, until this is dropped.
pub(super) struct Raw(Option<Termios>);

impl Raw {
    /// Nothing happens if standard input is no terminal.
    pub(super) fn enter() -> std::io::Result<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(Raw(None));
        }
        let saved = tcgetattr(stdin.as_fd())?;
        let mut raw = saved.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw)?;
        Ok(Raw(Some(saved)))
    }

    /// Whether there is a terminal.
    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(saved) = &self.0 {
            // Once what was written has been shown.
            let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Drain, saved);
        }
    }
}

/// Columns and lines of the caller's terminal, if there is one.
pub(super) fn size() -> Option<(u16, u16)> {
    let of = |fd: std::os::fd::BorrowedFd<'_>| tcgetwinsize(fd).ok().map(|w| (w.ws_col, w.ws_row));
    let (stdout, stdin) = (std::io::stdout(), std::io::stdin());
    of(stdout.as_fd()).or_else(|| of(stdin.as_fd())).filter(|(cols, rows)| *cols > 0 && *rows > 0)
}

/// The caller's input, piece by piece; an empty one is its end.
pub(super) fn input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    // A thread of its own: a read can't be broken off, and whoever ends must not wait for it.
    std::thread::spawn(move || {
        let mut bytes = vec![0; 16 * 1024];
        loop {
            let n = match std::io::stdin().lock().read(&mut bytes) {
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            if sender.blocking_send(bytes[..n].to_vec()).is_err() || n == 0 {
                return;
            }
        }
    });
    receiver
}

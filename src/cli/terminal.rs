//! The caller's own terminal: raw while a program in a pod has it, and given back on every way out.

use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// ctrl-p, which begins the keys that leave a program.
const FIRST: u8 = 0x10;
/// ctrl-q, which ends them.
const SECOND: u8 = 0x11;

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

/// Looks for the keys that leave a program.
#[derive(Debug, Default)]
pub(super) struct LeaveKeys {
    begun: bool,
}

impl LeaveKeys {
    /// What of these bytes is for the program, and whether it is to be left. The first key waits for the one after it.
    pub(super) fn take(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len() + 1);
        for byte in bytes {
            match (self.begun, *byte) {
                (true, SECOND) => return (passed, true),
                (false, FIRST) => self.begun = true,
                (true, FIRST) => passed.push(FIRST),
                (begun, other) => {
                    if begun {
                        passed.push(FIRST);
                        self.begun = false;
                    }
                    passed.push(other);
                }
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_leave_are_found_and_all_else_passes() {
        let mut keys = LeaveKeys::default();
        assert_eq!(keys.take(b"ab\x11c"), (b"ab\x11c".to_vec(), false));
        assert_eq!(keys.take(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(keys.take(b"b"), (b"\x10b".to_vec(), false));
        assert_eq!(keys.take(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.take(b"\x11rest"), (Vec::new(), true));
        assert_eq!(LeaveKeys::default().take(b"x\x10\x11y"), (b"x".to_vec(), true));
    }
}

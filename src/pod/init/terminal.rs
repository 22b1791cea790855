//! One terminal: its two ends, what it said, and how far whoever looks at it has been told.
#![allow(unsafe_code, reason = "ioctl: terminals have their size and their session by it")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::pty::{posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown};

use crate::channel::scrollback::{KEPT, Scrollback};
use crate::channel::terminal::{TerminalEnd, TerminalInfo, WindowSize};

/// How long a terminal waits for whoever looks at it to take more, once half of what is kept was not sent.
const PATIENCE_MS: i64 = 2000;
/// Bytes of output in one message.
const PIECE: usize = 32 * 1024;
/// The group of terminals, as distributions number it.
const TTY: Gid = Gid::from_raw(5);

nix::ioctl_write_ptr_bad!(set_window, nix::libc::TIOCSWINSZ, nix::libc::winsize);
nix::ioctl_write_int_bad!(take_terminal, nix::libc::TIOCSCTTY);

/// Both ends of a new terminal. The first never blocks.
pub(super) struct Pty {
    pub(super) master: OwnedFd,
    pub(super) replica: OwnedFd,
}

impl Pty {
    /// A new one, of that user's.
    pub(super) fn open(size: WindowSize, user: Uid) -> nix::Result<Self> {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        unlockpt(&master)?;
        let name = ptsname_r(&master)?;
        let replica = open(name.as_str(), OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty())?;
        // As login does: what runs on it may open it by its name. Where the file system can't, it has it open already.
        let _ = fchown(&replica, Some(user), Some(TTY));
        let _ = fchmod(&replica, Mode::from_bits_truncate(0o620));
        let master = OwnedFd::from(master);
        resize(master.as_fd(), size)?;
        Ok(Pty { master, replica })
    }
}

/// Gives a terminal a size.
pub(super) fn resize(master: BorrowedFd<'_>, size: WindowSize) -> nix::Result<()> {
    let window = nix::libc::winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open, and the structure is read only.
    unsafe { set_window(master.as_raw_fd(), &raw const window) }.map(drop)
}

/// Makes a terminal that of the calling process's session.
pub(super) fn become_session_of(replica: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: takes no pointer.
    unsafe { take_terminal(replica.as_raw_fd(), 0) }.map(drop)
}

/// How far somebody has been told.
#[derive(Debug, Clone)]
struct Look {
    /// Place of the next byte.
    at: u64,
    /// Where to stop: so many bytes behind what was had.
    upto: u64,
    window: u64,
    /// Bytes that were passed over, with the place of the first that was sent after them. They are in nobody's way.
    gaps: Vec<(u64, u64)>,
    /// Since when the terminal waits.
    stuck: Option<i64>,
    /// It was waited for long enough.
    given_up: bool,
    told_end: bool,
}

impl Look {
    /// How many bytes may be sent now.
    fn room(&self) -> usize {
        let skipped: u64 = self.gaps.iter().map(|(_, bytes)| bytes).sum();
        usize::try_from(self.upto.saturating_add(skipped).saturating_sub(self.at)).unwrap_or(usize::MAX)
    }

    /// Passes over what is not kept any more.
    fn skip_to(&mut self, start: u64) {
        if start > self.at {
            self.gaps.push((start, start - self.at));
            self.at = start;
        }
    }

    fn allow(&mut self, upto: u64) {
        self.upto = self.upto.max(upto);
        let had = self.upto.saturating_sub(self.window);
        self.gaps.retain(|(place, _)| *place > had);
    }

    /// Whether so much is still to be sent that more would soon be lost.
    fn lags(&self, end: u64) -> bool {
        end.saturating_sub(self.at) > KEPT as u64 / 2
    }
}

/// What init knows of a terminal besides its program.
pub(super) struct Terminal {
    pub(super) id: String,
    pub(super) command: Vec<String>,
    pub(super) size: WindowSize,
    /// Held open until its program has ended: without it, a terminal that nobody has open for a moment is hung up.
    pub(super) replica: Option<OwnedFd>,
    /// When its program is killed, by the monotonic clock.
    pub(super) deadline: Option<i64>,
    pub(super) timed_out: bool,
    pub(super) end: Option<TerminalEnd>,
    /// Nobody is to see it any more.
    pub(super) removed: bool,
    created: i64,
    scrollback: Scrollback,
    look: Option<Look>,
}

impl Terminal {
    pub(super) fn new(id: String, command: Vec<String>, size: WindowSize, replica: Option<OwnedFd>) -> Self {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).map_or(0, |t| t.tv_sec());
        Terminal {
            id,
            command,
            size,
            replica,
            deadline: None,
            timed_out: false,
            end: None,
            removed: false,
            created: now,
            scrollback: Scrollback::default(),
            look: None,
        }
    }

    pub(super) fn info(&self, pid: i32) -> TerminalInfo {
        TerminalInfo {
            id: self.id.clone(),
            command: self.command.clone(),
            pid,
            size: self.size,
            created: self.created,
            end: self.end,
        }
    }

    /// Place of the next byte.
    pub(super) fn place(&self) -> u64 {
        self.scrollback.end()
    }

    /// Somebody looks: from that place, or from the oldest that is kept. Gives the place of the first byte to come.
    pub(super) fn look(&mut self, from: Option<u64>, window: u64) -> u64 {
        // A place that is still to come is one of another life of this terminal.
        let known = from.filter(|f| *f <= self.scrollback.end());
        let at = known.map_or_else(|| self.scrollback.beginning(), |f| f.max(self.scrollback.start()));
        let upto = at.saturating_add(window);
        self.look = Some(Look { at, upto, window, gaps: Vec::new(), stuck: None, given_up: false, told_end: false });
        at
    }

    pub(super) fn look_away(&mut self) {
        self.look = None;
    }

    /// More may be sent.
    pub(super) fn allow(&mut self, upto: u64, now: i64) {
        let end = self.scrollback.end();
        if let Some(look) = &mut self.look {
            look.allow(upto);
            // It reads: it is waited for anew, and until it has come nearer. Each small step must not cost it a piece.
            look.given_up = false;
            look.stuck = look.lags(end).then_some(now);
        }
    }

    /// Takes what its program said.
    pub(super) fn take(&mut self, data: &[u8], now: i64) {
        self.scrollback.push(data);
        let end = self.scrollback.end();
        if let Some(look) = &mut self.look
            && look.lags(end)
            && !look.given_up
        {
            look.stuck.get_or_insert(now);
        }
    }

    /// Whether its program has to wait: whoever looks would miss something.
    pub(super) fn waits(&self) -> bool {
        self.look.as_ref().is_some_and(|l| l.stuck.is_some())
    }

    /// When something is to be done about it.
    pub(super) fn wakes_at(&self) -> Option<i64> {
        let patience = self.look.as_ref().and_then(|l| l.stuck).map(|t| t + PATIENCE_MS);
        let deadline = self.deadline.filter(|_| self.end.is_none());
        patience.into_iter().chain(deadline).min()
    }

    /// Goes on without whoever does not read. Whether its program's time is over.
    pub(super) fn on_timer(&mut self, now: i64) -> bool {
        if let Some(look) = &mut self.look
            && look.stuck.is_some_and(|t| t + PATIENCE_MS <= now)
        {
            (look.stuck, look.given_up) = (None, true);
        }
        let over = self.end.is_none() && self.deadline.is_some_and(|t| t <= now);
        if over {
            self.deadline = None;
            self.timed_out = !self.removed;
        }
        over
    }

    /// The next piece of output to send, with its place.
    pub(super) fn next_piece(&mut self) -> Option<(u64, Vec<u8>)> {
        let look = self.look.as_mut()?;
        let most = PIECE.min(look.room());
        if most == 0 || look.at == self.scrollback.end() {
            return None;
        }
        look.skip_to(self.scrollback.start());
        let (place, data) = self.scrollback.read(look.at, most);
        look.at = place + data.len() as u64;
        if !look.lags(self.scrollback.end()) {
            look.stuck = None;
        }
        Some((place, data))
    }

    /// Its end, if all else was sent and that is still to be told.
    pub(super) fn end_to_tell(&mut self) -> Option<TerminalEnd> {
        let look = self.look.as_mut()?;
        if look.told_end || look.at < self.scrollback.end() {
            return None;
        }
        look.told_end = self.end.is_some();
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal() -> Terminal {
        Terminal::new("t".into(), vec!["sh".into()], WindowSize::default(), None)
    }

    #[test]
    fn output_is_sent_as_far_as_allowed_and_the_end_last() {
        let mut t = terminal();
        t.take(b"before ", 0);
        assert_eq!(t.next_piece(), None, "nobody looks");
        assert_eq!(t.look(None, 10), 0);
        t.take(b"and after", 0);
        assert_eq!(t.next_piece(), Some((0, b"before and".to_vec())));
        assert_eq!((t.next_piece(), t.end_to_tell()), (None, None));
        let end = TerminalEnd { code: Some(3), ..TerminalEnd::default() };
        t.end = Some(end);
        assert_eq!(t.end_to_tell(), None, "not all was sent");
        t.allow(100, 0);
        assert_eq!(t.next_piece(), Some((10, b" after".to_vec())));
        assert_eq!((t.end_to_tell(), t.end_to_tell()), (Some(end), None));
        // Another look from the middle, and one from another life's place.
        assert_eq!((t.look(Some(10), 3), t.next_piece()), (10, Some((10, b" af".to_vec()))));
        assert_eq!(t.look(Some(1 << 30), 3), 0);
    }

    #[test]
    fn a_terminal_waits_for_its_reader_but_not_for_ever() {
        let mut t = terminal();
        t.look(None, 1000);
        t.take(&vec![b'x'; KEPT / 2], 5);
        while t.next_piece().is_some() {}
        t.take(&vec![b'x'; KEPT / 2 + 2000], 7);
        assert!(t.waits());
        assert_eq!(t.wakes_at(), Some(7 + PATIENCE_MS));
        t.on_timer(6 + PATIENCE_MS);
        assert!(t.waits());
        t.allow(2000, 9);
        assert_eq!(t.wakes_at(), Some(9 + PATIENCE_MS), "it reads again");
        assert!(t.next_piece().is_some() && t.waits(), "but has not come near");
        t.on_timer(9 + PATIENCE_MS);
        assert!(!t.waits() && t.wakes_at().is_none());
        t.take(&vec![b'x'; KEPT], 20);
        assert!(!t.waits(), "it does not read");
        let start = t.scrollback.start();
        assert_eq!((t.next_piece(), t.next_piece()), (None, None), "the oldest are gone, and there is no room");
        t.allow(2100, 21);
        let (place, data) = t.next_piece().unwrap();
        assert_eq!((place, data.len()), (start, 100), "what was passed over takes no room");
        t.look_away();
        t.take(&vec![b'x'; KEPT], 20);
        assert!(!t.waits() && t.next_piece().is_none());
    }

    #[test]
    fn who_reads_in_small_steps_misses_nothing() {
        const WINDOW: u64 = 1000;
        let mut t = terminal();
        t.look(None, WINDOW);
        let (mut had, mut said) = (0, 0);
        for n in 0..50_000 {
            if !t.waits() {
                t.take(&[b'x'; 4096], n);
                said += 4096;
            }
            while let Some((place, data)) = t.next_piece() {
                assert_eq!(place, had);
                had += data.len() as u64;
            }
            t.allow(had - had.min(3) + WINDOW, n);
            t.on_timer(n);
        }
        assert!(had > 10_000_000 && said - had <= KEPT as u64);
    }

    #[test]
    fn who_was_given_up_and_reads_again_gets_the_rest() {
        const WINDOW: u64 = 1000;
        let mut t = terminal();
        t.look(None, WINDOW);
        let (mut had, mut missed) = (0, 0);
        for round in 0..20 {
            for _ in 0..20 {
                t.take(&[b'x'; 65536], round * 10_000);
                t.on_timer(round * 10_000 + PATIENCE_MS);
            }
            // It has taken what was sent before, a half of it at a time.
            let mut flying = Vec::new();
            for _ in 0..4 {
                while let Some(piece) = t.next_piece() {
                    flying.push(piece);
                }
                assert!(flying.iter().map(|(_, d)| d.len() as u64).sum::<u64>() <= WINDOW);
                for (place, data) in flying.drain(..flying.len().div_ceil(2)) {
                    missed += place - had;
                    had = place + data.len() as u64;
                    t.allow(had + WINDOW, round * 10_000);
                }
            }
            for (place, data) in flying {
                missed += place - had;
                had = place + data.len() as u64;
            }
        }
        assert!(missed > 0);
        t.allow(had + WINDOW, 0);
        while let Some((place, data)) = t.next_piece() {
            had = place + data.len() as u64;
            t.allow(had + WINDOW, 0);
        }
        assert_eq!(had, t.scrollback.end());
        t.end = Some(TerminalEnd::default());
        assert!(t.end_to_tell().is_some());
    }

    #[test]
    fn time_that_is_over_is_told_once() {
        let mut t = terminal();
        t.deadline = Some(100);
        assert_eq!((t.wakes_at(), t.on_timer(99), t.on_timer(100), t.on_timer(101)), (Some(100), false, true, false));
        assert!(t.timed_out);
    }
}

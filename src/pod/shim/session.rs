//! The conversation with init over its FIFOs.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{read, write};

use super::open_fifo;
use crate::channel::{Decoder, Event, Frame, Request, VERSION};

/// Frames waiting to be written before no more input for programs is taken.
const BACKED_UP: usize = 1024;
/// Bytes read from init in one turn: whatever it sends, everything else gets its turn too.
const BUDGET: usize = 256 * 1024;

pub(super) struct Session {
    to_init: OwnedFd,
    from_init: OwnedFd,
    decoder: Decoder,
    queue: VecDeque<Vec<u8>>,
    number: u64,
    begun: bool,
    open: bool,
    /// While init is quiet for a checkpoint: what there is to say.
    later: Option<VecDeque<Vec<u8>>>,
    budget: usize,
    /// Number of the last frame that was taken.
    had: u64,
    acknowledged: u64,
}

impl Session {
    pub(super) fn open(dir: &Path, had: u64) -> std::io::Result<Self> {
        let mut raw = [0_u8; 8];
        getrandom::fill(&mut raw).map_err(|e| std::io::Error::other(e.to_string()))?;
        Ok(Session {
            to_init: open_fifo(dir, "in")?,
            from_init: open_fifo(dir, "out")?,
            decoder: Decoder::default(),
            queue: VecDeque::new(),
            number: u64::from_le_bytes(raw),
            begun: false,
            open: false,
            later: None,
            budget: 0,
            had,
            acknowledged: had,
        })
    }

    /// A random number of this shim's.
    pub(super) fn random(&self) -> u64 {
        self.number
    }

    /// Begins the conversation, once.
    pub(super) fn begin(&mut self) {
        if !self.begun {
            self.begun = true;
            self.say(&Request::Hello { version: VERSION, session: self.number, acknowledged: self.had });
        }
    }

    /// Whether init has answered.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn say(&mut self, request: &Request) {
        self.later.as_mut().unwrap_or(&mut self.queue).extend(request.frames());
    }

    /// Asks init to be quiet. What there is to say after that waits for [`Session::resume`]: a checkpoint must not find
    /// half a conversation.
    pub(super) fn quiesce(&mut self) {
        self.queue.extend(Request::Quiesce.frames());
        self.later.get_or_insert_default();
    }

    /// Lets init, and what waited, go on.
    pub(super) fn resume(&mut self) {
        self.queue.extend(Request::Resume.frames());
        self.queue.extend(self.later.take().unwrap_or_default());
    }

    /// Acknowledges all that was taken.
    pub(super) fn acknowledge(&mut self) {
        if self.had > self.acknowledged && self.open {
            self.acknowledged = self.had;
            self.queue.extend(Request::Ack(self.had).frames());
        }
    }

    pub(super) fn output(&self) -> BorrowedFd<'_> {
        self.from_init.as_fd()
    }

    pub(super) fn input(&self) -> BorrowedFd<'_> {
        self.to_init.as_fd()
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn is_backed_up(&self) -> bool {
        self.queue.len() + self.later.as_ref().map_or(0, VecDeque::len) > BACKED_UP
    }

    /// Writes what the FIFO takes: each frame whole or not at all.
    pub(super) fn flush(&mut self) {
        while let Some(frame) = self.queue.front() {
            match write(&self.to_init, frame) {
                Ok(_) => drop(self.queue.pop_front()),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Allows another turn's reading.
    pub(super) fn allow(&mut self) {
        self.budget = BUDGET;
    }

    /// The next event of this conversation, with its number if it has one, as long as reading is allowed. What was had
    /// already, or belongs to an earlier conversation, is passed over.
    pub(super) fn next_event(&mut self) -> Option<(u64, Event)> {
        loop {
            if let Some(event) = self.take() {
                return Some(event);
            }
            if self.budget == 0 {
                return None;
            }
            let mut bytes = [0_u8; 64 * 1024];
            match read(&self.from_init, &mut bytes) {
                Ok(n) if n > 0 => {
                    self.budget = self.budget.saturating_sub(n);
                    if self.begun {
                        self.decoder.push(&bytes[..n]);
                    }
                }
                Err(Errno::EINTR) => {}
                _ => return None,
            }
        }
    }

    fn take(&mut self) -> Option<(u64, Event)> {
        if !self.open {
            // Before the answer to our hello stands what was meant for a predecessor, perhaps from the middle of a frame.
            let number = self.number;
            let ours = |f: &Frame| matches!(Event::parse(f), Some(Event::Hello { session, .. }) if session == number);
            let hello = self.decoder.find(ours)?;
            self.open = true;
            return Event::parse(&hello).map(|e| (0, e));
        }
        while let Some(frame) = self.decoder.next_frame() {
            match Event::parse(&frame) {
                Some(event) if !event.is_numbered() => return Some((0, event)),
                Some(event) if frame.sequence > self.had => {
                    self.had = frame.sequence;
                    return Some((frame.sequence, event));
                }
                _ => {}
            }
        }
        None
    }
}

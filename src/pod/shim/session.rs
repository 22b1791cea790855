//! The conversation with init over its FIFOs.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{read, write};

use super::open_fifo;
use crate::channel::{Decoder, Event, Request, VERSION};

/// Frames waiting to be written before torpord's connections are not read any more.
const BACKED_UP: usize = 1024;

pub(super) struct Session {
    to_init: OwnedFd,
    from_init: OwnedFd,
    decoder: Decoder,
    queue: VecDeque<Vec<u8>>,
    number: u64,
    begun: bool,
    open: bool,
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
            had,
            acknowledged: had,
        })
    }

    /// A random number of this shim's.
    pub(super) fn random(&self) -> u64 {
        self.number
    }

    pub(super) fn hello(&mut self) -> std::io::Result<()> {
        self.begun = true;
        self.say(&Request::Hello { version: VERSION, session: self.number, acknowledged: self.had });
        Ok(())
    }

    pub(super) fn is_begun(&self) -> bool {
        self.begun
    }

    /// Whether init has answered.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn say(&mut self, request: &Request) {
        self.queue.extend(request.frames());
    }

    pub(super) fn acknowledge(&mut self, sequence: u64) {
        if sequence > self.acknowledged && self.open {
            self.acknowledged = sequence;
            self.say(&Request::Ack(sequence));
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
        self.queue.len() > BACKED_UP
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

    /// The next event of this conversation with its number. What was had already, or belongs to an earlier
    /// conversation, is passed over.
    pub(super) fn next_event(&mut self) -> Option<(u64, Event)> {
        loop {
            if let Some(frame) = self.decoder.next_frame() {
                let Some(event) = Event::parse(&frame) else { continue };
                if let Event::Hello { session, .. } = event {
                    self.open |= session == self.number;
                }
                let fresh = event.is_numbered() && frame.sequence > self.had;
                if !self.open || (event.is_numbered() && !fresh) {
                    continue;
                }
                if fresh {
                    self.had = frame.sequence;
                }
                return Some((if event.is_numbered() { frame.sequence } else { 0 }, event));
            }
            let mut bytes = [0_u8; 64 * 1024];
            match read(&self.from_init, &mut bytes) {
                Ok(n) if n > 0 => self.decoder.push(&bytes[..n]),
                Err(Errno::EINTR) => {}
                _ => return None,
            }
        }
    }
}

//! What init has to say, and what it keeps until it is acknowledged.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::write;

use crate::channel::Event;

/// Bytes kept before programs are made to wait.
const FULL: usize = 1 << 20;

pub(super) struct Outbox {
    fd: OwnedFd,
    /// Nothing is written before a shim has said hello.
    open: bool,
    next: u64,
    kept: VecDeque<(u64, Vec<u8>)>,
    kept_bytes: usize,
    /// What is to be written, in order; the first may be written in part.
    queue: VecDeque<Vec<u8>>,
    written: usize,
}

impl Outbox {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Outbox { fd, open: false, next: 1, kept: VecDeque::new(), kept_bytes: 0, queue: VecDeque::new(), written: 0 }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A new conversation: what was half written is forgotten, what was not had is sent again.
    pub(super) fn begin(&mut self, hello: &Event, acknowledged: u64) {
        self.acknowledge(acknowledged);
        self.open = true;
        self.written = 0;
        self.queue.clear();
        self.queue.push_back(hello.encode(0));
        self.queue.extend(self.kept.iter().map(|(_, bytes)| bytes.clone()));
    }

    /// Says something that needs no keeping.
    pub(super) fn say(&mut self, event: &Event) {
        if self.open {
            self.queue.push_back(event.encode(0));
        }
    }

    /// Says something that is kept until it is acknowledged.
    pub(super) fn say_numbered(&mut self, event: &Event) {
        let bytes = event.encode(self.next);
        if self.open {
            self.queue.push_back(bytes.clone());
        }
        self.kept_bytes += bytes.len();
        self.kept.push_back((self.next, bytes));
        self.next += 1;
    }

    pub(super) fn acknowledge(&mut self, sequence: u64) {
        while self.kept.front().is_some_and(|(n, _)| *n <= sequence) {
            if let Some((_, bytes)) = self.kept.pop_front() {
                self.kept_bytes -= bytes.len();
            }
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.kept_bytes >= FULL
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether all has been written and acknowledged.
    pub(super) fn is_settled(&self) -> bool {
        self.queue.is_empty() && self.kept.is_empty()
    }

    pub(super) fn flush(&mut self) {
        while let Some(first) = self.queue.front() {
            match write(&self.fd, &first[self.written..]) {
                Ok(n) => {
                    self.written += n;
                    if self.written == first.len() {
                        self.queue.pop_front();
                        self.written = 0;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => return, // full, or nobody reads: poll tells when that changes
            }
        }
    }
}

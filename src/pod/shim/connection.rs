//! One connection of torpord's.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::channel::control::{self, Answer};

/// Bytes waiting to be taken by a client before nothing more is read from init.
const FULL: usize = 1 << 20;
/// A client that takes nothing for that long, while the pod waits for it, gets no more output.
pub(super) const STALL: Duration = Duration::from_secs(2);

pub(super) struct Connection {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: VecDeque<Vec<u8>>,
    outbox_bytes: usize,
    written: usize,
    /// When it last took something.
    moved: Instant,
    stalled: bool,
    closed: bool,
}

/// The shim's socket; one that a dead shim left is replaced.
pub(super) fn listen(path: &Path) -> std::io::Result<UnixListener> {
    let new = path.with_extension("new");
    for old in [path, &new] {
        match std::fs::remove_file(old) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    std::fs::rename(&new, path)?; // it appears when it answers
    Ok(listener)
}

impl Connection {
    /// The next one that waits, if it is of our own user.
    pub(super) fn accept(listener: &UnixListener) -> Option<Self> {
        loop {
            let (stream, _) = listener.accept().ok()?;
            let ours = getsockopt(&stream, PeerCredentials).is_ok_and(|c| c.uid() == nix::unistd::geteuid().as_raw());
            if ours && stream.set_nonblocking(true).is_ok() {
                return Some(Connection {
                    stream,
                    inbox: Vec::new(),
                    outbox: VecDeque::new(),
                    outbox_bytes: 0,
                    written: 0,
                    moved: Instant::now(),
                    stalled: false,
                    closed: false,
                });
            }
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Nothing more is said on it.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Bytes that wait to be taken.
    pub(super) fn backlog(&self) -> usize {
        self.outbox_bytes
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// The whole messages that have come.
    pub(super) fn read(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut bytes = [0_u8; 64 * 1024];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    self.closed = true;
                    break;
                }
                Ok(n) => {
                    self.inbox.extend_from_slice(&bytes[..n]);
                    if self.inbox.len() > control::MAX_MESSAGE {
                        break;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.closed = true;
                    break;
                }
            }
        }
        let mut messages = Vec::new();
        loop {
            match control::take(&mut self.inbox) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return messages,
                Err(_) => {
                    self.closed = true;
                    return messages;
                }
            }
        }
    }

    pub(super) fn answer(&mut self, answer: &Answer) {
        self.queue(control::encode_json(answer));
    }

    /// Sends output; false: a client that does not take it loses it.
    pub(super) fn send(&mut self, kind: u8, data: &[u8]) -> bool {
        if !self.stalled {
            self.queue(control::encode(kind, data));
        }
        !self.stalled
    }

    /// Until when the pod waits for this client to take what there is for it; none: it need not wait.
    pub(super) fn patience(&self) -> Option<Instant> {
        (self.outbox_bytes > FULL && !self.stalled).then(|| self.moved + STALL)
    }

    /// Gives it up, if it took nothing for too long.
    pub(super) fn lose_patience(&mut self, now: Instant) {
        self.stalled |= self.patience().is_some_and(|t| t <= now);
    }

    fn queue(&mut self, bytes: Vec<u8>) {
        if self.outbox.is_empty() {
            self.moved = Instant::now();
        }
        self.outbox_bytes += bytes.len();
        self.outbox.push_back(bytes);
        self.flush();
    }

    pub(super) fn flush(&mut self) {
        while let Some(first) = self.outbox.front() {
            match self.stream.write(&first[self.written..]) {
                Ok(n) => {
                    self.moved = Instant::now();
                    self.written += n;
                    if self.written == first.len() {
                        self.outbox_bytes -= first.len();
                        self.outbox.pop_front();
                        self.written = 0;
                        self.stalled &= !self.outbox.is_empty();
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }
}

//! Frames: bytes in, frames out; and the other way.

use zeroize::Zeroize;

/// Bytes that a FIFO takes whole or not at all (`PIPE_BUF` on Linux).
pub const ATOMIC: usize = 4096;
/// Longest body of a frame.
pub const MAX_BODY: usize = 128 * 1024;
/// Longest message that fragments may add up to.
const MAX_MESSAGE: usize = 4 << 20;

/// The kind of frames whose bodies are overwritten as soon as they are of no more use: secrets.
pub(super) const SECRETS: u8 = 40;

const MAGIC: u32 = 0x3143_5054;
const HEADER: usize = 24;
const MORE: u8 = 1;

/// One frame, its fragments joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is: see the message types.
    pub kind: u8,
    /// Its number, 0 if it is not kept.
    pub sequence: u64,
    /// Its body.
    pub body: Vec<u8>,
}

fn check(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

fn put(out: &mut Vec<u8>, kind: u8, flags: u8, sequence: u64, body: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&[kind, flags, 0, 0]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    let sum = check(&out[start..]);
    out.extend_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(body);
}

struct Header {
    kind: u8,
    flags: u8,
    sequence: u64,
    length: usize,
}

/// The header that these bytes begin with; none if they don't, or are too few.
fn header(bytes: &[u8]) -> Option<Header> {
    let h: &[u8; HEADER] = bytes.first_chunk()?;
    let word = |i: usize| u32::from_le_bytes([h[i], h[i + 1], h[i + 2], h[i + 3]]);
    let length = word(16) as usize;
    let good = word(0) == MAGIC && word(20) == check(&h[..20]) && length <= MAX_BODY;
    let sequence = u64::from(word(8)) | u64::from(word(12)) << 32;
    good.then_some(Header { kind: h[4], flags: h[5], sequence, length })
}

/// One frame as bytes. A body longer than [`MAX_BODY`] goes in fragments.
pub fn encode(kind: u8, sequence: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    let mut rest = body;
    while rest.len() > MAX_BODY {
        put(&mut out, kind, MORE, sequence, &rest[..MAX_BODY]);
        rest = &rest[MAX_BODY..];
    }
    put(&mut out, kind, 0, sequence, rest);
    out
}

/// A message as frames that are each written whole or not at all.
pub fn encode_fragments(kind: u8, sequence: u64, body: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut rest = body;
    loop {
        let n = rest.len().min(ATOMIC - HEADER);
        let more = rest.len() > n;
        let mut out = Vec::with_capacity(HEADER + n);
        put(&mut out, kind, u8::from(more) * MORE, sequence, &rest[..n]);
        frames.push(out);
        rest = &rest[n..];
        if !more {
            return frames;
        }
    }
}

/// Takes bytes as they come and gives frames. Bytes that are no frame are skipped; memory is bounded.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    at: usize,
    partial: Option<Frame>,
    skipped: u64,
}

impl Frame {
    /// Whether it holds secrets, so that it is to be overwritten.
    pub fn is_secret(&self) -> bool {
        self.kind == SECRETS
    }
}

/// Adds to a body; nothing of either is left where it was.
fn join_secret(body: &mut Vec<u8>, mut more: Vec<u8>) {
    if body.capacity() - body.len() < more.len() {
        let mut larger = Vec::with_capacity(2 * body.capacity() + more.len());
        larger.extend_from_slice(body);
        body.zeroize();
        *body = larger;
    }
    body.extend_from_slice(&more);
    more.zeroize();
}

impl Decoder {
    /// With room for so many bytes: as long as they are enough none is copied to another place.
    pub fn with_room(bytes: usize) -> Self {
        Decoder { buffer: Vec::with_capacity(bytes), ..Decoder::default() }
    }

    /// Whether a message with secrets has come in part.
    pub fn awaits_secrets(&self) -> bool {
        self.partial.as_ref().is_some_and(Frame::is_secret)
    }

    /// Overwrites all that was had already.
    pub fn scrub(&mut self) {
        self.buffer.drain(..self.at);
        self.at = 0;
        let (used, all) = (self.buffer.len(), self.buffer.capacity());
        self.buffer.resize(all, 0);
        self.buffer[used..].zeroize();
        self.buffer.truncate(used);
    }

    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at > 0 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that were no part of a frame, so far.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Forgets the fragments of a message that is not complete.
    pub fn forget_partial(&mut self) {
        self.partial = None;
    }

    fn skip(&mut self, n: usize) {
        self.at += n;
        self.skipped += n as u64;
        self.partial = None;
    }

    /// Looks for one frame among bytes that may begin in the middle of another, and drops all before it.
    ///
    /// What a program wrote may look like a header and announce more than will ever come, so each place is looked at and
    /// none is waited for: only a short frame that `is_it` accepts counts.
    pub fn find(&mut self, is_it: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let bytes = &self.buffer[self.at..];
        let mut keep = bytes.len().saturating_sub(HEADER - 1);
        let mut found = None;
        for (at, _) in bytes.iter().enumerate().filter(|(_, b)| **b == MAGIC.to_le_bytes()[0]) {
            let Some(head) = header(&bytes[at..]).filter(|h| h.length <= ATOMIC && h.flags & MORE == 0) else {
                continue;
            };
            match bytes.get(at + HEADER..at + HEADER + head.length) {
                None => keep = keep.min(at),
                Some(body) => {
                    let frame = Frame { kind: head.kind, sequence: head.sequence, body: body.to_vec() };
                    if is_it(&frame) {
                        keep = at + HEADER + head.length;
                        found = Some(frame);
                        break;
                    }
                }
            }
        }
        self.skip(keep);
        found
    }

    /// The next whole frame, if there is one.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let rest = &self.buffer[self.at..];
            if rest.len() < HEADER {
                return None;
            }
            let Some(Header { kind, flags, sequence, length }) = header(rest) else {
                // The next place where a header may begin.
                let n = rest[1..].iter().position(|b| *b == MAGIC.to_le_bytes()[0]).map_or(rest.len(), |n| n + 1);
                self.skip(n);
                continue;
            };
            if rest.len() < HEADER + length {
                return None;
            }
            let body = rest[HEADER..HEADER + length].to_vec();
            self.at += HEADER + length;
            let frame = match self.partial.take() {
                Some(mut begun) if begun.kind == kind && begun.sequence == sequence => {
                    if kind == SECRETS {
                        join_secret(&mut begun.body, body);
                    } else {
                        begun.body.extend_from_slice(&body);
                    }
                    begun
                }
                _ => Frame { kind, sequence, body },
            };
            if frame.body.len() > MAX_MESSAGE {
                self.skipped += frame.body.len() as u64;
                continue;
            }
            if flags & MORE == 0 {
                return Some(frame);
            }
            self.partial = Some(frame);
        }
    }
}

//! Frames: bytes in, frames out; and the other way.

/// Bytes that a FIFO takes whole or not at all (`PIPE_BUF` on Linux).
pub const ATOMIC: usize = 4096;
/// Longest body of a frame.
pub const MAX_BODY: usize = 128 * 1024;
/// Longest message that fragments may add up to.
const MAX_MESSAGE: usize = 4 << 20;

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

impl Decoder {
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

    /// The next whole frame, if there is one.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let rest = &self.buffer[self.at..];
            if rest.len() < HEADER {
                return None;
            }
            let word = |i: usize| u32::from_le_bytes([rest[i], rest[i + 1], rest[i + 2], rest[i + 3]]);
            let length = word(16) as usize;
            if word(0) != MAGIC || word(20) != check(&rest[..20]) || length > MAX_BODY {
                // The next place where a header may begin.
                let n = rest[1..].iter().position(|b| *b == MAGIC.to_le_bytes()[0]).map_or(rest.len(), |n| n + 1);
                self.skip(n);
                continue;
            }
            if rest.len() < HEADER + length {
                return None;
            }
            let (kind, flags) = (rest[4], rest[5]);
            let sequence = u64::from(word(8)) | u64::from(word(12)) << 32;
            let body = rest[HEADER..HEADER + length].to_vec();
            self.at += HEADER + length;
            let frame = match self.partial.take() {
                Some(mut begun) if begun.kind == kind && begun.sequence == sequence => {
                    begun.body.extend_from_slice(&body);
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

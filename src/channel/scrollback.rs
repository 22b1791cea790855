//! The last bytes of a terminal, each known by its place among all that the terminal ever said.
//!
//! Places make it simple to go on after anything that broke: whoever has read up to a place asks for what comes after it,
//! and gets each byte once, or is told that the oldest are gone.

use std::collections::VecDeque;

/// Bytes kept of each terminal.
pub const KEPT: usize = 256 * 1024;
/// How far the end of a line is looked for, so that what is shown first begins with a whole one.
const LINE: usize = 4096;

/// The last bytes. Memory is bounded by what is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scrollback {
    start: u64,
    bytes: VecDeque<u8>,
}

impl Scrollback {
    /// Nothing yet; the next byte has that place.
    pub fn at(start: u64) -> Self {
        Scrollback { start, bytes: VecDeque::new() }
    }

    /// Place of the oldest byte that is kept.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Place that the next byte will have.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Takes more bytes; the oldest go.
    pub fn push(&mut self, data: &[u8]) {
        let skipped = data.len().saturating_sub(KEPT);
        let data = &data[skipped..];
        let over = (self.bytes.len() + data.len()).saturating_sub(KEPT);
        self.bytes.drain(..over);
        self.start += (over + skipped) as u64;
        self.bytes.extend(data);
    }

    /// Takes bytes that have a place: what is known already is passed over, and after a gap only what comes behind it is kept.
    pub fn push_at(&mut self, place: u64, data: &[u8]) {
        if place > self.end() {
            *self = Scrollback::at(place);
        }
        let known = usize::try_from(self.end() - place).unwrap_or(usize::MAX);
        self.push(data.get(known..).unwrap_or_default());
    }

    /// Bytes from `place` on, `most` at most, with the place of the first: a later one if older bytes are gone.
    pub fn read(&self, place: u64, most: usize) -> (u64, Vec<u8>) {
        let place = place.clamp(self.start, self.end());
        let from = usize::try_from(place - self.start).unwrap_or(usize::MAX);
        let to = self.bytes.len().min(from.saturating_add(most));
        (place, self.bytes.range(from..to).copied().collect())
    }

    /// Where somebody begins who has seen nothing: with all of it, or with the first whole line if the oldest are gone.
    pub fn beginning(&self) -> u64 {
        if self.start == 0 {
            return 0;
        }
        let line = self.bytes.iter().take(LINE).position(|b| *b == b'\n');
        self.start + line.map_or(0, |n| n as u64 + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_bytes_are_kept_and_known_by_their_place() {
        let mut s = Scrollback::default();
        s.push(b"hello\nworld");
        assert_eq!((s.start(), s.end(), s.beginning()), (0, 11, 0));
        assert_eq!(s.read(6, 3), (6, b"wor".to_vec()));
        assert_eq!(s.read(99, 3), (11, Vec::new()));
        s.push(&vec![b'x'; KEPT - 3]);
        assert_eq!((s.start(), s.beginning()), (8, 8), "no line ends near");
        assert_eq!(s.read(0, 4), (8, b"rldx".to_vec()));
        s.push(&[vec![b'y'; KEPT + 10], b"\nz".to_vec()].concat());
        assert_eq!((s.end() - s.start(), s.end()), (KEPT as u64, 11 + 2 * KEPT as u64 - 3 + 12));
    }

    #[test]
    fn a_new_reader_begins_with_a_whole_line() {
        let mut s = Scrollback::at(100);
        s.push(b"half\nwhole\n");
        assert_eq!((s.beginning(), s.read(s.beginning(), 99).1), (105, b"whole\n".to_vec()));
    }

    #[test]
    fn what_comes_twice_is_taken_once_and_gaps_are_seen() {
        let mut s = Scrollback::default();
        s.push_at(0, b"abc");
        s.push_at(1, b"bcde");
        s.push_at(2, b"cd");
        assert_eq!(s.read(0, 99), (0, b"abcde".to_vec()));
        s.push_at(10, b"z");
        assert_eq!((s.start(), s.read(0, 99)), (10, (10, b"z".to_vec())));
    }

    proptest! {
        #[test]
        fn a_reader_that_keeps_up_has_every_byte(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..KEPT / 8), 0..40), most in 1_usize..KEPT) {
            let (mut s, mut at, mut had) = (Scrollback::default(), 0, Vec::new());
            for piece in &pieces {
                s.push(piece);
                prop_assert!(s.bytes.len() <= KEPT);
                loop {
                    let (place, bytes) = s.read(at, most);
                    prop_assert_eq!(place, at);
                    if bytes.is_empty() {
                        break;
                    }
                    at += bytes.len() as u64;
                    had.extend(bytes);
                }
            }
            prop_assert_eq!(had, pieces.concat());
        }
    }
}

//! How far the log is written: a small file with two places, written in turn, so that one of them is always whole.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of one place: two lines without an end, and the rest.
const PLACE: u64 = 40 * 1024;

/// What is saved after each batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Saved {
    /// The last frame of init's whose output is in the log.
    pub(super) sequence: u64,
    /// Number of the last record then.
    pub(super) line: u64,
    /// Lines that there was no room for, not yet told.
    pub(super) dropped: u64,
    /// What was left of a line of standard output.
    pub(super) stdout: Vec<u8>,
    /// What was left of a line of standard error.
    pub(super) stderr: Vec<u8>,
}

pub(super) struct StateFile {
    file: File,
    turn: u64,
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

impl StateFile {
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        Ok(StateFile { file, turn: 0 })
    }

    /// What was saved last; none in a new file.
    pub(super) fn load(&mut self) -> Option<Saved> {
        let (turn, saved) =
            [0, 1].into_iter().filter_map(|place| self.load_place(place)).max_by_key(|(turn, _)| *turn)?;
        self.turn = turn;
        Some(saved)
    }

    fn load_place(&self, place: u64) -> Option<(u64, Saved)> {
        let mut bytes = vec![0; 56];
        self.file.read_exact_at(&mut bytes, place * PLACE).ok()?;
        let word =
            |i: usize| bytes.get(i * 8..).and_then(|b| b.first_chunk::<8>()).map_or(0, |b| u64::from_le_bytes(*b));
        let (out, err) = (usize::try_from(word(5)).ok()?, usize::try_from(word(6)).ok()?);
        if out.checked_add(err)? > usize::try_from(PLACE).ok()? - 56 {
            return None;
        }
        let (check, turn, sequence, line, dropped) = (word(0), word(1), word(2), word(3), word(4));
        bytes.resize(56 + out + err, 0);
        self.file.read_exact_at(&mut bytes[56..], place * PLACE + 56).ok()?;
        let (stdout, stderr) = (bytes[56..56 + out].to_vec(), bytes[56 + out..].to_vec());
        (check == sum(&bytes[8..]) && turn > 0).then_some((turn, Saved { sequence, line, dropped, stdout, stderr }))
    }

    pub(super) fn save(&mut self, saved: &Saved) -> std::io::Result<()> {
        let turn = self.turn + 1;
        let lengths = [saved.stdout.len() as u64, saved.stderr.len() as u64];
        let mut bytes = vec![0; 8];
        for word in [turn, saved.sequence, saved.line, saved.dropped].into_iter().chain(lengths) {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&saved.stdout);
        bytes.extend_from_slice(&saved.stderr);
        let check = sum(&bytes[8..]);
        bytes[..8].copy_from_slice(&check.to_le_bytes());
        self.file.write_all_at(&bytes, (turn % 2) * PLACE)?;
        self.turn = turn;
        Ok(())
    }
}

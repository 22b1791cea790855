//! The pod's log: lines as JSON records, rotated.
//!
//! `current` is written, `1` is the file before it, and so on. Records are numbered without a gap over all files.
//! `log.state` in the run directory holds up to which frame of init's output the log was written, the number of the last
//! record then, and what was left of lines without an end. It is written after each batch and before the batch is
//! acknowledged to init.
//!
//! What a `kill -9` leaves: perhaps records after the one that the state names. Init sends the output after the state's
//! frame again, the same lines come of it, and as many as are there already are passed over: none is lost or doubled, and a
//! reader that follows never sees one taken back. Half a record at the end of `current` is cut off.
//!
//! A disk without room costs lines, never the pod: they are counted, and a notice says so when there is room again.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::log_state::{Saved, StateFile};
use crate::channel::Stream;
use crate::channel::record::{LONGEST_LINE, LONGEST_RECORD, Record, is_notice, records};

pub(super) struct Log {
    dir: PathBuf,
    max_bytes: u64,
    files: u32,
    file: File,
    /// Bytes of `current`.
    length: u64,
    state_file: StateFile,
    /// As it is to be saved with the next batch.
    state: Saved,
    /// Number of the next record.
    next: u64,
    /// What a predecessor wrote after it last saved its state.
    again: Again,
    batch: Vec<u8>,
    dirty: bool,
}

/// Records that are in the log already, whose output is still to come again.
struct Again {
    /// Number of the next of them.
    next: u64,
    /// The number after the last.
    end: u64,
    /// Those of them that are notices, which no output brings again.
    notices: VecDeque<u64>,
}

impl Again {
    /// Whether the next line of the pod's is one of them; it has come again then.
    fn take(&mut self) -> bool {
        while self.next < self.end {
            self.next += 1;
            if self.notices.front() != Some(&(self.next - 1)) {
                return true;
            }
            self.notices.pop_front();
        }
        false
    }

    /// The last that has come again, while there are others still to come. Who takes over in that time has to pass over those.
    fn last(&self) -> Option<u64> {
        (self.next < self.end).then(|| self.next - 1)
    }
}

impl Log {
    /// Opens the log in `dir`, going on where the state in the run directory says.
    pub(super) fn open(dir: &Path, run: &Path, max_bytes: u64, files: u32) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let file = open_current(dir)?;
        let length = cut_half_record(&file)?;
        let mut state_file = StateFile::open(&run.join("log.state"))?;
        let known = state_file.load();
        let (last, notices) = look_back(dir, files, known.as_ref().map(|k| k.line))?;
        let state = match known {
            // What was lost has been told already.
            Some(known) if !notices.is_empty() => Saved { dropped: 0, ..known },
            Some(known) => known,
            None => {
                let fresh = Saved { line: last, ..Saved::default() };
                state_file.save(&fresh)?;
                fresh
            }
        };
        let next = last.max(state.line) + 1;
        let again = Again { next: state.line + 1, end: next, notices };
        Ok(Log {
            dir: dir.into(),
            max_bytes,
            files: files.max(1),
            file,
            length,
            state_file,
            next,
            again,
            state,
            batch: Vec::new(),
            dirty: false,
        })
    }

    /// The last frame whose output is in the log.
    pub(super) fn sequence(&self) -> u64 {
        self.state.sequence
    }

    /// Takes output, that of frame `sequence`.
    pub(super) fn write(&mut self, sequence: u64, stream: Stream, data: &[u8]) {
        let now = Timestamp::now();
        let mut rest = std::mem::take(self.partial(stream));
        rest.extend_from_slice(data);
        let mut lines = &rest[..];
        while !lines.is_empty() {
            match lines.iter().take(LONGEST_LINE).position(|b| *b == b'\n') {
                Some(n) => {
                    self.line(now, stream, &lines[..n], false);
                    lines = &lines[n + 1..];
                }
                None if lines.len() >= LONGEST_LINE => {
                    let (piece, more) = lines.split_at(character_boundary(&lines[..LONGEST_LINE]));
                    self.line(now, stream, piece, true);
                    lines = more;
                }
                None => break,
            }
        }
        *self.partial(stream) = lines.to_vec();
        self.state.sequence = sequence;
        self.dirty = true;
    }

    fn partial(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.state.stdout,
            Stream::Stderr => &mut self.state.stderr,
        }
    }

    /// Writes what is left of lines that never ended.
    pub(super) fn flush_partial(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(self.partial(stream));
            if !rest.is_empty() {
                self.line(Timestamp::now(), stream, &rest, true);
                self.dirty = true;
            }
        }
    }

    fn line(&mut self, timestamp: Timestamp, stream: Stream, line: &[u8], partial: bool) {
        if self.again.take() {
            return;
        }
        if self.state.dropped > 0 && self.batch.is_empty() {
            self.say_what_was_lost();
        }
        let record =
            Record { n: self.next, timestamp, stream, line: String::from_utf8_lossy(line), partial, notice: false };
        push(&mut self.batch, &record);
        self.next += 1;
    }

    fn say_what_was_lost(&mut self) {
        let text =
            format!("torpor: {} lines of the log were lost here: there was no room for them", self.state.dropped);
        let (timestamp, stream) = (Timestamp::now(), Stream::Stderr);
        let mut bytes = Vec::new();
        push(&mut bytes, &Record { n: self.next, timestamp, stream, line: text.into(), partial: false, notice: true });
        if self.append(&bytes) == bytes.len() {
            self.next += 1;
            self.state.dropped = 0;
        }
    }

    /// Puts the batch into the file and saves the state. Whether that is done: all that was taken may be acknowledged.
    pub(super) fn commit(&mut self) -> bool {
        let batch = std::mem::take(&mut self.batch);
        let mut rest = &batch[..];
        while !rest.is_empty() {
            let room = usize::try_from(self.max_bytes.saturating_sub(self.length)).unwrap_or(usize::MAX);
            let end_of_first = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |n| n + 1);
            let mut fits = rest[..rest.len().min(room)].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
            if fits == 0 && self.length > 0 {
                self.rotate();
                continue;
            }
            fits = fits.max(end_of_first);
            let written = self.append(&rest[..fits]);
            if written < fits {
                let lost = rest[written..].iter().filter(|b| **b == b'\n').count() as u64;
                self.state.dropped += lost;
                self.next -= lost;
                break;
            }
            rest = &rest[fits..];
        }
        self.batch = batch;
        self.batch.clear();
        self.batch.shrink_to(256 * 1024);
        if self.dirty {
            self.state.line = self.again.last().unwrap_or(self.next - 1);
            // Not saved: nothing is acknowledged, and it is tried again.
            self.dirty = self.state_file.save(&self.state).is_err();
        }
        !self.dirty
    }

    /// Appends whole records; how many bytes of them there was room for.
    fn append(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(n) => written += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let whole = bytes[..written].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
        if whole < written
            && let Ok(meta) = self.file.metadata()
        {
            let _ = self.file.set_len(meta.len().saturating_sub((written - whole) as u64));
        }
        self.length += whole as u64;
        whole
    }

    fn rotate(&mut self) {
        let numbered = |n: u32| self.dir.join(n.to_string());
        // Up to the first gap: a rotation that was not finished leaves one, which this one fills.
        let last = self.files.saturating_sub(1);
        let gap = (1..last).find(|n| !numbered(*n).exists()).unwrap_or(last);
        for n in (1..gap).rev() {
            let _ = std::fs::rename(numbered(n), numbered(n + 1));
        }
        let current = self.dir.join("current");
        let moved =
            if self.files > 1 { std::fs::rename(&current, numbered(1)) } else { std::fs::remove_file(&current) };
        let opened = moved.and_then(|()| open_current(&self.dir));
        if let Ok(file) = opened {
            self.file = file;
        }
        // Could it not be moved, the old one goes on for another length of a file.
        self.length = 0;
    }
}

fn push(out: &mut Vec<u8>, record: &Record<'_>) {
    if serde_json::to_writer(&mut *out, record).is_ok() {
        out.push(b'\n');
    }
}

/// Where to cut so that no character is torn, if the bytes are UTF-8.
fn character_boundary(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(e) if e.error_len().is_none() && e.valid_up_to() > 0 => e.valid_up_to(),
        _ => bytes.len(),
    }
}

fn open_current(dir: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(dir.join("current"))
}

/// The last bytes of a file.
fn tail(file: &File, most: u64) -> std::io::Result<(Vec<u8>, bool)> {
    let length = file.metadata()?.len();
    let begin = length.saturating_sub(most);
    let mut bytes = vec![0; usize::try_from(length - begin).unwrap_or(0)];
    file.read_exact_at(&mut bytes, begin)?;
    Ok((bytes, begin == 0))
}

/// Cuts off a record without an end; gives the length of the file.
fn cut_half_record(file: &File) -> std::io::Result<u64> {
    let length = file.metadata()?.len();
    let (bytes, _) = tail(file, 2 * LONGEST_RECORD as u64)?;
    let half = bytes.iter().rev().take_while(|b| **b != b'\n').count() as u64;
    if half > 0 {
        file.set_len(length - half)?;
    }
    Ok(length - half)
}

/// The number of the newest record (0: there is none), and those of the notices after record `line`.
fn look_back(dir: &Path, files: u32, line: Option<u64>) -> std::io::Result<(u64, VecDeque<u64>)> {
    let (mut newest, mut notices) = (0, Vec::new());
    let names = std::iter::once("current".to_owned()).chain((1..files).map(|n| n.to_string()));
    for name in names {
        let file = match File::open(dir.join(name)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let mut window = 4 * LONGEST_RECORD as u64;
        // Back by ever larger pieces until one begins at or before the record that is known.
        let reached = loop {
            let (bytes, whole) = tail(&file, window)?;
            let first = records(&bytes).next().map(|r| r.0);
            let reached = first.is_some_and(|f| line.is_none_or(|l| f <= l));
            if reached || whole {
                newest = records(&bytes).map(|r| r.0).chain([newest]).max().unwrap_or(0);
                let fresh = |r: &(u64, &[u8])| line.is_some_and(|l| r.0 > l) && is_notice(r.1);
                notices.extend(records(&bytes).filter(fresh).map(|r| r.0));
                break reached;
            }
            window *= 4;
        };
        if reached {
            break;
        }
    }
    notices.sort_unstable();
    Ok((newest, notices.into()))
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;

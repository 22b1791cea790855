//! The pod's log: lines as JSON objects, rotated.
//!
//! `log/current` is written, `log/1` is the one before, and so on. `log.state` in the run directory says up to which frame of
//! init's the log is written, how long the file was then, and what was left of a line without an end. It is replaced after
//! each batch and before the batch is acknowledged. A new shim cuts the file back to that length and has the rest sent
//! again: no line is lost or doubled by a `kill -9`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::channel::Stream;

/// Bytes of a line before it is split.
pub(super) const LONGEST: usize = 16 * 1024;

#[derive(Default, Serialize, Deserialize)]
struct State {
    sequence: u64,
    inode: u64,
    length: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    dropped: u64,
}

pub(super) struct Log {
    dir: PathBuf,
    state_path: PathBuf,
    max_bytes: u64,
    files: u32,
    file: File,
    state: State,
    batch: Vec<u8>,
    dirty: bool,
}

impl Log {
    pub(super) fn open(dir: &Path, run: &Path, max_bytes: u64, files: u32, taken_over: bool) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let file = open_current(dir)?;
        let state_path = run.join("log.state");
        let known = std::fs::read(&state_path).ok().and_then(|b| serde_json::from_slice::<State>(&b).ok());
        let meta = file.metadata()?;
        let state = match known {
            Some(known) if taken_over => {
                if known.inode == meta.ino() && known.length <= meta.len() {
                    file.set_len(known.length)?;
                }
                known
            }
            _ => State { inode: meta.ino(), length: meta.len(), ..State::default() },
        };
        Ok(Log { dir: dir.into(), state_path, max_bytes, files, file, state, batch: Vec::new(), dirty: false })
    }

    /// The last frame whose lines are in the log.
    pub(super) fn sequence(&self) -> u64 {
        self.state.sequence
    }

    /// That frame has been dealt with.
    pub(super) fn had(&mut self, sequence: u64) {
        self.state.sequence = sequence;
        self.dirty = true;
    }

    /// Takes output.
    pub(super) fn write(&mut self, stream: Stream, data: &[u8]) {
        let now = Timestamp::now();
        let mut rest = std::mem::take(self.partial(stream));
        rest.extend_from_slice(data);
        let mut lines = &rest[..];
        while !lines.is_empty() {
            let end = lines.iter().take(LONGEST).position(|b| *b == b'\n');
            match end {
                Some(n) => {
                    self.line(now, stream, &lines[..n], false);
                    lines = &lines[n + 1..];
                }
                None if lines.len() >= LONGEST => {
                    self.line(now, stream, &lines[..LONGEST], true);
                    lines = &lines[LONGEST..];
                }
                None => break,
            }
        }
        *self.partial(stream) = lines.to_vec();
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
        #[derive(Serialize)]
        struct Line<'a> {
            timestamp: Timestamp,
            stream: Stream,
            line: &'a str,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            partial: bool,
        }
        let text = String::from_utf8_lossy(line);
        if serde_json::to_writer(&mut self.batch, &Line { timestamp, stream, line: &text, partial }).is_ok() {
            self.batch.push(b'\n');
        }
    }

    /// Puts the batch on disk and says up to which frame the log is written.
    pub(super) fn commit(&mut self) -> u64 {
        if !self.dirty {
            return self.state.sequence;
        }
        self.dirty = false;
        if !self.batch.is_empty() {
            if self.state.length + self.batch.len() as u64 > self.max_bytes && self.state.length > 0 {
                self.rotate();
            }
            if self.state.dropped > 0 {
                let (n, mut batch) = (self.state.dropped, std::mem::take(&mut self.batch));
                self.line(
                    Timestamp::now(),
                    Stream::Stderr,
                    format!("torpor: {n} bytes of log were lost: the disk was full").as_bytes(),
                    false,
                );
                self.batch.append(&mut batch);
            }
            match self.file.write_all(&self.batch) {
                Ok(()) => {
                    self.state.length += self.batch.len() as u64;
                    self.state.dropped = 0;
                }
                Err(_) => {
                    // A full disk costs log lines, never the pod: the program must not wait for space.
                    self.state.dropped += self.batch.len() as u64;
                    let _ = self.file.set_len(self.state.length);
                }
            }
            self.batch.clear();
        }
        let new = self.state_path.with_extension("state.new");
        if let Ok(bytes) = serde_json::to_vec(&self.state)
            && std::fs::write(&new, bytes).is_ok()
        {
            let _ = std::fs::rename(&new, &self.state_path);
        }
        self.state.sequence
    }

    fn rotate(&mut self) {
        let numbered = |n: u32| self.dir.join(n.to_string());
        for n in (1..self.files.saturating_sub(1)).rev() {
            let _ = std::fs::rename(numbered(n), numbered(n + 1));
        }
        if self.files > 1 {
            let _ = std::fs::rename(self.dir.join("current"), numbered(1));
        } else {
            let _ = std::fs::remove_file(self.dir.join("current"));
        }
        if let Ok(file) = open_current(&self.dir) {
            self.state.inode = file.metadata().map_or(0, |m| m.ino());
            self.state.length = 0;
            self.file = file;
        }
    }
}

fn open_current(dir: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(dir.join("current"))
}

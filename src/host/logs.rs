//! Reading a pod's log files while its shim writes and rotates them.
#![allow(unsafe_code, reason = "registering a descriptor with tokio has no safe call")]

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use futures::Stream;
use jiff::Timestamp;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::channel;
use crate::model::{Attempt, Code, Result};

/// One line of a pod's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When the shim had it.
    pub timestamp: Timestamp,
    /// Which output.
    pub stream: channel::Stream,
    /// The line without its end; bytes that are not UTF-8 are replaced.
    pub line: String,
    /// Whether the line goes on in the next record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// Which lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only that many of the last lines.
    pub tail: Option<u64>,
    /// Only lines since then.
    pub since: Option<Timestamp>,
    /// Go on with what is still to come.
    pub follow: bool,
}

/// Files of the log, oldest first.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut numbers: Vec<u32> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers.into_iter().map(|n| dir.join(n.to_string())).chain([dir.join("current")]).collect()
}

/// A place in a log file, known by its inode so that rotation does not move it.
struct Cursor {
    dir: PathBuf,
    reader: Option<(u64, BufReader<File>)>,
    half: Vec<u8>,
}

impl Cursor {
    fn open(path: &Path) -> Option<(u64, BufReader<File>)> {
        let file = File::open(path).ok()?;
        Some((file.metadata().ok()?.ino(), BufReader::new(file)))
    }

    /// The whole lines that are there, from where it is to the end of `current`.
    fn read(&mut self) -> std::io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        loop {
            if self.reader.is_none() {
                self.reader = files(&self.dir).iter().find_map(|p| Self::open(p));
            }
            let Some((inode, reader)) = &mut self.reader else { return Ok(lines) };
            loop {
                let n = reader.read_until(b'\n', &mut self.half)?;
                if n == 0 || self.half.last() != Some(&b'\n') {
                    break;
                }
                lines.extend(serde_json::from_slice::<LogLine>(&self.half));
                self.half.clear();
            }
            // The next file after this one, if it has been rotated.
            let all: Vec<(u64, PathBuf)> =
                files(&self.dir).into_iter().filter_map(|p| Some((std::fs::metadata(&p).ok()?.ino(), p))).collect();
            let at = all.iter().position(|(i, _)| i == inode);
            let next = match at {
                Some(n) => all.get(n + 1),
                None => all.first(), // rotated out of sight
            };
            let Some((_, path)) = next else { return Ok(lines) };
            if !self.half.is_empty() {
                // Written between our read and the rotation: read once more before going on.
                let position = reader.stream_position()?;
                if reader.get_ref().metadata()?.len() > position {
                    reader.seek(SeekFrom::Start(position))?;
                    continue;
                }
                self.half.clear();
            } else if reader.get_ref().metadata()?.len() > reader.stream_position()? {
                continue;
            }
            self.reader = Self::open(path);
        }
    }
}

/// The lines asked for, in order; following, until `ended` says that no more will come.
///
/// # Errors
/// The directory can't be watched.
pub fn read(
    dir: &Path,
    query: LogQuery,
    mut ended: watch::Receiver<bool>,
) -> Result<impl Stream<Item = Result<Vec<LogLine>>> + use<>> {
    let what = || format!("read the log in {}", dir.display());
    let inotify = if query.follow {
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).attempt(Code::Internal, what)?;
        let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, dir, events).attempt(Code::Internal, what)?;
        // SAFETY: the descriptor is owned by what is registered, and closed only with it.
        Some(unsafe { AsyncFd::register(watch) }.attempt(Code::Internal, what)?)
    } else {
        None
    };
    let mut cursor = Cursor { dir: dir.to_owned(), reader: None, half: Vec::new() };
    let mut first = cursor.read().attempt(Code::Internal, what)?;
    first.retain(|l| query.since.is_none_or(|t| l.timestamp >= t));
    if let Some(tail) = query.tail {
        let skip = first.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX));
        first.drain(..skip);
    }
    Ok(async_stream(first, cursor, inotify, async move {
        let _ = ended.wait_for(|e| *e).await;
    }))
}

fn async_stream(
    first: Vec<LogLine>,
    cursor: Cursor,
    inotify: Option<AsyncFd<OwnedFd>>,
    ended: impl Future<Output = ()> + Send + 'static,
) -> impl Stream<Item = Result<Vec<LogLine>>> {
    let state = (Some(first), cursor, inotify, Box::pin(ended), false);
    futures::stream::unfold(state, |(first, mut cursor, inotify, mut ended, mut over)| async move {
        if let Some(first) = first {
            return Some((Ok(first), (None, cursor, inotify, ended, over)));
        }
        inotify.as_ref()?;
        loop {
            // Read before waiting: what came between the last read and the watch is not missed.
            match cursor.read() {
                Ok(lines) if lines.is_empty() && over => return None,
                Ok(lines) if lines.is_empty() => {}
                Ok(lines) => return Some((Ok(lines), (None, cursor, inotify, ended, over))),
                Err(e) => {
                    let failed = Err(e).attempt(Code::Internal, || "follow the log".into());
                    return Some((failed, (None, cursor, None, ended, over)));
                }
            }
            let watched = inotify.as_ref()?;
            tokio::select! {
                biased;
                ready = watched.readable() => {
                    let mut guard = ready.ok()?;
                    while rustix::io::read(watched.get_ref(), &mut [0_u8; 4096]).is_ok_and(|n| n > 0) {}
                    guard.clear_ready();
                }
                () = &mut ended, if !over => over = true,
            }
        }
    })
}

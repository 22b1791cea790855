//! Reading a pod's log while its shim writes and rotates it.
//!
//! Records are numbered without a gap over all files, so nothing is given twice whatever moves meanwhile, and the last
//! lines are found without reading the rest. A reader holds the file it is in; when that has been rotated and read to its
//! end, the next newer one follows. Memory is bounded: lines come in batches.

mod events;

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use futures::Stream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};

use self::events::Events;

use crate::channel;
use crate::channel::record::{LONGEST_RECORD, Record, number, records};
use crate::model::{Attempt, Code, Result};

/// Bytes of records that make a batch.
const BATCH: usize = 256 * 1024;
const _: () = assert!(BATCH > LONGEST_RECORD);
/// The same of records that are passed on as they are: so much is held for a reader that does not take them.
const RAW: usize = 32 * 1024;

/// Readers that work at once, on half of the processors. All others wait; what else torpord does, and the pods, never do.
static AT_WORK: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).max(1))));

/// Runs what a reader has to do for a batch beside the threads that serve everybody.
///
/// # Errors
/// It panicked.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let _turn = AT_WORK.acquire().await; // never closed
    tokio::task::spawn_blocking(work).await.attempt(Code::Internal, || "read the log".into())
}

/// One line of a pod's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When the shim had it.
    pub timestamp: Timestamp,
    /// Which output.
    pub stream: channel::Stream,
    /// The line without its end; bytes that are not UTF-8 are replaced.
    pub line: String,
    /// Whether no line end came after it: the line goes on in the next record of its stream.
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
    /// Only records after the one of that number, whatever `tail` says.
    pub after: Option<u64>,
    /// Go on with what is still to come.
    pub follow: bool,
}

/// One file of the log; known by its inode, since rotation renames it.
#[derive(Clone)]
struct LogFile {
    file: Arc<File>,
    inode: u64,
}

impl LogFile {
    fn open(path: &Path) -> std::io::Result<Option<Self>> {
        match File::open(path) {
            Ok(file) => {
                let inode = file.metadata()?.ino();
                Ok(Some(LogFile { file: Arc::new(file), inode }))
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Up to `most` bytes from there.
    fn at(&self, position: u64, most: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; most];
        let mut had = 0;
        while had < most {
            match self.file.read_at(&mut bytes[had..], position + had as u64) {
                Ok(0) => break,
                Ok(n) => had += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        bytes.truncate(had);
        Ok(bytes)
    }

    fn first_number(&self) -> std::io::Result<Option<u64>> {
        Ok(number(&self.at(0, 64)?))
    }

    fn last_number(&self) -> std::io::Result<Option<u64>> {
        let most = 2 * LONGEST_RECORD;
        let length = self.file.metadata()?.len();
        let bytes = self.at(length.saturating_sub(most as u64), most)?;
        Ok(records(&bytes).last().map(|r| r.0))
    }
}

/// The files, newest first. A file that is renamed meanwhile may be met twice, and is then listed once; none is missed,
/// because rotation only moves files to where we have not looked yet. A rotation that a dying shim left unfinished has a
/// gap in the names.
fn files(dir: &Path) -> std::io::Result<Vec<LogFile>> {
    let names = std::fs::read_dir(dir)?.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let highest = names.max().unwrap_or(0);
    let mut found: Vec<LogFile> = Vec::new();
    for n in 0_u32.. {
        let name = if n == 0 { "current".to_owned() } else { n.to_string() };
        match LogFile::open(&dir.join(name))? {
            Some(file) if found.iter().all(|f| f.inode != file.inode) => found.push(file),
            None if n > highest => break,
            _ => {}
        }
    }
    Ok(found)
}

/// A place in the log.
struct Cursor {
    dir: PathBuf,
    file: Option<LogFile>,
    position: u64,
    /// Number of the last record that was read.
    last: u64,
    /// Whether the reader had it: what lies between it and the next one is missed then.
    had: bool,
    since: Option<Timestamp>,
}

impl Cursor {
    /// Before the lines asked for; and the number of the newest record.
    fn new(dir: &Path, query: &LogQuery) -> std::io::Result<(Self, u64)> {
        let mut newest = 0;
        let all = files(dir)?;
        for file in &all {
            if let Some(n) = file.last_number()? {
                newest = n;
                break;
            }
        }
        let tail = query.tail.map_or(0, |t| newest.saturating_sub(t));
        let last = query.after.map_or(tail, |n| n.min(newest));
        let mut begin = None;
        for file in all {
            let first = file.first_number()?;
            begin = Some(file);
            if first.is_some_and(|f| f <= last + 1) {
                break;
            }
        }
        let (had, since) = (query.after.is_some(), query.since);
        Ok((Cursor { dir: dir.to_owned(), file: begin, position: 0, last, had, since }, newest))
    }

    /// The next whole records, about `most` bytes of them; none: there are no more now.
    fn records(&mut self, most: usize) -> std::io::Result<Option<Vec<u8>>> {
        let (mut rotated, mut most) = (false, most);
        loop {
            let Some(file) = self.file.clone() else {
                self.file = files(&self.dir)?.pop();
                if self.file.is_none() {
                    return Ok(None);
                }
                continue;
            };
            let mut bytes = file.at(self.position, most)?;
            let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
            if whole > 0 {
                // Only whole records are taken: half of one may be cut off and written anew.
                self.position += whole as u64;
                bytes.truncate(whole);
                return Ok(Some(bytes));
            } else if bytes.len() == most && most < BATCH {
                most = BATCH; // a long one
            } else if bytes.len() == BATCH {
                self.position += BATCH as u64; // no record is that long: nothing of the shim's
            } else if rotated {
                // It had been rotated before we read its end.
                let next = self.next_file(&file)?;
                (self.file, self.position, rotated) = (Some(next), 0, false);
            } else {
                let current = LogFile::open(&self.dir.join("current"))?;
                match current {
                    Some(current) if current.inode != file.inode => rotated = true,
                    _ => return Ok(None),
                }
            }
        }
    }

    /// The next batch of lines; none: there are no more now.
    fn lines(&mut self) -> std::io::Result<Option<Vec<LogLine>>> {
        let mut lines = Vec::new();
        while lines.is_empty() {
            let Some(bytes) = self.records(BATCH)? else { return Ok(None) };
            self.take(&bytes, &mut lines);
        }
        Ok(Some(lines))
    }

    /// The next batch of records as they are; none: there are no more now.
    fn raw(&mut self) -> std::io::Result<Option<Raw>> {
        let mut raw = Raw::default();
        while raw.records.is_empty() {
            let Some(bytes) = self.records(RAW)? else { return Ok(None) };
            for (n, record) in records(&bytes) {
                if n <= self.last {
                    continue;
                }
                if self.had && n > self.last + 1 {
                    raw.missed += n - self.last - 1;
                }
                (self.last, self.had) = (n, true);
                // Only then is it looked into: most readers ask for no time.
                let wanted = self
                    .since
                    .is_none_or(|t| serde_json::from_slice::<Record<'_>>(record).is_ok_and(|r| r.timestamp >= t));
                if wanted {
                    raw.records.extend_from_slice(record);
                }
            }
        }
        Ok(Some(raw))
    }

    fn take(&mut self, bytes: &[u8], lines: &mut Vec<LogLine>) {
        for (n, record) in records(bytes) {
            if n <= self.last {
                continue;
            }
            self.last = n;
            if let Ok(r) = serde_json::from_slice::<Record<'_>>(record)
                && self.since.is_none_or(|t| r.timestamp >= t)
            {
                let Record { timestamp, stream, line, partial, .. } = r;
                lines.push(LogLine { timestamp, stream, line: line.into_owned(), partial });
            }
        }
    }

    fn next_file(&self, after: &LogFile) -> std::io::Result<LogFile> {
        let mut all = files(&self.dir)?;
        let at = all.iter().position(|f| f.inode == after.inode);
        Ok(match at {
            Some(0) => after.clone(),
            Some(n) => all.swap_remove(n - 1),
            None => all.pop().unwrap_or_else(|| after.clone()), // removed meanwhile: the oldest that is left
        })
    }
}

/// Records as they lie in the log, each on a line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raw {
    /// Records between the one that the reader had before and these that are not there any more.
    pub missed: u64,
    /// The records.
    pub records: Vec<u8>,
}

/// The lines asked for, in order, in batches; following, until `ended` says that no more will come (or its sender is
/// gone), or the log is removed.
///
/// # Errors
/// The directory can't be read or watched.
pub fn read(
    dir: &Path,
    query: LogQuery,
    ended: watch::Receiver<bool>,
) -> Result<impl Stream<Item = Result<Vec<LogLine>>> + use<>> {
    batches(dir, query, ended, Cursor::lines)
}

/// As [`read`], the records as they are: they are only looked into if a time is asked for.
///
/// # Errors
/// The directory can't be read or watched.
pub fn read_raw(
    dir: &Path,
    query: LogQuery,
    ended: watch::Receiver<bool>,
) -> Result<impl Stream<Item = Result<Raw>> + use<>> {
    batches(dir, query, ended, Cursor::raw)
}

fn batches<B: Send + 'static>(
    dir: &Path,
    query: LogQuery,
    mut ended: watch::Receiver<bool>,
    next: fn(&mut Cursor) -> std::io::Result<Option<B>>,
) -> Result<impl Stream<Item = Result<B>> + use<B>> {
    let what = || format!("read the log in {}", dir.display());
    // Watched before it is first read: nothing falls between.
    let inotify = if query.follow { Some(Events::of(dir).attempt(Code::Internal, what)?) } else { None };
    let (cursor, newest) = Cursor::new(dir, &query).attempt(Code::Internal, what)?;
    let ended = Box::pin(async move {
        let _ = ended.wait_for(|e| *e).await;
    });
    Ok(futures::stream::unfold(Some((cursor, inotify, ended, false)), move |state| async move {
        let (mut cursor, inotify, mut ended, mut over) = state?;
        loop {
            let read = aside(move || (next(&mut cursor), cursor)).await;
            let batch;
            (batch, cursor) = match read {
                Ok(done) => done,
                Err(e) => return Some((Err(e), None)),
            };
            match batch {
                Err(e) => return Some((Err(e).attempt(Code::Internal, || "read the log".into()), None)),
                Ok(Some(batch)) => {
                    let more = inotify.is_some() || cursor.last < newest;
                    return Some((Ok(batch), more.then_some((cursor, inotify, ended, over))));
                }
                Ok(None) if over || !cursor.dir.exists() => return None,
                Ok(None) => {}
            }
            let watched = inotify.as_ref()?;
            tokio::select! {
                biased;
                happened = watched.wait() => happened?,
                () = &mut ended, if !over => over = true,
            }
        }
    }))
}

#[cfg(test)]
mod tests;

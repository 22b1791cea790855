//! Files in and out of a pod that runs. The work is done inside the pod, by init as a program of its own; torpord passes an
//! archive's bytes on, a window of them at a time, and follows no path.
//!
//! After a crash the program notices that nobody is there any more, and ends; what it had put into place stays.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::Core;
use super::pod::{Pod, wrong_state};
use crate::api::files::FileStat;
use crate::channel::Exec;
use crate::channel::files::{LONGEST_TROUBLE, NOTHING, PROGRAM, Trouble, WINDOW};
use crate::host::shim::Running;
use crate::host::shim::running::{Input, Said};
use crate::model::{Attempt, Code, Error, PodState, Result};

/// Copies at once of one pod: each takes a connection of its shim's, which others need too.
pub(super) const AT_ONCE: usize = 8;
/// After so long the other side is told that somebody is still there.
const STILL_HERE: Duration = Duration::from_secs(15);
/// A copy that does not get on for so long is given up.
const STUCK: Duration = Duration::from_secs(300);
/// Bytes of one frame.
const FRAME: usize = 32 * 1024;
/// Bytes of what is said about a path.
const LONGEST_HEAD: usize = 16 * 1024;

/// A copy under way.
struct Copying {
    running: Running,
    name: String,
    pod: Arc<Pod>,
    _permit: OwnedSemaphorePermit,
}

/// A path in a pod: those that don't begin there are taken from the root, as docker does.
fn absolute(path: &str) -> Result<String> {
    if path.is_empty() || path.len() > 4000 || path.contains('\0') {
        return Err(Error::invalid("path is empty, too long, or has a NUL byte").hint("give ?path=/a/path/in/the/pod"));
    }
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

/// What an archive of a path calls it: its last part, or `.` for what is in it.
fn called(path: &str) -> Result<String> {
    let whole = path.trim_end_matches('/');
    match whole.rsplit('/').next().unwrap_or_default() {
        "" | "." => Ok(".".into()),
        ".." => Err(Error::invalid("a path that ends with .. has no name").hint("name the directory itself")),
        name => Ok(name.to_owned()),
    }
}

impl Core {
    /// `GET /v1/pods/{pod}/files/stat`.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::WrongState`].
    pub async fn stat_file(&self, reference: &str, path: &str) -> Result<FileStat> {
        let path = absolute(path)?;
        let mut copy = self.copying(reference, &["get", &path, ""]).await?;
        let stat = copy.head().await;
        stat.map_err(|e| copy.pod.explain(e))
    }

    /// `GET /v1/pods/{pod}/files`: the archive as it comes. One that breaks off ends with an error.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::WrongState`].
    pub async fn get_files(
        &self,
        reference: &str,
        path: &str,
    ) -> Result<impl Stream<Item = std::io::Result<Bytes>> + Send + use<>> {
        let path = absolute(path)?;
        let mut copy = self.copying(reference, &["get", &path, &called(&path)?]).await?;
        copy.head().await.map_err(|e| copy.pod.explain(e))?;
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            if let Err(e) = copy.pass_on(&sender).await {
                let _ = sender.send(Err(std::io::Error::other(e.report()))).await;
            }
            let _ = copy.running.input.end().await;
        });
        Ok(tokio_stream::wrappers::ReceiverStream::new(receiver))
    }

    /// `PUT /v1/pods/{pod}/files`.
    ///
    /// # Errors
    /// See the API's document. What was put into place before a failure stays.
    pub async fn put_files(
        &self,
        reference: &str,
        path: &str,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send,
    ) -> Result<()> {
        let path = absolute(path)?;
        let mut copy = self.copying(reference, &["put", &path]).await?;
        let done = copy.feed(body).await;
        if done.is_err() {
            let _ = copy.running.input.end().await;
        }
        done.map_err(|e| copy.pod.explain(e))
    }

    async fn copying(&self, reference: &str, args: &[&str]) -> Result<Copying> {
        let pod = self.find(reference)?;
        let record = pod.record();
        if record.state != PodState::Running {
            return Err(wrong_state(&record, "copy files"));
        }
        let name = record.spec.name.to_string();
        let busy = |_| {
            Error::new(Code::InUse, format!("{AT_ONCE} copies of pod {name} are under way"))
                .hint("wait until one of them is done")
        };
        let permit = Arc::clone(&pod.copies).try_acquire_owned().map_err(busy)?;
        let running = open(&pod, args).await.map_err(|e| pod.explain(e))?;
        Ok(Copying { running, name, pod, _permit: permit })
    }
}

async fn open(pod: &Pod, args: &[&str]) -> Result<Running> {
    let exec = Exec {
        command: std::iter::once(&PROGRAM).chain(args).map(|a| (*a).to_owned()).collect(),
        working_dir: Some("/".into()),
        user: Some("0:0".into()),
        stdin: true,
        ..Exec::default()
    };
    pod.shim()?.begin(&exec, None).await
}

impl Copying {
    /// What the program says of the path. More it must not say before it is asked to.
    async fn head(&mut self) -> Result<FileStat> {
        let (mut said, mut words) = (Vec::<u8>::new(), Vec::new());
        loop {
            if let Some(length) = said.first_chunk::<4>().map(|l| u32::from_le_bytes(*l) as usize) {
                if length > LONGEST_HEAD {
                    return Err(nonsense());
                }
                if said.len() >= 4 + length {
                    return serde_json::from_slice(&said[4..]).map_err(|_| nonsense());
                }
            }
            let next = tokio::time::timeout(STUCK, self.running.output.next()).await;
            match next.attempt(Code::Timeout, || format!("copy files of pod {}", self.name))?? {
                Said::Stdout(bytes) => said.extend(bytes),
                Said::Stderr(bytes) => keep(&mut words, &bytes),
                Said::Ended { code, truncated, .. } => return Err(self.failure(code, truncated, &words)),
            }
        }
    }

    /// Why the program ended so.
    fn failure(&self, code: i32, truncated: bool, words: &[u8]) -> Error {
        let what = format!("copy files of pod {}", self.name);
        if let Ok(Trouble { code, message, hint }) = serde_json::from_slice(words) {
            // The pod's word: it can tell of its own files and disk only.
            let code = match code {
                Code::NotFound | Code::InvalidRequest | Code::BadArchive | Code::Exhausted => code,
                _ => Code::Runtime,
            };
            let error = Error::new(code, format!("{what}: {message}"));
            let full = "free space in the pod, or give it a larger disk";
            return match hint.as_deref().or((code == Code::Exhausted).then_some(full)) {
                Some(hint) => error.hint(hint),
                None => error,
            };
        }
        if code == 125 && words.is_empty() {
            return Error::new(Code::Unsupported, format!("{what}: its init is of a torpor that can't do that"))
                .hint("make the pod anew");
        }
        let lost = if truncated { ", and a part of what it said is lost" } else { "" };
        Error::new(Code::Runtime, format!("{what}: the program that does it ended with {code}{lost}"))
    }

    /// Passes the archive on, as fast as it is taken.
    async fn pass_on(&mut self, to: &mpsc::Sender<std::io::Result<Bytes>>) -> Result<()> {
        let (mut granted, mut had, mut words) = (0, 0, Vec::new());
        let grant = async |input: &mut Input, granted: &mut u64, more: u64| {
            *granted += more;
            input.say(&u32::try_from(more).unwrap_or(0).to_le_bytes()).await
        };
        let Running { input, output } = &mut self.running;
        grant(input, &mut granted, WINDOW).await?;
        let mut moved = Instant::now();
        loop {
            let said = tokio::select! {
                said = output.next() => said?,
                () = to.closed() => return Ok(()), // nobody wants it any more
                () = tokio::time::sleep(STILL_HERE) => {
                    if moved.elapsed() > STUCK {
                        return Err(Error::new(Code::Timeout, "the pod sends nothing more"));
                    }
                    grant(input, &mut granted, 0).await?;
                    continue;
                }
            };
            match said {
                Said::Stdout(bytes) => {
                    let length = bytes.len() as u64;
                    had += length;
                    if had > granted {
                        return Err(nonsense());
                    }
                    take(to, bytes.into(), input).await?;
                    grant(input, &mut granted, length).await?;
                    moved = Instant::now();
                }
                Said::Stderr(bytes) => keep(&mut words, &bytes),
                Said::Ended { code: 0, truncated: false, .. } => return Ok(()),
                Said::Ended { code, truncated, .. } => return Err(self.failure(code, truncated, &words)),
            }
        }
    }

    /// Gives the program an archive, as fast as it takes it, and waits for its end.
    async fn feed(&mut self, body: impl Stream<Item = std::io::Result<Bytes>> + Send) -> Result<()> {
        let mut body = std::pin::pin!(body);
        let (mut sent, mut taken, mut ended) = (0_u64, Counter::default(), false);
        let (mut chunk, mut words, mut moved) = (Bytes::new(), Vec::new(), Instant::now());
        loop {
            let Running { input, output } = &mut self.running;
            let room = usize::try_from(WINDOW.saturating_sub(sent.saturating_sub(taken.last))).unwrap_or(0);
            if !chunk.is_empty() && room > 0 {
                let part = chunk.split_to(chunk.len().min(room).min(FRAME));
                let head = u32::try_from(part.len()).unwrap_or(0).to_le_bytes();
                input.say(&[&head[..], &part[..]].concat()).await?;
                sent += part.len() as u64;
                continue;
            }
            tokio::select! {
                said = output.next() => match said? {
                    Said::Stdout(bytes) => {
                        taken.hear(&bytes);
                        moved = Instant::now();
                    }
                    Said::Stderr(bytes) => keep(&mut words, &bytes),
                    Said::Ended { code: 0, .. } if ended => return Ok(()),
                    Said::Ended { code, truncated, .. } => return Err(self.failure(code, truncated, &words)),
                },
                next = body.next(), if chunk.is_empty() && !ended => match next {
                    Some(Ok(bytes)) => {
                        chunk = bytes;
                        moved = Instant::now();
                    }
                    Some(Err(e)) => {
                        return Err(Error::new(Code::Cancelled, "the archive broke off: what was put there stays").because(e));
                    }
                    None => {
                        ended = true;
                        input.say(&0_u32.to_le_bytes()).await?;
                    }
                },
                () = tokio::time::sleep(STILL_HERE) => {
                    if moved.elapsed() > STUCK {
                        return Err(Error::new(Code::Timeout, "the copy does not get on"));
                    }
                    input.say(&NOTHING.to_le_bytes()).await?;
                }
            }
        }
    }
}

/// Hands a piece on; meanwhile the program is told that somebody is there.
async fn take(to: &mpsc::Sender<std::io::Result<Bytes>>, bytes: Bytes, input: &mut Input) -> Result<()> {
    let begun = Instant::now();
    let mut handed = std::pin::pin!(to.send(Ok(bytes)));
    loop {
        tokio::select! {
            _ = &mut handed => return Ok(()), // who has gone is noticed by whoever asks next
            () = tokio::time::sleep(STILL_HERE) => {
                if begun.elapsed() > STUCK {
                    return Err(Error::new(Code::Timeout, "the archive is not taken"));
                }
                input.say(&0_u32.to_le_bytes()).await?;
            }
        }
    }
}

/// The last of many numbers that come in pieces.
#[derive(Default)]
struct Counter {
    begun: Vec<u8>,
    last: u64,
}

impl Counter {
    fn hear(&mut self, bytes: &[u8]) {
        self.begun.extend_from_slice(bytes);
        let whole = self.begun.len() / 8 * 8;
        if let Some(last) = self.begun[..whole].last_chunk::<8>() {
            self.last = self.last.max(u64::from_le_bytes(*last));
        }
        self.begun.drain(..whole);
    }
}

fn keep(words: &mut Vec<u8>, more: &[u8]) {
    let room = LONGEST_TROUBLE.saturating_sub(words.len());
    words.extend_from_slice(&more[..more.len().min(room)]);
}

fn nonsense() -> Error {
    Error::new(Code::Runtime, "copy files: the pod's program says what it should not")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_what_they_are_called() {
        let name = |p: &str| absolute(p).and_then(|p| called(&p)).ok();
        for (path, wanted) in [
            ("/a/b", Some("b")),
            ("a/b/", Some("b")),
            ("/a/b/.", Some(".")),
            ("/", Some(".")),
            (".", Some(".")),
            ("/a/..", None),
            ("", None),
            ("a\0b", None),
        ] {
            assert_eq!(name(path).as_deref(), wanted, "{path:?}");
        }
    }

    #[test]
    fn numbers_come_in_pieces() {
        let mut counter = Counter::default();
        let bytes = [5_u64.to_le_bytes(), 70_000_u64.to_le_bytes()].concat();
        for part in bytes.chunks(3) {
            counter.hear(part);
        }
        assert_eq!(counter.last, 70_000);
    }
}

//! A checkpoint on its way into the store, beginning while runsc still writes it.
//!
//! Read in order, cut into runs, compressed on all processors, put into packs in order. Memory is bounded: a few runs, and the
//! parts of a pack that are on their way.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::{PART, SMALL, Store, digest};
use crate::host::progress::Progress;
use crate::model::{Attempt, Code, Error, Extent, FileImage, Result, SnapshotId};
use crate::plan::pack::{self, FILES, PACK, PAGES, RUN};

/// zstd's fastest useful level: two thirds of the processor time of level 1.
const LEVEL: i32 = -1;
/// Runs that are compressed at the same time.
const AT_ONCE: usize = 3;
/// How often a file that still grows is looked at. inotify says nothing of writes through a mapping, and a checkpoint takes
/// tens of milliseconds.
const GROWING: Duration = Duration::from_millis(3);

/// One large object, sent in parts; seen when it is whole.
pub(super) struct Object {
    store: Arc<Store>,
    what: String,
    /// None as soon as it is whole.
    upload: Option<Box<dyn MultipartUpload>>,
    sending: Vec<JoinHandle<object_store::Result<()>>>,
}

/// What is given up is aborted: a bucket keeps, and charges for, parts of objects that never became whole.
impl Drop for Object {
    fn drop(&mut self) {
        let Some(mut upload) = self.upload.take() else { return };
        let sending = std::mem::take(&mut self.sending);
        tokio::spawn(async move {
            for part in sending {
                part.abort();
                let _ = part.await;
            }
            if let Ok(Err(e)) = tokio::time::timeout(SMALL, upload.abort()).await {
                tracing::debug!(error = %e, "abort an upload");
            }
        });
    }
}

impl Object {
    pub(super) async fn begin(store: &Arc<Store>, what: &str, key: Key) -> Result<Self> {
        let upload = store.bounded(what, SMALL, store.objects.put_multipart(&key)).await?;
        Ok(Object { store: Arc::clone(store), what: what.to_owned(), upload: Some(upload), sending: Vec::new() })
    }

    /// Sends the next part. Waits while two are on their way.
    pub(super) async fn part(&mut self, bytes: Vec<u8>) -> Result<()> {
        if self.sending.len() >= 2 {
            let first = self.sending.remove(0);
            self.join(first).await?;
        }
        if let Some(upload) = &mut self.upload {
            self.sending.push(tokio::spawn(upload.put_part(PutPayload::from(bytes))));
        }
        Ok(())
    }

    async fn join(&mut self, part: JoinHandle<object_store::Result<()>>) -> Result<()> {
        let sent = async { part.await.unwrap_or_else(|e| Err(object_store::Error::JoinError { source: e })) };
        self.store.bounded(&self.what, 2 * SMALL, sent).await
    }

    pub(super) async fn finish(mut self) -> Result<()> {
        for part in std::mem::take(&mut self.sending) {
            self.join(part).await?;
        }
        if let Some(upload) = &mut self.upload {
            self.store.bounded(&self.what, 2 * SMALL, upload.complete()).await?;
        }
        self.upload = None;
        Ok(())
    }
}

/// Puts runs into packs.
struct Packer<'a> {
    store: &'a Arc<Store>,
    id: &'a SnapshotId,
    object: Option<Object>,
    /// The pack before it, all of whose bytes are sent: the store makes it durable while this one is filled.
    finishing: Option<AbortOnDropHandle<Result<()>>>,
    number: u32,
    part: Vec<u8>,
    /// Bytes in the present pack.
    filled: u64,
    stored: u64,
}

impl Packer<'_> {
    async fn put(&mut self, run: Compressed) -> Result<Extent> {
        let Some((frame, digest)) = run.frame else {
            return Ok(Extent {
                length: run.length,
                pack: String::new(),
                frame: 0,
                size: 0,
                offset: 0,
                digest: String::new(),
            });
        };
        let size = frame.len() as u64;
        let extent = Extent {
            length: run.length,
            pack: pack::pack_key(self.id, self.number),
            frame: self.filled,
            size,
            offset: 0,
            digest,
        };
        self.part.extend_from_slice(&frame);
        self.filled += size;
        self.stored += size;
        if self.part.len() >= PART {
            self.send().await?;
        }
        if self.filled >= PACK {
            self.close().await?;
        }
        Ok(extent)
    }

    async fn send(&mut self) -> Result<()> {
        if self.object.is_none() {
            let key = Key::from(pack::pack_key(self.id, self.number));
            self.object = Some(Object::begin(self.store, "send a pack", key).await?);
        }
        let part = std::mem::take(&mut self.part);
        if let Some(object) = &mut self.object {
            object.part(part).await?;
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        if self.object.is_none() {
            // Small enough for one request.
            let key = Key::from(pack::pack_key(self.id, self.number));
            let part = PutPayload::from(std::mem::take(&mut self.part));
            self.store.bounded("send a pack", 2 * SMALL, self.store.objects.put(&key, part)).await?;
        } else {
            if !self.part.is_empty() {
                self.send().await?;
            }
            if let Some(object) = self.object.take() {
                self.finished().await?;
                self.finishing = Some(AbortOnDropHandle::new(tokio::spawn(object.finish())));
            }
        }
        self.number += 1;
        self.filled = 0;
        Ok(())
    }
}

impl Packer<'_> {
    /// The pack before is durable.
    async fn finished(&mut self) -> Result<()> {
        match self.finishing.take() {
            Some(task) => task.await.attempt(Code::Internal, || "send a pack".into())?,
            None => Ok(()),
        }
    }
}

struct Compressed {
    length: u64,
    /// None: the run is all zeros.
    frame: Option<(Vec<u8>, String)>,
}

fn compress(run: &[u8], key: &[u8; 32]) -> std::io::Result<Compressed> {
    let length = run.len() as u64;
    if run.iter().all(|b| *b == 0) {
        return Ok(Compressed { length, frame: None });
    }
    let frame = zstd::bulk::compress(run, LEVEL)?;
    Ok(Compressed { length, frame: Some((frame, digest(key, run))) })
}

/// Reads a file that may still grow, run by run.
struct Runs {
    path: PathBuf,
    file: Option<File>,
    done: watch::Receiver<bool>,
}

impl Runs {
    /// The next run; none at the end of a file that grows no more.
    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let what = || format!("read {}", self.path.display());
        let mut run = Vec::new();
        loop {
            // Looked at before the read: what is written before `done` is in what is read after it.
            let last = *self.done.borrow();
            if self.file.is_none() {
                match File::open(&self.path) {
                    Ok(f) => self.file = Some(f),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound && !last => {}
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(Error::internal(what()).because(e)),
                }
            }
            if let Some(file) = &self.file {
                let mut file = file.try_clone().attempt(Code::Internal, what)?;
                let (read, joined) = tokio::task::spawn_blocking(move || {
                    let room = RUN - run.len() as u64;
                    run.reserve_exact(usize::try_from(room).unwrap_or(0));
                    let read = (&mut file).take(room).read_to_end(&mut run);
                    (read, run)
                })
                .await
                .attempt(Code::Internal, what)?;
                run = joined;
                read.attempt(Code::Internal, what)?;
            }
            if run.len() as u64 == RUN || (last && !run.is_empty()) {
                return Ok(Some(run));
            }
            if last {
                return Ok(None);
            }
            tokio::select! {
                _ = self.done.changed() => {}
                () = tokio::time::sleep(GROWING) => {}
            }
        }
    }
}

/// A checkpoint on its way. Dropped, it stops; what was sent stays without a manifest and is removed by who began it.
pub struct SnapshotUpload {
    dir: PathBuf,
    written: watch::Sender<bool>,
    task: JoinHandle<Result<(Vec<FileImage>, u64)>>,
}

impl Drop for SnapshotUpload {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SnapshotUpload {
    /// Begins to send what is, and what will be, in `dir`.
    ///
    /// # Errors
    /// None today; the store's own come from [`SnapshotUpload::finish`].
    pub fn begin(store: &Arc<Store>, id: &SnapshotId, dir: &Path, progress: Progress) -> Result<Self> {
        let (written, done) = watch::channel(false);
        let (store, id, from) = (Arc::clone(store), id.clone(), dir.to_owned());
        let task = tokio::spawn(async move { send(&store, &id, &from, done, &progress).await });
        Ok(SnapshotUpload { dir: dir.to_owned(), written, task })
    }

    /// The engine has written all: sends the rest and checks that what was sent is what is there.
    ///
    /// # Errors
    /// The store refuses, or the checkpoint is not whole.
    pub async fn finish(mut self) -> Result<(Vec<FileImage>, u64)> {
        self.written.send_replace(true);
        let (files, stored) = (&mut self.task).await.attempt(Code::Internal, || "send the checkpoint".into())??;
        for file in &files {
            let path = self.dir.join(&file.name);
            let there =
                std::fs::metadata(&path).attempt(Code::Internal, || format!("look at {}", path.display()))?.len();
            // Near a full disk runsc leaves files cut off and says that all went well (gvisor #14228).
            if there != file.length || (file.name == PAGES && there % 4096 != 0) {
                return Err(Error::new(
                    Code::Exhausted,
                    format!("the checkpoint's {} is not whole: {there} bytes", file.name),
                )
                .hint("is the state directory's disk full? The pod goes on"));
            }
        }
        // Engines write all three files or, the older ones, the first alone; an empty one was never finished.
        let there = |name: &str| files.iter().any(|f| f.name == name && f.length > 0);
        if !there(FILES[0]) || there(FILES[1]) != there(PAGES) || files.iter().any(|f| f.length == 0) {
            let lengths: Vec<String> = files.iter().map(|f| format!("{} {}", f.name, f.length)).collect();
            let text = format!("the checkpoint is not whole: {}", lengths.join(", "));
            return Err(Error::new(Code::Runtime, text).hint("the engine said that all went well; the pod goes on"));
        }
        pack::check_files(&files)?;
        Ok((files, stored))
    }
}

async fn send(
    store: &Arc<Store>,
    id: &SnapshotId,
    dir: &Path,
    done: watch::Receiver<bool>,
    progress: &Progress,
) -> Result<(Vec<FileImage>, u64)> {
    let key = store.digest_key().await?;
    let mut packer =
        Packer { store, id, object: None, finishing: None, number: 0, part: Vec::new(), filled: 0, stored: 0 };
    let mut files = Vec::new();
    // The pages first: they are most of it, and grow in order.
    files.extend(send_file(&mut packer, dir, PAGES, &done, key, progress).await?);
    let mut over = done.clone();
    let _ = over.wait_for(|d| *d).await;
    for name in [FILES[0], FILES[1]] {
        files.extend(send_file(&mut packer, dir, name, &done, key, progress).await?);
    }
    for name in crate::host::files::list(dir)?.iter().filter(|n| pack::volume_of(n).is_some()) {
        files.extend(send_file(&mut packer, dir, name, &done, key, progress).await?);
    }
    packer.close().await?;
    packer.finished().await?;
    Ok((files, packer.stored))
}

async fn send_file(
    packer: &mut Packer<'_>,
    dir: &Path,
    name: &str,
    done: &watch::Receiver<bool>,
    key: [u8; 32],
    progress: &Progress,
) -> Result<Option<FileImage>> {
    let runs = Runs { path: dir.join(name), file: None, done: done.clone() };
    let compressed = futures::stream::unfold(Some(runs), |runs| async move {
        let mut runs = runs?;
        match runs.next().await {
            Ok(Some(run)) => Some((Ok(run), Some(runs))),
            Ok(None) => None,
            Err(e) => Some((Err(e), None)),
        }
    })
    .map(|run| async move {
        let run = run?;
        let done = tokio::task::spawn_blocking(move || compress(&run, &key)).await;
        done.attempt(Code::Internal, || "compress".into())?.attempt(Code::Internal, || "compress".into())
    })
    .buffered(AT_ONCE);
    futures::pin_mut!(compressed);
    let mut extents = Vec::new();
    while let Some(run) = compressed.next().await {
        let run = run?;
        progress.add(run.length);
        extents.push(packer.put(run).await?);
    }
    let length: u64 = extents.iter().map(|e: &Extent| e.length).sum();
    let there = length > 0 || dir.join(name).exists();
    Ok(there.then(|| FileImage { name: name.to_owned(), length, extents }))
}

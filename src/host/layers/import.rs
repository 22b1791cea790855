//! Imports: bytes from a stranger become layers, through a worker process that can harm nobody.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::Layers;
use crate::host::archive::{self, Contents, Decompressed};
use crate::host::command::quote;
use crate::host::progress::Progress;
use crate::host::{files, unpack};
use crate::model::{Attempt, Code, Digest, Error, ImageConfig, LayerInfo, Result};

/// Where layers come from.
pub enum ImportSource {
    /// A rootfs tar, an OCI layout or what `docker save` writes, compressed or not.
    Stream(Box<dyn AsyncRead + Send + Unpin>),
    /// A directory of this host: a rootfs, or an OCI layout.
    Directory(PathBuf),
}

/// What an import gave.
#[derive(Debug, Clone)]
pub struct Imported {
    /// Lowest first.
    pub layers: Vec<LayerInfo>,
    /// The image's configuration, if it came with one.
    pub config: Option<ImageConfig>,
}

/// Sets the flag when the caller has gone: the thread that unpacks looks at it between chunks.
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Layers {
    /// Imports layers. What is here already is not unpacked twice.
    ///
    /// # Errors
    /// [`Code::BadArchive`] for what is corrupt, hostile or not what its digest says; [`Code::TooLarge`];
    /// [`Code::Exhausted`] for a full disk. Nothing stays then.
    pub async fn import(&self, source: ImportSource, progress: &Progress) -> Result<Imported> {
        progress.phase("upload");
        let spool = tempfile::tempfile_in(self.state.join("tmp"))
            .attempt(Code::Internal, || "make a file for the upload".into())?;
        match source {
            ImportSource::Stream(stream) => self.spool(stream, &spool, progress).await?,
            ImportSource::Directory(path) => {
                let file = spool.try_clone().attempt(Code::Internal, || "keep the upload".into())?;
                blocking(move || archive::pack_directory(&path, file)).await?;
            }
        }
        progress.phase("unpack");
        let (this, progress) = (self.clone(), progress.clone());
        let cancel = Cancel(Arc::new(AtomicBool::new(false)));
        let cancelled = Arc::clone(&cancel.0);
        let imported = blocking(move || this.import_file(spool, &progress, &cancelled)).await;
        drop(cancel);
        imported
    }

    async fn spool(
        &self,
        mut stream: Box<dyn AsyncRead + Send + Unpin>,
        spool: &File,
        progress: &Progress,
    ) -> Result<()> {
        let file = spool.try_clone().attempt(Code::Internal, || "keep the upload".into())?;
        let mut file = tokio::fs::File::from_std(file);
        let mut bytes = vec![0_u8; 256 * 1024];
        let mut sum = 0_u64;
        loop {
            let n = stream.read(&mut bytes).await.attempt(Code::BadArchive, || "receive the image".into())?;
            if n == 0 {
                break;
            }
            sum += n as u64;
            if sum > self.limits.upload_bytes {
                return Err(Error::new(
                    Code::TooLarge,
                    format!("the image is larger than {} bytes", self.limits.upload_bytes),
                ));
            }
            file.write_all(&bytes[..n]).await.map_err(|e| write_failed(e, "keep the image"))?;
            progress.add(n as u64);
        }
        file.flush().await.map_err(|e| write_failed(e, "keep the image"))
    }

    fn import_file(&self, spool: File, progress: &Progress, cancelled: &AtomicBool) -> Result<Imported> {
        let opened = archive::open(spool, &self.state.join("tmp"), self.limits.upload_bytes)?;
        match opened {
            Contents::Rootfs(reader) => {
                let layer = self.add(reader, None, progress, cancelled)?;
                Ok(Imported { layers: vec![layer], config: None })
            }
            Contents::Image(image) => {
                let mut layers = Vec::new();
                for layer in &image.layers {
                    if self.has(&layer.diff_id) {
                        layers.push(self.info(&layer.diff_id)?);
                    } else {
                        layers.push(self.add(image.open(layer)?, Some(&layer.diff_id), progress, cancelled)?);
                    }
                }
                Ok(Imported { layers, config: Some(image.config) })
            }
        }
    }

    /// A layer out of its compressed bytes, as the object store has them.
    ///
    /// # Errors
    /// [`Code::Damaged`]: they are not the layer of that digest.
    pub async fn import_blob(
        &self,
        digest: &Digest,
        stream: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<LayerInfo> {
        let spool = tempfile::tempfile_in(self.state.join("tmp"))
            .attempt(Code::Internal, || "make a file for a layer".into())?;
        self.spool(Box::new(stream), &spool, &Progress::default()).await?;
        let (this, digest) = (self.clone(), digest.clone());
        blocking(move || {
            let mut spool = spool;
            spool.seek(SeekFrom::Start(0)).attempt(Code::Internal, || "read a layer".into())?;
            let reader = archive::decompress(Box::new(spool))?;
            // It may be what a pod's root held: marks of overlayfs are kept.
            this.unpack(reader, Some(&digest), true, &Progress::default(), &AtomicBool::new(false))
        })
        .await
    }

    /// What a sandbox's root holds beyond its image, as a layer; none if that is nothing but what init itself writes.
    ///
    /// # Errors
    /// As [`Layers::import`].
    pub async fn save_upper(&self, tar: &Path) -> Result<Option<LayerInfo>> {
        let (this, path) = (self.clone(), tar.to_owned());
        blocking(move || {
            let open = || File::open(&path).attempt(Code::Internal, || format!("open {}", path.display()));
            if !archive::holds_changes(BufReader::new(open()?))? {
                return Ok(None);
            }
            let reader: Decompressed = Box::new(BufReader::new(open()?));
            this.unpack(reader, None, true, &Progress::default(), &AtomicBool::new(false)).map(Some)
        })
        .await
    }

    /// Init as a layer: the topmost of every root.
    ///
    /// # Errors
    /// The program can't be read.
    pub async fn add_init(&self, program: &Path) -> Result<LayerInfo> {
        let (this, path) = (self.clone(), program.to_owned());
        blocking(move || {
            let bytes = std::fs::read(&path).attempt(Code::Internal, || format!("read init {}", path.display()))?;
            let tar = archive::init_layer(&bytes).attempt(Code::Internal, || "pack init".into())?;
            let digest = Digest::from_sha256(&Sha256::digest(&tar).into());
            if this.has(&digest) {
                return this.info(&digest);
            }
            this.add(Box::new(std::io::Cursor::new(tar)), Some(&digest), &Progress::default(), &AtomicBool::new(false))
        })
        .await
    }

    /// Unpacks a stranger's tar as a layer.
    fn add(
        &self,
        tar: Decompressed,
        expected: Option<&Digest>,
        progress: &Progress,
        cancelled: &AtomicBool,
    ) -> Result<LayerInfo> {
        self.unpack(tar, expected, false, progress, cancelled)
    }

    /// `upper`: the tar is what runsc wrote of a pod's root.
    fn unpack(
        &self,
        mut tar: Decompressed,
        expected: Option<&Digest>,
        upper: bool,
        progress: &Progress,
        cancelled: &AtomicBool,
    ) -> Result<LayerInfo> {
        let tmp = tempfile::Builder::new().prefix("layer-").tempdir_in(self.state.join("tmp"));
        let tmp = tmp.attempt(Code::Internal, || "make a directory for a layer".into())?;
        let (root, blob_path) = (tmp.path().join("root"), tmp.path().join("blob"));
        files::create_dir(&root, 0o755)?;
        let blob = File::create(&blob_path).map_err(|e| write_failed(e, "keep a layer's bytes"))?;
        let mut blob = zstd::Encoder::new(blob, 1).attempt(Code::Internal, || "compress a layer".into())?;
        let mut worker = Worker::start(&self.worker, &root, &self.limits, upper)?;
        let mut hasher = Sha256::new();
        let mut bytes = vec![0_u8; 256 * 1024];
        // A tar larger than what may come out of it is a bomb, whatever is in it.
        let mut left = self.limits.layer_bytes.saturating_add(self.limits.layer_inodes * 1024).saturating_add(1 << 20);
        loop {
            if cancelled.load(Ordering::Relaxed) {
                return Err(Error::new(Code::Cancelled, "the import was given up"));
            }
            let n = tar.read(&mut bytes).map_err(|e| Error::new(Code::BadArchive, "read the layer").because(e))?;
            if n == 0 {
                break;
            }
            left = left.checked_sub(n as u64).ok_or_else(|| {
                Error::new(
                    Code::TooLarge,
                    format!("the layer is larger than {} bytes unpacked", self.limits.layer_bytes),
                )
            })?;
            hasher.update(&bytes[..n]);
            blob.write_all(&bytes[..n]).map_err(|e| write_failed(e, "keep a layer's bytes"))?;
            if !worker.give(&bytes[..n]) {
                break;
            }
            progress.add(n as u64);
        }
        let size = worker.finish(&root)?;
        let digest = Digest::from_sha256(&hasher.finalize().into());
        if let Some(expected) = expected.filter(|e| **e != digest) {
            return Err(Error::new(
                Code::BadArchive,
                format!("the layer's digest is {digest}, not {expected} as its image says"),
            )
            .hint("the image was damaged or changed on its way"));
        }
        if self.has(&digest) {
            return self.info(&digest);
        }
        let blob = blob.finish().map_err(|e| write_failed(e, "keep a layer's bytes"))?;
        blob.sync_all().map_err(|e| write_failed(e, "keep a layer's bytes"))?;
        let compressed = blob.metadata().attempt(Code::Internal, || "look at a layer's bytes".into())?.len();
        // All files of the layer are on disk before its name is.
        rustix::fs::syncfs(&blob).attempt(Code::Internal, || "sync the layer".into())?;
        let info = LayerInfo { digest: digest.clone(), size, compressed };
        files::remove_tree_now(&self.path(&digest))?;
        files::remove_tree_now(&self.short(&digest))?;
        files::rename(&root, &self.path(&digest))?;
        files::rename(&blob_path, &self.blob(&digest))?;
        let link = Path::new("../layers").join(digest.hex());
        std::os::unix::fs::symlink(link, self.short(&digest))
            .attempt(Code::Internal, || format!("link layer {digest}"))?;
        let text = serde_json::to_vec(&info).attempt(Code::Internal, || "write what is known of a layer".into())?;
        files::replace(&self.meta(&digest), &text, 0o600)?;
        Ok(info)
    }
}

fn write_failed(e: std::io::Error, what: &str) -> Error {
    let full = matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
    let error = Error::new(if full { Code::Exhausted } else { Code::Internal }, what).because(e);
    if full { error.hint("free space on the state directory's disk; nothing was imported") } else { error }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.attempt(Code::Internal, || "import".into())?
}

/// The process that unpacks.
struct Worker {
    child: Child,
}

impl Worker {
    fn start(program: &Path, root: &Path, limits: &super::Limits, upper: bool) -> Result<Self> {
        let child = Command::new(program)
            .args([unpack::WORKER, &limits.layer_bytes.to_string(), &limits.layer_inodes.to_string()])
            .args(upper.then_some(unpack::UPPER))
            .env_clear()
            .current_dir(root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .attempt(Code::Internal, || "start the process that unpacks".into())?;
        Ok(Worker { child })
    }

    /// False: it has ended, and its words say why.
    fn give(&mut self, bytes: &[u8]) -> bool {
        self.child.stdin.as_mut().is_some_and(|s| s.write_all(bytes).is_ok())
    }

    /// Waits for its end; gives the bytes that it unpacked.
    fn finish(mut self, root: &Path) -> Result<u64> {
        drop(self.child.stdin.take());
        let (mut said, mut wrong) = (Vec::new(), Vec::new());
        if let Some(out) = self.child.stdout.take() {
            let _ = out.take(16 << 20).read_to_end(&mut said);
        }
        if let Some(err) = self.child.stderr.take() {
            let _ = err.take(64 << 10).read_to_end(&mut wrong);
        }
        let status = self.child.wait().attempt(Code::Internal, || "wait for the process that unpacks".into())?;
        match status.code() {
            Some(0) => unpack::finish(root, &said),
            Some(unpack::EXIT_FULL) => {
                Err(Error::new(Code::Exhausted, format!("unpack the layer: {}", quote(&wrong, 400)))
                    .hint("free space on the state directory's disk; nothing was imported"))
            }
            Some(unpack::EXIT_LARGE) => {
                Err(Error::new(Code::TooLarge, format!("unpack the layer: {}", quote(&wrong, 400))))
            }
            Some(unpack::EXIT_BAD) => {
                Err(Error::new(Code::BadArchive, format!("unpack the layer: {}", quote(&wrong, 400)))
                    .hint("nothing of it was imported"))
            }
            _ => Err(Error::internal(format!("the process that unpacks ended ({status}): {}", quote(&wrong, 400)))),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

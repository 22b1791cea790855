//! Imports: bytes from a stranger become layers, through a worker process that can harm nobody.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncRead;

use super::feed::{self, Count};
use super::job::{Job, Scratch, Worker, write_failed};
use super::{Hold, Layers};
use crate::host::archive::{self, Contents, Decompressed};
use crate::host::progress::Progress;
use crate::host::{files, unpack};
use crate::model::{Attempt, Code, Digest, Error, ImageConfig, LayerInfo, Result};

/// Up to so many bytes a layer may be any number of times larger than its compressed form.
const FREE_RATIO: u64 = 1 << 30;
/// A larger layer may be so many times larger.
const RATIO: u64 = 200;

/// Where layers come from.
pub enum ImportSource {
    /// A rootfs tar, an OCI layout or what `docker save` writes, compressed or not.
    Stream(Box<dyn AsyncRead + Send + Unpin>),
    /// A directory of this host: a rootfs, or an OCI layout.
    Directory(PathBuf),
}

/// What an import gave.
#[derive(Debug)]
pub struct Imported {
    /// Lowest first.
    pub layers: Vec<LayerInfo>,
    /// The image's configuration, if it came with one.
    pub config: Option<ImageConfig>,
    /// Keeps the layers until a record names them.
    pub hold: Hold,
}

/// A tar to make a layer of.
struct Incoming<'a> {
    tar: Decompressed,
    /// Bytes in which it came, up to now.
    stored: Count,
    /// Its digest, if that is known.
    expected: Option<&'a Digest>,
    /// Bytes that it may take unpacked.
    most: u64,
    /// Whether nothing in it is fine, as in an image's layer that only a command of its recipe left.
    may_be_empty: bool,
}

impl Layers {
    /// Imports layers. What is here already is not unpacked twice.
    ///
    /// # Errors
    /// [`Code::BadArchive`] for what is corrupt, hostile or not what its digest says; [`Code::TooLarge`];
    /// [`Code::Exhausted`] for a full disk. Nothing half made stays; layers before the one that was refused are whole, and
    /// stay until they are removed.
    pub async fn import(&self, source: ImportSource, progress: &Progress) -> Result<Imported> {
        let hold = self.hold();
        let this = self.clone();
        let quiet = progress.clone();
        let (layers, config) = match source {
            ImportSource::Stream(stream) => {
                let (feeder, fed) = feed::pair();
                let count = fed.count();
                let work = Job::run(move |job| this.import_stream(Box::new(fed), &count, &quiet, job));
                feed::drive(feeder.feed(stream, self.limits.upload_bytes, progress), work).await?
            }
            ImportSource::Directory(path) => {
                Job::run(move |job| {
                    let (file, size) = this.packed(|packed| {
                        archive::pack_directory(&path, packed, this.limits.upload_bytes, &|| job.go_on())
                    })?;
                    this.import_stream(Box::new(file), &Count::of(size), &quiet, job)
                })
                .await?
            }
        };
        Ok(Imported { layers, config, hold })
    }

    /// A tar in a file without a name, from its beginning, and how long it is.
    fn packed(&self, pack: impl FnOnce(File) -> Result<()>) -> Result<(File, u64)> {
        let what = || "keep what was packed".to_owned();
        let made = tempfile::tempfile_in(self.state.join("tmp"));
        let mut file = made.map_err(|e| files::disk_error(e, Code::Internal, what()))?;
        pack(file.try_clone().attempt(Code::Internal, what)?)?;
        let size = file.stream_position().attempt(Code::Internal, what)?;
        file.seek(SeekFrom::Start(0)).attempt(Code::Internal, what)?;
        Ok((file, size))
    }

    /// One layer that stands for several (lowest first) on top of `below` (lowest first). All stay as they are. Take a
    /// [`Layers::hold`] before.
    ///
    /// # Errors
    /// One is not here, or as [`Layers::import`].
    pub async fn merge(&self, layers: &[Digest], below: &[Digest]) -> Result<LayerInfo> {
        let (this, layers, below) = (self.clone(), layers.to_vec(), below.to_vec());
        Job::run(move |job| {
            if let Some(gone) = layers.iter().chain(&below).find(|d| !this.has(d)) {
                return Err(Error::new(Code::NotFound, format!("layer {gone} is not on this host")));
            }
            let paths = |digests: &[Digest]| digests.iter().rev().map(|d| this.path(d)).collect::<Vec<_>>();
            let (layers, below) = (paths(&layers), paths(&below));
            let layers: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
            let below: Vec<&Path> = below.iter().map(PathBuf::as_path).collect();
            let most = this.limits.upload_bytes;
            let (file, size) =
                this.packed(|packed| archive::pack_layers(&layers, &below, packed, most, &|| job.go_on()))?;
            let tar: Decompressed = Box::new(BufReader::new(file));
            let most = this.limits.layer_bytes;
            this.add(
                Incoming { tar, stored: Count::of(size), expected: None, most, may_be_empty: true },
                &Progress::default(),
                job,
            )
        })
        .await
    }

    fn import_stream(
        &self,
        stream: Decompressed,
        count: &Count,
        progress: &Progress,
        job: &Job,
    ) -> Result<(Vec<LayerInfo>, Option<ImageConfig>)> {
        match archive::open(stream, &self.state.join("tmp"), self.limits.upload_bytes)? {
            Contents::Rootfs(tar) => {
                let most = self.limits.layer_bytes;
                let incoming = Incoming { tar, stored: count.clone(), expected: None, most, may_be_empty: false };
                // How far it is, who feeds it says.
                Ok((vec![self.add(incoming, &Progress::default(), job)?], None))
            }
            Contents::Image(image) => {
                progress.phase("unpack");
                let mut layers = Vec::new();
                let mut left = self.limits.image_bytes;
                for layer in &image.layers {
                    job.go_on()?;
                    if self.has(&layer.diff_id) {
                        layers.push(self.info(&layer.diff_id)?);
                        continue;
                    }
                    let (tar, stored) = image.open(layer)?;
                    let most = left.min(self.limits.layer_bytes);
                    let stored = Count::of(stored);
                    let incoming = Incoming { tar, stored, expected: Some(&layer.diff_id), most, may_be_empty: true };
                    let added = self.add(incoming, progress, job).map_err(|e| match e.code() {
                        Code::TooLarge if most < self.limits.layer_bytes => {
                            let text = format!("the image is larger than {} bytes unpacked", self.limits.image_bytes);
                            Error::new(Code::TooLarge, text)
                                .because(e)
                                .hint("max-image-bytes in torpor.toml says how much")
                        }
                        _ => e,
                    })?;
                    left = left.saturating_sub(added.size);
                    layers.push(added);
                }
                Ok((layers, Some(image.config)))
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
        let (this, digest) = (self.clone(), digest.clone());
        let (feeder, fed) = feed::pair();
        let count = fed.count();
        let work = Job::run(move |job| {
            let (tar, most) = (archive::decompress(Box::new(fed))?, this.limits.layer_bytes);
            let incoming = Incoming { tar, stored: count, expected: Some(&digest), most, may_be_empty: true };
            this.add(incoming, &Progress::default(), job).map_err(|e| match e.code() {
                Code::BadArchive => Error::new(Code::Damaged, format!("read layer {digest}")).because(e),
                _ => e,
            })
        });
        let quiet = Progress::default();
        feed::drive(feeder.feed(stream, self.limits.upload_bytes, &quiet), work).await
    }

    /// What a sandbox's root holds beyond its image, as a layer; none if that is nothing but what init itself writes.
    ///
    /// # Errors
    /// As [`Layers::import`].
    pub async fn save_upper(&self, tar: &Path) -> Result<Option<LayerInfo>> {
        let (this, path) = (self.clone(), tar.to_owned());
        Job::run(move |job| {
            let what = || format!("read {}", path.display());
            let open = || File::open(&path).attempt(Code::Internal, what);
            if !archive::holds_changes(open()?)? {
                return Ok(None);
            }
            let file = open()?;
            let stored = Count::of(file.metadata().attempt(Code::Internal, what)?.len());
            let (tar, most) = (Box::new(BufReader::new(file)), this.limits.layer_bytes);
            let incoming = Incoming { tar, stored, expected: None, most, may_be_empty: true };
            this.add(incoming, &Progress::default(), job).map(Some)
        })
        .await
    }

    /// Init as a layer: the topmost of every root.
    ///
    /// # Errors
    /// The program can't be read.
    pub async fn add_init(&self, program: &Path) -> Result<LayerInfo> {
        let bytes = std::fs::read(program).attempt(Code::Internal, || format!("read init {}", program.display()))?;
        self.add_own(archive::init_layer(&bytes).attempt(Code::Internal, || "pack init".into())?).await
    }

    /// A layer of torpor's own making.
    pub(super) async fn add_own(&self, tar: Vec<u8>) -> Result<LayerInfo> {
        let this = self.clone();
        Job::run(move |job| {
            let digest = Digest::from_sha256(&Sha256::digest(&tar).into());
            if this.has(&digest) {
                return this.info(&digest);
            }
            let stored = Count::of(tar.len() as u64);
            let tar: Decompressed = Box::new(std::io::Cursor::new(tar));
            let most = this.limits.layer_bytes;
            let incoming = Incoming { tar, stored, expected: Some(&digest), most, may_be_empty: true };
            this.add(incoming, &Progress::default(), job)
        })
        .await
    }

    /// Unpacks one tar as a layer, while its digest is taken and its bytes are compressed for the object store.
    fn add(&self, incoming: Incoming<'_>, progress: &Progress, job: &Job) -> Result<LayerInfo> {
        let Incoming { mut tar, stored, expected, most: layer_bytes, may_be_empty } = incoming;
        let scratch = Scratch::new(&self.state.join("tmp"))?;
        let (root, blob_path) = (scratch.path().join("root"), scratch.path().join("blob"));
        files::create_dir(&root, 0o755)?;
        files::hear_old_failures(&root);
        let blob = File::create(&blob_path).map_err(|e| write_failed(e, "keep a layer's bytes"))?;
        let mut blob = zstd::Encoder::new(blob, 1).attempt(Code::Internal, || "compress a layer".into())?;
        // The other processor compresses, if there is one.
        blob.multithread(1).attempt(Code::Internal, || "compress a layer".into())?;
        let limits =
            unpack::Limits { bytes: layer_bytes, inodes: self.limits.layer_inodes, must_end: expected.is_none() };
        let mut worker = Worker::start(&self.worker, &root, &limits, job)?;
        let mut hasher = Sha256::new();
        let mut bytes = vec![0_u8; 256 * 1024];
        // A tar larger than what may come out of it is a bomb, whatever is in it.
        let most = layer_bytes.saturating_add(self.limits.layer_inodes.saturating_mul(1024)) + (1 << 20);
        let mut sum = 0;
        let mut early = false;
        loop {
            job.go_on()?;
            let n = match tar.read(&mut bytes) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::new(Code::BadArchive, "read the layer").because(e)),
            };
            sum += n as u64;
            if sum > most {
                let text = format!("the layer is larger than {layer_bytes} bytes unpacked");
                return Err(Error::new(Code::TooLarge, text));
            }
            if sum > FREE_RATIO && sum / RATIO > stored.get() {
                let text = format!("the layer is more than {RATIO} times larger than its compressed bytes");
                return Err(Error::new(Code::BadArchive, text).hint("give it uncompressed if that is meant"));
            }
            hasher.update(&bytes[..n]);
            blob.write_all(&bytes[..n]).map_err(|e| write_failed(e, "keep a layer's bytes"))?;
            if !worker.give(&bytes[..n]) {
                early = true;
                break;
            }
            progress.add(n as u64);
        }
        let size = worker.finish(&root, job)?;
        if early {
            return Err(Error::internal("the process that unpacks did not read the whole layer"));
        }
        let entries = || std::fs::read_dir(&root).attempt(Code::Internal, || "look at a layer".into());
        if !may_be_empty && entries()?.next().is_none() {
            return Err(Error::new(Code::BadArchive, "there is no file in it")
                .hint("it has to be a root file system, an OCI layout, or what `docker save` wrote: was it cut off, or another one meant?"));
        }
        let digest = Digest::from_sha256(&hasher.finalize().into());
        if let Some(expected) = expected.filter(|e| **e != digest) {
            let text = format!("the layer's digest is {digest}, not {expected} as its image says");
            return Err(Error::new(Code::BadArchive, text).hint("the image was damaged or changed on its way"));
        }
        let blob = blob.finish().map_err(|e| write_failed(e, "keep a layer's bytes"))?;
        let compressed = blob.metadata().attempt(Code::Internal, || "look at a layer's bytes".into())?.len();
        // All files of the layer are on disk before its name is.
        rustix::fs::syncfs(&blob).map_err(|e| write_failed(e.into(), "sync the layer"))?;
        job.go_on()?;
        self.publish(&LayerInfo { digest, size, compressed }, &root, &blob_path)
    }

    /// Gives a whole layer its name. Another import may have been faster.
    fn publish(&self, info: &LayerInfo, root: &Path, blob: &Path) -> Result<LayerInfo> {
        let _lock = self.lock();
        let digest = &info.digest;
        if self.has(digest) {
            return self.info(digest);
        }
        files::remove_tree_now(&self.path(digest))?;
        files::rename(root, &self.path(digest))?;
        files::rename(blob, &self.blob(digest))?;
        let text = serde_json::to_vec(info).attempt(Code::Internal, || "write what is known of a layer".into())?;
        files::replace(&self.meta(digest), &text, 0o600)?;
        Ok(info.clone())
    }
}

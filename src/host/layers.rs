//! The layer store: content-addressed directories, unpacked once and never changed.
//!
//! `layers/<hex>/` is a layer, `blobs/<hex>.tar.zst` its bytes for the object store, `layers/<hex>.json` says that both are
//! whole and is written last. Half made things are in `tmp/` and begin with `layer-`. After a crash: they and what has no
//! `.json` are removed at start.

mod feed;
mod import;
mod job;
mod mountpoints;
mod trees;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

pub use import::{ImportSource, Imported};

use crate::host::files;
use crate::model::{Attempt, Code, Digest, Error, LayerInfo, Result};

/// Layers that an image may have: init's and those of a pod's own come on top, and all must fit overlayfs' options.
pub const MAX_LAYERS: usize = 80;

/// What an import may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one layer, unpacked.
    pub layer_bytes: u64,
    /// Files, directories and links of one layer.
    pub layer_inodes: u64,
    /// Bytes of all layers together that one import brings, unpacked.
    pub image_bytes: u64,
    /// Bytes of a whole upload.
    pub upload_bytes: u64,
}

/// The layer store of a state directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Layers {
    state: PathBuf,
    worker: PathBuf,
    limits: Limits,
    shared: Arc<Mutex<Shared>>,
}

/// What all clones of a store share. Its lock is held while layers appear and disappear.
#[derive(Debug, Default)]
struct Shared {
    holds: usize,
    removed: u64,
}

/// While one lives, [`Layers::remove`] removes nothing. Take one before layers come in, keep it until a record names them.
#[derive(Debug)]
pub struct Hold(Arc<Mutex<Shared>>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).holds -= 1;
    }
}

/// A digest over texts: what has the same texts has the same digest.
pub fn digest_of<'a>(texts: impl Iterator<Item = &'a str>) -> Digest {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update(text.as_bytes());
        hasher.update([0]);
    }
    Digest::from_sha256(&hasher.finalize().into())
}

/// How names of half made things in `tmp/` begin.
const SCRATCH: &str = "layer-";

impl Layers {
    /// Opens the store and removes what a crash left half made. `worker`: torpord's own program, run again to unpack.
    ///
    /// # Errors
    /// It can't be read or made.
    pub fn open(state: &Path, worker: PathBuf, limits: Limits) -> Result<Self> {
        let layers = Layers { state: state.to_owned(), worker, limits, shared: Arc::default() };
        for dir in ["layers", "blobs", "tmp"] {
            files::create_dir_all(&state.join(dir), 0o700)?;
        }
        let whole = |hex: &str| format!("sha256:{hex}").parse::<Digest>().is_ok_and(|d| layers.has(&d));
        for name in files::list(&state.join("layers"))? {
            if !whole(name.strip_suffix(".json").unwrap_or(&name)) {
                files::remove_tree_now(&state.join("layers").join(&name))?;
            }
        }
        for name in files::list(&state.join("blobs"))? {
            if !whole(name.strip_suffix(".tar.zst").unwrap_or(&name)) {
                files::remove_tree_now(&state.join("blobs").join(&name))?;
            }
        }
        for name in files::list(&state.join("tmp"))?.iter().filter(|n| n.starts_with(SCRATCH)) {
            files::remove_tree_now(&state.join("tmp").join(name))?;
        }
        Ok(layers)
    }

    fn meta(&self, digest: &Digest) -> PathBuf {
        self.state.join("layers").join(format!("{}.json", digest.hex()))
    }

    /// Where it is unpacked.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.state.join("layers").join(digest.hex())
    }

    /// Its bytes, compressed.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.state.join("blobs").join(format!("{}.tar.zst", digest.hex()))
    }

    /// Whether it is here, whole.
    pub fn has(&self, digest: &Digest) -> bool {
        self.meta(digest).is_file() && self.path(digest).is_dir()
    }

    /// What is known of it.
    ///
    /// # Errors
    /// [`Code::NotFound`]: it is not here.
    pub fn info(&self, digest: &Digest) -> Result<LayerInfo> {
        let text = files::read_if_present(&self.meta(digest))?
            .ok_or_else(|| Error::new(Code::NotFound, format!("layer {digest} is not on this host")))?;
        serde_json::from_str(&text).attempt(Code::Damaged, || format!("read what is known of layer {digest}"))
    }

    /// All layers.
    ///
    /// # Errors
    /// The store can't be read.
    pub fn list(&self) -> Result<Vec<LayerInfo>> {
        let names = files::list(&self.state.join("layers"))?;
        let digests =
            names.iter().filter_map(|n| format!("sha256:{}", n.strip_suffix(".json")?).parse::<Digest>().ok());
        digests.map(|d| self.info(&d)).collect()
    }

    /// Keeps all layers from being removed while it lives.
    pub fn hold(&self) -> Hold {
        self.lock().holds += 1;
        Hold(Arc::clone(&self.shared))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes one that nothing uses. Not there, or a [`Hold`] lives: nothing is done.
    ///
    /// # Errors
    /// Something of it can't be removed.
    pub async fn remove(&self, digest: &Digest) -> Result<()> {
        let mut trash = Vec::new();
        {
            let mut shared = self.lock();
            if shared.holds > 0 {
                return Ok(());
            }
            // First what says that it is whole: a crash leaves rubbish, not half a layer.
            files::remove_tree_now(&self.meta(digest))?;
            for path in [self.blob(digest), self.path(digest)] {
                // Aside at once, so that the same layer can come in while this one's files are removed.
                shared.removed += 1;
                let aside = self.state.join("tmp").join(format!("{SCRATCH}removed-{}", shared.removed));
                if path.symlink_metadata().is_ok() {
                    files::rename(&path, &aside)?;
                    trash.push(aside);
                }
            }
        }
        for path in trash {
            files::remove_tree(&path).await?;
        }
        Ok(())
    }
}

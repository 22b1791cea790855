//! Mounted roots: the layers of an image joined by one read-only overlayfs, shared by all pods that have the same.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::host::files;
use crate::host::layers::Layers;
use crate::model::{Code, Digest, Error, Result};

/// Bytes that mount options may have: one page with its final NUL.
const OPTIONS: usize = 4095;

/// The mounted roots of an instance.
#[derive(Debug, Clone)]
pub struct Rootfs {
    dir: PathBuf,
    layers: Layers,
}

impl Rootfs {
    /// Below the run directory.
    ///
    /// # Errors
    /// It can't be made.
    pub fn open(run: &Path, layers: Layers) -> Result<Self> {
        let dir = run.join("images");
        files::create_dir_all(&dir, 0o700)?;
        Ok(Rootfs { dir, layers })
    }

    /// The root of those layers, lowest first. Mounted already: nothing to do.
    ///
    /// # Errors
    /// A layer is missing, or overlayfs refuses.
    pub async fn ensure(&self, key: &str, layers: &[Digest]) -> Result<PathBuf> {
        let path = self.dir.join(key);
        if is_overlay(&path) {
            return Ok(path);
        }
        files::create_dir(&path, 0o755)?;
        let mut lower = Vec::new();
        for digest in layers.iter().rev() {
            if !self.layers.has(digest) {
                return Err(Error::new(Code::Damaged, format!("layer {digest} of the root is not on this host")));
            }
            let short = self.layers.short(digest).to_string_lossy().into_owned();
            if short.contains([':', ',', '\\']) {
                return Err(Error::invalid("the state directory's path has a character that overlayfs can't take"));
            }
            lower.push(short);
        }
        let options = format!("lowerdir={}", lower.join(":"));
        if options.len() > OPTIONS {
            return Err(Error::new(
                Code::Exhausted,
                format!("the root has {} layers, more than overlayfs can join", layers.len()),
            )
            .hint("use a shorter state-dir, or an image with fewer layers"));
        }
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
        mount(Some("torpor"), &path, Some("overlay"), flags, Some(options.as_str())).map_err(|e| {
            Error::internal(format!("join the layers of root {key}")).because(e).hint("does the kernel have overlayfs?")
        })?;
        Ok(path)
    }

    /// Unmounts a root that no sandbox uses. Not there: nothing to do.
    ///
    /// # Errors
    /// It can't be unmounted.
    pub async fn remove(&self, key: &str) -> Result<()> {
        let path = self.dir.join(key);
        loop {
            match umount2(&path, MntFlags::MNT_DETACH) {
                Ok(()) => {}
                Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
                Err(e) => return Err(Error::internal(format!("unmount root {key}")).because(e)),
            }
        }
        files::remove_tree(&path).await
    }

    /// Keys of those that exist.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn list(&self) -> Result<Vec<String>> {
        files::list(&self.dir)
    }
}

fn is_overlay(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC)
}

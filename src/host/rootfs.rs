//! Mounted roots: the layers of an image joined by one read-only overlayfs, shared by all pods that have the same.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    move_mount,
};

use crate::host::layers::Layers;
use crate::host::{files, unpack};
use crate::model::{Attempt, Code, Digest, Error, Result};

/// Layers of one root, init's and a pod's own among them: what fits into one page of options on older kernels.
const MOST: usize = 120;
/// Directories with short links begin so; they are there only while a root is mounted.
const LINKS: &str = ".links-";
/// An empty directory.
const EMPTY: &str = ".empty";

/// Roots of pods, each joined of its layers.
#[async_trait]
pub trait Roots: Send + Sync {
    /// The root of those layers, lowest first. There already: nothing to do.
    ///
    /// # Errors
    /// [`Code::Damaged`]: a layer is missing; or the kernel refuses.
    async fn ensure(&self, key: &str, layers: &[Digest]) -> Result<PathBuf>;
    /// Removes a root that no sandbox uses. Not there: nothing to do.
    ///
    /// # Errors
    /// It can't be removed.
    async fn remove(&self, key: &str) -> Result<()>;
    /// Keys of those that exist.
    ///
    /// # Errors
    /// They can't be listed.
    fn list(&self) -> Result<Vec<String>>;
}

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
}

#[async_trait]
impl Roots for Rootfs {
    async fn ensure(&self, key: &str, layers: &[Digest]) -> Result<PathBuf> {
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Error::internal(format!("{key:?} is no key of a root")));
        }
        let path = self.dir.join(key);
        if is_overlay(&path) {
            return Ok(path);
        }
        let mut lower = Vec::new();
        for digest in layers.iter().rev() {
            if !self.layers.has(digest) {
                return Err(Error::new(Code::Damaged, format!("layer {digest} of the root is not on this host")));
            }
            let layer = self.layers.path(digest);
            // An image may have a layer twice, and two stops may have left the same. The upper one says all that the lower one
            // does, and overlayfs takes no directory twice.
            if lower.contains(&layer) {
                continue;
            }
            // Overlayfs ignores the mark on the root of a layer.
            let opaque = hides_all(&layer);
            lower.push(layer);
            if opaque {
                break;
            }
        }
        if lower.len() > MOST {
            let text = format!("the root has {} layers, more than {MOST}", lower.len());
            return Err(Error::new(Code::Exhausted, text).hint("use an image with fewer layers"));
        }
        if lower.len() == 1 {
            // Overlayfs joins two at least.
            lower.push(self.dir.join(EMPTY));
            files::create_dir(&self.dir.join(EMPTY), 0o755)?;
        }
        files::create_dir(&path, 0o755)?;
        let links = self.dir.join(format!("{LINKS}{key}"));
        let (key, place) = (key.to_owned(), path.clone());
        let mounted = tokio::task::spawn_blocking(move || join(&lower, &place, &links)).await;
        mounted.attempt(Code::Internal, || "mount".into())?.attempt(Code::Internal, || {
            format!("join the {} layers of root {key} (is overlayfs in this kernel?)", layers.len())
        })?;
        Ok(path)
    }

    async fn remove(&self, key: &str) -> Result<()> {
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

    fn list(&self) -> Result<Vec<String>> {
        Ok(files::list(&self.dir)?.into_iter().filter(|n| !n.starts_with('.')).collect())
    }
}

/// Whether a layer says that nothing of the layers below it is seen.
fn hides_all(layer: &Path) -> bool {
    let mut value = [0_u8; 2];
    matches!(rustix::fs::lgetxattr(layer, unpack::OPAQUE, &mut value[..]), Ok(1)) && value[0] == b'y'
}

/// Mounts the layers, topmost first.
fn join(lower: &[PathBuf], place: &Path, links: &Path) -> Result<()> {
    // From kernel 6.5 on each layer is an option of its own: no escapes, no limit of a page. An older one writes a line into its
    // log each time it is asked for that.
    static OLDER_KERNEL: AtomicBool = AtomicBool::new(false);
    if !OLDER_KERNEL.load(Ordering::Relaxed)
        && let Some(done) = join_one_by_one(lower, place)?
    {
        return Ok(done);
    }
    files::remove_tree_now(links)?;
    files::create_dir(links, 0o700)?;
    let joined = join_by_links(lower, place, links);
    // Overlayfs has looked the links up and needs them no more.
    files::remove_tree_now(links)?;
    OLDER_KERNEL.fetch_or(joined.is_ok(), Ordering::Relaxed);
    joined
}

fn join_one_by_one(lower: &[PathBuf], place: &Path) -> Result<Option<()>> {
    let what = || format!("mount {}", place.display());
    let Ok(context) = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) else { return Ok(None) };
    fsconfig_set_string(&context, "source", "torpor").attempt(Code::Internal, what)?;
    for layer in lower {
        match fsconfig_set_string(&context, "lowerdir+", layer) {
            Ok(()) => {}
            Err(Errno::INVAL) => return Ok(None),
            Err(e) => return Err(e).attempt(Code::Internal, || format!("add {}", layer.display())),
        }
    }
    // Before 6.5 overlayfs is told its options only now: any text was taken until here.
    match fsconfig_create(&context) {
        Err(Errno::INVAL) => return Ok(None),
        other => other.attempt(Code::Internal, what)?,
    }
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).attempt(Code::Internal, what)?;
    move_mount(&mount, "", rustix::fs::CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .attempt(Code::Internal, what)?;
    Ok(Some(()))
}

/// Older kernels take all options in one page: short links to the layers fit into it.
fn join_by_links(lower: &[PathBuf], place: &Path, links: &Path) -> Result<()> {
    let what = || format!("mount {}", place.display());
    let mut options = String::from("lowerdir=");
    for (n, layer) in lower.iter().enumerate() {
        let link = links.join(n.to_string());
        std::os::unix::fs::symlink(layer, &link).attempt(Code::Internal, what)?;
        if n > 0 {
            options.push(':');
        }
        options.push_str(&link.to_string_lossy());
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    mount(Some("torpor"), place, Some("overlay"), flags, Some(options.as_str())).attempt(Code::Internal, what)
}

fn is_overlay(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_older_kernels_need_it() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let tmp = tempfile::tempdir().unwrap();
        // Paths that alone would fill the page of options, with what options can't hold.
        let lower: Vec<PathBuf> = (0..MOST).map(|n| tmp.path().join(format!("{n},:{}", "x".repeat(100)))).collect();
        for (n, layer) in lower.iter().enumerate() {
            std::fs::create_dir(layer).unwrap();
            std::fs::write(layer.join("who"), n.to_string()).unwrap();
        }
        let (place, links) = (tmp.path().join("m"), tmp.path().join("l"));
        std::fs::create_dir(&place).unwrap();
        std::fs::create_dir(&links).unwrap();
        let joined = join_by_links(&lower, &place, &links);
        std::fs::remove_dir_all(&links).unwrap();
        let seen = std::fs::read_to_string(place.join("who"));
        let read_only = std::fs::write(place.join("x"), "x").is_err();
        let overlay = is_overlay(&place);
        let _ = umount2(&place, MntFlags::MNT_DETACH);
        joined.unwrap();
        assert_eq!(seen.unwrap(), "0");
        assert!(read_only && overlay);
    }
}

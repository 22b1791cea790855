//! Host directories for pods' volumes, held open from the moment they are looked at until they are mounted.
//!
//! Another pod may write to what lies around a volume (its own volume may hold it), and a directory that was checked by its
//! path could be a link to another one when it is mounted by it. So a volume is opened once, without following links, and what
//! was opened is mounted in torpor's own run directory while the engine makes a sandbox of it.
//!
//! After a crash: mounts below the run directory, which [`clear`] takes away at the next start.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};

use super::files;
use crate::model::{Attempt, Code, Error, Result};

/// A directory that stays the same whatever its path comes to mean.
#[derive(Debug)]
pub struct OpenVolume {
    fd: OwnedFd,
}

const FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl OpenVolume {
    /// Opens a directory of the host. No part of its path may be a symbolic link.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`]: it is not there, is no directory, or a link lies on the way.
    pub fn host(path: &Path) -> Result<Self> {
        Self::open(CWD, path, ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS, path)
    }

    /// Opens the directory of that name below `dir`, made if it is missing.
    ///
    /// # Errors
    /// It can't be made, or is no directory.
    pub fn named(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name);
        let what = || format!("open {}", dir.display());
        if !path.is_symlink() {
            files::create_dir_all(&path, 0o755)?;
        }
        let below = rustix::fs::open(dir, FLAGS, Mode::empty()).attempt(Code::Internal, what)?;
        Self::open(&below, Path::new(name), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS, &path)
    }

    fn open(at: impl std::os::fd::AsFd, path: &Path, resolve: ResolveFlags, shown: &Path) -> Result<Self> {
        let wrong = |why: &str, hint: String| Error::invalid(format!("volume {}: {why}", shown.display())).hint(hint);
        let mut tries = 100; // something may be renamed on this host meanwhile
        let fd = loop {
            match openat2(&at, path, FLAGS, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if tries > 0 => tries -= 1,
                other => break other,
            }
        };
        match fd {
            Ok(fd) => Ok(OpenVolume { fd }),
            Err(Errno::LOOP) => {
                Err(wrong("a symbolic link lies on its way", "give the directory's own path (`realpath` tells)".into()))
            }
            Err(Errno::NOTDIR) => Err(wrong("it is no directory", "files can't be volumes".into())),
            Err(e @ (Errno::NOENT | Errno::ACCESS | Errno::NAMETOOLONG)) => {
                Err(wrong("it can't be opened", "make the directory on the host first".into()).because(e))
            }
            Err(e) => Err(e).attempt(Code::Internal, || format!("open volume {}", shown.display())),
        }
    }

    /// Where it is now.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn path(&self) -> Result<PathBuf> {
        let link = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        std::fs::read_link(&link).attempt(Code::Internal, || "look where a volume is".into())
    }

    /// A path to it that stays good while this is held, in this process.
    pub fn while_open(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// Mounts it as `name` in torpor's own directory `dir`, until the answer is dropped.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn mount(&self, dir: &Path, name: &str) -> Result<MountedVolume> {
        let what = || format!("mount a volume as {name}");
        files::create_dir_all(dir, 0o700)?;
        let mounted = MountedVolume { path: dir.join(name) };
        files::create_dir(&mounted.path, 0o700)?;
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(&self.fd, "", clone).attempt(Code::Internal, what)?;
        move_mount(&tree, "", CWD, &mounted.path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .attempt(Code::Internal, what)?;
        Ok(mounted)
    }
}

/// A volume as the engine finds it.
#[derive(Debug)]
pub struct MountedVolume {
    path: PathBuf,
}

impl MountedVolume {
    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for MountedVolume {
    fn drop(&mut self) {
        if let Err(e) = release(&self.path) {
            tracing::warn!(volume = %self.path.display(), error = %e, "unmount: the next start tries again");
        }
    }
}

/// Never removes what lies in it: a directory that is still a mount is kept.
fn release(path: &Path) -> std::io::Result<()> {
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(e) => return Err(e.into()),
        }
    }
    match std::fs::remove_dir(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Unmounts what a crash left in `dir`.
///
/// # Errors
/// Something can't be unmounted.
pub fn clear(dir: &Path) -> Result<()> {
    for name in files::list(dir)? {
        release(&dir.join(&name)).attempt(Code::Internal, || format!("unmount volume {name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_was_opened_stays_and_links_are_not_followed() {
        let tmp = tempfile::tempdir().unwrap();
        let top = tmp.path().canonicalize().unwrap();
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        std::fs::create_dir(top.join("other")).unwrap();
        std::fs::write(top.join("a/b/file"), "mine").unwrap();
        let open = OpenVolume::host(&top.join("a/b")).unwrap();
        std::fs::rename(top.join("a/b"), top.join("moved")).unwrap();
        symlink(top.join("other"), top.join("a/b")).unwrap();
        if nix::unistd::geteuid().is_root() {
            let mounted = open.mount(&top.join("run"), "one").unwrap();
            assert_eq!(std::fs::read_to_string(mounted.path().join("file")).unwrap(), "mine");
            std::mem::forget(mounted); // a crash
            clear(&top.join("run")).unwrap();
            assert_eq!(std::fs::read_dir(top.join("run")).unwrap().count(), 0);
            assert!(top.join("moved/file").exists());
        }
        assert_eq!(open.path().unwrap(), top.join("moved"));
        for bad in ["a/b", "a/b/x", "moved/file", "nothing"] {
            assert_eq!(OpenVolume::host(&top.join(bad)).unwrap_err().code(), Code::InvalidRequest, "{bad}");
        }
        assert!(OpenVolume::named(&top, "new").is_ok() && OpenVolume::named(&top.join("a"), "b").is_err());
    }
}

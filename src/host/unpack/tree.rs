//! Files of the layer that is being made, each reached from the directory it is made in: no path leaves that, whatever
//! links lie on the way.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    fchmod, fchown, fsetxattr, linkat, makedev, mkdirat, mknodat, openat, openat2, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::host::files;

/// The directory that becomes the layer.
pub(super) struct Tree {
    root: OwnedFd,
}

/// Where an entry lies: the directory, held open, and a name in it that has no slash.
pub(super) struct Place<'a> {
    dir: OwnedFd,
    name: &'a [u8],
}

/// Owner, permissions and time of an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) mtime: (i64, i64),
}

impl Tree {
    pub(super) fn new(root: OwnedFd) -> Self {
        Tree { root }
    }

    /// Opens a directory below the root. Links on the way are followed, but never out of the root.
    pub(super) fn dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..100 {
            match openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {} // something was renamed on this host meanwhile
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// The place of a clean path: none for the root itself.
    pub(super) fn place<'a>(&self, path: &'a [u8]) -> io::Result<Option<Place<'a>>> {
        let (dir, name) = split(path);
        if name.is_empty() { Ok(None) } else { Ok(Some(Place { dir: self.dir(dir)?, name })) }
    }

    /// Owner and permissions of the root.
    pub(super) fn set_root(&self, a: &Attributes) -> io::Result<()> {
        set_open(&self.root, a)
    }

    /// The root's time.
    pub(super) fn set_root_time(&self, mtime: (i64, i64)) -> io::Result<()> {
        Ok(rustix::fs::futimens(&self.root, &times(mtime))?)
    }
}

/// Directory and last name of a clean path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn times((seconds, nanoseconds): (i64, i64)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps { last_access: time, last_modification: time }
}

fn set_open(fd: &impl AsFd, a: &Attributes) -> io::Result<()> {
    // The owner first: changing it takes set-user-id bits away.
    fchown(fd, Some(Uid::from_raw(a.uid)), Some(Gid::from_raw(a.gid)))?;
    Ok(fchmod(fd, Mode::from_raw_mode(a.mode))?)
}

/// What lies at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Directory,
    /// An overlayfs whiteout.
    Whiteout,
    Other {
        dev: u64,
        ino: u64,
        links: u64,
    },
}

impl Place<'_> {
    pub(super) fn look(&self) -> io::Result<Found> {
        let stat: Stat = match statat(&self.dir, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            other => other?,
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Found::Directory,
            FileType::CharacterDevice if stat.st_rdev == 0 => Found::Whiteout,
            _ => {
                #[allow(clippy::useless_conversion, reason = "on other processors it is shorter")]
                let links = u64::from(stat.st_nlink);
                Found::Other { dev: stat.st_dev, ino: stat.st_ino, links }
            }
        })
    }

    /// Removes what lies there, a whole tree too.
    pub(super) fn clear(&self) -> io::Result<()> {
        files::remove_at(self.dir.as_fd(), self.name)
    }

    pub(super) fn make_dir(&self) -> io::Result<()> {
        Ok(mkdirat(&self.dir, self.name, Mode::from_raw_mode(0o755))?)
    }

    pub(super) fn make_file(&self) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.dir, self.name, flags, Mode::from_raw_mode(0o600))?))
    }

    pub(super) fn make_symlink(&self, target: &[u8]) -> io::Result<()> {
        Ok(symlinkat(target, &self.dir, self.name)?)
    }

    pub(super) fn make_fifo(&self) -> io::Result<()> {
        Ok(mknodat(&self.dir, self.name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?)
    }

    /// A file that hides one of a lower layer, as overlayfs has it: needs no privilege.
    pub(super) fn make_whiteout(&self) -> io::Result<()> {
        Ok(mknodat(&self.dir, self.name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))?)
    }

    /// Links this to what lies at `target`; a symbolic link there is linked itself.
    pub(super) fn make_link(&self, target: &Place<'_>) -> io::Result<()> {
        Ok(linkat(&target.dir, target.name, &self.dir, self.name, AtFlags::empty())?)
    }

    /// Opens the directory that lies there; a link is none.
    pub(super) fn open_dir(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.dir, self.name, flags, Mode::empty())?)
    }

    /// Owner and time of a symbolic link.
    pub(super) fn set_link(&self, a: &Attributes) -> io::Result<()> {
        chownat(
            &self.dir,
            self.name,
            Some(Uid::from_raw(a.uid)),
            Some(Gid::from_raw(a.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        self.set_time(a.mtime)
    }

    /// Owner, permissions and time of a named pipe that was just made: opening one may block.
    pub(super) fn set_fifo(&self, a: &Attributes) -> io::Result<()> {
        self.set_link(a)?;
        chmodat(&self.dir, self.name, Mode::from_raw_mode(a.mode), AtFlags::empty())?;
        self.set_time(a.mtime)
    }

    pub(super) fn set_time(&self, mtime: (i64, i64)) -> io::Result<()> {
        Ok(utimensat(&self.dir, self.name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Owner, permissions and extended attributes of an open file or directory.
pub(super) fn set(fd: &impl AsFd, a: &Attributes, xattrs: &[(String, Vec<u8>)]) -> io::Result<()> {
    set_open(fd, a)?;
    for (name, value) in xattrs {
        // After the owner too: changing it takes the file's capabilities away.
        fsetxattr(fd, name.as_str(), value, XattrFlags::empty())?;
    }
    Ok(())
}

/// The time of an open file.
pub(super) fn set_time(fd: &impl AsFd, mtime: (i64, i64)) -> io::Result<()> {
    Ok(rustix::fs::futimens(fd, &times(mtime))?)
}

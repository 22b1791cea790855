//! Removing what a stranger filled: links are removed, never followed, and no depth of directories is too deep.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, openat, openat2, renameat, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;

/// Directories within directories that are held open; what lies deeper is moved up first.
const OPEN: usize = 32;
/// Names that are read before they are removed.
const BATCH: usize = 4096;

/// Removes `name` in the directory `dir`, a whole tree too. Not there: nothing to do.
///
/// # Errors
/// Something of it can't be removed.
pub fn remove_at<N: Arg + Copy>(dir: BorrowedFd<'_>, name: N) -> io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    match open_dir(dir, name) {
        Ok(top) => Emptying { top: &top, moved: 0 }.all()?,
        Err(Errno::NOENT) => return Ok(()),
        // No directory: then it was not the unlink of a directory that is not permitted.
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(Errno::PERM.into()),
        Err(e) => return Err(e.into()),
    }
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Removes the tree at a path.
pub(super) fn remove(path: &std::path::Path) -> io::Result<()> {
    remove_at(CWD, path)
}

fn open_dir<N: Arg>(dir: BorrowedFd<'_>, name: N) -> Result<OwnedFd, Errno> {
    openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

struct Emptying<'a> {
    top: &'a OwnedFd,
    moved: u64,
}

impl Emptying<'_> {
    fn all(&mut self) -> io::Result<()> {
        loop {
            let before = self.moved;
            self.empty(self.top.as_fd(), 0)?;
            if self.moved == before {
                return Ok(());
            }
        }
    }

    fn empty(&mut self, dir: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        loop {
            let names = names(dir)?;
            if names.is_empty() {
                return Ok(());
            }
            for name in &names {
                self.one(dir, name, depth)?;
            }
        }
    }

    fn one(&mut self, dir: BorrowedFd<'_>, name: &CString, depth: usize) -> io::Result<()> {
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
        match unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        if depth == OPEN {
            self.moved += 1;
            renameat(dir, name, self.top, format!(".torpor-deep-{}", self.moved))?;
            return Ok(());
        }
        // What is mounted there is not ours to empty.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inner = openat2(dir, name, flags, Mode::empty(), ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS)?;
        self.empty(inner.as_fd(), depth + 1)?;
        match unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
        if names.len() == BATCH {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_trees_go_and_links_are_not_followed() {
        let tmp = tempfile::tempdir().unwrap();
        let canary = tmp.path().join("canary");
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("file"), "x").unwrap();
        let tree = tmp.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        std::os::unix::fs::symlink(&canary, tree.join("link")).unwrap();
        let mut at = open_dir(CWD, &tree).unwrap();
        for _ in 0..1000 {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            rustix::fs::symlinkat(canary.as_path(), &at, "l").unwrap();
            rustix::fs::mkdirat(&at, "e", Mode::from_raw_mode(0o000)).unwrap();
            at = open_dir(at.as_fd(), "d").unwrap();
        }
        remove(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(std::fs::read(canary.join("file")).unwrap(), b"x");
        remove(&tree).unwrap();
        remove(&canary.join("file")).unwrap();
        assert!(!canary.join("file").exists() && canary.exists());
    }
}

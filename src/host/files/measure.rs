//! How much a tree takes that a stranger fills: links are not followed, other file systems are not entered, and neither depth
//! nor number of files is trusted.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, statat};
use rustix::io::Errno;

use crate::model::{Code, Error, Result};

/// Directories within directories that are looked into: each is held open.
const DEEPEST: usize = 128;
/// Files with several names that are remembered, so as to be counted once.
const LINKED: usize = 1 << 20;

/// Bytes that a tree takes on disk.
///
/// # Errors
/// [`Code::Timeout`]: it is not done by `end`. It is deeper than is looked into, or can't be read.
pub fn measure(path: &Path, end: Instant) -> Result<u64> {
    let failed = |e: Errno| Error::internal(format!("look through {}", path.display())).because(e);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
    let device = fstat(&top).map_err(failed)?.st_dev;
    let mut linked = BTreeSet::new();
    let mut sum = 0_u64;
    let mut open: Vec<(OwnedFd, Vec<CString>)> = vec![];
    open.push(directories(top, &mut sum, &mut linked, end).map_err(failed)?);
    while let Some((dir, names)) = open.last_mut() {
        if Instant::now() > end {
            return Err(Error::new(Code::Timeout, format!("look through {}: it has too many files", path.display())));
        }
        let Some(name) = names.pop() else {
            open.pop();
            continue;
        };
        let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let inner = match openat2(&*dir, &name, flags, Mode::empty(), resolve) {
            Ok(inner) => inner,
            // Gone, or something else, since it was listed; or mounted there, and so not part of it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::AGAIN) => continue,
            Err(e) => return Err(failed(e)),
        };
        if fstat(&inner).map_err(failed)?.st_dev != device {
            continue;
        }
        if open.len() == DEEPEST {
            return Err(Error::internal(format!("look through {}: it is too deep", path.display())));
        }
        open.push(directories(inner, &mut sum, &mut linked, end).map_err(failed)?);
    }
    Ok(sum)
}

/// Counts what lies in a directory, and gives the names of directories in it.
fn directories(
    dir: OwnedFd,
    sum: &mut u64,
    linked: &mut BTreeSet<u64>,
    end: Instant,
) -> std::result::Result<(OwnedFd, Vec<CString>), Errno> {
    let mut names = Vec::new();
    *sum += blocks(&fstat(&dir)?);
    for (n, entry) in Dir::read_from(dir.as_fd())?.enumerate() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if n % 4096 == 4095 && Instant::now() > end {
            return Ok((dir, names)); // the caller tells
        }
        if entry.file_type() == FileType::Directory {
            names.push(name.to_owned());
            continue;
        }
        *sum += of_file(dir.as_fd(), name, linked)?;
    }
    Ok((dir, names))
}

fn of_file(dir: BorrowedFd<'_>, name: &std::ffi::CStr, linked: &mut BTreeSet<u64>) -> std::result::Result<u64, Errno> {
    let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(0),
        Err(e) => return Err(e),
    };
    let once = stat.st_nlink <= 1 || linked.len() >= LINKED || linked.insert(stat.st_ino);
    Ok(if once { blocks(&stat) } else { 0 })
}

fn blocks(stat: &rustix::fs::Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_tree_counts_once_and_nothing_beside_it() {
        let tmp = tempfile::tempdir().unwrap();
        let (tree, other) = (tmp.path().join("tree"), tmp.path().join("other"));
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("big"), vec![1; 4 << 20]).unwrap();
        std::fs::write(tree.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(tree.join("a/b/file"), tree.join("again")).unwrap();
        std::os::unix::fs::symlink(&other, tree.join("link")).unwrap();
        let soon = || Instant::now() + Duration::from_secs(60);
        let bytes = measure(&tree, soon()).unwrap();
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        assert!(measure(&tree.join("link"), soon()).is_err());
        assert!(measure(&tree, Instant::now() - Duration::from_secs(1)).is_err());
        let mut at = openat(CWD, &tree, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..2 * DEEPEST {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            at = openat(&at, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        assert!(measure(&tree, soon()).unwrap_err().report().contains("too deep"));
        crate::host::files::remove_tree_now(&tree).unwrap();
    }
}

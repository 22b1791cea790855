//! Files: made, replaced and removed so that a crash leaves the old or the new, never half.

mod fingerprint;
mod measure;
mod remove;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

pub use fingerprint::fingerprint;
pub use measure::measure;
pub use remove::remove_at;

use crate::model::{Attempt, Code, Error, Result};

/// What stands between the state directory and its disk, if that is why something failed: no room (or no more than a quota
/// allows), or a disk that fails or can't be written.
pub fn disk_code(e: &std::io::Error) -> Option<Code> {
    match (e.kind(), e.raw_os_error()) {
        (ErrorKind::StorageFull | ErrorKind::QuotaExceeded, _) => Some(Code::Exhausted),
        (ErrorKind::ReadOnlyFilesystem, _) | (_, Some(libc::EIO | libc::EUCLEAN)) => Some(Code::DiskFailed),
        _ => None,
    }
}

/// A failure on the state directory's disk, with what can be done about it; `otherwise`: the code of all that is not the
/// disk's fault.
pub fn disk_error(e: std::io::Error, otherwise: Code, what: impl Into<String>) -> Error {
    let code = disk_code(&e);
    let error = Error::new(code.unwrap_or(otherwise), what).because(e);
    match code {
        Some(code) => error.hint(disk_hint(code)),
        None => error,
    }
}

/// What can be done about a disk that has no room, or fails.
pub fn disk_hint(code: Code) -> &'static str {
    if code == Code::Exhausted {
        "free space on the state directory's disk, or raise its quota; nothing was changed"
    } else {
        "the kernel's log (dmesg) says what is wrong with the state directory's disk; nothing was changed, and pods go on"
    }
}

fn failed<T>(result: std::io::Result<T>, what: &str, path: &Path) -> Result<T> {
    result.map_err(|e| {
        let code = disk_code(&e).unwrap_or(Code::Internal);
        Error::new(code, format!("{what} {}", path.display())).because(e)
    })
}

/// Makes a directory; one that is there already is fine. Its parent must exist.
///
/// # Errors
/// It can't be made.
pub fn create_dir(path: &Path, mode: u32) -> Result<()> {
    create_dir_all(path, mode)
}

/// Makes a directory with its parents.
///
/// # Errors
/// It can't be made.
pub fn create_dir_all(path: &Path, mode: u32) -> Result<()> {
    failed(DirBuilder::new().recursive(true).mode(mode).create(path), "make directory", path)
}

/// What tells one state of a file from another: device, inode, size, and when it was changed.
pub type Stamp = (u64, u64, u64, i64, i64);

/// The state in which a file is now, links followed.
///
/// # Errors
/// There is none, or it can't be looked at.
pub fn stamp(path: &Path) -> Result<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let m = failed(std::fs::metadata(path), "look at", path)?;
    Ok((m.dev(), m.ino(), m.size(), m.ctime(), m.ctime_nsec()))
}

/// Makes a file that only its owner may read; one that is there already is left alone.
///
/// # Errors
/// It can't be made.
pub fn create_private(path: &Path) -> Result<()> {
    let made = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    failed(made.map(drop), "make", path)
}

/// Writes a file that need not survive a power loss.
///
/// # Errors
/// It can't be written.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path);
    failed(file.and_then(|mut f| f.write_all(bytes)), "write", path)
}

/// Puts a file in the place of an older one, durably: after a power loss it is the old or the new one.
///
/// # Errors
/// It can't be written; the old one is still there.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let new = sibling(path);
    let write = || -> std::io::Result<()> {
        let _ = std::fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        sync_parent(path)
    };
    let result = write();
    if result.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    failed(result, "replace", path)
}

/// As [`replace`], for what need not survive a power loss.
///
/// # Errors
/// It can't be written; the old one is still there.
pub fn swap(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let new = sibling(path);
    write(&new, bytes, mode)?;
    failed(std::fs::rename(&new, path), "replace", path)
}

fn sibling(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// Hears what the kernel has to tell of writes that failed until now, to this directory's file system. It tells each failure once:
/// without that, a later `syncfs` may fail for one that is long over and has nothing to do with what was written since.
pub fn hear_old_failures(dir: &Path) {
    if let Ok(dir) = File::open(dir) {
        let _ = rustix::fs::syncfs(&dir);
    }
}

/// Makes the entry of `path` in its directory durable.
///
/// # Errors
/// The directory can't be synced.
pub fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Whether something is there; a link counts as itself.
///
/// # Errors
/// It can't be looked at.
pub fn is_there(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => failed(Err(e), "look at", path),
    }
}

/// Removes a directory that is empty.
///
/// # Errors
/// It is not there, not empty, or can't be removed.
pub fn remove_empty_dir(path: &Path) -> Result<()> {
    failed(std::fs::remove_dir(path), "remove", path)
}

/// Renames durably.
///
/// # Errors
/// It can't be renamed.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    failed(std::fs::rename(from, to).and_then(|()| sync_parent(to)), "rename to", to)
}

/// Reads a small text file.
///
/// # Errors
/// It can't be read.
pub fn read(path: &Path) -> Result<String> {
    failed(std::fs::read_to_string(path), "read", path)
}

/// Reads a small file that need not be text.
///
/// # Errors
/// It can't be read.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    failed(std::fs::read(path), "read", path)
}

/// Reads a file of the host that somebody named: a regular file, of `most` bytes at most. Opening it waits for nothing.
///
/// # Errors
/// [`Code::InvalidRequest`]: it is not there, is no file, or is larger.
pub fn read_named(path: &Path, most: usize) -> Result<Vec<u8>> {
    use std::io::Read;
    let wrong = |why: &str| Error::invalid(format!("read {}: {why}", path.display()));
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = file.map_err(|e| wrong("it can't be opened").because(e))?;
    if !failed(file.metadata(), "look at", path)?.is_file() {
        return Err(wrong("it is no file"));
    }
    let mut bytes = Vec::new();
    failed(file.take(most as u64 + 1).read_to_end(&mut bytes), "read", path)?;
    if bytes.len() > most { Err(wrong(&format!("it has more than {most} bytes"))) } else { Ok(bytes) }
}

/// Reads a small text file that may be missing.
///
/// # Errors
/// It is there and can't be read.
pub fn read_if_present(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => failed(Err(e), "read", path),
    }
}

/// Names in a directory; none if there is no directory.
///
/// # Errors
/// It can't be read.
pub fn list(path: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => failed(other, "list", path)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(failed(entry, "list", path)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Removes a file or a tree; not there: nothing to do. Links are removed, not followed.
///
/// # Errors
/// Something of it can't be removed.
pub async fn remove_tree(path: &Path) -> Result<()> {
    let owned = path.to_owned();
    let removed = tokio::task::spawn_blocking(move || remove_tree_now(&owned)).await;
    removed.attempt(Code::Internal, || format!("remove {}", path.display()))?
}

/// As [`remove_tree`], on this thread.
///
/// # Errors
/// Something of it can't be removed.
pub fn remove_tree_now(path: &Path) -> Result<()> {
    failed(remove::remove(path), "remove", path)
}

/// Bytes that files of a directory take on the disk which the process holds open, holes left out. They may have no name any
/// more. A process that is gone holds none.
///
/// # Errors
/// It can't be looked at.
pub fn held_bytes(process: u32, dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let open = PathBuf::from(format!("/proc/{process}/fd"));
    let mut seen = std::collections::BTreeMap::new();
    for name in list(&open)? {
        let path = open.join(name);
        if std::fs::read_link(&path).is_ok_and(|to| to.starts_with(dir))
            && let Ok(m) = std::fs::metadata(&path)
        {
            seen.insert((m.dev(), m.ino()), m.blocks() * 512);
        }
    }
    Ok(seen.values().sum())
}

/// Bytes free for root on the file system of `path`.
///
/// # Errors
/// It can't be asked.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path)
        .attempt(Code::Internal, || format!("ask the free space of {}", path.display()))?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

/// Bytes of the file system of `path`.
///
/// # Errors
/// It can't be asked.
pub fn total_bytes(path: &Path) -> Result<u64> {
    let stat =
        nix::sys::statvfs::statvfs(path).attempt(Code::Internal, || format!("ask the size of {}", path.display()))?;
    Ok(stat.blocks() * stat.fragment_size())
}

/// Length of a file.
///
/// # Errors
/// It can't be looked at.
pub fn file_bytes(path: &Path) -> Result<u64> {
    failed(std::fs::symlink_metadata(path).map(|m| m.len()), "look at", path)
}

/// Bytes, about, of a tar of a tree: holes count as what they hide.
///
/// # Errors
/// It can't be read.
pub fn tar_bytes(path: &Path) -> Result<u64> {
    let mut sum = 0_u64;
    for name in list(path)? {
        let entry = path.join(name);
        let more = match std::fs::symlink_metadata(&entry) {
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            other => {
                let meta = failed(other, "look at", &entry)?;
                if meta.is_dir() { tar_bytes(&entry)? } else { meta.len() }
            }
        };
        sum = sum.saturating_add(more).saturating_add(2048);
    }
    Ok(sum)
}

/// Bytes that a tree takes on disk. What goes away meanwhile takes none.
///
/// # Errors
/// It can't be read.
pub fn tree_bytes(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for name in list(path)? {
        let entry = path.join(name);
        let meta = match std::fs::symlink_metadata(&entry) {
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            other => failed(other, "look at", &entry)?,
        };
        sum += if meta.is_dir() { tree_bytes(&entry)? } else { meta.blocks() * 512 };
    }
    Ok(sum)
}

/// A lock that one process holds; given back when dropped or when the process ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

/// For so long a lock may be held by nobody who lives: a program that its owner was just about to start when it was killed
/// has a copy of all that was open until it runs.
const LINGERS: Duration = Duration::from_secs(2);

/// Takes the lock file `path`.
///
/// # Errors
/// [`Code::InUse`]: another process has it, and keeps it.
pub fn lock(path: &Path) -> Result<Lock> {
    let mut file =
        failed(OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path), "open", path)?;
    let end = Instant::now() + LINGERS;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Ok(Lock(held)),
            Err((again, nix::Error::EAGAIN)) if Instant::now() < end => file = again,
            Err((_, e)) => {
                return Err(Error::new(Code::InUse, format!("lock {}", path.display()))
                    .because(e)
                    .hint("another torpord runs with this state directory"));
            }
        }
        std::thread::sleep(Duration::from_millis(10)); // nothing tells of it
    }
}

/// Makes a file executable for all, not writable.
///
/// # Errors
/// Its mode can't be set.
pub fn make_executable(path: &Path) -> Result<()> {
    failed(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o555)), "set the mode of", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_and_one_that_fails_are_told_from_all_else() {
        let code = |raw| disk_code(&std::io::Error::from_raw_os_error(raw));
        for (raw, expected) in [
            (libc::ENOSPC, Some(Code::Exhausted)),
            (libc::EDQUOT, Some(Code::Exhausted)),
            (libc::EIO, Some(Code::DiskFailed)),
            (libc::EROFS, Some(Code::DiskFailed)),
            (libc::EUCLEAN, Some(Code::DiskFailed)),
            (libc::ENOENT, None),
            (libc::ELOOP, None),
        ] {
            assert_eq!(code(raw), expected, "{raw}");
        }
        let e = disk_error(std::io::Error::from_raw_os_error(libc::EROFS), Code::BadArchive, "keep it");
        assert!(
            e.code() == Code::DiskFailed && e.hint_text().is_some_and(|h| h.contains("dmesg")) && e.is_of_the_disk()
        );
    }

    #[test]
    fn a_lock_that_is_given_back_soon_is_waited_for_and_one_that_is_kept_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let (held, begun) = (lock(&path).unwrap(), Instant::now());
        let gives_back = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(held);
        });
        let kept = lock(&path).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(200));
        gives_back.join().unwrap();
        assert_eq!(lock(&path).unwrap_err().code(), Code::InUse);
        drop(kept);
        lock(&path).unwrap();
    }
}

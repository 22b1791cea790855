//! One tar entry after the other, inside the worker's root.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use tar::{Entry, EntryType};

use super::Stop;

const LONGEST_PATH: usize = 4096;
const LONGEST_NAME: usize = 255;
const DEEPEST: usize = 100;
/// Extended attributes of one entry.
const MOST_XATTRS: usize = 64;

/// What was unpacked.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    /// Bytes of regular files.
    pub(super) bytes: u64,
    /// Directories that hide what lies below them.
    pub(super) opaque: Vec<Vec<u8>>,
}

struct Unpacker {
    done: Unpacked,
    bytes_left: u64,
    inodes_left: u64,
    /// The tar is runsc's: it marks opaque directories as overlayfs does.
    upper: bool,
    /// Times of directories: set last, since what is put into them changes them.
    times: BTreeMap<PathBuf, i64>,
}

/// Unpacks a tar into the present root.
pub(super) fn unpack(tar: impl Read, max_bytes: u64, max_inodes: u64, upper: bool) -> Result<Unpacked, Stop> {
    let mut archive = tar::Archive::new(tar);
    let mut unpacker = Unpacker {
        done: Unpacked::default(),
        bytes_left: max_bytes,
        inodes_left: max_inodes,
        upper,
        times: BTreeMap::new(),
    };
    let damaged = |e: io::Error| Stop::Bad(format!("the tar is damaged: {e}"));
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        unpacker.take(&mut entry)?;
    }
    for (path, time) in unpacker.times.iter().rev() {
        set_time(path, *time).map_err(|e| Stop::Io(show(path), e))?;
    }
    Ok(unpacker.done)
}

fn show(path: &Path) -> String {
    let text: String = path.to_string_lossy().chars().take(200).collect();
    format!("{text:?}")
}

/// The path of an entry below the root: refused if it is absolute, climbs, or is longer than any file system takes.
fn clean(raw: &[u8]) -> Result<PathBuf, Stop> {
    let path = Path::new(OsStr::from_bytes(raw));
    let refuse = |why: &str| Err(Stop::Bad(format!("{}: {why}", show(path))));
    if raw.len() > LONGEST_PATH {
        return refuse("the path is too long");
    }
    if raw.contains(&0) {
        return refuse("a NUL byte stands in the path");
    }
    let mut clean = PathBuf::new();
    let mut depth = 0;
    for component in path.components() {
        match component {
            Component::Normal(name) if name.len() <= LONGEST_NAME => clean.push(name),
            Component::Normal(_) => return refuse("a name in the path is too long"),
            Component::CurDir => continue,
            Component::ParentDir => return refuse("the path climbs out of the layer"),
            Component::RootDir | Component::Prefix(_) => return refuse("the path is absolute"),
        }
        depth += 1;
    }
    if depth > DEEPEST { refuse("the path is too deep") } else { Ok(clean) }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes what is in the way of a new entry.
fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(e) => ignore_missing(Err(e)),
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

fn set_time(path: &Path, seconds: i64) -> io::Result<()> {
    let time = TimeSpec::new(seconds, 0);
    Ok(utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

impl Unpacker {
    fn take<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), Stop> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let relative = clean(&entry.path_bytes())?;
        let path = Path::new("/").join(&relative);
        let at = |e: io::Error| Stop::Io(show(&relative), e);
        self.inodes_left = self.inodes_left.checked_sub(1).ok_or_else(|| Stop::Large("too many files".into()))?;
        self.make_parents(&path)?;
        if self.whiteout(&relative, &path)? {
            return Ok(());
        }
        let header = entry.header();
        let number = |r: io::Result<u64>| r.map_err(|e| Stop::Bad(format!("{}: {e}", show(&relative))));
        let mode = header.mode().map_err(|e| Stop::Bad(format!("{}: {e}", show(&relative))))? & 0o7777;
        let owner =
            |n: u64| u32::try_from(n).map_err(|_| Stop::Bad(format!("{}: an impossible owner", show(&relative))));
        let (uid, gid) = (owner(number(header.uid())?)?, owner(number(header.gid())?)?);
        let time = i64::try_from(number(header.mtime())?).unwrap_or(0);
        let is_root = relative.as_os_str().is_empty();
        match kind {
            EntryType::Directory => {
                if !is_root {
                    match fs::symlink_metadata(&path) {
                        Ok(m) if m.is_dir() => {}
                        _ => {
                            clear(&path).map_err(at)?;
                            fs::create_dir(&path).map_err(at)?;
                        }
                    }
                }
                self.times.insert(path.clone(), time);
            }
            _ if is_root => return Err(Stop::Bad("the layer's root is no directory".into())),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.file(entry, &path, &relative)?,
            EntryType::Symlink => {
                let target = entry
                    .link_name_bytes()
                    .ok_or_else(|| Stop::Bad(format!("{}: a link to nothing", show(&relative))))?;
                if target.is_empty() || target.len() >= LONGEST_PATH || target.contains(&0) {
                    return Err(Stop::Bad(format!("{}: an impossible link", show(&relative))));
                }
                clear(&path).map_err(at)?;
                std::os::unix::fs::symlink(OsStr::from_bytes(&target), &path).map_err(at)?;
            }
            EntryType::Link => return self.hard_link(entry, &path, &relative),
            EntryType::Char => {
                let device = (header.device_major().ok().flatten(), header.device_minor().ok().flatten());
                if device != (Some(0), Some(0)) {
                    return Err(Stop::Bad(format!("{}: devices are not allowed in a layer", show(&relative))));
                }
                clear(&path).map_err(at)?;
                return make_whiteout(&path).map_err(at);
            }
            EntryType::Fifo => {
                clear(&path).map_err(at)?;
                mknod(&path, SFlag::S_IFIFO, Mode::empty(), 0).map_err(|e| at(e.into()))?;
            }
            EntryType::Block => {
                return Err(Stop::Bad(format!("{}: devices are not allowed in a layer", show(&relative))));
            }
            other => {
                return Err(Stop::Bad(format!(
                    "{}: an entry of an unknown type ({:?})",
                    show(&relative),
                    other.as_byte() as char
                )));
            }
        }
        self.attributes(entry, &path, &relative, kind, (uid, gid), mode, time)
    }

    /// Directories above an entry that the archive does not mention.
    fn make_parents(&mut self, path: &Path) -> Result<(), Stop> {
        let Some(parent) = path.parent() else { return Ok(()) };
        match fs::metadata(parent) {
            Ok(m) if m.is_dir() => return Ok(()),
            Ok(_) => return Err(Stop::Bad(format!("{}: what it lies in is no directory", show(path)))),
            Err(e) if e.kind() == ErrorKind::NotFound && fs::symlink_metadata(parent).is_err() => {}
            Err(e) => return Err(Stop::Io(show(path), e)),
        }
        self.make_parents(parent)?;
        self.inodes_left = self.inodes_left.checked_sub(1).ok_or_else(|| Stop::Large("too many directories".into()))?;
        fs::create_dir(parent).map_err(|e| Stop::Io(show(parent), e))?;
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).map_err(|e| Stop::Io(show(parent), e))
    }

    /// OCI whiteouts, put as overlayfs has them.
    fn whiteout(&mut self, relative: &Path, path: &Path) -> Result<bool, Stop> {
        let Some(name) = relative.file_name().map(OsStr::as_bytes) else { return Ok(false) };
        if name == b".wh..wh..opq" {
            let dir = relative.parent().unwrap_or(Path::new(""));
            // Followed nowhere: the parent process refuses a path with links in it.
            self.done.opaque.push(dir.as_os_str().as_bytes().to_vec());
            return Ok(true);
        }
        let Some(hidden) = name.strip_prefix(b".wh.") else { return Ok(false) };
        if hidden.is_empty() || hidden == b"." || hidden == b".." || hidden.starts_with(b".wh.") {
            return Err(Stop::Bad(format!("{}: a whiteout of nothing", show(relative))));
        }
        let hidden = path.with_file_name(OsStr::from_bytes(hidden));
        clear(&hidden).and_then(|()| make_whiteout(&hidden)).map_err(|e| Stop::Io(show(relative), e))?;
        Ok(true)
    }

    fn file<R: Read>(&mut self, entry: &mut Entry<'_, R>, path: &Path, relative: &Path) -> Result<(), Stop> {
        let at = |e: io::Error| Stop::Io(show(relative), e);
        let size = entry.size();
        if size > self.bytes_left {
            return Err(Stop::Large(format!("{}: the layer becomes larger than allowed", show(relative))));
        }
        clear(path).map_err(at)?;
        let mut file: File = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(at)?;
        let copied = io::copy(&mut entry.take(size), &mut file).map_err(at)?;
        if copied != size {
            return Err(Stop::Bad(format!("{}: {copied} bytes instead of {size}", show(relative))));
        }
        self.bytes_left -= size;
        self.done.bytes += size;
        Ok(())
    }

    fn hard_link<R: Read>(&mut self, entry: &mut Entry<'_, R>, path: &Path, relative: &Path) -> Result<(), Stop> {
        let target =
            entry.link_name_bytes().ok_or_else(|| Stop::Bad(format!("{}: a link to nothing", show(relative))))?;
        let target = clean(&target).map_err(|e| Stop::Bad(format!("{}: links to {}", show(relative), e.text())))?;
        let from = Path::new("/").join(&target);
        if from == path {
            return Err(Stop::Bad(format!("{}: a link to itself", show(relative))));
        }
        let at = |e: io::Error| Stop::Io(format!("{}: link to {}", show(relative), show(&target)), e);
        let meta = fs::symlink_metadata(&from).map_err(at)?;
        if meta.is_dir() {
            return Err(Stop::Bad(format!("{}: a hard link to a directory", show(relative))));
        }
        if meta.nlink() >= 60_000 {
            return Err(Stop::Large(format!("{}: too many links to one file", show(relative))));
        }
        clear(path).map_err(at)?;
        fs::hard_link(&from, path).map_err(at)
    }

    #[expect(clippy::too_many_arguments, reason = "all of them are one entry's attributes")]
    fn attributes<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        path: &Path,
        relative: &Path,
        kind: EntryType,
        owner: (u32, u32),
        mode: u32,
        time: i64,
    ) -> Result<(), Stop> {
        let at = |e: io::Error| Stop::Io(show(relative), e);
        std::os::unix::fs::lchown(path, Some(owner.0), Some(owner.1)).map_err(at)?;
        if kind != EntryType::Symlink {
            // After the owner: changing that takes set-user-id bits away.
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(at)?;
            let (found, opaque) = xattrs(entry, relative, self.upper)?;
            if opaque && kind == EntryType::Directory {
                self.done.opaque.push(relative.as_os_str().as_bytes().to_vec());
            }
            for (name, value) in found {
                rustix::fs::lsetxattr(path, &name, &value, rustix::fs::XattrFlags::empty())
                    .map_err(|e| Stop::Io(format!("{}: attribute {name}", show(relative)), e.into()))?;
            }
        }
        if kind != EntryType::Directory {
            set_time(path, time).map_err(at)?;
        }
        Ok(())
    }
}

/// A file that hides one of a lower layer, as overlayfs has it.
fn make_whiteout(path: &Path) -> io::Result<()> {
    Ok(mknod(path, SFlag::S_IFCHR, Mode::empty(), 0)?)
}

type Xattrs = Vec<(String, Vec<u8>)>;

/// The extended attributes that an entry may have, and whether it is marked opaque.
fn xattrs<R: Read>(entry: &mut Entry<'_, R>, relative: &Path, upper: bool) -> Result<(Xattrs, bool), Stop> {
    let damaged = |e: io::Error| Stop::Bad(format!("{}: {e}", show(relative)));
    let mut found = Vec::new();
    let mut opaque = false;
    for extension in entry.pax_extensions().map_err(damaged)?.into_iter().flatten() {
        let extension = extension.map_err(damaged)?;
        let Some(name) = extension.key().ok().and_then(|k| k.strip_prefix("SCHILY.xattr.")) else { continue };
        if name.starts_with("user.") || name == "security.capability" {
            found.push((name.to_owned(), extension.value_bytes().to_vec()));
        } else if upper && name.starts_with("trusted.overlay.") {
            opaque |= name == "trusted.overlay.opaque" && extension.value_bytes() == b"y";
        } else if name.starts_with("trusted.") {
            // These steer overlayfs itself.
            return Err(Stop::Bad(format!("{}: attribute {name:?} is not allowed in a layer", show(relative))));
        }
        if found.len() > MOST_XATTRS {
            return Err(Stop::Bad(format!("{}: too many attributes", show(relative))));
        }
    }
    Ok((found, opaque))
}

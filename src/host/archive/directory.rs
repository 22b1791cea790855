//! A directory of this host, or several layers' directories as one, as a tar: always the same bytes for the same tree.
//!
//! A pod may be writing to it meanwhile (it may be a volume), so every file is opened below the directory that holds it and
//! links are never followed: what it is swapped for can fail the import, but not bring in another file of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use tar::{EntryType, Header};

use crate::host::files;
use crate::host::unpack::OPAQUE;
use crate::model::{Attempt, Code, Error, Result};

/// Directories within directories.
const DEEPEST: usize = 256;

/// Packs a directory of this host, `most` bytes of tar at most. Sockets are left out; other file systems too.
///
/// # Errors
/// It can't be read, changes meanwhile, or `go_on` says so.
pub fn pack_directory(dir: &Path, out: File, most: u64, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
    if !dir.is_absolute() {
        return Err(Error::invalid(format!("{} is no absolute path", dir.display())));
    }
    pack(&[dir], None, out, most, go_on)
}

/// Packs unpacked layers (topmost first) as one layer that stands for all of them on top of `below`: of every name the
/// topmost. A whiteout stays only if it hides something of `below`: in a directory that no lower layer has, overlayfs would
/// list it as a file that can't be found.
///
/// # Errors
/// As [`pack_directory`].
pub fn pack_layers(
    dirs: &[&Path],
    below: &[&Path],
    out: File,
    most: u64,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<()> {
    pack(dirs, Some(below), out, most, go_on)
}

fn pack(dirs: &[&Path], below: Option<&[&Path]>, out: File, most: u64, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
    let what = || format!("read directory {}", dirs.first().copied().unwrap_or(Path::new("")).display());
    let layers = below.is_some();
    let (tops, opaque) = open_tops(dirs, layers).attempt(Code::InvalidRequest, what)?;
    let (below, _) = match below {
        Some(below) if !opaque => open_tops(below, true).attempt(Code::InvalidRequest, what)?,
        _ => (Vec::new(), true),
    };
    let Some(top) = tops.first() else { return Err(Error::internal("no directory to pack")) };
    let out = Bounded { out: io::BufWriter::new(out), left: most };
    let mut builder = tar::Builder::new(out);
    builder.sparse(false);
    let stat = fstat(top).attempt(Code::InvalidRequest, what)?;
    let mut packer = Packer { builder, layers, device: stat.st_dev, inodes: BTreeMap::new(), go_on };
    let name = Path::new("./");
    // What is packed goes to the state directory's disk.
    let failed = |e| files::disk_error(e, Code::InvalidRequest, what());
    packer.entry(top, name, &stat, EntryType::Directory, Some(top), opaque).map_err(failed)?;
    packer.directory(&Stack { dirs: tops, below }, Path::new(""), 0).map_err(failed)?;
    let mut out = packer.builder.into_inner().map_err(failed)?;
    out.flush().map_err(failed)
}

/// One directory, topmost layer first.
struct Stack {
    /// In the layers that are packed.
    dirs: Vec<OwnedFd>,
    /// In the layers below them, as far as it is seen.
    below: Vec<OwnedFd>,
}

/// The layers' roots down to the first that hides those below it, and whether there is one.
fn open_tops(dirs: &[&Path], layers: bool) -> io::Result<(Vec<OwnedFd>, bool)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut tops = Vec::new();
    for dir in dirs {
        let top = rustix::fs::open(*dir, flags, Mode::empty())?;
        let opaque = layers && hides_lower(&top);
        tops.push(top);
        if opaque {
            return Ok((tops, true));
        }
    }
    Ok((tops, false))
}

struct Bounded<W> {
    out: W,
    left: u64,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        let left = self.left.checked_sub(n as u64);
        self.left = left.ok_or_else(|| io::Error::other("it is larger than one import may be"))?;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

struct Packer<'a, W: Write> {
    builder: tar::Builder<W>,
    /// Whether they are layers as they lie in the layer store: with whiteouts and opaque directories.
    layers: bool,
    device: u64,
    /// The first name of every file that has several.
    inodes: BTreeMap<u64, PathBuf>,
    go_on: &'a dyn Fn() -> Result<()>,
}

impl<W: Write> Packer<'_, W> {
    /// What a directory holds.
    fn directory(&mut self, stack: &Stack, below: &Path, depth: usize) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(io::Error::other(format!("{} is too deep", below.display())));
        }
        let mut all = BTreeSet::new();
        for dir in &stack.dirs {
            all.extend(names(dir)?);
        }
        for name in all {
            (self.go_on)().map_err(io::Error::other)?;
            let inner = below.join(OsStr::from_bytes(name.as_bytes()));
            self.one(stack, &name, &inner, depth)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", inner.display())))?;
        }
        Ok(())
    }

    fn one(&mut self, stack: &Stack, name: &CString, inner: &Path, depth: usize) -> io::Result<()> {
        if name.as_bytes().starts_with(b".wh.") {
            return Err(io::Error::other("in a layer this name means that a file was removed"));
        }
        let Some((n, stat)) = topmost(&stack.dirs, name)? else {
            return Err(io::Error::other("it went away while it was read"));
        };
        let Some((dir, lower)) = stack.dirs.get(n..).and_then(<[OwnedFd]>::split_first) else { return Ok(()) };
        if stat.st_dev != self.device {
            return Ok(());
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 && kind != FileType::Socket && !is_whiteout(&stat) {
            if let Some(first) = self.inodes.get(&stat.st_ino) {
                let mut header = header(&stat, EntryType::Link);
                return self.builder.append_link(&mut header, inner, first);
            }
            self.inodes.insert(stat.st_ino, inner.to_owned());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match kind {
            FileType::Directory => {
                let opened = openat(dir, name, flags | OFlags::DIRECTORY, Mode::empty())?;
                let stat = fstat(&opened)?;
                let (dirs, opaque) = join(opened, lower, name, self.layers)?;
                let below = if opaque { Vec::new() } else { seen_below(&stack.below, name)? };
                let Some(top) = dirs.first() else { return Ok(()) };
                self.entry(top, inner, &stat, EntryType::Directory, Some(top), opaque)?;
                self.directory(&Stack { dirs, below }, inner, depth + 1)
            }
            FileType::RegularFile => {
                let opened = openat(dir, name, flags, Mode::empty())?;
                let stat = fstat(&opened)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(io::Error::other("it changed while it was read"));
                }
                self.entry(&opened, inner, &stat, EntryType::Regular, Some(&opened), false)
            }
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new())?;
                let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                self.builder.append_link(&mut header(&stat, EntryType::Symlink), inner, target)
            }
            FileType::Fifo => self.entry(dir, inner, &stat, EntryType::Fifo, None, false),
            FileType::CharacterDevice if is_whiteout(&stat) => match topmost(&stack.below, name)? {
                Some((_, hidden)) if !is_whiteout(&hidden) => {
                    self.entry(dir, inner, &stat, EntryType::Char, None, false)
                }
                _ if self.layers => Ok(()),
                _ => self.entry(dir, inner, &stat, EntryType::Char, None, false),
            },
            FileType::Socket => Ok(()),
            _ => Err(io::Error::other("a device, which no layer can have")),
        }
    }

    fn entry(
        &mut self,
        fd: &OwnedFd,
        inner: &Path,
        stat: &Stat,
        kind: EntryType,
        with_xattrs: Option<&OwnedFd>,
        opaque: bool,
    ) -> io::Result<()> {
        if let Some(fd) = with_xattrs {
            let mut xattrs = xattrs(fd)?;
            if opaque {
                xattrs.push((format!("SCHILY.xattr.{OPAQUE}"), b"y".to_vec()));
            }
            if !xattrs.is_empty() {
                self.builder.append_pax_extensions(xattrs.iter().map(|(k, v)| (k.as_str(), v.as_slice())))?;
            }
        }
        let mut header = header(stat, kind);
        if kind == EntryType::Char {
            header.set_device_major(0)?;
            header.set_device_minor(0)?;
        }
        if kind != EntryType::Regular {
            return self.builder.append_data(&mut header, inner, io::empty());
        }
        header.set_size(u64::try_from(stat.st_size).unwrap_or(0));
        let mut exact = Exact { file: File::from(fd.try_clone()?), left: u64::try_from(stat.st_size).unwrap_or(0) };
        self.builder.append_data(&mut header, inner, &mut exact)?;
        if exact.left > 0 { Err(io::Error::other("it became shorter while it was read")) } else { Ok(()) }
    }
}

/// The topmost layer that has a name, and what it is there.
fn topmost(dirs: &[OwnedFd], name: &CString) -> io::Result<Option<(usize, Stat)>> {
    for (n, dir) in dirs.iter().enumerate() {
        match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => return Ok(Some((n, stat))),
            Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(None)
}

/// A directory in every layer in which it is seen, and whether all that is below these layers is hidden.
fn join(top: OwnedFd, lower: &[OwnedFd], name: &CString, layers: bool) -> io::Result<(Vec<OwnedFd>, bool)> {
    let mut opaque = layers && hides_lower(&top);
    let mut seen = vec![top];
    for dir in lower {
        if opaque {
            break;
        }
        match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let opened = open_below(dir, name)?;
                opaque = hides_lower(&opened);
                seen.push(opened);
            }
            // A file or a whiteout was in its place before: nothing of it shows, nor of what is below.
            Ok(_) => opaque = true,
            Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok((seen, opaque))
}

/// A directory of the layers below in those of them in which it is seen.
fn seen_below(below: &[OwnedFd], name: &CString) -> io::Result<Vec<OwnedFd>> {
    match topmost(below, name)? {
        Some((n, stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            let (dir, lower) = below.split_at(n + 1);
            let Some(dir) = dir.last() else { return Ok(Vec::new()) };
            Ok(join(open_below(dir, name)?, lower, name, true)?.0)
        }
        _ => Ok(Vec::new()),
    }
}

fn open_below(dir: &OwnedFd, name: &CString) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty())?)
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a layer's directory says that nothing of it in lower layers is seen.
fn hides_lower(dir: &OwnedFd) -> bool {
    let mut value = [0_u8; 2];
    matches!(rustix::fs::fgetxattr(dir, OPAQUE, &mut value[..]), Ok(1)) && value[0] == b'y'
}

/// As many bytes as the header says, whatever happens to the file.
struct Exact {
    file: File,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.file.read(&mut buffer[..most])?;
        self.left -= n as u64;
        Ok(n)
    }
}

fn header(stat: &Stat, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(u64::from(stat.st_uid));
    header.set_gid(u64::from(stat.st_gid));
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

fn names(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir.as_fd())? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Extended attributes that layers keep, as PAX records, by name.
fn xattrs(fd: &OwnedFd) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0_u8; 64 * 1024];
    let n = match rustix::fs::flistxattr(fd, &mut names[..]) {
        Ok(n) => n,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let mut found = Vec::new();
    for name in names[..n].split(|b| *b == 0).filter_map(|n| std::str::from_utf8(n).ok()) {
        let kept = name.starts_with("user.") && !name.starts_with("user.overlay.") && !name.contains('=');
        if kept || name == "security.capability" {
            let mut value = vec![0_u8; 64 * 1024];
            let n = rustix::fs::fgetxattr(fd, name, &mut value[..])?;
            value.truncate(n);
            found.push((format!("SCHILY.xattr.{name}"), value));
        }
    }
    found.sort();
    Ok(found)
}

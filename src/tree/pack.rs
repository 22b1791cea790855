//! A file or a tree as an archive.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

use super::header::{BLOCK, DEEPEST, Kind, Member, Stat, encode};
use super::{BUFFER, failed, show};
use crate::model::{Code, Error, Result};

/// Files with more than one name that are kept in mind; further ones are packed once for each name.
const MOST_LINKS: usize = 100_000;

/// Who the members belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Whom they belong to.
    Kept,
    /// Root.
    Root,
}

struct Packer<W> {
    out: W,
    owner: Owner,
    links: HashMap<(u64, u64), Vec<u8>>,
}

#[allow(clippy::useless_conversion, reason = "it has other widths elsewhere")]
fn mode(stat: &FileStat) -> u32 {
    u32::from(stat.st_mode) & 0o7777
}

/// What is at a path: a symbolic link itself, unless `follow` or the path ends with a slash.
///
/// # Errors
/// [`Code::NotFound`]: nothing.
pub fn stat(path: &Path, follow: bool) -> Result<Stat> {
    let flags = if follow { AtFlags::empty() } else { AtFlags::AT_SYMLINK_NOFOLLOW };
    let what = || format!("look at {}", path.display());
    let stat = fstatat(AT_FDCWD, path, flags).map_err(|e| failed(e, what))?;
    let (kind, target) = match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => ("file", None),
        libc::S_IFDIR => ("directory", None),
        libc::S_IFLNK => {
            let to = readlinkat(AT_FDCWD, path).map_err(|e| failed(e, what))?;
            ("symlink", Some(to.to_string_lossy().into_owned()))
        }
        _ => ("other", None),
    };
    Ok(Stat {
        kind: kind.into(),
        mode: mode(&stat),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: stat.st_mtime,
        uid: stat.st_uid,
        gid: stat.st_gid,
        target,
    })
}

/// Packs what is at a path under that name; a directory with all that is in it, links as links.
///
/// # Errors
/// Something can't be read, or `out` takes no more.
pub fn pack(path: &Path, name: &[u8], owner: Owner, follow: bool, out: impl Write) -> Result<()> {
    let mut packer = Packer { out, owner, links: HashMap::new() };
    let flags = if follow { AtFlags::empty() } else { AtFlags::AT_SYMLINK_NOFOLLOW };
    let what = || format!("look at {}", path.display());
    let stat = fstatat(AT_FDCWD, path, flags).map_err(|e| failed(e, what))?;
    packer.any(None, path.as_os_str(), &stat, name.to_vec(), follow, 0)?;
    packer.write(&[0; 2 * BLOCK])?;
    packer.out.flush().map_err(|e| failed(e, || "write the archive".into()))
}

fn at(dir: Option<&OwnedFd>) -> BorrowedFd<'_> {
    dir.map_or(AT_FDCWD, |d| d.as_fd())
}

impl<W: Write> Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| failed(e, || "write the archive".into()))
    }

    fn member(&self, kind: Kind, path: Vec<u8>, stat: &FileStat) -> Member {
        let (uid, gid) = if self.owner == Owner::Root { (0, 0) } else { (stat.st_uid, stat.st_gid) };
        let size = if kind == Kind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
        Member { path, kind, mode: mode(stat), uid, gid, mtime: stat.st_mtime, size }
    }

    /// One thing in `dir`, whatever it is.
    fn any(
        &mut self,
        dir: Option<&OwnedFd>,
        name: &OsStr,
        stat: &FileStat,
        path: Vec<u8>,
        follow: bool,
        depth: usize,
    ) -> Result<()> {
        let what = || format!("read {}", show(&path));
        let no_follow = if follow { OFlag::empty() } else { OFlag::O_NOFOLLOW };
        let open = |flags| openat(at(dir), name, OFlag::O_RDONLY | OFlag::O_CLOEXEC | no_follow | flags, Mode::empty());
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => {
                if depth >= DEEPEST {
                    let text = format!("more than {DEEPEST} directories lie below each other at {}", show(&path));
                    return Err(Error::new(Code::InvalidRequest, text));
                }
                let fd = open(OFlag::O_DIRECTORY).map_err(|e| failed(e, what))?;
                let header = encode(&self.member(Kind::Directory, path.clone(), stat));
                self.write(&header)?;
                self.directory(fd, &path, depth)
            }
            libc::S_IFLNK => {
                let to = readlinkat(at(dir), name).map_err(|e| failed(e, what))?;
                let header = encode(&self.member(Kind::Symlink(to.into_vec()), path, stat));
                self.write(&header)
            }
            libc::S_IFREG => {
                #[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "other widths elsewhere")]
                let key = (stat.st_dev as u64, stat.st_ino as u64);
                if let Some(first) = self.links.get(&key) {
                    let header = encode(&self.member(Kind::Link(first.clone()), path, stat));
                    return self.write(&header);
                }
                // Whatever it became meanwhile, opening it does not wait.
                let file = File::from(open(OFlag::O_NONBLOCK).map_err(|e| failed(e, what))?);
                let now = fstat(&file).map_err(|e| failed(e, what))?;
                if now.st_mode & libc::S_IFMT != libc::S_IFREG {
                    return Ok(());
                }
                if now.st_nlink > 1 && self.links.len() < MOST_LINKS {
                    self.links.insert(key, path.clone());
                }
                self.file(file, &now, path)
            }
            libc::S_IFIFO => {
                let header = encode(&self.member(Kind::Fifo, path, stat));
                self.write(&header)
            }
            // Sockets and devices are nothing that could be copied.
            _ => Ok(()),
        }
    }

    fn directory(&mut self, fd: OwnedFd, path: &[u8], depth: usize) -> Result<()> {
        let what = || format!("read {}", show(path));
        let again = fd.try_clone().map_err(|e| failed(e, what))?;
        let mut names = Vec::new();
        for entry in Dir::from_fd(again).map_err(|e| failed(e, what))?.iter() {
            let entry = entry.map_err(|e| failed(e, what))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort();
        for name in names {
            let below = [path, if path.ends_with(b"/") { b"" } else { b"/" }, &name].concat();
            let name = OsStr::from_bytes(&name);
            let stat = match fstatat(&fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => continue, // gone meanwhile
                other => other.map_err(|e| failed(e, || format!("look at {}", show(&below))))?,
            };
            self.any(Some(&fd), name, &stat, below, false, depth + 1)?;
        }
        Ok(())
    }

    /// As many bytes as were there at first: what is cut off meanwhile is filled up with zeros.
    fn file(&mut self, mut file: File, stat: &FileStat, path: Vec<u8>) -> Result<()> {
        let member = self.member(Kind::File, path, stat);
        self.write(&encode(&member))?;
        let mut buffer = vec![0; BUFFER];
        let mut left = member.size;
        while left > 0 {
            let most = BUFFER.min(usize::try_from(left).unwrap_or(BUFFER));
            let n = file.read(&mut buffer[..most]).map_err(|e| failed(e, || format!("read {}", show(&member.path))))?;
            let n = if n == 0 {
                buffer[..most].fill(0);
                most
            } else {
                n
            };
            self.write(&buffer[..n])?;
            left -= n as u64;
        }
        let rest = member.size.next_multiple_of(BLOCK as u64) - member.size;
        self.write(&vec![0; usize::try_from(rest).unwrap_or(0)])
    }
}

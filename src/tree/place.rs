//! Members put into place below one directory. A file appears under its name when all of it is there.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, UtimensatFlags, fchmodat, fstatat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use super::header::{Kind, Member, parts};
use super::{BUFFER, Reader, bad, failed, show};
use crate::model::{Code, Error, Result};

/// Directories whose mode and time are set at the end; of more they are set at once.
const LATER: usize = 50_000;

/// What becomes of symbolic links in members' paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Followed where they lead to a directory below the one that is filled.
    Below,
    /// Refused.
    Refused,
}

/// How members are put into place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// What becomes of symbolic links in their paths.
    pub links: Links,
    /// Whether they belong to whom the archive says; otherwise to whoever puts them there, and nothing is set-user-id.
    pub owners: bool,
}

/// A directory that is filled.
pub struct Place {
    root: OwnedFd,
    /// Where it really is, if links may be followed below it.
    real: Option<PathBuf>,
    put: Put,
    /// The directory of the last member, and its path.
    last: Option<(Vec<Vec<u8>>, OwnedFd)>,
    later: Vec<(Vec<u8>, Member)>,
    made: u64,
}

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

fn kind(stat: &FileStat) -> libc::mode_t {
    stat.st_mode & libc::S_IFMT
}

/// What is there, a link itself; none: nothing.
fn look(dir: &OwnedFd, at: &OsStr) -> Result<Option<FileStat>> {
    match fstatat(dir, at, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(failed(e, || format!("look at {}", show(at.as_bytes())))),
    }
}

fn real(fd: &OwnedFd) -> Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .map_err(|e| failed(e, || "look for a directory".into()))
}

impl Place {
    /// That directory; links in its own path are followed.
    ///
    /// # Errors
    /// It is not there, or no directory.
    pub fn open(path: &Path, put: Put) -> Result<Self> {
        let root = openat(AT_FDCWD, path, DIRECTORY, Mode::empty())
            .map_err(|e| failed(e, || format!("open the directory {}", path.display())))?;
        let real = if put.links == Links::Below { Some(real(&root)?) } else { None };
        Ok(Place { root, real, put, last: None, later: Vec::new(), made: 0 })
    }

    /// Puts all members of an archive there. What was put there before a failure stays.
    ///
    /// # Errors
    /// [`Code::BadArchive`] for what no archive may have, [`Code::Exhausted`] for a full disk, [`Code::InvalidRequest`] if a file
    /// would replace a directory or the other way round.
    pub fn fill<R: std::io::Read>(&mut self, archive: &mut Reader<R>) -> Result<()> {
        while let Some(member) = archive.next_member()? {
            self.put(&member, archive)?;
        }
        self.finish()
    }

    /// Modes and times of directories: nothing is put into them any more.
    fn finish(&mut self) -> Result<()> {
        for (path, member) in std::mem::take(&mut self.later).into_iter().rev() {
            let all = parts(&path)?;
            // The directory that is filled stays as it is.
            if let Some((last, above)) = all.split_last() {
                let dir = self.directory(above)?;
                self.dress(&dir, name(last), &member)?;
            }
        }
        Ok(())
    }

    /// Opens a directory below, making what is missing.
    fn directory(&mut self, path: &[&[u8]]) -> Result<OwnedFd> {
        let again = |fd: &OwnedFd| fd.try_clone().map_err(|e| failed(e, || "open a directory".into()));
        if let Some((last, fd)) = &self.last
            && last.iter().map(Vec::as_slice).eq(path.iter().copied())
        {
            return again(fd);
        }
        let mut dir = again(&self.root)?;
        for part in path {
            dir = self.below(&dir, part)?;
        }
        self.last = Some((path.iter().map(|p| p.to_vec()).collect(), again(&dir)?));
        Ok(dir)
    }

    fn below(&self, dir: &OwnedFd, part: &[u8]) -> Result<OwnedFd> {
        let what = || format!("open the directory {}", show(part));
        // Looked at first: gVisor follows a link in spite of O_NOFOLLOW where a directory is asked for.
        match look(dir, name(part))? {
            Some(stat) if kind(&stat) == libc::S_IFLNK => return self.follow(dir, part),
            Some(_) => {}
            None => {
                mkdirat(dir, name(part), Mode::from_bits_truncate(0o755)).map_err(|e| failed(e, what))?;
            }
        }
        openat(dir, name(part), DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty()).map_err(|e| failed(e, what))
    }

    /// A link in the way: what it leads to is opened, and only then it is asked where that is.
    fn follow(&self, dir: &OwnedFd, part: &[u8]) -> Result<OwnedFd> {
        let out = || bad(format!("the archive leads by the symbolic link {} out of the directory", show(part)));
        let Some(root) = &self.real else { return Err(out()) };
        let fd = openat(dir, name(part), DIRECTORY, Mode::empty())
            .map_err(|e| failed(e, || format!("follow the symbolic link {}", show(part))))?;
        if real(&fd)?.starts_with(root) { Ok(fd) } else { Err(out()) }
    }

    fn put<R: std::io::Read>(&mut self, member: &Member, body: &mut Reader<R>) -> Result<()> {
        let all = parts(&member.path)?;
        let Some((last, above)) = all.split_last() else {
            return match member.kind {
                Kind::Directory => Ok(()), // the one that is filled
                _ => Err(bad("the archive has a file without a name")),
            };
        };
        let dir = self.directory(above)?;
        let at = name(last);
        let there = look(&dir, at)?;
        let directory = there.as_ref().is_some_and(|s| kind(s) == libc::S_IFDIR);
        let clash = |what: &str| {
            let text = format!("put {} there: {what} is there already", show(&member.path));
            Err(Error::new(Code::InvalidRequest, text).hint("remove it first, or copy to another place"))
        };
        if member.kind == Kind::Directory {
            if there.as_ref().is_some_and(|s| kind(s) == libc::S_IFLNK) {
                return self.follow(&dir, last).map(drop); // a link to a directory stands for one
            }
            if there.is_some() && !directory {
                return clash("a file");
            }
            if there.is_none() {
                let mode = Mode::from_bits_truncate(0o755);
                mkdirat(&dir, at, mode).map_err(|e| failed(e, || format!("make {}", show(&member.path))))?;
            }
            if self.later.len() < LATER {
                self.later.push((member.path.clone(), member.clone()));
                return Ok(());
            }
            return self.dress(&dir, at, member);
        }
        if directory {
            return clash("a directory");
        }
        self.made += 1;
        let new = OsString::from(format!(".torpor-{}-{}.new", std::process::id(), self.made));
        let made = self.make(&dir, &new, member, body).and_then(|()| {
            renameat(&dir, new.as_os_str(), &dir, at)
                .map_err(|e| failed(e, || format!("put {} there", show(&member.path))))
        });
        if made.is_err() || matches!(member.kind, Kind::Link(_)) {
            // A link that takes the place of the very same file stays under its new name, too.
            let _ = unlinkat(&dir, new.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
        made
    }

    /// Makes a member under another name.
    fn make<R: std::io::Read>(
        &mut self,
        dir: &OwnedFd,
        new: &OsStr,
        member: &Member,
        body: &mut Reader<R>,
    ) -> Result<()> {
        let what = || format!("write {}", show(&member.path));
        match &member.kind {
            Kind::File => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let fd = openat(dir, new, flags, Mode::from_bits_truncate(0o600)).map_err(|e| failed(e, what))?;
                let mut file = std::fs::File::from(fd);
                let mut buffer = vec![0; BUFFER];
                loop {
                    let n = body.read(&mut buffer)?;
                    if n == 0 {
                        break;
                    }
                    file.write_all(&buffer[..n]).map_err(|e| failed(e, what))?;
                }
            }
            Kind::Symlink(to) => {
                if to.is_empty() || to.len() > 4095 || to.contains(&0) {
                    return Err(bad(format!("the archive has the impossible symbolic link {}", show(&member.path))));
                }
                symlinkat(name(to), dir, new).map_err(|e| failed(e, what))?;
            }
            Kind::Link(to) => {
                let all = parts(to)?;
                let Some((last, above)) = all.split_last() else { return Err(bad("a link to nothing")) };
                let from = self.directory(above)?;
                match look(&from, name(last))? {
                    None => return Err(bad(format!("the archive has a link to {}, which is not there", show(to)))),
                    Some(s) if kind(&s) == libc::S_IFDIR => return Err(bad("the archive has a link to a directory")),
                    Some(_) => {}
                }
                // It is one file: whose it is, was said where it was named first.
                return linkat(&from, name(last), dir, new, AtFlags::empty()).map_err(|e| failed(e, what));
            }
            Kind::Fifo => fifo(dir, new).map_err(|e| failed(e, what))?,
            Kind::Directory => {}
        }
        self.dress(dir, new, member)
    }

    /// Owner, mode and time.
    fn dress(&self, dir: &OwnedFd, at: &OsStr, member: &Member) -> Result<()> {
        let what = || format!("set owner and mode of {}", show(&member.path));
        let link = matches!(member.kind, Kind::Symlink(_));
        if self.put.owners {
            let (uid, gid) = (Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)));
            fchownat(dir, at, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|e| failed(e, what))?;
        }
        if !link {
            // After the owner, whose change takes away what makes a file run as somebody else.
            let bits = if self.put.owners { 0o7777 } else { 0o777 };
            let mode = Mode::from_bits_truncate((member.mode & bits) as libc::mode_t);
            fchmodat(dir, at, mode, FchmodatFlags::FollowSymlink).map_err(|e| failed(e, what))?;
        }
        let time = TimeSpec::new(member.mtime, 0);
        utimensat(dir, at, &time, &time, UtimensatFlags::NoFollowSymlink).map_err(|e| failed(e, what))
    }
}

#[cfg(target_os = "linux")]
fn fifo(dir: &OwnedFd, new: &OsStr) -> nix::Result<()> {
    nix::sys::stat::mknodat(dir, new, nix::sys::stat::SFlag::S_IFIFO, Mode::from_bits_truncate(0o600), 0)
}

#[cfg(not(target_os = "linux"))]
fn fifo(_: &OwnedFd, _: &OsStr) -> nix::Result<()> {
    Err(Errno::ENOTSUP)
}

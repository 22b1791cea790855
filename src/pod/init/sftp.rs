//! SFTP's server side, version 3 (draft-ietf-secsh-filexfer-02), with those of OpenSSH's extensions that its programs use
//! (PROTOCOL in OpenSSH's sources). It may what the user may that it runs as: no more is promised, as by sftp-server.

mod packet;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, fchown, lchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::sys::stat::{Mode, UtimensatFlags, futimens, utimensat};
use nix::sys::time::TimeSpec;

use self::packet::{Attributes, Packet, Reply, long_name, status_of};

const VERSION: u32 = 3;
/// Bytes of a packet.
const PACKET: u32 = 256 * 1024;
/// Bytes read or written at once.
const DATA: u32 = PACKET - 1024;
/// Files and directories that are open at once.
const HANDLES: usize = 512;
/// Names in one answer.
const NAMES: usize = 64;

const EXTENSIONS: [(&str, &str); 7] = [
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
];

enum Handle {
    File { file: File, append: bool },
    Directory { path: PathBuf, left: Vec<std::ffi::OsString> },
}

/// What is open.
#[derive(Default)]
struct Server {
    handles: BTreeMap<u32, Handle>,
    next: u32,
}

/// Answers requests until there are no more.
pub(super) fn serve(input: &mut impl Read, output: &mut impl Write) -> Result<()> {
    let mut server = Server::default();
    let mut bytes = Vec::new();
    loop {
        let mut head = [0; 4];
        match input.read_exact(&mut head) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let length = u32::from_be_bytes(head);
        if !(1..=PACKET).contains(&length) {
            return Err(Error::new(ErrorKind::InvalidData, "a packet of no allowed length"));
        }
        bytes.resize(length as usize, 0);
        input.read_exact(&mut bytes)?;
        output.write_all(&server.answer(&bytes)?)?;
        output.flush()?;
    }
}

fn bad() -> Error {
    Error::from_raw_os_error(nix::libc::EINVAL)
}

fn path(bytes: &[u8]) -> &Path {
    if bytes.is_empty() { Path::new(".") } else { Path::new(std::ffi::OsStr::from_bytes(bytes)) }
}

/// The path without links, `.` and `..`; its last part need not be there.
fn real(path: &Path) -> Result<PathBuf> {
    match path.canonicalize() {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let name = path.file_name().ok_or(e)?;
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Ok(parent.canonicalize()?.join(name))
        }
        other => other,
    }
}

fn expanded(bytes: &[u8]) -> Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(PathBuf::from).ok_or_else(|| Error::from(ErrorKind::NotFound));
    match bytes {
        b"~" => real(&home()?),
        [b'~', b'/', rest @ ..] => real(&home()?.join(path(rest))),
        [b'~', ..] => Err(ErrorKind::NotFound.into()),
        _ => real(path(bytes)),
    }
}

fn spec(seconds: u32) -> TimeSpec {
    TimeSpec::new(i64::from(seconds), 0)
}

/// Changes what is at a path; a link itself, if it is not to be followed.
fn set(path: &Path, to: &Attributes, follow: bool) -> Result<()> {
    if let (Some(size), true) = (to.size, follow) {
        File::options().write(true).open(path)?.set_len(size)?;
    }
    if let (Some(mode), true) = (to.permissions, follow) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode & 0o7777))?;
    }
    if let Some((accessed, modified)) = to.times {
        let flags = if follow { UtimensatFlags::FollowSymlink } else { UtimensatFlags::NoFollowSymlink };
        utimensat(AT_FDCWD, path, &spec(accessed), &spec(modified), flags)?;
    }
    match to.owner {
        Some((uid, gid)) if follow => chown(path, Some(uid), Some(gid)),
        Some((uid, gid)) => lchown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

fn set_open(file: &File, to: &Attributes) -> Result<()> {
    if let Some(size) = to.size {
        file.set_len(size)?;
    }
    if let Some(mode) = to.permissions {
        file.set_permissions(PermissionsExt::from_mode(mode & 0o7777))?;
    }
    if let Some((accessed, modified)) = to.times {
        futimens(file, &spec(accessed), &spec(modified))?;
    }
    to.owner.map_or(Ok(()), |(uid, gid)| fchown(file, Some(uid), Some(gid)))
}

impl Server {
    /// The answer to one packet.
    ///
    /// # Errors
    /// It is none: nothing that comes after it can be understood.
    fn answer(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut packet = Packet::new(bytes);
        let kind = packet.byte()?;
        if kind == packet::INIT {
            return Ok(Reply::version(VERSION, &EXTENSIONS));
        }
        let id = packet.number()?;
        Ok(match self.request(kind, &mut packet, id) {
            Ok(reply) => reply,
            Err(e) => Reply::status(id, status_of(&e), &e.to_string()),
        })
    }

    fn request(&mut self, kind: u8, packet: &mut Packet<'_>, id: u32) -> Result<Vec<u8>> {
        let done = |result: Result<()>| result.map(|()| Reply::status(id, packet::OK, ""));
        match kind {
            packet::OPEN => {
                let (at, flags, to) = (path(packet.text()?), packet.number()?, packet.attributes()?);
                let handle = open_file(at, flags, &to)?;
                self.keep(id, handle)
            }
            packet::CLOSE => {
                let handle = packet.handle()?;
                done(self.handles.remove(&handle).map(drop).ok_or_else(bad))
            }
            packet::READ => {
                let (file, _) = self.file(packet.handle()?)?;
                let (offset, length) = (packet.long()?, packet.number()?.min(DATA));
                let mut data = vec![0; length as usize];
                match file.read_at(&mut data, offset)? {
                    0 if length > 0 => Ok(Reply::status(id, packet::EOF, "end of file")),
                    n => Ok(Reply::data(id, &data[..n])),
                }
            }
            packet::WRITE => {
                let (file, append) = self.file(packet.handle()?)?;
                let (offset, data) = (packet.long()?, packet.text()?);
                let mut end = file;
                done(if append { end.write_all(data) } else { file.write_all_at(data, offset) })
            }
            packet::STAT => Ok(Reply::attributes(id, &std::fs::metadata(path(packet.text()?))?)),
            packet::LSTAT => Ok(Reply::attributes(id, &std::fs::symlink_metadata(path(packet.text()?))?)),
            packet::FSTAT => Ok(Reply::attributes(id, &self.file(packet.handle()?)?.0.metadata()?)),
            packet::SETSTAT => done(set(path(packet.text()?), &packet.attributes()?, true)),
            packet::FSETSTAT => done(set_open(self.file(packet.handle()?)?.0, &packet.attributes()?)),
            packet::OPENDIR => {
                let path = path(packet.text()?).to_owned();
                let mut left = vec![".".into(), "..".into()];
                for entry in std::fs::read_dir(&path)? {
                    left.push(entry?.file_name());
                }
                left.reverse();
                self.keep(id, Handle::Directory { path, left })
            }
            packet::READDIR => self.names(packet.handle()?, id),
            packet::REMOVE => done(std::fs::remove_file(path(packet.text()?))),
            packet::MKDIR => {
                let (at, to) = (path(packet.text()?), packet.attributes()?);
                let mode = Mode::from_bits_truncate(to.permissions.unwrap_or(0o777) & 0o7777);
                done(nix::unistd::mkdir(at, mode).map_err(Error::from))
            }
            packet::RMDIR => done(std::fs::remove_dir(path(packet.text()?))),
            packet::REALPATH => Ok(Reply::name(id, real(path(packet.text()?))?.as_os_str().as_bytes())),
            packet::RENAME => {
                let (from, to) = (path(packet.text()?), path(packet.text()?));
                done(match std::fs::symlink_metadata(to) {
                    // As the protocol wants it: nothing is replaced.
                    Ok(_) => Err(ErrorKind::AlreadyExists.into()),
                    Err(_) => std::fs::rename(from, to),
                })
            }
            packet::READLINK => Ok(Reply::name(id, std::fs::read_link(path(packet.text()?))?.as_os_str().as_bytes())),
            packet::SYMLINK => {
                // OpenSSH has the two the other way round than the draft, and all clients follow it.
                let (target, link) = (path(packet.text()?), path(packet.text()?));
                done(std::os::unix::fs::symlink(target, link))
            }
            packet::EXTENDED => self.extended(packet, id),
            _ => Ok(Reply::status(id, packet::UNSUPPORTED, "not known")),
        }
    }

    fn extended(&mut self, packet: &mut Packet<'_>, id: u32) -> Result<Vec<u8>> {
        let done = |result: Result<()>| result.map(|()| Reply::status(id, packet::OK, ""));
        match packet.text()? {
            b"posix-rename@openssh.com" => done(std::fs::rename(path(packet.text()?), path(packet.text()?))),
            b"hardlink@openssh.com" => done(std::fs::hard_link(path(packet.text()?), path(packet.text()?))),
            b"fsync@openssh.com" => done(self.file(packet.handle()?)?.0.sync_all()),
            b"lsetstat@openssh.com" => done(set(path(packet.text()?), &packet.attributes()?, false)),
            b"limits@openssh.com" => {
                let most = [u64::from(PACKET), u64::from(DATA), u64::from(DATA), HANDLES as u64];
                Ok(Reply::numbers(id, &most))
            }
            b"expand-path@openssh.com" => Ok(Reply::name(id, expanded(packet.text()?)?.as_os_str().as_bytes())),
            b"statvfs@openssh.com" => {
                let s = nix::sys::statvfs::statvfs(path(packet.text()?))?;
                let flags = u64::from(s.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
                Ok(Reply::numbers(
                    id,
                    &[
                        s.block_size(),
                        s.fragment_size(),
                        s.blocks(),
                        s.blocks_free(),
                        s.blocks_available(),
                        s.files(),
                        s.files_free(),
                        s.files_available(),
                        s.filesystem_id(),
                        flags,
                        s.name_max(),
                    ],
                ))
            }
            _ => Ok(Reply::status(id, packet::UNSUPPORTED, "not known")),
        }
    }

    fn keep(&mut self, id: u32, handle: Handle) -> Result<Vec<u8>> {
        if self.handles.len() >= HANDLES {
            return Err(Error::from_raw_os_error(nix::libc::EMFILE));
        }
        self.next = self.next.wrapping_add(1);
        self.handles.insert(self.next, handle);
        Ok(Reply::handle(id, self.next))
    }

    fn file(&self, handle: u32) -> Result<(&File, bool)> {
        match self.handles.get(&handle) {
            Some(Handle::File { file, append }) => Ok((file, *append)),
            _ => Err(bad()),
        }
    }

    fn names(&mut self, handle: u32, id: u32) -> Result<Vec<u8>> {
        let Some(Handle::Directory { path, left }) = self.handles.get_mut(&handle) else { return Err(bad()) };
        let some = left.split_off(left.len().saturating_sub(NAMES));
        if some.is_empty() {
            return Ok(Reply::status(id, packet::EOF, "no more names"));
        }
        let all = some.iter().rev().map(|name| {
            let meta = std::fs::symlink_metadata(path.join(name)).ok(); // it may have gone since
            let long = meta.as_ref().map(|m| long_name(name.as_bytes(), m)).unwrap_or_else(|| name.as_bytes().into());
            (name.as_bytes(), long, meta)
        });
        Ok(Reply::names(id, all))
    }
}

fn open_file(at: &Path, wanted: u32, to: &Attributes) -> Result<Handle> {
    let asked = |bit: u32| wanted & bit != 0;
    let mut flags = match (asked(packet::FOR_READING), asked(packet::FOR_WRITING)) {
        (true, true) => OFlag::O_RDWR,
        (false, true) => OFlag::O_WRONLY,
        (true, false) => OFlag::O_RDONLY,
        (false, false) => return Err(bad()),
    };
    let append = asked(packet::APPENDING);
    flags.set(OFlag::O_APPEND, append);
    flags.set(OFlag::O_CREAT, asked(packet::MAKING));
    flags.set(OFlag::O_TRUNC, asked(packet::CUTTING));
    flags.set(OFlag::O_EXCL, asked(packet::ONLY_NEW));
    let mode = Mode::from_bits_truncate(to.permissions.unwrap_or(0o666) & 0o7777);
    Ok(Handle::File { file: File::from(open(at, flags | OFlag::O_CLOEXEC, mode)?), append })
}

#[cfg(test)]
mod tests;

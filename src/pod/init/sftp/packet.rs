//! Packets of SFTP: what they are made of.

use std::fs::Metadata;
use std::io::{Error, Result};
use std::os::unix::fs::MetadataExt;

pub(super) const INIT: u8 = 1;
pub(super) const OPEN: u8 = 3;
pub(super) const CLOSE: u8 = 4;
pub(super) const READ: u8 = 5;
pub(super) const WRITE: u8 = 6;
pub(super) const LSTAT: u8 = 7;
pub(super) const FSTAT: u8 = 8;
pub(super) const SETSTAT: u8 = 9;
pub(super) const FSETSTAT: u8 = 10;
pub(super) const OPENDIR: u8 = 11;
pub(super) const READDIR: u8 = 12;
pub(super) const REMOVE: u8 = 13;
pub(super) const MKDIR: u8 = 14;
pub(super) const RMDIR: u8 = 15;
pub(super) const REALPATH: u8 = 16;
pub(super) const STAT: u8 = 17;
pub(super) const RENAME: u8 = 18;
pub(super) const READLINK: u8 = 19;
pub(super) const SYMLINK: u8 = 20;
pub(super) const EXTENDED: u8 = 200;
pub(super) const VERSION: u8 = 2;
pub(super) const STATUS: u8 = 101;
pub(super) const HANDLE: u8 = 102;
pub(super) const DATA: u8 = 103;
pub(super) const NAME: u8 = 104;
pub(super) const ATTRS: u8 = 105;
pub(super) const EXTENDED_REPLY: u8 = 201;

pub(super) const OK: u32 = 0;
pub(super) const EOF: u32 = 1;
const NO_SUCH_FILE: u32 = 2;
const DENIED: u32 = 3;
const FAILED: u32 = 4;
const BAD_MESSAGE: u32 = 5;
pub(super) const UNSUPPORTED: u32 = 8;

pub(super) const FOR_READING: u32 = 1;
pub(super) const FOR_WRITING: u32 = 2;
pub(super) const APPENDING: u32 = 4;
pub(super) const MAKING: u32 = 8;
pub(super) const CUTTING: u32 = 0x10;
pub(super) const ONLY_NEW: u32 = 0x20;

const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 2;
const HAS_PERMISSIONS: u32 = 4;
const HAS_TIMES: u32 = 8;
const HAS_MORE: u32 = 0x8000_0000;

/// The kind of failure that an error is.
pub(super) fn status_of(e: &Error) -> u32 {
    use nix::libc::{EACCES, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOSYS, ENOTDIR, EOPNOTSUPP, EPERM};
    match e.raw_os_error() {
        Some(ENOENT | ENOTDIR | ELOOP) => NO_SUCH_FILE,
        Some(EPERM | EACCES) => DENIED,
        Some(EINVAL | ENAMETOOLONG) => BAD_MESSAGE,
        Some(ENOSYS | EOPNOTSUPP) => UNSUPPORTED,
        None if e.kind() == std::io::ErrorKind::NotFound => NO_SUCH_FILE,
        _ => FAILED,
    }
}

/// What is said, or asked, about a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) permissions: Option<u32>,
    /// Accessed and modified, in seconds since 1970.
    pub(super) times: Option<(u32, u32)>,
}

/// What is left of a packet.
pub(super) struct Packet<'a>(&'a [u8]);

impl<'a> Packet<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Packet(bytes)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or_else(super::bad)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn number(&mut self) -> Result<u32> {
        self.take(4)?.try_into().map(u32::from_be_bytes).map_err(|_| super::bad())
    }

    pub(super) fn long(&mut self) -> Result<u64> {
        self.take(8)?.try_into().map(u64::from_be_bytes).map_err(|_| super::bad())
    }

    pub(super) fn text(&mut self) -> Result<&'a [u8]> {
        let length = self.number()?;
        self.take(length as usize)
    }

    pub(super) fn handle(&mut self) -> Result<u32> {
        self.text()?.try_into().map(u32::from_be_bytes).map_err(|_| super::bad())
    }

    pub(super) fn attributes(&mut self) -> Result<Attributes> {
        let flags = self.number()?;
        let mut read = Attributes::default();
        if flags & HAS_SIZE != 0 {
            read.size = Some(self.long()?);
        }
        if flags & HAS_OWNER != 0 {
            read.owner = Some((self.number()?, self.number()?));
        }
        if flags & HAS_PERMISSIONS != 0 {
            read.permissions = Some(self.number()?);
        }
        if flags & HAS_TIMES != 0 {
            read.times = Some((self.number()?, self.number()?));
        }
        if flags & HAS_MORE != 0 {
            for _ in 0..self.number()? {
                self.text()?;
                self.text()?;
            }
        }
        Ok(read)
    }
}

/// A packet that is made.
pub(super) struct Reply(Vec<u8>);

impl Reply {
    fn new(kind: u8, id: u32) -> Self {
        let mut reply = Reply(vec![0, 0, 0, 0, kind]);
        reply.number(id);
        reply
    }

    fn number(&mut self, n: u32) {
        self.0.extend_from_slice(&n.to_be_bytes());
    }

    fn text(&mut self, bytes: &[u8]) {
        self.number(u32::try_from(bytes.len()).unwrap_or(0));
        self.0.extend_from_slice(bytes);
    }

    fn of(&mut self, meta: Option<&Metadata>) {
        let Some(meta) = meta else { return self.number(0) };
        let seconds = |t: i64| u32::try_from(t).unwrap_or(0);
        self.number(HAS_SIZE | HAS_OWNER | HAS_PERMISSIONS | HAS_TIMES);
        self.0.extend_from_slice(&meta.size().to_be_bytes());
        for n in [meta.uid(), meta.gid(), meta.mode(), seconds(meta.atime()), seconds(meta.mtime())] {
            self.number(n);
        }
    }

    fn end(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len() - 4).unwrap_or(0);
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }

    pub(super) fn version(version: u32, extensions: &[(&str, &str)]) -> Vec<u8> {
        let mut reply = Reply::new(VERSION, version);
        for (name, data) in extensions {
            reply.text(name.as_bytes());
            reply.text(data.as_bytes());
        }
        reply.end()
    }

    pub(super) fn status(id: u32, code: u32, text: &str) -> Vec<u8> {
        let mut reply = Reply::new(STATUS, id);
        reply.number(code);
        reply.text(text.as_bytes());
        reply.text(b"");
        reply.end()
    }

    pub(super) fn handle(id: u32, handle: u32) -> Vec<u8> {
        let mut reply = Reply::new(HANDLE, id);
        reply.text(&handle.to_be_bytes());
        reply.end()
    }

    pub(super) fn data(id: u32, data: &[u8]) -> Vec<u8> {
        let mut reply = Reply::new(DATA, id);
        reply.text(data);
        reply.end()
    }

    pub(super) fn attributes(id: u32, meta: &Metadata) -> Vec<u8> {
        let mut reply = Reply::new(ATTRS, id);
        reply.of(Some(meta));
        reply.end()
    }

    /// One name, of which nothing else is said.
    pub(super) fn name(id: u32, name: &[u8]) -> Vec<u8> {
        Self::names(id, std::iter::once((name, name.to_vec(), None)))
    }

    pub(super) fn names<'a>(
        id: u32,
        names: impl ExactSizeIterator<Item = (&'a [u8], Vec<u8>, Option<Metadata>)>,
    ) -> Vec<u8> {
        let mut reply = Reply::new(NAME, id);
        reply.number(u32::try_from(names.len()).unwrap_or(0));
        for (name, long, meta) in names {
            reply.text(name);
            reply.text(&long);
            reply.of(meta.as_ref());
        }
        reply.end()
    }

    pub(super) fn numbers(id: u32, numbers: &[u64]) -> Vec<u8> {
        let mut reply = Reply::new(EXTENDED_REPLY, id);
        numbers.iter().for_each(|n| reply.0.extend_from_slice(&n.to_be_bytes()));
        reply.end()
    }
}

/// A line as `ls -ln` has it.
pub(super) fn long_name(name: &[u8], meta: &Metadata) -> Vec<u8> {
    let kind = match meta.mode() & nix::libc::S_IFMT {
        nix::libc::S_IFDIR => 'd',
        nix::libc::S_IFLNK => 'l',
        nix::libc::S_IFIFO => 'p',
        nix::libc::S_IFSOCK => 's',
        nix::libc::S_IFCHR => 'c',
        nix::libc::S_IFBLK => 'b',
        _ => '-',
    };
    let bit = |n: u32, c: char| if meta.mode() >> n & 1 == 1 { c } else { '-' };
    let mode: String = (0..9).rev().map(|n| bit(n, ['x', 'w', 'r'][n as usize % 3])).collect();
    let when = jiff::Timestamp::from_second(meta.mtime()).unwrap_or_default();
    // As ls: what is old has its year.
    let old = jiff::Timestamp::now().as_second().saturating_sub(when.as_second()) > 180 * 86_400;
    let when = when.strftime(if old { "%b %e  %Y" } else { "%b %e %H:%M" }).to_string();
    let head =
        format!("{kind}{mode} {:>4} {:<8} {:<8} {:>8} {when} ", meta.nlink(), meta.uid(), meta.gid(), meta.size());
    [head.as_bytes(), name].concat()
}

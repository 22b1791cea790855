//! The process that unpacks a layer: torpord run again, shut into the directory that it fills.
//!
//! Before it reads a byte it is in namespaces of its own with that directory as its root, under limits, without any
//! capability but those that files need, and with few system calls (`filter`). The tar is a stranger's: members are read strictly (`member`), every path is
//! resolved below the root, sizes and numbers are bounded. What it can't do without more privileges it asks its parent for
//! on stdout ([`finish`]): opaque directories, whose mark is a `trusted` attribute. A crash leaves a directory in `tmp/`.

mod confine;
mod entry;
mod filter;
pub(crate) mod member;
mod pax;
mod sparse;
mod tree;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

use crate::host::files::disk_code;
use crate::model::{Attempt, Code, Error, Result};

/// The attribute by which overlayfs knows a directory that hides what lies below it.
pub const OPAQUE: &str = "trusted.overlay.opaque";
/// The word by which torpord is run as this worker.
pub const WORKER: &str = "unpack-worker";
const EXIT_HOST: i32 = 1;
/// Exit code: the archive is corrupt or hostile.
pub const EXIT_BAD: i32 = 3;
/// Exit code: the archive is larger than allowed.
pub const EXIT_LARGE: i32 = 4;
/// Exit code: the disk is full.
pub const EXIT_FULL: i32 = 5;
/// Exit code: the disk fails.
pub const EXIT_DISK: i32 = 6;

/// What may come out of one tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of its files.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
    /// It must have an end marker: nothing else tells that it is whole.
    pub must_end: bool,
}

impl Limits {
    /// As arguments of the worker.
    pub fn args(&self) -> [String; 3] {
        [self.bytes.to_string(), self.inodes.to_string(), u8::from(self.must_end).to_string()]
    }
}

/// Why unpacking ended.
#[derive(Debug)]
enum Stop {
    Host(String, std::io::Error),
    Bad(String),
    Large(String),
    Io(String, std::io::Error),
}

impl Stop {
    fn code(&self) -> i32 {
        match self {
            Stop::Bad(_) => EXIT_BAD,
            Stop::Large(_) => EXIT_LARGE,
            Stop::Host(..) => EXIT_HOST,
            Stop::Io(_, e) => match disk_code(e) {
                Some(Code::Exhausted) => EXIT_FULL,
                Some(_) => EXIT_DISK,
                // What the kernel refuses of a stranger's archive is the archive's fault: too long a name, a loop of links.
                None => EXIT_BAD,
            },
        }
    }
    fn text(&self) -> String {
        match self {
            Stop::Bad(t) | Stop::Large(t) => t.clone(),
            Stop::Io(t, e) | Stop::Host(t, e) => format!("{t}: {e}"),
        }
    }
}

/// The worker's main: `unpack-worker MAX_BYTES MAX_INODES MUST_END`, the tar on stdin, the directory to fill as the
/// working one.
pub fn worker_main(mut args: impl Iterator<Item = String>) -> ExitCode {
    let mut number = || args.next().and_then(|a| a.parse::<u64>().ok());
    let (Some(bytes), Some(inodes), Some(end)) = (number(), number(), number()) else { return ExitCode::from(2) };
    let limits = Limits { bytes, inodes, must_end: end != 0 };
    let confined = confine::confine(limits.bytes)
        .map_err(|(what, e)| Stop::Host(format!("confine the process that unpacks: {what}"), e));
    let mut done = match confined.and_then(|root| entry::unpack(std::io::stdin().lock(), root, &limits)) {
        Ok(done) => done,
        Err(stop) => {
            let _ = writeln!(std::io::stderr(), "{}", stop.text());
            return ExitCode::from(u8::try_from(stop.code()).unwrap_or(1));
        }
    };
    let mut said = done.bytes.to_string().into_bytes();
    for path in done.opaque.drain(..) {
        said.push(0);
        said.extend_from_slice(&path);
    }
    match std::io::stdout().write_all(&said) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Reads what a worker said, marks the opaque directories that it names, and gives the bytes it unpacked.
///
/// # Errors
/// It said something that can't be: the worker is not trusted either.
pub fn finish(root: &Path, said: &[u8]) -> Result<u64> {
    let mut parts = said.split(|b| *b == 0);
    let bytes = parts.next().and_then(|p| std::str::from_utf8(p).ok()?.parse().ok());
    let bytes = bytes.ok_or_else(|| Error::internal("the process that unpacks answered nonsense"))?;
    let what = || "mark an opaque directory".to_owned();
    let top: OwnedFd = rustix::fs::open(root, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .attempt(Code::Internal, what)?;
    for path in parts {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::openat2(&top, path, flags, Mode::empty(), resolve) {
            Ok(dir) => rustix::fs::fsetxattr(&dir, OPAQUE, b"y", XattrFlags::empty()).attempt(Code::Internal, what)?,
            // A later member of the tar took its place.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(e) => return Err(e).attempt(Code::BadArchive, what),
        }
    }
    Ok(bytes)
}

//! The process that unpacks a layer: torpord run again, shut into the directory that it fills.
//!
//! It is chrooted there before it reads a byte, gives up all capabilities but those that files need, and can gain no new
//! ones. The tar is a stranger's: every path is checked, sizes and numbers are bounded. What it can't do without more
//! privileges, it asks its parent for on stdout ([`finish`]): opaque directories, whose mark is a `trusted` attribute.

mod entry;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags, ResolveFlags, XattrFlags};

use crate::model::{Attempt, Code, Error, Result};

/// The word by which torpord is run as this worker.
pub const WORKER: &str = "unpack-worker";
/// Exit code: the archive is corrupt or hostile.
pub const EXIT_BAD: i32 = 3;
/// Exit code: the archive is larger than allowed.
pub const EXIT_LARGE: i32 = 4;
/// Exit code: the disk is full.
pub const EXIT_FULL: i32 = 5;

/// Why unpacking ended.
#[derive(Debug)]
enum Stop {
    Bad(String),
    Large(String),
    Io(String, std::io::Error),
}

impl Stop {
    fn code(&self) -> i32 {
        match self {
            Stop::Bad(_) => EXIT_BAD,
            Stop::Large(_) => EXIT_LARGE,
            Stop::Io(_, e)
                if matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) =>
            {
                EXIT_FULL
            }
            // What the kernel refuses of a stranger's archive is the archive's fault: too long a name, a loop of links.
            Stop::Io(..) => EXIT_BAD,
        }
    }
    fn text(&self) -> String {
        match self {
            Stop::Bad(t) | Stop::Large(t) => t.clone(),
            Stop::Io(t, e) => format!("{t}: {e}"),
        }
    }
}

/// The word by which the worker is told that the tar is what runsc wrote of a pod's root: marks of overlayfs are kept.
pub const UPPER: &str = "upper";

/// The worker's main: `unpack-worker MAX_BYTES MAX_INODES [upper]`, the tar on stdin, the directory to fill as the working
/// one.
pub fn worker_main(mut args: impl Iterator<Item = String>) -> ExitCode {
    let mut number = || args.next().and_then(|a| a.parse::<u64>().ok());
    let (Some(bytes), Some(inodes)) = (number(), number()) else { return ExitCode::from(2) };
    let upper = args.next().is_some_and(|a| a == UPPER);
    let unpacked = confine().and_then(|()| entry::unpack(std::io::stdin().lock(), bytes, inodes, upper));
    let mut done = match unpacked {
        Ok(done) => done,
        Err(stop) => {
            let _ = writeln!(std::io::stderr(), "{}", stop.text());
            return ExitCode::from(u8::try_from(stop.code()).unwrap_or(1));
        }
    };
    // The rest of stdin is padding: read, so that the parent's last write does not fail.
    let _ = std::io::copy(&mut std::io::stdin().lock().take(1 << 30), &mut std::io::sink());
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

fn confine() -> std::result::Result<(), Stop> {
    let failed = |what: &str, e: std::io::Error| Stop::Io(format!("confine the worker: {what}"), e);
    nix::unistd::chroot(".").map_err(|e| failed("chroot", e.into()))?;
    nix::unistd::chdir("/").map_err(|e| failed("chdir", e.into()))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let keep = [
        caps::Capability::CAP_CHOWN,
        caps::Capability::CAP_DAC_OVERRIDE,
        caps::Capability::CAP_FOWNER,
        caps::Capability::CAP_FSETID,
        caps::Capability::CAP_MKNOD,
        caps::Capability::CAP_SETFCAP,
    ];
    let kept = keep.into_iter().collect();
    let other = |e: caps::errors::CapsError| failed("capabilities", std::io::Error::other(e.to_string()));
    for set in [caps::CapSet::Inheritable, caps::CapSet::Effective, caps::CapSet::Permitted] {
        let wanted =
            if matches!(set, caps::CapSet::Inheritable) { caps::CapsHashSet::new() } else { Clone::clone(&kept) };
        caps::set(None, set, &wanted).map_err(other)?;
    }
    nix::sys::prctl::set_no_new_privs().map_err(|e| failed("no_new_privs", e.into()))
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
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = if path.is_empty() { b"." } else { path };
        let dir =
            rustix::fs::openat2(&top, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
                .attempt(Code::BadArchive, what)?;
        rustix::fs::fsetxattr(&dir, "trusted.overlay.opaque", b"y", XattrFlags::empty())
            .attempt(Code::Internal, what)?;
    }
    Ok(bytes)
}

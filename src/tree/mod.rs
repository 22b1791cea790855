//! Trees of files as tar archives: read, put into place below one directory, and packed. For init, which does it inside the
//! pod, and for the command line, which does it with what a pod sent.
//!
//! Nothing here follows a symbolic link out of the directory that it was given, believes a length before it is bounded, or
//! holds more of a file than a buffer.

mod header;
mod pack;
mod place;
mod reader;

pub use header::{Kind, Member, Stat};
pub use pack::{Owner, pack, stat};
pub use place::{Links, Place, Put};
pub use reader::{Reader, Top};

use crate::model::{Code, Error};

/// Bytes copied at once.
const BUFFER: usize = 64 * 1024;

/// A failed system call, with a code by which clients know a full disk and what is not there.
fn failed(e: impl Into<std::io::Error>, what: impl FnOnce() -> String) -> Error {
    use std::io::ErrorKind as K;
    let e = e.into();
    let code = match e.kind() {
        K::StorageFull | K::QuotaExceeded => Code::Exhausted,
        K::NotFound => Code::NotFound,
        K::ReadOnlyFilesystem | K::PermissionDenied | K::NotADirectory | K::IsADirectory | K::InvalidFilename => {
            Code::InvalidRequest
        }
        _ => Code::Internal,
    };
    Error::new(code, what()).because(e)
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Code::BadArchive, message)
}

/// A name as it can be shown.
fn show(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().take(120).collect();
    format!("{text:?}")
}

#[cfg(test)]
mod tests;

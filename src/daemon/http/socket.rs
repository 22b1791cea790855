//! The API's socket: handed over by systemd, or made.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use crate::host::files;
use crate::model::{Attempt, Code, Error, Result};

/// Connections that wait to be accepted; the kernel takes its own limit if that is lower.
const BACKLOG: i32 = 4096;

/// The listening socket: the one that was handed over, else a new one at `path` for root and the group `torpor`. With it
/// the path that is ours to remove at the end: one that was handed over stays, so that the next call starts torpord again.
///
/// # Errors
/// Another torpord answers there, or it can't be made.
pub fn listen(path: &Path, given: Option<std::os::unix::net::UnixListener>) -> Result<(UnixListener, Option<PathBuf>)> {
    let what = || format!("listen on {}", path.display());
    if let Some(given) = given {
        given.set_nonblocking(true).attempt(Code::Internal, what)?;
        return UnixListener::from_std(given).attempt(Code::Internal, what).map(|l| (l, None));
    }
    if let Some(dir) = path.parent() {
        files::create_dir_all(dir, 0o755)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(
            Error::new(Code::InUse, what()).hint("another torpord answers there: stop it, or give another --socket")
        );
    }
    // Made under another name, so that nobody can connect before its mode is set.
    let new = path.with_extension("new");
    files::remove_tree_now(&new)?;
    let listener = UnixListener::bind(&new).attempt(Code::Internal, what)?;
    // Who comes while this many wait is refused by the kernel.
    rustix::net::listen(&listener, BACKLOG).attempt(Code::Internal, what)?;
    if let Ok(Some(group)) = nix::unistd::Group::from_name("torpor") {
        nix::unistd::chown(&new, None, Some(group.gid)).attempt(Code::Internal, what)?;
    }
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o660)).attempt(Code::Internal, what)?;
    std::fs::rename(&new, path).attempt(Code::Internal, what)?;
    Ok((listener, Some(path.to_owned())))
}

//! Network namespaces, each held by a bind mount. Only threads made for it ever enter one.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::links::Links;
use crate::model::{Attempt, Code, Error, Result};

/// The namespace as a descriptor.
pub(super) fn open(path: &Path) -> Result<File> {
    File::open(path).attempt(Code::Internal, || format!("open network namespace {}", path.display()))
}

/// Runs `work` on a thread of its own, which ends with it.
pub(super) async fn on_thread<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let (path, runtime) = (path.to_owned(), tokio::runtime::Handle::current());
    let what = format!("enter network namespace {}", path.display());
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("netns".into()).spawn(move || {
        let _context = runtime.enter();
        let _ = sender.send(work(&path));
    });
    thread.attempt(Code::Internal, || what.clone())?;
    receiver.await.attempt(Code::Internal, || what.clone())?.attempt(Code::Internal, || what)
}

/// A namespace held at `path`, made with those settings if it is not there, and a way to its links.
pub(super) async fn ensure(path: &Path, sysctls: &'static str) -> Result<Links> {
    if is_namespace(path) {
        return links(path).await;
    }
    on_thread(path, move |path| {
        File::options().create(true).truncate(false).write(true).open(path)?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        write_all_sysctls(sysctls)?;
        let none: Option<&str> = None;
        mount(Some("/proc/thread-self/ns/net"), path, none, MsFlags::MS_BIND, none)?;
        Links::open()
    })
    .await
}

/// A way to the links of a namespace that exists.
pub(super) async fn links(path: &Path) -> Result<Links> {
    let namespace = open(path)?;
    on_thread(path, move |_| {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Links::open()
    })
    .await
}

fn is_namespace(path: &Path) -> bool {
    const NSFS: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x6e73_6673);
    nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type() == NSFS)
}

/// Lets a namespace go. Not there: nothing to do.
pub(super) fn remove(path: &Path) -> Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {} // once more: it may be mounted twice
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
            Err(e) => return Err(Error::internal(format!("unmount {}", path.display())).because(e)),
        }
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::internal(format!("remove {}", path.display())).because(e))
        }
        _ => Ok(()),
    }
}

/// `key = value` lines; `#` begins a comment.
fn settings(text: &str) -> impl Iterator<Item = (PathBuf, &str)> {
    text.lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.split_once('='))
        .map(|(key, value)| (Path::new("/proc/sys").join(key.trim().replace('.', "/")), value.trim()))
}

fn write_all_sysctls(text: &str) -> std::io::Result<()> {
    for (path, value) in settings(text) {
        match std::fs::write(&path, value) {
            // A kernel without IPv6 has nothing to close.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && path.starts_with("/proc/sys/net/ipv6") => {}
            other => other.map_err(|e| std::io::Error::new(e.kind(), format!("{}: {e}", path.display())))?,
        }
    }
    Ok(())
}

/// Settings of the host's own namespace. What is set already is not written.
pub(super) fn write_sysctls(text: &'static str) -> Result<()> {
    for (path, value) in settings(text) {
        if std::fs::read_to_string(&path).is_ok_and(|v| v.trim() == value) {
            continue;
        }
        std::fs::write(&path, value).attempt(Code::Internal, || format!("set {} to {value}", path.display()))?;
    }
    Ok(())
}

/// No IPv6 on one of the host's links.
pub(super) fn close_ipv6(link: &str) {
    // A kernel without IPv6 has nothing to close.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1");
}

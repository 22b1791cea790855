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
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let runtime = tokio::runtime::Handle::current();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("netns".into()).spawn(move || {
        let _context = runtime.enter();
        let _ = sender.send(work());
    })?;
    receiver.await.map_err(std::io::Error::other)?
}

/// Runs `work` on a thread that has entered the namespace, and ends with it. What it starts is in there too.
pub(in crate::host) async fn inside<T: Send + 'static>(
    namespace: File,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    on_thread(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
    .await
}

fn entering(path: &Path) -> String {
    format!("enter network namespace {}", path.display())
}

/// A namespace held at `path`, made with those settings if it is not there, and a way to its links.
pub(super) async fn ensure(path: &Path, sysctls: &'static str) -> Result<Links> {
    if is_namespace(path) {
        return links(path).await;
    }
    let to = path.to_owned();
    let made = on_thread(move || {
        File::options().create(true).truncate(false).write(true).open(&to)?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        write_all_sysctls(sysctls)?;
        let none: Option<&str> = None;
        mount(Some("/proc/thread-self/ns/net"), &to, none, MsFlags::MS_BIND, none)?;
        Links::open()
    });
    made.await.attempt(Code::Internal, || entering(path))
}

/// A way to the links of a namespace that exists.
pub(super) async fn links(path: &Path) -> Result<Links> {
    inside(open(path)?, Links::open).await.attempt(Code::Internal, || entering(path))
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

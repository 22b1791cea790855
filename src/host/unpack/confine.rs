//! What the worker gives up before it reads a byte.
#![allow(unsafe_code, reason = "closing files that nobody in this process owns")]

use std::io;

use caps::{CapSet, Capability};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{chdir, chroot, fchdir, pivot_root};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

/// What files of a layer need. No device can be made without `CAP_MKNOD`, overlayfs' whiteouts but for.
const KEPT: [Capability; 5] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_SETFCAP,
];
/// Bytes of memory: what is remembered of a layer is bounded well below that.
const MEMORY: u64 = 1 << 30;
/// Seconds of processor time.
const CPU: u64 = 3600;

/// A step and why it failed.
pub(super) type Failed = (&'static str, io::Error);

/// Shuts this process into its working directory for good. Returns that directory, open.
pub(super) fn confine(max_bytes: u64) -> Result<std::os::fd::OwnedFd, Failed> {
    let step = |what| move |e: nix::Error| (what, io::Error::from(e));
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    // What torpord's own parent may have left open.
    // SAFETY: this process has just begun: nothing in it owns a descriptor above the standard ones.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } != 0 {
        return Err(("close the files of others", io::Error::last_os_error()));
    }
    // No network, no mounts of the host, no other process's shared memory.
    let spaces =
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    unshare(spaces).map_err(step("leave the host's namespaces"))?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(step("make mounts private"))?;
    enter()?;
    for (resource, most) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, 64),
        (Resource::RLIMIT_AS, MEMORY),
        (Resource::RLIMIT_CPU, CPU),
        (Resource::RLIMIT_FSIZE, max_bytes.max(1 << 20)),
    ] {
        setrlimit(resource, most, most).map_err(step("set limits"))?;
    }
    nix::sys::prctl::set_no_new_privs().map_err(step("give up new privileges"))?;
    drop_capabilities().map_err(|e| ("give up capabilities", io::Error::other(e.to_string())))?;
    // With its parent gone, nobody wants what this makes.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(step("die with the parent"))?;
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, rustix::fs::Mode::empty()).map_err(|e| ("open the layer", e.into()))?;
    super::filter::apply().map_err(|e| ("give up system calls", e))?;
    Ok(root)
}

/// Makes the working directory the root, and all else unreachable.
fn enter() -> Result<(), Failed> {
    let step = |what| move |e: nix::Error| (what, io::Error::from(e));
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let here = open_tree(rustix::fs::CWD, ".", clone).map_err(|e| ("open the directory", e.into()))?;
    move_mount(&here, "", rustix::fs::CWD, ".", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| ("mount the directory", e.into()))?;
    fchdir(&here).map_err(step("enter the directory"))?;
    match pivot_root(".", ".") {
        Ok(()) => umount2(".", MntFlags::MNT_DETACH).map_err(step("leave the host's root"))?,
        // The root of an initramfs can't be left so.
        Err(nix::Error::EINVAL) => chroot(".").map_err(step("chroot"))?,
        Err(e) => return Err(step("pivot_root")(e)),
    }
    chdir("/").map_err(step("enter the root"))
}

fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    caps::clear(None, CapSet::Ambient)?;
    for capability in caps::read(None, CapSet::Bounding)? {
        caps::drop(None, CapSet::Bounding, capability)?;
    }
    caps::clear(None, CapSet::Inheritable)?;
    let kept = KEPT.into_iter().collect();
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

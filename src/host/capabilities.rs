//! What torpord may do: it is root, and gives up what it has no use for.

use caps::{CapSet, Capability};

use crate::model::{Attempt, Code, Result};

/// What the daemon and the programs it runs need.
const NEEDED: [Capability; 19] = [
    Capability::CAP_CHOWN,            // files of layers
    Capability::CAP_DAC_OVERRIDE,     // files of layers, whoever they belong to
    Capability::CAP_DAC_READ_SEARCH,  // open by handle: overlayfs
    Capability::CAP_FOWNER,           // modes and times of such files
    Capability::CAP_FSETID,           // set-user-id bits of such files
    Capability::CAP_KILL,             // sandboxes run as other users
    Capability::CAP_MKNOD,            // whiteouts
    Capability::CAP_NET_ADMIN,        // links, routes, firewall
    Capability::CAP_NET_BIND_SERVICE, // ports below 1024, where they are allowed
    Capability::CAP_NET_RAW,          // runsc's packet sockets
    Capability::CAP_SETFCAP,          // capabilities of files
    Capability::CAP_SETGID,           // runsc and workers give up root
    Capability::CAP_SETPCAP,          // this very drop
    Capability::CAP_SETUID,           // runsc and workers give up root
    Capability::CAP_SYS_ADMIN,        // mounts and namespaces
    Capability::CAP_SYS_CHROOT,       // runsc's empty root
    Capability::CAP_SYS_PTRACE,       // runsc's platform; namespaces of sandboxes
    Capability::CAP_SYS_RESOURCE,     // limits of sandboxes
    Capability::CAP_AUDIT_WRITE,      // in a pod's set, which must be a part of ours
];

/// Gives up all capabilities but those that are needed, for good: also for what this process runs.
///
/// # Errors
/// The kernel refuses.
pub fn drop_unneeded() -> Result<()> {
    let what = || "give up capabilities".to_owned();
    let bounding = caps::read(None, CapSet::Bounding).attempt(Code::Internal, what)?;
    for capability in bounding {
        if !NEEDED.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability).attempt(Code::Internal, what)?;
        }
    }
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        let held = caps::read(None, set).attempt(Code::Internal, what)?;
        let kept = held.into_iter().filter(|c| NEEDED.contains(c)).collect();
        caps::set(None, set, &kept).attempt(Code::Internal, what)?;
    }
    Ok(())
}

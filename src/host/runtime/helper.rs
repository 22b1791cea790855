//! The way around gvisor #10704, for engines that have the fault on kernels that bring it out.
//!
//! Such an engine takes any network namespace for the host's own if /proc/sys/net/core/rmem_default is there. The directory
//! is per namespace: it is covered by an empty read-only tmpfs from inside the pod's, in a mount namespace of the command's
//! own. Only for `start` and `restore`: `create` mounts a proc of its own, which the kernel refuses under such a cover.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// The word by which torpord is run as this helper: `torpord engine-helper NETNS PROGRAM ARG...`.
pub const HELPER: &str = "engine-helper";

/// Covers the directory and becomes the program.
pub fn helper_main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let (Some(netns), Some(program)) = (args.next(), args.next()) else { return ExitCode::from(2) };
    let cover = || -> std::io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
        let own = File::open("/proc/self/ns/net")?;
        setns(File::open(&netns)?, CloneFlags::CLONE_NEWNET)?;
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("tmpfs"), "/proc/sys/net/core", Some("tmpfs"), flags, none)?;
        setns(own, CloneFlags::CLONE_NEWNET)?;
        Ok(())
    };
    let error = match cover() {
        Ok(()) => std::process::Command::new(program).args(args).exec(),
        Err(e) => e,
    };
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "engine-helper: {error}");
    ExitCode::from(125)
}

//! The system calls that are left to the worker: those by which files of a layer are made, and none by which a process reaches
//! anything else. Capabilities, namespaces and the root it is shut into bound what these can do; this bounds what else a
//! worker could do that a hostile archive has taken over: signal other processes of root's, open sockets, start programs, map
//! memory as code, try the rest of the kernel.

use std::collections::BTreeMap;
use std::io;

use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Whatever their arguments are.
const FREE: [i64; 43] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fsetxattr,
    libc::SYS_utimensat,
    libc::SYS_ftruncate,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

fn when(argument: u8, how: SeccompCmpOp, value: u32) -> seccompiler::Result<SeccompCondition> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, u64::from(value))?)
}

fn program() -> seccompiler::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = FREE.into_iter().map(|call| (call, Vec::new())).collect();
    // No memory becomes code.
    let code = MaskedEq(u64::from(libc::PROT_EXEC.cast_unsigned()));
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![SeccompRule::new(vec![when(2, code.clone(), 0)?])?]);
    }
    // Named pipes, and the device 0/0 that is overlayfs' whiteout.
    let kind = || MaskedEq(u64::from(libc::S_IFMT));
    let pipe = vec![when(2, kind(), libc::S_IFIFO)?];
    let whiteout = vec![when(2, kind(), libc::S_IFCHR)?, when(3, Eq, 0)?];
    rules.insert(libc::SYS_mknodat, vec![SeccompRule::new(pipe)?, SeccompRule::new(whiteout)?]);
    // The standard library looks whether a descriptor is open before it closes it.
    let mut looks = Vec::new();
    for command in [libc::F_GETFD, libc::F_GETFL] {
        looks.push(SeccompRule::new(vec![when(1, Eq, command.cast_unsigned())?])?);
    }
    rules.insert(libc::SYS_fcntl, looks);
    // As if the kernel did not know it: what only asks for a newer call falls back to an older one.
    let refused = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}

/// From now on this thread, and what it starts, has no other system calls. There is no way back.
pub(super) fn apply() -> io::Result<()> {
    let program = program().map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    /// A filter holds for its thread only.
    fn filtered<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = std::thread::spawn(move || {
            apply().unwrap();
            work()
        });
        thread.join().unwrap()
    }

    #[test]
    fn what_a_layer_does_not_need_is_refused() {
        let own = Pid::from_raw(i32::try_from(std::process::id()).unwrap()).unwrap();
        let results = filtered(move || {
            let os = |e: io::Error| e.raw_os_error();
            let nix = |e: nix::Error| Some(e as i32);
            vec![
                ("a signal", kill_process(own, Signal::CONT).err().map(|e| e.raw_os_error())),
                ("a socket", std::net::UdpSocket::bind("127.0.0.1:0").err().and_then(os)),
                ("a program", std::process::Command::new("/bin/true").status().err().and_then(os)),
                ("a mount", nix::mount::umount("/nothing").err().and_then(nix)),
                ("a root", nix::unistd::chroot("/nothing").err().and_then(nix)),
                ("a namespace", nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).err().and_then(nix)),
                ("another user", nix::unistd::setuid(nix::unistd::getuid()).err().and_then(nix)),
                (
                    "a pidfd",
                    rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty())
                        .err()
                        .map(|e| e.raw_os_error()),
                ),
                (
                    "a device",
                    mknodat(CWD, "/nothing/x", FileType::CharacterDevice, Mode::empty(), makedev(1, 3))
                        .err()
                        .map(|e| e.raw_os_error()),
                ),
                (
                    "a disk",
                    mknodat(CWD, "/nothing/x", FileType::BlockDevice, Mode::empty(), makedev(8, 0))
                        .err()
                        .map(|e| e.raw_os_error()),
                ),
                ("a host name", nix::unistd::sethostname("x").err().and_then(nix)),
            ]
        });
        for (what, refused) in results {
            assert_eq!(refused, Some(libc::ENOSYS), "{what}");
        }
    }

    #[test]
    fn what_a_layer_needs_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        filtered(move || {
            let mut file = std::fs::File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(path.join("f"))
                .unwrap();
            file.write_all(b"hello").unwrap();
            file.rewind().unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!((text.as_str(), file.metadata().unwrap().len()), ("hello", 5));
            mknodat(CWD, path.join("p"), FileType::Fifo, Mode::RUSR, 0).unwrap();
            let large = vec![1_u8; 8 << 20];
            assert_eq!(large.iter().map(|b| u64::from(*b)).sum::<u64>(), 8 << 20);
            rustix::fs::unlinkat(CWD, path.join("f"), rustix::fs::AtFlags::empty()).unwrap();
        });
    }
}

//! A host of a test's own, in a network namespace, with an outside: there a real flush of the whole firewall, and a flood,
//! harm nobody.
//!
//! ```text
//! outside (198.51.100.2, 2001:db8::2, 203.0.113.80, 169.254.169.254, ...) -- lan0 (198.51.100.1, 2001:db8::1) host
//! ```
//!
//! Both are gone when the last process in them has ended.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by test binaries that each use a part of it"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Ends with its owner.
pub struct Server {
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a script prints; it must not fail.
pub fn sh(script: &str) -> String {
    let out = Command::new("sh").args(["-ec", script]).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Starts what says `serving` once it does.
pub fn serve(command: &mut Command, args: &[&str]) -> Server {
    let mut child = command.args(args).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "serving\n");
    Server { child }
}

/// Puts the calling thread, and all that it starts from now on, on a host of its own.
pub fn new_host() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    sh("ip link set lo up
        sysctl -qw net.ipv4.ping_group_range='0 2147483647' net.ipv6.conf.all.forwarding=1 net.ipv4.ip_forward=1");
}

/// What is beyond the host.
pub struct Outside {
    holder: Server,
}

impl Outside {
    /// Of the calling thread's host.
    pub fn new() -> Self {
        // Holds the namespace for as long as its input is open.
        let mut command = Command::new("unshare");
        let command = command.args(["--net", "sh", "-c", "echo serving; exec cat"]).stdin(Stdio::piped());
        let holder = serve(command, &[]);
        let pid = holder.child.id();
        sh(&format!(
            "ip link add lan0 type veth peer name eth0 netns {pid}
             ip addr add 198.51.100.1/24 brd + dev lan0
             ip addr add 2001:db8::1/64 dev lan0 nodad
             ip link set lan0 up
             nsenter --net=/proc/{pid}/ns/net sh -e <<'END'
             sysctl -qw net.ipv4.ping_group_range='0 2147483647'
             ip link set lo up
             ip addr add 198.51.100.2/24 dev eth0
             ip addr add 2001:db8::2/64 dev eth0 nodad
             ip link set eth0 up
             for a in 203.0.113.80 192.0.2.53 169.254.169.254 169.254.7.7; do ip addr add $a/32 dev lo; done
             ip addr add 2001:db8:ffff::80/128 dev lo
             # What torpor's pods have is looked for on the host.
             ip route add 10.0.0.0/8 via 198.51.100.1
             # Answers to pods go only to where the host has put its own address.
             ip rule add from 203.0.113.80 to 10.0.0.0/8 unreachable
END
             ip route add default via 198.51.100.2
             ip route add 169.254.0.0/16 via 198.51.100.2
             ip route add default via 2001:db8::2"
        ));
        Outside { holder }
    }

    /// Pid of a process in it.
    pub fn pid(&self) -> u32 {
        self.holder.child.id()
    }

    /// A program run there.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid())).arg(program);
        command
    }
}

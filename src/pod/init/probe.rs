//! Readiness asked from inside the pod, by a child process that may block: init itself never does.
#![allow(unsafe_code, reason = "fork: init has one thread, so the child may do anything a program may")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use nix::unistd::{ForkResult, fork};

use super::program::{Spawn, Starter};
use crate::channel::{Launch, Probe};

/// Between two attempts. There is no event for "somebody began to listen".
const PAUSE: Duration = Duration::from_millis(5);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Starts asking; the child exits with 0 once it was answered.
pub(super) fn start(probe: &Probe, timeout_ms: u64, launch: &Launch) -> nix::Result<i32> {
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => {
            let _ = SigSet::all().thread_unblock();
            let ready = ask(probe, Duration::from_millis(timeout_ms), launch);
            // SAFETY: ends the child without running what belongs to its parent.
            unsafe { libc::_exit(i32::from(!ready)) }
        }
    }
}

fn ask(probe: &Probe, timeout: Duration, launch: &Launch) -> bool {
    let end = Instant::now() + timeout;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let ready = match probe {
            Probe::Tcp { port } => connect(*port, left).is_some(),
            Probe::Http { port, path } => http(*port, path, left),
            Probe::Exec { command } => run(command, launch),
        };
        if ready {
            return true;
        }
        std::thread::sleep(PAUSE.min(left));
    }
}

fn connect(port: u16, left: Duration) -> Option<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, left.min(ATTEMPT)).ok()
}

fn http(port: u16, path: &str, left: Duration) -> bool {
    let Some(mut stream) = connect(port, left) else { return false };
    let _ = stream.set_read_timeout(Some(left.min(ATTEMPT)));
    let _ = stream.set_write_timeout(Some(left.min(ATTEMPT)));
    if write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").is_err() {
        return false;
    }
    let mut line = [0_u8; 12];
    stream.read_exact(&mut line).is_ok() && line.starts_with(b"HTTP/1.") && matches!(line[9], b'2' | b'3')
}

fn run(command: &[String], launch: &Launch) -> bool {
    let (env, working_dir, user) = (&launch.env, &launch.working_dir, &launch.user);
    let spawn = Spawn { command, env, working_dir, user, stdin: false, tty: None };
    let Ok(program) = Starter::default().start(&spawn) else { return false };
    matches!(nix::sys::wait::waitpid(program.pid, None), Ok(nix::sys::wait::WaitStatus::Exited(_, 0)))
}

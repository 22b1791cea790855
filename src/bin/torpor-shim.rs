//! Owns one sandbox's input and output. See `torpor::pod::shim`.
#![allow(unsafe_code, reason = "fork: before anything else runs in this process")]

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use nix::unistd::{ForkResult, fork, pipe, setsid};

fn main() -> ExitCode {
    let arguments = match torpor::pod::shim::Arguments::parse(std::env::args().skip(1)) {
        Ok(a) => a,
        Err(e) => return say(&e, 2),
    };
    // The parent answers whoever started it: 0 once the socket serves, else with the reason.
    let Ok((read, write)) = pipe() else { return say("make a pipe", 1) };
    // SAFETY: this process has one thread.
    match unsafe { fork() } {
        Err(e) => say(&format!("fork: {e}"), 1),
        Ok(ForkResult::Parent { .. }) => {
            drop(write);
            let mut text = String::new();
            let _ = std::fs::File::from(read).read_to_string(&mut text);
            if text == "ready" { ExitCode::SUCCESS } else { say(&text, 1) }
        }
        Ok(ForkResult::Child) => {
            drop(read);
            let _ = setsid();
            let _ = std::env::set_current_dir("/");
            if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
                let null = null.as_fd();
                let _ = nix::unistd::dup2_stdin(null);
                let _ = nix::unistd::dup2_stdout(null);
                let _ = nix::unistd::dup2_stderr(null);
            }
            // The last to be taken when memory is short: without it the pod can't be talked to.
            let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
            // In its own service's cgroup systemd would take it for what a daemon that ended badly has left.
            if let Some(dir) = &arguments.cgroup {
                let _ = std::fs::write(dir.join("cgroup.procs"), "0");
            }
            let mut pipe = Some(std::fs::File::from(write));
            let mut told = pipe.take();
            let result = torpor::pod::shim::run(arguments, || {
                if let Some(mut p) = told.take() {
                    let _ = p.write_all(b"ready");
                }
            });
            match result {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => {
                    if let Some(mut p) = told {
                        let _ = write!(p, "{e}");
                    }
                    ExitCode::FAILURE
                }
            }
        }
    }
}

fn say(text: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "torpor-shim: {text}");
    ExitCode::from(code)
}

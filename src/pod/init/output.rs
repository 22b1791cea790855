//! What programs say and take, and how they end.

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, read};

use super::program::Program;
use super::{CHUNK, Init, LAST_WORDS, LINGER_MS, now_ms};
use crate::channel::terminal::TerminalEnd;
use crate::channel::{Event, MAIN, Stream};

impl Init {
    /// Takes a piece of a program's output; how many bytes there were.
    pub(super) fn read_output(&mut self, process: u64, stream: Stream) -> usize {
        let Some(p) = self.programs.get_mut(&process) else { return 0 };
        let slot = if stream == Stream::Stdout { &mut p.stdout } else { &mut p.stderr };
        let Some(fd) = slot else { return 0 };
        let most = p.credit.map_or(CHUNK, |c| usize::try_from(c).map_or(CHUNK, |c| c.min(CHUNK)));
        if most == 0 {
            return 0;
        }
        match read(&*fd, &mut self.piece[..most]) {
            Ok(0) => *slot = None,
            Ok(n) => {
                p.credit = p.credit.map(|c| c.saturating_sub(n as u64));
                if let Some(t) = &mut p.terminal {
                    t.take(&self.piece[..n], now_ms());
                }
                // After its end was reported, nobody listens to what a program left running in its place says.
                if !p.reported && (p.terminal.is_none() || process == MAIN) {
                    let data = self.piece[..n].to_vec();
                    self.outbox.say_numbered(&Event::Output { process, stream, data });
                }
                self.pump(process);
                return n;
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => *slot = None,
        }
        0
    }

    /// Takes what lies in the pipes of a program that has ended; false: there is no room for all of it now. Whoever else
    /// holds a pipe and goes on writing is not waited for.
    fn take_last_words(&mut self, process: u64) -> bool {
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.programs.get(&process).is_some_and(|p| p.last_words < LAST_WORDS) {
                let waits = |p: &Program| !p.may_speak() || (self.is_kept(process, p) && self.outbox.is_full());
                if self.programs.get(&process).is_some_and(waits) {
                    return false;
                }
                match self.read_output(process, stream) {
                    0 => break,
                    n => self.programs.entry(process).and_modify(|p| p.last_words += n),
                };
            }
        }
        true
    }

    pub(super) fn reap(&mut self) {
        loop {
            let (pid, code, signal) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Some(code), None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, None, Some(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if let Some(id) = self.probes.remove(&pid.as_raw()) {
                self.outbox.say(&Event::Probed { id, ready: code == Some(0) });
                continue;
            }
            let ended = self.programs.iter_mut().find(|(_, p)| p.pid == pid && p.ended.is_none());
            if let Some((process, p)) = ended {
                p.ended = Some((code, signal));
                p.close_stdin();
                if let Some(t) = &mut p.terminal {
                    t.replica = None; // its end is seen when nobody else has it open
                }
                p.linger_until = Some(now_ms() + LINGER_MS);
                if *process == MAIN {
                    // PID 1's own child is the pod: without it nothing else has a reason to be here.
                    let _ = nix::sys::signal::kill(Pid::from_raw(-1), Signal::SIGKILL);
                }
            }
        }
    }

    /// Reports programs that have ended and whose output is all sent, and forgets those that are all over.
    pub(super) fn report_ended(&mut self) {
        if self.quiesced || self.quiesce_asked || self.outbox.is_full() {
            return;
        }
        let is_due = |p: &Program| {
            let silent = p.stdout.is_none() && p.stderr.is_none();
            p.ended.is_some() && !p.reported && (silent || p.linger_until.is_some_and(|t| t <= now_ms()))
        };
        let due: Vec<u64> = self.programs.iter().filter(|(_, p)| is_due(p)).map(|(n, _)| *n).collect();
        for process in due {
            if !self.take_last_words(process) {
                continue; // what it said last waits for its reader
            }
            let Some(p) = self.programs.get_mut(&process) else { continue };
            let Some((code, signal)) = p.ended else { continue };
            p.reported = true;
            p.linger_until = None;
            if let Some(t) = &mut p.terminal {
                t.end = Some(TerminalEnd { code, signal, timed_out: t.timed_out });
                p.stdout = None; // whoever was left on it is hung up
            }
            if self.programs.get(&process).is_some_and(|p| self.is_kept(process, p)) {
                self.outbox.say_numbered(&Event::Exited { process, code, signal });
            }
            self.pump(process);
            if process == MAIN {
                self.main_ended = Some(code.unwrap_or_else(|| 128 + signal.unwrap_or(0)));
            }
        }
        self.programs.retain(|_, p| {
            let kept = p.terminal.as_ref().is_some_and(|t| !t.removed);
            !p.reported || p.stdout.is_some() || p.stderr.is_some() || kept
        });
    }

    /// Tells how much input a program took.
    pub(super) fn tell_taken(&mut self, process: u64) {
        if self.quiesced || self.quiesce_asked {
            return;
        }
        if let Some(bytes) = self.programs.get_mut(&process).and_then(Program::take_taken) {
            self.outbox.say(&Event::InputTaken { process, bytes });
        }
    }

    /// Whether what a program says is kept until it is acknowledged. What is said on a terminal lies in its scrollback,
    /// but the pod's command has a log.
    pub(super) fn is_kept(&self, process: u64, p: &Program) -> bool {
        p.terminal.is_none() || process == MAIN
    }
}

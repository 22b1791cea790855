//! `torpor-init`: PID 1 of every pod.
//!
//! One loop, no threads. It starts the pod's command and every further program, reaps, passes output on, and keeps what
//! has not been acknowledged, so that output survives a killed shim and a restore. When the command has ended, everything
//! else is killed and init waits to be told to finish: the pod's root can be saved meanwhile.
//!
//! What it reads from the host is trusted (the shim is root's); what programs do to it harms their own pod only.

mod files;
mod outbox;
mod probe;
mod program;
mod secrets;
mod user;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, read};
use zeroize::Zeroize;

use crate::channel::{Decoder, Event, Exec, Launch, MAIN, Request, StartFailure, Stream, VERSION};
use outbox::Outbox;
use program::{Program, Spawn, Starter};

/// Bytes taken from a program's output at once.
const CHUNK: usize = 64 * 1024;
/// How long output is waited for after a program has ended while others hold its pipe.
const LINGER_MS: i64 = 100;
/// Bytes taken after that at most: more than a pipe holds.
const LAST_WORDS: usize = 2 << 20;

/// Bytes that lie in the channel at most, and some.
const ROOM: usize = 256 * 1024;

struct Init {
    input: OwnedFd,
    decoder: Decoder,
    outbox: Outbox,
    programs: BTreeMap<u64, Program>,
    starter: Starter,
    /// Room for a piece of output.
    piece: Vec<u8>,
    probes: BTreeMap<i32, u64>,
    launch: Option<Launch>,
    main_ended: Option<i32>,
    quiesced: bool,
    quiesce_asked: bool,
    finish: bool,
}

/// Runs until the pod's command has ended and the shim says finish. Returns the exit code of the command.
pub fn run(input: OwnedFd, output: OwnedFd) -> i32 {
    let Ok(signals) = block_signals() else { return 125 };
    for fd in [&input, &output] {
        set_nonblocking(fd.as_fd());
    }
    let _ = nix::unistd::chdir("/");
    let mut init = Init {
        input,
        decoder: Decoder::with_room(ROOM),
        outbox: Outbox::new(output),
        programs: BTreeMap::new(),
        starter: Starter::of_init(),
        piece: vec![0; CHUNK],
        probes: BTreeMap::new(),
        launch: None,
        main_ended: None,
        quiesced: false,
        quiesce_asked: false,
        finish: false,
    };
    loop {
        if let Some(code) = init.turn(&signals) {
            return code;
        }
    }
}

fn block_signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        set.add(signal);
    }
    let mut blocked = set;
    blocked.add(Signal::SIGPIPE);
    blocked.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

fn set_nonblocking(fd: BorrowedFd<'_>) {
    if let Ok(flags) = fcntl(fd, FcntlArg::F_GETFL) {
        let _ = fcntl(fd, FcntlArg::F_SETFL(OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK));
    }
}

/// Milliseconds of the monotonic clock.
fn now_ms() -> i64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |t| t.tv_sec() * 1000 + t.tv_nsec() / 1_000_000)
}

/// What a descriptor in the poll set stands for.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Input,
    Channel,
    Output(u64, Stream),
    Stdin(u64),
}

impl Init {
    /// One round of the loop.
    fn turn(&mut self, signals: &SignalFd) -> Option<i32> {
        let ready = self.wait(signals);
        for source in ready {
            match source {
                Source::Signals => {
                    // One in a round: poll tells of the next.
                    if let Ok(Some(info)) = signals.read_signal()
                        && info.ssi_signo != Signal::SIGCHLD as u32
                        && info.ssi_pid == 0
                    {
                        // Asked to stop from outside the channel: the command decides what that means.
                        self.signal(MAIN, i32::try_from(info.ssi_signo).unwrap_or(libc::SIGTERM));
                    }
                    self.reap();
                }
                Source::Input => self.read_input(),
                Source::Channel => self.outbox.flush(),
                Source::Output(process, stream) => drop(self.read_output(process, stream)),
                Source::Stdin(process) => {
                    if let Some(p) = self.programs.get_mut(&process) {
                        p.write_stdin();
                    }
                }
            }
        }
        self.report_ended();
        self.answer_quiesce();
        self.outbox.flush();
        if self.finish && self.main_ended.is_some() {
            return self.main_ended;
        }
        None
    }

    fn wait(&self, signals: &SignalFd) -> Vec<Source> {
        let mut sources = vec![Source::Signals, Source::Input];
        let mut fds =
            vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(self.input.as_fd(), PollFlags::POLLIN)];
        if self.outbox.wants_to_write() && !self.quiesced {
            sources.push(Source::Channel);
            fds.push(PollFd::new(self.outbox.fd(), PollFlags::POLLOUT));
        }
        let hold = self.outbox.is_full() || self.quiesced || self.quiesce_asked;
        for (id, p) in &self.programs {
            for (stream, fd) in [(Stream::Stdout, &p.stdout), (Stream::Stderr, &p.stderr)] {
                if let (Some(fd), false) = (fd, hold) {
                    sources.push(Source::Output(*id, stream));
                    fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
                }
            }
            if let (Some(fd), true) = (&p.stdin, p.has_input()) {
                sources.push(Source::Stdin(*id));
                fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLOUT));
            }
        }
        let linger = self.programs.values().filter_map(|p| p.linger_until.filter(|_| !hold)).min();
        let linger = linger.map(|t| (t - now_ms()).max(0));
        let timeout = linger.and_then(|ms| PollTimeout::try_from(i32::try_from(ms).unwrap_or(1000)).ok());
        match poll(&mut fds, timeout.unwrap_or(PollTimeout::NONE)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return vec![Source::Signals],
        }
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
        sources.into_iter().zip(&fds).filter(|(_, fd)| is_ready(fd)).map(|(s, _)| s).collect()
    }

    fn read_input(&mut self) {
        let mut bytes = [0_u8; 16 * 1024];
        loop {
            match read(&self.input, &mut bytes) {
                Ok(0) | Err(Errno::EAGAIN) => break,
                Ok(n) => {
                    self.decoder.push(&bytes[..n]);
                    if n < bytes.len() {
                        break;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        let mut secret = false;
        while let Some(mut frame) = self.decoder.next_frame() {
            if let Some(request) = Request::parse(&frame) {
                self.obey(request);
            }
            if frame.is_secret() {
                frame.body.zeroize();
                secret = true;
            }
        }
        // What lies about in init's memory is in the pod's snapshots.
        if secret || self.decoder.awaits_secrets() {
            self.decoder.scrub();
            bytes.zeroize();
        }
    }

    fn obey(&mut self, request: Request) {
        match request {
            Request::Hello { version, session, acknowledged } => {
                self.decoder.forget_partial();
                (self.quiesced, self.quiesce_asked) = (false, false);
                let hello = Event::Hello { version: version.min(VERSION), session, launched: self.launch.is_some() };
                self.outbox.begin(&hello, acknowledged);
            }
            Request::Launch(launch) => self.launch(launch),
            Request::Exec { process, exec } => self.exec(process, &exec),
            Request::Signal { process, signal } => self.signal(process, signal),
            Request::Stdin { process, data } => {
                if let Some(p) = self.programs.get_mut(&process) {
                    p.give(data);
                }
            }
            Request::Quiesce => {
                // Where that fails nothing is answered: then there is no checkpoint.
                self.quiesce_asked = secrets::clear().is_ok();
            }
            Request::Resume => (self.quiesced, self.quiesce_asked) = (false, false),
            Request::Identity(identity) => {
                let failed = files::identify(&identity).err();
                if let Some(launch) = &mut self.launch {
                    launch.hostname = identity.hostname;
                }
                self.outbox.say(&Event::Identified { failed });
            }
            Request::Probe { id, probe, timeout_ms } => {
                let context = self.launch.clone().unwrap_or_default();
                match probe::start(&probe, timeout_ms, &context) {
                    Ok(pid) => drop(self.probes.insert(pid, id)),
                    Err(_) => self.outbox.say(&Event::Probed { id, ready: false }),
                }
            }
            Request::Secrets(files) => {
                let filled = self
                    .starter
                    .account(&files.user)
                    .and_then(|a| secrets::fill(&files, a.uid.as_raw(), a.gid.as_raw()));
                self.outbox.say(&Event::SecretsFilled { failed: filled.err() });
            }
            Request::Ack(sequence) => self.outbox.acknowledge(sequence),
            Request::Finish => self.finish = true,
        }
    }

    fn launch(&mut self, launch: Launch) {
        if self.launch.is_some() {
            return; // asked again after a new Hello: what came of it has been sent again too
        }
        let prepared = files::prepare(&launch);
        if let Err(message) = prepared {
            self.outbox.say_numbered(&Event::StartFailed { process: MAIN, why: StartFailure::Refused, message });
            return;
        }
        let spawn = Spawn {
            command: &launch.command,
            env: &launch.env,
            working_dir: &launch.working_dir,
            user: &launch.user,
            stdin: false,
        };
        if self.start(MAIN, &spawn) {
            self.launch = Some(launch);
        }
    }

    fn exec(&mut self, process: u64, exec: &Exec) {
        if self.programs.contains_key(&process) || process == MAIN {
            return;
        }
        let base = self.launch.clone().unwrap_or_default();
        let mut env = base.env;
        env.retain(|line| {
            let name = line.split('=').next();
            !exec.env.iter().any(|e| e.split('=').next() == name)
        });
        env.extend(exec.env.iter().cloned());
        let spawn = Spawn {
            command: &exec.command,
            env: &env,
            working_dir: exec.working_dir.as_deref().unwrap_or(&base.working_dir),
            user: exec.user.as_deref().unwrap_or(&base.user),
            stdin: exec.stdin,
        };
        self.start(process, &spawn);
    }

    fn start(&mut self, process: u64, spawn: &Spawn<'_>) -> bool {
        match self.starter.start(spawn) {
            Ok(program) => {
                self.programs.insert(process, program);
                if process == MAIN {
                    self.outbox.say_numbered(&Event::Started { process });
                }
                // While the program is being loaded.
                self.starter.prepare();
                true
            }
            Err((why, message)) => {
                self.outbox.say_numbered(&Event::StartFailed { process, why, message });
                false
            }
        }
    }

    fn signal(&self, process: u64, signal: i32) {
        if let (Some(p), Ok(signal)) = (self.programs.get(&process), Signal::try_from(signal))
            && p.ended.is_none()
        {
            let _ = nix::sys::signal::kill(p.pid, signal);
        }
    }

    /// Takes a piece of a program's output; how many bytes there were.
    fn read_output(&mut self, process: u64, stream: Stream) -> usize {
        let Some(p) = self.programs.get_mut(&process) else { return 0 };
        let slot = if stream == Stream::Stdout { &mut p.stdout } else { &mut p.stderr };
        let Some(fd) = slot else { return 0 };
        match read(&*fd, &mut self.piece) {
            Ok(0) => *slot = None,
            Ok(n) => {
                // After its end was reported, nobody listens to what a program left running in its place says.
                if !p.reported {
                    let data = self.piece[..n].to_vec();
                    self.outbox.say_numbered(&Event::Output { process, stream, data });
                }
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
                if self.outbox.is_full() {
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

    fn reap(&mut self) {
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
                p.stdin = None;
                p.linger_until = Some(now_ms() + LINGER_MS);
                if *process == MAIN {
                    // PID 1's own child is the pod: without it nothing else has a reason to be here.
                    let _ = nix::sys::signal::kill(Pid::from_raw(-1), Signal::SIGKILL);
                }
            }
        }
    }

    /// Reports programs that have ended and whose output is all sent, and forgets those that are all over.
    fn report_ended(&mut self) {
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
                return;
            }
            let Some(p) = self.programs.get_mut(&process) else { continue };
            let Some((code, signal)) = p.ended else { continue };
            p.reported = true;
            p.linger_until = None;
            self.outbox.say_numbered(&Event::Exited { process, code, signal });
            if process == MAIN {
                self.main_ended = Some(code.unwrap_or_else(|| 128 + signal.unwrap_or(0)));
            }
        }
        self.programs.retain(|_, p| !p.reported || p.stdout.is_some() || p.stderr.is_some());
    }

    fn answer_quiesce(&mut self) {
        if self.quiesce_asked && !self.quiesced && self.outbox.is_settled() {
            self.outbox.say(&Event::Quiesced);
            self.outbox.flush();
            if !self.outbox.wants_to_write() {
                self.quiesced = true;
                self.quiesce_asked = false;
            }
        }
    }
}

/// The descriptors of init's own input and output.
///
/// # Errors
/// They are not open.
pub fn stdio() -> nix::Result<(OwnedFd, OwnedFd)> {
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(|_| Errno::EBADF)?;
    let output = std::io::stdout().as_fd().try_clone_to_owned().map_err(|_| Errno::EBADF)?;
    for fd in [input.as_raw_fd(), output.as_raw_fd()] {
        if fd < 0 {
            return Err(Errno::EBADF);
        }
    }
    Ok((input, output))
}

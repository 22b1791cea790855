//! `torpor-init`: PID 1 of every pod.
//!
//! One loop, no threads. It starts the pod's command and every further program, reaps, passes output on, and keeps what
//! has not been acknowledged, so that output survives a killed shim and a restore. When the command has ended, everything
//! else is killed and init waits to be told to finish: the pod's root can be saved meanwhile.
//!
//! What it reads from the host is trusted (the shim is root's); what programs do to it harms their own pod only.

mod connect;
mod files;
pub mod helper;
mod outbox;
mod output;
mod probe;
mod processes;
mod program;
mod scp;
mod secrets;
mod sftp;
mod terminal;
mod terminals;
mod user;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::read;
use zeroize::Zeroize;

use crate::channel::terminal::MAIN_TERMINAL;
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
    /// Number of the newest terminal: even, so that it is none of a shim's.
    next_terminal: u64,
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
        next_terminal: MAIN,
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
                    self.tell_taken(process);
                }
            }
        }
        self.on_timers();
        self.report_ended();
        // What is written here needs no acknowledgement, perhaps: then nothing would wake this loop to say that it is quiet.
        self.outbox.flush();
        self.answer_quiesce();
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
        let quiet = self.quiesced || self.quiesce_asked;
        for (id, p) in &self.programs {
            let hold = quiet || !p.may_speak() || (self.is_kept(*id, p) && self.outbox.is_full());
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
        let hold = quiet || self.outbox.is_full();
        let lingers = self.programs.values().filter_map(|p| p.linger_until.filter(|_| !hold && p.may_speak()));
        let terminals = self.programs.values().filter_map(|p| p.terminal.as_ref()?.wakes_at());
        let first = lingers.chain(terminals).min().map(|t| (t - now_ms()).max(0));
        let timeout = first.and_then(|ms| PollTimeout::try_from(i32::try_from(ms).unwrap_or(1000)).ok());
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
                self.forget_readers();
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
                self.tell_taken(process);
            }
            Request::Quiesce => {
                // Where that fails nothing is answered: then there is no checkpoint.
                self.quiesce_asked = secrets::clear().is_ok();
            }
            Request::Resume => {
                (self.quiesced, self.quiesce_asked) = (false, false);
                self.pump_all();
            }
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
            Request::Terminal(ask) => self.on_terminal(ask),
            Request::Credit { process, bytes } => {
                if let Some(p) = self.programs.get_mut(&process) {
                    p.credit = Some(p.credit.unwrap_or(0).saturating_add(bytes));
                }
                self.tell_taken(process);
            }
            Request::Processes { id } => {
                self.outbox.say(&Event::Processes { id, processes: processes::all() });
            }
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
            stdin: launch.stdin,
            tty: launch.tty,
        };
        if self.start(MAIN, &spawn) {
            if let Some(t) = self.programs.get_mut(&MAIN).and_then(|p| p.terminal.as_mut()) {
                MAIN_TERMINAL.clone_into(&mut t.id);
            }
            self.launch = Some(launch);
        }
    }

    fn exec(&mut self, process: u64, exec: &Exec) {
        if self.programs.contains_key(&process) || process == MAIN {
            return;
        }
        let (env, dir, user) = self.surroundings(exec);
        let spawn =
            Spawn { command: &exec.command, env: &env, working_dir: &dir, user: &user, stdin: exec.stdin, tty: None };
        self.start(process, &spawn);
    }

    /// Environment, directory and user of a further program.
    fn surroundings(&self, exec: &Exec) -> (Vec<String>, String, String) {
        let base = self.launch.clone().unwrap_or_default();
        let mut env = base.env;
        env.retain(|line| {
            let name = line.split('=').next();
            !exec.env.iter().any(|e| e.split('=').next() == name)
        });
        env.extend(exec.env.iter().cloned());
        (env, exec.working_dir.clone().unwrap_or(base.working_dir), exec.user.clone().unwrap_or(base.user))
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

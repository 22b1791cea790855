//! `torpor-shim`: one per sandbox, small, outlives torpord.
//!
//! It holds the FIFOs that are init's stdio, writes the log, serves torpord on a socket, is the parent of the sandbox, and
//! records durably how it ended. One loop, no threads.
//!
//! After a `kill -9` of a shim: the FIFOs and the sandbox's own openings of them stay, programs in the pod wait when they
//! are full; a new shim takes them over, init sends again what was not acknowledged, and `log.state` says what was.

mod connection;
mod log;
mod sandbox;
mod session;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::channel::control::{Answer, Ask, ExitRecord, ShimStatus};
use crate::channel::{Event, MAIN, Request, Stream};
use crate::model::Code;
use connection::Connection;
use log::Log;
use sandbox::{Creating, Sandbox};
use session::Session;

/// How long the pod is held after its command has ended, for torpord to save its root.
const HOLD: Duration = Duration::from_secs(60);

/// What a shim is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// The sandbox's run directory.
    pub dir: PathBuf,
    /// Directory of the log files.
    pub log_dir: PathBuf,
    /// Bytes of a log file before it is rotated.
    pub log_max_bytes: u64,
    /// Log files kept.
    pub log_files: u32,
}

impl Arguments {
    /// Reads `--dir D --log-dir D --log-max-bytes N --log-files K`.
    ///
    /// # Errors
    /// Something is missing or unknown.
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut dir, mut log_dir, mut max, mut files) = (None, None, None, None);
        let mut args = args;
        while let Some(flag) = args.next() {
            let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--dir" => dir = Some(PathBuf::from(value)),
                "--log-dir" => log_dir = Some(PathBuf::from(value)),
                "--log-max-bytes" => max = value.parse().ok(),
                "--log-files" => files = value.parse().ok(),
                _ => return Err(format!("{flag} is not known")),
            }
        }
        let missing = || "--dir, --log-dir, --log-max-bytes and --log-files are needed".to_owned();
        Ok(Arguments {
            dir: dir.ok_or_else(missing)?,
            log_dir: log_dir.ok_or_else(missing)?,
            log_max_bytes: max.ok_or_else(missing)?,
            log_files: files.ok_or_else(missing)?,
        })
    }
}

/// Who waits for an answer of init.
#[derive(Default)]
struct Waiting {
    launch: Option<u64>,
    quiesce: Option<u64>,
    identify: Option<u64>,
    probes: BTreeMap<u64, u64>,
    end: Vec<u64>,
}

struct Running {
    connection: Option<u64>,
    deadline: Option<Instant>,
    timed_out: bool,
}

struct Shim {
    arguments: Arguments,
    signals: SignalFd,
    listener: UnixListener,
    session: Session,
    console: sandbox::Console,
    log: Log,
    sandbox: Sandbox,
    creating: Option<Creating>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    waiting: Waiting,
    programs: BTreeMap<u64, Running>,
    next_number: u64,
    launched: Option<Answer>,
    exit: Option<ExitRecord>,
    hold_until: Option<Instant>,
    done: bool,
}

/// Serves until it is told to shut down. `ready` is called once the socket answers.
///
/// # Errors
/// Directory, FIFOs or socket can't be made, or another shim serves this sandbox.
pub fn run(arguments: Arguments, ready: impl FnOnce()) -> std::io::Result<()> {
    let _lock = sandbox::lock(&arguments.dir)?;
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
        mask.add(signal);
    }
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    sandbox::become_reaper()?;
    let sandbox = Sandbox::find(&arguments.dir);
    let taken_over = sandbox.pid().is_some();
    let log = Log::open(&arguments.log_dir, &arguments.dir, arguments.log_max_bytes, arguments.log_files, taken_over)?;
    let mut session = Session::open(&arguments.dir, log.sequence())?;
    let console = sandbox::Console::open(&arguments.dir)?;
    let listener = connection::listen(&arguments.dir.join("shim.sock"))?;
    let mut exit = sandbox::read_exit(&arguments.dir);
    if taken_over && exit.is_none() {
        session.hello()?;
    }
    if exit.is_none() && sandbox.was_made(&arguments.dir) && sandbox.pid().is_none() {
        let lost = ExitRecord { at: Some(jiff::Timestamp::now()), shim_lost: true, ..ExitRecord::unknown() };
        sandbox::write_exit(&arguments.dir, &lost)?;
        exit = Some(lost);
    }
    let number = session.random();
    let mut shim = Shim {
        arguments,
        signals,
        listener,
        session,
        console,
        log,
        sandbox,
        creating: None,
        connections: BTreeMap::new(),
        next_connection: 1,
        waiting: Waiting::default(),
        programs: BTreeMap::new(),
        next_number: number | 1,
        launched: None,
        exit,
        hold_until: None,
        done: false,
    };
    ready();
    while !shim.done {
        shim.turn()?;
    }
    let _ = std::fs::remove_file(shim.arguments.dir.join("shim.sock"));
    Ok(())
}

#[derive(Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Output,
    Input,
    Console,
    Sandbox,
    Connection(u64),
}

impl Shim {
    fn turn(&mut self) -> std::io::Result<()> {
        for source in self.wait()? {
            match source {
                Source::Signals => self.on_signals(),
                Source::Listener => self.accept(),
                Source::Output => self.read_events(),
                Source::Input => self.session.flush(),
                Source::Console => self.console.copy(),
                Source::Sandbox => self.sandbox_ended(None),
                Source::Connection(id) => self.serve(id),
            }
        }
        self.on_timers();
        self.session.acknowledge(self.log.commit());
        self.session.flush();
        for connection in self.connections.values_mut() {
            connection.flush();
        }
        self.drop_closed();
        Ok(())
    }

    fn wait(&mut self) -> std::io::Result<Vec<Source>> {
        let mut sources = vec![Source::Signals, Source::Listener, Source::Output, Source::Console];
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![
            readable(self.signals.as_fd()),
            readable(self.listener.as_fd()),
            readable(self.session.output()),
            readable(self.console.fd()),
        ];
        if self.session.wants_to_write() {
            sources.push(Source::Input);
            fds.push(PollFd::new(self.session.input(), PollFlags::POLLOUT));
        }
        if let (Some(fd), None) = (self.sandbox.pidfd(), &self.creating) {
            sources.push(Source::Sandbox);
            fds.push(readable(fd));
        }
        for (id, c) in &self.connections {
            let mut events = PollFlags::empty();
            events.set(PollFlags::POLLIN, !self.session.is_backed_up());
            events.set(PollFlags::POLLOUT, c.wants_to_write());
            sources.push(Source::Connection(*id));
            fds.push(PollFd::new(c.fd(), events));
        }
        let deadlines = self.programs.values().filter(|p| !p.timed_out).filter_map(|p| p.deadline);
        let first = deadlines.chain(self.creating.as_ref().map(|c| c.deadline)).chain(self.hold_until).min();
        let timeout = first.map_or(PollTimeout::NONE, |t| {
            let ms = t.saturating_duration_since(Instant::now()).as_millis() + 1;
            PollTimeout::try_from(i32::try_from(ms).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(sources
            .into_iter()
            .zip(&fds)
            .filter(|(_, f)| f.revents().is_some_and(|r| !r.is_empty()))
            .map(|(s, _)| s)
            .collect())
    }

    fn on_signals(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        while let Some((pid, code, signal)) = sandbox::reap() {
            if self.creating.as_ref().is_some_and(|c| c.pid == pid) {
                self.created(code == Some(0));
            } else if self.sandbox.pid() == Some(pid) {
                self.sandbox_ended(Some((code, signal)));
            }
        }
    }

    fn created(&mut self, well: bool) {
        let Some(creating) = self.creating.take() else { return };
        let answer = if well && self.sandbox.learn_pid(&self.arguments.dir) {
            Answer::Done
        } else {
            let timed_out = creating.deadline <= Instant::now();
            let code = if timed_out { Code::Timeout } else { Code::Runtime };
            let why = if timed_out { "it did not come to an end in time" } else { "it failed" };
            Answer::Failed { code, message: format!("create the sandbox: {why}: {}", creating.log_tail()) }
        };
        self.answer(creating.connection, &answer);
    }

    /// The sandbox is gone. All that it still said is in the FIFO: read that first.
    fn sandbox_ended(&mut self, status: Option<(Option<i32>, Option<i32>)>) {
        if self.sandbox.pid().is_none() {
            return;
        }
        self.read_events();
        self.console.copy();
        let status = status.or_else(|| self.sandbox.exit_status());
        self.sandbox.forget();
        if self.exit.is_none() {
            let died = ExitRecord { at: Some(jiff::Timestamp::now()), ..ExitRecord::unknown() };
            self.end(ExitRecord { signal: status.and_then(|s| s.1).filter(|s| *s != libc::SIGKILL), ..died });
        }
        self.hold_until = None;
        self.fail_all("the sandbox has ended");
    }

    fn end(&mut self, exit: ExitRecord) {
        self.log.flush_partial();
        self.session.acknowledge(self.log.commit());
        if let Err(e) = sandbox::write_exit(&self.arguments.dir, &exit) {
            self.console.say(&format!("torpor-shim: record the exit: {e}"));
        }
        for id in std::mem::take(&mut self.waiting.end) {
            self.answer(id, &Answer::Ended(exit.clone()));
            self.hold_until = Some(Instant::now() + HOLD);
        }
        self.exit = Some(exit);
        if self.hold_until.is_none() {
            self.session.say(&Request::Finish);
        }
    }

    fn fail_all(&mut self, why: &str) {
        let failed = Answer::Failed { code: Code::Runtime, message: why.into() };
        let w = &mut self.waiting;
        let mut ids: Vec<u64> = [w.launch.take(), w.quiesce.take(), w.identify.take()].into_iter().flatten().collect();
        ids.extend(std::mem::take(&mut w.probes).into_values());
        ids.extend(std::mem::take(&mut self.programs).into_values().filter_map(|p| p.connection));
        for id in ids {
            self.answer(id, &failed);
        }
    }

    fn on_timers(&mut self) {
        let now = Instant::now();
        let mut late = Vec::new();
        for (process, p) in &mut self.programs {
            if !p.timed_out && p.deadline.is_some_and(|t| t <= now) {
                p.timed_out = true;
                late.push(*process);
            }
        }
        for process in late {
            self.session.say(&Request::Signal { process, signal: libc::SIGKILL });
        }
        if let Some(creating) = self.creating.as_mut().filter(|c| c.deadline <= now) {
            creating.kill();
        }
        if self.hold_until.is_some_and(|t| t <= now) {
            self.hold_until = None;
            self.session.say(&Request::Finish);
        }
    }

    fn accept(&mut self) {
        while let Some(connection) = Connection::accept(&self.listener) {
            self.connections.insert(self.next_connection, connection);
            self.next_connection += 1;
        }
    }

    fn answer(&mut self, id: u64, answer: &Answer) {
        if let Some(c) = self.connections.get_mut(&id) {
            c.answer(answer);
        }
    }

    fn drop_closed(&mut self) {
        let gone: Vec<u64> = self.connections.iter().filter(|(_, c)| c.is_closed()).map(|(id, _)| *id).collect();
        for id in gone {
            self.connections.remove(&id);
            self.waiting.end.retain(|w| *w != id);
            for p in self.programs.values_mut().filter(|p| p.connection == Some(id)) {
                p.connection = None; // the program goes on, as docker's do
            }
        }
    }

    fn serve(&mut self, id: u64) {
        let Some(c) = self.connections.get_mut(&id) else { return };
        for (kind, payload) in c.read() {
            self.on_message(id, kind, payload);
        }
    }

    fn on_message(&mut self, id: u64, kind: u8, payload: Vec<u8>) {
        use crate::channel::control::kind as k;
        let process = self.programs.iter().find(|(_, p)| p.connection == Some(id)).map(|(n, _)| *n);
        match (kind, process) {
            (k::STDIN, Some(process)) if !payload.is_empty() => {
                self.session.say(&Request::Stdin { process, data: payload })
            }
            (k::STDIN_END, Some(process)) => self.session.say(&Request::Stdin { process, data: Vec::new() }),
            (k::JSON, _) => match serde_json::from_slice(&payload) {
                Ok(ask) => self.on_ask(id, ask),
                Err(e) => self.answer(
                    id,
                    &Answer::Failed { code: Code::InvalidRequest, message: format!("not understood: {e}") },
                ),
            },
            _ => {}
        }
    }

    fn on_ask(&mut self, id: u64, ask: Ask) {
        let needs_sandbox = !matches!(ask, Ask::Status | Ask::Create { .. } | Ask::Wait | Ask::Shutdown);
        if needs_sandbox && (self.sandbox.pid().is_none() || self.exit.is_some()) {
            let message = "the pod's command has ended".to_owned();
            return self.answer(id, &Answer::Failed { code: Code::WrongState, message });
        }
        match ask {
            Ask::Status => {
                let status = ShimStatus {
                    shim_pid: std::process::id(),
                    sandbox_pid: self.sandbox.pid().and_then(|p| u32::try_from(p).ok()),
                    init_ready: self.session.is_open(),
                    exit: self.exit.clone(),
                };
                self.answer(id, &Answer::Status(status));
            }
            Ask::Create { program, args, env, timeout_ms, log } => {
                let started = if self.creating.is_some() || self.sandbox.pid().is_some() {
                    Err(std::io::Error::other("there is a sandbox already"))
                } else {
                    Creating::start(
                        &self.arguments.dir,
                        id,
                        &program,
                        &args,
                        &env,
                        Duration::from_millis(timeout_ms),
                        log,
                    )
                };
                match started {
                    Ok(creating) => self.creating = Some(creating),
                    Err(e) => {
                        let message = format!("create the sandbox: run {}: {e}", program.display());
                        self.answer(id, &Answer::Failed { code: Code::Runtime, message });
                    }
                }
            }
            Ask::Launch(launch) => match self.launched.clone() {
                Some(answer) => self.answer(id, &answer),
                None => {
                    self.waiting.launch = Some(id);
                    self.begin_session();
                    self.session.say(&Request::Launch(launch));
                }
            },
            Ask::Exec { exec, timeout_ms } => {
                self.next_number = self.next_number.wrapping_add(2);
                let process = self.next_number;
                let deadline = timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
                self.programs.insert(process, Running { connection: Some(id), deadline, timed_out: false });
                self.session.say(&Request::Exec { process, exec });
            }
            Ask::Signal { signal } => {
                self.session.say(&Request::Signal { process: MAIN, signal });
                self.answer(id, &Answer::Done);
            }
            Ask::Probe { probe, timeout_ms } => {
                self.next_number = self.next_number.wrapping_add(2);
                self.waiting.probes.insert(self.next_number, id);
                self.session.say(&Request::Probe { id: self.next_number, probe, timeout_ms });
            }
            Ask::Quiesce => {
                self.waiting.quiesce = Some(id);
                self.session.say(&Request::Quiesce);
            }
            Ask::Resume => {
                self.session.say(&Request::Resume);
                self.answer(id, &Answer::Done);
            }
            Ask::Identify(identity) => {
                self.waiting.identify = Some(id);
                self.begin_session();
                self.session.say(&Request::Identity(identity));
            }
            Ask::Wait => match self.exit.clone() {
                Some(exit) => self.answer(id, &Answer::Ended(exit)),
                None => self.waiting.end.push(id),
            },
            Ask::Shutdown => {
                if self.sandbox.pid().is_some() && !self.sandbox.is_gone() {
                    let message = "the sandbox still lives".to_owned();
                    return self.answer(id, &Answer::Failed { code: Code::WrongState, message });
                }
                self.log.flush_partial();
                self.log.commit();
                self.answer(id, &Answer::Done);
                self.done = true;
            }
        }
    }

    fn begin_session(&mut self) {
        if !self.session.is_begun()
            && let Err(e) = self.session.hello()
        {
            self.console.say(&format!("torpor-shim: begin the conversation with init: {e}"));
        }
    }

    fn read_events(&mut self) {
        while let Some((sequence, event)) = self.session.next_event() {
            self.on_event(event);
            if sequence > 0 {
                self.log.had(sequence);
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Hello { .. } => {}
            Event::Started { process: MAIN } => self.main_launched(Answer::Done),
            Event::Started { .. } => {}
            Event::StartFailed { process, why, message } => {
                use crate::channel::StartFailure::{NotExecutable, NotFound, Refused};
                let code = match why {
                    NotFound => Code::CommandNotFound,
                    NotExecutable => Code::CommandNotExecutable,
                    Refused => Code::InvalidRequest,
                };
                let failed = Answer::Failed { code, message };
                if process == MAIN {
                    self.main_launched(failed);
                } else if let Some(id) = self.programs.remove(&process).and_then(|p| p.connection) {
                    self.answer(id, &failed);
                }
            }
            Event::Output { process: MAIN, stream, data } => self.log.write(stream, &data),
            Event::Output { process, stream, data } => {
                let id = self.programs.get(&process).and_then(|p| p.connection);
                if let Some(c) = id.and_then(|id| self.connections.get_mut(&id)) {
                    use crate::channel::control::kind as k;
                    c.send(if stream == Stream::Stdout { k::STDOUT } else { k::STDERR }, &data);
                }
            }
            Event::Exited { process: MAIN, code, signal } => {
                if self.exit.is_none() {
                    self.end(ExitRecord { code, signal, at: Some(jiff::Timestamp::now()), ..ExitRecord::default() });
                }
            }
            Event::Exited { process, code, signal } => {
                if let Some(p) = self.programs.remove(&process)
                    && let Some(id) = p.connection
                {
                    self.answer(id, &Answer::Exited { code, signal, timed_out: p.timed_out });
                }
            }
            Event::Quiesced => self.reply(|w| w.quiesce.take(), &Answer::Done),
            Event::Identified { failed } => {
                let answer = match failed {
                    None => Answer::Done,
                    Some(message) => Answer::Failed { code: Code::Internal, message },
                };
                self.reply(|w| w.identify.take(), &answer);
            }
            Event::Probed { id, ready } => {
                let answer = if ready {
                    Answer::Done
                } else {
                    Answer::Failed { code: Code::Timeout, message: "it did not answer".into() }
                };
                self.reply(|w| w.probes.remove(&id), &answer);
            }
        }
    }

    fn main_launched(&mut self, answer: Answer) {
        self.reply(|w| w.launch.take(), &answer);
        if matches!(answer, Answer::Done) {
            self.launched = Some(answer);
        }
    }

    fn reply(&mut self, who: impl FnOnce(&mut Waiting) -> Option<u64>, answer: &Answer) {
        if let Some(id) = who(&mut self.waiting) {
            self.answer(id, answer);
        }
    }
}

/// A FIFO, made if it is missing, opened for reading and writing so that it never ends.
fn open_fifo(dir: &Path, name: &str) -> std::io::Result<OwnedFd> {
    use nix::fcntl::{OFlag, open};
    use nix::sys::stat::Mode;
    let path = dir.join(name);
    match nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    Ok(open(&path, flags, Mode::empty())?)
}

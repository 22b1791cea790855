//! `torpor-shim`: one per sandbox, small, outlives torpord.
//!
//! It holds the FIFOs that are init's stdio, writes the log, serves torpord on a socket, is the parent of the sandbox, and
//! records durably how it ended. One loop, no threads.
//!
//! After a `kill -9` of a shim: the FIFOs and the sandbox's own openings of them stay, programs in the pod wait when they
//! are full; a new shim takes them over, init sends again what was not acknowledged, and `log.state` says what was.

mod asks;
mod connection;
mod console;
mod creating;
mod events;
mod log;
mod log_state;
mod sandbox;
mod session;
mod streams;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::channel::Request;
use crate::channel::control::{Answer, ExitRecord, MOST_CONNECTIONS};
use connection::Connection;
use console::Console;
use creating::Creating;
use log::Log;
use sandbox::Sandbox;
use session::Session;
use streams::Streams;

/// How long the pod is held after its command has ended, for torpord to save its root.
const HOLD: Duration = Duration::from_secs(60);
/// The same when nobody waits for the end: torpord may be about to ask, or may be away.
const HOLD_UNWATCHED: Duration = Duration::from_secs(5);
/// How long init's word is waited for after a program was killed because its time was over.
const GIVE_UP: Duration = Duration::from_secs(5);

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
    /// The cgroup to move to (v2): torpord's own is its service's.
    pub cgroup: Option<PathBuf>,
}

impl Arguments {
    /// Reads `--dir D --log-dir D --log-max-bytes N --log-files K [--cgroup D]`.
    ///
    /// # Errors
    /// Something is missing or unknown.
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut dir, mut log_dir, mut max, mut files, mut cgroup) = (None, None, None, None, None);
        let mut args = args;
        while let Some(flag) = args.next() {
            let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--dir" => dir = Some(PathBuf::from(value)),
                "--log-dir" => log_dir = Some(PathBuf::from(value)),
                "--log-max-bytes" => max = value.parse().ok(),
                "--log-files" => files = value.parse().ok(),
                "--cgroup" => cgroup = Some(PathBuf::from(value)),
                _ => return Err(format!("{flag} is not known")),
            }
        }
        let missing = || "--dir, --log-dir, --log-max-bytes and --log-files are needed".to_owned();
        Ok(Arguments {
            dir: dir.ok_or_else(missing)?,
            log_dir: log_dir.ok_or_else(missing)?,
            log_max_bytes: max.ok_or_else(missing)?,
            log_files: files.ok_or_else(missing)?,
            cgroup,
        })
    }
}

/// Who waits for an answer of init: numbers of connections.
#[derive(Default)]
struct Waiting {
    launch: Vec<u64>,
    quiesce: Vec<u64>,
    identify: VecDeque<u64>,
    secrets: VecDeque<u64>,
    probes: BTreeMap<u64, u64>,
    end: Vec<u64>,
}

/// A further program in the pod.
struct Running {
    /// Who gets its output; none: who asked has gone, and it goes on without.
    connection: Option<u64>,
    deadline: Option<Instant>,
    timed_out: bool,
    /// Bytes of each stream that may still be passed on.
    room: [usize; 2],
    truncated: bool,
    /// Whether it says only what its reader has room for.
    counted: bool,
}

impl Running {
    /// When something is to be done about it.
    fn next_deadline(&self) -> Option<Instant> {
        self.deadline.map(|t| if self.timed_out { t + GIVE_UP } else { t })
    }
}

struct Shim {
    arguments: Arguments,
    signals: SignalFd,
    listener: UnixListener,
    session: Session,
    console: Console,
    log: Log,
    sandbox: Sandbox,
    creating: Option<Creating>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    waiting: Waiting,
    streams: Streams,
    programs: BTreeMap<u64, Running>,
    next_number: u64,
    launched: bool,
    exit: Option<ExitRecord>,
    hold_until: Option<Instant>,
    /// Who waits for the end of everything.
    ending: Vec<u64>,
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
    let log = Log::open(&arguments.log_dir, &arguments.dir, arguments.log_max_bytes, arguments.log_files)?;
    let session = Session::open(&arguments.dir, log.sequence())?;
    let number = session.random();
    let mut shim = Shim {
        signals,
        console: Console::open(&arguments.dir)?,
        listener: connection::listen(&arguments.dir.join("shim.sock"))?,
        session,
        log,
        sandbox: Sandbox::find(&arguments.dir),
        creating: None,
        connections: BTreeMap::new(),
        next_connection: 1,
        waiting: Waiting::default(),
        streams: Streams::default(),
        programs: BTreeMap::new(),
        next_number: number | 1,
        launched: false,
        exit: sandbox::read_exit(&arguments.dir),
        hold_until: None,
        ending: Vec::new(),
        done: false,
        arguments,
    };
    shim.take_over()?;
    ready();
    while !shim.done {
        shim.turn()?;
    }
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
    /// Goes on where a predecessor was killed, if there was one.
    fn take_over(&mut self) -> std::io::Result<()> {
        if self.sandbox.pid().is_some() {
            self.session.begin();
            // It may have been killed while it held the pod, or before it could tell init to finish.
            self.hold_until = self.exit.as_ref().map(|_| Instant::now() + HOLD);
        } else if self.exit.is_none() && self.sandbox.was_made(&self.arguments.dir) {
            self.log.flush_partial();
            self.log.commit();
            let at = Some(jiff::Timestamp::now());
            let lost = ExitRecord { at, shim_lost: true, ..ExitRecord::unknown() };
            sandbox::write_exit(&self.arguments.dir, &lost)?;
            self.exit = Some(lost);
        }
        Ok(())
    }

    fn turn(&mut self) -> std::io::Result<()> {
        self.session.allow();
        for source in self.wait()? {
            match source {
                Source::Signals => self.on_signals(),
                Source::Listener => self.accept(),
                Source::Output => drop(self.read_events()),
                Source::Input => self.session.flush(),
                Source::Console => self.console.copy(),
                Source::Sandbox => self.sandbox_ended(None),
                Source::Connection(id) => self.serve(id),
            }
        }
        self.on_timers();
        self.end_if_nothing_lives();
        self.commit();
        self.session.flush();
        for connection in self.connections.values_mut() {
            connection.flush();
        }
        self.drop_closed();
        Ok(())
    }

    /// Puts the lines of this turn into the log, and only then tells init that they were had.
    fn commit(&mut self) {
        if self.log.commit() {
            self.session.acknowledge();
        }
    }

    fn wait(&mut self) -> std::io::Result<Vec<Source>> {
        let patience = self.connections.values().filter_map(Connection::patience).min();
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut sources = vec![Source::Signals, Source::Console];
        let mut fds = vec![readable(self.signals.as_fd()), readable(self.console.fd())];
        if self.connections.len() < MOST_CONNECTIONS {
            sources.push(Source::Listener);
            fds.push(readable(self.listener.as_fd()));
        }
        if patience.is_none() {
            sources.push(Source::Output);
            fds.push(readable(self.session.output()));
        }
        if self.session.wants_to_write() {
            sources.push(Source::Input);
            fds.push(PollFd::new(self.session.input(), PollFlags::POLLOUT));
        }
        if let (Some(fd), None) = (self.sandbox.pidfd(), &self.creating) {
            sources.push(Source::Sandbox);
            fds.push(readable(fd));
        }
        let backed_up = self.session.is_backed_up();
        for (id, c) in &self.connections {
            // Input for a program that does not take it waits with its sender; all other questions are heard.
            let feeds = backed_up && self.target(*id).is_some();
            let mut events = PollFlags::empty();
            events.set(PollFlags::POLLIN, !feeds);
            events.set(PollFlags::POLLOUT, c.wants_to_write());
            sources.push(Source::Connection(*id));
            fds.push(PollFd::new(c.fd(), events));
        }
        let programs = self.programs.values().filter_map(Running::next_deadline);
        let others = [self.creating.as_ref().map(|c| c.deadline), self.hold_until, patience];
        let first = programs.chain(others.into_iter().flatten()).min();
        let timeout = first.map_or(PollTimeout::NONE, |t| {
            let ms = t.saturating_duration_since(Instant::now()).as_millis() + 1;
            PollTimeout::try_from(i32::try_from(ms).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
        Ok(sources.into_iter().zip(&fds).filter(|(_, fd)| is_ready(fd)).map(|(s, _)| s).collect())
    }

    fn on_timers(&mut self) {
        let now = Instant::now();
        let due: Vec<u64> = self
            .programs
            .iter()
            .filter(|(_, p)| p.next_deadline().is_some_and(|t| t <= now))
            .map(|(n, _)| *n)
            .collect();
        for process in due {
            match self.programs.get_mut(&process) {
                Some(p) if !p.timed_out => {
                    p.timed_out = true;
                    self.session.say(&Request::Signal { process, signal: libc::SIGKILL });
                }
                // A paused pod, or one whose init is no longer itself, says nothing.
                _ => self.program_ended(process, None, Some(libc::SIGKILL)),
            }
        }
        if let Some(creating) = self.creating.as_mut().filter(|c| c.deadline <= now) {
            creating.kill();
        }
        if self.hold_until.is_some_and(|t| t <= now) {
            self.hold_until = None;
            self.session.say(&Request::Finish);
        }
        for connection in self.connections.values_mut() {
            connection.lose_patience(now);
        }
    }

    fn accept(&mut self) {
        while self.connections.len() < MOST_CONNECTIONS
            && let Some(connection) = Connection::accept(&self.listener)
        {
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
            self.waiting.probes.retain(|_, w| *w != id);
            self.leave_streams(id);
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
    let fifo = open(&path, flags, Mode::empty())?;
    let kind = nix::sys::stat::fstat(&fifo)?.st_mode & libc::S_IFMT;
    if kind == libc::S_IFIFO { Ok(fifo) } else { Err(std::io::Error::other(format!("{} is no FIFO", path.display()))) }
}

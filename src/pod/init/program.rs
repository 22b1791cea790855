//! Starting a program: who it runs as, where, and how it is known that it could not be started.
#![allow(unsafe_code, reason = "clone: init has one thread, so the child may do anything a program may")]

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sched::{CloneFlags, clone};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::stat::Mode;
use nix::unistd::{
    AccessFlags, Gid, Pid, access, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, getgroups, pipe2, setgid,
    setgroups, setsid, setuid, write,
};

use super::terminal::{Pty, Terminal, become_session_of};
use super::user::{Account, Accounts};
use crate::channel::StartFailure;
use crate::channel::terminal::WindowSize;

/// Bytes of input kept for a program that does not read; beyond that input is refused by closing it.
const INPUT_LIMIT: usize = 64 << 20;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) struct Spawn<'a> {
    pub(super) command: &'a [String],
    pub(super) env: &'a [String],
    pub(super) working_dir: &'a str,
    pub(super) user: &'a str,
    pub(super) stdin: bool,
    /// Size of the terminal that it gets instead of pipes.
    pub(super) tty: Option<WindowSize>,
}

pub(super) struct Program {
    pub(super) pid: Pid,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    pub(super) ended: Option<(Option<i32>, Option<i32>)>,
    pub(super) reported: bool,
    pub(super) linger_until: Option<i64>,
    /// Bytes taken after the program had ended.
    pub(super) last_words: usize,
    /// The terminal that it runs on: `stdin` and `stdout` are our end of it then.
    pub(super) terminal: Option<Terminal>,
    /// Bytes of output that are wanted; none: as many as there are.
    pub(super) credit: Option<u64>,
    input: VecDeque<u8>,
    input_ended: bool,
    /// Bytes of input that it took, or never will, since that was last told.
    taken: u64,
}

impl Program {
    /// Whether what it says is to be read now.
    pub(super) fn may_speak(&self) -> bool {
        self.credit != Some(0) && !self.terminal.as_ref().is_some_and(Terminal::waits)
    }

    /// Bytes of input that it took since this was last asked, if any.
    pub(super) fn take_taken(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.taken)).filter(|n| *n > 0)
    }

    /// It takes no input any more.
    pub(super) fn close_stdin(&mut self) {
        self.stdin = None;
        self.taken += self.input.len() as u64;
        self.input.clear();
    }

    /// Takes input for it; nothing means the end of input.
    pub(super) fn give(&mut self, data: Vec<u8>) {
        if self.stdin.is_none() {
            self.taken += data.len() as u64;
            return;
        }
        if data.is_empty() && self.terminal.is_some() {
            return; // there is no such thing: it ends with a character
        }
        if data.is_empty() || self.input.len() + data.len() > INPUT_LIMIT {
            self.input_ended = true;
        } else {
            self.input.extend(data);
        }
        self.write_stdin();
    }

    pub(super) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    pub(super) fn write_stdin(&mut self) {
        while let (Some(fd), false) = (&self.stdin, self.input.is_empty()) {
            match write(fd, self.input.as_slices().0) {
                Ok(n) => {
                    self.taken += n as u64;
                    self.input.drain(..n);
                }
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                Err(_) => self.close_stdin(),
            }
        }
        if self.input.is_empty() && self.input_ended {
            self.stdin = None;
        }
    }
}

type Failure = (StartFailure, String);

/// A pipe for a program's output: the end that init reads, which never blocks, and the program's.
type Pipe = (OwnedFd, OwnedFd);

/// Starts programs. What it can it does ahead, or keeps: in gVisor each system call is dear, and somebody waits.
#[derive(Default)]
pub(super) struct Starter {
    accounts: Accounts,
    null: Option<OwnedFd>,
    spare: Option<[Pipe; 2]>,
    /// Groups that init itself has; none: not known.
    groups: Option<Vec<Gid>>,
    stack: Vec<u8>,
}

impl Starter {
    /// For init itself. Its children are to have the default action for a broken pipe; it is blocked here, so that init
    /// only gets the error.
    pub(super) fn of_init() -> Self {
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: sets the default action, which runs no code of ours.
        let _ = unsafe { sigaction(Signal::SIGPIPE, &default) };
        Starter { groups: getgroups().ok(), ..Starter::default() }
    }

    /// Who a user is.
    pub(super) fn account(&mut self, user: &str) -> Result<std::rc::Rc<Account>, String> {
        self.accounts.resolve(user)
    }

    /// Makes ready what the next program needs.
    pub(super) fn prepare(&mut self) {
        if self.spare.is_none() {
            self.spare = output_pipe().and_then(|out| Ok([out, output_pipe()?])).ok();
        }
    }

    /// Starts a program in a session of its own.
    pub(super) fn start(&mut self, spawn: &Spawn<'_>) -> Result<Program, Failure> {
        let refused = |what: &str, e: Errno| (StartFailure::Refused, format!("{what}: {}", e.desc()));
        let name = spawn.command.first().ok_or((StartFailure::NotFound, "no command was given".to_owned()))?;
        let account = self.accounts.resolve(spawn.user).map_err(|m| (StartFailure::Refused, m))?;
        let mut env = spawn.env.to_vec();
        let has = |env: &[String], n: &str| env.iter().any(|l| l.split('=').next() == Some(n));
        if !has(&env, "PATH") {
            env.push(format!("PATH={PATH}"));
        }
        if !has(&env, "HOME") {
            env.push(format!("HOME={}", account.home));
        }
        if spawn.tty.is_some() && !has(&env, "TERM") {
            env.push("TERM=xterm".into());
        }
        let dir = if spawn.working_dir.is_empty() { "/" } else { spawn.working_dir };
        let c = |s: &str| {
            CString::new(s)
                .map_err(|_| (StartFailure::Refused, "a NUL byte stands in the command or environment".to_owned()))
        };
        let args = spawn.command.iter().map(|a| c(a)).collect::<Result<Vec<_>, _>>()?;
        let env_c = env.iter().map(|e| c(e)).collect::<Result<Vec<_>, _>>()?;
        let search = env.iter().rev().find_map(|l| l.strip_prefix("PATH=")).unwrap_or(PATH);
        let candidates = candidates(name, search).into_iter().map(|p| c(&p)).collect::<Result<Vec<_>, _>>()?;

        let Ends { ours, theirs } = self.ends(spawn, &account)?;
        let Some(stdin) = theirs.input.as_ref().or(self.null.as_ref()) else {
            return Err(refused("open /dev/null", Errno::EBADF));
        };
        let stderr = theirs.error.as_ref().unwrap_or(&theirs.output);
        self.stack.resize(STACK, 0);
        // As vfork: the child borrows this memory, and this process stands still until it execs or ends. A copy of the
        // address space would be thrown away a moment later, and in gVisor each one is a process of the host's.
        let mut failed = None;
        let groups = self.groups.as_deref();
        let tty = spawn.tty.is_some();
        let child = Child { account: &account, groups, dir, stdin, stdout: &theirs.output, stderr, tty };
        let run = || {
            failed = Some(child.run(&candidates, &args, &env_c));
            127
        };
        let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
        // SAFETY: this process has one thread, which waits: nobody else touches what the child borrows.
        let pid = unsafe { clone(Box::new(run), &mut self.stack, flags, Some(Signal::SIGCHLD as i32)) };
        let pid = pid.map_err(|e| refused("start a process", e))?;
        if let Some((step, errno)) = failed {
            let _ = nix::sys::wait::waitpid(pid, None);
            return Err(explain(step, errno, name, dir));
        }
        let terminal =
            spawn.tty.map(|size| Terminal::new(String::new(), spawn.command.to_vec(), size, Some(theirs.output)));
        Ok(Program {
            pid,
            stdin: ours.input,
            stdout: Some(ours.output),
            stderr: ours.error,
            ended: None,
            reported: false,
            linger_until: None,
            last_words: 0,
            terminal,
            credit: None,
            input: VecDeque::new(),
            input_ended: false,
            taken: 0,
        })
    }

    /// Makes what a program reads from and writes to.
    fn ends(&mut self, spawn: &Spawn<'_>, account: &Account) -> Result<Ends, Failure> {
        let refused = |what: &str, e: Errno| (StartFailure::Refused, format!("{what}: {}", e.desc()));
        if let Some(size) = spawn.tty {
            let open = || {
                let Pty { master, replica } = Pty::open(size, account.uid)?;
                let input = master.try_clone().map_err(|_| Errno::EMFILE)?;
                let theirs = replica.try_clone().map_err(|_| Errno::EMFILE)?;
                Ok(Ends {
                    ours: Stdio { input: Some(input), output: master, error: None },
                    theirs: Stdio { input: Some(theirs), output: replica, error: None },
                })
            };
            return open().map_err(|e| refused("open a terminal", e));
        }
        if self.null.is_none() {
            let null = open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
            self.null = Some(null.map_err(|e| refused("open /dev/null", e))?);
        }
        let pipe = || output_pipe().map_err(|e| refused("make a pipe", e));
        let (theirs_in, ours_in) = if spawn.stdin {
            let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| refused("make a pipe", e))?;
            super::set_nonblocking(write.as_fd());
            (Some(read), Some(write))
        } else {
            (None, None)
        };
        let [out, err] = match self.spare.take() {
            Some(spare) => spare,
            None => [pipe()?, pipe()?],
        };
        Ok(Ends {
            ours: Stdio { input: ours_in, output: out.0, error: Some(err.0) },
            theirs: Stdio { input: theirs_in, output: out.1, error: Some(err.1) },
        })
    }

    /// The shell of a user, if the pod's own files name one.
    pub(super) fn shell_of(&mut self, user: &str) -> Option<String> {
        self.accounts.resolve(user).ok().map(|a| a.shell.clone()).filter(|s| !s.is_empty())
    }
}

/// One side of what a program reads from and writes to.
struct Stdio {
    input: Option<OwnedFd>,
    output: OwnedFd,
    error: Option<OwnedFd>,
}

struct Ends {
    ours: Stdio,
    theirs: Stdio,
}

fn output_pipe() -> nix::Result<Pipe> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, write))
}

/// Bytes of the child's stack until it execs.
const STACK: usize = 64 * 1024;
const STEP_DIR: u8 = 1;
const STEP_USER: u8 = 2;
const STEP_STDIO: u8 = 3;
const STEP_EXEC: u8 = 4;

/// All that the child needs, prepared before it is made.
struct Child<'a> {
    account: &'a Account,
    groups: Option<&'a [Gid]>,
    dir: &'a str,
    stdin: &'a OwnedFd,
    stdout: &'a OwnedFd,
    stderr: &'a OwnedFd,
    /// Whether they are a terminal, which becomes that of its session.
    tty: bool,
}

impl Child<'_> {
    /// Becomes the program; comes back only if it can't.
    fn run(&self, candidates: &[CString], args: &[CString], env: &[CString]) -> (u8, Errno) {
        let _ = setsid();
        let _ = SigSet::all().thread_unblock();
        let stdio =
            dup2_stdin(self.stdin).and_then(|()| dup2_stdout(self.stdout)).and_then(|()| dup2_stderr(self.stderr));
        let session = || if self.tty { become_session_of(self.stdin.as_fd()) } else { Ok(()) };
        if let Err(e) = stdio.and_then(|()| session()) {
            return (STEP_STDIO, e);
        }
        let account = self.account;
        // Init is root, in the root directory.
        let root = account.uid.is_root() && account.gid.as_raw() == 0;
        let as_init = root && self.groups == Some(&account.groups);
        let groups = || if as_init { Ok(()) } else { setgroups(&account.groups).and_then(|()| setgid(account.gid)) };
        let enter = || if self.dir == "/" { Ok(()) } else { make_dir_and_enter(self.dir) };
        if let Err(e) = groups().and_then(|()| enter()) {
            return (if e == Errno::ENOENT || e == Errno::ENOTDIR { STEP_DIR } else { STEP_USER }, e);
        }
        if !as_init && let Err(e) = setuid(account.uid) {
            return (STEP_USER, e);
        }
        let mut worst = Errno::ENOENT;
        let absent = |e| matches!(e, Errno::ENOENT | Errno::ENOTDIR);
        for path in candidates {
            // To ask is much cheaper than to try.
            if candidates.len() > 1 && access(path.as_c_str(), AccessFlags::F_OK).is_err_and(absent) {
                continue;
            }
            let Err(e) = execve(path, args, env);
            if !absent(e) {
                worst = e;
                if e != Errno::EACCES {
                    break;
                }
            }
        }
        (STEP_EXEC, worst)
    }
}

/// As docker: a working directory that is missing is made.
fn make_dir_and_enter(dir: &str) -> nix::Result<()> {
    match chdir(dir) {
        Err(Errno::ENOENT) => {
            let _ = std::fs::create_dir_all(dir);
            chdir(dir)
        }
        other => other,
    }
}

fn candidates(name: &str, search: &str) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    search.split(':').map(|d| if d.is_empty() { format!("./{name}") } else { format!("{d}/{name}") }).collect()
}

fn explain(step: u8, errno: Errno, name: &str, dir: &str) -> Failure {
    match (step, errno) {
        (STEP_EXEC, Errno::ENOENT | Errno::ENOTDIR) if Path::new(name).is_absolute() && Path::new(name).exists() => {
            (StartFailure::NotFound, format!("{name}: its interpreter is missing"))
        }
        (STEP_EXEC, Errno::ENOENT | Errno::ENOTDIR) => (StartFailure::NotFound, format!("{name}: not found")),
        (STEP_EXEC, e) => (StartFailure::NotExecutable, format!("{name}: {}", e.desc())),
        (STEP_DIR, e) => (StartFailure::Refused, format!("working directory {dir}: {}", e.desc())),
        (STEP_USER, e) => (StartFailure::Refused, format!("take the user's identity: {}", e.desc())),
        (_, e) => (StartFailure::Refused, format!("prepare to run {name}: {}", e.desc())),
    }
}

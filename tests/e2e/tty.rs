//! The command line on a real terminal: `run -it`, `exec -it`, `attach`, the keys that leave, sizes, and what is given back.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use torpor::api::types::CreatePod;

use crate::daemon::{self, Daemon, script};

const LONG: Duration = Duration::from_secs(30);

/// torpor, run on a terminal of its own.
struct Screen {
    master: File,
    replica: OwnedFd,
    child: Child,
    text: String,
}

impl Screen {
    fn run(d: &Daemon, args: &[&str]) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        resize(&pty.master, 90, 30);
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = Command::new("setsid")
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_torpor")])
            .args(args)
            .env("TORPOR_HOST", format!("unix://{}", d.socket.display()))
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        Screen { master: File::from(pty.master), replica: pty.slave, child, text: String::new() }
    }

    fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    fn more(&mut self, end: Instant) {
        let left = end.saturating_duration_since(Instant::now()).as_millis().min(60_000);
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::try_from(i32::try_from(left).unwrap()).unwrap()).unwrap();
        assert!(ready > 0, "nothing more came after {:?}", self.text);
        let mut bytes = [0; 4096];
        let n = self.master.read(&mut bytes).unwrap();
        self.text.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }

    /// Waits until that is shown; what was shown before it is forgotten.
    fn shows(&mut self, wanted: &str) -> String {
        let end = Instant::now() + LONG;
        loop {
            if let Some(at) = self.text.find(wanted) {
                let seen = self.text[..at + wanted.len()].to_owned();
                self.text.drain(..at + wanted.len());
                return seen;
            }
            self.more(end);
        }
    }

    /// Whether keys are edited and shown by the terminal itself, as before torpor came.
    fn is_as_before(&self) -> bool {
        let flags = tcgetattr(&self.replica).unwrap().local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// The exit code, once it has come back and the terminal is what it was.
    fn ends(mut self) -> i32 {
        let end = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(self.is_as_before(), "the terminal was not given back");
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < end, "it does not end: {:?}", self.text);
            // What it still says is taken: a full terminal would hold it up.
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(20_u8)).unwrap() > 0 {
                self.more(end);
            }
        }
    }

    /// Pid of torpor itself.
    fn pid(&self) -> Pid {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let end = Instant::now() + LONG;
        loop {
            let found = std::fs::read_to_string(&children).unwrap_or_default();
            if let Some(pid) = found.split_whitespace().next() {
                return Pid::from_raw(pid.parse().unwrap());
            }
            // It became torpor itself where it did not have to fork.
            let name = std::fs::read_to_string(format!("/proc/{}/comm", self.child.id())).unwrap();
            if name.trim() == "torpor" {
                return Pid::from_raw(i32::try_from(self.child.id()).unwrap());
            }
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn resize(master: impl AsFd, cols: u16, rows: u16) {
    let size = rustix::termios::Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(master, size).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_on_a_real_terminal() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    d.client.create_pod(&script("t", "exec sleep 100000")).await.unwrap();
    // A shell: it has the caller's size, follows it, gets ctrl-c, and its exit code comes back.
    let mut s = Screen::run(&d, &["exec", "-it", "t", "sh"]);
    s.shows("# ");
    assert!(!s.is_as_before(), "keys go to the pod");
    s.type_in("stty size; echo a-$((1+1))\r");
    assert!(s.shows("a-2").contains("30 90"));
    resize(&s.master, 100, 40);
    s.type_in("while [ \"$(stty size)\" != '40 100' ]; do sleep 0.1; done; echo b-$((1+1))\r");
    s.shows("b-2");
    s.type_in("sleep 1000\r");
    s.shows("sleep 1000");
    std::thread::sleep(Duration::from_millis(300)); // until it sleeps: there is no event for that
    s.type_in("\x03");
    s.type_in("echo c-$((1+1))\r");
    s.shows("c-2");
    s.type_in("exit 42\r");
    assert_eq!(s.ends(), 42);
    // Left by keys, found again by its id.
    let mut s = Screen::run(&d, &["exec", "-it", "t", "sh"]);
    s.shows("# ");
    s.type_in("who=ann; echo d-$((1+1))\r");
    s.shows("d-2");
    s.type_in("\x10\x11");
    assert_eq!(s.ends(), 0);
    let all = d.client.terminals("t").await.unwrap();
    assert_eq!((all.len(), all[0].viewers), (1, 0));
    let id = all[0].id.clone();
    let mut s = Screen::run(&d, &["attach", "--terminal", &id, "t"]);
    s.shows("d-2");
    s.type_in("echo e-$who\r");
    s.shows("e-ann");
    // A torpord that is killed, and a pod that sleeps and wakes, are waited for.
    d.kill();
    d.launch();
    s.type_in("echo f-$who\r");
    s.shows("f-ann");
    d.sleep("t").await;
    s.shows("[the pod is sleeping]");
    d.wake("t").await;
    s.type_in("echo g-$who\r");
    s.shows("g-ann");
    // A signal from outside ends torpor, not the shell, and the terminal is given back.
    kill(s.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(s.ends(), 128 + 15);
    assert_eq!(d.client.terminals("t").await.unwrap().len(), 1);
    // What can't be run, with docker's codes.
    assert_eq!(Screen::run(&d, &["exec", "-it", "t", "nosuch"]).ends(), 127);
    assert_eq!(Screen::run(&d, &["exec", "-it", "nosuch", "sh"]).ends(), 125);
    let mut s = Screen::run(&d, &["top", "t"]);
    s.shows("sleep 100000");
    assert_eq!(s.ends(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_run_on_a_terminal() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let mut s = Screen::run(&d, &["run", "-it", "--rm", "-m", "256m", "--name", "a", "test", "sh"]);
    s.shows("# ");
    s.type_in("stty size; exit 6\r");
    s.shows("30 90");
    assert_eq!(s.ends(), 6);
    assert_eq!(d.client.pods().await.unwrap().len(), 0);
    let mut s = Screen::run(&d, &["run", "-it", "-m", "256m", "--name", "b", "test", "sh"]);
    s.shows("# ");
    s.type_in("x=1; echo h-$((1+1))\r");
    s.shows("h-2");
    s.type_in("\x10\x11");
    assert_eq!(s.ends(), 0);
    let mut s = Screen::run(&d, &["attach", "b"]);
    s.shows("h-2");
    s.type_in("exit $((x+6))\r");
    assert_eq!(s.ends(), 7);
    assert_eq!(d.client.wait("b").await.unwrap().exit_code, 7);
    // Gone before it can be looked at.
    let mut s = Screen::run(&d, &["run", "-t", "--rm", "-m", "256m", "test", "echo", "short"]);
    s.shows("short");
    assert_eq!(s.ends(), 0);
}

fn torpor(d: &Daemon, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torpor"));
    command.args(args).env("TORPOR_HOST", format!("unix://{}", d.socket.display()));
    command
}

fn piped(d: &Daemon, args: &[&str], input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    let mut child =
        torpor(d, args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let o = child.wait_with_output().unwrap();
    feed.join().unwrap();
    (o.status.code(), o.stdout, String::from_utf8_lossy(&o.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn pipes_through_pods() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    d.client.create_pod(&script("t", "exec sleep 100000")).await.unwrap();
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (code, out, err) = piped(&d, &["exec", "-i", "t", "sh", "-c", "cat; echo err >&2; exit 3"], &bytes);
    assert!(code == Some(3) && out == bytes && err == "err\n", "{code:?} {} {err}", out.len());
    let (code, out, err) = piped(&d, &["run", "-i", "--rm", "-m", "256m", "test", "cat"], &bytes);
    assert!(code == Some(0) && out == bytes, "{code:?} {} {err}", out.len());
    // Without -i there is no input; without a terminal there is no -it.
    assert_eq!(piped(&d, &["exec", "t", "cat"], b"x").1, b"");
    let (code, _, err) = piped(&d, &["exec", "-it", "t", "cat"], b"x");
    assert!(code == Some(125) && err.contains("no terminal"), "{code:?} {err}");
    // A signal goes to the program.
    let line = "trap 'echo got; exit 5' INT; echo up; while :; do sleep 0.1; done";
    let mut child = torpor(&d, &["exec", "t", "sh", "-c", line]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut up = [0; 3];
    stdout.read_exact(&mut up).unwrap();
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("got") && child.wait().unwrap().code() == Some(5), "{rest}");
    // Two who follow one command; one feeds it.
    let pod = CreatePod { stdin: true, ..script("f", "while read x; do echo got-$x; done; exit 4") };
    d.client.create_pod(&pod).await.unwrap();
    let (code, out, err) = piped(&d, &["attach", "f"], b"a\nb\n");
    assert!(code == Some(4) && out == b"got-a\ngot-b\n", "{code:?} {out:?} {err}");
}

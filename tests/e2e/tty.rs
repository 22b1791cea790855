//! The command line on a real terminal: `run -it`, `exec -it`, `attach`, the keys that leave, sizes, and what is given back.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use torpor::api::types::CreatePod;

use crate::daemon::{self, Daemon, script};
use crate::screen::{Screen, resize};
use crate::support::fed;

fn screen(d: &Daemon, args: &[&str]) -> Screen {
    let host = format!("unix://{}", d.socket.display());
    Screen::run(&[&[env!("CARGO_BIN_EXE_torpor")], args].concat(), &[("TORPOR_HOST", &host)])
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
    let mut s = screen(&d, &["exec", "-it", "t", "sh"]);
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
    let mut s = screen(&d, &["exec", "-it", "t", "sh"]);
    s.shows("# ");
    s.type_in("who=ann; echo d-$((1+1))\r");
    s.shows("d-2");
    s.type_in("\x10\x11");
    assert_eq!(s.ends(), 0);
    let all = d.client.terminals("t").await.unwrap();
    assert_eq!((all.len(), all[0].viewers), (1, 0));
    let id = all[0].id.clone();
    let mut s = screen(&d, &["attach", "--terminal", &id, "t"]);
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
    assert_eq!(screen(&d, &["exec", "-it", "t", "nosuch"]).ends(), 127);
    assert_eq!(screen(&d, &["exec", "-it", "nosuch", "sh"]).ends(), 125);
    let mut s = screen(&d, &["top", "t"]);
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
    let mut s = screen(&d, &["run", "-it", "--rm", "-m", "256m", "--name", "a", "test", "sh"]);
    s.shows("# ");
    s.type_in("stty size; exit 6\r");
    s.shows("30 90");
    assert_eq!(s.ends(), 6);
    assert_eq!(d.client.pods().await.unwrap().len(), 0);
    let mut s = screen(&d, &["run", "-it", "-m", "256m", "--name", "b", "test", "sh"]);
    s.shows("# ");
    s.type_in("x=1; echo h-$((1+1))\r");
    s.shows("h-2");
    s.type_in("\x10\x11");
    assert_eq!(s.ends(), 0);
    let mut s = screen(&d, &["attach", "b"]);
    s.shows("h-2");
    s.type_in("exit $((x+6))\r");
    assert_eq!(s.ends(), 7);
    assert_eq!(d.client.wait("b").await.unwrap().exit_code, 7);
    // Gone before it can be looked at.
    let mut s = screen(&d, &["run", "-t", "--rm", "-m", "256m", "test", "echo", "short"]);
    s.shows("short");
    assert_eq!(s.ends(), 0);
}

fn torpor(d: &Daemon, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torpor"));
    command.args(args).env("TORPOR_HOST", format!("unix://{}", d.socket.display()));
    command
}

fn piped(d: &Daemon, args: &[&str], input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    fed(&mut torpor(d, args), input)
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_are_left_alone() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    d.client.create_pod(&script("t", "exec sleep 100000")).await.unwrap();
    // Nobody waits for it, and it goes on.
    let line = "while [ ! -e /go ]; do sleep 0.05; done; cat >/input; echo said; echo done >/done";
    let begun = Instant::now();
    assert_eq!(piped(&d, &["exec", "-di", "t", "sh", "-c", line], b"x"), (Some(0), vec![], String::new()));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let done = d.exec("t", "touch /go; while [ ! -e /done ]; do sleep 0.05; done; wc -c </input").await;
    assert_eq!(done.stdout.trim(), "0", "it has no input");
    assert_eq!(piped(&d, &["exec", "-d", "t", "nosuch"], b"").0, Some(127));
    assert_eq!(piped(&d, &["exec", "-d", "nosuch", "true"], b"").0, Some(125));
    // On a terminal, which can be looked at later, and left by other keys.
    let (code, out, err) = piped(&d, &["exec", "-dt", "t", "sh"], b"");
    let id = String::from_utf8(out).unwrap().trim().to_owned();
    assert!(code == Some(0) && d.client.inspect_terminal("t", &id).await.is_ok(), "{id:?} {err}");
    let mut s = screen(&d, &["attach", "--terminal", &id, "--detach-keys", "ctrl-a,d", "t"]);
    s.type_in("who=ann; echo a-$((1+1))\r");
    s.shows("a-2");
    s.type_in("\x10\x11\x01d");
    assert_eq!(s.ends(), 0);
    assert_eq!(d.client.inspect_terminal("t", &id).await.unwrap().exit_code, None);
    let mut s = screen(&d, &["exec", "-it", "--detach-keys=~", "t", "sh"]);
    s.shows("# ");
    s.type_in("~");
    assert_eq!(s.ends(), 0);
    let (code, _, err) = piped(&d, &["exec", "-it", "--detach-keys=nosuch", "t", "sh"], b"");
    assert!(code == Some(125) && err.contains("is no key"), "{code:?} {err}");
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

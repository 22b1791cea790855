//! Terminals and programs that are followed, through the API's WebSockets, in real sandboxes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use torpor::api::client::{Client, ClientError};
use torpor::api::socket::{Frame, Socket};
use torpor::api::terminal::{CreateTerminal, ExecStart, SocketAsks, SocketSays};
use torpor::api::types::CreatePod;

use crate::daemon::{self, Daemon, Options, code, script};
use crate::sleep::engines;

const LONG: Duration = Duration::from_secs(30);

/// All that came until `until` was seen, or until the end.
struct Seen {
    text: String,
    says: Vec<SocketSays>,
    exit: Option<i32>,
    error: Option<String>,
}

async fn see(socket: &mut Socket, numbered: bool, until: &str) -> Seen {
    let (mut bytes, mut says) = (Vec::new(), Vec::new());
    let (mut exit, mut error) = (None, None);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if !until.is_empty() && text.contains(until) {
            return Seen { text, says, exit, error };
        }
        let next = tokio::time::timeout(LONG, socket.receiver.next()).await;
        match next.unwrap_or_else(|_| panic!("no {until:?} in {text:?} {says:?}")) {
            Ok(Some(Frame::Bytes(b))) => bytes.extend(&b[usize::from(numbered)..]),
            Ok(Some(Frame::Says(SocketSays::Exit { exit_code, .. }))) => exit = Some(exit_code),
            Ok(Some(Frame::Says(SocketSays::Error { problem }))) => error = Some(problem.code),
            Ok(Some(Frame::Says(other))) => says.push(other),
            Ok(None) | Err(_) => {
                assert!(until.is_empty(), "no {until:?} in {text:?} {says:?} {error:?}");
                return Seen { text, says, exit, error };
            }
        }
    }
}

async fn until_says(socket: &mut Socket, wanted: impl Fn(&SocketSays) -> bool) {
    let all = async {
        loop {
            match socket.receiver.next().await.unwrap() {
                Some(Frame::Says(s)) if wanted(&s) => return,
                Some(_) => {}
                None => panic!("it was closed"),
            }
        }
    };
    tokio::time::timeout(LONG, all).await.unwrap();
}

fn is_state(wanted: &'static str) -> impl Fn(&SocketSays) -> bool {
    move |s| matches!(s, SocketSays::State { state } if state == wanted)
}

async fn look(client: &Client, pod: &str, parameters: &[(&str, &str)]) -> Socket {
    let all: Vec<(&str, String)> = parameters.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
    client.terminal(pod, &all).await.unwrap()
}

async fn refused(client: &Client, pod: &str, parameters: &[(&str, &str)]) -> String {
    let all: Vec<(&str, String)> = parameters.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
    match client.terminal(pod, &all).await {
        Err(e) => code(&e).to_owned(),
        Ok(_) => "nothing".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_outlives_viewers_torpord_and_sleep() {
    if !daemon::ready() {
        return;
    }
    for runsc in engines() {
        outlive(Daemon::with(Options { runsc: Some(runsc), ..Options::default() })).await;
    }
}

async fn outlive(mut d: Daemon) {
    d.import("test").await;
    d.client.create_pod(&script("t", "exec sleep 100000")).await.unwrap();
    let client = d.client.clone();
    let mut a = look(&client, "t", &[("id", "work"), ("cols", "90"), ("rows", "30"), ("command", "sh")]).await;
    let first = see(&mut a, false, "# ").await;
    assert!(
        matches!(&first.says[0], SocketSays::Opened { terminal: Some(id), created: true, cols: 90, rows: 30, .. } if id == "work"),
        "{:?}",
        first.says
    );
    a.sender
        .send_bytes(b"who=ann; (while :; do n=$((n+1)); echo $n > /tmp/n; sleep 0.05; done) &\n".to_vec())
        .await
        .unwrap();
    a.sender.send_bytes(b"stty size; tty; echo ready-$((1+1))\n".to_vec()).await.unwrap();
    let text = see(&mut a, false, "ready-2").await.text;
    assert!(text.contains("30 90") && text.contains("/dev/pts/"), "{text}");
    // Another sees what was, and both see what comes; the last size given counts, and the program is told.
    let mut b = look(&client, "t", &[("id", "work"), ("create", "false")]).await;
    assert!(see(&mut b, false, "ready-2").await.text.contains("30 90"));
    let waits =
        r#"sh -c 'trap "echo winch-\$(stty size); exit" WINCH; echo armed-$((3+4)); while :; do sleep 0.1; done'"#;
    b.sender.send_bytes(format!("{waits}\n").into_bytes()).await.unwrap();
    see(&mut b, false, "armed-7").await;
    b.sender.ask(&SocketAsks::Resize { cols: 101, rows: 41 }).await.unwrap();
    until_says(&mut a, |s| *s == SocketSays::Resized { cols: 101, rows: 41 }).await;
    see(&mut a, false, "winch-41 101").await;
    assert_eq!(client.inspect_terminal("t", "work").await.unwrap().viewers, 2);
    // A torpord that is killed takes nothing with it.
    a.sender.close().await;
    b.sender.send_bytes(b"(sleep 1; echo meanwhile-$who) &\n".to_vec()).await.unwrap();
    see(&mut b, false, "(sleep 1").await;
    d.kill();
    d.launch();
    let mut b = look(&client, "t", &[("id", "work"), ("create", "false")]).await;
    let seen = see(&mut b, false, "meanwhile-ann").await;
    let start = match &seen.says[0] {
        SocketSays::Opened { start, .. } => *start,
        other => panic!("{other:?}"),
    };
    let place = start + seen.text.len() as u64;
    // Nor does sleep; a viewer may stay.
    let count = async |d: &Daemon| d.exec("t", "cat /tmp/n").await.stdout.trim().parse::<u64>().unwrap();
    let before = count(&d).await;
    d.sleep("t").await;
    until_says(&mut b, is_state("sleeping")).await;
    assert_eq!(refused(&client, "t", &[("id", "work")]).await, "wrong_state");
    b.sender.send_bytes(b"echo slept-$who\n".to_vec()).await.unwrap();
    d.wake("t").await;
    until_says(&mut b, is_state("running")).await;
    see(&mut b, false, "slept-ann").await;
    assert!(count(&d).await > before, "what it runs goes on");
    drop(b);
    let mut c = look(&client, "t", &[("id", "work"), ("from", &place.to_string())]).await;
    let text = see(&mut c, false, "slept-ann").await.text;
    assert!(!text.contains("meanwhile-ann") && text.len() < 4000, "{text}");
    c.sender.send_bytes(b"exit 7\n".to_vec()).await.unwrap();
    let seen = see(&mut c, false, "").await;
    assert_eq!((seen.exit, seen.error), (Some(7), None));
    assert_eq!(refused(&client, "t", &[("id", "work"), ("create", "false")]).await, "not_found");
    assert_eq!(client.terminals("t").await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn terminals_are_made_listed_and_removed() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let pod = CreatePod { tty: true, ..script("t", "echo hi-$(tty); read x; echo got-$x; exit 3") };
    d.client.create_pod(&pod).await.unwrap();
    let client = &d.client;
    let new = CreateTerminal {
        id: Some("a".into()),
        command: vec!["sh".into(), "-c".into(), "echo $X-$(pwd)-$(id -u)-$(stty size); exit 5".into()],
        env: [("X".to_owned(), "y".to_owned())].into(),
        working_dir: Some("/www".into()),
        user: Some("ann".into()),
        cols: Some(70),
        rows: Some(20),
        timeout_ms: None,
    };
    let made = client.create_terminal("t", &new).await.unwrap();
    assert_eq!((made.id.as_str(), made.cols, made.viewers), ("a", 70, 0));
    assert_eq!(code(&client.create_terminal("t", &new).await.unwrap_err()), "name_taken");
    let end = Instant::now() + LONG;
    while client.inspect_terminal("t", "a").await.unwrap().exit_code != Some(5) {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seen = see(&mut look(client, "t", &[("id", "a")]).await, false, "").await;
    assert!(seen.text.contains("y-/www-1000-20 70"), "{}", seen.text);
    assert_eq!(seen.exit, Some(5));
    let shell = client.create_terminal("t", &CreateTerminal::default()).await.unwrap();
    assert!(shell.command[0].ends_with("sh") && shell.exit_code.is_none());
    let ids: Vec<String> = client.terminals("t").await.unwrap().into_iter().map(|t| t.id).collect();
    assert_eq!(ids, ["main".to_owned(), shell.id.clone()]);
    assert_eq!(client.remove_terminal("t", &shell.id).await.unwrap().id, shell.id);
    assert_eq!(code(&client.remove_terminal("t", &shell.id).await.unwrap_err()), "not_found");
    assert_eq!(code(&client.remove_terminal("t", "main").await.unwrap_err()), "in_use");
    for bad in [
        CreateTerminal { id: Some("a b".into()), ..Default::default() },
        CreateTerminal { id: Some("main".into()), ..Default::default() },
        CreateTerminal { cols: Some(80), ..Default::default() },
        CreateTerminal { cols: Some(0), rows: Some(1), ..Default::default() },
    ] {
        assert_eq!(code(&client.create_terminal("t", &bad).await.unwrap_err()), "invalid_request");
    }
    let missing = CreateTerminal { command: vec!["nosuch".into()], ..Default::default() };
    assert_eq!(code(&client.create_terminal("t", &missing).await.unwrap_err()), "command_not_found");
    assert_eq!(refused(client, "nosuch", &[]).await, "not_found");
    assert_eq!(refused(client, "t", &[("id", "../x")]).await, "invalid_request");
    assert_eq!(refused(client, "t", &[("what", "x")]).await, "invalid_request");
    assert_eq!(refused(client, "t", &[("command", "nosuch")]).await, "command_not_found");
    let top = client.top("t").await.unwrap().processes;
    assert!(
        top.iter().any(|p| p.pid == 1) && top.iter().any(|p| p.command.first().is_some_and(|c| c == "sh")),
        "{top:?}"
    );
    // The pod's own command, by attach: what it said is there, and its end is the pod's.
    let mut main = client.attach("t", &[("cols", "66".into()), ("rows", "22".into())]).await.unwrap();
    assert!(
        see(&mut main, true, "hi-/dev/")
            .await
            .says
            .iter()
            .any(|s| matches!(s, SocketSays::Opened { terminal: Some(id), .. } if id == "main"))
    );
    main.sender.send_bytes(b"\x00words\r".to_vec()).await.unwrap();
    let seen = see(&mut main, true, "").await;
    assert!(seen.text.contains("got-words") && seen.exit == Some(3), "{} {:?}", seen.text, seen.error);
    assert_eq!(client.wait("t").await.unwrap().exit_code, 3);
    assert_eq!(refused(client, "t", &[]).await, "wrong_state");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_followed_by_exec() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    d.client.create_pod(&script("t", "exec sleep 100000")).await.unwrap();
    let client = &d.client;
    let start =
        |script: &str| ExecStart { command: vec!["sh".into(), "-c".into(), script.into()], ..ExecStart::default() };
    // Both outputs, the end of input, the exit code.
    let exec = ExecStart {
        stdin: true,
        env: [("X".into(), "y".into())].into(),
        user: Some("ann".into()),
        ..start("wc -c; echo $X-$(id -u) >&2; exit 9")
    };
    let mut s = client.exec_socket("t", &exec).await.unwrap();
    for _ in 0..40 {
        s.sender.send_bytes(vec![0; 100_001]).await.unwrap();
    }
    s.sender.ask(&SocketAsks::StdinEnd {}).await.unwrap();
    let (mut out, mut err, mut exit) = (Vec::new(), Vec::new(), None);
    while let Some(frame) = s.receiver.next().await.unwrap() {
        match frame {
            Frame::Bytes(b) if b[0] == 1 => out.extend_from_slice(&b[1..]),
            Frame::Bytes(b) => err.extend_from_slice(&b[1..]),
            Frame::Says(SocketSays::Exit { exit_code, .. }) => exit = Some(exit_code),
            Frame::Says(_) => {}
        }
    }
    assert_eq!((out.trim_ascii(), err.as_slice(), exit), (&b"4000000"[..], &b"y-1000\n"[..], Some(9)));
    // More than is kept of an exec whose answer is one object.
    let mut s = client.exec_socket("t", &start("head -c 20000000 /dev/zero")).await.unwrap();
    assert_eq!(see(&mut s, true, "").await.text.len(), 20_000_000);
    // A signal; a time that is over; a terminal.
    let mut s = client
        .exec_socket("t", &start("trap 'echo term; exit 4' TERM; echo up; while :; do sleep 0.1; done"))
        .await
        .unwrap();
    see(&mut s, true, "up").await;
    s.sender.ask(&SocketAsks::Signal { signal: "TERM".into() }).await.unwrap();
    let seen = see(&mut s, true, "").await;
    assert!(seen.text.contains("term") && seen.exit == Some(4));
    let mut s =
        client.exec_socket("t", &ExecStart { timeout_ms: Some(300), ..start("exec sleep 1000") }).await.unwrap();
    assert_eq!(see(&mut s, true, "").await.exit, Some(137));
    let tty = ExecStart { tty: true, cols: Some(50), rows: Some(10), ..start("stty size; exec sh") };
    let mut s = client.exec_socket("t", &tty).await.unwrap();
    let seen = see(&mut s, true, "10 50").await;
    let SocketSays::Opened { terminal: Some(id), .. } = &seen.says[0] else { panic!("{:?}", seen.says) };
    drop(s); // it is found again
    let mut again = look(client, "t", &[("id", id), ("create", "false")]).await;
    again.sender.send_bytes(b"exit 8\r".to_vec()).await.unwrap();
    assert_eq!(see(&mut again, false, "").await.exit, Some(8));
    // What can't be run, or is not understood.
    let error = async |first: Result<&ExecStart, &str>| {
        let mut s = client.socket("/v1/pods/t/exec").await.unwrap();
        match first {
            Ok(start) => s.sender.start(start).await.unwrap(),
            Err(text) => s.sender.send_text(text.into()).await.unwrap(),
        }
        see(&mut s, true, "").await.error.unwrap_or_default()
    };
    let nosuch = ExecStart { command: vec!["nosuch".into()], ..ExecStart::default() };
    assert_eq!(error(Ok(&nosuch)).await, "command_not_found");
    assert_eq!(error(Ok(&ExecStart { tty: true, ..nosuch })).await, "command_not_found");
    assert_eq!(
        error(Ok(&ExecStart { command: vec!["/etc/passwd".into()], ..ExecStart::default() })).await,
        "command_not_executable"
    );
    assert_eq!(error(Ok(&ExecStart::default())).await, "invalid_request");
    for bad in ["", "{}", "[]", "{\"command\":\"x\"}", "{\"command\":[\"x\"],\"more\":1}", "\u{0}", &"x".repeat(70_000)]
    {
        assert_eq!(error(Err(bad)).await, "invalid_request", "{}", &bad[..bad.len().min(30)]);
    }
    for wrong in [
        "{\"type\":\"resize\",\"cols\":1,\"rows\":1}",
        "{\"type\":\"stdinEnd\"}",
        "{\"type\":\"signal\",\"signal\":\"x\"}",
        "no",
    ] {
        let mut s = client.exec_socket("t", &start("exec sleep 1000")).await.unwrap();
        s.sender.send_text(wrong.into()).await.unwrap();
        assert_eq!(see(&mut s, true, "").await.error.as_deref(), Some("invalid_request"), "{wrong}");
    }
    for wrong in [vec![], vec![1, 2], vec![0, 1]] {
        let mut s = client.exec_socket("t", &start("exec sleep 1000")).await.unwrap();
        s.sender.send_bytes(wrong).await.unwrap();
        assert_eq!(see(&mut s, true, "").await.error.as_deref(), Some("invalid_request"));
    }
    let e = client.socket("/v1/pods/nosuch/exec").await.err().unwrap();
    assert!(matches!(&e, ClientError::Refused(p) if p.status == 404), "{e}");
    d.exec("t", "pkill sleep || true").await;
}

/// What a client does that does not keep to the rules: frames too long, rubbish, sockets closed on one side.
#[tokio::test(flavor = "multi_thread")]
async fn rude_clients_are_refused_and_harm_nobody() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    d.client.create_pod(&script("t", "exec sleep 100000")).await.unwrap();
    let mut steady = look(&d.client, "t", &[("id", "work"), ("command", "sh")]).await;
    let raw = |path: &str| {
        let mut s = UnixStream::connect(&d.socket).unwrap();
        s.set_read_timeout(Some(LONG)).unwrap();
        let head = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
        write!(s, "GET {path} HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        s.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101");
        s
    };
    let terminal = "/v1/pods/t/terminal?id=work";
    let ended = |mut s: UnixStream, what: &str| {
        let mut rest = Vec::new();
        let read = s.read_to_end(&mut rest);
        assert!(read.is_ok() || read.unwrap_err().kind() == std::io::ErrorKind::ConnectionReset, "{what}");
    };
    // A frame of 2 MiB by its head; bytes that are no frame; a frame without a mask; half of one, and then nothing.
    let long = [&[0x82, 0xff][..], &(2_u64 << 20).to_be_bytes(), &[1, 2, 3, 4]].concat();
    for (what, bytes) in [("long", long), ("rubbish", vec![0xff; 64]), ("unmasked", vec![0x82, 1, b'x'])] {
        for path in [terminal, "/v1/pods/t/exec"] {
            let mut s = raw(path);
            s.write_all(&bytes).unwrap();
            ended(s, what);
        }
    }
    for path in [terminal, "/v1/pods/t/exec"] {
        let mut s = raw(path);
        s.write_all(&[0x82, 0xfe]).unwrap();
        s.shutdown(std::net::Shutdown::Write).unwrap();
        ended(s, "half closed");
    }
    // No WebSocket at all.
    let mut plain = UnixStream::connect(&d.socket).unwrap();
    write!(plain, "GET {terminal} HTTP/1.0\r\nhost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    plain.read_to_string(&mut text).unwrap();
    assert!(text.contains(" 400 ") && text.contains("invalid_request") && text.contains("WebSocket"), "{text}");
    // Input that nobody takes does not grow without end, and a closed socket is a closed socket.
    let exec = ExecStart { command: vec!["sleep".into(), "1000".into()], stdin: true, ..ExecStart::default() };
    let mut s = d.client.exec_socket("t", &exec).await.unwrap();
    let flood = async { while s.sender.send_bytes(vec![0; 100_000]).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_secs(2), flood).await.is_err(), "it has to wait");
    drop(s);
    steady.sender.send_bytes(b"echo still-$((40+2))\n".to_vec()).await.unwrap();
    see(&mut steady, false, "still-42").await;
    assert_eq!(d.client.inspect_terminal("t", "work").await.unwrap().viewers, 1);
}

/// Two hundred look at one terminal: who reads has every byte, who does not is passed over, and memory is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_look_at_once() {
    if !daemon::ready() {
        return;
    }
    const LINES: usize = 60_000;
    let d = Daemon::start();
    d.import("test").await;
    d.client.create_pod(&script("t", "exec sleep 100000")).await.unwrap();
    let line = format!("read x; seq 1 {LINES}; echo over");
    let mut first =
        look(&d.client, "t", &[("id", "work"), ("command", "sh"), ("command", "-c"), ("command", &line)]).await;
    let mut slow = Vec::new();
    for _ in 0..3 {
        slow.push(look(&d.client, "t", &[("id", "work")]).await);
    }
    let mut readers = Vec::new();
    for _ in 0..200 {
        let mut s = look(&d.client, "t", &[("id", "work")]).await;
        readers.push(tokio::spawn(async move {
            let seen = see(&mut s, false, "").await;
            assert!(seen.says.iter().all(|s| !matches!(s, SocketSays::Missed { .. })), "{:?}", seen.says);
            assert_eq!(seen.exit, Some(0));
            let lines: Vec<&str> = seen.text.lines().filter(|l| l.parse::<usize>().is_ok()).collect();
            assert_eq!(lines.len(), LINES);
            assert!(lines.iter().zip(1..).all(|(l, n)| *l == n.to_string()) && seen.text.contains("over"));
        }));
    }
    let memory = || {
        let text = std::fs::read_to_string(format!("/proc/{}/status", d.pid().unwrap())).unwrap();
        text.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok()).unwrap()
    };
    let before = memory();
    first.sender.send_bytes(b"go\n".to_vec()).await.unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
    let after = memory();
    assert!(after < before + 64 * 1024, "{before} KiB before, {after} KiB after");
    drop(slow);
}

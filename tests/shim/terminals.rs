//! Terminals, and programs that are followed, without an engine: the real init and the real shim.

use std::time::{Duration, Instant};

use torpor::channel::scrollback::KEPT;
use torpor::channel::stream::{Steer, StreamAsk};
use torpor::channel::terminal::{
    MAIN_TERMINAL, MOST_TERMINALS, NewTerminal, OpenTerminal, TerminalEnd, WINDOW, WindowSize,
};
use torpor::channel::{Exec, Launch};
use torpor::host::shim::{Said, ShimStream};
use torpor::model::Code;

use crate::pod::{Pod, is_root, launch, shell, until};

fn terminal(id: &str, script: Option<&str>) -> OpenTerminal {
    let create = script.map(|s| NewTerminal { exec: shell(s), ..NewTerminal::default() });
    OpenTerminal { id: id.into(), create, ..OpenTerminal::default() }
}

async fn open(pod: &Pod, open: OpenTerminal) -> ShimStream {
    pod.shim.open(&StreamAsk::Terminal(open)).await.unwrap()
}

/// What a stream said, and how it ended, if `until` was not seen before.
async fn read(stream: &mut ShimStream, until: &str) -> (String, Option<TerminalEnd>) {
    let mut text = Vec::new();
    let mut place = stream.opened.start;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let said = tokio::time::timeout_at(deadline, stream.reader.next()).await;
        let said = said.unwrap_or_else(|_| panic!("no {until:?} in {:?}", String::from_utf8_lossy(&text)));
        match said.unwrap() {
            Said::Terminal { place: at, data } => {
                assert!(at >= place, "no byte twice");
                place = at + data.len() as u64;
                text.extend(data);
                stream.writer.credit(place + WINDOW).await.unwrap();
            }
            Said::Stdout(data) | Said::Stderr(data) => {
                stream.writer.credit(data.len() as u64).await.unwrap();
                text.extend(data);
            }
            Said::Ended(end) => return (String::from_utf8_lossy(&text).into_owned(), Some(end)),
            Said::InputTaken(_) | Said::Missed(_) => {}
        }
        let shown = String::from_utf8_lossy(&text);
        if !until.is_empty() && shown.contains(until) {
            return (shown.into_owned(), None);
        }
    }
}

#[tokio::test]
async fn a_terminal_outlives_who_looks_and_the_shim() {
    if !is_root() {
        return;
    }
    let mut pod = Pod::new().await;
    pod.launch("exec sleep 1000").await;
    let size = WindowSize { cols: 90, rows: 30 };
    let exec = Exec { command: vec!["bash".into(), "--norc".into()], ..Exec::default() };
    let create = Some(NewTerminal { exec, size: Some(size), timeout_ms: None });
    let mut s = open(&pod, OpenTerminal { id: "work".into(), create, ..OpenTerminal::default() }).await;
    assert!(s.opened.created && s.opened.size == size);
    s.writer.input(b"tty; stty size; who=ann; echo $TERM-$((40+2))\n").await.unwrap();
    let (text, _) = read(&mut s, "xterm-42").await;
    assert!(text.contains("/dev/pts/") && text.contains("30 90"), "{text}");
    s.writer.steer(Steer::Resize { size: WindowSize { cols: 100, rows: 40 } }).await.unwrap();
    s.writer.input(b"stty size\n").await.unwrap();
    read(&mut s, "40 100").await;
    drop(s);
    // Seen again from the beginning, by another, with what it knew.
    let mut s = open(&pod, terminal("work", None)).await;
    assert!(!s.opened.created && s.opened.start == 0);
    let (text, _) = read(&mut s, "40 100").await;
    assert!(text.contains("30 90"));
    s.writer.input(b"(sleep 0.3; echo later-$who) &\n").await.unwrap();
    pod.replace_shim().await;
    while s.reader.next().await.is_ok() {} // what was under way, and then the end
    let mut s = open(&pod, terminal("work", None)).await;
    read(&mut s, "later-ann").await;
    // Only what comes after a place.
    let (from, end) = (s.opened.end, s.opened.end);
    drop(s);
    let mut s = open(&pod, OpenTerminal { from: Some(from), ..terminal("work", None) }).await;
    assert!(s.opened.start == from && s.opened.end >= end);
    s.writer.input(b"exit 7\n").await.unwrap();
    let (text, ended) = read(&mut s, "").await;
    assert!(!text.contains("30 90"), "{text}");
    assert_eq!(ended.unwrap().exit_code(), 7);
    drop(s);
    // Its end is kept until somebody knows it.
    let all = pod.shim.terminals().await.unwrap();
    assert_eq!((all.len(), all[0].id.as_str(), all[0].end.map(|e| e.exit_code())), (1, "work", Some(7)));
    let mut s = open(&pod, terminal("work", Some("echo never"))).await;
    let (text, ended) = read(&mut s, "").await;
    assert!(text.contains("later-ann") && ended.unwrap().code == Some(7));
    s.writer.steer(Steer::Forget).await.unwrap();
    until("it is forgotten", || async { pod.shim.terminals().await.unwrap().is_empty() }).await;
    assert_eq!(pod.shim.open(&StreamAsk::Terminal(terminal("work", None))).await.err().unwrap().code(), Code::NotFound);
}

/// What was said of the one who left must not be taken for the one who came.
#[tokio::test]
async fn who_comes_as_another_leaves_sees_all_that_comes() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    pod.launch("exec sleep 1000").await;
    let mut s = open(&pod, terminal("work", Some("while read x; do echo now-$x; done"))).await;
    for n in 0..60_u32 {
        let before = s;
        let leave = async {
            for _ in 0..n % 4 {
                tokio::task::yield_now().await;
            }
            drop(before);
        };
        (s, ()) = tokio::join!(open(&pod, terminal("work", None)), leave);
        s.writer.input(format!("{n}.\n").as_bytes()).await.unwrap();
        read(&mut s, &format!("now-{n}.")).await;
    }
}

#[tokio::test]
async fn who_does_not_read_makes_no_terminal_wait_for_long() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    pod.launch("exec sleep 1000").await;
    let stuck = open(&pod, terminal("loud", Some("yes abcdefghi | head -c 3000000; echo; echo end-of-it"))).await;
    let begun = Instant::now();
    until("the end", || async { pod.shim.terminals().await.unwrap()[0].end.is_some() }).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop(stuck);
    let mut s = open(&pod, terminal("loud", None)).await;
    let (text, ended) = read(&mut s, "").await;
    assert!(ended.is_some() && text.ends_with("end-of-it\r\n") && text.len() <= KEPT, "{}", text.len());
    assert!(text.starts_with("abcdefghi\r\n"), "a whole line first");
    // One that reads gets all of it, place after place.
    let mut s = open(&pod, terminal("more", Some("seq 1 200000"))).await;
    let (text, _) = read(&mut s, "").await;
    assert!(text.lines().zip(1..).all(|(l, n)| l == n.to_string()));
    assert_eq!(text.lines().count(), 200_000);
    assert_eq!(pod.exec("echo quick").await.stdout, b"quick\n");
}

#[tokio::test]
async fn terminals_are_bounded_removed_and_timed() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    pod.launch("exec sleep 1000").await;
    let quiet = |id: &str, script: &str| OpenTerminal { quiet: true, only_new: true, ..terminal(id, Some(script)) };
    for n in 0..MOST_TERMINALS {
        open(&pod, quiet(&format!("t{n}"), "exec sleep 1000")).await;
    }
    let refused = async |open: OpenTerminal| pod.shim.open(&StreamAsk::Terminal(open)).await.err().unwrap().code();
    assert_eq!(refused(quiet("more", "true")).await, Code::Exhausted);
    assert_eq!(refused(quiet("t3", "true")).await, Code::NameTaken);
    assert_eq!(pod.shim.remove_terminal("t3").await.unwrap(), None);
    assert_eq!(pod.shim.remove_terminal("t3").await.unwrap_err().code(), Code::NotFound);
    // One that hears no hang-up is killed.
    until("there is room", || async {
        pod.shim
            .open(&StreamAsk::Terminal(quiet("deaf", "trap '' HUP; echo deaf; sleep 1000 & wait; wait")))
            .await
            .is_ok()
    })
    .await;
    let pid = pod.shim.terminals().await.unwrap().iter().find(|t| t.id == "deaf").unwrap().pid;
    pod.shim.remove_terminal("deaf").await.unwrap();
    assert!(pod.shim.terminals().await.unwrap().iter().all(|t| t.id != "deaf"));
    until("it is killed", || async { pod.exec(&format!("kill -0 {pid}")).await.exit_code != 0 }).await;
    // Those that have ended give way.
    pod.shim.remove_terminal("t4").await.unwrap();
    until("there is room", || async { pod.shim.open(&StreamAsk::Terminal(quiet("short", "exit 4"))).await.is_ok() })
        .await;
    until("the end", || async {
        pod.shim.terminals().await.unwrap().iter().any(|t| t.id == "short" && t.end.is_some())
    })
    .await;
    // The places of those that were removed above are free when they are gone for good.
    for n in 0..3 {
        until("there is room", || async {
            pod.shim.open(&StreamAsk::Terminal(quiet(&format!("next{n}"), "true"))).await.is_ok()
        })
        .await;
    }
    assert!(pod.shim.terminals().await.unwrap().iter().all(|t| t.id != "short"));
    let timed = NewTerminal { exec: shell("echo begun; exec sleep 1000"), size: None, timeout_ms: Some(2000) };
    until("there is room", || async { pod.shim.terminals().await.unwrap().iter().any(|t| t.end.is_some()) }).await;
    let mut s = open(&pod, OpenTerminal { create: Some(timed), ..terminal("timed", None) }).await;
    let (text, ended) = read(&mut s, "").await;
    let ended = ended.unwrap();
    assert!(ended.timed_out && ended.signal == Some(9) && text.contains("begun"), "{text} {ended:?}");
    assert_eq!(refused(terminal("x", None)).await, Code::NotFound);
    let mut missing = terminal("x", Some(""));
    missing.create.as_mut().unwrap().exec.command = vec!["nothing-here".into()];
    assert_eq!(refused(missing).await, Code::CommandNotFound);
}

#[tokio::test]
async fn a_pod_of_its_own_terminal_has_a_log_and_is_seen() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    let main = Launch { tty: Some(WindowSize::default()), ..launch("read line; tty; echo got-$line; exit 6") };
    pod.shim.launch(&main).await.unwrap();
    let mut s = open(&pod, terminal(MAIN_TERMINAL, None)).await;
    s.writer.input(b"words\n").await.unwrap();
    let (text, ended) = read(&mut s, "").await;
    assert!(text.contains("got-words") && text.contains("/dev/pts/"), "{text}");
    assert_eq!(ended.unwrap().code, Some(6));
    assert_eq!(pod.shim.wait().await.unwrap().code, Some(6));
    assert!(pod.log().await.iter().any(|l| l.line.contains("got-words")));
}

#[tokio::test]
async fn followed_programs_get_and_give_any_amount() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    pod.launch("exec sleep 1000").await;
    let ask = |script: &str, stdin| StreamAsk::Exec { exec: Exec { stdin, ..shell(script) }, timeout_ms: None };
    // More than is kept of an exec that is not followed.
    let mut s = pod.shim.open(&ask("head -c 40000000 /dev/zero; exit 3", false)).await.unwrap();
    let mut had = 0_u64;
    let end = loop {
        match s.reader.next().await.unwrap() {
            Said::Stdout(data) => {
                had += data.len() as u64;
                s.writer.credit(data.len() as u64).await.unwrap();
            }
            Said::Ended(end) => break end,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((had, end.code), (40_000_000, Some(3)));
    // One that nobody reads waits, and holds up nobody.
    let slow = pod.shim.open(&ask("yes; echo not-reached", false)).await.unwrap();
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(pod.exec("echo quick").await.stdout, b"quick\n");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(slow);
    // Input that waits is counted, its end is seen, and signals reach the program meanwhile.
    let mut s = pod.shim.open(&ask("trap 'echo usr' USR1; echo up; cat | wc -c; echo $?", true)).await.unwrap();
    read(&mut s, "up\n").await;
    s.writer.steer(Steer::Signal { signal: libc::SIGUSR1 }).await.unwrap();
    let (mut room, mut sent) = (WINDOW, 0_u64);
    let mut text = String::new();
    while sent < 3_000_000 {
        while room >= 1000 && sent < 3_000_000 {
            s.writer.input(&[b'x'; 1000]).await.unwrap();
            (room, sent) = (room - 1000, sent + 1000);
        }
        match s.reader.next().await.unwrap() {
            Said::InputTaken(n) => room += n,
            Said::Stdout(data) => text.push_str(&String::from_utf8_lossy(&data)),
            other => panic!("{other:?}"),
        }
    }
    s.writer.end_of_input().await.unwrap();
    let (rest, end) = read(&mut s, "").await;
    text.push_str(&rest);
    assert!(text.contains("3000000") && text.contains("usr") && end.unwrap().code == Some(0), "{text}");
    // Who goes away closes the input; the program goes on.
    let s = pod.shim.open(&ask("cat > /tmp/had; yes | head -c 1000000; echo done > /tmp/done", true)).await.unwrap();
    drop(s);
    until("its end", || async { pod.exec("cat /tmp/done").await.stdout == b"done\n" }).await;
    let timed = StreamAsk::Exec { exec: shell("exec sleep 100"), timeout_ms: Some(200) };
    let mut s = pod.shim.open(&timed).await.unwrap();
    let (_, end) = read(&mut s, "").await;
    assert!(end.unwrap().timed_out);
    let mut s = pod.shim.open(&ask("", false)).await.unwrap();
    assert_eq!(read(&mut s, "").await.1.unwrap().code, Some(0));
    let mut s = pod
        .shim
        .open(&StreamAsk::Exec {
            exec: Exec { command: vec!["nothing-here".into()], ..Exec::default() },
            timeout_ms: None,
        })
        .await
        .unwrap();
    assert_eq!(s.reader.next().await.unwrap_err().code(), Code::CommandNotFound);
}

#[tokio::test]
async fn a_command_with_input_is_followed_from_its_beginning() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    pod.shim.launch(&Launch { stdin: true, ..launch("echo early; cat; echo late >&2; exit 5") }).await.unwrap();
    until("its first line", || async { !pod.log().await.is_empty() }).await;
    let mut s = pod.shim.open(&StreamAsk::Main { stdin: true }).await.unwrap();
    let second = pod.shim.open(&StreamAsk::Main { stdin: true }).await.err().unwrap();
    assert_eq!(second.code(), Code::InUse);
    let mut looker = pod.shim.open(&StreamAsk::Main { stdin: false }).await.unwrap();
    s.writer.input(&[0, 255, b'\n']).await.unwrap();
    assert_eq!(s.reader.next().await.unwrap(), Said::Stdout(b"early\n".to_vec()));
    s.writer.end_of_input().await.unwrap();
    let (mut raw, mut err, mut end) = (Vec::new(), Vec::new(), None);
    while end.is_none() {
        match s.reader.next().await.unwrap() {
            Said::Stdout(data) => raw.extend(data),
            Said::Stderr(data) => err.extend(data),
            Said::Ended(e) => end = Some(e),
            Said::InputTaken(_) | Said::Missed(_) | Said::Terminal { .. } => {}
        }
    }
    assert_eq!((raw, err, end.unwrap().code), (vec![0, 255, b'\n'], b"late\n".to_vec(), Some(5)));
    let (text, end) = read(&mut looker, "").await;
    assert!(text.contains("late") && !text.contains("early") && end.unwrap().code == Some(5), "{text}");
}

#[tokio::test]
async fn processes_are_listed() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    pod.launch("sleep 1234 & wait").await;
    until("the program", || async {
        let all = pod.shim.processes().await.unwrap();
        all.iter().any(|p| p.command == ["sleep", "1234"] && p.parent > 1) && all.iter().any(|p| p.pid == 1)
    })
    .await;
}

#[tokio::test]
async fn a_pod_becomes_quiet_also_while_questions_are_under_way() {
    if !is_root() {
        return;
    }
    let pod = Pod::new().await;
    pod.launch("exec sleep 1000").await;
    for _ in 0..100 {
        // Told before the quiet time, or after it.
        let asked = tokio::spawn({
            let shim = std::sync::Arc::clone(&pod.shim);
            async move { shim.terminals().await }
        });
        tokio::task::yield_now().await;
        pod.shim.quiesce().await.unwrap();
        pod.shim.resume().await.unwrap();
        assert!(asked.await.unwrap().unwrap().is_empty());
    }
}

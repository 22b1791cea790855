//! Bytes on the API's socket: slow, huge, half a request, two in one, none at all, and very many.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use torpor::api::types::{CreatePod, Pod};

use crate::canary;
use crate::daemon::{self, Daemon, counter, script};

/// All that the API answers to these bytes until it closes, or for so long.
fn talk(socket: &Path, bytes: &[u8], longest: Duration) -> String {
    let mut s = UnixStream::connect(socket).unwrap();
    s.set_read_timeout(Some(longest)).unwrap();
    s.set_write_timeout(Some(longest)).unwrap();
    // An answer may come, and the connection end, before all is sent.
    let _ = s.write_all(bytes);
    let _ = s.shutdown(Shutdown::Write);
    let mut text = Vec::new();
    let end = Instant::now() + longest;
    let mut piece = [0; 65536];
    while let Ok(n @ 1..) = s.read(&mut piece) {
        text.extend_from_slice(&piece[..n]);
        assert!(text.len() < 32 << 20 && Instant::now() < end, "an answer without end");
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn statuses(text: &str) -> Vec<u16> {
    text.split("HTTP/1.1 ").skip(1).filter_map(|t| t.get(..3)?.parse().ok()).collect()
}

/// What another process sees: its pods, in time.
fn torpor(d: &Daemon, limit: Duration) -> String {
    let begun = Instant::now();
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_torpor"))
        .args(["--host", &format!("unix://{}", d.socket.display()), "--json", "ps"])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(begun.elapsed() < limit, "another client waited for {:?}", begun.elapsed());
    String::from_utf8(out.stdout).unwrap()
}

/// Requests that no client sends, and how many of them may be answered with success.
fn requests() -> Vec<(&'static str, Vec<u8>, usize)> {
    let r = |what, text: &str, fine| (what, text.as_bytes().to_vec(), fine);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let post = |heads: &str, body: &str| {
        format!("POST /v1/pods HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{heads}\r\n{body}")
    };
    let hidden = "DELETE /v1/pods/web?force=true HTTP/1.1\r\nhost: x\r\n\r\n";
    let length = hidden.len();
    vec![
        r("nothing", "", 0),
        r("a line feed", "\n", 0),
        ("zeros", vec![0; 5000], 0),
        ("rubbish", (0..=255).cycle().take(70_000).collect(), 0),
        ("a TLS hello", [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 500]].concat(), 0),
        r("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0", 0),
        r("HTTP/0.9", "GET /v1/pods\r\n", 0),
        r("HTTP/3.7", "GET /v1/pods HTTP/3.7\r\n\r\n", 0),
        r("a response", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 0),
        r("half a request line", "GET /v1/po", 0),
        r("half a header", "GET /v1/pods HTTP/1.1\r\nhost: ", 0),
        r("half a body", &post("content-length: 500\r\n", "{\"image\":"), 0),
        r("half a chunk", &post("transfer-encoding: chunked\r\n", "50\r\n{\"image\":"), 0),
        r("a path of 1 MiB", &get(&("/".to_owned() + &"x".repeat(1 << 20))), 0),
        r("a header of 1 MiB", &format!("GET /v1/pods HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)), 0),
        r("5,000 headers", &format!("GET /v1/pods HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(5000)), 0),
        r("a method of 10,000 letters", &format!("{} /v1/pods HTTP/1.1\r\n\r\n", "X".repeat(10_000)), 0),
        r("a header without a name", "GET /v1/pods HTTP/1.1\r\n: x\r\n\r\n", 0),
        r("a header with a space in its name", "GET /v1/pods HTTP/1.1\r\nho st: x\r\n\r\n", 0),
        r("a space before the colon", "POST /v1/pods HTTP/1.1\r\ncontent-length : 5\r\n\r\nhello", 0),
        r("a folded header", "GET /v1/pods HTTP/1.1\r\nx: y\r\n z\r\n\r\n", 0),
        r("a NUL in a header", "GET /v1/pods HTTP/1.1\r\nx: a\0b\r\n\r\n", 0),
        r("a NUL in the path", "GET /v1/pods/\0 HTTP/1.1\r\n\r\n", 0),
        r("a length that is negative", &post("content-length: -1\r\n", "x"), 0),
        r("a length with a sign", &post("content-length: +2\r\n", "{}"), 0),
        r("a length in hexadecimal", &post("content-length: 0x2\r\n", "{}"), 0),
        r("a length of 2^64", &post("content-length: 18446744073709551616\r\n", "{}"), 0),
        r("a length just below 2^64", &post("content-length: 18446744073709551615\r\n", "{}"), 0),
        r(
            "two lengths",
            &post(&format!("content-length: 2\r\ncontent-length: {}\r\n", length + 2), &format!("{{}}{hidden}")),
            0,
        ),
        r("two lengths in one", &post(&format!("content-length: 2, {}\r\n", length + 2), &format!("{{}}{hidden}")), 0),
        r(
            "a length and chunks",
            &post(
                &format!("content-length: {}\r\ntransfer-encoding: chunked\r\n", length + 5),
                &format!("0\r\n\r\n{hidden}"),
            ),
            0,
        ),
        r(
            "chunks and a length",
            &post(
                &format!("transfer-encoding: chunked\r\ncontent-length: {}\r\n", length + 5),
                &format!("0\r\n\r\n{hidden}"),
            ),
            0,
        ),
        r(
            "chunks that are not the last coding",
            &post("transfer-encoding: chunked, identity\r\n", &format!("0\r\n\r\n{hidden}")),
            0,
        ),
        r("chunks by another name", &post("transfer-encoding: xchunked\r\n", &format!("0\r\n\r\n{hidden}")), 0),
        r("chunks twice", &post("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"), 0),
        r("a chunk of 2^64", &post("transfer-encoding: chunked\r\n", "10000000000000000\r\nx"), 0),
        r("a chunk with a negative length", &post("transfer-encoding: chunked\r\n", "-5\r\nx"), 0),
        r("a chunk of letters", &post("transfer-encoding: chunked\r\n", "zz\r\nx"), 0),
        r(
            "a chunk with an extension of 1 MiB",
            &post("transfer-encoding: chunked\r\n", &format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(1 << 20))),
            0,
        ),
        r(
            "trailers of 1 MiB",
            &post("transfer-encoding: chunked\r\n", &format!("0\r\nx: {}\r\n\r\n", "e".repeat(1 << 20))),
            0,
        ),
        r(
            "a chunk that ends in a line feed",
            &post("transfer-encoding: chunked\r\n", &format!("2\n{{}}\n0\n\n{hidden}")),
            0,
        ),
        r(
            "2 MiB in chunks",
            &post(
                "transfer-encoding: chunked\r\n",
                &format!("{}0\r\n\r\n", format!("400\r\n{}\r\n", "x".repeat(1024)).repeat(2048)),
            ),
            0,
        ),
        r("another host's URL", "GET http://other.example/v1/nothing HTTP/1.1\r\nhost: x\r\n\r\n", 0),
        r("a tunnel", "CONNECT 169.254.169.254:80 HTTP/1.1\r\nhost: x\r\n\r\n", 0),
        r("a question to all", "OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", 0),
        r("an upgrade", "GET /v1/pods/web/nothing HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", 0),
        r(
            "an upgrade to HTTP/2",
            "GET /v1/nothing HTTP/1.1\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n",
            0,
        ),
        r("an expectation", &post("expect: 200-maybe\r\ncontent-length: 2\r\n", "{}"), 0),
        r("dots in the path", &get("/v1/pods/../../../../etc/passwd"), 0),
        r("escaped dots in the path", &get("/v1/pods/%2e%2e%2f%2e%2e%2fetc"), 0),
        r("dots escaped twice", &get("/v1/pods/%252e%252e%252f"), 0),
        r("an escape that is none", &get("/v1/pods/%zz"), 0),
        r("an escaped NUL", &get("/v1/pods/%00"), 0),
        r("escaped bytes that are no text", &get("/v1/pods/%ff%fe"), 0),
        r("an overlong escape", &get("/v1/images/%c0%ae%c0%ae"), 0),
        r("two slashes", &get("//v1//pods"), 0),
        r("a slash at the end", &get("/v1/pods/"), 0),
        r("capitals", &get("/V1/PODS"), 0),
        r("a query of 60 KB", &get(&format!("/v1/pods/web/logs?tail={}", "9".repeat(60_000))), 0),
        r("a query twice", &get("/v1/pods/web/logs?tail=1&tail=2"), 0),
        r("a query that is negative", &get("/v1/pods/web/logs?tail=-1"), 0),
        r("a snapshot that is a path", &get("/v1/snapshots/..%2F..%2Ftorpor.json"), 0),
        r("a snapshot of stars", &get("/v1/snapshots/****"), 0),
        r("an image of a digest", &get("/v1/images/x@sha256:00"), 0),
        r("a request number with a line feed", "GET /v1/nothing HTTP/1.1\r\nx-request-id: a\nb\r\n\r\n", 0),
        r("100 requests in one", &get("/health").replace("close", "keep-alive").repeat(100), 100),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bytes_are_taken_for_what_they_are_not() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    let web = d.counter("web").await;
    let pid = d.pid().unwrap();
    let all = requests();
    assert!(all.len() >= 60, "{}", all.len());
    crate::support::tried(all.len());
    for (what, bytes, fine) in all {
        canary::peak(pid);
        let before = canary::resident(pid);
        let begun = Instant::now();
        let answers = statuses(&talk(&d.socket, &bytes, Duration::from_secs(40)));
        assert!(begun.elapsed() < Duration::from_secs(35), "{what} took {:?}", begun.elapsed());
        let good = answers.iter().filter(|s| **s < 400).count();
        // Who closes its half is taken to be gone: the last answer may be left out.
        assert!((fine.saturating_sub(1)..=fine).contains(&good), "{what}: {answers:?}");
        assert!(answers.len() <= fine.max(2), "{what}: {answers:?}");
        assert!(answers.iter().all(|s| *s < 500 || *s == 501), "{what}: {answers:?}");
        assert!(canary::peak(pid).saturating_sub(before) < 64 << 20, "{what} took much memory");
        let now: Pod = d.client.inspect("web").await.unwrap();
        assert_eq!((now.state.as_str(), now.sandbox_pid), ("running", web.sandbox_pid), "{what}");
    }
    assert!(!d.log().contains("panicked"), "{}", d.log());
    d.terminate();
    d.launch();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_is_not_waited_for() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    let before = canary::descriptors(d.pid().unwrap());
    // A byte now and then: the head of a request, its body, and an upload that never comes.
    let post = "POST /v1/pods HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{";
    let cases = [("", 15_u64), ("GET /v1/pods HTTP/1.1\r\nx: ", 15), (post, 30)];
    let threads: Vec<_> = cases
        .into_iter()
        .map(|(text, limit)| {
            let socket = d.socket.clone();
            std::thread::spawn(move || {
                let mut s = UnixStream::connect(socket).unwrap();
                s.write_all(text.as_bytes()).unwrap();
                s.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                let begun = Instant::now();
                let mut bytes = [0; 4096];
                // Each byte of a head has no time of its own.
                loop {
                    if text.is_empty() || text.contains("x: ") {
                        let _ = s.write_all(b"y");
                    }
                    match s.read(&mut bytes) {
                        Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock) => {}
                        _ => break,
                    }
                    assert!(begun.elapsed() < Duration::from_secs(limit), "{text:?} is still waited for");
                }
            })
        })
        .collect();
    for t in threads {
        t.join().unwrap();
    }
    // Uploads from which nothing comes leave everybody else their turn.
    let stuck: Vec<UnixStream> = (0..600)
        .map(|n| {
            let mut s = UnixStream::connect(&d.socket).unwrap();
            let text =
                format!("POST /v1/images?name=stuck{n} HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\nx");
            s.write_all(text.as_bytes()).unwrap();
            s
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    assert!(d.client.images().await.unwrap().is_empty());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    drop(stuck);
    back_to(&d, before).await;
    d.import("test").await;
    assert_eq!(std::fs::read_dir(d.dir.join("state/tmp")).unwrap().count(), 0);
}

/// Waits until torpord has no more open files than it had.
async fn back_to(d: &Daemon, before: usize) {
    let end = Instant::now() + Duration::from_secs(20);
    while canary::descriptors(d.pid().unwrap()) > before + 8 {
        assert!(
            Instant::now() < end,
            "torpord keeps {} files open, it had {before}",
            canary::descriptors(d.pid().unwrap())
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_shut_nobody_out() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    let pid = d.pid().unwrap();
    torpor(&d, Duration::from_secs(5));
    let (before, files) = (canary::resident(pid), canary::descriptors(pid));
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    canary::peak(pid);
    let (done, stop) = std::sync::mpsc::channel::<()>();
    let socket = d.socket.clone();
    let crowd = std::thread::spawn(move || {
        let most = usize::try_from(hard.saturating_sub(200)).unwrap();
        let mut open = std::collections::VecDeque::new();
        for n in 0..10_000 {
            let mut s = UnixStream::connect(&socket).unwrap();
            let _ = match n % 4 {
                0 => Ok(()),
                1 => s.write_all(b"GET /v1/pods HTTP/1.1\r\nx: "),
                2 => s.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"),
                _ => s.write_all(
                    b"POST /v1/pods HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n",
                ),
            };
            open.push_back(s);
            if open.len() > most {
                open.pop_front();
            }
        }
        let _ = stop.recv();
        open.len()
    });
    // While they come, and when they are there.
    for _ in 0..5 {
        torpor(&d, Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let most = canary::peak(pid).saturating_sub(before);
    assert!(most < 200 << 20, "10,000 connections took {most} bytes");
    drop(done);
    let held = crowd.join().unwrap();
    eprintln!("{held} connections were held open; torpord took {} KiB", most >> 10);
    torpor(&d, Duration::from_secs(5));
    back_to(&d, files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_costs_little_and_who_goes_away_nothing() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let pid = d.pid().unwrap();
    d.client
        .create_pod(&script("loud", "while :; do head -c 200000 /dev/zero | tr '\\0' x | fold -w 99; sleep 0.1; done"))
        .await
        .unwrap();
    torpor(&d, Duration::from_secs(5));
    let (before, files) = (canary::resident(pid), canary::descriptors(pid));
    canary::peak(pid);
    let deaf: Vec<UnixStream> = (0..300)
        .map(|_| {
            let mut s = UnixStream::connect(&d.socket).unwrap();
            s.write_all(b"GET /v1/pods/loud/logs?follow=true HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            s
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let watches = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter(|f| {
        std::fs::read_link(f.as_ref().unwrap().path()).is_ok_and(|l| l.as_os_str() == "anon_inode:inotify")
    });
    assert!(watches.count() <= 40, "readers take what other programs of this host need");
    let most = canary::peak(pid).saturating_sub(before);
    eprintln!("300 readers that do not read took {} KiB", most >> 10);
    assert!(most < 300 << 20, "{most} bytes");
    assert!(torpor(&d, Duration::from_secs(5)).contains("loud"));
    // One that does read gets what is new.
    let mut s = UnixStream::connect(&d.socket).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    s.write_all(b"GET /v1/pods/loud/logs?follow=true&tail=1 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut got = 0;
    while got < 200_000 {
        let n = s.read(&mut [0; 65536]).unwrap();
        assert!(n > 0, "the log ended");
        got += n;
    }
    drop((deaf, s));
    back_to(&d, files).await;
    // Who goes away while its pod is made: it is there, or it is not, and nothing is between.
    for (n, wait) in [0_u64, 5, 20, 60, 150].into_iter().enumerate() {
        let name = format!("gone{n}");
        let body = serde_json::to_string(&CreatePod { ..counter(&name) }).unwrap();
        let mut s = UnixStream::connect(&d.socket).unwrap();
        let head = format!(
            "POST /v1/pods HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        s.write_all((head + &body).as_bytes()).unwrap();
        tokio::time::sleep(Duration::from_millis(wait)).await;
        drop(s);
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match d.client.inspect(&name).await {
                Ok(p) if p.state == "running" => break,
                Err(e) if daemon::code(&e) == "not_found" && wait < 20 => break,
                other => assert!(Instant::now() < end, "{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    back_to(&d, files + 30).await;
}

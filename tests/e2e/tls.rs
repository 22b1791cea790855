//! TLS, its certificate's renewal, the command line over it, and clients that mean harm.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use torpor::api::client::{Client, ClientError};
use torpor::api::types::CreateToken;

use crate::daemon::{self, Daemon, Options, code};
use crate::listen::free;

fn openssl(dir: &Path, arguments: &str) {
    let out = Command::new("openssl").args(arguments.split_whitespace()).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&out.stderr));
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

fn authority(dir: &Path, name: &str) {
    openssl(dir, &format!("req -x509 {KEY} -keyout {name}.key -out {name}.pem -subj /CN={name} -days 30"));
}

/// A certificate for localhost and its key, as NAME.pem and NAME.key.
fn certificate(dir: &Path, authority: &str, name: &str) {
    std::fs::write(dir.join("ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    openssl(dir, &format!("req {KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
    let signed = format!("-CA {authority}.pem -CAkey {authority}.key -CAcreateserial -days 30 -extfile ext");
    openssl(dir, &format!("x509 -req -in {name}.csr {signed} -out {name}.pem"));
}

async fn admin(d: &Daemon) -> String {
    let request = CreateToken { scope: "admin".into(), ..CreateToken::default() };
    d.client.create_token(&request).await.unwrap().secret
}

/// Waits until it is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so().await {
        assert!(Instant::now() < end, "not {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn torpor(host: &str, arguments: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torpor"));
    command.env_clear().envs(env.iter().copied()).args(["--host", host]).args(arguments).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_and_bad_ones_change_nothing() {
    if !daemon::ready() {
        return;
    }
    let certs = tempfile::tempdir().unwrap();
    let dir = certs.path();
    authority(dir, "ca");
    authority(dir, "ca2");
    certificate(dir, "ca", "one");
    certificate(dir, "ca2", "two");
    let put = |name: &str, cert: &str, key: &str| {
        for (from, to) in [(cert, "cert"), (key, "key")] {
            std::fs::copy(dir.join(from), dir.join(format!("{to}.{name}"))).unwrap();
            std::fs::rename(dir.join(format!("{to}.{name}")), dir.join(to)).unwrap();
        }
    };
    put("new", "one.pem", "one.key");
    let (port, plain) = (free(), free());
    let config = format!(
        "[[listen]]\naddress = '127.0.0.1:{port}'\ntls = {{ cert = '{0}/cert', key = '{0}/key' }}\n\
         [[listen]]\naddress = '127.0.0.2:{port}'\ntls = {{ cert = '{0}/cert', key = '{0}/key' }}\n\
         [[listen]]\naddress = '127.0.0.1:{plain}'\n",
        dir.display()
    );
    let d = Daemon::with(Options { config, ..Options::default() });
    let secret = admin(&d).await;
    let by = |ca: &str| {
        let path = dir.join(ca);
        Client::trusting(&format!("https://localhost:{port}"), Some(&path)).unwrap().with_token(&secret).unwrap()
    };
    let (first, second) = (by("ca.pem"), by("ca2.pem"));
    first.pods().await.unwrap();
    assert!(matches!(second.pods().await.unwrap_err(), ClientError::Untrusted { .. }));
    let wrong_name = Client::trusting(&format!("https://127.0.0.2:{port}"), Some(&dir.join("ca.pem"))).unwrap();
    let refused = wrong_name.pods().await.unwrap_err();
    assert!(matches!(refused, ClientError::Untrusted { .. }), "{refused}");
    // What is open goes on over a renewal.
    let events = first.events("", None).await.unwrap();

    // By SIGHUP: bad files first.
    let hup = |d: &Daemon| {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(d.pid().unwrap()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    };
    let bad = [("two.pem", "one.key"), ("one.key", "one.key"), ("ext", "one.key"), ("one.pem", "ext")];
    for (said, (cert, key)) in bad.into_iter().enumerate() {
        put("new", cert, key);
        hup(&d);
        until("said", async || d.log().matches("the old ones stay in use").count() > said).await;
        first.pods().await.unwrap();
    }
    put("new", "two.pem", "two.key");
    hup(&d);
    until("renewed", async || second.pods().await.is_ok()).await;
    assert!(first.pods().await.is_err());
    // And by itself when the files change.
    put("new", "one.pem", "one.key");
    until("renewed by itself", async || first.pods().await.is_ok()).await;
    drop(events);

    // The command line: what it says when something is wrong.
    let ca = dir.join("ca.pem").display().to_string();
    let file = dir.join("token");
    std::fs::write(&file, format!("{secret}\n")).unwrap();
    let file = file.display().to_string();
    let https = format!("https://localhost:{port}");
    let text = |o: &Output| String::from_utf8_lossy(&o.stderr).into_owned() + &String::from_utf8_lossy(&o.stdout);
    let good = torpor(&https, &["--ca-file", &ca, "--token-file", &file, "--json", "ps"], &[]);
    assert!(good.status.success(), "{}", text(&good));
    let good = torpor(&format!("tcp://127.0.0.1:{plain}"), &["token", "ls"], &[("TORPOR_TOKEN", &secret)]);
    assert!(good.status.success() && text(&good).contains("admin"), "{}", text(&good));
    let other_ca = dir.join("ca2.pem").display().to_string();
    for (host, arguments, status, said) in [
        (&*https, &["--ca-file", &ca, "ps"][..], 1, "needs a token"),
        (&https, &["--token-file", &file, "ps"], 3, "--ca-file"),
        (&https, &["--ca-file", &other_ca, "ps"], 3, "UnknownIssuer"),
        (&https, &["--ca-file", "/nosuch", "ps"], 1, "/nosuch"),
        (&https, &["--ca-file", &file, "ps"], 1, "no certificate"),
        (&https, &["--token-file", "/nosuch", "ps"], 1, "/nosuch"),
        (&*format!("https://localhost:{plain}"), &["--ca-file", &ca, "ps"], 3, "by TLS"),
        (&*format!("tcp://127.0.0.1:{}", free()), &["ps"], 3, "[[listen]]"),
        ("tcp://127.0.0.1", &["ps"], 1, "tcp://HOST:PORT"),
    ] {
        let out = torpor(host, arguments, &[]);
        assert!(out.status.code() == Some(status) && text(&out).contains(said), "{host} {arguments:?}: {}", text(&out));
    }
    // A wrong token's text is not in what is said.
    let wrong = format!("{}x", &secret[..secret.len() - 1]);
    let out = torpor(&format!("tcp://127.0.0.1:{plain}"), &["ps"], &[("TORPOR_TOKEN", &wrong)]);
    assert!(text(&out).contains("the token is not good") && !text(&out).contains(&wrong[20..]), "{}", text(&out));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_listened_on_is_said_plainly() {
    if !daemon::ready() {
        return;
    }
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap();
    let d = Daemon::start();
    let start = |config: &str| {
        let file = d.dir.join("other.toml");
        std::fs::write(&file, config).unwrap();
        let state = d.dir.join("other-state").display().to_string();
        let socket = d.dir.join("other.sock");
        let out = Command::new(env!("CARGO_BIN_EXE_torpord"))
            .args(["--config", file.to_str().unwrap(), "--state-dir", &state, "--socket", socket.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(!out.status.success() && !socket.exists());
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    let said = start(&format!("[[listen]]\naddress = '{taken}'\n"));
    assert!(
        said.contains(&format!("(process {}) listens there", std::process::id())) && said.contains("hint:"),
        "{said}"
    );
    let said = start("[[listen]]\naddress = '192.0.2.1:80'\n");
    assert!(said.contains("no such address"), "{said}");
    let said = start("state-dir = '/x'\n[[listen]]\naddress = 'localhost:80'\n");
    assert!(said.contains("line 3") && said.contains("127.0.0.1:8443"), "{said}");
    let said = start("[[listen]]\naddress = '127.0.0.1:0'\ntls = { cert = '/nosuch', key = '/nosuch' }\n");
    assert!(said.contains("/nosuch"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_and_slow_ones_shut_nobody_out() {
    if !daemon::ready() {
        return;
    }
    let certs = tempfile::tempdir().unwrap();
    authority(certs.path(), "ca");
    certificate(certs.path(), "ca", "one");
    let (port, secure) = (free(), free());
    let config = format!(
        "[[listen]]\naddress = '127.0.0.1:{port}'\n[[listen]]\naddress = '127.0.0.1:{secure}'\n\
         tls = {{ cert = '{0}/one.pem', key = '{0}/one.key' }}\n",
        certs.path().display()
    );
    let d = Daemon::with(Options { config, ..Options::default() });
    let secret = admin(&d).await;
    let client = |host: &str| {
        let ca = certs.path().join("ca.pem");
        Client::trusting(host, Some(&ca)).unwrap().with_token(&secret).unwrap()
    };
    let clients = [client(&format!("tcp://127.0.0.1:{port}")), client(&format!("https://localhost:{secure}"))];
    let in_time = async || {
        for c in clients.iter().chain([&d.client]) {
            let begun = Instant::now();
            c.pods().await.unwrap();
            assert!(begun.elapsed() < Duration::from_secs(8), "waited for {:?}", begun.elapsed());
        }
    };
    let open = |to: u16, begin: &[u8]| {
        let mut s = TcpStream::connect(("127.0.0.1", to)).unwrap();
        // It may be closed for others already.
        let _ = s.write_all(begin);
        s
    };
    let begun = Instant::now();
    for to in [port, secure] {
        let mut held = Vec::new();
        for n in 0..5000 {
            // Nothing, the half of a head, the half of a handshake.
            held.push(open(to, [&b""[..], b"GET /health HTTP/1.1\r\nhost: ", &[0x16, 3, 1, 2, 0, 1]][n % 3]));
            if n % 1000 == 999 {
                in_time().await;
            }
        }
        // One more letter of the head now and then does not keep it open.
        let mut slow = open(to, b"GET /health HTTP/1.1\r\nx: ");
        let end = Instant::now() + Duration::from_secs(25);
        while slow.write_all(b"y").is_ok() {
            assert!(Instant::now() < end, "a head without end is waited for");
            std::thread::sleep(Duration::from_millis(500));
        }
        in_time().await;
    }
    // Heads that are too large.
    for head in [
        format!("GET /v1/pods HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(2 << 20)),
        format!("GET /v1/pods HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(20_000)),
        format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "y".repeat(2 << 20)),
        format!("GET /v1/pods HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\r\n", "y".repeat(100_000)),
    ] {
        let mut s = open(port, head.as_bytes());
        s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut text = Vec::new();
        let _ = s.read_to_end(&mut text);
        assert!(!String::from_utf8_lossy(&text).starts_with("HTTP/1.1 2"), "{}", String::from_utf8_lossy(&text));
    }
    in_time().await;
    eprintln!("took {:?}", begun.elapsed());
    assert!(!d.log().contains("panicked"), "{}", d.log());
}

/// What is in files below a directory.
fn found(dir: &Path, word: &str, all: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found(&entry.path(), word, all);
        } else if kind.is_file() {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            if memchr::memmem::find(&bytes, word.as_bytes()).is_some() {
                all.push(entry.path().display().to_string());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_kept_or_logged_anywhere() {
    if !daemon::ready() {
        return;
    }
    let port = free();
    let config = format!("[[listen]]\naddress = '127.0.0.1:{port}'\nquery-token = true\n");
    let env = vec![("TORPOR_LOG".into(), "trace".into())];
    let d = Daemon::with(Options { config, env, ..Options::default() });
    let secret = admin(&d).await;
    let c = Client::new(&format!("tcp://127.0.0.1:{port}")).unwrap().with_token(&secret).unwrap();
    let ticket = c.ticket().await.unwrap().ticket;
    let rotated =
        c.rotate_token(&secret[7..19], &torpor::api::types::RotateToken { overlap_seconds: 60 }).await.unwrap().secret;
    let wrong = format!("{}{}", &secret[..52], "0".repeat(32));
    for query in
        [format!("ticket={ticket}"), format!("token={secret}"), format!("token={wrong}"), format!("ticket={wrong}")]
    {
        let mut s = TcpStream::connect(("127.0.0.1", port)).unwrap();
        s.write_all(format!("GET /v1/events?{query} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).unwrap();
        let mut head = [0; 12];
        s.read_exact(&mut head).unwrap();
        assert_eq!(&head[9..], if query.ends_with(&wrong) { b"401" } else { b"200" }, "{query}");
    }
    assert_eq!(code(&c.clone().with_token(&wrong).unwrap().pods().await.unwrap_err()), "unauthorized");
    c.with_token(&rotated).unwrap().pods().await.unwrap();
    // The whole text or its secret part: neither is anywhere in the state directory, the database or the log.
    let mut all = Vec::new();
    for word in [&secret, &rotated, &wrong, &ticket] {
        found(&d.dir, word.rsplit('_').next().unwrap(), &mut all);
    }
    assert_eq!(all, Vec::<String>::new());
    assert!(d.log().contains("TRACE") || d.log().contains("DEBUG"), "the log says too little to be a proof");
}

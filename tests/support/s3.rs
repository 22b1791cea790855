//! A real S3 server, and a proxy before it that misbehaves on request.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by test binaries that each use a part of it"
)]
#![allow(unsafe_code, reason = "the environment is set before other threads read it: a test of its own process")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The key that must be seen nowhere.
pub const SECRET: &str = "canary-of-the-store-3f9c";

/// A server with an empty bucket called `bucket`.
pub struct Server {
    child: Child,
    pub port: u16,
    dir: tempfile::TempDir,
}

fn environment(port: u16) -> [(&'static str, String); 4] {
    [
        ("AWS_ACCESS_KEY_ID", "key".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
    ]
}

fn set_environment(port: u16) {
    for (name, value) in environment(port) {
        // SAFETY: nextest runs each test in a process of its own, and nothing else in it reads the environment now.
        unsafe { std::env::set_var(name, value) };
    }
}

impl Server {
    /// None without `s3s-fs`.
    pub fn start() -> Option<Self> {
        let there = Command::new("s3s-fs").arg("--help").output().is_ok();
        if !crate::support::has("s3", there) {
            return None;
        }
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        std::fs::create_dir(dir.path().join("bucket")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("s3s-fs")
            .args(["--access-key", "key", "--secret-key", SECRET, "--host", "127.0.0.1", "--port", &port.to_string()])
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "s3s-fs does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(Server { child, port, dir })
    }

    pub fn environment(&self) -> Vec<(String, String)> {
        environment(self.port).map(|(k, v)| (k.to_owned(), v)).to_vec()
    }

    pub fn set_environment(&self) {
        set_environment(self.port);
    }

    /// Where it keeps its objects.
    pub fn root(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        let _ = self.dir.path();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Connections are closed at once.
    Refuse,
    /// The connection breaks after so many bytes of a request.
    Reset(usize),
    /// An answer with that status, whatever is asked.
    Status(u16),
    /// Connections are taken and never answered.
    Silence,
    /// Every second connection is closed at once.
    EverySecond,
    /// Answers come at 1 KiB a second.
    Crawl,
    /// An answer breaks off after so many bytes.
    CutAnswer(usize),
    /// One bit of every answer is another, so many bytes after its head.
    FlipAnswer(usize),
    /// What is asked is done, and the connection breaks before the answer.
    LateSuccess,
    /// The same, once.
    LateOnce,
}

pub struct Proxy {
    port: u16,
    fault: Arc<Mutex<Fault>>,
}

impl Proxy {
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let fault = Arc::new(Mutex::new(Fault::None));
        let (now, count) = (Arc::clone(&fault), AtomicU64::new(0));
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let n = count.fetch_add(1, Ordering::Relaxed);
                let fault = Arc::clone(&now);
                std::thread::spawn(move || pass(near, to, &fault, n));
            }
        });
        Proxy { port, fault }
    }

    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    pub fn set_environment(&self) {
        set_environment(self.port);
    }
}

/// Passes answers on, as the present fault says.
fn answer(far: &mut TcpStream, near: &mut TcpStream, fault: &Mutex<Fault>) {
    let mut bytes = [0; 16 * 1024];
    let (mut passed, mut body) = (0, None::<usize>);
    while let Ok(n) = far.read(&mut bytes) {
        if n == 0 {
            return;
        }
        let piece = &mut bytes[..n];
        if piece.starts_with(b"HTTP/1.1 ") {
            (passed, body) = (0, None);
        }
        let head = piece.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
        let now = *fault.lock().unwrap();
        let sent = match now {
            Fault::LateSuccess => return,
            Fault::LateOnce => {
                *fault.lock().unwrap() = Fault::None;
                return;
            }
            Fault::Crawl => piece.chunks(256).all(|c| {
                std::thread::sleep(std::time::Duration::from_millis(250));
                *fault.lock().unwrap() == Fault::Crawl && near.write_all(c).is_ok()
            }),
            Fault::CutAnswer(most) => {
                let room = most.saturating_sub(passed).min(n);
                near.write_all(&piece[..room]).is_ok() && room == n
            }
            Fault::FlipAnswer(at) => {
                let before = body.unwrap_or(0);
                let begin = if body.is_none() { head } else { Some(0) };
                if let Some(begin) = begin {
                    if (before..before + n - begin).contains(&at) {
                        piece[begin + at - before] ^= 1;
                    }
                    body = Some(before + n - begin);
                }
                near.write_all(piece).is_ok()
            }
            _ => near.write_all(piece).is_ok(),
        };
        if !sent {
            return;
        }
        passed += n;
    }
}

fn pass(mut near: TcpStream, to: u16, fault: &Arc<Mutex<Fault>>, n: u64) {
    match *fault.lock().unwrap() {
        Fault::Refuse => return,
        Fault::EverySecond if n.is_multiple_of(2) => return,
        Fault::Silence => {
            let mut sink = [0; 4096];
            while near.read(&mut sink).is_ok_and(|n| n > 0) {}
            return;
        }
        _ => {}
    }
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", to)) else { return };
    let (mut near_read, mut far_read) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    let watched = Arc::clone(fault);
    let mut back = near.try_clone().unwrap();
    let answers = Arc::clone(fault);
    std::thread::spawn(move || {
        answer(&mut far_read, &mut near, &answers);
        let _ = near.shutdown(std::net::Shutdown::Both);
    });
    let mut bytes = [0; 16 * 1024];
    let mut passed = 0;
    // The fault is looked at for every piece: connections are kept, and a fault set later must reach them.
    while let Ok(n) = near_read.read(&mut bytes) {
        if n == 0 {
            break;
        }
        passed += n;
        let now = *watched.lock().unwrap();
        match now {
            Fault::Status(status) => {
                let _ = write!(back, "HTTP/1.1 {status} Fault\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
                break;
            }
            Fault::Refuse => break,
            Fault::Reset(after) if passed > after => break,
            Fault::Silence => {
                while near_read.read(&mut bytes).is_ok_and(|n| n > 0) {}
                break;
            }
            _ => {}
        }
        if far.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _ = (far.shutdown(std::net::Shutdown::Both), back.shutdown(std::net::Shutdown::Both));
}

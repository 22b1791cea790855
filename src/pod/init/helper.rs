//! What init does as a program of its own, started in the pod like any other: files in and out, one HTTP question, SFTP, scp's
//! older protocol, and a connection.
//!
//! It never holds more than a window of an archive. Input is frames: `length u32`, then so many bytes; a length of 0 is the
//! end of the archive and [`NOTHING`] says only that somebody is still there. Output of `put` is how many bytes of it were
//! taken so far (u64, again and again). Of `get` it is `length u32` and as many bytes of JSON about the path, then the
//! archive, of which it sends as much as was granted by frames of input that are one u32. An end of input before that, or a
//! silence of a minute, means that nobody is there any more.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::channel::files::{NOTHING, Trouble};
use crate::model::{Error, Result};
use crate::tree::{Links, Owner, Place, Put, Reader, pack, stat};

/// After such a silence nobody is there any more.
const SILENCE: u16 = 60_000;
/// Bytes taken before that is said.
const SAID: u64 = 64 * 1024;
/// Bytes read or written at once.
const PIPE: usize = 64 * 1024;
/// How long an HTTP question may take at most.
const ANSWER: Duration = Duration::from_secs(300);

/// Does what its arguments say; its exit code.
pub fn run(args: &[String]) -> i32 {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["put", path] => put(path),
        ["get", path, name] => get(path, name),
        ["http", port, path] => return http(port, path),
        ["connect", ref to @ ..] => return told(super::connect::run(to)),
        ["sftp"] => return told(sftp()),
        ["scp", ref arguments @ ..] => {
            let out = std::io::BufWriter::with_capacity(PIPE, std::io::stdout().lock());
            return super::scp::run(arguments, std::io::BufReader::with_capacity(PIPE, std::io::stdin()), out);
        }
        _ => Err(Error::invalid("not known")),
    };
    match done {
        Ok(()) => 0,
        Err(e) => {
            let trouble = Trouble { code: e.code(), message: e.report(), hint: e.hint_text().map(str::to_owned) };
            let _ = std::io::stderr().write_all(&serde_json::to_vec(&trouble).unwrap_or_default());
            1
        }
    }
}

/// Says why it failed, to people.
fn told(done: std::io::Result<()>) -> i32 {
    match done {
        Ok(()) => 0,
        Err(e) => {
            let _ = std::io::stderr().write_all(format!("torpor: {e}\n").as_bytes());
            1
        }
    }
}

/// As sshd's: at home.
fn sftp() -> std::io::Result<()> {
    if let Some(home) = std::env::var_os("HOME") {
        let _ = std::env::set_current_dir(home);
    }
    let mut input = std::io::BufReader::with_capacity(PIPE, std::io::stdin());
    super::sftp::serve(&mut input, &mut std::io::stdout().lock())
}

fn gone() -> std::io::Error {
    std::io::Error::new(ErrorKind::ConnectionAborted, "whoever asked has gone")
}

/// Waits for input and fills the buffer. The descriptor itself is read: nothing of it may lie in a buffer of its own.
fn listen(buffer: &mut [u8]) -> std::io::Result<()> {
    let input = std::io::stdin();
    let mut had = 0;
    while had < buffer.len() {
        let mut fds = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(SILENCE))? == 0 {
            return Err(gone());
        }
        match nix::unistd::read(&input, &mut buffer[had..]) {
            Ok(0) => return Err(gone()),
            Ok(n) => had += n,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Writes without a buffer between.
fn say(mut bytes: &[u8]) -> std::io::Result<()> {
    let out = std::io::stdout();
    while !bytes.is_empty() {
        match nix::unistd::write(&out, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// The archive out of frames.
#[derive(Default)]
struct Frames {
    left: usize,
    over: bool,
    taken: u64,
    said: u64,
}

impl Read for Frames {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.left == 0 && !self.over {
            let mut head = [0; 4];
            listen(&mut head)?;
            match u32::from_le_bytes(head) {
                NOTHING => {}
                0 => self.over = true,
                n => self.left = n as usize,
            }
        }
        let most = into.len().min(self.left);
        if most == 0 {
            return Ok(0);
        }
        listen(&mut into[..most])?;
        self.left -= most;
        self.taken += most as u64;
        if self.taken >= self.said + SAID {
            self.said = self.taken;
            say(&self.taken.to_le_bytes())?;
        }
        Ok(most)
    }
}

fn put(path: &str) -> Result<()> {
    let mut archive = Reader::new(Frames::default());
    Place::open(Path::new(path), Put { links: Links::Below, owners: true })?.fill(&mut archive)?;
    archive.drain()
}

/// Output that waits until it is wanted.
#[derive(Default)]
struct Wanted {
    granted: u64,
}

impl Write for Wanted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        while self.granted == 0 {
            let mut more = [0; 4];
            listen(&mut more)?;
            self.granted += u64::from(u32::from_le_bytes(more));
        }
        let most = bytes.len().min(usize::try_from(self.granted).unwrap_or(usize::MAX));
        say(&bytes[..most])?;
        self.granted -= most as u64;
        Ok(most)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An empty name: only what is there.
fn get(path: &str, name: &str) -> Result<()> {
    let path = Path::new(path);
    let about = serde_json::to_vec(&stat(path, false)?).unwrap_or_default();
    let head = u32::try_from(about.len()).unwrap_or(0).to_le_bytes();
    say(&[&head[..], &about].concat()).map_err(|e| Error::internal("answer").because(e))?;
    if name.is_empty() {
        return Ok(());
    }
    let mut out = std::io::BufWriter::with_capacity(64 * 1024, Wanted::default());
    pack(path, name.as_bytes(), Owner::Kept, false, &mut out)
}

/// Asks once. What came back is printed; 0 if it was a 2xx or 3xx.
fn http(port: &str, path: &str) -> i32 {
    let asked = || -> std::io::Result<(bool, Vec<u8>)> {
        let port: u16 = port.parse().map_err(std::io::Error::other)?;
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut head = Vec::new();
        // A little of the body too: it says what is wrong.
        stream.take(2048).read_to_end(&mut head)?;
        let good = head.starts_with(b"HTTP/1.") && matches!(head.get(9), Some(b'2' | b'3'));
        Ok((good, head))
    };
    match asked() {
        Ok((good, head)) => {
            let text = String::from_utf8_lossy(&head).into_owned();
            let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
            let _ = say(format!("{}\n{body}", head.lines().next().unwrap_or_default()).as_bytes());
            i32::from(!good)
        }
        Err(e) => {
            let _ = say(format!("GET {path} on port {port}: {e}").as_bytes());
            1
        }
    }
}

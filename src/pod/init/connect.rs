//! A connection from inside a pod: this program's input goes to it, and what comes of it is this program's output, after one byte
//! that says that it is there.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::{read, write};

/// How long a connection is tried for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Said first.
const REACHED: &[u8] = &[1];
const PIECE: usize = 64 * 1024;
/// Bytes read of /etc/hosts.
const MOST: u64 = 1 << 20;

/// Connects to a Unix socket's path, or to a host and a port, and passes all on until the other side has said all.
pub(super) fn run(to: &[&str]) -> Result<()> {
    let socket: OwnedFd = match to {
        [path] if path.starts_with('/') => UnixStream::connect(path)?.into(),
        [host, port] => tcp(host, port.parse().map_err(|_| Error::other("no such port"))?)?.into(),
        _ => return Err(Error::other("what to connect to is not known")),
    };
    let (input, output) = (std::io::stdin(), std::io::stdout());
    write(&output, REACHED)?;
    for fd in [input.as_fd(), output.as_fd(), socket.as_fd()] {
        super::set_nonblocking(fd);
    }
    pass(input.as_fd(), output.as_fd(), socket.as_fd())
}

fn tcp(host: &str, port: u16) -> Result<TcpStream> {
    let mut last = Error::new(ErrorKind::NotFound, format!("{host}: no such host"));
    for address in addresses(host) {
        match TcpStream::connect_timeout(&SocketAddr::from((address, port)), PATIENCE) {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// What a name stands for. This program is static and resolves no names itself: the pod's own programs know how.
fn addresses(host: &str) -> Vec<IpAddr> {
    use std::io::Read;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = host.parse() {
        return vec![address];
    }
    if host.is_empty() || host.eq_ignore_ascii_case("localhost") {
        return vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    let mut hosts = String::new();
    if let Ok(file) = std::fs::File::open("/etc/hosts") {
        let _ = file.take(MOST).read_to_string(&mut hosts);
    }
    let named = in_hosts(&hosts, host);
    if !named.is_empty() || host.starts_with('-') {
        return named;
    }
    let asked = Command::new("getent").args(["ahosts", host]).output();
    let said = asked.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let mut all: Vec<IpAddr> = said.lines().filter_map(|l| l.split_whitespace().next()?.parse().ok()).collect();
    all.dedup();
    all
}

fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let lines = text.lines().map(|l| l.split('#').next().unwrap_or_default().split_whitespace());
    lines
        .filter_map(|mut words| {
            let address = words.next()?.parse().ok()?;
            words.any(|w| w.eq_ignore_ascii_case(host)).then_some(address)
        })
        .collect()
}

/// One direction.
struct Way<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    held: Vec<u8>,
    over: bool,
}

impl<'a> Way<'a> {
    fn new(from: BorrowedFd<'a>, to: BorrowedFd<'a>) -> Self {
        Way { from, to, held: Vec::new(), over: false }
    }

    /// What it waits for.
    fn waits(&self) -> Option<PollFd<'a>> {
        match (self.held.is_empty(), self.over) {
            (false, _) => Some(PollFd::new(self.to, PollFlags::POLLOUT)),
            (true, false) => Some(PollFd::new(self.from, PollFlags::POLLIN)),
            (true, true) => None,
        }
    }

    /// Goes on as far as it can. Whether just now the last was passed on.
    fn go_on(&mut self, buffer: &mut [u8]) -> Result<bool> {
        if self.held.is_empty() && !self.over {
            match read(self.from, buffer) {
                Ok(n) => {
                    self.over = n == 0;
                    self.held.extend_from_slice(&buffer[..n]);
                    if self.over {
                        return Ok(true);
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
                Err(e) => return Err(e.into()),
            }
        }
        if !self.held.is_empty() {
            match write(self.to, &self.held) {
                Ok(n) => drop(self.held.drain(..n)),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(false)
    }
}

fn pass(input: BorrowedFd<'_>, output: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> Result<()> {
    let raw = std::os::fd::AsRawFd::as_raw_fd(&socket);
    let mut buffer = vec![0; PIECE];
    let (mut up, mut down) = (Way::new(input, socket), Way::new(socket, output));
    loop {
        let mut fds: Vec<PollFd<'_>> = [up.waits(), down.waits()].into_iter().flatten().collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        match up.go_on(&mut buffer) {
            Ok(true) => drop(shutdown(raw, Shutdown::Write)),
            Ok(false) => {}
            // The other side reads no more; what it says may still come.
            Err(_) => (up.over, up.held) = (true, Vec::new()),
        }
        if down.go_on(&mut buffer)? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn names_of_the_pod_s_own_file() {
        let text = "127.0.0.1 localhost\n10.1.2.3 web Web.local # db\n::1 web\nrubbish web\n";
        assert_eq!(in_hosts(text, "WEB"), ["10.1.2.3".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
        assert!(in_hosts(text, "db").is_empty());
        assert_eq!(addresses("[::1]"), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        assert_eq!(addresses("localhost").len(), 2);
    }

    #[test]
    fn all_is_passed_on_both_ways_and_each_end_is_told() {
        let (mut near, far_in) = UnixStream::pair().unwrap();
        let (far_out, mut heard) = UnixStream::pair().unwrap();
        let (socket, mut server) = UnixStream::pair().unwrap();
        let passing = std::thread::spawn(move || {
            for s in [&far_in, &far_out, &socket] {
                s.set_nonblocking(true).unwrap();
            }
            pass(far_in.as_fd(), far_out.as_fd(), socket.as_fd())
        });
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let (writes, copy) = (
            sent.clone(),
            std::thread::spawn(move || {
                let mut all = Vec::new();
                server.read_to_end(&mut all).unwrap();
                server.write_all(&all).unwrap();
                all
            }),
        );
        let writing = std::thread::spawn(move || {
            near.write_all(&writes).unwrap();
            near.shutdown(std::net::Shutdown::Write).unwrap();
            near
        });
        let mut back = Vec::new();
        heard.read_to_end(&mut back).unwrap();
        assert!(copy.join().unwrap() == sent && back == sent);
        passing.join().unwrap().unwrap();
        drop(writing.join().unwrap());
    }
}

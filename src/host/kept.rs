//! Sockets that outlive torpord: the service manager keeps a copy of each while torpord is away, and hands them to the next one
//! (sd_notify(3): FDSTORE; sd_listen_fds(3)). Who connects meanwhile waits. Without a service manager nothing is kept.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Mutex, PoisonError};

use libc::{AF_INET, AF_UNIX, SOCK_DGRAM, SOCK_STREAM};
use listenfd::ListenFd;
use rustix::net::{AddressFamily, Shutdown, SocketType, ipproto, sockopt};

use super::notify::Manager;
use crate::model::Protocol;
use crate::plan::kept::{self, Kept, Seen};

/// What is kept, and by whom.
#[derive(Debug, Default)]
pub struct Keeper {
    manager: Option<Manager>,
    /// What came back and is not served yet.
    back: Mutex<BTreeMap<Kept, OwnedFd>>,
}

impl Keeper {
    /// Takes what was handed to this process, once; with it the API's own socket, if a socket unit has made it. What is not what
    /// its name says is closed and forgotten. To be called before anything is started, which would inherit it, and before there are
    /// threads: the environment is changed.
    pub fn from_environment() -> (Self, Option<UnixListener>) {
        let mut handed = ListenFd::from_env();
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names: Vec<&str> = names.split(':').collect();
        if names.len() != handed.len() {
            names = vec!["unknown"; handed.len()];
        }
        let mut all: Vec<Option<OwnedFd>> = (0..handed.len()).map(|at| take(&mut handed, at)).collect();
        let seen = |fd: &Option<OwnedFd>| fd.as_ref().map_or(Seen::Other, look);
        let found: Vec<_> = names.iter().map(|n| (*n).to_owned()).zip(all.iter().map(seen)).collect();
        let sorted = kept::sort(&found);
        let api = sorted.api.and_then(|at| all[at].take()).map(UnixListener::from);
        let back: BTreeMap<Kept, OwnedFd> =
            sorted.kept.into_iter().filter_map(|(kept, at)| Some((kept, all[at].take()?))).collect();
        let keeper = Keeper { manager: Manager::from_environment(), back: Mutex::default() };
        for name in sorted.forget {
            tracing::warn!(name, "a socket that was handed over is not what its name says: it is not served");
            keeper.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
            if let Some((kept, socket)) = Kept::of(&name).and_then(|k| back.get_key_value(&k)) {
                keeper.keep(*kept, socket);
            }
        }
        (Keeper { back: Mutex::new(back), ..keeper }, api)
    }

    /// Whether somebody keeps what is given.
    pub fn keeps(&self) -> bool {
        self.manager.is_some()
    }

    /// The socket, if it came back; it is kept on.
    pub fn take(&self, what: Kept) -> Option<OwnedFd> {
        self.back.lock().unwrap_or_else(PoisonError::into_inner).remove(&what)
    }

    /// Has a socket kept.
    pub fn keep(&self, what: Kept, socket: &impl AsFd) {
        self.tell(&format!("FDSTORE=1\nFDNAME={what}"), Some(socket.as_fd()));
    }

    /// Has a socket kept no longer, and makes its address free: for this process at once, for others when all copies are closed.
    pub fn forget(&self, what: Kept, socket: &impl AsFd) {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={what}"), None);
        give_up(what, socket);
    }

    /// Forgets what came back and is not wanted any more.
    pub fn retain(&self, wanted: impl Fn(Kept) -> bool) {
        let mut back = self.back.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<Kept> = back.keys().copied().filter(|what| !wanted(*what)).collect();
        for what in gone {
            if let Some(socket) = back.remove(&what) {
                tracing::info!(socket = %what, "a socket that was kept is not wanted any more");
                self.forget(what, &socket);
            }
        }
    }

    fn tell(&self, state: &str, socket: Option<BorrowedFd<'_>>) {
        if let Some(manager) = &self.manager
            && let Err(e) = manager.tell(state, socket)
        {
            tracing::warn!(error = %e, state, "tell the service manager which sockets to keep");
        }
    }
}

/// The address is free for this process from now on, though copies of the socket are still open.
pub fn give_up(what: Kept, socket: &impl AsFd) {
    let _ = match what {
        Kept::Port(Protocol::Udp, _) => sockopt::set_socket_reuseport(socket, true),
        Kept::Port(Protocol::Tcp, _) | Kept::Listener(_) => rustix::net::shutdown(socket, Shutdown::Both),
    };
}

/// One of the descriptors that were handed over; one that can't be used is closed.
fn take(handed: &mut ListenFd, at: usize) -> Option<OwnedFd> {
    for (family, kind) in [(AF_UNIX, SOCK_STREAM), (AF_INET, SOCK_STREAM), (AF_INET, SOCK_DGRAM)] {
        if let Ok(Some(socket)) = handed.take_custom(at, family, kind, "socket") {
            return Some(socket);
        }
    }
    if let Ok(Some(raw)) = handed.take_raw_fd(at) {
        let _ = nix::unistd::close(raw);
    }
    None
}

/// What the kernel says of it.
fn look(socket: &OwnedFd) -> Seen {
    let look = || -> rustix::io::Result<Seen> {
        let (family, kind) = (sockopt::socket_domain(socket)?, sockopt::socket_type(socket)?);
        if kind == SocketType::STREAM && !sockopt::socket_acceptconn(socket)? {
            return Ok(Seen::Other);
        }
        if family == AddressFamily::UNIX {
            return Ok(if kind == SocketType::STREAM { Seen::Unix } else { Seen::Other });
        }
        let at = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
        let protocol = sockopt::socket_protocol(socket)?;
        Ok(if kind == SocketType::STREAM && protocol == Some(ipproto::TCP) {
            Seen::Tcp(at)
        } else if kind == SocketType::DGRAM && protocol == Some(ipproto::UDP) && !sockopt::socket_reuseport(socket)? {
            Seen::Udp(at)
        } else {
            Seen::Other
        })
    };
    look().unwrap_or(Seen::Other)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn the_kernel_tells_what_a_socket_is() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (at, by) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
        let (tcp, udp) = (OwnedFd::from(tcp), OwnedFd::from(udp));
        assert_eq!((look(&tcp), look(&udp)), (Seen::Tcp(at), Seen::Udp(by)));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(look(&UnixListener::bind(dir.path().join("s")).unwrap().into()), Seen::Unix);
        let connected = OwnedFd::from(std::net::TcpStream::connect(at).unwrap());
        let (one, _two) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        for other in [connected, one.into(), file] {
            assert_eq!(look(&other), Seen::Other);
        }
        // One that was given up is not served again, and its address is free though it is still open.
        give_up(Kept::Listener(at), &tcp);
        let std::net::SocketAddr::V4(v4) = by else { panic!() };
        give_up(Kept::Port(Protocol::Udp, v4), &udp);
        assert_eq!((look(&tcp), look(&udp)), (Seen::Other, Seen::Other));
        TcpListener::bind(at).unwrap();
    }
}

//! A UDP port that is held, and what is said to it on this host's loopback.
//!
//! Each client gets a socket of its own towards the pod, so that the pod tells them apart as it would without this process
//! between. Their number is bounded, and one that says nothing for a while is forgotten.

use std::collections::HashMap;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn, recvmsg, sendmsg,
    setsockopt, socket, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::Instant;

/// Clients at once of one port.
const CLIENTS: usize = 256;
/// A client that neither says nor hears anything for so long is forgotten, as the kernel forgets flows.
const QUIET: Duration = Duration::from_secs(120);
/// Bytes of the longest datagram.
const LONGEST: usize = 65_535;

/// Who says something, and to which of this host's addresses: the answer must come from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Client {
    from: SocketAddrV4,
    to: Ipv4Addr,
}

/// A client's way to the pod.
struct Way {
    socket: Arc<UdpSocket>,
    target: SocketAddrV4,
    used: Arc<Mutex<Instant>>,
    task: tokio::task::AbortHandle,
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes a port of an address.
pub(super) fn bind(at: SocketAddrV4) -> std::io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    // Shared only while it is bound: with one that was given up and is not closed yet, and with nobody afterwards.
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    nix::sys::socket::bind(socket.as_raw_fd(), &SockaddrIn::from(at))?;
    setsockopt(&socket, sockopt::ReusePort, &false)?;
    Ok(socket)
}

/// Makes a bound socket ready to be served.
pub(super) fn open(socket: OwnedFd) -> std::io::Result<UdpSocket> {
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    let socket = std::net::UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Passes datagrams on, there and back, for as long as it is not dropped.
pub(super) async fn serve(socket: UdpSocket, target: watch::Receiver<Option<SocketAddrV4>>) {
    let socket = Arc::new(socket);
    let mut ways: HashMap<Client, Way> = HashMap::new();
    let mut bytes = vec![0; LONGEST];
    loop {
        let got = socket.async_io(Interest::READABLE, || receive(&socket, &mut bytes)).await;
        let (size, client) = match got {
            Ok(Some(got)) => got,
            Ok(None) => continue,
            // An error that an earlier answer brought back, or want of memory: neither lasts.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        // All else is led there in the kernel, or is not let in: while somebody flushes the firewall, this is no way around it.
        if !client.to.is_loopback() {
            continue;
        }
        let Some(to) = *target.borrow() else {
            ways.clear();
            continue;
        };
        if ways.get(&client).is_none_or(|w| w.target != to || w.task.is_finished()) {
            ways.remove(&client);
            make_room(&mut ways);
            let Ok(way) = open_way(&socket, client, to).await else { continue };
            ways.insert(client, way);
        }
        if let Some(way) = ways.get(&client) {
            touch(&way.used);
            // Datagrams may get lost: one that finds no room is one of them.
            let _ = way.socket.try_send(&bytes[..size]);
        }
    }
}

fn touch(used: &Mutex<Instant>) {
    *used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
}

fn last(used: &Mutex<Instant>) -> Instant {
    *used.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets those that are quiet; if all talk, the one that is so for the least time.
fn make_room(ways: &mut HashMap<Client, Way>) {
    if ways.len() < CLIENTS {
        return;
    }
    ways.retain(|_, w| !w.task.is_finished());
    let oldest = ways.iter().min_by_key(|(_, w)| last(&w.used)).map(|(c, _)| *c);
    if let (Some(oldest), true) = (oldest, ways.len() >= CLIENTS) {
        ways.remove(&oldest);
    }
}

async fn open_way(near: &Arc<UdpSocket>, client: Client, target: SocketAddrV4) -> std::io::Result<Way> {
    let far = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    far.connect(target).await?;
    // A new socket is not known to take anything yet, and the first datagram must not get lost for that.
    far.writable().await?;
    let (socket, used) = (Arc::new(far), Arc::new(Mutex::new(Instant::now())));
    let task = tokio::spawn(back(Arc::clone(near), Arc::clone(&socket), client, Arc::clone(&used))).abort_handle();
    Ok(Way { socket, target, used, task })
}

/// What the pod says to one client, until both are quiet for long.
async fn back(near: Arc<UdpSocket>, far: Arc<UdpSocket>, client: Client, used: Arc<Mutex<Instant>>) {
    let mut bytes = vec![0; LONGEST];
    loop {
        match tokio::time::timeout_at(last(&used) + QUIET, far.recv(&mut bytes)).await {
            Ok(Ok(size)) => {
                touch(&used);
                let _ = near.async_io(Interest::WRITABLE, || send(&near, &bytes[..size], client)).await;
            }
            // Nobody listens there (any more): the next datagram may find somebody.
            Ok(Err(e)) if e.kind() == ErrorKind::ConnectionRefused => {}
            Ok(Err(_)) => return,
            Err(_) if last(&used) + QUIET <= Instant::now() => return,
            Err(_) => {}
        }
    }
}

fn receive(socket: &UdpSocket, bytes: &mut [u8]) -> std::io::Result<Option<(usize, Client)>> {
    let mut control = nix::cmsg_space!(libc::in_pktinfo);
    let mut into = [IoSliceMut::new(bytes)];
    let got = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut into, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let to = got.cmsgs()?.find_map(|c| match c {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))),
        _ => None,
    });
    let from = got.address.map(|a| SocketAddrV4::new(a.ip(), a.port()));
    Ok(from.zip(to).map(|(from, to)| (got.bytes, Client { from, to })))
}

fn send(socket: &UdpSocket, bytes: &[u8], client: Client) -> std::io::Result<()> {
    let source = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from(client.to).to_be() },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let to = SockaddrIn::from(client.from);
    let control = [ControlMessage::Ipv4PacketInfo(&source)];
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
    Ok(())
}

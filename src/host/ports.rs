//! Host ports, each held by a real socket: a listening one for TCP, a bound one for UDP.
//!
//! Nobody else can take a port that is held. What comes from other hosts, and from the host by its own addresses, is led to
//! the pod in the kernel and never gets here; what is said to 127.0.0.1 is passed on by this process. While a pod sleeps,
//! connections are closed at once, and datagrams are dropped. While torpord is away both wait, if a service manager keeps the sockets.

mod datagrams;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::kept::{self, Keeper};
use crate::model::{Code, Error, Protocol, Result};
use crate::plan::kept::Kept;

/// Ports held by this instance.
pub struct Ports {
    held: Mutex<BTreeMap<(u16, Protocol), Held>>,
    keeper: Arc<Keeper>,
    /// Whether what comes is taken: until it is known where it is to be led, it waits.
    open: watch::Sender<bool>,
}

struct Held {
    target: watch::Sender<Option<SocketAddrV4>>,
    /// The socket once more: the port is free when it is given up, not when the task gets to its end.
    socket: OwnedFd,
    what: Kept,
    keeper: Arc<Keeper>,
    task: AbortHandle,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.task.abort();
        // All copies are one socket: one that is kept for the next torpord must go on.
        if !self.keeper.keeps() {
            kept::give_up(self.what, &self.socket);
        }
    }
}

fn bind(protocol: Protocol, at: SocketAddrV4) -> std::io::Result<OwnedFd> {
    if protocol == Protocol::Udp {
        return datagrams::bind(at);
    }
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(at.into())?;
    Ok(socket.listen(128)?.into_std()?.into())
}

impl Default for Ports {
    /// Ports that nobody keeps.
    fn default() -> Self {
        Ports { held: Mutex::default(), keeper: Arc::default(), open: watch::Sender::new(true) }
    }
}

impl Ports {
    /// Ports whose sockets outlive this process. Nothing that comes is taken before [`Ports::begin`].
    pub fn kept_by(keeper: Arc<Keeper>) -> Self {
        Ports { keeper, open: watch::Sender::new(false), ..Ports::default() }
    }

    /// It is known by now where ports lead: what comes, and what has come, is led there. What the last torpord held and this one
    /// does not is given up.
    pub fn begin(&self) {
        self.keeper.retain(|_| false);
        self.open.send_replace(true);
    }

    /// This process ends: what comes from now on waits for the next, if the sockets are kept.
    pub fn end(&self) {
        if self.keeper.keeps() {
            self.open.send_replace(false);
        }
    }

    /// Holds a port, of one address of the host or of all. One that is held already stays so.
    ///
    /// # Errors
    /// [`Code::PortTaken`]: another program listens on it. [`Code::InvalidRequest`]: the host has no such address.
    pub fn reserve(&self, port: u16, protocol: Protocol, address: Option<Ipv4Addr>) -> Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.contains_key(&(port, protocol)) {
            return Ok(());
        }
        let at = SocketAddrV4::new(address.unwrap_or(Ipv4Addr::UNSPECIFIED), port);
        let what = Kept::Port(protocol, at);
        let taken = |e: std::io::Error| {
            if e.kind() == std::io::ErrorKind::AddrNotAvailable {
                return Error::invalid(format!("{} is no address of this host", at.ip())).hint(
                    "`ip -4 address` lists them; 127.0.0.1 is for the host's own programs, and none for all addresses",
                );
            }
            let flag = if protocol == Protocol::Tcp { "-ltnp" } else { "-lunp" };
            Error::new(Code::PortTaken, format!("take host port {port}/{protocol}"))
                .because(e)
                .hint(format!("`ss {flag} 'sport = :{port}'` tells who has it; ask for another port, or for none"))
        };
        let socket = match self.keeper.take(what) {
            Some(socket) => socket,
            None => {
                let socket = bind(protocol, at).map_err(taken)?;
                self.keeper.keep(what, &socket);
                socket
            }
        };
        let (target, receiver) = watch::channel(None);
        let task = match self.serve(protocol, &socket, receiver) {
            Ok(task) => task,
            Err(e) => {
                self.keeper.forget(what, &socket);
                return Err(taken(e));
            }
        };
        held.insert((port, protocol), Held { target, socket, what, keeper: Arc::clone(&self.keeper), task });
        Ok(())
    }

    /// Passes on what comes to a socket, for as long as ports are open.
    fn serve(
        &self,
        protocol: Protocol,
        socket: &OwnedFd,
        target: watch::Receiver<Option<SocketAddrV4>>,
    ) -> std::io::Result<AbortHandle> {
        let socket = socket.try_clone()?;
        let mut open = self.open.subscribe();
        let served: Pin<Box<dyn Future<Output = ()> + Send>> = match protocol {
            Protocol::Tcp => {
                let listener = std::net::TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                Box::pin(serve(TcpListener::from_std(listener)?, target))
            }
            Protocol::Udp => Box::pin(datagrams::serve(datagrams::open(socket)?, target)),
        };
        let task = tokio::spawn(async move {
            if open.wait_for(|open| *open).await.is_ok() {
                tokio::select! {
                    () = served => {}
                    _ = open.wait_for(|open| !*open) => {}
                }
            }
        });
        Ok(task.abort_handle())
    }

    /// Holds some free port of a range.
    ///
    /// # Errors
    /// [`Code::Exhausted`]: none is free. [`Code::InvalidRequest`]: the host has no such address.
    pub fn reserve_any(
        &self,
        range: RangeInclusive<u16>,
        protocol: Protocol,
        address: Option<Ipv4Addr>,
        taken: &BTreeSet<(u16, Protocol)>,
    ) -> Result<u16> {
        let (first, last) = (*range.start(), *range.end());
        for port in range.filter(|p| !taken.contains(&(*p, protocol)) && !self.is_held(*p, protocol)) {
            match self.reserve(port, protocol, address) {
                Ok(()) => return Ok(port),
                Err(e) if e.code() == Code::InvalidRequest => return Err(e),
                Err(_) => {}
            }
        }
        Err(Error::new(Code::Exhausted, format!("no host port from {first} to {last} is free"))
            .hint("remove pods that are no longer needed or configure a larger port-range"))
    }

    fn is_held(&self, port: u16, protocol: Protocol) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&(port, protocol))
    }

    /// Those that are held.
    pub fn held(&self) -> BTreeSet<(u16, Protocol)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Where connections and datagrams to 127.0.0.1 are passed on to; none closes or drops them.
    pub fn target(&self, port: u16, protocol: Protocol, to: Option<SocketAddrV4>) {
        if let Some(held) = self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&(port, protocol)) {
            held.target.send_if_modified(|now| std::mem::replace(now, to) != to);
        }
    }

    /// Lets a port go.
    pub fn release(&self, port: u16, protocol: Protocol) {
        if let Some(held) = self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&(port, protocol)) {
            self.keeper.forget(held.what, &held.socket);
        }
    }
}

async fn serve(listener: TcpListener, target: watch::Receiver<Option<SocketAddrV4>>) {
    loop {
        match listener.accept().await {
            Ok((near, _)) => {
                if let Some(to) = *target.borrow() {
                    tokio::spawn(pass_on(near, to, target.clone()));
                }
            }
            // Out of descriptors: there is no event that says when some are free again.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn pass_on(mut near: TcpStream, to: SocketAddrV4, mut target: watch::Receiver<Option<SocketAddrV4>>) {
    let Ok(Ok(mut far)) = tokio::time::timeout(Duration::from_secs(10), TcpStream::connect(to)).await else { return };
    let (_, _) = (near.set_nodelay(true), far.set_nodelay(true));
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        // The pod has gone or sleeps: its end of the connection will never answer.
        _ = target.wait_for(|t| *t != Some(to)) => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_held_port_is_taken_and_leads_to_its_target() {
        let ports = Ports::default();
        let tcp = Protocol::Tcp;
        let port = ports.reserve_any(20_300..=20_400, tcp, None, &BTreeSet::new()).unwrap();
        assert_eq!(Ports::default().reserve(port, tcp, None).unwrap_err().code(), Code::PortTaken);
        let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let std::net::SocketAddr::V4(address) = pod.local_addr().unwrap() else { panic!() };
        ports.target(port, tcp, Some(address));
        let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut inside, _) = pod.accept().await.unwrap();
        inside.write_all(b"hi").await.unwrap();
        let mut said = [0; 2];
        client.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hi");
        // Asleep: what is open ends, what comes is closed.
        ports.target(port, tcp, None);
        assert_eq!(client.read(&mut said).await.unwrap_or(0), 0);
        let mut late = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        assert_eq!(late.read(&mut said).await.unwrap_or(0), 0);
        ports.release(port, tcp);
        ports.reserve(port, tcp, None).unwrap();
    }

    #[tokio::test]
    async fn a_port_of_one_address_is_open_at_that_one_alone() {
        let ports = Ports::default();
        let one = Some(Ipv4Addr::new(127, 0, 0, 7));
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let port = ports.reserve_any(20_500..=20_599, protocol, one, &BTreeSet::new()).unwrap();
            assert_eq!(Ports::default().reserve(port, protocol, None).unwrap_err().code(), Code::PortTaken);
            if protocol == Protocol::Tcp {
                assert!(TcpStream::connect(("127.0.0.7", port)).await.is_ok());
                assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
            }
            // It is nobody's host's: told at once, whatever the range.
            let nowhere = Some(Ipv4Addr::new(192, 0, 2, 77));
            let e = ports.reserve_any(20_500..=20_599, protocol, nowhere, &BTreeSet::new()).unwrap_err();
            assert!(e.code() == Code::InvalidRequest && e.report().contains("192.0.2.77"), "{}", e.report());
        }
    }

    #[tokio::test]
    async fn datagrams_go_there_and_back() {
        let (ports, udp) = (Ports::default(), Protocol::Udp);
        let port = ports.reserve_any(20_420..=20_499, udp, None, &BTreeSet::new()).unwrap();
        assert_eq!(Ports::default().reserve(port, udp, None).unwrap_err().code(), Code::PortTaken);
        // The same number by the other transport is another port.
        ports.reserve(port, Protocol::Tcp, None).unwrap();
        assert_eq!(ports.held().len(), 2);
        let pod = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let std::net::SocketAddr::V4(address) = pod.local_addr().unwrap() else { panic!() };
        ports.target(port, udp, Some(address));
        let mut bytes = [0; 100];
        // Two clients, each of which is one to the pod; one asks by another address of the loopback, and is answered by it.
        for near in ["127.0.0.1", "127.0.0.2"] {
            let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            client.connect((near, port)).await.unwrap();
            for n in 0..3_u8 {
                client.send(&[n; 50]).await.unwrap();
                let (size, from) = pod.recv_from(&mut bytes).await.unwrap();
                assert_eq!((size, bytes[0]), (50, n));
                pod.send_to(&[n + 100], from).await.unwrap();
                assert_eq!((client.recv(&mut bytes).await.unwrap(), bytes[0]), (1, n + 100));
            }
        }
        // Asleep: what comes is dropped. Awake again elsewhere: a client that stays is led there.
        let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(("127.0.0.1", port)).await.unwrap();
        client.send(b"first").await.unwrap();
        pod.recv_from(&mut bytes).await.unwrap();
        ports.target(port, udp, None);
        client.send(b"lost").await.unwrap();
        let elsewhere = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let std::net::SocketAddr::V4(address) = elsewhere.local_addr().unwrap() else { panic!() };
        // The socket takes datagrams in order: the lost one has been dropped when this one is passed on.
        let asked = async {
            loop {
                client.send(b"again").await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        ports.target(port, udp, Some(address));
        tokio::select! {
            () = asked => {}
            got = elsewhere.recv_from(&mut bytes) => assert_eq!(&bytes[..got.unwrap().0], b"again"),
        }
        ports.release(port, udp);
        ports.reserve(port, udp, None).unwrap();
    }
}

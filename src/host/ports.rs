//! Host ports, each held by a real listening socket.
//!
//! Nobody else can take a port that is held. What comes from other hosts, and from the host by its own addresses, is led to
//! the pod in the kernel and never gets here; what is said to 127.0.0.1 is passed on by this process. While a pod sleeps,
//! connections are closed at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::model::{Code, Error, Result};

/// Ports held by this instance.
#[derive(Default)]
pub struct Ports {
    held: Mutex<BTreeMap<u16, Held>>,
}

struct Held {
    target: watch::Sender<Option<SocketAddrV4>>,
    /// The listening socket once more: the port is free when this is dropped, not when the task gets to its end.
    socket: OwnedFd,
    task: AbortHandle,
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        self.task.abort();
    }
}

fn listen(port: u16) -> std::io::Result<(TcpListener, OwnedFd)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::UNSPECIFIED, port).into())?;
    let listener = socket.listen(128)?;
    let again = listener.as_fd().try_clone_to_owned()?;
    Ok((listener, again))
}

impl Ports {
    /// Holds a port. One that is held already stays so.
    ///
    /// # Errors
    /// [`Code::PortTaken`]: another program listens on it.
    pub fn reserve(&self, port: u16) -> Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.contains_key(&port) {
            return Ok(());
        }
        let (listener, socket) = listen(port).map_err(|e| {
            Error::new(Code::PortTaken, format!("take host port {port}"))
                .because(e)
                .hint(format!("`ss -ltnp 'sport = :{port}'` tells who has it; ask for another port, or for none"))
        })?;
        let (target, receiver) = watch::channel(None);
        let task = tokio::spawn(serve(listener, receiver)).abort_handle();
        held.insert(port, Held { target, socket, task });
        Ok(())
    }

    /// Holds some free port of a range.
    ///
    /// # Errors
    /// [`Code::Exhausted`]: none is free.
    pub fn reserve_any(&self, range: RangeInclusive<u16>, taken: &BTreeSet<u16>) -> Result<u16> {
        let (first, last) = (*range.start(), *range.end());
        let free = range.filter(|p| !taken.contains(p)).find(|p| !self.is_held(*p) && self.reserve(*p).is_ok());
        free.ok_or_else(|| {
            Error::new(Code::Exhausted, format!("no host port from {first} to {last} is free"))
                .hint("remove pods that are no longer needed or configure a larger port-range")
        })
    }

    fn is_held(&self, port: u16) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&port)
    }

    /// Those that are held.
    pub fn held(&self) -> BTreeSet<u16> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Where connections to 127.0.0.1 are passed on to; none closes them.
    pub fn target(&self, port: u16, to: Option<SocketAddrV4>) {
        if let Some(held) = self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&port) {
            held.target.send_if_modified(|now| std::mem::replace(now, to) != to);
        }
    }

    /// Lets a port go.
    pub fn release(&self, port: u16) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&port);
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
        let port = ports.reserve_any(20_300..=20_400, &BTreeSet::new()).unwrap();
        assert_eq!(Ports::default().reserve(port).unwrap_err().code(), Code::PortTaken);
        let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let std::net::SocketAddr::V4(address) = pod.local_addr().unwrap() else { panic!() };
        ports.target(port, Some(address));
        let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut inside, _) = pod.accept().await.unwrap();
        inside.write_all(b"hi").await.unwrap();
        let mut said = [0; 2];
        client.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hi");
        // Asleep: what is open ends, what comes is closed.
        ports.target(port, None);
        assert_eq!(client.read(&mut said).await.unwrap_or(0), 0);
        let mut late = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        assert_eq!(late.read(&mut said).await.unwrap_or(0), 0);
        ports.release(port);
        ports.reserve(port).unwrap();
    }
}

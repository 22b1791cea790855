//! Listeners on TCP, with TLS or without.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router, middleware};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::auth::{self, Guard, Peer};
use super::connections::{Client, Connection};
use super::cut::{Cut, Holder};
use super::serve::{self, Accept, HEAD};
use super::tls::Certificate;
use super::{failures, metrics, routes, surface};
use crate::config::listen::Listen;
use crate::daemon::core::Core;
use crate::daemon::surfaces::containers::Pool;
use crate::host::kept::Keeper;
use crate::host::listeners;
use crate::model::{Code, Error, Result};
use crate::plan::kept::Kept;

/// Connections that wait to be accepted; the kernel takes its own limit if that is lower.
const BACKLOG: u32 = 4096;
/// A client of whom nothing was heard for so long is asked whether it is there: a host that went away says no goodbye, and what it
/// waits for may never come.
const SILENT: Duration = Duration::from_secs(60);

/// A listening address, not served yet.
pub struct Listener {
    listen: Listen,
    socket: TcpListener,
    address: SocketAddr,
    certificate: Option<Arc<Certificate>>,
}

impl Accept for TcpListener {
    type Stream = (TcpStream, SocketAddr);
    async fn accept(&self) -> io::Result<(Self::Stream, Client)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        let _ = stream.set_nodelay(true);
        let _ = listeners::keep_alive(&stream, SILENT);
        Ok(((stream, peer), Client::Address(failures::household(peer.ip()))))
    }
}

impl Listener {
    /// Takes the address, or what the service manager kept of it, and reads certificate and key.
    ///
    /// # Errors
    /// Another process has the address, it is not this host's, or certificate and key are not good.
    pub fn bind(listen: &Listen, keeper: &Keeper) -> Result<Self> {
        let certificate = listen.tls.as_ref().map(Certificate::open).transpose();
        let certificate = certificate.map_err(|e| e.context(format!("listen on {listen}")))?.map(Arc::new);
        let bound = || -> io::Result<TcpListener> {
            let socket = if listen.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // As a restart needs it: connections of before may still be in the kernel.
            socket.set_reuseaddr(true)?;
            socket.bind(listen.address)?;
            socket.listen(BACKLOG)
        };
        let what = Kept::Listener(listen.address);
        let socket = match keeper.take(what) {
            Some(kept) => {
                let kept = std::net::TcpListener::from(kept);
                kept.set_nonblocking(true).and_then(|()| TcpListener::from_std(kept))
            }
            None => bound().inspect(|new| {
                // Any free port is another one the next time.
                if listen.address.port() != 0 {
                    keeper.keep(what, new);
                }
            }),
        };
        let socket = socket.map_err(|e| refused(listen, e))?;
        let address = socket.local_addr().map_err(|e| refused(listen, e))?;
        Ok(Listener { listen: listen.clone(), socket, address, certificate })
    }

    /// Serves until `shutdown`, with `spares` for the surface that hands them out. Certificate and key are read anew when
    /// `reload` tells, and when they change.
    pub async fn serve(
        self,
        core: Arc<Core>,
        spares: Option<Arc<Pool>>,
        reload: watch::Receiver<()>,
        shutdown: CancellationToken,
    ) {
        let Listener { listen, socket, address, certificate } = self;
        let served = surface::of(listen.surface, Arc::clone(&core), spares);
        let counting =
            metrics::Counting { core: Arc::clone(&core), surface: listen.surface.as_str(), table: served.table };
        let guard = Arc::new(Guard::new(core, &listen, &served));
        let guarded =
            Router::new().fallback_service(served.router).layer(middleware::from_fn_with_state(guard, auth::guard));
        let router = routes::numbered(guarded, counting);
        tracing::info!(%address, surface = listen.surface.as_str(), tls = certificate.is_some(), "listening");
        if listen.is_exposed() {
            tracing::warn!(%address, "what is said here, tokens too, can be read on the way: give it tls, or an address of 127.0.0.0/8");
        }
        if let Some(certificate) = &certificate {
            tokio::spawn(Arc::clone(certificate).watch(reload));
        }
        let end = shutdown.clone();
        let work = move |(stream, peer): (TcpStream, SocketAddr), connection: Connection, _| {
            one(stream, peer, connection, certificate.clone(), router.clone(), end.clone())
        };
        serve::each(&socket, shutdown, work).await;
    }
}

async fn one(
    stream: TcpStream,
    peer: SocketAddr,
    connection: Connection,
    certificate: Option<Arc<Certificate>>,
    router: Router,
    shutdown: CancellationToken,
) {
    let holder = Holder::new(None);
    let by = holder.subscribe();
    let router = router.layer(Extension(Peer { address: peer.ip(), holder: Arc::new(holder) }));
    let Some(certificate) = certificate else {
        return serve::one(Cut::new(stream, by), connection, router, shutdown).await;
    };
    let end = connection.end();
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(HEAD, certificate.acceptor().accept(stream)) => shaken,
        () = end.cancelled() => return,
        () = shutdown.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => serve::one(Cut::new(stream, by), connection, router, shutdown).await,
        // Whoever speaks no TLS, or does not like the certificate: the client says so where it is seen.
        Ok(Err(e)) => tracing::debug!(%peer, error = %e, "no TLS"),
        Err(_) => tracing::debug!(%peer, "too slow for TLS"),
    }
}

fn refused(listen: &Listen, e: io::Error) -> Error {
    let what = format!("listen on {listen}");
    match e.kind() {
        io::ErrorKind::AddrInUse => {
            let who = listeners::who_listens(listen.address).unwrap_or_else(|| "another process".into());
            Error::new(Code::InUse, format!("{what}: {who} listens there"))
                .hint("stop it, or give the listener another address")
        }
        io::ErrorKind::AddrNotAvailable => {
            Error::new(Code::InvalidRequest, format!("{what}: this host has no such address"))
                .hint("`ip addr` shows those that it has; 0.0.0.0 and [::] are all of them")
        }
        _ => Error::new(Code::Internal, what).because(e),
    }
}

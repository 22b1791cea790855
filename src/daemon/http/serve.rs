//! Connections, from their acceptance to their end: how many, how long, how slow.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::connections::{Client, Connection, Connections};

/// How long a client may take for the head of a request, and before it for a handshake.
pub(super) const HEAD: Duration = Duration::from_secs(10);
/// How long open requests are waited for at the end.
const DRAIN: Duration = Duration::from_secs(5);

/// What connections come from.
pub(super) trait Accept {
    type Stream: Send + 'static;
    async fn accept(&self) -> io::Result<(Self::Stream, Client)>;
}

impl Accept for UnixListener {
    type Stream = tokio::net::UnixStream;
    async fn accept(&self) -> io::Result<(Self::Stream, Client)> {
        let (stream, _) = UnixListener::accept(self).await?;
        let process = stream.peer_cred().ok().and_then(|c| c.pid()).unwrap_or(0);
        Ok((stream, Client::Process(process)))
    }
}

/// Serves the Unix socket until `shutdown`; open requests get a few seconds then.
pub async fn serve(listener: UnixListener, router: Router, shutdown: CancellationToken) {
    let end = shutdown.clone();
    each(&listener, shutdown, move |stream, connection, _| one(stream, connection, router.clone(), end.clone())).await;
}

/// Takes connections, and runs `work` for each, until `shutdown`.
pub(super) async fn each<A: Accept, F: Future<Output = ()> + Send + 'static>(
    listener: &A,
    shutdown: CancellationToken,
    work: impl Fn(A::Stream, Connection, Client) -> F,
) {
    let open = Arc::new(Connections::default());
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! { s = listener.accept() => s, () = shutdown.cancelled() => break };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of descriptors: there is no event that says when some are free again.
                tracing::warn!(error = %e, "accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Some(connection) = open.open(client) {
            tasks.spawn(work(stream, connection, client));
        }
    }
    tasks.close();
    let _ = tokio::time::timeout(DRAIN, tasks.wait()).await;
}

/// Answers the requests of one connection.
pub(super) async fn one(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: Connection,
    router: Router,
    shutdown: CancellationToken,
) {
    let end = connection.end();
    let counted = Arc::new(connection);
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        Arc::clone(&counted).answer(router.clone().call(request))
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = &mut connection => {}
        () = end.cancelled() => {}
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(DRAIN, connection).await;
        }
    }
}

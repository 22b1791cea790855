//! The REST API on a Unix socket. Routes are one line each; what they do is the core's.

mod answer;
mod connections;
mod events;
mod list;
mod pods;
mod routes;
mod socket;
mod stats;
mod store;
mod stream;
mod system;
mod update;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tower::Service;

pub use routes::{document, router};
pub use socket::listen;

/// How long a client may take for the head of a request.
const HEAD: Duration = Duration::from_secs(10);
/// How long open requests are waited for at the end.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until `shutdown`; open requests get a few seconds then.
pub async fn serve(listener: UnixListener, router: Router, shutdown: CancellationToken) {
    let open = Arc::new(connections::Connections::default());
    let tasks = tokio_util::task::TaskTracker::new();
    loop {
        let stream = tokio::select! { s = listener.accept() => s, () = shutdown.cancelled() => break };
        let stream = match stream {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of descriptors: there is no event that says when some are free again.
                tracing::warn!(error = %e, "accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let peer = stream.peer_cred().ok().and_then(|c| c.pid()).unwrap_or(0);
        let Some(connection) = open.open(peer) else { continue };
        let (router, shutdown, end) = (router.clone(), shutdown.clone(), connection.end());
        tasks.spawn(async move {
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
        });
    }
    tasks.close();
    let _ = tokio::time::timeout(DRAIN, tasks.wait()).await;
}

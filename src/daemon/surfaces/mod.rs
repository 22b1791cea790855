//! The HTTP surfaces of two agents that torpor takes the place of, for clients that exist already: [`agent`] makes and removes
//! pods with a directory of their own at /workspace, [`containers`] is a container manager. Both translate requests to what
//! the core does, and its answers back; what is asked of whom, and by which words, is their clients' doing.
//!
//! Every answer is JSON and every refusal `{"error": text}`, the router's own too. Fields that are not known are ignored, a
//! body may be missing, and it is JSON whatever its media type: that is how these clients ask.

pub mod agent;
mod answer;
pub mod containers;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;

use crate::model::{Error, Result};

pub use answer::refuse;

/// The label of what a surface has made; its value is the surface.
const SURFACE: &str = "torpor.surface";
/// Without a byte of a body for so long, a request is refused.
const IDLE: Duration = Duration::from_secs(20);

/// The image that a client means by a name.
fn image<'a>(images: &'a std::collections::BTreeMap<String, String>, name: &'a str) -> &'a str {
    images.get(name).map_or(name, String::as_str)
}

/// What all routes of a surface have in common.
fn complete<S: Send + Sync + 'static>(routes: Router<Arc<S>>, state: Arc<S>) -> Router {
    routes
        .layer(RequestBodyTimeoutLayer::new(IDLE))
        .fallback(answer::no_such_route)
        .method_not_allowed_fallback(answer::no_such_method)
        .layer(CatchPanicLayer::custom(answer::panicked))
        .with_state(state)
}

/// Runs work that must come to its end even if whoever asked for it goes away.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.map_err(|e| Error::internal("the work ended early").because(e))?
}

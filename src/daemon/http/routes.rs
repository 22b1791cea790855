//! All routes, and the document that describes them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Json, Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{
    answer, events, exec_socket, files, idempotency, list, logs, metrics, operate, pods, ports, scopes, stats, store,
    stream, system, terminal, tokens, traces, update, volumes,
};
use crate::daemon::core::Core;
use crate::model::token::Caller;

/// Bytes of a JSON body.
const BODY: usize = 1 << 20;
/// Without a byte of a body for so long, a request is refused.
const IDLE: Duration = Duration::from_secs(20);

#[derive(OpenApi)]
#[openapi(
    info(title = "torpor", version = "1.0.0", license(name = "Apache-2.0", identifier = "Apache-2.0"),
        description = "gVisor sandboxes that sleep in object storage. Every error is `application/problem+json` (RFC 9457) with a stable `code`."),
    tags((name = "pods", description = "Pods and what is done to them"),
        (name = "terminals", description = "Terminals, and programs that are followed while they run"),
        (name = "snapshots", description = "Saved states of pods"), (name = "images", description = "Images and layers"),
        (name = "volumes", description = "Named volumes"), (name = "tokens", description = "Who may use it by TCP"),
        (name = "system", description = "torpord itself and its host"))
)]
struct Document;

fn build() -> (Router<Arc<Core>>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(system::health))
        .routes(routes!(system::version))
        .routes(routes!(system::doctor))
        .routes(routes!(system::capacity))
        .routes(routes!(system::tiers))
        .routes(routes!(system::df))
        .routes(routes!(system::prune))
        .routes(routes!(operate::reload))
        .routes(routes!(operate::host_down))
        .routes(routes!(operate::log_filter, operate::set_log_filter))
        .routes(routes!(operate::backup))
        .routes(routes!(metrics::metrics))
        .routes(routes!(traces::list))
        .routes(routes!(volumes::list, volumes::create))
        .routes(routes!(volumes::inspect, volumes::delete))
        .routes(routes!(events::events))
        .routes(routes!(pods::create, list::list))
        .routes(routes!(pods::inspect, pods::delete, update::update))
        .routes(routes!(update::rename))
        .routes(routes!(update::pause))
        .routes(routes!(update::resume))
        .routes(routes!(pods::start))
        .routes(routes!(pods::stop))
        .routes(routes!(pods::restart))
        .routes(routes!(pods::kill))
        .routes(routes!(pods::sleep))
        .routes(routes!(pods::wake))
        .routes(routes!(pods::restore))
        .routes(routes!(pods::wait))
        .routes(routes!(pods::exec, exec_socket::exec))
        .routes(routes!(exec_socket::attach))
        .routes(routes!(terminal::list, terminal::create))
        .routes(routes!(terminal::inspect, terminal::delete))
        .routes(routes!(terminal::open))
        .routes(routes!(terminal::top))
        .routes(routes!(logs::logs))
        .routes(routes!(stats::stats))
        .routes(routes!(ports::list, ports::add))
        .routes(routes!(ports::remove))
        .routes(routes!(pods::snapshot))
        .routes(routes!(store::snapshots))
        .routes(routes!(store::snapshot, store::delete_snapshot))
        .routes(routes!(store::restore))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(tokens::rotate))
        .routes(routes!(tokens::ticket))
        .split_for_parts()
}

/// Images have names with slashes, which the document can't express and the router must be told of.
fn images() -> (Router<Arc<Core>>, utoipa::openapi::OpenApi) {
    let (_, document) = OpenApiRouter::<Arc<Core>>::new()
        .routes(routes!(store::import, store::images))
        .routes(routes!(store::image, store::delete_image))
        .split_for_parts();
    let router = Router::new()
        .route("/v1/images", get(store::images).post(store::import).layer(DefaultBodyLimit::disable()))
        .route("/v1/images/{*name}", get(store::image).delete(store::delete_image));
    (router, document)
}

/// Archives are as long as they are, and come as slowly as they are made.
fn archives() -> (Router<Arc<Core>>, utoipa::openapi::OpenApi) {
    let (router, document) = OpenApiRouter::<Arc<Core>>::new()
        .routes(routes!(files::get, files::put))
        .routes(routes!(files::stat))
        .split_for_parts();
    (router.layer(DefaultBodyLimit::disable()), document)
}

/// The OpenAPI document.
pub fn document() -> serde_json::Value {
    let (_, mut document) = build();
    document.merge(images().1);
    document.merge(archives().1);
    idempotency::describe(&mut document);
    super::document::guarded(serde_json::to_value(document).unwrap_or_default())
}

/// The whole API, for those who reach the Unix socket.
pub fn router(core: Arc<Core>) -> Router {
    let counting = metrics::Counting { core: Arc::clone(&core), surface: "v1", table: scopes::V1 };
    numbered(plain(core).layer(axum::Extension(Caller::socket())), counting)
}

/// What answers outside of the routes.
pub(super) fn numbered(router: Router, counting: metrics::Counting) -> Router {
    router
        .layer(CatchPanicLayer::custom(answer::panicked))
        .layer(middleware::from_fn(answer::number_requests))
        .layer(middleware::from_fn_with_state(Arc::new(counting), metrics::count))
        .layer(middleware::from_fn(stream::read_to_end))
}

/// The routes. Who asks must have been said.
pub(super) fn plain(core: Arc<Core>) -> Router {
    let shown = document();
    let once = middleware::from_fn_with_state((Arc::clone(&core), BODY), idempotency::once);
    build()
        .0
        .layer(middleware::from_fn(traces::asked_by))
        .layer(once.clone())
        .layer(DefaultBodyLimit::max(BODY))
        .layer(RequestBodyTimeoutLayer::new(IDLE))
        .merge(images().0.layer(once))
        .merge(archives().0)
        .route("/openapi.json", get(move || async move { Json(shown) }))
        .fallback(answer::no_such_route)
        .method_not_allowed_fallback(answer::no_such_method)
        .with_state(core)
}

//! What is done to torpord itself while it runs.

use std::sync::Arc;

use axum::Json;
use axum::body::Body as Answered;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::answer::{Answer, Body};
use crate::api::files::Bytes;
use crate::api::problem::Problem;
use crate::api::types::system::{BroughtDown, LogFilter, Reloaded};
use crate::daemon::core::Core;
use crate::daemon::log;

/// Reads the configuration anew, as SIGHUP does. What can't be changed while torpord runs is named; a file that is not good changes
/// nothing.
#[utoipa::path(post, path = "/v1/system/reload", tag = "system", operation_id = "reload",
    responses((status = 200, description = "What has changed, and what has not", body = Reloaded),
        (status = "4XX", description = "Refused: the file is not good", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn reload(State(core): State<Arc<Core>>) -> Answer<Json<Reloaded>> {
    Ok(Json(core.reload()?))
}

/// Makes pods ready for the end of the host: they are put to sleep or stopped, as each one's `onShutdown` says. When torpord starts
/// again those are woken, and these started if their restart policy is not `no`. From this call on nothing is started by itself.
#[utoipa::path(post, path = "/v1/system/host-down", tag = "system", operation_id = "hostDown",
    responses((status = 200, description = "What was done; single pods may have failed", body = BroughtDown),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn host_down(State(core): State<Arc<Core>>) -> Answer<Json<BroughtDown>> {
    Ok(Json(core.host_down().await?))
}

/// What is logged.
#[utoipa::path(get, path = "/v1/system/log", tag = "system", operation_id = "logFilter",
    responses((status = 200, description = "The filter", body = LogFilter)))]
pub(super) async fn log_filter() -> Json<LogFilter> {
    Json(LogFilter { filter: log::now() })
}

/// Changes what is logged, until torpord is started again.
#[utoipa::path(put, path = "/v1/system/log", tag = "system", operation_id = "setLogFilter", request_body = LogFilter,
    responses((status = 200, description = "The filter", body = LogFilter),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn set_log_filter(Body(asked): Body<LogFilter>) -> Answer<Json<LogFilter>> {
    log::set(&asked.filter)?;
    Ok(Json(asked))
}

/// A backup as a tar archive: the database, layers, engines, volumes, workspaces of the pod agent's pods, and the store if it lies in
/// the state directory. Pods go on meanwhile. It holds all that they keep, environments too. `torpord --restore` puts it back.
#[utoipa::path(get, path = "/v1/system/backup", tag = "system", operation_id = "backup",
    responses((status = 200, description = "The archive; one that breaks off is not whole", body = Bytes, content_type = "application/x-tar"),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn backup(State(core): State<Arc<Core>>) -> Answer<Response> {
    let archive = core.backup().await?;
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], Answered::from_stream(archive)).into_response())
}

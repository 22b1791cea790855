//! What operations on pods took.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::answer::{Answer, Query};
use crate::api::problem::Problem;
use crate::api::types::trace::Trace;
use crate::daemon::core::{Core, trace};
use crate::model::trace::Parent;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Those of this pod only: its name, its id, or a unique beginning of the id.
    pod: Option<String>,
}

/// What the last 256 operations on pods took, step by step, oldest first. They are kept in memory.
#[utoipa::path(get, path = "/v1/traces", tag = "system", operation_id = "listTraces", params(Which),
    responses((status = 200, description = "The operations", body = Vec<Trace>),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(State(core): State<Arc<Core>>, Query(which): Query<Which>) -> Answer<Json<Vec<Trace>>> {
    Ok(Json(core.list_traces(which.pod.as_deref())?))
}

/// Lets what a request asks for be part of the trace that its `traceparent` names.
pub(super) async fn asked_by(request: Request, next: Next) -> Response {
    let parent = request.headers().get("traceparent").and_then(|v| v.to_str().ok()).and_then(Parent::read);
    trace::asked_by(parent, next.run(request)).await
}

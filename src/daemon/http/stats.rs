//! What a pod uses.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::Deserialize;
use utoipa::IntoParams;

use super::answer::{Answer, Path, Query};
use crate::api::problem::Problem;
use crate::api::types::Stats;
use crate::daemon::core::Core;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    /// One object a line, every second, until its sandbox ends.
    #[serde(default)]
    stream: bool,
}

/// What a pod that runs uses: processor, memory, processes, network, disk. Read from the kernel's counters.
#[utoipa::path(get, path = "/v1/pods/{pod}/stats", tag = "pods", operation_id = "podStats",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id"), How),
    responses((status = 200, description = "What it uses; as a stream in `application/x-ndjson`", body = Stats),
        (status = "4XX", description = "Refused; 409 for a pod without a sandbox", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn stats(
    State(core): State<Arc<Core>>,
    Path(pod): Path<String>,
    Query(how): Query<How>,
) -> Answer<Response> {
    if !how.stream {
        return Ok(Json(core.pod_stats(&pod).await?).into_response());
    }
    let lines = core.pod_stats_stream(&pod)?.map(|stats| {
        let mut line = serde_json::to_vec(&stats).unwrap_or_default();
        line.push(b'\n');
        Ok::<_, std::convert::Infallible>(Bytes::from(line))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

//! What monitoring asks, and the counting of requests.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::answer::{Answer, Query};
use super::scopes::{self, Row};
use crate::api::problem::Problem;
use crate::daemon::core::Core;
use crate::daemon::core::metrics::older_format;

const OPEN_METRICS: &str = "application/openmetrics-text";

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct What {
    /// Pods that run one by one, too: 500 of them at most.
    #[serde(default)]
    pods: bool,
}

/// What there is to monitor, as Prometheus reads it: version 0.0.4 of its text format, or OpenMetrics if that is accepted.
#[utoipa::path(get, path = "/metrics", tag = "system", operation_id = "metrics", params(What),
    responses((status = 200, description = "Metrics", body = String, content_type = "text/plain"),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn metrics(
    State(core): State<Arc<Core>>,
    Query(what): Query<What>,
    headers: HeaderMap,
) -> Answer<Response> {
    let text = core.exposition(what.pods).await?;
    let accepts = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    Ok(if accepts.contains(OPEN_METRICS) {
        let kind = format!("{OPEN_METRICS}; version=1.0.0; charset=utf-8");
        ([(header::CONTENT_TYPE, kind)], text).into_response()
    } else {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], older_format(&text)).into_response()
    })
}

/// What requests of one listener are counted by.
pub(super) struct Counting {
    pub(super) core: Arc<Core>,
    pub(super) surface: &'static str,
    pub(super) table: &'static [Row],
}

/// Counts what is answered, by route: paths as they are sent have no end.
pub(super) async fn count(State(counting): State<Arc<Counting>>, request: Request, next: Next) -> Response {
    let row = scopes::find(counting.table, request.method().as_str(), request.uri().path());
    let (method, route) = row.map_or(("other", "other"), |r| (r.method, r.path));
    let response = next.run(request).await;
    counting.core.metrics().answered(counting.surface, method, route, response.status().as_u16());
    response
}

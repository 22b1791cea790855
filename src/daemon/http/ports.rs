//! A pod's forwards.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::answer::{Answer, Body, Path, Query};
use crate::api::problem::Problem;
use crate::api::types::{PortInfo, PortPair};
use crate::daemon::core::Core;

type Cored = State<Arc<Core>>;

/// Lists a pod's forwards.
#[utoipa::path(get, path = "/v1/pods/{pod}/ports", tag = "pods", operation_id = "listPorts",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 200, description = "The forwards", body = Vec<PortInfo>),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(State(core): Cored, Path(pod): Path<String>) -> Answer<Json<Vec<PortInfo>>> {
    Ok(Json(core.list_ports(&pod)?))
}

/// Forwards a port to a pod. If it runs, at once; if it rests, from when it runs again. The forward is the pod's until it is
/// removed: stop, sleep and wake keep it.
#[utoipa::path(post, path = "/v1/pods/{pod}/ports", tag = "pods", operation_id = "addPort", request_body = PortPair,
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 201, description = "The forward", body = PortInfo),
        (status = "4XX", description = "Refused; 409 if the host port is taken", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed; it is as it was", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn add(
    State(core): Cored,
    Path(pod): Path<String>,
    Body(request): Body<PortPair>,
) -> Answer<(StatusCode, Json<PortInfo>)> {
    Ok((StatusCode::CREATED, Json(core.add_port(&pod, request).await?)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// `tcp`, the default, or `udp`.
    protocol: Option<String>,
}

/// Takes a forward away, and lets its host port go. What goes by it ends.
#[utoipa::path(delete, path = "/v1/pods/{pod}/ports/{host}", tag = "pods", operation_id = "removePort",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id"),
        ("host" = u16, Path, description = "Port on the host"), Which),
    responses((status = 204, description = "It is gone"),
        (status = "4XX", description = "Refused; 404 if the pod has no such forward", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed; it is as it was", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn remove(
    State(core): Cored,
    Path((pod, host)): Path<(String, u16)>,
    Query(which): Query<Which>,
) -> Answer<StatusCode> {
    let protocol = which.protocol.as_deref().map(str::parse).transpose()?.unwrap_or_default();
    core.remove_port(&pod, host, protocol).await?;
    Ok(StatusCode::NO_CONTENT)
}

//! Routes that change what a pod is called, may use and does.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::answer::{Answer, Body, Path};
use crate::api::problem::Problem;
use crate::api::types::{Pod, RenamePod, UpdatePod};
use crate::daemon::core::Core;

type Cored = State<Arc<Core>>;

/// Gives a pod another name. Id, address, ports and host name stay.
#[utoipa::path(post, path = "/v1/pods/{pod}/rename", tag = "pods", operation_id = "renamePod", request_body = RenamePod,
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 200, description = "It is called so", body = Pod),
        (status = "4XX", description = "Refused; 409 if the name is taken", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn rename(
    State(core): Cored,
    Path(pod): Path<String>,
    Body(request): Body<RenamePod>,
) -> Answer<Json<Pod>> {
    Ok(Json(core.rename_pod(&pod, request).await?))
}

/// Changes a pod's labels, limits and restart policy. Limits of a pod that runs hold at once; what programs in it are told of the
/// size of their machine changes at its next start.
#[utoipa::path(patch, path = "/v1/pods/{pod}", tag = "pods", operation_id = "updatePod", request_body = UpdatePod,
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 200, description = "It is so", body = Pod),
        (status = "4XX", description = "Refused; 409 if it uses more memory than it is to have", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed; it is as it was", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn update(
    State(core): Cored,
    Path(pod): Path<String>,
    Body(request): Body<UpdatePod>,
) -> Answer<Json<Pod>> {
    Ok(Json(core.update_pod(&pod, request).await?))
}

/// Lets a pod stand still in memory: none of its programs runs until it is resumed. It can be stopped, put to sleep (it runs when
/// it wakes) and removed by force as it is.
#[utoipa::path(post, path = "/v1/pods/{pod}/pause", tag = "pods", operation_id = "pausePod",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 200, description = "It stands still", body = Pod),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed; it goes on", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn pause(State(core): Cored, Path(pod): Path<String>) -> Answer<Json<Pod>> {
    Ok(Json(core.pause_pod(&pod).await?))
}

/// Lets a paused pod go on.
#[utoipa::path(post, path = "/v1/pods/{pod}/resume", tag = "pods", operation_id = "resumePod",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 200, description = "It runs", body = Pod),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed; it stays paused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn resume(State(core): Cored, Path(pod): Path<String>) -> Answer<Json<Pod>> {
    Ok(Json(core.resume_pod(&pod).await?))
}

//! Routes about named volumes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::answer::{Answer, Body, Path};
use crate::api::problem::Problem;
use crate::api::types::{CreateVolume, Volume};
use crate::daemon::core::Core;

type Cored = State<Arc<Core>>;

/// Lists the named volumes, with their sizes and the pods that use them.
#[utoipa::path(get, path = "/v1/volumes", tag = "volumes", operation_id = "listVolumes",
    responses((status = 200, description = "The volumes, by name", body = Vec<Volume>),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(State(core): Cored) -> Answer<Json<Vec<Volume>>> {
    Ok(Json(core.list_volumes().await?))
}

/// Makes a named volume. One that is there already is left alone. A pod that names a volume which is not there makes it, too.
#[utoipa::path(post, path = "/v1/volumes", tag = "volumes", operation_id = "createVolume", request_body = CreateVolume,
    responses((status = 201, description = "It was made", body = Volume),
        (status = 200, description = "It was there", body = Volume),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(core): Cored,
    Body(request): Body<CreateVolume>,
) -> Answer<(StatusCode, Json<Volume>)> {
    let (made, volume) = core.create_volume(request).await?;
    Ok((if made { StatusCode::CREATED } else { StatusCode::OK }, Json(volume)))
}

/// Shows a volume.
#[utoipa::path(get, path = "/v1/volumes/{volume}", tag = "volumes", operation_id = "inspectVolume",
    params(("volume" = String, Path, description = "Its name")),
    responses((status = 200, description = "The volume", body = Volume),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn inspect(State(core): Cored, Path(name): Path<String>) -> Answer<Json<Volume>> {
    Ok(Json(core.inspect_volume(&name).await?))
}

/// Removes a volume with all that is in it. One that a pod uses, be it at rest or asleep, is refused.
#[utoipa::path(delete, path = "/v1/volumes/{volume}", tag = "volumes", operation_id = "deleteVolume",
    params(("volume" = String, Path, description = "Its name")),
    responses((status = 204, description = "It is gone"),
        (status = "4XX", description = "Refused; 409 with the pods that use it", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn delete(State(core): Cored, Path(name): Path<String>) -> Answer<StatusCode> {
    core.delete_volume(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

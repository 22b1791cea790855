//! Files in and out of a pod, as tar archives.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use serde::Deserialize;
use utoipa::IntoParams;

use super::answer::{Answer, Path, Query};
use super::stream::ReadToEnd;
use crate::api::files::{Bytes, FileStat};
use crate::api::problem::Problem;
use crate::daemon::core::Core;

type Cored = State<Arc<Core>>;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Where {
    /// A path in the pod.
    path: String,
}

/// What is at a path in a pod that runs: a symbolic link itself.
#[utoipa::path(get, path = "/v1/pods/{pod}/files/stat", tag = "pods", operation_id = "statFile",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id"), Where),
    responses((status = 200, description = "What is there", body = FileStat),
        (status = "4XX", description = "Refused; 404 if nothing is there, 409 for a pod that does not run", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn stat(
    State(core): Cored,
    Path(pod): Path<String>,
    Query(at): Query<Where>,
) -> Answer<Json<FileStat>> {
    Ok(Json(core.stat_file(&pod, &at.path).await?))
}

/// A file or a directory of a pod that runs, as a tar archive; of a path that ends with `/.` what is in the directory. Symbolic
/// links come as links. An archive that breaks off, breaks the connection off.
#[utoipa::path(get, path = "/v1/pods/{pod}/files", tag = "pods", operation_id = "getFiles",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id"), Where),
    responses((status = 200, description = "The archive", body = Bytes, content_type = "application/x-tar"),
        (status = "4XX", description = "Refused; 404 if nothing is there, 409 for a pod that does not run", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn get(State(core): Cored, Path(pod): Path<String>, Query(at): Query<Where>) -> Answer<Response> {
    let archive = core.get_files(&pod, &at.path).await?;
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], Body::from_stream(archive)).into_response())
}

/// Puts a tar archive into a directory of a pod that runs, owners and modes as the archive has them. Nothing gets out of that
/// directory: neither by `..` nor by a symbolic link, whoever made it. Devices are refused. What was put there before a failure
/// stays; each file is there whole or as it was.
#[utoipa::path(put, path = "/v1/pods/{pod}/files", tag = "pods", operation_id = "putFiles",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id"), Where),
    request_body(content = Bytes, content_type = "application/x-tar"),
    responses((status = 204, description = "It is there"),
        (status = "4XX", description = "Refused; 404 if the directory is not there, 409 for a pod that does not run, 422 for an archive that is damaged or leads out of the directory", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed; 507 if the pod's disk is full", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn put(
    State(core): Cored,
    Path(pod): Path<String>,
    Query(at): Query<Where>,
    body: Body,
) -> Answer<StatusCode> {
    let archive = ReadToEnd::new(body).map_err(std::io::Error::other);
    core.put_files(&pod, &at.path, archive).await?;
    Ok(StatusCode::NO_CONTENT)
}

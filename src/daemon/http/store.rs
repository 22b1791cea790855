//! Routes about snapshots and images.

use std::sync::Arc;

use axum::Json;
use axum::body::Body as RawBody;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use serde::Deserialize;
use utoipa::IntoParams;

use super::answer::{self, Answer, Asked, MaybeBody, Object, Path, Query, Refused};
use super::idempotency::MaybeIntent;
use super::stream;
use crate::api::files::Bytes;
use crate::api::problem::Problem;
use crate::api::types::{Image, ImportDirectory, Pod, RestoreSnapshot, Snapshot};
use crate::daemon::core::Core;
use crate::host::layers::ImportSource;
use crate::model::token::Grant;
use crate::model::{Code, Error};

type Cored = State<Arc<Core>>;

/// Bytes of a request that names a directory.
const DIRECTORY: usize = 64 << 10;

/// Lists the snapshots of the store, oldest first: those of other daemons that share it, too.
#[utoipa::path(get, path = "/v1/snapshots", tag = "snapshots", operation_id = "listSnapshots",
    responses((status = 200, description = "The snapshots", body = Vec<Snapshot>),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn snapshots(State(core): Cored, Asked(caller): Asked) -> Answer<Json<Vec<Snapshot>>> {
    let mut all = core.list_snapshots().await?;
    all.retain(|s| caller.sees(&s.pod_id));
    Ok(Json(all))
}

/// Shows a snapshot.
#[utoipa::path(get, path = "/v1/snapshots/{snapshot}", tag = "snapshots", operation_id = "inspectSnapshot",
    params(("snapshot" = String, Path, description = "Its id")),
    responses((status = 200, description = "The snapshot", body = Snapshot),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn snapshot(
    State(core): Cored,
    Asked(caller): Asked,
    Path(id): Path<String>,
) -> Answer<Json<Snapshot>> {
    let shown = core.inspect_snapshot(&id).await?;
    if !caller.sees(&shown.pod_id) {
        return Err(Error::new(Code::NotFound, format!("no snapshot {}", shown.id)).into());
    }
    Ok(Json(shown))
}

/// Removes a snapshot. One in which a pod of this daemon sleeps is refused.
#[utoipa::path(delete, path = "/v1/snapshots/{snapshot}", tag = "snapshots", operation_id = "deleteSnapshot",
    params(("snapshot" = String, Path, description = "Its id")),
    responses((status = 204, description = "It is gone"),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn delete_snapshot(State(core): Cored, Path(id): Path<String>) -> Answer<StatusCode> {
    core.delete_snapshot(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a new pod of a snapshot: with an address, host ports, host name and machine id of its own. Progress as for sleep.
#[utoipa::path(post, path = "/v1/snapshots/{snapshot}/restore", tag = "snapshots", operation_id = "restoreSnapshot",
    request_body = Option<RestoreSnapshot>,
    params(("snapshot" = String, Path, description = "Its id")),
    responses((status = 201, description = "The new pod runs", body = Pod),
        (status = "4XX", description = "Refused; 422 if it can't be restored on this host", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn restore(
    State(core): Cored,
    Asked(caller): Asked,
    Path(id): Path<String>,
    headers: HeaderMap,
    MaybeIntent(intent): MaybeIntent,
    MaybeBody(request): MaybeBody<RestoreSnapshot>,
) -> Response {
    stream::long(&headers, 201, |progress| async move {
        core.reach_of_snapshot(&caller, &id).await?;
        core.reach_secrets(&caller, &request.secrets)?;
        core.restore_snapshot_once(&id, request, progress, intent).await
    })
    .await
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Import {
    /// Its name: an OCI reference such as `team/app:v2`. A name that exists moves to the new image.
    name: String,
    /// Name of an image whose layers go below.
    base: Option<String>,
}

/// Imports an image. The body is a root file system as tar, tar.gz or tar.zst, an OCI layout or a `docker save` archive; or,
/// as `application/json`, an object that names a directory of the host. Progress as for sleep.
#[utoipa::path(post, path = "/v1/images", tag = "images", operation_id = "importImage", params(Import),
    request_body(content((Bytes = "application/octet-stream"), (ImportDirectory = "application/json"))),
    responses((status = 201, description = "It is imported", body = Image),
        (status = "4XX", description = "Refused; nothing was imported", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed; nothing was imported", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn import(
    State(core): Cored,
    Asked(caller): Asked,
    Query(q): Query<Import>,
    headers: HeaderMap,
    body: RawBody,
) -> Response {
    let json = headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/json"));
    if json && caller.grant != Grant::Root {
        // Whatever lies below it and wherever its links lead would be read.
        let e = Error::new(Code::Forbidden, "a directory of the host can't be imported with a token")
            .hint("send it as a tar, or ask by the Unix socket");
        return Refused(e).into_response();
    }
    if json {
        let parsed = async {
            let bytes = axum::body::to_bytes(body, DIRECTORY).await.map_err(|e| answer::unread(&e, DIRECTORY))?;
            let wanted = serde_json::from_slice::<Object<ImportDirectory>>(&bytes);
            wanted.map(|Object(w)| w).map_err(|e| Error::invalid(format!("the request: {e}")))
        };
        let directory = match parsed.await {
            Ok(d) => d.directory,
            Err(e) => return Refused(e).into_response(),
        };
        return stream::long(&headers, 201, |progress| async move {
            core.import_directory(&q.name, q.base.as_deref(), &directory, &progress).await
        })
        .await;
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    let bytes = stream::ReadToEnd::new(body).map_err(std::io::Error::other);
    let reader = Box::new(tokio_util::io::StreamReader::new(Box::pin(bytes)));
    stream::long(&headers, 201, |progress| async move {
        progress.phase("upload");
        progress.total(length.unwrap_or(0));
        core.import_image(&q.name, q.base.as_deref(), ImportSource::Stream(reader), &progress).await
    })
    .await
}

/// Lists the images, by name.
#[utoipa::path(get, path = "/v1/images", tag = "images", operation_id = "listImages",
    responses((status = 200, description = "The images", body = Vec<Image>),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn images(State(core): Cored) -> Answer<Json<Vec<Image>>> {
    Ok(Json(core.list_images().await?))
}

/// Shows an image.
#[utoipa::path(get, path = "/v1/images/{name}", tag = "images", operation_id = "inspectImage",
    params(("name" = String, Path, description = "Its name; slashes may stand as they are")),
    responses((status = 200, description = "The image", body = Image),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn image(State(core): Cored, Path(name): Path<String>) -> Answer<Json<Image>> {
    Ok(Json(core.inspect_image(&name).await?))
}

/// Removes an image's name, and the layers that nothing else uses. One that a pod uses is refused.
#[utoipa::path(delete, path = "/v1/images/{name}", tag = "images", operation_id = "deleteImage",
    params(("name" = String, Path, description = "Its name; slashes may stand as they are")),
    responses((status = 204, description = "It is gone"),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn delete_image(State(core): Cored, Path(name): Path<String>) -> Answer<StatusCode> {
    core.delete_image(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

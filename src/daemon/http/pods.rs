//! Routes about pods.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::answer::{Answer, Asked, Body, MaybeBody, Path, Query};
use super::idempotency::MaybeIntent;
use super::stream;
use crate::api::problem::Problem;
use crate::api::types::{
    CreatePod, ExecPod, ExecResult, ExitInfo, KillPod, Pod, RestartPod, RestorePod, Snapshot, StartPod, StopPod,
    WakePod,
};
use crate::daemon::core::Core;
use crate::model::{Error, base64};

type Cored = State<Arc<Core>>;

/// Makes a pod and starts it. All or nothing: if it can't be started, it is not there.
#[utoipa::path(post, path = "/v1/pods", tag = "pods", operation_id = "createPod", request_body = CreatePod,
    responses((status = 201, description = "It runs, and is ready if a probe was given; or it is made, with `start: false`", body = Pod),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(core): Cored,
    Asked(caller): Asked,
    MaybeIntent(intent): MaybeIntent,
    Body(request): Body<CreatePod>,
) -> Answer<(StatusCode, Json<Pod>)> {
    core.reach(&caller, request.volumes.iter().map(|v| v.source.as_str()))?;
    core.reach_secrets(&caller, &request.secrets)?;
    Ok((StatusCode::CREATED, Json(core.create_pod_once(request, intent).await?)))
}

/// Shows a pod.
#[utoipa::path(get, path = "/v1/pods/{pod}", tag = "pods", operation_id = "inspectPod",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 200, description = "The pod", body = Pod),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn inspect(State(core): Cored, Path(pod): Path<String>) -> Answer<Json<Pod>> {
    Ok(Json(core.inspect_pod(&pod)?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Force {
    /// Whether a pod that is not stopped is removed too, whatever it does.
    #[serde(default)]
    force: bool,
}

/// Removes a pod: its sandbox, address, ports, logs, its writable layer, and the snapshot it sleeps in. Named volumes and
/// directories of the host stay, and so do snapshots that were taken of it on request.
#[utoipa::path(delete, path = "/v1/pods/{pod}", tag = "pods", operation_id = "deletePod",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id"), Force),
    responses((status = 204, description = "It is gone"),
        (status = "4XX", description = "Refused; 409 for a pod that is not stopped, without force", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn delete(State(core): Cored, Path(pod): Path<String>, Query(q): Query<Force>) -> Answer<StatusCode> {
    core.delete_pod(&pod, q.force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Starts a pod that was made or stopped. One that runs is left alone.
#[utoipa::path(post, path = "/v1/pods/{pod}/start", tag = "pods", operation_id = "startPod", request_body = Option<StartPod>,
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 200, description = "It runs", body = Pod),
        (status = "4XX", description = "Refused; 409 (`secrets_missing`) if values of secrets are needed again", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed; 507 with the sums if there is no room", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn start(
    State(core): Cored,
    Path(pod): Path<String>,
    MaybeBody(request): MaybeBody<StartPod>,
) -> Answer<Json<Pod>> {
    Ok(Json(core.start_pod_with(&pod, request).await?))
}

/// Stops a pod: a signal, and a kill after the grace period. What it wrote to its root is kept for the next start.
#[utoipa::path(post, path = "/v1/pods/{pod}/stop", tag = "pods", operation_id = "stopPod", request_body = Option<StopPod>,
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 200, description = "It is stopped", body = Pod),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn stop(
    State(core): Cored,
    Path(pod): Path<String>,
    MaybeBody(request): MaybeBody<StopPod>,
) -> Answer<Json<Pod>> {
    Ok(Json(core.stop_pod(&pod, request).await?))
}

/// Stops a pod as `stop` does, and starts it again, with nothing between. One that was made or is stopped is started.
#[utoipa::path(post, path = "/v1/pods/{pod}/restart", tag = "pods", operation_id = "restartPod", request_body = Option<RestartPod>,
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 200, description = "It runs", body = Pod),
        (status = "4XX", description = "Refused; it goes on as it was. 409 (`secrets_missing`) if values of secrets are needed again", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed; it is stopped if it could not be started again. 507 with the sums if there is no room", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn restart(
    State(core): Cored,
    Path(pod): Path<String>,
    MaybeBody(request): MaybeBody<RestartPod>,
) -> Answer<Json<Pod>> {
    Ok(Json(core.restart_pod(&pod, request).await?))
}

/// Sends a signal to a pod's command.
#[utoipa::path(post, path = "/v1/pods/{pod}/kill", tag = "pods", operation_id = "killPod", request_body = KillPod,
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 204, description = "It was sent"),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn kill(
    State(core): Cored,
    Path(pod): Path<String>,
    Body(request): Body<KillPod>,
) -> Answer<StatusCode> {
    core.kill_pod(&pod, &request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Puts a pod to sleep in the object store: no process and no memory is left. It keeps name, address and ports. If that
/// fails, the pod goes on untouched. With `Accept: application/x-ndjson` the answer is progress, line by line, and then the
/// result or the error.
#[utoipa::path(post, path = "/v1/pods/{pod}/sleep", tag = "pods", operation_id = "sleepPod",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 200, description = "It sleeps", body = Pod),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn sleep(State(core): Cored, Path(pod): Path<String>, headers: HeaderMap) -> Response {
    stream::long(&headers, 200, |progress| async move { core.sleep_pod(&pod, progress).await }).await
}

/// Wakes a pod that sleeps: it goes on where it was. Progress as for sleep.
#[utoipa::path(post, path = "/v1/pods/{pod}/wake", tag = "pods", operation_id = "wakePod", request_body = Option<WakePod>,
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 200, description = "It runs, and is ready if it has a probe", body = Pod),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed; its snapshot is kept. 507 with the sums if there is no room", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn wake(
    State(core): Cored,
    Path(pod): Path<String>,
    headers: HeaderMap,
    body: MaybeBody<WakePod>,
) -> Response {
    stream::long(&headers, 200, |progress| async move { core.wake_pod(&pod, body.0, progress).await }).await
}

/// Puts a pod back to a snapshot that was taken of it, in place. Progress as for sleep.
#[utoipa::path(post, path = "/v1/pods/{pod}/restore", tag = "pods", operation_id = "restorePod", request_body = RestorePod,
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 200, description = "It runs", body = Pod),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn restore(
    State(core): Cored,
    Path(pod): Path<String>,
    headers: HeaderMap,
    Body(request): Body<RestorePod>,
) -> Response {
    stream::long(&headers, 200, |progress| async move { core.restore_pod(&pod, request, progress).await }).await
}

/// Waits for the end of a pod's command and tells its exit code. A pod that has ended is answered for at once.
#[utoipa::path(get, path = "/v1/pods/{pod}/wait", tag = "pods", operation_id = "waitPod",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 200, description = "It has ended", body = ExitInfo),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn wait(State(core): Cored, Path(pod): Path<String>) -> Answer<Json<ExitInfo>> {
    let work = core.wait_pod(&pod);
    let ended = tokio::select! {
        ended = work => ended?,
        () = core.shutdown().cancelled() => {
            return Err(Error::new(crate::model::Code::Cancelled, "torpord is being restarted").hint("ask again").into());
        }
    };
    Ok(Json(ended))
}

/// Runs a program in a pod to its end. It is the pod's own: it goes on over sleep and wake, and if the client goes away.
/// Output that is not UTF-8 comes as base64, and `stdoutEncoding` or `stderrEncoding` says so.
#[utoipa::path(post, path = "/v1/pods/{pod}/exec", tag = "pods", operation_id = "execPod", request_body = ExecPod,
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 200, description = "It has ended, or was killed because its time was over", body = ExecResult),
        (status = "4XX", description = "Refused; 422 if the program can't be run", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn exec(
    State(core): Cored,
    Path(pod): Path<String>,
    Body(request): Body<ExecPod>,
) -> Answer<Json<ExecResult>> {
    let done = core.exec_pod(&pod, request).await?;
    let (stdout, stdout_encoding) = text(done.stdout);
    let (stderr, stderr_encoding) = text(done.stderr);
    Ok(Json(ExecResult {
        exit_code: done.exit_code,
        stdout,
        stdout_encoding,
        stderr,
        stderr_encoding,
        timed_out: done.timed_out,
        truncated: done.truncated,
    }))
}

fn text(bytes: Vec<u8>) -> (String, String) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, "utf-8".into()),
        Err(e) => (base64::encode(e.as_bytes()), "base64".into()),
    }
}

/// Takes a snapshot of a running pod, which goes on. Progress as for sleep.
#[utoipa::path(post, path = "/v1/pods/{pod}/snapshots", tag = "snapshots", operation_id = "createSnapshot",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 201, description = "It is in the store", body = Snapshot),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed; the pod goes on", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn snapshot(
    State(core): Cored,
    Path(pod): Path<String>,
    headers: HeaderMap,
    MaybeIntent(intent): MaybeIntent,
) -> Response {
    stream::long(&headers, 201, |progress| async move { core.create_snapshot_once(&pod, progress, intent).await }).await
}

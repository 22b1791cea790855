//! Routes about torpord itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::api::types::{Doctor, Health, Version};
use crate::daemon::core::Core;

/// Whether torpord can work.
#[utoipa::path(get, path = "/health", tag = "system", operation_id = "health",
    responses((status = 200, description = "It answers; `status` says whether all is well", body = Health)))]
pub(super) async fn health(State(core): State<Arc<Core>>) -> Json<Health> {
    Json(core.health())
}

/// Which torpord answers.
#[utoipa::path(get, path = "/version", tag = "system", operation_id = "version",
    responses((status = 200, description = "The versions", body = Version)))]
pub(super) async fn version(State(core): State<Arc<Core>>) -> Json<Version> {
    Json(core.version())
}

/// Looks for what may be wrong with the host.
#[utoipa::path(get, path = "/v1/doctor", tag = "system", operation_id = "doctor",
    responses((status = 200, description = "One finding for each thing looked at", body = Doctor)))]
pub(super) async fn doctor(State(core): State<Arc<Core>>) -> Json<Doctor> {
    Json(core.doctor().await)
}

//! Routes about torpord itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::answer::{Answer, Body};
use crate::api::problem::Problem;
use crate::api::types::capacity::{Capacity, Tier};
use crate::api::types::system::{DiskUsage, Prune, Pruned};
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

/// What the host has room for: memory and disk, what of them is promised to pods, and how many pods of which size still fit.
#[utoipa::path(get, path = "/v1/system/capacity", tag = "system", operation_id = "capacity",
    responses((status = 200, description = "The sums", body = Capacity),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn capacity(State(core): State<Arc<Core>>) -> Answer<Json<Capacity>> {
    Ok(Json(core.capacity()?))
}

/// Lists the tiers: limits by name, built in or of the configuration.
#[utoipa::path(get, path = "/v1/tiers", tag = "system", operation_id = "listTiers",
    responses((status = 200, description = "The tiers, by name", body = Vec<Tier>),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn tiers(State(core): State<Arc<Core>>) -> Answer<Json<Vec<Tier>>> {
    Ok(Json(core.capacity()?.tiers))
}

/// What takes room on the disk, and what of it could go.
#[utoipa::path(get, path = "/v1/system/df", tag = "system", operation_id = "diskUsage",
    responses((status = 200, description = "What takes room", body = DiskUsage),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn df(State(core): State<Arc<Core>>) -> Answer<Json<DiskUsage>> {
    Ok(Json(core.disk_usage().await?))
}

/// Removes what nothing uses. What a pod or a snapshot needs is never touched.
#[utoipa::path(post, path = "/v1/system/prune", tag = "system", operation_id = "prune", request_body = Prune,
    responses((status = 200, description = "What was removed, and what could not be", body = Pruned),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn prune(State(core): State<Arc<Core>>, Body(request): Body<Prune>) -> Answer<Json<Pruned>> {
    Ok(Json(core.prune(request).await?))
}

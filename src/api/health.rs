//! Health checks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::types::HttpCheck;

/// A health check: one of `command` and `http`, or neither to change what the image says about its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthSpec {
    /// No check, whatever the image says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disable: bool,
    /// It is well if that command, run in the pod as its own user, exits with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// It is well if `GET` in the pod answers 2xx or 3xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// Milliseconds from one check to the next. Default 30000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
    /// Milliseconds until a check has failed. Default 30000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Failures in a row that make the pod unhealthy. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Milliseconds after its start in which failures don't count. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_period_ms: Option<u64>,
}

/// How a pod that has a health check is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthState {
    /// `starting`, `healthy` or `unhealthy`: as it was last seen. Nothing is checked while it stands still or sleeps.
    pub status: String,
    /// Failures in a row.
    pub failures: u32,
    /// The last results, oldest first.
    pub results: Vec<HealthResult>,
}

/// What came of one health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthResult {
    /// When it began (RFC 3339).
    pub started_at: String,
    /// When it ended (RFC 3339).
    pub ended_at: String,
    /// The exit code; 0 is well, -1 that its time was over.
    pub exit_code: i32,
    /// The beginning of what it said.
    pub output: String,
}

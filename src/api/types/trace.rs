//! What operations on pods took, step by step.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One operation on a pod that has ended. Times are in millionths of a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// The trace's id: that of the request's `traceparent`, if it had one.
    pub id: String,
    /// `create`, `start`, `restart`, `stop`, `sleep`, `wake`, `snapshot`, `restore`, `copy` or `remove`.
    pub operation: String,
    /// The pod's name; none: it failed before there was a pod.
    pub pod: Option<String>,
    /// The pod's id.
    pub pod_id: Option<String>,
    /// When it began.
    pub at: String,
    /// How long it took.
    pub took_us: u64,
    /// `ok`, or the code of the error.
    pub outcome: String,
    /// Its steps, in the order in which they began. Some are taken side by side.
    pub steps: Vec<Step>,
}

/// A step of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TraceStep)]
pub struct Step {
    /// What was done.
    pub name: String,
    /// From the operation's beginning to the step's.
    pub after_us: u64,
    /// How long it took.
    pub took_us: u64,
}

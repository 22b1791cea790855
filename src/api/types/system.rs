//! What takes room on a host's disk, and what of it can go.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What takes room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskUsage {
    /// Images: their layers, unpacked and as they go into the store.
    pub images: Usage,
    /// Pods: their writable layers, what stops kept of them, and logs.
    pub pods: Usage,
    /// Named volumes.
    pub volumes: Usage,
    /// Raw images of snapshots, kept so that a wake here reads no store.
    pub cache: Usage,
    /// Snapshots in the store. None: the store does not answer.
    pub snapshots: Option<Usage>,
}

/// One kind of thing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DiskUsageOf)]
pub struct Usage {
    /// How many there are.
    pub total: u64,
    /// How many of them are used.
    pub active: u64,
    /// Bytes of all of them.
    pub size: u64,
    /// Bytes of those that `prune` could remove.
    pub reclaimable: u64,
}

/// What to remove of what nothing uses. What a pod or a snapshot needs is never touched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prune {
    /// Pods that are stopped or were never started. Not those that sleep, failed, or are about to be started again.
    #[serde(default)]
    pub pods: bool,
    /// Layers that neither an image nor a pod names.
    #[serde(default)]
    pub images: bool,
    /// With `images`: images that no pod uses, too.
    #[serde(default)]
    pub all: bool,
    /// Named volumes that neither a pod nor a snapshot names.
    #[serde(default)]
    pub volumes: bool,
    /// Raw images of snapshots in which no pod sleeps: they can be had from the store again.
    #[serde(default)]
    pub cache: bool,
    /// Only pods that ended, and images and volumes that were made, so many seconds ago at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than_seconds: Option<u64>,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    /// Names of pods.
    pub pods: Vec<String>,
    /// Names of images.
    pub images: Vec<String>,
    /// Names of volumes.
    pub volumes: Vec<String>,
    /// Ids of snapshots whose raw images went from the cache. The snapshots themselves are kept.
    pub cached: Vec<String>,
    /// Bytes of disk that are free now and were not before.
    pub reclaimed: u64,
    /// What could not be removed, and why.
    pub failed: Vec<String>,
}

/// What reading the configuration anew has changed, by the names of its keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reloaded {
    /// What holds from now on: for pods that run too, or, as limits of logs, from their next start.
    pub changed: Vec<String>,
    /// What is different in the file and needs a restart of torpord. Pods go on over it.
    pub needs_restart: Vec<String>,
    /// What means nothing to this torpord.
    pub unknown: Vec<String>,
}

/// What was done to pods because their host is shut down, by their names. Those that rested are not named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BroughtDown {
    /// These sleep, and are woken when torpord starts again.
    pub asleep: Vec<String>,
    /// These were stopped; their restart policy says what comes then.
    pub stopped: Vec<String>,
    /// What failed, as `NAME: why`. One that could not be put to sleep was stopped.
    pub failed: Vec<String>,
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogFilter {
    /// Such as `info`, `debug`, or `info,torpor::host=debug`.
    pub filter: String,
}

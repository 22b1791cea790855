//! What a host has room for.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ResourcesInfo;

/// The sums behind a refusal for want of room, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Shortage {
    /// `memory` or `disk`.
    pub resource: String,
    /// What was asked for.
    pub asked: u64,
    /// What pods that have a sandbox were promised already.
    pub promised: u64,
    /// What the host has.
    pub capacity: u64,
    /// What of that is kept for the host.
    pub head_room: u64,
    /// How many times the rest may be promised.
    pub ratio: f64,
    /// What may be promised in all: the rest times the ratio.
    pub limit: u64,
}

// Ratios come from the configuration, which takes no NaN.
impl Eq for Shortage {}

/// What the host has room for. A pod counts for all that it may use as long as it has a sandbox: one that sleeps or is stopped
/// counts for nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// Memory.
    pub memory: Budget,
    /// Disk, for pods' writable layers.
    pub disk: Budget,
    /// Processors of the host. They are shared, not promised.
    pub cpus: u32,
    /// Pods.
    pub pods: PodCounts,
    /// How many pods fit, by their memory.
    pub sizes: Vec<Size>,
    /// How many pods fit, by their tier.
    pub tiers: Vec<Tier>,
}

/// What may be promised of one thing, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// What the host has.
    pub capacity: u64,
    /// What of that is kept for the host.
    pub head_room: u64,
    /// How many times the rest may be promised.
    pub ratio: f64,
    /// What may be promised in all: the rest times the ratio.
    pub limit: u64,
    /// What is promised.
    pub promised: u64,
    /// What may still be promised.
    pub left: u64,
}

/// How many pods there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodCounts {
    /// All.
    pub total: u32,
    /// Those that have a sandbox: they count.
    pub awake: u32,
    /// Those that sleep.
    pub sleeping: u32,
    /// Those that are stopped, failed or were never started.
    pub at_rest: u32,
}

/// How many pods of a size fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CapacitySize)]
pub struct Size {
    /// Bytes of a pod's memory.
    pub memory: u64,
    /// How many fit on the host.
    pub most: u64,
    /// How many more fit now.
    pub more: u64,
}

/// Named limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tier {
    /// Its name.
    pub name: String,
    /// The limits of a pod of it, where the pod asks for none of its own.
    pub resources: ResourcesInfo,
    /// How many fit on the host.
    pub most: u64,
    /// How many more fit now.
    pub more: u64,
}

//! Images and layers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Digest, HealthCheck, ImageName};

/// What an image says about running it: the part of the OCI image configuration that torpor honours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Default arguments, or the command if there is no entry point.
    pub cmd: Vec<String>,
    /// `NAME=value` lines.
    pub env: Vec<String>,
    /// Absolute directory in which the command starts; empty means `/`.
    pub working_dir: String,
    /// `user[:group]`, names or numbers; empty means root.
    pub user: String,
    /// The signal that asks the main process to stop, such as `SIGTERM`; empty means `SIGTERM`.
    pub stop_signal: String,
    /// Its own health check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthCheck>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// One layer in the local layer store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerInfo {
    /// SHA-256 of the uncompressed tar (OCI's diff id).
    pub digest: Digest,
    /// Bytes of regular files once unpacked.
    pub size: u64,
    /// Bytes of the compressed blob.
    pub compressed: u64,
}

/// An image: a name for an ordered list of layers (lowest first) and a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageRecord {
    /// Its name.
    pub name: ImageName,
    /// SHA-256 over configuration and layers: the same content has the same id.
    pub id: Digest,
    /// Lowest first.
    pub layers: Vec<LayerInfo>,
    /// How to run it.
    pub config: ImageConfig,
    /// When it was imported.
    pub created_at: Timestamp,
}

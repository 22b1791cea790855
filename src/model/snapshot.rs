//! Snapshots: one immutable saved state of a pod, as its manifest in the store describes it.
//!
//! The envelope (`format`, `minReader`, `mac`) is read before the rest, so that an unknown format can be named.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Digest, PodRecord, SnapshotId};

/// A run of bytes of an image file, as it stands in a pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Bytes of the file it covers.
    pub length: u64,
    /// The pack's object key below the store's prefix, such as `v1/packs/<snapshot>/0`.
    pub pack: String,
    /// Where the zstd frame begins in the pack, in bytes.
    pub frame: u64,
    /// Compressed length of the frame in bytes.
    pub size: u64,
    /// Where the run begins in the decompressed frame, in bytes.
    pub offset: u64,
    /// HMAC-SHA-256 of the run's bytes under the store's digest key, hexadecimal.
    pub digest: String,
}

/// One file of a checkpoint (`checkpoint.img`, `pages.img`, `pages_meta.img`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileImage {
    /// The file's name.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// Its content, in order.
    pub extents: Vec<Extent>,
}

/// What is read first of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestEnvelope {
    /// Number of the format it was written in.
    pub format: u32,
    /// The oldest reader that understands it.
    pub min_reader: u32,
    /// HMAC-SHA-256 of the body under the store's key, hexadecimal.
    pub mac: String,
}

/// All that is needed to bring the pod back, here or elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Its id.
    pub id: SnapshotId,
    /// When it was taken.
    pub created_at: Timestamp,
    /// The whole pod record, without its environment.
    pub pod: PodRecord,
    /// All layers of the root with init's, lowest first.
    pub layers: Vec<super::LayerInfo>,
    /// Processor architecture, such as `x86_64`.
    pub architecture: String,
    /// Bytes of a memory page.
    pub page_size: u64,
    /// What the engine calls its version.
    pub engine_version: String,
    /// Digest of the engine.
    pub engine: Digest,
    /// Processor features of the host that saved it, sorted.
    pub cpu_features: Vec<String>,
    /// Number of the bundle template.
    pub template: u32,
    /// The checkpoint's files.
    pub files: Vec<FileImage>,
    /// Bytes of the checkpoint, uncompressed.
    pub size: u64,
    /// Bytes in the store, layers not counted.
    pub stored: u64,
}

/// What a list of snapshots shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotInfo {
    /// Its id.
    pub id: SnapshotId,
    /// Name of the pod it was taken of.
    pub pod_name: String,
    /// Id of the pod it was taken of.
    pub pod: super::PodId,
    /// Name of the image.
    pub image: String,
    /// When it was taken.
    pub created_at: Timestamp,
    /// Bytes of the checkpoint, uncompressed.
    pub size: u64,
    /// Bytes in the store.
    pub stored: u64,
}

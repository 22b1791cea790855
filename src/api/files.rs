//! Files of a pod.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is at a path in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileStat {
    /// `file`, `directory`, `symlink` or `other`.
    pub kind: String,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// When it was changed, in seconds since 1970.
    pub mtime: i64,
    /// Its owner's number in the pod.
    pub uid: u32,
    /// Its group's number in the pod.
    pub gid: u32,
    /// What a symbolic link says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Bytes as they are: an archive.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct Bytes(#[allow(dead_code, reason = "a name for the document")] Vec<u8>);

//! Named volumes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A named volume: a directory that outlives the pods which use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Where it lies on the host.
    pub directory: String,
    /// Bytes that it takes on the host's disk. None: it could not be looked through.
    pub size: Option<u64>,
    /// When it was made.
    pub created_at: String,
    /// Names of the pods that use it, those at rest and asleep too.
    pub users: Vec<String>,
}

/// A volume to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateVolume {
    /// Its name: a letter or digit, then letters, digits, `_`, `.` and `-`, 63 at most.
    pub name: String,
}

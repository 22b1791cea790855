//! Secrets, as they are asked for and as they are shown.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A text that is shown to nobody.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A secret for a pod. Its value is one of `value`, `file` and `credential`; it is in no file on a disk, in no answer and in no
/// log. A pod that is put to sleep loses its files in /run/secrets first and gets them again when it wakes. What its processes
/// hold in their memory and environment is in its snapshots all the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretSpec {
    /// Its name.
    pub name: String,
    /// The value. It is kept in the host's memory: after a reboot it has to be given again, with `start` or `wake`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<SecretText>,
    /// `utf-8`, the default, or `base64`: how `value` is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// A file of torpord's host, read at each start and wake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// A systemd credential of torpord's (`LoadCredential=`, `SetCredential=`), read at each start and wake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// `file`, the default: /run/secrets/NAME, owned by the user of the pod's command; or `env`: a variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// With `env`: the variable's name; default: the secret's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// With `file`: its permissions in octal. Default `0400`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// A value for a secret that a pod has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretValue {
    /// The secret's name.
    pub name: String,
    /// The value.
    pub value: SecretText,
    /// `utf-8`, the default, or `base64`: how `value` is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
}

/// A secret that a pod has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretInfo {
    /// Its name.
    pub name: String,
    /// `file` or `env`.
    pub target: String,
    /// The variable that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// `value`, `file` or `credential`.
    pub source: String,
}

/// How to start a pod.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StartPod {
    /// Values of secrets that were given with an earlier request: needed after a reboot of the host, and to change them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretValue>,
}

//! Tokens and tickets.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A token that is wanted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateToken {
    /// What it is called. Made up if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `admin`, `pods` (all about pods and snapshots), `read-only`, or `pod` (one pod).
    pub scope: String,
    /// The pod of a token of scope `pod`: name, id or beginning of an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// How long it is good. Until it is revoked if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
}

/// How a token is replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RotateToken {
    /// For so long the old text is good beside the new one. 0 if left out: it is good no more at once.
    #[serde(default)]
    pub overlap_seconds: u64,
}

/// A token, without what proves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// Its id, which stands in its text.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// `admin`, `pods`, `read-only` or `pod`.
    pub scope: String,
    /// The id of the pod of a token of scope `pod`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// When it was made (RFC 3339).
    pub created_at: String,
    /// When it ends (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Whether that is over.
    #[serde(default)]
    pub expired: bool,
    /// Until when an old text of it is good too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_until: Option<String>,
    /// When it was last used, since torpord was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
}

/// A token and its text, which is shown this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewToken {
    /// What is known of it from now on.
    pub token: Token,
    /// What its bearer sends: `Authorization: Bearer ...`.
    pub secret: String,
}

/// What stands for a token in one request, where no header can be sent: `?ticket=`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ticket {
    /// What is sent.
    pub ticket: String,
    /// How long it may be kept.
    pub expires_in_seconds: u64,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("token", &self.token).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").finish_non_exhaustive()
    }
}

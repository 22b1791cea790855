//! Every error that the API answers: RFC 9457 with a stable code.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::types::capacity::Shortage;
use crate::model::{Code, Error};

/// The media type of errors.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// An error (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// A URI for the kind of error.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was attempted and why it failed.
    pub detail: String,
    /// Stable name of the kind.
    pub code: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The sums, if it was refused for want of room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<Shortage>,
    /// Number of the request, also in torpord's log.
    #[serde(default)]
    pub request_id: String,
}

/// The one match from code to HTTP status.
pub fn status(code: Code) -> u16 {
    match code {
        Code::InvalidRequest => 400,
        Code::Unauthorized => 401,
        Code::Forbidden => 403,
        Code::NotFound => 404,
        Code::MethodNotAllowed => 405,
        Code::WrongState
        | Code::NameTaken
        | Code::PortTaken
        | Code::InUse
        | Code::Cancelled
        | Code::InProgress
        | Code::OutcomeUnknown
        | Code::SecretsMissing => 409,
        Code::TooLarge => 413,
        Code::UnsupportedMediaType => 415,
        Code::BadArchive
        | Code::Damaged
        | Code::Incompatible
        | Code::CommandNotFound
        | Code::CommandNotExecutable
        | Code::KeyReused => 422,
        Code::RateLimited => 429,
        Code::Runtime | Code::Internal | Code::DiskFailed => 500,
        Code::Unsupported => 501,
        Code::StoreUnavailable => 503,
        Code::Timeout => 504,
        Code::Exhausted => 507,
    }
}

fn title(code: Code) -> &'static str {
    match code {
        Code::InvalidRequest => "The request is wrong",
        Code::Unauthorized => "Not authorized",
        Code::Forbidden => "Forbidden",
        Code::RateLimited => "Too many requests",
        Code::NotFound => "Not found",
        Code::MethodNotAllowed => "Method not allowed",
        Code::WrongState => "Not possible in this state",
        Code::NameTaken => "The name is taken",
        Code::PortTaken => "The port is taken",
        Code::InUse => "In use",
        Code::Cancelled => "Cancelled",
        Code::TooLarge => "Too large",
        Code::UnsupportedMediaType => "Media type not understood",
        Code::BadArchive => "The archive is corrupt or not allowed",
        Code::Damaged => "Damaged",
        Code::Incompatible => "Not compatible with this host",
        Code::CommandNotFound => "Command not found",
        Code::CommandNotExecutable => "Command not executable",
        Code::Runtime => "The runtime failed",
        Code::Internal => "Internal error",
        Code::Unsupported => "Not supported here",
        Code::StoreUnavailable => "The object store does not answer",
        Code::Timeout => "Timed out",
        Code::KeyReused => "The key was used for another request",
        Code::InProgress => "The same request is under way",
        Code::OutcomeUnknown => "What became of the request is not known",
        Code::SecretsMissing => "Secrets are missing",
        Code::Exhausted => "Nothing left",
        Code::DiskFailed => "The state directory's disk fails",
    }
}

impl Problem {
    /// Of an error.
    pub fn of(error: &Error, request_id: &str) -> Self {
        let code = error.code();
        Problem {
            kind: format!("urn:torpor:problem:{}", code.as_str().replace('_', "-")),
            title: title(code).into(),
            status: status(code),
            detail: error.report(),
            code: code.as_str().into(),
            hint: error.hint_text().map(str::to_owned),
            room: error.shortage().map(|s| Shortage {
                resource: s.ware.to_string(),
                asked: s.asked,
                promised: s.promised,
                capacity: s.capacity,
                head_room: s.head_room,
                ratio: s.ratio,
                limit: s.limit,
            }),
            request_id: request_id.into(),
        }
    }
}

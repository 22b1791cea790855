//! One error for the whole program: what was attempted, on what, why it failed, what to do about it, and a stable code.

use std::error::Error as StdError;
use std::fmt;

use super::Shortage;

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is. The names are stable: clients match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request's content is wrong and was refused before anything was touched.
    InvalidRequest,
    /// No token, or one that is not good.
    Unauthorized,
    /// The token, or the page that asks, may not do this.
    Forbidden,
    /// Asked too often; the answer says when to ask again.
    RateLimited,
    /// No such pod, image, snapshot or route.
    NotFound,
    /// The object is in a state in which this can't be done.
    WrongState,
    /// Another object has that name.
    NameTaken,
    /// Another program or pod has that host port.
    PortTaken,
    /// The object is used by another one.
    InUse,
    /// The method is not allowed on that route.
    MethodNotAllowed,
    /// The request's body is not of a type that is understood.
    UnsupportedMediaType,
    /// The request's body is larger than allowed.
    TooLarge,
    /// An archive, image or layer is corrupt, hostile or not what its digest says.
    BadArchive,
    /// A snapshot is damaged: its bytes are not those that were saved.
    Damaged,
    /// A snapshot can't be restored here: another engine, processor, or something it needs is missing.
    Incompatible,
    /// The Idempotency-Key was used for another request.
    KeyReused,
    /// A request with that Idempotency-Key is under way.
    InProgress,
    /// A request was begun before, and whether it was done is not known any more.
    OutcomeUnknown,
    /// Values of the pod's secrets are needed, and torpord has them no more.
    SecretsMissing,
    /// No address, port, memory or disk is left.
    Exhausted,
    /// The state directory's disk fails or can't be written.
    DiskFailed,
    /// The object store does not answer or refuses.
    StoreUnavailable,
    /// The command was not found in the pod.
    CommandNotFound,
    /// The command was found but can't be executed.
    CommandNotExecutable,
    /// The pod did not become ready, or an engine did not answer, in time.
    Timeout,
    /// The work was cancelled.
    Cancelled,
    /// The runtime (runsc) refused or failed.
    Runtime,
    /// This build or host lacks what is needed.
    Unsupported,
    /// Anything else: a fault of torpor or of the host.
    Internal,
}

impl Code {
    /// Every code, for documentation and tests.
    pub const ALL: [Code; 29] = [
        Code::InvalidRequest,
        Code::Unauthorized,
        Code::Forbidden,
        Code::RateLimited,
        Code::NotFound,
        Code::WrongState,
        Code::NameTaken,
        Code::PortTaken,
        Code::InUse,
        Code::MethodNotAllowed,
        Code::UnsupportedMediaType,
        Code::TooLarge,
        Code::BadArchive,
        Code::Damaged,
        Code::Incompatible,
        Code::KeyReused,
        Code::InProgress,
        Code::OutcomeUnknown,
        Code::SecretsMissing,
        Code::Exhausted,
        Code::DiskFailed,
        Code::StoreUnavailable,
        Code::CommandNotFound,
        Code::CommandNotExecutable,
        Code::Timeout,
        Code::Cancelled,
        Code::Runtime,
        Code::Unsupported,
        Code::Internal,
    ];

    /// The stable name, as it stands in an answer's `code`.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidRequest => "invalid_request",
            Code::Unauthorized => "unauthorized",
            Code::Forbidden => "forbidden",
            Code::RateLimited => "rate_limited",
            Code::NotFound => "not_found",
            Code::WrongState => "wrong_state",
            Code::NameTaken => "name_taken",
            Code::PortTaken => "port_taken",
            Code::InUse => "in_use",
            Code::MethodNotAllowed => "method_not_allowed",
            Code::UnsupportedMediaType => "unsupported_media_type",
            Code::TooLarge => "too_large",
            Code::BadArchive => "bad_archive",
            Code::Damaged => "damaged",
            Code::Incompatible => "incompatible",
            Code::KeyReused => "key_reused",
            Code::InProgress => "in_progress",
            Code::OutcomeUnknown => "outcome_unknown",
            Code::SecretsMissing => "secrets_missing",
            Code::Exhausted => "exhausted",
            Code::DiskFailed => "disk_failed",
            Code::StoreUnavailable => "store_unavailable",
            Code::CommandNotFound => "command_not_found",
            Code::CommandNotExecutable => "command_not_executable",
            Code::Timeout => "timeout",
            Code::Cancelled => "cancelled",
            Code::Runtime => "runtime",
            Code::Unsupported => "unsupported",
            Code::Internal => "internal",
        }
    }
}

/// A failure. `Display` prints what was attempted only; its causes are in `source()`, each once.
#[derive(Debug)]
pub struct Error {
    code: Code,
    message: String,
    hint: Option<String>,
    shortage: Option<Box<Shortage>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure without a cause of its own. `message`: lower case, no full stop, what was attempted and why not.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error { code, message: message.into(), hint: None, shortage: None, source: None }
    }

    /// The request is wrong: [`Code::InvalidRequest`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    /// A fault of torpor's own: [`Code::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// What the reader can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The sums by which it was refused.
    #[must_use]
    pub fn short_of(mut self, shortage: Shortage) -> Self {
        self.shortage = Some(Box::new(shortage));
        self
    }

    /// The cause underneath.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same failure seen from a step above: code and hint stay, the text says what was attempted there.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        Error {
            code: self.code,
            message: message.into(),
            hint: self.hint.clone(),
            shortage: self.shortage.clone(),
            source: Some(Box::new(self)),
        }
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Whether it is for want of room, or for a disk that fails: what was asked for may work later as it is.
    pub fn is_of_the_disk(&self) -> bool {
        matches!(self.code, Code::Exhausted | Code::DiskFailed)
    }

    /// What the reader can do, if anything is known.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The sums by which it was refused, if it was for want of room.
    pub fn shortage(&self) -> Option<&Shortage> {
        self.shortage.as_deref()
    }

    /// The message and all causes on one line, each said once.
    pub fn report(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            let said = error.to_string();
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

/// Says what was attempted when a foreign error comes up.
pub trait Attempt<T> {
    /// Wraps the error as the cause of a failed attempt, with the code given.
    ///
    /// # Errors
    /// The failure itself, wrapped.
    fn attempt(self, code: Code, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Attempt<T> for std::result::Result<T, E> {
    fn attempt(self, code: Code, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| {
            let source = e.into();
            // An error of ours keeps its own code and hint: the cause knows better than the step above.
            match source.downcast::<Error>() {
                Ok(ours) => ours.context(what()),
                Err(foreign) => Error::new(code, what()).because(foreign),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_says_each_cause_once() {
        let io = std::io::Error::other("disk on fire");
        let e = Error::new(Code::Internal, "write state: disk on fire").because(io).context("save pod p");
        assert_eq!(e.report(), "save pod p: write state: disk on fire");
    }

    #[test]
    fn attempt_keeps_code_and_hint_of_our_own_errors() {
        let inner: Result<()> = Err(Error::new(Code::NotFound, "no image x").hint("import it"));
        let e = inner.attempt(Code::Internal, || "create pod".into()).unwrap_err();
        assert_eq!((e.code(), e.hint_text()), (Code::NotFound, Some("import it")));
    }

    #[test]
    fn codes_are_named_as_serde_names_them() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}

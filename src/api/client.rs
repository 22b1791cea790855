//! The client of the API, over a Unix socket, TCP or TLS.

mod body;
mod connect;
mod files;
mod host;
mod pods;
mod ssh;
mod store;
mod system;
mod tokens;

use std::path::Path;

use futures::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::body::{Body, empty, lines};
pub use self::connect::Connection;
use self::connect::Place;
pub use self::ssh::GREETING;
use super::problem::Problem;
use super::types::{ProgressInfo, Step};

/// Why a call did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// torpord refused or failed, and says why.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    /// Nobody answers.
    #[error("reach torpord at {at}: {cause}")]
    Unreachable {
        /// Where.
        at: String,
        /// Why not.
        cause: std::io::Error,
    },
    /// Somebody answers, but does not prove to be who was asked.
    #[error("talk to {at} by TLS: {cause}")]
    Untrusted {
        /// Where.
        at: String,
        /// Why not.
        cause: std::io::Error,
    },
    /// The answer broke off or was not understood.
    #[error("talk to torpord: {0}")]
    Broken(String),
}

impl ClientError {
    /// The stable code of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            ClientError::Refused(p) => Some(&p.code),
            ClientError::Unreachable { .. } | ClientError::Untrusted { .. } | ClientError::Broken(_) => None,
        }
    }
    /// Whether nobody answered, or not the one who was asked.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, ClientError::Unreachable { .. } | ClientError::Untrusted { .. })
    }
    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            ClientError::Refused(p) => p.hint.as_deref(),
            ClientError::Unreachable { at, .. } if at.starts_with('/') => {
                Some("is torpord running? may you use its socket (group torpor)?")
            }
            ClientError::Unreachable { at, .. } if at.starts_with("ssh://") => Some(
                "is torpor installed there, and may you use its socket (group torpor)? `ssh HOST torpor version` tells",
            ),
            ClientError::Unreachable { .. } => Some("is there a [[listen]] at that address in torpord's torpor.toml?"),
            ClientError::Untrusted { .. } => Some(
                "a certificate of an authority of your own needs --ca-file FILE; without TLS it is tcp://HOST:PORT",
            ),
            ClientError::Broken(_) => None,
        }
    }
}

/// What a call gives.
pub type Result<T> = std::result::Result<T, ClientError>;

pub(super) fn broken(e: impl std::fmt::Display) -> ClientError {
    ClientError::Broken(e.to_string())
}

/// A torpord, by where it is. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    place: Place,
    /// What is sent as `Authorization`: its `Debug` does not show it.
    token: Option<HeaderValue>,
}

/// A part of a path: what has a meaning in a URL is escaped.
pub(super) fn escape(part: &str, keep_slash: bool) -> String {
    use std::fmt::Write;
    part.bytes().fold(String::new(), |mut out, b| {
        let plain =
            b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b':') || (keep_slash && b == b'/');
        if plain {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
        out
    })
}

/// Parameters as a query, without the question mark.
pub fn query(parameters: &[(&str, String)]) -> String {
    let all: Vec<String> = parameters.iter().map(|(k, v)| format!("{k}={}", escape(v, false))).collect();
    all.join("&")
}

impl Client {
    /// The torpord at `unix://PATH` or a plain path, `tcp://HOST:PORT`, `https://HOST:PORT` or `ssh://USER@HOST`.
    ///
    /// # Errors
    /// Another scheme.
    pub fn new(host: &str) -> Result<Self> {
        Self::trusting(host, None)
    }

    /// As [`Client::new`], where certificates of the authorities in `ca_file` are good.
    ///
    /// # Errors
    /// Another scheme, or that file is not good.
    pub fn trusting(host: &str, ca_file: Option<&Path>) -> Result<Self> {
        Ok(Client { place: Place::of(host, ca_file)?, token: None })
    }

    /// The same, showing a token.
    ///
    /// # Errors
    /// It has what no token has.
    pub fn with_token(self, token: &str) -> Result<Self> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|_| broken("the token has characters that no token has"))?;
        value.set_sensitive(true);
        Ok(Client { token: Some(value), ..self })
    }

    /// The beginning of a request: where it goes, and who asks.
    pub(super) fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        let request = Request::builder().method(method).uri(path).header(HOST, self.place.authority());
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, token.clone()),
            None => request,
        }
    }

    /// A connection, or why there is none.
    pub(super) async fn connect(&self) -> Result<Box<dyn Connection>> {
        self.place.connect().await
    }

    /// A bare connection to torpord, for whoever speaks to it otherwise.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn dial(&self) -> Result<Box<dyn Connection>> {
        self.connect().await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        kind: Option<&str>,
        body: Body,
    ) -> Result<Response<Incoming>> {
        self.send_with(method, path, accept, kind.map(|k| (CONTENT_TYPE.as_str(), k)), body).await
    }

    /// A request with one more header.
    async fn send_with(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        header: Option<(&str, &str)>,
        body: Body,
    ) -> Result<Response<Incoming>> {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(async move {
            // What goes wrong on the connection is seen by whoever reads the answer.
            let _ = connection.await;
        });
        let mut request = self.request(method, path).header(ACCEPT, accept);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let response = sender.send_request(request.body(body).map_err(broken)?).await.map_err(broken)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => Err(ClientError::Refused(Box::new(problem))),
            Err(_) => Err(broken(String::from_utf8_lossy(&bytes[..bytes.len().min(500)]))),
        }
    }

    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T> {
        let kind = body.is_some().then_some("application/json");
        let body = body.map_or_else(empty, |b| Full::from(b).map_err(|e| match e {}).boxed());
        let response = self.send(method, path, "application/json", kind, body).await?;
        let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
        let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(text).map_err(broken)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.json(Method::GET, path, None).await
    }

    async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T> {
        self.json(Method::POST, path, Some(serde_json::to_vec(body).map_err(broken)?)).await
    }

    /// A call that reports its progress.
    async fn long<T: DeserializeOwned>(
        &self,
        path: &str,
        kind: Option<&str>,
        body: Body,
        progress: &mut (dyn FnMut(ProgressInfo) + Send),
    ) -> Result<T> {
        let response = self.send(Method::POST, path, "application/x-ndjson", kind, body).await?;
        let mut lines = std::pin::pin!(lines(response));
        while let Some(line) = lines.next().await {
            match serde_json::from_slice::<Step<T>>(&line?).map_err(broken)? {
                Step::Progress(p) => progress(p),
                Step::Result(value) => return Ok(value),
                Step::Error(problem) => return Err(ClientError::Refused(Box::new(problem))),
            }
        }
        Err(broken("the answer broke off; what was asked goes on"))
    }

    fn json_body<B: Serialize>(body: &B) -> Result<Body> {
        Ok(Full::from(serde_json::to_vec(body).map_err(broken)?).map_err(|e| match e {}).boxed())
    }

    pub(super) fn pod(reference: &str, rest: &str) -> String {
        format!("/v1/pods/{}{rest}", escape(reference, false))
    }
}

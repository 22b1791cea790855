//! Answers and refusals as the surfaces' clients know them, and requests as these clients write them.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::api::problem;
use crate::model::{Code, Error};

/// Bytes of a body.
const BODY: usize = 1 << 20;
/// Bytes of one that is too large which are read all the same.
const MOST_READ: usize = 32 << 20;

/// A refusal on its way out.
pub(super) struct Refused {
    status: StatusCode,
    text: String,
}

/// What a handler gives.
pub(super) type Answer<T> = Result<T, Refused>;

impl Refused {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Refused { status, text: text.into() }
    }

    /// With another status.
    pub(super) fn with(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

impl From<Error> for Refused {
    fn from(e: Error) -> Self {
        let status = StatusCode::from_u16(problem::status(e.code())).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(code = e.code().as_str(), error = %e.report(), "a request failed");
        }
        let text = e.hint_text().map_or_else(|| e.report(), |hint| format!("{} ({hint})", e.report()));
        Refused { status, text }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(json!({"error": self.text}))).into_response()
    }
}

/// How a listener that guards a surface says that somebody may not.
pub fn refuse(e: Error) -> Response {
    Refused::from(e).into_response()
}

pub(super) async fn no_such_route(request: Request) -> Refused {
    let path: String = request.uri().path().chars().take(200).collect();
    Refused::new(StatusCode::NOT_FOUND, format!("no route {path}"))
}

pub(super) async fn no_such_method(request: Request) -> Refused {
    let path: String = request.uri().path().chars().take(200).collect();
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} is not allowed on {path}", request.method()))
}

/// What a panic becomes.
pub(super) fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    refuse(Error::internal("a fault of torpord's own; its log says more"))
}

/// A JSON body, whatever the request says of it; nothing at all is an object without fields.
pub(super) struct Lenient<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Lenient<T> {
    type Rejection = Refused;
    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        let bytes = whole(request).await?;
        let text: &[u8] = if bytes.trim_ascii().is_empty() { b"{}" } else { &bytes };
        // A list would stand for an object's fields in their order.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err(Error::invalid("the body is no JSON object").into());
        }
        let value = serde_json::from_slice(text);
        value.map(Lenient).map_err(|e| Error::new(Code::InvalidRequest, format!("the body can't be used: {e}")).into())
    }
}

/// A request's body. One that is too large is read on for a while: a client that still sends does not see its answer.
async fn whole(request: Request) -> Result<Vec<u8>, Refused> {
    let mut body = request.into_body().into_data_stream();
    let (mut bytes, mut length) = (Vec::new(), 0);
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|e| Refused::new(StatusCode::BAD_REQUEST, format!("the body can't be read: {e}")))?;
        length += piece.len();
        if length <= BODY {
            bytes.extend_from_slice(&piece);
        } else if length > MOST_READ {
            break;
        }
    }
    if length > BODY {
        return Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {BODY} bytes")));
    }
    Ok(bytes)
}

/// Parts of the path.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|p| Path(p.0)).map_err(|e: PathRejection| Refused::new(StatusCode::BAD_REQUEST, e.body_text()))
    }
}

/// A text, or a number that stands for its digits.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Text {
    Text(String),
    Number(serde_json::Number),
}

impl Text {
    pub(super) fn into_string(self) -> String {
        match self {
            Text::Text(text) => text,
            Text::Number(number) => number.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Wanted {
        name: Option<Text>,
    }

    async fn read(body: &str) -> Result<Option<String>, u16> {
        let request = Request::builder().header("content-type", "application/x-www-form-urlencoded");
        let request = request.body(axum::body::Body::from(body.to_owned())).unwrap();
        let read = Lenient::<Wanted>::from_request(request, &()).await;
        read.map(|Lenient(w)| w.name.map(Text::into_string)).map_err(|e| e.status.as_u16())
    }

    #[tokio::test]
    async fn bodies_are_json_whatever_they_are_said_to_be() {
        for (body, name) in [
            ("", None),
            (" \n", None),
            ("{}", None),
            (r#"{"name":null}"#, None),
            (r#"{"name":"a","more":[1]}"#, Some("a")),
            (r#" {"name":12}"#, Some("12")),
        ] {
            assert_eq!(read(body).await, Ok(name.map(str::to_owned)), "{body}");
        }
        for bad in ["x", "[]", "[\"a\"]", "null", "\"a\"", "{", r#"{"name":[]}"#, r#"{"name":true}"#, "{} {}", "\0"] {
            assert_eq!(read(bad).await, Err(400), "{bad}");
        }
    }
}

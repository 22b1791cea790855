//! Errors as answers, and requests that are refused as errors.

use std::fmt;
use std::marker::PhantomData;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::api::problem::{MEDIA_TYPE, Problem};
use crate::model::token::Caller;
use crate::model::{Code, Error};

/// An error on its way out. The number of the request is put in by [`number_requests`].
pub(super) struct Refused(pub(super) Error);

impl From<Error> for Refused {
    fn from(e: Error) -> Self {
        Refused(e)
    }
}

/// What a handler gives.
pub(super) type Answer<T> = Result<T, Refused>;

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let problem = Problem::of(&self.0, "");
        let mut response = of(&problem);
        response.extensions_mut().insert(problem);
        response
    }
}

fn of(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(problem).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response()
}

/// Gives every request a number, says it in the answer and in every error, and logs what went wrong on our side.
pub(super) async fn number_requests(request: Request, next: axum::middleware::Next) -> Response {
    let given = request.headers().get("x-request-id").and_then(|v| v.to_str().ok());
    let fit =
        |id: &&str| !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let id = match given.filter(fit) {
        Some(id) => id.to_owned(),
        None => crate::model::PodId::random().map(|i| i.to_string()).unwrap_or_default(),
    };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    if let Some(mut problem) = response.extensions_mut().remove::<Problem>() {
        problem.request_id.clone_from(&id);
        if problem.status >= 500 {
            tracing::warn!(%method, %path, request = %id, code = %problem.code, "{}", problem.detail);
        }
        // What else the answer says stays: who is to be asked how, and when again.
        let said = std::mem::take(response.headers_mut());
        response = of(&problem);
        for (name, value) in &said {
            if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
                response.headers_mut().append(name, value.clone());
            }
        }
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}

pub(super) async fn no_such_route(request: Request) -> Refused {
    let path: String = request.uri().path().chars().take(200).collect();
    Refused(Error::new(Code::NotFound, format!("no route {path}")).hint("GET /openapi.json lists them"))
}

/// A path that has no such method.
pub(super) fn not_allowed(request: &Request) -> Error {
    let path: String = request.uri().path().chars().take(200).collect();
    Error::new(Code::MethodNotAllowed, format!("{} is not allowed on {path}", request.method()))
}

pub(super) async fn no_such_method(request: Request) -> Refused {
    Refused(not_allowed(&request))
}

/// What a panic becomes.
pub(super) fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    Refused(Error::internal("a fault of torpord's own; its log says more")).into_response()
}

/// What is written as a JSON object. A list is none, though it could stand for the fields in their order.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields))
            }
        }
        deserializer.deserialize_map(Fields(PhantomData)).map(Object)
    }
}

/// A JSON body; nothing at all stands for the default where there is one.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refused;
    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        match axum::Json::<Object<T>>::from_request(request, state).await {
            Ok(axum::Json(Object(value))) => Ok(Body(value)),
            Err(e) => Err(refusal(&e)),
        }
    }
}

/// As [`Body`], where the body may be left out.
pub(super) struct MaybeBody<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for MaybeBody<T> {
    type Rejection = Refused;
    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let length = request.headers().get(header::CONTENT_LENGTH);
        let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
        if !chunked && length.is_none_or(|l| l == "0") {
            return Ok(MaybeBody(T::default()));
        }
        Body::from_request(request, state).await.map(|Body(b)| MaybeBody(b))
    }
}

fn refusal(e: &JsonRejection) -> Refused {
    let code = match e.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
        StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
        _ => Code::InvalidRequest,
    };
    let error = Error::new(code, plain(&e.body_text()));
    Refused(match code {
        Code::UnsupportedMediaType => error.hint("send content-type: application/json"),
        Code::TooLarge => error,
        _ => error.hint("GET /openapi.json says what a body is made of"),
    })
}

/// The framework's words for what was sent, in ours.
fn plain(text: &str) -> String {
    let parts = [
        ("Failed to deserialize the JSON body into the target type: ", "the body: "),
        ("Failed to parse the request body as JSON: ", "the body is no JSON: "),
        ("Failed to deserialize query string: ", "the query: "),
    ];
    let found = parts.iter().find_map(|(theirs, ours)| Some(format!("{ours}{}", text.strip_prefix(theirs)?)));
    found.unwrap_or_else(|| text.to_owned())
}

/// Why a body of at most so many bytes could not be read.
pub(super) fn unread(e: &axum::Error, most: usize) -> Error {
    let mut cause: Option<&dyn std::error::Error> = Some(e);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return Error::new(Code::TooLarge, format!("the body is larger than {most} bytes"));
        }
        cause = error.source();
    }
    Error::invalid("the body broke off, or came too slowly")
}

/// Query parameters.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        query.map(|q| Query(q.0)).map_err(|e: QueryRejection| Refused(Error::invalid(plain(&e.body_text()))))
    }
}

/// Parts of the path.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|p| Path(p.0)).map_err(|e: PathRejection| Refused(Error::invalid(e.body_text())))
    }
}

/// Who asks. The listener says so; where none did, nobody may anything.
pub(super) struct Asked(pub(super) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.map(Asked).ok_or_else(|| Refused(Error::internal("nobody said who asks")))
    }
}

/// Every code has one status, and only those that invite another try are 503.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_are_bodies() {
        #[derive(Debug, Default, PartialEq, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Wanted {
            a: u8,
        }
        let read = |text: &str| serde_json::from_str::<Object<Wanted>>(text).map(|o| o.0.a).map_err(|e| e.to_string());
        assert_eq!((read("{}"), read(r#"{"a":7}"#)), (Ok(0), Ok(7)));
        for bad in ["[]", "[7]", "7", "null", "\"x\"", r#"{"b":1}"#, r#"{"a":[]}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read("[7]").unwrap_err().contains("a JSON object"));
    }

    #[test]
    fn every_code_has_a_status_that_http_knows() {
        for code in Code::ALL {
            let status = StatusCode::from_u16(crate::api::problem::status(code)).unwrap();
            assert!(status.is_client_error() || status.is_server_error(), "{code:?}");
        }
    }
}

//! The Idempotency-Key header on POST (draft-ietf-httpapi-idempotency-key-header): a client that asks again after a lost answer
//! gets the first answer.
//!
//! A request with a key is run to its end whether or not its client stays, since its answer is kept. What is kept is what was
//! done; a refusal or failure leaves the key free.

use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::answer::{self, Refused};
use crate::daemon::core::Core;
use crate::daemon::core::idempotency::{Answer, Asked, Begun, Intent, Ticket};
use crate::model::token::Caller;
use crate::model::{Error, Result};

/// The header.
const KEY: &str = "idempotency-key";
/// Characters of a key.
const LONGEST: usize = 255;
/// Says of an answer that it is the first one once more.
const REPLAYED: &str = "idempotent-replayed";
/// How an answer in pieces is told from others.
const LINES: &str = "application/x-ndjson";

/// Where a handler says what the request makes; none if it came without a key.
pub(super) struct MaybeIntent(pub(super) Option<Intent>);

impl<S: Send + Sync> FromRequestParts<S> for MaybeIntent {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Self::Rejection> {
        Ok(MaybeIntent(parts.extensions.get::<Intent>().cloned()))
    }
}

/// Looks at every request; those without a key go on as they are.
pub(super) async fn once(State((core, most)): State<(Arc<Core>, usize)>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST || !request.headers().contains_key(KEY) {
        return next.run(request).await;
    }
    match keyed(&core, most, request, next).await {
        Ok(response) => response,
        Err(e) => Refused(e).into_response(),
    }
}

/// The key: a string of structured fields (`"..."`), as the draft has it, or the bare text that most clients send.
fn key(headers: &HeaderMap) -> Result<String> {
    let bad = |why: &str| {
        Err(Error::invalid(format!("the Idempotency-Key {why}"))
            .hint("1 to 255 printable characters, such as a new UUID, for each request"))
    };
    let mut all = headers.get_all(KEY).iter();
    let (Some(value), None) = (all.next(), all.next()) else { return bad("was given more than once") };
    let Ok(text) = value.to_str() else { return bad("has characters that are not printable ASCII") };
    let text = text.trim();
    let text = match text.strip_prefix('"') {
        None => text.to_owned(),
        Some(rest) => {
            let Some(inner) = rest.strip_suffix('"') else { return bad("has no quote at its end") };
            let mut plain = String::new();
            let mut letters = inner.chars();
            while let Some(c) = letters.next() {
                match c {
                    '\\' => match letters.next() {
                        Some(escaped @ ('"' | '\\')) => plain.push(escaped),
                        _ => return bad("has a backslash before neither a quote nor a backslash"),
                    },
                    '"' => return bad("has a quote within"),
                    other => plain.push(other),
                }
            }
            plain
        }
    };
    if text.is_empty() || text.len() > LONGEST {
        return bad("is empty or longer than 255 characters");
    }
    Ok(text)
}

async fn keyed(core: &Arc<Core>, most: usize, request: Request, next: Next) -> Result<Response> {
    let key = key(request.headers())?;
    let (mut parts, body) = request.into_parts();
    let json =
        |h: &HeaderMap| h.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/json"));
    // An image is as large as it is: it is sent on as it comes, and its bytes are not compared.
    let streamed = parts.uri.path() == "/v1/images" && !json(&parts.headers);
    let (bytes, body) = if streamed {
        (Bytes::new(), body)
    } else {
        let bytes = to_bytes(body, most).await.map_err(|e| answer::unread(&e, most))?;
        (bytes.clone(), Body::from(bytes))
    };
    // Another caller's keys are others.
    let token = parts.extensions.get::<Caller>().and_then(|c| c.token.as_ref());
    let whose = token.map(ToString::to_string).unwrap_or_default();
    let (head, answer) = tokio::sync::oneshot::channel();
    let core = Arc::clone(core);
    // From here on it goes its way whether or not the client stays.
    tokio::spawn(async move {
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or("").as_bytes();
        let kind = Kind::of(&path);
        let asked = Asked {
            key: [&whose, &key],
            parts: &[parts.method.as_str().as_bytes(), path.as_bytes(), query, &bytes],
            once: kind.once,
        };
        let said = match core.begin_request(&asked).await {
            Err(e) => Refused(e).into_response(),
            Ok(Begun::Done(answer)) => again(answer),
            Ok(Begun::New(ticket)) => {
                parts.extensions.insert(ticket.intent());
                let response = next.run(Request::from_parts(parts, body)).await;
                return to_the_end(ticket, kind, response, head).await;
            }
        };
        let _ = head.send(said); // or the client has gone
    });
    // The work ended without a word: a fault of ours.
    Ok(answer.await.unwrap_or_else(|_| answer::panicked(Box::new(()))))
}

#[derive(Clone, Copy)]
struct Kind {
    /// It must not be done twice even if nobody knows whether it was done.
    once: bool,
    /// Its answer may hold what is secret.
    private: bool,
}

impl Kind {
    /// Of a route. Only answers that are known to hold no secret are for the database.
    fn of(path: &str) -> Self {
        let program = path.ends_with("/exec");
        let plain = ["/v1/pods", "/v1/snapshots", "/v1/images", "/v1/volumes", "/v1/system"];
        let open =
            !program && plain.iter().any(|p| path.strip_prefix(p).is_some_and(|r| r.is_empty() || r.starts_with('/')));
        Kind { once: program || path.ends_with("/kill") || path.starts_with("/v1/tokens"), private: !open }
    }
}

/// Takes all of an answer, keeps it, and passes it on.
async fn to_the_end(ticket: Ticket, kind: Kind, response: Response, head: tokio::sync::oneshot::Sender<Response>) {
    let (parts, body) = response.into_parts();
    let media = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let in_lines = media.as_deref() == Some(LINES);
    let mut pieces = body.into_data_stream();
    let (mut all, mut broken) = (Vec::new(), false);
    let (mut head, mut sender) = (Some(head), None);
    let status = parts.status;
    let mut parts = Some(parts);
    if in_lines && let (Some(head), Some(parts)) = (head.take(), parts.take()) {
        let (to, from) = tokio::sync::mpsc::channel::<std::result::Result<Bytes, std::convert::Infallible>>(16);
        let _ = head.send(Response::from_parts(parts, Body::from_stream(ReceiverStream::new(from))));
        sender = Some(to);
    }
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) if in_lines => {
                // How far it was then is nothing to be told again.
                if let Some(to) = sender.as_ref().filter(|_| piece.starts_with(b"{\"progress\"")) {
                    let _ = to.try_send(Ok(piece));
                } else {
                    all.extend_from_slice(&piece);
                }
            }
            Ok(piece) => all.extend_from_slice(&piece),
            Err(_) => broken = true,
        }
    }
    let failed = broken || !status.is_success() || (in_lines && !all.starts_with(b"{\"result\""));
    let whole = Bytes::from(all);
    match String::from_utf8(whole.to_vec()) {
        // Where nobody knows what a failure left, it is not tried again.
        Ok(body) if !failed || (kind.once && status.is_server_error()) => {
            ticket.finish(Answer { status: status.as_u16(), media, body }, kind.private).await;
        }
        _ => ticket.abandon().await,
    }
    if let Some(to) = sender {
        let _ = to.send(Ok(whole)).await;
    } else if let (Some(head), Some(parts)) = (head, parts) {
        let _ = head.send(Response::from_parts(parts, Body::from(whole)));
    }
}

fn again(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, answer.body).into_response();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    if let Some(media) = answer.media.and_then(|m| HeaderValue::from_str(&m).ok()) {
        headers.insert(header::CONTENT_TYPE, media);
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

/// The header, in the document, on every POST; and what is answered because of it.
pub(super) fn describe(document: &mut utoipa::openapi::OpenApi) {
    use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
    use utoipa::openapi::schema::{ObjectBuilder, Type};
    let description = "A key of the client's choice for this one request (1 to 255 characters, such as a UUID). Asked again with the \
         same key within 24 hours, also after torpord was restarted, it is not done again: the first answer comes back, with \
         `idempotent-replayed: true`. While it is under way the second call waits for it, up to 30 s, and then gets 409 \
         (`in_progress`). With another body or path the key is refused with 422 (`key_reused`). A call that was refused or failed \
         leaves its key free. Of a program, a signal or a token 409 (`outcome_unknown`) once torpord was restarted.";
    for item in document.paths.paths.values_mut() {
        let Some(post) = &mut item.post else { continue };
        let header = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .description(Some(description))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(LONGEST))))
            .build();
        post.parameters.get_or_insert_default().push(header.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_hold_a_secret_is_not_for_the_database() {
        let of = |path| (Kind::of(path).once, Kind::of(path).private);
        assert_eq!(of("/v1/pods"), (false, false));
        assert_eq!(of("/v1/pods/web/sleep"), (false, false));
        assert_eq!(of("/v1/pods/web/kill"), (true, false));
        assert_eq!(of("/v1/pods/web/exec"), (true, true));
        assert_eq!(of("/v1/tokens"), (true, true));
        assert_eq!(of("/v1/tickets"), (false, true));
        assert_eq!(of("/v1/podsx"), (false, true));
    }

    #[test]
    fn keys_are_read_bare_and_as_strings_of_structured_fields() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for v in values {
                headers.append(KEY, v.parse().unwrap());
            }
            key(&headers).ok()
        };
        assert_eq!(read(&["8e03978e-40d5"]).as_deref(), Some("8e03978e-40d5"));
        assert_eq!(read(&["\"8e03978e-40d5\""]).as_deref(), Some("8e03978e-40d5"));
        assert_eq!(read(&["\"a\\\"b\\\\\""]).as_deref(), Some("a\"b\\"));
        for bad in [&[""][..], &["\"\""], &["\"a"], &["\"a\"b\""], &["\"a\\b\""], &["a", "b"], &[&"x".repeat(256)]] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}

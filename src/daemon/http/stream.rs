//! Answers that come in pieces: progress of long calls.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde::Serialize;
use tokio_stream::wrappers::ReceiverStream;

use super::answer::Refused;
use crate::api::problem::Problem;
use crate::api::types::{ProgressInfo, Step};
use crate::host::progress::Progress;
use crate::model::Result;

/// The media type of answers in pieces.
pub(super) const NDJSON: &str = "application/x-ndjson";
/// Between two pieces of progress.
const EVERY: Duration = Duration::from_millis(100);

/// For so long what a client still sends after a refusal is read and thrown away.
const REST: Duration = Duration::from_secs(30);

/// A request's body. What was not read of it when it is dropped is read then: a connection that is closed before loses its
/// answer, for a client that still sends does not get to see it.
pub(super) struct ReadToEnd {
    body: Option<BodyDataStream>,
    /// Whether the client sends: one that asked whether it should waits until somebody reads.
    sent: bool,
}

impl ReadToEnd {
    pub(super) fn new(body: Body) -> Self {
        ReadToEnd { body: Some(body.into_data_stream()), sent: true }
    }
}

/// Whatever is answered to it, a request is read to its end.
pub(super) async fn read_to_end(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let sent = !request.headers().contains_key(header::EXPECT);
    let kept = |body: Body| Body::from_stream(ReadToEnd { body: Some(body.into_data_stream()), sent });
    next.run(request.map(kept)).await
}

impl Stream for ReadToEnd {
    type Item = std::result::Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.sent = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let next = std::task::ready!(body.poll_next_unpin(cx));
        if !matches!(next, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(next)
    }
}

impl Drop for ReadToEnd {
    fn drop(&mut self) {
        if let (Some(mut body), true, Ok(runtime)) =
            (self.body.take(), self.sent, tokio::runtime::Handle::try_current())
        {
            runtime.spawn(tokio::time::timeout(REST, async move { while let Some(Ok(_)) = body.next().await {} }));
        }
    }
}

/// Whether the client asked for that media type.
pub(super) fn wants(headers: &HeaderMap, media: &str) -> bool {
    headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains(media))
}

pub(super) fn line<T: Serialize>(value: &T) -> Bytes {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    Bytes::from(bytes)
}

/// Answers a long call: its result when it is done, or progress, line by line, to a client that asked for it.
pub(super) async fn long<T, F>(headers: &HeaderMap, status: u16, work: impl FnOnce(Progress) -> F) -> Response
where
    T: Serialize + Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let status = axum::http::StatusCode::from_u16(status).unwrap_or_default();
    if !wants(headers, NDJSON) {
        return match work(Progress::default()).await {
            Ok(value) => (status, axum::Json(value)).into_response(),
            Err(e) => Refused(e).into_response(),
        };
    }
    let (progress, mut seen) = Progress::channel();
    let work = work(progress);
    let (sender, receiver) = tokio::sync::mpsc::channel::<std::result::Result<Bytes, std::convert::Infallible>>(16);
    tokio::spawn(async move {
        tokio::pin!(work);
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let last = loop {
            tokio::select! {
                biased;
                done = &mut work => break match done {
                    Ok(value) => line(&Step::Result(value)),
                    Err(e) => line(&Step::<()>::Error(Problem::of(&e, ""))),
                },
                _ = ticks.tick() => {
                    if seen.has_changed().unwrap_or(false) {
                        let now = seen.borrow_and_update().clone();
                        let step = Step::<()>::Progress(ProgressInfo { phase: now.phase, done: now.done, total: now.total });
                        // A client that went away is told nothing; the work goes on.
                        let _ = sender.try_send(Ok(line(&step)));
                    }
                }
            }
        };
        let _ = sender.send(Ok(last)).await;
    });
    let body = Body::from_stream(ReceiverStream::new(receiver));
    (status, [(header::CONTENT_TYPE, NDJSON)], body).into_response()
}

//! A container's output as server-sent events without names: `data: {"line", "timestamp"}`, the timestamp in milliseconds.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde_json::json;
use tokio_stream::wrappers::ReceiverStream;

use super::Containers;
use crate::daemon::surfaces::answer::{Answer, Path};
use crate::host::logs::{self, LogLine, LogQuery};

/// After so long without a line the connection is shown to live.
const QUIET: Duration = Duration::from_secs(15);

pub(super) async fn logs(State(this): State<Arc<Containers>>, Path(id): Path<String>) -> Answer<Response> {
    let pod = this.find(&id)?;
    let lines = this.core.logs(&pod.id, LogQuery { follow: true, ..LogQuery::default() })?;
    // Nothing is read ahead of a client: one that is slow holds nobody up but itself.
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, Infallible>>(1);
    tokio::spawn(async move {
        let mut lines = std::pin::pin!(lines);
        // At once: the client knows that it is heard.
        let mut next = Bytes::from_static(b": listening\n\n");
        loop {
            if sender.send(Ok(next)).await.is_err() {
                return;
            }
            next = tokio::select! {
                batch = tokio::time::timeout(QUIET, lines.next()) => match batch {
                    Ok(Some(Ok(batch))) => match logs::aside(move || block(&batch)).await {
                        Ok(block) => block,
                        Err(_) => return,
                    },
                    Ok(Some(Err(e))) => {
                        tracing::warn!(error = %e.report(), "read a container's log");
                        return;
                    }
                    Ok(None) => return,
                    Err(_) => Bytes::from_static(b":\n\n"),
                },
                () = sender.closed() => return,
            };
        }
    });
    let head = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    ];
    Ok((head, Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

fn block(lines: &[LogLine]) -> Bytes {
    let mut text = String::new();
    for line in lines {
        // JSON in one line: a line's end within it is escaped.
        let data = json!({"line": line.line, "timestamp": line.timestamp.as_millisecond()});
        text.push_str("data: ");
        text.push_str(&data.to_string());
        text.push_str("\n\n");
    }
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_event_whatever_is_in_it() {
        let line = LogLine {
            timestamp: "2026-01-31T12:00:00.5Z".parse().unwrap(),
            stream: crate::channel::Stream::Stdout,
            line: "a\r\ndata: \"x\"".into(),
            partial: false,
        };
        let text = String::from_utf8(block(&[line.clone(), line]).to_vec()).unwrap();
        let events: Vec<&str> = text.split_terminator("\n\n").collect();
        assert_eq!((events.len(), events[0]), (2, events[1]));
        let data: serde_json::Value = serde_json::from_str(events[0].strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data, json!({"line": "a\r\ndata: \"x\"", "timestamp": 1_769_860_800_500_i64}));
    }
}

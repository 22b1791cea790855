//! A pod's output: objects or plain text, or server-sent events that can be gone on with.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde::Deserialize;
use utoipa::IntoParams;

use super::answer::{Answer, Path, Query};
use super::stream::{NDJSON, line, wants};
use crate::api::problem::Problem;
use crate::api::types::LogLine;
use crate::channel::record;
use crate::daemon::core::Core;
use crate::host::logs::{self, LogQuery, Raw};
use crate::model::{Error, PodId, Result};

/// The media type of server-sent events.
const SSE: &str = "text/event-stream";
/// After so long without a line the connection is shown to live.
const QUIET: Duration = Duration::from_secs(15);

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Lines {
    /// Go on with what is still to come, until the pod's command ends. Default: only for server-sent events.
    follow: Option<bool>,
    /// Only that many of the last lines.
    #[param(minimum = 0)]
    tail: Option<i64>,
    /// Only lines since then (RFC 3339).
    since: Option<String>,
}

/// A pod's output, one object a line; as `text/plain` or as server-sent events if that is asked for by `Accept`.
///
/// Each server-sent event is a line, its data an object. With `Last-Event-ID` it goes on after a line that was seen, also of an
/// earlier torpord. Lines that are not kept any more by then are told by an event of type `gap` (`{"missed": N}`), and the end of
/// the pod's command by one of type `end`: after that there is nothing to come back for.
#[utoipa::path(get, path = "/v1/pods/{pod}/logs", tag = "pods", operation_id = "podLogs",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id"), Lines,
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last line that was seen, for server-sent events")),
    responses((status = 200, description = "The lines", content((LogLine = "application/x-ndjson"), (String = "text/plain"), (LogLine = "text/event-stream"))),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn logs(
    State(core): State<Arc<Core>>,
    Path(pod): Path<String>,
    Query(q): Query<Lines>,
    headers: HeaderMap,
) -> Answer<Response> {
    let since = match q.since {
        Some(text) => Some(
            text.parse()
                .map_err(|_| Error::invalid("since is no RFC 3339 time").hint("such as 2026-01-31T12:00:00Z"))?,
        ),
        None => None,
    };
    let tail = q.tail.map(u64::try_from).transpose();
    let tail = tail.map_err(|_| Error::invalid("tail is a number of lines").hint("tail is 0 or more"))?;
    let mut query = LogQuery { tail, since, follow: q.follow.unwrap_or(false), after: None };
    if !wants(&headers, SSE) {
        return Ok(plainly(&headers, core.logs(&pod, query)?));
    }
    query.follow = q.follow.unwrap_or(true);
    let seen = headers.get("last-event-id").map(|id| id.to_str().ok().and_then(seen)).map(|seen| {
        seen.ok_or_else(|| Error::invalid("Last-Event-ID is no line's").hint("take one that came with a line"))
    });
    let seen = seen.transpose()?;
    let (id, records) = core.log_records(&pod, seen.as_ref(), query)?;
    let lost = seen.is_some_and(|(of, _)| of != id);
    let end = move || {
        // Who is to come back is not told that it is over.
        let over = !core.shutdown().is_cancelled();
        if over { Bytes::from_static(b"event: end\ndata: {}\n\n") } else { Bytes::new() }
    };
    let head = [(header::CONTENT_TYPE, SSE), (header::CACHE_CONTROL, "no-cache")];
    Ok((head, Body::from_stream(events(id, lost, records, end))).into_response())
}

/// Where a reader was: the pod and the number of the record.
fn seen(id: &str) -> Option<(PodId, u64)> {
    let (pod, number) = id.split_once('-')?;
    Some((pod.parse().ok()?, number.parse().ok()?))
}

fn write(lines: Vec<logs::LogLine>, plain: bool) -> Bytes {
    let mut bytes = Vec::new();
    for l in lines {
        if plain {
            bytes.extend_from_slice(l.line.as_bytes());
            if !l.partial {
                bytes.push(b'\n');
            }
        } else {
            let shown = LogLine {
                timestamp: l.timestamp.to_string(),
                stream: match l.stream {
                    crate::channel::Stream::Stdout => "stdout".into(),
                    crate::channel::Stream::Stderr => "stderr".into(),
                },
                line: l.line,
                partial: l.partial,
            };
            bytes.extend_from_slice(&line(&shown));
        }
    }
    Bytes::from(bytes)
}

/// Objects, or plain text to a client that asked for it.
fn plainly(headers: &HeaderMap, lines: impl Stream<Item = Result<Vec<logs::LogLine>>> + Send + 'static) -> Response {
    let plain = wants(headers, "text/plain");
    let body = lines.then(move |lines| async move {
        let written = match lines {
            Ok(lines) => logs::aside(move || write(lines, plain)).await,
            Err(e) => Err(e),
        };
        written.map_err(|e| std::io::Error::other(e.report()))
    });
    let media = if plain { "text/plain; charset=utf-8" } else { NDJSON };
    ([(header::CONTENT_TYPE, media)], Body::from_stream(body)).into_response()
}

/// Records as events. What the shim wrote is passed on as it is, but for the number, which becomes the id.
fn blocks(pod: &PodId, raw: &Raw) -> Bytes {
    let mut bytes = Vec::with_capacity(raw.records.len() + raw.records.len() / 2);
    for (n, record) in record::records(&raw.records) {
        let Some(comma) = record.iter().position(|b| *b == b',') else { continue };
        if raw.missed > 0 && bytes.is_empty() {
            bytes.extend_from_slice(&gap(pod, n.saturating_sub(1), Some(raw.missed)));
        }
        bytes.extend_from_slice(format!("id: {pod}-{n}\ndata: {{").as_bytes());
        bytes.extend_from_slice(record[comma + 1..].trim_ascii_end());
        bytes.extend_from_slice(b"\n\n");
    }
    Bytes::from(bytes)
}

fn gap(pod: &PodId, last: u64, missed: Option<u64>) -> Vec<u8> {
    let data = missed.map_or_else(|| "{}".to_owned(), |n| format!("{{\"missed\":{n}}}"));
    format!("id: {pod}-{last}\nevent: gap\ndata: {data}\n\n").into_bytes()
}

/// The events of an answer: a comment at once, so that the client knows it is heard, lines as they come, and the end.
fn events(
    pod: PodId,
    lost: bool,
    records: impl Stream<Item = Result<Raw>> + Send + 'static,
    end: impl FnOnce() -> Bytes + Send + 'static,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let mut begin = b": listening\n\n".to_vec();
    if lost {
        begin.extend_from_slice(&gap(&pod, 0, None));
    }
    let state = Some((Box::pin(records), end));
    let lines = futures::stream::unfold((state, pod), |(state, pod)| async move {
        let (mut records, end) = state?;
        tokio::select! {
            next = records.next() => match next {
                Some(Ok(raw)) => {
                    let id = pod.clone();
                    let written = logs::aside(move || blocks(&id, &raw)).await;
                    Some((written.map_err(|e| std::io::Error::other(e.report())), (Some((records, end)), pod)))
                }
                Some(Err(e)) => Some((Err(std::io::Error::other(e.report())), (None, pod))),
                None => Some((Ok(end()), (None, pod))),
            },
            () = tokio::time::sleep(QUIET) => Some((Ok(Bytes::from_static(b":\n\n")), (Some((records, end)), pod))),
        }
    });
    futures::stream::once(std::future::ready(Ok(Bytes::from(begin)))).chain(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_becomes_an_event_and_its_number_the_id() {
        let pod: PodId = "0123456789abcdef".parse().unwrap();
        let records = b"{\"n\":41,\"timestamp\":\"t\",\"stream\":\"stdout\",\"line\":\"a\\nb\"}\nrubbish\n\
            {\"n\":43,\"timestamp\":\"t\",\"stream\":\"stderr\",\"line\":\"\",\"partial\":true}\n";
        let text = blocks(&pod, &Raw { missed: 2, records: records.to_vec() });
        assert_eq!(
            std::str::from_utf8(&text).unwrap(),
            "id: 0123456789abcdef-40\nevent: gap\ndata: {\"missed\":2}\n\n\
             id: 0123456789abcdef-41\ndata: {\"timestamp\":\"t\",\"stream\":\"stdout\",\"line\":\"a\\nb\"}\n\n\
             id: 0123456789abcdef-43\ndata: {\"timestamp\":\"t\",\"stream\":\"stderr\",\"line\":\"\",\"partial\":true}\n\n"
        );
        assert_eq!(seen("0123456789abcdef-43"), Some((pod, 43)));
        for bad in ["", "-", "43", "0123456789abcdef-", "0123456789abcdef--1", "x-1"] {
            assert_eq!(seen(bad), None, "{bad:?}");
        }
    }
}

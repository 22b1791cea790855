//! What happens to pods, as server-sent events.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::answer::{Answer, Asked};
use crate::api::problem::Problem;
use crate::api::types;
use crate::daemon::core::Core;
use crate::daemon::core::events::{Begin, EventId, Filter, Told};
use crate::model::{Error, Result};
use crate::plan::events::Happened;

/// After so long without an event the connection is shown to live.
const QUIET: Duration = Duration::from_secs(15);
/// Parameters of a query that are read.
const PARAMETERS: usize = 64;

/// A query's parameters, each of which may come more than once.
pub(super) fn parameters(query: Option<&str>) -> Result<Vec<(String, String)>> {
    let all: Vec<_> = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .take(PARAMETERS + 1)
        .map(|(k, v)| (k.into_owned(), v.into_owned()))
        .collect();
    if all.len() > PARAMETERS {
        return Err(Error::invalid(format!("a query may have {PARAMETERS} parameters")));
    }
    Ok(all)
}

/// `name` or `name=value`.
pub(super) fn label(text: &str) -> (String, Option<String>) {
    text.split_once('=').map_or_else(|| (text.to_owned(), None), |(k, v)| (k.to_owned(), Some(v.to_owned())))
}

pub(super) fn unknown(name: &str) -> Error {
    Error::invalid(format!("no parameter {:?}", name.chars().take(40).collect::<String>()))
}

#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Only of these pods: name, id, or a beginning of an id of 6 characters at least. May come more than once.
    #[param(required = false)]
    pod: Vec<String>,
    /// Only of these types. May come more than once.
    #[param(required = false)]
    r#type: Vec<String>,
    /// Only of pods with these labels: `name` or `name=value`. May come more than once; all must be there.
    #[param(required = false)]
    label: Vec<String>,
    /// Begin with what happened since then (RFC 3339) and is still known.
    since: Option<String>,
}

impl Wanted {
    fn of(query: Option<&str>) -> Result<Self> {
        let mut wanted = Wanted::default();
        for (name, value) in parameters(query)? {
            match name.as_str() {
                "pod" => wanted.pod.push(value),
                "type" => wanted.r#type.push(value),
                "label" => wanted.label.push(value),
                "since" => wanted.since = Some(value),
                other => return Err(unknown(other)),
            }
        }
        Ok(wanted)
    }

    fn filter(&self) -> Result<Filter> {
        let what = |name: &String| {
            Happened::ALL.into_iter().find(|h| h.as_str() == name).ok_or_else(|| {
                let known: Vec<&str> = Happened::ALL.iter().map(|h| h.as_str()).collect();
                let shown: String = name.chars().take(40).collect();
                Error::invalid(format!("no event is of type {shown:?}")).hint(format!("there are {}", known.join(", ")))
            })
        };
        Ok(Filter {
            pods: self.pod.clone(),
            what: self.r#type.iter().map(what).collect::<Result<_>>()?,
            labels: self.label.iter().map(|l| label(l)).collect(),
            only: None,
        })
    }
}

fn begin(wanted: &Wanted, headers: &HeaderMap) -> Result<Begin> {
    if let Some(id) = headers.get("last-event-id") {
        let text = id.to_str().map_err(|_| Error::invalid("Last-Event-ID is no text"))?;
        return Ok(Begin::After(text.parse::<EventId>()?));
    }
    let Some(since) = &wanted.since else { return Ok(Begin::Now) };
    let time =
        since.parse().map_err(|_| Error::invalid("since is no RFC 3339 time").hint("such as 2026-01-31T12:00:00Z"))?;
    Ok(Begin::Since(time))
}

/// What happens to pods, as it happens: `created`, `started`, `exited`, `oom`, `stopped`, `paused`, `resumed`, `sleeping`, `woke`, `snapshot`,
/// `restored`, `rootfs-reset`, `failed`, `renamed`, `updated`, `health`, `removed`. With `Last-Event-ID` it goes on after an event that was seen. The last 4096
/// are kept; whoever was away or slow for longer gets an event of type `gap`, and so does whoever goes on from an id of before
/// torpord was started.
#[utoipa::path(get, path = "/v1/events", tag = "system", operation_id = "events",
    params(Wanted, ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event that was seen")),
    responses((status = 200, description = "Without end: `id`, `event` (the type) and `data`", body = types::Event, content_type = "text/event-stream"),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn events(
    State(core): State<Arc<Core>>,
    Asked(caller): Asked,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answer<Response> {
    let wanted = Wanted::of(query.as_deref())?;
    let (from, filter) = (begin(&wanted, &headers)?, Filter { only: caller.only().cloned(), ..wanted.filter()? });
    let told = core.events(from, filter);
    // Nothing is read ahead of a client: one that is slow finds a gap.
    let (sender, receiver) = tokio::sync::mpsc::channel::<std::result::Result<Bytes, std::convert::Infallible>>(1);
    tokio::spawn(async move {
        let mut told = std::pin::pin!(told);
        let mut seen = None;
        let mut quiet = tokio::time::Instant::now() + QUIET;
        // At once: the client knows that it is heard, and that all from now on comes.
        let mut next = Some(Bytes::from_static(b": listening\n\n"));
        loop {
            if let Some(bytes) = next.take() {
                if sender.send(Ok(bytes)).await.is_err() {
                    return;
                }
                quiet = tokio::time::Instant::now() + QUIET;
            }
            next = tokio::select! {
                told = told.next() => match told {
                    Some(Told::Nothing(id)) => {
                        seen = Some(id);
                        None
                    }
                    Some(told) => {
                        seen = None;
                        Some(block(&told))
                    }
                    None => return,
                },
                () = sender.closed() => return,
                // An id without data moves a client's last id over what it did not ask for.
                () = tokio::time::sleep_until(quiet) => Some(match seen.take() {
                    Some(id) => Bytes::from(format!("id: {id}\n\n")),
                    None => Bytes::from_static(b":\n\n"),
                }),
            };
        }
    });
    let head = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    Ok((head, Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

fn block(told: &Told) -> Bytes {
    let event = match told {
        Told::Event(id, e) => types::Event {
            id: id.to_string(),
            r#type: e.what.as_str().into(),
            at: Some(e.at.to_string()),
            pod: Some(e.pod.to_string()),
            name: Some(e.name.clone()),
            labels: e.labels.clone(),
            attributes: e.attributes.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        },
        Told::Gap(id, missed) => types::Event {
            id: id.to_string(),
            r#type: "gap".into(),
            attributes: missed.iter().map(|n| ("missed".to_owned(), n.to_string())).collect(),
            ..types::Event::default()
        },
        Told::Nothing(id) => return Bytes::from(format!("id: {id}\n\n")),
    };
    // JSON in one line: a line's end within it is escaped.
    let data = serde_json::to_string(&event).unwrap_or_default();
    Bytes::from(format!("id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.r#type))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_or_refused() {
        let wanted =
            Wanted::of(Some("pod=a&type=exited&type=oom&label=x%3Dy&label=z&since=2026-01-01T00:00:00Z")).unwrap();
        let filter = wanted.filter().unwrap();
        assert_eq!(filter.what, [Happened::Exited, Happened::Oom]);
        assert_eq!(filter.labels, [("x".into(), Some("y".into())), ("z".into(), None)]);
        assert!(matches!(begin(&wanted, &HeaderMap::new()), Ok(Begin::Since(_))));
        let mut headers = HeaderMap::new();
        headers.insert("last-event-id", "a-7".parse().unwrap());
        assert!(matches!(begin(&wanted, &headers), Ok(Begin::After(_))));
        assert!(Wanted::of(Some("nosuch=1")).is_err());
        assert!(Wanted::of(Some("type=nosuch")).unwrap().filter().is_err());
        assert!(parameters(Some(&"pod=x&".repeat(65))).is_err());
    }
}

//! Sends what operations on pods took to a collector of OpenTelemetry, by OTLP over HTTP with JSON, if the environment says where it
//! is: `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, or `OTEL_EXPORTER_OTLP_ENDPOINT` with `/v1/traces` behind it.
//!
//! What a collector does not take is lost: pods don't wait for it, and it stays in `torpor trace`.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::core::Core;
use super::core::trace::Done;
use crate::api::client::Client;
use crate::model::{Error, Result, hex};

/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a collector is.
struct Collector {
    client: Client,
    host: String,
    path: String,
}

impl Collector {
    fn of(endpoint: &str) -> Result<Self> {
        let bad = || Error::invalid(format!("{endpoint:?} is no address of a collector: write it as http://HOST:4318"));
        let (scheme, rest) = endpoint.split_once("://").ok_or_else(bad)?;
        if !matches!(scheme, "http" | "https") {
            return Err(bad());
        }
        let (host, path) = rest.split_once('/').map_or((rest, String::new()), |(h, p)| (h, format!("/{p}")));
        let client = Client::new(&format!("{scheme}://{host}")).map_err(|_| bad())?;
        Ok(Collector { client, host: host.to_owned(), path })
    }

    /// As the environment says; none: nobody asks for traces.
    fn of_environment() -> Option<Result<Self>> {
        let read = |name| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
        let whole = read("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let based = || Some(format!("{}/v1/traces", read("OTEL_EXPORTER_OTLP_ENDPOINT")?.trim_end_matches('/')));
        whole.or_else(based).map(|e| Self::of(e.trim()))
    }

    async fn send(&self, done: &Done) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::internal(format!("send a trace to {}: {e}", self.host));
        let body = serde_json::to_vec(&document(done)?).map_err(|e| failed(&e))?;
        let work = async {
            let stream = self.client.dial().await.map_err(|e| failed(&e))?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
            let connection = tokio::spawn(connection);
            let request = Request::post(if self.path.is_empty() { "/" } else { &self.path })
                .header("host", &self.host)
                .header("content-type", "application/json")
                .body(Full::new(bytes::Bytes::from(body)))
                .map_err(|e| failed(&e))?;
            let answer = sender.send_request(request).await.map_err(|e| failed(&e))?;
            let status = answer.status();
            let _ = http_body_util::Limited::new(answer.into_body(), 64 << 10).collect().await;
            connection.abort();
            if status.is_success() { Ok(()) } else { Err(failed(&status)) }
        };
        tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(failed(&"it does not answer")))
    }
}

/// Sends what ends from now on, until the daemon does.
pub(super) async fn export(core: Arc<Core>) {
    let collector = match Collector::of_environment() {
        None => return,
        Some(Ok(collector)) => collector,
        Some(Err(e)) => return tracing::error!(error = %e.report(), "traces are sent to nobody"),
    };
    tracing::info!(collector = %collector.host, "traces are sent");
    let mut done = core.follow_traces();
    let mut well = true;
    loop {
        let next = tokio::select! {
            next = done.recv() => next,
            () = core.shutdown().cancelled() => return,
        };
        let sent = match next {
            Ok(done) => collector.send(&done).await,
            Err(RecvError::Lagged(n)) => {
                Err(Error::internal(format!("the collector is too slow: {n} traces are lost")))
            }
            Err(RecvError::Closed) => return,
        };
        // Once, until it is well again: a collector that is away is away for all of them.
        if let Err(e) = &sent
            && well
        {
            tracing::warn!(error = %e.report(), "traces are lost");
        }
        well = sent.is_ok();
    }
}

fn attribute(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// A trace as OTLP has it in JSON.
fn document(done: &Done) -> Result<Value> {
    let began = u128::try_from(done.began.as_nanosecond()).unwrap_or_default();
    let at = |after: Duration| (began + after.as_nanos()).to_string();
    let (trace, own) = (hex(&done.id), hex(&done.span));
    let mut attributes = vec![attribute("torpor.operation", done.operation.as_str())];
    if let Some((id, name)) = &done.pod {
        attributes.extend([attribute("torpor.pod.id", id.as_str()), attribute("torpor.pod.name", name)]);
    }
    let status = done.failed.map_or(json!({ "code": 1 }), |c| json!({ "code": 2, "message": c.as_str() }));
    let mut whole = json!({
        "traceId": trace, "spanId": own, "name": format!("pod {}", done.operation.as_str()), "kind": 2,
        "startTimeUnixNano": at(Duration::ZERO), "endTimeUnixNano": at(done.took),
        "attributes": attributes, "status": status,
    });
    if let Some(parent) = &done.parent {
        whole["parentSpanId"] = json!(hex(parent));
    }
    let mut spans = vec![whole];
    for step in &done.steps {
        let mut span = [0; 8];
        getrandom::fill(&mut span).map_err(|e| Error::internal(format!("read random bytes: {e}")))?;
        spans.push(json!({
            "traceId": trace, "spanId": hex(&span), "parentSpanId": own, "name": step.name, "kind": 1,
            "startTimeUnixNano": at(step.after), "endTimeUnixNano": at(step.after + step.took),
        }));
    }
    let resource = [attribute("service.name", "torpord"), attribute("service.version", env!("CARGO_PKG_VERSION"))];
    Ok(json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{ "scope": { "name": "torpor" }, "spans": spans }],
    }] }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::core::trace::{Operation, Step};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn done() -> Done {
        let step = Step { name: "runsc create", after: Duration::from_millis(1), took: Duration::from_millis(2) };
        Done {
            id: [7; 16],
            span: [1; 8],
            parent: Some([2; 8]),
            operation: Operation::Wake,
            pod: Some(("0123456789abcdef".parse().unwrap(), "web".into())),
            began: jiff::Timestamp::from_second(1_700_000_000).unwrap(),
            took: Duration::from_millis(5),
            failed: None,
            steps: vec![step],
        }
    }

    #[tokio::test]
    async fn a_collector_gets_one_span_for_the_operation_and_one_for_each_step() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = Vec::new();
            let mut piece = [0; 4096];
            // The head says how long the body is.
            loop {
                let n = stream.read(&mut piece).await.unwrap();
                text.extend_from_slice(&piece[..n]);
                let shown = String::from_utf8_lossy(&text).into_owned();
                let Some((head, body)) = shown.split_once("\r\n\r\n") else { continue };
                let length =
                    head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if body.len() >= length.unwrap_or(usize::MAX) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
                    return shown;
                }
            }
        });
        Collector::of(&format!("http://{address}/v1/traces")).unwrap().send(&done()).await.unwrap();
        let asked = server.await.unwrap();
        let (head, body) = asked.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("POST /v1/traces HTTP/1.1") && head.contains("content-type: application/json"),
            "{head}"
        );
        let body: Value = serde_json::from_str(body).unwrap();
        let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        assert_eq!(spans.len(), 2);
        assert_eq!((&spans[0]["name"], &spans[1]["name"]), (&json!("pod wake"), &json!("runsc create")));
        assert_eq!((&spans[0]["parentSpanId"], &spans[1]["parentSpanId"]), (&json!(hex(&[2; 8])), &spans[0]["spanId"]));
        assert_eq!(spans[0]["traceId"], json!("07".repeat(16)));
        assert_eq!(spans[1]["startTimeUnixNano"], json!("1700000000001000000"));
        assert_eq!(spans[1]["endTimeUnixNano"], json!("1700000000003000000"));
    }

    #[tokio::test]
    async fn what_is_no_collector_is_told() {
        for bad in ["", "collector:4318", "ftp://h", "http://"] {
            assert!(Collector::of(bad).is_err(), "{bad}");
        }
        let nobody = Collector::of("http://127.0.0.1:1").unwrap().send(&done()).await.unwrap_err();
        assert!(nobody.report().contains("127.0.0.1:1"), "{}", nobody.report());
    }
}

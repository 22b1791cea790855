//! The client of the API over a Unix socket.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, BodyStream, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::problem::Problem;
use super::types::{
    CreatePod, Doctor, Event, ExecPod, ExecResult, ExitInfo, Health, Image, ImportDirectory, KillPod, LogLine, Pod,
    ProgressInfo, RenamePod, RestorePod, RestoreSnapshot, Snapshot, Stats, Step, StopPod, UpdatePod, Version, WakePod,
};

type Body = BoxBody<Bytes, std::io::Error>;

/// Why a call did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// torpord refused or failed, and says why.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    /// Nobody answers.
    #[error("reach torpord at {socket}: {cause}")]
    Unreachable {
        /// The socket.
        socket: String,
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
            ClientError::Unreachable { .. } | ClientError::Broken(_) => None,
        }
    }
    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            ClientError::Refused(p) => p.hint.as_deref(),
            ClientError::Unreachable { .. } => Some("is torpord running? may you use its socket (group torpor)?"),
            ClientError::Broken(_) => None,
        }
    }
}

/// What a call gives.
pub type Result<T> = std::result::Result<T, ClientError>;

fn broken(e: impl std::fmt::Display) -> ClientError {
    ClientError::Broken(e.to_string())
}

/// How long a connection is tried for while the kernel has no room for one more that waits.
const CROWDED: std::time::Duration = std::time::Duration::from_secs(5);

/// A torpord, by its socket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// A part of a path: what has a meaning in a URL is escaped.
fn escape(part: &str, keep_slash: bool) -> String {
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

/// A body that says how long it is, if that is known: so the other side can tell how far it is.
struct Upload<B> {
    body: B,
    length: Option<u64>,
}

impl<B: hyper::body::Body + Unpin> hyper::body::Body for Upload<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn empty() -> Body {
    Empty::new().map_err(|e| match e {}).boxed()
}

impl Client {
    /// The torpord at `unix://PATH` or a plain path.
    ///
    /// # Errors
    /// Another scheme.
    pub fn new(host: &str) -> Result<Self> {
        let path = host.strip_prefix("unix://").unwrap_or(host);
        if !Path::new(path).is_absolute() {
            return Err(broken(format!("{host:?} is no host: write unix:///path/of/the/socket")));
        }
        Ok(Client { socket: path.into() })
    }

    /// A connection. While very many others wait for one, the kernel asks to try again.
    async fn connect(&self) -> std::io::Result<UnixStream> {
        let end = tokio::time::Instant::now() + CROWDED;
        loop {
            match UnixStream::connect(&self.socket).await {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && tokio::time::Instant::now() < end => {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
                other => return other,
            }
        }
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
        let unreachable = |cause| ClientError::Unreachable { socket: self.socket.display().to_string(), cause };
        let stream = self.connect().await.map_err(unreachable)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(async move {
            // What goes wrong on the connection is seen by whoever reads the answer.
            let _ = connection.await;
        });
        let mut request = Request::builder().method(method).uri(path).header("host", "torpor").header(ACCEPT, accept);
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

    async fn json<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<T> {
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

    fn pod(reference: &str, rest: &str) -> String {
        format!("/v1/pods/{}{rest}", escape(reference, false))
    }

    /// `POST /v1/pods`.
    ///
    /// # Errors
    /// As every call here: [`ClientError`].
    pub async fn create_pod(&self, pod: &CreatePod) -> Result<Pod> {
        self.post("/v1/pods", pod).await
    }
    /// `GET /v1/pods`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        self.get("/v1/pods").await
    }
    /// `GET /v1/pods` with filters: `query` such as `state=running&label=team=a`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn pods_where(&self, query: &str) -> Result<Vec<Pod>> {
        Ok(self.pods_page(query).await?.0)
    }
    /// As [`Client::pods_where`]; with it the query of the next page, if there is one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn pods_page(&self, query: &str) -> Result<(Vec<Pod>, Option<String>)> {
        let response = self.send(Method::GET, &format!("/v1/pods?{query}"), "application/json", None, empty()).await?;
        let link = response.headers().get(hyper::header::LINK).and_then(|l| l.to_str().ok());
        let next = link.and_then(|l| l.strip_prefix("</v1/pods?")?.strip_suffix(">; rel=\"next\""));
        let next = next.map(str::to_owned);
        let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
        Ok((serde_json::from_slice(&bytes).map_err(broken)?, next))
    }
    /// `GET /v1/pods/{pod}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn inspect(&self, pod: &str) -> Result<Pod> {
        self.get(&Self::pod(pod, "")).await
    }
    /// `DELETE /v1/pods/{pod}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove(&self, pod: &str, force: bool) -> Result<()> {
        self.json(Method::DELETE, &Self::pod(pod, if force { "?force=true" } else { "" }), None).await
    }
    /// `POST .../start`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn start(&self, pod: &str) -> Result<Pod> {
        self.json(Method::POST, &Self::pod(pod, "/start"), None).await
    }
    /// `POST .../stop`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stop(&self, pod: &str, how: &StopPod) -> Result<Pod> {
        self.post(&Self::pod(pod, "/stop"), how).await
    }
    /// `POST .../rename`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rename(&self, pod: &str, name: &str) -> Result<Pod> {
        self.post(&Self::pod(pod, "/rename"), &RenamePod { name: name.into() }).await
    }
    /// `PATCH /v1/pods/{pod}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn update(&self, pod: &str, change: &UpdatePod) -> Result<Pod> {
        self.json(Method::PATCH, &Self::pod(pod, ""), Some(serde_json::to_vec(change).map_err(broken)?)).await
    }
    /// `POST .../pause`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn pause(&self, pod: &str) -> Result<Pod> {
        self.json(Method::POST, &Self::pod(pod, "/pause"), None).await
    }
    /// `POST .../resume`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn resume(&self, pod: &str) -> Result<Pod> {
        self.json(Method::POST, &Self::pod(pod, "/resume"), None).await
    }
    /// `POST .../kill`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn kill(&self, pod: &str, signal: &str) -> Result<()> {
        self.post(&Self::pod(pod, "/kill"), &KillPod { signal: signal.into() }).await
    }
    /// `GET .../wait`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn wait(&self, pod: &str) -> Result<ExitInfo> {
        self.get(&Self::pod(pod, "/wait")).await
    }
    /// `POST .../exec`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn exec(&self, pod: &str, exec: &ExecPod) -> Result<ExecResult> {
        self.post(&Self::pod(pod, "/exec"), exec).await
    }
    /// `POST .../sleep`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn sleep(&self, pod: &str, progress: &mut (dyn FnMut(ProgressInfo) + Send)) -> Result<Pod> {
        self.long(&Self::pod(pod, "/sleep"), None, empty(), progress).await
    }
    /// `POST .../wake`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn wake(&self, pod: &str, how: &WakePod, progress: &mut (dyn FnMut(ProgressInfo) + Send)) -> Result<Pod> {
        self.long(&Self::pod(pod, "/wake"), Some("application/json"), Self::json_body(how)?, progress).await
    }
    /// `POST .../restore`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn restore(
        &self,
        pod: &str,
        snapshot: &str,
        progress: &mut (dyn FnMut(ProgressInfo) + Send),
    ) -> Result<Pod> {
        let body = Self::json_body(&RestorePod { snapshot: snapshot.into() })?;
        self.long(&Self::pod(pod, "/restore"), Some("application/json"), body, progress).await
    }
    /// `GET .../logs`. `query` such as `follow=true&tail=10`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn logs(&self, pod: &str, query: &str) -> Result<impl Stream<Item = Result<LogLine>> + Send + use<>> {
        let path = Self::pod(pod, &format!("/logs?{query}"));
        let response = self.send(Method::GET, &path, "application/x-ndjson", None, empty()).await?;
        Ok(lines(response).map(|line| serde_json::from_slice(&line?).map_err(broken)))
    }
    /// `GET .../stats`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stats(&self, pod: &str) -> Result<Stats> {
        self.get(&Self::pod(pod, "/stats")).await
    }
    /// `GET .../stats?stream=true`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stats_stream(&self, pod: &str) -> Result<impl Stream<Item = Result<Stats>> + Send + use<>> {
        let path = Self::pod(pod, "/stats?stream=true");
        let response = self.send(Method::GET, &path, "application/x-ndjson", None, empty()).await?;
        Ok(lines(response).map(|line| serde_json::from_slice(&line?).map_err(broken)))
    }
    /// `GET /v1/events`. `query` such as `type=exited&pod=web`; `after`: the id of the last event that was seen.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn events(
        &self,
        query: &str,
        after: Option<&str>,
    ) -> Result<impl Stream<Item = Result<Event>> + Send + use<>> {
        let extra = after.map(|id| ("last-event-id", id));
        let response =
            self.send_with(Method::GET, &format!("/v1/events?{query}"), "text/event-stream", extra, empty()).await?;
        Ok(lines(response).filter_map(async |line| match line {
            Ok(line) => line.strip_prefix(b"data: ").map(|data| serde_json::from_slice(data).map_err(broken)),
            Err(e) => Some(Err(e)),
        }))
    }
    /// `POST .../snapshots`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn snapshot(&self, pod: &str, progress: &mut (dyn FnMut(ProgressInfo) + Send)) -> Result<Snapshot> {
        self.long(&Self::pod(pod, "/snapshots"), None, empty(), progress).await
    }
    /// `GET /v1/snapshots`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.get("/v1/snapshots").await
    }
    /// `GET /v1/snapshots/{id}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn inspect_snapshot(&self, id: &str) -> Result<Snapshot> {
        self.get(&format!("/v1/snapshots/{}", escape(id, false))).await
    }
    /// `DELETE /v1/snapshots/{id}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove_snapshot(&self, id: &str) -> Result<()> {
        self.json(Method::DELETE, &format!("/v1/snapshots/{}", escape(id, false)), None).await
    }
    /// `POST /v1/snapshots/{id}/restore`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn restore_snapshot(
        &self,
        id: &str,
        name: Option<String>,
        progress: &mut (dyn FnMut(ProgressInfo) + Send),
    ) -> Result<Pod> {
        self.restore_snapshot_as(id, &RestoreSnapshot { name, ..RestoreSnapshot::default() }, progress).await
    }
    /// As [`Client::restore_snapshot`], with all that can be said.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn restore_snapshot_as(
        &self,
        id: &str,
        how: &RestoreSnapshot,
        progress: &mut (dyn FnMut(ProgressInfo) + Send),
    ) -> Result<Pod> {
        let path = format!("/v1/snapshots/{}/restore", escape(id, false));
        self.long(&path, Some("application/json"), Self::json_body(how)?, progress).await
    }
    /// `POST /v1/images` with any stream as body.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn import(
        &self,
        name: &str,
        base: Option<&str>,
        bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
        progress: &mut (dyn FnMut(ProgressInfo) + Send),
    ) -> Result<Image> {
        self.import_sized(name, base, bytes, None, progress).await
    }

    /// `POST /v1/images` with a stream of a length that may be known.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn import_sized(
        &self,
        name: &str,
        base: Option<&str>,
        bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
        length: Option<u64>,
        progress: &mut (dyn FnMut(ProgressInfo) + Send),
    ) -> Result<Image> {
        let body = StreamBody::new(Box::pin(bytes.map_ok(Frame::data)));
        let body = BodyExt::boxed(Upload { body, length });
        self.long(&import_path(name, base), Some("application/octet-stream"), body, progress).await
    }
    /// `POST /v1/images` of a directory of torpord's host.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn import_directory(
        &self,
        name: &str,
        base: Option<&str>,
        directory: &str,
        progress: &mut (dyn FnMut(ProgressInfo) + Send),
    ) -> Result<Image> {
        let body = Self::json_body(&ImportDirectory { directory: directory.into() })?;
        self.long(&import_path(name, base), Some("application/json"), body, progress).await
    }
    /// `GET /v1/images`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn images(&self) -> Result<Vec<Image>> {
        self.get("/v1/images").await
    }
    /// `GET /v1/images/{name}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn inspect_image(&self, name: &str) -> Result<Image> {
        self.get(&format!("/v1/images/{}", escape(name, true))).await
    }
    /// `DELETE /v1/images/{name}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove_image(&self, name: &str) -> Result<()> {
        self.json(Method::DELETE, &format!("/v1/images/{}", escape(name, true)), None).await
    }
    /// `GET /version`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn version(&self) -> Result<Version> {
        self.get("/version").await
    }
    /// `GET /health`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn health(&self) -> Result<Health> {
        self.get("/health").await
    }
    /// `GET /v1/doctor`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn doctor(&self) -> Result<Doctor> {
        self.get("/v1/doctor").await
    }
}

fn import_path(name: &str, base: Option<&str>) -> String {
    let base = base.map(|b| format!("&base={}", escape(b, false))).unwrap_or_default();
    format!("/v1/images?name={}{base}", escape(name, false))
}

/// An answer line by line.
fn lines(response: Response<Incoming>) -> impl Stream<Item = Result<Vec<u8>>> + Send {
    let frames = BodyStream::new(response.into_body());
    futures::stream::unfold((frames, Vec::new(), false), |(mut frames, mut rest, mut over)| async move {
        loop {
            if let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = rest.drain(..=end).collect();
                line.pop();
                return Some((Ok(line), (frames, rest, over)));
            }
            if over {
                return (!rest.is_empty()).then(|| (Ok(std::mem::take(&mut rest)), (frames, rest, over)));
            }
            match frames.next().await {
                Some(Ok(frame)) => rest.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                Some(Err(e)) => return Some((Err(broken(e)), (frames, Vec::new(), true))),
                None => over = true,
            }
        }
    })
}

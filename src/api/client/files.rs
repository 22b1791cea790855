//! Calls about what goes in and out of pods: files, ports, lines as events.

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::Method;
use hyper::body::Frame;

use super::body::{bytes, empty, lines};
use super::{Client, Result, broken, query};
use crate::api::files::FileStat;
use crate::api::logs::{LogEvent, LogReader};
use crate::api::types::{PortInfo, PortPair};

impl Client {
    /// `GET .../logs` as server-sent events: they follow unless `query` says otherwise. `after`: the id of the last line that
    /// was seen.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn log_events(
        &self,
        pod: &str,
        query: &str,
        after: Option<&str>,
    ) -> Result<impl Stream<Item = Result<LogEvent>> + Send + use<>> {
        let extra = after.map(|id| ("last-event-id", id));
        let path = Self::pod(pod, &format!("/logs?{query}"));
        let response = self.send_with(Method::GET, &path, "text/event-stream", extra, empty()).await?;
        let mut reader = LogReader::default();
        Ok(lines(response).filter_map(move |line| {
            let told = match line {
                Ok(line) => reader.line(&line).map(|event| event.map_err(broken)),
                Err(e) => Some(Err(e)),
            };
            std::future::ready(told)
        }))
    }
    /// `GET .../files/stat`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn stat_file(&self, pod: &str, path: &str) -> Result<FileStat> {
        self.get(&Self::pod(pod, &format!("/files/stat?{}", query(&[("path", path.into())])))).await
    }
    /// `GET .../files`: a tar archive.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn get_files(&self, pod: &str, path: &str) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
        let path = Self::pod(pod, &format!("/files?{}", query(&[("path", path.into())])));
        let response = self.send(Method::GET, &path, "application/x-tar", None, empty()).await?;
        Ok(bytes(response))
    }
    /// `PUT .../files` of a tar archive.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn put_files(
        &self,
        pod: &str,
        path: &str,
        archive: impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
    ) -> Result<()> {
        let body = BodyExt::boxed(StreamBody::new(Box::pin(archive.map_ok(Frame::data))));
        let path = Self::pod(pod, &format!("/files?{}", query(&[("path", path.into())])));
        self.send(Method::PUT, &path, "application/json", Some("application/x-tar"), body).await.map(drop)
    }
    /// `GET .../ports`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn ports(&self, pod: &str) -> Result<Vec<PortInfo>> {
        self.get(&Self::pod(pod, "/ports")).await
    }
    /// `POST .../ports`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn add_port(&self, pod: &str, port: &PortPair) -> Result<PortInfo> {
        self.post(&Self::pod(pod, "/ports"), port).await
    }
    /// `DELETE .../ports/{host}`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn remove_port(&self, pod: &str, host: u16, protocol: &str) -> Result<()> {
        let path = format!("/ports/{host}?{}", query(&[("protocol", protocol.into())]));
        self.json(Method::DELETE, &Self::pod(pod, &path), None).await
    }
}

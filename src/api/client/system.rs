//! Calls about torpord itself.

use futures::{Stream, StreamExt};
use http_body_util::BodyExt;
use hyper::Method;

use super::body::{empty, lines};
use super::{Client, Result, broken, escape};
use crate::api::types::trace::Trace;
use crate::api::types::{Doctor, Event, Health, Version};

impl Client {
    /// `GET /v1/events`. `query` such as `type=exited&pod=web`; `after`: the id of the last event that was seen.
    ///
    /// # Errors
    /// [`super::ClientError`].
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
    /// `GET /version`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn version(&self) -> Result<Version> {
        self.get("/version").await
    }
    /// `GET /health`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn health(&self) -> Result<Health> {
        self.get("/health").await
    }
    /// `GET /v1/traces`: of one pod, or of all.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn traces(&self, pod: Option<&str>) -> Result<Vec<Trace>> {
        let query = pod.map(|p| format!("?pod={}", escape(p, false))).unwrap_or_default();
        self.get(&format!("/v1/traces{query}")).await
    }
    /// `GET /metrics`, as text.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn metrics(&self) -> Result<String> {
        let response = self.send(Method::GET, "/metrics", "text/plain", None, empty()).await?;
        let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
        String::from_utf8(bytes.to_vec()).map_err(broken)
    }
    /// `GET /v1/doctor`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn doctor(&self) -> Result<Doctor> {
        self.get("/v1/doctor").await
    }
}

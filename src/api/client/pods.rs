//! Calls about pods.

use futures::{Stream, StreamExt};
use http_body_util::BodyExt;
use hyper::Method;

use super::body::{empty, lines};
use super::{Client, Result, broken};
use crate::api::types::{
    CreatePod, ExecPod, ExecResult, ExitInfo, KillPod, LogLine, Pod, ProgressInfo, RenamePod, RestartPod, RestorePod,
    StartPod, Stats, StopPod, UpdatePod, WakePod,
};

impl Client {
    /// `POST /v1/pods`.
    ///
    /// # Errors
    /// As every call here: [`super::ClientError`].
    pub async fn create_pod(&self, pod: &CreatePod) -> Result<Pod> {
        self.post("/v1/pods", pod).await
    }
    /// `GET /v1/pods`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        self.get("/v1/pods").await
    }
    /// `GET /v1/pods` with filters: `query` such as `state=running&label=team=a`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn pods_where(&self, query: &str) -> Result<Vec<Pod>> {
        Ok(self.pods_page(query).await?.0)
    }
    /// As [`Client::pods_where`]; with it the query of the next page, if there is one.
    ///
    /// # Errors
    /// [`super::ClientError`].
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
    /// [`super::ClientError`].
    pub async fn inspect(&self, pod: &str) -> Result<Pod> {
        self.get(&Self::pod(pod, "")).await
    }
    /// `DELETE /v1/pods/{pod}`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn remove(&self, pod: &str, force: bool) -> Result<()> {
        self.json(Method::DELETE, &Self::pod(pod, if force { "?force=true" } else { "" }), None).await
    }
    /// `POST .../start`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn start(&self, pod: &str) -> Result<Pod> {
        self.json(Method::POST, &Self::pod(pod, "/start"), None).await
    }
    /// `POST .../start`, with values of secrets.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn start_with(&self, pod: &str, how: &StartPod) -> Result<Pod> {
        self.post(&Self::pod(pod, "/start"), how).await
    }
    /// `POST .../stop`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn stop(&self, pod: &str, how: &StopPod) -> Result<Pod> {
        self.post(&Self::pod(pod, "/stop"), how).await
    }
    /// `POST .../restart`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn restart(&self, pod: &str, how: &RestartPod) -> Result<Pod> {
        self.post(&Self::pod(pod, "/restart"), how).await
    }
    /// `POST .../rename`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn rename(&self, pod: &str, name: &str) -> Result<Pod> {
        self.post(&Self::pod(pod, "/rename"), &RenamePod { name: name.into() }).await
    }
    /// `PATCH /v1/pods/{pod}`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn update(&self, pod: &str, change: &UpdatePod) -> Result<Pod> {
        self.json(Method::PATCH, &Self::pod(pod, ""), Some(serde_json::to_vec(change).map_err(broken)?)).await
    }
    /// `POST .../pause`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn pause(&self, pod: &str) -> Result<Pod> {
        self.json(Method::POST, &Self::pod(pod, "/pause"), None).await
    }
    /// `POST .../resume`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn resume(&self, pod: &str) -> Result<Pod> {
        self.json(Method::POST, &Self::pod(pod, "/resume"), None).await
    }
    /// `POST .../kill`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn kill(&self, pod: &str, signal: &str) -> Result<()> {
        self.post(&Self::pod(pod, "/kill"), &KillPod { signal: signal.into() }).await
    }
    /// `GET .../wait`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn wait(&self, pod: &str) -> Result<ExitInfo> {
        self.get(&Self::pod(pod, "/wait")).await
    }
    /// `POST .../exec`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn exec(&self, pod: &str, exec: &ExecPod) -> Result<ExecResult> {
        self.post(&Self::pod(pod, "/exec"), exec).await
    }
    /// `POST .../sleep`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn sleep(&self, pod: &str, progress: &mut (dyn FnMut(ProgressInfo) + Send)) -> Result<Pod> {
        self.long(&Self::pod(pod, "/sleep"), None, empty(), progress).await
    }
    /// `POST .../wake`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn wake(&self, pod: &str, how: &WakePod, progress: &mut (dyn FnMut(ProgressInfo) + Send)) -> Result<Pod> {
        self.long(&Self::pod(pod, "/wake"), Some("application/json"), Self::json_body(how)?, progress).await
    }
    /// `POST .../restore`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn restore(
        &self,
        pod: &str,
        snapshot: &str,
        progress: &mut (dyn FnMut(ProgressInfo) + Send),
    ) -> Result<Pod> {
        let how = RestorePod { snapshot: snapshot.into(), secrets: Vec::new() };
        self.restore_with(pod, &how, progress).await
    }
    /// As [`Client::restore`], with values of secrets.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn restore_with(
        &self,
        pod: &str,
        how: &RestorePod,
        progress: &mut (dyn FnMut(ProgressInfo) + Send),
    ) -> Result<Pod> {
        let body = Self::json_body(how)?;
        self.long(&Self::pod(pod, "/restore"), Some("application/json"), body, progress).await
    }
    /// `GET .../logs`. `query` such as `follow=true&tail=10`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn logs(&self, pod: &str, query: &str) -> Result<impl Stream<Item = Result<LogLine>> + Send + use<>> {
        let path = Self::pod(pod, &format!("/logs?{query}"));
        let response = self.send(Method::GET, &path, "application/x-ndjson", None, empty()).await?;
        Ok(lines(response).map(|line| serde_json::from_slice(&line?).map_err(broken)))
    }
    /// `GET .../stats`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn stats(&self, pod: &str) -> Result<Stats> {
        self.get(&Self::pod(pod, "/stats")).await
    }
    /// `GET .../stats?stream=true`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn stats_stream(&self, pod: &str) -> Result<impl Stream<Item = Result<Stats>> + Send + use<>> {
        let path = Self::pod(pod, "/stats?stream=true");
        let response = self.send(Method::GET, &path, "application/x-ndjson", None, empty()).await?;
        Ok(lines(response).map(|line| serde_json::from_slice(&line?).map_err(broken)))
    }
}

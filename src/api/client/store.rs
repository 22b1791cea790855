//! Calls about snapshots and images.

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::Method;
use hyper::body::Frame;

use super::body::{Upload, empty};
use super::{Client, Result, escape};
use crate::api::types::{Image, ImportDirectory, Pod, ProgressInfo, RestoreSnapshot, Snapshot};

impl Client {
    /// `POST .../snapshots`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn snapshot(&self, pod: &str, progress: &mut (dyn FnMut(ProgressInfo) + Send)) -> Result<Snapshot> {
        self.long(&Self::pod(pod, "/snapshots"), None, empty(), progress).await
    }
    /// `GET /v1/snapshots`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.get("/v1/snapshots").await
    }
    /// `GET /v1/snapshots/{id}`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn inspect_snapshot(&self, id: &str) -> Result<Snapshot> {
        self.get(&format!("/v1/snapshots/{}", escape(id, false))).await
    }
    /// `DELETE /v1/snapshots/{id}`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn remove_snapshot(&self, id: &str) -> Result<()> {
        self.json(Method::DELETE, &format!("/v1/snapshots/{}", escape(id, false)), None).await
    }
    /// `POST /v1/snapshots/{id}/restore`.
    ///
    /// # Errors
    /// [`super::ClientError`].
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
    /// [`super::ClientError`].
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
    /// [`super::ClientError`].
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
    /// [`super::ClientError`].
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
    /// [`super::ClientError`].
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
    /// [`super::ClientError`].
    pub async fn images(&self) -> Result<Vec<Image>> {
        self.get("/v1/images").await
    }
    /// `GET /v1/images/{name}`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn inspect_image(&self, name: &str) -> Result<Image> {
        self.get(&format!("/v1/images/{}", escape(name, true))).await
    }
    /// `DELETE /v1/images/{name}`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn remove_image(&self, name: &str) -> Result<()> {
        self.json(Method::DELETE, &format!("/v1/images/{}", escape(name, true)), None).await
    }
}

fn import_path(name: &str, base: Option<&str>) -> String {
    let base = base.map(|b| format!("&base={}", escape(b, false))).unwrap_or_default();
    format!("/v1/images?name={}{base}", escape(name, false))
}

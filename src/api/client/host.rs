//! Calls about the host, its room and its volumes.

use bytes::Bytes;
use futures::Stream;
use hyper::Method;

use super::body::{bytes, empty};
use super::{Client, Result, escape};
use crate::api::types::capacity::{Capacity, Tier};
use crate::api::types::system::{BroughtDown, DiskUsage, LogFilter, Prune, Pruned, Reloaded};
use crate::api::types::{CreateVolume, Volume};

impl Client {
    /// `GET /v1/system/capacity`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn capacity(&self) -> Result<Capacity> {
        self.get("/v1/system/capacity").await
    }
    /// `GET /v1/tiers`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn tiers(&self) -> Result<Vec<Tier>> {
        self.get("/v1/tiers").await
    }
    /// `GET /v1/system/df`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        self.get("/v1/system/df").await
    }
    /// `POST /v1/system/prune`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn prune(&self, what: &Prune) -> Result<Pruned> {
        self.post("/v1/system/prune", what).await
    }
    /// `POST /v1/system/reload`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn reload(&self) -> Result<Reloaded> {
        self.json(Method::POST, "/v1/system/reload", None).await
    }
    /// `POST /v1/system/host-down`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn host_down(&self) -> Result<BroughtDown> {
        self.json(Method::POST, "/v1/system/host-down", None).await
    }
    /// `GET /v1/system/log`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn log_filter(&self) -> Result<LogFilter> {
        self.get("/v1/system/log").await
    }
    /// `PUT /v1/system/log`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn set_log_filter(&self, filter: &str) -> Result<LogFilter> {
        let body = serde_json::to_vec(&LogFilter { filter: filter.into() }).map_err(super::broken)?;
        self.json(Method::PUT, "/v1/system/log", Some(body)).await
    }
    /// `GET /v1/system/backup`: a tar archive. One that is not whole ends with an error.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn backup(&self) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
        let response = self.send(Method::GET, "/v1/system/backup", "application/x-tar", None, empty()).await?;
        Ok(bytes(response))
    }
    /// `GET /v1/volumes`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn volumes(&self) -> Result<Vec<Volume>> {
        self.get("/v1/volumes").await
    }
    /// `POST /v1/volumes`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn create_volume(&self, name: &str) -> Result<Volume> {
        self.post("/v1/volumes", &CreateVolume { name: name.into() }).await
    }
    /// `GET /v1/volumes/{name}`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn inspect_volume(&self, name: &str) -> Result<Volume> {
        self.get(&format!("/v1/volumes/{}", escape(name, false))).await
    }
    /// `DELETE /v1/volumes/{name}`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn remove_volume(&self, name: &str) -> Result<()> {
        self.json(Method::DELETE, &format!("/v1/volumes/{}", escape(name, false)), None).await
    }
}

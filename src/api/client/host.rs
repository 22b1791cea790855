//! Calls about the host, its room and its volumes.

use hyper::Method;

use super::{Client, Result, escape};
use crate::api::types::capacity::{Capacity, Tier};
use crate::api::types::system::{DiskUsage, Prune, Pruned};
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

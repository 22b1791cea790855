//! Images: names for layers and a configuration. A layer goes when nothing names it any more.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::Core;
use crate::host::layers::{ImportSource, Imported};
use crate::host::progress::Progress;
use crate::model::{Attempt, Code, Digest, Error, ImageConfig, ImageName, ImageRecord, PodRecord, Result};

/// Imports at once: each takes a thread, and those that wait for a client's bytes must leave enough for all else.
static IMPORTS: Semaphore = Semaphore::const_new(8);

impl Core {
    pub(super) async fn image(&self, name: &ImageName) -> Result<ImageRecord> {
        self.db.image(name).await?.ok_or_else(|| {
            Error::new(Code::NotFound, format!("no image {name}"))
                .hint("`torpor image ls` lists them; `torpor image import NAME FILE` brings one")
        })
    }

    /// Imports layers and gives them a name; a name that exists moves to the new image. What nothing names then goes: layers
    /// of an image of which a later one was refused, or that had the name before.
    pub(super) async fn import(
        self: &Arc<Self>,
        name: ImageName,
        base: Option<ImageName>,
        source: ImportSource,
        progress: &Progress,
    ) -> Result<ImageRecord> {
        let imported = self.import_layers(name, base, source, progress).await;
        if let Err(e) = self.collect_layers().await {
            tracing::warn!(error = %e.report(), "remove layers that nothing uses");
        }
        imported
    }

    async fn import_layers(
        self: &Arc<Self>,
        name: ImageName,
        base: Option<ImageName>,
        source: ImportSource,
        progress: &Progress,
    ) -> Result<ImageRecord> {
        let base = match base {
            Some(b) => Some(self.image(&b).await?),
            None => None,
        };
        let _turn = IMPORTS.acquire().await.attempt(Code::Internal, || "wait for other imports".into())?;
        let _new = self.new_layers.read().await;
        let imported = self.host.layers.import(source, progress).await?;
        let _leases = self.leases.lock().await;
        let record = named(name, base.as_ref(), imported)?;
        let most = crate::host::layers::MAX_LAYERS;
        if record.layers.len() > most {
            return Err(Error::new(
                Code::BadArchive,
                format!("the image has {} layers, {most} are allowed", record.layers.len()),
            )
            .hint("flatten some of them"));
        }
        self.db.put_image(&record).await?;
        self.images.send_replace(());
        Ok(record)
    }

    /// Tells whenever an image comes, changes or goes.
    pub fn images_changed(&self) -> tokio::sync::watch::Receiver<()> {
        self.images.subscribe()
    }

    pub(super) async fn remove_image(&self, name: &ImageName) -> Result<()> {
        {
            let _leases = self.leases.lock().await;
            if let Some(user) = self.records().iter().find(|r| r.spec.image == *name) {
                return Err(Error::new(Code::InUse, format!("image {name} is used by pod {}", user.spec.name))
                    .hint("remove the pod first"));
            }
            if !self.db.remove_image(name).await? {
                return Err(self.image(name).await.err().unwrap_or_else(|| Error::internal("the image came back")));
            }
            self.images.send_replace(());
        }
        self.collect_layers().await
    }

    /// Removes layers that neither an image nor a pod names. While some are being made, that is left for another time.
    pub(super) async fn collect_layers(&self) -> Result<()> {
        let Ok(_alone) = self.new_layers.try_write() else { return Ok(()) };
        let _leases = self.leases.lock().await;
        let mut used: BTreeSet<Digest> = BTreeSet::from([self.init.digest.clone()]);
        for image in self.db.images().await? {
            used.extend(image.layers.into_iter().map(|l| l.digest));
        }
        for record in self.records() {
            used.extend(self.all_layers(&record));
        }
        if !self.unreadable.is_empty() {
            return Ok(()); // what such a pod uses is not known
        }
        for layer in self.host.layers.list()? {
            if !used.contains(&layer.digest) {
                self.host.layers.remove(&layer.digest).await?;
            }
        }
        Ok(())
    }

    /// Key of the mounted root that pods with the same layers share.
    pub(super) fn image_key(&self, record: &PodRecord) -> String {
        crate::host::layers::digest_of(self.all_layers(record).iter().map(Digest::as_str)).hex()[..32].to_owned()
    }

    /// Unmounts a root that a pod had if no pod has the same, and removes layers that nothing uses.
    pub(super) async fn release_root(&self, record: &PodRecord) {
        let key = self.image_key(record);
        let used = self.records().iter().any(|r| self.image_key(r) == key);
        if !used && let Err(e) = self.host.rootfs.remove(&key).await {
            tracing::warn!(%key, error = %e.report(), "unmount a root that no pod uses");
        }
        if let Err(e) = self.collect_layers().await {
            tracing::warn!(error = %e.report(), "remove layers that nothing uses");
        }
    }
}

fn named(name: ImageName, base: Option<&ImageRecord>, imported: Imported) -> Result<ImageRecord> {
    let mut layers = base.map(|b| b.layers.clone()).unwrap_or_default();
    layers.extend(imported.layers);
    let config = match (imported.config, base) {
        (Some(config), _) => config,
        (None, Some(base)) => base.config.clone(),
        (None, None) => ImageConfig::default(),
    };
    let text = serde_json::to_string(&config).attempt(Code::Internal, || "write an image's configuration".into())?;
    let id =
        crate::host::layers::digest_of(layers.iter().map(|l| l.digest.as_str()).chain(std::iter::once(text.as_str())));
    Ok(ImageRecord { name, id, layers, config, created_at: Timestamp::now() })
}

//! Named volumes: directories below the state directory that outlive pods.
//!
//! A volume is there when its directory is; who uses it stands in the pods' records. It is removed by moving it aside first:
//! after a crash what was moved is removed at the next start.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::Core;
use crate::api::types::{CreateVolume, Volume};
use crate::host::files;
use crate::host::volumes::OpenVolume;
use crate::model::{Code, Error, PodName, Result};

/// How long one volume may be looked through for its size.
const MEASURE: Duration = Duration::from_secs(10);

/// Volumes that were moved aside by this process so far.
static REMOVED: AtomicU64 = AtomicU64::new(0);

impl Core {
    /// `GET /v1/volumes`.
    ///
    /// # Errors
    /// The state directory can't be read.
    pub async fn list_volumes(&self) -> Result<Vec<Volume>> {
        let mut all = Vec::new();
        for name in self.volume_names()? {
            // One that goes meanwhile is left out.
            all.extend(self.show_volume(&name).await.ok());
        }
        Ok(all)
    }

    /// `GET /v1/volumes/{name}`.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub async fn inspect_volume(&self, name: &str) -> Result<Volume> {
        self.show_volume(&named(name)?).await
    }

    /// `POST /v1/volumes`. True: it was made; false: it was there.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`]: the name can't be one.
    pub async fn create_volume(&self, request: CreateVolume) -> Result<(bool, Volume)> {
        let name = named(&request.name)?;
        let made = {
            let _leases = self.leases.lock().await;
            let made = self.volume_dir(&name).symlink_metadata().is_err();
            OpenVolume::named(&self.dirs.volumes(), name.as_str())?;
            made
        };
        Ok((made, self.show_volume(&name).await?))
    }

    /// `DELETE /v1/volumes/{name}`.
    ///
    /// # Errors
    /// [`Code::InUse`], with the pods that use it; [`Code::NotFound`].
    pub async fn delete_volume(self: &Arc<Self>, name: &str) -> Result<()> {
        let (core, name) = (Arc::clone(self), named(name)?);
        Self::to_the_end(async move { core.remove_volume(&name, None).await }).await
    }

    /// Removes a volume that no pod uses; with `before` only one that was made then.
    pub(super) async fn remove_volume(&self, name: &PodName, before: Option<Timestamp>) -> Result<()> {
        self.refuse_if_unreadable()?;
        let aside = {
            // Pods get their records, and so their volumes, under it.
            let _leases = self.leases.lock().await;
            let users = self.volume_users(name);
            if !users.is_empty() {
                let text = format!("volume {name} is used by {}", listed(&users));
                return Err(Error::new(Code::InUse, text).hint("remove these pods first"));
            }
            let dir = self.volume_dir(name);
            let made = made_at(&dir).ok_or_else(|| no_volume(name))?;
            if before.is_some_and(|t| made > t) {
                return Err(Error::new(Code::InUse, format!("volume {name} is too young")));
            }
            let aside = self.dirs.tmp().join(format!("volume-{name}-{}", REMOVED.fetch_add(1, Ordering::Relaxed)));
            files::rename(&dir, &aside)?;
            aside
        };
        files::remove_tree(&aside).await
    }

    /// A pod whose record can't be read may need anything.
    ///
    /// # Errors
    /// [`Code::InUse`]: there is one.
    pub(super) fn refuse_if_unreadable(&self) -> Result<()> {
        match self.unreadable.len() {
            0 => Ok(()),
            n => {
                let text = format!("the records of {n} pods can't be read: what they use is not known");
                Err(Error::new(Code::InUse, text).hint("`torpor doctor` tells of them"))
            }
        }
    }

    pub(super) fn volume_names(&self) -> Result<Vec<PodName>> {
        Ok(files::list(&self.dirs.volumes())?.iter().filter_map(|n| n.parse().ok()).collect())
    }

    fn volume_dir(&self, name: &PodName) -> PathBuf {
        self.dirs.volumes().join(name.as_str())
    }

    /// Names of the pods that use it: by its name, or by the directory.
    pub(super) fn volume_users(&self, name: &PodName) -> Vec<String> {
        let dir = self.volume_dir(name);
        let uses = |source: &str| source == name.as_str() || Path::new(source).starts_with(&dir);
        let all = self.pods();
        let users = all.iter().filter_map(|pod| {
            let record = pod.look();
            record.spec.volumes.iter().any(|v| uses(&v.source)).then(|| record.spec.name.to_string())
        });
        users.collect()
    }

    /// Names that snapshots in the store have for volumes, those of other daemons too.
    ///
    /// # Errors
    /// [`Code::StoreUnavailable`], or a snapshot can't be read: then nobody knows what it needs.
    pub(super) async fn volumes_of_snapshots(&self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        let see = |m: &crate::model::Manifest| names.extend(m.pod.spec.volumes.iter().map(|v| v.source.clone()));
        self.host.store.each_manifest(see).await?;
        Ok(names)
    }

    async fn show_volume(&self, name: &PodName) -> Result<Volume> {
        let dir = self.volume_dir(name);
        let created = made_at(&dir).ok_or_else(|| no_volume(name))?;
        Ok(Volume {
            name: name.to_string(),
            directory: dir.display().to_string(),
            size: self.volume_size(name).await,
            created_at: created.to_string(),
            users: self.volume_users(name),
        })
    }

    /// Bytes that it takes; none if it can't be looked through.
    pub(super) async fn volume_size(&self, name: &PodName) -> Option<u64> {
        let dir = self.volume_dir(name);
        let look = tokio::task::spawn_blocking(move || files::measure(&dir, Instant::now() + MEASURE));
        match look.await.ok()? {
            Ok(bytes) => Some(bytes),
            Err(e) => {
                tracing::debug!(volume = %name, error = %e.report(), "the size of a volume");
                None
            }
        }
    }
}

/// When a directory was made, as far as its file system knows; none: it is not there.
pub(super) fn made_at(dir: &Path) -> Option<Timestamp> {
    let meta = dir.symlink_metadata().ok()?;
    let at = meta.created().or_else(|_| meta.modified()).ok()?;
    Timestamp::try_from(at).ok()
}

/// A volume's name: what names a pod can name a volume.
fn named(text: &str) -> Result<PodName> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(80).collect();
        Error::invalid(format!("{shown:?} can't name a volume"))
            .hint("a letter or digit, then letters, digits, _ . or -, 63 characters at most")
    })
}

fn no_volume(name: &PodName) -> Error {
    Error::new(Code::NotFound, format!("no volume {name}")).hint("`torpor volume ls` lists them")
}

/// The first of many names, for people.
fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(5).map(|n| format!("pod {n}")).collect();
    let more = names.len().saturating_sub(shown.len());
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

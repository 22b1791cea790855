//! What lies in a pod's volumes: with those that its specification says so of, it goes into the snapshots that are taken on
//! request, and comes back when the pod goes back to one.
//!
//! It is packed while the pod stands still. Where it comes back, the new content is unpacked beside the old before anything
//! of the pod is touched; the old is kept until the pod runs, and comes back if it does not. After a crash the record says
//! which is right: a pod that runs has gone back, any other has not.

use std::path::Path;
use std::sync::Arc;

use super::Core;
use super::lifecycle::New;
use crate::api::types;
use crate::host::files;
use crate::host::trees::Place;
use crate::model::{Code, Error, Manifest, PodRecord, PodState, Result, VolumeMount};
use crate::plan::pack;

/// New content beside the old, or in its place.
#[derive(Default)]
pub(super) struct Trees(Vec<Place>);

impl Trees {
    /// It takes the place of the old.
    pub(super) fn swap(&self) -> Result<()> {
        self.0.iter().try_for_each(Place::swap)
    }

    /// It stays, or the old comes back.
    pub(super) async fn end(self, stays: bool) {
        for place in self.0 {
            settle(place, stays).await;
        }
    }
}

async fn settle(place: Place, stays: bool) {
    let done = tokio::task::spawn_blocking(move || if stays { place.let_go() } else { place.put_back() }).await;
    let done = done.unwrap_or_else(|e| Err(Error::internal("put a volume right").because(e)));
    if let Err(e) = done {
        tracing::error!(error = %e.report(), "put a volume right: the next start tries again");
    }
}

/// The volumes of a pod that are kept in snapshots, with their numbers.
fn kept(record: &PodRecord) -> impl Iterator<Item = (usize, &VolumeMount)> {
    record.spec.volumes.iter().enumerate().filter(|(_, v)| v.in_snapshots)
}

/// Whether a snapshot has what lay in volumes.
pub(super) fn has_volumes(manifest: &Manifest) -> bool {
    manifest.files.iter().any(|f| pack::volume_of(&f.name).is_some())
}

impl Core {
    /// As [`Core::create_pod`], with what lies in the volumes at `kept` in the snapshots that are taken on request.
    ///
    /// # Errors
    /// As [`Core::create_pod`].
    pub async fn create_pod_keeping(self: &Arc<Self>, request: types::CreatePod, kept: &[&Path]) -> Result<types::Pod> {
        let (mut spec, secrets) = self.admit(&request)?;
        for volume in &mut spec.volumes {
            volume.in_snapshots = kept.contains(&volume.target.as_path());
        }
        self.create_as(New { spec, secrets, start: request.start, follow: request.follow, intent: None }, &request)
            .await
    }

    /// Bytes, about, that will be packed.
    pub(super) async fn volume_bytes(&self, record: &PodRecord) -> Result<u64> {
        let mut sum = 0_u64;
        for (_, volume) in kept(record) {
            let path = self.volume_path(&volume.source);
            let bytes = tokio::task::spawn_blocking(move || files::tar_bytes(&path)).await;
            let bytes = bytes.unwrap_or_else(|e| Err(Error::internal("look at a volume").because(e)))?;
            sum = sum.saturating_add(bytes);
        }
        Ok(sum)
    }

    /// Packs them into the directory of a checkpoint.
    pub(super) async fn pack_volumes(&self, record: &PodRecord, dir: &Path) -> Result<()> {
        for (n, volume) in kept(record) {
            let packed = async {
                // What runs may have made more of it since the room was looked at.
                let most = files::free_bytes(self.dirs.state())?.saturating_sub(self.config().disk_reserve);
                for open in self.open_volumes(std::slice::from_ref(volume))? {
                    let file = dir.join(pack::volume_file(n));
                    self.host.layers.pack_tree(&open.while_open(), &file, most).await?;
                }
                Ok::<_, Error>(())
            };
            packed.await.map_err(|e| e.context(format!("save volume {}", volume.source)))?;
        }
        Ok(())
    }

    /// Unpacks what a snapshot has of the pod's volumes beside them. On failure nothing of that is left.
    pub(super) async fn stage_volumes(&self, record: &PodRecord, manifest: &Manifest, dir: &Path) -> Result<Trees> {
        let mut trees = Trees::default();
        for (n, volume) in kept(record) {
            let name = pack::volume_file(n);
            if !manifest.files.iter().any(|f| f.name == name) {
                continue;
            }
            if let Err(e) = self.stage_volume(volume, &dir.join(name), &mut trees).await {
                trees.end(false).await;
                return Err(e.context(format!("bring back volume {}", volume.source)));
            }
        }
        Ok(trees)
    }

    async fn stage_volume(&self, volume: &VolumeMount, tar: &Path, trees: &mut Trees) -> Result<()> {
        let need = files::file_bytes(tar)?;
        let path = self.volume_path(&volume.source);
        let place = Place::of(&path)?;
        let free = path.parent().map_or(Ok(u64::MAX), files::free_bytes)?;
        if free < need.saturating_add(self.config().disk_reserve) {
            let text = format!("{need} bytes are needed and {free} are free where it lies");
            return Err(Error::new(Code::Exhausted, text).hint("free space there; the pod is as it was"));
        }
        let staged = tokio::task::spawn_blocking(move || place.stage().map(|new| (place, new))).await;
        let (place, new) = staged.unwrap_or_else(|e| Err(Error::internal("stage a volume").because(e)))?;
        trees.0.push(place);
        self.host.layers.unpack_tree(tar, &new).await
    }

    /// After a start of torpord: one whole content in each of a pod's volumes, as its record says.
    pub(super) async fn settle_volumes(&self, record: &PodRecord) {
        let stays =
            matches!(record.state, PodState::Running | PodState::Paused | PodState::Suspending | PodState::Stopping);
        for (_, volume) in kept(record) {
            match Place::of(&self.volume_path(&volume.source)) {
                Ok(place) => settle(place, stays).await,
                Err(e) => tracing::warn!(pod = %record.id, error = %e.report(), "look at a pod's volume"),
            }
        }
    }
}

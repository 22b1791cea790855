//! What takes room on the disk, and what of it goes on request: what no pod and no snapshot needs.
//!
//! Each thing is removed by the way that removes it otherwise, which looks again whether somebody uses it. After a crash: what
//! was removed is, what was not is not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::Core;
use super::pod::Pod;
use crate::api::types::system::{DiskUsage, Prune, Pruned, Usage};
use crate::host::files;
use crate::model::{Code, Digest, Error, ImageRecord, PodRecord, PodState, Result, SnapshotId};

/// Whether a pod is at rest and nobody waits for it.
fn forgotten(r: &PodRecord, before: Option<Timestamp>) -> bool {
    matches!(r.state, PodState::Stopped | PodState::Created)
        && r.restarts.at.is_none()
        && before.is_none_or(|t| r.finished_at.unwrap_or(r.created_at) <= t)
}

impl Core {
    /// `GET /v1/system/df`.
    ///
    /// # Errors
    /// The database or the state directory can't be read.
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        Ok(DiskUsage {
            images: self.usage_of_images().await?,
            pods: self.usage_of_pods(),
            volumes: self.usage_of_volumes().await?,
            cache: self.usage_of_cache(),
            snapshots: self.usage_of_snapshots().await,
        })
    }

    /// Bytes of every layer on this host, unpacked and packed.
    fn layer_bytes(&self) -> Result<BTreeMap<Digest, u64>> {
        let layers = self.host.layers.list()?;
        let packed = |d: &Digest| std::fs::metadata(self.host.layers.blob(d)).map_or(0, |m| m.len());
        Ok(layers.into_iter().map(|l| (l.digest.clone(), l.size + packed(&l.digest))).collect())
    }

    fn layers_of_pods(&self) -> BTreeSet<Digest> {
        self.records().iter().flat_map(|r| self.all_layers(r)).chain([self.init.digest.clone()]).collect()
    }

    fn used_image(&self, image: &ImageRecord) -> bool {
        self.pods().iter().any(|p| p.look().spec.image == image.name)
    }

    async fn usage_of_images(&self) -> Result<Usage> {
        let (bytes, images) = (self.layer_bytes()?, self.db.images().await?);
        let of_pods = self.layers_of_pods();
        let mut kept = of_pods.clone();
        let mut all = BTreeSet::new();
        let mut usage = Usage { total: images.len() as u64, ..Usage::default() };
        for image in &images {
            let layers = image.layers.iter().map(|l| l.digest.clone());
            if self.used_image(image) {
                usage.active += 1;
                kept.extend(layers.clone());
            }
            all.extend(layers);
        }
        let sum = |set: &mut dyn Iterator<Item = &Digest>| set.filter_map(|d| bytes.get(d)).sum();
        usage.size = sum(&mut all.iter());
        usage.reclaimable = sum(&mut all.difference(&kept));
        Ok(usage)
    }

    fn pod_bytes(&self, record: &PodRecord, layers: &BTreeMap<Digest, u64>) -> u64 {
        // A sandbox's file has no name any more.
        let live = record.sandbox_pid.and_then(|p| files::held_bytes(p, &self.dirs.upper(&record.runtime_id())).ok());
        let own: u64 = record.private_layers.iter().filter_map(|d| layers.get(d)).sum();
        files::tree_bytes(&self.dirs.pod(&record.id)).unwrap_or(0) + live.unwrap_or(0) + own
    }

    fn usage_of_pods(&self) -> Usage {
        let layers = self.layer_bytes().unwrap_or_default();
        let mut usage = Usage::default();
        for record in self.records() {
            let bytes = self.pod_bytes(&record, &layers);
            usage.total += 1;
            usage.active += u64::from(record.state.may_have_sandbox());
            usage.size += bytes;
            usage.reclaimable += if forgotten(&record, None) { bytes } else { 0 };
        }
        usage
    }

    async fn usage_of_volumes(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        for name in self.volume_names()? {
            let (bytes, used) = (self.volume_size(&name).await.unwrap_or(0), !self.volume_users(&name).is_empty());
            usage.total += 1;
            usage.active += u64::from(used);
            usage.size += bytes;
            usage.reclaimable += if used { 0 } else { bytes };
        }
        Ok(usage)
    }

    /// Whether a pod would have to read the store if a snapshot's raw image were gone.
    fn needs_raw(&self, id: &SnapshotId) -> bool {
        self.pods().iter().any(|pod| {
            let r = pod.look();
            let rests = matches!(r.state, PodState::Running | PodState::Paused | PodState::Stopped | PodState::Created);
            r.pending.as_ref() == Some(id) || (r.snapshot.as_ref() == Some(id) && !rests)
        })
    }

    fn usage_of_cache(&self) -> Usage {
        let mut usage = Usage::default();
        for (id, bytes) in self.host.cache.sizes() {
            let needed = self.needs_raw(&id);
            usage.total += 1;
            usage.active += u64::from(needed);
            usage.size += bytes;
            usage.reclaimable += if needed { 0 } else { bytes };
        }
        usage
    }

    async fn usage_of_snapshots(&self) -> Option<Usage> {
        let all = self.host.store.list().await.ok()?;
        let needed = |id: &SnapshotId| self.pods().iter().any(|p| p.look().snapshot.as_ref() == Some(id));
        Some(Usage {
            total: all.len() as u64,
            active: all.iter().filter(|s| needed(&s.id)).count() as u64,
            size: all.iter().map(|s| s.stored).sum(),
            reclaimable: 0,
        })
    }

    /// `POST /v1/system/prune`. What can't be removed is told; the rest goes.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`]; nothing was removed.
    pub async fn prune(self: &Arc<Self>, request: Prune) -> Result<Pruned> {
        let Prune { pods, images, all, volumes, cache, older_than_seconds } = request;
        if !(pods || images || volumes || cache) {
            return Err(Error::invalid("nothing to remove was named").hint("pods, images, volumes or cache"));
        }
        if all && !images {
            return Err(Error::invalid("all goes with images"));
        }
        let before = older_than_seconds.map(ago).transpose()?;
        self.refuse_if_unreadable()?;
        let core = Arc::clone(self);
        Self::to_the_end(async move {
            let mut done = Pruned::default();
            if pods {
                core.prune_pods(before, &mut done).await;
            }
            if images {
                core.prune_images(all, before, &mut done).await?;
            }
            if volumes {
                core.prune_volumes(before, &mut done).await?;
            }
            if cache {
                core.prune_cache(&mut done);
            }
            Ok(done)
        })
        .await
    }

    async fn prune_pods(self: &Arc<Self>, before: Option<Timestamp>, done: &mut Pruned) {
        let layers = self.layer_bytes().unwrap_or_default();
        for pod in self.pods() {
            if !forgotten(&pod.look(), before) {
                continue;
            }
            let bytes = self.pod_bytes(&pod.record(), &layers);
            match self.prune_pod(&pod, before).await {
                Ok(Some(name)) => {
                    done.pods.push(name);
                    done.reclaimed += bytes;
                }
                Ok(None) => {}
                Err(e) => done.failed.push(e.report()),
            }
        }
    }

    /// Removes a pod if it is still at rest when its turn comes.
    async fn prune_pod(self: &Arc<Self>, pod: &Arc<Pod>, before: Option<Timestamp>) -> Result<Option<String>> {
        let Ok(turn) = pod.turn_if_there().await else { return Ok(None) };
        let record = turn.record();
        if !forgotten(&record, before) {
            return Ok(None);
        }
        self.erase(&turn).await.map(|()| Some(record.spec.name.to_string()))
    }

    async fn prune_images(&self, all: bool, before: Option<Timestamp>, done: &mut Pruned) -> Result<()> {
        let there = self.layer_bytes()?;
        if all {
            for image in self.db.images().await? {
                if self.used_image(&image) || before.is_some_and(|t| image.created_at > t) {
                    continue;
                }
                match self.remove_image(&image.name).await {
                    Ok(()) => done.images.push(image.name.to_string()),
                    Err(e) if matches!(e.code(), Code::InUse | Code::NotFound) => {} // meanwhile
                    Err(e) => done.failed.push(e.report()),
                }
            }
        }
        self.collect_layers().await?;
        let left = self.layer_bytes()?;
        done.reclaimed += there.iter().filter(|(d, _)| !left.contains_key(*d)).map(|(_, n)| n).sum::<u64>();
        Ok(())
    }

    async fn prune_volumes(&self, before: Option<Timestamp>, done: &mut Pruned) -> Result<()> {
        let named = match self.volumes_of_snapshots().await {
            Ok(named) => named,
            Err(e) => {
                let why = e.report();
                done.failed.push(format!("volumes are kept: which ones snapshots need is not known: {why}"));
                return Ok(());
            }
        };
        for name in self.volume_names()? {
            if named.contains(name.as_str()) || !self.volume_users(&name).is_empty() {
                continue;
            }
            let bytes = self.volume_size(&name).await.unwrap_or(0);
            match self.remove_volume(&name, before).await {
                Ok(()) => {
                    done.volumes.push(name.to_string());
                    done.reclaimed += bytes;
                }
                Err(e) if matches!(e.code(), Code::InUse | Code::NotFound) => {} // meanwhile, or too young
                Err(e) => done.failed.push(e.report()),
            }
        }
        Ok(())
    }

    fn prune_cache(&self, done: &mut Pruned) {
        for (id, bytes) in self.host.cache.sizes() {
            if self.needs_raw(&id) {
                continue;
            }
            match self.host.cache.remove_idle(&id) {
                Ok(true) => {
                    done.cached.push(id.to_string());
                    done.reclaimed += bytes;
                }
                Ok(false) => {}
                Err(e) => done.failed.push(e.report()),
            }
        }
    }
}

fn ago(seconds: u64) -> Result<Timestamp> {
    let span = i64::try_from(seconds).ok().map(SignedDuration::from_secs);
    span.and_then(|s| Timestamp::now().checked_sub(s).ok())
        .ok_or_else(|| Error::invalid(format!("olderThanSeconds: {seconds} seconds ago there was no time")))
}

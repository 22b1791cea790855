//! Snapshots as such: taken of a running pod, listed, removed, made into new pods.

use std::sync::Arc;
use std::time::Duration;

use super::Core;
use super::boot::From;
use super::idempotency::{Intent, Makes};
use super::lifecycle::Origin;
use super::pod::{Pod, Turn};
use super::trace::{about, step};
use crate::api::types::SecretValue;
use crate::host::progress::Progress;
use crate::model::{
    Code, Error, Manifest, PodId, PodName, PodRecord, PodState, Result, Secret, SecretValues, SnapshotId,
};
use crate::plan::events::Happened;

/// From the daemon's start to its first sweep of the store, and from one to the next.
const FIRST_SWEEP: Duration = Duration::from_secs(10 * 60);
const SWEEPS: Duration = Duration::from_secs(6 * 3600);
/// Younger packs may belong to a snapshot whose manifest is still to come, of any daemon that shares the store.
const SWEEP_GRACE: Duration = Duration::from_secs(24 * 3600);

/// What is asked of a copy.
pub(super) struct Copy {
    /// Its name; none: one is made up.
    pub name: Option<PodName>,
    /// Directories of the host that it may have as volumes.
    pub shown: Vec<String>,
    /// Where it is noted that it is made.
    pub intent: Option<Intent>,
    /// Its secrets.
    pub secrets: Vec<Secret>,
    /// Values of them that were given.
    pub given: SecretValues,
}

impl Core {
    /// Saves a running pod, which goes on as soon as its checkpoint is on the local disk.
    pub(super) async fn take_snapshot(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        progress: &Progress,
        intent: Option<&Intent>,
    ) -> Result<Manifest> {
        let turn = pod.turn_if_there().await?;
        turn.require(&[PodState::Running], "take a snapshot of it")?;
        let id = SnapshotId::random()?;
        if let Some(intent) = intent {
            intent.makes(Makes::Snapshot(&id)).await?;
        }
        turn.commit(&self.db, |r| r.pending = Some(id.clone())).await?;
        let saved = match self.save_pod(&turn, &id, true, progress).await {
            // As long as the record names it, a start removes it: it is not acknowledged before that is over.
            Ok(manifest) => match turn.commit(&self.db, |r| r.pending = None).await {
                Ok(record) => {
                    let about = [("snapshot", id.to_string())].into();
                    self.events.tell(Happened::Snapshot, &record, about);
                    return Ok(manifest);
                }
                Err(e) => {
                    self.drop_snapshot(&id).await;
                    Err(e)
                }
            },
            Err(e) => Err(e),
        };
        turn.settle(self, |r| r.pending = None).await;
        saved
    }

    /// A new pod out of a snapshot, of this daemon or of another that shares the store.
    pub(super) async fn restore_new(
        self: &Arc<Self>,
        id: &SnapshotId,
        copy: Copy,
        progress: &Progress,
    ) -> Result<PodRecord> {
        let Copy { name, shown, intent, secrets, given } = copy;
        let manifest = self.host.store.manifest(id).await?;
        self.preflight(&manifest)?;
        self.agree_to_volumes(&manifest, &shown)?;
        let new_id = PodId::random()?;
        let _room = self.room(&new_id, &manifest.pod.spec, "restore")?;
        let new = self.new_layers.read().await;
        let files = self.find_files(id, Some(manifest.clone()), progress).await?;
        let mut spec = manifest.pod.spec.clone();
        spec.auto_remove = false; // somebody wants this one
        spec.name = match name {
            Some(name) => name,
            None => self.copy_name(&spec.name)?,
        };
        if spec.hostname.is_none() || spec.hostname.as_deref() == Some(manifest.pod.spec.name.as_str()) {
            spec.hostname = None; // the copy is called by its own name
        }
        for port in &mut spec.ports {
            port.host = None; // the original keeps its host ports
        }
        spec.secrets = secrets;
        crate::plan::admission::check(&spec)?;
        let origin = Origin {
            layers: manifest.pod.layers.clone(),
            private_layers: manifest.pod.private_layers.clone(),
            config: manifest.pod.image_config.clone(),
            init: manifest.pod.init.clone(),
            engine: manifest.engine.clone(),
            template: manifest.template,
            snapshot: Some(id.clone()),
        };
        if let Some(intent) = &intent {
            intent.makes(Makes::Pod(&new_id)).await?;
        }
        let pod = step("record", self.add_pod(new_id, spec, origin)).await?;
        about(&pod.record());
        drop(new);
        let turn = pod.turn_if_there().await?;
        let mut from = From::Checkpoint { files, copy: true };
        let made = async {
            self.host.secrets.put(&turn.record().id, &given)?;
            self.next_incarnation_as_is(&turn, &mut from).await?;
            self.mark_running(&pod, &turn, |r| r.pending = None).await
        };
        match made.await {
            Ok(record) => Ok(record),
            Err(e) => {
                self.erase(&turn).await?;
                Err(e)
            }
        }
    }

    /// Puts a pod back to a snapshot of it, in place: address, name and ports stay.
    pub(super) async fn restore_in_place(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        id: &SnapshotId,
        given: &[SecretValue],
        progress: &Progress,
    ) -> Result<PodRecord> {
        let manifest = self.host.store.manifest(id).await?;
        let turn = pod.turn_if_there().await?;
        let record = turn.record();
        if manifest.pod.id != record.id {
            return Err(Error::invalid(format!(
                "snapshot {id} was taken of pod {}, not of {}",
                manifest.pod.spec.name, record.spec.name
            ))
            .hint("make a new pod of it with `torpor snapshot restore`"));
        }
        let states = [
            PodState::Running,
            PodState::Paused,
            PodState::Created,
            PodState::Stopped,
            PodState::Sleeping,
            PodState::Failed,
        ];
        turn.require(&states, "restore a snapshot into it")?;
        let _room = self.room(&record.id, &record.spec, "restore")?;
        self.give_again(&record, given)?;
        self.secret_values(&record.id, &record.spec).await?;
        self.preflight(&manifest)?;
        let new = self.new_layers.read().await;
        let mut files = self.find_files(id, Some(manifest.clone()), progress).await?;
        let images = self.bring_files(&mut files).await?;
        let trees = self.stage_volumes(&record, &manifest, &images).await?;
        // All that can be refused has been: only now the present sandbox goes.
        let begun = turn
            .commit(&self.db, |r| {
                r.state = PodState::Restoring;
                r.pending = Some(id.clone());
                r.restarts.at = None;
            })
            .await;
        if let Err(e) = begun {
            trees.end(false).await;
            return Err(e);
        }
        self.take_down(&turn).await;
        self.build_as(&turn, &manifest).await?;
        drop(new);
        self.release_root(&record).await;
        let mut from = From::Checkpoint { files, copy: false };
        let restored = async {
            trees.swap()?;
            if self.next_incarnation(&turn, PodState::Restoring, &mut from).await.is_err() {
                self.next_incarnation(&turn, PodState::Restoring, &mut from).await?;
            }
            self.mark_running(pod, &turn, |r| r.pending = None).await
        };
        let restored = restored.await;
        trees.end(restored.is_ok()).await;
        match restored {
            Ok(record) => Ok(record),
            Err(e) => {
                let text = e.report();
                turn.settle(self, |r| {
                    r.state = PodState::Failed;
                    r.last_error = Some(text);
                })
                .await;
                Err(e)
            }
        }
    }

    /// From now on the pod's sandboxes are built as that of a snapshot was.
    pub(super) async fn build_as(&self, turn: &Turn<'_>, manifest: &Manifest) -> Result<()> {
        let change = |r: &mut PodRecord| {
            r.layers = manifest.pod.layers.clone();
            r.private_layers = manifest.pod.private_layers.clone();
            r.init = manifest.pod.init.clone();
            r.engine = manifest.engine.clone();
            r.template = manifest.template;
        };
        turn.commit(&self.db, change).await.map(drop)
    }

    /// A free name for a copy: `<name>-copy`, `<name>-copy-2`, ...
    fn copy_name(&self, name: &PodName) -> Result<PodName> {
        let taken: Vec<String> = self.records().iter().map(|r| r.spec.name.to_string()).collect();
        let short: String = name.as_str().chars().take(48).collect();
        (1_u32..10_000)
            .map(|n| if n == 1 { format!("{short}-copy") } else { format!("{short}-copy-{n}") })
            .find(|n| !taken.contains(n))
            .ok_or_else(|| {
                Error::new(Code::NameTaken, format!("no free name for a copy of {name}")).hint("give a name")
            })?
            .parse()
    }

    /// Removes a snapshot on request. One in which a pod sleeps is refused.
    pub(super) async fn remove_snapshot(&self, id: &SnapshotId) -> Result<()> {
        if let Some(r) = self.records().iter().find(|r| {
            (r.snapshot.as_ref() == Some(id) && !matches!(r.state, PodState::Running | PodState::Paused))
                || r.pending.as_ref() == Some(id)
        }) {
            return Err(Error::new(Code::InUse, format!("pod {} sleeps in snapshot {id}", r.spec.name))
                .hint("wake or remove the pod first"));
        }
        self.host.store.manifest(id).await?;
        self.host.store.delete(id).await?;
        self.host.cache.remove(id).await
    }

    /// Removes, again and again, what crashes have left in the store, until the daemon ends.
    pub async fn sweep_store(self: Arc<Self>) {
        let mut pause = FIRST_SWEEP;
        let mut unnamed = std::collections::BTreeSet::new();
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = SWEEPS,
            }
            match self.host.store.sweep(SWEEP_GRACE, &unnamed).await {
                Ok(swept) => {
                    if swept.removed > 0 {
                        tracing::info!(packs = swept.removed, "removed packs that no snapshot names");
                    }
                    unnamed = swept.unnamed;
                }
                Err(e) => tracing::warn!(error = %e.report(), "sweep the store"),
            }
        }
    }

    /// Removes what the record names as `pending`, and then the name.
    pub(super) async fn drop_pending(&self, turn: &Turn<'_>) -> Result<()> {
        if let Some(id) = &turn.record().pending {
            self.drop_snapshot(id).await;
            turn.commit(&self.db, |r| r.pending = None).await?;
        }
        Ok(())
    }

    /// Removes a snapshot that nobody can ask for any more. What the store refuses is swept later.
    pub(super) async fn drop_snapshot(&self, id: &SnapshotId) {
        let gone = self.host.store.delete(id).await;
        if let Err(e) = gone.and(self.host.cache.remove(id).await) {
            tracing::warn!(snapshot = %id, error = %e.report(), "a snapshot stays in the store for now");
        }
    }
}

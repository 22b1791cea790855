//! Into object storage and back: the order that loses nothing.
//!
//! Quiesce, pause, checkpoint with the sandbox kept, the bytes sent while they are written, the manifest last, the
//! database, and only then the sandbox goes. On any failure before that the pod goes on as if nothing had been asked.
//! After a crash: a pod that is `suspending` with its sandbox alive is resumed; without one, the manifest decides.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::boot::From;
use super::pod::{Pod, Turn};
use super::trace::step;
use super::trees::Trees;
use super::{Core, teardown, trees};
use crate::api::types::WakePod;
use crate::host::engine::EngineRef;
use crate::host::files;
use crate::host::progress::Progress;
use crate::host::runtime::{CreatePlan, RuntimeState};
use crate::host::store::SnapshotUpload;
use crate::model::{Code, Digest, Error, FileImage, LayerInfo, Manifest, PodRecord, PodState, Result, SnapshotId};

/// How often it is tried at once to let a pod go on.
const RESUMES: u32 = 3;
/// From one later try to the next.
const RESUME_AGAIN: std::time::Duration = std::time::Duration::from_secs(5);

impl Core {
    /// Puts a running pod to sleep; `until_start`: until torpord starts again.
    pub(super) async fn put_to_sleep(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        until_start: bool,
        progress: &Progress,
    ) -> Result<PodRecord> {
        let turn = pod.turn_if_there().await?;
        let record = turn.record();
        if record.state == PodState::Sleeping {
            if record.wake_at_start && !until_start {
                return turn.commit(&self.db, |r| r.wake_at_start = false).await; // somebody wants it to sleep on
            }
            return Ok(record);
        }
        turn.require(&[PodState::Running, PodState::Paused], "put it to sleep")?;
        if record.state == PodState::Paused {
            // Its init has to be asked; on failure it stands still again.
            self.thaw(&turn).await?;
            turn.commit(&self.db, |r| r.state = PodState::Running).await?;
        }
        let slept = self.save_and_end(pod, &turn, until_start, progress).await;
        if slept.is_err()
            && record.state == PodState::Paused
            && let Err(e) = self.freeze(&turn).await
        {
            tracing::warn!(pod = %record.id, error = %e.report(), "pause a pod again");
        }
        slept
    }

    /// Saves a running pod, and ends its sandbox once that is recorded.
    async fn save_and_end(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        turn: &Turn<'_>,
        until_start: bool,
        progress: &Progress,
    ) -> Result<PodRecord> {
        let record = turn.record();
        let id = SnapshotId::random()?;
        turn.commit(&self.db, |r| {
            r.state = PodState::Suspending;
            r.pending = Some(id.clone());
            r.wake_at_start = until_start;
        })
        .await?;
        if let Err(e) = self.save_pod(turn, &id, false, progress).await {
            return Err(self.stay_awake(pod, turn, e).await);
        }
        let committed = turn
            .commit(&self.db, |r| {
                r.state = PodState::Sleeping;
                // The one before is named until it is gone, or a kill here would leave it for ever.
                r.pending = r.snapshot.replace(id.clone());
                r.sandbox_pid = None;
                r.last_error = None;
            })
            .await;
        let record = match committed {
            Ok(record) => record,
            Err(e) => {
                // The sandbox is all there is until the database says otherwise.
                match self.engine_and_plan(&record) {
                    Ok((engine, plan)) => self.go_on(turn, &engine, &plan).await,
                    Err(e) => tracing::error!(pod = %record.id, error = %e.report(), "let the pod go on"),
                }
                self.drop_snapshot(&id).await;
                return Err(self.stay_awake(pod, turn, e).await);
            }
        };
        self.take_down(turn).await;
        if let Err(e) = self.drop_pending(turn).await {
            tracing::warn!(pod = %record.id, error = %e.report(), "forget the snapshot before");
        }
        Ok(record)
    }

    /// The pod goes on: what was tried is told, and nothing else has changed.
    async fn stay_awake(self: &Arc<Self>, pod: &Arc<Pod>, turn: &Turn<'_>, e: Error) -> Error {
        let text = format!("sleep: {}", e.report());
        turn.settle(self, |r| {
            r.state = PodState::Running;
            r.pending = None;
            r.wake_at_start = false;
            r.last_error = Some(text);
        })
        .await;
        self.watch_exit(pod);
        e
    }

    /// Wakes a pod out of the snapshot it sleeps in; `cold` starts its command anew instead.
    pub(super) async fn wake(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        how: &WakePod,
        progress: &Progress,
    ) -> Result<PodRecord> {
        let turn = pod.turn_if_there().await?;
        let record = turn.record();
        if record.state == PodState::Running {
            self.renew_secrets(&turn, &how.secrets).await?;
            return Ok(record);
        }
        turn.require(&[PodState::Sleeping, PodState::Failed], "wake it")?;
        // After a restore that failed it goes on from what was being restored.
        let unfinished = record.pending.clone().filter(|_| record.state == PodState::Failed);
        let back = if unfinished.is_some() { PodState::Failed } else { PodState::Sleeping };
        let Some(id) = unfinished.clone().or_else(|| record.snapshot.clone()) else {
            return Err(super::pod::wrong_state(&record, "wake it"));
        };
        // Where there is none it sleeps on, as if nothing had been asked.
        let _room = self.room(&record.id, &record.spec, "wake")?;
        self.give_again(&record, &how.secrets)?;
        self.secret_values(&record.id, &record.spec).await?;
        if how.cold {
            let started = async {
                self.next_incarnation(&turn, PodState::Waking, &mut From::Command).await?;
                self.mark_running(pod, &turn, |r| r.pending = None).await
            };
            return match started.await {
                Ok(record) => Ok(record),
                Err(e) => self.back_to_sleep(&turn, back, e).await,
            };
        }
        let mut manifest = None;
        if unfinished.is_some() {
            let read = self.host.store.manifest(&id).await?;
            self.preflight(&read)?;
            manifest = Some(read);
        }
        let new = self.new_layers.read().await;
        let mut files = self.find_files(&id, manifest.clone(), progress).await?;
        if let Some(manifest) = &manifest {
            // The restore may have ended before the record said how that snapshot's sandbox was built.
            self.build_as(&turn, manifest).await?;
        }
        drop(new);
        let mut trees = Trees::default();
        if let Some(manifest) = &manifest {
            self.release_root(&record).await;
            if trees::has_volumes(manifest) {
                let images = self.bring_files(&mut files).await?;
                trees = self.stage_volumes(&record, manifest, &images).await?;
                if let Err(e) = trees.swap() {
                    trees.end(false).await;
                    return Err(e);
                }
            }
        }
        let woken = self.wake_from(pod, &turn, From::Checkpoint { files, copy: false }, back).await;
        trees.end(woken.is_ok()).await;
        woken
    }

    /// The step of [`Core::wake`] after which the pod runs, or is in state `back` or failed.
    async fn wake_from(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        turn: &Turn<'_>,
        mut from: From,
        back: PodState,
    ) -> Result<PodRecord> {
        let record = turn.record();
        let mut woken = self.next_incarnation(turn, PodState::Waking, &mut from).await;
        if let Err(e) = &woken
            && from.here()
            && !e.is_of_the_disk()
        {
            tracing::warn!(pod = %record.id, error = %e.report(), "wake: once more");
            woken = self.next_incarnation(turn, PodState::Waking, &mut from).await;
        }
        match woken {
            Ok(()) => match self.mark_running(pod, turn, |r| r.pending = None).await {
                Ok(record) => Ok(record),
                Err(e) => self.back_to_sleep(turn, back, e).await,
            },
            // Without its files, or without a disk, nothing was wrong with the sandbox: it sleeps on.
            Err(e) if !from.here() || e.is_of_the_disk() => self.back_to_sleep(turn, back, e).await,
            Err(e) => self.back_to_sleep(turn, PodState::Failed, e).await,
        }
    }

    async fn back_to_sleep(&self, turn: &Turn<'_>, state: PodState, e: Error) -> Result<PodRecord> {
        let text = format!("wake: {}", e.report());
        turn.settle(self, |r| {
            r.state = state;
            r.last_error = Some(text);
        })
        .await;
        Err(e.hint("its snapshot is kept: wake it again, or start its command anew with --cold"))
    }

    /// Takes the sandbox of a pod down, whatever its record says, and forgets its shim.
    pub(super) async fn take_down(self: &Arc<Self>, turn: &Turn<'_>) {
        let record = turn.record();
        turn.pod().set_shim(None);
        let sandbox = async {
            if record.incarnation > 0 {
                step("teardown", teardown::sandbox(self, &record.runtime_id())).await;
            }
        };
        let (closed, ()) = tokio::join!(self.publish_forwards(), sandbox);
        if let Err(e) = closed {
            tracing::warn!(pod = %record.id, error = %e.report(), "close its forwards");
        }
    }

    /// Writes a snapshot of the pod's sandbox. `go_on`: it is resumed as soon as the checkpoint is on disk; otherwise
    /// it stays paused on success. On failure it always goes on.
    pub(super) async fn save_pod(
        self: &Arc<Self>,
        turn: &Turn<'_>,
        id: &SnapshotId,
        go_on: bool,
        progress: &Progress,
    ) -> Result<Manifest> {
        let record = turn.record();
        let volumes = if go_on { self.volume_bytes(&record).await? } else { 0 };
        let memory = self.require_room(&record, volumes).await?;
        progress.phase("layers");
        self.host.store.check().await?;
        let layers = step("layers", self.send_layers(&record, progress)).await?;
        let (engine, plan) = self.engine_and_plan(&record)?;
        let dir = self.dirs.checkpoint(id);
        files::create_dir_all(&dir, 0o700)?;
        progress.phase("save");
        progress.total(memory); // at most: page cache and what is the sandbox's own are not saved
        let limit = self.config().freeze_limit;
        let too_long = || {
            let name = &record.spec.name;
            Error::new(
                Code::Timeout,
                format!("save pod {name}: it would stand still for more than {} s", limit.as_secs()),
            )
            .hint("the pod goes on; raise freeze-limit-seconds or use a faster store")
        };
        let begun = tokio::time::Instant::now();
        let frozen = async {
            let upload = self.save_frozen(turn, id, &engine, &plan, &dir, progress).await?;
            if go_on {
                self.pack_volumes(&record, &dir).await?;
                self.require_reserve().await?;
            }
            Ok::<_, Error>(upload)
        };
        let written = match tokio::time::timeout(limit, frozen).await {
            Ok(Ok(upload)) if go_on => {
                // Its memory is on the local disk: the rest takes as long as the store does.
                self.go_on(turn, &engine, &plan).await;
                step("upload", upload.finish()).await
            }
            Ok(Ok(upload)) => {
                let left = limit.saturating_sub(begun.elapsed());
                step("upload", tokio::time::timeout(left, upload.finish())).await.unwrap_or_else(|_| Err(too_long()))
            }
            Ok(Err(e)) => Err(e),
            Err(_) => Err(too_long()),
        };
        let saved = match written {
            Ok((files, stored)) => step("manifest", self.write_manifest(&record, id, layers, files, stored)).await,
            Err(e) => Err(e),
        };
        match saved {
            Ok(manifest) => {
                if let Err(e) = self.host.cache.insert(id, &dir).await {
                    tracing::warn!(snapshot = %id, error = %e.report(), "keep the raw image");
                    let _ = files::remove_tree(&dir).await;
                }
                Ok(manifest)
            }
            Err(e) => {
                self.go_on(turn, &engine, &plan).await;
                let _ = files::remove_tree(&dir).await;
                let _ = self.host.store.delete(id).await;
                Err(e)
            }
        }
    }

    /// The part in which the pod must stand still: until its checkpoint is on the local disk.
    async fn save_frozen(
        self: &Arc<Self>,
        turn: &Turn<'_>,
        id: &SnapshotId,
        engine: &EngineRef,
        plan: &CreatePlan,
        dir: &Path,
        progress: &Progress,
    ) -> Result<SnapshotUpload> {
        step("quiesce", turn.pod().shim()?.quiesce()).await?;
        step("pause", self.host.runtime.pause(engine, plan)).await?;
        let upload = SnapshotUpload::begin(&self.host.store, id, dir, progress.clone())?;
        step("checkpoint", self.host.runtime.checkpoint(engine, plan, dir)).await?;
        if let Ok(bytes) = files::tree_bytes(dir) {
            progress.total(bytes);
        }
        self.require_reserve().await?;
        Ok(upload)
    }

    /// The pod goes on where it was paused. Tried whatever went wrong before, and again later if the engine hangs.
    pub(super) async fn go_on(self: &Arc<Self>, turn: &Turn<'_>, engine: &EngineRef, plan: &CreatePlan) {
        let mut goes_on = false;
        for attempt in 1..=RESUMES {
            match self.resume_sandbox(engine, plan).await {
                Ok(()) => {
                    goes_on = true;
                    break;
                }
                Err(e) => tracing::warn!(sandbox = %plan.id, attempt, error = %e.report(), "resume"),
            }
        }
        if !goes_on {
            self.resume_later(turn.record(), engine.clone(), plan.clone());
        }
        for attempt in 1..=RESUMES {
            let resumed = match turn.pod().shim() {
                Ok(shim) => shim.resume().await,
                Err(e) => Err(e),
            };
            let Err(e) = resumed else { break };
            tracing::warn!(sandbox = %plan.id, attempt, error = %e.report(), "let the pod go on");
        }
        if goes_on {
            self.fill_again(turn).await;
        }
    }

    /// An error: it is still paused, or nobody can say.
    pub(super) async fn resume_sandbox(&self, engine: &EngineRef, plan: &CreatePlan) -> Result<()> {
        let Err(e) = self.host.runtime.resume(engine, plan).await else { return Ok(()) };
        match self.host.runtime.state(engine, &plan.id).await {
            // It was not paused yet, or is not any more.
            Ok(state) if !state.as_ref().is_some_and(RuntimeState::paused) => Ok(()),
            _ => Err(e),
        }
    }

    /// Asks the engine again and again to let a pod go on, until it does or the pod is something else.
    fn resume_later(self: &Arc<Self>, record: PodRecord, engine: EngineRef, plan: CreatePlan) {
        let core = Arc::clone(self);
        let Some(pod) = self.pod(&record.id) else { return };
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = core.shutdown.cancelled() => return,
                    () = tokio::time::sleep(RESUME_AGAIN) => {}
                }
                let turn = pod.turn().await;
                let now = turn.record();
                if now.incarnation != record.incarnation || now.state != PodState::Running {
                    return;
                }
                if core.resume_sandbox(&engine, &plan).await.is_ok() {
                    if let Ok(shim) = pod.shim()
                        && let Err(e) = shim.resume().await
                    {
                        tracing::warn!(sandbox = %plan.id, error = %e.report(), "let the pod go on");
                    }
                    core.fill_again(&turn).await;
                    return;
                }
            }
        });
    }

    async fn write_manifest(
        &self,
        record: &PodRecord,
        id: &SnapshotId,
        layers: Vec<LayerInfo>,
        files: Vec<FileImage>,
        stored: u64,
    ) -> Result<Manifest> {
        let engine = self.host.engines.get(&record.engine)?;
        let mut pod = record.clone();
        pod.spec.env.clear(); // no secret in a snapshot's metadata; what runs has its environment in its memory
        pod.image_config.env.clear();
        pod.spec.secrets.clear(); // a copy gets none unless asked
        pod.state = PodState::Sleeping;
        pod.snapshot = None;
        pod.pending = None;
        pod.sandbox_pid = None;
        pod.last_error = None;
        pod.restarts = Default::default();
        let manifest = Manifest {
            id: id.clone(),
            created_at: Timestamp::now(),
            pod,
            layers,
            architecture: std::env::consts::ARCH.into(),
            page_size: super::files::page_size(),
            engine_version: engine.version.clone(),
            engine: record.engine.clone(),
            cpu_features: crate::host::engine::cpu_features()?,
            template: record.template,
            size: files.iter().map(|f| f.length).sum(),
            files,
            stored,
        };
        self.host.store.put_manifest(&manifest).await?;
        Ok(manifest)
    }

    /// Sends the layers of the pod's root that the store has not, before anything is frozen.
    async fn send_layers(&self, record: &PodRecord, progress: &Progress) -> Result<Vec<LayerInfo>> {
        let mut all = Vec::new();
        for digest in self.all_layers(record) {
            let info = self.host.layers.info(&digest)?;
            if !self.host.store.has_layer(&digest).await? {
                self.host.store.put_layer(&digest, &self.host.layers.blob(&digest), progress).await?;
            }
            all.push(info);
        }
        Ok(all)
    }

    /// Refuses to begin what the disk can't hold: memory, writable layer and reserve. Gives the memory, in bytes.
    async fn require_room(&self, record: &PodRecord, volumes: u64) -> Result<u64> {
        let name = record.runtime_id().to_string();
        let memory = self.host.cgroups.usage(&name).await?.memory;
        self.require_free(
            memory.saturating_add(volumes).saturating_add(self.config().disk_reserve),
            &format!("save pod {}", record.spec.name),
        )?;
        Ok(memory)
    }

    /// After a checkpoint: a breached reserve means that its files may be truncated.
    async fn require_reserve(&self) -> Result<()> {
        self.require_free(self.config().disk_reserve / 2, "keep the checkpoint")
    }

    fn require_free(&self, need: u64, what: &str) -> Result<()> {
        let free = files::free_bytes(self.dirs.state())?;
        if free >= need {
            return Ok(());
        }
        Err(Error::new(
            Code::Exhausted,
            format!("{what}: {need} bytes are needed and {free} are free on the state directory's disk"),
        )
        .hint("free space there, or lower cache-bytes; the pod goes on"))
    }

    /// All layers of a pod's root with init's on top, lowest first.
    pub(super) fn all_layers(&self, record: &PodRecord) -> Vec<Digest> {
        let mut layers = record.root_layers();
        layers.push(record.init.clone());
        layers
    }
}

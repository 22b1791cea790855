//! Create, start, stop, kill, remove, wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Core;
use super::boot::From;
use super::idempotency::{Intent, Makes};
use super::pod::{Pod, Turn, wrong_state};
use super::trace::{about, step};
use crate::api::types::SecretValue;
use crate::host::files;
use crate::host::shim::ExitRecord;
use crate::model::{
    Code, Error, ExitReason, ImageRecord, PodId, PodRecord, PodSpec, PodState, Restarts, Result, RootfsMode,
    SecretValues, SnapshotId,
};
use crate::plan::bundle;
use crate::plan::events::Happened;

/// What a new pod is made of besides its specification.
pub(super) struct Origin {
    /// The image as it is now, or as the snapshot has it.
    pub layers: Vec<crate::model::Digest>,
    /// Layers saved at earlier stops.
    pub private_layers: Vec<crate::model::Digest>,
    /// The image's configuration.
    pub config: crate::model::ImageConfig,
    /// Digest of init.
    pub init: crate::model::Digest,
    /// Digest of the engine.
    pub engine: crate::model::Digest,
    /// Bundle template.
    pub template: u32,
    /// The snapshot it comes out of.
    pub snapshot: Option<SnapshotId>,
}

/// A pod to be made.
pub(super) struct New {
    /// What it is to be.
    pub spec: PodSpec,
    /// Values of its secrets that were given.
    pub secrets: SecretValues,
    /// Whether it is started.
    pub start: bool,
    /// Whether somebody is going to read its output.
    pub follow: bool,
    /// Where it is noted that it is made.
    pub intent: Option<Intent>,
}

impl Core {
    pub(super) fn origin_of_image(&self, image: &ImageRecord) -> Result<Origin> {
        let engine = self.engine.clone().ok_or_else(|| {
            Error::new(Code::Unsupported, "no runsc was found on this host")
                .hint("install it (see `torpor doctor`) and restart torpord")
        })?;
        Ok(Origin {
            layers: image.layers.iter().map(|l| l.digest.clone()).collect(),
            private_layers: Vec::new(),
            config: image.config.clone(),
            init: self.init.digest.clone(),
            engine,
            template: bundle::TEMPLATE,
            snapshot: None,
        })
    }

    /// Leases an address and ports and commits the pod in state `creating`.
    pub(super) async fn add_pod(&self, id: PodId, spec: PodSpec, origin: Origin) -> Result<Arc<Pod>> {
        let _leases = self.leases.lock().await;
        let records = self.records();
        let taken = crate::daemon::db::leased_addresses(records.iter());
        let address = self.addressing.next_free(&taken).ok_or_else(|| {
            Error::new(Code::Exhausted, format!("no address of {} is left", self.config().pod_cidr))
                .hint("remove pods that are no longer needed or configure a larger pod-cidr")
        })?;
        let forwards = self.reserve_ports(&spec.ports, &records)?;
        let record = PodRecord {
            id,
            spec,
            state: PodState::Creating,
            incarnation: 0,
            address,
            forwards,
            layers: origin.layers,
            private_layers: origin.private_layers,
            init: origin.init,
            image_config: origin.config,
            engine: origin.engine,
            template: origin.template,
            rootfs_mode: RootfsMode::Sandbox,
            snapshot: None,
            pending: origin.snapshot,
            boot_id: None,
            sandbox_pid: None,
            created_at: Timestamp::now(),
            started_at: None,
            finished_at: None,
            exit_code: None,
            exit_reason: None,
            last_error: None,
            restarts: Restarts::default(),
            wake_at_start: false,
        };
        let added = match files::create_dir_all(&self.dirs.log(&record.id), 0o700) {
            Ok(()) => self.db.add_pod(&record).await,
            Err(e) => Err(e),
        };
        if let Err(e) = added {
            for f in &record.forwards {
                self.host.ports.release(f.host, f.protocol);
            }
            let _ = files::remove_tree(&self.dirs.pod(&record.id)).await;
            return Err(e);
        }
        let pod = Pod::new(record, &self.events);
        self.insert(Arc::clone(&pod));
        Ok(pod)
    }

    /// Makes a pod, and starts it unless told otherwise. All or nothing: if it can't be started it is gone again.
    pub(super) async fn create(self: &Arc<Self>, new: New, image: &ImageRecord) -> Result<PodRecord> {
        let New { spec, secrets, start, follow, intent } = new;
        let id = PodId::random()?;
        // Until the record says that it runs.
        let _room = if start { Some(self.room(&id, &spec, "create")?) } else { None };
        let new = self.new_layers.read().await;
        let mut origin = self.origin_of_image(image)?;
        let targets: Vec<_> = spec.volumes.iter().map(|v| v.target.clone()).collect();
        if let Some(layer) = self.host.layers.add_mountpoints(&origin.layers, &targets).await? {
            origin.layers.push(layer.digest);
        }
        if let Some(intent) = &intent {
            intent.makes(Makes::Pod(&id)).await?;
        }
        let pod = step("record", self.add_pod(id, spec, origin)).await?;
        if follow {
            pod.expect_reader();
        }
        about(&pod.record());
        drop(new);
        let turn = pod.turn_if_there().await?;
        let made = async {
            self.host.secrets.put(&turn.record().id, &secrets)?;
            if start {
                self.next_incarnation_as_is(&turn, &mut From::Command).await?;
                self.mark_running(&pod, &turn, |_| {}).await
            } else {
                turn.commit(&self.db, |r| r.state = PodState::Created).await
            }
        };
        match made.await {
            Ok(record) => Ok(record),
            Err(e) => {
                self.erase(&turn).await?;
                Err(e)
            }
        }
    }

    /// As [`Core::next_incarnation`], staying in the present state: for pods that are still being made.
    pub(super) async fn next_incarnation_as_is(self: &Arc<Self>, turn: &Turn<'_>, from: &mut From) -> Result<()> {
        let state = turn.record().state;
        self.next_incarnation(turn, state, from).await
    }

    /// Starts a pod that was created or stopped.
    pub(super) async fn start(self: &Arc<Self>, pod: &Arc<Pod>, given: &[SecretValue]) -> Result<PodRecord> {
        let turn = pod.turn_if_there().await?;
        let record = turn.record();
        if record.state == PodState::Running {
            self.renew_secrets(&turn, given).await?;
            return Ok(record); // as docker: starting what runs is no error
        }
        self.start_in(pod, &turn, given).await
    }

    /// As [`Core::start`], in a turn, for a pod at rest.
    async fn start_in(self: &Arc<Self>, pod: &Arc<Pod>, turn: &Turn<'_>, given: &[SecretValue]) -> Result<PodRecord> {
        let record = turn.record();
        turn.require(&[PodState::Created, PodState::Stopped, PodState::Failed], "start it")?;
        self.give_again(&record, given)?;
        self.begin(pod, turn, |r| r.restarts = Restarts::default(), |_| ()).await
    }

    /// Starts the command of a pod at rest, with what changes in the record when that begins and when it runs.
    pub(super) async fn begin(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        turn: &Turn<'_>,
        beginning: impl FnOnce(&mut PodRecord),
        running: impl FnOnce(&mut PodRecord),
    ) -> Result<PodRecord> {
        let record = turn.record();
        let before = record.state;
        let _room = self.room(&record.id, &record.spec, "start")?;
        self.secret_values(&record.id, &record.spec).await?; // or nothing is touched
        if pod.unsaved() {
            // Its last sandbox is still there: the next one's record must not hide it.
            turn.commit(&self.db, |_| ()).await?;
            self.finish_teardown(turn).await;
        }
        let started = async {
            self.incarnate(turn, PodState::Starting, &mut From::Command, beginning).await?;
            let change = |r: &mut PodRecord| {
                r.pending = None; // what was being restored is left alone
                running(r);
            };
            self.mark_running(pod, turn, change).await
        };
        match started.await {
            Ok(record) => Ok(record),
            Err(e) => {
                let text = e.report();
                let back = if before == PodState::Created { PodState::Created } else { PodState::Stopped };
                turn.settle(self, |r| {
                    r.state = back;
                    r.pending = None;
                    r.last_error = Some(text);
                })
                .await;
                Err(e)
            }
        }
    }

    /// Asks the command to end, and ends it after the grace period.
    pub(super) async fn stop(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        signal: Option<i32>,
        grace: Duration,
    ) -> Result<PodRecord> {
        let turn = pod.turn_if_there().await?;
        self.stop_in(pod, &turn, signal, grace).await
    }

    /// Stops it and starts it again in one turn: nobody finds it stopped between, and a pod for one run is not removed.
    pub(super) async fn restart(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        signal: Option<i32>,
        grace: Duration,
        given: &[SecretValue],
    ) -> Result<PodRecord> {
        let turn = pod.turn_if_there().await?;
        let record = turn.record();
        if matches!(record.state, PodState::Running | PodState::Paused) {
            // What the start would be refused for is found before the command is ended.
            self.give_again(&record, given)?;
            self.secret_values(&record.id, &record.spec).await?;
            self.stop_in(pod, &turn, signal, grace).await?;
            return self.start_in(pod, &turn, &[]).await;
        }
        turn.require(&[PodState::Created, PodState::Stopped, PodState::Failed], "restart it")?;
        self.start_in(pod, &turn, given).await
    }

    /// As [`Core::stop`], in a turn.
    async fn stop_in(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        turn: &Turn<'_>,
        signal: Option<i32>,
        grace: Duration,
    ) -> Result<PodRecord> {
        let record = turn.record();
        match record.state {
            PodState::Stopped => return self.forget_restart(turn).await,
            PodState::Created => return Ok(record),
            PodState::Running => {}
            // A signal would wait for ever.
            PodState::Paused => self.thaw(turn).await?,
            _ => return Err(wrong_state(&record, "stop it")),
        }
        turn.commit(&self.db, |r| {
            r.state = PodState::Stopping;
            r.restarts.stopped = true;
        })
        .await?;
        let exit = step("command", self.end_command(pod, &record, signal, grace)).await;
        self.record_exit(turn, &exit, PodState::Stopped, None).await
    }

    /// The signal, the grace period, the kill.
    pub(super) async fn end_command(
        &self,
        pod: &Pod,
        record: &PodRecord,
        signal: Option<i32>,
        grace: Duration,
    ) -> ExitRecord {
        let Ok(shim) = pod.shim() else { return ExitRecord::unknown() };
        let signal = signal.unwrap_or_else(|| super::admit::stop_signal(&record.image_config));
        if let Err(e) = shim.signal(signal).await {
            tracing::warn!(pod = %record.id, error = %e.report(), "ask the command to stop");
        }
        if let Ok(Ok(exit)) = tokio::time::timeout(grace, shim.wait()).await {
            return exit;
        }
        if let Err(e) = shim.signal(libc::SIGKILL).await {
            tracing::warn!(pod = %record.id, error = %e.report(), "kill the command");
        }
        match tokio::time::timeout(Duration::from_secs(5), shim.wait()).await {
            Ok(Ok(exit)) => exit,
            _ => ExitRecord { signal: Some(libc::SIGKILL), ..ExitRecord::unknown() },
        }
    }

    /// Sends a signal to the command.
    pub(super) async fn kill(&self, pod: &Pod, signal: i32) -> Result<()> {
        let record = pod.record();
        if record.state != PodState::Running {
            return Err(wrong_state(&record, "send it a signal"));
        }
        let ends = signal == libc::SIGKILL || signal == super::admit::stop_signal(&record.image_config);
        if ends && !record.spec.restart.is_no() {
            // As docker: whoever kills it does not want it back.
            let turn = pod.turn_if_there().await?;
            turn.require(&[PodState::Running], "send it a signal")?;
            self.forget_restart(&turn).await?;
            return pod.shim()?.signal(signal).await;
        }
        pod.shim()?.signal(signal).await
    }

    /// Removes a pod. One that isn't stopped needs `force`.
    pub(super) async fn remove(self: &Arc<Self>, pod: &Arc<Pod>, force: bool) -> Result<()> {
        let turn = pod.turn_if_there().await?;
        let record = turn.record();
        let at_rest =
            matches!(record.state, PodState::Created | PodState::Stopped | PodState::Failed | PodState::Deleting);
        if !at_rest && !force {
            let hint = "stop it first, or remove it with force";
            return Err(wrong_state(&record, "remove it").hint(hint));
        }
        self.erase(&turn).await
    }

    /// Takes away all of a pod: sandbox, leases, files, its own sleep snapshot, its record last.
    pub(super) async fn erase(self: &Arc<Self>, turn: &Turn<'_>) -> Result<()> {
        let record = turn.record();
        if record.state != PodState::Deleting {
            // Even if there is no room to record it: what goes makes room.
            turn.settle(self, |r| r.state = PodState::Deleting).await;
        }
        self.take_down(turn).await;
        for snapshot in record.snapshot.iter().chain(&record.pending) {
            // A copy that is being made names another pod's snapshot: only what this pod slept in is its own.
            if record.snapshot.as_ref() == Some(snapshot) {
                self.drop_snapshot(snapshot).await;
            }
        }
        for f in &record.forwards {
            self.host.ports.release(f.host, f.protocol);
        }
        if let Err(e) = self.host.secrets.remove(&record.id) {
            tracing::error!(pod = %record.id, error = %e.report(), "forget its secrets: the next start does");
        }
        let gone = match step("files", files::remove_tree(&self.dirs.pod(&record.id))).await {
            Ok(()) => self.db.remove_pod(&record.id).await,
            Err(e) => Err(e),
        };
        if let Err(e) = gone {
            turn.pod().set_unsaved();
            self.unsaved.notify_one();
            return Err(e.hint("it is tried again until it works"));
        }
        turn.pod().set_gone();
        self.forget(&record.id);
        self.end_tokens_of(&record.id).await;
        self.events.tell(Happened::Removed, &record, BTreeMap::new());
        self.release_root(&record).await;
        Ok(())
    }

    /// Waits for the end of the pod's command; a pod that sleeps is waited for until it wakes and ends.
    pub(super) async fn wait(&self, pod: &Pod) -> Result<(i32, ExitReason)> {
        let mut watch = pod.watch();
        let ended = watch
            .wait_for(PodRecord::has_ended)
            .await
            .map_err(|e| Error::internal("wait for the pod").because(e))?
            .clone();
        match (ended.exit_code, ended.exit_reason) {
            (Some(code), Some(reason)) => Ok((code, reason)),
            _ => Err(wrong_state(&ended, "tell its exit code")),
        }
    }
}

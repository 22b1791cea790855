//! After a start: what the database says against what the host shows. Adopt, go on, or take back.
//!
//! The same code runs after a kill -9, a reboot and an orderly restart. It may itself be interrupted anywhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::pod::Pod;
use super::{Core, teardown};
use crate::host::files;
use crate::host::shim::ExitRecord;
use crate::model::{Code, ExitReason, PodState, Result, RuntimeId};

/// How long a command may take to end whose stop was cut off; what was asked for is not known any more.
const GRACE: Duration = Duration::from_secs(10);

impl Core {
    /// Brings host and database to agree. Pods that can't be recovered are logged and left; the others go on.
    ///
    /// # Errors
    /// The network's common part can't be made.
    pub async fn recover(self: &Arc<Self>) -> Result<()> {
        // Before anything goes on that uses it: stops that were cut off do, in the background.
        if let Err(e) = self.clear_tmp().await {
            tracing::warn!(error = %e.report(), "remove temporary files that were left behind");
        }
        self.host.network.ensure_router().await?;
        for pod in self.pods() {
            let record = pod.record();
            if let Err(e) = self.recover_pod(&pod).await {
                tracing::error!(pod = %record.id, name = %record.spec.name, error = %e.report(), "recover a pod");
            }
        }
        if let Err(e) = self.settle_requests().await {
            tracing::error!(error = %e.report(), "settle requests that were cut off: done when they come again");
        }
        self.remove_strays().await;
        self.publish_forwards().await?;
        self.host.ports.begin();
        self.restart_after_start().await;
        self.wake_after_start();
        Ok(())
    }

    async fn recover_pod(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        let turn = pod.turn().await;
        let record = turn.record();
        self.remember_health(pod);
        for f in &record.forwards {
            if let Err(e) = self.host.ports.reserve(f.host, f.protocol, f.address) {
                tracing::warn!(pod = %record.id, error = %e.report(), "a port of the pod was taken meanwhile");
            }
        }
        self.settle_volumes(&record).await;
        let rebooted = record.boot_id.as_deref().is_some_and(|b| b != self.boot_id);
        match record.state {
            PodState::Creating | PodState::Deleting => self.erase(&turn).await,
            PodState::Created | PodState::Stopped | PodState::Failed | PodState::Sleeping => {
                self.finish_teardown(&turn).await;
                // A failed pod's is somebody's, which was being restored: it is what the pod can go on from.
                if record.state == PodState::Failed { Ok(()) } else { self.drop_pending(&turn).await }
            }
            PodState::Starting => {
                self.take_down(&turn).await;
                let back = if record.started_at.is_none() { PodState::Created } else { PodState::Stopped };
                turn.commit(&self.db, |r| {
                    r.state = back;
                    r.sandbox_pid = None;
                    r.pending = None;
                })
                .await
                .map(drop)
            }
            PodState::Stopping => {
                let exit = if rebooted { Some(ExitRecord::unknown()) } else { self.last_word(&turn).await };
                if let Some(exit) = exit {
                    return self
                        .record_exit(&turn, &exit, PodState::Stopped, Some(ExitReason::Stopped))
                        .await
                        .map(drop);
                }
                // Its command may take its time to end: others don't wait for it.
                let (core, pod) = (Arc::clone(self), Arc::clone(pod));
                tokio::spawn(async move { core.stop_on(&pod).await });
                Ok(())
            }
            PodState::Waking => {
                self.take_down(&turn).await;
                turn.commit(&self.db, |r| {
                    r.state = if r.pending.is_some() { PodState::Failed } else { PodState::Sleeping };
                    r.sandbox_pid = None;
                })
                .await
                .map(drop)
            }
            PodState::Restoring => {
                // The old sandbox may be gone already: the snapshot asked for is what is left to come back from. It stays
                // `pending`, for it is not the pod's own, which goes with the pod or at its next sleep.
                self.take_down(&turn).await;
                turn.commit(&self.db, |r| {
                    r.state = PodState::Failed;
                    r.sandbox_pid = None;
                    r.last_error =
                        Some("torpord ended while a snapshot was being restored: wake it to go on from there".into());
                })
                .await
                .map(drop)
            }
            PodState::Running | PodState::Paused | PodState::Suspending if rebooted => {
                let slept = match &record.pending {
                    Some(id) if record.state == PodState::Suspending => {
                        self.host.store.manifest(id).await.map(|_| id.clone())
                    }
                    _ => Err(crate::model::Error::new(Code::NotFound, "it was not being saved")),
                };
                self.take_down(&turn).await;
                match slept {
                    Ok(id) => {
                        turn.commit(&self.db, |r| {
                            r.state = PodState::Sleeping;
                            r.pending = r.snapshot.replace(id);
                            r.sandbox_pid = None;
                        })
                        .await?
                    }
                    Err(_) => {
                        let (exit, why) = (ExitRecord::unknown(), Some(ExitReason::HostRestarted));
                        self.record_exit(&turn, &exit, PodState::Stopped, why).await?
                    }
                };
                self.drop_pending(&turn).await
            }
            PodState::Running | PodState::Paused | PodState::Suspending => self.adopt(pod, &turn).await,
        }
    }

    /// Takes a live sandbox over, with its shim or with a new one in the place of a dead shim.
    async fn adopt(self: &Arc<Self>, pod: &Arc<Pod>, turn: &super::pod::Turn<'_>) -> Result<()> {
        let record = turn.record();
        let plan = self.shim_plan(&record);
        let shim = match self.host.shims.connect(&plan).await? {
            Some(shim) => shim,
            None => self.host.shims.spawn(&plan).await?,
        };
        let status = shim.status().await?;
        turn.pod().set_shim(Some(shim));
        if let Some(exit) = status.exit {
            self.record_exit(turn, &exit, PodState::Stopped, None).await?;
            return self.drop_pending(turn).await;
        }
        if record.state == PodState::Paused {
            self.stand_still(&record).await;
        } else if record.state == PodState::Suspending || record.pending.is_some() {
            // It was being saved when torpord ended: it may stand still.
            let (engine, plan) = self.engine_and_plan(&record)?;
            self.go_on(turn, &engine, &plan).await;
            turn.commit(&self.db, |r| r.state = PodState::Running).await?;
            self.drop_pending(turn).await?;
        } else {
            // A resume may have failed before torpord ended. Where the engine can't say, going on does no harm.
            let (engine, plan) = self.engine_and_plan(&record)?;
            match self.host.runtime.state(&engine, &plan.id).await {
                Ok(Some(state)) if !state.paused() => {
                    if let Ok(shim) = turn.pod().shim()
                        && let Err(e) = shim.resume().await
                    {
                        tracing::warn!(pod = %record.id, error = %e.report(), "let the pod go on");
                    }
                    self.fill_again(turn).await;
                }
                _ => self.go_on(turn, &engine, &plan).await,
            }
        }
        self.limit_as_recorded(&record).await;
        tracing::info!(pod = %record.id, name = %record.spec.name, pid = ?status.sandbox_pid, "adopted");
        self.watch_exit(pod);
        self.watch_health(pod);
        Ok(())
    }

    /// What the shim of a pod that was being stopped knows of its end; none: its command goes on.
    async fn last_word(&self, turn: &super::pod::Turn<'_>) -> Option<ExitRecord> {
        let plan = self.shim_plan(&turn.record());
        let known = async {
            let shim = match self.host.shims.connect(&plan).await? {
                Some(shim) => shim,
                None => self.host.shims.spawn(&plan).await?,
            };
            let status = shim.status().await?;
            turn.pod().set_shim(Some(shim));
            Ok::<_, crate::model::Error>(status.exit)
        };
        known.await.unwrap_or_else(|e| {
            tracing::warn!(pod = %turn.record().id, error = %e.report(), "ask the shim how the pod ended");
            Some(ExitRecord::unknown())
        })
    }

    /// Goes on with a stop that a crash cut off: the command gets its time to end, and its root is saved.
    async fn stop_on(self: &Arc<Self>, pod: &Arc<Pod>) {
        let turn = pod.turn().await;
        let record = turn.record();
        if record.state != PodState::Stopping {
            return;
        }
        let exit = self.end_command(pod, &record, None, GRACE).await;
        if let Err(e) = self.record_exit(&turn, &exit, PodState::Stopped, Some(ExitReason::Stopped)).await {
            tracing::error!(pod = %record.id, error = %e.report(), "stop a pod");
        }
    }

    /// Removes what bears our names and belongs to no record. The lock on the state directory is ours, so nobody else
    /// is about to make it.
    async fn remove_strays(self: &Arc<Self>) {
        let known: BTreeSet<RuntimeId> = self.records().iter().map(|r| r.runtime_id()).collect();
        let guarded: BTreeSet<&str> = self.unreadable.iter().map(|(id, _)| id.as_str()).collect();
        let mut seen = BTreeSet::new();
        for (what, listed) in [
            ("cgroups", self.host.cgroups.list().await),
            ("networks", self.host.network.list().await),
            ("sandboxes", self.host.runtime.list().await),
            ("bundles", files::list(&self.dirs.sandboxes())),
        ] {
            match listed {
                Ok(names) => seen.extend(names.iter().filter_map(|n| RuntimeId::parse(n))),
                Err(e) => tracing::warn!(what, error = %e.report(), "look for what was left behind"),
            }
        }
        for id in seen {
            if !known.contains(&id) && !guarded.contains(id.pod.as_str()) {
                tracing::info!(sandbox = %id, "removing what was left behind");
                teardown::sandbox(self, &id).await;
            }
        }
        if let Err(e) = self.remove_stray_files(&guarded).await {
            tracing::warn!(error = %e.report(), "remove files that were left behind");
        }
    }

    async fn clear_tmp(&self) -> Result<()> {
        for name in files::list(&self.dirs.tmp())? {
            files::remove_tree(&self.dirs.tmp().join(name)).await?;
        }
        Ok(())
    }

    async fn remove_stray_files(&self, guarded: &BTreeSet<&str>) -> Result<()> {
        self.forget_stray_secrets()?;
        let pods: BTreeSet<String> = self.records().iter().map(|r| r.id.to_string()).collect();
        for name in files::list(&self.dirs.pods())? {
            if !pods.contains(&name) && !guarded.contains(name.as_str()) {
                files::remove_tree(&self.dirs.pods().join(name)).await?;
            }
        }
        let keys: BTreeSet<String> = self.records().iter().map(|r| self.image_key(r)).collect();
        for key in self.host.rootfs.list()? {
            if !keys.contains(&key) && guarded.is_empty() {
                self.host.rootfs.remove(&key).await?;
            }
        }
        self.collect_layers().await
    }
}

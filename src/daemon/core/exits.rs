//! The end of a pod's command: noticed, explained, recorded, cleaned up after.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use super::pod::{Pod, Turn};
use super::trace::step;
use super::{Core, teardown};
use crate::api::types;
use crate::host::shim::ExitRecord;
use crate::model::{Code, Error, ExitReason, PodId, PodRecord, PodState, Result};

impl Core {
    /// Waits for the end of the pod's newest sandbox, in the background.
    pub(super) fn watch_exit(self: &Arc<Self>, pod: &Arc<Pod>) {
        let (core, pod) = (Arc::clone(self), Arc::clone(pod));
        let incarnation = pod.record().incarnation;
        tokio::spawn(async move {
            let Ok(shim) = pod.shim() else { return };
            let ended = tokio::select! {
                ended = shim.wait() => ended,
                () = core.shutdown.cancelled() => return,
            };
            let turn = pod.turn().await;
            let record = turn.record();
            if record.incarnation != incarnation || !matches!(record.state, PodState::Running | PodState::Paused) {
                return; // somebody else took it down
            }
            let exit = match ended {
                Ok(exit) => exit,
                Err(e) => {
                    tracing::warn!(pod = %record.id, error = %e.report(), "the pod's shim is gone");
                    match core.replace_shim(&turn, &record).await {
                        Ok(None) => {
                            drop(turn);
                            core.watch_exit(&pod);
                            return;
                        }
                        Ok(Some(exit)) => exit,
                        Err(e) => {
                            tracing::error!(pod = %record.id, error = %e.report(), "the pod's shim can't be replaced");
                            ExitRecord::unknown()
                        }
                    }
                }
            };
            if let Err(e) = core.record_exit(&turn, &exit, PodState::Stopped, None).await {
                tracing::error!(pod = %record.id, error = %e.report(), "record the end of a pod");
            }
        });
    }

    /// Puts a new shim in the place of one that died. It may know already how the pod ended.
    pub(super) async fn replace_shim(
        self: &Arc<Self>,
        turn: &Turn<'_>,
        record: &PodRecord,
    ) -> Result<Option<ExitRecord>> {
        let shim = self.host.shims.spawn(&self.shim_plan(record)).await?;
        let status = shim.status().await?;
        turn.pod().set_shim(Some(shim));
        Ok(status.exit)
    }

    /// Saves what the root held if that can be done, takes the sandbox down, and records how it ended.
    pub(super) async fn record_exit(
        self: &Arc<Self>,
        turn: &Turn<'_>,
        exit: &ExitRecord,
        state: PodState,
        reason: Option<ExitReason>,
    ) -> Result<PodRecord> {
        let record = turn.record();
        let new = self.new_layers.read().await;
        let root = if exit.sandbox_died || exit.shim_lost {
            Err(Error::new(Code::Runtime, "its sandbox is gone, and with it what was written since the last stop"))
        } else {
            step("save root", self.save_root(turn, &record)).await
        };
        let reason = reason.unwrap_or_else(|| self.explain(&record, exit));
        let code = exit_code(exit, reason);
        let at = exit.at.unwrap_or_else(Timestamp::now);
        let (committed, saved) = turn
            .settle(self, |r| {
                r.state = state;
                r.finished_at = Some(at);
                r.exit_code = Some(code);
                r.exit_reason = Some(reason);
                r.sandbox_pid = None;
                let ran = super::restart::ran(r, at);
                r.restarts.plan(r.spec.restart, code, ran, Timestamp::now());
                match root {
                    Ok(layers) => r.private_layers = layers,
                    Err(e) => r.last_error = Some(format!("rootfs-reset: {}", e.report())),
                }
            })
            .await;
        drop(new);
        self.metrics.exited(reason);
        turn.pod().set_shim(None);
        if let Err(e) = self.publish_forwards().await {
            tracing::warn!(pod = %record.id, error = %e.report(), "close the forwards of a pod that ended");
        }
        // Until the database takes how it ended, that is known to its shim alone.
        if saved {
            step("teardown", teardown::sandbox(self, &record.runtime_id())).await;
            if committed.private_layers != record.private_layers {
                self.release_root(&record).await; // its next sandbox has another
            }
        }
        self.restart_when_due(&committed);
        self.remove_when_over(&committed);
        Ok(committed)
    }

    /// Removes a pod that was made for one run of its command, in the background.
    pub(super) fn remove_when_over(self: &Arc<Self>, record: &PodRecord) {
        let over = record.state == PodState::Stopped && record.restarts.at.is_none() && record.finished_at.is_some();
        let Some(pod) = self.pod(&record.id).filter(|_| over && record.spec.auto_remove) else { return };
        let core = Arc::clone(self);
        tokio::spawn(async move {
            // Who reads what it said gets to the end of it.
            tokio::select! {
                () = pod.unread() => {}
                () = core.shutdown.cancelled() => return,
            }
            core.departed.note(&pod.record());
            // Without force: somebody may have started it again. What fails is tried again at the next start of torpord.
            match core.remove(&pod, false).await {
                Err(e) if !matches!(e.code(), Code::NotFound | Code::WrongState) => {
                    tracing::warn!(pod = %pod.record().id, error = %e.report(), "remove a pod whose command has ended");
                }
                _ => {}
            }
        });
    }

    fn explain(&self, record: &PodRecord, exit: &ExitRecord) -> ExitReason {
        let name = record.runtime_id().to_string();
        let killed = exit.code.is_none() || exit.signal == Some(libc::SIGKILL);
        if killed && self.host.cgroups.oom_killed(&name).unwrap_or(false) {
            return ExitReason::Oom;
        }
        if exit.code.is_none() && exit.signal.is_none() {
            if self.host.cgroups.pids_refused(&name).unwrap_or(false) {
                return ExitReason::Pids;
            }
            return if exit.shim_lost { ExitReason::ShimLost } else { ExitReason::SandboxLost };
        }
        if exit.signal.is_some() { ExitReason::Signaled } else { ExitReason::Exited }
    }
}

/// How pods for one run ended that are not there any more: who started one by its id and followed it asks for that last.
#[derive(Default)]
pub(super) struct Departed(Mutex<VecDeque<(PodId, types::ExitInfo)>>);

impl Departed {
    /// So many are remembered, the newest.
    const MOST: usize = 1024;

    fn note(&self, record: &PodRecord) {
        let (Some(exit_code), Some(reason)) = (record.exit_code, record.exit_reason) else { return };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have been started again since it was noted.
        all.retain(|(id, _)| *id != record.id);
        if all.len() >= Self::MOST {
            all.pop_front();
        }
        all.push_back((record.id.clone(), types::ExitInfo { exit_code, exit_reason: super::view::reason(reason) }));
    }

    /// How the one of that id ended.
    pub(super) fn get(&self, id: &str) -> Option<types::ExitInfo> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|(of, _)| of.as_str() == id).map(|(_, ended)| ended.clone())
    }
}

/// The code that a shell would show: 128+signal for a signal, 137 for what was killed without a word.
fn exit_code(exit: &ExitRecord, reason: ExitReason) -> i32 {
    match (exit.code, exit.signal, reason) {
        (Some(code), _, _) => code,
        (None, Some(signal), _) => 128 + signal,
        (None, None, ExitReason::ShimLost) => 255,
        (None, None, _) => 137,
    }
}

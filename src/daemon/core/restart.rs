//! Commands that end are started again, as their pods' policy says.
//!
//! When a command is to be started again stands in the pod's record, committed with its end. After a crash: a pod that is
//! `stopped` with such a time is started then, and one that was being started because of it comes back to that.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Core;
use super::pod::{Pod, Turn};
use super::trace::Operation;
use crate::model::{PodRecord, PodState, Result};

/// Restarts under way at once.
pub(super) const AT_ONCE: usize = 8;

/// For so long a restart keeps others waiting.
const SLOT: Duration = Duration::from_secs(10);

/// How long a pod's command ran.
pub(super) fn ran(record: &PodRecord, until: Timestamp) -> Duration {
    record.started_at.map_or(Duration::ZERO, |s| Duration::try_from(until.duration_since(s)).unwrap_or_default())
}

impl Core {
    /// Starts the pod again at the time that its record names, if it does.
    pub(super) fn restart_when_due(self: &Arc<Self>, record: &PodRecord) {
        let (Some(at), PodState::Stopped) = (record.restarts.at, record.state) else { return };
        if self.goes_down() {
            return; // when it is back
        }
        let Some(pod) = self.pod(&record.id) else { return };
        let (core, left) = (Arc::clone(self), record.restarts.left(Timestamp::now()));
        tokio::spawn(async move {
            let mut watch = pod.watch();
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                // Somebody started, stopped or removed it meanwhile.
                _ = watch.wait_for(|r| r.restarts.at != Some(at)) => return,
                () = core.shutdown.cancelled() => return,
            }
            let slot = tokio::select! {
                slot = core.restarting.acquire() => slot,
                () = core.shutdown.cancelled() => return,
            };
            let (Ok(slot), Ok(turn)) = (slot, pod.turn_if_there().await) else { return };
            let record = turn.record();
            if record.state != PodState::Stopped || record.restarts.at != Some(at) || core.goes_down() {
                return;
            }
            tracing::info!(pod = %record.id, name = %record.spec.name, count = record.restarts.count + 1, "restart");
            let mut work = std::pin::pin!(core.start_again(&pod, &turn));
            let started = tokio::select! {
                started = &mut work => started,
                // It waits for its application: that is no work.
                () = tokio::time::sleep(SLOT) => {
                    drop(slot);
                    work.await
                }
            };
            if let Err(e) = started {
                tracing::warn!(pod = %record.id, name = %record.spec.name, error = %e.report(), "restart");
            }
        });
    }

    /// A start that nobody asked for. One that fails is tried again as if the command had failed.
    async fn start_again(self: &Arc<Self>, pod: &Arc<Pod>, turn: &Turn<'_>) -> Result<PodRecord> {
        let work = self.begin(pod, turn, |_| (), |r| r.restarts.count += 1);
        let started = self.traced(Operation::Restart, Some(pod), work).await;
        if let Err(e) = &started {
            let text = e.report(); // for want of room, for example: nothing of it is in the record yet
            let (record, _) = turn
                .settle(self, |r| {
                    r.last_error = Some(text);
                    r.restarts.count += 1;
                    r.restarts.plan(r.spec.restart, 1, Duration::ZERO, Timestamp::now());
                })
                .await;
            self.restart_when_due(&record);
        }
        started
    }

    /// After a start of torpord: pods that wait for a restart get it, and those that policy wants to run are started.
    pub(super) async fn restart_after_start(self: &Arc<Self>) {
        if self.shutdown.is_cancelled() {
            return;
        }
        for pod in self.pods() {
            // One that is being stopped has its turn for as long as its command takes.
            if pod.state() != PodState::Stopped {
                continue;
            }
            let turn = pod.turn().await;
            let mut record = turn.record();
            if record.state != PodState::Stopped {
                continue;
            }
            if record.restarts.at.is_none() && record.spec.restart.at_start(&record.restarts) {
                let planned = turn
                    .commit(&self.db, |r| {
                        r.restarts.at = Some(Timestamp::now());
                        r.restarts.stopped = false;
                    })
                    .await;
                match planned {
                    Ok(committed) => record = committed,
                    Err(e) => tracing::error!(pod = %record.id, error = %e.report(), "plan a restart"),
                }
            }
            drop(turn);
            self.restart_when_due(&record);
            self.remove_when_over(&record);
        }
    }

    /// Whoever stops a pod that waits for a restart wants it to stay so.
    pub(super) async fn forget_restart(&self, turn: &Turn<'_>) -> Result<PodRecord> {
        let record = turn.record();
        if record.spec.restart.is_no() || record.restarts.stopped {
            return Ok(record);
        }
        turn.commit(&self.db, |r| {
            r.restarts.at = None;
            r.restarts.stopped = true;
        })
        .await
    }
}

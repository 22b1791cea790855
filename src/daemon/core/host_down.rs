//! The host is shut down and comes back: pods are put to sleep or stopped, as each one's `onShutdown` says, and are woken, or started
//! as policy says, when torpord starts again.
//!
//! What is to come stands in the record, committed with what is done. After a crash or a power loss in the middle a pod whose snapshot
//! is whole is woken, and any other counts as ended by the host.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;

use super::Core;
use super::pod::Pod;
use super::trace::{Operation, step};
use crate::api::types::WakePod;
use crate::api::types::system::BroughtDown;
use crate::host::progress::Progress;
use crate::model::{Code, ExitReason, OnShutdown, PodState, Result};

/// How long a command may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// Pods that are put to sleep at once: each writes all its memory.
const SLEEPS: usize = 4;
/// Pods that are stopped at once: most of it is waiting.
const STOPS: usize = 64;
/// From a wake that failed to the next one; then twice as long, up to the longest.
const AGAIN: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

impl Core {
    /// Whether the host is shut down: nothing is started by itself any more.
    pub fn goes_down(&self) -> bool {
        self.going_down.load(Ordering::Relaxed)
    }

    /// `POST /v1/system/host-down`.
    ///
    /// # Errors
    /// Only if the work itself breaks; what failed of single pods is in the answer.
    pub async fn host_down(self: &Arc<Self>) -> Result<BroughtDown> {
        let core = Arc::clone(self);
        Self::to_the_end(async move {
            core.going_down.store(true, Ordering::Relaxed);
            let (sleepers, others): (Vec<_>, Vec<_>) =
                core.pods().into_iter().partition(|p| p.record().spec.on_shutdown == OnShutdown::Sleep);
            let bring = |pod: Arc<Pod>| {
                let core = Arc::clone(&core);
                async move { (pod.record().spec.name.to_string(), core.bring_down(&pod).await) }
            };
            let asleep = futures::stream::iter(sleepers).map(bring).buffer_unordered(SLEEPS);
            let stopped = futures::stream::iter(others).map(bring).buffer_unordered(STOPS);
            let mut done: Vec<_> = futures::stream::select(asleep, stopped).collect().await;
            done.sort_by(|a, b| a.0.cmp(&b.0));
            let mut all = BroughtDown::default();
            for (name, (now, failure)) in done {
                all.failed.extend(failure.map(|why| format!("{name}: {why}")));
                match now {
                    Some(OnShutdown::Sleep) => all.asleep.push(name),
                    Some(OnShutdown::Stop) => all.stopped.push(name),
                    None => {}
                }
            }
            let (asleep, stopped, failed) = (all.asleep.len(), all.stopped.len(), all.failed.len());
            tracing::info!(asleep, stopped, failed, "pods are ready for the end of the host");
            Ok(all)
        })
        .await
    }

    /// What was done to a pod, if anything, and what failed. One that can't be put to sleep is stopped: its command gets to know.
    async fn bring_down(self: &Arc<Self>, pod: &Arc<Pod>) -> (Option<OnShutdown>, Option<String>) {
        // What is under way comes to its end first.
        let record = pod.turn().await.record();
        if !matches!(record.state, PodState::Running | PodState::Paused) {
            return (None, None);
        }
        let mut failure = None;
        if record.spec.on_shutdown == OnShutdown::Sleep {
            let quiet = Progress::default();
            let work = self.put_to_sleep(pod, true, &quiet);
            match self.traced(Operation::Sleep, Some(pod), work).await {
                Ok(_) => return (Some(OnShutdown::Sleep), None),
                Err(e) if matches!(e.code(), Code::NotFound | Code::WrongState) => return (None, None),
                Err(e) => {
                    tracing::error!(pod = %record.id, name = %record.spec.name, error = %e.report(), "put to sleep for a shutdown");
                    failure = Some(e.report());
                }
            }
        }
        match self.traced(Operation::Stop, Some(pod), self.stop_with_host(pod)).await {
            Ok(done) => (done.then_some(OnShutdown::Stop), failure),
            Err(e) if e.code() == Code::NotFound => (None, failure),
            Err(e) => (None, Some(failure.map_or_else(|| e.report(), |f| format!("{f}; {}", e.report())))),
        }
    }

    /// Stops a pod, not as somebody who does not want it back.
    async fn stop_with_host(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<bool> {
        let turn = pod.turn_if_there().await?;
        let record = turn.record();
        match record.state {
            PodState::Running => {}
            PodState::Paused => self.thaw(&turn).await?, // a signal would wait for ever
            _ => return Ok(false),
        }
        turn.commit(&self.db, |r| r.state = PodState::Stopping).await?;
        let exit = step("command", self.end_command(pod, &record, None, GRACE)).await;
        let ended = self.record_exit(&turn, &exit, PodState::Stopped, Some(ExitReason::HostRestarted)).await?;
        // It may have ended well because it was asked to: to its policy that is the host's doing all the same.
        if ended.restarts.at.is_none() && ended.restarts.pause(ended.spec.restart, 1, Duration::ZERO).is_some() {
            turn.settle(self, |r| r.restarts.plan(r.spec.restart, 1, Duration::ZERO, Timestamp::now())).await;
        }
        Ok(true)
    }

    /// Wakes, in the background, the pods that sleep because the host was shut down.
    pub(super) fn wake_after_start(self: &Arc<Self>) {
        if self.shutdown.is_cancelled() {
            return;
        }
        for pod in self.pods() {
            if Self::waits_to_wake(&pod) {
                tokio::spawn(Arc::clone(self).wake_again(pod));
            }
        }
    }

    fn waits_to_wake(pod: &Pod) -> bool {
        let record = pod.record();
        record.wake_at_start && record.state == PodState::Sleeping
    }

    /// The store may be reached later than torpord starts: it is tried again until somebody does something else with the pod.
    async fn wake_again(self: Arc<Self>, pod: Arc<Pod>) {
        let mut pause = AGAIN;
        loop {
            let slot = tokio::select! {
                slot = self.restarting.acquire() => slot,
                () = self.shutdown.cancelled() => return,
            };
            if !Self::waits_to_wake(&pod) || self.goes_down() {
                return;
            }
            let (how, quiet) = (WakePod::default(), Progress::default());
            let woken = self.traced(Operation::Wake, Some(&pod), self.wake(&pod, &how, &quiet)).await;
            drop(slot);
            let Err(e) = woken else { return };
            let record = pod.record();
            tracing::warn!(pod = %record.id, name = %record.spec.name, error = %e.report(), "wake after a start of the host");
            if matches!(e.code(), Code::NotFound | Code::SecretsMissing) {
                return; // time does not mend it
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.cancelled() => return,
            }
            pause = pause.saturating_mul(2).min(LONGEST);
        }
    }
}

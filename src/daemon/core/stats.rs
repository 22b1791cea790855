//! What pods use, read from the kernel's own counters: no program is run for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::Stream;
use jiff::Timestamp;

use super::Core;
use super::pod::{Pod, wrong_state};
use crate::api::types;
use crate::host::cgroup::Usage;
use crate::host::files;
use crate::model::{PodRecord, PodState, Result};

/// The span over which the first percentage is taken. Nothing tells of it but time.
const LOOK: Duration = Duration::from_millis(200);
/// From one line of a stream to the next.
const EVERY: Duration = Duration::from_secs(1);

/// A look at a sandbox's processor time.
#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    cpu_ns: u64,
}

impl Core {
    /// `GET /v1/pods/{pod}/stats`.
    ///
    /// # Errors
    /// [`crate::model::Code::WrongState`]: it has no sandbox.
    pub async fn pod_stats(&self, reference: &str) -> Result<types::Stats> {
        let pod = self.find(reference)?;
        let record = alive(&pod)?;
        let before = self.look(&record).await?.0;
        tokio::time::sleep(LOOK).await;
        Ok(self.stats(&alive(&pod)?, before).await?.0)
    }

    /// As [`Core::pod_stats`], every second until the sandbox ends.
    ///
    /// # Errors
    /// [`crate::model::Code::WrongState`]: it has no sandbox.
    pub fn pod_stats_stream(
        self: &Arc<Self>,
        reference: &str,
    ) -> Result<impl Stream<Item = types::Stats> + Send + use<>> {
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        let incarnation = alive(&pod)?.incarnation;
        Ok(futures::stream::unfold((core, pod, None::<Look>, LOOK), move |(core, pod, last, pause)| async move {
            let before = match last {
                Some(look) => look,
                None => core.look(&alive(&pod).ok()?).await.ok()?.0,
            };
            let mut watch = pod.watch();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = watch.wait_for(|r| !has_sandbox(r) || r.incarnation != incarnation) => return None,
                () = core.shutdown.cancelled() => return None,
            }
            // One that ends meanwhile has nothing to be read any more.
            let (stats, look) = core.stats(&alive(&pod).ok()?, before).await.ok()?;
            Some((stats, (core, pod, Some(look), EVERY)))
        }))
    }

    async fn look(&self, record: &PodRecord) -> Result<(Look, Usage)> {
        let usage = self.host.cgroups.usage(&record.runtime_id().to_string()).await?;
        Ok((Look { at: Instant::now(), cpu_ns: usage.cpu_ns }, usage))
    }

    async fn stats(&self, record: &PodRecord, before: Look) -> Result<(types::Stats, Look)> {
        let (now, usage) = self.look(record).await?;
        let network = self.host.network.counters(&self.pod_net(record)).await?;
        // The engine takes its name away as soon as it has it open.
        let disk = match record.sandbox_pid {
            Some(pid) => files::held_bytes(pid, &self.dirs.upper(&record.runtime_id()))?,
            None => 0,
        };
        let limits = record.spec.resources;
        let stats = types::Stats {
            pod: record.id.to_string(),
            name: record.spec.name.to_string(),
            at: Timestamp::now().to_string(),
            cpu_percent: percent(now.cpu_ns.saturating_sub(before.cpu_ns), now.at.duration_since(before.at)),
            cpu_ns: usage.cpu_ns,
            cpus: f64::from(limits.cpu_millis) / 1000.0,
            memory: usage.memory.saturating_sub(usage.cache),
            memory_limit: limits.memory,
            pids: usage.pids,
            pids_limit: limits.pids,
            network: types::NetworkStats {
                rx_bytes: network.rx_bytes,
                rx_packets: network.rx_packets,
                tx_bytes: network.tx_bytes,
                tx_packets: network.tx_packets,
            },
            disk,
            disk_limit: limits.disk,
        };
        Ok((stats, now))
    }
}

fn has_sandbox(record: &PodRecord) -> bool {
    matches!(record.state, PodState::Running | PodState::Paused)
}

/// The record of a pod that has a sandbox.
fn alive(pod: &Pod) -> Result<PodRecord> {
    let record = pod.record();
    if has_sandbox(&record) { Ok(record) } else { Err(wrong_state(&record, "tell what it uses")) }
}

/// Of one processor, to a hundredth.
fn percent(cpu_ns: u64, span: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a share of seconds")]
    let share = cpu_ns as f64 / (span.as_nanos().max(1) as f64);
    (share * 10_000.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_of_one_processor() {
        let second = Duration::from_secs(1);
        assert_eq!((percent(0, second), percent(500_000_000, second)), (0.0, 50.0));
        assert_eq!(percent(3_000_000_000, 2 * second), 150.0);
        assert!(percent(1, Duration::ZERO).is_finite());
    }
}

//! Forwards: host ports held for pods, and given and taken while a pod runs or rests.
//!
//! The record first, then the firewall's table; a host port is let go only when nothing leads from it any more. After a crash
//! between the two the table is set to what the records say.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Core;
use super::pod::{Pod, wrong_state};
use super::view;
use crate::api::types;
use crate::model::{Code, Error, Forward, PodRecord, PodState, PortRequest, Protocol, Result};
use crate::plan::admission;

impl Core {
    /// `GET /v1/pods/{pod}/ports`.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn list_ports(&self, reference: &str) -> Result<Vec<types::PortInfo>> {
        Ok(self.find(reference)?.record().forwards.iter().map(view::forward).collect())
    }

    /// `POST /v1/pods/{pod}/ports`.
    ///
    /// # Errors
    /// See the API's document; nothing has changed then.
    pub async fn add_port(self: &Arc<Self>, reference: &str, request: types::PortPair) -> Result<types::PortInfo> {
        let asked = self.port(&request)?;
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        Self::to_the_end(async move { core.forward(&pod, asked).await.map(|f| view::forward(&f)) }).await
    }

    /// `DELETE /v1/pods/{pod}/ports/{host}`.
    ///
    /// # Errors
    /// [`Code::NotFound`]: the pod has no such forward.
    pub async fn remove_port(self: &Arc<Self>, reference: &str, host: u16, protocol: Protocol) -> Result<()> {
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        Self::to_the_end(async move { core.unforward(&pod, host, protocol).await }).await
    }

    async fn forward(self: &Arc<Self>, pod: &Arc<Pod>, asked: PortRequest) -> Result<Forward> {
        let turn = pod.turn_if_there().await?;
        let before = turn.record();
        if matches!(before.state, PodState::Creating | PodState::Deleting) {
            return Err(wrong_state(&before, "forward a port to it"));
        }
        let mut spec = before.spec.clone();
        spec.ports.push(asked);
        admission::check(&spec)?;
        let _leases = self.leases.lock().await;
        let [given] = self.reserve_ports(&[asked], &self.records())?[..] else {
            return Err(Error::internal("one forward was asked for"));
        };
        let change = |r: &mut PodRecord| {
            r.forwards.push(given);
            r.spec = spec;
        };
        if let Err(e) = turn.commit(&self.db, change).await {
            self.host.ports.release(given.host, given.protocol);
            return Err(e);
        }
        if let Err(e) = self.publish_forwards().await {
            turn.settle(self, |r| (r.forwards, r.spec) = (before.forwards, before.spec)).await;
            self.republish(&before.id).await;
            self.host.ports.release(given.host, given.protocol);
            return Err(e);
        }
        Ok(given)
    }

    async fn unforward(self: &Arc<Self>, pod: &Arc<Pod>, host: u16, protocol: Protocol) -> Result<()> {
        let turn = pod.turn_if_there().await?;
        let before = turn.record();
        let Some(at) = before.forwards.iter().position(|f| (f.host, f.protocol) == (host, protocol)) else {
            let text = format!("pod {} has no forward of host port {host}/{protocol}", before.spec.name);
            return Err(Error::new(Code::NotFound, text).hint("`torpor port POD` lists them"));
        };
        let _leases = self.leases.lock().await;
        // What was asked for and what was given stand in the same order.
        let paired = before.spec.ports.len() == before.forwards.len();
        turn.commit(&self.db, |r| {
            r.forwards.remove(at);
            if paired {
                r.spec.ports.remove(at);
            }
        })
        .await?;
        if let Err(e) = self.publish_forwards().await {
            turn.settle(self, |r| (r.forwards, r.spec) = (before.forwards, before.spec)).await;
            self.republish(&before.id).await;
            return Err(e);
        }
        self.host.ports.release(host, protocol);
        Ok(())
    }

    /// After a change that failed and was taken back: the table is what the records say, as far as that can be had.
    async fn republish(&self, pod: &crate::model::PodId) {
        if let Err(e) = self.publish_forwards().await {
            tracing::warn!(%pod, error = %e.report(), "set the forwards back");
        }
    }

    /// Holds a real socket on each host port asked for; on failure none of them is held.
    pub(super) fn reserve_ports(&self, asked: &[PortRequest], records: &[PodRecord]) -> Result<Vec<Forward>> {
        let mut taken: BTreeSet<(u16, Protocol)> =
            records.iter().flat_map(|r| r.forwards.iter().map(|f| (f.host, f.protocol))).collect();
        let mut held: Vec<Forward> = Vec::new();
        let all = (|| {
            // Those asked for by number first, so that the pool never takes one of them.
            let mut wanted: Vec<_> = asked.iter().enumerate().collect();
            wanted.sort_by_key(|(_, p)| p.host.is_none());
            let mut given = vec![None; wanted.len()];
            for (at, port) in wanted {
                let PortRequest { pod, host, protocol, address } = *port;
                let host = match host {
                    Some(host) if taken.contains(&(host, protocol)) => {
                        let text = format!("host port {host}/{protocol} is taken by another forward");
                        return Err(Error::new(Code::PortTaken, text)
                            .hint("ask for another port, or for none to get one of the pool"));
                    }
                    Some(host) => {
                        self.host.ports.reserve(host, protocol, address)?;
                        host
                    }
                    None => {
                        let range = self.config().port_range;
                        self.host.ports.reserve_any(range.first..=range.last, protocol, address, &taken)?
                    }
                };
                taken.insert((host, protocol));
                let forward = Forward { pod, host, protocol, address };
                held.push(forward);
                given[at] = Some(forward);
            }
            Ok(given.into_iter().flatten().collect())
        })();
        if all.is_err() {
            for f in &held {
                self.host.ports.release(f.host, f.protocol);
            }
        }
        all
    }
}

//! A pod's name, labels, limits and policy, changed while it runs or rests.
//!
//! The record first, the cgroup then. After a crash between the two the cgroup is set to what the record says.

use std::sync::Arc;

use super::pod::{Pod, Turn};
use super::{Core, admit};
use crate::api::types;
use crate::model::{Code, Error, PodName, PodRecord, PodSpec, PodState, Result};
use crate::plan::admission;
use crate::plan::limits::Limits;

impl Core {
    /// `POST /v1/pods/{pod}/rename`.
    ///
    /// # Errors
    /// [`Code::NameTaken`], [`Code::InvalidRequest`].
    pub async fn rename_pod(self: &Arc<Self>, reference: &str, request: types::RenamePod) -> Result<types::Pod> {
        let name: PodName = request.name.parse()?;
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        Self::to_the_end(async move { core.rename(&pod, name).await.map(|r| core.show_pod(&r)) }).await
    }

    /// `PATCH /v1/pods/{pod}`.
    ///
    /// # Errors
    /// See the API's document; nothing has changed then.
    pub async fn update_pod(self: &Arc<Self>, reference: &str, request: types::UpdatePod) -> Result<types::Pod> {
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        Self::to_the_end(async move { core.update(&pod, &request).await.map(|r| core.show_pod(&r)) }).await
    }

    async fn rename(&self, pod: &Arc<Pod>, name: PodName) -> Result<PodRecord> {
        let turn = pod.turn_if_there().await?;
        let record = settled(&turn, "rename it")?;
        if record.spec.name == name {
            return Ok(record);
        }
        // Names are given under it.
        let _leases = self.leases.lock().await;
        self.refuse_taken(&name)?;
        let hostname = super::boot::hostname(&record);
        turn.commit(&self.db, |r| {
            // What runs knows its host by the old name.
            r.spec.hostname = Some(hostname);
            r.spec.name = name;
        })
        .await
    }

    async fn update(self: &Arc<Self>, pod: &Arc<Pod>, request: &types::UpdatePod) -> Result<PodRecord> {
        let turn = pod.turn_if_there().await?;
        let record = settled(&turn, "update it")?;
        let before = record.spec.clone();
        let spec = changed(before.clone(), request)?;
        admission::check(&spec)?;
        let (old, new) = (Limits::of(&before.resources), Limits::of(&spec.resources));
        let name = record.runtime_id().to_string();
        // Held until the record has it.
        let _room = record.state.may_have_sandbox().then(|| self.room(&record.id, &spec, "update")).transpose()?;
        let live = old != new && matches!(record.state, PodState::Running | PodState::Paused);
        if live && new.memory < old.memory {
            let usage = self.host.cgroups.usage(&name).await?;
            let used = usage.memory.saturating_sub(usage.cache);
            if used > new.memory {
                let what = format!("pod {} uses {used} bytes of memory: {} are too few", record.spec.name, new.memory);
                return Err(Error::new(Code::InUse, what).hint("give it more, or stop it first"));
            }
        }
        let committed = turn
            .commit(&self.db, |r| {
                r.spec = spec;
                if r.spec.restart.is_no() {
                    r.restarts.at = None;
                }
            })
            .await?;
        if live && let Err(e) = self.host.cgroups.limit(&name, &new).await {
            turn.settle(self, |r| r.spec = before).await;
            if let Err(e) = self.host.cgroups.limit(&name, &old).await {
                tracing::warn!(pod = %record.id, error = %e.report(), "set the limits back");
            }
            return Err(e);
        }
        Ok(committed)
    }

    /// Sets the cgroup to what the record says.
    pub(super) async fn limit_as_recorded(&self, record: &PodRecord) {
        let limits = Limits::of(&record.spec.resources);
        if let Err(e) = self.host.cgroups.limit(&record.runtime_id().to_string(), &limits).await {
            tracing::warn!(pod = %record.id, error = %e.report(), "set its limits");
        }
    }
}

/// The record of a pod that is neither half made nor half gone.
fn settled(turn: &Turn<'_>, to: &str) -> Result<PodRecord> {
    let record = turn.record();
    match record.state {
        PodState::Creating | PodState::Deleting => Err(super::pod::wrong_state(&record, to)),
        _ => Ok(record),
    }
}

fn changed(mut spec: PodSpec, request: &types::UpdatePod) -> Result<PodSpec> {
    for (name, value) in &request.labels {
        match value {
            Some(value) => drop(spec.labels.insert(name.clone(), value.clone())),
            None => drop(spec.labels.remove(name)),
        }
    }
    if let Some(cpus) = request.cpus {
        spec.resources.cpu_millis = crate::config::cpu_millis(cpus)?;
    }
    if let Some(memory) = &request.memory {
        spec.resources.memory = admit::bytes(memory)?;
    }
    if let Some(pids) = request.pids {
        spec.resources.pids = pids;
    }
    if let Some(policy) = &request.restart {
        spec.restart = policy.parse()?;
    }
    if let Some(what) = &request.on_shutdown {
        spec.on_shutdown = what.parse()?;
    }
    Ok(spec)
}

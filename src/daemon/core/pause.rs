//! Pods that stand still in memory.
//!
//! `paused` is committed before the sandbox is frozen, and `running` after it was thawed. After a crash a pod that is `paused` is
//! frozen again if it is not: what was acknowledged holds, and of what was not there is nothing to be seen.

use std::sync::Arc;

use super::Core;
use super::pod::{Pod, Turn};
use crate::api::types;
use crate::host::runtime::RuntimeState;
use crate::model::{PodRecord, PodState, Result};

impl Core {
    /// `POST /v1/pods/{pod}/pause`.
    ///
    /// # Errors
    /// [`crate::model::Code::WrongState`]; [`crate::model::Code::Runtime`]: it goes on.
    pub async fn pause_pod(self: &Arc<Self>, reference: &str) -> Result<types::Pod> {
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        Self::to_the_end(async move { core.pause(&pod).await.map(|r| core.show_pod(&r)) }).await
    }

    /// `POST /v1/pods/{pod}/resume`.
    ///
    /// # Errors
    /// [`crate::model::Code::WrongState`]; [`crate::model::Code::Runtime`]: it stays paused.
    pub async fn resume_pod(self: &Arc<Self>, reference: &str) -> Result<types::Pod> {
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        Self::to_the_end(async move { core.resume(&pod).await.map(|r| core.show_pod(&r)) }).await
    }

    async fn pause(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<PodRecord> {
        let turn = pod.turn_if_there().await?;
        let record = turn.record();
        if record.state == PodState::Paused {
            return Ok(record);
        }
        turn.require(&[PodState::Running], "pause it")?;
        self.freeze(&turn).await
    }

    /// A running pod stands still. On failure it goes on.
    pub(super) async fn freeze(self: &Arc<Self>, turn: &Turn<'_>) -> Result<PodRecord> {
        let (engine, plan) = self.engine_and_plan(&turn.record())?;
        let committed = turn.commit(&self.db, |r| r.state = PodState::Paused).await?;
        if let Err(e) = self.host.runtime.pause(&engine, &plan).await {
            self.go_on(turn, &engine, &plan).await;
            turn.settle(self, |r| r.state = PodState::Running).await;
            return Err(e);
        }
        Ok(committed)
    }

    async fn resume(&self, pod: &Arc<Pod>) -> Result<PodRecord> {
        let turn = pod.turn_if_there().await?;
        let record = turn.record();
        if record.state == PodState::Running {
            return Ok(record);
        }
        turn.require(&[PodState::Paused], "resume it")?;
        self.thaw(&turn).await?;
        match turn.commit(&self.db, |r| r.state = PodState::Running).await {
            Ok(record) => Ok(record),
            Err(e) => {
                self.stand_still(&record).await;
                Err(e)
            }
        }
    }

    /// What runs in a paused pod goes on; its record is the caller's to change.
    pub(super) async fn thaw(&self, turn: &Turn<'_>) -> Result<()> {
        let (engine, plan) = self.engine_and_plan(&turn.record())?;
        self.resume_sandbox(&engine, &plan).await
    }

    /// Freezes the sandbox of a pod that is recorded as paused, unless it is frozen.
    pub(super) async fn stand_still(&self, record: &PodRecord) {
        let frozen = async {
            let (engine, plan) = self.engine_and_plan(record)?;
            let state = self.host.runtime.state(&engine, &plan.id).await?;
            if state.as_ref().is_some_and(RuntimeState::paused) {
                return Ok(());
            }
            self.host.runtime.pause(&engine, &plan).await
        };
        if let Err(e) = frozen.await {
            tracing::warn!(pod = %record.id, error = %e.report(), "pause a pod again");
        }
    }
}

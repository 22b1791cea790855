//! Pods made ahead of need: given to whoever asks, or removed while they are nobody's.
//!
//! A pod is nobody's as long as it has a certain label. It is given away by one commit: after a crash it is somebody's or not.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Core;
use super::pod::{Pod, Turn};
use crate::api::types;
use crate::model::{Code, Error, PodName, PodState, Result};

/// Refuses unless the pod has the label.
fn require_label(turn: &Turn<'_>, label: &str) -> Result<()> {
    let record = turn.record();
    if record.spec.labels.contains_key(label) {
        return Ok(());
    }
    Err(Error::new(Code::NotFound, format!("pod {} is somebody's by now", record.id)))
}

impl Core {
    /// Gives a running pod that has `label` a name and other labels instead.
    ///
    /// # Errors
    /// [`Code::NameTaken`]; [`Code::WrongState`]: it does not run; [`Code::NotFound`]: it is gone, or somebody's.
    pub async fn assign_pod(
        self: &Arc<Self>,
        reference: &str,
        label: &'static str,
        name: &PodName,
        labels: &BTreeMap<String, String>,
    ) -> Result<types::Pod> {
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        let (name, labels) = (name.clone(), labels.clone());
        Self::to_the_end(async move { core.assign(&pod, label, name, labels).await }).await
    }

    async fn assign(
        &self,
        pod: &Arc<Pod>,
        label: &str,
        name: PodName,
        labels: BTreeMap<String, String>,
    ) -> Result<types::Pod> {
        let turn = pod.turn_if_there().await?;
        let record = turn.require(&[PodState::Running], "give it away")?;
        require_label(&turn, label)?;
        // Names are given under it.
        let _leases = self.leases.lock().await;
        self.refuse_taken(&name)?;
        let hostname = super::boot::hostname(&record);
        let given = turn
            .commit(&self.db, |r| {
                // What runs knows its host by the old name.
                r.spec.hostname = Some(hostname);
                r.spec.name = name;
                r.spec.labels = labels;
            })
            .await?;
        Ok(self.show_pod(&given))
    }

    /// Removes a pod that has `label`, whatever it does.
    ///
    /// # Errors
    /// [`Code::NotFound`]: it is gone, or somebody's.
    pub async fn delete_labelled(self: &Arc<Self>, reference: &str, label: &'static str) -> Result<()> {
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        Self::to_the_end(async move {
            let turn = pod.turn_if_there().await?;
            require_label(&turn, label)?;
            core.erase(&turn).await
        })
        .await
    }
}

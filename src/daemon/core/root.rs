//! What a pod's root holds beyond its image: saved when its command has ended, as layers of its own.
//!
//! After a crash: the layer is in the layer store or it is not; if no record names it, it is removed as unused.

use std::path::PathBuf;

use super::Core;
use super::pod::Turn;
use crate::host::files;
use crate::model::{Attempt, Code, Digest, PodRecord, Result};

/// Private layers of a pod before they are made one: overlayfs takes only so many, and each costs every look-up.
const MOST_PRIVATE: usize = 8;

impl Core {
    /// Saves what a sandbox's root holds beyond its layers, if its engine can and its command has just ended. Gives the
    /// pod's private layers as they are then. Nothing may remove layers meanwhile.
    ///
    /// # Errors
    /// It could not be saved: the root goes back to what it was at the last stop.
    pub(super) async fn save_root(&self, turn: &Turn<'_>, record: &PodRecord) -> Result<Vec<Digest>> {
        let mut layers = record.private_layers.clone();
        if turn.pod().shim().is_err() {
            return Ok(layers);
        }
        let (engine, plan) = self.engine_and_plan(record)?;
        let file: PathBuf = self.dirs.tmp().join(format!("upper-{}.tar", record.runtime_id()));
        let mut written = self.host.runtime.save_upper(&engine, &plan, &file).await;
        if let Err(e) = &written {
            tracing::warn!(pod = %record.id, error = %e.report(), "save its root: once more");
            written = self.host.runtime.save_upper(&engine, &plan, &file).await;
        }
        if !matches!(written, Ok(true)) {
            let _ = files::remove_tree(&file).await;
            return written.map(|_| layers);
        }
        let layer = self.host.layers.save_upper(&file).await;
        let _ = files::remove_tree(&file).await;
        let layer = layer.attempt(Code::Internal, || format!("save the root of pod {}", record.spec.name))?;
        layers.extend(layer.map(|l| l.digest));
        if layers.len() <= MOST_PRIVATE {
            return Ok(layers);
        }
        match self.host.layers.merge(&layers, &record.layers).await {
            Ok(one) => Ok(vec![one.digest]),
            // They are whole as they are; the next stop tries again.
            Err(e) => {
                tracing::warn!(pod = %record.id, error = %e.report(), "make one of the pod's layers");
                Ok(layers)
            }
        }
    }
}

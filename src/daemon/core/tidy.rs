//! What a kill between two removals leaves in the cache and the store: found by the raw image, which goes last.
//!
//! In the background, so that no store makes a start slow. What can't be asked is kept.

use std::sync::Arc;

use super::Core;
use crate::model::{PodRecord, Result};

impl Core {
    /// Removes raw images, and what the store still has, of snapshots that are gone.
    pub async fn drop_orphaned_images(self: Arc<Self>) {
        let work = async {
            for id in self.host.cache.idle() {
                let named = |r: &PodRecord| r.snapshot.as_ref() == Some(&id) || r.pending.as_ref() == Some(&id);
                if !self.records().iter().any(named) && !self.host.store.has_snapshot(&id).await? {
                    self.drop_snapshot(&id).await;
                }
            }
            Ok::<_, crate::model::Error>(())
        };
        let done: Result<()> = tokio::select! {
            done = work => done,
            () = self.shutdown.cancelled() => return,
        };
        if let Err(e) = done {
            tracing::warn!(error = %e.report(), "look for raw images without a snapshot");
        }
    }
}

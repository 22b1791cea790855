//! The one way down. Failure, user and recovery all come here. Every step is taken even if the one before failed;
//! each of them is done already if it finds nothing.

use std::sync::Arc;

use super::Core;
use crate::host::files;
use crate::host::network::PodNet;
use crate::model::{Result, RuntimeId};

/// Removes all that may exist of one sandbox. What could not be removed is logged and found again by recovery.
pub(super) async fn sandbox(core: &Arc<Core>, id: &RuntimeId) {
    for (what, result) in steps(core, id).await {
        if let Err(e) = result {
            tracing::warn!(sandbox = %id, step = what, error = %e.report(), "teardown goes on");
        }
    }
}

async fn steps(core: &Arc<Core>, id: &RuntimeId) -> Vec<(&'static str, Result<()>)> {
    let name = id.to_string();
    let network = PodNet::of_names(id);
    let mut done: Vec<(&'static str, Result<()>)> = Vec::new();
    done.push(("delete the sandbox", core.delete_sandbox(id).await));
    let ended = core.end_shim(id).await;
    let shim_lives = ended.is_err();
    done.push(("end the shim", ended));
    let (cgroup, gone) = tokio::join!(core.host.cgroups.remove(&name), core.host.network.detach(&network));
    done.push(("remove the cgroup", cgroup));
    done.push(("remove the network", gone));
    let (dir, upper) = (core.dirs.sandbox(id), core.dirs.upper(id));
    // A shim is reached by its directory alone: while it may live, that stays, and recovery finds both by its name.
    if !shim_lives {
        done.push(("remove the bundle", files::remove_tree(&dir).await));
    }
    done.push(("remove the writable layer", files::remove_tree(&upper).await));
    done
}

impl Core {
    /// Deletes the sandbox from the engine that made it. An unknown engine or sandbox: nothing to delete.
    async fn delete_sandbox(&self, id: &RuntimeId) -> Result<()> {
        let engine = match self.find_record(id).map(|r| r.engine).or_else(|| self.engine.clone()) {
            Some(digest) => self.host.engines.get(&digest)?,
            None => return Ok(()),
        };
        self.host.runtime.delete(&engine, &id.to_string()).await
    }

    async fn end_shim(&self, id: &RuntimeId) -> Result<()> {
        let plan = crate::host::shim::ShimPlan {
            dir: self.dirs.sandbox(id),
            log_dir: self.dirs.log(&id.pod),
            log_max_bytes: self.config().log_max_bytes,
            log_files: self.config().log_files,
        };
        match self.host.shims.connect(&plan).await? {
            Some(shim) => shim.end().await,
            None => Ok(()),
        }
    }

    fn find_record(&self, id: &RuntimeId) -> Option<crate::model::PodRecord> {
        self.records().into_iter().find(|r| r.id == id.pod)
    }
}

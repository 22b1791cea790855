//! Where one instance keeps its things.

use std::path::{Path, PathBuf};

use crate::model::{InstanceTag, PodId, RuntimeId, SnapshotId};

/// The directories of one instance.
#[derive(Debug, Clone)]
pub struct Dirs {
    state: PathBuf,
    run: PathBuf,
}

impl Dirs {
    /// State below `state`, run-time files below `/run/torpor/<tag>`.
    pub fn new(state: &Path, tag: &InstanceTag) -> Self {
        Self::at(state, &Path::new("/run/torpor").join(tag.as_str()))
    }
    /// State and run-time files below those directories.
    pub fn at(state: &Path, run: &Path) -> Self {
        Dirs { state: state.to_owned(), run: run.to_owned() }
    }
    /// The state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }
    /// The run directory: gone after a reboot.
    pub fn run(&self) -> &Path {
        &self.run
    }
    /// Programs of its own: must be executable by others.
    pub fn bin(&self) -> PathBuf {
        self.state.join("bin")
    }
    /// Removes what of the run directory is empty: for a start that came to nothing.
    pub fn remove_if_unused(&self) {
        for dir in [self.sandboxes(), self.runtime_root(), self.run.join("netns"), self.run.clone()] {
            // What is in use is not empty, and stays.
            let _ = std::fs::remove_dir(dir);
        }
    }
    /// runsc's `--root`.
    pub fn runtime_root(&self) -> PathBuf {
        self.run.join("r")
    }
    /// Bundle, FIFOs and sockets of one sandbox.
    pub fn sandbox(&self, id: &RuntimeId) -> PathBuf {
        self.run.join("pods").join(id.to_string())
    }
    /// A sandbox's network namespace.
    pub fn netns(&self, id: &RuntimeId) -> PathBuf {
        self.run.join("netns").join(id.to_string())
    }
    /// All sandboxes' directories.
    pub fn sandboxes(&self) -> PathBuf {
        self.run.join("pods")
    }
    /// What is durable about one pod besides its record: logs and writable layers.
    pub fn pod(&self, id: &PodId) -> PathBuf {
        self.state.join("pods").join(id.as_str())
    }
    /// All pods' durable directories.
    pub fn pods(&self) -> PathBuf {
        self.state.join("pods")
    }
    /// A pod's log files.
    pub fn log(&self, id: &PodId) -> PathBuf {
        self.pod(id).join("log")
    }
    /// Backing files of one sandbox's writable layer.
    pub fn upper(&self, id: &RuntimeId) -> PathBuf {
        self.pod(&id.pod).join(format!("upper-{}", id.incarnation))
    }
    /// Where a checkpoint is written before it moves into the cache.
    pub fn checkpoint(&self, id: &SnapshotId) -> PathBuf {
        self.state.join("tmp").join(format!("checkpoint-{id}"))
    }
    /// Where the nth fetch of a process puts a snapshot's files before they move into the cache.
    pub fn fetched(&self, id: &SnapshotId, n: u64) -> PathBuf {
        self.state.join("tmp").join(format!("fetched-{id}-{n}"))
    }
    /// Where volumes are mounted while a sandbox is made of them.
    pub fn mounted_volumes(&self) -> PathBuf {
        self.run.join("volumes")
    }
    /// Values of pods' secrets, in memory.
    pub fn secrets(&self) -> PathBuf {
        self.run.join("secrets")
    }
    /// Named volumes.
    pub fn volumes(&self) -> PathBuf {
        self.state.join("volumes")
    }
    /// Things half made: emptied at start.
    pub fn tmp(&self) -> PathBuf {
        self.state.join("tmp")
    }
}

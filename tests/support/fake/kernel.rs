//! What a host keeps while no torpord lives.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use object_store::memory::InMemory;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use torpor::channel::control::ExitRecord;
use torpor::model::Digest;
use torpor::plan::firewall::ForwardTo;

/// How a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Created,
    Running,
    Paused,
    /// Its process is gone, its record is not.
    Stopped,
}

/// What a sandbox has in its memory, and a checkpoint in its files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Key of the root on which it was made.
    pub root: String,
    /// The command, once it was launched.
    pub command: Option<Vec<String>>,
    /// Its name.
    pub hostname: String,
    /// What programs counted.
    pub count: u64,
    /// Whether something was written to its root.
    pub dirty: bool,
    /// How the command ended.
    pub exit: Option<ExitRecord>,
    /// Whether init is quiet for a checkpoint.
    pub quiet: bool,
    /// What stands in /run/secrets.
    #[serde(default)]
    pub secrets: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, Clone)]
pub struct Sandbox {
    pub pid: u32,
    pub status: Status,
    pub netns: PathBuf,
    pub root: PathBuf,
    pub memory: Memory,
}

/// A live shim. What it keeps in files is in its sandbox's run directory.
#[derive(Debug, Clone)]
pub struct ShimProcess {
    pub pid: u32,
    pub launched: bool,
    /// Signals that wait until the pod may hear them.
    pub later: Vec<i32>,
    /// Whether it holds back what it has to say.
    pub quiet: bool,
}

/// A pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Whether its link has its address.
    pub addressed: bool,
}

/// All of it. Names are those of sandboxes.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub sandboxes: BTreeMap<String, Sandbox>,
    pub shims: BTreeMap<String, ShimProcess>,
    pub cgroups: BTreeSet<String>,
    pub router: bool,
    pub netns: BTreeMap<String, Namespace>,
    pub forwards: BTreeSet<ForwardTo>,
    pub roots: BTreeMap<String, Vec<Digest>>,
    pub last_pid: u32,
}

impl State {
    pub fn pid(&mut self) -> u32 {
        self.last_pid += 1;
        1000 + self.last_pid
    }

    /// Whether nothing is left but what all pods share.
    pub fn is_bare(&self) -> bool {
        self.sandboxes.is_empty()
            && self.shims.is_empty()
            && self.cgroups.is_empty()
            && self.netns.is_empty()
            && self.forwards.is_empty()
            && self.roots.is_empty()
    }
}

/// The kernel, the processes and the bucket.
pub struct Kernel {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    pub bucket: InMemory,
}

impl Kernel {
    pub fn new() -> Arc<Self> {
        Self::of(State::default(), InMemory::new())
    }

    fn of(state: State, bucket: InMemory) -> Arc<Self> {
        Arc::new(Kernel { state: Mutex::new(state), changed: watch::Sender::new(0), bucket })
    }

    /// A second host that is as this one is now.
    pub fn fork(&self) -> Arc<Self> {
        Self::of(self.look().clone(), self.bucket.fork())
    }

    /// The host is started anew: all but the bucket is gone.
    pub fn reboot(&self) {
        *self.state.lock().unwrap() = State::default();
    }

    /// Looks without changing.
    pub fn look(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes it; whoever waits for something looks again.
    pub fn change<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let done = work(&mut self.state.lock().unwrap());
        self.changed.send_modify(|n| *n += 1);
        done
    }

    /// As [`Kernel::change`], for what can't fail.
    pub fn set(&self, work: impl FnOnce(&mut State)) -> torpor::model::Result<()> {
        self.change(work);
        Ok(())
    }

    /// Waits until `found` gives something.
    pub async fn wait<T>(&self, mut found: impl FnMut(&State) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(value) = found(&self.state.lock().unwrap()) {
                return value;
            }
            let _ = changed.changed().await;
        }
    }
}

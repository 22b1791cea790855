//! A pod's state and durable record.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Digest, Error, PodId, PodSpec, Restarts, Result, SnapshotId};

/// Transport of a forward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The name, as the API and the firewall have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            other => {
                let shown: String = other.chars().take(20).collect();
                Err(Error::invalid(format!("{shown:?} is no protocol that can be forwarded")).hint("tcp or udp"))
            }
        }
    }
}

/// A host port that leads to a pod's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Forward {
    /// Port in the pod.
    pub pod: u16,
    /// Port on the host.
    pub host: u16,
    /// Transport.
    pub protocol: Protocol,
    /// The one address of the host that leads there; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
}

/// Where a pod is in its life. The table of legal moves is [`PodState::may_become`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodState {
    /// Being made.
    Creating,
    /// Made, never started.
    Created,
    /// Its sandbox is being made.
    Starting,
    /// Its command runs.
    Running,
    /// Its command stands still in memory.
    Paused,
    /// Being saved into object storage.
    Suspending,
    /// Saved; no process, no memory.
    Sleeping,
    /// Being brought back.
    Waking,
    /// Being put back to an earlier snapshot.
    Restoring,
    /// Being stopped.
    Stopping,
    /// Its command ended, or it was stopped.
    Stopped,
    /// Could not be started or woken; what it had is kept.
    Failed,
    /// Being removed.
    Deleting,
}

impl PodState {
    /// Every state.
    pub const ALL: [PodState; 13] = [
        PodState::Creating,
        PodState::Created,
        PodState::Starting,
        PodState::Running,
        PodState::Paused,
        PodState::Suspending,
        PodState::Sleeping,
        PodState::Waking,
        PodState::Restoring,
        PodState::Stopping,
        PodState::Stopped,
        PodState::Failed,
        PodState::Deleting,
    ];

    /// Whether a pod in this state may go to `next`.
    pub fn may_become(self, next: PodState) -> bool {
        use PodState::{
            Created, Creating, Deleting, Failed, Paused, Restoring, Running, Sleeping, Starting, Stopped, Stopping,
            Suspending, Waking,
        };
        match self {
            Creating => matches!(next, Created | Running | Deleting),
            Created | Stopped => matches!(next, Starting | Restoring | Deleting),
            Starting => matches!(next, Running | Stopped | Failed | Created | Stopping | Deleting),
            Running => matches!(next, Paused | Suspending | Restoring | Stopping | Stopped | Deleting),
            Paused => matches!(next, Running | Suspending | Restoring | Stopping | Stopped | Deleting),
            Suspending => matches!(next, Sleeping | Running | Stopping | Stopped | Deleting),
            Sleeping => matches!(next, Waking | Restoring | Stopped | Deleting),
            Waking => matches!(next, Running | Sleeping | Failed | Stopped | Deleting),
            Restoring => matches!(next, Running | Failed | Stopped | Sleeping | Deleting),
            Stopping => matches!(next, Stopped | Deleting),
            Failed => matches!(next, Starting | Waking | Restoring | Stopped | Deleting),
            Deleting => false,
        }
    }

    /// Whether a sandbox may exist in this state.
    pub fn may_have_sandbox(self) -> bool {
        !matches!(
            self,
            PodState::Creating | PodState::Created | PodState::Sleeping | PodState::Stopped | PodState::Failed
        )
    }

    /// The name, as the API shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            PodState::Creating => "creating",
            PodState::Created => "created",
            PodState::Starting => "starting",
            PodState::Running => "running",
            PodState::Paused => "paused",
            PodState::Suspending => "suspending",
            PodState::Sleeping => "sleeping",
            PodState::Waking => "waking",
            PodState::Restoring => "restoring",
            PodState::Stopping => "stopping",
            PodState::Stopped => "stopped",
            PodState::Failed => "failed",
            PodState::Deleting => "deleting",
        }
    }
}

impl fmt::Display for PodState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a pod's command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitReason {
    /// It ended by itself.
    Exited,
    /// A signal ended it.
    Signaled,
    /// It was stopped on request.
    Stopped,
    /// It ran out of its memory limit.
    Oom,
    /// It ran into its process limit and its sandbox ended of it.
    Pids,
    /// Its sandbox ended without a word.
    SandboxLost,
    /// It ended while its shim was dead: the exit code is not known.
    ShimLost,
    /// The host was restarted under it.
    HostRestarted,
    /// It could not be started.
    StartFailed,
}

/// Where a pod's writable layer lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootfsMode {
    /// In the sandbox (runsc `--overlay2`): in every checkpoint, gone with the sandbox.
    Sandbox,
}

/// The name of one sandbox of a pod: `<pod>-<incarnation>`; runsc id, netns and cgroup are called so.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuntimeId {
    /// The pod.
    pub pod: PodId,
    /// The nth sandbox of it, from 1.
    pub incarnation: u32,
}

impl fmt::Display for RuntimeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pod, self.incarnation)
    }
}

impl RuntimeId {
    /// Reads `<pod>-<incarnation>`; none if it is not one of ours.
    pub fn parse(s: &str) -> Option<Self> {
        let (pod, n) = s.split_once('-')?;
        let id = RuntimeId { pod: pod.parse().ok()?, incarnation: n.parse().ok()? };
        (id.to_string() == s).then_some(id)
    }
}

/// What is durable about a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    /// Its id.
    pub id: PodId,
    /// What was asked for.
    pub spec: PodSpec,
    /// Where it is in its life: also the intent that was committed before an effect.
    pub state: PodState,
    /// Number of its newest sandbox; 0 before the first.
    pub incarnation: u32,
    /// Leased address, kept while it sleeps.
    pub address: Ipv4Addr,
    /// Leased forwards, kept while it sleeps.
    pub forwards: Vec<Forward>,
    /// The image's layers as they were at create, lowest first.
    pub layers: Vec<Digest>,
    /// Its own saved writable layers, stacked above the image's, lowest first: one for each stop that changed the root.
    #[serde(default)]
    pub private_layers: Vec<Digest>,
    /// Digest of the init in its sandbox.
    pub init: Digest,
    /// The image's configuration as it was at create.
    pub image_config: super::ImageConfig,
    /// Digest of the engine its sandbox runs on.
    pub engine: Digest,
    /// Number of the bundle template.
    pub template: u32,
    /// Where the writable layer lives.
    pub rootfs_mode: RootfsMode,
    /// The snapshot it sleeps in, or last slept in: kept until the next one or until the pod is removed.
    pub snapshot: Option<SnapshotId>,
    /// Intent: the snapshot being written while it is `suspending` or `running`, or being put back while it is `restoring`;
    /// in a `failed` pod the one that could not be put back, from which it goes on when woken; in any other that is at rest
    /// one that is to be removed.
    #[serde(default)]
    pub pending: Option<SnapshotId>,
    /// The boot in which its sandbox was made.
    pub boot_id: Option<String>,
    /// Pid of its sandbox on the host.
    pub sandbox_pid: Option<u32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its command was last started or woken.
    pub started_at: Option<Timestamp>,
    /// When its command ended.
    pub finished_at: Option<Timestamp>,
    /// The command's exit code, 128+signal if a signal ended it.
    pub exit_code: Option<i32>,
    /// Why it ended.
    pub exit_reason: Option<ExitReason>,
    /// The last failure, for `failed` pods and refused sleeps.
    pub last_error: Option<String>,
    /// Restarts that its policy asked for, and the next one.
    #[serde(default)]
    pub restarts: Restarts,
    /// Intent: it was put to sleep because its host is shut down, and is woken when torpord starts again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wake_at_start: bool,
}

impl PodRecord {
    /// The name of its newest sandbox.
    pub fn runtime_id(&self) -> RuntimeId {
        RuntimeId { pod: self.id.clone(), incarnation: self.incarnation }
    }
    /// Whether its command has ended for good: it does not sleep, and is not started again by itself.
    pub fn has_ended(&self) -> bool {
        match self.state {
            PodState::Stopped => self.restarts.at.is_none(),
            state => matches!(state, PodState::Failed | PodState::Deleting),
        }
    }
    /// All layers of its root, lowest first (without init's).
    pub fn root_layers(&self) -> Vec<Digest> {
        self.layers.iter().chain(&self.private_layers).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_may_be_deleted_but_deleting_leads_nowhere() {
        for state in PodState::ALL {
            assert_eq!(state.may_become(PodState::Deleting), state != PodState::Deleting, "{state}");
            assert!(!PodState::Deleting.may_become(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }

    #[test]
    fn runtime_ids_read_back_and_refuse_others() {
        let id = RuntimeId { pod: PodId::random().unwrap(), incarnation: 7 };
        assert_eq!(RuntimeId::parse(&id.to_string()), Some(id));
        for bad in ["", "x", "0123456789abcdef", "0123456789abcdef-", "0123456789abcdef-01", "0123456789abcdef--1"] {
            assert_eq!(RuntimeId::parse(bad), None, "{bad:?}");
        }
    }
}

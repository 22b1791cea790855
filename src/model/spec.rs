//! What a user may ask of a pod, checked.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Error, HealthCheck, ImageConfig, ImageName, PodName, Protocol, RestartPolicy, Result, Secret};

/// Limits of a pod. All of them hold for the sandbox as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Thousandths of a processor.
    pub cpu_millis: u32,
    /// Bytes of memory, the sandbox's own included.
    pub memory: u64,
    /// Processes and threads inside the pod and of its sandbox.
    pub pids: u32,
    /// Bytes of the writable layer.
    pub disk: u64,
}

/// A port forward asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    /// Port in the pod.
    pub pod: u16,
    /// Port on the host; none: one of the pool.
    pub host: Option<u16>,
    /// Transport.
    pub protocol: Protocol,
    /// The one address of the host that leads there; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
}

/// A host directory seen in the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// A named volume or an absolute host directory.
    pub source: String,
    /// Absolute path in the pod.
    pub target: PathBuf,
    /// Whether the pod may not write to it.
    pub read_only: bool,
    /// Whether what lies in it goes into the snapshots that are taken on request, and comes back with them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_snapshots: bool,
}

/// How to tell that the application answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReadyCheck {
    /// `GET` of that path on that port answers 2xx or 3xx.
    Http {
        /// Port in the pod.
        port: u16,
        /// Path, beginning with `/`.
        path: String,
    },
    /// That port accepts a connection.
    Tcp {
        /// Port in the pod.
        port: u16,
    },
    /// That command exits with 0.
    Exec {
        /// The command.
        command: Vec<String>,
    },
}

/// Whether a text can name a user: `user[:group]`, names or numbers.
pub fn is_user(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':'))
}

/// What becomes of a pod that runs when its host is shut down. Written `stop` or `sleep`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnShutdown {
    /// Its command is asked to end; its restart policy says whether it is started when the host is back.
    #[default]
    Stop,
    /// It is put to sleep, and woken when the host is back.
    Sleep,
}

impl OnShutdown {
    /// Whether it is the default.
    pub fn is_stop(&self) -> bool {
        *self == OnShutdown::Stop
    }
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            OnShutdown::Stop => "stop",
            OnShutdown::Sleep => "sleep",
        }
    }
}

impl std::str::FromStr for OnShutdown {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "stop" => Ok(OnShutdown::Stop),
            "sleep" => Ok(OnShutdown::Sleep),
            _ => {
                let shown: String = s.chars().take(40).collect();
                Err(Error::invalid(format!("onShutdown can't be {shown:?}")).hint("stop or sleep"))
            }
        }
    }
}

/// A readiness probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// What is asked.
    pub check: ReadyCheck,
    /// Milliseconds until the pod counts as not ready.
    pub timeout_ms: u64,
}

/// All a user asked for, with defaults filled in. Stored with the pod and in its snapshots (without `env`: see [`PodSpec::env`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The pod's name.
    pub name: PodName,
    /// The image's name.
    pub image: ImageName,
    /// What is run; empty: the image's own command.
    pub command: Vec<String>,
    /// What is run in the place of the image's entry point; none: that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Environment on top of the image's. Kept in the database (mode 0600), never in a bundle, an argv or a snapshot's manifest.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Limits.
    pub resources: Resources,
    /// Port forwards.
    pub ports: Vec<PortRequest>,
    /// Volumes.
    pub volumes: Vec<VolumeMount>,
    /// Working directory; none: the image's.
    pub working_dir: Option<String>,
    /// `user[:group]`; none: the image's.
    pub user: Option<String>,
    /// Host name in the pod; none: its name.
    pub hostname: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Readiness probe.
    pub ready: Option<Ready>,
    /// Its secrets, without their values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Secret>,
    /// Health check; none: its health is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// When its command is started again.
    #[serde(default, skip_serializing_if = "RestartPolicy::is_no")]
    pub restart: RestartPolicy,
    /// What becomes of it when its host is shut down while it runs.
    #[serde(default, skip_serializing_if = "OnShutdown::is_stop")]
    pub on_shutdown: OnShutdown,
    /// Whether its command runs on a terminal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
    /// Whether its command gets input; without, and without a terminal, there is none to read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
    /// Whether it is removed when its command has ended and is not to be started again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_remove: bool,
}

impl PodSpec {
    /// What is run: as docker, a command that is given replaces the image's default arguments and leaves its entry point, and
    /// an entry point that is given leaves nothing of the image's.
    pub fn program(&self, image: &ImageConfig) -> Vec<String> {
        let (entrypoint, arguments) = match &self.entrypoint {
            Some(own) => (own, &self.command),
            None if self.command.is_empty() => (&image.entrypoint, &image.cmd),
            None => (&image.entrypoint, &self.command),
        };
        entrypoint.iter().chain(arguments).cloned().collect()
    }
}

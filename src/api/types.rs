//! Bodies of requests and answers. Requests refuse what they don't know.

mod token;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub mod capacity;
mod secrets;
pub mod system;
pub mod trace;
mod volumes;

pub use secrets::{SecretInfo, SecretSpec, SecretText, SecretValue, StartPod};
pub use token::{CreateToken, NewToken, RotateToken, Ticket, Token};
pub use volumes::{CreateVolume, Volume};

use super::health::{HealthSpec, HealthState};

/// A pod to be made.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreatePod {
    /// Its name; one is made up if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Name of the image.
    pub image: String,
    /// What is run: replaces the image's default arguments, and is handed to its entry point if it has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// What is run in the place of the image's entry point; the image's default arguments go with it. Empty: no entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Environment on top of the image's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Named limits, such as `dev.small`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Processors, such as 0.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Bytes of memory, or a text such as `512m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Bytes of the writable layer, or a text such as `8g`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Size>,
    /// Port forwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortSpec>,
    /// Volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeSpec>,
    /// Absolute directory in which the command starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// `user[:group]`, names or numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Host name in the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How to tell that the application answers: the call comes back when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<ReadySpec>,
    /// Secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretSpec>,
    /// How to tell that it is well, while it runs. Default: as its image says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
    /// When its command is started again after it ended: `no` (the default), `on-failure`, `on-failure:MAX`, `unless-stopped`
    /// or `always`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
    /// What becomes of it when its host is shut down while it runs: `stop` (the default), or `sleep`, out of which it is woken when
    /// the host is back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_shutdown: Option<String>,
    /// Whether its command runs on a terminal, `main`: see `GET /v1/pods/{pod}/terminal`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
    /// Whether its command gets input, by `GET /v1/pods/{pod}/attach`. A terminal always does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
    /// Whether the pod is removed when its command has ended, or it was stopped, and nobody follows its output any more. `wait` by its
    /// id is answered for a while after that, too. Not together with a restart policy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_remove: bool,
    /// Whether whoever makes it is going to follow its output: with `autoRemove` the pod then stays for that, up to ten seconds after its
    /// end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
    /// Whether the pod is started at once. Default true.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub start: bool,
}

fn yes() -> bool {
    true
}

/// Bytes as a number, or as a text with a unit: `512m`, `2g`, `64k`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a size is a number of bytes, or a text such as 512m")]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// With a unit.
    Text(String),
}

/// A port forward: the pod's port alone, or with the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a port is a number such as 3000, or {pod, host, protocol}")]
pub enum PortSpec {
    /// The pod's port; the host's is one of the pool.
    Pod(u16),
    /// Both.
    Full(PortPair),
}

/// A port forward in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortPair {
    /// Port in the pod.
    pub pod: u16,
    /// Port on the host; none: one of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<u16>,
    /// `tcp`, the default, or `udp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The one IPv4 address of the host at which the port is open, such as `127.0.0.1`: for the host's own programs alone. Default:
    /// all of them. A host port leads to one pod, whatever its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeSpec {
    /// Name of a volume, made if it is not there, or an absolute directory of the host.
    pub source: String,
    /// Absolute path in the pod.
    pub target: String,
    /// Whether the pod may not write to it.
    #[serde(default)]
    pub read_only: bool,
}

/// A readiness probe: one of `http`, `tcp` and `exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReadySpec {
    /// `GET` answers 2xx or 3xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// That port of the pod accepts a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<u16>,
    /// That command exits with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Vec<String>>,
    /// Milliseconds until it counts as not ready. Default 60000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What an HTTP probe asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpCheck {
    /// Port in the pod.
    pub port: u16,
    /// Path. Default `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A pod.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `creating`, `created`, `starting`, `running`, `paused`, `suspending`, `sleeping`, `waking`, `restoring`, `stopping`, `stopped`,
    /// `failed` or `deleting`.
    pub state: String,
    /// Name of its image.
    pub image: String,
    /// What it was asked to run; empty: the image's own command.
    pub command: Vec<String>,
    /// What it runs: the entry point and its arguments, given or the image's.
    #[serde(default)]
    pub program: Vec<String>,
    /// Names of the variables set for it. Values are not shown.
    pub env_names: Vec<String>,
    /// Its secrets, without their values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretInfo>,
    /// Its address, kept while it sleeps.
    pub address: String,
    /// Its forwards, kept while it sleeps.
    pub ports: Vec<PortInfo>,
    /// Its limits.
    pub resources: ResourcesInfo,
    /// Its volumes.
    pub volumes: Vec<VolumeSpec>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Host name.
    pub hostname: String,
    /// Number of its newest sandbox.
    pub incarnation: u32,
    /// Pid of its sandbox on the host.
    pub sandbox_pid: Option<u32>,
    /// What its engine calls its version.
    pub engine: String,
    /// The snapshot it sleeps in, or last slept in.
    pub snapshot: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// When its command was last started or woken.
    pub started_at: Option<String>,
    /// When its command ended.
    pub finished_at: Option<String>,
    /// The command's exit code; 128+signal if a signal ended it.
    pub exit_code: Option<i32>,
    /// `exited`, `signaled`, `stopped`, `oom`, `pids`, `sandbox-lost`, `shim-lost`, `host-restarted` or `start-failed`.
    pub exit_reason: Option<String>,
    /// The last failure, if what was asked last failed.
    pub last_error: Option<String>,
    /// How it is, if it has a health check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthState>,
    /// When its command is started again.
    #[serde(default)]
    pub restart: String,
    /// How often it was started again since somebody started it.
    #[serde(default)]
    pub restart_count: u32,
    /// When it is started again, if that is to come.
    #[serde(default)]
    pub restart_at: Option<String>,
    /// What becomes of it when its host is shut down while it runs: `stop` or `sleep`.
    #[serde(default)]
    pub on_shutdown: String,
    /// Whether its command runs on a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Whether its command gets input.
    #[serde(default)]
    pub stdin: bool,
    /// Whether it is removed when its command has ended.
    #[serde(default)]
    pub auto_remove: bool,
}

/// A forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortInfo {
    /// Port in the pod.
    pub pod: u16,
    /// Port on the host.
    pub host: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The one address of the host at which it is open; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// A pod's limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourcesInfo {
    /// Processors.
    pub cpus: f64,
    /// Bytes of memory.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Bytes of the writable layer.
    pub disk: u64,
}

/// How to stop a pod.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StopPod {
    /// Name or number; default: the image's, else SIGTERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Seconds until it is killed. Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<u64>,
}

/// How to restart a pod.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestartPod {
    /// Name or number; default: the image's, else SIGTERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Seconds until it is killed. Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<u64>,
    /// Values of secrets that were given with an earlier request: needed after a reboot of the host, and to change them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretValue>,
}

/// A signal to send.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KillPod {
    /// Name or number, such as `SIGHUP`, `HUP` or `1`.
    pub signal: String,
}

/// A pod's new name.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RenamePod {
    /// The name.
    pub name: String,
}

/// What is to be changed; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpdatePod {
    /// Labels to set; `null` takes one away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// Processors, such as 0.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Bytes of memory, or a text such as `512m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// When its command is started again; see `restart` of a new pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
    /// What becomes of it when its host is shut down; see `onShutdown` of a new pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_shutdown: Option<String>,
}

/// How to wake a pod.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WakePod {
    /// Start its command anew instead of going on where it was.
    #[serde(default)]
    pub cold: bool,
    /// Values of secrets that were given with an earlier request: needed after a reboot of the host, and to change them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretValue>,
}

/// Which snapshot to put a pod back to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestorePod {
    /// Its id.
    pub snapshot: String,
    /// Values of secrets that were given with an earlier request: needed after a reboot of the host, and to change them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretValue>,
}

/// How a pod's command ended.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExitInfo {
    /// The exit code; 128+signal if a signal ended it.
    pub exit_code: i32,
    /// Why it ended.
    pub exit_reason: String,
}

/// A program to run in a pod.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecPod {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Environment on top of the pod's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Absolute directory; default: that of the pod's command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// `user[:group]`; default: that of the pod's command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Input as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Milliseconds until it is killed. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What a program left. Output that is UTF-8 stands in `stdout` and `stderr`; output that is not stands there as base64
/// (RFC 4648, padded), and `stdoutEncoding` or `stderrEncoding` says `base64`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecResult {
    /// Its exit code; 128+signal if a signal ended it.
    pub exit_code: i32,
    /// Its standard output.
    pub stdout: String,
    /// `utf-8` or `base64`.
    pub stdout_encoding: String,
    /// Its standard error.
    pub stderr: String,
    /// `utf-8` or `base64`.
    pub stderr_encoding: String,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
    /// Whether more came out than is kept (16 MiB of each).
    pub truncated: bool,
}

/// One line of a pod's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// When torpor had it (RFC 3339).
    pub timestamp: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// The line without its end; bytes that are not UTF-8 are replaced.
    pub line: String,
    /// Whether the line goes on in the next object.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// What a pod uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// The pod's id.
    pub pod: String,
    /// Its name.
    pub name: String,
    /// When this was read (RFC 3339).
    pub at: String,
    /// Of one processor, since the last line of a stream or over a fifth of a second.
    pub cpu_percent: f64,
    /// Nanoseconds of processor time since its sandbox began.
    pub cpu_ns: u64,
    /// Processors it may use.
    pub cpus: f64,
    /// Bytes of memory, the sandbox's own included, without cache that the kernel can take back at once.
    pub memory: u64,
    /// Bytes of memory it may use.
    pub memory_limit: u64,
    /// Processes and threads of its sandbox on the host.
    pub pids: u64,
    /// How many it may have.
    pub pids_limit: u32,
    /// Its network link, since its sandbox began.
    pub network: NetworkStats,
    /// Bytes that its writable layer takes on the host's disk.
    pub disk: u64,
    /// Bytes of the writable layer.
    pub disk_limit: u64,
}

/// What went over a pod's network link, as the pod sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkStats {
    /// Bytes that it got.
    pub rx_bytes: u64,
    /// Packets that it got.
    pub rx_packets: u64,
    /// Bytes that it sent.
    pub tx_bytes: u64,
    /// Packets that it sent.
    pub tx_packets: u64,
}

/// Something that happened to a pod, or a gap in what is known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// To go on after it.
    pub id: String,
    /// `created`, `started`, `exited`, `oom`, `stopped`, `paused`, `resumed`, `sleeping`, `woke`, `snapshot`, `restored`, `rootfs-reset`, `failed`,
    /// `renamed`, `updated`, `health`, `removed`, or `gap`: some events before the next one are not known any more.
    pub r#type: String,
    /// When (RFC 3339); not for a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// The pod's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its name then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its labels then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// More about it, such as `exitCode`, `exitReason`, `snapshot` or `error`; of a gap `missed`, if the number is known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Its id.
    pub id: String,
    /// Name of the pod it was taken of.
    pub pod: String,
    /// Id of the pod it was taken of.
    pub pod_id: String,
    /// Name of that pod's image.
    pub image: String,
    /// When it was taken.
    pub created_at: String,
    /// Bytes, uncompressed.
    pub size: u64,
    /// Bytes in the store, layers not counted.
    pub stored: u64,
}

/// A new pod out of a snapshot.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreSnapshot {
    /// Its name; default: the first pod's with `-copy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Directories of the host that it may have as volumes again. Needed for those that no pod of this daemon with the
    /// snapshot's pod id has: what lies in the store does not decide what of this host is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_directories: Vec<String>,
    /// Its secrets, as files: it has none of those that the first pod had. Programs that run in it have the environment that they
    /// had, so that no secret can be put there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretSpec>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Digest of its content.
    pub id: String,
    /// Bytes of all its files.
    pub size: u64,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
    /// How it is run.
    pub config: ImageConfig,
    /// When it was imported.
    pub created_at: String,
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    /// Digest of its uncompressed tar.
    pub digest: String,
    /// Bytes of its files.
    pub size: u64,
}

/// What an image says about running it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageConfig {
    /// Entry point.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub cmd: Vec<String>,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// User.
    pub user: String,
    /// Stop signal.
    pub stop_signal: String,
    /// Its health check, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
}

/// A directory of the host to import.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImportDirectory {
    /// Absolute path on the host of torpord.
    pub directory: String,
}

/// Which torpord answers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Version of torpor.
    pub version: String,
    /// Version of the API.
    pub api_version: String,
    /// Tag of the instance.
    pub instance: String,
    /// Version of the engine of new pods.
    pub engine: Option<String>,
}

/// Whether torpord can work.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// `ok` or `degraded`.
    pub status: String,
    /// What is wrong, if anything.
    pub problems: Vec<String>,
}

/// What `torpor doctor` shows.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Doctor {
    /// One for each thing looked at.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// `ok`, `warn` or `fail`.
    pub status: String,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A line of an answer that was asked for as `application/x-ndjson`: progress, then the result or the error.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Step<T> {
    /// How far it is.
    Progress(ProgressInfo),
    /// It is done.
    Result(T),
    /// It failed.
    Error(super::problem::Problem),
}

/// How far a call is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProgressInfo {
    /// What is being done.
    pub phase: String,
    /// Bytes done in this phase.
    pub done: u64,
    /// Bytes to do in this phase, 0 if that is not known.
    pub total: u64,
}

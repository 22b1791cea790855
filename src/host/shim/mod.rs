//! torpord's side of the shim: starting one, finding one again, asking it.

mod client;
pub mod running;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use crate::channel::control::{ExitRecord, ShimStatus};
pub use client::ShimClient;
pub use running::Running;
pub use stream::{Said, ShimStream, StreamReader, StreamWriter};

use crate::channel::secrets::SecretFiles;
use crate::channel::stream::StreamAsk;
use crate::channel::terminal::{ProcessInfo, TerminalEnd, TerminalInfo};
use crate::channel::{Exec, Identity, Launch, Probe};
use crate::host::command::{self, EngineCommand};
use crate::model::{Attempt, Code, Error, Result};

/// What a shim is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShimPlan {
    /// The sandbox's run directory.
    pub dir: PathBuf,
    /// Directory of the log files.
    pub log_dir: PathBuf,
    /// Bytes of a log file before it is rotated.
    pub log_max_bytes: u64,
    /// Log files kept.
    pub log_files: u32,
}

/// What an exec'd program left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code; 128+signal if a signal ended it.
    pub exit_code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
    /// Whether more came out than is kept.
    pub truncated: bool,
}

/// Makes and finds shims.
#[async_trait]
pub trait Shims: Send + Sync {
    /// Starts a shim for a sandbox; it takes over what a dead one left.
    async fn spawn(&self, plan: &ShimPlan) -> Result<Arc<dyn Shim>>;
    /// The shim that serves a sandbox; none if none answers.
    async fn connect(&self, plan: &ShimPlan) -> Result<Option<Arc<dyn Shim>>>;
}

/// One shim.
#[async_trait]
pub trait Shim: Send + Sync {
    /// How it and its sandbox are.
    async fn status(&self) -> Result<ShimStatus>;
    /// Runs the engine's create command under the shim, the FIFOs as its stdio.
    async fn create(&self, command: &EngineCommand) -> Result<()>;
    /// Starts the pod's command: [`Code::CommandNotFound`], [`Code::CommandNotExecutable`] or [`Code::InvalidRequest`] if
    /// it can't be.
    async fn launch(&self, launch: &Launch) -> Result<()>;
    /// Runs a further program to its end.
    async fn exec(&self, exec: &Exec, stdin: Vec<u8>, timeout: Option<Duration>) -> Result<ExecOutput>;
    /// Follows a program, a terminal or the pod's command while it goes on.
    async fn open(&self, what: &StreamAsk) -> Result<ShimStream>;
    /// The pod's terminals.
    async fn terminals(&self) -> Result<Vec<TerminalInfo>>;
    /// Hangs a terminal up and ends what runs on it; tells how that had ended, if it had.
    async fn remove_terminal(&self, id: &str) -> Result<Option<TerminalEnd>>;
    /// The pod's processes.
    async fn processes(&self) -> Result<Vec<ProcessInfo>>;
    /// Starts a further program; its input and output are the caller's. All of its output is passed on, so it has to send no
    /// more at once than is taken in time.
    async fn begin(&self, exec: &Exec, timeout: Option<Duration>) -> Result<Running>;
    /// Sends a signal to the pod's command.
    async fn signal(&self, signal: i32) -> Result<()>;
    /// Waits until the application answers: [`Code::Timeout`] if it does not.
    async fn probe(&self, probe: &Probe, timeout: Duration) -> Result<()>;
    /// Makes the channel idle, before a checkpoint.
    async fn quiesce(&self) -> Result<()>;
    /// Uses the channel again.
    async fn resume(&self) -> Result<()>;
    /// After a restore: tells init who it is.
    async fn identify(&self, identity: &Identity) -> Result<()>;
    /// Puts files into the pod's /run/secrets, in the place of all that is there.
    async fn secrets(&self, files: &SecretFiles) -> Result<()>;
    /// Waits until the pod's command, or its sandbox, has ended. While somebody waits, a pod whose command has ended is
    /// held for a minute, so that its root can be saved.
    async fn wait(&self) -> Result<ExitRecord>;
    /// Ends the shim of a sandbox that is gone.
    async fn shutdown(&self) -> Result<()>;
    /// Kills the sandbox and whatever the engine left below the shim, and ends the shim.
    async fn end(&self) -> Result<()>;
}

/// Real shims: `torpor-shim` processes.
#[derive(Debug, Clone)]
pub struct RealShims {
    program: PathBuf,
    cgroup: Option<PathBuf>,
}

impl RealShims {
    /// Shims of that program, in a v2 cgroup of their own if one is given.
    pub fn new(program: PathBuf, cgroup: Option<PathBuf>) -> Self {
        RealShims { program, cgroup }
    }
}

#[async_trait]
impl Shims for RealShims {
    async fn spawn(&self, plan: &ShimPlan) -> Result<Arc<dyn Shim>> {
        let cgroup = self.cgroup.iter().flat_map(|dir| ["--cgroup".into(), dir.clone().into_os_string()]);
        let command = EngineCommand::new(
            &self.program,
            [
                "--dir".into(),
                plan.dir.clone().into_os_string(),
                "--log-dir".into(),
                plan.log_dir.clone().into_os_string(),
                "--log-max-bytes".into(),
                plan.log_max_bytes.to_string().into(),
                "--log-files".into(),
                plan.log_files.to_string().into(),
            ]
            .into_iter()
            .chain(cgroup),
        );
        let started = command::run(&command, &[]).await;
        // Whoever started it: the shim that answers is the one that serves this sandbox.
        if let Some(shim) = self.connect(plan).await? {
            return Ok(shim);
        }
        started.attempt(Code::Runtime, || format!("start the shim of {}", plan.dir.display()))?;
        Err(Error::new(Code::Runtime, format!("the shim of {} does not answer", plan.dir.display())))
    }

    async fn connect(&self, plan: &ShimPlan) -> Result<Option<Arc<dyn Shim>>> {
        let client = ShimClient::new(plan.dir.join("shim.sock"));
        Ok(if client.answers().await { Some(Arc::new(client)) } else { None })
    }
}

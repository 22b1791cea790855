//! What torpord asks a shim, on the shim's Unix socket.
//!
//! A message is `length u32, kind u8, payload`, the length counting kind and payload. One question is answered at a time on
//! a connection; output comes before the answer that ends an exec.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::stream::{Steer, StreamAsk, StreamOpened};
use super::terminal::{ProcessInfo, TerminalEnd, TerminalInfo};
use super::{Exec, Identity, Launch, Probe};
use crate::model::Code;

/// The longest message.
pub const MAX_MESSAGE: usize = 8 << 20;
/// The longest question: what it asks must fit a message to init.
pub const MAX_ASK: usize = 3 << 20;
/// Connections of a shim at once; more wait to be accepted.
pub const MOST_CONNECTIONS: usize = 192;
/// Bytes of each output stream of an exec that are passed on, unless it is streamed.
pub const KEPT_OUTPUT: usize = 16 << 20;

/// Kinds of message.
pub mod kind {
    /// A question or an answer, JSON.
    pub const JSON: u8 = 0;
    /// Bytes of standard output.
    pub const STDOUT: u8 = 1;
    /// Bytes of standard error.
    pub const STDERR: u8 = 2;
    /// Bytes of input.
    pub const STDIN: u8 = 3;
    /// The end of input.
    pub const STDIN_END: u8 = 4;
    /// A question: put these secrets into the pod.
    pub const SECRETS: u8 = 16;
    /// The place of the first byte (u64), and what a terminal said.
    pub const TERMINAL: u8 = 5;
    /// To a shim: so many bytes of output were had (u64), or of a terminal all before that place. From a shim: so many
    /// bytes of input were taken.
    pub const CREDIT: u8 = 6;
    /// So many bytes (u64) of the pod's command were said while whoever follows it had no room for them.
    pub const MISSED: u8 = 7;
}

/// What is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ask {
    /// How things are.
    Status,
    /// Run the engine's create command with the FIFOs as its stdio.
    Create {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        args: Vec<String>,
        /// Its whole environment.
        env: Vec<(String, String)>,
        /// Milliseconds until it is killed.
        timeout_ms: u64,
        /// Its log: the end of it is quoted when it fails.
        log: Option<PathBuf>,
    },
    /// Start the pod's command.
    Launch(Launch),
    /// Run a program, its output to this connection.
    Exec {
        /// What.
        exec: Exec,
        /// Milliseconds until it is killed.
        timeout_ms: Option<u64>,
        /// Whether all of its output is passed on, however much that is.
        #[serde(default)]
        whole: bool,
    },
    /// Send a signal to the pod's command.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// Wait until the application answers.
    Probe {
        /// How that is seen.
        probe: Probe,
        /// Milliseconds.
        timeout_ms: u64,
    },
    /// Make the channel idle.
    Quiesce,
    /// Use it again.
    Resume,
    /// After a restore: who the pod is.
    Identify(Identity),
    /// Wait for the end of the pod's command or of its sandbox.
    Wait,
    /// The sandbox is gone: end.
    Shutdown,
    /// Kill the sandbox and whatever else lives below, then end.
    End,
    /// Stream input and output of something on this connection.
    Stream(StreamAsk),
    /// About what is streamed on this connection; not answered.
    Steer(Steer),
    /// Which terminals there are.
    Terminals,
    /// Hang a terminal up and end what runs on it.
    RemoveTerminal {
        /// Its id.
        id: String,
    },
    /// Which processes there are in the pod.
    Processes,
}

/// The answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// To `Status`.
    Status(ShimStatus),
    /// It is done.
    Done,
    /// To `Exec`.
    Exited {
        /// Exit code.
        code: Option<i32>,
        /// Or the signal that ended it.
        signal: Option<i32>,
        /// Whether it was killed because its time was over.
        timed_out: bool,
        /// Whether there was more output than was passed on.
        #[serde(default)]
        truncated: bool,
    },
    /// To `Wait`.
    Ended(ExitRecord),
    /// To `Stream`: it has begun.
    Opened(StreamOpened),
    /// The end of a terminal's stream, and the answer to `RemoveTerminal` where it had ended.
    TerminalEnded(TerminalEnd),
    /// To `Terminals`.
    Terminals(Vec<TerminalInfo>),
    /// To `Processes`.
    Processes(Vec<ProcessInfo>),
    /// It failed.
    Failed {
        /// Which kind.
        code: Code,
        /// In words.
        message: String,
    },
}

/// How a shim and its sandbox are.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShimStatus {
    /// The shim's own pid.
    pub shim_pid: u32,
    /// Pid of the sandbox.
    pub sandbox_pid: Option<u32>,
    /// Whether init has answered this shim.
    pub init_ready: bool,
    /// Whether the pod's command has been started.
    #[serde(default)]
    pub launched: bool,
    /// How it ended, if it has.
    pub exit: Option<ExitRecord>,
}

/// How a pod's command ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// Its exit code.
    pub code: Option<i32>,
    /// Or the signal that ended it.
    pub signal: Option<i32>,
    /// When that was noticed.
    pub at: Option<Timestamp>,
    /// The sandbox ended while no shim lived: how is not known.
    #[serde(default)]
    pub shim_lost: bool,
    /// The sandbox itself ended without a word of init's.
    #[serde(default)]
    pub sandbox_died: bool,
    /// How the sandbox's own process ended then, if that is known: its exit code, or 128 and the signal.
    #[serde(default)]
    pub sandbox_status: Option<i32>,
}

impl ExitRecord {
    /// It ended, and nothing more is known.
    pub fn unknown() -> Self {
        ExitRecord { sandbox_died: true, ..ExitRecord::default() }
    }
}

/// A message as bytes.
pub fn encode(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(5 + payload.len());
    out.extend_from_slice(&u32::try_from(payload.len() + 1).unwrap_or(u32::MAX).to_le_bytes());
    out.push(kind);
    out.extend_from_slice(payload);
    out
}

/// A question or an answer as bytes.
pub fn encode_json<T: Serialize>(value: &T) -> Vec<u8> {
    // Plain data with string keys: writing it to memory can't fail.
    encode(kind::JSON, &serde_json::to_vec(value).unwrap_or_default())
}

/// A message that is one number.
pub fn encode_number(kind: u8, number: u64) -> Vec<u8> {
    encode(kind, &number.to_le_bytes())
}

/// The number that a message is.
pub fn number(payload: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(payload.try_into().ok()?))
}

/// A length that no message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImpossibleLength;

/// Takes one whole message off the front of a buffer.
///
/// # Errors
/// The length is impossible: the connection is of no more use.
pub fn take(buffer: &mut Vec<u8>) -> Result<Option<(u8, Vec<u8>)>, ImpossibleLength> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*head) as usize;
    if length == 0 || length > MAX_MESSAGE {
        return Err(ImpossibleLength);
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let kind = buffer[4];
    let payload = buffer[5..4 + length].to_vec();
    buffer.drain(..4 + length);
    Ok(Some((kind, payload)))
}

//! Terminals, programs that are followed, processes: bodies, and the text frames of their WebSockets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::Problem;

/// A terminal to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateTerminal {
    /// Its id: 1 to 64 letters, digits, `-`, `_` and `.`. Default: one that is made up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What runs on it. Default: the user's shell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
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
    /// Columns. Default 80.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cols: Option<u16>,
    /// Lines. Default 24.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u16>,
    /// Milliseconds until what runs on it is killed. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// A terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Terminal {
    /// Its id; `main` is that of the pod's command.
    pub id: String,
    /// What runs on it.
    pub command: Vec<String>,
    /// Its process in the pod.
    pub pid: i32,
    /// Columns.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
    /// When it was made (RFC 3339), by the pod's clock.
    pub created_at: String,
    /// Who looks at it now.
    pub viewers: usize,
    /// The exit code of what ran on it; 128+signal if a signal ended it; none while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether it was killed because its time was over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
}

/// The first text frame of an exec's WebSocket: what is run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecStart {
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
    /// Whether input will come. Without, it reads from /dev/null. A terminal always has input.
    #[serde(default)]
    pub stdin: bool,
    /// Whether it runs on a terminal: all its output is standard output then, and it can be joined by others.
    #[serde(default)]
    pub tty: bool,
    /// Whether it is left to itself once it runs: torpord closes the socket after `opened`, or says why it can't be run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detach: bool,
    /// Columns of the terminal. Default 80.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cols: Option<u16>,
    /// Lines of the terminal. Default 24.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u16>,
    /// Milliseconds until it is killed. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// A text frame from a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", tag = "type", deny_unknown_fields)]
pub enum SocketAsks {
    /// Another size of the terminal.
    Resize {
        /// Columns.
        cols: u16,
        /// Lines.
        rows: u16,
    },
    /// A signal for the program, by name or number.
    Signal {
        /// Such as `INT`, `SIGTERM` or `9`.
        signal: String,
    },
    /// No more input: the program reads the end of its standard input. Not for terminals.
    StdinEnd {},
}

/// A text frame from torpord.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum SocketSays {
    /// The first one: it is open.
    Opened {
        /// The terminal's id, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        terminal: Option<String>,
        /// Whether it was made by this call.
        created: bool,
        /// Its columns.
        cols: u16,
        /// Its lines.
        rows: u16,
        /// Place of the first byte that comes among all that the terminal ever said: `from` of a later call goes on there.
        start: u64,
    },
    /// The terminal has another size: somebody gave it one.
    Resized {
        /// Columns.
        cols: u16,
        /// Lines.
        rows: u16,
    },
    /// So many bytes are missing here: this client did not read fast enough, or came back too late.
    Missed {
        /// How many.
        bytes: u64,
    },
    /// The pod's state. While it sleeps the terminal stands still; it goes on when the pod is woken.
    State {
        /// As the pod's `state`.
        state: String,
    },
    /// The program has ended. The last one.
    Exit {
        /// Its exit code; 128+signal if a signal ended it.
        #[serde(rename = "exitCode")]
        exit_code: i32,
        /// Whether it was killed because its time was over.
        #[serde(rename = "timedOut")]
        timed_out: bool,
    },
    /// It failed. The last one.
    Error {
        /// Why.
        problem: Problem,
    },
}

/// The processes of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Top {
    /// By number.
    pub processes: Vec<Process>,
}

/// A process of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its number in the pod.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Numeric user id.
    pub uid: u32,
    /// One letter, as in /proc: `R`, `S`, `D`, `T`, `Z`.
    pub state: String,
    /// Milliseconds of processor time that it has used.
    pub cpu_ms: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Threads.
    pub threads: u32,
    /// Program and arguments, shortened if they are very long.
    pub command: Vec<String>,
}

//! What is said about terminals: between a shim and init, and between torpord and a shim.
//!
//! Init owns them. What a terminal says lies in its scrollback there; to a shim that looks at it init sends it with its place, as
//! far as the shim allowed ([`TerminalAsk::Credit`]), and nobody who does not read makes the terminal wait for long.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Exec, StartFailure};

/// The terminal of a pod's own command, if it has one.
pub const MAIN_TERMINAL: &str = "main";
/// Terminals of one pod at once, those that have ended and were not asked for among them.
pub const MOST_TERMINALS: usize = 64;
/// Bytes of input, or of one output of a program, that may be on their way.
pub const WINDOW: u64 = 64 * 1024;

/// Whether a text can be a terminal's id.
pub fn is_terminal_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Characters that a terminal has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// In a line.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
}

impl Default for WindowSize {
    fn default() -> Self {
        WindowSize { cols: 80, rows: 24 }
    }
}

/// A terminal to be made, with what runs on it. Without a command: the user's shell.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NewTerminal {
    /// What runs on it.
    pub exec: Exec,
    /// Its size; none: 80 columns of 24 lines.
    pub size: Option<WindowSize>,
    /// Milliseconds until what runs on it is killed.
    pub timeout_ms: Option<u64>,
}

// Environments are secrets.
impl fmt::Debug for NewTerminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewTerminal").field("exec", &self.exec).field("size", &self.size).finish_non_exhaustive()
    }
}

/// What is to be looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OpenTerminal {
    /// The terminal's id.
    pub id: String,
    /// How it is made if there is none of that id; none: it is not made.
    pub create: Option<NewTerminal>,
    /// Its new size, if it is there already.
    pub size: Option<WindowSize>,
    /// Place of the first byte that is wanted; none: all that is kept.
    pub from: Option<u64>,
    /// Whether to refuse if there is one of that id already.
    pub only_new: bool,
    /// Whether output is wanted at all: otherwise it is only made.
    pub quiet: bool,
}

/// How a terminal's program ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TerminalEnd {
    /// Its exit code.
    pub code: Option<i32>,
    /// Or the signal that ended it.
    pub signal: Option<i32>,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
}

impl TerminalEnd {
    /// The code that a shell would show.
    pub fn exit_code(&self) -> i32 {
        self.code.unwrap_or_else(|| self.signal.map_or(255, |s| 128 + s))
    }
}

/// A terminal as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TerminalInfo {
    /// Its id.
    pub id: String,
    /// What runs on it.
    pub command: Vec<String>,
    /// Its process in the pod.
    pub pid: i32,
    /// Its size.
    pub size: WindowSize,
    /// When it was made: seconds since 1970 by the pod's clock.
    pub created: i64,
    /// How it ended, if it has.
    pub end: Option<TerminalEnd>,
}

/// What a shim asks init about terminals. `ask` comes back in the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TerminalAsk {
    /// Look at one, made if it must be. Another look of this shim's at it ends.
    Open {
        /// Number of the question.
        ask: u64,
        /// What.
        open: OpenTerminal,
        /// Bytes that may be sent at first.
        window: u64,
    },
    /// Don't look any more.
    Close {
        /// Its number.
        number: u64,
    },
    /// Output up to that place may be sent.
    Credit {
        /// Its number.
        number: u64,
        /// Place.
        upto: u64,
    },
    /// Give it another size.
    Resize {
        /// Its number.
        number: u64,
        /// The size.
        size: WindowSize,
    },
    /// Its end is known: it need not be kept.
    Forget {
        /// Its number.
        number: u64,
    },
    /// Hang it up, and kill what runs on it if that does not end.
    Remove {
        /// Number of the question.
        ask: u64,
        /// Its id.
        id: String,
    },
    /// Which there are.
    List {
        /// Number of the question.
        ask: u64,
    },
}

/// What init says about terminals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TerminalNews {
    /// Answers `Open`.
    Opened {
        /// Number of the question.
        ask: u64,
        /// The terminal's number: its program's among the pod's.
        number: u64,
        /// Whether it was made.
        created: bool,
        /// Its size.
        size: WindowSize,
        /// Place of the first byte that will be sent.
        start: u64,
        /// Place of the next byte that its program will say.
        end: u64,
    },
    /// A question is answered with no.
    Refused {
        /// Number of the question.
        ask: u64,
        /// Why.
        why: TerminalRefusal,
        /// In words.
        message: String,
    },
    /// Answers `Remove`.
    Removed {
        /// Number of the question.
        ask: u64,
        /// How it had ended, if it had.
        end: Option<TerminalEnd>,
    },
    /// Answers `List`.
    Listed {
        /// Number of the question.
        ask: u64,
        /// Oldest first.
        terminals: Vec<TerminalInfo>,
    },
    /// Its program has ended, and all that it said has been sent.
    Ended {
        /// Its number.
        number: u64,
        /// How.
        end: TerminalEnd,
    },
}

/// Why a question about a terminal is answered with no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TerminalRefusal {
    /// There is none of that id.
    NotFound,
    /// There is one of that id already.
    Taken,
    /// There are too many.
    TooMany,
    /// Its program could not be started.
    Start(StartFailure),
}

/// A process of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProcessInfo {
    /// Its number in the pod.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Numeric user id.
    pub uid: u32,
    /// One letter, as in /proc.
    pub state: String,
    /// Milliseconds of processor time.
    pub cpu_ms: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Threads.
    pub threads: u32,
    /// Program and arguments, shortened if they are very long.
    pub command: Vec<String>,
}

//! What torpord and a shim say while a program's input and output go between them: a connection with a stream on it.
//!
//! torpord asks [`super::control::Ask::Stream`] and is answered [`super::control::Answer::Opened`]. Then both send messages as they
//! like: input, output, credit for both, [`super::control::Ask::Steer`]; the last is an answer that says how it ended. A connection
//! that is closed ends the stream, not the program.

use serde::{Deserialize, Serialize};

use super::Exec;
use super::terminal::{OpenTerminal, WindowSize};

/// What is to be streamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StreamAsk {
    /// A program, run to its end.
    Exec {
        /// What.
        exec: Exec,
        /// Milliseconds until it is killed.
        timeout_ms: Option<u64>,
    },
    /// A terminal.
    Terminal(OpenTerminal),
    /// The pod's command: what it says from now on, as far as the connection takes it.
    Main {
        /// Whether input for it will come; it is closed when the connection is.
        stdin: bool,
    },
}

/// The answer to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamOpened {
    /// Whether a terminal was made.
    pub created: bool,
    /// The terminal's size.
    pub size: WindowSize,
    /// Place of the first byte of a terminal's that will come.
    pub start: u64,
    /// Place of the next byte that its program will say.
    pub end: u64,
}

/// What is done to what is streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Steer {
    /// A signal.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// Another size of the terminal.
    Resize {
        /// The size.
        size: WindowSize,
    },
    /// The terminal's end is known: it need not be kept.
    Forget,
}

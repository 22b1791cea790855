//! What is said on the channel.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::codec::SECRETS;
use super::secrets::SecretFiles;
use super::terminal::{ProcessInfo, TerminalAsk, TerminalNews, WindowSize};
use super::{Frame, encode, encode_fragments};

/// The version of the protocol that this build speaks. 2: terminals, and programs whose output waits for whoever reads it.
pub const VERSION: u32 = 2;
/// The number of the pod's own command among its processes.
pub const MAIN: u64 = 0;

/// The pod's command and its surroundings.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Launch {
    /// Program and arguments; the program is looked up in PATH.
    pub command: Vec<String>,
    /// `NAME=value` lines.
    pub env: Vec<String>,
    /// Absolute directory; made if it is missing.
    pub working_dir: String,
    /// `user[:group]`, names or numbers; empty: root.
    pub user: String,
    /// Host name.
    pub hostname: String,
    /// Text of /etc/hosts.
    pub hosts: String,
    /// Text of /etc/resolv.conf.
    pub resolv_conf: String,
    /// Size of the terminal that it runs on; none: it has none.
    pub tty: Option<WindowSize>,
    /// Whether input will be sent; otherwise, and without a terminal, it reads from /dev/null.
    pub stdin: bool,
}

/// A further program.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Exec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// `NAME=value` lines on top of the pod's own environment.
    pub env: Vec<String>,
    /// Absolute directory; none: that of the pod's command.
    pub working_dir: Option<String>,
    /// `user[:group]`; none: that of the pod's command.
    pub user: Option<String>,
    /// Whether input will be sent; otherwise it reads from /dev/null.
    pub stdin: bool,
}

/// Who a pod is, after a restore.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Identity {
    /// Host name.
    pub hostname: String,
    /// Text of /etc/hosts.
    pub hosts: String,
    /// Text of /etc/resolv.conf.
    pub resolv_conf: String,
    /// New machine id for a copy: 32 hexadecimal characters.
    pub machine_id: Option<String>,
    /// Random bytes for the pod's pool.
    pub entropy: Vec<u8>,
}

// Environments and input are secrets: Debug shows neither.
impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch").field("command", &self.command.first()).finish_non_exhaustive()
    }
}
impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").field("command", &self.command.first()).finish_non_exhaustive()
    }
}
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("hostname", &self.hostname).finish_non_exhaustive()
    }
}

/// What tells that an application answers, asked from inside the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Probe {
    /// That port accepts a connection.
    Tcp {
        /// Port on the pod's loopback.
        port: u16,
    },
    /// `GET` answers 2xx or 3xx.
    Http {
        /// Port on the pod's loopback.
        port: u16,
        /// Path.
        path: String,
    },
    /// That command exits with 0.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
}

/// Why a program could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StartFailure {
    /// There is no such program.
    NotFound,
    /// It can't be executed.
    NotExecutable,
    /// User, directory or something else it needs is wrong.
    Refused,
}

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a shim says to init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Begins a conversation: all up to `acknowledged` has been had.
    Hello {
        /// The newest version that the shim speaks.
        version: u32,
        /// Random; comes back in init's answer.
        session: u64,
        /// Number of the last frame that was had.
        acknowledged: u64,
    },
    /// Start the pod's command. Repeated: answered again.
    Launch(Launch),
    /// Start a further program. A number that is known already: nothing.
    Exec {
        /// Its number, chosen by the shim.
        process: u64,
        /// What it is.
        exec: Exec,
    },
    /// Send a signal.
    Signal {
        /// To which process.
        process: u64,
        /// Its number.
        signal: i32,
    },
    /// Input.
    Stdin {
        /// Of which process.
        process: u64,
        /// The bytes; none: the end of input.
        data: Vec<u8>,
    },
    /// Send all output, then nothing more.
    Quiesce,
    /// Go on after a quiesce.
    Resume,
    /// Take that identity.
    Identity(Identity),
    /// Ask until it answers or the time is over.
    Probe {
        /// Number of the question.
        id: u64,
        /// What is asked.
        probe: Probe,
        /// Milliseconds.
        timeout_ms: u64,
    },
    /// All frames up to that number have been had.
    Ack(u64),
    /// The pod's command has ended and all is known: end the sandbox.
    Finish,
    /// Put these files into /run/secrets, in the place of all that is there.
    Secrets(SecretFiles),
    /// About terminals. Input and signals for one are those of its number.
    Terminal(TerminalAsk),
    /// So many more bytes of a program's output are wanted; from the first such word on it has to wait for them.
    Credit {
        /// Which.
        process: u64,
        /// How many.
        bytes: u64,
    },
    /// Which processes there are.
    Processes {
        /// Number of the question.
        id: u64,
    },
}

/// What init says to a shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Answers a `Hello`.
    Hello {
        /// The version both speak.
        version: u32,
        /// The session number of the question.
        session: u64,
        /// Whether the pod's command has been started.
        launched: bool,
    },
    /// The pod's command runs. Numbered. Of further programs only the end is told, or that they could not be started.
    Started {
        /// Which.
        process: u64,
    },
    /// A program could not be started. Numbered.
    StartFailed {
        /// Which.
        process: u64,
        /// Why.
        why: StartFailure,
        /// In words.
        message: String,
    },
    /// Output. Numbered.
    Output {
        /// Of which process.
        process: u64,
        /// Of which stream.
        stream: Stream,
        /// The bytes.
        data: Vec<u8>,
    },
    /// A program ended, and all its output has been sent. Numbered.
    Exited {
        /// Which.
        process: u64,
        /// Its exit code.
        code: Option<i32>,
        /// Or the signal that ended it.
        signal: Option<i32>,
    },
    /// Answers a `Quiesce`.
    Quiesced,
    /// Answers an `Identity`.
    Identified {
        /// What could not be done, if anything.
        failed: Option<String>,
    },
    /// Answers a `Probe`.
    Probed {
        /// Number of the question.
        id: u64,
        /// Whether it answered.
        ready: bool,
    },
    /// Answers `Secrets`.
    SecretsFilled {
        /// What could not be done, if anything.
        failed: Option<String>,
    },
    /// About terminals.
    Terminal(TerminalNews),
    /// What a terminal said. Kept in its scrollback, so not numbered.
    TerminalOutput {
        /// The terminal's number.
        number: u64,
        /// Place of the first byte among all that it said.
        place: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// So much of its input a program took, or never will take.
    InputTaken {
        /// Which.
        process: u64,
        /// Bytes.
        bytes: u64,
    },
    /// Answers `Processes`.
    Processes {
        /// Number of the question.
        id: u64,
        /// The processes.
        processes: Vec<ProcessInfo>,
    },
}

#[derive(Serialize, Deserialize)]
struct ProcessesBody {
    id: u64,
    processes: Vec<ProcessInfo>,
}
#[derive(Serialize, Deserialize)]
struct HelloBody {
    version: u32,
    session: u64,
    #[serde(default)]
    acknowledged: u64,
    #[serde(default)]
    launched: bool,
}
#[derive(Serialize, Deserialize)]
struct ExecBody {
    process: u64,
    exec: Exec,
}
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct NumbersBody {
    process: u64,
    signal: Option<i32>,
    code: Option<i32>,
    id: u64,
    ready: bool,
    why: Option<StartFailure>,
    message: Option<String>,
}
#[derive(Serialize, Deserialize)]
struct ProbeBody {
    id: u64,
    probe: Probe,
    timeout_ms: u64,
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    // Plain data with string keys: writing it to memory can't fail.
    serde_json::to_vec(value).unwrap_or_default()
}

fn with_process(process: u64, extra: &[u8], data: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(8 + extra.len() + data.len());
    body.extend_from_slice(&process.to_le_bytes());
    body.extend_from_slice(extra);
    body.extend_from_slice(data);
    body
}

fn split_process(body: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = body.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*head), rest))
}

impl Request {
    /// As frames, each of which is written whole or not at all.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let (kind, body) = match self {
            Request::Hello { version, session, acknowledged } => (
                1,
                json(&HelloBody { version: *version, session: *session, acknowledged: *acknowledged, launched: false }),
            ),
            Request::Launch(launch) => (2, json(launch)),
            Request::Exec { process, exec } => (3, json(&ExecBody { process: *process, exec: exec.clone() })),
            Request::Signal { process, signal } => {
                (4, json(&NumbersBody { process: *process, signal: Some(*signal), ..NumbersBody::default() }))
            }
            Request::Stdin { process, data } => (5, with_process(*process, &[], data)),
            Request::Quiesce => (6, Vec::new()),
            Request::Resume => (7, Vec::new()),
            Request::Identity(identity) => (8, json(identity)),
            Request::Probe { id, probe, timeout_ms } => {
                (9, json(&ProbeBody { id: *id, probe: probe.clone(), timeout_ms: *timeout_ms }))
            }
            Request::Ack(sequence) => (10, sequence.to_le_bytes().to_vec()),
            Request::Finish => (11, Vec::new()),
            Request::Secrets(files) => return encode_fragments(SECRETS, 0, &files.encode()),
            Request::Terminal(ask) => (20, json(ask)),
            Request::Credit { process, bytes } => (21, with_process(*process, &bytes.to_le_bytes(), &[])),
            Request::Processes { id } => (22, id.to_le_bytes().to_vec()),
        };
        encode_fragments(kind, 0, &body)
    }

    /// What a frame says; none if it says nothing that this version knows.
    pub fn parse(frame: &Frame) -> Option<Self> {
        let body = &frame.body[..];
        Some(match frame.kind {
            1 => {
                let b: HelloBody = serde_json::from_slice(body).ok()?;
                Request::Hello { version: b.version, session: b.session, acknowledged: b.acknowledged }
            }
            2 => Request::Launch(serde_json::from_slice(body).ok()?),
            3 => {
                let b: ExecBody = serde_json::from_slice(body).ok()?;
                Request::Exec { process: b.process, exec: b.exec }
            }
            4 => {
                let b: NumbersBody = serde_json::from_slice(body).ok()?;
                Request::Signal { process: b.process, signal: b.signal? }
            }
            5 => {
                let (process, data) = split_process(body)?;
                Request::Stdin { process, data: data.to_vec() }
            }
            6 => Request::Quiesce,
            7 => Request::Resume,
            8 => Request::Identity(serde_json::from_slice(body).ok()?),
            9 => {
                let b: ProbeBody = serde_json::from_slice(body).ok()?;
                Request::Probe { id: b.id, probe: b.probe, timeout_ms: b.timeout_ms }
            }
            10 => Request::Ack(u64::from_le_bytes(body.try_into().ok()?)),
            11 => Request::Finish,
            SECRETS => Request::Secrets(SecretFiles::parse(body)?),
            20 => Request::Terminal(serde_json::from_slice(body).ok()?),
            21 => {
                let (process, bytes) = split_process(body)?;
                Request::Credit { process, bytes: u64::from_le_bytes(bytes.try_into().ok()?) }
            }
            22 => Request::Processes { id: u64::from_le_bytes(body.try_into().ok()?) },
            _ => return None,
        })
    }
}

impl Event {
    /// Whether it is kept until it is acknowledged.
    pub fn is_numbered(&self) -> bool {
        matches!(self, Event::Started { .. } | Event::StartFailed { .. } | Event::Output { .. } | Event::Exited { .. })
    }

    /// As bytes, with its number (0 if it is not kept).
    pub fn encode(&self, sequence: u64) -> Vec<u8> {
        let (kind, body) = match self {
            Event::Hello { version, session, launched } => {
                (65, json(&HelloBody { version: *version, session: *session, acknowledged: 0, launched: *launched }))
            }
            Event::Started { process } => (66, json(&NumbersBody { process: *process, ..NumbersBody::default() })),
            Event::StartFailed { process, why, message } => (
                67,
                json(&NumbersBody {
                    process: *process,
                    why: Some(*why),
                    message: Some(message.clone()),
                    ..NumbersBody::default()
                }),
            ),
            Event::Output { process, stream, data } => (68, with_process(*process, &[*stream as u8], data)),
            Event::Exited { process, code, signal } => {
                (69, json(&NumbersBody { process: *process, code: *code, signal: *signal, ..NumbersBody::default() }))
            }
            Event::Quiesced => (70, Vec::new()),
            Event::Identified { failed } => {
                (71, json(&NumbersBody { message: failed.clone(), ..NumbersBody::default() }))
            }
            Event::Probed { id, ready } => {
                (72, json(&NumbersBody { id: *id, ready: *ready, ..NumbersBody::default() }))
            }
            Event::SecretsFilled { failed } => {
                (110, json(&NumbersBody { message: failed.clone(), ..NumbersBody::default() }))
            }
            Event::Terminal(news) => (90, json(news)),
            Event::TerminalOutput { number, place, data } => (91, with_process(*number, &place.to_le_bytes(), data)),
            Event::InputTaken { process, bytes } => (92, with_process(*process, &bytes.to_le_bytes(), &[])),
            Event::Processes { id, processes } => (93, json(&ProcessesBody { id: *id, processes: processes.clone() })),
        };
        encode(kind, sequence, &body)
    }

    /// What a frame says; none if it says nothing that this version knows. The bytes are a stranger's.
    pub fn parse(frame: &Frame) -> Option<Self> {
        let body = &frame.body[..];
        let numbers = || serde_json::from_slice::<NumbersBody>(body).ok();
        Some(match frame.kind {
            65 => {
                let b: HelloBody = serde_json::from_slice(body).ok()?;
                Event::Hello { version: b.version, session: b.session, launched: b.launched }
            }
            66 => Event::Started { process: numbers()?.process },
            67 => {
                let b = numbers()?;
                let message = b.message.unwrap_or_default().chars().take(500).collect();
                Event::StartFailed { process: b.process, why: b.why?, message }
            }
            68 => {
                let (process, rest) = split_process(body)?;
                let (stream, data) = rest.split_first()?;
                let stream = match stream {
                    0 => Stream::Stdout,
                    1 => Stream::Stderr,
                    _ => return None,
                };
                Event::Output { process, stream, data: data.to_vec() }
            }
            69 => {
                let b = numbers()?;
                Event::Exited { process: b.process, code: b.code, signal: b.signal }
            }
            70 => Event::Quiesced,
            71 => Event::Identified { failed: numbers()?.message },
            72 => {
                let b = numbers()?;
                Event::Probed { id: b.id, ready: b.ready }
            }
            110 => Event::SecretsFilled { failed: numbers()?.message },
            90 => Event::Terminal(serde_json::from_slice(body).ok()?),
            91 => {
                let (number, rest) = split_process(body)?;
                let (place, data) = split_process(rest)?;
                Event::TerminalOutput { number, place, data: data.to_vec() }
            }
            92 => {
                let (process, bytes) = split_process(body)?;
                Event::InputTaken { process, bytes: u64::from_le_bytes(bytes.try_into().ok()?) }
            }
            93 => {
                let b: ProcessesBody = serde_json::from_slice(body).ok()?;
                Event::Processes { id: b.id, processes: b.processes }
            }
            _ => return None,
        })
    }
}

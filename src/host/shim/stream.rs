//! A stream to something in a pod: input and output while it goes on.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::channel::control::{self, Answer, Ask, kind};
use crate::channel::stream::{Steer, StreamOpened};
use crate::channel::terminal::TerminalEnd;
use crate::model::{Attempt, Code, Error, Result};

/// The farthest place of a byte that is believed: no terminal ever says so much.
pub(super) const FARTHEST: u64 = 1 << 60;

/// What comes out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Standard output.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
    /// What a terminal said.
    Terminal {
        /// Place of the first byte among all that it ever said.
        place: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// So much more input may be sent.
    InputTaken(u64),
    /// So many bytes were not passed on, since nobody took them.
    Missed(u64),
    /// It has ended; nothing comes after that.
    Ended(TerminalEnd),
}

/// Both directions of a stream. Dropped, it ends the stream and nothing else.
pub struct ShimStream {
    /// How it began.
    pub opened: StreamOpened,
    /// What comes out.
    pub reader: StreamReader,
    /// What goes in.
    pub writer: StreamWriter,
}

/// The direction out of the pod.
pub struct StreamReader {
    half: OwnedReadHalf,
    buffer: Vec<u8>,
}

/// The direction into the pod.
pub struct StreamWriter(OwnedWriteHalf);

fn broken(e: std::io::Error) -> Error {
    Error::new(Code::Runtime, "follow a program in the pod: its shim is gone").because(e)
}

impl ShimStream {
    /// The stream that was opened on this connection, with what was read already.
    pub fn new(stream: UnixStream, buffer: Vec<u8>, opened: StreamOpened) -> Self {
        let (half, writer) = stream.into_split();
        ShimStream { opened, reader: StreamReader { half, buffer }, writer: StreamWriter(writer) }
    }
}

impl StreamReader {
    /// What comes next. May be given up and asked again: nothing is lost.
    ///
    /// # Errors
    /// The shim's refusal, or [`Code::Runtime`]: it is gone.
    pub async fn next(&mut self) -> Result<Said> {
        loop {
            match control::take(&mut self.buffer) {
                Ok(Some((kind, payload))) => {
                    if let Some(said) = parse(kind, payload)? {
                        return Ok(said);
                    }
                }
                Ok(None) => {
                    if self.half.read_buf(&mut self.buffer).await.map_err(broken)? == 0 {
                        return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                Err(_) => return Err(Error::internal("the shim sent an impossible length")),
            }
        }
    }
}

fn parse(kind: u8, mut payload: Vec<u8>) -> Result<Option<Said>> {
    Ok(Some(match kind {
        kind::STDOUT => Said::Stdout(payload),
        kind::STDERR => Said::Stderr(payload),
        kind::TERMINAL => {
            let place = payload.get(..8).and_then(control::number);
            let place = place.filter(|p| *p <= FARTHEST);
            let place = place.ok_or_else(|| Error::internal("the shim sent output without a place"))?;
            Said::Terminal { place, data: payload.split_off(8) }
        }
        kind::CREDIT => Said::InputTaken(control::number(&payload).unwrap_or(0)),
        kind::MISSED => Said::Missed(control::number(&payload).unwrap_or(0)),
        kind::JSON => {
            match serde_json::from_slice(&payload).attempt(Code::Internal, || "read the shim's answer".into())? {
                Answer::Failed { code, message } => return Err(Error::new(code, message)),
                Answer::Exited { code, signal, timed_out, .. } => Said::Ended(TerminalEnd { code, signal, timed_out }),
                Answer::TerminalEnded(end) => Said::Ended(end),
                _ => return Ok(None),
            }
        }
        _ => return Ok(None),
    }))
}

impl StreamWriter {
    async fn send(&mut self, message: &[u8]) -> Result<()> {
        self.0.write_all(message).await.map_err(broken)
    }

    /// Input. The caller keeps to what may be sent.
    ///
    /// # Errors
    /// [`Code::Runtime`]: the shim is gone, as for all that is sent.
    pub async fn input(&mut self, data: &[u8]) -> Result<()> {
        self.send(&control::encode(kind::STDIN, data)).await
    }

    /// The end of input.
    ///
    /// # Errors
    /// As [`StreamWriter::input`].
    pub async fn end_of_input(&mut self) -> Result<()> {
        self.send(&control::encode(kind::STDIN_END, &[])).await
    }

    /// So many bytes of output were had, or of a terminal all that may come up to that place.
    ///
    /// # Errors
    /// As [`StreamWriter::input`].
    pub async fn credit(&mut self, number: u64) -> Result<()> {
        self.send(&control::encode_number(kind::CREDIT, number)).await
    }

    /// A signal, another size, or that the end is known.
    ///
    /// # Errors
    /// As [`StreamWriter::input`].
    pub async fn steer(&mut self, steer: Steer) -> Result<()> {
        self.send(&control::encode_json(&Ask::Steer(steer))).await
    }
}

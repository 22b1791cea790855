//! A program that runs in a pod, its input and output in the hands of whoever started it.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use super::client::{lost, parse};
use crate::channel::control::{self, Answer, kind};
use crate::model::{Error, Result};

/// Bytes of input in one message.
const INPUT: usize = 64 * 1024;

/// A way to a shim.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// One program. If this is dropped, it goes on without: it must notice by itself that nobody is there.
pub struct Running {
    /// Its input.
    pub input: Input,
    /// Its output.
    pub output: Output,
}

/// A program's input.
pub struct Input {
    wire: WriteHalf<Box<dyn Wire>>,
}

/// A program's output.
pub struct Output {
    wire: ReadHalf<Box<dyn Wire>>,
    buffer: Vec<u8>,
}

/// What comes of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Standard output.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
    /// It has ended.
    Ended {
        /// Its exit code; 128+signal if a signal ended it.
        code: i32,
        /// Whether it was killed because its time was over.
        timed_out: bool,
        /// Whether a part of its output was lost.
        truncated: bool,
    },
}

impl Running {
    /// Of a wire on which it has been asked for; `buffer`: what was read of it already.
    pub fn new(wire: Box<dyn Wire>, buffer: Vec<u8>) -> Self {
        let (reader, writer) = tokio::io::split(wire);
        Running { input: Input { wire: writer }, output: Output { wire: reader, buffer } }
    }
}

impl Input {
    /// Gives it something.
    ///
    /// # Errors
    /// The shim is gone.
    pub async fn say(&mut self, bytes: &[u8]) -> Result<()> {
        for part in bytes.chunks(INPUT) {
            self.wire.write_all(&control::encode(kind::STDIN, part)).await.map_err(|e| lost("give it input", e))?;
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// The shim is gone.
    pub async fn end(&mut self) -> Result<()> {
        self.wire.write_all(&control::encode(kind::STDIN_END, &[])).await.map_err(|e| lost("end its input", e))
    }
}

impl Output {
    /// What comes next.
    ///
    /// # Errors
    /// It could not be started, or its sandbox or shim is gone.
    pub async fn next(&mut self) -> Result<Said> {
        let what = "run a program";
        loop {
            match control::take(&mut self.buffer) {
                Ok(Some((kind::STDOUT, bytes))) => return Ok(Said::Stdout(bytes)),
                Ok(Some((kind::STDERR, bytes))) => return Ok(Said::Stderr(bytes)),
                Ok(Some((kind::JSON, payload))) => match parse(what, &payload)? {
                    Answer::Exited { code, signal, timed_out, truncated } => {
                        let code = code.unwrap_or_else(|| 128 + signal.unwrap_or(0));
                        return Ok(Said::Ended { code, timed_out, truncated });
                    }
                    other => {
                        return Err(Error::internal(format!("{what}: the shim answered something else: {other:?}")));
                    }
                },
                Ok(Some(_)) => {}
                Ok(None) => {
                    if self.wire.read_buf(&mut self.buffer).await.map_err(|e| lost(what, e))? == 0 {
                        return Err(lost(what, std::io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                Err(_) => return Err(lost(what, std::io::Error::other("an impossible length"))),
            }
        }
    }
}

//! The client of a shim's socket. Connections are kept and used again: an exec costs one round trip.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::stream::FARTHEST;
use super::{ExecOutput, ExitRecord, Running, Shim, ShimStatus, ShimStream};
use crate::channel::control::{self, Answer, Ask, kind};
use crate::channel::secrets::SecretFiles;
use crate::channel::stream::StreamAsk;
use crate::channel::terminal::{ProcessInfo, TerminalEnd, TerminalInfo};
use crate::channel::{Exec, Identity, Launch, Probe};
use crate::host::command::EngineCommand;
use crate::model::{Attempt, Code, Error, Result};

/// For what a live shim and init answer at once.
const SOON: Duration = Duration::from_secs(10);
/// Idle connections kept.
const IDLE: usize = 4;

/// A shim, by its socket.
pub struct ShimClient {
    socket: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn send<T: Serialize + Sync>(&mut self, message: &T) -> std::io::Result<()> {
        self.stream.write_all(&control::encode_json(message)).await
    }

    async fn next(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        loop {
            match control::take(&mut self.buffer) {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(_) => return Err(std::io::Error::other("the shim sent an impossible length")),
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// A shim that does not answer (any more).
pub(super) fn lost(what: &str, e: std::io::Error) -> Error {
    Error::new(Code::Runtime, format!("{what}: the pod's shim does not answer")).because(e)
}

impl ShimClient {
    /// The shim of that socket.
    pub fn new(socket: PathBuf) -> Self {
        ShimClient { socket, idle: Mutex::new(Vec::new()) }
    }

    /// Whether somebody serves the socket.
    pub async fn answers(&self) -> bool {
        match self.connect().await {
            Ok(c) => {
                self.keep(c);
                true
            }
            Err(_) => false,
        }
    }

    async fn connect(&self) -> std::io::Result<Connection> {
        Ok(Connection { stream: UnixStream::connect(&self.socket).await?, buffer: Vec::with_capacity(4096) })
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE && connection.buffer.is_empty() {
            idle.push(connection);
        }
    }

    /// A connection on which the question has been asked: a kept one if it is still good.
    async fn ask(&self, what: &str, ask: &Ask) -> Result<Connection> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(mut c) = kept {
            // A shim that died closed its end: nothing is asked twice, since a closed socket takes nothing.
            if !is_closed(&c.stream) && c.send(ask).await.is_ok() {
                return Ok(c);
            }
        }
        let mut c = self.connect().await.map_err(|e| lost(what, e))?;
        c.send(ask).await.map_err(|e| lost(what, e))?;
        Ok(c)
    }

    async fn call(&self, what: &str, ask: &Ask, limit: Option<Duration>) -> Result<Answer> {
        let work = async {
            let mut c = self.ask(what, ask).await?;
            loop {
                let (k, payload) = c.next().await.map_err(|e| lost(what, e))?;
                if k == kind::JSON {
                    self.keep(c);
                    return parse(what, &payload);
                }
            }
        };
        match limit {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work)
                .await
                .map_err(|_| Error::new(Code::Timeout, format!("{what}: no answer in {} s", limit.as_secs())))?,
        }
    }

    async fn done(&self, what: &str, ask: &Ask, limit: Duration) -> Result<()> {
        match self.call(what, ask, Some(limit)).await? {
            Answer::Done => Ok(()),
            other => Err(unexpected(what, &other)),
        }
    }
}

impl ShimClient {
    async fn run(&self, exec: &Exec, stdin: Vec<u8>, timeout: Option<Duration>) -> Result<ExecOutput> {
        let what = "run the command";
        let mut exec = exec.clone();
        exec.stdin = !stdin.is_empty();
        let wants_input = exec.stdin;
        let mut c = self.ask(what, &Ask::Exec { exec, timeout_ms: timeout.map(millis), whole: false }).await?;
        let mut output = ExecOutput::default();
        let (payload, feeding) = {
            let (mut reader, mut writer) = c.stream.split();
            let feed = async {
                if wants_input {
                    for part in stdin.chunks(64 * 1024) {
                        writer.write_all(&control::encode(kind::STDIN, part)).await?;
                    }
                    writer.write_all(&control::encode(kind::STDIN_END, &[])).await?;
                }
                Ok::<_, std::io::Error>(())
            };
            let buffer = &mut c.buffer;
            let read = async {
                loop {
                    match control::take(buffer) {
                        Ok(Some((kind::JSON, payload))) => return Ok(payload),
                        Ok(Some((k, data))) => {
                            let stream = if k == kind::STDOUT { &mut output.stdout } else { &mut output.stderr };
                            let room = control::KEPT_OUTPUT.saturating_sub(stream.len());
                            output.truncated |= data.len() > room;
                            stream.extend_from_slice(&data[..data.len().min(room)]);
                        }
                        Ok(None) => {
                            if reader.read_buf(buffer).await? == 0 {
                                return Err(std::io::ErrorKind::UnexpectedEof.into());
                            }
                        }
                        Err(_) => return Err(std::io::Error::other("an impossible length")),
                    }
                }
            };
            tokio::pin!(feed, read);
            // The answer may come before all input is taken: a program need not read it.
            let mut feeding = true;
            loop {
                tokio::select! {
                    // A shim that takes no more has perhaps answered already.
                    fed = &mut feed, if feeding => match fed {
                        Ok(()) => feeding = false,
                        Err(_) => break ((&mut read).await, true),
                    },
                    payload = &mut read => break (payload, feeding),
                }
            }
        };
        let payload = payload.map_err(|e| lost(what, e))?;
        match parse(what, &payload)? {
            Answer::Exited { code, signal, timed_out, truncated } => {
                output.truncated |= truncated;
                output.exit_code = code.unwrap_or_else(|| 128 + signal.unwrap_or(0));
                output.timed_out = timed_out;
                if !feeding {
                    self.keep(c);
                }
                Ok(output)
            }
            other => Err(unexpected(what, &other)),
        }
    }
}

/// A shim of before a question was known understands nothing of it.
fn too_old(e: Error) -> Error {
    if e.code() != Code::InvalidRequest || !e.report().contains("not understood") {
        return e;
    }
    Error::new(Code::Unsupported, "the pod's shim is of an older torpor, which can't do that")
        .hint("stop the pod and start it again, or put it to sleep and wake it")
}

fn is_closed(stream: &UnixStream) -> bool {
    use std::os::fd::AsFd;
    let mut fds = [nix::poll::PollFd::new(stream.as_fd(), nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

pub(super) fn parse(what: &str, payload: &[u8]) -> Result<Answer> {
    match serde_json::from_slice(payload).attempt(Code::Internal, || format!("{what}: read the shim's answer"))? {
        Answer::Failed { code, message } => Err(Error::new(code, format!("{what}: {message}"))),
        answer => Ok(answer),
    }
}

fn unexpected(what: &str, answer: &Answer) -> Error {
    Error::internal(format!("{what}: the shim answered something else: {answer:?}"))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl Shim for ShimClient {
    async fn status(&self) -> Result<ShimStatus> {
        match self.call("ask the shim", &Ask::Status, Some(SOON)).await? {
            Answer::Status(status) => Ok(status),
            other => Err(unexpected("ask the shim", &other)),
        }
    }

    async fn create(&self, command: &EngineCommand) -> Result<()> {
        let args = command.args.iter().map(|a| a.clone().into_string());
        let ask = Ask::Create {
            program: command.program.clone(),
            args: args.collect::<Result<_, _>>().map_err(|_| Error::internal("a path that is not UTF-8"))?,
            env: command.env.clone(),
            timeout_ms: millis(command.timeout),
            log: command.log.clone(),
        };
        self.done("create the sandbox", &ask, command.timeout + SOON).await
    }

    async fn launch(&self, launch: &Launch) -> Result<()> {
        self.done("start the command", &Ask::Launch(launch.clone()), 3 * SOON).await
    }

    async fn exec(&self, exec: &Exec, stdin: Vec<u8>, timeout: Option<Duration>) -> Result<ExecOutput> {
        let work = self.run(exec, stdin, timeout);
        match timeout {
            None => work.await,
            // The shim answers by itself soon after the time is over; this is for a shim that does not.
            Some(limit) => tokio::time::timeout(limit + 3 * SOON, work)
                .await
                .map_err(|_| Error::new(Code::Timeout, "run the command: the pod's shim does not answer"))?,
        }
    }

    async fn open(&self, what: &StreamAsk) -> Result<ShimStream> {
        let label = match what {
            StreamAsk::Exec { .. } => "run the command",
            StreamAsk::Terminal(_) => "open the terminal",
            StreamAsk::Main { .. } => "follow the pod's command",
        };
        let begin = async {
            let mut c = self.ask(label, &Ask::Stream(what.clone())).await?;
            let (_, payload) = c.next().await.map_err(|e| lost(label, e))?;
            match parse(label, &payload).map_err(too_old)? {
                Answer::Opened(opened) if opened.start.max(opened.end) <= FARTHEST => {
                    Ok(ShimStream::new(c.stream, c.buffer, opened))
                }
                other => Err(unexpected(label, &other)),
            }
        };
        let late = |_| Error::new(Code::Timeout, format!("{label}: no answer in {} s", SOON.as_secs()));
        tokio::time::timeout(SOON, begin).await.map_err(late)?
    }

    async fn terminals(&self) -> Result<Vec<TerminalInfo>> {
        let what = "list the terminals";
        match self.call(what, &Ask::Terminals, Some(SOON)).await.map_err(too_old)? {
            Answer::Terminals(all) => Ok(all),
            other => Err(unexpected(what, &other)),
        }
    }

    async fn remove_terminal(&self, id: &str) -> Result<Option<TerminalEnd>> {
        let what = "remove the terminal";
        match self.call(what, &Ask::RemoveTerminal { id: id.into() }, Some(SOON)).await.map_err(too_old)? {
            Answer::Done => Ok(None),
            Answer::TerminalEnded(end) => Ok(Some(end)),
            other => Err(unexpected(what, &other)),
        }
    }

    async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        let what = "list the processes";
        match self.call(what, &Ask::Processes, Some(SOON)).await.map_err(too_old)? {
            Answer::Processes(all) => Ok(all),
            other => Err(unexpected(what, &other)),
        }
    }

    async fn begin(&self, exec: &Exec, timeout: Option<Duration>) -> Result<Running> {
        let ask = Ask::Exec { exec: exec.clone(), timeout_ms: timeout.map(millis), whole: true };
        // A connection of its own: it is not used again.
        let mut c = self.connect().await.map_err(|e| lost("run a program", e))?;
        c.send(&ask).await.map_err(|e| lost("run a program", e))?;
        Ok(Running::new(Box::new(c.stream), c.buffer))
    }

    async fn signal(&self, signal: i32) -> Result<()> {
        self.done("send a signal", &Ask::Signal { signal }, SOON).await
    }

    async fn probe(&self, probe: &Probe, timeout: Duration) -> Result<()> {
        self.done("probe", &Ask::Probe { probe: probe.clone(), timeout_ms: millis(timeout) }, timeout + SOON).await
    }

    async fn quiesce(&self) -> Result<()> {
        self.done("quiesce the pod", &Ask::Quiesce, SOON).await
    }

    async fn resume(&self) -> Result<()> {
        self.done("let the pod go on", &Ask::Resume, SOON).await
    }

    async fn identify(&self, identity: &Identity) -> Result<()> {
        self.done("tell the pod its identity", &Ask::Identify(identity.clone()), 3 * SOON).await
    }

    async fn secrets(&self, files: &SecretFiles) -> Result<()> {
        let what = "give the pod its secrets";
        let message = control::encode(kind::SECRETS, &files.encode());
        let work = async {
            // A connection of its own: nothing of them is kept.
            let mut c = self.connect().await.map_err(|e| lost(what, e))?;
            c.stream.write_all(&message).await.map_err(|e| lost(what, e))?;
            let (_, payload) = c.next().await.map_err(|e| lost(what, e))?;
            match parse(what, &payload)? {
                Answer::Done => Ok(()),
                other => Err(unexpected(what, &other)),
            }
        };
        // An init of before secrets says nothing.
        tokio::time::timeout(3 * SOON, work).await.map_err(|_| {
            Error::new(Code::Timeout, format!("{what}: no answer"))
                .hint("a snapshot of an older torpor can't be given secrets")
        })?
    }

    async fn wait(&self) -> Result<ExitRecord> {
        match self.call("wait for the pod", &Ask::Wait, None).await? {
            Answer::Ended(exit) => Ok(exit),
            other => Err(unexpected("wait for the pod", &other)),
        }
    }

    async fn shutdown(&self) -> Result<()> {
        self.done("end the shim", &Ask::Shutdown, SOON).await
    }

    async fn end(&self) -> Result<()> {
        match self.done("end the sandbox and its shim", &Ask::End, SOON).await {
            // A shim of before that question was known.
            Err(e) if e.code() == Code::InvalidRequest => self.shutdown().await,
            done => done,
        }
    }
}

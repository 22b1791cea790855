//! Programs that are followed while they run, and what runs in a pod.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::pod::Pod;
use super::terminals::{self, Join, Joined};
use super::{Core, admit};
use crate::api::terminal as api;
use crate::channel::stream::StreamAsk;
use crate::channel::terminal::{MAIN_TERMINAL, ProcessInfo};
use crate::host::shim::{ShimStream, StreamReader, StreamWriter};
use crate::model::{Code, Error, PodState, Result};

/// WebSockets that are open at once.
pub(super) const MOST_SOCKETS: usize = 2048;

/// A program that is followed.
pub struct Followed {
    stream: ShimStream,
    pod: Arc<Pod>,
    _permit: OwnedSemaphorePermit,
}

impl Followed {
    /// What comes out of it, and what goes in.
    pub fn halves(&mut self) -> (&mut StreamReader, &mut StreamWriter) {
        (&mut self.stream.reader, &mut self.stream.writer)
    }

    /// Waits until it was started, or says why it could not be: init does what it is asked in order, and what it says of it is
    /// there once it has answered what it was asked later.
    async fn begun(&mut self) -> Result<()> {
        self.pod.shim()?.terminals().await?;
        tokio::select! {
            biased;
            said = self.stream.reader.next() => said.map(drop),
            () = std::future::ready(()) => Ok(()),
        }
    }

    /// Why its stream broke, in words that fit what has become of the pod.
    pub fn explain(&self, e: Error) -> Error {
        let record = self.pod.record();
        if matches!(record.state, PodState::Suspending | PodState::Sleeping) {
            return Error::new(Code::WrongState, format!("pod {} was put to sleep", record.spec.name))
                .hint("the program goes on when it wakes, without this connection; what runs on a terminal can be joined again");
        }
        self.pod.explain(e)
    }
}

/// What an exec or attach gives: a program's streams, or a terminal.
pub enum Attached {
    /// Streams.
    Program(Box<Followed>),
    /// A terminal.
    Terminal(Joined),
}

impl Core {
    /// The right to one more open WebSocket.
    ///
    /// # Errors
    /// [`Code::Exhausted`]: there are too many.
    pub fn socket_permit(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.sockets).try_acquire_owned().map_err(|_| {
            Error::new(Code::Exhausted, format!("{MOST_SOCKETS} WebSockets are open")).hint("close some, and try again")
        })
    }

    async fn follow(&self, pod: Arc<Pod>, what: StreamAsk) -> Result<Attached> {
        let permit = pod.stream_permit()?;
        let stream = pod.shim()?.open(&what).await?;
        Ok(Attached::Program(Box::new(Followed { stream, pod, _permit: permit })))
    }

    /// `GET /v1/pods/{pod}/exec`: runs a program and follows it.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn exec_stream(&self, reference: &str, start: api::ExecStart) -> Result<Attached> {
        terminals::admit_program(&start.command)?;
        let size = terminals::size_if_given(start.cols, start.rows)?;
        let (tty, timeout_ms) = (start.tty, start.timeout_ms);
        let exec = terminals::exec(start.command, &start.env, start.working_dir, start.user, start.stdin)?;
        let pod = self.find(reference)?;
        terminals::awake(&pod, "run a command in it")?;
        if tty {
            let create = crate::channel::terminal::NewTerminal { exec, size, timeout_ms };
            let join = Join { create: Some(create), ..Join::default() };
            return Ok(Attached::Terminal(self.join(&pod, join).await?));
        }
        let mut attached = self.follow(Arc::clone(&pod), StreamAsk::Exec { exec, timeout_ms }).await?;
        if let (true, Attached::Program(followed)) = (start.detach, &mut attached) {
            followed.begun().await.map_err(|e| pod.explain(e))?;
        }
        Ok(attached)
    }

    /// `GET /v1/pods/{pod}/attach`: follows the pod's command.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn attach_pod(&self, reference: &str, stdin: bool, join: Join) -> Result<Attached> {
        let pod = self.find(reference)?;
        terminals::awake(&pod, "attach to it")?;
        let spec = pod.record().spec;
        if spec.tty {
            let join = Join { id: Some(MAIN_TERMINAL.into()), create: None, ..join };
            return Ok(Attached::Terminal(self.join(&pod, join).await?));
        }
        if stdin && !spec.stdin {
            return Err(Error::new(Code::WrongState, format!("the command of pod {} takes no input", spec.name))
                .hint("make the pod with stdin: true (`torpor run -i`), or attach without input"));
        }
        self.follow(pod, StreamAsk::Main { stdin }).await
    }

    /// `GET /v1/pods/{pod}/top`.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn top(&self, reference: &str) -> Result<api::Top> {
        let pod = self.find(reference)?;
        terminals::awake(&pod, "list its processes")?;
        let processes = pod.shim()?.processes().await.map_err(|e| pod.explain(e))?;
        Ok(api::Top { processes: processes.into_iter().map(show).collect() })
    }
}

fn show(p: ProcessInfo) -> api::Process {
    api::Process {
        pid: p.pid,
        parent: p.parent,
        uid: p.uid,
        state: p.state,
        cpu_ms: p.cpu_ms,
        memory: p.memory,
        threads: p.threads,
        command: p.command,
    }
}

/// A signal by name or number.
///
/// # Errors
/// [`Code::InvalidRequest`].
pub fn signal(text: &str) -> Result<i32> {
    admit::signal(text)
}

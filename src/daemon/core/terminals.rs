//! Terminals of pods. They are init's; here is who looks at them.

mod follow;
mod patience;
mod viewer;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::pod::{Pod, wrong_state};
use super::{Core, admit};
use crate::api::terminal as api;
use crate::channel::Exec;
use crate::channel::stream::StreamAsk;
use crate::channel::terminal::{
    MAIN_TERMINAL, NewTerminal, OpenTerminal, TerminalEnd, TerminalInfo, WindowSize, is_terminal_id,
};
use crate::model::{Code, Error, PodState, Result};
use follow::Follower;
use viewer::Shared;
pub use viewer::{End, Shown, Viewer};

/// Terminals of one pod that are followed, by their ids.
pub(super) type Followed = tokio::sync::Mutex<BTreeMap<String, Arc<Shared>>>;

/// The most columns, and lines.
const LARGEST: u16 = 1000;

/// Which terminal somebody wants to look at.
#[derive(Debug, Clone, Default)]
pub struct Join {
    /// Its id; none: a new one's.
    pub id: Option<String>,
    /// How it is made if it is not there; none: it is not.
    pub create: Option<NewTerminal>,
    /// Its size from now on: the last one given counts, whoever gives it.
    pub size: Option<WindowSize>,
    /// Place of the first byte that is wanted.
    pub from: Option<u64>,
}

/// Somebody who looks, and how it began.
pub struct Joined {
    /// What is shown.
    pub viewer: Viewer,
    /// Whether the terminal was made for it.
    pub created: bool,
}

/// A size that makes sense.
///
/// # Errors
/// [`Code::InvalidRequest`].
pub fn size(cols: u16, rows: u16) -> Result<WindowSize> {
    if (1..=LARGEST).contains(&cols) && (1..=LARGEST).contains(&rows) {
        return Ok(WindowSize { cols, rows });
    }
    Err(Error::invalid(format!("a terminal of {cols} columns and {rows} lines: 1 to {LARGEST} of each are possible")))
}

/// A size of which both numbers, or none, are given.
///
/// # Errors
/// [`Code::InvalidRequest`].
pub fn size_if_given(cols: Option<u16>, rows: Option<u16>) -> Result<Option<WindowSize>> {
    match (cols, rows) {
        (None, None) => Ok(None),
        (Some(cols), Some(rows)) => size(cols, rows).map(Some),
        _ => Err(Error::invalid("cols and rows go together")),
    }
}

/// Checks an id.
fn admit_id(id: &str) -> Result<()> {
    if is_terminal_id(id) {
        return Ok(());
    }
    let shown: String = id.chars().take(80).collect();
    Err(Error::invalid(format!("{shown:?} is no terminal's id")).hint("1 to 64 letters, digits, -, _ and ."))
}

fn made_up_id() -> Result<String> {
    Ok(crate::model::PodId::random()?.as_str()[..12].to_owned())
}

/// What runs on a new terminal, checked.
///
/// # Errors
/// [`Code::InvalidRequest`].
pub fn admit_terminal(request: &api::CreateTerminal) -> Result<NewTerminal> {
    admit::command(&request.command)?;
    let request = request.clone();
    let exec = exec(request.command, &request.env, request.working_dir, request.user, true)?;
    Ok(NewTerminal { exec, size: size_if_given(request.cols, request.rows)?, timeout_ms: request.timeout_ms })
}

/// Checks what is to be run.
pub(super) fn admit_program(command: &[String]) -> Result<()> {
    if command.is_empty() {
        return Err(Error::invalid("no command was given"));
    }
    admit::command(command)
}

/// A program's surroundings, checked.
pub(super) fn exec(
    command: Vec<String>,
    env: &BTreeMap<String, String>,
    working_dir: Option<String>,
    user: Option<String>,
    stdin: bool,
) -> Result<Exec> {
    admit::env(env.iter())?;
    admit::directory(working_dir.as_ref())?;
    admit::user(user.as_ref())?;
    Ok(Exec { command, env: env.iter().map(|(k, v)| format!("{k}={v}")).collect(), working_dir, user, stdin })
}

/// The pod, if programs in it can be talked to.
pub(super) fn awake(pod: &Pod, to: &str) -> Result<()> {
    let record = pod.record();
    if record.state == PodState::Running { Ok(()) } else { Err(wrong_state(&record, to)) }
}

impl Core {
    /// `GET /v1/pods/{pod}/terminals`.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn list_terminals(&self, reference: &str) -> Result<Vec<api::Terminal>> {
        let pod = self.find(reference)?;
        awake(&pod, "list its terminals")?;
        let all = pod.shim()?.terminals().await.map_err(|e| pod.explain(e))?;
        let followed = pod.terminals().lock().await;
        Ok(all.iter().map(|t| show(t, followed.get(&t.id).map_or(0, |s| s.viewers()))).collect())
    }

    /// `GET /v1/pods/{pod}/terminals/{id}`.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn inspect_terminal(&self, reference: &str, id: &str) -> Result<api::Terminal> {
        let all = self.list_terminals(reference).await?;
        all.into_iter().find(|t| t.id == id).ok_or_else(|| no_such(id))
    }

    /// `POST /v1/pods/{pod}/terminals`.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn create_terminal(&self, reference: &str, request: api::CreateTerminal) -> Result<api::Terminal> {
        let id = request.id.clone().map_or_else(made_up_id, Ok)?;
        admit_id(&id)?;
        let create = Some(admit_terminal(&request)?);
        let pod = self.find(reference)?;
        awake(&pod, "open a terminal in it")?;
        if id == MAIN_TERMINAL {
            return Err(Error::invalid("the terminal main is that of the pod's own command").hint("take another id"));
        }
        let open = OpenTerminal { id: id.clone(), create, only_new: true, quiet: true, ..OpenTerminal::default() };
        pod.shim()?.open(&StreamAsk::Terminal(open)).await.map_err(|e| pod.explain(e))?;
        self.inspect_terminal(reference, &id).await
    }

    /// `DELETE /v1/pods/{pod}/terminals/{id}`.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn delete_terminal(&self, reference: &str, id: &str) -> Result<api::Terminal> {
        let terminal = self.inspect_terminal(reference, id).await?;
        if id == MAIN_TERMINAL {
            return Err(
                Error::new(Code::InUse, "the pod's own command runs on the terminal main").hint("stop the pod instead")
            );
        }
        let pod = self.find(reference)?;
        let ended = pod.shim()?.remove_terminal(id).await.map_err(|e| pod.explain(e))?;
        Ok(api::Terminal { exit_code: ended.map(|e| e.exit_code()), ..terminal })
    }

    /// `GET /v1/pods/{pod}/terminal`: makes or joins one.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn join_terminal(&self, reference: &str, join: Join) -> Result<Joined> {
        let pod = self.find(reference)?;
        self.join(&pod, join).await
    }

    pub(super) async fn join(&self, pod: &Arc<Pod>, join: Join) -> Result<Joined> {
        let id = join.id.map_or_else(made_up_id, Ok)?;
        admit_id(&id)?;
        awake(pod, "open a terminal in it")?;
        let create = join.create.filter(|_| id != MAIN_TERMINAL);
        let mut followed = pod.terminals().lock().await;
        followed.retain(|_, s| !s.close_if_empty());
        if let Some(viewer) = followed.get(&id).and_then(|s| s.join(join.from)) {
            drop(followed);
            if let Some(size) = join.size {
                viewer.hand().resize(size).await;
            }
            return Ok(Joined { viewer, created: false });
        }
        let permit = pod.stream_permit()?;
        let open = OpenTerminal { id: id.clone(), create, size: join.size, ..OpenTerminal::default() };
        let stream = pod.shim()?.open(&StreamAsk::Terminal(open)).await.map_err(|e| explain(e, pod, &id))?;
        let created = stream.opened.created;
        let (shared, input) = Shared::new(&id, &stream.opened);
        let Some(viewer) = shared.join(join.from) else { return Err(Error::internal("a new terminal is closed")) };
        followed.insert(id, Arc::clone(&shared));
        drop(followed);
        let follower = Follower { shared, pod: Arc::clone(pod), input, shutdown: self.shutdown.clone() };
        tokio::spawn(async move {
            follower.run(stream).await;
            drop(permit);
        });
        Ok(Joined { viewer, created })
    }
}

fn no_such(id: &str) -> Error {
    let shown: String = id.chars().take(80).collect();
    Error::new(Code::NotFound, format!("the pod has no terminal {shown:?}")).hint("`torpor terminal ls POD` lists them")
}

fn explain(e: Error, pod: &Pod, id: &str) -> Error {
    if e.code() != Code::NotFound {
        return e;
    }
    let record = pod.record();
    if id == MAIN_TERMINAL && !record.spec.tty {
        return Error::new(Code::NotFound, format!("the command of pod {} has no terminal", record.spec.name))
            .hint("make the pod with tty: true (`torpor run -t`), or open a terminal in it");
    }
    no_such(id)
}

fn show(t: &TerminalInfo, viewers: usize) -> api::Terminal {
    let end: Option<TerminalEnd> = t.end;
    api::Terminal {
        id: t.id.clone(),
        command: t.command.clone(),
        pid: t.pid,
        cols: t.size.cols,
        rows: t.size.rows,
        created_at: Timestamp::from_second(t.created).unwrap_or(Timestamp::UNIX_EPOCH).to_string(),
        viewers,
        exit_code: end.map(|e| e.exit_code()),
        timed_out: end.is_some_and(|e| e.timed_out),
    }
}

//! The container manager: containers by an id of 8 hexadecimal digits, each at a host port of its own, with exec, logs and, if
//! it is set so, spares made ahead of need.
//!
//! A container is a pod with a label; its id is the beginning of the pod's.

mod create;
mod logs;
mod pool;
mod show;
mod terminal;

pub use pool::Pool;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, Lenient, Path, Refused};
use super::{SURFACE, complete};
use crate::api::types;
use crate::config::surfaces;
use crate::daemon::core::Core;
use crate::daemon::core::list::Which;
use crate::model::{Code, Error, Result};

/// What its pods' label says.
const CONTAINERS: &str = "containers";
/// The label of a spare: it is nobody's yet. Its value is the image's digest.
const SPARE: &str = "torpor.spare";
/// Characters of a container's id.
const ID: usize = 8;
/// Where commands run.
const APP: &str = "/app";
/// Milliseconds that a command may take if nothing is said, and at most.
const TIMEOUT: u64 = 60_000;
const LONGEST: u64 = 24 * 3600 * 1000;

/// What is behind the routes.
struct Containers {
    core: Arc<Core>,
    settings: surfaces::Containers,
    pool: Option<Arc<Pool>>,
    since: Instant,
}

/// The routes, with spares to be handed out if there are some. Who may ask is not looked at here.
pub fn router(core: Arc<Core>, pool: Option<Arc<Pool>>) -> Router {
    let settings = core.config().containers.clone();
    let routes = Router::new()
        .route("/health", get(health))
        .route("/api/containers", get(list).post(create::create))
        .route("/api/containers/{id}", get(inspect).delete(delete))
        .route("/api/containers/{id}/exec", post(exec))
        .route("/api/containers/{id}/logs", get(logs::logs))
        .route("/api/containers/{id}/terminal", get(terminal::terminal))
        .route("/api/containers/{id}/setup", post(setup));
    complete(routes, Arc::new(Containers { core, settings, pool, since: Instant::now() }))
}

/// The beginning of a pod's id that is its container's.
fn short(pod: &types::Pod) -> &str {
    pod.id.get(..ID).unwrap_or(&pod.id)
}

/// All containers, spares left out.
fn all(core: &Core) -> Vec<types::Pod> {
    let which = Which { labels: vec![(SURFACE.into(), Some(CONTAINERS.into()))], ..Which::default() };
    let mut all = core.list_some(&which).0;
    all.retain(|pod| !pod.labels.contains_key(SPARE));
    all
}

impl Containers {
    /// The container of that id, or of a pod's whole id.
    fn find(&self, id: &str) -> Result<types::Pod> {
        let fits = |pod: &types::Pod| short(pod) == id || pod.id == id;
        let mut found = all(&self.core).into_iter().filter(fits);
        match (found.next(), found.next()) {
            (Some(pod), None) => Ok(pod),
            (Some(_), Some(_)) => Err(Error::new(Code::NotFound, format!("more than one container is called {id}"))
                .hint("give the pod's whole id")),
            (None, _) => {
                let shown: String = id.chars().take(80).collect();
                Err(Error::new(Code::NotFound, format!("No such container: {shown}")))
            }
        }
    }
}

type Stated = State<Arc<Containers>>;

async fn health(State(this): Stated) -> Json<Value> {
    let uptime = this.since.elapsed().as_secs_f64();
    Json(json!({"status": "ok", "containerCount": all(&this.core).len(), "uptime": uptime}))
}

async fn list(State(this): Stated) -> Json<Value> {
    Json(all(&this.core).iter().map(show::summary).collect())
}

async fn inspect(State(this): Stated, Path(id): Path<String>) -> Answer<Json<Value>> {
    Ok(Json(show::whole(&this.find(&id)?)))
}

async fn delete(State(this): Stated, Path(id): Path<String>) -> Answer<Json<Value>> {
    this.core.delete_pod(&this.find(&id)?.id, true).await?;
    Ok(Json(json!({"success": true})))
}

#[derive(Deserialize)]
struct Exec {
    command: Option<String>,
    timeout: Option<u64>,
}

async fn exec(State(this): Stated, Path(id): Path<String>, Lenient(request): Lenient<Exec>) -> Answer<Json<Value>> {
    let command = request.command.filter(|c| !c.is_empty()).ok_or_else(|| Error::invalid("command is missing"))?;
    let limit = request.timeout.unwrap_or(TIMEOUT);
    if !(1..=LONGEST).contains(&limit) {
        return Err(Error::invalid(format!("timeout may be 1 to {LONGEST} milliseconds")).into());
    }
    let pod = this.find(&id)?;
    let exec = types::ExecPod {
        command: vec!["sh".into(), "-c".into(), command],
        working_dir: Some(APP.into()),
        timeout_ms: Some(limit),
        ..types::ExecPod::default()
    };
    let done = this.core.exec_pod(&pod.id, exec).await?;
    if done.timed_out {
        let text = format!("the command was killed: it took longer than {limit} ms");
        return Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, text));
    }
    if done.truncated {
        tracing::warn!(pod = %pod.id, "a command said more than is kept");
    }
    Ok(Json(json!({
        "exitCode": done.exit_code,
        "stdout": String::from_utf8_lossy(&done.stdout),
        "stderr": String::from_utf8_lossy(&done.stderr),
    })))
}

async fn setup(State(this): Stated, Path(id): Path<String>) -> Answer<Json<Value>> {
    this.find(&id)?;
    Err(Refused::new(StatusCode::NOT_IMPLEMENTED, "setup is not built yet: clone and install by exec"))
}

//! The pod agent: pods `pod-<podId>` with `<pods>/<podId>` at /workspace and ports side by side.
//!
//! A pod's directory is made before the pod and removed after it. After a crash between the two: a directory that is empty, or
//! whose pod is gone; the next create uses it, and the next delete of that podId removes it.

use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, Lenient, Path, Refused, Text};
use super::turns::Turns;
use super::{SURFACE, complete, image, to_the_end};
use crate::api::types;
use crate::config::surfaces;
use crate::daemon::core::Core;
use crate::host::files;
use crate::host::progress::Progress;
use crate::host::trees::Place;
use crate::model::{Code, Error, PodName, Result};
use crate::plan::runs::runs;

/// What its pods' label says.
const AGENT: &str = "agent";
/// Where a pod's directory is seen in it.
const WORKSPACE: &str = "/workspace";

/// What is behind the routes.
struct Agent {
    core: Arc<Core>,
    settings: surfaces::Agent,
    turns: Turns,
}

/// The routes. Who may ask is not looked at here.
pub fn router(core: Arc<Core>, settings: surfaces::Agent) -> Router {
    let routes = Router::new()
        .route("/health", get(health))
        .route("/create-pod", post(create))
        .route("/stop-pod", post(stop))
        .route("/delete-pod", post(delete))
        .route("/snapshot/{podId}", post(snapshot))
        .route("/restore-pod", post(restore));
    complete(routes, Arc::new(Agent { core, settings, turns: Turns::default() }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Create {
    pod_id: Option<Text>,
    config: Option<Limits>,
}

#[derive(Default, Deserialize)]
struct Limits {
    tier: Option<String>,
    cpu: Option<Text>,
    memory: Option<Text>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Which {
    pod_id: Option<Text>,
    snapshot_id: Option<Text>,
}

/// A podId: part of a pod's name and of a path.
#[derive(Clone)]
struct Id(String);

impl Id {
    fn of(given: Option<Text>) -> Result<Self> {
        let text = given.ok_or_else(|| Error::invalid("podId is missing"))?.into_string();
        Id(text).checked()
    }

    fn checked(self) -> Result<Self> {
        let fine = self.0.parse::<PodName>().and_then(|_| self.name().parse::<PodName>());
        fine.map(|_| ()).map_err(|_| {
            let shown: String = self.0.chars().take(80).collect();
            Error::invalid(format!("{shown:?} is no podId"))
                .hint("a letter or digit, then letters, digits, _ . or -, 59 characters at most")
        })?;
        Ok(self)
    }

    fn name(&self) -> String {
        format!("pod-{}", self.0)
    }
}

/// Clients know two statuses: theirs was wrong, or it failed.
fn failed(e: Error) -> Refused {
    let wrong = e.code() == Code::InvalidRequest;
    Refused::from(e).with(if wrong { StatusCode::BAD_REQUEST } else { StatusCode::INTERNAL_SERVER_ERROR })
}

fn done() -> Json<Value> {
    Json(json!({"success": true}))
}

async fn health() -> Json<Value> {
    Json(json!({"status": "healthy"}))
}

async fn create(State(agent): State<Arc<Agent>>, Lenient(request): Lenient<Create>) -> Answer<Json<Value>> {
    let id = Id::of(request.pod_id).map_err(failed)?;
    let limits = request.config.unwrap_or_default();
    let pod = to_the_end(async move {
        let _turn = agent.turns.take(&id.0).await;
        agent.create(&id, limits).await
    });
    let pod = pod.await.map_err(failed)?;
    let ports: serde_json::Map<String, Value> =
        pod.ports.iter().map(|p| (p.pod.to_string(), Value::from(p.host))).collect();
    Ok(Json(json!({"success": true, "containerId": pod.id, "internalIp": pod.address, "ports": ports})))
}

async fn stop(State(agent): State<Arc<Agent>>, Lenient(request): Lenient<Which>) -> Answer<Json<Value>> {
    let id = Id::of(request.pod_id).map_err(failed)?;
    let pod = agent.pod(&id).map_err(failed)?;
    // What does not run is stopped.
    if !matches!(pod.state.as_str(), "created" | "stopped" | "sleeping" | "failed") {
        agent.core.stop_pod(&pod.id, types::StopPod::default()).await.map_err(failed)?;
    }
    Ok(done())
}

async fn delete(State(agent): State<Arc<Agent>>, Lenient(request): Lenient<Which>) -> Answer<Json<Value>> {
    let id = Id::of(request.pod_id).map_err(failed)?;
    let work = to_the_end(async move {
        let _turn = agent.turns.take(&id.0).await;
        agent.delete(&id).await
    });
    work.await.map_err(failed)?;
    Ok(done())
}

async fn snapshot(State(agent): State<Arc<Agent>>, Path(id): Path<String>) -> Answer<Json<Value>> {
    let id = Id(id).checked().map_err(failed)?;
    let pod = agent.pod(&id).map_err(failed)?;
    let taken = agent.core.create_snapshot(&pod.id, Progress::default()).await.map_err(failed)?;
    Ok(Json(json!({"success": true, "snapshotId": taken.id})))
}

async fn restore(State(agent): State<Arc<Agent>>, Lenient(request): Lenient<Which>) -> Answer<Json<Value>> {
    let id = Id::of(request.pod_id).map_err(failed)?;
    let snapshot = request.snapshot_id.ok_or_else(|| failed(Error::invalid("snapshotId is missing")))?;
    let pod = agent.pod(&id).map_err(failed)?;
    let request = types::RestorePod { snapshot: snapshot.into_string(), secrets: Vec::new() };
    agent.core.restore_pod(&pod.id, request, Progress::default()).await.map_err(failed)?;
    Ok(done())
}

impl Agent {
    fn directory(&self, id: &Id) -> PathBuf {
        self.settings.pods.join(&id.0)
    }

    /// The pod of that id, if it is there. Others than those made here are nobody's business.
    fn find(&self, id: &Id) -> Result<Option<types::Pod>> {
        match self.core.inspect_pod(&id.name()) {
            Ok(pod) if pod.labels.get(SURFACE).is_some_and(|s| s == AGENT) => Ok(Some(pod)),
            Ok(_) => Err(Error::new(Code::InUse, format!("pod {} was not made by this agent", id.name()))),
            Err(e) if e.code() == Code::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn pod(&self, id: &Id) -> Result<types::Pod> {
        self.find(id)?.ok_or_else(|| Error::new(Code::NotFound, format!("no pod {}", id.0)))
    }

    async fn create(&self, id: &Id, limits: Limits) -> Result<types::Pod> {
        let mut request = self.request(id, limits)?;
        let directory = self.directory(id);
        let new = !files::is_there(&directory)?;
        files::create_dir_all(&directory, 0o755)?;
        let made = self.create_at_free_ports(&mut request).await;
        if made.is_err() && new {
            // Nothing was in it: that of a pod which is there was not new.
            let _ = files::remove_empty_dir(&directory);
        }
        made
    }

    fn request(&self, id: &Id, limits: Limits) -> Result<types::CreatePod> {
        let s = &self.settings;
        let cpus = |text: Text| {
            let text = text.into_string();
            text.trim().parse::<f64>().map_err(|_| {
                let shown: String = text.chars().take(40).collect();
                Error::invalid(format!("{shown:?} is no number of processors"))
            })
        };
        let volume = types::VolumeSpec {
            source: self.directory(id).display().to_string(),
            target: WORKSPACE.into(),
            read_only: false,
        };
        Ok(types::CreatePod {
            name: Some(id.name()),
            image: image(&s.images, &s.image).to_owned(),
            command: s.command.clone(),
            tier: Some(limits.tier.unwrap_or_else(|| s.tier.clone())),
            cpus: limits.cpu.map(cpus).transpose()?,
            memory: limits.memory.map(|m| types::Size::Text(m.into_string())),
            volumes: vec![volume],
            labels: [(SURFACE.to_owned(), AGENT.to_owned())].into(),
            start: true,
            ..types::CreatePod::default()
        })
    }

    /// At the lowest ports side by side that nobody has.
    async fn create_at_free_ports(&self, request: &mut types::CreatePod) -> Result<types::Pod> {
        let (s, range) = (&self.settings, self.settings.port_range);
        let length = u16::try_from(s.ports.len()).unwrap_or(u16::MAX);
        let taken = self.core.host_ports();
        for first in runs(range.first, range.last, length, length, &taken) {
            let pair = |(pod, host): (&u16, u16)| {
                types::PortSpec::Full(types::PortPair { pod: *pod, host: Some(host), protocol: None, address: None })
            };
            request.ports = s.ports.iter().zip(first..=u16::MAX).map(pair).collect();
            match self.core.create_pod_keeping(request.clone(), &[FsPath::new(WORKSPACE)]).await {
                // Another program has one of them, or another pod was quicker.
                Err(e) if e.code() == Code::PortTaken => {}
                made => return made,
            }
        }
        let text = format!("no {length} host ports side by side are free from {} to {}", range.first, range.last);
        Err(Error::new(Code::Exhausted, text)
            .hint("delete pods that are no longer needed, or set port-range in [agent]"))
    }

    async fn delete(&self, id: &Id) -> Result<()> {
        if let Some(pod) = self.find(id)? {
            match self.core.delete_pod(&pod.id, true).await {
                Err(e) if e.code() != Code::NotFound => return Err(e),
                _ => {}
            }
        }
        let directory = self.directory(id);
        if !files::is_there(&self.settings.pods)? {
            return Ok(());
        }
        to_the_end(async move {
            let removed = tokio::task::spawn_blocking(move || Place::of(&directory)?.clear()).await;
            removed.unwrap_or_else(|e| Err(Error::internal("remove the pod's directory").because(e)))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_id_is_one_part_of_a_path_and_of_a_name() {
        let good = |text: &str| Id(text.into()).checked().is_ok();
        for id in ["test-1700000000", "a", "7", "A.b_c-d", &"x".repeat(59)] {
            assert!(good(id), "{id}");
        }
        for id in ["", ".", "..", "../x", "a/b", "/etc", ".x.torpor-old", "-x", "a b", "a\0", "a\n", "%2e", "\u{e4}"] {
            assert!(!good(id), "{id:?}");
        }
        assert!(!good(&"x".repeat(60)));
        assert!(Id::of(None).is_err());
    }
}

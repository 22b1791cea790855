//! Records as the API shows them.

use super::Core;
use crate::api::types;
use crate::model::{Forward, ImageRecord, Manifest, PodRecord, PodState, SnapshotInfo};

impl Core {
    /// A pod as the API shows it.
    pub(super) fn show_pod(&self, r: &PodRecord) -> types::Pod {
        let engine = self.host.engines.get(&r.engine).map_or_else(|_| r.engine.to_string(), |e| e.version.clone());
        types::Pod {
            id: r.id.to_string(),
            name: r.spec.name.to_string(),
            state: r.state.as_str().into(),
            image: r.spec.image.to_string(),
            command: r.spec.command.clone(),
            program: r.spec.program(&r.image_config),
            env_names: r.spec.env.keys().cloned().collect(),
            secrets: super::secrets::show(&r.spec.secrets),
            address: r.address.to_string(),
            ports: r.forwards.iter().map(forward).collect(),
            resources: super::capacity::limits(&r.spec.resources),
            volumes: r
                .spec
                .volumes
                .iter()
                .map(|v| types::VolumeSpec {
                    source: v.source.clone(),
                    target: v.target.display().to_string(),
                    read_only: v.read_only,
                })
                .collect(),
            labels: r.spec.labels.clone(),
            hostname: super::boot::hostname(r),
            incarnation: r.incarnation,
            sandbox_pid: r.sandbox_pid,
            engine,
            snapshot: r.snapshot.as_ref().map(ToString::to_string),
            created_at: r.created_at.to_string(),
            started_at: r.started_at.map(|t| t.to_string()),
            finished_at: r.finished_at.map(|t| t.to_string()),
            exit_code: r.exit_code,
            exit_reason: r.exit_reason.map(reason),
            last_error: r.last_error.clone(),
            health: self.pod(&r.id).and_then(|p| p.health()).map(|h| super::health::show(&h)),
            restart: r.spec.restart.to_string(),
            on_shutdown: r.spec.on_shutdown.as_str().to_owned(),
            tty: r.spec.tty,
            stdin: r.spec.stdin,
            auto_remove: r.spec.auto_remove,
            restart_count: r.restarts.count,
            restart_at: r.restarts.at.filter(|_| r.state == PodState::Stopped).map(|t| t.to_string()),
        }
    }
}

/// A forward as the API shows it.
pub(super) fn forward(f: &Forward) -> types::PortInfo {
    types::PortInfo {
        pod: f.pod,
        host: f.host,
        protocol: f.protocol.to_string(),
        address: f.address.map(|a| a.to_string()),
    }
}

/// The stable name of why a command ended.
pub(super) fn reason(r: crate::model::ExitReason) -> String {
    serde_json::to_value(r).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// An image as the API shows it.
pub(super) fn image(i: &ImageRecord) -> types::Image {
    types::Image {
        name: i.name.to_string(),
        id: i.id.to_string(),
        size: i.layers.iter().map(|l| l.size).sum(),
        layers: i.layers.iter().map(|l| types::Layer { digest: l.digest.to_string(), size: l.size }).collect(),
        config: types::ImageConfig {
            entrypoint: i.config.entrypoint.clone(),
            cmd: i.config.cmd.clone(),
            env: i.config.env.clone(),
            working_dir: i.config.working_dir.clone(),
            user: i.config.user.clone(),
            stop_signal: i.config.stop_signal.clone(),
            health: i.config.healthcheck.as_ref().map(super::health::spec),
        },
        created_at: i.created_at.to_string(),
    }
}

/// A snapshot as the API shows it.
pub(super) fn snapshot(s: &SnapshotInfo) -> types::Snapshot {
    types::Snapshot {
        id: s.id.to_string(),
        pod: s.pod_name.clone(),
        pod_id: s.pod.to_string(),
        image: s.image.clone(),
        created_at: s.created_at.to_string(),
        size: s.size,
        stored: s.stored,
    }
}

/// A manifest as the API shows it.
pub(super) fn manifest(m: &Manifest) -> types::Snapshot {
    snapshot(&crate::host::store::info(m))
}

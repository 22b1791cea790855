//! Pods as this surface's clients see containers: docker's words for their states.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::short;
use crate::api::types::Pod;

/// docker's zero date.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// docker's word for a state. What sleeps goes on where it was, as what is paused does.
fn status(pod: &Pod) -> &'static str {
    match pod.state.as_str() {
        "running" | "suspending" | "stopping" => "running",
        "paused" | "sleeping" | "waking" => "paused",
        "stopped" => "exited",
        "failed" => "dead",
        "deleting" => "removing",
        _ => "created",
    }
}

fn since(time: Option<&String>) -> Option<Duration> {
    let time: Timestamp = time?.parse().ok()?;
    Duration::try_from(Timestamp::now().duration_since(time)).ok()
}

/// A time as people say it, as docker does.
fn about(time: Duration) -> String {
    let seconds = time.as_secs();
    let (n, unit) = match seconds {
        0 => return "Less than a second".into(),
        1..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        172_800..1_209_600 => (seconds / 86_400, "day"),
        _ => (seconds / 604_800, "week"),
    };
    format!("{n} {unit}{}", if n == 1 { "" } else { "s" })
}

fn sentence(pod: &Pod) -> String {
    let up = || since(pod.started_at.as_ref()).map(about).unwrap_or_default();
    match status(pod) {
        "running" => format!("Up {}", up()),
        "paused" => format!("Up {} (Paused)", up()),
        "exited" => {
            let ago = since(pod.finished_at.as_ref()).map(about).unwrap_or_default();
            format!("Exited ({}) {ago} ago", pod.exit_code.unwrap_or(0))
        }
        "dead" => "Dead".into(),
        "removing" => "Removal In Progress".into(),
        _ => "Created".into(),
    }
}

fn ports(pod: &Pod) -> Value {
    let one = |p: &crate::api::types::PortInfo| json!({"IP": "0.0.0.0", "PrivatePort": p.pod, "PublicPort": p.host, "Type": p.protocol});
    pod.ports.iter().map(one).collect()
}

/// The host port of the first port asked for.
pub(super) fn host_port(pod: &Pod) -> Option<u16> {
    pod.ports.first().map(|p| p.host)
}

/// One of a list.
pub(super) fn summary(pod: &Pod) -> Value {
    json!({
        "id": short(pod),
        "name": pod.name,
        "image": pod.image,
        "state": status(pod),
        "status": sentence(pod),
        "ports": ports(pod),
        "hostPort": host_port(pod),
    })
}

/// One with all that is known.
pub(super) fn whole(pod: &Pod) -> Value {
    let state = status(pod);
    let time = |t: &Option<String>| t.clone().unwrap_or_else(|| NEVER.into());
    json!({
        "id": short(pod),
        "name": pod.name,
        "image": pod.image,
        "state": {
            "Status": state,
            "Running": state == "running" || state == "paused",
            "Paused": state == "paused",
            "Restarting": pod.restart_at.is_some(),
            "OOMKilled": pod.exit_reason.as_deref() == Some("oom"),
            "Dead": state == "dead",
            "Pid": pod.sandbox_pid.unwrap_or(0),
            "ExitCode": pod.exit_code.unwrap_or(0),
            "Error": pod.last_error.clone().unwrap_or_default(),
            "StartedAt": time(&pod.started_at),
            "FinishedAt": time(&pod.finished_at),
        },
        "created": pod.created_at,
        "ports": ports(pod),
        "hostPort": host_port(pod),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PodState;

    #[test]
    fn every_state_has_one_of_docker_s_words() {
        let known = ["created", "running", "paused", "exited", "dead", "removing"];
        let mut seen = std::collections::BTreeSet::new();
        for state in PodState::ALL {
            let text = format!(
                r#"{{"id":"0123456789abcdef","name":"a","state":"{state}","image":"i","command":[],"envNames":[],"address":"10.0.0.1",
                "ports":[{{"pod":3000,"host":10000,"protocol":"tcp"}}],"resources":{{"cpus":1,"memory":1,"pids":1,"disk":1}},"volumes":[],"labels":{{}},
                "hostname":"a","incarnation":1,"engine":"e","createdAt":"2026-01-01T00:00:00Z"}}"#
            );
            let pod: Pod = serde_json::from_str(&text).unwrap();
            let shown = summary(&pod);
            assert!(known.contains(&shown["state"].as_str().unwrap()), "{state}");
            assert_eq!((shown["id"].as_str(), shown["hostPort"].as_u64()), (Some("01234567"), Some(10_000)));
            assert_eq!(whole(&pod)["state"]["Status"], shown["state"]);
            seen.insert(shown["state"].as_str().unwrap().to_owned());
        }
        assert_eq!(seen.len(), known.len());
    }

    #[test]
    fn times_are_said_as_docker_says_them() {
        let said = |s| about(Duration::from_secs(s));
        assert_eq!(
            [said(0), said(1), said(59), said(60)],
            ["Less than a second", "1 second", "59 seconds", "1 minute"]
        );
        assert_eq!([said(7200), said(172_800), said(1_209_600)], ["2 hours", "2 days", "2 weeks"]);
    }
}

//! Health checks of pods that run.
//!
//! A check is a program in the pod like any other. None begins while the pod stands still, is being saved or sleeps, and one
//! that was cut off by that counts for nothing. After a crash: how a pod was lies in a file of its own, and is gone on from.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Core;
use super::pod::Pod;
use crate::api::health::{self as api, HealthSpec};
use crate::api::types::HttpCheck;
use crate::channel::Exec;
use crate::channel::files::PROGRAM;
use crate::host::files;
use crate::host::shim::running::Said;
use crate::model::health::KEPT_OUTPUT;
use crate::model::{Code, Error, Health, HealthAsk, HealthCheck, HealthResult, PodRecord, PodState, Result};
use crate::plan::events::Happened;

/// docker's defaults.
const INTERVAL_MS: u64 = 30_000;
const RETRIES: u32 = 3;

/// The check of a new pod: what was asked for, on top of what its image says.
pub(super) fn wanted(asked: Option<&HealthSpec>, image: Option<&HealthCheck>) -> Result<Option<HealthCheck>> {
    let Some(asked) = asked else { return Ok(image.cloned()) };
    let more = HealthSpec { disable: false, ..asked.clone() } != HealthSpec::default();
    if asked.disable {
        return if more { Err(Error::invalid("health: disable goes with nothing else")) } else { Ok(None) };
    }
    let ask = match (&asked.command, &asked.http) {
        (Some(_), Some(_)) => return Err(Error::invalid("health needs one of command and http")),
        (Some(command), None) => HealthAsk::Command(command.clone()),
        (None, Some(http)) => {
            HealthAsk::Http { port: http.port, path: http.path.clone().unwrap_or_else(|| "/".into()) }
        }
        (None, None) => match image {
            Some(image) => image.ask.clone(),
            None => return Err(Error::invalid("health needs command or http: the image has no check of its own")),
        },
    };
    // Another question has times of its own.
    let base = image.filter(|i| i.ask == ask);
    Ok(Some(HealthCheck {
        interval_ms: asked.interval_ms.or(base.map(|b| b.interval_ms)).unwrap_or(INTERVAL_MS),
        timeout_ms: asked.timeout_ms.or(base.map(|b| b.timeout_ms)).unwrap_or(INTERVAL_MS),
        retries: asked.retries.or(base.map(|b| b.retries)).unwrap_or(RETRIES),
        start_period_ms: asked.start_period_ms.or(base.map(|b| b.start_period_ms)).unwrap_or(0),
        ask,
    }))
}

/// A check as it would be asked for.
pub(super) fn spec(check: &HealthCheck) -> HealthSpec {
    let (command, http) = match &check.ask {
        HealthAsk::Command(command) => (Some(command.clone()), None),
        HealthAsk::Http { port, path } => (None, Some(HttpCheck { port: *port, path: Some(path.clone()) })),
    };
    HealthSpec {
        disable: false,
        command,
        http,
        interval_ms: Some(check.interval_ms),
        timeout_ms: Some(check.timeout_ms),
        retries: Some(check.retries),
        start_period_ms: Some(check.start_period_ms),
    }
}

/// As the API shows it.
pub(super) fn show(health: &Health) -> api::HealthState {
    let result = |r: &HealthResult| api::HealthResult {
        started_at: r.started_at.to_string(),
        ended_at: r.ended_at.to_string(),
        exit_code: r.exit_code,
        output: r.output.clone(),
    };
    api::HealthState {
        status: health.status.as_str().into(),
        failures: health.failures,
        results: health.results.iter().map(result).collect(),
    }
}

/// Whether a check may run.
fn calm(record: &PodRecord, incarnation: u32) -> bool {
    record.incarnation == incarnation && record.state == PodState::Running && record.pending.is_none()
}

/// Whether this sandbox will never be asked again.
fn over(record: &PodRecord, incarnation: u32) -> bool {
    let lives = matches!(record.state, PodState::Running | PodState::Paused | PodState::Suspending);
    record.incarnation != incarnation || !lives
}

impl Core {
    fn health_file(&self, pod: &Pod) -> std::path::PathBuf {
        self.dirs.pod(&pod.record().id).join("health.json")
    }

    /// Takes up how a pod was before torpord was started.
    pub(super) fn remember_health(&self, pod: &Pod) {
        let text = files::read_if_present(&self.health_file(pod)).ok().flatten();
        pod.set_health(text.and_then(|t| serde_json::from_str(&t).ok()));
    }

    fn keep_health(&self, pod: &Pod, health: &Health) {
        let text = serde_json::to_vec(health).unwrap_or_default();
        if let Err(e) = files::swap(&self.health_file(pod), &text, 0o600) {
            tracing::warn!(pod = %pod.record().id, error = %e.report(), "keep how a pod is");
        }
    }

    /// The pod's command is started anew: nothing is known of it.
    pub(super) fn begin_health(&self, pod: &Pod) {
        let checked = pod.record().spec.health.is_some();
        let health = checked.then(|| Health::begin(Timestamp::now()));
        if let Some(health) = &health {
            self.keep_health(pod, health);
        }
        pod.set_health(health);
    }

    /// Checks the pod's newest sandbox for as long as it is, in the background.
    pub(super) fn watch_health(self: &Arc<Self>, pod: &Arc<Pod>) {
        let record = pod.record();
        let Some(check) = record.spec.health.clone() else { return };
        if pod.health().is_none() {
            pod.set_health(Some(Health::begin(Timestamp::now())));
        }
        let (core, pod) = (Arc::clone(self), Arc::clone(pod));
        tokio::spawn(async move {
            tokio::select! {
                () = core.check_on(&pod, &check, record.incarnation) => {}
                () = core.shutdown.cancelled() => {}
            }
        });
    }

    async fn check_on(&self, pod: &Pod, check: &HealthCheck, incarnation: u32) {
        let mut watch = pod.watch();
        loop {
            let pause = pod.health().map_or(Duration::ZERO, |h| h.pause(check, Timestamp::now()));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = watch.wait_for(|r| over(r, incarnation)) => return,
            }
            match watch.wait_for(|r| calm(r, incarnation) || over(r, incarnation)).await {
                Ok(record) if !over(&record, incarnation) => {}
                _ => return,
            }
            let result = tokio::select! {
                result = ask(pod, check) => result,
                // It stands still, or is gone: what it would have said is not known.
                _ = watch.wait_for(|r| !calm(r, incarnation)) => continue,
            };
            let (Some(result), true) = (result, calm(&pod.record(), incarnation)) else { continue };
            let Some(mut health) = pod.health() else { continue };
            let changed = health.take(check, result);
            self.keep_health(pod, &health);
            let status = health.status.as_str();
            pod.set_health(Some(health));
            if changed {
                self.events.tell(Happened::Health, &pod.record(), [("status", status.to_owned())].into());
            }
        }
    }
}

/// Asks once. None: the pod could not be asked.
async fn ask(pod: &Pod, check: &HealthCheck) -> Option<HealthResult> {
    let started_at = Timestamp::now();
    let timeout = Duration::from_millis(check.timeout_ms);
    let result = |exit_code, output| Some(HealthResult { started_at, ended_at: Timestamp::now(), exit_code, output });
    let exec = match &check.ask {
        HealthAsk::Command(command) => Exec { command: command.clone(), ..Exec::default() },
        HealthAsk::Http { port, path } => Exec {
            command: vec![PROGRAM.into(), "http".into(), port.to_string(), path.clone()],
            user: Some("0:0".into()),
            working_dir: Some("/".into()),
            ..Exec::default()
        },
    };
    let mut running = pod.shim().ok()?.begin(&exec, Some(timeout)).await.ok()?;
    let mut said: Vec<u8> = Vec::new();
    loop {
        match running.output.next().await {
            Ok(Said::Stdout(bytes) | Said::Stderr(bytes)) => {
                let room = KEPT_OUTPUT.saturating_sub(said.len());
                said.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Ok(Said::Ended { timed_out: true, .. }) => {
                return result(-1, format!("no answer in {} ms", check.timeout_ms));
            }
            Ok(Said::Ended { code, .. }) => return result(code, String::from_utf8_lossy(&said).into_owned()),
            Err(e) => {
                return match e.code() {
                    Code::CommandNotFound => result(127, e.report()),
                    Code::CommandNotExecutable | Code::InvalidRequest => result(126, e.report()),
                    _ => None,
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stands_on_what_the_image_says() {
        let image = HealthCheck {
            ask: HealthAsk::Command(vec!["image".into()]),
            interval_ms: 1,
            timeout_ms: 2,
            retries: 3,
            start_period_ms: 4,
        };
        let none = HealthSpec::default();
        assert_eq!(wanted(None, Some(&image)).unwrap(), Some(image.clone()));
        assert_eq!(wanted(None, None).unwrap(), None);
        assert_eq!(wanted(Some(&HealthSpec { disable: true, ..none.clone() }), Some(&image)).unwrap(), None);
        let slower = HealthSpec { interval_ms: Some(9), ..none.clone() };
        assert_eq!(wanted(Some(&slower), Some(&image)).unwrap(), Some(HealthCheck { interval_ms: 9, ..image.clone() }));
        let other = HealthSpec { command: Some(vec!["x".into()]), ..none.clone() };
        let made = wanted(Some(&other), Some(&image)).unwrap().unwrap();
        assert_eq!((made.interval_ms, made.retries, made.start_period_ms), (30_000, 3, 0));
        // What is shown of one can be asked for.
        let of_http = HealthCheck { ask: HealthAsk::Http { port: 80, path: "/x".into() }, ..image.clone() };
        for check in [&image, &of_http] {
            assert_eq!(wanted(Some(&spec(check)), None).unwrap().as_ref(), Some(check));
        }
        let http = HttpCheck { port: 80, path: None };
        let both = HealthSpec { http: Some(http), ..other };
        for (asked, image) in [(&both, None), (&slower, None), (&HealthSpec { disable: true, ..slower.clone() }, None)]
        {
            assert!(wanted(Some(asked), image).is_err());
        }
    }
}

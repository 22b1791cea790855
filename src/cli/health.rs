//! Flags for health checks, as docker has them.

use clap::Args;

use super::output::Failure;
use crate::api::health::HealthSpec;
use crate::api::types::HttpCheck;

#[derive(Debug, Default, Args)]
pub(super) struct Health {
    /// Well if this command of the pod's shell exits with 0
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Well if GET answers: PORT[/PATH]
    #[arg(long, value_name = "PORT[/PATH]", conflicts_with = "health_cmd")]
    health_http: Option<String>,
    /// Time between health checks, such as 30s
    #[arg(long, value_name = "DURATION")]
    health_interval: Option<String>,
    /// Time until a health check has failed
    #[arg(long, value_name = "DURATION")]
    health_timeout: Option<String>,
    /// Failures in a row that make it unhealthy
    #[arg(long, value_name = "N")]
    health_retries: Option<u32>,
    /// Time after its start in which failures don't count
    #[arg(long, value_name = "DURATION")]
    health_start_period: Option<String>,
    /// No health check, whatever the image says
    #[arg(long, conflicts_with_all = ["health_cmd", "health_http", "health_interval", "health_timeout", "health_retries", "health_start_period"])]
    no_healthcheck: bool,
}

fn own(text: String) -> Failure {
    Failure::Own(text)
}

/// `1m30s`, `500ms` or `2h`, in milliseconds.
fn milliseconds(text: &str) -> Result<u64, Failure> {
    let bad = || own(format!("{text:?} is no duration: such as 30s, 1m30s or 500ms"));
    let (mut sum, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(bad()),
        };
        sum = number.checked_mul(unit).and_then(|n| sum.checked_add(n)).ok_or_else(bad)?;
        rest = &rest[end..];
    }
    if text.is_empty() { Err(bad()) } else { Ok(sum) }
}

/// `PORT[/PATH]`.
fn http(text: &str) -> Result<HttpCheck, Failure> {
    let (port, path) = text.split_once('/').map_or((text, None), |(p, rest)| (p, Some(format!("/{rest}"))));
    let port = port.trim_end_matches(':').parse().map_err(|_| own(format!("{text:?} is not PORT[/PATH]")))?;
    Ok(HttpCheck { port, path })
}

impl Health {
    /// What is asked for; none: nothing is said.
    pub(super) fn spec(&self) -> Result<Option<HealthSpec>, Failure> {
        let time = |t: &Option<String>| t.as_deref().map(milliseconds).transpose();
        let spec = HealthSpec {
            disable: self.no_healthcheck,
            command: self.health_cmd.as_ref().map(|c| vec!["/bin/sh".into(), "-c".into(), c.clone()]),
            http: self.health_http.as_deref().map(http).transpose()?,
            interval_ms: time(&self.health_interval)?,
            timeout_ms: time(&self.health_timeout)?,
            retries: self.health_retries,
            start_period_ms: time(&self.health_start_period)?,
        };
        Ok((spec != HealthSpec::default()).then_some(spec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_docker_writes_them() {
        let ms = |t: &str| milliseconds(t).ok();
        assert_eq!(
            (ms("30s"), ms("1m30s"), ms("500ms"), ms("2h")),
            (Some(30_000), Some(90_000), Some(500), Some(7_200_000))
        );
        assert_eq!((ms("0s"), ms(""), ms("5"), ms("s"), ms("5x"), ms("-1s")), (Some(0), None, None, None, None, None));
        assert!(Health::default().spec().is_ok_and(|s| s.is_none()));
    }
}

//! Health checks: what is asked, and what the answers mean.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Results that are kept.
const KEPT: usize = 5;
/// Bytes of a check's output that are kept.
pub const KEPT_OUTPUT: usize = 4096;
/// The pause between checks of a pod that has not answered yet, within its start period.
const START_PAUSE: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HealthAsk {
    /// That command exits with 0.
    Command(Vec<String>),
    /// `GET` of that path on that port of the pod answers 2xx or 3xx.
    Http {
        /// Port in the pod.
        port: u16,
        /// Path, beginning with `/`.
        path: String,
    },
}

/// A health check, as docker has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// What is asked.
    pub ask: HealthAsk,
    /// Milliseconds from the end of one check to the next.
    pub interval_ms: u64,
    /// Milliseconds until a check has failed.
    pub timeout_ms: u64,
    /// Failures in a row that make a pod unhealthy.
    pub retries: u32,
    /// Milliseconds after its start in which failures don't count.
    pub start_period_ms: u64,
}

/// How a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// It has not answered yet.
    Starting,
    /// It answers.
    Healthy,
    /// It has failed too often.
    Unhealthy,
}

impl HealthStatus {
    /// The name, as the API shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unhealthy => "unhealthy",
        }
    }
}

/// What came of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthResult {
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// The exit code; 0 is well, -1 that its time was over.
    pub exit_code: i32,
    /// The beginning of what it said.
    pub output: String,
}

/// How a pod is, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// How it is.
    pub status: HealthStatus,
    /// Failures in a row, those of the start period left out.
    pub failures: u32,
    /// When its command was started.
    pub since: Timestamp,
    /// The last results, oldest first.
    pub results: Vec<HealthResult>,
}

impl Health {
    /// Of a pod whose command was just started.
    pub fn begin(since: Timestamp) -> Self {
        Health { status: HealthStatus::Starting, failures: 0, since, results: Vec::new() }
    }

    fn in_start_period(&self, check: &HealthCheck, at: Timestamp) -> bool {
        let age = Duration::try_from(at.duration_since(self.since)).unwrap_or_default();
        self.status == HealthStatus::Starting && age < Duration::from_millis(check.start_period_ms)
    }

    /// The pause before the next check.
    pub fn pause(&self, check: &HealthCheck, at: Timestamp) -> Duration {
        let interval = Duration::from_millis(check.interval_ms);
        if self.in_start_period(check, at) { interval.min(START_PAUSE) } else { interval }
    }

    /// Takes a result; whether the pod is otherwise now than before.
    pub fn take(&mut self, check: &HealthCheck, result: HealthResult) -> bool {
        let before = self.status;
        if result.exit_code == 0 {
            (self.status, self.failures) = (HealthStatus::Healthy, 0);
        } else if !self.in_start_period(check, result.started_at) {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= check.retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.results.push(result);
        let old = self.results.len().saturating_sub(KEPT);
        self.results.drain(..old);
        self.status != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn result(second: i64, exit_code: i32) -> HealthResult {
        HealthResult { started_at: at(second), ended_at: at(second), exit_code, output: String::new() }
    }

    #[test]
    fn a_pod_is_well_until_it_failed_often_enough() {
        use HealthStatus::{Healthy, Starting, Unhealthy};
        let check = HealthCheck {
            ask: HealthAsk::Command(vec!["x".into()]),
            interval_ms: 30_000,
            timeout_ms: 1000,
            retries: 2,
            start_period_ms: 20_000,
        };
        let mut health = Health::begin(at(100));
        let mut take = |second, code| (health.take(&check, result(second, code)), health.status, health.failures);
        // In the start period failures don't count, and the first success ends it.
        assert_eq!(take(105, 1), (false, Starting, 0));
        assert_eq!(take(110, 1), (false, Starting, 0));
        assert_eq!(take(115, 0), (true, Healthy, 0));
        assert_eq!(take(116, 1), (false, Healthy, 1));
        assert_eq!(take(117, -1), (true, Unhealthy, 2));
        assert_eq!(take(118, 1), (false, Unhealthy, 3));
        assert_eq!(take(119, 0), (true, Healthy, 0));
        assert_eq!(health.results.len(), 5);
        let mut never = Health::begin(at(100));
        assert_eq!((never.pause(&check, at(101)).as_secs(), never.pause(&check, at(120)).as_secs()), (5, 30));
        assert!(!never.take(&check, result(121, 1)) && never.take(&check, result(122, 1)));
        assert_eq!(never.status, Unhealthy);
    }
}

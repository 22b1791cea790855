//! Restart policies: whether and when a command that ended is started again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Error, Result};

/// The first pause before a restart.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A command that ran for so long was well: pauses are short again.
const WELL: Duration = Duration::from_secs(10);

/// When a command that ended is started again. Written `no`, `on-failure`, `on-failure:MAX`, `unless-stopped` or `always`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// If its exit code is not 0.
    OnFailure {
        /// So many times at most, counted from when somebody started it.
        max: Option<u32>,
    },
    /// Always, but not when torpord starts if somebody had stopped it.
    UnlessStopped,
    /// Always; what somebody had stopped is started when torpord starts.
    Always,
}

impl FromStr for RestartPolicy {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let max = |n: &str| n.parse::<u32>().ok().filter(|n| *n > 0);
        match (s, s.strip_prefix("on-failure:").map(max)) {
            ("no", _) => Ok(RestartPolicy::No),
            ("always", _) => Ok(RestartPolicy::Always),
            ("unless-stopped", _) => Ok(RestartPolicy::UnlessStopped),
            ("on-failure", _) => Ok(RestartPolicy::OnFailure { max: None }),
            (_, Some(Some(max))) => Ok(RestartPolicy::OnFailure { max: Some(max) }),
            _ => {
                let shown: String = s.chars().take(40).collect();
                Err(Error::invalid(format!("{shown:?} is no restart policy"))
                    .hint("no, on-failure, on-failure:3, unless-stopped or always"))
            }
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestartPolicy::No => f.write_str("no"),
            RestartPolicy::OnFailure { max: None } => f.write_str("on-failure"),
            RestartPolicy::OnFailure { max: Some(max) } => write!(f, "on-failure:{max}"),
            RestartPolicy::UnlessStopped => f.write_str("unless-stopped"),
            RestartPolicy::Always => f.write_str("always"),
        }
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<RestartPolicy> for String {
    fn from(p: RestartPolicy) -> String {
        p.to_string()
    }
}

impl RestartPolicy {
    /// Whether it is the default.
    pub fn is_no(&self) -> bool {
        *self == RestartPolicy::No
    }

    /// Whether a stopped pod is started when torpord starts.
    pub fn at_start(self, restarts: &Restarts) -> bool {
        match self {
            RestartPolicy::Always => true,
            RestartPolicy::UnlessStopped => !restarts.stopped,
            RestartPolicy::No | RestartPolicy::OnFailure { .. } => false,
        }
    }
}

/// What is known of a pod's restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restarts {
    /// How often its command was started again since somebody started it.
    pub count: u32,
    /// Milliseconds of the last pause.
    pub pause_ms: u64,
    /// Intent: when it is started again. In a pod that is `stopped`, or `starting` because of it.
    pub at: Option<Timestamp>,
    /// Whether somebody asked for its end.
    pub stopped: bool,
}

impl Restarts {
    /// After an end with `code` of a command that ran for so long: the pause before the next start, or none.
    pub fn pause(&self, policy: RestartPolicy, code: i32, ran: Duration) -> Option<Duration> {
        let again = match policy {
            RestartPolicy::No => false,
            RestartPolicy::OnFailure { max } => code != 0 && max.is_none_or(|max| self.count < max),
            RestartPolicy::UnlessStopped | RestartPolicy::Always => true,
        };
        if !again || self.stopped {
            return None;
        }
        if ran >= WELL || self.pause_ms == 0 {
            return Some(FIRST_PAUSE);
        }
        Some(Duration::from_millis(self.pause_ms.saturating_mul(2)).min(LONGEST_PAUSE))
    }

    /// How long it still is until `at`: never longer than the pause was meant to be, wherever the clock was set to meanwhile.
    pub fn left(&self, now: Timestamp) -> Duration {
        let left = self.at.and_then(|at| Duration::try_from(at.duration_since(now)).ok()).unwrap_or_default();
        left.min(Duration::from_millis(self.pause_ms))
    }

    /// As [`Restarts::pause`], recorded: when it is started again.
    pub fn plan(&mut self, policy: RestartPolicy, code: i32, ran: Duration, now: Timestamp) {
        let pause = self.pause(policy, code, ran);
        self.pause_ms = pause.map_or(0, |p| u64::try_from(p.as_millis()).unwrap_or(u64::MAX));
        self.at = pause.and_then(|p| now.checked_add(p).ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_makes_no_pause_longer() {
        let (mut r, now) = (Restarts::default(), Timestamp::now());
        r.plan(RestartPolicy::Always, 1, Duration::ZERO, now);
        assert_eq!(r.left(now), FIRST_PAUSE);
        let years = jiff::SignedDuration::from_hours(10 * 365 * 24);
        assert_eq!(r.left(now - years), FIRST_PAUSE);
        assert_eq!(r.left(now + years), Duration::ZERO);
    }

    #[test]
    fn policies_are_written_as_docker_does() {
        for text in ["no", "on-failure", "on-failure:3", "unless-stopped", "always"] {
            let policy: RestartPolicy = text.parse().unwrap();
            assert_eq!(policy.to_string(), text);
        }
        for bad in ["", "on-failure:", "on-failure:0", "on-failure:-1", "on-failure:x", "Always", "always:3"] {
            assert!(bad.parse::<RestartPolicy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn pauses_double_to_a_minute_and_are_short_again_after_ten_seconds() {
        let (mut r, now, soon) = (Restarts::default(), Timestamp::now(), Duration::from_secs(1));
        let pauses: Vec<u64> = (0..12)
            .map(|_| {
                r.plan(RestartPolicy::Always, 0, soon, now);
                r.pause_ms
            })
            .collect();
        assert_eq!(pauses[..5], [100, 200, 400, 800, 1600]);
        assert_eq!(pauses[9..], [51_200, 60_000, 60_000]);
        r.plan(RestartPolicy::Always, 0, WELL, now);
        assert_eq!(r.pause_ms, 100);
    }

    #[test]
    fn who_is_started_again() {
        let soon = Duration::from_secs(1);
        let again = |policy: &str, code, r: &Restarts| r.pause(policy.parse().unwrap(), code, soon).is_some();
        let fresh = Restarts::default();
        let ends = |p| (again(p, 0, &fresh), again(p, 1, &fresh));
        assert_eq!(
            (ends("no"), ends("on-failure"), ends("unless-stopped"), ends("always")),
            ((false, false), (false, true), (true, true), (true, true))
        );
        let tired = Restarts { count: 3, ..Restarts::default() };
        assert!(again("on-failure:4", 1, &tired) && !again("on-failure:3", 1, &tired));
        let stopped = Restarts { stopped: true, ..Restarts::default() };
        assert!(!again("always", 1, &stopped) && !again("unless-stopped", 1, &stopped));
        let start = |p: &str, r| p.parse::<RestartPolicy>().unwrap().at_start(r);
        assert!(start("always", &stopped) && !start("unless-stopped", &stopped) && start("unless-stopped", &fresh));
        assert!(!start("on-failure", &fresh) && !start("no", &fresh));
    }
}

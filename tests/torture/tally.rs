//! What a row counts. Whatever is wrong is printed when it is seen, with the trial in which it was.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Figures of one row.
#[derive(Default)]
pub struct Tally {
    row: &'static str,
    trials: AtomicU64,
    failures: AtomicU64,
    leaks: AtomicU64,
    lost_acks: AtomicU64,
    lost_lines: AtomicU64,
    recoveries: Mutex<Vec<Duration>>,
}

impl Tally {
    pub fn new(row: &'static str) -> Self {
        Tally { row, ..Tally::default() }
    }

    pub fn begin_trial(&self) -> u64 {
        self.trials.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn note(&self, counter: &AtomicU64, n: u64, kind: &str, text: &str) {
        counter.fetch_add(n, Ordering::Relaxed);
        eprintln!("{} trial {}: {kind}: {text}", self.row, self.trials.load(Ordering::Relaxed));
    }

    /// Something that must hold did not.
    pub fn fail(&self, text: &str) {
        self.note(&self.failures, 1, "failure", text);
    }

    /// Something acknowledged is not so.
    pub fn lost_ack(&self, text: &str) {
        self.note(&self.lost_acks, 1, "lost acknowledgement", text);
    }

    /// Lines of a log that are missing, or there twice.
    pub fn lost_lines(&self, n: u64, text: &str) {
        self.note(&self.lost_lines, n, "log lines lost or doubled", text);
    }

    /// Something was left behind.
    pub fn leak(&self, text: &str) {
        self.note(&self.leaks, 1, "leak", text);
    }

    /// How long it took to be ready again.
    pub fn recovered(&self, took: Duration, limit: Duration) {
        if took > limit {
            self.fail(&format!("ready only after {} ms", took.as_millis()));
        }
        self.recoveries.lock().unwrap_or_else(PoisonError::into_inner).push(took);
    }

    /// Whether every figure that must be zero is.
    pub fn is_clean(&self) -> bool {
        [&self.failures, &self.leaks, &self.lost_acks, &self.lost_lines].iter().all(|n| n.load(Ordering::Relaxed) == 0)
    }

    /// One line, as text or as JSON.
    pub fn line(&self, json: bool, seed: u64) -> String {
        let mut all = self.recoveries.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort();
        let rank = (all.len() * 99).div_ceil(100).saturating_sub(1);
        let p99 = all.get(rank).map_or(0, Duration::as_millis);
        let n = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let (row, trials, failures, leaks) = (self.row, n(&self.trials), n(&self.failures), n(&self.leaks));
        let (acks, lines) = (n(&self.lost_acks), n(&self.lost_lines));
        if json {
            return serde_json::json!({
                "row": row, "trials": trials, "failures": failures, "leaks": leaks, "lostAcks": acks,
                "lostLogLines": lines, "p99RecoveryMs": u64::try_from(p99).unwrap_or(u64::MAX), "seed": seed,
            })
            .to_string();
        }
        format!(
            "{row:<6} trials {trials:>5}  failures {failures}  leaks {leaks}  lostAcks {acks}  lostLogLines {lines}  \
             p99RecoveryMs {p99}  seed {seed}"
        )
    }
}

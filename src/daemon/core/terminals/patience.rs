//! How long a terminal is held up for somebody who reads it slowly.
//!
//! Who reads nothing at all is waited for a second; who reads, but slower than the others, for ten seconds and then a twentieth
//! of the time. Where most are behind it is not their fault, and as long as they read they are waited for.

use std::time::Duration;

use tokio::time::Instant;

/// For somebody who reads nothing.
const IDLE: Duration = Duration::from_secs(1);
/// For somebody who is slower than the others.
const MOST: Duration = Duration::from_secs(10);
/// A wait that is not worth beginning.
const LEAST: Duration = Duration::from_millis(100);
/// One part in so many of the time in which nobody waits is won back.
const WON_BACK: u32 = 20;

/// What is left of it.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    left: Duration,
    seen: Instant,
    /// Where it was, and since when.
    at: u64,
    since: Instant,
    behind: bool,
    waiting: bool,
}

impl Patience {
    pub(super) fn new(now: Instant) -> Self {
        Patience { left: MOST, seen: now, at: 0, since: now, behind: false, waiting: false }
    }

    /// For how long somebody who has read up to `at` is waited for now, if at all; `most`: most others are behind too.
    pub(super) fn wait(&mut self, at: u64, behind: bool, most: bool, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.seen);
        self.seen = now;
        if at != self.at || !self.behind {
            (self.at, self.since) = (at, now);
        }
        self.behind = behind;
        if self.waiting && !most {
            self.left = self.left.saturating_sub(passed);
        } else if !self.waiting {
            self.left = MOST.min(self.left + passed / WON_BACK);
        }
        let enough = if self.waiting { Duration::ZERO } else { LEAST };
        let idle = IDLE.saturating_sub(now.saturating_duration_since(self.since));
        self.waiting = behind && self.left > enough && !idle.is_zero();
        self.waiting.then_some(idle.min(self.left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds of a minute for which somebody is waited for who is always behind.
    fn waited(most: bool, at: impl Fn(u64) -> u64) -> u32 {
        let begun = Instant::now();
        let mut p = Patience::new(begun);
        assert_eq!(p.wait(0, false, most, begun), None);
        let one = |ms| u32::from(p.wait(at(ms), true, most, begun + Duration::from_millis(ms)).is_some());
        (1..=60_000).map(one).sum()
    }

    #[test]
    fn somebody_who_reads_nothing_costs_a_second() {
        for most in [false, true] {
            assert!((990..1010).contains(&waited(most, |_| 0)));
        }
    }

    #[test]
    fn somebody_who_reads_slowly_costs_ten_seconds_and_then_little() {
        assert!((10_000..14_000).contains(&waited(false, |ms| ms / 500)));
        assert!(waited(true, |ms| ms / 500) > 59_000, "most are slow: they are waited for");
    }

    #[test]
    fn somebody_who_catches_up_is_waited_for_again() {
        let begun = Instant::now();
        let mut p = Patience::new(begun);
        assert_eq!(p.wait(0, true, false, begun), Some(IDLE));
        let then = begun + Duration::from_secs(2);
        assert_eq!(p.wait(0, true, false, then), None);
        assert_eq!(p.wait(9, false, false, then), None);
        assert_eq!(p.wait(9, true, false, then + Duration::from_secs(9)), Some(IDLE));
    }
}

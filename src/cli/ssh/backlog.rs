//! Input that programs have not taken yet.
//!
//! SSH has a window for each channel, and the library gives it back as soon as bytes have come: there is no way to hold
//! them up but to let its loop stand, and then what programs say stands too. So input waits here, is counted, and whoever has
//! much of it is slowed down: all windows become small, and the loop pauses a little after each piece, unless some program has
//! something to say. Nothing can wait for ever for something that waits for it, and memory is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// The window of a channel whose program reads.
pub(super) const WINDOW: u32 = 1 << 20;
/// The window of all while one of them does not.
const NARROW: u32 = 2048;
/// Bytes that may wait before that.
const MUCH: usize = 2 << 20;
/// Bytes that may wait at all.
const MOST: usize = 64 << 20;
/// How long the loop pauses: at first, and as much again for each so many bytes more.
const PAUSE: Duration = Duration::from_millis(5);
const STEP: usize = 512 * 1024;

/// Bytes that wait for one program.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: AtomicUsize,
    less: Notify,
}

impl Backlog {
    /// More came. Whether there is room for it.
    pub(super) fn add(&self, bytes: usize) -> bool {
        self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= MOST
    }

    /// The program's side took them.
    pub(super) fn take(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if before > MUCH && before - bytes <= MUCH {
            self.less.notify_one();
        }
    }

    fn pause(&self) -> Option<Duration> {
        let more = self.bytes.load(Ordering::Relaxed).checked_sub(MUCH + 1)?;
        let steps = u32::try_from(more / STEP).unwrap_or(u32::MAX).min(50);
        Some(PAUSE * (1 + steps))
    }

    /// The window that channels are to have.
    pub(super) fn window<'a>(mut all: impl Iterator<Item = &'a Arc<Backlog>>) -> u32 {
        if all.any(|b| b.pause().is_some()) { NARROW } else { WINDOW }
    }

    /// Lets some time pass if there is much of it: until it is less, or something is to be said.
    pub(super) async fn pace(&self, said: &Notify) {
        let Some(pause) = self.pause() else { return };
        tokio::select! {
            () = self.less.notified() => {}
            () = said.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_waited_for_but_not_for_ever() {
        let (slow, quick, said) = (Arc::new(Backlog::default()), Arc::new(Backlog::default()), Notify::new());
        let window = || Backlog::window([&slow, &quick].into_iter());
        assert!(slow.add(MUCH) && slow.pause().is_none() && window() == WINDOW);
        assert!(slow.add(1) && window() == NARROW);
        let begun = tokio::time::Instant::now();
        slow.pace(&said).await;
        let waited = begun.elapsed();
        assert!(waited >= PAUSE && waited < 2 * PAUSE, "{waited:?}");
        // What is to be said is not held up.
        said.notify_one();
        slow.pace(&said).await;
        assert_eq!(begun.elapsed(), waited);
        assert!(slow.add(MOST - MUCH - 1) && !slow.add(1));
        assert!(slow.pause().unwrap() > Duration::from_millis(200));
        slow.take(MOST + 1);
        assert!(window() == WINDOW && slow.pause().is_none());
    }
}

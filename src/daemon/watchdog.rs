//! systemd's watchdog: word, again and again, that this torpord works.
//!
//! The word is given when the core has answered, on a task of its own, what it knows of its pods. So it ends when the process
//! is stopped, when all threads of the runtime are stuck, and when a lock on pods is never given back. A disk or a store that is
//! slow does not end it: to the next torpord it would be as slow.

use std::sync::Arc;

use super::core::Core;
use crate::host::notify;

/// Gives the word until the daemon ends, if systemd wants it.
pub(super) async fn give_word(core: Arc<Core>) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut turns = tokio::time::interval(limit / 4);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = core.shutdown().cancelled() => return,
            _ = turns.tick() => {}
        }
        let asked = Arc::clone(&core);
        match tokio::spawn(async move { asked.is_empty() }).await {
            Ok(_) => notify::say("WATCHDOG=1"),
            Err(e) => tracing::error!(error = %e, "the core can't say what it has: systemd gets no word"),
        }
    }
}

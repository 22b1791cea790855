//! How far a long call is: written by who does the work, followed by who asked for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// What is known of a call's progress.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What is being done, such as `layers` or `save`.
    pub phase: String,
    /// Bytes done in this phase.
    pub done: u64,
    /// Bytes to do in this phase, 0 if that is not known.
    pub total: u64,
}

/// Cheap to clone. The default one tells nobody.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    sender: watch::Sender<Snapshot>,
    done: AtomicU64,
}

impl Progress {
    /// One that can be followed.
    pub fn channel() -> (Self, watch::Receiver<Snapshot>) {
        let (sender, receiver) = watch::channel(Snapshot::default());
        (Progress(Some(Arc::new(Inner { sender, done: AtomicU64::new(0) }))), receiver)
    }

    /// A new phase begins, of a length that is not known yet.
    pub fn phase(&self, phase: &str) {
        if let Some(inner) = &self.0 {
            inner.done.store(0, Ordering::Relaxed);
            inner.sender.send_replace(Snapshot { phase: phase.to_owned(), done: 0, total: 0 });
        }
    }

    /// The length of this phase in bytes.
    pub fn total(&self, total: u64) {
        if let Some(inner) = &self.0 {
            inner.sender.send_modify(|s| s.total = total);
        }
    }

    /// Some more bytes are done.
    pub fn add(&self, bytes: u64) {
        if let Some(inner) = &self.0 {
            let done = inner.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            inner.sender.send_modify(|s| s.done = done);
        }
    }
}

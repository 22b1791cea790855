//! One pod in memory: its record as last committed, whose turn it is, and the way to its shim.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::Core;
use super::events::Events;
use super::terminals::Followed;
use crate::daemon::db::Db;
use crate::host::shim::Shim;
use crate::model::{Code, Error, Health, PodRecord, PodState, Result};

/// Programs and terminals of one pod that are followed at once: each takes a connection of its shim's, which must have some
/// left for what torpord asks.
const MOST_STREAMS: usize = crate::channel::control::MOST_CONNECTIONS - 64;

/// One pod. Everything that changes it holds its turn, so that two requests never work on one pod at once.
pub struct Pod {
    record: watch::Sender<PodRecord>,
    events: Arc<Events>,
    turn: tokio::sync::Mutex<()>,
    shim: Mutex<Option<Arc<dyn Shim>>>,
    terminals: Followed,
    streams: Arc<Semaphore>,
    unsaved: AtomicBool,
    gone: AtomicBool,
    /// One for each copy of files that may be under way.
    pub(super) copies: Arc<tokio::sync::Semaphore>,
    health: Mutex<Option<Health>>,
    readers: watch::Sender<Readers>,
}

/// Those who read a pod's output as it comes.
#[derive(Default)]
struct Readers {
    now: usize,
    /// Whether somebody said that they will, and has not come yet.
    expected: bool,
}

/// How long somebody who said that they will read the output of a pod is waited for after its end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Somebody who reads a pod's output as it comes: until dropped, a pod for one run stays.
pub(super) struct Reader(Arc<Pod>);

impl Reader {
    /// What it reads: it is there as long as that is.
    pub(super) fn reads<S: Stream>(self, output: S) -> impl Stream<Item = S::Item> {
        output.inspect(move |_| {
            let _ = &self;
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.readers.send_modify(|r| r.now -= 1);
    }
}

/// The right to change a pod; given back when dropped.
pub struct Turn<'a> {
    pod: &'a Pod,
    _held: tokio::sync::MutexGuard<'a, ()>,
}

impl Pod {
    /// A pod as the database has it. What happens to it is told to `events`.
    pub(super) fn new(record: PodRecord, events: &Arc<Events>) -> Arc<Self> {
        Arc::new(Pod {
            record: watch::Sender::new(record),
            events: Arc::clone(events),
            turn: tokio::sync::Mutex::new(()),
            shim: Mutex::new(None),
            terminals: Followed::default(),
            streams: Arc::new(Semaphore::new(MOST_STREAMS)),
            unsaved: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            health: Mutex::new(None),
            copies: Arc::new(tokio::sync::Semaphore::new(super::copy::AT_ONCE)),
            readers: watch::Sender::default(),
        })
    }

    /// How it is; none: it has no health check, or none was made.
    pub fn health(&self) -> Option<Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets how it is.
    pub fn set_health(&self, health: Option<Health>) {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }

    /// Its record as last committed.
    pub fn record(&self) -> PodRecord {
        self.record.borrow().clone()
    }

    /// Looks at its record, which can't change meanwhile: not to be held over an await.
    pub(super) fn look(&self) -> watch::Ref<'_, PodRecord> {
        self.record.borrow()
    }

    /// Its state as last committed.
    pub fn state(&self) -> PodState {
        self.record.borrow().state
    }

    /// Follows its record.
    pub fn watch(&self) -> watch::Receiver<PodRecord> {
        self.record.subscribe()
    }

    /// Whether the database has not taken its record as it is.
    pub fn unsaved(&self) -> bool {
        self.unsaved.load(Ordering::Relaxed)
    }

    /// Its record is to be saved, or its removal to be finished, later.
    pub fn set_unsaved(&self) {
        self.unsaved.store(true, Ordering::Relaxed);
    }

    /// It was removed: whoever still waits for its turn is told so.
    pub fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// As [`Pod::turn`], for what was asked of a pod that may be removed meanwhile.
    ///
    /// # Errors
    /// [`Code::NotFound`]: it was.
    pub async fn turn_if_there(&self) -> Result<Turn<'_>> {
        let turn = self.turn().await;
        if self.gone.load(Ordering::Relaxed) {
            let name = self.record().spec.name;
            return Err(Error::new(Code::NotFound, format!("no pod {name}: it was removed meanwhile"))
                .hint("`torpor ps -a` lists them"));
        }
        Ok(turn)
    }

    /// Waits for its turn. Turns are given in the order in which they were asked for.
    pub async fn turn(&self) -> Turn<'_> {
        Turn { pod: self, _held: self.turn.lock().await }
    }

    /// The way to its sandbox's shim.
    ///
    /// # Errors
    /// [`Code::WrongState`]: it has no sandbox.
    pub fn shim(&self) -> Result<Arc<dyn Shim>> {
        let shim = self.shim.lock().unwrap_or_else(PoisonError::into_inner).clone();
        shim.ok_or_else(|| wrong_state(&self.record(), "talk to its sandbox"))
    }

    /// Why what was asked of its sandbox failed, in words that fit what has become of the pod meanwhile.
    pub(super) fn explain(&self, e: Error) -> Error {
        let record = self.record();
        if e.code() != Code::Runtime || matches!(record.state, PodState::Running | PodState::Paused) {
            return e;
        }
        if self.gone.load(Ordering::Relaxed) || record.state == PodState::Deleting {
            let text = format!("no pod {}: it was removed meanwhile", record.spec.name);
            return Error::new(Code::NotFound, text).hint("`torpor ps -a` lists them").because(e);
        }
        wrong_state(&record, "go on").because(e)
    }

    /// Its terminals that somebody looks at.
    pub(super) fn terminals(&self) -> &Followed {
        &self.terminals
    }

    /// The right to one more program or terminal that is followed.
    ///
    /// # Errors
    /// [`Code::Exhausted`]: there are too many.
    pub(super) fn stream_permit(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            let name = self.record().spec.name;
            Error::new(
                Code::Exhausted,
                format!("{MOST_STREAMS} programs and terminals of pod {name} are followed already"),
            )
            .hint("wait until some have ended")
        })
    }

    /// As [`Pod::stream_permit`], waited for.
    pub(super) async fn wait_stream_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.streams).acquire_owned().await.ok()
    }

    /// Notes that somebody is going to read its output.
    pub(super) fn expect_reader(&self) {
        self.readers.send_modify(|r| r.expected = true);
    }

    /// Notes that somebody reads its output.
    pub(super) fn reader(self: &Arc<Self>) -> Reader {
        self.readers.send_modify(|r| *r = Readers { now: r.now + 1, expected: false });
        Reader(Arc::clone(self))
    }

    /// Waits until nobody reads its output, nor is about to. Its end is to have been told.
    pub(super) async fn unread(&self) {
        let mut readers = self.readers.subscribe();
        // The sender is this pod's own. Who does not come in time has died.
        let _ = tokio::time::timeout(PATIENCE, readers.wait_for(|r| !r.expected)).await;
        let _ = readers.wait_for(|r| r.now == 0).await;
    }

    /// Sets or clears the way to its shim.
    pub fn set_shim(&self, shim: Option<Arc<dyn Shim>>) {
        *self.shim.lock().unwrap_or_else(PoisonError::into_inner) = shim;
    }
}

impl Turn<'_> {
    /// The pod whose turn it is.
    pub fn pod(&self) -> &Pod {
        self.pod
    }

    /// Its record.
    pub fn record(&self) -> PodRecord {
        self.pod.record()
    }

    /// Changes the record: in the database first, in memory then.
    ///
    /// # Errors
    /// The move is not legal, or the database refuses: nothing has changed then.
    pub async fn commit(&self, db: &Db, change: impl FnOnce(&mut PodRecord)) -> Result<PodRecord> {
        let before = self.pod.record();
        let mut after = before.clone();
        change(&mut after);
        if after.state != before.state && !before.state.may_become(after.state) {
            return Err(Error::internal(format!(
                "pod {} can't go from {} to {}",
                before.id, before.state, after.state
            )));
        }
        db.put_pod(&after).await?;
        self.pod.unsaved.store(false, Ordering::Relaxed);
        self.publish(&before, &after);
        Ok(after)
    }

    /// Records what has happened already, which a full disk can't undo: in memory at once, and in the database as soon as that
    /// takes it. Until then a crash finds the intent there, and recovery comes to the same from that. Only for changes of
    /// which this is true. The flag says whether it is saved.
    pub async fn settle(&self, core: &Core, change: impl FnOnce(&mut PodRecord)) -> (PodRecord, bool) {
        let before = self.pod.record();
        let mut after = before.clone();
        change(&mut after);
        let legal = after.state == before.state || before.state.may_become(after.state);
        if !legal {
            tracing::error!(pod = %before.id, from = %before.state, to = %after.state, "a move that is not legal");
        }
        let saved = match core.db.put_pod(&after).await {
            Ok(()) => true,
            Err(e) => {
                tracing::error!(pod = %after.id, error = %e.report(), "save a pod: tried again until it works");
                core.unsaved.notify_one();
                false
            }
        };
        self.pod.unsaved.store(!saved, Ordering::Relaxed);
        self.publish(&before, &after);
        (after, saved)
    }

    /// The one place where a record changes in memory: whoever follows the pod sees it, and readers of events are told.
    fn publish(&self, before: &PodRecord, after: &PodRecord) {
        self.pod.record.send_replace(after.clone());
        self.pod.events.tell_changes(before, after);
    }

    /// Refuses unless the pod is in one of `states`.
    ///
    /// # Errors
    /// [`Code::WrongState`], with what the pod is.
    pub fn require(&self, states: &[PodState], to: &str) -> Result<PodRecord> {
        let record = self.pod.record();
        if states.contains(&record.state) { Ok(record) } else { Err(wrong_state(&record, to)) }
    }
}

/// The refusal of something that can't be done in a pod's state, with what can be done instead.
pub(super) fn wrong_state(record: &PodRecord, to: &str) -> Error {
    let hint = match record.state {
        PodState::Created | PodState::Stopped => "start it first",
        PodState::Sleeping => "wake it first",
        PodState::Running => "stop it first, or force it",
        PodState::Paused => "resume it first",
        PodState::Failed => "look at its lastError; start it, wake it, restore a snapshot into it or remove it",
        PodState::Creating
        | PodState::Starting
        | PodState::Suspending
        | PodState::Waking
        | PodState::Restoring
        | PodState::Stopping
        | PodState::Deleting => "wait until that is done",
    };
    Error::new(Code::WrongState, format!("can't {to}: pod {} is {}", record.spec.name, record.state)).hint(hint)
}

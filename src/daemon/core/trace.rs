//! What an operation on a pod took, step by step: kept for a while, so that `torpor trace` can show where the time went.
//!
//! A step is noted by whoever takes it, with `step`; which operation it belongs to is known by the task it runs in. Steps
//! of one operation may overlap: they are taken side by side. An operation that had nothing to do leaves no trace.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::broadcast;

use super::Core;
use super::pod::Pod;
use crate::api::types::trace::{Step as ShownStep, Trace as Shown};
use crate::model::trace::Parent;
use crate::model::{Code, Error, PodId, PodRecord, Result};

/// Operations that are kept.
const KEPT: usize = 256;
/// Operations that whoever sends them on may be behind.
const BEHIND: usize = 64;
/// Steps of one operation: a retry has as many again.
const MOST_STEPS: usize = 128;

tokio::task_local! {
    static CURRENT: Arc<Recorder>;
    static PARENT: Option<Parent>;
}

/// What is done to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A pod is made, and started unless told otherwise.
    Create,
    /// Its command is started.
    Start,
    /// Its command is started again by policy.
    Restart,
    /// Its command is ended.
    Stop,
    /// It goes into the store.
    Sleep,
    /// It comes out of the store.
    Wake,
    /// A snapshot is taken.
    Snapshot,
    /// It is put back to a snapshot.
    Restore,
    /// A pod is made of a snapshot.
    Copy,
    /// It is removed.
    Remove,
}

impl Operation {
    /// Its stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "create",
            Operation::Start => "start",
            Operation::Restart => "restart",
            Operation::Stop => "stop",
            Operation::Sleep => "sleep",
            Operation::Wake => "wake",
            Operation::Snapshot => "snapshot",
            Operation::Restore => "restore",
            Operation::Copy => "copy",
            Operation::Remove => "remove",
        }
    }
}

/// A step of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What was done.
    pub name: &'static str,
    /// From the operation's beginning to the step's.
    pub after: Duration,
    /// How long it took.
    pub took: Duration,
}

/// An operation that has ended.
#[derive(Debug, Clone)]
pub struct Done {
    /// The trace's id, and its own: of the request's `traceparent`, if it had one.
    pub id: [u8; 16],
    /// The id of the operation within the trace.
    pub span: [u8; 8],
    /// The span of whoever asked for it.
    pub parent: Option<[u8; 8]>,
    /// What was done.
    pub operation: Operation,
    /// The pod's id and name; none: it failed before there was one.
    pub pod: Option<(PodId, String)>,
    /// When it began.
    pub began: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// Why it failed.
    pub failed: Option<Code>,
    /// Its steps, in the order in which they began.
    pub steps: Vec<Step>,
}

/// Operations that have ended, the last few.
pub(super) struct Traces {
    kept: Mutex<VecDeque<Arc<Done>>>,
    told: broadcast::Sender<Arc<Done>>,
}

impl Default for Traces {
    fn default() -> Self {
        Traces { kept: Mutex::default(), told: broadcast::Sender::new(BEHIND) }
    }
}

impl Traces {
    fn keep(&self, done: Arc<Done>) {
        let _ = self.told.send(Arc::clone(&done)); // nobody may listen
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(done);
    }
}

/// An operation under way.
struct Recorder {
    began: Timestamp,
    clock: Instant,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    pod: Option<(PodId, String)>,
    /// What has not ended yet has no time.
    steps: Vec<(&'static str, Duration, Option<Duration>)>,
}

impl Recorder {
    fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, operation: Operation, failed: Option<Code>, parent: Option<Parent>) -> Option<Done> {
        let took = self.clock.elapsed();
        let notes = std::mem::take(&mut *self.notes());
        if notes.steps.is_empty() && failed.is_none() {
            return None;
        }
        let ended = |(name, after, time): (_, Duration, Option<Duration>)| Step {
            name,
            after,
            took: time.unwrap_or_else(|| took.saturating_sub(after)),
        };
        let (mut id, mut span) = ([0; 16], [0; 8]);
        getrandom::fill(&mut span).ok()?;
        match parent {
            Some(parent) => id = parent.trace,
            None => getrandom::fill(&mut id).ok()?,
        }
        Some(Done {
            id,
            span,
            parent: parent.map(|p| p.span),
            operation,
            pod: notes.pod,
            began: self.began,
            took,
            failed,
            steps: notes.steps.into_iter().map(ended).collect(),
        })
    }
}

/// Notes the end of a step, also of one that is given up.
struct End {
    recorder: Arc<Recorder>,
    number: usize,
}

impl Drop for End {
    fn drop(&mut self) {
        let now = self.recorder.clock.elapsed();
        if let Some((_, after, took)) = self.recorder.notes().steps.get_mut(self.number) {
            *took = Some(now.saturating_sub(*after));
        }
    }
}

fn begin(name: &'static str) -> Option<End> {
    let recorder = CURRENT.try_with(Arc::clone).ok()?;
    let number = {
        let mut notes = recorder.notes();
        if notes.steps.len() >= MOST_STEPS {
            return None;
        }
        let after = recorder.clock.elapsed();
        notes.steps.push((name, after, None));
        notes.steps.len() - 1
    };
    Some(End { recorder, number })
}

/// Does a step of the operation that this task is at, if it is at one.
pub(super) async fn step<T>(name: &'static str, work: impl Future<Output = T>) -> T {
    let _end = begin(name);
    work.await
}

/// Says which pod the operation of this task is about.
pub(super) fn about(record: &PodRecord) {
    let _ = CURRENT.try_with(|r| r.notes().pod = Some((record.id.clone(), record.spec.name.to_string())));
}

/// Who asked, as a request's `traceparent` has it.
pub(super) fn parent() -> Option<Parent> {
    PARENT.try_with(|p| *p).ok().flatten()
}

/// Runs work that was asked for by `parent`.
pub async fn asked_by<T>(parent: Option<Parent>, work: impl Future<Output = T>) -> T {
    PARENT.scope(parent, work).await
}

impl Core {
    /// Runs an operation on a pod and keeps what it took.
    pub(super) async fn traced<T>(
        &self,
        operation: Operation,
        pod: Option<&Arc<Pod>>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let recorder = Arc::new(Recorder { began: Timestamp::now(), clock: Instant::now(), notes: Mutex::default() });
        if let Some(pod) = pod {
            let record = pod.look();
            recorder.notes().pod = Some((record.id.clone(), record.spec.name.to_string()));
        }
        let result = CURRENT.scope(Arc::clone(&recorder), work).await;
        if let Some(done) = recorder.end(operation, result.as_ref().err().map(Error::code), parent()) {
            self.metrics.operation(&done);
            self.traces.keep(Arc::new(done));
        }
        result
    }

    /// Operations from now on, as they end.
    pub fn follow_traces(&self) -> broadcast::Receiver<Arc<Done>> {
        self.traces.told.subscribe()
    }

    /// `GET /v1/traces`: the last operations on pods, or on one, oldest first.
    ///
    /// # Errors
    /// [`Code::NotFound`]: there is no such pod.
    pub fn list_traces(&self, reference: Option<&str>) -> Result<Vec<Shown>> {
        let pod = reference.map(|r| self.find(r)).transpose()?.map(|p| p.look().id.clone());
        let kept = self.traces.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let of_pod = |d: &&Arc<Done>| pod.as_ref().is_none_or(|p| d.pod.as_ref().is_some_and(|(id, _)| id == p));
        Ok(kept.iter().filter(of_pod).map(|d| show(d)).collect())
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

fn show(done: &Done) -> Shown {
    Shown {
        id: crate::model::hex(&done.id),
        operation: done.operation.as_str().into(),
        pod_id: done.pod.as_ref().map(|(id, _)| id.to_string()),
        pod: done.pod.as_ref().map(|(_, name)| name.clone()),
        at: done.began.to_string(),
        took_us: micros(done.took),
        outcome: done.failed.map_or("ok", Code::as_str).into(),
        steps: done
            .steps
            .iter()
            .map(|s| ShownStep { name: s.name.into(), after_us: micros(s.after), took_us: micros(s.took) })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder() -> Arc<Recorder> {
        Arc::new(Recorder { began: Timestamp::now(), clock: Instant::now(), notes: Mutex::default() })
    }

    #[tokio::test]
    async fn steps_side_by_side_and_steps_given_up_have_their_times() {
        let recorder = recorder();
        let work = async {
            tokio::join!(step("one", tokio::task::yield_now()), step("two", tokio::task::yield_now()));
            let never = step("never", std::future::pending::<()>());
            let _ = tokio::time::timeout(Duration::from_millis(5), never).await;
        };
        CURRENT.scope(Arc::clone(&recorder), work).await;
        let done = recorder.end(Operation::Wake, None, None).unwrap();
        let names: Vec<_> = done.steps.iter().map(|s| s.name).collect();
        assert_eq!(names, ["one", "two", "never"]);
        assert!(done.steps[2].took >= Duration::from_millis(4) && done.took >= done.steps[2].took, "{done:?}");
    }

    #[tokio::test]
    async fn without_an_operation_a_step_is_only_done() {
        assert_eq!(step("alone", async { 5 }).await, 5);
    }

    #[test]
    fn what_had_nothing_to_do_leaves_no_trace_and_failures_do() {
        assert!(recorder().end(Operation::Sleep, None, None).is_none());
        let parent = Parent { trace: [7; 16], span: [3; 8] };
        let done = recorder().end(Operation::Sleep, Some(Code::Exhausted), Some(parent)).unwrap();
        assert_eq!((done.id, done.parent, show(&done).outcome.as_str()), ([7; 16], Some([3; 8]), "exhausted"));
    }

    #[test]
    fn the_last_few_are_kept() {
        let traces = Traces::default();
        for _ in 0..KEPT + 3 {
            traces.keep(Arc::new(recorder().end(Operation::Stop, Some(Code::Internal), None).unwrap()));
        }
        assert_eq!(traces.kept.lock().unwrap().len(), KEPT);
    }
}

//! What has happened to pods, as clients are told it.
//!
//! Events lie in a ring in memory. Each reader goes over it at its own pace; one that is too slow is told that it missed some,
//! and nobody waits for it. After a crash the ring is empty: ids bear the daemon's start, so whoever goes on from an id of an
//! earlier life is told that there is a gap.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use super::{Core, view};
use crate::model::{Error, PodId, PodRecord, Result};
use crate::plan::events::{self, Happened};

/// Events that are kept.
const KEPT: usize = 4096;

/// An event's place: the daemon's life and the number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    life: u64,
    number: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.life, self.number)
    }
}

impl FromStr for EventId {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let read = |s: &str| {
            let (life, number) = s.split_once('-')?;
            Some(EventId { life: u64::from_str_radix(life, 16).ok()?, number: number.parse().ok()? })
        };
        read(s).ok_or_else(|| {
            let shown: String = s.chars().take(40).collect();
            Error::invalid(format!("{shown:?} is no event's id")).hint("take one that came with an event")
        })
    }
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its number in this life.
    number: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: Happened,
    /// Whose.
    pub pod: PodId,
    /// The pod's name then.
    pub name: String,
    /// The pod's labels then.
    pub labels: BTreeMap<String, String>,
    /// More about it, by name.
    pub attributes: BTreeMap<&'static str, String>,
}

/// What a reader is told.
#[derive(Debug, Clone)]
pub enum Told {
    /// An event and its id.
    Event(EventId, Event),
    /// So many events are not there any more; none: nobody knows how many. Reading goes on after the id.
    Gap(EventId, Option<u64>),
    /// Nothing that the reader asked for, up to there.
    Nothing(EventId),
}

/// Which events a reader asks for. Empty: all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this one, for whoever may see no other.
    pub only: Option<PodId>,
    /// Name, id or beginning of an id: one of them.
    pub pods: Vec<String>,
    /// One of these.
    pub what: Vec<Happened>,
    /// Label, and its value unless any will do: all of them.
    pub labels: Vec<(String, Option<String>)>,
}

/// Shortest beginning of an id that stands for it.
const LEAST_ID: usize = 6;

impl Filter {
    fn takes(&self, e: &Event) -> bool {
        let is = |p: &String| *p == e.name || (p.len() >= LEAST_ID && e.pod.as_str().starts_with(p.as_str()));
        self.only.as_ref().is_none_or(|only| *only == e.pod)
            && (self.pods.is_empty() || self.pods.iter().any(is))
            && (self.what.is_empty() || self.what.contains(&e.what))
            && has_labels(&e.labels, &self.labels)
    }
}

/// Whether there are all of those labels.
pub(super) fn has_labels(labels: &BTreeMap<String, String>, wanted: &[(String, Option<String>)]) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name).is_some_and(|v| value.as_ref().is_none_or(|w| w == v)))
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy)]
pub enum Begin {
    /// With what is still to come.
    Now,
    /// After an event that it has seen.
    After(EventId),
    /// With what happened since then and is still known.
    Since(Timestamp),
}

/// The ring.
pub(super) struct Events {
    life: u64,
    kept: Mutex<VecDeque<Event>>,
    /// Number of the next event.
    next: watch::Sender<u64>,
}

impl Events {
    /// An empty one.
    pub(super) fn new() -> Self {
        let life = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default();
        Events { life, kept: Mutex::default(), next: watch::Sender::new(1) }
    }

    /// Tells what lies between two records of a pod.
    pub(super) fn tell_changes(&self, before: &PodRecord, after: &PodRecord) {
        for what in events::between(before, after) {
            self.tell(what, after, attributes(what, before, after));
        }
    }

    /// Tells something that no record shows.
    pub(super) fn tell(&self, what: Happened, of: &PodRecord, attributes: BTreeMap<&'static str, String>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let number = *self.next.borrow();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Event {
            number,
            at: Timestamp::now(),
            what,
            pod: of.id.clone(),
            name: of.spec.name.to_string(),
            labels: of.spec.labels.clone(),
            attributes,
        });
        self.next.send_replace(number + 1);
    }

    fn id(&self, number: u64) -> EventId {
        EventId { life: self.life, number }
    }

    /// The first number that a reader wants; with it what it missed before.
    fn begin(&self, from: Begin) -> (u64, Option<Told>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let next = *self.next.borrow();
        let oldest = kept.front().map_or(next, |e| e.number);
        match from {
            Begin::Now => (next, None),
            Begin::Since(time) => {
                let first = kept.iter().find(|e| e.at >= time).map_or(next, |e| e.number);
                let forgotten = first == oldest && oldest > 1;
                (first, forgotten.then(|| Told::Gap(self.id(first - 1), None)))
            }
            Begin::After(id) if id.life == self.life && id.number < next => (id.number + 1, None),
            Begin::After(_) => (oldest, Some(Told::Gap(self.id(oldest - 1), None))),
        }
    }

    /// What stands at `number` or after it for such a reader, and the number to go on with. None: nothing new.
    fn read(&self, number: u64, filter: &Filter) -> Option<(Told, u64)> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = kept.front()?.number;
        if number < oldest {
            return Some((Told::Gap(self.id(oldest - 1), Some(oldest - number)), oldest));
        }
        let skip = usize::try_from(number - oldest).unwrap_or(usize::MAX);
        match kept.iter().skip(skip).find(|e| filter.takes(e)) {
            Some(e) => Some((Told::Event(self.id(e.number), e.clone()), e.number + 1)),
            None => {
                let next = kept.back()?.number + 1;
                (next > number).then(|| (Told::Nothing(self.id(next - 1)), next))
            }
        }
    }
}

/// What there is to say about it besides whose it is.
fn attributes(what: Happened, before: &PodRecord, after: &PodRecord) -> BTreeMap<&'static str, String> {
    let mut all = BTreeMap::new();
    match what {
        Happened::Created => drop(all.insert("image", after.spec.image.to_string())),
        Happened::Exited => {
            all.extend(after.exit_code.map(|c| ("exitCode", c.to_string())));
            all.extend(after.exit_reason.map(|r| ("exitReason", view::reason(r))));
            all.extend(after.restarts.at.map(|t| ("restartAt", t.to_string())));
        }
        Happened::Sleeping | Happened::Woke => {
            all.extend(after.snapshot.as_ref().map(|s| ("snapshot", s.to_string())));
        }
        Happened::Restored => all.extend(before.pending.as_ref().map(|s| ("snapshot", s.to_string()))),
        Happened::RootfsReset => all.extend(after.last_error.as_ref().map(|e| ("error", e.clone()))),
        Happened::Renamed => drop(all.insert("oldName", before.spec.name.to_string())),
        Happened::Failed => {
            all.insert("while", before.state.to_string());
            all.extend(after.last_error.as_ref().map(|e| ("error", e.clone())));
        }
        _ => {}
    }
    all
}

impl Core {
    /// `GET /v1/events`: what is told to a reader, without end.
    pub fn events(
        self: &std::sync::Arc<Self>,
        from: Begin,
        filter: Filter,
    ) -> impl futures::Stream<Item = Told> + Send + use<> {
        let core = std::sync::Arc::clone(self);
        let (number, gap) = core.events.begin(from);
        let next = core.events.next.subscribe();
        futures::stream::unfold((core, number, gap, next, filter), async |(core, mut number, gap, mut next, filter)| {
            if let Some(gap) = gap {
                return Some((gap, (core, number, None, next, filter)));
            }
            loop {
                next.borrow_and_update();
                if let Some((told, on)) = core.events.read(number, &filter) {
                    number = on;
                    return Some((told, (core, number, None, next, filter)));
                }
                tokio::select! {
                    changed = next.changed() => changed.ok()?,
                    () = core.shutdown.cancelled() => return None,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(events: &Events, n: u64) {
        let mut kept = events.kept.lock().unwrap();
        let number = *events.next.borrow();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Event {
            number,
            at: Timestamp::now(),
            what: Happened::Started,
            pod: "0123456789abcdef".parse().unwrap(),
            name: format!("web-{n}"),
            labels: BTreeMap::new(),
            attributes: BTreeMap::new(),
        });
        events.next.send_replace(number + 1);
    }

    #[test]
    fn a_reader_that_is_too_slow_is_told_what_it_missed() {
        let events = Events::new();
        let (first, gap) = events.begin(Begin::Now);
        assert!(first == 1 && gap.is_none() && events.read(first, &Filter::default()).is_none());
        for n in 0..KEPT as u64 + 10 {
            event(&events, n);
        }
        let Some((Told::Gap(id, Some(10)), on)) = events.read(first, &Filter::default()) else { panic!("no gap") };
        assert_eq!((id.number, on), (10, 11));
        let Some((Told::Event(id, e), 12)) = events.read(on, &Filter::default()) else { panic!("no event") };
        assert_eq!((id.number, e.name.as_str()), (11, "web-10"));
        // Its id is where it goes on, and what was not asked for is passed over.
        let (next, gap) = events.begin(Begin::After(id.to_string().parse().unwrap()));
        assert!(next == 12 && gap.is_none());
        let only = Filter { pods: vec!["web-4000".into()], ..Filter::default() };
        let Some((Told::Event(id, _), on)) = events.read(next, &only) else { panic!("no event") };
        assert_eq!(id.number, 4001);
        assert!(matches!(events.read(on, &only), Some((Told::Nothing(_), _))));
        // An id of another life, or one that is still to come.
        for other in [EventId { life: 1, number: 5 }, EventId { life: events.life, number: 1 << 40 }] {
            assert!(matches!(events.begin(Begin::After(other)), (11, Some(Told::Gap(_, None)))));
        }
        assert!("".parse::<EventId>().is_err() && "x-1".parse::<EventId>().is_err());
    }
}

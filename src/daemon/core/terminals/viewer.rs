//! What is shared between those who look at one terminal, and one of them.
//!
//! The bytes lie once, whoever reads them; each viewer has a place. One that is so far behind that its bytes are gone is told how
//! many it missed and goes on with what there is: memory stays what it is, and nobody waits for it for long.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::patience::Patience;
use crate::channel::scrollback::{KEPT, Scrollback};
use crate::channel::stream::StreamOpened;
use crate::channel::terminal::{TerminalEnd, WindowSize};
use crate::model::{Error, PodState};

/// Bytes shown at once.
const PIECE: usize = 32 * 1024;
/// Bytes of input in one message.
pub(super) const INPUT: usize = 16 * 1024;
/// Messages of input that may wait.
pub(super) const WAITING: usize = 16;

/// What a viewer gives.
#[derive(Debug)]
pub(super) enum Input {
    Bytes(Vec<u8>),
    Resize(WindowSize),
    Signal(i32),
    /// Somebody was told the end.
    Told,
}

/// How it came to an end.
#[derive(Debug, Clone)]
pub enum End {
    /// Its program ended.
    Exit(TerminalEnd),
    /// It is not there any more, or can't be followed.
    Lost(Arc<Error>),
}

/// What a viewer is shown.
#[derive(Debug, Clone)]
pub enum Shown {
    /// Output.
    Bytes(Vec<u8>),
    /// So many bytes are gone.
    Missed(u64),
    /// Another size.
    Resized(WindowSize),
    /// The pod is in another state.
    State(PodState),
    /// Nothing comes after that.
    End(End),
}

struct Place {
    at: u64,
    patience: Patience,
}

struct Inside {
    scrollback: Scrollback,
    /// Place up to which there is more to come at once.
    known: u64,
    size: WindowSize,
    state: PodState,
    end: Option<End>,
    viewers: BTreeMap<u64, Place>,
    next: u64,
    /// Nobody follows the terminal here any more.
    closed: bool,
}

/// One terminal, as those who look at it here see it.
pub(crate) struct Shared {
    id: String,
    inside: Mutex<Inside>,
    changed: watch::Sender<()>,
    /// A viewer has read, or has gone.
    pub(super) moved: Notify,
    input: mpsc::Sender<Input>,
}

impl Shared {
    /// A terminal as it was opened, and who gives it its input.
    pub(super) fn new(id: &str, opened: &StreamOpened) -> (Arc<Self>, mpsc::Receiver<Input>) {
        let (input, given) = mpsc::channel(WAITING);
        let inside = Inside {
            scrollback: Scrollback::at(opened.start),
            known: opened.end,
            size: opened.size,
            state: PodState::Running,
            end: None,
            viewers: BTreeMap::new(),
            next: 0,
            closed: false,
        };
        let (changed, moved) = (watch::Sender::new(()), Notify::new());
        (Arc::new(Shared { id: id.into(), inside: Mutex::new(inside), changed, moved, input }), given)
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The terminal's id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// How many look at it.
    pub(super) fn viewers(&self) -> usize {
        self.lock().viewers.len()
    }

    /// One more, who begins at `from` or with all that is kept. None: it is closed.
    pub(super) fn join(self: &Arc<Self>, from: Option<u64>) -> Option<Viewer> {
        let mut inside = self.lock();
        if inside.closed {
            return None;
        }
        let end = inside.scrollback.end().max(inside.known);
        let at = from.filter(|f| *f <= end).unwrap_or_else(|| inside.scrollback.beginning());
        let number = inside.next;
        inside.next += 1;
        inside.viewers.insert(number, Place { at, patience: Patience::new(Instant::now()) });
        let (size, state) = (inside.size, inside.state);
        Some(Viewer { shared: Arc::clone(self), number, start: at, size, state, changed: self.changed.subscribe() })
    }

    /// Closes it if nobody looks.
    pub(super) fn close_if_empty(&self) -> bool {
        let mut inside = self.lock();
        inside.closed |= inside.viewers.is_empty();
        inside.closed
    }

    /// Nobody joins any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    fn change(&self, change: impl FnOnce(&mut Inside)) {
        change(&mut self.lock());
        self.changed.send_replace(());
    }

    pub(super) fn take(&self, place: u64, data: &[u8]) {
        self.change(|i| i.scrollback.push_at(place, data));
    }

    /// Place of the next byte.
    pub(super) fn place(&self) -> u64 {
        self.lock().scrollback.end()
    }

    /// It goes on: at an earlier place than was known if it is another life of it.
    pub(super) fn go_on(&self, opened: &StreamOpened) {
        let start = opened.start;
        self.change(|i| {
            (i.size, i.known) = (opened.size, opened.end);
            if start < i.scrollback.end() {
                i.scrollback = Scrollback::at(start);
                i.viewers.values_mut().for_each(|v| v.at = u64::MAX);
            }
        });
    }

    pub(super) fn set_size(&self, size: WindowSize) {
        self.change(|i| i.size = size);
    }

    pub(super) fn set_state(&self, state: PodState) {
        self.change(|i| i.state = state);
    }

    pub(super) fn set_end(&self, end: End) {
        self.change(|i| i.end = Some(end));
    }

    /// For how long the terminal waits for somebody who would miss something; none: it need not.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let mut inside = self.lock();
        let end = inside.scrollback.end();
        let behind = |at: u64| end.saturating_sub(at) > KEPT as u64 / 2;
        let most = inside.viewers.values().filter(|v| behind(v.at)).count() * 2 > inside.viewers.len();
        let viewers = inside.viewers.values_mut();
        // Each one's time passes, whoever is waited for longest.
        viewers.fold(None, |longest, v| longest.max(v.patience.wait(v.at, behind(v.at), most, now)))
    }
}

/// One who looks at a terminal, until it is dropped.
pub struct Viewer {
    shared: Arc<Shared>,
    number: u64,
    start: u64,
    size: WindowSize,
    state: PodState,
    changed: watch::Receiver<()>,
}

impl Viewer {
    /// Place of the first byte that it is shown.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The terminal's size as it is known here.
    pub fn size(&self) -> WindowSize {
        self.size
    }

    /// The terminal's id.
    pub fn id(&self) -> &str {
        self.shared.id()
    }

    /// What comes next. May be given up and asked again: nothing is lost.
    pub async fn next(&mut self) -> Shown {
        loop {
            self.changed.borrow_and_update();
            if let Some(shown) = self.look() {
                return shown;
            }
            if self.changed.changed().await.is_err() {
                std::future::pending::<()>().await; // never: it lives as long as this
            }
        }
    }

    fn look(&mut self) -> Option<Shown> {
        let mut inside = self.shared.lock();
        if inside.size != self.size {
            self.size = inside.size;
            return Some(Shown::Resized(self.size));
        }
        if inside.state != self.state {
            self.state = inside.state;
            return Some(Shown::State(self.state));
        }
        let (start, end, beginning) =
            (inside.scrollback.start(), inside.scrollback.end(), inside.scrollback.beginning());
        let at = inside.viewers.get(&self.number)?.at;
        let (to, shown) = if at < start {
            (beginning, Some(Shown::Missed(beginning - at)))
        } else if at > end.max(inside.known) {
            // Another life of the terminal, which is shown from its beginning.
            (beginning, Some(Shown::Missed(0)))
        } else if at < end {
            let (place, bytes) = inside.scrollback.read(at, PIECE);
            (place + bytes.len() as u64, Some(Shown::Bytes(bytes)))
        } else {
            (at, inside.end.clone().map(Shown::End))
        };
        if let Some(place) = inside.viewers.get_mut(&self.number) {
            place.at = to;
        }
        drop(inside);
        self.shared.moved.notify_one();
        shown
    }

    /// What it does to the terminal, apart from what it sees.
    pub fn hand(&self) -> Hand {
        Hand { input: self.shared.input.clone(), shared: Arc::clone(&self.shared) }
    }
}

/// What a viewer does to a terminal.
pub struct Hand {
    input: mpsc::Sender<Input>,
    shared: Arc<Shared>,
}

impl Hand {
    /// Gives input, and waits until there is room for it.
    pub async fn input(&self, bytes: &[u8]) {
        for piece in bytes.chunks(INPUT) {
            self.give(Input::Bytes(piece.to_vec())).await;
        }
    }

    /// Gives the terminal another size.
    pub async fn resize(&self, size: WindowSize) {
        self.give(Input::Resize(size)).await;
    }

    /// Sends what runs on it a signal.
    pub async fn signal(&self, signal: i32) {
        self.give(Input::Signal(signal)).await;
    }

    /// Its end was told to whoever asked.
    pub async fn told(&self) {
        self.give(Input::Told).await;
    }

    async fn give(&self, input: Input) {
        // Nobody takes it where the terminal has ended.
        let _ = self.input.send(input).await;
        self.shared.moved.notify_one();
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.shared.lock().viewers.remove(&self.number);
        self.shared.moved.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Arc<Shared> {
        Shared::new("t", &StreamOpened::default()).0
    }

    #[tokio::test]
    async fn each_sees_all_of_it_and_its_end() {
        let s = shared();
        s.take(0, b"before\n");
        let (mut a, mut b) = (s.join(None).unwrap(), s.join(Some(3)).unwrap());
        s.take(7, b"after");
        assert!(matches!(a.next().await, Shown::Bytes(x) if x == b"before\nafter"));
        assert!(matches!(b.next().await, Shown::Bytes(x) if x == b"ore\nafter"));
        s.set_size(WindowSize { cols: 3, rows: 4 });
        s.set_end(End::Exit(TerminalEnd { code: Some(3), ..TerminalEnd::default() }));
        for v in [&mut a, &mut b] {
            assert!(matches!(v.next().await, Shown::Resized(WindowSize { cols: 3, rows: 4 })));
            assert!(matches!(v.next().await, Shown::End(End::Exit(e)) if e.exit_code() == 3));
        }
        drop((a, b));
        assert!(s.close_if_empty() && s.join(None).is_none());
    }

    #[tokio::test]
    async fn one_who_does_not_read_misses_something_and_goes_on() {
        let s = shared();
        let (mut quick, mut slow) = (s.join(None).unwrap(), s.join(None).unwrap());
        let now = Instant::now();
        let (mut place, mut had) = (0, 0);
        for n in 0..64_u8 {
            s.take(place, &[n; KEPT / 16]);
            place += KEPT as u64 / 16;
            while had < place {
                match quick.next().await {
                    Shown::Bytes(b) => had += b.len() as u64,
                    other => panic!("{other:?}"),
                }
            }
        }
        let patience = s.wait(now).unwrap();
        assert_eq!(s.wait(now + 2 * patience), None, "long enough");
        assert!(matches!(slow.next().await, Shown::Missed(n) if n == place - KEPT as u64));
        assert!(matches!(slow.next().await, Shown::Bytes(b) if b.len() == PIECE));
    }

    #[tokio::test]
    async fn another_life_is_shown_from_its_beginning() {
        let s = shared();
        s.take(0, b"the first life");
        let mut v = s.join(None).unwrap();
        assert!(matches!(v.next().await, Shown::Bytes(_)));
        s.go_on(&StreamOpened::default());
        s.take(0, b"once more, and longer");
        assert!(matches!(v.next().await, Shown::Missed(0)));
        assert!(matches!(v.next().await, Shown::Bytes(b) if b == b"once more, and longer"));
    }
}

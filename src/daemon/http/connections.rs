//! The connections that are open: bounded, and so that no process of a client's, and no address, shuts out the others.
//!
//! Where there are too many, the one goes that has waited longest without a request under way.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;

/// Connections at once.
const MOST: usize = 4096;
/// Connections at once of one client.
const OF_ONE: usize = 1024;

/// The client at the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    /// A process, by its id; 0 if that is not known.
    Process(i32),
    /// An address, or a network of them.
    Address(IpAddr),
}

/// Those that are open.
#[derive(Default)]
pub(super) struct Connections(Mutex<Table>);

#[derive(Default)]
struct Table {
    next: u64,
    /// Oldest first.
    open: BTreeMap<u64, Entry>,
}

struct Entry {
    peer: Client,
    /// Requests under way, their answers included.
    requests: u32,
    /// Cancelled: it is closed.
    end: CancellationToken,
}

/// One of them, until it is dropped.
pub(super) struct Connection {
    table: Arc<Connections>,
    number: u64,
    end: CancellationToken,
}

/// A request and its answer on their way.
struct Busy(Arc<Connection>);

impl Connections {
    /// Takes in a connection of `peer`; none: that one has too many requests under way, or all have.
    pub(super) fn open(self: &Arc<Self>, peer: Client) -> Option<Connection> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = table.open.values().filter(|e| e.peer == peer).count();
        if of_peer >= OF_ONE || table.open.len() >= MOST {
            let idle = |(_, e): &(&u64, &Entry)| e.requests == 0 && (of_peer < OF_ONE || e.peer == peer);
            let oldest = table.open.iter().find(idle).map(|(n, _)| *n)?;
            if let Some(entry) = table.open.remove(&oldest) {
                entry.end.cancel();
            }
        }
        let (number, end) = (table.next, CancellationToken::new());
        table.next += 1;
        table.open.insert(number, Entry { peer, requests: 0, end: end.clone() });
        Some(Connection { table: Arc::clone(self), number, end })
    }

    /// Counts requests.
    fn count(&self, number: u64, change: impl FnOnce(&mut u32)) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = table.open.get_mut(&number) {
            change(&mut entry.requests);
        }
    }
}

impl Connection {
    /// Ends when it is to be closed for others.
    pub(super) fn end(&self) -> CancellationToken {
        self.end.clone()
    }

    /// Answers a request, and counts it as under way until its answer is sent or given up.
    pub(super) async fn answer<E>(
        self: Arc<Self>,
        answer: impl Future<Output = Result<Response, E>>,
    ) -> Result<Response, E> {
        self.table.count(self.number, |n| *n += 1);
        let busy = Busy(self);
        Ok(answer.await?.map(|body| Body::new(Counted { body, _busy: busy })))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.table.0.lock().unwrap_or_else(PoisonError::into_inner).open.remove(&self.number);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.table.count(self.0.number, |n| *n = n.saturating_sub(1));
    }
}

/// An answer's body.
struct Counted {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, c: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(c)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn too_many_of_one_process_cost_that_process_only() {
        let table = Arc::new(Connections::default());
        let other = table.open(Client::Process(2)).unwrap();
        let mut mine: Vec<_> = (0..OF_ONE).map(|_| Arc::new(table.open(Client::Process(1)).unwrap())).collect();
        let answer = async { Ok::<_, ()>(Response::new(Body::empty())) };
        let answer = Arc::clone(&mine[0]).answer(answer).await.unwrap();
        mine.push(Arc::new(table.open(Client::Process(1)).unwrap()));
        // The oldest is busy: the next had to go.
        let closed: Vec<bool> = mine.iter().take(3).map(|c| c.end().is_cancelled()).collect();
        assert_eq!((closed, other.end().is_cancelled()), (vec![false, true, false], false));
        drop(answer);
        mine.push(Arc::new(table.open(Client::Process(1)).unwrap()));
        assert!(mine[0].end().is_cancelled());
        drop(mine);
        assert_eq!(table.0.lock().unwrap().open.len(), 1);
    }
}

//! From a stream of the async world to a thread that reads: so an upload is unpacked while it arrives.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::host::progress::Progress;
use crate::model::{Code, Error, Result};

/// Without a byte from its source for so long, an import fails.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes handed over at once, and how many such pieces may wait.
const PIECE: usize = 256 * 1024;
const PIECES: usize = 4;

/// The side that reads. Its end is the source's end; if the source failed or was given up, reading fails.
pub(super) struct Fed {
    pieces: Receiver<Option<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
    count: Arc<AtomicU64>,
}

/// Bytes that came so far.
#[derive(Clone)]
pub(super) struct Count(Arc<AtomicU64>);

impl Count {
    /// A number that is known.
    pub(super) fn of(bytes: u64) -> Self {
        Count(Arc::new(AtomicU64::new(bytes)))
    }
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The side that feeds.
pub(super) struct Feeder(Sender<Option<Vec<u8>>>);

pub(super) fn pair() -> (Feeder, Fed) {
    let (sender, pieces) = channel(PIECES);
    (Feeder(sender), Fed { pieces, piece: Vec::new(), at: 0, ended: false, count: Arc::default() })
}

impl Fed {
    pub(super) fn count(&self) -> Count {
        Count(Arc::clone(&self.count))
    }
}

impl Feeder {
    /// Hands over all of a stream, `most` bytes at most. A reader that has gone has its own reasons, which it tells.
    pub(super) async fn feed(self, mut stream: impl AsyncRead + Unpin, most: u64, progress: &Progress) -> Result<()> {
        let mut sum = 0_u64;
        loop {
            let mut piece = vec![0_u8; PIECE];
            let read = tokio::time::timeout(IDLE, stream.read(&mut piece)).await.map_err(|_| {
                Error::new(Code::Timeout, format!("receive the image: nothing came for {} s", IDLE.as_secs()))
            })?;
            let n = read.map_err(|e| match e.downcast::<Error>() {
                Ok(own) => own, // a source of ours says itself what went wrong
                Err(e) => Error::new(Code::BadArchive, "receive the image").because(e),
            })?;
            sum += n as u64;
            if sum > most {
                return Err(Error::new(Code::TooLarge, format!("the image is larger than {most} bytes")));
            }
            piece.truncate(n);
            let last = n == 0;
            let handed = self.0.send(if last { None } else { Some(piece) }).await;
            if last || handed.is_err() {
                return Ok(());
            }
            progress.add(n as u64);
        }
    }
}

/// Feeds while the reading side works; what that makes of it is the result, unless the source failed.
pub(super) async fn drive<T>(
    feeding: impl Future<Output = Result<()>>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => done,
        fed = feeding => match fed {
            Ok(()) => work.await,
            Err(e) => {
                // It ends by itself, and cleans up, when it sees that nothing comes any more. Dropped, it is killed.
                let _ = tokio::time::timeout(IDLE, work).await;
                Err(e)
            }
        },
    }
}

impl Read for Fed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Some(piece)) => {
                    self.count.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    (self.piece, self.at) = (piece, 0);
                }
                Some(None) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the source was given up")),
            }
        }
        let n = buffer.len().min(self.piece.len() - self.at);
        buffer[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

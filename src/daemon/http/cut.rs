//! A connection that ends when the token by which it is used does: whatever goes on on it, an upgraded one too.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// By what a connection is used now: cancelled when that stops being good.
pub(super) type Holder = watch::Sender<Option<CancellationToken>>;

/// The bytes of a connection, until its end is called.
pub(super) struct Cut<S> {
    inner: S,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<S> Cut<S> {
    pub(super) fn new(inner: S, by: watch::Receiver<Option<CancellationToken>>) -> Self {
        Cut { inner, ended: Box::pin(ended(by)) }
    }

    fn over(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                // It may be asked again.
                self.ended = Box::pin(std::future::ready(()));
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the token is good no more"))
            }
        }
    }
}

async fn ended(mut by: watch::Receiver<Option<CancellationToken>>) {
    loop {
        let now = by.borrow_and_update().clone();
        let end = async {
            match &now {
                Some(end) => end.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = end => return,
            changed = by.changed() => if changed.is_err() {
                // No more requests; what was begun by the last goes on.
                return match now {
                    Some(end) => end.cancelled_owned().await,
                    None => std::future::pending().await,
                };
            },
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cut<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.over(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cut<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.over(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.over(cx)?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.over(cx)?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_connection_ends_with_what_it_is_used_by() {
        let (mut far, near) = tokio::io::duplex(64);
        let holder = Holder::new(None);
        let mut near = Cut::new(near, holder.subscribe());
        far.write_all(b"a").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'a');
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        holder.send_replace(Some(first.clone()));
        holder.send_replace(Some(second.clone()));
        first.cancel();
        near.write_all(b"b").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'b');
        // Whoever waits is woken, when nobody may ask anew any more, too.
        drop(holder);
        let waiting = tokio::spawn(async move {
            let read = near.read_u8().await;
            (read, near.write_all(b"c").await)
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        second.cancel();
        let (read, wrote) = waiting.await.unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(wrote.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}

//! Bodies of requests and answers.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, BodyStream, Empty};
use hyper::Response;
use hyper::body::{Frame, Incoming, SizeHint};

use super::{Result, broken};

pub(super) type Body = BoxBody<Bytes, std::io::Error>;

/// A body that says how long it is, if that is known: so the other side can tell how far it is.
pub(super) struct Upload<B> {
    pub(super) body: B,
    pub(super) length: Option<u64>,
}

impl<B: hyper::body::Body + Unpin> hyper::body::Body for Upload<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

pub(super) fn empty() -> Body {
    Empty::new().map_err(|e| match e {}).boxed()
}

/// An answer as bytes, as they come.
pub(super) fn bytes(response: Response<Incoming>) -> impl Stream<Item = Result<Bytes>> + Send {
    BodyStream::new(response.into_body()).map(|f| f.map(|f| f.into_data().unwrap_or_default()).map_err(broken))
}

/// An answer line by line.
pub(super) fn lines(response: Response<Incoming>) -> impl Stream<Item = Result<Vec<u8>>> + Send {
    let frames = BodyStream::new(response.into_body());
    futures::stream::unfold((frames, Vec::new(), false), |(mut frames, mut rest, mut over)| async move {
        loop {
            if let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = rest.drain(..=end).collect();
                line.pop();
                return Some((Ok(line), (frames, rest, over)));
            }
            if over {
                return (!rest.is_empty()).then(|| (Ok(std::mem::take(&mut rest)), (frames, rest, over)));
            }
            match frames.next().await {
                Some(Ok(frame)) => rest.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                Some(Err(e)) => return Some((Err(broken(e)), (frames, Vec::new(), true))),
                None => over = true,
            }
        }
    })
}

//! WebSockets: what all of them have in common. Whoever listens has nothing to do with it.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::http::request::Parts;
use futures::stream::SplitSink;
use futures::{SinkExt, Stream, StreamExt};

use super::answer::Refused;
use crate::api::problem::Problem;
use crate::api::terminal::{SocketAsks, SocketSays};
use crate::daemon::core::streams::signal;
use crate::daemon::core::terminals::{End, Shown, Viewer, size};
use crate::model::{Code, Error, Result};

/// Bytes of a message.
pub(super) const LARGEST: usize = 1 << 20;
/// How long a message may take to be sent; a client that takes nothing for so long is given up.
const SEND: Duration = Duration::from_secs(60);
/// From one sign of life to the next: connections that are silent for long are cut by what lies between.
const PING: Duration = Duration::from_secs(30);
/// How long the other side's close is waited for.
const CLOSE: Duration = Duration::from_secs(2);

/// The upgrade of a request to a WebSocket. Anything else is refused as everything is here.
pub(super) struct Upgrade(pub(super) WebSocketUpgrade);

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, Refused> {
        let upgrade = WebSocketUpgrade::from_request_parts(parts, state).await.map_err(|e| {
            Refused(
                Error::invalid(format!("this is a WebSocket: {}", e.body_text())).hint("ask with a WebSocket client"),
            )
        })?;
        // Small buffers: hundreds may look at one terminal.
        Ok(Upgrade(
            upgrade.max_message_size(LARGEST).max_frame_size(LARGEST).read_buffer_size(8 << 10).write_buffer_size(0),
        ))
    }
}

/// How output and input are told apart in binary frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Not at all: a terminal has one of each.
    Raw,
    /// By their first byte: 0 input, 1 standard output, 2 standard error.
    Numbered,
}

impl Framing {
    fn frame(self, bytes: Vec<u8>) -> Message {
        match self {
            Framing::Raw => Message::Binary(bytes.into()),
            Framing::Numbered => numbered(1, &bytes),
        }
    }

    /// The input that a frame holds.
    fn input(self, bytes: &[u8]) -> Result<&[u8]> {
        match self {
            Framing::Raw => Ok(bytes),
            Framing::Numbered => input(bytes),
        }
    }
}

/// Output as a frame of its stream.
pub(super) fn numbered(stream: u8, bytes: &[u8]) -> Message {
    Message::Binary([&[stream], bytes].concat().into())
}

/// The input in a frame that says that it is some.
pub(super) fn input(bytes: &[u8]) -> Result<&[u8]> {
    match bytes.split_first() {
        Some((0, input)) => Ok(input),
        Some((other, _)) => Err(Error::invalid(format!("a binary frame for stream {other}: input has the number 0"))),
        None => Err(Error::invalid("an empty binary frame: the first byte is the stream's number")),
    }
}

/// What a text frame asks.
pub(super) fn asks(text: &Utf8Bytes) -> Result<SocketAsks> {
    serde_json::from_str(text.as_str()).map_err(|e| {
        Error::invalid(format!("a text frame was not understood: {e}")).hint("resize, signal and stdinEnd are known")
    })
}

/// The way out.
pub(super) struct Sender(SplitSink<WebSocket, Message>);

/// Why a socket comes to its end without having said so itself.
pub(super) enum Over {
    /// The client has gone, or takes nothing.
    Gone,
    /// It is told why.
    Failed(Error),
}

impl From<Error> for Over {
    fn from(e: Error) -> Self {
        Over::Failed(e)
    }
}

/// Both directions of a socket.
pub(super) fn split(
    socket: WebSocket,
) -> (Sender, impl Stream<Item = std::result::Result<Message, axum::Error>> + Unpin) {
    let (sink, stream) = socket.split();
    (Sender(sink), stream)
}

impl Sender {
    pub(super) async fn send(&mut self, message: Message) -> std::result::Result<(), Over> {
        match tokio::time::timeout(SEND, self.0.send(message)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Over::Gone),
        }
    }

    pub(super) async fn say(&mut self, says: &SocketSays) -> std::result::Result<(), Over> {
        // Plain data with string keys: writing it to memory can't fail.
        self.send(Message::Text(serde_json::to_string(says).unwrap_or_default().into())).await
    }

    /// A sign of life.
    pub(super) async fn ping(&mut self) -> std::result::Result<(), Over> {
        self.send(Message::Ping(axum::body::Bytes::new())).await
    }

    async fn close(&mut self, code: u16, reason: &'static str) {
        let _ = self.send(Message::Close(Some(CloseFrame { code, reason: Utf8Bytes::from_static(reason) }))).await;
    }

    /// Says how it ended, and closes: it was all sent, or why not.
    pub(super) async fn finish(
        mut self,
        mut stream: impl Stream<Item = std::result::Result<Message, axum::Error>> + Unpin,
        ended: std::result::Result<(), Over>,
    ) {
        match ended {
            Ok(()) => self.close(close_code::NORMAL, "it has ended").await,
            Err(Over::Gone) => return,
            Err(Over::Failed(e)) => {
                let code = match e.code() {
                    Code::InvalidRequest | Code::TooLarge => close_code::POLICY,
                    Code::Cancelled => close_code::RESTART,
                    _ => close_code::ERROR,
                };
                if self.say(&SocketSays::Error { problem: Problem::of(&e, "") }).await.is_ok() {
                    self.close(code, "see the last text frame").await;
                }
            }
        }
        // Closed before the other side has read all, the last frames could be lost.
        let _ = tokio::time::timeout(CLOSE, async { while let Some(Ok(_)) = stream.next().await {} }).await;
    }
}

/// When to give signs of life.
pub(super) fn pings() -> tokio::time::Interval {
    tokio::time::interval_at(tokio::time::Instant::now() + PING, PING)
}

/// A torpord that ends.
pub(super) fn restarting() -> Over {
    Over::Failed(Error::new(Code::Cancelled, "torpord is being restarted").hint("connect again: it goes on"))
}

/// Shows a terminal until it has ended or the client goes.
pub(super) async fn show(
    socket: WebSocket,
    mut viewer: Viewer,
    created: bool,
    framing: Framing,
    shutdown: &tokio_util::sync::CancellationToken,
) {
    let (mut sender, mut stream) = split(socket);
    let opened = SocketSays::Opened {
        terminal: Some(viewer.id().to_owned()),
        created,
        cols: viewer.size().cols,
        rows: viewer.size().rows,
        start: viewer.start(),
    };
    let hand = viewer.hand();
    let ended = {
        let output = async {
            sender.say(&opened).await?;
            let mut pings = pings();
            loop {
                let shown = tokio::select! {
                    shown = viewer.next() => shown,
                    _ = pings.tick() => {
                        sender.ping().await?;
                        continue;
                    }
                };
                match shown {
                    Shown::Bytes(bytes) => sender.send(framing.frame(bytes)).await?,
                    Shown::Missed(bytes) => sender.say(&SocketSays::Missed { bytes }).await?,
                    Shown::Resized(s) => sender.say(&SocketSays::Resized { cols: s.cols, rows: s.rows }).await?,
                    Shown::State(state) => sender.say(&SocketSays::State { state: state.as_str().into() }).await?,
                    Shown::End(End::Exit(end)) => {
                        let (exit_code, timed_out) = (end.exit_code(), end.timed_out);
                        sender.say(&SocketSays::Exit { exit_code, timed_out }).await?;
                        hand.told().await;
                        return Ok(());
                    }
                    Shown::End(End::Lost(e)) => return Err(Over::Failed(again(&e))),
                }
            }
        };
        let input = async {
            while let Some(Ok(message)) = stream.next().await {
                match message {
                    Message::Binary(bytes) => hand.input(framing.input(&bytes)?).await,
                    Message::Text(text) => match asks(&text)? {
                        SocketAsks::Resize { cols, rows } => hand.resize(size(cols, rows)?).await,
                        SocketAsks::Signal { signal: name } => hand.signal(signal(&name)?).await,
                        SocketAsks::StdinEnd {} => {
                            return Err(Over::Failed(
                                Error::invalid("the input of a terminal has no end")
                                    .hint("send the character that stands for it, such as ctrl-d"),
                            ));
                        }
                    },
                    Message::Ping(_) | Message::Pong(_) => {}
                    Message::Close(_) => break,
                }
            }
            Err(Over::Gone)
        };
        tokio::select! {
            ended = output => ended,
            ended = input => ended,
            () = shutdown.cancelled() => Err(restarting()),
        }
    };
    drop(viewer);
    sender.finish(stream, ended).await;
}

/// An error that several are told.
fn again(e: &Error) -> Error {
    let copy = Error::new(e.code(), e.report());
    match e.hint_text() {
        Some(hint) => copy.hint(hint),
        None => copy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_says_that_it_is_some() {
        assert_eq!(input(&[0, 1, 2]).unwrap(), [1, 2]);
        assert!(input(&[]).is_err() && input(&[1, 2]).is_err());
        assert_eq!(Framing::Raw.input(&[1, 2]).unwrap(), [1, 2]);
        assert_eq!(Framing::Raw.frame(vec![7]), Message::Binary(vec![7].into()));
        assert_eq!(Framing::Numbered.frame(vec![7]), Message::Binary(vec![1, 7].into()));
    }

    #[test]
    fn text_frames_are_known_or_refused() {
        let asks = |t: &'static str| asks(&Utf8Bytes::from_static(t));
        assert_eq!(asks(r#"{"type":"resize","cols":1,"rows":2}"#).unwrap(), SocketAsks::Resize { cols: 1, rows: 2 });
        assert_eq!(asks(r#"{"type":"stdinEnd"}"#).unwrap(), SocketAsks::StdinEnd {});
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"type":"resize","cols":1}"#,
            r#"{"type":"resize","cols":-1,"rows":2}"#,
            r#"{"type":"x"}"#,
            r#"{"type":"stdinEnd","more":1}"#,
            r#"{"type":"resize","cols":70000,"rows":2}"#,
        ] {
            assert!(asks(bad).is_err(), "{bad}");
        }
    }
}

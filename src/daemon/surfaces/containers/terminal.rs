//! A shell in a container by WebSocket: what is typed and what is shown are the frames, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use futures::{SinkExt, StreamExt};
use tokio_util::sync::CancellationToken;

use super::{APP, Containers};
use crate::api::terminal::CreateTerminal;
use crate::daemon::core::terminals::{Join, Shown, Viewer, admit_terminal};
use crate::daemon::surfaces::answer::{Answer, Path, Refused};

/// bash if there is one.
const SHELL: &str = "command -v bash >/dev/null && exec bash; exec sh";
/// Bytes of one frame.
const FRAME: usize = 1 << 20;
/// How long a frame may take to be sent; a client that takes nothing for so long is given up.
const SEND: Duration = Duration::from_secs(60);
/// From one sign of life to the next.
const SIGN: Duration = Duration::from_secs(30);
/// How long the other side's close is waited for.
const CLOSE: Duration = Duration::from_secs(2);

pub(super) async fn terminal(
    State(this): State<Arc<Containers>>,
    Path(id): Path<String>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer<Response> {
    let upgrade = upgrade.map_err(|e| Refused::new(e.status(), e.body_text()))?;
    let pod = this.find(&id)?;
    let new = CreateTerminal {
        command: vec!["sh".into(), "-c".into(), SHELL.into()],
        working_dir: Some(APP.into()),
        ..CreateTerminal::default()
    };
    let join = Join { create: Some(admit_terminal(&new)?), ..Join::default() };
    let permit = this.core.socket_permit()?;
    let joined = this.core.join_terminal(&pod.id, join).await?;
    let (core, terminal) = (Arc::clone(&this.core), joined.viewer.id().to_owned());
    Ok(upgrade.max_message_size(FRAME).max_frame_size(FRAME).on_upgrade(async move |socket| {
        let _permit = permit;
        show(socket, joined.viewer, core.shutdown()).await;
        // It was this client's alone: nobody else knows its id.
        if !core.shutdown().is_cancelled() {
            let _ = core.delete_terminal(&pod.id, &terminal).await;
        }
    }))
}

/// Shows a terminal until it ends, the client goes, or torpord does.
async fn show(socket: WebSocket, mut viewer: Viewer, shutdown: &CancellationToken) {
    let (mut sink, mut stream) = socket.split();
    let hand = viewer.hand();
    let typed = async {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Text(text) => hand.input(text.as_bytes()).await,
                Message::Binary(bytes) => hand.input(&bytes).await,
                Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) => {}
            }
        }
    };
    let shown = async {
        let mut text = Pieces::default();
        let mut signs = tokio::time::interval(SIGN);
        signs.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                shown = viewer.next() => match shown {
                    Shown::Bytes(bytes) => Message::Text(text.take(&bytes).into()),
                    Shown::End(_) => return,
                    Shown::Missed(_) | Shown::Resized(_) | Shown::State(_) => continue,
                },
                _ = signs.tick() => Message::Ping(Bytes::new()),
                () = shutdown.cancelled() => return,
            };
            if !matches!(tokio::time::timeout(SEND, sink.send(message)).await, Ok(Ok(()))) {
                return;
            }
        }
    };
    tokio::select! {
        () = typed => {}
        () = shown => {}
    }
    let _ = tokio::time::timeout(CLOSE, sink.close()).await;
}

/// Bytes that come in pieces, as text: a character that is cut waits for its rest, and what is none is replaced.
#[derive(Default)]
struct Pieces(Vec<u8>);

impl Pieces {
    fn take(&mut self, bytes: &[u8]) -> String {
        self.0.extend_from_slice(bytes);
        let all = std::mem::take(&mut self.0);
        let mut text = String::with_capacity(all.len());
        let mut rest = all.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(good) => {
                    text.push_str(good);
                    return text;
                }
                Err(e) => {
                    let (good, bad) = rest.split_at(e.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(good));
                    let Some(length) = e.error_len() else {
                        self.0 = bad.to_vec();
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = bad.get(length..).unwrap_or_default();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_are_cut_wait_for_their_rest() {
        let whole = "a\u{e4}\u{20ac}\u{1f600}z";
        let mut pieces = Pieces::default();
        let text: String = whole.as_bytes().chunks(1).map(|b| pieces.take(b)).collect();
        assert_eq!((text.as_str(), pieces.take(b"\xff\xc3x").as_str()), (whole, "\u{fffd}\u{fffd}x"));
        assert_eq!((pieces.take(b"\xe2\x82").as_str(), pieces.take(b"\xac").as_str()), ("", "\u{20ac}"));
    }
}

//! Follows one terminal for all who look at it here: one stream from the pod's shim, however many viewers there are.
//!
//! When the stream breaks (the shim was killed, the pod sleeps) it is opened anew where it broke off, as soon as the pod runs: no
//! byte twice, none left out. After a crash of torpord nothing of this is left, and nothing is missing: init has it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::viewer::{End, Input, Shared};
use crate::channel::stream::{Steer, StreamAsk};
use crate::channel::terminal::{MAIN_TERMINAL, OpenTerminal, TerminalEnd, WINDOW};
use crate::daemon::core::pod::Pod;
use crate::host::shim::{Said, ShimStream};
use crate::model::{Code, Error, PodState};

/// From one try to open the stream of a pod that runs to the next.
const AGAIN: Duration = Duration::from_millis(200);
/// How often that is tried.
const TRIES: u32 = 50;
/// How long somebody may take to pass the end on before the terminal keeps it.
const TELL: Duration = Duration::from_secs(10);

/// Why a stream is not followed any more.
enum Over {
    /// Nobody looks.
    Left,
    /// The terminal's program has ended.
    Ended(End),
    /// The stream broke.
    Broken,
}

/// One terminal's follower.
pub(super) struct Follower {
    pub(super) shared: Arc<Shared>,
    pub(super) pod: Arc<Pod>,
    pub(super) input: mpsc::Receiver<Input>,
    pub(super) shutdown: CancellationToken,
}

impl Follower {
    /// Follows it until it has ended or nobody looks.
    pub(super) async fn run(mut self, mut stream: ShimStream) {
        let shutdown = self.shutdown.clone();
        let follow = async {
            loop {
                match self.serve(&mut stream).await {
                    Over::Left => return,
                    Over::Ended(end) => return self.end(end, Some(stream)).await,
                    Over::Broken => {}
                }
                stream = match self.open_again().await {
                    Ok(stream) => stream,
                    Err(Over::Ended(end)) => return self.end(end, None).await,
                    Err(_) => return,
                };
                self.shared.go_on(&stream.opened);
            }
        };
        tokio::select! {
            () = follow => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Passes on what goes both ways, as long as the stream holds.
    async fn serve(&mut self, stream: &mut ShimStream) -> Over {
        let (reader, writer) = (&mut stream.reader, &mut stream.writer);
        let mut granted = stream.opened.start + WINDOW;
        let mut room = WINDOW;
        let mut pending: VecDeque<u8> = VecDeque::new();
        loop {
            if self.shared.close_if_empty() {
                return Over::Left;
            }
            let wait = self.shared.wait(Instant::now());
            let pause = wait.unwrap_or(Duration::MAX);
            let done = tokio::select! {
                said = reader.next(), if wait.is_none() => match said {
                    Ok(Said::Terminal { place, data }) => {
                        self.shared.take(place, &data);
                        let upto = place + data.len() as u64 + WINDOW;
                        if upto < granted + WINDOW / 4 {
                            Ok(())
                        } else {
                            granted = upto;
                            writer.credit(upto).await
                        }
                    }
                    Ok(Said::InputTaken(bytes)) => {
                        room = room.saturating_add(bytes);
                        Ok(())
                    }
                    Ok(Said::Ended(end)) => return Over::Ended(End::Exit(end)),
                    Ok(Said::Stdout(_) | Said::Stderr(_) | Said::Missed(_)) => Ok(()),
                    Err(_) => return Over::Broken,
                },
                asked = self.input.recv(), if pending.is_empty() => match asked {
                    Some(Input::Bytes(bytes)) => {
                        pending = bytes.into();
                        Ok(())
                    }
                    Some(Input::Resize(size)) => {
                        self.shared.set_size(size);
                        writer.steer(Steer::Resize { size }).await
                    }
                    Some(Input::Signal(signal)) => writer.steer(Steer::Signal { signal }).await,
                    Some(Input::Told) => Ok(()),
                    None => return Over::Left,
                },
                () = self.shared.moved.notified() => Ok(()),
                () = tokio::time::sleep(pause), if wait.is_some() => Ok(()),
            };
            let sent = async {
                done?;
                while room > 0 && !pending.is_empty() {
                    let most = usize::try_from(room).unwrap_or(usize::MAX);
                    let front = pending.as_slices().0;
                    let piece = &front[..front.len().min(most)];
                    writer.input(piece).await?;
                    let sent = piece.len();
                    room -= sent as u64;
                    pending.drain(..sent);
                }
                Ok::<_, Error>(())
            };
            if sent.await.is_err() {
                return Over::Broken;
            }
        }
    }

    /// Opens the stream where it broke off, once the pod runs.
    async fn open_again(&mut self) -> Result<ShimStream, Over> {
        let mut record = self.pod.watch();
        let mut tries = 0;
        loop {
            let now = record.borrow_and_update().clone();
            self.shared.set_state(now.state);
            let lost = |code, text: String| {
                let e = Error::new(code, text).hint("`torpor ps -a` shows what has become of the pod");
                Err(Over::Ended(End::Lost(Arc::new(e))))
            };
            match now.state {
                PodState::Running => match self.try_open().await {
                    Ok(stream) => return Ok(stream),
                    Err(e) if e.code() == Code::NotFound => {
                        return lost(
                            Code::NotFound,
                            format!("the terminal {} is not there any more", self.shared.id()),
                        );
                    }
                    // It may have ended a moment ago, which its record is about to tell.
                    Err(e) if tries >= TRIES => return Err(Over::Ended(End::Lost(Arc::new(e)))),
                    Err(_) => tries += 1,
                },
                PodState::Stopped if self.shared.id() == MAIN_TERMINAL && now.exit_code.is_some() => {
                    let end = TerminalEnd { code: now.exit_code, ..TerminalEnd::default() };
                    return Err(Over::Ended(End::Exit(end)));
                }
                PodState::Stopped | PodState::Failed | PodState::Created | PodState::Deleting => {
                    let text =
                        format!("the terminal {} is gone: pod {} is {}", self.shared.id(), now.spec.name, now.state);
                    return lost(Code::WrongState, text);
                }
                PodState::Creating
                | PodState::Starting
                | PodState::Paused
                | PodState::Suspending
                | PodState::Sleeping
                | PodState::Waking
                | PodState::Restoring
                | PodState::Stopping => tries = 0,
            }
            if self.shared.close_if_empty() {
                return Err(Over::Left);
            }
            tokio::select! {
                changed = record.changed() => if changed.is_err() {
                    return Err(Over::Left);
                },
                () = self.shared.moved.notified() => {}
                () = tokio::time::sleep(AGAIN), if now.state == PodState::Running => {}
            }
        }
    }

    async fn try_open(&self) -> Result<ShimStream, Error> {
        let from = Some(self.shared.place());
        let open = OpenTerminal { id: self.shared.id().into(), from, ..OpenTerminal::default() };
        self.pod.shim()?.open(&StreamAsk::Terminal(open)).await
    }

    /// Shows the end, and once somebody has passed it on the terminal need not keep it.
    async fn end(&mut self, end: End, stream: Option<ShimStream>) {
        self.shared.set_end(end);
        let told = async {
            loop {
                // Who has been told says so before leaving: asked after nobody was left, it is known.
                let left = self.shared.close_if_empty();
                while let Ok(asked) = self.input.try_recv() {
                    if matches!(asked, Input::Told) {
                        return true;
                    }
                }
                if left {
                    return false;
                }
                self.shared.moved.notified().await;
            }
        };
        let told = tokio::time::timeout(TELL, told).await;
        self.shared.close();
        if let (Ok(true), Some(mut stream)) = (told, stream) {
            // If that is lost, the end is told to the next one too.
            let _ = stream.writer.steer(Steer::Forget).await;
        }
    }
}

//! Stands for a program in a pod: its output, its input, its signals, its exit code.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::keys::{LeaveKeys, Watch};
use super::output::{self, Failure};
use super::terminal::{self, Raw};
use crate::api::client::{Client, ClientError};
use crate::api::socket::{Frame, Receiver, Sender, Socket};
use crate::api::terminal::{SocketAsks, SocketSays};

/// How long a torpord that went away is waited for: one that is restarted comes back.
pub(super) const AWAY: Duration = Duration::from_secs(30);
/// What ctrl-c sends where there is no terminal.
const SIGINT: i32 = 2;
/// From one try to the next.
pub(super) const AGAIN: Duration = Duration::from_millis(200);

/// Whether it may be gone at the next try: nobody answers, or a torpord that still looks around or is about to end.
pub(super) fn passes(e: &ClientError) -> bool {
    matches!(e.code(), None | Some("cancelled"))
}

/// What is followed, and how.
pub(super) struct Follow<'a> {
    pub(super) client: &'a Client,
    pub(super) pod: &'a str,
    /// Whether the caller's input goes to it.
    pub(super) stdin: bool,
    /// Whether the caller's terminal becomes its.
    pub(super) tty: bool,
    /// Whether signals that the caller gets go to it.
    pub(super) signals: bool,
    /// Whether output and input have the number of their stream before them.
    pub(super) numbered: bool,
    /// What leaves it.
    pub(super) keys: LeaveKeys,
}

/// How it came to an end.
pub(super) enum Ended {
    /// With an exit code.
    Exit(i32),
    /// It was left, by keys or by a signal of that number, and goes on.
    Left(i32),
}

impl Ended {
    /// The caller's exit code.
    pub(super) fn code(&self) -> u8 {
        match self {
            Ended::Exit(code) => u8::try_from(*code).unwrap_or(255),
            Ended::Left(0) => 0,
            Ended::Left(signal) => u8::try_from(128 + signal).unwrap_or(255),
        }
    }
}

/// What the caller does.
enum Deed {
    Input(Vec<u8>),
    Resized,
    Signal(i32, &'static str),
}

/// The caller, for as long as it is followed.
struct Caller {
    deeds: mpsc::Receiver<Deed>,
    keys: Watch,
    /// Whether the caller's terminal is a program's.
    raw: bool,
    /// Whether it was interrupted once: the second time it is left.
    interrupted: bool,
}

/// Why nothing more comes.
enum Over {
    Ended(Ended),
    Failed(Failure),
    /// The connection broke, or torpord ends.
    Lost(Failure),
}

/// Where a terminal is, so that a broken connection can be made anew.
#[derive(Default)]
struct Place {
    id: Option<String>,
    at: u64,
}

impl Follow<'_> {
    /// Follows it to its end.
    pub(super) async fn run(self, socket: Socket) -> Result<Ended, Failure> {
        let raw = if self.tty { Some(Raw::enter()?) } else { None };
        let raw_on = raw.as_ref().is_some_and(Raw::is_on);
        let done = self.pass(socket, raw_on).await;
        drop(raw);
        if matches!(done, Ok(Ended::Left(0))) && raw_on {
            eprintln!(); // the prompt of whoever comes next begins a line
        }
        done
    }

    async fn pass(&self, mut socket: Socket, raw: bool) -> Result<Ended, Failure> {
        let keys = Watch::new(self.keys.clone());
        let mut caller = Caller { deeds: self.deeds(), keys, raw, interrupted: false };
        let mut place = Place::default();
        let mut numbered = self.numbered;
        loop {
            // Both at once: who only writes could wait for ever for somebody who only writes.
            let over = tokio::select! {
                over = self.show(&mut socket.receiver, &mut place, numbered) => over,
                ended = self.act(&mut socket.sender, &mut caller, numbered) => {
                    socket.sender.close().await;
                    return Ok(ended);
                }
            };
            match over {
                Over::Ended(ended) => return Ok(ended),
                Over::Failed(e) => return Err(e),
                Over::Lost(_) if place.id.is_some() => (socket, numbered) = (self.again(&mut place).await?, false),
                Over::Lost(e) => return Err(e),
            }
        }
    }

    /// Shows what comes.
    async fn show(&self, receiver: &mut Receiver, place: &mut Place, numbered: bool) -> Over {
        loop {
            match receiver.next().await {
                Ok(Some(Frame::Bytes(bytes))) => {
                    place.at += (bytes.len() as u64).saturating_sub(u64::from(numbered));
                    write(&bytes, numbered);
                }
                Ok(Some(Frame::Says(SocketSays::Exit { exit_code, timed_out }))) => {
                    if timed_out {
                        eprintln!("torpor: the command was killed: its time was over");
                    }
                    return Over::Ended(Ended::Exit(exit_code));
                }
                Ok(Some(Frame::Says(SocketSays::Error { problem }))) => {
                    let restarting = problem.code == "cancelled";
                    let e = Failure::from(ClientError::Refused(Box::new(problem)));
                    return if restarting { Over::Lost(e) } else { Over::Failed(e) };
                }
                Ok(Some(Frame::Says(says))) => self.hear(says, place),
                Ok(None) => {
                    return Over::Lost(ClientError::Broken("the connection ended; the program goes on".into()).into());
                }
                Err(e) => return Over::Lost(e.into()),
            }
        }
    }

    /// Passes on what the caller does, until that is to leave.
    async fn act(&self, sender: &mut Sender, caller: &mut Caller, numbered: bool) -> Ended {
        loop {
            // What can't be sent is told by what comes, or that nothing does.
            let _ = match caller.deeds.recv().await {
                None => std::future::pending().await,
                // A terminal has no end of input: who has no more just looks.
                Some(Deed::Input(bytes)) if bytes.is_empty() && self.tty => Ok(()),
                Some(Deed::Input(bytes)) if bytes.is_empty() => sender.ask(&SocketAsks::StdinEnd {}).await,
                Some(Deed::Input(bytes)) => {
                    let (bytes, leave) = if caller.raw { caller.keys.take(&bytes) } else { (bytes, false) };
                    let framed = if numbered { [&[0], &*bytes].concat() } else { bytes.clone() };
                    let sent = if bytes.is_empty() { Ok(()) } else { sender.send_bytes(framed).await };
                    if leave {
                        return Ended::Left(0);
                    }
                    sent
                }
                Some(Deed::Resized) => match terminal::size() {
                    Some((cols, rows)) => sender.ask(&SocketAsks::Resize { cols, rows }).await,
                    None => Ok(()),
                },
                Some(Deed::Signal(number, name)) => {
                    let again = caller.interrupted && number == SIGINT;
                    caller.interrupted |= number == SIGINT;
                    if self.tty || !self.signals || again {
                        return Ended::Left(number);
                    }
                    sender.ask(&SocketAsks::Signal { signal: name.into() }).await
                }
            };
        }
    }

    fn hear(&self, says: SocketSays, place: &mut Place) {
        match says {
            SocketSays::Opened { terminal, start, .. } => *place = Place { id: terminal, at: start },
            SocketSays::Missed { bytes } => {
                place.at += bytes;
                if !self.tty {
                    eprintln!("torpor: {bytes} bytes are missing here");
                }
            }
            SocketSays::State { state } if self.tty => {
                // In raw mode a line begins where it is told to.
                eprint!("\r\n[the pod is {state}]\r\n");
            }
            SocketSays::State { .. } | SocketSays::Resized { .. } => {}
            SocketSays::Exit { .. } | SocketSays::Error { .. } => {} // the caller's
        }
    }

    /// The terminal once more, from where it broke off: a torpord that is restarted leaves it as it is.
    async fn again(&self, place: &mut Place) -> Result<Socket, Failure> {
        let end = Instant::now() + AWAY;
        let id = place.id.clone().unwrap_or_default();
        loop {
            let parameters = [("id", id.clone()), ("create", "false".into()), ("from", place.at.to_string())];
            match self.client.terminal(self.pod, &parameters).await {
                Ok(socket) => return Ok(socket),
                Err(e) if Instant::now() > end || !passes(&e) => return Err(e.into()),
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// What the caller does from now on.
    fn deeds(&self) -> mpsc::Receiver<Deed> {
        let (sender, receiver) = mpsc::channel(16);
        if self.stdin {
            let (sender, mut input) = (sender.clone(), terminal::input());
            tokio::spawn(async move {
                while let Some(bytes) = input.recv().await {
                    let _ = sender.send(Deed::Input(bytes)).await;
                }
            });
        }
        if self.tty
            && let Ok(mut changes) = signal(SignalKind::window_change())
        {
            let sender = sender.clone();
            tokio::spawn(async move {
                while changes.recv().await.is_some() {
                    let _ = sender.send(Deed::Resized).await;
                }
            });
        }
        let kinds = [
            (SignalKind::interrupt(), "INT"),
            (SignalKind::terminate(), "TERM"),
            (SignalKind::quit(), "QUIT"),
            (SignalKind::hangup(), "HUP"),
        ];
        for (kind, name) in kinds {
            let Ok(mut signals) = signal(kind) else { continue };
            let sender = sender.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    let _ = sender.send(Deed::Signal(kind.as_raw_value(), name)).await;
                }
            });
        }
        // One that stays: the channel never ends.
        tokio::spawn(async move { sender.closed().await });
        receiver
    }
}

fn write(bytes: &[u8], numbered: bool) {
    match (numbered, bytes.split_first()) {
        (false, _) => output::write(&mut std::io::stdout(), bytes),
        (true, Some((2, rest))) => output::write(&mut std::io::stderr(), rest),
        (true, Some((_, rest))) => output::write(&mut std::io::stdout(), rest),
        (true, None) => {}
    }
}

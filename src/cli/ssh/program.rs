//! One program in the pod, and the SSH channel that it is followed by.

use std::sync::Arc;

use bytes::Bytes;
use russh::server::{ChannelOpenHandle, Msg};
use russh::{ChannelOpenFailure, ChannelWriteHalf};
use tokio::sync::{Notify, mpsc};

use super::backlog::Backlog;
use super::server::Target;
use crate::api::client::ClientError;
use crate::api::problem::Problem;
use crate::api::socket::{Frame, Receiver, Sender, Socket};
use crate::api::terminal::{ExecStart, SocketAsks, SocketSays};

/// What torpor's own programs in a pod say first when they have what they were to reach.
const REACHED: u8 = 1;
/// The exit code of an init that does not know what it is asked.
const UNKNOWN: i32 = 125;

/// What comes by the channel. Its end: the channel is closed.
#[derive(Debug)]
pub(super) enum Deed {
    Input(Bytes),
    End,
    Resize(u16, u16),
    Signal(String),
}

/// How it is over.
enum Over {
    Exit(i32),
    Failed(i32, String),
    /// The channel was closed.
    Left,
}

/// What is run, and for whom.
pub(super) struct Program {
    pub(super) target: Arc<Target>,
    pub(super) start: ExecStart,
    /// Whether it is one of torpor's own, of which nothing must be left when nobody follows it any more.
    pub(super) own: bool,
    pub(super) channel: ChannelWriteHalf<Msg>,
    pub(super) deeds: mpsc::UnboundedReceiver<Deed>,
    pub(super) backlog: Arc<Backlog>,
    /// Told before something is said.
    pub(super) said: Arc<Notify>,
}

fn refused(problem: &Problem) -> Over {
    let code = match problem.code.as_str() {
        "command_not_found" => 127,
        "command_not_executable" => 126,
        _ => 255,
    };
    let hint = problem.hint.as_ref().map(|h| format!("\ntorpor: hint: {h}")).unwrap_or_default();
    Over::Failed(code, format!("{}{hint}", problem.detail))
}

fn failed(e: &ClientError) -> Over {
    match e {
        ClientError::Refused(problem) => refused(problem),
        e => Over::Failed(255, e.to_string()),
    }
}

impl Program {
    async fn open(&self) -> Result<Socket, ClientError> {
        self.target.client.exec_socket(&self.target.pod, &self.start).await
    }

    /// Runs it to its end, or until the channel is closed.
    pub(super) async fn run(mut self) {
        let (over, terminal) = match self.open().await {
            Ok(socket) => self.follow(socket, Bytes::new()).await,
            Err(e) => (failed(&e), None),
        };
        self.finish(over, terminal).await;
    }

    /// The same, where the channel is opened only once the program has reached something.
    pub(super) async fn reach(mut self, reply: ChannelOpenHandle) {
        let mut socket = match self.open().await {
            Ok(socket) => socket,
            Err(_) => return reply.reject(ChannelOpenFailure::ConnectFailed).await,
        };
        loop {
            match socket.receiver.next().await {
                Ok(Some(Frame::Bytes(bytes))) if bytes.starts_with(&[1, REACHED]) => {
                    reply.accept().await;
                    let (over, _) = self.follow(socket, bytes.slice(2..)).await;
                    // It ends with a code for nobody.
                    if !matches!(over, Over::Left) {
                        let _ = self.channel.eof().await;
                        let _ = self.channel.close().await;
                    }
                    return;
                }
                Ok(Some(Frame::Says(SocketSays::Opened { .. }))) => {}
                // Why not goes nowhere: ssh says that it could not be reached.
                _ => return reply.reject(ChannelOpenFailure::ConnectFailed).await,
            }
        }
    }

    /// Passes on all between the two. The terminal that it runs on, if it does.
    async fn follow(&mut self, socket: Socket, first: Bytes) -> (Over, Option<String>) {
        let Socket { mut receiver, mut sender } = socket;
        let mut terminal = None;
        let output = Output { channel: &self.channel, said: &self.said, own: self.own };
        let over = tokio::select! {
            over = output.pass(&mut receiver, first, &mut terminal) => over,
            () = input(&mut self.deeds, &mut sender, &self.backlog, self.start.tty) => Over::Left,
        };
        if matches!(over, Over::Left) && self.own {
            let _ = sender.ask(&SocketAsks::Signal { signal: "KILL".into() }).await;
        }
        sender.close().await;
        (over, terminal)
    }

    async fn finish(self, over: Over, terminal: Option<String>) {
        let code = match over {
            Over::Left => {
                // As sshd: who hangs up hangs up the terminal.
                if let Some(id) = terminal {
                    let _ = self.target.client.remove_terminal(&self.target.pod, &id).await;
                }
                return;
            }
            Over::Exit(code) => code,
            Over::Failed(code, text) => {
                let text = format!("torpor: {text}\n").replace('\n', if self.start.tty { "\r\n" } else { "\n" });
                let _ = self.channel.extended_data_bytes(1, text).await;
                code
            }
        };
        let _ = self.channel.exit_status(u32::try_from(code).unwrap_or(255)).await;
        let _ = self.channel.eof().await;
        let _ = self.channel.close().await;
    }
}

struct Output<'a> {
    channel: &'a ChannelWriteHalf<Msg>,
    said: &'a Notify,
    own: bool,
}

impl Output<'_> {
    async fn say(&self, stream: u8, bytes: Bytes) {
        self.said.notify_one();
        // A channel that is closed ends the other direction.
        let _ = match stream {
            2 => self.channel.extended_data_bytes(1, bytes).await,
            _ => self.channel.data_bytes(bytes).await,
        };
    }

    async fn pass(&self, receiver: &mut Receiver, first: Bytes, terminal: &mut Option<String>) -> Over {
        let mut silent = true;
        if !first.is_empty() {
            self.say(1, first).await;
        }
        loop {
            match receiver.next().await {
                Ok(Some(Frame::Bytes(bytes))) if bytes.len() > 1 => {
                    silent = false;
                    self.say(bytes[0], bytes.slice(1..)).await;
                }
                Ok(Some(Frame::Says(SocketSays::Opened { terminal: on, .. }))) => *terminal = on,
                Ok(Some(Frame::Says(SocketSays::Exit { exit_code: UNKNOWN, .. }))) if self.own && silent => {
                    let text = "the pod's init is of an older torpor, which can't do that: make the pod anew";
                    return Over::Failed(UNKNOWN, text.into());
                }
                Ok(Some(Frame::Says(SocketSays::Exit { exit_code, .. }))) => return Over::Exit(exit_code),
                Ok(Some(Frame::Says(SocketSays::Error { problem }))) => return refused(&problem),
                Ok(Some(_)) => {}
                Ok(None) => return Over::Failed(255, "the connection to torpord ended".into()),
                Err(e) => return failed(&e),
            }
        }
    }
}

/// Passes on what comes by the channel, until that is closed. What can't be passed on is told by what comes from the program.
async fn input(deeds: &mut mpsc::UnboundedReceiver<Deed>, to: &mut Sender, backlog: &Backlog, tty: bool) {
    while let Some(deed) = deeds.recv().await {
        let _ = match deed {
            Deed::Input(bytes) => {
                let sent = to.send_bytes([&[0], &bytes[..]].concat()).await;
                backlog.take(bytes.len());
                sent
            }
            Deed::End if tty => Ok(()),
            Deed::End => to.ask(&SocketAsks::StdinEnd {}).await,
            Deed::Resize(cols, rows) if tty => to.ask(&SocketAsks::Resize { cols, rows }).await,
            Deed::Resize(..) => Ok(()),
            Deed::Signal(signal) => to.ask(&SocketAsks::Signal { signal }).await,
        };
    }
}

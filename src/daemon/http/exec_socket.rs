//! Routes about programs that are followed while they run.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{Message, WebSocket};
use axum::response::Response;
use futures::{Stream, StreamExt};
use serde::Deserialize;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::answer::{Answer, Object, Path, Query};
use super::web_socket::{Framing, Over, Sender, Upgrade, asks, input, numbered, pings, restarting, show, split};
use crate::api::problem::Problem;
use crate::api::terminal::{ExecStart, SocketAsks, SocketSays};
use crate::channel::stream::Steer;
use crate::channel::terminal::WINDOW;
use crate::daemon::core::Core;
use crate::daemon::core::streams::{Attached, Followed, signal};
use crate::daemon::core::terminals::{Join, size_if_given};
use crate::host::shim::{Said, StreamReader, StreamWriter};
use crate::model::{Code, Error};

type Cored = State<Arc<Core>>;
type Received = std::result::Result<Message, axum::Error>;

/// How long a client may take to say what is to be run.
const BEGIN: Duration = Duration::from_secs(20);
/// Bytes of input in one piece.
const PIECE: usize = 32 * 1024;
/// Pieces of input that may wait: signals that come behind them are heard.
const WAITING: usize = 32;

/// Runs a program in a pod and follows it: a WebSocket. The first text frame says what (`ExecStart`); torpord answers `opened`.
///
/// Then binary frames are input and output: the first byte is 0 for input, 1 for standard output, 2 for standard error, the rest
/// are the bytes. Text frames are JSON: from the client `SocketAsks` (`stdinEnd`: the program reads the end of its input; `signal`;
/// `resize`), from torpord `SocketSays`: last `exit` with the exit code, or `error`, before the socket is closed.
///
/// No byte is left out, of whatever length: a client that does not read makes its own program wait, and nobody else. If the client goes
/// away, the program goes on without input and its output is dropped. With `tty` it runs on a terminal of its own, which `opened` names:
/// it outlives the socket, and the pod's sleep, and can be joined again by `GET /v1/pods/{pod}/terminal`.
#[utoipa::path(get, path = "/v1/pods/{pod}/exec", tag = "terminals", operation_id = "execSocket",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 101, description = "Text frames from torpord are these; the client's first one is `ExecStart`, others are `SocketAsks`",
            content((SocketSays = "application/json"), (ExecStart = "application/vnd.torpor.exec-start+json"), (SocketAsks = "application/vnd.torpor.socket-asks+json"))),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn exec(State(core): Cored, Path(pod): Path<String>, Upgrade(upgrade): Upgrade) -> Answer<Response> {
    core.inspect_pod(&pod)?;
    let permit = core.socket_permit()?;
    Ok(upgrade.on_upgrade(async move |mut socket| {
        let _permit = permit;
        let begun = tokio::select! {
            begun = begin(&core, &pod, &mut socket) => begun,
            () = core.shutdown().cancelled() => Err(restarting()),
        };
        match begun {
            Ok((attached, start)) if start.detach => left_alone(socket, &attached).await,
            Ok((attached, start)) => run(socket, attached, start.stdin, core.shutdown()).await,
            Err(over) => {
                let (sender, stream) = split(socket);
                sender.finish(stream, Err(over)).await;
            }
        }
    }))
}

async fn begin(core: &Core, pod: &str, socket: &mut WebSocket) -> std::result::Result<(Attached, ExecStart), Over> {
    let first = async {
        loop {
            match socket.recv().await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return Some(message),
                _ => return None,
            }
        }
    };
    let late = |_| Error::invalid(format!("nothing was said for {} s", BEGIN.as_secs())).hint("say what is to be run");
    let start: ExecStart = match tokio::time::timeout(BEGIN, first).await.map_err(late)? {
        None | Some(Message::Close(_)) => return Err(Over::Gone),
        Some(Message::Text(text)) => serde_json::from_str::<Object<ExecStart>>(text.as_str())
            .map(|Object(start)| start)
            .map_err(|e| Error::invalid(format!("the first text frame says what is to be run: {e}")))?,
        Some(_) => return Err(Error::invalid("the first frame is a text frame that says what is to be run").into()),
    };
    Ok((core.exec_stream(pod, start.clone()).await?, start))
}

/// Says that it runs, and lets it.
async fn left_alone(socket: WebSocket, attached: &Attached) {
    let (mut sender, stream) = split(socket);
    let opened = match attached {
        Attached::Program(_) => SocketSays::Opened { terminal: None, created: true, cols: 0, rows: 0, start: 0 },
        Attached::Terminal(joined) => SocketSays::Opened {
            terminal: Some(joined.viewer.id().to_owned()),
            created: joined.created,
            cols: joined.viewer.size().cols,
            rows: joined.viewer.size().rows,
            start: joined.viewer.start(),
        },
    };
    let said = sender.say(&opened).await;
    sender.finish(stream, said).await;
}

/// How a pod's command is followed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    /// Whether input will come. One client at a time may give it; when its socket is closed, so is the command's input.
    #[serde(default)]
    stdin: bool,
    /// Columns of the pod's terminal, together with `rows`, if it has one.
    cols: Option<u16>,
    /// Lines of it.
    rows: Option<u16>,
    /// Place of the first byte wanted of the pod's terminal, if it has one. Default: all that is kept.
    from: Option<u64>,
}

/// Follows the pod's own command from now on: a WebSocket with the frames of `GET /v1/pods/{pod}/exec`, without a first one. Of a pod with
/// `tty` it is its terminal `main`, with what that has said before. Otherwise a client that does not read misses some output, and is
/// told how much; the pod never waits, and its log has all.
#[utoipa::path(get, path = "/v1/pods/{pod}/attach", tag = "terminals", operation_id = "attachPod",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id"), How),
    responses((status = 101, description = "Text frames from torpord are these", body = SocketSays),
        (status = "4XX", description = "Refused; 409 if the pod does not run, takes no input, or has it from somebody else", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn attach(
    State(core): Cored,
    Path(pod): Path<String>,
    Query(how): Query<How>,
    Upgrade(upgrade): Upgrade,
) -> Answer<Response> {
    let size = size_if_given(how.cols, how.rows)?;
    let permit = core.socket_permit()?;
    let attached = core.attach_pod(&pod, how.stdin, Join { size, from: how.from, ..Join::default() }).await?;
    Ok(upgrade.on_upgrade(async move |socket| {
        let _permit = permit;
        run(socket, attached, how.stdin, core.shutdown()).await;
    }))
}

async fn run(socket: WebSocket, attached: Attached, stdin: bool, shutdown: &CancellationToken) {
    match attached {
        Attached::Terminal(joined) => show(socket, joined.viewer, joined.created, Framing::Numbered, shutdown).await,
        Attached::Program(followed) => follow(socket, *followed, stdin, shutdown).await,
    }
}

/// What goes to a program.
enum Given {
    Bytes(Vec<u8>),
    End,
}

/// Passes everything on between a client and a program.
async fn follow(socket: WebSocket, mut followed: Followed, stdin: bool, shutdown: &CancellationToken) {
    let (mut sender, mut stream) = split(socket);
    let ended = {
        let room = Semaphore::new(usize::try_from(WINDOW).unwrap_or(usize::MAX));
        let (given, mut waiting) = mpsc::channel(WAITING);
        let (reader, writer) = followed.halves();
        let writer = Mutex::new(writer);
        tokio::select! {
            ended = output(&mut sender, reader, &writer, &room) => ended,
            ended = hear(&mut stream, &writer, given, stdin) => ended,
            ended = feed(&mut waiting, &writer, &room) => ended,
            () = shutdown.cancelled() => Err(restarting()),
        }
    };
    let ended = match ended {
        Err(Over::Failed(e)) if e.code() == Code::Runtime => Err(Over::Failed(followed.explain(e))),
        ended => ended,
    };
    drop(followed);
    sender.finish(stream, ended).await;
}

type Writer<'a> = Mutex<&'a mut StreamWriter>;

async fn output(
    sender: &mut Sender,
    reader: &mut StreamReader,
    writer: &Writer<'_>,
    room: &Semaphore,
) -> std::result::Result<(), Over> {
    let opened = SocketSays::Opened { terminal: None, created: true, cols: 0, rows: 0, start: 0 };
    sender.say(&opened).await?;
    let mut had = 0;
    let mut pings = pings();
    loop {
        let said = tokio::select! {
            said = reader.next() => said?,
            _ = pings.tick() => {
                sender.ping().await?;
                continue;
            }
        };
        let (number, bytes) = match said {
            Said::Stdout(bytes) | Said::Terminal { data: bytes, .. } => (1, bytes),
            Said::Stderr(bytes) => (2, bytes),
            Said::InputTaken(bytes) => {
                // No more than was given was taken.
                room.add_permits(usize::try_from(bytes.min(WINDOW)).unwrap_or(0));
                continue;
            }
            Said::Missed(bytes) => {
                sender.say(&SocketSays::Missed { bytes }).await?;
                continue;
            }
            Said::Ended(end) => {
                let (exit_code, timed_out) = (end.exit_code(), end.timed_out);
                return sender.say(&SocketSays::Exit { exit_code, timed_out }).await;
            }
        };
        sender.send(numbered(number, &bytes)).await?;
        had += bytes.len() as u64;
        if had >= WINDOW / 4 {
            writer.lock().await.credit(std::mem::take(&mut had)).await?;
        }
    }
}

async fn hear(
    stream: &mut (impl Stream<Item = Received> + Unpin),
    writer: &Writer<'_>,
    given: mpsc::Sender<Given>,
    stdin: bool,
) -> std::result::Result<(), Over> {
    let none = || Error::invalid("this program gets no input").hint("say stdin: true first");
    while let Some(Ok(message)) = stream.next().await {
        match message {
            Message::Binary(bytes) => {
                let bytes = input(&bytes)?;
                if !stdin {
                    return Err(none().into());
                }
                for piece in bytes.chunks(PIECE) {
                    let _ = given.send(Given::Bytes(piece.to_vec())).await;
                }
            }
            Message::Text(text) => match asks(&text)? {
                SocketAsks::StdinEnd {} if stdin => drop(given.send(Given::End).await),
                SocketAsks::StdinEnd {} => return Err(none().into()),
                SocketAsks::Signal { signal: name } => {
                    writer.lock().await.steer(Steer::Signal { signal: signal(&name)? }).await?;
                }
                SocketAsks::Resize { .. } => return Err(Error::invalid("this program has no terminal").into()),
            },
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(_) => break,
        }
    }
    Err(Over::Gone)
}

/// Gives a program its input as it takes it.
async fn feed(
    waiting: &mut mpsc::Receiver<Given>,
    writer: &Writer<'_>,
    room: &Semaphore,
) -> std::result::Result<(), Over> {
    while let Some(given) = waiting.recv().await {
        match given {
            Given::Bytes(bytes) => {
                let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                if let Ok(permits) = room.acquire_many(size).await {
                    permits.forget();
                }
                writer.lock().await.input(&bytes).await?;
            }
            Given::End => writer.lock().await.end_of_input().await?,
        }
    }
    std::future::pending().await
}

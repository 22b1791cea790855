//! `attach`, `exec` and `terminal`.

use std::io::IsTerminal;

use clap::{Args, Subcommand};

use super::args::Exec;
use super::follow::{Ended, Follow};
use super::keys::LeaveKeys;
use super::output::{self, Failure, say};
use super::run::variables;
use super::terminal;
use crate::api::client::{Client, ClientError};
use crate::api::socket::{Frame, Socket};
use crate::api::terminal::{ExecStart, SocketSays};

/// What may be typed after `attach`.
#[derive(Debug, Args)]
pub(super) struct Attach {
    /// Another terminal than that of the pod's command
    #[arg(long, value_name = "ID")]
    terminal: Option<String>,
    /// Only look
    #[arg(long)]
    no_stdin: bool,
    /// Keys that leave it
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: LeaveKeys,
    pod: String,
}

/// What may be typed after `terminal`.
#[derive(Debug, Subcommand)]
pub(super) enum Terminals {
    /// List a pod's terminals
    Ls { pod: String },
    /// Hang terminals up
    Rm {
        pod: String,
        #[arg(required = true)]
        terminals: Vec<String>,
    },
}

/// Parameters that say how large the caller's terminal is, if there is one.
pub(super) fn size() -> Vec<(&'static str, String)> {
    let both = |(cols, rows): (u16, u16)| vec![("cols", cols.to_string()), ("rows", rows.to_string())];
    terminal::size().map(both).unwrap_or_default()
}

/// As docker: a terminal in a pod needs one here, if input is to go there.
pub(super) fn require_terminal(interactive: bool, tty: bool) -> Result<(), Failure> {
    if interactive && tty && !std::io::stdin().is_terminal() {
        return Err(Failure::Own("standard input is no terminal: leave out -t, or call this from a terminal".into()));
    }
    Ok(())
}

/// `torpor exec`.
pub(super) async fn exec(client: &Client, exec: &Exec, json: bool) -> Result<u8, Failure> {
    if !exec.detach {
        require_terminal(exec.interactive, exec.tty)?;
    }
    let (cols, rows) = terminal::size().filter(|_| exec.tty).unzip();
    let start = ExecStart {
        command: exec.command.clone(),
        env: variables(&exec.env),
        working_dir: exec.workdir.clone(),
        user: exec.user.clone(),
        stdin: exec.interactive && !exec.detach,
        tty: exec.tty,
        detach: exec.detach,
        cols,
        rows,
        timeout_ms: exec.timeout.map(|s| s.saturating_mul(1000)),
    };
    let socket = client.exec_socket(&exec.pod, &start).await?;
    if exec.detach {
        return left_alone(socket, json).await;
    }
    let (stdin, tty, keys) = (exec.interactive, exec.tty, exec.detach_keys.clone());
    let follow = Follow { client, pod: &exec.pod, stdin, tty, signals: true, numbered: true, keys };
    Ok(follow.run(socket).await?.code())
}

/// Waits until a program runs, and leaves it to itself. The terminal on which it runs, if it has one, is told: it can be joined.
async fn left_alone(mut socket: Socket, json: bool) -> Result<u8, Failure> {
    loop {
        match socket.receiver.next().await? {
            Some(Frame::Says(SocketSays::Opened { terminal, .. })) => {
                if json {
                    output::json(&serde_json::json!({ "terminal": terminal }));
                } else if let Some(id) = terminal {
                    say!("{id}");
                }
                socket.sender.close().await;
                return Ok(0);
            }
            Some(Frame::Says(SocketSays::Error { problem })) => {
                return Err(ClientError::Refused(Box::new(problem)).into());
            }
            Some(_) => {}
            None => return Err(ClientError::Broken("the connection ended before the program began".into()).into()),
        }
    }
}

/// `torpor attach`.
pub(super) async fn attach(client: &Client, args: &Attach) -> Result<u8, Failure> {
    let pod = client.inspect(&args.pod).await?;
    let stdin = !args.no_stdin && (pod.stdin || pod.tty || args.terminal.is_some());
    let keys = args.detach_keys.clone();
    if let Some(id) = &args.terminal {
        let mut parameters = size();
        parameters.extend([("id", id.clone()), ("create", "false".into())]);
        let socket = client.terminal(&pod.id, &parameters).await?;
        let follow = Follow { client, pod: &pod.id, stdin, tty: true, signals: false, numbered: false, keys };
        return Ok(follow.run(socket).await?.code());
    }
    Ok(to_command(client, &pod.id, stdin, pod.tty, keys).await?.code())
}

/// Follows a pod's command.
pub(super) async fn to_command(
    client: &Client,
    pod: &str,
    stdin: bool,
    tty: bool,
    keys: LeaveKeys,
) -> Result<Ended, Failure> {
    let mut parameters = if tty { size() } else { Vec::new() };
    parameters.push(("stdin", stdin.to_string()));
    let socket = client.attach(pod, &parameters).await?;
    Follow { client, pod, stdin, tty, signals: true, numbered: true, keys }.run(socket).await
}

/// `torpor terminal`.
pub(super) async fn terminals(client: &Client, command: &Terminals, json: bool) -> Result<u8, Failure> {
    match command {
        Terminals::Ls { pod } => {
            let all = client.terminals(pod).await?;
            if json {
                output::json(&all);
                return Ok(0);
            }
            let rows: Vec<Vec<String>> = all
                .iter()
                .map(|t| {
                    let state = t.exit_code.map_or_else(|| "running".into(), |c| format!("ended ({c})"));
                    let size = format!("{}x{}", t.cols, t.rows);
                    vec![t.id.clone(), state, size, t.viewers.to_string(), t.command.join(" ")]
                })
                .collect();
            output::table(&["TERMINAL", "STATE", "SIZE", "VIEWERS", "COMMAND"], &rows);
        }
        Terminals::Rm { pod, terminals } => {
            let mut code = 0;
            for id in terminals {
                match client.remove_terminal(pod, id).await {
                    Ok(was) if json => output::json(&was),
                    Ok(_) => say!("{id}"),
                    Err(e) => code = output::fail(&Failure::from(e), false),
                }
            }
            return Ok(code);
        }
    }
    Ok(0)
}

/// Whether a pod's command was not there any more when it was to be followed.
pub(super) fn is_over(failure: &Failure) -> bool {
    matches!(failure, Failure::Client(ClientError::Refused(p)) if p.code == "wrong_state")
}

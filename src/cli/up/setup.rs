//! What is done in a pod so that somebody can work there: it is brought to run, its user gets a name and a home, and it is
//! bootstrapped once.

use std::fs::File;

use super::caller;
use super::own;
use super::wanted::Made;
use crate::api::client::{Client, ClientError};
use crate::api::terminal::ExecStart;
use crate::api::types::{ExecPod, Pod, SecretValue, StartPod, WakePod};
use crate::cli::commands::with_bar;
use crate::cli::follow::Follow;
use crate::cli::keys::LeaveKeys;
use crate::cli::output::Failure;

/// As often a pod is looked at again, while others put it to sleep or stop it.
const TRIES: usize = 5;
const SCRIPT: &str = include_str!("setup.sh");
/// Bootstrapped: the root's writable layer knows, since what it brought lies there too. Without a file of its own, zsh asks
/// its questions for new users instead of giving a prompt.
const DONE: &str = "set -e; mkdir -p /var/lib/torpor; : >/var/lib/torpor/bootstrapped";
const QUIET: &str = r#"command -v zsh >/dev/null 2>&1 && [ -w "$HOME" ] || exit 0
for f in .zshenv .zprofile .zshrc .zlogin; do [ ! -e "$HOME/$f" ] || exit 0; done
: >"$HOME/.zshrc""#;

/// Values that a pod lacks after a reboot of its host.
pub(in crate::cli) type Values<'a> = &'a dyn Fn() -> Result<Vec<SecretValue>, Failure>;

/// Without any.
pub(in crate::cli) fn none() -> Result<Vec<SecretValue>, Failure> {
    Ok(Vec::new())
}

/// Brings a pod to run, from whatever state: it is woken, started, or goes on.
pub(in crate::cli) async fn running(client: &Client, pod: Pod, values: Values<'_>) -> Result<Pod, Failure> {
    let (mut pod, mut secrets) = (pod, Vec::new());
    for _ in 0..TRIES {
        let id = pod.id.clone();
        let done = match pod.state.as_str() {
            "running" => return Ok(pod),
            "paused" => client.resume(&id).await,
            // What a failed one has in the store is not thrown away unasked.
            "sleeping" | "suspending" | "failed" if pod.state != "failed" || pod.snapshot.is_some() => {
                let how = WakePod { cold: false, secrets: secrets.clone() };
                with_bar(|bar| client.wake(&id, &how, bar)).await
            }
            _ => client.start_with(&id, &StartPod { secrets: secrets.clone() }).await,
        };
        match done {
            Ok(now) => pod = now,
            Err(e) if e.code() == Some("secrets_missing") && secrets.is_empty() => {
                secrets = values()?;
                if secrets.is_empty() {
                    return Err(e.into());
                }
            }
            // Somebody else did something to it meanwhile.
            Err(e) if e.code() == Some("wrong_state") => {
                let now = client.inspect(&id).await?;
                if now.state == pod.state {
                    return Err(e.into());
                }
                pod = now;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Err(own(format!("pod {} is {}, and does not stay awake", pod.name, pod.state)))
}

fn sh(script: &str, arguments: &[&str]) -> Vec<String> {
    ["sh", "-c", script].iter().chain(arguments).map(|s| (*s).to_owned()).collect()
}

async fn as_root(client: &Client, pod: &Pod, what: &str, command: Vec<String>) -> Result<String, Failure> {
    let root = Some("0:0".to_owned());
    let exec = ExecPod { command, user: root, working_dir: Some("/".into()), ..ExecPod::default() };
    match client.exec(&pod.id, &exec).await {
        Ok(done) if done.exit_code == 0 => Ok(done.stdout),
        Ok(done) => {
            Err(own(format!("{what} in pod {}: exit code {}: {}", pod.name, done.exit_code, done.stderr.trim())))
        }
        Err(ClientError::Refused(p)) if p.code == "command_not_found" => {
            Err(own(format!("{what} in pod {}: its image {} has no sh: it can't be worked in", pod.name, pod.image)))
        }
        Err(e) => Err(e.into()),
    }
}

/// Gives the pod's user a name and a home. Tells whether the pod is bootstrapped.
pub(in crate::cli) async fn account(client: &Client, pod: &Pod, made: &Made) -> Result<bool, Failure> {
    let numbers = made.numbers();
    let (uid, gid) = numbers.ok_or_else(|| own(format!("pod {}: its labels do not say whose it is", pod.name)))?;
    let (uid, gid) = (uid.to_string(), gid.to_string());
    let login = made.login.as_deref().unwrap_or("dev");
    let command = sh(SCRIPT, &["setup", &uid, &gid, login]);
    Ok(as_root(client, pod, "make a home", command).await?.contains("bootstrapped"))
}

/// One at a time of those that this user calls, until it is dropped.
pub(super) fn turn(pod: &Pod) -> Option<File> {
    let dir = caller::state()?;
    std::fs::create_dir_all(&dir).ok()?;
    let file = File::options().create(true).append(true).open(dir.join(format!("up-{}.lock", pod.id))).ok()?;
    file.lock().ok()?;
    Some(file)
}

/// Forgets what [`turn`] needs.
pub(super) fn forget(pod: &Pod) {
    if let Some(dir) = caller::state() {
        let _ = std::fs::remove_file(dir.join(format!("up-{}.lock", pod.id)));
    }
}

/// Runs what the caller wants to have run in a new pod, as its user in its directory. Tells whether that went well.
pub(super) async fn bootstrap(client: &Client, pod: &Pod, command: Option<&str>) -> Result<bool, Failure> {
    let mut good = true;
    if let Some(command) = command {
        eprintln!("torpor: bootstrap: {command}");
        // What it says is for people: standard output has what the caller asked for.
        let start = ExecStart { command: sh("exec sh -c \"$1\" 1>&2", &["sh", command]), ..ExecStart::default() };
        let socket = client.exec_socket(&pod.id, &start).await?;
        let follow = Follow {
            client,
            pod: &pod.id,
            stdin: false,
            tty: false,
            signals: true,
            numbered: true,
            keys: LeaveKeys::default(),
        };
        let code = follow.run(socket).await?.code();
        if code != 0 {
            eprintln!("torpor: the bootstrap failed with exit code {code}: the next `torpor up` tries it again");
            good = false;
        } else {
            as_root(client, pod, "remember the bootstrap", sh(DONE, &[])).await?;
        }
    }
    client.exec(&pod.id, &ExecPod { command: sh(QUIET, &[]), ..ExecPod::default() }).await?;
    Ok(good)
}

//! Names of pods, images, snapshots and volumes for a shell that completes a line: asked of torpord, within a bounded time. A torpord
//! that is away, refuses, or is slow gives none, and nothing is said of it: the shell's line belongs to its user.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::{Arg, Command, CommandFactory, FromArgMatches};
use clap_complete::Shell;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter};
use clap_complete::env::{CompleteEnv, Shells};

use super::args::Arguments;
use super::output::Failure;
use super::token::Access;
use crate::api::client::Client;

/// Set by the script of a shell that wants a line completed: to the shell's name.
const ASKED: &str = "TORPOR_COMPLETE";
/// How long a key that was pressed may take.
const PATIENCE: Duration = Duration::from_millis(700);

/// A name and what is shown beside it.
type Named = (String, String);

/// What names are names of.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Pods,
    Images,
    Snapshots,
    Volumes,
}

/// Answers a shell that completes a line, if one asks.
pub(super) fn answer() -> bool {
    let asked = CompleteEnv::with_factory(command).var(ASKED);
    asked.try_complete(std::env::args_os(), std::env::current_dir().ok().as_deref()).unwrap_or(true)
}

/// The script that a shell is to read.
///
/// # Errors
/// There is none for that shell.
pub(super) fn script(shell: Shell) -> Result<String, Failure> {
    let none = || Failure::Own(format!("there are no completions for {shell}"));
    let shells = Shells::builtins();
    let of = shells.completer(&shell.to_string()).ok_or_else(none)?;
    let mut text = Vec::new();
    of.write_registration(ASKED, "torpor", "torpor", "torpor", &mut text)?;
    let mut text = String::from_utf8(text).map_err(|_| none())?;
    if shell == Shell::Zsh {
        // Loaded when it is first needed, it has to answer at once.
        text.push_str("[ \"${funcstack[1]}\" != _torpor ] || _clap_dynamic_completer_torpor \"$@\"\n");
    }
    Ok(text)
}

/// The command line, with whom to ask for values.
fn command() -> Command {
    asking(Arguments::command())
}

fn asking(command: Command) -> Command {
    // What is made has a name that nothing has yet.
    let command = if command.get_name() == "create" { command.mut_args(runs) } else { command.mut_args(whom) };
    command.mut_subcommands(asking)
}

/// As [`whom`], of a command that makes something.
fn runs(arg: Arg) -> Arg {
    if arg.get_id() == "volumes" { arg } else { whom(arg) }
}

/// By what it is called, an argument is a pod's name, or something else's.
fn whom(arg: Arg) -> Arg {
    let names = |kind, after| ArgValueCompleter::new(move |typed: &OsStr| matching(kind, typed, after));
    match arg.get_id().as_str() {
        "pod" | "pods" => arg.add(names(Kind::Pods, "")),
        "image" | "images" | "base" => arg.add(names(Kind::Images, "")),
        "snapshot" | "snapshots" => arg.add(names(Kind::Snapshots, "")),
        "volumes" => arg.add(names(Kind::Volumes, "")),
        "volume" => arg.add(names(Kind::Volumes, ":")),
        // Of `cp`; of `image import` it is a file alone, and a pod's name does no harm.
        "source" | "target" => arg.add(ArgValueCompleter::new(|typed: &OsStr| {
            let mut all = PathCompleter::any().complete(typed);
            all.extend(matching(Kind::Pods, typed, ":"));
            all
        })),
        _ => arg,
    }
}

/// The names that begin so.
fn matching(kind: Kind, typed: &OsStr, after: &str) -> Vec<CompletionCandidate> {
    let Some(typed) = typed.to_str() else { return Vec::new() };
    let all = ask(kind).unwrap_or_default();
    let fits = all.into_iter().filter(|(name, _)| name.starts_with(typed));
    fits.map(|(name, about)| CompletionCandidate::new(format!("{name}{after}")).help(Some(about.into()))).collect()
}

/// Asks torpord; none: it did not answer in time, or not with names.
fn ask(kind: Kind) -> Option<Vec<Named>> {
    let access = access(std::env::args_os().skip_while(|a| a != "--").skip(1).collect())?;
    // ssh may ask for a password.
    if !access.is_silent() {
        return None;
    }
    let client = access.client().ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let names = runtime.block_on(async { tokio::time::timeout(PATIENCE, names(&client, kind)).await });
    // A name that is still looked up in the network's is not waited for.
    runtime.shutdown_background();
    names.ok()?
}

/// How torpord is reached, as far as the line says so already.
fn access(words: Vec<OsString>) -> Option<Access> {
    let read = Arguments::command().ignore_errors(true).try_get_matches_from(words).ok()?;
    Access::from_arg_matches(&read).ok()
}

async fn names(client: &Client, kind: Kind) -> Option<Vec<Named>> {
    Some(match kind {
        Kind::Pods => client.pods().await.ok()?.into_iter().map(|p| (p.name, p.state)).collect(),
        Kind::Images => {
            client.images().await.ok()?.into_iter().map(|i| (i.name, super::output::bytes(i.size))).collect()
        }
        Kind::Snapshots => {
            let shown = |s: &crate::api::types::Snapshot| format!("{} {}", s.pod, super::list::time(&s.created_at));
            client.snapshots().await.ok()?.into_iter().map(|s| (s.id.clone(), shown(&s))).collect()
        }
        Kind::Volumes => client.volumes().await.ok()?.into_iter().map(|v| (v.name, String::new())).collect(),
    })
}

//! `up`, `shell` and `down`: from a directory to a shell in a pod that has it, and away again.

pub(super) mod caller;
mod place;
mod settings;
pub(super) mod setup;
mod wanted;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;

use self::caller::Caller;
use self::place::Place;
use self::settings::{Port, Profile};
pub(super) use self::wanted::Made;
use self::wanted::{MADE, Wanted};
use super::follow::Follow;
use super::keys::LeaveKeys;
use super::output::{self, Failure, say};
use super::port::FORM;
use super::run::variables;
use super::secret::{self, Secrets};
use super::ssh;
use super::terminal;
use super::token::Access;
use crate::api::client::{Client, query};
use crate::api::terminal::ExecStart;
use crate::api::types::{Pod, SecretSpec, SecretValue, StartPod};

/// Which pod.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// The pod's name
    #[arg(long, default_value = "devpod")]
    name: String,
    /// One pod for each branch: NAME-BRANCH
    #[arg(long)]
    branch: Option<String>,
}

/// What may be typed after `up`.
#[derive(Debug, Args)]
pub(super) struct Up {
    #[command(flatten)]
    which: Which,
    /// What the pod is made of; devpod-base if nothing else is set
    #[arg(long)]
    image: Option<String>,
    /// Settings of [profile.NAME] in config.toml, or in .torpor.toml of the directory
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Named limits, such as dev.small
    #[arg(long)]
    tier: Option<String>,
    /// Memory, such as 2g
    #[arg(short, long)]
    memory: Option<String>,
    /// Processors, such as 2
    #[arg(long)]
    cpus: Option<f64>,
    /// Forward a port: HOST:POD, or POD for any free host port
    #[arg(short, long, value_name = FORM)]
    publish: Vec<String>,
    /// A variable; without a value that of the caller
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    #[command(flatten)]
    secrets: Secrets,
    /// What is run once in a new pod, as its user in its directory, such as 'make apply'
    #[arg(long, value_name = "COMMAND")]
    bootstrap: Option<String>,
    /// Whose the files are to be that the pod writes; by default the caller's, under sudo those of whoever called it
    #[arg(long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// No shell: the pod's name is printed
    #[arg(short = 'd', long, visible_alias = "detach")]
    no_shell: bool,
    /// The directory that the pod has at /work: of torpord's host, if that is another one
    #[arg(default_value = ".", value_name = "DIR")]
    directory: PathBuf,
}

/// What may be typed after `shell`.
#[derive(Debug, Args)]
pub(super) struct Shell {
    #[command(flatten)]
    which: Which,
    /// Run that instead of a shell
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// What may be typed after `down`.
#[derive(Debug, Args)]
pub(super) struct Down {
    #[command(flatten)]
    which: Which,
    /// All of the caller's pods that `up` made
    #[arg(long, conflicts_with_all = ["name", "branch"])]
    all: bool,
}

pub(super) fn own(text: impl Into<String>) -> Failure {
    Failure::Own(text.into())
}

/// A file of a stranger's directory: what is none, a pipe for one, is not waited for.
fn open_file(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("no file")) }
}

/// The pod of exactly that name.
pub(super) async fn find(client: &Client, name: &str) -> Result<Option<Pod>, Failure> {
    match client.inspect(name).await {
        Ok(pod) => Ok(Some(pod).filter(|p| p.name == name)),
        Err(e) if e.code() == Some("not_found") => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn none_there(name: &str) -> Failure {
    own(format!("there is no pod {name}\nhint: `torpor up` makes it"))
}

impl Up {
    /// All that is set, and what was typed on top of it.
    fn profile(&self, directory: &Path) -> Result<Profile, Failure> {
        let mut set = settings::settings(directory, self.profile.as_deref())?;
        set.image = self.image.clone().or(set.image);
        set.tier = self.tier.clone().or(set.tier);
        set.memory = self.memory.clone().or(set.memory);
        set.cpus = self.cpus.or(set.cpus);
        set.bootstrap = self.bootstrap.clone().or(set.bootstrap);
        set.env.extend(variables(&self.env));
        set.ports.extend(self.publish.iter().cloned().map(Port::Text));
        Ok(set)
    }

    /// Secrets with their values: those that were typed, and those of the settings.
    fn secrets(&self, profile: &Profile) -> Result<Vec<SecretSpec>, Failure> {
        let typed = self.secrets.names();
        let mut all = self.secrets.specs()?;
        for (set, env) in [(&profile.secrets, false), (&profile.secret_env, true)] {
            for (name, source) in set.iter().filter(|(name, _)| !typed.contains(name)) {
                all.push(secret::spec(&format!("{name}={source}"), env)?);
            }
        }
        Ok(all)
    }
}

fn values(specs: Vec<SecretSpec>) -> Vec<SecretValue> {
    let value = |s: SecretSpec| s.value.map(|value| SecretValue { name: s.name, value, encoding: s.encoding });
    specs.into_iter().filter_map(value).collect()
}

/// `torpor up`.
pub(super) async fn up(client: &Client, access: &Access, args: &Up, json: bool) -> Result<u8, Failure> {
    let begun = Instant::now();
    let caller = Caller::of(args.user.as_deref())?;
    let place = Place::of(&args.directory, args.which.branch.as_deref())?;
    if let Some(note) = &place.note {
        eprintln!("torpor: {note}");
    }
    let profile = args.profile(Path::new(&place.directory))?;
    let (base, branch) = (args.which.name.as_str(), args.which.branch.as_deref());
    let wanted = Wanted { base, branch, place: &place, caller: &caller, profile: &profile };
    let (pod, new) = match find(client, &wanted.name()).await? {
        Some(pod) => (pod, false),
        None => {
            let request = wanted.request(args.secrets(&profile)?)?;
            match client.create_pod(&request).await {
                Ok(pod) => (pod, true),
                // Somebody was quicker.
                Err(e) if e.code() == Some("name_taken") => {
                    (find(client, &wanted.name()).await?.ok_or_else(|| Failure::from(e))?, false)
                }
                Err(e) if e.code() == Some("not_found") => {
                    return Err(own(format!(
                        "{e}\nhint: `torpor image import` brings it, or --image names another one"
                    )));
                }
                Err(e) => return Err(e.into()),
            }
        }
    };
    let pod = if new { pod } else { again(client, args, &wanted, pod).await? };
    let made = Made::of(&pod)?;
    let turn = setup::turn(&pod);
    let done = setup::account(client, &pod, &made).await?;
    let good = done || setup::bootstrap(client, &pod, profile.bootstrap.as_deref()).await?;
    drop(turn);
    if profile.ssh == Some(true) {
        ssh::install(&pod, access, None, None, &[])?;
    }
    if args.no_shell {
        if json {
            output::json(&pod)
        } else {
            say!("{}", pod.name)
        }
        return Ok(u8::from(!good));
    }
    let seconds = begun.elapsed().as_secs_f32();
    eprintln!("torpor: pod {} is up ({seconds:.1} s): {} is /work", pod.name, place.directory);
    enter(client, &pod, &[]).await
}

/// A pod that is there already: entered if it is the one that is wanted.
async fn again(client: &Client, args: &Up, wanted: &Wanted<'_>, pod: Pod) -> Result<Pod, Failure> {
    for differs in wanted.compare(&pod)? {
        eprintln!("torpor: {differs}");
    }
    let has: Vec<String> = pod.secrets.iter().filter(|s| s.source == "value").map(|s| s.name.clone()).collect();
    let again = || {
        let mut all = values(args.secrets(wanted.profile)?);
        all.retain(|s| has.contains(&s.name));
        Ok(all)
    };
    let pod = setup::running(client, pod, &again).await?;
    // What was typed is wanted now; what is only set is there since the pod is.
    let typed = values(args.secrets.specs()?);
    if typed.is_empty() {
        return Ok(pod);
    }
    Ok(client.start_with(&pod.id, &StartPod { secrets: typed }).await?)
}

/// zsh if it is there, else bash, else sh.
pub(super) const SHELL: &str =
    r#"for s in zsh bash; do p=$(command -v $s 2>/dev/null) && export SHELL="$p" && exec "$p"; done; exec sh"#;

/// Variables of the caller's terminal that a program on it needs.
fn of_terminal() -> std::collections::BTreeMap<String, String> {
    variables(&["TERM".to_owned(), "COLORTERM".to_owned()])
}

async fn enter(client: &Client, pod: &Pod, command: &[String]) -> Result<u8, Failure> {
    let tty = std::io::stdin().is_terminal();
    let (cols, rows) = terminal::size().filter(|_| tty).unzip();
    let shell = || vec!["sh".to_owned(), "-c".to_owned(), SHELL.to_owned()];
    let start = ExecStart {
        command: if command.is_empty() { shell() } else { command.to_vec() },
        env: if tty { of_terminal() } else { Default::default() },
        stdin: true,
        tty,
        cols,
        rows,
        ..ExecStart::default()
    };
    let socket = client.exec_socket(&pod.id, &start).await?;
    let follow =
        Follow { client, pod: &pod.id, stdin: true, tty, signals: true, numbered: true, keys: LeaveKeys::default() };
    Ok(follow.run(socket).await?.code())
}

/// `torpor shell`.
pub(super) async fn shell(client: &Client, args: &Shell) -> Result<u8, Failure> {
    let name = wanted::name(&args.which.name, args.which.branch.as_deref());
    let pod = find(client, &name).await?.ok_or_else(|| none_there(&name))?;
    let made = Made::of(&pod)?;
    let pod = setup::running(client, pod, &setup::none).await?;
    setup::account(client, &pod, &made).await?;
    enter(client, &pod, &args.command).await
}

/// `torpor down`.
pub(super) async fn down(client: &Client, args: &Down, json: bool) -> Result<u8, Failure> {
    let pods = if args.all {
        let caller = Caller::of(None)?;
        let mut pods = client.pods_where(&query(&[("label", MADE.to_owned())])).await?;
        pods.retain(|p| Made::of(p).is_ok_and(|m| m.user == Some(caller.user())));
        pods
    } else {
        let name = wanted::name(&args.which.name, args.which.branch.as_deref());
        let found = find(client, &name).await?;
        if found.is_none() && !json {
            eprintln!("torpor: there is no pod {name}");
        }
        found.into_iter().collect()
    };
    // All of them are the caller's before one is touched.
    let all = pods.iter().map(|p| Ok((p, Made::of(p)?))).collect::<Result<Vec<_>, Failure>>()?;
    for (pod, made) in all {
        match client.remove(&pod.id, true).await {
            Ok(()) => {}
            Err(e) if e.code() == Some("not_found") => {}
            Err(e) => return Err(e.into()),
        }
        setup::forget(pod);
        let cache = made.cache.map(|c| format!("; volume {c} stays (`torpor volume rm {c}`)")).unwrap_or_default();
        if !json {
            say!("{}", pod.name);
            eprintln!("torpor: pod {} is gone{cache}", pod.name);
        }
    }
    if json {
        output::json(&pods);
    }
    Ok(0)
}

//! `ssh-proxy` and `ssh-config`: a pod as a host of ssh's, and so of scp's, sftp's and of editors that work by them.
//!
//! Nothing listens, in the pod or here: ssh starts `torpor ssh-proxy` and speaks with it by pipes.

mod backlog;
mod config;
mod keys;
mod program;
mod server;
mod stdio;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::config::Host;
use self::server::{Server, Target};
use super::output::Failure;
use super::token::Access;
use super::up::{Made, caller, find, own, setup};
use crate::api::client::Client;
use crate::api::types::Pod;

/// How long programs are let go that nobody follows any more.
const LAST: Duration = Duration::from_secs(5);

/// What may be typed after `ssh-proxy`.
#[derive(Debug, Args)]
pub(super) struct Proxy {
    pod: String,
    /// Whom programs run as in the pod; by default the pod's own user
    user: Option<String>,
    /// File with the public keys that log in, one a line; without it those of ~/.ssh whose private halves are there, and ssh-agent's
    #[arg(long, value_name = "FILE")]
    authorized_keys: Vec<PathBuf>,
}

/// What may be typed after `ssh-config`.
#[derive(Debug, Args)]
pub(super) struct Config {
    /// Whom programs run as in the pod; by default the pod's own user
    #[arg(long)]
    user: Option<String>,
    /// What ssh is to call it; by default the pod's name
    #[arg(long = "as", value_name = "HOST")]
    called: Option<String>,
    /// File with the public keys that log in, as for ssh-proxy
    #[arg(long, value_name = "FILE")]
    authorized_keys: Vec<PathBuf>,
    /// Write it below ~/.config/torpor/ssh, and have ~/.ssh/config read that
    #[arg(long)]
    install: bool,
    #[arg(default_value = "devpod")]
    pod: String,
}

/// The pod, as somebody may call it, not only by its name.
async fn known(client: &Client, pod: &str) -> Result<Pod, Failure> {
    match find(client, pod).await? {
        Some(pod) => Ok(pod),
        None => Ok(client.inspect(pod).await?),
    }
}

/// `torpor ssh-proxy`.
pub(super) async fn proxy(client: &Client, args: &Proxy) -> Result<u8, Failure> {
    let keys = keys::authorized(&args.authorized_keys).await?;
    let pod = known(client, &args.pod).await?;
    let pod = setup::running(client, pod, &setup::none).await?;
    if let Ok(made) = Made::of(&pod) {
        setup::account(client, &pod, &made).await?;
    }
    let key = keys::of_pod(&pod.name)?;
    let target = Target { client: client.clone(), pod: pod.id, user: args.user.clone() };
    let (server, programs) = Server::new(Arc::new(target), keys);
    let (stream, flushed) = stdio::stream()?;
    let broken = |e: russh::Error| own(format!("speak SSH: {e}"));
    let mut session =
        russh::server::run_stream(Arc::new(server::settings(key)), stream, server).await.map_err(broken)?;
    // ssh hangs this program up when it ends. It also closes what it is spoken with by, and there is something to tidy up then.
    let mut ends = ends()?;
    tokio::select! {
        // How it ends is whoever's who speaks with it: ssh says what went wrong.
        _ = &mut session => {}
        Some(()) = ends.recv() => drop(tokio::time::timeout(LAST, session).await),
    }
    let _ = tokio::time::timeout(LAST, programs.ended()).await;
    let _ = tokio::time::timeout(LAST, flushed).await;
    Ok(0)
}

/// Signals that would end this program.
fn ends() -> std::io::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(1);
    for kind in [SignalKind::hangup(), SignalKind::terminate(), SignalKind::interrupt()] {
        let (mut signals, sender) = (signal(kind)?, sender.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                let _ = sender.try_send(());
            }
        });
    }
    Ok(receiver)
}

/// `torpor ssh-config`.
pub(super) async fn config(client: &Client, access: &Access, args: &Config) -> Result<u8, Failure> {
    let pod = known(client, &args.pod).await?;
    if args.install {
        let path = install(&pod, access, args.user.as_deref(), args.called.as_deref(), &args.authorized_keys)?;
        eprintln!("torpor: {} has the host {}", path.display(), args.called.as_deref().unwrap_or(&pod.name));
        return Ok(0);
    }
    let block =
        with(&pod, access, args.user.as_deref(), args.called.as_deref(), &args.authorized_keys, |host| host.block())?;
    print!("{block}");
    Ok(0)
}

/// Tells ssh of a pod for good.
pub(super) fn install(
    pod: &Pod,
    access: &Access,
    user: Option<&str>,
    host: Option<&str>,
    keys: &[PathBuf],
) -> Result<PathBuf, Failure> {
    let dir = caller::configuration().ok_or_else(|| own("there is no HOME: ssh can't be told of it"))?.join("ssh");
    with(pod, access, user, host, keys, |host| config::install(host, &dir))
}

fn with<T>(
    pod: &Pod,
    access: &Access,
    user: Option<&str>,
    host: Option<&str>,
    files: &[PathBuf],
    use_it: impl FnOnce(&Host<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let name = host.unwrap_or(&pod.name);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() || name.starts_with(['.', '-']) || !name.chars().all(plain) {
        return Err(own(format!("{name:?} can't be a host of ssh's: letters, digits, _ . and -")));
    }
    let text = |path: PathBuf| {
        let path = std::fs::canonicalize(&path).unwrap_or(path);
        path.into_os_string().into_string().map_err(|p| own(format!("{p:?}: ssh can't be told of that path")))
    };
    let mut proxy = vec![text(std::env::current_exe()?)?];
    proxy.extend(access.arguments()?);
    proxy.push("ssh-proxy".into());
    for file in files {
        proxy.push(format!("--authorized-keys={}", text(file.clone())?));
    }
    proxy.push(pod.name.clone());
    proxy.extend(user.map(str::to_owned));
    let made = Made::of(pod).ok().and_then(|m| m.login);
    let login = user.or(made.as_deref()).filter(|l| !l.is_empty() && l.chars().all(plain));
    let known_hosts = keys::make_known(&pod.name)?;
    use_it(&Host { name, pod: &pod.name, login, proxy, known_hosts: &known_hosts, alias: keys::alias(&pod.name) })
}

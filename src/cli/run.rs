//! `run` and `create`.

use std::collections::BTreeMap;
use std::io::Read;
use std::pin::Pin;

use futures::{Stream, StreamExt};
use tokio::signal::unix::{SignalKind, signal};

use super::args::{Exec, Run};
use super::attach;
use super::follow::Ended;
use super::output::{self, Failure, say};
use super::port;
use crate::api::client::{self, Client};
use crate::api::types::{CreatePod, ExecPod, ExitInfo, HttpCheck, LogLine, ReadySpec, Size, VolumeSpec};

fn own(text: impl Into<String>) -> Failure {
    Failure::Own(text.into())
}

/// `NAME=VALUE`, or `NAME` for the caller's own value.
pub(super) fn variables(given: &[String]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for line in given {
        match line.split_once('=') {
            Some((name, value)) => drop(all.insert(name.to_owned(), value.to_owned())),
            None => {
                if let Ok(value) = std::env::var(line) {
                    all.insert(line.clone(), value);
                }
            }
        }
    }
    all
}

pub(super) fn volume(text: &str) -> Result<VolumeSpec, Failure> {
    let mut parts = text.split(':');
    let (Some(source), Some(target), mode, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(own(format!("{text:?} is no volume: write SOURCE:TARGET or SOURCE:TARGET:ro")));
    };
    let read_only = match mode {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(other) => return Err(own(format!("{other:?} is no mode of a volume: ro or rw"))),
    };
    // As docker: a relative path is one of the caller's.
    let source = if source.starts_with('.') {
        std::fs::canonicalize(source).map_err(|e| own(format!("{source}: {e}")))?.display().to_string()
    } else {
        source.to_owned()
    };
    Ok(VolumeSpec { source, target: target.to_owned(), read_only })
}

fn ready(run: &Run) -> Result<Option<ReadySpec>, Failure> {
    let mut spec = ReadySpec { timeout_ms: run.ready_timeout.map(|s| s.saturating_mul(1000)), ..ReadySpec::default() };
    if let Some(text) = &run.ready_http {
        let (port, path) =
            text.split_once('/').map_or((text.as_str(), None), |(p, rest)| (p, Some(format!("/{rest}"))));
        let port = port.trim_end_matches(':').parse().map_err(|_| own(format!("{text:?} is not PORT[/PATH]")))?;
        spec.http = Some(HttpCheck { port, path });
    } else if let Some(port) = run.ready_tcp {
        spec.tcp = Some(port);
    } else {
        return Ok(None);
    }
    Ok(Some(spec))
}

fn request(run: &Run, start: bool) -> Result<CreatePod, Failure> {
    let mut env = BTreeMap::new();
    for path in &run.env_file {
        let text = std::fs::read_to_string(path).map_err(|e| own(format!("{}: {e}", path.display())))?;
        let lines: Vec<String> =
            text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect();
        env.extend(variables(&lines));
    }
    env.extend(variables(&run.env));
    let labels =
        run.label.iter().map(|l| l.split_once('=').map_or((l.clone(), String::new()), |(k, v)| (k.into(), v.into())));
    Ok(CreatePod {
        name: run.name.clone(),
        image: run.image.clone(),
        entrypoint: run.entrypoint.as_ref().map(|e| Some(e.clone()).filter(|e| !e.is_empty()).into_iter().collect()),
        command: run.command.clone(),
        env,
        tier: run.tier.clone(),
        cpus: run.cpus,
        memory: run.memory.clone().map(Size::Text),
        pids: run.pids_limit,
        disk: run.disk.clone().map(Size::Text),
        ports: run.publish.iter().map(|p| port::parse(p)).collect::<Result<_, _>>()?,
        volumes: run.volume.iter().map(|v| volume(v)).collect::<Result<_, _>>()?,
        working_dir: run.workdir.clone(),
        user: run.user.clone(),
        hostname: run.hostname.clone(),
        labels: labels.collect(),
        ready: ready(run)?,
        secrets: run.secrets.specs()?,
        health: run.health.spec()?,
        restart: run.restart.clone(),
        on_shutdown: run.on_shutdown.clone(),
        tty: run.tty,
        stdin: run.interactive,
        auto_remove: run.rm,
        follow: start && !run.detach,
        start,
    })
}

/// `torpor create`.
pub(super) async fn create(client: &Client, run: &Run, json: bool) -> Result<u8, Failure> {
    let pod = client.create_pod(&request(run, false)?).await?;
    if json {
        output::json(&pod)
    } else {
        say!("{}", pod.id)
    }
    Ok(0)
}

/// `torpor run`: in the foreground it stands for the program, its output, its signals and its exit code.
pub(super) async fn run(client: &Client, run: &Run, json: bool) -> Result<u8, Failure> {
    if run.detach {
        let pod = client.create_pod(&request(run, true)?).await?;
        if json {
            output::json(&pod)
        } else {
            say!("{}", pod.id)
        }
        return Ok(0);
    }
    attach::require_terminal(run.interactive, run.tty)?;
    let pod = client.create_pod(&request(run, true)?).await?;
    // A pod for one run stays for as long as its output is read.
    let mut lines = if run.rm { Some(read(client, &pod.id).await?) } else { None };
    if run.interactive || run.tty {
        match attach::to_command(client, &pod.id, run.interactive, run.tty, run.detach_keys.clone()).await {
            Ok(Ended::Exit(_)) => {
                let ended = client.wait(&pod.id).await?;
                return over(client, run, &pod.id, &ended).await;
            }
            Ok(left) => {
                eprintln!("torpor: pod {} goes on", pod.name);
                return Ok(left.code());
            }
            // It had ended before it could be followed: its log has all of it.
            Err(e) if attach::is_over(&e) || (run.rm && is_gone(&e)) => {}
            Err(e) => return Err(e),
        }
    }
    let forward = tokio::spawn(pass_signals(client.clone(), pod.id.clone()));
    let mut lines = match lines.take() {
        Some(lines) => lines,
        None => read(client, &pod.id).await?,
    };
    while let Some(line) = lines.next().await {
        let line = line?;
        let mut bytes = line.line.into_bytes();
        if !line.partial {
            bytes.push(b'\n');
        }
        if line.stream == "stderr" {
            output::write(&mut std::io::stderr(), &bytes);
        } else {
            output::write(&mut std::io::stdout(), &bytes);
        }
    }
    let ended = client.wait(&pod.id).await?;
    forward.abort();
    over(client, run, &pod.id, &ended).await
}

type Lines = Pin<Box<dyn Stream<Item = client::Result<LogLine>> + Send>>;

async fn read(client: &Client, pod: &str) -> client::Result<Lines> {
    Ok(Box::pin(client.logs(pod, "follow=true").await?))
}

/// Whether there is no such pod any more.
fn is_gone(failure: &Failure) -> bool {
    matches!(failure, Failure::Client(e) if e.code() == Some("not_found"))
}

/// Its command has ended. As docker: when this program ends the pod has gone, and its name is free. torpord removes it in any case;
/// whoever has started it again keeps it.
async fn over(client: &Client, run: &Run, pod: &str, ended: &ExitInfo) -> Result<u8, Failure> {
    if run.rm {
        match client.remove(pod, false).await {
            Err(e) if !matches!(e.code(), Some("not_found" | "wrong_state")) => return Err(e.into()),
            _ => {}
        }
    }
    if ended.exit_reason == "oom" {
        eprintln!("torpor: the pod ran out of memory");
    }
    Ok(u8::try_from(ended.exit_code).unwrap_or(255))
}

/// Passes on the signals that a program would get.
async fn pass_signals(client: Client, pod: String) {
    let kinds = [
        (SignalKind::interrupt(), "INT"),
        (SignalKind::terminate(), "TERM"),
        (SignalKind::quit(), "QUIT"),
        (SignalKind::hangup(), "HUP"),
        (SignalKind::user_defined1(), "USR1"),
        (SignalKind::user_defined2(), "USR2"),
    ];
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    for (kind, name) in kinds {
        let Ok(mut stream) = signal(kind) else { continue };
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                let _ = sender.send(name);
            }
        });
    }
    while let Some(name) = receiver.recv().await {
        if let Err(e) = client.kill(&pod, name).await {
            eprintln!("torpor: pass SIG{name} on: {e}");
        }
    }
}

/// `torpor --json exec`: to its end, and all of it as one object.
pub(super) async fn exec(client: &Client, exec: &Exec) -> Result<u8, Failure> {
    let stdin = if exec.interactive {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|e| own(format!("standard input: {e}")))?;
        Some(text)
    } else {
        None
    };
    let request = ExecPod {
        command: exec.command.clone(),
        env: variables(&exec.env),
        working_dir: exec.workdir.clone(),
        user: exec.user.clone(),
        stdin,
        timeout_ms: exec.timeout.map(|s| s.saturating_mul(1000)),
    };
    let done = client.exec(&exec.pod, &request).await?;
    output::json(&done);
    Ok(u8::try_from(done.exit_code).unwrap_or(255))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_as_docker_writes_them() {
        assert_eq!(
            volume("data:/d:ro").ok(),
            Some(VolumeSpec { source: "data".into(), target: "/d".into(), read_only: true })
        );
        assert!(volume("data").is_err() && volume("a:b:c").is_err());
    }
}

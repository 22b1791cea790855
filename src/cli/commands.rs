//! Every command but `run` and `exec`.

use futures::TryStreamExt;

use super::args::{Arguments, Command, Ending, Image, Snapshot};
use super::events;
use super::output::{self, Bar, Failure, say};
use super::{
    attach, complete, cp, dial, doctor, list, logs, port, prune, run, ssh, stats, support, system, token, top, trace,
    up, volume,
};
use crate::api::client::Client;
use crate::api::types::{self, RestartPod, RestorePod, RestoreSnapshot, StartPod, StopPod, WakePod};

type Done = Result<u8, Failure>;

/// Does what was typed.
pub(super) async fn run(arguments: Arguments) -> Done {
    let json = arguments.json;
    let client = || arguments.access.client();
    match arguments.command {
        Command::Run(args) => run::run(&client()?, &args, json).await,
        Command::Create(args) => run::create(&client()?, &args, json).await,
        Command::Up(args) => up::up(&client()?, &arguments.access, &args, json).await,
        Command::Shell(args) => up::shell(&client()?, &args).await,
        Command::Down(args) => up::down(&client()?, &args, json).await,
        Command::SshProxy(args) => ssh::proxy(&client()?, &args).await,
        Command::SshConfig(args) => ssh::config(&client()?, &arguments.access, &args).await,
        Command::Exec(args) if json && !args.tty && !args.detach => run::exec(&client()?, &args).await,
        Command::Exec(args) => attach::exec(&client()?, &args, json).await,
        Command::Attach(args) => attach::attach(&client()?, &args).await,
        Command::Terminal(command) => attach::terminals(&client()?, &command, json).await,
        Command::Top { pod } => top::top(&client()?, &pod, json).await,
        Command::Ps(args) => list::ps(&client()?, &args, json).await,
        Command::Inspect(args) => list::inspect(&client()?, &args, json).await,
        Command::Logs { follow, tail, since, timestamps, pod } => {
            let wanted = logs::Wanted { pod: &pod, tail, since: since.as_deref(), timestamps, json };
            if follow { logs::follow(&client()?, &wanted).await } else { logs::show(&client()?, &wanted).await }
        }
        Command::Start { again, pods } => {
            let (c, how) = (client()?, StartPod { secrets: again.values()? });
            each(&pods, json, async |p| c.start_with(p, &how).await.map(Some)).await
        }
        Command::Stop { ending: Ending { time, signal }, pods } => {
            let (c, how) = (client()?, StopPod { signal, grace_seconds: time });
            each(&pods, json, async |p| c.stop(p, &how).await.map(Some)).await
        }
        Command::Restart { again, ending: Ending { time, signal }, pods } => {
            let (c, how) = (client()?, RestartPod { signal, grace_seconds: time, secrets: again.values()? });
            each(&pods, json, async |p| c.restart(p, &how).await.map(Some)).await
        }
        Command::Kill { signal, pods } => {
            let c = client()?;
            each(&pods, json, async |p| c.kill(p, &signal).await.map(|()| None)).await
        }
        Command::Rm { force, pods } => {
            let c = client()?;
            each(&pods, json, async |p| c.remove(p, force).await.map(|()| None)).await
        }
        Command::Sleep { pods } => {
            let c = client()?;
            each(&pods, json, async |p| with_bar(|bar| c.sleep(p, bar)).await.map(Some)).await
        }
        Command::Wake { cold, again, pods } => {
            let (c, how) = (client()?, WakePod { cold, secrets: again.values()? });
            each(&pods, json, async |p| with_bar(|bar| c.wake(p, &how, bar)).await.map(Some)).await
        }
        Command::Restore { again, pod, snapshot } => {
            let (c, how) = (client()?, RestorePod { snapshot, secrets: again.values()? });
            each(&[pod], json, async |p| with_bar(|bar| c.restore_with(p, &how, bar)).await.map(Some)).await
        }
        Command::Pause { pods } => {
            let c = client()?;
            each(&pods, json, async |p| c.pause(p).await.map(Some)).await
        }
        Command::Unpause { pods } => {
            let c = client()?;
            each(&pods, json, async |p| c.resume(p).await.map(Some)).await
        }
        Command::Rename { pod, name } => {
            let c = client()?;
            each(&[pod], json, async |p| c.rename(p, &name).await.map(Some)).await
        }
        Command::Update(args) => {
            let (c, request) = (client()?, args.request()?);
            each(&args.pods, json, async |p| c.update(p, &request).await.map(Some)).await
        }
        Command::Cp(args) => cp::cp(&client()?, &args).await,
        Command::Port(args) => port::port(&client()?, &args, json).await,
        Command::Stats(args) => stats::stats(&client()?, &args, json).await,
        Command::Events(args) => events::events(&client()?, &args, json).await,
        Command::Trace(args) => trace::show(&client()?, &args, json).await,
        Command::SupportBundle(args) => support::bundle(&client()?, &args, arguments.access.is_local()).await,
        Command::DialStdio => dial::dial(&client()?).await,
        Command::Wait { pods } => wait(&client()?, &pods, json).await,
        Command::Snapshot(command) => snapshot(&client()?, command, json).await,
        Command::Image(command) => image(&client()?, command, json).await,
        Command::Images(args) => list::images(&client()?, &args, json).await,
        Command::Rmi { images } => image(&client()?, Image::Rm { images }, json).await,
        Command::Token(command) => token::token(&client()?, command, json).await,
        Command::Volume(command) => volume::run(&client()?, command, json).await,
        Command::System(command) => system::run(&client()?, command, json).await,
        Command::Doctor(args) => doctor::doctor(&client()?, &args, arguments.access.is_local(), json).await,
        Command::Version => version(&client()?, json).await,
        Command::Completions { shell } => {
            output::write(&mut std::io::stdout(), complete::script(shell)?.as_bytes());
            Ok(0)
        }
        Command::Man { directory } => {
            std::fs::create_dir_all(&directory)?;
            clap_mangen::generate_to(super::command(), &directory)?;
            Ok(0)
        }
    }
}

/// The same for each pod. All are tried; the first failure's code counts.
pub(super) async fn each(
    pods: &[String],
    json: bool,
    work: impl AsyncFn(&str) -> crate::api::client::Result<Option<types::Pod>>,
) -> Done {
    let mut code = 0;
    for pod in pods {
        match work(pod).await {
            Ok(Some(shown)) if json => output::json(&shown),
            // It is gone, or as it was: there is nothing more to show than what was asked for.
            Ok(None) if json => output::json(&serde_json::json!({ "name": pod })),
            Ok(_) => say!("{pod}"),
            Err(e) => {
                let failed = output::fail(&Failure::from(e), false);
                code = if code == 0 { failed } else { code };
            }
        }
    }
    Ok(code)
}

type Show<'a> = &'a mut (dyn FnMut(types::ProgressInfo) + Send);

pub(super) async fn with_bar<T, F: Future<Output = T>>(work: impl FnOnce(Show<'static>) -> F) -> T {
    // The call borrows the closure for as long as it runs; a leaked one is a few bytes of a program that ends soon.
    let bar = std::sync::Arc::new(std::sync::Mutex::new(Bar::new()));
    let shown = std::sync::Arc::clone(&bar);
    let show: Show<'static> = Box::leak(Box::new(move |p: types::ProgressInfo| {
        if let Ok(mut b) = shown.lock() {
            b.show(&p);
        }
    }));
    let done = work(show).await;
    if let Ok(mut b) = bar.lock() {
        *b = Bar::none();
    }
    done
}

/// `10m` or `2h` as a time; anything else is one already.
pub(super) fn since(text: &str) -> Result<String, Failure> {
    if text.contains('T') {
        return Ok(text.to_owned());
    }
    let span: jiff::Span =
        text.parse().map_err(|_| Failure::Own(format!("{text:?} is no time: such as 10m, or 2026-01-31T12:00:00Z")))?;
    let then = jiff::Timestamp::now().checked_sub(span).map_err(|e| Failure::Own(e.to_string()))?;
    Ok(then.to_string())
}

async fn wait(client: &Client, pods: &[String], json: bool) -> Done {
    for pod in pods {
        let ended = client.wait(pod).await?;
        if json { output::json(&ended) } else { say!("{}", ended.exit_code) }
    }
    Ok(0)
}

async fn snapshot(client: &Client, command: Snapshot, json: bool) -> Done {
    match command {
        Snapshot::Create { pod } => {
            let taken = with_bar(|bar| client.snapshot(&pod, bar)).await?;
            if json { output::json(&taken) } else { say!("{}", taken.id) }
        }
        Snapshot::Ls => {
            let all = client.snapshots().await?;
            if json {
                output::json(&all);
                return Ok(0);
            }
            let rows: Vec<Vec<String>> = all
                .iter()
                .map(|s| {
                    let (size, stored) = (output::bytes(s.size), output::bytes(s.stored));
                    vec![s.id.clone(), s.pod.clone(), s.image.clone(), size, stored, list::time(&s.created_at)]
                })
                .collect();
            output::table(&["SNAPSHOT ID", "POD", "IMAGE", "SIZE", "STORED", "CREATED (UTC)"], &rows);
        }
        Snapshot::Inspect { snapshot } => output::json(&client.inspect_snapshot(&snapshot).await?),
        Snapshot::Restore { name, host_directories, secrets, snapshot } => {
            let how = RestoreSnapshot { name, host_directories, secrets: secrets.specs()? };
            let pod = with_bar(|bar| client.restore_snapshot_as(&snapshot, &how, bar)).await?;
            if json { output::json(&pod) } else { say!("{}", pod.id) }
        }
        Snapshot::Rm { snapshots } => {
            return each(&snapshots, json, async |s| client.remove_snapshot(s).await.map(|()| None)).await;
        }
    }
    Ok(0)
}

async fn image(client: &Client, command: Image, json: bool) -> Done {
    match command {
        Image::Import { base, name, source } => {
            let is_directory = std::path::Path::new(&source).is_dir();
            let imported = if is_directory {
                let path = std::fs::canonicalize(&source)?.display().to_string();
                with_bar(|bar| client.import_directory(&name, base.as_deref(), &path, bar)).await?
            } else {
                let file = if source == "-" { std::fs::File::open("/dev/stdin") } else { std::fs::File::open(&source) };
                let file = file.map_err(|e| Failure::Own(format!("{source}: {e}")))?;
                // A pipe's length is not known.
                let length = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
                let stream = chunks(tokio::fs::File::from_std(file));
                with_bar(|bar| client.import_sized(&name, base.as_deref(), stream, length, bar)).await?
            };
            if json { output::json(&imported) } else { say!("{} {}", imported.name, imported.id) }
        }
        Image::Ls(args) => return list::images(client, &args, json).await,
        Image::Inspect { image } => output::json(&client.inspect_image(&image).await?),
        Image::Prune(args) => return prune::images(client, &args, json).await,
        Image::Rm { images } => {
            return each(&images, json, async |i| client.remove_image(i).await.map(|()| None)).await;
        }
    }
    Ok(0)
}

/// A file as a stream of chunks.
fn chunks(file: tokio::fs::File) -> impl futures::Stream<Item = std::io::Result<bytes::Bytes>> + Send + Sync {
    use tokio::io::AsyncReadExt;
    futures::stream::try_unfold(file, |mut file| async move {
        let mut chunk = bytes::BytesMut::with_capacity(256 * 1024);
        let n = file.read_buf(&mut chunk).await?;
        Ok((n > 0).then(|| (chunk.freeze(), file)))
    })
    .into_stream()
}

async fn version(client: &Client, json: bool) -> Done {
    let server = client.version().await?;
    if json {
        output::json(&server);
    } else {
        say!("torpor {}", env!("CARGO_PKG_VERSION"));
        say!("torpord {} (instance {})", server.version, server.instance);
        say!("engine {}", server.engine.as_deref().unwrap_or("none"));
    }
    Ok(0)
}

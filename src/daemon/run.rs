//! The daemon from start to end: lock, open, recover, serve, ready; and back.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::core::settings::Source;
use super::core::{Core, Host, Parts};
use super::db::Db;
use super::dirs::Dirs;
use super::http;
use super::surfaces::containers::Pool;
use crate::config::{self, Config};
use crate::host::cache::Cache;
use crate::host::cgroup::RealCgroups;
use crate::host::engine::{self, Engines};
use crate::host::kept::Keeper;
use crate::host::layers::{Layers, Limits};
use crate::host::network::{Network, NetworkConfig, RealNetwork};
use crate::host::ports::Ports;
use crate::host::rootfs::Rootfs;
use crate::host::runtime::RunscRuntime;
use crate::host::secrets::Secrets;
use crate::host::shim::RealShims;
use crate::host::store::{Store, StoreConfig};
use crate::host::{capabilities, files, notify};
use crate::model::{Attempt, Code, Error, InstanceTag, Result};
use crate::plan::network::Addressing;

/// What is done while this process has one thread: capabilities are each thread's own.
pub struct Prepared {
    config: Config,
    tag: InstanceTag,
    cgroups: RealCgroups,
    source: Option<Source>,
    keeper: Arc<Keeper>,
    given: Option<UnixListener>,
    _lock: files::Lock,
}

impl Prepared {
    /// With what reads the settings anew.
    #[must_use]
    pub fn reading_anew(self, source: Source) -> Self {
        Prepared { source: Some(source), ..self }
    }
}

/// Puts a backup into the state directory, which has no state.
///
/// # Errors
/// It has, another torpord has it, or the archive is not good: nothing was changed then but by a full disk.
pub fn restore(config: &Config, archive: &Path) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new(Code::Unsupported, "a backup has files of many owners: it must be restored by root"));
    }
    files::create_dir_all(&config.state_dir, 0o700)?;
    let _lock = files::lock(&config.state_dir.join("lock"))?;
    crate::host::backup::restore(archive, &config.state_dir, &config.agent.pods)
}

/// Takes the state directory and gives up what a torpord that runs has no use for. To be called before there are threads.
///
/// # Errors
/// Not root, another torpord has the state directory, or there are no cgroups to limit pods by.
pub fn prepare(config: Config) -> Result<Prepared> {
    let (keeper, given) = Keeper::from_environment();
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new(Code::Unsupported, "torpord makes namespaces and mounts: it must be started by root")
            .hint("use sudo, or the systemd unit"));
    }
    crate::host::listeners::allow_many_files();
    files::create_dir_all(&config.state_dir, 0o700)?;
    let mode = std::fs::Permissions::from_mode(0o711); // engines below are executed by other users; the rest is closed
    std::fs::set_permissions(&config.state_dir, mode)
        .attempt(Code::Internal, || "set the mode of the state directory".into())?;
    let lock = files::lock(&config.state_dir.join("lock"))?;
    let tag = instance_tag(&config.state_dir)?;
    // With all capabilities: on cgroup v2 the kernel asks for CAP_SYS_NICE where running tasks come under cpuset.
    let cgroups = RealCgroups::open(&tag, std::env::var("TORPOR_CGROUP").ok().as_deref())?;
    capabilities::drop_unneeded()?;
    Ok(Prepared { config, tag, cgroups, source: None, keeper: Arc::new(keeper), given, _lock: lock })
}

/// Runs until SIGTERM or SIGINT. Pods go on.
///
/// # Errors
/// It can't start; nothing is half started then.
pub async fn run(prepared: Prepared) -> Result<()> {
    let Prepared { config, tag, cgroups, source, keeper, given, _lock } = prepared;
    // Before anything is made: from here on who ends it finds nothing of it afterwards.
    let mut signals = Signals::new()?;
    let (listener, made) = http::listen(&config.socket, given)?;
    let addresses: Vec<_> = config.listen.iter().map(|l| l.address).collect();
    keeper.retain(|what| what.stays_with(&addresses));
    let listeners: Result<Vec<_>> = config.listen.iter().map(|l| http::Listener::bind(l, &keeper)).collect();
    let listeners = match listeners {
        Ok(all) => all,
        Err(e) => {
            remove_socket(made.as_deref());
            return Err(e);
        }
    };
    let shutdown = CancellationToken::new();
    let dirs = Dirs::new(&config.state_dir, &tag);
    let ports = Arc::new(Ports::kept_by(keeper));
    let mut starting = Box::pin(start(config.clone(), tag, cgroups.clone(), Arc::clone(&ports), shutdown.clone()));
    let started = tokio::select! {
        started = &mut starting => started,
        () = signals.end() => {
            // What is half made is known to who makes it alone: it comes to its end, and nothing that waits is begun.
            notify::say("STOPPING=1");
            shutdown.cancel();
            tokio::select! {
                started = tokio::time::timeout(HALF_MADE, starting) => started.unwrap_or_else(|_| Err(given_up())),
                () = signals.end() => Err(given_up()),
            }
        }
    };
    let (core, network, runtime) = match started {
        Ok(all) => all,
        Err(e) => {
            remove_socket(made.as_deref());
            dirs.remove_if_unused();
            return Err(e);
        }
    };
    if shutdown.is_cancelled() {
        remove_socket(made.as_deref());
        if core.is_empty() {
            core.leave_nothing(&network, &runtime, &cgroups).await;
        }
        return Ok(());
    }
    if let Some(source) = source {
        core.read_settings_from(source);
    }
    let watch = tokio::spawn(Arc::clone(&network).watch());
    tokio::spawn(Arc::clone(&core).sweep_store());
    tokio::spawn(Arc::clone(&core).save_again());
    tokio::spawn(Arc::clone(&core).drop_orphaned_images());
    tokio::spawn(super::watchdog::give_word(Arc::clone(&core)));
    #[cfg(feature = "otel")]
    tokio::spawn(super::otlp::export(Arc::clone(&core)));
    tokio::spawn(Arc::clone(&core).end_expired_tokens());
    let mut served = tokio::task::JoinSet::new();
    served.spawn(http::serve(listener, http::router(Arc::clone(&core)), shutdown.clone()));
    let spares = Pool::begin(&core);
    for listener in listeners {
        let serve = listener.serve(Arc::clone(&core), spares.clone(), core.reloads(), shutdown.clone());
        served.spawn(serve);
    }
    notify::say("READY=1");
    tracing::info!(socket = %config.socket.display(), "ready");
    signals.serve(&core).await;
    notify::say("STOPPING=1");
    ports.end();
    shutdown.cancel();
    watch.abort();
    while let Some(ended) = served.join_next().await {
        ended.attempt(Code::Internal, || "end the API".into())?;
    }
    remove_socket(made.as_deref());
    // Without pods nothing needs what they shared: a host on which torpor is stopped is as it was.
    if core.is_empty() {
        core.leave_nothing(&network, &runtime, &cgroups).await;
    }
    Ok(())
}

/// Takes from the host what pods share: it is made anew when one starts. What pods keep stays.
///
/// # Errors
/// [`Code::InUse`]: a pod has a sandbox.
pub async fn leave_nothing(prepared: Prepared) -> Result<()> {
    let Prepared { config, tag, cgroups, _lock, .. } = prepared;
    // It is over before it begins: nothing is started again.
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    let (core, network, runtime) = start(config, tag, cgroups.clone(), Arc::default(), shutdown).await?;
    if let Some(name) = core.somebody_awake() {
        return Err(Error::new(Code::InUse, format!("pod {name} has a sandbox"))
            .hint("`torpor stop` ends it and keeps its root, `torpor sleep` keeps all of it"));
    }
    core.leave_nothing(&network, &runtime, &cgroups).await;
    Ok(())
}

fn remove_socket(made: Option<&Path>) {
    if let Some(path) = made {
        let _ = files::remove_tree_now(path);
    }
}

type Started = (Arc<Core>, Arc<RealNetwork>, RunscRuntime);

async fn start(
    config: Config,
    tag: InstanceTag,
    cgroups: RealCgroups,
    ports: Arc<Ports>,
    shutdown: CancellationToken,
) -> Result<Started> {
    let dirs = Dirs::new(&config.state_dir, &tag);
    files::create_dir_all(Path::new("/run/torpor"), 0o755)?; // the default socket lies in it
    for dir in [dirs.run().to_owned(), dirs.sandboxes(), dirs.pods(), dirs.volumes(), dirs.tmp()] {
        files::create_dir_all(&dir, 0o700)?;
    }
    crate::host::volumes::clear(&dirs.mounted_volumes())?;
    let own = std::env::current_exe().attempt(Code::Internal, || "find torpord's own program".into())?;
    let own = private_copy(&own, &dirs.bin())?;
    files::create_private(&config.state_dir.join("torpor.db"))?; // it holds pods' environments
    let db = Db::open(&config.state_dir.join("torpor.db"))?;
    let limits = Limits {
        layer_bytes: config.max_layer_bytes,
        layer_inodes: 4_000_000,
        image_bytes: config.max_image_bytes,
        upload_bytes: config.max_layer_bytes,
    };
    let layers = Layers::open(&config.state_dir, own.clone(), limits)?;
    let init = layers.add_init(&companion("torpor-init")?).await?;
    let engines = Engines::open(&config.state_dir)?;
    let path = std::env::var("PATH").unwrap_or_default();
    let program = config.runsc.clone().or_else(|| engine::find_on_path(&path));
    let engine = match program {
        Some(program) => match engines.import(&program).await {
            Ok(e) => {
                tracing::info!(version = %e.version, digest = %e.digest, "engine");
                Some(e.digest.clone())
            }
            // Pods that live are more than those that can't be started.
            Err(e) => {
                tracing::error!(error = %e.report(), "no engine for new pods");
                None
            }
        },
        None => {
            tracing::error!("no runsc was found: pods can't be started; `torpor doctor` says what to do");
            None
        }
    };
    let resolvers = match &config.resolvers {
        Some(given) => given.clone(),
        None => resolvers(),
    };
    let addressing = Addressing::new(config.pod_cidr)?;
    let network = Arc::new(RealNetwork::open(NetworkConfig {
        tag: tag.clone(),
        run_dir: dirs.run().to_owned(),
        addressing,
        resolvers: resolvers.clone(),
    })?);
    let runtime = RunscRuntime::new(dirs.runtime_root(), own)?;
    let store = Store::open(&StoreConfig { url: config.store.clone(), allow_http: config.store_allow_http })?;
    let boot_id = files::read(Path::new("/proc/sys/kernel/random/boot_id"))?.trim().to_owned();
    let cache = Cache::open(&config.state_dir, config.cache_bytes, &boot_id)?;
    cache.sync_found();
    let host = Host {
        runtime: Arc::new(runtime.clone()),
        cgroups: Arc::new(cgroups.clone()),
        network: Arc::clone(&network) as Arc<dyn Network>,
        shims: Arc::new(RealShims::new(companion("torpor-shim")?, cgroups.for_shims()?)),
        rootfs: Arc::new(Rootfs::open(dirs.run(), layers.clone())?),
        layers,
        engines,
        store: Arc::new(store),
        cache,
        ports,
        secrets: Secrets::new(dirs.secrets()),
    };
    let core = Core::load(Parts { config, tag, dirs, boot_id, db, host, init, engine, resolvers, shutdown }).await?;
    core.recover().await?;
    Ok((core, network, runtime))
}

/// The instance's tag, made once.
fn instance_tag(state: &Path) -> Result<InstanceTag> {
    let path = state.join("instance");
    if let Some(text) = files::read_if_present(&path)? {
        return text.trim().parse().map_err(|e: Error| e.context(format!("read {}", path.display())));
    }
    let tag = InstanceTag::random()?;
    files::replace(&path, format!("{tag}\n").as_bytes(), 0o600)?;
    Ok(tag)
}

/// torpord runs itself again to unpack and to help old engines: from a copy, so that an upgrade in between changes nothing.
/// It lies on the disk: from /run, which is in memory, distributions let nothing be executed. The copy of a program that has not
/// changed since is used again.
fn private_copy(own: &Path, dir: &Path) -> Result<PathBuf> {
    let copy = dir.join("torpord");
    let what = || format!("copy {}", own.display());
    files::create_dir_all(dir, 0o711)?;
    let (source, print) = (dir.join("torpord.source"), files::fingerprint(&[own])?);
    if copy.is_file() && files::read_if_present(&source)?.as_deref() == Some(&print) {
        return Ok(copy);
    }
    files::remove_tree_now(&source)?;
    let new = dir.join("torpord.new");
    std::fs::copy(own, &new).attempt(Code::Internal, what)?;
    files::make_executable(&new)?;
    std::fs::rename(&new, &copy).attempt(Code::Internal, what)?;
    if files::fingerprint(&[own])? == print {
        files::swap(&source, print.as_bytes(), 0o600)?;
    }
    Ok(copy)
}

/// A program that comes with torpord: where TORPOR_LIBEXEC says, beside torpord, or in /usr/lib/torpor.
fn companion(name: &str) -> Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|p| p.parent().map(Path::to_owned));
    let places = [std::env::var_os("TORPOR_LIBEXEC").map(PathBuf::from), beside, Some("/usr/lib/torpor".into())];
    places.into_iter().flatten().map(|d| d.join(name)).find(|p| p.is_file()).ok_or_else(|| {
        Error::new(Code::Unsupported, format!("{name} was not found"))
            .hint("it comes with torpord: install both, or say where it is by TORPOR_LIBEXEC")
    })
}

/// systemd-resolved serves on the host's loopback, which pods can't reach: what it asks itself is taken instead.
fn resolvers() -> Vec<std::net::Ipv4Addr> {
    for path in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        if let Ok(Some(text)) = files::read_if_present(Path::new(path)) {
            let usable = config::usable_resolvers(&text);
            if !usable.is_empty() {
                return usable;
            }
        }
    }
    Vec::new()
}

/// How long a start that is to end has for what it has begun.
const HALF_MADE: Duration = Duration::from_secs(20);

fn given_up() -> Error {
    Error::new(Code::Cancelled, "torpord was ended before it had started").hint("what it left goes at its next start")
}

/// The signals that it hears.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let hear = |kind| signal(kind).attempt(Code::Internal, || "wait for signals".to_owned());
        let term = hear(SignalKind::terminate())?;
        Ok(Signals { term, int: hear(SignalKind::interrupt())?, hup: hear(SignalKind::hangup())? })
    }

    /// Waits for SIGTERM or SIGINT.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }

    /// As [`Signals::end`]; SIGHUP tells those who have something to read anew.
    async fn serve(&mut self, core: &Core) {
        loop {
            tokio::select! {
                _ = self.term.recv() => return,
                _ = self.int.recv() => return,
                _ = self.hup.recv() => {
                    if let Err(e) = core.reload() {
                        tracing::error!(error = %e.report(), hint = e.hint_text(), "reload");
                    }
                }
            }
        }
    }
}

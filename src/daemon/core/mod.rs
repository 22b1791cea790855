//! The core of the service: what is done to pods, in which order, and what is known at each step.
//!
//! Intent is committed before an effect, the result after it. Every sandbox goes the same way up (`boot`) and the same
//! way down (`teardown`), whoever asks for it. After a crash `recovery` looks at the host and adopts, goes on, or
//! takes back.

mod admit;
mod assign;
pub mod backup;
mod boot;
mod capacity;
mod copy;
mod doctor;
pub mod events;
mod exits;
mod files;
mod forward;
mod health;
mod host_down;
pub mod idempotency;
mod images;
mod lifecycle;
pub mod list;
pub mod metrics;
mod pause;
mod pod;
mod prune;
mod recovery;
mod restart;
mod root;
mod secrets;
mod service;
pub mod settings;
mod sleep;
mod snapshots;
mod stats;
pub mod streams;
mod teardown;
pub mod terminals;
mod tidy;
pub mod tokens;
pub mod trace;
mod trees;
mod update;
mod view;
mod volumes;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::daemon::db::Db;
use crate::daemon::dirs::Dirs;
use crate::host::cache::Cache;
use crate::host::cgroup::Cgroups;
use crate::host::engine::Engines;
use crate::host::layers::Layers;
use crate::host::network::Network;
use crate::host::ports::Ports;
use crate::host::rootfs::Roots;
use crate::host::runtime::Runtime;
use crate::host::secrets::Secrets;
use crate::host::shim::Shims;
use crate::host::store::Store;
use crate::model::{Code, Digest, Error, Forward, InstanceTag, LayerInfo, PodId, PodRecord, PodState, Result};
use crate::plan::network::Addressing;

pub use pod::Pod;

/// From one try to save what the database did not take to the next.
const SAVE_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// The drivers: all that touches the operating system.
pub struct Host {
    /// runsc.
    pub runtime: Arc<dyn Runtime>,
    /// cgroups.
    pub cgroups: Arc<dyn Cgroups>,
    /// Network namespaces, links, firewall.
    pub network: Arc<dyn Network>,
    /// Shims.
    pub shims: Arc<dyn Shims>,
    /// Layer store.
    pub layers: Layers,
    /// Mounted roots.
    pub rootfs: Arc<dyn Roots>,
    /// Engines.
    pub engines: Engines,
    /// Object store.
    pub store: Arc<Store>,
    /// Raw checkpoint images.
    pub cache: Arc<Cache>,
    /// Host ports held.
    pub ports: Arc<Ports>,
    /// Values of pods' secrets.
    pub secrets: Secrets,
}

/// The service.
pub struct Core {
    settings: settings::Settings,
    tag: InstanceTag,
    dirs: Dirs,
    boot_id: String,
    db: Db,
    host: Host,
    addressing: Addressing,
    /// The init of new sandboxes, as a layer.
    init: LayerInfo,
    /// The engine of new sandboxes; none if no runsc was found.
    engine: Option<Digest>,
    resolvers: Vec<std::net::Ipv4Addr>,
    pods: Mutex<BTreeMap<PodId, Arc<Pod>>>,
    /// What has happened to them.
    events: Arc<events::Events>,
    /// Pods whose record can't be read: nothing of theirs is touched.
    unreadable: Vec<(String, String)>,
    /// Held while leases are chosen and committed, and while an image is checked and used or removed.
    leases: tokio::sync::Mutex<()>,
    /// Requests with an Idempotency-Key.
    requests: idempotency::Requests,
    /// Room that was given to pods on their way up.
    claims: capacity::Claims,
    /// Told when an image comes, changes or goes.
    images: tokio::sync::watch::Sender<()>,
    /// Held while the table of forwards is set.
    forwards: tokio::sync::Mutex<()>,
    /// Read while layers are made that nothing names yet; written while unused ones are removed.
    new_layers: tokio::sync::RwLock<()>,
    /// Told when the database did not take a record.
    unsaved: tokio::sync::Notify,
    /// Restarts at once: after a reboot all pods want to be first.
    restarting: tokio::sync::Semaphore,
    /// Whether the host is shut down: what ends now is not started again.
    going_down: std::sync::atomic::AtomicBool,
    /// Who may use it beside those who reach the socket.
    tokens: tokens::Tokens,
    /// What monitoring asks.
    metrics: metrics::Metrics,
    /// What was done to pods, and how long it took.
    traces: trace::Traces,
    /// How pods for one run ended that are gone.
    departed: exits::Departed,
    /// WebSockets that may still be opened.
    sockets: Arc<tokio::sync::Semaphore>,
    shutdown: CancellationToken,
}

/// What a [`Core`] is made of.
pub struct Parts {
    /// Settings.
    pub config: Config,
    /// The instance's tag.
    pub tag: InstanceTag,
    /// Its directories.
    pub dirs: Dirs,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The open database.
    pub db: Db,
    /// The drivers.
    pub host: Host,
    /// The init of new sandboxes, as a layer.
    pub init: LayerInfo,
    /// The engine of new sandboxes.
    pub engine: Option<Digest>,
    /// Name servers of pods.
    pub resolvers: Vec<std::net::Ipv4Addr>,
    /// Ends what goes on in the background.
    pub shutdown: CancellationToken,
}

impl Core {
    /// Loads what the database has. Nothing is touched until [`Core::recover`].
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn load(parts: Parts) -> Result<Arc<Self>> {
        let Parts { config, tag, dirs, boot_id, db, host, init, engine, resolvers, shutdown } = parts;
        let (records, unreadable) = db.pods().await?;
        for (id, reason) in &unreadable {
            tracing::error!(pod = %id, %reason, "the record of a pod can't be read: it is left alone");
        }
        let tokens = tokens::Tokens::load(&db).await?;
        let told = Arc::new(events::Events::new());
        let pods = records.into_iter().map(|r| (r.id.clone(), Pod::new(r, &told))).collect();
        Ok(Arc::new(Core {
            addressing: Addressing::new(config.pod_cidr)?,
            settings: settings::Settings::new(config),
            tag,
            dirs,
            boot_id,
            db,
            host,
            init,
            engine,
            resolvers,
            pods: Mutex::new(pods),
            events: told,
            unreadable,
            leases: tokio::sync::Mutex::new(()),
            requests: idempotency::Requests::default(),
            claims: capacity::Claims::default(),
            images: tokio::sync::watch::Sender::new(()),
            forwards: tokio::sync::Mutex::new(()),
            new_layers: tokio::sync::RwLock::new(()),
            unsaved: tokio::sync::Notify::new(),
            restarting: tokio::sync::Semaphore::new(restart::AT_ONCE),
            going_down: std::sync::atomic::AtomicBool::new(false),
            tokens,
            metrics: metrics::Metrics::default(),
            traces: trace::Traces::default(),
            departed: exits::Departed::default(),
            sockets: Arc::new(tokio::sync::Semaphore::new(streams::MOST_SOCKETS)),
            shutdown,
        }))
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn records(&self) -> Vec<PodRecord> {
        self.pods().iter().map(|p| p.record()).collect()
    }

    fn insert(&self, pod: Arc<Pod>) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).insert(pod.record().id, pod);
    }

    fn pod(&self, id: &PodId) -> Option<Arc<Pod>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn forget(&self, id: &PodId) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// The pod that a name, an id or a unique beginning of an id stands for.
    fn find(&self, reference: &str) -> Result<Arc<Pod>> {
        let pods = self.pods();
        // A pod may have another's id for a name: the id wins, for it is what a token of one pod is held to.
        let by_id = pods.iter().find(|p| p.record().id.as_str() == reference);
        if let Some(pod) = by_id.or_else(|| pods.iter().find(|p| p.record().spec.name.as_str() == reference)) {
            return Ok(Arc::clone(pod));
        }
        let mut begun = pods.iter().filter(|p| !reference.is_empty() && p.record().id.as_str().starts_with(reference));
        let shown: String = reference.chars().take(80).collect();
        match (begun.next(), begun.next()) {
            (Some(pod), None) => Ok(Arc::clone(pod)),
            (Some(_), Some(_)) => {
                Err(Error::new(Code::NotFound, format!("more than one pod's id begins with {shown:?}"))
                    .hint("give more of it"))
            }
            (None, _) => Err(Error::new(Code::NotFound, format!("no pod {shown:?}")).hint("`torpor ps -a` lists them")),
        }
    }

    /// Runs work that must come to its end even if whoever asked for it goes away.
    async fn to_the_end<T, F>(work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        tokio::spawn(trace::asked_by(trace::parent(), work))
            .await
            .map_err(|e| Error::internal("the work on the pod ended early").because(e))?
    }

    /// Whether there is no pod at all.
    pub fn is_empty(&self) -> bool {
        self.records().is_empty() && self.unreadable.is_empty()
    }

    /// A pod that has a sandbox, or may have one.
    pub fn somebody_awake(&self) -> Option<String> {
        self.records().iter().find(|r| r.state.may_have_sandbox()).map(|r| r.spec.name.to_string())
    }

    /// Removes what pods share, when there are none: network, cgroup, mounts, run directory.
    pub async fn leave_nothing(
        &self,
        network: &crate::host::network::RealNetwork,
        runtime: &crate::host::runtime::RunscRuntime,
        cgroups: &crate::host::cgroup::RealCgroups,
    ) {
        let mut done = vec![network.remove_all().await, cgroups.remove_parent(), runtime.remove_root()];
        match self.host.rootfs.list() {
            Ok(keys) => {
                for key in keys {
                    done.push(self.host.rootfs.remove(&key).await);
                }
            }
            Err(e) => done.push(Err(e)),
        }
        done.push(self.host.secrets.close());
        done.push(crate::host::files::remove_tree(self.dirs.run()).await);
        for e in done.into_iter().filter_map(Result::err) {
            tracing::warn!(error = %e.report(), "leave nothing behind");
        }
    }

    /// Saves, again and again, what the database did not take, until the daemon ends.
    pub async fn save_again(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = self.unsaved.notified() => {}
            }
            while self.pods().iter().any(|p| p.unsaved()) {
                tokio::select! {
                    () = self.shutdown.cancelled() => return,
                    () = tokio::time::sleep(SAVE_AGAIN) => {}
                }
                for pod in self.pods().iter().filter(|p| p.unsaved()) {
                    // One that was removed meanwhile has given its ports to others.
                    let Ok(turn) = pod.turn_if_there().await else { continue };
                    if !pod.unsaved() {
                        continue;
                    }
                    if pod.state() == PodState::Deleting {
                        let _ = self.erase(&turn).await;
                    } else if turn.commit(&self.db, |_| ()).await.is_ok() {
                        self.finish_teardown(&turn).await;
                    }
                }
            }
        }
    }

    /// Takes down what a pod at rest has kept: its record could not be saved, or torpord ended before its last step.
    async fn finish_teardown(self: &Arc<Self>, turn: &pod::Turn<'_>) {
        let record = turn.record();
        if !record.state.may_have_sandbox() && record.incarnation > 0 {
            teardown::sandbox(self, &record.runtime_id()).await;
        }
    }

    /// Sets the host's table of forwards to what the running pods have.
    async fn publish_forwards(&self) -> Result<()> {
        let _turn = self.forwards.lock().await;
        let mut all = Vec::new();
        for record in self.records() {
            let open = matches!(
                record.state,
                PodState::Running
                    | PodState::Paused
                    | PodState::Starting
                    | PodState::Waking
                    | PodState::Restoring
                    | PodState::Creating
            ) && record.sandbox_pid.is_some();
            for f in &record.forwards {
                let target = std::net::SocketAddrV4::new(record.address, f.pod);
                self.host.ports.target(f.host, f.protocol, open.then_some(target));
                // What is said to the host's loopback never gets to the firewall's table.
                if open && !f.address.is_some_and(|a| a.is_loopback()) {
                    let Forward { host, protocol, address, .. } = *f;
                    all.push(crate::plan::firewall::ForwardTo { host, protocol, address, target });
                }
            }
        }
        self.host.network.set_forwards(&all).await
    }
}

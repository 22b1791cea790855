//! A host on which torpord lives and dies: a state directory, a kernel, and lives one after the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStoreExt;
use tokio_util::sync::CancellationToken;
use torpor::api::types::StopPod;
use torpor::config::{self, Config, ConfigFile};
use torpor::daemon::core::{Core, Host, Parts};
use torpor::daemon::db::Db;
use torpor::daemon::dirs::Dirs;
use torpor::host::cache::Cache;
use torpor::host::engine::Engines;
use torpor::host::layers::{Layers, Limits};
use torpor::host::ports::Ports;
use torpor::host::secrets::Secrets;
use torpor::host::store::Store;
use torpor::model::token::TokenRecord;
use torpor::model::{Digest, Error, PodRecord, Result};

use crate::fake::net::{FakeCgroups, FakeNetwork, FakeRoots};
use crate::fake::objects::FakeObjects;
use crate::fake::runtime::FakeRuntime;
use crate::fake::shims::FakeShims;
use crate::fake::{Fault, Kernel, Life};

/// No step takes longer on a kernel in memory.
const HANGS: Duration = Duration::from_secs(20);

/// What became of an operation.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done,
    Failed(Error),
    Crashed,
}

impl Outcome {
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Outcome::Done)
    }
}

/// A host between two lives.
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) kernel: Arc<Kernel>,
    /// First of the host ports of this test binary's process.
    ports: u16,
    boot: u32,
}

/// One torpord on it.
pub(crate) struct Daemon {
    // Dropped first: nothing of that life goes on after it.
    runtime: Option<tokio::runtime::Runtime>,
    pub(crate) life: Arc<Life>,
    pub(crate) core: Option<Arc<Core>>,
    pub(crate) held: Arc<Ports>,
    init: Option<Digest>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.core = None;
        drop(self.runtime.take());
    }
}

/// Memory, if the host has some that is a directory: then nothing waits for a disk.
fn room() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let place = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("torpor-sweep-").tempdir_in(place).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, place) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &place);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path()).unwrap(), place).unwrap();
        } else {
            std::fs::copy(entry.path(), place).unwrap();
        }
    }
}

impl World {
    /// A host without pods, with the image `base`.
    pub(crate) fn new(ports: u16) -> Self {
        let world = World { dir: room(), kernel: Kernel::new(), ports, boot: 1 };
        for d in ["state/pods", "state/volumes", "state/tmp", "run/pods", "image/etc", "engine"] {
            std::fs::create_dir_all(world.dir.path().join(d)).unwrap();
        }
        std::fs::write(world.dir.path().join("image/etc/motd"), "hello").unwrap();
        std::fs::write(world.dir.path().join("init"), "init").unwrap();
        let engine = world.state().join("engines").join(world.engine().hex());
        std::fs::create_dir_all(&engine).unwrap();
        std::fs::write(engine.join("features.json"), r#"{"version":"fake","saveUpper":true}"#).unwrap();
        world
    }

    pub(crate) fn engine(&self) -> Digest {
        torpor::host::layers::digest_of(std::iter::once("fake"))
    }

    /// A second host that is as this one is now.
    pub(crate) fn fork(&self) -> Self {
        let dir = room();
        copy(self.dir.path(), dir.path());
        World { dir, kernel: self.kernel.fork(), ports: self.ports, boot: self.boot }
    }

    /// The host is started anew.
    pub(crate) fn reboot(&mut self) {
        self.kernel.reboot();
        self.boot += 1;
        std::fs::remove_dir_all(self.run()).unwrap();
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub(crate) fn image_dir(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// A small tree that is no layer yet.
    pub(crate) fn other_image(&self) -> String {
        let dir = self.dir.path().join("other");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("new"), "new").unwrap();
        dir.display().to_string()
    }

    fn config(&self) -> Config {
        let file = ConfigFile {
            state_dir: Some(self.state()),
            port_range: Some(format!("{}-{}", self.ports, self.ports + 19)),
            resolvers: Some(vec![]),
            disk_reserve: Some(4096),
            disk_overcommit: Some(1000.0),
            ..ConfigFile::default()
        };
        config::complete(file).unwrap()
    }

    /// Whether the bucket has that snapshot.
    pub(crate) fn has_snapshot(&self, id: &str) -> bool {
        let key = format!("v1/snapshots/{id}/manifest");
        futures::executor::block_on(self.kernel.bucket.head(&key.into())).is_ok()
    }

    /// The records as the database has them.
    pub(crate) fn records(&self) -> Vec<PodRecord> {
        let db = rusqlite::Connection::open(self.state().join("torpor.db")).unwrap();
        let mut rows = db.prepare("SELECT record FROM pods ORDER BY name").unwrap();
        rows.query_map([], |r| r.get::<_, String>(0))
            .unwrap()
            .map(|text| serde_json::from_str(&text.unwrap()).unwrap())
            .collect()
    }

    /// Tokens as the database has them, by name.
    pub(crate) fn tokens(&self) -> BTreeMap<String, TokenRecord> {
        let db = rusqlite::Connection::open(self.state().join("torpor.db")).unwrap();
        let mut rows = db.prepare("SELECT name, record FROM tokens").unwrap();
        let row = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, r.get::<_, String>(1)?));
        let all = rows.query_map([], row).unwrap().map(std::result::Result::unwrap);
        all.map(|(name, text)| (name, serde_json::from_str(&text).unwrap())).collect()
    }

    /// Starts torpord up to where it has recovered. None: it crashed before.
    pub(crate) fn start(&self, fault: Fault) -> Result<Option<Daemon>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let life = Life::new(&self.kernel);
        life.arm(fault);
        let held = Arc::new(Ports::default());
        let objects = FakeObjects { life: Arc::clone(&life) };
        let store = Arc::new(Store::on(Arc::new(objects), "memory".into()));
        let begun = runtime.block_on(async {
            tokio::select! {
                biased;
                done = tokio::time::timeout(HANGS, self.open(&life, &held, &store)) => Some(done.expect("the recovery hangs")),
                () = life.ended() => None,
            }
        });
        let (core, init) = begun.transpose()?.unzip();
        let crashed = core.is_none();
        let daemon = Daemon { runtime: Some(runtime), life, core, held, init };
        Ok(if crashed { None } else { Some(daemon) })
    }

    async fn open(&self, life: &Arc<Life>, held: &Arc<Ports>, store: &Arc<Store>) -> Result<(Arc<Core>, Digest)> {
        let (config, boot_id) = (self.config(), format!("boot-{}", self.boot));
        let dirs = Dirs::at(&self.state(), &self.run());
        for d in [dirs.run().to_owned(), dirs.sandboxes(), dirs.tmp()] {
            std::fs::create_dir_all(d).unwrap();
        }
        let db = Db::open(&config.state_dir.join("torpor.db"))?;
        let limits = Limits { layer_bytes: 1 << 30, layer_inodes: 10_000, image_bytes: 1 << 30, upload_bytes: 1 << 30 };
        let layers = Layers::open(&config.state_dir, env!("CARGO_BIN_EXE_torpord").into(), limits)?;
        let init = layers.add_init(&self.dir.path().join("init")).await?;
        let (life, digest) = (|| Arc::clone(life), init.digest.clone());
        let host = Host {
            runtime: Arc::new(FakeRuntime { life: life() }),
            cgroups: Arc::new(FakeCgroups { life: life() }),
            network: Arc::new(FakeNetwork { life: life(), run: self.run() }),
            shims: Arc::new(FakeShims { life: life() }),
            rootfs: Arc::new(FakeRoots { life: life(), run: self.run(), layers: layers.clone() }),
            layers,
            engines: Engines::open(&config.state_dir)?,
            store: Arc::clone(store),
            cache: Cache::open(&config.state_dir, config.cache_bytes, &boot_id)?,
            ports: Arc::clone(held),
            secrets: Secrets::plain(self.run().join("secrets")),
        };
        let parts = Parts {
            config,
            tag: "5eed00".parse()?,
            dirs,
            boot_id,
            db: db.watched(life()),
            host,
            init,
            engine: Some(self.engine()),
            resolvers: vec![],
            shutdown: CancellationToken::new(),
        };
        let core = Core::load(parts).await?;
        core.recover().await?;
        Arc::clone(&core).drop_orphaned_images().await;
        // Restarts that policies ask for begin at once.
        while core.list_pods().iter().any(|p| p.restart_at.is_some() || p.state == "starting") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Stops that were cut off go on in the background.
        for pod in core.list_pods().iter().filter(|p| p.state == "stopping") {
            while core.inspect_pod(&pod.id)?.state == "stopping" {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            core.stop_pod(&pod.id, StopPod::default()).await?; // its turn comes after theirs
        }
        Ok((core, digest))
    }
}

impl Daemon {
    /// Digest of init.
    pub(crate) fn init(&self) -> &Digest {
        self.init.as_ref().unwrap()
    }

    pub(crate) fn core(&self) -> Arc<Core> {
        Arc::clone(self.core.as_ref().unwrap())
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(HANGS, work).await.expect("it hangs") };
        self.runtime.as_ref().unwrap().block_on(limited)
    }

    /// Does `work` with that fault.
    pub(crate) fn run(&self, fault: Fault, work: impl Future<Output = Result<()>>) -> Outcome {
        self.life.arm(fault);
        self.block_on(async {
            tokio::select! {
                biased;
                done = work => match done {
                    Ok(()) => Outcome::Done,
                    Err(e) => Outcome::Failed(e),
                },
                () = self.life.ended() => Outcome::Crashed,
            }
        })
    }
}

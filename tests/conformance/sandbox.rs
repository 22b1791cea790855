//! One sandbox from its root to its end, out of a checkpoint once, on both hosts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use torpor::channel::secrets::{SecretFile, SecretFiles};
use torpor::channel::{Exec, Identity, Launch};
use torpor::config::DEFAULT_RESOURCES;
use torpor::host::cgroup::Cgroups;
use torpor::host::engine::EngineRef;
use torpor::host::network::{Network, PodNet};
use torpor::host::rootfs::Roots;
use torpor::host::runtime::{CreatePlan, Runtime};
use torpor::host::shim::{Shim, ShimPlan, Shims};
use torpor::model::{Code, Digest, PodId, Result, RuntimeId};
use torpor::plan::bundle::{self, BundlePlan, TEMPLATE};
use torpor::plan::limits::Limits;
use torpor::plan::network::Addressing;

/// All drivers that a sandbox stands on.
pub(crate) struct Drivers<'a> {
    pub(crate) network: &'a dyn Network,
    pub(crate) cgroups: &'a dyn Cgroups,
    pub(crate) roots: &'a dyn Roots,
    pub(crate) shims: &'a dyn Shims,
    pub(crate) runtime: &'a dyn Runtime,
    pub(crate) engine: EngineRef,
    pub(crate) addressing: Addressing,
    /// Lowest first; in the root are `forever`, `add`, which counts, `write`, which changes the root, and `key`, which tells a
    /// secret.
    pub(crate) layers: Vec<Digest>,
    pub(crate) dir: PathBuf,
}

struct Sandbox {
    id: RuntimeId,
    net: PodNet,
    shim: Arc<dyn Shim>,
    plan: CreatePlan,
    shim_plan: ShimPlan,
}

const KEY: &str = "conformance";

fn exec(command: &str) -> Exec {
    Exec { command: vec![command.into()], env: vec![], working_dir: None, user: None, stdin: false }
}

async fn said(shim: &dyn Shim, command: &str) -> String {
    let out = shim.exec(&exec(command), Vec::new(), None).await.unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// Gives it secrets of these names and contents.
async fn give(shim: &dyn Shim, all: &[(&str, &str)]) {
    let file = |(name, content): &(&str, &str)| SecretFile {
        name: (*name).into(),
        mode: 0o400,
        content: content.as_bytes().to_vec().into(),
    };
    shim.secrets(&SecretFiles { user: String::new(), files: all.iter().map(file).collect() }).await.unwrap();
}

/// What the secret `key` is; none: it is not there.
async fn key(shim: &dyn Shim) -> Option<String> {
    let out = shim.exec(&exec("key"), Vec::new(), None).await.unwrap();
    (out.exit_code == 0).then(|| String::from_utf8(out.stdout).unwrap())
}

impl Drivers<'_> {
    async fn make(&self, id: RuntimeId) -> Sandbox {
        let name = id.to_string();
        let address = self.addressing.next_free(&std::collections::BTreeSet::new()).unwrap();
        let net = PodNet::new(&self.addressing, &id, address);
        let (dir, logs, upper) = (self.dir.join(&name), self.dir.join("log"), self.dir.join(format!("{name}-upper")));
        for d in [&dir, &logs, &upper] {
            std::fs::create_dir_all(d).unwrap();
        }
        let netns = self.network.attach(&net).await.unwrap();
        let root = self.roots.ensure(KEY, &self.layers).await.unwrap();
        self.cgroups.ensure(&name, &Limits::of(&DEFAULT_RESOURCES)).await.unwrap();
        let shim_plan = ShimPlan { dir: dir.clone(), log_dir: logs, log_max_bytes: 1 << 20, log_files: 2 };
        let shim = self.shims.spawn(&shim_plan).await.unwrap();
        let plan = CreatePlan {
            id: name.clone(),
            pid_file: dir.join("pid"),
            bundle: dir,
            upper,
            disk: 1 << 30,
            netns: netns.clone(),
        };
        let create = self.runtime.create_command(&self.engine, &plan);
        assert!(shim.create(&create).await.is_err(), "without a bundle");
        let spec = bundle::build(&BundlePlan {
            template: TEMPLATE,
            hostname: "conformance".into(),
            root,
            cgroups_path: self.cgroups.path_for_spec(&name),
            netns,
            resources: DEFAULT_RESOURCES,
            volumes: vec![],
        });
        std::fs::write(plan.bundle.join("config.json"), serde_json::to_vec(&spec.unwrap()).unwrap()).unwrap();
        Sandbox { id, net, shim, plan, shim_plan }
    }

    async fn status(&self, sandbox: &Sandbox) -> Option<String> {
        self.runtime.state(&self.engine, &sandbox.plan.id).await.unwrap().map(|s| s.status)
    }

    /// All of it goes, twice.
    async fn take_down(&self, sandbox: &Sandbox) {
        let id = &sandbox.plan.id;
        sandbox.shim.end().await.unwrap();
        for _ in 0..2 {
            self.runtime.delete(&self.engine, id).await.unwrap();
            self.cgroups.remove(id).await.unwrap();
            self.network.detach(&sandbox.net).await.unwrap();
        }
        assert!(self.shims.connect(&sandbox.shim_plan).await.unwrap().is_none());
        assert_eq!(self.status(sandbox).await, None);
        assert!(!self.runtime.list().await.unwrap().contains(id));
    }
}

fn identity() -> Identity {
    Identity {
        hostname: "awake".into(),
        hosts: String::new(),
        resolv_conf: String::new(),
        machine_id: None,
        entropy: vec![],
    }
}

fn launch(command: &str) -> Launch {
    Launch {
        command: vec![command.into()],
        env: vec![],
        working_dir: "/".into(),
        user: String::new(),
        hostname: "conformance".into(),
        hosts: String::new(),
        resolv_conf: String::new(),
        ..Launch::default()
    }
}

async fn refused(what: &str, done: impl Future<Output = Result<()>>) {
    assert!(done.await.is_err(), "{what}");
}

async fn checkpoint(drivers: &Drivers<'_>, sandbox: &Sandbox, into: &Path) {
    let (runtime, engine, plan) = (drivers.runtime, &drivers.engine, &sandbox.plan);
    std::fs::create_dir(into).unwrap();
    sandbox.shim.quiesce().await.unwrap();
    runtime.pause(engine, plan).await.unwrap();
    assert_eq!(drivers.status(sandbox).await.as_deref(), Some("paused"));
    let late = sandbox.shim.exec(&exec("add"), Vec::new(), Some(Duration::from_millis(300))).await;
    assert!(!late.is_ok_and(|out| !out.timed_out), "nothing runs in a pod that stands still");
    runtime.checkpoint(engine, plan, into).await.unwrap();
    refused("a checkpoint over another", runtime.checkpoint(engine, plan, into)).await;
    assert_eq!(drivers.status(sandbox).await.as_deref(), Some("paused"), "it is left as it was");
    runtime.resume(engine, plan).await.unwrap();
    sandbox.shim.resume().await.unwrap();
    assert_eq!(drivers.status(sandbox).await.as_deref(), Some("running"));
}

/// The questions.
pub(crate) async fn a_sandbox(drivers: &Drivers<'_>) {
    let (runtime, engine) = (drivers.runtime, &drivers.engine);
    drivers.network.ensure_router().await.unwrap();
    let first = drivers.make(RuntimeId { pod: PodId::random().unwrap(), incarnation: 1 }).await;
    assert_eq!(drivers.status(&first).await, None);
    refused("start what is not there", runtime.start(engine, &first.plan)).await;
    refused("pause what is not there", runtime.pause(engine, &first.plan)).await;

    let create = runtime.create_command(engine, &first.plan);
    first.shim.create(&create).await.unwrap();
    assert_eq!(first.shim.create(&create).await.unwrap_err().code(), Code::WrongState, "a second time");
    assert_eq!(drivers.status(&first).await.as_deref(), Some("created"));
    assert_eq!(runtime.list().await.unwrap(), vec![first.plan.id.clone()]);
    let pid = first.shim.status().await.unwrap().sandbox_pid;
    let state = runtime.state(engine, &first.plan.id).await.unwrap().unwrap();
    assert_eq!(pid.map(|p| p as i32), Some(state.pid));

    runtime.start(engine, &first.plan).await.unwrap();
    refused("start it twice", runtime.start(engine, &first.plan)).await;
    first.shim.launch(&launch("forever")).await.unwrap();
    first.shim.launch(&launch("forever")).await.unwrap();
    assert!(first.shim.status().await.unwrap().launched);
    assert_eq!(said(first.shim.as_ref(), "add").await, "1");
    assert_eq!(said(first.shim.as_ref(), "add").await, "2");
    assert_eq!(key(first.shim.as_ref()).await, None);
    for value in ["one", "two"] {
        give(first.shim.as_ref(), &[("key", value), ("other", "x")]).await;
        assert_eq!(key(first.shim.as_ref()).await.as_deref(), Some(value));
    }
    give(first.shim.as_ref(), &[("other", "x")]).await;
    assert_eq!(key(first.shim.as_ref()).await, None, "those that are given are all there are");
    give(first.shim.as_ref(), &[("key", "three")]).await;
    let missing = first.shim.exec(&exec("missing"), Vec::new(), None).await;
    assert_eq!(missing.unwrap_err().code(), Code::CommandNotFound);
    refused("resume what runs", runtime.resume(engine, &first.plan)).await;
    said(first.shim.as_ref(), "write").await;
    let tar = drivers.dir.join("upper.tar");
    if runtime.save_upper(engine, &first.plan, &tar).await.unwrap() {
        let mut archive = tar::Archive::new(std::fs::File::open(&tar).unwrap());
        let written =
            |e: std::io::Result<tar::Entry<'_, std::fs::File>>| e.unwrap().path().unwrap().ends_with("written");
        assert!(archive.entries().unwrap().any(written), "what the pod wrote is in its root");
    }
    let images = drivers.dir.join("images");
    checkpoint(drivers, &first, &images).await;
    let counted: u64 = said(first.shim.as_ref(), "add").await.parse().unwrap();
    assert!(counted >= 3, "it went on after its checkpoint");
    assert_eq!(key(first.shim.as_ref()).await, None, "secrets are given again, or not there");
    give(first.shim.as_ref(), &[("key", "four")]).await;
    assert_eq!(key(first.shim.as_ref()).await.as_deref(), Some("four"));
    drivers.take_down(&first).await;

    let second = drivers.make(RuntimeId { incarnation: 2, ..first.id.clone() }).await;
    second.shim.create(&runtime.create_command(engine, &second.plan)).await.unwrap();
    drivers.network.readdress(&second.net).await.unwrap();
    refused("restore from nothing", runtime.restore(engine, &second.plan, &drivers.dir.join("log"))).await;
    drivers.take_down(&second).await;

    let third = drivers.make(RuntimeId { incarnation: 3, ..second.id.clone() }).await;
    third.shim.create(&runtime.create_command(engine, &third.plan)).await.unwrap();
    drivers.network.readdress(&third.net).await.unwrap();
    runtime.restore(engine, &third.plan, &images).await.unwrap();
    third.shim.identify(&identity()).await.unwrap();
    runtime.wait_restore(engine, &third.plan, &images).await.unwrap();
    assert!(third.shim.status().await.unwrap().launched, "what was started is still there");
    assert_eq!(said(third.shim.as_ref(), "add").await, "3", "it goes on where the checkpoint was taken");
    assert_eq!(key(third.shim.as_ref()).await, None, "no secret is in a checkpoint");
    give(third.shim.as_ref(), &[("key", "five")]).await;
    assert_eq!(key(third.shim.as_ref()).await.as_deref(), Some("five"));
    third.shim.signal(15).await.unwrap();
    let exit = third.shim.wait().await.unwrap();
    assert_eq!((exit.code, exit.signal), (None, Some(15)));
    assert_eq!(third.shim.wait().await.unwrap(), exit, "the end is kept");
    assert_eq!(third.shim.exec(&exec("add"), Vec::new(), None).await.unwrap_err().code(), Code::WrongState);
    drivers.take_down(&third).await;
    assert!(runtime.list().await.unwrap().is_empty());
    drivers.roots.remove(KEY).await.unwrap();
    drivers.roots.remove(KEY).await.unwrap();
    assert!(drivers.roots.list().unwrap().is_empty());
    drivers.network.remove_all().await.unwrap();
}

/// Asked again until it is so, as the core does it: what was under way may be over by then.
async fn at_last<F: Future<Output = Result<()>>>(
    drivers: &Drivers<'_>,
    sandbox: &Sandbox,
    status: &str,
    mut ask: impl FnMut() -> F,
) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let asked = ask().await;
        let state = drivers.runtime.state(&drivers.engine, &sandbox.plan.id).await;
        if state.is_ok_and(|s| s.is_some_and(|s| s.status == status)) {
            return;
        }
        assert!(std::time::Instant::now() < end, "not {status}: {asked:?}");
    }
}

/// A real sandbox that does not answer while it is told to stand still or to go on: nothing is cut off, and it lives. The runtime has
/// little patience.
pub(crate) async fn a_slow_sandbox(drivers: &Drivers<'_>) {
    let (runtime, engine) = (drivers.runtime, &drivers.engine);
    drivers.network.ensure_router().await.unwrap();
    let sandbox = drivers.make(RuntimeId { pod: PodId::random().unwrap(), incarnation: 1 }).await;
    sandbox.shim.create(&runtime.create_command(engine, &sandbox.plan)).await.unwrap();
    runtime.start(engine, &sandbox.plan).await.unwrap();
    sandbox.shim.launch(&launch("forever")).await.unwrap();
    let pid = nix::unistd::Pid::from_raw(sandbox.shim.status().await.unwrap().sandbox_pid.unwrap() as i32);
    let send = |signal| nix::sys::signal::kill(pid, signal).unwrap();
    for count in 1..=2 {
        assert_eq!(said(sandbox.shim.as_ref(), "add").await, count.to_string());
        send(nix::sys::signal::Signal::SIGSTOP);
        for _ in 0..2 {
            assert_eq!(runtime.pause(engine, &sandbox.plan).await.unwrap_err().code(), Code::Timeout);
        }
        if count == 1 {
            send(nix::sys::signal::Signal::SIGCONT);
            at_last(drivers, &sandbox, "paused", || runtime.pause(engine, &sandbox.plan)).await;
            send(nix::sys::signal::Signal::SIGSTOP);
        }
        // In the second round while its pause is under way yet, as when a pod has stood still for too long.
        for _ in 0..2 {
            assert_eq!(runtime.resume(engine, &sandbox.plan).await.unwrap_err().code(), Code::Timeout);
        }
        send(nix::sys::signal::Signal::SIGCONT);
        at_last(drivers, &sandbox, "running", || runtime.resume(engine, &sandbox.plan)).await;
    }
    assert_eq!(said(sandbox.shim.as_ref(), "add").await, "3", "the same sandbox");
    send(nix::sys::signal::Signal::SIGSTOP);
    assert_eq!(runtime.pause(engine, &sandbox.plan).await.unwrap_err().code(), Code::Timeout);
    drivers.take_down(&sandbox).await;
    drivers.roots.remove(KEY).await.unwrap();
    drivers.network.remove_all().await.unwrap();
}

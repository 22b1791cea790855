//! The host in memory is honest: the same questions to its drivers and to the real ones, with the same answers.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../support/fake/mod.rs"]
mod fake;
mod sandbox;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fake::net::{FakeCgroups, FakeNetwork, FakeRoots};
use fake::runtime::FakeRuntime;
use fake::shims::FakeShims;
use fake::{Kernel, Life};
use torpor::channel::Exec;
use torpor::channel::secrets::SecretFiles;
use torpor::config::DEFAULT_RESOURCES;
use torpor::host::cgroup::{Cgroups, RealCgroups};
use torpor::host::engine::{Engine, Engines, Features};
use torpor::host::layers::{ImportSource, Layers, Limits as ImportLimits};
use torpor::host::network::{Network, NetworkConfig, PodNet, RealNetwork};
use torpor::host::progress::Progress;
use torpor::host::rootfs::Rootfs;
use torpor::host::runtime::RunscRuntime;
use torpor::host::shim::{RealShims, ShimPlan, Shims};
use torpor::model::{Code, Digest, InstanceTag, PodId, Protocol, RuntimeId};
use torpor::plan::firewall::ForwardTo;
use torpor::plan::limits::Limits;
use torpor::plan::network::Addressing;

fn id() -> RuntimeId {
    RuntimeId { pod: PodId::random().unwrap(), incarnation: 1 }
}

async fn network(net: &dyn Network, addressing: &Addressing) {
    let address = addressing.next_free(&std::collections::BTreeSet::new()).unwrap();
    let (pod, unknown) = (PodNet::new(addressing, &id(), address), PodNet::of_names(&id()));
    assert!(net.attach(&pod).await.is_err(), "before there is a router");
    net.ensure_router().await.unwrap();
    net.ensure_router().await.unwrap();
    let path = net.attach(&pod).await.unwrap();
    assert_eq!(net.attach(&pod).await.unwrap(), path, "a second time changes nothing");
    assert_eq!(net.list().await.unwrap(), vec![pod.id.clone()]);
    net.readdress(&pod).await.unwrap();
    net.readdress(&pod).await.unwrap();
    assert!(net.readdress(&unknown).await.is_err());
    net.counters(&pod).await.unwrap();
    assert!(net.counters(&unknown).await.is_err());
    net.traffic().await.unwrap();
    let target = std::net::SocketAddrV4::new(address, 80);
    let forward = ForwardTo { host: 24_999, protocol: Protocol::Tcp, address: None, target };
    let datagrams = ForwardTo { protocol: Protocol::Udp, ..forward };
    for all in [&[forward][..], &[forward], &[forward, datagrams], &[datagrams], &[], &[]] {
        net.set_forwards(all).await.unwrap();
    }
    assert_eq!(net.remove_all().await.unwrap_err().code(), Code::InUse, "while there is a pod");
    for gone in [&pod, &pod, &unknown] {
        net.detach(gone).await.unwrap();
    }
    assert!(net.list().await.unwrap().is_empty());
    assert!(net.readdress(&pod).await.is_err());
    net.remove_all().await.unwrap();
    net.remove_all().await.unwrap();
    assert!(net.attach(&pod).await.is_err(), "without a router");
    net.detach(&pod).await.unwrap();
}

async fn cgroups(groups: &dyn Cgroups) {
    let (one, unknown) = (id().to_string(), id().to_string());
    let limits = Limits::of(&DEFAULT_RESOURCES);
    groups.ensure(&one, &limits).await.unwrap();
    groups.ensure(&one, &limits).await.unwrap();
    assert_eq!(groups.list().await.unwrap(), vec![one.clone()]);
    groups.usage(&one).await.unwrap();
    groups.all_usage().await.unwrap();
    for memory in [limits.memory * 2, limits.memory / 2] {
        groups.limit(&one, &Limits { memory, ..limits }).await.unwrap();
    }
    assert!(groups.limit(&unknown, &limits).await.is_err());
    assert!(!groups.oom_killed(&one).unwrap());
    assert!(groups.usage(&unknown).await.is_err() && groups.oom_killed(&unknown).is_err());
    for gone in [&one, &one, &unknown] {
        groups.remove(gone).await.unwrap();
    }
    assert!(groups.list().await.unwrap().is_empty() && groups.usage(&one).await.is_err());
}

async fn shims(shims: &dyn Shims, below: &Path) {
    let dir = below.join(id().to_string());
    let plan = ShimPlan { dir: dir.clone(), log_dir: below.join("log"), log_max_bytes: 1 << 20, log_files: 2 };
    std::fs::create_dir(&plan.log_dir).unwrap();
    assert!(shims.connect(&plan).await.unwrap().is_none());
    assert!(shims.spawn(&plan).await.is_err(), "without a directory");
    std::fs::create_dir(&dir).unwrap();
    let shim = shims.spawn(&plan).await.unwrap();
    let first = shim.status().await.unwrap();
    assert!(first.sandbox_pid.is_none() && first.exit.is_none() && !first.launched);
    let again = shims.spawn(&plan).await.unwrap();
    assert_eq!(again.status().await.unwrap().shim_pid, first.shim_pid, "one shim serves a sandbox");
    let found = shims.connect(&plan).await.unwrap().unwrap();
    assert_eq!(found.status().await.unwrap().shim_pid, first.shim_pid);
    let exec = Exec { command: vec!["x".into()], env: vec![], working_dir: None, user: None, stdin: false };
    let refused = [
        shim.exec(&exec, Vec::new(), None).await.map(drop),
        shim.signal(15).await,
        shim.quiesce().await,
        shim.resume().await,
        shim.secrets(&SecretFiles::default()).await,
    ];
    for (n, done) in refused.into_iter().enumerate() {
        assert_eq!(done.unwrap_err().code(), Code::WrongState, "without a sandbox: {n}");
    }
    shim.shutdown().await.unwrap();
    assert!(shims.connect(&plan).await.unwrap().is_none());
    assert_eq!(shim.status().await.unwrap_err().code(), Code::Runtime);
}

fn life() -> Arc<Life> {
    Life::new(&Kernel::new())
}

fn addressing(third: u8) -> Addressing {
    Addressing::new(format!("10.202.{third}.0/24").parse().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn networks() {
    network(&FakeNetwork { life: life(), run: "/nowhere".into() }, &addressing(1)).await;
    if !support::root() {
        return;
    }
    let (tag, addressing) = (InstanceTag::random().unwrap(), addressing(1));
    let run = tempfile::Builder::new().prefix(&format!("net-{tag}-")).tempdir_in("/run").unwrap();
    let config = NetworkConfig { tag: tag.clone(), run_dir: run.path().into(), addressing, resolvers: vec![] };
    let real = RealNetwork::open(config).unwrap();
    network(&real, &addressing).await;
    drop((real, run));
    assert_eq!(support::traces(tag.as_str()), Vec::<String>::new());
}

#[tokio::test]
async fn control_groups() {
    cgroups(&FakeCgroups { life: life() }).await;
    if !support::root() {
        return;
    }
    let tag = InstanceTag::random().unwrap();
    let real = RealCgroups::open(&tag, None).unwrap();
    cgroups(&real).await;
    real.remove_parent().unwrap();
    assert_eq!(support::traces(tag.as_str()), Vec::<String>::new());
}

#[tokio::test]
async fn shims_without_a_sandbox() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    shims(&FakeShims { life: life() }, one.path()).await;
    shims(&RealShims::new(env!("CARGO_BIN_EXE_torpor-shim").into(), None), other.path()).await;
}

/// A root with init, and the programs that the questions are asked with.
async fn root(layers: &Layers, init: &Path) -> Vec<Digest> {
    let busybox = std::fs::read("/bin/busybox").unwrap_or_default();
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, body: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, name, body).unwrap();
    };
    add("bin/busybox", &busybox);
    add("bin/forever", b"#!/bin/busybox sh\nexec /bin/busybox sleep 1000000\n");
    add("bin/add", b"#!/bin/busybox sh\nn=$(/bin/busybox cat /count 2>/dev/null)\necho $((n + 1)) >/count\n/bin/busybox cat /count\n");
    add("bin/write", b"#!/bin/busybox sh\necho hello >/written\n");
    add("bin/key", b"#!/bin/busybox sh\nexec /bin/busybox cat /run/secrets/key\n");
    let tar = std::io::Cursor::new(tar.into_inner().unwrap());
    let imported = layers.import(ImportSource::Stream(Box::new(tar)), &Progress::default()).await.unwrap();
    let init = layers.add_init(init).await.unwrap();
    vec![imported.layers[0].digest.clone(), init.digest]
}

fn layers(state: &Path) -> Layers {
    std::fs::create_dir(state).unwrap();
    let limits =
        ImportLimits { layer_bytes: 1 << 30, layer_inodes: 10_000, image_bytes: 1 << 30, upload_bytes: 1 << 30 };
    Layers::open(state, env!("CARGO_BIN_EXE_torpord").into(), limits).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_in_memory() {
    let (life, dir) = (life(), tempfile::tempdir().unwrap());
    let layers = layers(&dir.path().join("state"));
    let digest = torpor::host::layers::digest_of(std::iter::once("fake"));
    let (program, version, features) = ("/fake/runsc".into(), "fake".into(), Features::default());
    let engine = Engine { digest, program, version, features };
    let init = dir.path().join("init");
    std::fs::write(&init, "init").unwrap();
    let drivers = sandbox::Drivers {
        network: &FakeNetwork { life: Arc::clone(&life), run: dir.path().into() },
        cgroups: &FakeCgroups { life: Arc::clone(&life) },
        roots: &FakeRoots { life: Arc::clone(&life), run: dir.path().into(), layers: layers.clone() },
        shims: &FakeShims { life: Arc::clone(&life) },
        runtime: &FakeRuntime { life: Arc::clone(&life) },
        engine: Arc::new(engine),
        addressing: addressing(2),
        layers: root(&layers, &init).await,
        dir: dir.path().join("pods"),
    };
    sandbox::a_sandbox(&drivers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_sandboxes() {
    with_real_drivers(3, Duration::from_secs(30), async |drivers| sandbox::a_sandbox(drivers).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_that_are_slow() {
    let patience = Duration::from_millis(300);
    with_real_drivers(4, patience, async |drivers| sandbox::a_slow_sandbox(drivers).await).await;
}

async fn with_real_drivers(third: u8, patience: Duration, ask: impl AsyncFnOnce(&sandbox::Drivers<'_>)) {
    let (true, Some(program)) = (support::root(), support::runsc()) else { return };
    let libexec = std::path::PathBuf::from(std::env::var_os("TORPOR_LIBEXEC").unwrap_or_default());
    let (init, shim) = (libexec.join("torpor-init"), libexec.join("torpor-shim"));
    if !support::has("libexec", shim.is_file()) {
        return;
    }
    let (tag, addressing) = (InstanceTag::random().unwrap(), addressing(third));
    let dir = tempfile::Builder::new().prefix(&format!("conf-{tag}-")).tempdir_in("/var/tmp").unwrap();
    let layers = layers(&dir.path().join("state"));
    let engines = Engines::open(dir.path()).unwrap();
    let engine = engines.import(&program).await.unwrap();
    let config = NetworkConfig { tag: tag.clone(), run_dir: dir.path().into(), addressing, resolvers: vec![] };
    let network = RealNetwork::open(config).unwrap();
    let cgroups = RealCgroups::open(&tag, None).unwrap();
    let runtime = RunscRuntime::new(dir.path().join("runsc"), env!("CARGO_BIN_EXE_torpord").into());
    let runtime = runtime.unwrap().with_patience(patience);
    let drivers = sandbox::Drivers {
        network: &network,
        cgroups: &cgroups,
        roots: &Rootfs::open(dir.path(), layers.clone()).unwrap(),
        shims: &RealShims::new(shim, None),
        runtime: &runtime,
        engine,
        addressing,
        layers: root(&layers, &init).await,
        dir: dir.path().join("pods"),
    };
    ask(&drivers).await;
    cgroups.remove_parent().unwrap();
    runtime.remove_root().unwrap();
    drop(dir);
    assert_eq!(support::traces(tag.as_str()), Vec::<String>::new());
}

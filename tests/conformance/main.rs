//! The host in memory is honest: the same questions to its drivers and to the real ones, with the same answers.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../support/fake/mod.rs"]
mod fake;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;

use fake::net::{FakeCgroups, FakeNetwork};
use fake::shims::FakeShims;
use fake::{Kernel, Life};
use torpor::channel::Exec;
use torpor::config::DEFAULT_RESOURCES;
use torpor::host::cgroup::{Cgroups, RealCgroups};
use torpor::host::network::{Network, NetworkConfig, PodNet, RealNetwork};
use torpor::host::shim::{RealShims, ShimPlan, Shims};
use torpor::model::{Code, InstanceTag, PodId, RuntimeId};
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
    let forward = ForwardTo { host: 24_999, target: std::net::SocketAddrV4::new(address, 80) };
    for all in [&[forward][..], &[forward], &[], &[]] {
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

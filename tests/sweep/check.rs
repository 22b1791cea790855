//! What must hold on a host after every recovery, whatever died before it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use futures::TryStreamExt;
use object_store::ObjectStore;
use torpor::model::{PodRecord, PodState};

use crate::fake::Status;
use crate::world::{Daemon, World};

/// What is there to be seen.
pub(crate) struct View {
    pub(crate) pods: BTreeMap<String, PodRecord>,
    pub(crate) images: BTreeSet<String>,
    /// Names of tokens that are shown.
    pub(crate) tokens: BTreeSet<String>,
    /// Snapshots that the store has.
    pub(crate) snapshots: BTreeSet<String>,
    /// Whether sandboxes ended while torpord was dead.
    pub(crate) lost: bool,
    pub(crate) wrong: Vec<String>,
}

fn names(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Ids that follow `below` in the bucket's keys.
fn ids_below(world: &World, below: &str) -> BTreeSet<String> {
    let all: Vec<_> = futures::executor::block_on(world.kernel.bucket.list(None).try_collect()).unwrap();
    let keys = all.iter().map(|m: &object_store::ObjectMeta| m.location.to_string());
    keys.filter_map(|k| Some(k.strip_prefix(below)?.split('/').next()?.to_owned())).collect()
}

impl View {
    fn same<T: Ord + std::fmt::Debug>(&mut self, what: &str, there: &BTreeSet<T>, wanted: &BTreeSet<T>) {
        for more in there.difference(wanted) {
            self.wrong.push(format!("{what}: {more:?} belongs to no live pod"));
        }
        for less in wanted.difference(there) {
            self.wrong.push(format!("{what}: {less:?} is missing"));
        }
    }

    /// Looks at all of a host that has recovered. `own`: snapshots that somebody asked for.
    pub(crate) fn of(world: &World, daemon: &Daemon, own: &dyn Fn(&str) -> bool) -> View {
        let core = daemon.core();
        let images = daemon.block_on(core.list_images()).unwrap();
        let mut view = View {
            pods: world.records().into_iter().map(|r| (r.spec.name.to_string(), r)).collect(),
            images: images.iter().map(|i| i.name.clone()).collect(),
            tokens: core.list_tokens().into_iter().map(|t| t.name).collect(),
            snapshots: ids_below(world, "v1/snapshots/"),
            lost: false,
            wrong: Vec::new(),
        };
        let shown: BTreeMap<String, String> = core.list_pods().into_iter().map(|p| (p.name, p.state)).collect();
        let stored = view.pods.iter().map(|(n, r)| (n.clone(), r.state.to_string())).collect();
        if shown != stored {
            view.wrong.push(format!("the API shows {shown:?}, the database has {stored:?}"));
        }
        view.check_kernel(world);
        view.check_files(world, daemon, &images);
        view.check_store(world, own);
        view
    }

    fn check_kernel(&mut self, world: &World) {
        let state = world.kernel.look().clone();
        let pods: Vec<PodRecord> = self.pods.values().cloned().collect();
        let live: BTreeMap<String, &PodRecord> =
            pods.iter().filter(|r| alive(r.state)).map(|r| (r.runtime_id().to_string(), r)).collect();
        let wanted: BTreeSet<String> = live.keys().cloned().collect();
        self.same("sandbox", &state.sandboxes.keys().cloned().collect(), &wanted);
        self.same("shim", &state.shims.keys().cloned().collect(), &wanted);
        self.same("cgroup", &state.cgroups, &wanted);
        self.same("namespace", &state.netns.keys().cloned().collect(), &wanted);
        self.same("run directory", &names(&world.run().join("pods")), &wanted);
        let of = |r: &&PodRecord| r.forwards.iter().map(|f| (f.host, f.protocol, r.address, f.pod)).collect::<Vec<_>>();
        let forwards = live.values().flat_map(of).collect();
        let there = state.forwards.iter().map(|f| (f.host, f.protocol, *f.target.ip(), f.target.port())).collect();
        self.same("forward", &there, &forwards);
        for record in &pods {
            let (name, rest) = (&record.spec.name, record.state);
            if !matches!(
                rest,
                PodState::Running
                    | PodState::Paused
                    | PodState::Created
                    | PodState::Stopped
                    | PodState::Sleeping
                    | PodState::Failed
            ) {
                self.wrong.push(format!("pod {name} is {rest} for ever"));
            }
            if alive(rest) {
                let Some(sandbox) = state.sandboxes.get(&record.runtime_id().to_string()) else { continue };
                let shim = &state.shims.get(&record.runtime_id().to_string());
                let wanted = if rest == PodState::Paused { Status::Paused } else { Status::Running };
                if sandbox.status != wanted || sandbox.memory.quiet || shim.is_some_and(|s| s.quiet) {
                    self.wrong.push(format!("pod {name} is {rest}, its sandbox {:?}, {shim:?}", sandbox.status));
                }
                if sandbox.memory.command.is_none() {
                    self.wrong.push(format!("pod {name} runs without its command"));
                }
                let files: Vec<&str> = record.spec.secrets.iter().map(|s| s.name.as_str()).collect();
                if sandbox.memory.secrets.keys().ne(files.iter()) {
                    self.wrong.push(format!("pod {name} has secrets {:?}", sandbox.memory.secrets.keys()));
                }
                if record.sandbox_pid != Some(sandbox.pid) {
                    self.wrong.push(format!("pod {name}: pid {:?} is {}", record.sandbox_pid, sandbox.pid));
                }
                let hostname = torpor_hostname(record);
                if sandbox.memory.hostname != hostname {
                    self.wrong.push(format!("pod {name} is called {:?} inside", sandbox.memory.hostname));
                }
            } else if record.sandbox_pid.is_some() {
                self.wrong.push(format!("pod {name} is {rest} and has a pid"));
            }
            let uppers = names(&world.state().join("pods").join(record.id.as_str()));
            let upper = format!("upper-{}", record.incarnation);
            if uppers.iter().any(|u| u.starts_with("upper-") && (!alive(rest) || *u != upper)) {
                self.wrong.push(format!("pod {name} is {rest} and has {uppers:?}"));
            }
        }
        let roots: BTreeSet<Vec<String>> =
            pods.iter().map(|r| r.root_layers().iter().chain([&r.init]).map(ToString::to_string).collect()).collect();
        for layers in state.roots.values() {
            if !roots.contains(&layers.iter().map(ToString::to_string).collect::<Vec<_>>()) {
                self.wrong.push("a root is mounted that no pod has".into());
            }
        }
    }

    fn check_files(&mut self, world: &World, daemon: &Daemon, images: &[torpor::api::types::Image]) {
        let state = world.state();
        let pods: Vec<PodRecord> = self.pods.values().cloned().collect();
        let ids: BTreeSet<String> = pods.iter().map(|r| r.id.to_string()).collect();
        for stray in names(&world.run().join("secrets")).difference(&ids) {
            self.wrong.push(format!("secrets of {stray} are still kept"));
        }
        self.same("pod directory", &names(&state.join("pods")), &ids);
        self.same("half made", &names(&state.join("tmp")), &BTreeSet::new());
        let mut layers: BTreeSet<String> =
            images.iter().flat_map(|i| i.layers.iter().map(|l| l.digest.clone())).collect();
        layers.extend(pods.iter().flat_map(|r| r.root_layers()).map(|d| d.to_string()));
        layers.extend(pods.iter().map(|r| r.init.to_string()));
        layers.insert(daemon.init().to_string());
        let there = names(&state.join("layers"));
        let there = there.iter().filter_map(|n| Some(format!("sha256:{}", n.strip_suffix(".json")?))).collect();
        self.same("layer", &there, &layers);
        let ports: BTreeSet<_> = pods.iter().flat_map(|r| r.forwards.iter().map(|f| (f.host, f.protocol))).collect();
        self.same("host port", &daemon.held.held(), &ports);
        let leased = pods.iter().map(|r| r.address).collect::<BTreeSet<_>>();
        if leased.len() != pods.len() {
            self.wrong.push("two pods have one address".into());
        }
    }

    fn check_store(&mut self, world: &World, own: &dyn Fn(&str) -> bool) {
        let pods: Vec<PodRecord> = self.pods.values().cloned().collect();
        let slept: BTreeSet<String> =
            pods.iter().filter_map(|r| r.snapshot.as_ref().map(ToString::to_string)).collect();
        for record in pods.iter().filter(|r| r.state == PodState::Sleeping) {
            if record.snapshot.as_ref().is_none_or(|s| !self.snapshots.contains(s.as_str())) {
                self.wrong.push(format!("pod {} sleeps in nothing: {:?}", record.spec.name, record.snapshot));
            }
        }
        // A failed pod's is what was being restored.
        for record in pods.iter().filter(|r| r.pending.is_some() && r.state != PodState::Failed) {
            self.wrong.push(format!("pod {} still has a snapshot on its way", record.spec.name));
        }
        let snapshots = self.snapshots.clone();
        let mut raw_images = names(&world.state().join("cache"));
        raw_images.remove("boot-id");
        for id in snapshots.iter().filter(|id| !slept.contains(*id) && !own(id)) {
            self.wrong.push(format!("snapshot {id} is nobody's"));
        }
        for (what, ids) in [("packs", ids_below(world, "v1/packs/")), ("raw images", raw_images)] {
            for id in ids.iter().filter(|id| !snapshots.contains(*id)) {
                self.wrong.push(format!("{what} of {id} have no manifest"));
            }
        }
    }
}

fn alive(state: PodState) -> bool {
    matches!(state, PodState::Running | PodState::Paused)
}

fn torpor_hostname(record: &PodRecord) -> String {
    record.spec.hostname.clone().unwrap_or_else(|| record.spec.name.as_str().replace(['_', '.'], "-"))
}

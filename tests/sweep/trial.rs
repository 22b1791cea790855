//! One scenario against every fault: the loops, and what is counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use torpor::daemon::core::Core;
use torpor::model::Result;

use crate::check::View;
use crate::fake::{Fault, Status};
use crate::world::{Daemon, Outcome, World};

/// Steps back. One that fails is logged, and made good at the next start.
const UNDO: [&str; 13] = [
    "list images",
    "delete",
    "end the sandbox and its shim",
    "connect to the shim",
    "remove the cgroup",
    "detach the network",
    "unmount the root",
    "remove a pod",
    "remove snapshots",
    "remove packs",
    "list objects",
    "set the forwards",
    "save a pod",
];

/// A request, what comes before it, and how it is seen whether it was done.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// First of 20 host ports that no other test uses.
    pub(crate) ports: u16,
    /// What was done before.
    pub(crate) setup: fn(Arc<Core>, Places) -> BoxFuture<'static, Result<()>>,
    /// The request.
    pub(crate) act: fn(Arc<Core>, Places) -> BoxFuture<'static, Result<()>>,
    /// The same request once more, by somebody who does not know whether the first was done.
    pub(crate) again: fn(Arc<Core>, Places) -> BoxFuture<'static, Result<()>>,
    /// True: all of it is there. False: nothing of it is. An error: neither.
    pub(crate) done: fn(&View, &World) -> std::result::Result<bool, String>,
    /// Whether the request makes snapshots that somebody asked for.
    pub(crate) makes_snapshots: bool,
}

/// Directories of the host that requests name.
#[derive(Clone)]
pub(crate) struct Places {
    pub(crate) other_image: String,
    /// Raw checkpoint images.
    pub(crate) cache: std::path::PathBuf,
}

/// What befalls the host while torpord is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meanwhile {
    Nothing,
    Reboot,
    ShimsDie,
    SandboxesDie,
}

#[derive(Default)]
pub(crate) struct Tally {
    trials: BTreeMap<&'static str, usize>,
    failures: Vec<String>,
    seen: BTreeMap<String, usize>,
}

impl Tally {
    fn fail(&mut self, trial: &str, wrong: &[String]) {
        if wrong.is_empty() {
            return;
        }
        // One line a kind: ids are the only difference.
        let kind: String = wrong.join("; ").chars().filter(|c| !c.is_ascii_hexdigit()).collect();
        *self.seen.entry(kind.clone()).or_default() += 1;
        if self.seen[&kind] <= 2 {
            self.failures.push(format!("{trial}:\n    {}", wrong.join("\n    ")));
        }
    }

    fn count(&mut self, kind: &'static str) {
        *self.trials.entry(kind).or_default() += 1;
    }
}

/// A scenario and the host on which it begins.
pub(crate) struct Sweep {
    scenario: Scenario,
    base: World,
    own: Vec<String>,
    /// What the store was asked to remove, and refused, stays: it is listed, and what has no manifest is swept later.
    lenient: bool,
    tally: Tally,
}

impl Sweep {
    pub(crate) fn new(scenario: Scenario) -> Self {
        let base = World::new(scenario.ports);
        let daemon = base.start(Fault::None).unwrap().unwrap();
        let image = base.image_dir().display().to_string();
        daemon.block_on(daemon.core().import_directory("base", None, &image, &Default::default())).unwrap();
        daemon.block_on((scenario.setup)(daemon.core(), Self::places(&base))).unwrap();
        let shown = daemon.block_on(daemon.core().list_snapshots()).unwrap();
        let slept: Vec<_> =
            base.records().iter().filter_map(|r| r.snapshot.as_ref().map(ToString::to_string)).collect();
        let own = shown.into_iter().map(|s| s.id).filter(|id| !slept.contains(id)).collect();
        drop(daemon);
        Sweep { scenario, base, own, lenient: false, tally: Tally::default() }
    }

    fn places(world: &World) -> Places {
        Places { other_image: world.other_image(), cache: world.state().join("cache") }
    }

    fn act(&self, daemon: &Daemon, world: &World, fault: Fault) -> Outcome {
        daemon.run(fault, (self.scenario.act)(daemon.core(), Self::places(world)))
    }

    fn view(&self, world: &World, daemon: &Daemon) -> View {
        daemon.life.arm(Fault::None);
        let own = |id: &str| self.lenient || self.scenario.makes_snapshots || self.own.iter().any(|o| o == id);
        let mut view = View::of(world, daemon, &own);
        if self.lenient {
            view.wrong.retain(|w| !w.starts_with("packs of"));
        }
        view
    }

    /// The host must be in order, an acknowledged request done, the same request possible, and all of it removable.
    fn judge(&mut self, trial: &str, world: &World, daemon: &Daemon, acknowledged: bool, lost: bool) {
        let mut view = self.view(world, daemon);
        view.lost = lost;
        match (self.scenario.done)(&view, world) {
            Ok(false) if acknowledged => view.wrong.push("it was acknowledged, and is lost".into()),
            Ok(_) => {}
            Err(half) => view.wrong.push(format!("neither done nor undone: {half}")),
        }
        if !view.wrong.is_empty() {
            return self.tally.fail(trial, &view.wrong);
        }
        let again = daemon.run(Fault::None, (self.scenario.again)(daemon.core(), Self::places(world)));
        let mut view = self.view(world, daemon);
        match (&again, (self.scenario.done)(&view, world)) {
            (Outcome::Done, Ok(true)) => {}
            (again, done) => view.wrong.push(format!("the second time: {again:?}, {done:?}")),
        }
        for pod in daemon.core().list_pods() {
            if let Err(e) = daemon.block_on(daemon.core().delete_pod(&pod.id, true)) {
                view.wrong.push(format!("remove {}: {}", pod.name, e.report()));
            }
        }
        if let Some(gone) = self.own.iter().find(|id| !world.has_snapshot(id)) {
            view.wrong.push(format!("snapshot {gone}, which somebody asked for, went with the pods"));
        }
        if !world.kernel.look().is_bare() {
            view.wrong.push(format!("without pods there is still {:?}", world.kernel.look()));
        }
        self.tally.fail(&format!("{trial}, the second time"), &view.wrong);
    }

    fn befall(world: &mut World, meanwhile: Meanwhile) {
        match meanwhile {
            Meanwhile::Nothing => {}
            Meanwhile::Reboot => world.reboot(),
            Meanwhile::ShimsDie => world.kernel.change(|s| s.shims.clear()),
            Meanwhile::SandboxesDie => world.kernel.change(|s| {
                for sandbox in s.sandboxes.values_mut() {
                    sandbox.status = Status::Stopped;
                }
            }),
        }
    }

    fn trace(effects: &[String]) -> String {
        let from = effects.len().saturating_sub(3);
        format!("{} effects, last {:?}", effects.len(), &effects[from..])
    }

    /// A crash after every effect, and again after every effect of the recovery.
    pub(crate) fn crashes(&mut self, meanwhile: Meanwhile, deep: bool) {
        let name = self.scenario.name;
        let lost = matches!(meanwhile, Meanwhile::Reboot | Meanwhile::SandboxesDie);
        for k in 0.. {
            let mut world = self.base.fork();
            let daemon = world.start(Fault::None).unwrap().unwrap();
            let outcome = self.act(&daemon, &world, Fault::Crash(k));
            let done = format!("{name}, crash: {}, then {meanwhile:?}", Self::trace(&daemon.life.effects()));
            let over = !matches!(outcome, Outcome::Crashed);
            drop(daemon);
            if let Outcome::Failed(e) = &outcome {
                self.tally.fail(&done, &[format!("without a fault it fails: {}", e.report())]);
            }
            Self::befall(&mut world, meanwhile);
            for j in 0.. {
                let (world, trial) = (world.fork(), format!("{done}, recovery"));
                let fault = if deep { Fault::Crash(j) } else { Fault::None };
                let (first, last) = match world.start(fault) {
                    Ok(None) => (format!("{trial} crash {j}"), false),
                    Ok(Some(daemon)) => {
                        self.tally.count("crash");
                        self.judge(&trial, &world, &daemon, outcome.is_done(), lost);
                        break;
                    }
                    Err(e) => (format!("{trial}: {}", e.report()), true),
                };
                self.tally.count("crash in recovery");
                match world.start(Fault::None) {
                    Ok(Some(daemon)) => self.judge(&first, &world, &daemon, outcome.is_done(), lost),
                    Ok(None) => unreachable!(),
                    Err(e) => self.tally.fail(&first, &[e.report()]),
                }
                if last {
                    break;
                }
            }
            if over {
                break;
            }
        }
    }

    /// Every effect, or question, with a fault that torpord lives to see. The host is in order at once, unless it was an
    /// undo that failed; after a restart in any case.
    pub(crate) fn faults(&mut self, kind: &'static str, fault: fn(usize) -> Fault) {
        let name = self.scenario.name;
        for k in 0.. {
            let world = self.base.fork();
            let daemon = world.start(Fault::None).unwrap().unwrap();
            let outcome = self.act(&daemon, &world, fault(k));
            let (effects, questions) = (daemon.life.effects(), daemon.life.questions());
            let at = if matches!(fault(k), Fault::Mute(_)) { questions.get(k) } else { effects.get(k) };
            let Some(at) = at else { break };
            let trial = format!("{name}, {kind} {k} ({at}): {outcome:?}");
            self.tally.count(kind);
            self.lenient = matches!(at.as_str(), "remove snapshots" | "remove packs" | "list objects");
            if !UNDO.contains(&at.as_str()) && !matches!(fault(k), Fault::Twice(_)) {
                let mut view = self.view(&world, &daemon);
                match (self.scenario.done)(&view, &world) {
                    Ok(false) if outcome.is_done() => view.wrong.push("it was acknowledged, and is not done".into()),
                    Ok(_) => {}
                    Err(half) => view.wrong.push(format!("neither done nor undone: {half}")),
                }
                self.tally.fail(&format!("{trial}, at once"), &view.wrong);
            }
            drop(daemon);
            match world.start(Fault::None) {
                Ok(Some(daemon)) => self.judge(&trial, &world, &daemon, outcome.is_done(), false),
                Ok(None) => unreachable!(),
                Err(e) => self.tally.fail(&trial, &[e.report()]),
            }
        }
    }

    /// Says how much was tried, and fails if something was wrong.
    pub(crate) fn finish(self) {
        let sum: usize = self.tally.trials.values().sum();
        crate::support::tried(sum);
        println!("{}: {sum} trials {:?}", self.scenario.name, self.tally.trials);
        let failures = &self.tally.failures;
        let all: usize = self.tally.seen.values().sum();
        assert!(failures.is_empty(), "{all} trials of {sum} failed, for example\n{}", failures.join("\n"));
    }
}

//! Room for pods: what they are promised, against what the host has.
//!
//! What is promised is summed over the records of pods that have, or may have, a sandbox, and over claims: of pods that are on
//! their way there. A claim is made before anything else is touched and held until the record says what it says, so two
//! requests never get the same room. After a crash there are no claims, and the records are what recovery made of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Core;
use crate::api::types::ResourcesInfo;
use crate::api::types::capacity::{Budget as Shown, Capacity, PodCounts, Size, Tier};
use crate::host::files;
use crate::model::{PodId, PodSpec, PodState, Resources, Result, Ware};
use crate::plan::capacity::{self, Budget};

/// Room that was given and is not in a record yet.
#[derive(Default)]
pub(super) struct Claims(Mutex<BTreeMap<PodId, Vec<Resources>>>);

/// Holds room for a pod until it is dropped.
pub(super) struct Claim {
    core: Arc<Core>,
    pod: PodId,
    resources: Resources,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = self.core.claims.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_pod) = claims.get_mut(&self.pod) {
            if let Some(at) = of_pod.iter().position(|r| *r == self.resources) {
                of_pod.swap_remove(at);
            }
            if of_pod.is_empty() {
                claims.remove(&self.pod);
            }
        }
    }
}

/// Memory and disk promised to pods.
type Promised = BTreeMap<PodId, (u64, u64)>;

fn promise(all: &mut Promised, pod: &PodId, r: &Resources) {
    let (memory, disk) = all.entry(pod.clone()).or_default();
    (*memory, *disk) = ((*memory).max(r.memory), (*disk).max(r.disk));
}

impl Core {
    fn promised(&self, claims: &BTreeMap<PodId, Vec<Resources>>) -> Promised {
        let mut all = Promised::new();
        for pod in self.pods() {
            let record = pod.look();
            if record.state.may_have_sandbox() {
                promise(&mut all, &record.id, &record.spec.resources);
            }
        }
        for (pod, of_pod) in claims {
            of_pod.iter().for_each(|r| promise(&mut all, pod, r));
        }
        all
    }

    fn budgets(&self) -> Result<(Budget, Budget)> {
        let memory = self.host.cgroups.memory()?;
        let memory = Budget {
            ware: Ware::Memory,
            capacity: memory,
            head_room: self.config().memory_head_room.unwrap_or_else(|| capacity::head_room(memory)),
            ratio: self.config().memory_overcommit,
        };
        let disk = Budget {
            ware: Ware::Disk,
            capacity: files::total_bytes(self.dirs.state())?,
            head_room: self.config().disk_reserve,
            ratio: self.config().disk_overcommit,
        };
        Ok((memory, disk))
    }

    /// Takes room for a pod that is to have a sandbox, or more than it has. What it has already counts once.
    ///
    /// # Errors
    /// [`crate::model::Code::Exhausted`], with the sums: nothing was touched.
    pub(super) fn claim(self: &Arc<Self>, pod: &PodId, resources: &Resources) -> Result<Claim> {
        let (memory, disk) = self.budgets()?;
        let mut claims = self.claims.0.lock().unwrap_or_else(PoisonError::into_inner);
        let promised = self.promised(&claims);
        let had = promised.get(pod).copied().unwrap_or_default();
        let (all_memory, all_disk) =
            promised.values().fold((0_u64, 0_u64), |(m, d), (x, y)| (m.saturating_add(*x), d.saturating_add(*y)));
        memory.admit(all_memory - had.0, had.0, resources.memory)?;
        disk.admit(all_disk - had.1, had.1, resources.disk)?;
        claims.entry(pod.clone()).or_default().push(*resources);
        Ok(Claim { core: Arc::clone(self), pod: pod.clone(), resources: *resources })
    }

    /// As [`Core::claim`], of the room that a pod asks for.
    ///
    /// # Errors
    /// As [`Core::claim`], with what was attempted.
    pub(super) fn room(self: &Arc<Self>, pod: &PodId, spec: &PodSpec, to: &str) -> Result<Claim> {
        self.claim(pod, &spec.resources).map_err(|e| e.context(format!("{to} pod {}", spec.name)))
    }

    /// `GET /v1/system/capacity`.
    ///
    /// # Errors
    /// The kernel does not tell what there is.
    pub fn capacity(&self) -> Result<Capacity> {
        let (memory, disk) = self.budgets()?;
        let promised = self.promised(&self.claims.0.lock().unwrap_or_else(PoisonError::into_inner));
        let (on_memory, on_disk) = promised.values().fold((0, 0), |(m, d), (x, y)| (m + x, d + y));
        let shown = |b: &Budget, promised: u64| Shown {
            capacity: b.capacity,
            head_room: b.head_room,
            ratio: b.ratio,
            limit: b.limit(),
            promised,
            left: b.limit().saturating_sub(promised),
        };
        let size = |each| Size { memory: each, most: memory.most(each), more: memory.more(on_memory, each) };
        let tier = |(name, r): (&String, &Resources)| Tier {
            name: name.clone(),
            resources: limits(r),
            most: memory.most(r.memory).min(disk.most(r.disk)),
            more: memory.more(on_memory, r.memory).min(disk.more(on_disk, r.disk)),
        };
        let mut pods = PodCounts::default();
        for pod in self.pods() {
            pods.total += 1;
            match pod.state() {
                PodState::Sleeping => pods.sleeping += 1,
                state if state.may_have_sandbox() => pods.awake += 1,
                _ => pods.at_rest += 1,
            }
        }
        Ok(Capacity {
            memory: shown(&memory, on_memory),
            disk: shown(&disk, on_disk),
            cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            pods,
            sizes: capacity::SHOWN.into_iter().map(size).collect(),
            tiers: self.config().tiers.iter().map(tier).collect(),
        })
    }
}

/// Limits as the API shows them.
pub(super) fn limits(r: &Resources) -> ResourcesInfo {
    ResourcesInfo { cpus: f64::from(r.cpu_millis) / 1000.0, memory: r.memory, pids: r.pids, disk: r.disk }
}

//! A pod's limits as values of cgroup files.

use crate::model::Resources;

/// The span over which a pod's processor time is counted. Over the kernel's default of 100 ms a pod could hold every
/// processor for as long as its quota lasts, and its neighbours would wait for it.
pub const CPU_PERIOD_US: u64 = 10_000;

/// Processor time in one period. The kernel takes no quota under 1 ms.
pub fn cpu_quota_us(resources: &Resources) -> i64 {
    (i64::from(resources.cpu_millis) * 10).max(1000)
}

/// The weight of all sandboxes together, as cgroup v1 has it: that of one process for each processor. With the default, that
/// of one process alone, a busy pod would take the others' share wherever the host has something else to do.
pub fn shares_of_all(processors: usize) -> u64 {
    (processors as u64 * 1024).clamp(1024, 262_144)
}

/// What a sandbox's cgroup is limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Microseconds of processor time in [`CPU_PERIOD_US`].
    pub cpu_quota_us: i64,
    /// Bytes, swap included.
    pub memory: u64,
    /// Tasks.
    pub pids: u32,
}

impl Limits {
    /// Of a pod.
    pub fn of(resources: &Resources) -> Self {
        Limits { cpu_quota_us: cpu_quota_us(resources), memory: resources.memory, pids: resources.pids }
    }

    /// Files of cgroup v1: hierarchy, file, value, in the order in which they are written.
    pub fn v1(&self) -> Vec<(&'static str, &'static str, String)> {
        vec![
            ("memory", "memory.limit_in_bytes", self.memory.to_string()),
            ("memory", "memory.memsw.limit_in_bytes", self.memory.to_string()),
            ("cpu", "cpu.cfs_period_us", CPU_PERIOD_US.to_string()),
            ("cpu", "cpu.cfs_quota_us", self.cpu_quota_us.to_string()),
            ("pids", "pids.max", self.pids.to_string()),
        ]
    }

    /// Files of cgroup v2: file and value.
    pub fn v2(&self) -> Vec<(&'static str, String)> {
        vec![
            ("memory.max", self.memory.to_string()),
            ("memory.swap.max", "0".into()),
            ("cpu.max", format!("{} {CPU_PERIOD_US}", self.cpu_quota_us)),
            ("pids.max", self.pids.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_is_counted_over_ten_milliseconds_and_never_below_what_the_kernel_takes() {
        let r = |cpu_millis| Resources { cpu_millis, memory: 1, pids: 1, disk: 1 };
        assert_eq!(cpu_quota_us(&r(1000)), 10_000);
        assert_eq!(cpu_quota_us(&r(2500)), 25_000);
        assert_eq!(cpu_quota_us(&r(10)), 1000);
        assert_eq!((shares_of_all(2), shares_of_all(0), shares_of_all(1000)), (2048, 1024, 262_144));
        assert!(Limits::of(&r(1500)).v2().contains(&("cpu.max", "15000 10000".into())));
    }
}

//! What has happened to a pod, told by its record before and after.

use crate::model::{ExitReason, PodRecord, PodState};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Happened {
    /// The pod was made.
    Created,
    /// Its command was started.
    Started,
    /// Its command ended.
    Exited,
    /// It was killed for want of memory.
    Oom,
    /// It ended because somebody asked for it.
    Stopped,
    /// It stands still in memory.
    Paused,
    /// It goes on after it stood still.
    Resumed,
    /// It went to sleep.
    Sleeping,
    /// It goes on where it slept.
    Woke,
    /// A snapshot of it was taken.
    Snapshot,
    /// It goes on from a snapshot.
    Restored,
    /// What it wrote to its root since the last stop is lost.
    RootfsReset,
    /// What was tried with it failed.
    Failed,
    /// It has another name.
    Renamed,
    /// Its labels, limits or policy were changed.
    Updated,
    /// Its health is otherwise than before.
    Health,
    /// It is gone.
    Removed,
}

impl Happened {
    /// Every type.
    pub const ALL: [Happened; 17] = [
        Happened::Created,
        Happened::Started,
        Happened::Exited,
        Happened::Oom,
        Happened::Stopped,
        Happened::Paused,
        Happened::Resumed,
        Happened::Sleeping,
        Happened::Woke,
        Happened::Snapshot,
        Happened::Restored,
        Happened::RootfsReset,
        Happened::Failed,
        Happened::Renamed,
        Happened::Updated,
        Happened::Health,
        Happened::Removed,
    ];

    /// The name, as the API shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Happened::Created => "created",
            Happened::Started => "started",
            Happened::Exited => "exited",
            Happened::Oom => "oom",
            Happened::Stopped => "stopped",
            Happened::Paused => "paused",
            Happened::Resumed => "resumed",
            Happened::Sleeping => "sleeping",
            Happened::Woke => "woke",
            Happened::Snapshot => "snapshot",
            Happened::Restored => "restored",
            Happened::RootfsReset => "rootfs-reset",
            Happened::Failed => "failed",
            Happened::Renamed => "renamed",
            Happened::Updated => "updated",
            Happened::Health => "health",
            Happened::Removed => "removed",
        }
    }
}

/// What lies between two records of one pod, in the order in which it happened. An intent is nothing that has happened.
pub fn between(before: &PodRecord, after: &PodRecord) -> Vec<Happened> {
    use PodState::{
        Created, Creating, Deleting, Failed, Paused, Restoring, Running, Sleeping, Starting, Stopped, Stopping,
    };
    use PodState::{Suspending, Waking};
    let mut all = Vec::new();
    let new_error = after.last_error.is_some() && after.last_error != before.last_error;
    let reset = new_error && after.last_error.as_ref().is_some_and(|e| e.starts_with("rootfs-reset"));
    match (before.state, after.state) {
        (a, b) if a == b => {}
        (Creating, Created) => all.push(Happened::Created),
        // A copy names the snapshot that it is made of until it runs.
        (Creating, Running) if before.pending.is_some() => all.extend([Happened::Created, Happened::Restored]),
        (Creating, Running) => all.extend([Happened::Created, Happened::Started]),
        (Starting, Running) => all.push(Happened::Started),
        (Restoring, Running) => all.push(Happened::Restored),
        (Waking, Running) => all.push(Happened::Woke),
        (Running, Paused) => all.push(Happened::Paused),
        (Paused, Running) => all.push(Happened::Resumed),
        (Suspending, Sleeping) => all.push(Happened::Sleeping),
        (Running | Paused | Stopping | Suspending, Stopped) => {
            if after.exit_reason == Some(ExitReason::Oom) {
                all.push(Happened::Oom);
            }
            all.push(Happened::Exited);
            if before.state == Stopping {
                all.push(Happened::Stopped);
            }
        }
        // Back to where it was: that was not what was asked for.
        (Creating, Deleting) | (Starting, Stopped | Created) | (Waking, Sleeping) | (Suspending, Running) => {
            all.push(Happened::Failed);
        }
        (_, Failed) => all.push(Happened::Failed),
        _ => {}
    }
    if reset {
        all.push(Happened::RootfsReset);
    }
    let (old, new) = (&before.spec, &after.spec);
    if old.name != new.name {
        all.push(Happened::Renamed);
    }
    if (&old.labels, old.resources, old.restart) != (&new.labels, new.resources, new.restart) {
        all.push(Happened::Updated);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: PodState) -> PodRecord {
        let digest = format!("sha256:{}", "a".repeat(64));
        let text = format!(
            r#"{{"id":"0123456789abcdef","spec":{{"name":"web","image":"base","command":[],"resources":{{"cpuMillis":1,
            "memory":1,"pids":1,"disk":1}},"ports":[],"volumes":[],"labels":{{}}}},"state":"{state}","incarnation":1,
            "address":"10.0.0.1","forwards":[],"layers":[],"init":"{digest}","imageConfig":{{"entrypoint":[],"cmd":[],"env":[],"workingDir":"","user":"","stopSignal":""}},"engine":"{digest}",
            "template":1,"rootfsMode":"sandbox","createdAt":"2026-01-01T00:00:00Z"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_happened_stands_between_two_records() {
        use Happened as H;
        use PodState as S;
        let told = |from, to, change: fn(&mut PodRecord)| {
            let (before, mut after) = (record(from), record(to));
            change(&mut after);
            between(&before, &after)
        };
        let nothing: fn(&mut PodRecord) = |_| ();
        assert_eq!(told(S::Creating, S::Running, nothing), [H::Created, H::Started]);
        assert_eq!(told(S::Waking, S::Running, nothing), [H::Woke]);
        assert_eq!(told(S::Waking, S::Sleeping, nothing), [H::Failed]);
        assert_eq!(told(S::Suspending, S::Running, nothing), [H::Failed]);
        assert_eq!(told(S::Running, S::Stopping, nothing), []);
        assert_eq!(told(S::Stopping, S::Stopped, nothing), [H::Exited, H::Stopped]);
        let out_of_memory = |r: &mut PodRecord| {
            r.exit_reason = Some(ExitReason::Oom);
            r.last_error = Some("rootfs-reset: gone".into());
        };
        assert_eq!(told(S::Running, S::Stopped, out_of_memory), [H::Oom, H::Exited, H::RootfsReset]);
        for state in PodState::ALL {
            assert_eq!(told(state, state, nothing), []);
        }
    }

    #[test]
    fn every_type_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Happened::ALL.iter().map(|h| h.as_str()).collect();
        assert_eq!(names.len(), Happened::ALL.len());
    }
}

//! R8: what torpor stands on breaks: processes are killed, the engine hangs, fails or lies, its records are damaged, cgroup
//! and network are taken away. A victim for each, and a bystander that must not notice.

mod engine_faults;
mod killed;
mod taken;

use std::sync::Arc;
use std::time::{Duration, Instant};

use torpor::api::types::{Pod, StopPod, WakePod};

use crate::daemon::{Daemon, Options};
use crate::engine::Faults;
use crate::lines::{gaps, numbers};
use crate::load::{Desk, Steady, Worker, talker};
use crate::rest;
use crate::tally::Tally;

/// What can be broken; a trial takes the next one.
const KINDS: [&str; 14] = [
    "sandbox",
    "gofer",
    "shim",
    "shim-at-end",
    "shim-and-torpord",
    "engine-mid-checkpoint",
    "sandbox-mid-checkpoint",
    "engine-mid-restore",
    "sandbox-mid-restore",
    "truncated",
    "exit-non-zero",
    "damaged-state",
    "reused-pid",
    "taken-away",
];
/// A pod that broke is known to be broken within that.
const NOTICED: Duration = Duration::from_secs(10);

/// The daemon under test, its faulty engine, and the present victim.
pub struct Bench {
    pub d: Daemon,
    pub faults: Faults,
    pub desk: Desk,
    pub number: u64,
}

/// The hanging engine takes as long as torpord waits for it: a row of its own, all verbs at once.
pub async fn hangs(tally: &Arc<Tally>) {
    let mut bench = bench(tally).await;
    let Some(mut bystander) = Steady::new(bench.desk.clone(), "bystander").await else { return };
    engine_faults::hangs(&mut bench).await;
    bystander.verify().await;
    finish(bench, tally).await;
}

async fn bench(tally: &Arc<Tally>) -> Bench {
    let faults = Faults::new();
    let d = Daemon::with(Options { runsc: Some(faults.engine()), ..Options::default() });
    d.import("test").await;
    let desk = Desk { client: d.client.clone(), tally: Arc::clone(tally), me: "faults" };
    Bench { d, faults, desk, number: 0 }
}

async fn finish(bench: Bench, tally: &Tally) {
    rest::empty(&bench.d, tally).await;
    rest::end(bench.d, tally);
}

/// One fault of the runtime after the other.
pub async fn runtime(tally: &Arc<Tally>, trials: u64) {
    let mut bench = bench(tally).await;
    let Some(mut bystander) = Steady::new(bench.desk.clone(), "bystander").await else { return };
    for n in 0..trials {
        tally.begin_trial();
        bench.number = n;
        let kind = KINDS[n as usize % KINDS.len()];
        let begun = Instant::now();
        trial(&mut bench, kind, n / KINDS.len() as u64).await;
        bystander.verify().await;
        only_the_bystander(&bench).await;
        if std::env::var_os("TORTURE_TIMES").is_some() {
            eprintln!("trial {}: {kind} in {} ms", n + 1, begun.elapsed().as_millis());
        }
    }
    finish(bench, tally).await;
}

async fn trial(bench: &mut Bench, kind: &'static str, round: u64) {
    bench.desk.me = kind;
    let Some(pod) = bench.victim().await else { return };
    match kind {
        "sandbox" => killed::sandbox(bench, &pod).await,
        "gofer" => killed::gofer(bench, &pod).await,
        "shim" => killed::shim(bench, &pod, false).await,
        "shim-at-end" => killed::shim_at_end(bench).await,
        "shim-and-torpord" => killed::shim(bench, &pod, true).await,
        "engine-mid-checkpoint" => killed::mid_checkpoint(bench, &pod, false).await,
        "sandbox-mid-checkpoint" => killed::mid_checkpoint(bench, &pod, true).await,
        "engine-mid-restore" => killed::mid_restore(bench, &pod, false).await,
        "sandbox-mid-restore" => killed::mid_restore(bench, &pod, true).await,
        "truncated" => engine_faults::truncated(bench, &pod, round).await,
        "exit-non-zero" => engine_faults::fails(bench, &pod, round).await,
        "damaged-state" => taken::damaged_state(bench, &pod, round).await,
        "reused-pid" => taken::reused_pid(bench, &pod).await,
        _ => taken::away(bench, &pod, round).await,
    }
    for pod in bench.desk.client.pods().await.unwrap_or_default() {
        if pod.name != "bystander" {
            bench.desk.must("remove", bench.desk.client.remove(&pod.id, true)).await;
        }
    }
}

async fn only_the_bystander(bench: &Bench) {
    let Some(bystander) = bench.desk.look("bystander").await else { return };
    let end = Instant::now() + NOTICED;
    loop {
        let left = rest::of_pods(&bench.d, std::slice::from_ref(&bystander.id));
        if left.is_empty() {
            return;
        }
        if Instant::now() > end {
            left.iter().for_each(|l| bench.desk.tally.leak(&format!("{}: {l}", bench.desk.me)));
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Bench {
    pub async fn victim(&self) -> Option<Pod> {
        let name = format!("victim-{}", self.number);
        self.desk.must("create the victim", self.desk.client.create_pod(&talker(&name))).await
    }

    pub fn tag(&self) -> &str {
        &self.d.tag
    }

    /// The victim ended, and its record says why, soon.
    pub async fn is_known_dead(&self, pod: &Pod) {
        let end = Instant::now() + NOTICED;
        loop {
            let Some(now) = self.desk.look(&pod.name).await else { return };
            if matches!(now.state.as_str(), "stopped" | "failed") {
                if now.exit_reason.is_none() && now.last_error.is_none() {
                    self.desk.fail(&format!("nothing says why it ended: {now:?}"));
                }
                return;
            }
            if Instant::now() > end {
                self.desk.fail(&format!("after {} s it is {}: {now:?}", NOTICED.as_secs(), now.state));
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The victim can be started again, and runs.
    pub async fn starts_again(&self, pod: &Pod) {
        if self.desk.must("start it again", self.desk.client.start(&pod.name)).await.is_some() {
            self.runs(pod).await;
        }
    }

    /// The victim runs commands, within seconds.
    pub async fn runs(&self, pod: &Pod) {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let said = tokio::time::timeout(NOTICED, self.desk.shell(&pod.name, "echo here")).await;
            match said {
                Ok(Ok(out)) if out == "here\n" => return,
                Ok(Err(_)) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(20)).await,
                other => {
                    self.desk.fail(&format!("{} does not run commands: {other:?}", pod.name));
                    return;
                }
            }
        }
    }

    /// The victim is the very one it was, its memory too, and its log is whole.
    pub async fn is_untouched(&self, pod: &Pod, count: &mut u64) {
        self.runs(pod).await;
        let Some(now) = self.desk.look(&pod.name).await else { return self.desk.lost("it is gone") };
        if (now.state.as_str(), now.sandbox_pid) != ("running", pod.sandbox_pid) {
            self.desk.fail(&format!("it was started anew: {now:?}"));
        }
        self.desk.counts(&now, count).await;
        self.log_is_whole(&now).await;
    }

    pub async fn log_is_whole(&self, pod: &Pod) {
        let Some(lines) = self.desk.must("read the log", numbers(&self.desk.client, &pod.name)).await else { return };
        let gaps = gaps(1, &lines);
        if gaps.lost + gaps.doubled > 0 {
            self.desk.tally.lost_lines(gaps.lost + gaps.doubled, &format!("{}: {gaps:?}", self.desk.me));
        }
    }

    /// There and back, with its memory.
    pub async fn naps(&self, pod: &Pod, count: &mut u64) {
        if self.desk.must("sleep", self.desk.client.sleep(&pod.name, &mut |_| ())).await.is_some() {
            self.wakes(pod, count).await;
        }
    }

    pub async fn wakes(&self, pod: &Pod, count: &mut u64) {
        let how = WakePod::default();
        if let Some(now) = self.desk.must("wake", self.desk.client.wake(&pod.name, &how, &mut |_| ())).await {
            self.runs(&now).await;
            self.desk.counts(&now, count).await;
        }
    }

    pub async fn stops(&self, pod: &Pod) {
        let how = StopPod { grace_seconds: Some(1), signal: None };
        if let Some(now) = self.desk.must("stop", self.desk.client.stop(&pod.name, &how)).await
            && now.state != "stopped"
        {
            self.desk.fail(&format!("stopped, it is {}", now.state));
        }
    }
}

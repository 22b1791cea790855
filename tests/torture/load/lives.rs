//! Short lives: made, run, waited for or stopped, started again, removed; with exit codes and complete logs.

use async_trait::async_trait;
use torpor::api::types::{CreatePod, Pod, ReadySpec, StopPod};

use super::{Desk, Told, Worker};
use crate::daemon::script;
use crate::dice::Dice;
use crate::lines::{gaps, numbers};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Absent,
    Running,
    Stopped,
    /// A create broke off.
    Born,
    /// A stop or start broke off.
    Between,
    /// A removal broke off.
    Dying,
}

pub struct Lives {
    desk: Desk,
    number: u64,
    name: String,
    known: Known,
    /// It ends by itself after that many lines, with that code.
    ends: Option<(u64, i32)>,
    pid: Option<u32>,
}

impl Lives {
    pub fn new(desk: Desk) -> Self {
        Lives { desk, number: 0, name: String::new(), known: Known::Absent, ends: None, pid: None }
    }

    fn plan(&mut self, dice: &mut Dice) -> CreatePod {
        self.number += 1;
        self.name = format!("{}-{}", self.desk.me, self.number);
        if dice.chance(60) {
            let (lines, code) = (50 + dice.below(800), i32::try_from(dice.below(200)).unwrap_or(0));
            self.ends = Some((lines, code));
            let pause = if dice.chance(50) { "usleep 2000" } else { ":" };
            let text =
                format!("n=0; while [ $n -lt {lines} ]; do n=$((n+1)); echo line $n; {pause}; done; exit {code}");
            script(&self.name, &text)
        } else {
            self.ends = None;
            // Stopped before the trap is set it would end of the signal itself.
            let trapped = ["test", "-e", "/dev/shm/trapped"].map(str::to_owned).to_vec();
            let text = "trap 'exit 7' TERM; touch /dev/shm/trapped; while :; do usleep 50000; done";
            CreatePod {
                ready: Some(ReadySpec { exec: Some(trapped), ..ReadySpec::default() }),
                ..script(&self.name, text)
            }
        }
    }

    async fn create(&mut self, dice: &mut Dice) -> bool {
        let pod = self.plan(dice);
        match self.desk.told("create", self.desk.client.create_pod(&pod)).await {
            Told::Done(pod) => {
                (self.known, self.pid) = (Known::Running, pod.sandbox_pid);
                true
            }
            Told::Refused => true,
            Told::Cut => {
                self.known = Known::Born;
                false
            }
        }
    }

    /// Waits for its end: exit code and log.
    async fn ended(&mut self, lines: u64, code: i32) -> bool {
        match self.desk.told("wait", self.desk.client.wait(&self.name)).await {
            Told::Done(end) => {
                if (end.exit_code, end.exit_reason.as_str()) != (code, "exited") {
                    self.desk.fail(&format!("{} ended with {end:?}, not with {code}", self.name));
                }
                self.known = Known::Stopped;
                match self.desk.told("read the log", numbers(&self.desk.client, &self.name)).await {
                    Told::Done(had) => self.complete(lines, &had),
                    Told::Refused => {}
                    Told::Cut => return false,
                }
                true
            }
            Told::Refused => true,
            Told::Cut => false,
        }
    }

    fn complete(&self, lines: u64, had: &[u64]) {
        let mut gaps = gaps(1, had);
        gaps.lost += lines.saturating_sub(had.last().copied().unwrap_or(0));
        if gaps.lost + gaps.doubled > 0 {
            self.desk.tally.lost_lines(
                gaps.lost + gaps.doubled,
                &format!("{} of {lines} lines, {} are there: {gaps:?}", self.name, had.len()),
            );
        }
    }

    async fn stop(&mut self) -> bool {
        let how = StopPod { grace_seconds: Some(5), signal: None };
        match self.desk.told("stop", self.desk.client.stop(&self.name, &how)).await {
            Told::Done(pod) => {
                if (pod.state.as_str(), pod.exit_code) != ("stopped", Some(7)) {
                    self.desk.fail(&format!("stopped, {} is {} with {:?}", pod.name, pod.state, pod.exit_code));
                }
                self.known = Known::Stopped;
                true
            }
            Told::Refused => true,
            Told::Cut => {
                self.known = Known::Between;
                false
            }
        }
    }

    async fn start(&mut self) -> bool {
        match self.desk.told("start", self.desk.client.start(&self.name)).await {
            Told::Done(pod) => {
                (self.known, self.pid) = (Known::Running, pod.sandbox_pid);
                true
            }
            Told::Refused => true,
            Told::Cut => {
                self.known = Known::Between;
                false
            }
        }
    }

    async fn remove(&mut self) -> bool {
        match self.desk.told("remove", self.desk.client.remove(&self.name, true)).await {
            Told::Done(()) => {
                self.known = Known::Absent;
                true
            }
            Told::Refused => true,
            Told::Cut => {
                self.known = Known::Dying;
                false
            }
        }
    }

    async fn check_there(&mut self, now: &Pod) {
        match (self.known, now.state.as_str()) {
            (Known::Running, "stopped") if self.ends.is_some() => {}
            (Known::Running, "running") => {
                if now.sandbox_pid != self.pid {
                    self.desk.fail(&format!("{} was started anew", now.name));
                }
            }
            (Known::Stopped, "stopped") | (Known::Born, "running" | "created" | "stopped") => {}
            (Known::Between | Known::Dying, "running" | "stopped") => {}
            _ => self.desk.lost(&format!("it should be {:?}: {now:?}", self.known)),
        }
        match (self.ends, now.state.as_str()) {
            // A start that was taken back has left the log of its first run as it was.
            (Some((lines, code)), "running" | "stopped") if self.known != Known::Between => {
                self.ended(lines, code).await;
            }
            (None, "running") => {
                let said = self.desk.must("exec after a kill", self.desk.shell(&now.name, "echo here")).await;
                if said.is_some_and(|s| s != "here\n") {
                    self.desk.fail(&format!("{} does not run commands", now.name));
                }
            }
            _ => {}
        }
    }
}

#[async_trait]
impl Worker for Lives {
    async fn act(&mut self, dice: &mut Dice) -> bool {
        match (self.known, self.ends) {
            (Known::Absent, _) => self.create(dice).await,
            (Known::Running, Some((lines, code))) => self.ended(lines, code).await,
            (Known::Running, None) if dice.chance(60) => self.stop().await,
            (Known::Stopped, None) if dice.chance(50) => self.start().await,
            _ => self.remove().await,
        }
    }

    async fn verify(&mut self) {
        let now = self.desk.look(&self.name).await;
        match (self.known, &now) {
            (Known::Absent, Some(p)) => self.desk.lost(&format!("{} was removed, and is there again: {p:?}", p.name)),
            (Known::Running | Known::Stopped | Known::Between, None) => {
                self.desk.lost(&format!("{} is gone", self.name));
            }
            (_, None) => {}
            (_, Some(pod)) => self.check_there(pod).await,
        }
        if now.is_some() {
            self.desk.must("remove after a kill", self.desk.client.remove(&self.name, true)).await;
        }
        self.known = Known::Absent;
    }
}

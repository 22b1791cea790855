//! A pod that is put to sleep and woken, over and over, and keeps a list of what was done in it.

use async_trait::async_trait;
use torpor::api::types::{Pod, WakePod};

use super::{Desk, Told, Worker, talker};
use crate::dice::Dice;
use crate::lines::{gaps, numbers};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Running,
    Sleeping,
    /// A call between the two broke off.
    Either,
}

pub struct Naps {
    desk: Desk,
    name: String,
    pod: Pod,
    known: Known,
    /// A wake broke off since the state was last known: its sandbox may have lived and said something before it went.
    woke_in_vain: u64,
    count: u64,
    marks: Vec<u64>,
    /// A mark whose exec broke off: there, or not.
    perhaps: Option<u64>,
    next: u64,
}

impl Naps {
    pub async fn new(desk: Desk, name: &str) -> Option<Self> {
        let pod = desk.must("create the napping pod", desk.client.create_pod(&talker(name))).await?;
        Some(Naps {
            desk,
            name: name.into(),
            pod,
            known: Known::Running,
            woke_in_vain: 0,
            count: 0,
            marks: Vec::new(),
            perhaps: None,
            next: 1,
        })
    }

    async fn sleep(&mut self) -> bool {
        match self.desk.told("sleep", self.desk.client.sleep(&self.name, &mut |_| ())).await {
            Told::Done(pod) if pod.state == "sleeping" => {
                self.known = Known::Sleeping;
                true
            }
            Told::Done(pod) => {
                self.desk.lost(&format!("a sleep was answered with a pod that is {}", pod.state));
                true
            }
            Told::Refused => true,
            Told::Cut => {
                self.known = Known::Either;
                false
            }
        }
    }

    async fn wake(&mut self) -> bool {
        let how = WakePod::default();
        match self.desk.told("wake", self.desk.client.wake(&self.name, &how, &mut |_| ())).await {
            Told::Done(pod) => {
                (self.known, self.pod) = (Known::Running, pod);
                true
            }
            Told::Refused => true,
            Told::Cut => {
                self.known = Known::Either;
                self.woke_in_vain += 1;
                false
            }
        }
    }

    /// The snapshot before goes when the next one is there, whatever dies in between.
    async fn only_its_own_snapshot(&self) {
        let Some(all) = self.desk.must("list snapshots", self.desk.client.snapshots()).await else { return };
        for s in all.iter().filter(|s| s.pod == self.name && Some(&s.id) != self.pod.snapshot.as_ref()) {
            self.desk.tally.leak(&format!("snapshot {} of {} is named by nobody", s.id, self.name));
        }
    }

    async fn mark(&mut self) -> bool {
        let n = self.next;
        self.next += 1;
        match self.desk.told("exec", self.desk.shell(&self.name, &format!("echo {n} >> /marks"))).await {
            Told::Done(_) => {
                self.marks.push(n);
                true
            }
            Told::Refused => true,
            Told::Cut => {
                self.perhaps = Some(n);
                false
            }
        }
    }
}

#[async_trait]
impl Worker for Naps {
    async fn act(&mut self, dice: &mut Dice) -> bool {
        match self.known {
            Known::Sleeping => self.wake().await,
            Known::Running if dice.chance(50) => self.mark().await,
            Known::Running | Known::Either => self.sleep().await,
        }
    }

    async fn verify(&mut self) {
        let Some(now) = self.desk.look(&self.name).await else {
            self.desk.lost(&format!("{} is gone", self.name));
            return;
        };
        let fits = match self.known {
            Known::Running => now.state == "running",
            Known::Sleeping => now.state == "sleeping",
            Known::Either => matches!(now.state.as_str(), "running" | "sleeping"),
        };
        if !fits {
            self.desk.lost(&format!("{} should be {:?}: {now:?}", self.name, self.known));
        }
        if self.known == Known::Running && now.sandbox_pid != self.pod.sandbox_pid {
            self.desk.fail(&format!("{} was started anew", self.name));
        }
        if now.state != "running" {
            let how = WakePod::default();
            let woken = self.desk.must("wake after a kill", self.desk.client.wake(&self.name, &how, &mut |_| ())).await;
            let Some(pod) = woken else { return };
            self.pod = pod;
        } else {
            self.pod = now;
        }
        self.known = Known::Running;
        self.desk.counts(&self.pod, &mut self.count).await;
        let read = self.desk.must("exec after a kill", self.desk.shell(&self.name, "cat /marks; true")).await;
        let Some(text) = read else { return };
        let found: Vec<u64> = text.lines().filter_map(|l| l.parse().ok()).collect();
        if found != self.marks {
            let with: Vec<u64> = self.marks.iter().copied().chain(self.perhaps).collect();
            if found != with {
                self.desk.lost(&format!("{}: {with:?} was done in it, and it has {found:?}", self.name));
            }
        }
        (self.marks, self.perhaps) = (found, None);
        self.only_its_own_snapshot().await;
        let Some(lines) = self.desk.must("read the log", numbers(&self.desk.client, &self.name)).await else { return };
        let gaps = gaps(1, &lines);
        // A sandbox that was taken back after an interrupted wake has said what the next one says again.
        let doubled = if gaps.rewinds > self.woke_in_vain { gaps.doubled } else { 0 };
        if gaps.lost + doubled > 0 {
            self.desk.tally.lost_lines(gaps.lost + doubled, &format!("{}: {gaps:?}", self.name));
        }
    }
}

//! Snapshots of a pod that goes on, and new pods out of them.

use std::collections::BTreeSet;

use async_trait::async_trait;
use torpor::api::types::Pod;

use super::{Desk, Told, Worker, talker};
use crate::dice::Dice;
use crate::lines::{gaps, numbers};

pub struct Forks {
    desk: Desk,
    base: Pod,
    count: u64,
    /// Snapshots that were acknowledged and not removed, with the count of the base when they were taken.
    snapshots: Vec<(String, u64)>,
    /// A removal of that snapshot broke off.
    perhaps: Option<String>,
    /// The fork that was acknowledged and not removed, and its count.
    fork: Option<(String, u64)>,
    /// A restore or removal of that name broke off.
    fork_perhaps: Option<(String, u64)>,
    number: u64,
}

impl Forks {
    pub async fn new(desk: Desk, name: &str) -> Option<Self> {
        let base = desk.must("create the base of forks", desk.client.create_pod(&talker(name))).await?;
        Some(Forks {
            desk,
            base,
            count: 0,
            snapshots: Vec::new(),
            perhaps: None,
            fork: None,
            fork_perhaps: None,
            number: 0,
        })
    }

    async fn snapshot(&mut self) -> bool {
        match self.desk.told("snapshot", self.desk.client.snapshot(&self.base.name, &mut |_| ())).await {
            Told::Done(s) => {
                self.snapshots.push((s.id, self.count));
                true
            }
            Told::Refused => true,
            Told::Cut => false,
        }
    }

    async fn restore(&mut self, at: usize) -> bool {
        let (id, count) = self.snapshots[at].clone();
        self.number += 1;
        let name = format!("{}-fork-{}", self.base.name, self.number);
        let mut quiet = |_| ();
        let call = self.desk.client.restore_snapshot(&id, Some(name.clone()), &mut quiet);
        match self.desk.told("restore", call).await {
            Told::Done(_) => {
                self.fork = Some((name, count));
                true
            }
            Told::Refused => true,
            Told::Cut => {
                self.fork_perhaps = Some((name, count));
                false
            }
        }
    }

    async fn remove_fork(&mut self) -> bool {
        let Some((name, count)) = self.fork.take() else { return true };
        match self.desk.told("remove a fork", self.desk.client.remove(&name, true)).await {
            Told::Done(()) | Told::Refused => true,
            Told::Cut => {
                self.fork_perhaps = Some((name, count));
                false
            }
        }
    }

    async fn remove_snapshot(&mut self) -> bool {
        let (id, _) = self.snapshots.remove(0);
        match self.desk.told("remove a snapshot", self.desk.client.remove_snapshot(&id)).await {
            Told::Done(()) | Told::Refused => true,
            Told::Cut => {
                self.perhaps = Some(id);
                false
            }
        }
    }

    async fn check_fork(&mut self, name: &str, mut count: u64) {
        let Some(pod) = self.desk.look(name).await else { return };
        if pod.state != "running" {
            self.desk.fail(&format!("a fork is half there: {pod:?}"));
            return;
        }
        self.desk.counts(&pod, &mut count).await;
        let Some(lines) = self.desk.must("read a fork's log", numbers(&self.desk.client, name)).await else { return };
        let gaps = gaps(lines.first().copied().unwrap_or(1), &lines);
        if gaps.lost + gaps.doubled > 0 {
            self.desk.tally.lost_lines(gaps.lost + gaps.doubled, &format!("{name}: {gaps:?}"));
        }
    }

    async fn check_snapshots(&mut self) {
        let Some(all) = self.desk.must("list snapshots", self.desk.client.snapshots()).await else { return };
        let there: BTreeSet<String> = all.into_iter().filter(|s| s.pod == self.base.name).map(|s| s.id).collect();
        for (id, _) in &self.snapshots {
            if !there.contains(id) {
                self.desk.lost(&format!("snapshot {id} is gone"));
            }
        }
        let known: BTreeSet<&String> = self.snapshots.iter().map(|(id, _)| id).collect();
        let more: Vec<&String> = there.iter().filter(|id| !known.contains(id)).collect();
        if more.len() > 1 {
            self.desk.lost(&format!("snapshots {more:?} were removed, or never there"));
        }
        for id in more {
            // Visible means whole.
            let name = format!("{}-whole", self.base.name);
            let mut quiet = |_| ();
            let made = self.desk.client.restore_snapshot(id, Some(name.clone()), &mut quiet);
            if self.desk.must("restore a snapshot whose call broke off", made).await.is_some() {
                self.desk.must("remove its fork", self.desk.client.remove(&name, true)).await;
            }
            self.desk.must("remove it", self.desk.client.remove_snapshot(id)).await;
        }
        self.perhaps = None;
    }
}

#[async_trait]
impl Worker for Forks {
    async fn act(&mut self, dice: &mut Dice) -> bool {
        if self.fork.is_some() && dice.chance(60) {
            return self.remove_fork().await;
        }
        match self.snapshots.len() {
            0 => self.snapshot().await,
            n if self.fork.is_none() => {
                let at = dice.below(n as u64) as usize;
                self.restore(at).await
            }
            n if n > 1 || dice.chance(50) => self.remove_snapshot().await,
            _ => self.snapshot().await,
        }
    }

    async fn verify(&mut self) {
        let Some(now) = self.desk.look(&self.base.name).await else {
            self.desk.lost(&format!("{} is gone", self.base.name));
            return;
        };
        let before = ("running", self.base.sandbox_pid, self.base.incarnation);
        if (now.state.as_str(), now.sandbox_pid, now.incarnation) != before {
            self.desk.fail(&format!("{} was {before:?} and is now {now:?}", now.name));
        }
        self.desk.counts(&now, &mut self.count).await;
        let Some(lines) = self.desk.must("read the log", numbers(&self.desk.client, &now.name)).await else { return };
        let gaps = gaps(1, &lines);
        if gaps.lost + gaps.doubled > 0 {
            self.desk.tally.lost_lines(gaps.lost + gaps.doubled, &format!("{}: {gaps:?}", now.name));
        }
        if let Some((name, count)) = self.fork.clone() {
            if self.desk.look(&name).await.is_none() {
                self.desk.lost(&format!("{name} is gone"));
            }
            self.check_fork(&name, count).await;
        }
        if let Some((name, count)) = self.fork_perhaps.take() {
            self.check_fork(&name, count).await;
            if self.desk.look(&name).await.is_some() {
                self.desk.must("remove a fork", self.desk.client.remove(&name, true)).await;
            }
        }
        if self.fork.take().is_some() {
            for pod in self.desk.must("list pods", self.desk.client.pods()).await.unwrap_or_default() {
                if pod.name.starts_with(&format!("{}-fork-", self.base.name)) {
                    self.desk.must("remove a fork", self.desk.client.remove(&pod.name, true)).await;
                }
            }
        }
        self.check_snapshots().await;
    }
}

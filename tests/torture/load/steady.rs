//! A pod that nobody changes: it must not notice that torpord dies.

use async_trait::async_trait;
use futures::StreamExt;
use torpor::api::types::Pod;

use super::{Desk, Told, Worker, talker};
use crate::dice::Dice;
use crate::lines::{gaps, number, numbers};

pub struct Steady {
    desk: Desk,
    pod: Pod,
    count: u64,
    /// Lines that were in the log when it was last looked at.
    had: u64,
}

impl Steady {
    pub async fn new(desk: Desk, name: &str) -> Option<Self> {
        let pod = desk.must("create the steady pod", desk.client.create_pod(&talker(name))).await?;
        Some(Steady { desk, pod, count: 0, had: 0 })
    }

    /// Follows its log until torpord is gone.
    async fn follow(&mut self) -> bool {
        let Told::Done(lines) =
            self.desk.told("follow the log", self.desk.client.logs(&self.pod.name, "follow=true&tail=20")).await
        else {
            return false;
        };
        let mut lines = std::pin::pin!(lines);
        let mut seen = Vec::new();
        while let Some(Ok(line)) = lines.next().await {
            seen.extend(number(&line.line));
        }
        let gaps = gaps(seen.first().copied().unwrap_or(1), &seen);
        if gaps.lost + gaps.doubled > 0 {
            self.desk.tally.lost_lines(gaps.lost + gaps.doubled, &format!("followed {}: {gaps:?}", self.pod.name));
        }
        false
    }
}

#[async_trait]
impl Worker for Steady {
    async fn act(&mut self, dice: &mut Dice) -> bool {
        if dice.chance(25) {
            return self.follow().await;
        }
        let n = dice.below(1000);
        match self.desk.told("exec", self.desk.shell(&self.pod.name, &format!("echo {n}"))).await {
            Told::Done(out) if out == format!("{n}\n") => true,
            Told::Done(out) => {
                self.desk.fail(&format!("echo {n} printed {out:?}"));
                true
            }
            Told::Refused => true,
            Told::Cut => false,
        }
    }

    async fn verify(&mut self) {
        let Some(now) = self.desk.look(&self.pod.name).await else {
            self.desk.lost(&format!("{} is gone", self.pod.name));
            return;
        };
        let before = ("running", self.pod.sandbox_pid, self.pod.incarnation);
        if (now.state.as_str(), now.sandbox_pid, now.incarnation) != before {
            self.desk.fail(&format!(
                "{} was {before:?} and is {}, {:?}, {}",
                now.name, now.state, now.sandbox_pid, now.incarnation
            ));
        }
        self.desk.counts(&now, &mut self.count).await;
        let Some(lines) = self.desk.must("read the log", numbers(&self.desk.client, &now.name)).await else { return };
        let gaps = gaps(1, &lines);
        if gaps.lost + gaps.doubled > 0 {
            self.desk.tally.lost_lines(gaps.lost + gaps.doubled, &format!("{}: {gaps:?}", now.name));
        }
        let last = lines.last().copied().unwrap_or(0);
        if last <= self.had {
            self.desk.fail(&format!("{} is silent since line {last}", now.name));
        }
        self.had = last;
    }
}

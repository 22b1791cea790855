//! R1: whole lives, four at once, with nothing going wrong: everything succeeds, nothing stays, torpord does not grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::daemon::{self, Daemon, Options};
use crate::dice::Dice;
use crate::lines::gaps;
use crate::load::{Desk, talker};
use crate::rest;
use crate::tally::Tally;

const AT_ONCE: u64 = 4;
/// Lives after which torpord has the size that it keeps.
const WARM: u64 = 40;

pub async fn lives(tally: &Arc<Tally>, trials: u64, seed: u64) {
    let d = Daemon::with(Options::default());
    d.import("test").await;
    let next = Arc::new(AtomicU64::new(0));
    many(&d, tally, &next, trials.min(WARM), seed).await;
    let pid = d.pid().unwrap_or(0);
    let before = (rest::descriptors(pid), rest::resident(pid));
    many(&d, tally, &next, trials, seed).await;
    let after = (rest::descriptors(pid), rest::resident(pid));
    // Idle connections, a worker thread, and two processes that wait for the next change of forwards with four each, more or less;
    // not one for each life.
    if after.0 > before.0 + 16 {
        tally.leak(&format!("{} open descriptors, {} before", after.0, before.0));
    }
    if trials > WARM && after.1 > before.1 + before.1 / 20 + 4096 {
        tally.leak(&format!("{} KiB resident, {} before", after.1, before.1));
    }
    rest::empty(&d, tally).await;
    rest::end(d, tally);
}

async fn many(d: &Daemon, tally: &Arc<Tally>, next: &Arc<AtomicU64>, until: u64, seed: u64) {
    let busy: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let desk = Desk { client: d.client.clone(), tally: Arc::clone(tally), me: "life" };
            let next = Arc::clone(next);
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= until {
                        next.fetch_sub(1, Ordering::Relaxed);
                        return;
                    }
                    desk.tally.begin_trial();
                    life(&desk, n, &mut Dice::new(seed, &[n])).await;
                }
            })
        })
        .collect();
    for task in busy {
        if let Err(e) = task.await {
            tally.fail(&format!("a client ended: {e}"));
        }
    }
}

async fn life(desk: &Desk, n: u64, dice: &mut Dice) {
    let name = format!("life-{n}");
    let code = i32::try_from(dice.below(200)).unwrap_or(0);
    if dice.chance(50) {
        let Some(pod) = desk.must("create", desk.client.create_pod(&talker(&name))).await else { return };
        let said = desk.must("exec", desk.shell(&name, &format!("echo {n}"))).await;
        if said.is_some_and(|s| s != format!("{n}\n")) {
            desk.fail(&format!("{name} does not run commands"));
        }
        desk.counts(&pod, &mut 0).await;
        desk.must("remove", desk.client.remove(&name, true)).await;
        return;
    }
    let text = format!("n=0; while [ $n -lt 200 ]; do n=$((n+1)); echo line $n; done; exit {code}");
    if desk.must("create", desk.client.create_pod(&daemon::script(&name, &text))).await.is_none() {
        return;
    }
    if let Some(end) = desk.must("wait", desk.client.wait(&name)).await
        && (end.exit_code, end.exit_reason.as_str()) != (code, "exited")
    {
        desk.fail(&format!("{name} ended with {end:?}, not with {code}"));
    }
    if let Some(lines) = desk.must("read the log", crate::lines::numbers(&desk.client, &name)).await {
        let mut gaps = gaps(1, &lines);
        gaps.lost += 200_u64.saturating_sub(lines.last().copied().unwrap_or(0));
        if gaps.lost + gaps.doubled > 0 {
            desk.tally.lost_lines(gaps.lost + gaps.doubled, &format!("{name}: {gaps:?}"));
        }
    }
    desk.must("remove", desk.client.remove(&name, false)).await;
}

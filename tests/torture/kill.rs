//! R2: torpord is killed at random times under mixed load.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Options};
use crate::dice::Dice;
use crate::load::{Desk, Forks, Lives, Naps, Steady, Worker};
use crate::rest;
use crate::tally::Tally;

/// Trials with the same pods; then all of them go and nothing may be left.
const BATCH: u64 = 25;
/// torpord is ready again within that.
const READY: Duration = Duration::from_secs(5);
/// The latest moment of a kill after the clients begin.
const WINDOW_MS: u64 = 1200;

async fn crew(d: &Daemon, tally: &Arc<Tally>) -> Vec<Box<dyn Worker>> {
    let desk = |me| Desk { client: d.client.clone(), tally: Arc::clone(tally), me };
    let mut crew: Vec<Box<dyn Worker>> = Vec::new();
    if let Some(w) = Steady::new(desk("steady"), "steady").await {
        crew.push(Box::new(w));
    }
    if let Some(w) = Naps::new(desk("naps"), "naps").await {
        crew.push(Box::new(w));
    }
    if let Some(w) = Forks::new(desk("forks"), "base").await {
        crew.push(Box::new(w));
    }
    crew.push(Box::new(Lives::new(desk("lives"))));
    crew
}

/// Kills torpord `trials` times.
pub async fn torpord(tally: &Arc<Tally>, trials: u64, seed: u64) {
    let mut d = Daemon::with(Options::default());
    d.import("test").await;
    let mut done = 0;
    while done < trials {
        let mut crew = crew(&d, tally).await;
        for _ in 0..BATCH.min(trials - done) {
            done += 1;
            tally.begin_trial();
            crew = trial(&mut d, tally, crew, seed, done).await;
        }
        drop(crew);
        rest::empty(&d, tally).await;
    }
    rest::end(d, tally);
}

async fn trial(
    d: &mut Daemon,
    tally: &Arc<Tally>,
    crew: Vec<Box<dyn Worker>>,
    seed: u64,
    number: u64,
) -> Vec<Box<dyn Worker>> {
    let moment = Dice::new(seed, &[number]).below(WINDOW_MS);
    let busy: Vec<_> = crew
        .into_iter()
        .enumerate()
        .map(|(at, mut worker)| {
            let mut dice = Dice::new(seed, &[number, at as u64 + 1]);
            tokio::spawn(async move {
                while worker.act(&mut dice).await {}
                worker
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(moment)).await;
    d.kill();
    let mut crew = Vec::new();
    for worker in busy {
        match worker.await {
            Ok(worker) => crew.push(worker),
            Err(e) => tally.fail(&format!("a client ended: {e}")),
        }
    }
    tally.recovered(d.launch(), READY);
    let begun = Instant::now();
    for worker in &mut crew {
        worker.verify().await;
    }
    if std::env::var_os("TORTURE_TIMES").is_some() {
        eprintln!("trial {number}: killed after {moment} ms, looked at in {} ms", begun.elapsed().as_millis());
    }
    crew
}

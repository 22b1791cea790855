//! `scripts/torture`: what must hold whatever dies, tried over and over with real sandboxes; one line of figures a row.
//!
//! Rows bear the names of the scorecard: R1 lifecycles, R2 a killed torpord, R8 faults of the runtime, R11 many pods at a
//! start, R12 a flushed firewall. Every random choice follows from the seed that is printed.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    unreachable_pub,
    missing_docs,
    reason = "tests"
)]

#[allow(dead_code, reason = "made for other tests too")]
#[path = "../e2e/daemon.rs"]
mod daemon;
#[path = "../support/dice.rs"]
mod dice;
mod engine;
mod faults;
mod flush;
mod kill;
mod lifecycle;
mod lines;
mod load;
mod many;
mod rest;
#[path = "../support/mod.rs"]
mod support;
mod tally;

use std::process::ExitCode;
use std::sync::Arc;

use tally::Tally;

/// A row's name and its number of trials.
const ROWS: [(&str, u64); 6] = [("R1", 1500), ("R2", 250), ("R8", 98), ("R8hang", 8), ("R11", 6), ("R12", 15)];

struct Arguments {
    json: bool,
    rows: Vec<(&'static str, u64)>,
    seed: u64,
}

fn arguments(args: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut found = Arguments { json: false, rows: Vec::new(), seed: 0 };
    let (mut trials, mut seed) = (None, None);
    let mut args = args;
    while let Some(arg) = args.next() {
        let mut number = |flag: &str| -> Result<u64, String> {
            let value = args.next().ok_or_else(|| format!("{flag} needs a number"))?;
            value.parse().map_err(|_| format!("{flag} {value}: no number"))
        };
        match arg.as_str() {
            "--json" => found.json = true,
            "--trials" => trials = Some(number("--trials")?),
            "--seed" => seed = Some(number("--seed")?),
            name => match ROWS.iter().find(|(row, _)| *row == name) {
                Some(row) => found.rows.push(*row),
                None => {
                    let known: Vec<&str> = ROWS.iter().map(|(r, _)| *r).collect();
                    return Err(format!("{name} is no row: {}", known.join(" ")));
                }
            },
        }
    }
    if found.rows.is_empty() {
        found.rows = ROWS.to_vec();
    }
    if let Some(n) = trials {
        found.rows.iter_mut().for_each(|r| r.1 = n);
    }
    found.seed = match seed {
        Some(seed) => seed,
        None => {
            let mut raw = [0; 4];
            getrandom::fill(&mut raw).map_err(|e| e.to_string())?;
            u64::from(u32::from_le_bytes(raw))
        }
    };
    Ok(found)
}

fn main() -> ExitCode {
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(a) => a,
        Err(e) => {
            eprintln!("{e}\nusage: scripts/torture [--json] [ROW...] [--trials N] [--seed S]");
            return ExitCode::from(2);
        }
    };
    if !daemon::ready() {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut clean = true;
    for (row, trials) in &arguments.rows {
        let tally = Arc::new(Tally::new(row));
        eprintln!("{row}: {trials} trials, seed {}", arguments.seed);
        runtime.block_on(run(row, &tally, *trials, arguments.seed));
        println!("{}", tally.line(arguments.json, arguments.seed));
        clean &= tally.is_clean();
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(row: &str, tally: &Arc<Tally>, trials: u64, seed: u64) {
    match row {
        "R1" => lifecycle::lives(tally, trials, seed).await,
        "R8" => faults::runtime(tally, trials).await,
        "R8hang" => faults::hangs(tally).await,
        "R11" => many::pods(tally, trials).await,
        "R12" => flush::firewall(tally, trials).await,
        "R2" => kill::torpord(tally, trials, seed).await,
        _ => tally.fail("no such row"),
    }
}

//! Feeds `iptables-restore`; looks for what is ours in `iptables-save`.

use std::collections::BTreeSet;
use std::path::Path;

use crate::host::command::{self, EngineCommand};
use crate::model::{Attempt, Code, Error, Result};
use crate::plan::firewall::{ForwardTo, HostChains};
use crate::plan::network::Addressing;

/// Seconds to wait for another program that holds the lock.
const WAIT: &str = "5";

fn advise(e: Error) -> Error {
    e.hint("is iptables installed, and does torpord have CAP_NET_ADMIN? `torpor doctor` tells")
}

/// One change, whole or not at all for each table. Chains that are declared are emptied first, others left alone.
pub(super) async fn restore(text: &str) -> Result<()> {
    let command = EngineCommand::new("iptables-restore", ["--noflush", "-w", WAIT]);
    let done = command::run(&command, text.as_bytes()).await;
    done.attempt(Code::Internal, || "change the host's firewall".into()).map(drop).map_err(advise)
}

/// Whole tables of another namespace.
pub(super) async fn restore_in(netns: &Path, text: &str) -> Result<()> {
    run_in(netns, &["-w", WAIT], text).await
}

/// One change of another namespace's tables.
pub(super) async fn change_in(netns: &Path, text: &str) -> Result<()> {
    run_in(netns, &["--noflush", "-w", WAIT], text).await
}

async fn run_in(netns: &Path, args: &[&str], text: &str) -> Result<()> {
    let mut command = EngineCommand::new("iptables-restore", args.iter().copied());
    command.netns = Some(netns.to_owned());
    let done = command::run(&command, text.as_bytes()).await;
    done.attempt(Code::Internal, || "set the router's firewall".into()).map(drop).map_err(advise)
}

async fn iptables(args: &[&str]) -> Result<()> {
    let command = EngineCommand::new("iptables", ["-w", WAIT].iter().chain(args).copied());
    command::run(&command, &[]).await.map(drop)
}

async fn save() -> Result<String> {
    let out = command::run(&EngineCommand::new("iptables-save", [""; 0]), &[]).await;
    let out = out.attempt(Code::Internal, || "read the host's firewall".into()).map_err(advise)?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whether a saved rule jumps from `chain` to `to`.
fn has_jump(saved: &str, chain: &str, to: &str) -> bool {
    saved.lines().any(|l| l.starts_with(&format!("-A {chain} ")) && l.ends_with(&format!("-j {to}")))
}

/// Puts the jumps to our chains first in the built-in ones, where they are missing.
pub(super) async fn ensure_jumps(chains: &HostChains) -> Result<()> {
    let saved = save().await?;
    for (table, chain, rule) in chains.jumps() {
        if rule.last().is_some_and(|to| has_jump(&saved, chain, to)) {
            continue;
        }
        let mut args = vec!["-t", table, "-I", chain, "1"];
        args.extend(rule.iter().map(String::as_str));
        iptables(&args).await.attempt(Code::Internal, || format!("add our jump to {chain}")).map_err(advise)?;
    }
    Ok(())
}

/// Whether jumps, chains and all forwards are there.
pub(super) async fn is_whole(
    chains: &HostChains,
    network: &Addressing,
    forwards: &BTreeSet<ForwardTo>,
) -> Result<bool> {
    let saved = save().await?;
    let jumps = chains.jumps().iter().all(|(_, chain, rule)| rule.last().is_some_and(|to| has_jump(&saved, chain, to)));
    let ours = |chain: &str| saved.lines().filter(|l| l.starts_with(&format!("-A {chain} "))).count();
    let all: Vec<ForwardTo> = forwards.iter().copied().collect();
    let wanted = chains.content(network, &all);
    let rules = chains
        .chains()
        .iter()
        .all(|(_, chain)| ours(chain) == wanted.lines().filter(|l| l.starts_with(&format!("-A {chain} "))).count());
    Ok(jumps && rules)
}

/// Removes jumps and chains. Not there: nothing to do.
pub(super) async fn remove(chains: &HostChains) -> Result<()> {
    let saved = save().await?;
    for (table, chain, rule) in chains.jumps() {
        if rule.last().is_some_and(|to| has_jump(&saved, chain, to)) {
            let mut args = vec!["-t", table, "-D", chain];
            args.extend(rule.iter().map(String::as_str));
            iptables(&args).await.attempt(Code::Internal, || format!("remove our jump from {chain}"))?;
        }
    }
    for (table, chain) in chains.chains() {
        if saved.lines().any(|l| l.starts_with(&format!(":{chain} "))) {
            for flag in ["-F", "-X"] {
                iptables(&["-t", table, flag, chain])
                    .await
                    .attempt(Code::Internal, || format!("remove chain {chain}"))?;
            }
        }
    }
    Ok(())
}

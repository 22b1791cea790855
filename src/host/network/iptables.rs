//! Feeds `iptables-restore`; looks for what is ours in `iptables-save`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::host::command::{self, Ahead, EngineCommand};
use crate::model::{Attempt, Code, Error, Result};
use crate::plan::firewall::{ForwardTo, HostChains};
use crate::plan::network::Addressing;

/// Seconds to wait for another program that holds the lock.
const WAIT: &str = "5";
/// How long after a change a process is started for the next one: it would take the processor from the pod that starts.
const PAUSE: Duration = Duration::from_millis(200);

fn advise(e: Error) -> Error {
    e.hint("is iptables installed, and does torpord have CAP_NET_ADMIN? `torpor doctor` tells")
}

/// What takes one change, whole or not at all for each table. Chains that are declared are emptied first, others left alone.
fn change(netns: Option<&Path>) -> EngineCommand {
    let mut command = EngineCommand::new("iptables-restore", ["--noflush", "-w", WAIT]);
    command.netns = netns.map(Path::to_owned);
    command
}

/// Whole chains of the host. Never by a process that waits: this is done when one has failed.
pub(super) async fn restore(text: &str) -> Result<()> {
    let done = command::run(&change(None), text.as_bytes()).await;
    done.attempt(Code::Internal, || "change the host's firewall".into()).map(drop).map_err(advise)
}

/// Whole tables of another namespace.
pub(super) async fn restore_in(netns: &Path, text: &str) -> Result<()> {
    let mut command = EngineCommand::new("iptables-restore", ["-w", WAIT]);
    command.netns = Some(netns.to_owned());
    let done = command::run(&command, text.as_bytes()).await;
    done.attempt(Code::Internal, || "set the router's firewall".into()).map(drop).map_err(advise)
}

/// Small changes of one namespace's tables, each by a process that was started after the change before.
///
/// What `iptables-restore` takes is its start above all. While it waits for its text it has read nothing of the kernel's tables
/// and holds no lock: both variants begin with that at the text's first line. Nothing wakes it, and it has 0.5 MiB (PSS).
pub(super) struct Changes {
    command: EngineCommand,
    spare: Arc<Mutex<Option<Ahead>>>,
}

impl Changes {
    /// Of the host's tables; or of those of the namespace that `netns` leads to whenever a change is made.
    pub(super) fn of(netns: Option<&Path>) -> Self {
        Changes { command: change(netns), spare: Arc::default() }
    }

    /// Makes one, whole or not at all. After an error it may have been made nevertheless: the process may have been killed
    /// at its last step.
    pub(super) async fn make(&self, text: &str) -> Result<()> {
        let mut spare = self.spare.lock().await.take();
        let done = match spare.take_if(Ahead::waits) {
            Some(spare) => spare.feed(text.as_bytes()).await,
            // None yet, it was killed, or it is in a namespace that was there before.
            None => command::run(&self.command, text.as_bytes()).await,
        };
        done.attempt(Code::Internal, || "change forwards in the firewall".into()).map(drop).map_err(advise)
    }

    /// Sees to a process for the next change, once the start of the pod that this one was made for is over. Nobody waits for
    /// it: what fails here is done, and told, when a change is made.
    pub(super) fn prepare(&self) {
        let (spare, command) = (Arc::downgrade(&self.spare), self.command.clone());
        tokio::spawn(async move {
            tokio::time::sleep(PAUSE).await;
            if let Some(spare) = spare.upgrade() {
                start_ahead(&spare, &command).await;
            }
        });
    }

    /// Ends the process that waits: a namespace would stay as long as it does.
    pub(super) async fn end(&self) {
        if let Some(spare) = self.spare.lock().await.take() {
            spare.end().await;
        }
    }
}

async fn start_ahead(spare: &Mutex<Option<Ahead>>, command: &EngineCommand) {
    let mut spare = spare.lock().await;
    if spare.is_none() {
        *spare = Ahead::start(command).await.ok();
    }
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::host::network::netns;

    /// A namespace of its own, and changes in it that write down each process they start.
    struct Tables {
        dir: tempfile::TempDir,
        changes: Changes,
    }

    impl Tables {
        /// None without root.
        async fn new() -> Option<Self> {
            if !nix::unistd::geteuid().is_root() {
                return None;
            }
            let dir = tempfile::tempdir_in("/run").unwrap();
            let netns = dir.path().join("netns");
            netns::ensure(&netns, "").await.unwrap();
            let mut changes = Changes::of(Some(&netns));
            let script = "echo $$ >>$0/started; exec iptables-restore \"$@\"";
            let ahead = ["-c".into(), script.into(), dir.path().into()];
            changes.command.args.splice(..0, ahead);
            changes.command.program = "/bin/sh".into();
            Some(Tables { dir, changes })
        }

        fn netns(&self) -> PathBuf {
            self.dir.path().join("netns")
        }

        fn started(&self) -> Vec<i32> {
            let text = std::fs::read_to_string(self.dir.path().join("started")).unwrap_or_default();
            text.lines().map(|l| l.parse().unwrap()).collect()
        }

        /// Adds the rule that drops what comes to that port.
        async fn close(&self, port: u16) -> Result<()> {
            self.changes.make(&format!("*filter\n-A INPUT -p tcp --dport {port} -j DROP\nCOMMIT\n")).await
        }

        async fn closed(&self) -> Vec<String> {
            let mut save = EngineCommand::new("iptables-save", [""; 0]);
            save.netns = Some(self.netns());
            let saved = String::from_utf8(command::run(&save, &[]).await.unwrap().stdout).unwrap();
            let rules = saved.lines().filter_map(|l| l.split_once("--dport "));
            rules.map(|(_, rule)| rule.split(' ').next().unwrap().to_owned()).collect()
        }

        /// The process that waits for a change, once it has written that down.
        async fn prepared(&self) -> i32 {
            start_ahead(&self.changes.spare, &self.changes.command).await;
            let begun = Instant::now();
            loop {
                let waits = self.changes.spare.lock().await.as_ref().and_then(Ahead::pid);
                if let Some(pid) = waits.and_then(|p| i32::try_from(p).ok())
                    && self.started().contains(&pid)
                {
                    return pid;
                }
                assert!(begun.elapsed() < Duration::from_secs(30), "none was started");
                tokio::task::yield_now().await;
            }
        }
    }

    impl Drop for Tables {
        fn drop(&mut self) {
            let _ = netns::remove(&self.netns());
        }
    }

    #[tokio::test]
    async fn a_change_is_made_by_the_process_that_waits_for_it() {
        let Some(tables) = Tables::new().await else { return };
        tables.close(1).await.unwrap();
        assert_eq!(tables.started().len(), 1, "the first one without");
        let spare = tables.prepared().await;
        assert_eq!(tables.prepared().await, spare, "one waits already");
        tables.close(2).await.unwrap();
        assert_eq!(tables.started().len(), 2, "by the one that waited");
        assert!(!Path::new("/proc").join(spare.to_string()).exists());
        tables.close(3).await.unwrap();
        assert_eq!((tables.closed().await, tables.started().len()), (vec!["1".into(), "2".into(), "3".into()], 3));
        // What is wrong is told as ever, and changes nothing.
        tables.prepared().await;
        let e = tables.changes.make("*filter\n-A INPUT -j DROP\n-A NONE -j DROP\nCOMMIT\n").await.unwrap_err();
        assert!(e.report().contains("NONE") || e.report().contains("line 3"), "{}", e.report());
        assert_eq!((tables.closed().await.len(), tables.started().len()), (3, 4));
        // Let go, none is left.
        let spare = tables.prepared().await;
        tables.changes.end().await;
        assert!(!Path::new("/proc").join(spare.to_string()).exists());
    }

    #[tokio::test]
    async fn one_that_was_killed_is_replaced_and_the_change_made_once() {
        use nix::sys::signal::{Signal, kill};
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        let Some(tables) = Tables::new().await else { return };
        let spare = nix::unistd::Pid::from_raw(tables.prepared().await);
        kill(spare, Signal::SIGKILL).unwrap();
        waitid(Id::Pid(spare), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        tables.close(1).await.unwrap();
        assert_eq!((tables.closed().await, tables.started().len()), (vec!["1".into()], 2));
        // Killed while it is fed: nobody knows whether it was made, so nobody makes it again.
        let spare = nix::unistd::Pid::from_raw(tables.prepared().await);
        kill(spare, Signal::SIGSTOP).unwrap();
        let killer = async {
            while tables.changes.spare.lock().await.is_some() {
                tokio::task::yield_now().await;
            }
            kill(spare, Signal::SIGKILL).unwrap();
        };
        assert!(tokio::join!(tables.close(2), killer).0.is_err());
        assert_eq!((tables.closed().await, tables.started().len()), (vec!["1".into()], 3));
    }

    #[tokio::test]
    async fn a_namespace_that_was_made_anew_gets_a_process_of_its_own() {
        let Some(tables) = Tables::new().await else { return };
        tables.prepared().await;
        netns::remove(&tables.netns()).unwrap();
        netns::ensure(&tables.netns(), "").await.unwrap();
        tables.close(1).await.unwrap();
        assert_eq!((tables.closed().await, tables.started().len()), (vec!["1".into()], 2));
    }
}

//! `update`.

use clap::Args;

use super::output::Failure;
use crate::api::types::{Size, UpdatePod};

/// What may become of a pod when its host is shut down.
pub(super) const ON_SHUTDOWN: [&str; 2] = ["stop", "sleep"];

#[derive(Debug, Args)]
pub(super) struct Update {
    /// Set a label
    #[arg(short, long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Take a label away
    #[arg(long, value_name = "NAME")]
    label_rm: Vec<String>,
    /// Processors, such as 0.5
    #[arg(long)]
    cpus: Option<f64>,
    /// Memory, such as 512m
    #[arg(short, long)]
    memory: Option<String>,
    /// Processes and threads
    #[arg(long)]
    pids_limit: Option<u32>,
    /// no, on-failure[:MAX], unless-stopped or always
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// What becomes of it when the host is shut down while it runs
    #[arg(long, value_name = "WHAT", value_parser = ON_SHUTDOWN)]
    on_shutdown: Option<String>,
    #[arg(required = true)]
    pub(super) pods: Vec<String>,
}

impl Update {
    /// What is asked for.
    pub(super) fn request(&self) -> Result<UpdatePod, Failure> {
        let set = self.label.iter().map(|l| match l.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (l.clone(), Some(String::new())),
        });
        let request = UpdatePod {
            labels: set.chain(self.label_rm.iter().map(|l| (l.clone(), None))).collect(),
            cpus: self.cpus,
            memory: self.memory.clone().map(Size::Text),
            pids: self.pids_limit,
            restart: self.restart.clone(),
            on_shutdown: self.on_shutdown.clone(),
        };
        if request == UpdatePod::default() {
            return Err(Failure::Own("nothing to change was given".into()));
        }
        Ok(request)
    }
}

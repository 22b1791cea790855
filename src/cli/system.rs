//! `system info` and `system df`.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use futures::StreamExt;

use super::output::{self, Failure, bytes, say};
use super::prune::{self, SystemPrune};
use crate::api::client::Client;
use crate::api::types::capacity::{Budget, Capacity};
use crate::api::types::system::Usage;

#[derive(Debug, Subcommand)]
pub(super) enum System {
    /// Show what the host has room for: how many pods of which size
    Info,
    /// Show what takes room on the disk
    Df,
    /// Remove what nothing uses: stopped pods, layers, raw images
    Prune(SystemPrune),
    /// Let torpord read its configuration anew
    Reload,
    /// Put pods to sleep or stop them, as each one's onShutdown says, before the host is shut down; torpord brings them back when it
    /// starts again
    HostDown,
    /// Show what torpord logs, or change it until its next start
    Log {
        /// Such as info, debug, or info,torpor::host=debug
        filter: Option<String>,
    },
    /// Write all that torpord keeps on its host into an archive; pods go on meanwhile
    Backup {
        /// A new file, or - for standard output
        file: String,
    },
    /// Put a backup into a state directory of this host that has no state; torpord must not run
    Restore {
        /// The archive
        file: PathBuf,
        /// Where the state goes, in the place of what torpord's configuration says
        #[arg(long, value_name = "DIR")]
        state_dir: Option<PathBuf>,
    },
}

/// Does what was typed.
pub(super) async fn run(client: &Client, command: System, json: bool) -> Result<u8, Failure> {
    match command {
        System::Info => {
            let capacity = client.capacity().await?;
            if json {
                output::json(&capacity);
            } else {
                let version = client.version().await?;
                say!("torpord  {} (instance {})", version.version, version.instance);
                say!("engine   {}", version.engine.as_deref().unwrap_or("none"));
                info(&capacity);
            }
        }
        System::Df => df(client, json).await?,
        System::Prune(args) => return prune::system(client, &args, json).await,
        System::Reload => reload(client, json).await?,
        System::HostDown => return host_down(client, json).await,
        System::Log { filter } => {
            let now = match filter {
                Some(filter) => client.set_log_filter(&filter).await?,
                None => client.log_filter().await?,
            };
            if json { output::json(&now) } else { say!("{}", now.filter) }
        }
        System::Backup { file } => backup(client, &file).await?,
        System::Restore { file, state_dir } => return restore(&file, state_dir.as_deref()),
    }
    Ok(0)
}

async fn reload(client: &Client, json: bool) -> Result<(), Failure> {
    let done = client.reload().await?;
    if json {
        output::json(&done);
        return Ok(());
    }
    let tell = |what: &str, keys: &[String]| {
        if !keys.is_empty() {
            say!("{what}: {}", keys.join(", "));
        }
    };
    tell("changed", &done.changed);
    tell("needs a restart of torpord (pods go on)", &done.needs_restart);
    tell("not known", &done.unknown);
    Ok(())
}

async fn host_down(client: &Client, json: bool) -> Result<u8, Failure> {
    let done = client.host_down().await?;
    if json {
        output::json(&done);
    } else {
        for (what, names) in [("asleep", &done.asleep), ("stopped", &done.stopped), ("failed", &done.failed)] {
            names.iter().for_each(|name| say!("{what}: {name}"));
        }
    }
    Ok(u8::from(!done.failed.is_empty()))
}

/// An archive that broke off is not left lying about as if it were one.
async fn backup(client: &Client, file: &str) -> Result<(), Failure> {
    let mut archive = std::pin::pin!(client.backup().await?);
    if file == "-" {
        let mut out = std::io::stdout().lock();
        while let Some(piece) = archive.next().await {
            out.write_all(&piece?)?;
        }
        return Ok(out.flush()?);
    }
    // It has all that pods keep.
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut out = options.open(file).map_err(|e| Failure::Own(format!("write {file}: {e}")))?;
    let written = async {
        while let Some(piece) = archive.next().await {
            out.write_all(&piece?)?;
        }
        Ok::<_, Failure>(out.sync_all()?)
    };
    let written = written.await;
    if written.is_err() {
        let _ = std::fs::remove_file(file);
    }
    written
}

/// By torpord itself, which must not run and so can't be asked.
fn restore(file: &Path, state_dir: Option<&Path>) -> Result<u8, Failure> {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("torpord")).filter(|p| p.is_file());
    let mut torpord = std::process::Command::new(beside.unwrap_or_else(|| "torpord".into()));
    torpord.arg("--restore").arg(file);
    if let Some(dir) = state_dir {
        torpord.arg("--state-dir").arg(dir);
    }
    let status = torpord.status().map_err(|e| Failure::Own(format!("run torpord: {e}")))?;
    Ok(u8::from(!status.success()))
}

fn info(c: &Capacity) {
    let p = &c.pods;
    say!("pods     {} ({} awake, {} asleep, {} at rest)", p.total, p.awake, p.sleeping, p.at_rest);
    say!("cpus     {}", c.cpus);
    say!();
    let row = |name: &str, b: &Budget| {
        vec![
            name.to_owned(),
            bytes(b.capacity),
            bytes(b.head_room),
            b.ratio.to_string(),
            bytes(b.limit),
            bytes(b.promised),
            bytes(b.left),
        ]
    };
    let head = ["RESOURCE", "HOST", "HEAD-ROOM", "RATIO", "LIMIT", "PROMISED", "LEFT"];
    output::table(&head, &[row("memory", &c.memory), row("disk", &c.disk)]);
    say!();
    let sizes: Vec<Vec<String>> =
        c.sizes.iter().map(|s| vec![bytes(s.memory), s.most.to_string(), s.more.to_string()]).collect();
    output::table(&["POD MEMORY", "MAX PODS", "MORE NOW"], &sizes);
    say!();
    let tiers: Vec<Vec<String>> = c
        .tiers
        .iter()
        .map(|t| {
            let r = &t.resources;
            vec![
                t.name.clone(),
                r.cpus.to_string(),
                bytes(r.memory),
                bytes(r.disk),
                r.pids.to_string(),
                t.most.to_string(),
                t.more.to_string(),
            ]
        })
        .collect();
    output::table(&["TIER", "CPUS", "MEMORY", "DISK", "PIDS", "MAX PODS", "MORE NOW"], &tiers);
}

async fn df(client: &Client, json: bool) -> Result<(), Failure> {
    let used = client.disk_usage().await?;
    if json {
        output::json(&used);
        return Ok(());
    }
    let row = |name: &str, u: &Usage| {
        let share = (u.reclaimable * 100).checked_div(u.size).unwrap_or(0);
        vec![
            name.to_owned(),
            u.total.to_string(),
            u.active.to_string(),
            bytes(u.size),
            format!("{} ({share}%)", bytes(u.reclaimable)),
        ]
    };
    let mut rows = vec![
        row("Images", &used.images),
        row("Pods", &used.pods),
        row("Volumes", &used.volumes),
        row("Raw images", &used.cache),
    ];
    match &used.snapshots {
        Some(snapshots) => rows.push(row("Snapshots in the store", snapshots)),
        None => eprintln!("torpor: the store does not answer: its snapshots are not counted"),
    }
    output::table(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], &rows);
    Ok(())
}

//! `system info` and `system df`.

use clap::Subcommand;

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
    }
    Ok(0)
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

//! `stats`.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use clap::Args;
use futures::StreamExt;

use super::output::{self, Failure};
use crate::api::client::Client;
use crate::api::types::Stats;

#[derive(Debug, Args)]
pub(super) struct Usage {
    /// Only once
    #[arg(long)]
    no_stream: bool,
    /// Default: all that run
    pods: Vec<String>,
}

/// Shows what pods use: a table, every second, or one object a line.
pub(super) async fn stats(client: &Client, args: &Usage, json: bool) -> Result<u8, Failure> {
    let mut pods = args.pods.clone();
    if pods.is_empty() {
        let all = client.pods().await?;
        pods = all.into_iter().filter(|p| matches!(p.state.as_str(), "running" | "paused")).map(|p| p.id).collect();
    }
    if args.no_stream {
        let all = futures::future::try_join_all(pods.iter().map(|p| client.stats(p))).await?;
        if json {
            output::json(&all)
        } else {
            show(all.iter())
        }
        return Ok(0);
    }
    let mut streams = Vec::new();
    for pod in &pods {
        let lines = client.stats_stream(pod).await?.map(|s| (pod.clone(), Some(s)));
        let end = futures::stream::once(std::future::ready((pod.clone(), None)));
        streams.push(lines.chain(end).boxed());
    }
    let mut lines = futures::stream::select_all(streams);
    let mut last: BTreeMap<String, Stats> = BTreeMap::new();
    let mut ticks = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        tokio::select! {
            next = lines.next() => match next {
                Some((_, Some(stats))) if json => {
                    let line = serde_json::to_string(&stats?).unwrap_or_default() + "\n";
                    output::write(&mut std::io::stdout(), line.as_bytes());
                }
                Some((pod, Some(stats))) => drop(last.insert(pod, stats?)),
                Some((pod, None)) => drop(last.remove(&pod)),
                None => return Ok(0),
            },
            _ = ticks.tick() => if !json && !last.is_empty() {
                if std::io::stdout().is_terminal() {
                    output::write(&mut std::io::stdout(), b"\x1b[H\x1b[J");
                }
                show(last.values());
            },
        }
    }
}

fn show<'a>(all: impl Iterator<Item = &'a Stats>) {
    let rows: Vec<Vec<String>> = all
        .map(|s| {
            vec![
                s.pod.chars().take(12).collect(),
                s.name.clone(),
                format!("{:.1}%", s.cpu_percent),
                format!("{} / {}", output::bytes(s.memory), output::bytes(s.memory_limit)),
                format!("{} / {}", output::bytes(s.network.rx_bytes), output::bytes(s.network.tx_bytes)),
                format!("{} / {}", output::bytes(s.disk), output::bytes(s.disk_limit)),
                s.pids.to_string(),
            ]
        })
        .collect();
    output::table(&["POD ID", "NAME", "CPU", "MEMORY / LIMIT", "NET IN / OUT", "DISK / LIMIT", "PIDS"], &rows);
}

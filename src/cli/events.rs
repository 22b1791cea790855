//! `events`.

use clap::Args;
use futures::StreamExt;

use super::output::{self, Failure};
use crate::api::client::{self, Client};
use crate::api::types::Event;

#[derive(Debug, Args)]
pub(super) struct Events {
    /// Only of this pod
    #[arg(long = "pod", value_name = "POD")]
    pods: Vec<String>,
    /// Only of this type: created, started, exited, oom, stopped, paused, resumed, sleeping, woke, snapshot, restored, rootfs-reset, failed, renamed, updated, health, removed
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only of pods with this label
    #[arg(short, long = "label", value_name = "NAME[=VALUE]")]
    labels: Vec<String>,
    /// Begin with what happened since then (RFC 3339, or such as 10m)
    #[arg(long)]
    since: Option<String>,
    /// Go on after the event with this id
    #[arg(long, value_name = "ID", conflicts_with = "since")]
    after: Option<String>,
}

/// Shows what happens, until it is interrupted.
pub(super) async fn events(client: &Client, args: &Events, json: bool) -> Result<u8, Failure> {
    let mut query: Vec<(&str, String)> = Vec::new();
    query.extend(args.pods.iter().map(|p| ("pod", p.clone())));
    query.extend(args.types.iter().map(|t| ("type", t.clone())));
    query.extend(args.labels.iter().map(|l| ("label", l.clone())));
    if let Some(since) = &args.since {
        query.push(("since", super::commands::since(since)?));
    }
    let mut events = std::pin::pin!(client.events(&client::query(&query), args.after.as_deref()).await?);
    while let Some(event) = events.next().await {
        let event = event?;
        let line = if json { serde_json::to_string(&event).unwrap_or_default() } else { line(&event) };
        output::write(&mut std::io::stdout(), (line + "\n").as_bytes());
    }
    Ok(0)
}

fn line(event: &Event) -> String {
    let about: Vec<String> = event.attributes.iter().map(|(k, v)| format!("{k}={}", v.replace('\n', " "))).collect();
    let text = |t: &Option<String>| t.clone().unwrap_or_else(|| "-".into());
    format!("{}  {:12}  {}  {}", text(&event.at), event.r#type, text(&event.name), about.join(" "))
        .trim_end()
        .to_owned()
}

//! `logs`.

use std::time::Instant;

use futures::StreamExt;

use super::commands::since;
use super::follow::{AGAIN, AWAY, passes};
use super::output::{self, Failure};
use crate::api::client::{self, Client, ClientError};
use crate::api::logs::LogEvent;
use crate::api::types::LogLine;

/// Which lines, and how they are shown.
pub(super) struct Wanted<'a> {
    pub(super) pod: &'a str,
    pub(super) tail: Option<u64>,
    pub(super) since: Option<&'a str>,
    pub(super) timestamps: bool,
    pub(super) json: bool,
}

impl Wanted<'_> {
    fn query(&self, follow: bool) -> Result<String, Failure> {
        let mut query = vec![("follow", follow.to_string())];
        query.extend(self.tail.map(|n| ("tail", n.to_string())));
        if let Some(from) = self.since {
            query.push(("since", since(from)?));
        }
        Ok(client::query(&query))
    }

    fn print(&self, line: &LogLine) {
        let text = if self.json {
            serde_json::to_string(line).unwrap_or_default() + "\n"
        } else {
            let end = if line.partial { "" } else { "\n" };
            let before = if self.timestamps { format!("{} ", line.timestamp) } else { String::new() };
            format!("{before}{}{end}", line.line)
        };
        if line.stream == "stderr" && !self.json {
            output::write(&mut std::io::stderr(), text.as_bytes());
        } else {
            output::write(&mut std::io::stdout(), text.as_bytes());
        }
    }
}

/// Shows what there is.
pub(super) async fn show(client: &Client, wanted: &Wanted<'_>) -> Result<u8, Failure> {
    let mut lines = std::pin::pin!(client.logs(wanted.pod, &wanted.query(false)?).await?);
    while let Some(line) = lines.next().await {
        wanted.print(&line?);
    }
    Ok(0)
}

/// Shows what there is and what comes, until the pod's command has ended. A torpord that is restarted meanwhile is gone on with.
pub(super) async fn follow(client: &Client, wanted: &Wanted<'_>) -> Result<u8, Failure> {
    let mut query = wanted.query(true)?;
    let mut seen: Option<String> = None;
    let mut away: Option<Instant> = None;
    loop {
        if seen.is_some() {
            "follow=true".clone_into(&mut query);
        }
        let failure = match client.log_events(wanted.pod, &query, seen.as_deref()).await {
            Ok(events) => {
                let mut events = std::pin::pin!(events);
                loop {
                    match events.next().await {
                        Some(Ok(LogEvent::Line { id, line })) => {
                            wanted.print(&line);
                            (seen, away) = (Some(id), None);
                        }
                        Some(Ok(LogEvent::Gap { id, missed })) => {
                            let how_many = missed.map_or_else(|| "some".to_owned(), |n| n.to_string());
                            eprintln!("torpor: {how_many} lines are not kept any more");
                            (seen, away) = (Some(id), None);
                        }
                        Some(Ok(LogEvent::End)) => return Ok(0),
                        Some(Err(e)) => break e,
                        None => break ClientError::Broken("the answer ended too early".into()),
                    }
                }
            }
            Err(e) => e,
        };
        // Where nothing was seen there is nothing to go on with.
        let lost = seen.is_some() && passes(&failure);
        if !lost || away.get_or_insert_with(Instant::now).elapsed() > AWAY {
            return Err(failure.into());
        }
        tokio::time::sleep(AGAIN).await;
    }
}

//! `top`.

use super::output::{self, Failure};
use crate::api::client::Client;

/// Shows a pod's processes.
pub(super) async fn top(client: &Client, pod: &str, json: bool) -> Result<u8, Failure> {
    let top = client.top(pod).await?;
    if json {
        output::json(&top);
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = top
        .processes
        .iter()
        .map(|p| {
            let seconds = p.cpu_ms / 1000;
            vec![
                p.pid.to_string(),
                p.parent.to_string(),
                p.uid.to_string(),
                p.state.clone(),
                format!("{}:{:02}.{:02}", seconds / 60, seconds % 60, p.cpu_ms % 1000 / 10),
                output::bytes(p.memory),
                p.threads.to_string(),
                p.command.join(" "),
            ]
        })
        .collect();
    output::table(&["PID", "PPID", "UID", "STATE", "CPU", "MEMORY", "THREADS", "COMMAND"], &rows);
    Ok(0)
}

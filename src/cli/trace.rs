//! `trace`: where the time of an operation went.

use clap::Args;

use super::output::{self, Failure, say};
use crate::api::client::Client;
use crate::api::types::trace::Trace;

/// Characters of the line on which steps are drawn.
const WIDTH: u64 = 32;

#[derive(Debug, Args)]
pub(super) struct Timeline {
    /// So many of the last operations
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 5)]
    last: usize,
    /// Those of this pod only
    pod: Option<String>,
}

/// Shows them.
pub(super) async fn show(client: &Client, asked: &Timeline, json: bool) -> Result<u8, Failure> {
    let mut all = client.traces(asked.pod.as_deref()).await?;
    all.drain(..all.len().saturating_sub(asked.last));
    if json {
        output::json(&all);
        return Ok(0);
    }
    for trace in &all {
        let pod = trace.pod.as_deref().unwrap_or("-");
        say!("{} {pod}  {}  {}  {}", trace.operation, trace.at, millis(trace.took_us), trace.outcome);
        for line in lines(trace) {
            say!("{line}");
        }
    }
    Ok(0)
}

fn millis(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us % 1000 / 100)
}

/// A line for each step: when, a bar, how long, what.
fn lines(trace: &Trace) -> Vec<String> {
    let whole = trace.took_us.max(1);
    let place = |us: u64| usize::try_from((us.min(whole) * WIDTH) / whole).unwrap_or(0);
    let width = place(whole);
    let line = |step: &crate::api::types::trace::Step| {
        let first = place(step.after_us).min(width - 1);
        let last = place(step.after_us + step.took_us).clamp(first + 1, width);
        let bar = format!("{}{}{}", " ".repeat(first), "#".repeat(last - first), " ".repeat(width - last));
        format!("{:>12} |{bar}| {:>12}  {}", millis(step.after_us), millis(step.took_us), step.name)
    };
    trace.steps.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::trace::Step;

    #[test]
    fn bars_lie_where_their_steps_do() {
        let step = |name: &str, after_us, took_us| Step { name: name.into(), after_us, took_us };
        let trace = Trace {
            id: String::new(),
            operation: "wake".into(),
            pod: None,
            pod_id: None,
            at: String::new(),
            took_us: 32_000,
            outcome: "ok".into(),
            steps: vec![step("a", 0, 16_000), step("b", 16_000, 16_000), step("c", 32_000, 0), step("d", 0, 90_000)],
        };
        let bars: Vec<String> = lines(&trace).iter().map(|l| l.split('|').nth(1).unwrap().to_owned()).collect();
        assert_eq!(bars[0], format!("{}{}", "#".repeat(16), " ".repeat(16)));
        assert_eq!(bars[1], format!("{}{}", " ".repeat(16), "#".repeat(16)));
        assert_eq!(bars[2], format!("{}#", " ".repeat(31)));
        assert_eq!(bars[3], "#".repeat(32));
        assert_eq!(lines(&Trace { took_us: 0, ..trace }).len(), 4);
    }
}

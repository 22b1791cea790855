//! `system prune`, `image prune` and `volume prune`: as docker's.

use std::io::{IsTerminal, Write};

use clap::Args;

use super::output::{self, Failure, bytes, say};
use crate::api::client::Client;
use crate::api::types::system::{Prune, Pruned};

/// What all of them take.
#[derive(Debug, Args)]
pub(super) struct How {
    /// Don't ask
    #[arg(short, long)]
    force: bool,
    /// Only what is older: until=168h, or until=2026-01-31T12:00:00Z
    #[arg(long, value_name = "until=TIME")]
    filter: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct SystemPrune {
    /// Images that no pod uses, too
    #[arg(short, long)]
    all: bool,
    /// Volumes that neither a pod nor a snapshot uses, too
    #[arg(long)]
    volumes: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
pub(super) struct ImagePrune {
    /// Images that no pod uses, not only layers that no image has
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    how: How,
}

/// `system prune`.
pub(super) async fn system(client: &Client, args: &SystemPrune, json: bool) -> Result<u8, Failure> {
    let what = Prune {
        pods: true,
        images: true,
        all: args.all,
        volumes: args.volumes,
        cache: true,
        older_than_seconds: until(&args.how.filter)?,
    };
    let mut warning = String::from("all stopped pods with what they wrote to their roots");
    warning += if args.all { ", all images that no pod uses" } else { ", all layers that no image has" };
    if args.volumes {
        warning += ", all volumes that neither a pod nor a snapshot uses";
    }
    warning += ", and raw images of snapshots in which no pod sleeps";
    prune(client, &what, &args.how, &warning, json).await
}

/// `image prune`.
pub(super) async fn images(client: &Client, args: &ImagePrune, json: bool) -> Result<u8, Failure> {
    let older_than_seconds = until(&args.how.filter)?;
    let what = Prune { images: true, all: args.all, older_than_seconds, ..Prune::default() };
    let warning = if args.all { "all images that no pod uses" } else { "all layers that no image has" };
    prune(client, &what, &args.how, warning, json).await
}

/// `volume prune`.
pub(super) async fn volumes(client: &Client, how: &How, json: bool) -> Result<u8, Failure> {
    let what = Prune { volumes: true, older_than_seconds: until(&how.filter)?, ..Prune::default() };
    prune(client, &what, how, "all volumes that neither a pod nor a snapshot uses", json).await
}

async fn prune(client: &Client, what: &Prune, how: &How, warning: &str, json: bool) -> Result<u8, Failure> {
    // A script has nobody to ask.
    if !how.force && std::io::stdin().is_terminal() && !agreed(warning)? {
        return Ok(1);
    }
    let done = client.prune(what).await?;
    if json {
        output::json(&done);
    } else {
        show(&done);
    }
    Ok(u8::from(!done.failed.is_empty()))
}

fn agreed(warning: &str) -> Result<bool, Failure> {
    eprint!("This removes {warning}. Go on? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn show(done: &Pruned) {
    for (title, names) in [
        ("Removed pods:", &done.pods),
        ("Removed images:", &done.images),
        ("Removed volumes:", &done.volumes),
        ("Removed raw images of snapshots:", &done.cached),
    ] {
        if !names.is_empty() {
            say!("{title}");
            names.iter().for_each(|n| say!("{n}"));
            say!();
        }
    }
    done.failed.iter().for_each(|why| eprintln!("torpor: {why}"));
    say!("Total reclaimed space: {}", bytes(done.reclaimed));
}

/// The seconds that `until=` stands for: a span such as `168h`, or a time.
fn until(filters: &[String]) -> Result<Option<u64>, Failure> {
    let mut seconds = None;
    for filter in filters {
        let bad = || Failure::Own(format!("{filter:?} is no filter: until=168h, or until=2026-01-31T12:00:00Z"));
        let text = filter.strip_prefix("until=").ok_or_else(bad)?;
        let then = super::commands::since(text).map_err(|_| bad())?;
        let then: jiff::Timestamp = then.parse().map_err(|_| bad())?;
        let age = jiff::Timestamp::now().duration_since(then).as_secs();
        seconds = Some(u64::try_from(age).map_err(|_| bad())?);
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_takes_spans_and_times() {
        let of = |t: &str| until(&[t.to_owned()]).ok().flatten();
        assert!(of("until=168h").is_some_and(|s| s.abs_diff(168 * 3600) <= 1));
        assert!(of("until=24h30m").is_some_and(|s| s.abs_diff(88_200) <= 1));
        assert!(of("until=2020-01-01T00:00:00Z").is_some_and(|s| s > 100_000_000));
        for bad in ["168h", "until=", "until=x", "label=a", "until=2999-01-01T00:00:00Z"] {
            assert!(until(&[bad.to_owned()]).is_err(), "{bad}");
        }
        assert_eq!(until(&[]).ok(), Some(None));
    }
}

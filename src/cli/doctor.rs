//! `doctor`: what may be wrong with the host, and its repair.

use std::io::{IsTerminal, Write};

use clap::Args;

use super::output::{self, Failure, say};
use super::{UNREACHABLE, runbook};
use crate::api::client::{Client, ClientError};
use crate::api::doctor::Check;
use crate::api::types::{Doctor, Finding};

#[derive(Debug, Args)]
#[command(after_long_help = runbook::text())]
pub(super) struct Asked {
    /// Repair what can be repaired, as root; each repair is shown and asked about first
    #[arg(long)]
    fix: bool,
    /// Don't ask
    #[arg(long, requires = "fix")]
    yes: bool,
}

/// Shows what is wrong; gives 1 if something keeps pods from running.
pub(super) async fn doctor(client: &Client, asked: &Asked, local: bool, json: bool) -> Result<u8, Failure> {
    if asked.fix {
        if !local {
            return Err(Failure::Own(
                "--fix repairs the host that it runs on: use it there, on torpord's socket".into(),
            ));
        }
        if !rustix::process::geteuid().is_root() {
            return Err(Failure::Own("--fix installs packages and sets the kernel: it must be run by root".into()));
        }
        let mut found = look(client, local).await?;
        if found.findings.iter().any(is_torpord) {
            for finding in &found.findings {
                repair(finding, asked.yes)?;
            }
            found = look(client, local).await?; // now it can tell of the rest
        }
        for finding in found.findings.iter().filter(|f| f.status != "ok" && !is_torpord(f)) {
            repair(finding, asked.yes)?;
        }
    }
    let doctor = look(client, local).await?;
    if json {
        output::json(&doctor);
    } else {
        show(&doctor);
    }
    if doctor.findings.iter().any(is_torpord) {
        return Ok(UNREACHABLE);
    }
    Ok(u8::from(doctor.findings.iter().any(|f| f.status == "fail")))
}

fn is_torpord(finding: &Finding) -> bool {
    finding.check == Check::Torpord.as_str()
}

/// What torpord finds, or that it does not answer.
async fn look(client: &Client, local: bool) -> Result<Doctor, Failure> {
    match client.doctor().await {
        Err(e @ ClientError::Unreachable { .. }) if local => {
            let finding = Finding {
                check: Check::Torpord.as_str().into(),
                status: "fail".into(),
                detail: e.to_string(),
                hint: Some("systemctl status torpord; torpor doctor --fix starts it".into()),
            };
            Ok(Doctor { findings: vec![finding] })
        }
        other => Ok(other?),
    }
}

fn show(doctor: &Doctor) {
    for f in &doctor.findings {
        say!("{:4}  {:16}  {}", f.status, f.check, f.detail);
        if let Some(hint) = &f.hint {
            say!("{:4}  {:16}  {}", "", "", hint.replace('\n', &format!("\n{:24}", "")));
        }
    }
    if doctor.findings.iter().any(|f| f.status != "ok") {
        say!("\n`torpor doctor --help` says what each of these means.");
    }
}

/// Explains a repair, asks, and does it.
fn repair(finding: &Finding, yes: bool) -> Result<(), Failure> {
    say!("{}: {}", finding.check, finding.detail);
    let Some(fix) = Check::of(&finding.check).and_then(|c| runbook::entry(c).fix) else {
        let hint = finding.hint.as_deref().unwrap_or("torpor doctor --help says what to do");
        say!("  not repaired by torpor: {hint}\n");
        return Ok(());
    };
    say!("  This {}:\n", fix.does);
    for line in fix.script.lines() {
        say!("    {line}");
    }
    say!();
    if !yes {
        if !std::io::stdin().is_terminal() {
            return Err(Failure::Own("nobody can be asked: --yes does it without".into()));
        }
        print!("  Do it? [y/N] ");
        std::io::stdout().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            say!("  left as it is\n");
            return Ok(());
        }
    }
    // Who tries one repair after another wants the rest even if one fails; what is wrong still is shown at the end.
    let done = std::process::Command::new("sh").args(["-ec", fix.script]).status()?;
    say!("  {}\n", if done.success() { "done".to_owned() } else { format!("failed: {done}") });
    Ok(())
}

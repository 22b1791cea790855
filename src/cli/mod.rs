//! The command line: a client of the API, with docker's habits.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the command line's work is to print")]

mod args;
mod attach;
mod commands;
mod complete;
mod cp;
mod dial;
mod doctor;
mod events;
mod follow;
mod format;
mod health;
mod keys;
mod list;
mod logs;
mod output;
mod port;
mod prune;
mod run;
mod runbook;
mod secret;
mod ssh;
mod stats;
mod support;
mod system;
mod terminal;
mod token;
mod top;
mod trace;
mod up;
mod update;
mod volume;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

pub use args::Arguments;

/// Exit code when torpor itself fails in `run` and `exec`, as docker's.
const OWN_FAILURE: u8 = 125;
/// Exit code when torpord can't be reached.
const UNREACHABLE: u8 = 3;

/// Runs the command line and gives its exit code.
pub fn main() -> ExitCode {
    if complete::answer() {
        return ExitCode::SUCCESS;
    }
    let arguments = match Arguments::try_parse() {
        Ok(a) => a,
        Err(e) => {
            let code = if e.use_stderr() { usage_code(std::env::args().skip(1)) } else { 0 };
            let _ = e.print();
            return ExitCode::from(code);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(r) => r,
        Err(e) => {
            eprintln!("error: start: {e}");
            return ExitCode::from(OWN_FAILURE);
        }
    };
    let passes_codes = arguments.command.passes_codes();
    match runtime.block_on(commands::run(arguments)) {
        Ok(code) => ExitCode::from(code),
        Err(e) => ExitCode::from(output::fail(&e, passes_codes)),
    }
}

/// Exit code of wrong usage, by the command that was typed: as docker's where that runs programs.
fn usage_code(mut typed: impl Iterator<Item = String>) -> u8 {
    let all = command();
    match typed.find(|word| all.find_subcommand(word).is_some()).as_deref() {
        Some("run" | "exec" | "create") => OWN_FAILURE,
        _ => 2,
    }
}

/// The command as clap knows it: for completions and man pages.
pub fn command() -> clap::Command {
    Arguments::command()
}

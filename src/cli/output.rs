//! How things are shown: tables, progress, errors.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{OWN_FAILURE, UNREACHABLE};
use crate::api::client::ClientError;
use crate::api::types::{Pod, PortInfo, ProgressInfo};

/// What a command can fail of.
#[derive(Debug)]
pub(super) enum Failure {
    /// torpord's answer, or none.
    Client(ClientError),
    /// Our own.
    Own(String),
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Self {
        Failure::Client(e)
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Failure::Own(e.to_string())
    }
}

/// Prints a failure; gives its exit code.
pub(super) fn fail(failure: &Failure, passes_codes: bool) -> u8 {
    match failure {
        Failure::Own(text) => eprintln!("error: {text}"),
        Failure::Client(e) => {
            eprintln!("error: {e}");
            if let Some(hint) = e.hint() {
                eprintln!("hint: {hint}");
            }
        }
    }
    if passes_codes {
        return match failure {
            Failure::Client(e) => match e.code() {
                Some("command_not_found") => 127,
                Some("command_not_executable") => 126,
                _ => OWN_FAILURE,
            },
            Failure::Own(_) => OWN_FAILURE,
        };
    }
    let unreachable = ClientError::is_unreachable;
    if matches!(failure, Failure::Client(e) if unreachable(e)) { UNREACHABLE } else { 1 }
}

/// One JSON value.
pub(super) fn json<T: Serialize>(value: &T) {
    say!("{}", serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Columns with two spaces between them.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = head.iter().map(|h| h.len()).collect();
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let show = |cells: &mut dyn Iterator<Item = &str>| {
        let line: Vec<String> = cells.zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
        say!("{}", line.join("  ").trim_end());
    };
    show(&mut head.iter().copied());
    for row in rows {
        show(&mut row.iter().map(String::as_str));
    }
}

/// Bytes as people read them.
pub(super) fn bytes(n: u64) -> String {
    let mut value = n;
    let mut rest = 0;
    let mut unit = 0;
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    while value >= 1024 && unit < UNITS.len() - 1 {
        rest = value % 1024;
        value /= 1024;
        unit += 1;
    }
    if unit == 0 { format!("{value} B") } else { format!("{value}.{} {}", rest * 10 / 1024, UNITS[unit]) }
}

/// Ports as docker shows them.
pub(super) fn ports(pod: &Pod) -> String {
    let one = |p: &PortInfo| {
        let at = p.address.as_ref().map(|a| format!("{a}:")).unwrap_or_default();
        format!("{at}{}->{}/{}", p.host, p.pod, p.protocol)
    };
    pod.ports.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A state with how it came to it.
pub(super) fn state(pod: &Pod) -> String {
    match (&pod.exit_code, &pod.exit_reason, pod.state.as_str()) {
        (Some(code), _, "stopped") if pod.restart_at.is_some() => format!("restarting ({code})"),
        (Some(code), Some(reason), "stopped") if reason == "exited" => format!("stopped ({code})"),
        (Some(code), Some(reason), "stopped") => format!("stopped ({code}, {reason})"),
        (_, _, state @ ("running" | "paused")) => match &pod.health {
            Some(health) => format!("{state} ({})", health.status),
            None => state.to_owned(),
        },
        _ => pod.state.clone(),
    }
}

/// How a phase is shown: by what is known of it.
fn template(done: u64, total: u64) -> &'static str {
    match (done, total) {
        // It counts nothing, or has not begun to.
        (0, 0) => "{msg:10} {spinner} {elapsed}",
        (_, 0) => "{msg:10} {spinner} {bytes} {bytes_per_sec}",
        _ => "{msg:10} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    }
}

/// A bar with rate and time left on a terminal; nothing elsewhere.
pub(super) struct Bar(Option<ProgressBar>);

impl Bar {
    pub(super) fn new() -> Self {
        Bar(std::io::stderr().is_terminal().then(ProgressBar::no_length))
    }

    /// No bar.
    pub(super) fn none() -> Self {
        Bar(None)
    }

    pub(super) fn show(&mut self, p: &ProgressInfo) {
        let Some(bar) = &self.0 else { return };
        let style = |template| {
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
        };
        // Each of these may be drawn: numbers are shown once they are this phase's.
        if bar.message() != p.phase {
            style(template(0, 0));
            bar.set_message(p.phase.clone());
            bar.reset();
        }
        bar.set_length(p.total);
        bar.set_position(p.done);
        style(template(p.done, p.total));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// A word as a shell reads it.
pub(super) fn quoted(word: &str) -> String {
    let plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-' | b':' | b'=' | b',' | b'+' | b'@');
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Writes all. A reader that has gone ends the program as the signal would that others die of then: nobody asks any more.
pub(super) fn write(out: &mut dyn Write, bytes: &[u8]) {
    let written = out.write_all(bytes).and_then(|()| out.flush());
    if written.is_err_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
        std::process::exit(128 + libc::SIGPIPE);
    }
}

/// A line on standard output.
pub(super) fn line(text: std::fmt::Arguments<'_>) {
    write(&mut std::io::stdout(), format!("{text}\n").as_bytes());
}

/// As `println!`, which would panic when its reader has gone.
macro_rules! say {
    () => { $crate::cli::output::line(format_args!("")) };
    ($($text:tt)+) => { $crate::cli::output::line(format_args!($($text)+)) };
}
pub(super) use say;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_length_shows_none() {
        assert!(!template(0, 0).contains("bytes") && !template(5, 0).contains("total_bytes"));
        assert!(template(0, 5).contains("{bytes}/{total_bytes}"));
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!((bytes(5), bytes(1536), bytes(3 << 30)), ("5 B".into(), "1.5 KiB".into(), "3.0 GiB".into()));
    }
}

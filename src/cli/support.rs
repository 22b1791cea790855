//! `support-bundle`: what somebody needs to know who is asked for help, in one text that can be read before it is given away.
//!
//! Commands, values of labels and outputs of pods are left out; what looks like a secret in the rest is made unreadable.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;
use serde::Serialize;

use super::output::{Failure, say};
use crate::api::client::Client;

/// Bytes of what one program says.
const MOST: usize = 1 << 20;
/// Words whose values are nobody's business.
const SECRET_WORDS: [&str; 9] =
    ["secret", "token", "password", "passwd", "api_key", "apikey", "access_key", "credential", "authorization"];

#[derive(Debug, Args)]
pub(super) struct Bundle {
    /// A new file, or - for standard output
    file: String,
}

/// Gathers it.
pub(super) async fn bundle(client: &Client, asked: &Bundle, local: bool) -> Result<u8, Failure> {
    let mut text = String::new();
    let mut put = |title: &str, body: &str| {
        let _ = writeln!(text, "==== {title}\n{}\n", redact(body).trim_end());
    };
    put("torpor", &format!("torpor {} on {}", env!("CARGO_PKG_VERSION"), std::env::consts::OS));
    // What does not answer is told; the rest is gathered all the same.
    put("version", &shown(client.version().await));
    put("doctor", &shown(client.doctor().await));
    put("health", &shown(client.health().await));
    put("capacity", &shown(client.capacity().await));
    put("disk usage", &shown(client.disk_usage().await));
    put("log filter", &shown(client.log_filter().await));
    put("pods", &shown(client.pods().await.map(|all| all.into_iter().map(without_words).collect::<Vec<_>>())));
    put(
        "images",
        &shown(client.images().await.map(|all| all.into_iter().map(|i| (i.name, i.size)).collect::<Vec<_>>())),
    );
    put("snapshots", &shown(client.snapshots().await));
    put("traces", &shown(client.traces(None).await));
    put("metrics", &client.metrics().await.unwrap_or_else(|e| format!("error: {e}")));
    if local {
        for (title, path) in [
            ("configuration", "/etc/torpor/torpor.toml"),
            ("system", "/etc/os-release"),
            ("memory", "/proc/meminfo"),
            ("pressure of memory", "/proc/pressure/memory"),
            ("mounts of cgroups", "/proc/self/cgroup"),
        ] {
            put(title, &std::fs::read_to_string(Path::new(path)).unwrap_or_else(|e| format!("{path}: {e}")));
        }
        for (title, program, args) in [
            ("kernel", "uname", &["-a"][..]),
            (
                "unit",
                "systemctl",
                &[
                    "show",
                    "torpord.service",
                    "-p",
                    "ActiveState,SubState,NRestarts,MemoryCurrent,TasksCurrent,ExecMainStatus",
                ],
            ),
            ("log", "journalctl", &["-u", "torpord", "-n", "2000", "--no-pager", "-o", "short-iso"]),
            ("kernel's log", "dmesg", &["--level", "err,warn"]),
            ("disks", "df", &["-h", "/var/lib/torpor", "/run"]),
            ("firewall", "iptables-save", &["-c"]),
            ("links", "ip", &["-br", "link"]),
            ("engine", "runsc", &["--version"]),
        ] {
            put(title, &said(program, args));
        }
    }
    if asked.file == "-" {
        std::io::stdout().write_all(text.as_bytes())?;
        return Ok(0);
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&asked.file).map_err(|e| Failure::Own(format!("write {}: {e}", asked.file)))?;
    file.write_all(text.as_bytes())?;
    say!("{}: read it before you give it to somebody", asked.file);
    Ok(0)
}

fn shown<T: Serialize>(answer: crate::api::client::Result<T>) -> String {
    match answer {
        Ok(value) => serde_json::to_string_pretty(&value).unwrap_or_default(),
        Err(e) => format!("error: {e}"),
    }
}

/// A pod without what its owner says and what it says.
fn without_words(mut pod: crate::api::types::Pod) -> crate::api::types::Pod {
    pod.command.clear();
    pod.program.clear();
    pod.health = None;
    pod.labels.values_mut().for_each(|v| "...".clone_into(v));
    pod
}

/// What a program says; its end, if that is too much.
fn said(program: &str, args: &[&str]) -> String {
    match Command::new(program).args(args).stdin(Stdio::null()).output() {
        Ok(out) => {
            let bytes = [out.stdout, out.stderr].concat();
            String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(MOST)..]).into_owned()
        }
        Err(e) => format!("{program}: {e}"),
    }
}

/// The text without what looks like a secret: torpor's tokens, passwords in addresses, values of what is called so.
fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let lower = line.to_ascii_lowercase();
        let named = SECRET_WORDS.iter().filter_map(|w| lower.find(w)).min();
        // Metrics and JSON tell numbers, times and names of such things; what follows `=` or `:` on a line of settings is a value.
        match named.and_then(|at| line[at..].find(['=', ':']).map(|eq| at + eq + 1)) {
            Some(value) if !harmless(&line[value..]) => {
                out.push_str(&line[..value]);
                out.push_str(" ***");
            }
            _ => line.split_inclusive([' ', '"', '\'', ',']).for_each(|word| out.push_str(&one(word))),
        }
        out.push('\n');
    }
    out
}

/// Whether a value can't be a secret: none, a number, a truth, or what only opens a list or an object.
fn harmless(value: &str) -> bool {
    let value = value.trim().trim_end_matches(',').trim_matches('"');
    value.is_empty()
        || matches!(value, "true" | "false" | "null" | "[]" | "{}" | "[" | "{")
        || value.parse::<f64>().is_ok()
}

fn one(word: &str) -> String {
    if let Some(at) = word.find("torpor_") {
        let rest = &word[at + "torpor_".len()..];
        let id = rest.chars().take_while(char::is_ascii_hexdigit).count();
        let secret = rest[id..].strip_prefix('_').unwrap_or_default();
        let long = secret.chars().take_while(char::is_ascii_alphanumeric).count();
        if id >= 8 && long >= 16 {
            return format!("{}torpor_***{}", &word[..at], &secret[long..]);
        }
    }
    if let Some((scheme, rest)) = word.split_once("://")
        && let Some((_, host)) = rest.split('/').next().unwrap_or_default().rsplit_once('@')
    {
        let behind = rest.split_once('/').map_or(String::new(), |(_, p)| format!("/{p}"));
        return format!("{scheme}://***@{host}{behind}");
    }
    word.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_unreadable() {
        let token = format!("torpor_{}_{}", "0123456789abcdef", "A".repeat(43));
        for (line, shown) in [
            (format!("curl -H {token} x"), "curl -H torpor_*** x".to_owned()),
            ("AWS_SECRET_ACCESS_KEY=abc".into(), "AWS_SECRET_ACCESS_KEY= ***".into()),
            ("  \"apiToken\": \"abc\",".into(), "  \"apiToken\": ***".into()),
            ("Authorization: Bearer abc".into(), "Authorization: ***".into()),
            ("see https://ann:pw@h.example/x now".into(), "see https://***@h.example/x now".into()),
            ("store = \"s3://bucket/prefix\"".into(), "store = \"s3://bucket/prefix\"".into()),
            ("  \"secrets\": [],".into(), "  \"secrets\": [],".into()),
            ("torpor_pods{state=\"running\"} 1".into(), "torpor_pods{state=\"running\"} 1".into()),
        ] {
            assert_eq!(redact(&line), format!("{shown}\n"), "{line}");
        }
    }
}

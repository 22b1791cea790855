//! `token`, and the token of the caller's own.

use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Subcommand};

use super::args::GLOBAL;
use super::output::{self, Failure, say};
use crate::api::client::Client;
use crate::api::types::{CreateToken, NewToken, RotateToken};

/// Where it is if nothing is said.
const DEFAULT: &str = "unix:///run/torpor/torpor.sock";

/// How torpord is reached, and by what right.
#[derive(Debug, Args)]
pub(super) struct Access {
    /// The torpord to talk to
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        env = "TORPOR_HOST",
        default_value = DEFAULT,
        value_name = "unix://PATH|ssh://USER@HOST|tcp://HOST:PORT|https://HOST:PORT"
    )]
    host: String,
    /// File with the token to show; without it TORPOR_TOKEN, for those who know that other processes of theirs can read it
    #[arg(long, global = true, help_heading = GLOBAL, env = "TORPOR_TOKEN_FILE", value_name = "FILE", value_parser = any_path())]
    token_file: Option<PathBuf>,
    /// Authorities (PEM) whose certificates are good; without it the system's
    #[arg(long, global = true, help_heading = GLOBAL, env = "TORPOR_CA_FILE", value_name = "FILE", value_parser = any_path())]
    ca_file: Option<PathBuf>,
}

/// A path that may be empty: as shells and units have it, an empty variable is one that is not set.
fn any_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn set(path: Option<&PathBuf>) -> Option<&Path> {
    path.map(PathBuf::as_path).filter(|p| !p.as_os_str().is_empty())
}

impl Access {
    /// Where it is.
    fn host(&self) -> &str {
        if self.host.trim().is_empty() { DEFAULT } else { &self.host }
    }

    /// Whether it is reached without a program that may ask its user something.
    pub(super) fn is_silent(&self) -> bool {
        !self.host().starts_with("ssh://")
    }

    /// What another call of this program has to be told to reach the same torpord. A token itself is not among it.
    pub(super) fn arguments(&self) -> Result<Vec<String>, Failure> {
        let mut all = Vec::new();
        if self.host() != DEFAULT {
            all.push(format!("--host={}", self.host()));
        }
        for (name, file) in [("token-file", &self.token_file), ("ca-file", &self.ca_file)] {
            let Some(file) = set(file.as_ref()) else { continue };
            let whole = std::fs::canonicalize(file).map_err(|e| Failure::Own(format!("{}: {e}", file.display())))?;
            all.push(format!("--{name}={}", whole.display()));
        }
        Ok(all)
    }

    /// Whether torpord is asked by a socket of this host.
    pub(super) fn is_local(&self) -> bool {
        Path::new(self.host().strip_prefix("unix://").unwrap_or(self.host())).is_absolute()
    }

    /// The client that was asked for.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let client = Client::trusting(self.host(), set(self.ca_file.as_ref()))?;
        let token = match set(self.token_file.as_ref()) {
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let text = read.map_err(|e| Failure::Own(format!("read the token in {}: {e}", path.display())))?;
                if text.trim().is_empty() {
                    return Err(Failure::Own(format!("there is no token in {}", path.display())));
                }
                Some(text)
            }
            None => std::env::var("TORPOR_TOKEN").ok().filter(|t| !t.trim().is_empty()),
        };
        Ok(match token {
            Some(token) => client.with_token(&token)?,
            None => client,
        })
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a token and print it, this once
    Create {
        /// What it may do: admin, pods, read-only, or pod (one pod)
        #[arg(long)]
        scope: String,
        /// The pod of a token of scope pod
        #[arg(long)]
        pod: Option<String>,
        /// How long it is good, such as 12h or 30d; until it is revoked if left out
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// What it is called
        name: Option<String>,
    },
    /// List tokens
    Ls,
    /// Give a token a new text and print it, this once
    Rotate {
        /// For so long the old one is good too, such as 10m
        #[arg(long, value_name = "TIME", default_value = "0s")]
        overlap: String,
        token: String,
    },
    /// Revoke tokens, at once
    Revoke {
        #[arg(required = true)]
        tokens: Vec<String>,
    },
}

/// Seconds of `10m`, `12h` or `30d`.
fn seconds(text: &str) -> Result<u64, Failure> {
    let bad = || Failure::Own(format!("{text:?} is no span of time: such as 10m, 12h or 30d"));
    let span: jiff::Span = text.parse().map_err(|_| bad())?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| bad())?;
    u64::try_from(duration.as_secs()).map_err(|_| bad())
}

fn show(made: &NewToken, json: bool) {
    if json {
        return output::json(made);
    }
    eprintln!("token {} ({}): it is shown this once", made.token.name, made.token.scope);
    say!("{}", made.secret);
}

/// Does what was typed.
pub(super) async fn token(client: &Client, command: Token, json: bool) -> Result<u8, Failure> {
    match command {
        Token::Create { scope, pod, expires, name } => {
            let expires_in_seconds = expires.as_deref().map(seconds).transpose()?;
            show(&client.create_token(&CreateToken { name, scope, pod, expires_in_seconds }).await?, json);
        }
        Token::Rotate { overlap, token } => {
            let how = RotateToken { overlap_seconds: seconds(&overlap)? };
            show(&client.rotate_token(&token, &how).await?, json);
        }
        Token::Ls => {
            let all = client.tokens().await?;
            if json {
                output::json(&all);
                return Ok(0);
            }
            let or = |t: &Option<String>| t.clone().unwrap_or_else(|| "-".into());
            let row = |t: &crate::api::types::Token| {
                let until = if t.expired { "expired".into() } else { or(&t.expires_at) };
                let scope = t.pod.as_ref().map_or_else(|| t.scope.clone(), |p| format!("{} {p}", t.scope));
                vec![t.id.clone(), t.name.clone(), scope, until, or(&t.old_until), or(&t.last_used_at)]
            };
            let rows: Vec<_> = all.iter().map(row).collect();
            output::table(&["ID", "NAME", "SCOPE", "EXPIRES", "OLD ONE UNTIL", "LAST USED"], &rows);
        }
        Token::Revoke { tokens } => {
            let mut code = 0;
            for token in &tokens {
                match client.revoke_token(token).await {
                    Ok(()) if json => {}
                    Ok(()) => say!("{token}"),
                    Err(e) => code = output::fail(&e.into(), false),
                }
            }
            return Ok(code);
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_or_refused() {
        let read = |t| seconds(t).ok();
        assert_eq!(
            (read("0s"), read("10m"), read("30d"), read("1h30m")),
            (Some(0), Some(600), Some(2_592_000), Some(5400))
        );
        assert_eq!((read(""), read("10"), read("-5m"), read("1y")), (None, None, None, None));
    }
}

//! `--secret` and `--secret-env`: where a secret's value comes from, as it is typed.
//!
//! `file:`, `env:` and `cmd:` are read here, by whoever types, and go to torpord with the request; `host:` and `credential:` are
//! read by torpord at each start and wake.

use std::process::{Command, Stdio};

use clap::Args;

use super::output::Failure;
use crate::api::base64;
use crate::api::types::{SecretSpec, SecretText, SecretValue};

/// What a new pod takes.
#[derive(Debug, Args)]
pub(super) struct Secrets {
    /// A file /run/secrets/NAME. SOURCE: file:PATH, env:VARIABLE or cmd:COMMAND, read by this command, or host:PATH or
    /// credential:NAME, read by torpord at each start and wake
    #[arg(long = "secret", value_name = "NAME=SOURCE")]
    secret: Vec<String>,
    /// The same as a variable NAME
    #[arg(long = "secret-env", value_name = "NAME=SOURCE")]
    secret_env: Vec<String>,
}

/// What a pod takes that has its secrets already.
#[derive(Debug, Args)]
pub(super) struct Again {
    /// A new value for a secret that was given: needed after a reboot. SOURCE: file:PATH, env:VARIABLE or cmd:COMMAND
    #[arg(long = "secret", value_name = "NAME=SOURCE")]
    secret: Vec<String>,
}

fn own(text: impl Into<String>) -> Failure {
    Failure::Own(text.into())
}

fn split(text: &str) -> Result<(&str, &str, &str), Failure> {
    // The whole is not shown: somebody may have typed the secret itself.
    let bad = |name: &str| {
        own(format!("secret {name:?}: write NAME=file:PATH, env:VARIABLE, cmd:COMMAND, host:PATH or credential:NAME"))
    };
    let (name, source) = text.split_once('=').ok_or_else(|| bad(""))?;
    let (kind, rest) = source.split_once(':').ok_or_else(|| bad(name))?;
    if matches!(kind, "file" | "env" | "cmd" | "host" | "credential") { Ok((name, kind, rest)) } else { Err(bad(name)) }
}

/// The value, read here; none: torpord is to read it.
fn read(name: &str, kind: &str, from: &str) -> Result<Option<Vec<u8>>, Failure> {
    match kind {
        "file" => std::fs::read(from).map(Some).map_err(|e| own(format!("secret {name}: {from}: {e}"))),
        "env" => {
            use std::os::unix::ffi::OsStringExt;
            let value = std::env::var_os(from).ok_or_else(|| own(format!("secret {name}: no variable {from}")))?;
            Ok(Some(value.into_vec()))
        }
        "cmd" => {
            // What it asks and says otherwise is for whoever typed.
            let ran = Command::new("sh").args(["-c", from]).stdin(Stdio::inherit()).stderr(Stdio::inherit()).output();
            let out = ran.map_err(|e| own(format!("secret {name}: run its command: {e}")))?;
            if !out.status.success() {
                return Err(own(format!("secret {name}: its command failed: {}", out.status)));
            }
            let mut value = out.stdout;
            // As $(...) does, for one line's end.
            if value.last() == Some(&b'\n') {
                value.pop();
            }
            Ok(Some(value))
        }
        _ => Ok(None),
    }
}

fn text(value: Vec<u8>) -> (SecretText, Option<String>) {
    match String::from_utf8(value) {
        Ok(text) => (SecretText(text), None),
        Err(e) => (SecretText(base64::encode(e.as_bytes())), Some("base64".into())),
    }
}

/// One secret as it is typed, its value read.
pub(super) fn spec(typed: &str, env: bool) -> Result<SecretSpec, Failure> {
    let (name, kind, from) = split(typed)?;
    let target = env.then(|| "env".to_owned());
    let mut spec = SecretSpec { name: name.into(), target, ..SecretSpec::default() };
    match (read(name, kind, from)?, kind) {
        (Some(value), _) => {
            let (value, encoding) = text(value);
            (spec.value, spec.encoding) = (Some(value), encoding);
        }
        (None, "host") => spec.file = Some(from.into()),
        (None, _) => spec.credential = Some(from.into()),
    }
    Ok(spec)
}

impl Secrets {
    /// Their names.
    pub(super) fn names(&self) -> Vec<String> {
        let all = self.secret.iter().chain(&self.secret_env);
        all.filter_map(|s| s.split_once('=')).map(|(name, _)| name.to_owned()).collect()
    }

    /// What is asked for. Commands are run.
    pub(super) fn specs(&self) -> Result<Vec<SecretSpec>, Failure> {
        let files = self.secret.iter().map(|s| spec(s, false));
        files.chain(self.secret_env.iter().map(|s| spec(s, true))).collect()
    }
}

impl Again {
    /// The values. Commands are run.
    pub(super) fn values(&self) -> Result<Vec<SecretValue>, Failure> {
        let one = |typed: &String| {
            let (name, kind, from) = split(typed)?;
            let value = read(name, kind, from)?
                .ok_or_else(|| own(format!("secret {name}: torpord reads it at each start and wake by itself")))?;
            let (value, encoding) = text(value);
            Ok(SecretValue { name: name.into(), value, encoding })
        };
        self.secret.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_where_they_are() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("key");
        std::fs::write(&path, b"\xff\n").unwrap();
        let file = spec(&format!("key=file:{}", path.display()), false).unwrap();
        assert_eq!((file.value, file.encoding.as_deref()), (Some(SecretText("/wo=".into())), Some("base64")));
        let cmd = spec("t=cmd:printf 'a=b:c\\n\\n'", true).unwrap();
        assert_eq!((cmd.value, cmd.target.as_deref()), (Some(SecretText("a=b:c\n".into())), Some("env")));
        assert!(spec("p=env:PATH", false).unwrap().value.is_some());
        let host = spec("h=host:/etc/key", false).unwrap();
        assert_eq!((host.value, host.file.as_deref()), (None, Some("/etc/key")));
        assert_eq!(spec("c=credential:key", false).unwrap().credential.as_deref(), Some("key"));
        for bad in ["x", "x=hunter2", "x=nosuch:y", "x=env:NO_SUCH_VARIABLE_HERE", "x=cmd:exit 3", "x=file:/nosuch"] {
            let Err(Failure::Own(said)) = spec(bad, false) else { panic!("{bad}") };
            assert!(!said.contains("hunter2"), "{said}");
        }
        let again = Again { secret: vec!["c=credential:key".into()] };
        assert!(again.values().is_err());
    }
}

//! Pods' secrets: from a request, a file or a credential into the pod, and nowhere else.
//!
//! The record has names and sources. Values of a request are kept in the host's memory ([`crate::host::secrets`]), where they
//! outlive torpord and the pod's sleep; those of files and credentials are read each time they are needed. Files go to init by
//! the channel before the command starts and after a wake; init leaves none before a checkpoint, and gets them again if the pod
//! goes on. After a crash: a pod that is adopted gets them again; values of pods that are gone are forgotten.

use std::path::Path;
use std::sync::Arc;

use super::Core;
use super::pod::Turn;
use crate::api::types::{SecretInfo, SecretSpec, SecretText, SecretValue};
use crate::channel::secrets::{SecretFile, SecretFiles};
use crate::host::files;
use crate::host::shim::Shim;
use crate::model::secret::{self, MOST_BYTES};
use crate::model::token::{Caller, Grant};
use crate::model::{
    Attempt, Code, Error, PodId, PodRecord, PodSpec, Result, Secret, SecretBytes, SecretSource, SecretTarget,
    SecretValues, base64,
};

/// Permissions of a file for which none are asked.
const MODE: u32 = 0o400;
/// How often it is tried to give a pod that goes on its secrets again.
const TRIES: u32 = 3;

/// The variable in which systemd says where credentials are.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

fn value(name: &str, value: &SecretText, encoding: Option<&str>) -> Result<SecretBytes> {
    let bytes = match encoding.unwrap_or("utf-8") {
        "utf-8" => Some(value.0.as_bytes().to_vec()),
        "base64" => base64::decode(&value.0),
        _ => return Err(Error::invalid(format!("secret {name}: its encoding is neither utf-8 nor base64"))),
    };
    bytes.map(SecretBytes::from).ok_or_else(|| Error::invalid(format!("secret {name}: its value is no base64")))
}

/// What is asked for, and the values among it.
pub(super) fn admit(specs: &[SecretSpec]) -> Result<(Vec<Secret>, SecretValues)> {
    let (mut secrets, mut given) = (Vec::new(), SecretValues::new());
    for spec in specs {
        let name: String = spec.name.chars().take(80).collect();
        let source = match (&spec.value, &spec.file, &spec.credential) {
            (Some(text), None, None) => {
                given.insert(spec.name.clone(), value(&name, text, spec.encoding.as_deref())?);
                SecretSource::Given
            }
            (None, Some(path), None) => SecretSource::File(path.into()),
            (None, None, Some(credential)) => SecretSource::Credential(credential.clone()),
            _ => return Err(Error::invalid(format!("secret {name} needs one of value, file and credential"))),
        };
        if source != SecretSource::Given && spec.encoding.is_some() {
            return Err(Error::invalid(format!("secret {name}: encoding goes with value")));
        }
        let target = match (spec.target.as_deref().unwrap_or("file"), &spec.variable, &spec.mode) {
            ("file", None, mode) => {
                let read = |text: &String| u32::from_str_radix(text, 8).ok();
                let bad = || Error::invalid(format!("secret {name}: its mode is not octal")).hint("such as 0400");
                SecretTarget::File { mode: mode.as_ref().map_or(Some(MODE), read).ok_or_else(bad)? }
            }
            ("env", variable, None) => {
                SecretTarget::Env { variable: variable.clone().unwrap_or_else(|| spec.name.clone()) }
            }
            ("file" | "env", _, _) => {
                return Err(Error::invalid(format!("secret {name}: variable goes with env, and mode with file")));
            }
            _ => return Err(Error::invalid(format!("secret {name}: its target is neither file nor env"))),
        };
        secrets.push(Secret { name: spec.name.clone(), target, source });
    }
    secret::check_values(&secrets, &given)?;
    Ok((secrets, given))
}

/// Secrets as the API shows them.
pub(super) fn show(secrets: &[Secret]) -> Vec<SecretInfo> {
    let shown = |s: &Secret| {
        let (target, variable) = match &s.target {
            SecretTarget::File { .. } => ("file", None),
            SecretTarget::Env { variable } => ("env", Some(variable.clone())),
        };
        let source = match s.source {
            SecretSource::Given => "value",
            SecretSource::File(_) => "file",
            SecretSource::Credential(_) => "credential",
        };
        SecretInfo { name: s.name.clone(), target: target.into(), variable, source: source.into() }
    };
    secrets.iter().map(shown).collect()
}

/// The variables of a pod's command that are secrets, as `NAME=value` lines.
pub(super) fn lines(spec: &PodSpec, values: &SecretValues) -> Vec<String> {
    let line = |s: &Secret| match &s.target {
        SecretTarget::Env { variable } => {
            Some(format!("{variable}={}", std::str::from_utf8(values.get(&s.name)?.get()).ok()?))
        }
        SecretTarget::File { .. } => None,
    };
    spec.secrets.iter().filter_map(line).collect()
}

impl Core {
    /// Refuses what torpord would have to read for whoever asks: with a token nothing of the host can be had so.
    ///
    /// # Errors
    /// [`Code::Forbidden`].
    pub fn reach_secrets(&self, caller: &Caller, specs: &[SecretSpec]) -> Result<()> {
        match specs.iter().find(|s| s.file.is_some() || s.credential.is_some()) {
            Some(s) if caller.grant != Grant::Root => {
                let name: String = s.name.chars().take(80).collect();
                Err(Error::new(Code::Forbidden, format!("secret {name}: no file of the host can be had with a token"))
                    .hint("give its value, or ask by the Unix socket"))
            }
            _ => Ok(()),
        }
    }

    /// Takes values for secrets that a pod has had given before.
    pub(super) fn give_again(&self, record: &PodRecord, given: &[SecretValue]) -> Result<()> {
        let mut values = SecretValues::new();
        for one in given {
            let name: String = one.name.chars().take(80).collect();
            let known = record.spec.secrets.iter().any(|s| s.name == one.name && s.source == SecretSource::Given);
            if !known {
                return Err(Error::invalid(format!("pod {} has no secret {name} that is given", record.spec.name)));
            }
            values.insert(one.name.clone(), value(&name, &one.value, one.encoding.as_deref())?);
        }
        let mut all = self.host.secrets.get(&record.id)?;
        all.extend(values.clone());
        secret::check_values(&record.spec.secrets, &all)?;
        self.host.secrets.put(&record.id, &values)
    }

    /// Gives a pod that runs its files anew, with the values given. Its environment stays what it is.
    pub(super) async fn renew_secrets(&self, turn: &Turn<'_>, given: &[SecretValue]) -> Result<()> {
        if given.is_empty() {
            return Ok(());
        }
        let record = turn.record();
        self.give_again(&record, given)?;
        let values = self.secret_values(&record.id, &record.spec).await?;
        self.place_secrets(&record, turn.pod().shim()?.as_ref(), &values).await
    }

    /// Every value of a pod's secrets, as it is now.
    ///
    /// # Errors
    /// [`Code::SecretsMissing`], with the names of those that have to be given again; [`Code::InvalidRequest`]: a file or a
    /// credential can't be read.
    pub(super) async fn secret_values(&self, id: &PodId, spec: &PodSpec) -> Result<SecretValues> {
        if spec.secrets.is_empty() {
            return Ok(SecretValues::new());
        }
        let given = self.host.secrets.get(id)?;
        let (mut values, mut missing) = (SecretValues::new(), Vec::new());
        for s in &spec.secrets {
            let value = match &s.source {
                SecretSource::Given => given.get(&s.name).cloned(),
                SecretSource::File(path) => Some(self.read_secret(&s.name, path).await?),
                SecretSource::Credential(name) => Some(self.read_credential(&s.name, name).await?),
            };
            match value {
                Some(value) => drop(values.insert(s.name.clone(), value)),
                None => missing.push(s.name.as_str()),
            }
        }
        if !missing.is_empty() {
            let text = format!("pod {} needs its secrets {} again", spec.name, missing.join(", "));
            return Err(Error::new(Code::SecretsMissing, text).hint(
                "they are kept in the host's memory, which was lost: give them with this call (secrets, --secret NAME=...)",
            ));
        }
        secret::check_values(&spec.secrets, &values)?;
        Ok(values)
    }

    async fn read_secret(&self, name: &str, path: &Path) -> Result<SecretBytes> {
        let what = || format!("read secret {name}");
        if path.canonicalize().is_ok_and(|real| self.refuse_own(&real).is_err()) {
            return Err(Error::invalid(format!("{}: {} is torpor's own", what(), path.display())));
        }
        let path = path.to_owned();
        let read = tokio::task::spawn_blocking(move || files::read_named(&path, MOST_BYTES)).await;
        let bytes = read.attempt(Code::Internal, what)?.attempt(Code::InvalidRequest, what)?;
        Ok(SecretBytes::from(bytes))
    }

    async fn read_credential(&self, name: &str, credential: &str) -> Result<SecretBytes> {
        let what = || format!("read secret {name}");
        let none = || {
            Error::invalid(format!("{}: torpord was started without credentials", what()))
                .hint("LoadCredential= in torpord.service, and a restart of it")
        };
        let dir = std::env::var_os(CREDENTIALS).ok_or_else(none)?;
        let path = Path::new(&dir).join(credential);
        let read = tokio::task::spawn_blocking(move || files::read_named(&path, MOST_BYTES)).await;
        let bytes = read.attempt(Code::Internal, what)?.attempt(Code::InvalidRequest, what)?;
        Ok(SecretBytes::from(bytes))
    }

    /// Puts the files of a pod's secrets into it; without any, nothing is done.
    pub(super) async fn place_secrets(&self, record: &PodRecord, shim: &dyn Shim, values: &SecretValues) -> Result<()> {
        let file = |s: &Secret| match s.target {
            SecretTarget::File { mode } => {
                Some(SecretFile { name: s.name.clone(), mode, content: values.get(&s.name)?.clone() })
            }
            SecretTarget::Env { .. } => None,
        };
        let files: Vec<SecretFile> = record.spec.secrets.iter().filter_map(file).collect();
        if files.is_empty() {
            return Ok(());
        }
        let user = record.spec.user.clone().unwrap_or_else(|| record.image_config.user.clone());
        shim.secrets(&SecretFiles { user, files }).await
    }

    /// Gives a pod that goes on its files again: they went before it was to be saved. What fails is told in its record.
    pub(super) async fn fill_again(self: &Arc<Self>, turn: &Turn<'_>) {
        let record = turn.record();
        if record.spec.secrets.is_empty() {
            return;
        }
        let mut failed = None;
        for _ in 0..TRIES {
            let filled = async {
                let values = self.secret_values(&record.id, &record.spec).await?;
                self.place_secrets(&record, turn.pod().shim()?.as_ref(), &values).await
            };
            match filled.await {
                Ok(()) => return,
                Err(e) => failed = Some(e.context("give the pod its secrets again").report()),
            }
        }
        tracing::error!(pod = %record.id, error = failed.as_deref(), "it goes on without its secrets' files");
        turn.settle(self, |r| r.last_error = failed).await;
    }

    /// Forgets values of pods that are gone.
    pub(super) fn forget_stray_secrets(&self) -> Result<()> {
        for name in self.host.secrets.list()? {
            let Ok(id) = name.parse::<PodId>() else { continue };
            let guarded = self.unreadable.iter().any(|(bad, _)| *bad == name);
            if !guarded && self.pod(&id).is_none() {
                self.host.secrets.remove(&id)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_one_thing_or_refused() {
        let value =
            |n: &str| SecretSpec { name: n.into(), value: Some(SecretText("v".into())), ..SecretSpec::default() };
        let (secrets, given) = admit(&[
            value("a"),
            SecretSpec { target: Some("env".into()), ..value("B") },
            SecretSpec { target: Some("env".into()), variable: Some("X".into()), ..value("c") },
            SecretSpec {
                name: "d".into(),
                file: Some("/x".into()),
                mode: Some("0440".into()),
                ..SecretSpec::default()
            },
        ])
        .unwrap();
        assert_eq!(given.keys().map(String::as_str).collect::<Vec<_>>(), ["B", "a", "c"]);
        assert_eq!(secrets[0].target, SecretTarget::File { mode: 0o400 });
        assert_eq!(secrets[1].target, SecretTarget::Env { variable: "B".into() });
        assert_eq!(secrets[3].target, SecretTarget::File { mode: 0o440 });
        for bad in [
            SecretSpec { name: "a".into(), ..SecretSpec::default() },
            SecretSpec { file: Some("/x".into()), ..value("a") },
            SecretSpec { target: Some("tmpfs".into()), ..value("a") },
            SecretSpec { variable: Some("X".into()), ..value("a") },
            SecretSpec { mode: Some("9".into()), ..value("a") },
            SecretSpec { target: Some("env".into()), mode: Some("0400".into()), ..value("a") },
            SecretSpec { encoding: Some("hex".into()), ..value("a") },
            SecretSpec { encoding: Some("base64".into()), value: Some(SecretText("!".into())), ..value("a") },
        ] {
            let e = admit(std::slice::from_ref(&bad)).unwrap_err();
            assert!(e.code() == Code::InvalidRequest && !e.report().contains('!'), "{bad:?}");
        }
    }
}

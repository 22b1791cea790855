//! Secrets of pods: what is known of them besides their values, and values that are shown to nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Error, Result};

/// Secrets that a pod may have.
const MOST: usize = 64;
/// Bytes of all values of a pod: they lie in a small file system in the pod's memory.
pub const MOST_BYTES: usize = 512 * 1024;

/// A value. It is shown to nobody, and overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// The value.
    pub fn get(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        SecretBytes(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Values by the secrets' names.
pub type SecretValues = BTreeMap<String, SecretBytes>;

/// A secret of a pod, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// Where the pod finds it.
    pub target: SecretTarget,
    /// Where its value comes from.
    pub source: SecretSource,
}

/// Where a pod finds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SecretTarget {
    /// In a file of its name below /run/secrets, which belongs to the user of the pod's command.
    File {
        /// Permissions.
        mode: u32,
    },
    /// In the environment of the pod's command.
    Env {
        /// Name of the variable.
        variable: String,
    },
}

/// Where a secret's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SecretSource {
    /// It was given with the request: it is kept in the host's memory only.
    Given,
    /// A file of the host, read at each start and wake.
    File(PathBuf),
    /// A systemd credential of torpord's, read at each start and wake.
    Credential(String),
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_variable(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Checks a pod's secrets against each other and its environment.
///
/// # Errors
/// [`crate::model::Code::InvalidRequest`], with what is wrong.
pub fn check(secrets: &[Secret], env: &BTreeMap<String, String>) -> Result<()> {
    if secrets.len() > MOST {
        return Err(Error::invalid(format!("a pod can have {MOST} secrets at most")));
    }
    for (n, secret) in secrets.iter().enumerate() {
        let shown: String = secret.name.chars().take(80).collect();
        if !is_name(&secret.name) {
            return Err(Error::invalid(format!("{shown:?} can't name a secret"))
                .hint("a letter, digit or _, then letters, digits, _ . and -, 63 at most"));
        }
        if secrets[..n].iter().any(|other| other.name == secret.name) {
            return Err(Error::invalid(format!("secret {shown} is given twice")));
        }
        match &secret.target {
            SecretTarget::File { mode } if mode & !0o777 != 0 => {
                return Err(Error::invalid(format!("secret {shown}: mode {mode:o} can't be given")));
            }
            SecretTarget::File { .. } => {}
            SecretTarget::Env { variable } => {
                if !is_variable(variable) {
                    let variable: String = variable.chars().take(80).collect();
                    return Err(Error::invalid(format!("secret {shown}: {variable:?} can't name a variable")));
                }
                let same = |s: &Secret| matches!(&s.target, SecretTarget::Env { variable: v } if v == variable);
                if env.contains_key(variable) || secrets[..n].iter().any(same) {
                    return Err(Error::invalid(format!("variable {variable} is given twice")));
                }
            }
        }
        match &secret.source {
            SecretSource::Given => {}
            SecretSource::File(path) => {
                if !path.is_absolute() || path.to_str().is_none_or(|p| p.contains('\0') || p.len() > 4095) {
                    return Err(Error::invalid(format!("secret {shown}: its file is no absolute path of the host")));
                }
            }
            SecretSource::Credential(name) => {
                if !is_name(name) {
                    return Err(Error::invalid(format!("secret {shown}: no credential can be called so")));
                }
            }
        }
    }
    Ok(())
}

/// Checks values against what a pod may have.
///
/// # Errors
/// [`crate::model::Code::InvalidRequest`]: they are too long together, or one can't be a variable's.
pub fn check_values(secrets: &[Secret], values: &SecretValues) -> Result<()> {
    if values.values().map(|v| v.get().len()).sum::<usize>() > MOST_BYTES {
        return Err(Error::invalid(format!("a pod's secrets may have {MOST_BYTES} bytes together")));
    }
    for secret in secrets.iter().filter(|s| matches!(s.target, SecretTarget::Env { .. })) {
        let Some(value) = values.get(&secret.name) else { continue };
        if value.get().contains(&0) || std::str::from_utf8(value.get()).is_err() {
            return Err(Error::invalid(format!("secret {} is no text, and can't be a variable's value", secret.name))
                .hint("give it as a file"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> Secret {
        Secret { name: name.into(), target: SecretTarget::File { mode: 0o400 }, source: SecretSource::Given }
    }

    fn env(name: &str, variable: &str) -> Secret {
        Secret { target: SecretTarget::Env { variable: variable.into() }, ..file(name) }
    }

    #[test]
    fn names_are_checked_and_nothing_is_given_twice() {
        let none = BTreeMap::new();
        assert!(check(&[file("a"), env("b", "B"), file("tls.key")], &none).is_ok());
        for bad in ["", ".a", "a/b", "..", "-x", "a b", &"x".repeat(64)] {
            assert!(check(&[file(bad)], &none).is_err(), "{bad:?}");
        }
        for bad in ["", "1A", "A-B", "A=B"] {
            assert!(check(&[env("a", bad)], &none).is_err(), "{bad:?}");
        }
        assert!(check(&[file("a"), file("a")], &none).is_err());
        assert!(check(&[env("a", "X"), env("b", "X")], &none).is_err());
        assert!(check(&[env("a", "X")], &[("X".to_owned(), "1".to_owned())].into()).is_err());
        let at = |path: &str| Secret { source: SecretSource::File(path.into()), ..file("a") };
        assert!(check(&[at("/etc/key")], &none).is_ok() && check(&[at("etc/key")], &none).is_err());
        let named = |n: &str| Secret { source: SecretSource::Credential(n.into()), ..file("a") };
        assert!(check(&[named("key")], &none).is_ok() && check(&[named("../key")], &none).is_err());
        let values = |v: Vec<u8>| SecretValues::from([("a".to_owned(), SecretBytes::from(v))]);
        assert!(check_values(&[env("a", "X")], &values(vec![0xff])).is_err());
        assert!(check_values(&[file("a")], &values(vec![0xff])).is_ok());
        assert!(check_values(&[file("a")], &values(vec![1; MOST_BYTES + 1])).is_err());
        assert_eq!(format!("{:?}", values(b"canary".to_vec())), r#"{"a": (secret)}"#);
    }
}

//! What may be set once instead of typed each time: the caller's own `config.toml`, and `.torpor.toml` of the directory.
//!
//! A directory's file comes with the directory, from whoever wrote that: it may say how the pod is to be, and nothing that reads or
//! runs something on this host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{caller, open_file, own};
use crate::cli::output::Failure;

/// The directory's file.
const OF_DIRECTORY: &str = ".torpor.toml";
/// Bytes that a file of settings may have.
const MOST: u64 = 1 << 20;

/// How a pod is made.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Profile {
    pub(super) image: Option<String>,
    pub(super) tier: Option<String>,
    pub(super) memory: Option<String>,
    pub(super) cpus: Option<f64>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) ports: Vec<Port>,
    pub(super) volumes: Vec<String>,
    pub(super) bootstrap: Option<String>,
    pub(super) secrets: BTreeMap<String, String>,
    pub(super) secret_env: BTreeMap<String, String>,
    pub(super) ssh: Option<bool>,
}

/// A port as it is written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(super) enum Port {
    Number(u16),
    Text(String),
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Port::Number(n) => n.fmt(f),
            Port::Text(t) => t.fmt(f),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct File {
    up: Profile,
    profile: BTreeMap<String, Profile>,
}

impl Profile {
    /// With what another one says, which counts more.
    fn with(mut self, more: Profile) -> Self {
        self.env.extend(more.env);
        self.secrets.extend(more.secrets);
        self.secret_env.extend(more.secret_env);
        Profile {
            image: more.image.or(self.image),
            tier: more.tier.or(self.tier),
            memory: more.memory.or(self.memory),
            cpus: more.cpus.or(self.cpus),
            env: self.env,
            ports: if more.ports.is_empty() { self.ports } else { more.ports },
            volumes: if more.volumes.is_empty() { self.volumes } else { more.volumes },
            bootstrap: more.bootstrap.or(self.bootstrap),
            secrets: self.secrets,
            secret_env: self.secret_env,
            ssh: more.ssh.or(self.ssh),
        }
    }

    /// What a directory's file may not say.
    fn reaches_out(&self) -> Option<&'static str> {
        let all = [
            ("secrets", self.secrets.is_empty()),
            ("secret-env", self.secret_env.is_empty()),
            ("volumes", self.volumes.is_empty()),
            ("ssh", self.ssh.is_none()),
        ];
        all.iter().find(|(_, unsaid)| !unsaid).map(|(name, _)| *name)
    }
}

fn parse(path: &Path, text: &str, strange: bool) -> Result<File, Failure> {
    let file: File = toml::from_str(text).map_err(|e| own(format!("{}: {e}", path.display())))?;
    if strange && let Some(key) = std::iter::once(&file.up).chain(file.profile.values()).find_map(Profile::reaches_out)
    {
        return Err(own(format!(
            "{}: a directory's own file may not set {key}: it would reach this host. Set it in {}",
            path.display(),
            caller::configuration().unwrap_or_else(|| PathBuf::from("~/.config/torpor")).join("config.toml").display()
        )));
    }
    Ok(file)
}

fn read(path: &Path, strange: bool) -> Result<File, Failure> {
    use std::io::Read;
    let mut text = String::new();
    let file = match open_file(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(File::default()),
        Err(e) => return Err(own(format!("{}: {e}", path.display()))),
    };
    if file.metadata().is_ok_and(|m| m.len() > MOST) {
        return Err(own(format!("{}: no file of settings: it is larger than 1 MiB", path.display())));
    }
    file.take(MOST).read_to_string(&mut text).map_err(|e| own(format!("{}: {e}", path.display())))?;
    parse(path, &text, strange)
}

/// What is set for a directory, and by a profile if one is asked for.
pub(super) fn settings(directory: &Path, profile: Option<&str>) -> Result<Profile, Failure> {
    let ours = match caller::configuration() {
        Some(dir) => read(&dir.join("config.toml"), false)?,
        None => File::default(),
    };
    choose(ours, read(&directory.join(OF_DIRECTORY), true)?, profile)
}

fn choose(mut ours: File, mut theirs: File, profile: Option<&str>) -> Result<Profile, Failure> {
    let common = ours.up.with(theirs.up);
    let Some(name) = profile else { return Ok(common) };
    let (a, b) = (ours.profile.remove(name), theirs.profile.remove(name));
    if a.is_none() && b.is_none() {
        let mut names: Vec<String> = ours.profile.into_keys().chain(theirs.profile.into_keys()).collect();
        names.sort();
        names.dedup();
        let there = if names.is_empty() { "there is none".into() } else { format!("there are: {}", names.join(", ")) };
        return Err(own(format!("no profile {name:?}: {there}. A profile is a table [profile.NAME] in config.toml")));
    }
    Ok(common.with(a.unwrap_or_default()).with(b.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(text: &str) -> File {
        parse(Path::new("config.toml"), text, false).unwrap()
    }

    #[test]
    fn what_is_nearer_counts_more() {
        let mine = "[up]\nimage = 'base'\nbootstrap = 'make apply'\nenv = { A = '1', B = '1' }
                    [profile.go]\nimage = 'go'\nports = [8080, '53:53/udp']\nsecrets = { t = 'cmd:true' }";
        let of_directory = "[up]\nenv = { B = '2' }\ntier = 'dev.small'\n[profile.go]\nmemory = '2g'\n[profile.x]";
        let theirs = || parse(Path::new("x"), of_directory, true).unwrap();
        let plain = choose(ours(mine), theirs(), None).unwrap();
        assert_eq!((plain.image.as_deref(), plain.tier.as_deref()), (Some("base"), Some("dev.small")));
        assert_eq!((plain.env["A"].as_str(), plain.env["B"].as_str()), ("1", "2"));
        let go = choose(ours(mine), theirs(), Some("go")).unwrap();
        assert_eq!((go.image.as_deref(), go.memory.as_deref()), (Some("go"), Some("2g")));
        assert_eq!((go.ports.len(), go.ports[0].to_string().as_str()), (2, "8080"));
        assert_eq!((go.bootstrap.as_deref(), go.secrets["t"].as_str()), (Some("make apply"), "cmd:true"));
        assert!(choose(ours(mine), theirs(), Some("x")).is_ok());
        let Err(Failure::Own(said)) = choose(ours(mine), theirs(), Some("nosuch")) else { panic!() };
        assert!(said.contains("go, x"), "{said}");
    }

    #[test]
    fn a_directory_of_a_stranger_reaches_nothing_here() {
        let tables = [
            "secrets = { a = 'cmd:touch /tmp/x' }",
            "secret-env = { a = 'env:HOME' }",
            "volumes = ['/:/host']",
            "ssh = true",
        ];
        for table in tables {
            for text in [format!("[up]\n{table}"), format!("[profile.a]\n{table}")] {
                assert!(parse(Path::new("x"), &text, true).is_err(), "{text}");
                assert!(parse(Path::new("x"), &text, false).is_ok(), "{text}");
            }
        }
        assert!(parse(Path::new("x"), "[up]\nnosuch = 1", true).is_err());
        let pipe = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&pipe.path().join("x"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(&pipe.path().join("x"), true).is_err());
    }
}

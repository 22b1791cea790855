//! Keys: which of the caller's log in, and what a pod shows as its own.
//!
//! Whoever reaches this server has started it, and so may use the API already: a key lets nobody in who is not. What counts is
//! said all the same: the files that are named; or, if none is, the public keys in ~/.ssh whose private halves lie beside
//! them, and those that ssh-agent holds.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use russh::keys::agent::client::AgentClient;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::ssh_key::{LineEnding, PrivateKey, PublicKey};

use super::own;
use crate::cli::output::Failure;
use crate::cli::up::caller;

/// Bytes read of a file of keys.
const MOST: u64 = 1 << 20;
/// How long ssh-agent is listened to.
const AGENT: Duration = Duration::from_secs(5);

/// The keys that log in.
pub(super) async fn authorized(files: &[PathBuf]) -> Result<Vec<PublicKey>, Failure> {
    let mut keys = Vec::new();
    if files.is_empty() {
        keys.extend(of_home());
        keys.extend(of_agent().await);
    }
    for path in files {
        keys.extend(of_file(path)?);
    }
    if keys.is_empty() {
        let where_from = if files.is_empty() { "in ~/.ssh and ssh-agent" } else { "in the files that were named" };
        return Err(own(format!(
            "there is no public key of yours {where_from}\nhint: `ssh-keygen -t ed25519` makes one, or name a file by --authorized-keys"
        )));
    }
    Ok(keys)
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MOST).read_to_string(&mut text)?;
    Ok(text)
}

/// Whether nobody but its owner, who is the caller or root, can change a file.
fn is_own(path: &Path) -> bool {
    let Ok(meta) = std::fs::metadata(path) else { return false };
    let me = rustix::process::geteuid().as_raw();
    meta.is_file() && (meta.uid() == me || meta.uid() == 0) && meta.mode() & 0o022 == 0
}

/// A file that was named: one key a line, as in sshd's authorized_keys. Lines with options are not taken: what they restrict is
/// not restricted here.
fn of_file(path: &Path) -> Result<Vec<PublicKey>, Failure> {
    let text = read(path).map_err(|e| own(format!("{}: {e}", path.display())))?;
    if !is_own(path) {
        return Err(own(format!("{}: others than you can change it: its keys are not taken", path.display())));
    }
    Ok(parse(&text))
}

fn parse(text: &str) -> Vec<PublicKey> {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines.filter_map(|l| PublicKey::from_openssh(l).ok()).collect()
}

fn of_home() -> Vec<PublicKey> {
    let Some(home) = std::env::var_os("HOME") else { return Vec::new() };
    let entries = std::fs::read_dir(Path::new(&home).join(".ssh")).into_iter().flatten().flatten();
    let paths = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "pub"));
    let whole = paths.filter(|p| is_own(p) && p.with_extension("").is_file());
    whole.filter_map(|p| read(&p).ok()).flat_map(|text| parse(&text)).collect()
}

async fn of_agent() -> Vec<PublicKey> {
    let asked = async {
        let mut agent = AgentClient::connect_env().await.ok()?;
        agent.request_identities().await.ok()
    };
    let known = tokio::time::timeout(AGENT, asked).await.ok().flatten().unwrap_or_default();
    known.iter().map(|i| i.public_key().into_owned()).collect()
}

/// Where keys of pods, and the file that tells ssh of them, are.
fn directory() -> Result<PathBuf, Failure> {
    let dir = caller::state().ok_or_else(|| own("there is no HOME: the pod's key can't be kept"))?.join("ssh");
    std::fs::create_dir_all(&dir).map_err(|e| own(format!("make {}: {e}", dir.display())))?;
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700))
        .map_err(|e| own(format!("shut {} off: {e}", dir.display())))?;
    Ok(dir)
}

/// What ssh calls a pod among the hosts that it knows.
pub(super) fn alias(pod: &str) -> String {
    format!("torpor-{pod}")
}

/// The key that a pod of that name shows: made once, and kept here, so that a pod that is made anew is no stranger.
pub(super) fn of_pod(pod: &str) -> Result<PrivateKey, Failure> {
    // It is torpord that says what the pod is called.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if pod.is_empty() || pod.starts_with('.') || !pod.chars().all(plain) {
        return Err(own(format!("{pod:?} is no pod's name")));
    }
    let path = directory()?.join(format!("{pod}.key"));
    let failed =
        |what: &str, e: &dyn std::fmt::Display| own(format!("{what} the key of pod {pod}, {}: {e}", path.display()));
    if !path.exists() {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| failed("make", &e))?;
        let key =
            PrivateKey::new(Ed25519Keypair::from_seed(&seed).into(), alias(pod)).map_err(|e| failed("make", &e))?;
        let text = key.to_openssh(LineEnding::LF).map_err(|e| failed("make", &e))?;
        // Whole or not at all, and the first one stays.
        let new = path.with_extension(format!("{}", std::process::id()));
        let _ = std::fs::remove_file(&new);
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).and_then(|mut f| {
            f.write_all(text.as_bytes())?;
            f.sync_all()
        });
        let linked = made.and_then(|()| std::fs::hard_link(&new, &path));
        let _ = std::fs::remove_file(&new);
        match linked {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed("keep", &e)),
            _ => {}
        }
    }
    let text = read(&path).map_err(|e| failed("read", &e))?;
    PrivateKey::from_openssh(text).map_err(|e| failed("read", &e))
}

/// Tells ssh of a pod's key; gives the file that does.
pub(super) fn make_known(pod: &str) -> Result<PathBuf, Failure> {
    let key = of_pod(pod)?;
    let public = key.public_key().to_openssh().map_err(|e| own(format!("the key of pod {pod}: {e}")))?;
    let mut words = public.split(' ');
    let line = format!("{} {} {}", alias(pod), words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let dir = directory()?;
    let path = dir.join("known_hosts");
    // One at a time: each keeps what the others wrote.
    let turn = std::fs::File::options().create(true).append(true).open(dir.join("lock"));
    let turn = turn.and_then(|f| f.lock().map(|()| f)).map_err(|e| own(format!("lock {}: {e}", dir.display())))?;
    let before = read(&path).unwrap_or_default();
    if !before.lines().any(|l| l == line) {
        let others = before.lines().filter(|l| l.split(' ').next() != Some(&alias(pod)));
        let text: String = others.chain([line.as_str()]).map(|l| format!("{l}\n")).collect();
        super::config::replace(&path, &text)?;
    }
    drop(turn);
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_caller_s_own_count() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("keys");
        let key = PrivateKey::new(Ed25519Keypair::from_seed(&[7; 32]).into(), "me").unwrap();
        let public = key.public_key().to_openssh().unwrap();
        std::fs::write(&path, format!("# mine\n\n{public}\ncommand=\"x\" {public}\nrubbish\n")).unwrap();
        let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        set(0o644);
        let found = of_file(&path).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].key_data(), key.public_key().key_data());
        set(0o664);
        assert!(of_file(&path).is_err() && of_file(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn no_pod_s_name_is_a_path() {
        for bad in ["", "../x", "a/b", ".x", "a b", "a\n"] {
            assert!(of_pod(bad).is_err(), "{bad:?}");
        }
    }
}

//! The few files init writes into the pod: host name, hosts, resolv.conf, machine id.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::channel::{Identity, Launch};

/// Before the command starts.
pub(super) fn prepare(launch: &Launch) -> Result<(), String> {
    names(&launch.hostname, &launch.hosts, &launch.resolv_conf)
}

/// After a restore.
pub(super) fn identify(identity: &Identity) -> Result<(), String> {
    names(&identity.hostname, &identity.hosts, &identity.resolv_conf)?;
    if let Some(id) = &identity.machine_id {
        replace("/etc/machine-id", format!("{id}\n").as_bytes())?;
    }
    if !identity.entropy.is_empty() {
        let pool = std::fs::OpenOptions::new().write(true).open("/dev/urandom");
        // Not every engine lets the pool be written; its own pool is fresh after a restore anyway.
        let _ = pool.and_then(|mut f| f.write_all(&identity.entropy));
    }
    Ok(())
}

fn names(hostname: &str, hosts: &str, resolv_conf: &str) -> Result<(), String> {
    // The engine has set the name already where init may not.
    let _ = nix::unistd::sethostname(hostname);
    replace("/etc/hostname", format!("{hostname}\n").as_bytes())?;
    replace("/etc/hosts", hosts.as_bytes())?;
    replace("/etc/resolv.conf", resolv_conf.as_bytes())
}

/// Puts a file in the place of whatever the image has there, a symbolic link too: the link is replaced, not followed.
fn replace(path: &str, text: &[u8]) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("write {path}: {e}");
    if let Some(dir) = Path::new(path).parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let new = format!("{path}.torpor-new");
    let _ = std::fs::remove_file(&new);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new).map_err(failed)?;
    file.write_all(text).map_err(failed)?;
    std::fs::rename(&new, path).map_err(failed)
}

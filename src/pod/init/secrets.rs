//! /run/secrets: filled before the command starts and after a wake, empty before a checkpoint.
//!
//! It is a file system in the pod's memory. Files appear whole, under their names at once. Whoever is root in the pod can do
//! with the directory what it likes; it harms its own pod only.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::channel::secrets::SecretFiles;

const DIR: &str = "/run/secrets";
/// How names of files begin that are not whole yet. No secret is called so.
const NEW: &str = ".new-";

/// Puts files there in the place of all that was.
pub(super) fn fill(secrets: &SecretFiles, user: u32, group: u32) -> Result<(), String> {
    fill_in(Path::new(DIR), secrets, user, group)
}

/// Leaves nothing there.
pub(super) fn clear() -> Result<(), String> {
    remove_but(Path::new(DIR), &[])
}

fn fill_in(dir: &Path, secrets: &SecretFiles, user: u32, group: u32) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("fill {}: {e}", dir.display());
    let at = std::fs::symlink_metadata(dir).map_err(failed)?;
    if !at.is_dir() {
        return Err(format!("fill {}: it is no directory", dir.display()));
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
    for file in &secrets.files {
        // torpord has checked it; a name with a slash would lead elsewhere.
        if file.name.is_empty() || file.name.starts_with('.') || file.name.contains('/') {
            return Err(format!("fill {}: {:?} is no name", dir.display(), file.name));
        }
        let new = dir.join(format!("{NEW}{}", file.name));
        let _ = std::fs::remove_file(&new);
        let write = || -> std::io::Result<()> {
            let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            out.write_all(file.content.get())?;
            std::os::unix::fs::fchown(&out, Some(user), Some(group))?;
            // After that: a change of owner takes bits away.
            out.set_permissions(std::fs::Permissions::from_mode(file.mode & 0o777))?;
            std::fs::rename(&new, dir.join(&file.name))
        };
        write().map_err(|e| format!("write {}: {e}", dir.join(&file.name).display()))?;
    }
    let names: Vec<&str> = secrets.files.iter().map(|f| f.name.as_str()).collect();
    remove_but(dir, &names)
}

fn remove_but(dir: &Path, names: &[&str]) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("empty {}: {e}", dir.display());
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if names.iter().any(|n| entry.file_name() == OsStr::new(n)) {
            continue;
        }
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        let gone = if is_dir { std::fs::remove_dir_all(entry.path()) } else { std::fs::remove_file(entry.path()) };
        match gone {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::channel::secrets::SecretFile;

    #[test]
    fn what_is_given_is_there_and_nothing_else() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("secrets");
        std::fs::create_dir(&dir).unwrap();
        let me = std::fs::metadata(&dir).unwrap();
        let files = |names: &[&str]| SecretFiles {
            user: String::new(),
            files: names
                .iter()
                .map(|n| SecretFile { name: (*n).into(), mode: 0o440, content: n.as_bytes().to_vec().into() })
                .collect(),
        };
        let names = || {
            let mut all: Vec<_> =
                std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            all.sort();
            all
        };
        fill_in(&dir, &files(&["a", "b"]), me.uid(), me.gid()).unwrap();
        assert_eq!(names(), ["a", "b"]);
        assert_eq!(std::fs::read(dir.join("a")).unwrap(), b"a");
        assert_eq!(std::fs::metadata(dir.join("a")).unwrap().mode() & 0o7777, 0o440);
        // A link that somebody put there is replaced, not followed; what else lies there goes.
        let outside = tmp.path().join("outside");
        std::fs::write(&outside, "keep").unwrap();
        std::fs::remove_file(dir.join("b")).unwrap();
        std::os::unix::fs::symlink(&outside, dir.join("b")).unwrap();
        std::fs::create_dir_all(dir.join("d/e")).unwrap();
        std::os::unix::fs::symlink(&outside, dir.join("d/link")).unwrap();
        fill_in(&dir, &files(&["b"]), me.uid(), me.gid()).unwrap();
        assert_eq!((names(), std::fs::read_to_string(&outside).unwrap().as_str()), (vec!["b".to_owned()], "keep"));
        for bad in ["../x", ".x", "", "a/b"] {
            assert!(fill_in(&dir, &files(&[bad]), me.uid(), me.gid()).is_err(), "{bad:?}");
        }
        remove_but(&dir, &[]).unwrap();
        assert!(names().is_empty());
        remove_but(&tmp.path().join("nosuch"), &[]).unwrap();
    }
}

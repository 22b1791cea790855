//! What a kill leaves of uploads into a store that is a directory: a file `<object>#<n>` beside the place of the object, which
//! the library renames when it is whole and lists nowhere.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::model::{Attempt, Code, Result};

/// The directory of a `file://` store.
pub(super) fn directory(url: &str) -> Option<PathBuf> {
    url::Url::parse(url).ok().filter(|u| u.scheme() == "file")?.to_file_path().ok()
}

/// Removes half-written files below a directory that are older than `grace`, and directories that are empty then; how many
/// files there were. No directory: nothing to do.
///
/// # Errors
/// One can't be removed.
pub(super) async fn remove(below: PathBuf, grace: Duration) -> Result<u64> {
    let what = || "remove half-written objects".to_owned();
    let done = tokio::task::spawn_blocking(move || walk(&below, grace)).await.attempt(Code::Internal, what)?;
    done.attempt(Code::StoreUnavailable, what)
}

fn walk(dir: &Path, grace: Duration) -> std::io::Result<u64> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            removed += walk(&path, grace)?;
            let _ = std::fs::remove_dir(&path); // only if nothing is in it
        } else if kind.is_file() && is_staged(&entry.file_name().to_string_lossy()) {
            let age = entry.metadata()?.modified().map(|t| SystemTime::now().duration_since(t).unwrap_or_default());
            if age.is_ok_and(|age| age >= grace) {
                std::fs::remove_file(&path)?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

fn is_staged(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn half_written_objects_go_and_whole_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        for name in ["packs/a/0", "packs/a/1#1", "packs/b/0#12", "x#", "x#1y"] {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), "x").unwrap();
        }
        assert_eq!(remove(dir.path().to_owned(), Duration::from_secs(3600)).await.unwrap(), 0);
        assert_eq!(remove(dir.path().to_owned(), Duration::ZERO).await.unwrap(), 2);
        assert!(at("packs/a/0").exists() && at("x#").exists() && at("x#1y").exists());
        assert!(!at("packs/a/1#1").exists() && !at("packs/b").exists());
        assert_eq!(remove(at("missing"), Duration::ZERO).await.unwrap(), 0);
    }
}

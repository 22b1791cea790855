//! What a kill leaves of uploads into a store that is a directory: a file `<object>#<n>` beside the place of the object, which
//! the library renames when it is whole and lists nowhere. And the empty directories that are left of snapshots: the library
//! would remove them under another upload that has just made one of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Swept;
use crate::model::{Attempt, Code, Result};

/// The directory of a `file://` store.
pub(super) fn directory(url: &str) -> Option<PathBuf> {
    url::Url::parse(url).ok().filter(|u| u.scheme() == "file")?.to_file_path().ok()
}

/// Removes what is half written of a store that has its root there: files that are older than `grace` and were `seen` by the
/// sweep before, and directories of snapshots that are empty, and were then. The rest is told.
///
/// # Errors
/// One can't be removed.
pub(super) async fn sweep(root: PathBuf, grace: Duration, seen: BTreeSet<String>) -> Result<Swept> {
    blocking(move || {
        let mut swept = Swept::default();
        walk(&root.join("v1"), 0, &mut |path, age| {
            let name = path.to_string_lossy().into_owned();
            let goes = age.is_none_or(|age| age >= grace) && seen.contains(&name);
            if !goes {
                swept.unnamed.insert(name);
            } else if age.is_some() {
                swept.removed += 1;
            }
            goes
        })
        .map(|()| swept)
    })
    .await
}

/// Removes all that is half written in a directory whose uploads have ended, and the directory itself if nothing else is in it.
/// No directory: nothing to do.
///
/// # Errors
/// Something can't be removed.
pub(super) async fn clear(dir: PathBuf) -> Result<()> {
    blocking(move || {
        walk(&dir, SNAPSHOT, &mut |_, _| true)?;
        let _ = std::fs::remove_dir(&dir); // only if nothing is in it
        Ok(())
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T> {
    let what = || "remove half-written objects".to_owned();
    tokio::task::spawn_blocking(work).await.attempt(Code::Internal, what)?.attempt(Code::StoreUnavailable, what)
}

/// How deep directories of single snapshots lie below `v1`. Those above them are everybody's.
const SNAPSHOT: usize = 2;

/// Removes of what is half written, and of empty directories of snapshots (which have no age), all that `goes`.
fn walk(dir: &Path, depth: usize, goes: &mut dyn FnMut(&Path, Option<Duration>) -> bool) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            walk(&path, depth + 1, goes)?;
            let empty = std::fs::read_dir(&path).is_ok_and(|mut inside| inside.next().is_none());
            if depth + 1 >= SNAPSHOT && empty && goes(&path, None) {
                let _ = std::fs::remove_dir(&path); // not if something came into it
            }
        } else if kind.is_file() && is_staged(&entry.file_name().to_string_lossy()) {
            let written = match entry.metadata() {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue, // it is whole now, or given up
                other => other?.modified()?,
            };
            let age = SystemTime::now().duration_since(written).unwrap_or_default();
            if goes(&path, Some(age)) {
                std::fs::remove_file(&path)?;
            }
        }
    }
    Ok(())
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
        let at = |p: &str| dir.path().join("v1").join(p);
        for name in ["packs/a/0", "packs/a/1#1", "packs/b/0#12", "x#", "x#1y"] {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), "x").unwrap();
        }
        std::fs::create_dir_all(at("packs/empty")).unwrap();
        std::fs::create_dir_all(at("snapshots")).unwrap();
        let now =
            async |grace, seen: &BTreeSet<String>| sweep(dir.path().to_owned(), grace, seen.clone()).await.unwrap();
        // Old by the clock, and never seen before.
        let first = now(Duration::ZERO, &BTreeSet::new()).await;
        assert_eq!((first.removed, first.unnamed.len()), (0, 3));
        let young = now(Duration::from_secs(3600), &first.unnamed).await;
        assert_eq!((young.removed, young.unnamed.len()), (0, 2));
        assert!(at("packs/a/1#1").exists() && !at("packs/empty").exists());
        let second = now(Duration::ZERO, &first.unnamed).await;
        assert!(at("packs/a/0").exists() && at("x#").exists() && at("x#1y").exists());
        assert!(!at("packs/a/1#1").exists() && second.removed == 2);
        // What it emptied may be somebody's who has just made it: until the next time.
        assert!(at("packs/b").exists());
        now(Duration::ZERO, &second.unnamed).await;
        assert!(!at("packs/b").exists() && at("snapshots").exists());
        // Whose uploads have ended, all that is left of it goes.
        std::fs::write(at("packs/a/2#1"), "x").unwrap();
        clear(at("packs/a")).await.unwrap();
        assert!(at("packs/a/0").exists() && !at("packs/a/2#1").exists());
        std::fs::remove_file(at("packs/a/0")).unwrap();
        for _ in 0..2 {
            clear(at("packs/a")).await.unwrap();
            assert!(!at("packs/a").exists());
        }
    }
}

//! Raw checkpoint images kept on this host: a wake here reads no store.
//!
//! Bounded in bytes, least lately used out first, never one that is in use. An image appears and goes whole, by a rename.
//! After a crash: what is there is counted anew. After a boot of the host it begins empty: nobody waits until an image is on
//! the disk, and no digest is checked when it is used. A disk that refuses it later, while the host runs on, is noticed: an image
//! is synced before the kernel would write it by itself, and one that can't be is not used again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::host::files;
use crate::model::{Attempt, Code, Result, SnapshotId};

/// The file that says during which boot of the host the images were written.
const BOOT: &str = "boot-id";

/// When an image is synced: one that wakes sooner costs the disk nothing. The kernel writes what is half a minute old.
const SYNC_AFTER: Duration = Duration::from_secs(20);

/// The images of a state directory.
pub struct Cache {
    dir: PathBuf,
    limit: u64,
    entries: Mutex<BTreeMap<SnapshotId, Entry>>,
}

struct Entry {
    bytes: u64,
    used: SystemTime,
    pins: u32,
    /// The disk did not take it: it goes as soon as nobody uses it.
    bad: bool,
}

/// An image in use: it stays until this is dropped.
pub struct Pinned {
    cache: Arc<Cache>,
    id: SnapshotId,
    path: PathBuf,
}

impl Pinned {
    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut entries = self.cache.lock();
        if let Some(e) = entries.get_mut(&self.id) {
            e.pins = e.pins.saturating_sub(1);
            if e.bad {
                self.cache.drop_if_bad(&mut entries, &self.id);
            }
        }
        self.cache.evict(&mut entries);
    }
}

impl Cache {
    /// Opens it and counts what is there since the host was booted (`boot_id`: the kernel's).
    ///
    /// # Errors
    /// It can't be read.
    pub fn open(state: &Path, limit: u64, boot_id: &str) -> Result<Arc<Self>> {
        let dir = state.join("cache");
        files::create_dir_all(&dir, 0o700)?;
        let booted = dir.join(BOOT);
        if files::read_if_present(&booted)?.as_deref() != Some(boot_id) {
            for name in files::list(&dir)? {
                files::remove_tree_now(&dir.join(name))?;
            }
            files::replace(&booted, boot_id.as_bytes(), 0o600)?;
        }
        let mut entries = BTreeMap::new();
        for name in files::list(&dir)? {
            let path = dir.join(&name);
            match name.parse::<SnapshotId>() {
                Ok(id) => {
                    let used = std::fs::metadata(&path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                    entries.insert(id, Entry { bytes: files::tree_bytes(&path)?, used, pins: 0, bad: false });
                }
                Err(_) if name == BOOT => {}
                Err(_) => files::remove_tree_now(&path)?,
            }
        }
        let cache = Arc::new(Cache { dir, limit, entries: Mutex::new(entries) });
        cache.evict(&mut cache.lock());
        Ok(cache)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SnapshotId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: &SnapshotId) -> PathBuf {
        self.dir.join(id.as_str())
    }

    fn evict(&self, entries: &mut BTreeMap<SnapshotId, Entry>) {
        let mut sum: u64 = entries.values().map(|e| e.bytes).sum();
        while sum > self.limit {
            let oldest = entries.iter().filter(|(_, e)| e.pins == 0).min_by_key(|(_, e)| e.used);
            let Some(id) = oldest.map(|(id, _)| id.clone()) else { return };
            if let Some(e) = entries.remove(&id) {
                sum -= e.bytes;
            }
            if let Err(e) = files::remove_tree_now(&self.path(&id)) {
                tracing::warn!(snapshot = %id, error = %e.report(), "remove a raw image");
            }
        }
    }

    /// The image of a snapshot, if it is here; it stays while the answer is held.
    pub fn pin(self: &Arc<Self>, id: &SnapshotId) -> Option<Pinned> {
        self.take(&mut self.lock(), id)
    }

    fn take(self: &Arc<Self>, entries: &mut BTreeMap<SnapshotId, Entry>, id: &SnapshotId) -> Option<Pinned> {
        // Somebody may have emptied the directory to make room: then it is fetched again.
        if !self.path(id).join("checkpoint.img").is_file() {
            entries.remove(id);
            if let Err(e) = files::remove_tree_now(&self.path(id)) {
                tracing::warn!(snapshot = %id, error = %e.report(), "remove what is left of a raw image");
            }
            return None;
        }
        let entry = entries.get_mut(id).filter(|e| !e.bad)?;
        entry.pins += 1;
        entry.used = SystemTime::now();
        Some(Pinned { cache: Arc::clone(self), id: id.clone(), path: self.path(id) })
    }

    /// Takes a directory in as the image of a snapshot. It may go again at once if it is larger than the cache.
    ///
    /// # Errors
    /// It can't be moved.
    pub async fn insert(self: &Arc<Self>, id: &SnapshotId, from: &Path) -> Result<()> {
        self.insert_pinned(id, from).await.map(drop)
    }

    /// As [`Cache::insert`], held.
    ///
    /// # Errors
    /// It can't be moved.
    pub async fn insert_pinned(self: &Arc<Self>, id: &SnapshotId, from: &Path) -> Result<Pinned> {
        let bytes = files::tree_bytes(from)?;
        let path = self.path(id);
        let faster = {
            let mut entries = self.lock();
            let faster = self.take(&mut entries, id);
            if faster.is_none() {
                files::rename(from, &path)?;
                entries.insert(id.clone(), Entry { bytes, used: SystemTime::now(), pins: 1, bad: false });
                self.evict(&mut entries);
            }
            faster
        };
        match faster {
            Some(pinned) => {
                files::remove_tree(from).await?; // two fetched it at once
                Ok(pinned)
            }
            None => {
                self.sync_later(id.clone());
                Ok(Pinned { cache: Arc::clone(self), id: id.clone(), path })
            }
        }
    }

    /// Syncs what was there when the cache was opened, in the background: an earlier torpord may have had no time for it.
    pub fn sync_found(self: &Arc<Self>) {
        for id in self.idle() {
            self.sync_later(id);
        }
    }

    fn sync_later(self: &Arc<Self>, id: SnapshotId) {
        let (cache, path) = (Arc::downgrade(self), self.path(&id));
        tokio::spawn(async move {
            tokio::time::sleep(SYNC_AFTER).await;
            let synced = tokio::task::spawn_blocking(move || sync(&path)).await;
            let Some(cache) = cache.upgrade() else { return };
            if let Err(e) = synced.attempt(Code::Internal, || "sync a raw image".into()).and_then(|done| done) {
                tracing::warn!(snapshot = %id, error = %e.report(), "its raw image is not used again");
                cache.distrust(&id);
            }
        });
    }

    /// The image of a snapshot is not given to anybody any more.
    fn distrust(&self, id: &SnapshotId) {
        let mut entries = self.lock();
        if let Some(e) = entries.get_mut(id) {
            e.bad = true;
        }
        self.drop_if_bad(&mut entries, id);
    }

    fn drop_if_bad(&self, entries: &mut BTreeMap<SnapshotId, Entry>, id: &SnapshotId) {
        if entries.get(id).is_some_and(|e| e.bad && e.pins == 0) {
            entries.remove(id);
            if let Err(e) = files::remove_tree_now(&self.path(id)) {
                tracing::warn!(snapshot = %id, error = %e.report(), "remove a bad raw image");
            }
        }
    }

    /// Removes a snapshot's image. Not there: nothing to do.
    ///
    /// # Errors
    /// It can't be removed.
    pub async fn remove(&self, id: &SnapshotId) -> Result<()> {
        self.lock().remove(id);
        files::remove_tree(&self.path(id)).await
    }

    /// Whose images are here and not in use.
    pub fn idle(&self) -> Vec<SnapshotId> {
        self.lock().iter().filter(|(_, e)| e.pins == 0).map(|(id, _)| id.clone()).collect()
    }

    /// Whose images are here, with the bytes that each takes.
    pub fn sizes(&self) -> Vec<(SnapshotId, u64)> {
        self.lock().iter().map(|(id, e)| (id.clone(), e.bytes)).collect()
    }

    /// Removes a snapshot's image unless it is in use. False: it is, or is not here.
    ///
    /// # Errors
    /// It can't be removed.
    pub fn remove_idle(&self, id: &SnapshotId) -> Result<bool> {
        let mut entries = self.lock();
        if entries.get(id).is_none_or(|e| e.pins > 0) {
            return Ok(false);
        }
        files::remove_tree_now(&self.path(id))?;
        entries.remove(id);
        Ok(true)
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> u64 {
        self.lock().values().map(|e| e.bytes).sum()
    }
}

/// Waits until all files of an image are on the disk. One that is gone meanwhile needs no sync.
fn sync(dir: &Path) -> Result<()> {
    for name in files::list(dir)? {
        let path = dir.join(&name);
        let synced = std::fs::File::open(&path).and_then(|file| file.sync_all());
        match synced {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).attempt(Code::Internal, || format!("sync {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_least_lately_used_goes_first_and_never_what_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), 300 << 10, "one boot").unwrap();
        let mut ids = Vec::new();
        let add = async |cache: &Arc<Cache>| {
            let id = SnapshotId::random().unwrap();
            let from = dir.path().join("new");
            std::fs::create_dir(&from).unwrap();
            std::fs::write(from.join("pages.img"), vec![1; 96 << 10]).unwrap();
            std::fs::write(from.join("checkpoint.img"), vec![1; 4 << 10]).unwrap();
            cache.insert(&id, &from).await.unwrap();
            id
        };
        for _ in 0..2 {
            ids.push(add(&cache).await);
        }
        let held = cache.pin(&ids[0]).unwrap();
        for _ in 0..2 {
            ids.push(add(&cache).await);
        }
        assert!(cache.pin(&ids[1]).is_none() && held.path().join("pages.img").exists());
        assert!(!cache.remove_idle(&ids[0]).unwrap() && cache.remove_idle(&ids[2]).unwrap());
        assert!(!cache.sizes().iter().any(|(id, _)| *id == ids[2]) && cache.pin(&ids[2]).is_none());
        ids[2] = add(&cache).await;
        drop(held);
        let again = Cache::open(dir.path(), 300 << 10, "one boot").unwrap();
        assert_eq!(again.bytes(), cache.bytes());
        assert!(again.bytes() <= 300 << 10);
        again.remove(&ids[3]).await.unwrap();
        assert!(again.pin(&ids[3]).is_none());
        // Emptied by somebody else: as if it had never been there.
        std::fs::remove_dir_all(dir.path().join("cache").join(ids[2].as_str())).unwrap();
        assert!(again.pin(&ids[2]).is_none());
        // What the disk did not take: it stays for who uses it, and nobody else gets it.
        let bad = add(&again).await;
        sync(&again.path(&bad)).unwrap();
        let used = again.pin(&bad).unwrap();
        again.distrust(&bad);
        assert!(again.pin(&bad).is_none() && used.path().join("pages.img").exists());
        drop(used);
        assert!(!again.path(&bad).exists() && !again.sizes().iter().any(|(id, _)| *id == bad));
        // What a power loss may have cut short is not used.
        let id = add(&again).await;
        drop(again);
        let rebooted = Cache::open(dir.path(), 300 << 10, "the next boot").unwrap();
        assert!(rebooted.pin(&id).is_none() && rebooted.bytes() == 0);
    }
}

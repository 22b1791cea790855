//! A snapshot's files and layers on this host: found in the cache, or brought out of the store after a preflight.
//!
//! After a crash: what was half fetched lies in a directory for scratch, which is emptied at the next start.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Core;
use crate::host::cache::Pinned;
use crate::host::files;
use crate::host::progress::Progress;
use crate::model::{Code, Error, Manifest, Result, SnapshotId};

/// Fetches of this process so far.
static FETCHES: AtomicU64 = AtomicU64::new(0);

/// The raw files of a snapshot.
pub(super) struct Files {
    at: At,
    progress: Progress,
}

enum At {
    /// In the cache; they stay while this is held.
    Here(Pinned),
    /// In the store, as this manifest says.
    Store(Box<Manifest>),
}

impl Files {
    /// Whether they are on this host.
    pub(super) fn here(&self) -> bool {
        matches!(self.at, At::Here(_))
    }
}

impl Core {
    /// Finds a snapshot's files, here or in the store. Those in the store have passed the preflight, and their layers are
    /// here.
    ///
    /// # Errors
    /// It can't be restored here, or the store can't be read. Nothing was touched.
    pub(super) async fn find_files(
        &self,
        id: &SnapshotId,
        manifest: Option<Manifest>,
        progress: &Progress,
    ) -> Result<Files> {
        let progress = progress.clone();
        if let Some(pinned) = self.host.cache.pin(id) {
            if let Some(manifest) = &manifest {
                self.fetch_layers(manifest, &progress).await?;
            }
            return Ok(Files { at: At::Here(pinned), progress });
        }
        let manifest = match manifest {
            Some(manifest) => manifest,
            None => {
                let fetched = self.host.store.manifest(id).await?;
                self.preflight(&fetched)?;
                fetched
            }
        };
        self.fetch_layers(&manifest, &progress).await?;
        Ok(Files { at: At::Store(Box::new(manifest)), progress })
    }

    /// Brings the files here if they are not, and says where they are; they stay while `files` is held.
    ///
    /// # Errors
    /// [`Code::Damaged`], [`Code::StoreUnavailable`]: `files` are not here then.
    pub(super) async fn bring_files(&self, files: &mut Files) -> Result<PathBuf> {
        let manifest = match &files.at {
            At::Here(pinned) => {
                files.progress.phase("restore");
                return Ok(pinned.path().to_owned());
            }
            At::Store(manifest) => manifest,
        };
        files.progress.phase("fetch");
        // A directory of its own: two may ask for the same snapshot at once.
        let dir = self.dirs.fetched(&manifest.id, FETCHES.fetch_add(1, Ordering::Relaxed));
        if let Err(e) = self.host.store.fetch_snapshot(manifest, &dir, &files.progress).await {
            let _ = files::remove_tree(&dir).await;
            return Err(e);
        }
        let pinned = self.host.cache.insert_pinned(&manifest.id, &dir).await?;
        files.progress.phase("restore");
        let path = pinned.path().to_owned();
        files.at = At::Here(pinned);
        Ok(path)
    }

    /// Brings the layers of a snapshot that are not here.
    pub(super) async fn fetch_layers(&self, manifest: &Manifest, progress: &Progress) -> Result<()> {
        progress.phase("layers");
        for layer in &manifest.layers {
            if !self.host.layers.has(&layer.digest) {
                let blob = self.host.store.get_layer(&layer.digest).await.map_err(|e| match e.code() {
                    Code::NotFound => {
                        let text = format!("layer {} of snapshot {} is missing", layer.digest, manifest.id);
                        Error::new(Code::Damaged, text).because(e)
                    }
                    _ => e,
                })?;
                self.host.layers.import_blob(&layer.digest, blob).await?;
            }
        }
        Ok(())
    }

    /// A snapshot may have been put into the store by somebody who may not read this host's files: directories of the host
    /// are shown to a new pod only if its origin is a pod of this daemon that has them, or whoever asks says so.
    ///
    /// # Errors
    /// [`Code::Incompatible`], with the directory.
    pub(super) fn agree_to_volumes(&self, manifest: &Manifest, shown: &[String]) -> Result<()> {
        let records = self.records();
        let origin = records.iter().find(|r| r.id == manifest.pod.id);
        for volume in manifest.pod.spec.volumes.iter().filter(|v| v.source.starts_with('/')) {
            let has = origin.is_some_and(|r| r.spec.volumes.contains(volume));
            if !has && !shown.contains(&volume.source) {
                let text =
                    format!("snapshot {} wants this host's directory {:?} as a volume", manifest.id, volume.source);
                return Err(Error::new(Code::Incompatible, text)
                    .hint("its pod is not here: say hostDirectories (--host-directory) if the new one may have it"));
            }
        }
        Ok(())
    }

    /// Says in plain words why a snapshot can't be restored here, before anything is touched.
    pub(super) fn preflight(&self, manifest: &Manifest) -> Result<()> {
        let refuse = |why: String, hint: String| Err(Error::new(Code::Incompatible, why).hint(hint));
        if manifest.architecture != std::env::consts::ARCH {
            return refuse(
                format!(
                    "snapshot {} was taken on {}, this host is {}",
                    manifest.id,
                    manifest.architecture,
                    std::env::consts::ARCH
                ),
                "restore it on a host of that architecture".into(),
            );
        }
        if manifest.page_size != page_size() {
            return refuse(
                format!("snapshot {} has pages of {} bytes", manifest.id, manifest.page_size),
                "restore it on a host with that page size".into(),
            );
        }
        if self.host.engines.get(&manifest.engine).is_err() {
            return refuse(
                format!("snapshot {} needs engine {} ({})", manifest.id, manifest.engine_version, manifest.engine),
                "install that very runsc and restart torpord with it once".into(),
            );
        }
        if !crate::plan::bundle::knows_template(manifest.template) {
            return refuse(
                format!("snapshot {} has bundle template {}", manifest.id, manifest.template),
                "use a newer torpord".into(),
            );
        }
        let here = crate::host::engine::cpu_features()?;
        let missing: Vec<&str> =
            manifest.cpu_features.iter().filter(|f| !here.contains(f)).map(String::as_str).collect();
        if !missing.is_empty() {
            return refuse(
                format!(
                    "snapshot {} needs {} processor features that this host lacks: {}",
                    manifest.id,
                    missing.len(),
                    missing[..missing.len().min(20)].join(" ")
                ),
                "restore it on a host whose processor has them".into(),
            );
        }
        for volume in &manifest.pod.spec.volumes {
            if !self.volume_path(&volume.source).is_dir() {
                return refuse(
                    format!(
                        "snapshot {} has volume {} at {}, which is not on this host",
                        manifest.id,
                        volume.source,
                        volume.target.display()
                    ),
                    "volumes don't travel with snapshots yet: make it here first".into(),
                );
            }
        }
        Ok(())
    }
}

/// Bytes of a page of memory.
pub(super) fn page_size() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|n| u64::try_from(n).ok())
        .unwrap_or(4096)
}

//! A checkpoint's files out of the store, in parallel, every run checked.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path as Key;

use super::{SMALL, Store, digest};
use crate::host::files;
use crate::host::progress::Progress;
use crate::model::{Attempt, Code, Error, Manifest, Result};
use crate::plan::pack::{self, Read};

/// Reads on their way at the same time.
const AT_ONCE: usize = 4;

impl Store {
    /// Fetches a snapshot's files into a new directory. On failure the directory is not to be used.
    ///
    /// # Errors
    /// [`Code::Damaged`]: bytes are not those that were saved, or are missing; [`Code::StoreUnavailable`].
    pub async fn fetch_snapshot(&self, manifest: &Manifest, dir: &Path, progress: &Progress) -> Result<()> {
        pack::check_files(&manifest.files)?;
        let key = self.digest_key().await?;
        files::create_dir_all(dir, 0o700)?;
        progress.total(manifest.size);
        let mut open = Vec::new();
        for file in &manifest.files {
            let path = dir.join(&file.name);
            let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
            let refused = |e| files::disk_error(e, Code::Internal, format!("make {}", path.display()));
            let made = made.map_err(refused)?;
            // Runs of zeros are left as holes.
            made.set_len(file.length).map_err(refused)?;
            open.push(made);
        }
        let open = Arc::new(open);
        let reads = pack::reads(&manifest.files);
        futures::stream::iter(reads.into_iter().map(Ok))
            .try_for_each_concurrent(AT_ONCE, |read| self.fetch(read, &open, key, progress))
            .await
            .map_err(|e| e.context(format!("fetch snapshot {}", manifest.id)))
    }

    async fn fetch(&self, read: Read, open: &Arc<Vec<File>>, key: [u8; 32], progress: &Progress) -> Result<()> {
        let pack = Key::from(read.pack.as_str());
        let got = self.bounded("fetch a pack", 2 * SMALL, self.objects.get_range(&pack, read.start..read.end)).await;
        let bytes = match got {
            Ok(bytes) => bytes,
            Err(e) if e.code() == Code::NotFound => {
                return Err(Error::new(Code::Damaged, format!("pack {} is missing", read.pack)).because(e));
            }
            Err(e) => {
                // Stores refuse a range behind the end, each in its own words.
                let head = self.bounded("look at a pack", SMALL, self.objects.head(&pack)).await;
                return Err(match head {
                    Ok(meta) if meta.size < read.end => {
                        Error::new(Code::Damaged, format!("pack {} is shorter than it was", read.pack)).because(e)
                    }
                    _ => e,
                });
            }
        };
        if bytes.len() as u64 != read.end - read.start {
            return Err(Error::new(Code::Damaged, format!("pack {} is shorter than it was", read.pack)));
        }
        let open = Arc::clone(open);
        let written = tokio::task::spawn_blocking(move || {
            let mut sum = 0;
            for (n, at, extent) in &read.parts {
                let damaged = |why: &str| {
                    Error::new(Code::Damaged, format!("pack {} is damaged: {why}", read.pack))
                        .hint("restore another snapshot; this one's bytes were changed in the store or on the way")
                };
                let from = usize::try_from(extent.frame - read.start).unwrap_or(usize::MAX);
                let size = usize::try_from(extent.size).unwrap_or(usize::MAX);
                let frame = bytes.get(from..from.saturating_add(size)).ok_or_else(|| damaged("too short"))?;
                let length = usize::try_from(extent.length).unwrap_or(0);
                // The capacity bounds what a frame can become.
                let run = zstd::bulk::decompress(frame, length).map_err(|e| damaged(&e.to_string()))?;
                if run.len() != length || digest(&key, &run) != extent.digest {
                    return Err(damaged("its digest is another"));
                }
                let file = open.get(*n).ok_or_else(|| Error::internal("a read of no file"))?;
                file.write_all_at(&run, *at)
                    .map_err(|e| files::disk_error(e, Code::Internal, "write a checkpoint's file"))?;
                sum += extent.length;
            }
            Ok(sum)
        });
        progress.add(written.await.attempt(Code::Internal, || "unpack a pack".into())??);
        Ok(())
    }
}

//! The object store: layers, packs and manifests in a bucket or a directory.
//!
//! ```text
//! torpor.json                   create-only {format, minReader, storeId, digestKeyId}
//! v1/keys/<id>                  create-only; the key of this store's digests
//! v1/layers/<hex>.tar.zst       before any manifest that names them
//! v1/packs/<snapshot>/<n>       immutable
//! v1/snapshots/<id>/manifest    create-only, written last
//! ```
//!
//! The key lies in the store itself: it keeps the digests of one store from telling anything about another's content, and
//! finds damage. It does not keep out somebody who can write to the store; such a one can replace manifests anyway.
//!
//! After a crash: packs without a manifest, which [`Store::sweep`] removes after a grace period. A snapshot is there when
//! its manifest is, and then it is whole.

mod backend;
mod counted;
mod fetch;
mod staged;
mod upload;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;

pub use backend::StoreConfig;
pub use counted::Requests;
pub use upload::SnapshotUpload;

use crate::host::progress::Progress;
use crate::model::{Attempt, Code, Digest, Error, Manifest, Result, SnapshotId, SnapshotInfo};
use crate::plan::manifest::{self, FORMAT, digest};
use crate::plan::pack;

/// Bytes of a manifest.
const MANIFEST: u64 = 64 << 20;
/// Bytes of names of one listing.
const NAMES: usize = 64 << 20;
/// For one small object.
const SMALL: Duration = Duration::from_secs(20);
/// So much that nothing names is remembered from one sweep to the next; what is beyond has its turn later.
const MOST_UNNAMED: usize = 100_000;
/// Bytes of one part of a large object.
const PART: usize = 6 << 20;

/// An open store.
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    counts: Arc<counted::Counts>,
    shown: String,
    key: tokio::sync::OnceCell<[u8; 32]>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    format: u32,
    min_reader: u32,
    store_id: String,
    digest_key_id: String,
}

impl Store {
    /// Opens a store by its URL. It need not answer yet.
    ///
    /// # Errors
    /// The URL or its settings are wrong.
    pub fn open(config: &StoreConfig) -> Result<Self> {
        let (objects, shown) = backend::open(config)?;
        Ok(Self::on(objects, shown))
    }

    /// A store on objects that are open already; `shown` is what people are told of where they are.
    pub fn on(objects: Arc<dyn ObjectStore>, shown: String) -> Self {
        let counts = Arc::new(counted::Counts::default());
        let objects = Arc::new(counted::Counted { objects, counts: Arc::clone(&counts) });
        Store { objects, counts, shown, key: tokio::sync::OnceCell::new() }
    }

    /// What was asked of it since it was opened.
    pub fn requests(&self) -> Vec<Requests> {
        self.counts.shown()
    }

    /// Where it is, without credentials.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    fn failed(&self, what: &str, e: object_store::Error) -> Error {
        let code = match &e {
            object_store::Error::NotFound { .. } => Code::NotFound,
            _ => Code::StoreUnavailable,
        };
        let error = Error::new(code, format!("{what} ({})", self.shown)).because(e);
        if code == Code::NotFound {
            error
        } else {
            error.hint("is the store reachable, and are its credentials right? `torpor doctor` tells")
        }
    }

    async fn bounded<T>(
        &self,
        what: &str,
        limit: Duration,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done.map_err(|e| self.failed(what, e)),
            Err(_) => Err(Error::new(
                Code::StoreUnavailable,
                format!("{what}: no answer in {} s ({})", limit.as_secs(), self.shown),
            )
            .hint("is the store reachable? `torpor doctor` tells")),
        }
    }

    async fn get_small(&self, what: &str, key: &str, most: u64) -> Result<Vec<u8>> {
        let key = Key::from(key);
        let work = async {
            let got = self.objects.get(&key).await?;
            if got.meta.size > most {
                return Ok(None);
            }
            got.bytes().await.map(Some)
        };
        let bytes = self.bounded(what, SMALL, work).await?;
        bytes
            .map(|b| b.to_vec())
            .ok_or_else(|| Error::new(Code::Damaged, format!("{what}: it is larger than {most} bytes")))
    }

    /// Writes an object that must not be there. False: it is.
    async fn create(&self, what: &str, key: &str, bytes: Vec<u8>) -> Result<bool> {
        let key = Key::from(key);
        let options = PutOptions::from(PutMode::Create);
        let put = self.objects.put_opts(&key, PutPayload::from(bytes), options);
        match tokio::time::timeout(SMALL, put).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })) => Ok(false),
            Ok(Err(e)) => Err(self.failed(what, e)),
            Err(_) => Err(Error::new(
                Code::StoreUnavailable,
                format!("{what}: no answer in {} s ({})", SMALL.as_secs(), self.shown),
            )),
        }
    }

    /// Asks whether the store answers and can be used; marks a new one as torpor's.
    ///
    /// # Errors
    /// [`Code::StoreUnavailable`], or [`Code::Incompatible`] for a store of a newer torpor.
    pub async fn check(&self) -> Result<()> {
        let known = self.key.initialized();
        self.digest_key().await?;
        if known {
            let key = Key::from("torpor.json");
            self.bounded("reach the store", SMALL / 2, self.objects.head(&key)).await?;
        }
        Ok(())
    }

    /// The key of this store's digests.
    async fn digest_key(&self) -> Result<[u8; 32]> {
        self.key.get_or_try_init(|| self.load_key()).await.copied()
    }

    async fn load_key(&self) -> Result<[u8; 32]> {
        let what = "open the store";
        for _ in 0..2 {
            match self.get_small(what, "torpor.json", 64 << 10).await {
                Ok(bytes) => {
                    let marker: Marker = serde_json::from_slice(&bytes)
                        .attempt(Code::Damaged, || format!("{what}: torpor.json is not understood ({})", self.shown))?;
                    if marker.min_reader > FORMAT {
                        return Err(Error::new(
                            Code::Incompatible,
                            format!("the store has format {}; this torpord knows {FORMAT}", marker.format),
                        )
                        .hint("use a newer torpord"));
                    }
                    let id: SnapshotId = marker.digest_key_id.parse().map_err(|e: Error| {
                        Error::new(Code::Damaged, format!("{what}: torpor.json is damaged")).because(e)
                    })?;
                    let key = self.get_small("read the store's key", &format!("v1/keys/{id}"), 64).await?;
                    return key.try_into().map_err(|_| Error::new(Code::Damaged, "the store's key is damaged"));
                }
                Err(e) if e.code() == Code::NotFound => self.initialise().await?,
                Err(e) => return Err(e),
            }
        }
        Err(Error::new(
            Code::StoreUnavailable,
            format!("{what}: it does not keep what is written to it ({})", self.shown),
        ))
    }

    /// The key first, so that a marker never names one that is not there.
    async fn initialise(&self) -> Result<()> {
        let mut key = [0_u8; 32];
        getrandom::fill(&mut key).map_err(|e| Error::internal(format!("read random bytes: {e}")))?;
        let key_id = SnapshotId::random()?;
        self.create("write the store's key", &format!("v1/keys/{key_id}"), key.to_vec()).await?;
        let marker = Marker {
            format: FORMAT,
            min_reader: FORMAT,
            store_id: SnapshotId::random()?.to_string(),
            digest_key_id: key_id.to_string(),
        };
        let bytes = serde_json::to_vec(&marker).attempt(Code::Internal, || "write torpor.json".into())?;
        // Somebody else may have been first: then theirs counts.
        self.create("mark the store", "torpor.json", bytes).await.map(drop)
    }

    fn layer_key(digest: &Digest) -> Key {
        Key::from(format!("v1/layers/{}.tar.zst", digest.hex()))
    }

    /// Whether the store has that layer.
    ///
    /// # Errors
    /// The store can't be asked.
    pub async fn has_layer(&self, digest: &Digest) -> Result<bool> {
        let key = Self::layer_key(digest);
        match self.bounded("look for a layer", SMALL, self.objects.head(&key)).await {
            Ok(_) => Ok(true),
            Err(e) if e.code() == Code::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Sends a layer's bytes.
    ///
    /// # Errors
    /// The store refuses; nothing of it can be seen then.
    pub async fn put_layer(self: &Arc<Self>, digest: &Digest, blob: &Path, progress: &Progress) -> Result<()> {
        use tokio::io::AsyncReadExt;
        let what = format!("send layer {digest}");
        let mut file = tokio::fs::File::open(blob).await.attempt(Code::Internal, || what.clone())?;
        progress.total(file.metadata().await.attempt(Code::Internal, || what.clone())?.len());
        let mut upload = upload::Object::begin(self, &what, Self::layer_key(digest)).await?;
        loop {
            let mut part = Vec::with_capacity(PART);
            let n =
                (&mut file).take(PART as u64).read_to_end(&mut part).await.attempt(Code::Internal, || what.clone())?;
            if n == 0 {
                break;
            }
            upload.part(part).await?;
            progress.add(n as u64);
        }
        upload.finish().await
    }

    /// A layer's bytes, asked for piece by piece: each has its own time limit, whatever the layer's size.
    ///
    /// # Errors
    /// The store lacks it or can't be asked. Reading fails with an [`Error`] inside when a piece can't be had.
    pub async fn get_layer(self: &Arc<Self>, digest: &Digest) -> Result<impl AsyncRead + Send + Unpin + use<>> {
        let key = Self::layer_key(digest);
        let size = self.bounded("look for a layer", SMALL, self.objects.head(&key)).await?.size;
        let starts = (0..size).step_by(PART);
        let store = Arc::clone(self);
        let stream = futures::stream::iter(starts).map(move |start| {
            let (store, key) = (Arc::clone(&store), key.clone());
            async move {
                let end = size.min(start + PART as u64);
                let piece = store.objects.get_range(&key, start..end);
                let bytes = store.bounded("fetch a layer", 2 * SMALL, piece).await?;
                if bytes.len() as u64 == end - start {
                    Ok(bytes)
                } else {
                    Err(Error::new(Code::Damaged, "fetch a layer: the store gave less than was asked for"))
                }
            }
        });
        Ok(tokio_util::io::StreamReader::new(stream.buffered(2).map_err(std::io::Error::other).boxed()))
    }

    /// Writes a manifest: from now on the snapshot is there.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn put_manifest(&self, manifest: &Manifest) -> Result<()> {
        let what = format!("write the manifest of snapshot {}", manifest.id);
        let bytes = manifest::seal(manifest, &self.digest_key().await?)?;
        if self.create(&what, &pack::manifest_key(&manifest.id), bytes).await? {
            return Ok(());
        }
        // A call whose answer was lost was made again, and found its own work.
        let there = self.manifest(&manifest.id).await?;
        if there == *manifest { Ok(()) } else { Err(Error::internal(format!("{what}: another one has that id"))) }
    }

    /// Reads a manifest and checks all that it says.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Incompatible`] for a newer format, [`Code::Damaged`].
    pub async fn manifest(&self, id: &SnapshotId) -> Result<Manifest> {
        let what = format!("read the manifest of snapshot {id}");
        let bytes = self.get_small(&what, &pack::manifest_key(id), MANIFEST).await.map_err(|e| match e.code() {
            Code::NotFound => {
                Error::new(Code::NotFound, format!("no snapshot {id}")).hint("`torpor snapshot ls` lists them")
            }
            _ => e,
        })?;
        manifest::open(id, &bytes, &self.digest_key().await?)
    }

    /// The snapshot that an id or a unique beginning of one (four characters at least) stands for. A whole id is not looked up.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::InvalidRequest`]: it can be no id; [`Code::StoreUnavailable`].
    pub async fn find(&self, reference: &str) -> Result<SnapshotId> {
        let bad = match reference.parse() {
            Ok(id) => return Ok(id),
            Err(e) => e,
        };
        if !(4..32).contains(&reference.len()) || !reference.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad);
        }
        let keys = self.keys("v1/snapshots").await?;
        let ids = keys.iter().filter_map(|k| k.split('/').nth(2)).filter(|id| id.starts_with(reference));
        let mut found: Vec<SnapshotId> = ids.filter_map(|id| id.parse().ok()).collect();
        found.dedup();
        match (found.pop(), found.is_empty()) {
            (Some(id), true) => Ok(id),
            (Some(_), false) => {
                let text = format!("more than one snapshot's id begins with {reference}");
                Err(Error::new(Code::NotFound, text).hint("give more of it"))
            }
            (None, _) => {
                Err(Error::new(Code::NotFound, format!("no snapshot {reference}"))
                    .hint("`torpor snapshot ls` lists them"))
            }
        }
    }

    /// Whether a snapshot is there.
    ///
    /// # Errors
    /// The store can't be asked.
    pub async fn has_snapshot(&self, id: &SnapshotId) -> Result<bool> {
        let key = Key::from(pack::manifest_key(id));
        match self.bounded("look for a snapshot", SMALL, self.objects.head(&key)).await {
            Ok(_) => Ok(true),
            Err(e) if e.code() == Code::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// All snapshots, newest last. Those that can't be read are left out and logged.
    ///
    /// # Errors
    /// The store can't be asked.
    pub async fn list(&self) -> Result<Vec<SnapshotInfo>> {
        let ids = self.keys("v1/snapshots").await?;
        let mut found: Vec<SnapshotId> = Vec::new();
        for key in &ids {
            found.extend(key.split('/').nth(2).and_then(|id| id.parse().ok()));
        }
        let read = futures::stream::iter(found).map(|id| async move { (self.manifest(&id).await, id) });
        let all: Vec<_> = read.buffer_unordered(8).collect().await;
        let mut infos = Vec::new();
        for (manifest, id) in all {
            match manifest {
                Ok(m) => infos.push(info(&m)),
                Err(e) if e.code() == Code::StoreUnavailable => return Err(e),
                Err(e) => tracing::warn!(snapshot = %id, error = %e.report(), "a snapshot can't be read"),
            }
        }
        infos.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(infos)
    }

    /// Shows every snapshot's manifest, one after the other.
    ///
    /// # Errors
    /// [`Code::StoreUnavailable`], or one can't be read.
    pub async fn each_manifest(&self, mut see: impl FnMut(&Manifest)) -> Result<()> {
        for key in self.keys("v1/snapshots").await? {
            let Some(id) = key.split('/').nth(2).and_then(|i| i.parse::<SnapshotId>().ok()) else { continue };
            match self.manifest(&id).await {
                Ok(manifest) => see(&manifest),
                Err(e) if e.code() == Code::NotFound => {} // removed meanwhile
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Names below a prefix, as many as fit into [`NAMES`]: a store that lists without end is not believed.
    async fn keys(&self, below: &str) -> Result<Vec<String>> {
        let prefix = Key::from(below);
        let (what, mut room) = (format!("list {below} of the store"), NAMES);
        let work = self.objects.list(Some(&prefix)).map_ok(|m| m.location.to_string()).try_take_while(|key| {
            room = room.saturating_sub(key.len() + size_of::<String>());
            futures::future::ready(Ok(room > 0))
        });
        let keys = self.bounded(&what, 3 * SMALL, work.try_collect()).await?;
        if room == 0 {
            let why = format!("{what}: more than {} MiB of names", NAMES >> 20);
            return Err(Error::new(Code::StoreUnavailable, why).hint("give torpord a prefix of the bucket of its own"));
        }
        Ok(keys)
    }

    /// Removes a snapshot: its manifest first, then it is gone; what can't be removed of its packs is swept later.
    ///
    /// # Errors
    /// The manifest can't be removed.
    pub async fn delete(&self, id: &SnapshotId) -> Result<()> {
        let key = Key::from(pack::manifest_key(id));
        match self.bounded("remove a manifest", SMALL, self.objects.delete(&key)).await {
            Err(e) if e.code() != Code::NotFound => return Err(e),
            _ => {}
        }
        for key in self.keys(&format!("v1/packs/{id}")).await? {
            let key = Key::from(key);
            match self.bounded("remove a pack", SMALL, self.objects.delete(&key)).await {
                Err(e) if e.code() != Code::NotFound => return Err(e),
                _ => {}
            }
        }
        if let Some(root) = staged::directory(&self.shown) {
            // Its upload has ended, one way or the other.
            for part in ["packs", "snapshots"] {
                staged::clear(root.join("v1").join(part).join(id.as_str())).await?;
            }
        }
        Ok(())
    }

    /// Removes packs older than `grace` that no manifest names, and that none named at the sweep before: `seen` is what that
    /// one gave. A clock that was set, here or on another host, makes no pack old whose manifest is still to come. Stops,
    /// removing nothing, at any manifest that it can't read: such a one may name packs of others.
    ///
    /// # Errors
    /// The store can't be asked, or holds a manifest that is not understood.
    pub async fn sweep(&self, grace: Duration, seen: &BTreeSet<String>) -> Result<Swept> {
        let (mut used, mut leaving) = (BTreeSet::new(), BTreeSet::new());
        for key in self.keys("v1/snapshots").await? {
            let Some(id) = key.split('/').nth(2).and_then(|i| i.parse::<SnapshotId>().ok()) else {
                return Err(Error::new(Code::Incompatible, "the store holds what this torpord does not know"));
            };
            let manifest = match self.manifest(&id).await {
                // Removed since it was listed, and its packs are just being so; or the store is wrong.
                Err(e) if e.code() == Code::NotFound => {
                    leaving.insert(id.to_string());
                    continue;
                }
                other => other?,
            };
            used.extend(manifest.files.iter().flat_map(|f| f.extents.iter().map(|e| e.pack.clone())));
        }
        let now = jiff::Timestamp::now().as_second();
        let old = |m: &object_store::ObjectMeta| {
            now - m.last_modified.timestamp() > i64::try_from(grace.as_secs()).unwrap_or(i64::MAX)
        };
        let below = Key::from("v1/packs");
        let mut packs = self.objects.list(Some(&below));
        let mut swept = Swept::default();
        let kept = |key: &str| used.contains(key) || key.split('/').nth(2).is_some_and(|id| leaving.contains(id));
        while let Some(meta) = self.bounded("list the packs", 3 * SMALL, packs.try_next()).await? {
            if kept(meta.location.as_ref()) {
                continue;
            }
            if old(&meta) && seen.contains(meta.location.as_ref()) {
                match self.bounded("remove a pack", SMALL, self.objects.delete(&meta.location)).await {
                    Err(e) if e.code() == Code::NotFound => {} // somebody else's sweep
                    other => other.map(|()| swept.removed += 1)?,
                }
            } else if swept.unnamed.len() < MOST_UNNAMED {
                swept.unnamed.insert(meta.location.to_string());
            }
        }
        if let Some(root) = staged::directory(&self.shown) {
            let staged = staged::sweep(root, grace, seen.clone()).await?;
            swept.removed += staged.removed;
            swept.unnamed.extend(staged.unnamed);
        }
        Ok(swept)
    }
}

/// What a sweep did and found.
#[derive(Debug, Default)]
pub struct Swept {
    /// Objects that it removed.
    pub removed: u64,
    /// What it left that nothing names, for the next sweep.
    pub unnamed: BTreeSet<String>,
}

/// What a list shows of a manifest.
pub fn info(m: &Manifest) -> SnapshotInfo {
    SnapshotInfo {
        id: m.id.clone(),
        pod_name: m.pod.spec.name.to_string(),
        pod: m.pod.id.clone(),
        image: m.pod.spec.image.to_string(),
        created_at: m.created_at,
        size: m.size,
        stored: m.stored,
    }
}

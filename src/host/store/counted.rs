//! An object store whose requests are counted, by kind: how many, and how many of them failed.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// Kinds of requests. A piece of a large object is one request of kind `part`.
const KINDS: [&str; 5] = ["get", "put", "part", "list", "delete"];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Get,
    Put,
    Part,
    List,
    Delete,
}

/// Requests of one kind since torpord was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requests {
    /// `get`, `put`, `part`, `list` or `delete`.
    pub kind: &'static str,
    /// All of them.
    pub all: u64,
    /// Those that failed. That something is not there, or is there already, is an answer and no failure.
    pub failed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    all: [AtomicU64; KINDS.len()],
    failed: [AtomicU64; KINDS.len()],
}

impl Counts {
    pub(super) fn shown(&self) -> Vec<Requests> {
        let number = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let each = KINDS.iter().zip(&self.all).zip(&self.failed);
        each.map(|((kind, all), failed)| Requests { kind, all: number(all), failed: number(failed) }).collect()
    }

    fn note<T>(&self, kind: Kind, result: Result<T>) -> Result<T> {
        self.all[kind as usize].fetch_add(1, Ordering::Relaxed);
        if let Err(e) = &result
            && is_failure(e)
        {
            self.failed[kind as usize].fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

fn is_failure(e: &Error) -> bool {
    !matches!(
        e,
        Error::NotFound { .. }
            | Error::AlreadyExists { .. }
            | Error::Precondition { .. }
            | Error::NotModified { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
    )
}

/// Passes requests on and counts them.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) counts: Arc<Counts>,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.objects.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.counts.note(Kind::Put, self.objects.put_opts(location, payload, options).await)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.counts.note(Kind::Put, self.objects.put_multipart_opts(location, options).await)?;
        Ok(Box::new(Parts { upload, counts: Arc::clone(&self.counts) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.counts.note(Kind::Get, self.objects.get_opts(location, options).await)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.counts.note(Kind::Get, self.objects.get_ranges(location, ranges).await)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let counts = Arc::clone(&self.counts);
        self.objects.delete_stream(locations).map(move |done| counts.note(Kind::Delete, done)).boxed()
    }

    /// One request, though a long list takes more.
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let counts = Arc::clone(&self.counts);
        counts.all[Kind::List as usize].fetch_add(1, Ordering::Relaxed);
        let all = self.objects.list(prefix);
        all.inspect(move |one| {
            if one.as_ref().is_err_and(is_failure) {
                counts.failed[Kind::List as usize].fetch_add(1, Ordering::Relaxed);
            }
        })
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.counts.note(Kind::List, self.objects.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.counts.note(Kind::Put, self.objects.copy_opts(from, to, options).await)
    }
}

#[derive(Debug)]
struct Parts {
    upload: Box<dyn MultipartUpload>,
    counts: Arc<Counts>,
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, counts) = (self.upload.put_part(data), Arc::clone(&self.counts));
        Box::pin(async move { counts.note(Kind::Part, part.await) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.counts.note(Kind::Put, self.upload.complete().await)
    }

    async fn abort(&mut self) -> Result<()> {
        self.counts.note(Kind::Delete, self.upload.abort().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn requests_are_counted_and_what_is_not_there_is_no_failure() {
        let counts = Arc::new(Counts::default());
        let store = Counted { objects: Arc::new(InMemory::new()), counts: Arc::clone(&counts) };
        store.put(&"a".into(), PutPayload::from_static(b"x")).await.unwrap();
        let mut upload = store.put_multipart(&"b".into()).await.unwrap();
        upload.put_part(PutPayload::from_static(b"y")).await.unwrap();
        upload.complete().await.unwrap();
        store.get(&"a".into()).await.unwrap();
        store.head(&"nosuch".into()).await.unwrap_err();
        assert_eq!(store.list(None).count().await, 2);
        store.delete(&"a".into()).await.unwrap();
        let broken = Err::<(), _>(Error::Generic { store: "test", source: "broken".into() });
        counts.note(Kind::Get, broken).unwrap_err();
        let shown: Vec<_> = counts.shown().iter().map(|r| (r.kind, r.all, r.failed)).collect();
        assert_eq!(shown, [("get", 3, 1), ("put", 3, 0), ("part", 1, 0), ("list", 1, 0), ("delete", 1, 0)]);
    }
}

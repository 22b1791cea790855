//! The bucket: objects in memory, every write an effect.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::{Go, Life};

pub struct FakeObjects {
    pub life: Arc<Life>,
}

impl std::fmt::Debug for FakeObjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeObjects")
    }
}

impl std::fmt::Display for FakeObjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a bucket in memory")
    }
}

fn refused(source: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic { store: "fake", source: Box::new(source) }
}

impl FakeObjects {
    fn bucket(&self) -> &InMemory {
        &self.life.kernel.bucket
    }

    async fn ask(&self, what: &str) -> Result<()> {
        self.life.ask(what).await.map_err(refused)
    }
}

/// What an object is, without ids.
fn kind(key: &Path) -> String {
    let key = key.to_string();
    match key.split('/').nth(1) {
        Some(kind) => kind.to_owned(),
        None => key,
    }
}

#[derive(Debug)]
struct Upload {
    life: Arc<Life2>,
    kind: String,
    inner: Box<dyn MultipartUpload>,
}

/// A life that can be shown.
struct Life2(Arc<Life>);

impl std::fmt::Debug for Life2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Life")
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let what = format!("complete {}", self.kind);
        let go = self.life.0.gate(&what).await.map_err(refused)?;
        let done = self.inner.complete().await?;
        if go == Go::Late { Err(refused(std::io::Error::other(what))) } else { Ok(done) }
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[async_trait]
impl ObjectStore for FakeObjects {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let what = format!("put {}", kind(key));
        let go = self.life.gate(&what).await.map_err(refused)?;
        let done = self.bucket().put_opts(key, payload.clone(), options.clone()).await?;
        match go {
            Go::Once => Ok(done),
            Go::Twice => self.bucket().put_opts(key, payload, options).await,
            Go::Late => Err(refused(std::io::Error::other(what))),
        }
    }

    async fn put_multipart_opts(&self, key: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.ask("begin an upload").await?;
        let inner = self.bucket().put_multipart_opts(key, options).await?;
        Ok(Box::new(Upload { life: Arc::new(Life2(Arc::clone(&self.life))), kind: kind(key), inner }))
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.ask(&format!("get {}", kind(key))).await?;
        self.bucket().get_opts(key, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (life, bucket) = (Arc::clone(&self.life), self.bucket().clone());
        let remove = move |key: Result<Path>| {
            let (life, bucket) = (Arc::clone(&life), bucket.clone());
            async move {
                let key = key?;
                let what = format!("remove {}", kind(&key));
                let go = life.gate(&what).await.map_err(refused)?;
                bucket.delete(&key).await?;
                if go == Go::Late { Err(refused(std::io::Error::other(what))) } else { Ok(key) }
            }
        };
        keys.then(remove).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (life, inner) = (Arc::clone(&self.life), self.bucket().list(prefix));
        let asked = async move { life.ask("list objects").await.map_err(refused) };
        futures::stream::once(asked)
            .flat_map(move |asked| match asked {
                Ok(()) => futures::stream::empty().boxed(),
                Err(e) => futures::stream::once(async move { Err(e) }).boxed(),
            })
            .chain(inner)
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.ask("list objects").await?;
        self.bucket().list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let _ = self.life.gate("copy an object").await.map_err(refused)?;
        self.bucket().copy_opts(from, to, options).await
    }
}

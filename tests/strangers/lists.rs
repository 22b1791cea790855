//! A store that lists without end.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use torpor::host::store::Store;
use torpor::model::Code;

/// Keeps what it is given, and names more than anybody can hold.
#[derive(Debug)]
struct Endless(InMemory);

impl std::fmt::Display for Endless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("endless")
    }
}

#[async_trait]
impl ObjectStore for Endless {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.0.put_opts(key, payload, options).await
    }

    async fn put_multipart_opts(&self, key: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(key, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let below = prefix.map(ToString::to_string).unwrap_or_default();
        let name = move |n: u64| ObjectMeta {
            location: Path::from(format!("{below}/{n:0900}")),
            last_modified: Default::default(),
            size: 1,
            e_tag: None,
            version: None,
        };
        futures::stream::iter((0..).map(name).map(Ok)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_list_without_end_is_an_error() {
    let store = Store::on(Arc::new(Endless(InMemory::new())), "memory".into());
    for asked in [store.list().await.map(drop), store.find("abcd").await.map(drop)] {
        let e = asked.unwrap_err();
        assert!(e.code() == Code::StoreUnavailable && e.report().contains("MiB of names"), "{}", e.report());
    }
}

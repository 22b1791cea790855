//! A store by its URL.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use crate::host::files;
use crate::model::{Attempt, Code, Error, Result};

/// Which store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// `file:///dir`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
    pub url: String,
    /// Whether `http://` endpoints are allowed.
    pub allow_http: bool,
}

/// The crate's own default tries for three minutes: a pod would stand still meanwhile.
fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: 4,
        retry_timeout: Duration::from_secs(10),
    }
}

fn client(allow_http: bool) -> ClientOptions {
    ClientOptions::new()
        .with_timeout(Duration::from_secs(30))
        .with_connect_timeout(Duration::from_secs(3))
        .with_allow_http(allow_http)
}

/// Variables that say where an S3 server is and who asks it, the first that is there. What comes after those of AWS is what
/// clients of MinIO have in their environment.
const ENDPOINTS: [&str; 5] =
    ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "S3_ENDPOINT", "MINIO_ENDPOINT"];
const KEYS: [&str; 2] = ["S3_ACCESS_KEY", "MINIO_ACCESS_KEY"];
const SECRETS: [&str; 2] = ["S3_SECRET_KEY", "MINIO_SECRET_KEY"];

fn first(names: &[&str]) -> Option<String> {
    names.iter().find_map(|n| std::env::var(n).ok().filter(|v| !v.is_empty()))
}

impl StoreConfig {
    /// Whether it can name a store at all. Nothing is touched or asked.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`], with what is wrong.
    pub fn check(&self) -> Result<()> {
        self.parse().map(drop)
    }

    fn allows_http(&self) -> bool {
        self.allow_http || std::env::var("AWS_ALLOW_HTTP").is_ok_and(|v| v == "true")
    }

    fn parse(&self) -> Result<Url> {
        let url = Url::parse(&self.url).map_err(|e| bad(&e.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                bad("credentials don't belong into it").hint("give them by the environment, such as AWS_ACCESS_KEY_ID")
            );
        }
        match url.scheme() {
            "file" => {
                url.to_file_path().map_err(|()| bad("it is no absolute path"))?;
                return Ok(url);
            }
            // The library would say it only at the first call, as an error of the network.
            "s3" if first(&ENDPOINTS).is_some_and(|e| e.starts_with("http://")) && !self.allows_http() => {
                return Err(Error::invalid("the store's endpoint is http, which is not allowed")
                    .hint("use https, or set store-allow-http = true where nobody can listen"));
            }
            "s3" | "gs" | "az" => {}
            other => return Err(bad(&format!("{other} is no kind of store"))),
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(bad("it names no bucket"));
        }
        if url.scheme() == "az" {
            self.azure(&url).map(drop)?;
        }
        Ok(url)
    }
}

impl StoreConfig {
    /// What is known of an account of Azure's. Nothing is asked of anybody.
    fn azure(&self, url: &Url) -> Result<MicrosoftAzure> {
        let allow = self.allows_http();
        let builder = MicrosoftAzureBuilder::from_env().with_container_name(url.host_str().unwrap_or_default());
        let builder = builder.with_client_options(client(allow)).with_allow_http(allow).with_retry(retry());
        let given = |key| builder.get_config_value(&key).filter(|v| !v.is_empty());
        let emulated = given(AzureConfigKey::UseEmulator).is_some_and(|v| v == "true");
        if !emulated && given(AzureConfigKey::AccountName).is_none() {
            return Err(
                Error::invalid(format!("open store {url}: of which storage account it is was not said")).hint(AZURE)
            );
        }
        builder.build().map_err(|e| Error::invalid(format!("open store {url}")).because(e).hint(AZURE))
    }
}

/// Where an account of Azure's is said.
const AZURE: &str = "set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_KEY, or \
                     AZURE_STORAGE_CLIENT_ID, AZURE_STORAGE_CLIENT_SECRET and AZURE_STORAGE_TENANT_ID";

fn bad(why: &str) -> Error {
    Error::invalid(format!("the store's URL is wrong: {why}"))
        .hint("use file:///dir, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix")
}

/// Opens it; also gives its URL as it may be shown.
pub(super) fn open(config: &StoreConfig) -> Result<(Arc<dyn ObjectStore>, String)> {
    let url = config.parse()?;
    let shown = url.to_string();
    let what = || format!("open store {shown}");
    let allow = config.allows_http();
    let bucket = url.host_str().unwrap_or_default().to_owned();
    let objects: Arc<dyn ObjectStore> = match url.scheme() {
        "file" => {
            let path = url.to_file_path().map_err(|()| bad("it is no absolute path"))?;
            files::create_dir_all(&path, 0o700)?;
            return Ok((Arc::new(local(&path)?), shown));
        }
        "s3" => {
            let mut builder = AmazonS3Builder::from_env();
            if let Some(endpoint) = first(&ENDPOINTS) {
                builder = builder.with_endpoint(endpoint);
            }
            // Those of AWS win, whatever of them there is.
            if std::env::var_os("AWS_ACCESS_KEY_ID").is_none()
                && let (Some(key), Some(secret)) = (first(&KEYS), first(&SECRETS))
            {
                builder = builder.with_access_key_id(key).with_secret_access_key(secret);
            }
            let builder = builder
                .with_bucket_name(bucket)
                .with_conditional_put(S3ConditionalPut::ETagMatch)
                .with_client_options(client(allow))
                .with_allow_http(allow)
                .with_retry(retry());
            Arc::new(builder.build().attempt(Code::InvalidRequest, what)?)
        }
        "gs" => {
            let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
            let builder = builder.with_client_options(client(allow)).with_retry(retry());
            Arc::new(builder.build().attempt(Code::InvalidRequest, what)?)
        }
        "az" => Arc::new(config.azure(&url)?),
        other => return Err(bad(&format!("{other} is no kind of store"))),
    };
    let prefix = url.path().trim_matches('/');
    if prefix.is_empty() {
        return Ok((objects, shown));
    }
    let prefix = object_store::path::Path::parse(prefix).map_err(|e| bad(&e.to_string()))?;
    Ok((Arc::new(PrefixStore::new(objects, prefix)), shown))
}

fn local(path: &Path) -> Result<LocalFileSystem> {
    let store = LocalFileSystem::new_with_prefix(path)
        .attempt(Code::InvalidRequest, || format!("open store {}", path.display()))?;
    // What was acknowledged survives a power loss. Empty directories are removed by `staged`, which knows whose they are.
    Ok(store.with_automatic_cleanup(false).with_fsync(true))
}

//! OCI layouts and `docker save` archives: which layers, in which order, with which configuration.
//!
//! Formats: the OCI image specification 1.1 (image-layout, image-index, manifest, config) and docker's image tarball
//! (`manifest.json`).

use std::io::Read;

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{Decompressed, Index, decompress, json};
use crate::model::{Attempt, Code, Digest, Error, HealthAsk, HealthCheck, ImageConfig, Result};

/// Bytes of a JSON document.
const DOCUMENT: u64 = 4 << 20;
/// Indexes within indexes.
const NESTING: u32 = 4;
const MOST_LAYERS: usize = super::super::layers::MAX_LAYERS;

/// An image in an archive.
pub struct Image {
    index: Index,
    /// Lowest first.
    pub layers: Vec<ImageLayer>,
    /// How to run it.
    pub config: ImageConfig,
}

/// One of its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    name: String,
    blob: Option<Digest>,
    /// Digest of its uncompressed tar, as the configuration has it.
    pub diff_id: Digest,
}

impl Image {
    /// The layer's tar, and in how many bytes it is stored.
    ///
    /// # Errors
    /// It is missing, or not what its digest says.
    pub fn open(&self, layer: &ImageLayer) -> Result<(Decompressed, u64)> {
        if let Some(digest) = &layer.blob {
            verify(self.index.reader(&layer.name)?, digest)?;
        }
        let reader = self.index.reader(&layer.name)?;
        let stored = reader.limit();
        Ok((decompress(Box::new(reader))?, stored))
    }
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Code::BadArchive, message)
}

fn verify(mut reader: impl Read, expected: &Digest) -> Result<()> {
    let mut hasher = Sha256::new();
    let mut bytes = vec![0_u8; 256 * 1024];
    loop {
        let n = reader.read(&mut bytes).attempt(Code::BadArchive, || format!("read {expected}"))?;
        if n == 0 {
            break;
        }
        hasher.update(&bytes[..n]);
    }
    let found = Digest::from_sha256(&hasher.finalize().into());
    if found == *expected {
        return Ok(());
    }
    Err(bad(format!("the image's {expected} has digest {found}")).hint("the image was damaged or changed on its way"))
}

fn document<T: for<'a> Deserialize<'a>>(index: &Index, name: &str, digest: Option<&Digest>) -> Result<T> {
    let mut bytes = Vec::new();
    index
        .reader(name)?
        .take(DOCUMENT + 1)
        .read_to_end(&mut bytes)
        .attempt(Code::BadArchive, || format!("read {name:?}"))?;
    if bytes.len() as u64 > DOCUMENT {
        return Err(bad(format!("{name:?} is larger than {DOCUMENT} bytes")));
    }
    if let Some(digest) = digest {
        verify(&bytes[..], digest)?;
    }
    json::read(&bytes).attempt(Code::BadArchive, || format!("understand {name:?}"))
}

/// Finds layers and configuration.
pub(super) fn read(index: Index) -> Result<Image> {
    // An archive that is both (docker since 25) is read as the stricter one, whose every part has a digest.
    let (config, layers) =
        if index.entries.contains_key("index.json") { read_oci(&index)? } else { read_docker(&index)? };
    // What an index says of an image is only a claim.
    let here = here()?;
    if *config.oci.architecture() != here || *config.oci.os() != Os::Linux {
        let text =
            format!("the image is for {} on {}, not for linux on {here}", config.oci.os(), config.oci.architecture());
        return Err(bad(text));
    }
    let given = config.oci.rootfs().diff_ids();
    if given.len() != layers.len() {
        return Err(bad(format!("the image has {} layers and {} digests for them", layers.len(), given.len())));
    }
    if layers.is_empty() || layers.len() > MOST_LAYERS {
        return Err(bad(format!("the image has {} layers; 1 to {MOST_LAYERS} are allowed", layers.len())));
    }
    let layers = layers
        .into_iter()
        .zip(given)
        .map(|((name, blob), diff_id)| Ok(ImageLayer { name, blob, diff_id: digest(diff_id)? }))
        .collect::<Result<_>>()?;
    Ok(Image { config: convert(&config)?, index, layers })
}

fn digest(text: &str) -> Result<Digest> {
    text.parse().map_err(|e: Error| bad("the image has a digest that is no sha256").because(e))
}

/// Name and digest of what a descriptor speaks of; its size must be that of the file.
fn blob(index: &Index, descriptor: &Descriptor) -> Result<(String, Digest)> {
    let d = digest(descriptor.digest().as_ref())?;
    let name = format!("blobs/sha256/{}", d.hex());
    let size = index.reader(&name)?.limit();
    if size != descriptor.size() {
        return Err(bad(format!("{name:?} has {size} bytes, not {} as the image says", descriptor.size())));
    }
    Ok((name, d))
}

/// Documents that are an index to one reader and a manifest to another (CVE-2021-41190) are neither.
fn unambiguous(document: &serde_json::Value, name: &str, is_index: bool) -> Result<()> {
    let has = |key: &str| document.get(key).is_some();
    let said = document.get("mediaType").and_then(serde_json::Value::as_str);
    let says_index = said.map(|m| m.contains("index") || m.contains("manifest.list"));
    if (has("manifests") && (has("layers") || has("config"))) || says_index.is_some_and(|s| s != is_index) {
        return Err(bad(format!("{name:?} could be an index or a manifest")));
    }
    Ok(())
}

fn index_or_manifest<T: for<'a> Deserialize<'a>>(
    index: &Index,
    name: &str,
    digest: Option<&Digest>,
    is_index: bool,
) -> Result<T> {
    let value: serde_json::Value = document(index, name, digest)?;
    unambiguous(&value, name, is_index)?;
    serde_json::from_value(value).attempt(Code::BadArchive, || format!("understand {name:?}"))
}

type Found = (Config, Vec<(String, Option<Digest>)>);

fn read_oci(index: &Index) -> Result<Found> {
    let mut top: ImageIndex = index_or_manifest(index, "index.json", None, true)?;
    for _ in 0..NESTING {
        let chosen = choose(top.manifests())?;
        let (name, digest) = blob(index, chosen)?;
        if matches!(chosen.media_type(), MediaType::ImageIndex)
            || chosen.media_type().to_string().contains("manifest.list")
        {
            top = index_or_manifest(index, &name, Some(&digest), true)?;
            continue;
        }
        let manifest: ImageManifest = index_or_manifest(index, &name, Some(&digest), false)?;
        let (name, digest) = blob(index, manifest.config())?;
        let config = configuration(index, &name, Some(&digest))?;
        let layers =
            manifest.layers().iter().map(|l| blob(index, l).map(|(n, d)| (n, Some(d)))).collect::<Result<_>>()?;
        return Ok((config, layers));
    }
    Err(bad("the image's indexes are nested too deep"))
}

/// What images call this machine's processor.
fn here() -> Result<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(Arch::Amd64),
        "aarch64" => Ok(Arch::ARM64),
        other => Err(Error::new(Code::Unsupported, format!("images for {other} are not read"))),
    }
}

/// The image for this machine; the only one, if it does not say what it is for.
fn choose(all: &[Descriptor]) -> Result<&Descriptor> {
    let here = here()?;
    let fits = |d: &Descriptor| match d.platform() {
        Some(p) => *p.os() == Os::Linux && *p.architecture() == here,
        None => true,
    };
    let named: Vec<&Descriptor> = all.iter().filter(|d| fits(d) && d.platform().is_some()).collect();
    let mut found = if named.is_empty() { all.iter().filter(|d| fits(d)).collect() } else { named };
    found.dedup_by_key(|d| d.digest().to_string());
    match found[..] {
        [] => Err(bad(format!("the image has nothing for linux on {here}"))),
        [only] => Ok(only),
        _ => Err(bad(format!("the archive holds {} images", found.len())).hint("save one image at a time")),
    }
}

fn read_docker(index: &Index) -> Result<Found> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        config: String,
        layers: Vec<String>,
    }
    let mut all: Vec<Entry> = document(index, "manifest.json", None)?;
    if all.len() != 1 {
        return Err(bad(format!("the archive holds {} images", all.len())).hint("save one image at a time"));
    }
    let entry = all.remove(0);
    // Named by its digest: `<hex>.json`, or a path of the OCI layout that is in the archive too.
    let name = entry.config.rsplit('/').next().unwrap_or("");
    let digest: Option<Digest> = format!("sha256:{}", name.trim_end_matches(".json")).parse().ok();
    let config = configuration(index, &entry.config, digest.as_ref())?;
    Ok((config, entry.layers.into_iter().map(|l| (l, None)).collect()))
}

/// What an image says of its health, which OCI has no word for: docker's `Healthcheck`, times in nanoseconds.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Healthcheck {
    test: Vec<String>,
    interval: u64,
    timeout: u64,
    retries: u32,
    start_period: u64,
}

impl Healthcheck {
    /// None: it has no check, or one that it inherits from nobody.
    fn check(self) -> Option<HealthCheck> {
        let command = match self.test.split_first()? {
            (kind, rest) if kind == "CMD" => rest.to_vec(),
            (kind, rest) if kind == "CMD-SHELL" => {
                ["/bin/sh", "-c"].map(str::to_owned).iter().chain(rest).cloned().collect()
            }
            _ => return None,
        };
        // An image is not refused for what docker would take: it is checked as often as may be.
        let most = 24 * 3_600_000;
        let or = |nanoseconds: u64, default| match nanoseconds.div_ceil(1_000_000) {
            0 => default,
            ms => ms.clamp(100, most),
        };
        Some(HealthCheck {
            ask: HealthAsk::Command(command),
            interval_ms: or(self.interval, 30_000),
            timeout_ms: or(self.timeout, 30_000),
            retries: if self.retries == 0 { 3 } else { self.retries.min(1000) },
            start_period_ms: or(self.start_period, 0),
        })
    }
}

/// A configuration, and docker's word on the image's health.
struct Config {
    oci: ImageConfiguration,
    health: Option<HealthCheck>,
}

fn configuration(index: &Index, name: &str, digest: Option<&Digest>) -> Result<Config> {
    let what = || format!("understand {name:?}");
    let mut value: serde_json::Value = document(index, name, digest)?;
    let health = match value.pointer_mut("/config/Healthcheck").map(serde_json::Value::take) {
        None | Some(serde_json::Value::Null) => None,
        Some(said) => serde_json::from_value::<Healthcheck>(said).attempt(Code::BadArchive, what)?.check(),
    };
    Ok(Config { oci: serde_json::from_value(value).attempt(Code::BadArchive, what)?, health })
}

fn convert(image: &Config) -> Result<ImageConfig> {
    let Some(c) = image.oci.config() else { return Ok(ImageConfig::default()) };
    let texts = |o: &Option<Vec<String>>| o.clone().unwrap_or_default();
    let config = ImageConfig {
        entrypoint: texts(c.entrypoint()),
        cmd: texts(c.cmd()),
        env: texts(c.env()),
        working_dir: c.working_dir().clone().unwrap_or_default(),
        user: c.user().clone().unwrap_or_default(),
        stop_signal: c.stop_signal().clone().unwrap_or_default(),
        healthcheck: image.health.clone(),
        labels: c.labels().clone().unwrap_or_default().into_iter().collect(),
    };
    crate::plan::admission::check_image(&config)
        .map_err(|e| bad("the image's configuration can't be used").because(e))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_s_health_checks() {
        let check = |text: &str| serde_json::from_str::<Healthcheck>(text).unwrap().check();
        let shell =
            check(r#"{"Test":["CMD-SHELL","curl -f x"],"Interval":5000000000,"Retries":7,"StartInterval":1}"#).unwrap();
        assert_eq!(shell.ask, HealthAsk::Command(["/bin/sh", "-c", "curl -f x"].map(str::to_owned).to_vec()));
        assert_eq!((shell.interval_ms, shell.timeout_ms, shell.retries, shell.start_period_ms), (5000, 30_000, 7, 0));
        let plain = check(r#"{"Test":["CMD","a","b"],"StartPeriod":1500000000}"#).unwrap();
        assert_eq!((plain.ask, plain.start_period_ms), (HealthAsk::Command(vec!["a".into(), "b".into()]), 1500));
        for none in [r#"{"Test":["NONE"]}"#, r#"{"Test":[]}"#, "{}"] {
            assert_eq!(check(none), None, "{none}");
        }
    }
}

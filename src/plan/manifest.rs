//! A snapshot's manifest as bytes: how it is sealed, and all that is asked of it before anything is done with it.
//!
//! The seal finds damage. It does not keep out somebody who can write to the store, for its key lies there: so what a manifest
//! says is a stranger's word, and is held to what a client of the API may ask for ([`super::admission`]).

use std::collections::BTreeSet;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{admission, pack};
use crate::model::{Attempt, Code, Digest, Error, Manifest, Result, SnapshotId, hex};

/// The format that this torpord writes.
pub const FORMAT: u32 = 1;
/// The format of a manifest with what lay in volumes: the newest that this torpord reads.
const WITH_VOLUMES: u32 = 2;
/// Layers of a root, init's included: more than one can be stacked.
const MOST_LAYERS: usize = 256;
/// Processor features: there are some hundred.
const MOST_FEATURES: usize = 2048;
/// Bytes by which a checkpoint may be larger than the pod's memory and disk together.
const SLACK: u64 = 1 << 30;

/// What is read first.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    format: u32,
    min_reader: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sealed {
    format: u32,
    min_reader: u32,
    mac: String,
    /// The manifest as text: the mac is over exactly these bytes.
    body: String,
}

/// HMAC-SHA-256, hexadecimal.
pub fn digest(key: &[u8; 32], bytes: &[u8]) -> String {
    // HMAC takes keys of any length.
    #[expect(clippy::expect_used, reason = "can't fail: HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of 32 bytes");
    mac.update(bytes);
    hex(&mac.finalize().into_bytes())
}

/// A manifest as it lies in the store.
///
/// # Errors
/// It says what [`open`] would refuse.
pub fn seal(manifest: &Manifest, key: &[u8; 32]) -> Result<Vec<u8>> {
    let what = || format!("write the manifest of snapshot {}", manifest.id);
    check(manifest)?;
    let body = serde_json::to_string(manifest).attempt(Code::Internal, what)?;
    let volumes = manifest.files.iter().any(|f| pack::volume_of(&f.name).is_some());
    let format = if volumes { WITH_VOLUMES } else { FORMAT };
    let sealed = Sealed { format, min_reader: format, mac: digest(key, body.as_bytes()), body };
    serde_json::to_vec(&sealed).attempt(Code::Internal, what)
}

/// Reads what lies in the store under that snapshot's name.
///
/// # Errors
/// [`Code::Incompatible`] for a newer format, [`Code::Damaged`] for all else that is not right.
pub fn open(id: &SnapshotId, bytes: &[u8], key: &[u8; 32]) -> Result<Manifest> {
    let what = format!("read the manifest of snapshot {id}");
    let damaged = || format!("{what}: it is damaged");
    let envelope: Envelope = serde_json::from_slice(bytes).attempt(Code::Damaged, damaged)?;
    if envelope.min_reader > WITH_VOLUMES {
        return Err(Error::new(
            Code::Incompatible,
            format!("snapshot {id} has format {}; this torpord knows {WITH_VOLUMES}", envelope.format),
        )
        .hint("use a newer torpord"));
    }
    let sealed: Sealed = serde_json::from_slice(bytes).attempt(Code::Damaged, damaged)?;
    if digest(key, sealed.body.as_bytes()) != sealed.mac {
        let text = format!("{what}: it was changed");
        return Err(Error::new(Code::Damaged, text).hint("take another snapshot of the pod"));
    }
    let manifest: Manifest = serde_json::from_str(&sealed.body).attempt(Code::Damaged, damaged)?;
    if manifest.id != *id {
        return Err(Error::new(Code::Damaged, format!("{what}: it is that of snapshot {}", manifest.id)));
    }
    check(&manifest)?;
    Ok(manifest)
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Code::Damaged, format!("the manifest is damaged: {}", what.into()))
}

/// A text that may be shown.
fn plain(what: &str, text: &str, most: usize) -> Result<()> {
    if text.len() > most || text.contains(|c: char| !(c.is_ascii_graphic() || c == ' ')) {
        return Err(bad(format!("its {what} can't be right")));
    }
    Ok(())
}

/// Checks that a manifest goes together, and says nothing that could not have been asked of this daemon.
///
/// # Errors
/// [`Code::Damaged`], with what is wrong.
pub fn check(manifest: &Manifest) -> Result<()> {
    pack::check_files(&manifest.files)?;
    let sum: u64 = manifest.files.iter().map(|f| f.length).fold(0, u64::saturating_add);
    let r = &manifest.pod.spec.resources;
    let most = r.memory.saturating_add(r.disk).saturating_mul(2).saturating_add(SLACK);
    // What lay in volumes is bounded where it comes out.
    let volumes: u64 = manifest
        .files
        .iter()
        .filter(|f| pack::volume_of(&f.name).is_some())
        .map(|f| f.length)
        .fold(0, u64::saturating_add);
    if sum != manifest.size || sum.saturating_sub(volumes) > most {
        return Err(bad("its size"));
    }
    plain("architecture", &manifest.architecture, 32)?;
    plain("engine's version", &manifest.engine_version, 256)?;
    if manifest.cpu_features.len() > MOST_FEATURES {
        return Err(bad("too many processor features"));
    }
    manifest.cpu_features.iter().try_for_each(|f| plain("processor features", f, 64))?;
    let pod = &manifest.pod;
    if pod.engine != manifest.engine || pod.template != manifest.template {
        return Err(bad("its pod has another engine or template"));
    }
    let listed: BTreeSet<&Digest> = manifest.layers.iter().map(|l| &l.digest).collect();
    let used: BTreeSet<&Digest> = pod.layers.iter().chain(&pod.private_layers).chain([&pod.init]).collect();
    let count = pod.layers.len() + pod.private_layers.len() + 1;
    if listed != used || manifest.layers.len() > MOST_LAYERS || count > MOST_LAYERS {
        return Err(bad("its layers are not those of its pod"));
    }
    let asked = admission::check(&pod.spec).and_then(|()| admission::check_image(&pod.image_config));
    asked.map_err(|e| bad("its pod is one that nobody could have asked for").because(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_manifest_is_damaged_and_what_is_newer_is_said_to_be() {
        let id: SnapshotId = "a".repeat(32).parse().unwrap();
        let code = |bytes: &[u8]| open(&id, bytes, &[7; 32]).unwrap_err().code();
        for bytes in [&b""[..], b"{}", b"[]", b"null", b"\xff", br#"{"format":1,"minReader":1,"mac":"","body":"{}"}"#] {
            assert_eq!(code(bytes), Code::Damaged);
        }
        assert_eq!(code(br#"{"format":9,"minReader":3}"#), Code::Incompatible);
    }
}

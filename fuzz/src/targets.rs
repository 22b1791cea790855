//! What is done with the bytes of each target.

use std::io::{Cursor, Read};

use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::api::{terminal, types as api};
use crate::channel::{Decoder, Event, Request, control, record};
use crate::config;
use crate::host::archive::{self, Contents};
use crate::host::unpack::member::Members;
use crate::model::{Digest, FileImage, ImageName, InstanceTag, PodId, PodName, SnapshotId, hex};
use crate::plan::{manifest, pack};
use crate::tree::{Reader, Top};

const KEY: [u8; 32] = [7; 32];

/// Layer tars: headers, PAX records, sparse maps.
pub fn tar(data: &[u8]) {
    let mut members = Members::new(data, data.len() % 2 == 0);
    let mut buffer = [0; 4096];
    while let Ok(Some(member)) = members.next() {
        let mut end = 0;
        for (offset, length) in &member.pieces {
            assert!(*offset >= end, "pieces overlap");
            end = offset + length;
        }
        assert!(end <= member.size && member.uid != u32::MAX && member.gid != u32::MAX);
        while members.read(&mut buffer).is_ok_and(|n| n > 0) {}
    }
}

/// Archives of files for a pod, and of a pod's files.
pub fn trees(data: &[u8]) {
    let top = match data.len() % 3 {
        0 => Top::Kept,
        1 => Top::Below(b"below".to_vec()),
        _ => Top::Called { is: b"a".to_vec(), to: b"b".to_vec() },
    };
    let mut archive = Reader::new(data).with(top);
    let mut buffer = [0; 4096];
    while let Ok(Some(member)) = archive.next_member() {
        let mut had = 0;
        while let Ok(n) = archive.read(&mut buffer)
            && n > 0
        {
            had += n as u64;
        }
        assert!(had <= member.size && member.mode <= 0o7777);
    }
}

/// Uploads: what they are, and the layers of images.
pub fn image(data: &[u8]) {
    open(data.to_vec());
}

fn open(data: Vec<u8>) {
    let tmp = std::env::temp_dir();
    let Ok(Contents::Image(image)) = archive::open(Box::new(Cursor::new(data)), &tmp, 1 << 20) else { return };
    for layer in &image.layers {
        if let Ok((tar, _)) = image.open(layer) {
            let _ = std::io::copy(&mut tar.take(4 << 20), &mut std::io::sink());
        }
    }
}

/// OCI documents whose digests are right: index, manifest and configuration, with 0xff between them. `@m`, `@c` and `@l`
/// stand for the descriptors of manifest, configuration and layer.
pub fn oci(data: &[u8]) {
    let mut parts = data.splitn(3, |b| *b == 0xff);
    let mut part = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (index, manifest, config) = (part(), part(), part());
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    let blob = |put: &mut dyn FnMut(&str, &[u8]), bytes: &[u8]| {
        let digest = hex(&Sha256::digest(bytes));
        put(&format!("blobs/sha256/{digest}"), bytes);
        format!(r#""digest":"sha256:{digest}","size":{}"#, bytes.len())
    };
    put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let layer = blob(&mut put, &[0; 1024]);
    let config = blob(&mut put, config.replace("@l", &hex(&Sha256::digest([0; 1024]))).as_bytes());
    let manifest = manifest.replace("@c", &config).replace("@l", &layer);
    let manifest = blob(&mut put, manifest.as_bytes());
    put("index.json", index.replace("@m", &manifest).as_bytes());
    if let Ok(bytes) = builder.into_inner() {
        open(bytes);
    }
}

/// Snapshots' manifests, sealed as a stranger seals them who has the key.
pub fn snapshot(data: &[u8]) {
    let id: SnapshotId = "0123456789abcdef0123456789abcdef".parse().unwrap();
    let _ = manifest::open(&id, data, &KEY);
    let Ok(body) = std::str::from_utf8(data) else { return };
    let mac = manifest::digest(&KEY, data);
    let sealed = serde_json::json!({"format": 1, "minReader": 1, "mac": mac, "body": body}).to_string();
    if let Ok(found) = manifest::open(&id, sealed.as_bytes(), &KEY) {
        let again = manifest::seal(&found, &KEY).unwrap();
        assert!(manifest::open(&id, &again, &KEY).unwrap() == found);
        let _ = pack::reads(&found.files);
    }
}

/// Packs: frames that are read with the bound of their extents, and extents themselves.
pub fn packs(data: &[u8]) {
    for length in [0, 1, 4096, 1 << 20] {
        if let Ok(run) = zstd::bulk::decompress(data, length) {
            assert!(run.len() <= length);
        }
    }
    if let Ok(files) = serde_json::from_slice::<Vec<FileImage>>(data)
        && pack::check_files(&files).is_ok()
    {
        for read in pack::reads(&files) {
            assert!(read.start < read.end);
            for (file, at, extent) in read.parts {
                assert!(at + extent.length <= files[file].length && extent.frame + extent.size <= read.end);
            }
        }
    }
}

/// What a pod says to its shim, in pieces as they come.
pub fn frames(data: &[u8]) {
    let (mut whole, mut pieces, mut found) = (Decoder::default(), Decoder::default(), Decoder::default());
    whole.push(data);
    let all: Vec<_> = std::iter::from_fn(|| whole.next_frame()).collect();
    let mut same = Vec::new();
    for piece in data.chunks(1 + data.len() / 7) {
        pieces.push(piece);
        same.extend(std::iter::from_fn(|| pieces.next_frame()));
        found.push(piece);
        let _ = found.find(|f| matches!(Event::parse(f), Some(Event::Hello { .. })));
    }
    assert!(all == same, "pieces of a stream are the stream");
    for frame in all {
        if let Some(event) = Event::parse(&frame) {
            let mut again = Decoder::default();
            again.push(&event.encode(frame.sequence));
            assert!(again.next_frame().is_some_and(|f| Event::parse(&f).is_some()));
        }
        let _ = Request::parse(&frame);
    }
}

/// Questions to a shim, and its answers.
pub fn asks(data: &[u8]) {
    let mut buffer = data.to_vec();
    while let Ok(Some((kind, payload))) = control::take(&mut buffer) {
        if kind == control::kind::JSON {
            let _ = serde_json::from_slice::<control::Ask>(&payload);
            let _ = serde_json::from_slice::<control::Answer>(&payload);
        }
    }
}

/// A pod's log, as a shim that died may have left it.
pub fn records(data: &[u8]) {
    for (n, bytes) in record::records(data) {
        assert_eq!(record::number(bytes), Some(n));
        let _ = record::is_notice(bytes);
        let _ = serde_json::from_slice::<record::Record<'_>>(bytes);
    }
}

fn name<T: std::str::FromStr + std::fmt::Display + PartialEq>(text: &str) {
    if let Ok(name) = text.parse::<T>() {
        let shown = name.to_string();
        assert!(!shown.contains("..") || shown.contains(|c: char| c != '.' && c != '/'));
        assert!(!shown.starts_with(['/', '.', '-']) && !shown.chars().any(char::is_control));
        assert!(shown.parse::<T>().is_ok_and(|again| again == name), "{shown:?} is another name");
    }
}

/// Names and identifiers.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    name::<ImageName>(text);
    name::<PodName>(text);
    name::<PodId>(text);
    name::<SnapshotId>(text);
    name::<InstanceTag>(text);
    name::<Digest>(text);
}

fn json<T: DeserializeOwned + serde::Serialize>(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(data) {
        let text = serde_json::to_vec(&value).unwrap();
        assert!(serde_json::from_slice::<T>(&text).is_ok(), "{}", String::from_utf8_lossy(&text));
    }
}

/// Bodies of the API's requests.
pub fn requests(data: &[u8]) {
    json::<api::CreatePod>(data);
    json::<api::StopPod>(data);
    json::<api::KillPod>(data);
    json::<api::WakePod>(data);
    json::<api::RestorePod>(data);
    json::<api::ExecPod>(data);
    json::<api::RestoreSnapshot>(data);
    json::<api::ImportDirectory>(data);
    json::<terminal::CreateTerminal>(data);
    json::<terminal::ExecStart>(data);
    json::<terminal::SocketAsks>(data);
    if let Ok(spec) = serde_json::from_slice(data) {
        let _ = crate::plan::admission::check(&spec);
    }
}

/// torpor.toml.
pub fn toml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok((file, _)) = config::parse(text) {
        let _ = config::complete(file);
    }
    let _ = config::usable_resolvers(text);
}

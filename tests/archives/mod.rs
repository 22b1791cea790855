//! Archives made byte by byte, so that they can be as wrong as a stranger's.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by test binaries that each use a part of it"
)]

use std::io::Write;

use sha2::{Digest as _, Sha256};

/// A tar that is built without any check.
#[derive(Default, Clone)]
pub struct Tar(pub Vec<u8>);

/// One member's header, before its checksum.
#[derive(Clone)]
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: u8,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub size: Option<u64>,
    pub mtime: u64,
    pub device: (u32, u32),
    pub body: Vec<u8>,
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
}

pub fn entry(name: impl AsRef<[u8]>, kind: u8) -> Entry {
    Entry {
        name: name.as_ref().to_vec(),
        kind,
        link: Vec::new(),
        mode: if kind == b'5' { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        size: None,
        mtime: 1_000_000,
        device: (0, 0),
        body: Vec::new(),
        pax: Vec::new(),
    }
}

pub fn file(name: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Entry {
    Entry { body: body.as_ref().to_vec(), ..entry(name, b'0') }
}
pub fn dir(name: impl AsRef<[u8]>) -> Entry {
    entry(name, b'5')
}
pub fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry { link: target.as_ref().to_vec(), ..entry(name, b'2') }
}
pub fn link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry { link: target.as_ref().to_vec(), ..entry(name, b'1') }
}
pub fn device(name: impl AsRef<[u8]>, kind: u8, major: u32, minor: u32) -> Entry {
    Entry { device: (major, minor), ..entry(name, kind) }
}

impl Entry {
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }
    pub fn size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }
    pub fn pax(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }
}

/// One PAX record.
pub fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn octal(field: &mut [u8], value: u64) {
    let text = format!("{value:0width$o}", width = field.len() - 1);
    if text.len() < field.len() {
        field[..text.len()].copy_from_slice(text.as_bytes());
    } else {
        // Base 256, as GNU writes what octal can't hold.
        field.fill(0);
        let bytes = value.to_be_bytes();
        let n = bytes.len().min(field.len());
        let at = field.len() - n;
        field[at..].copy_from_slice(&bytes[bytes.len() - n..]);
        field[0] |= 0x80;
    }
}

/// A header block with a right checksum.
pub fn header(e: &Entry) -> [u8; 512] {
    let mut h = [0_u8; 512];
    let n = e.name.len().min(100);
    h[..n].copy_from_slice(&e.name[..n]);
    octal(&mut h[100..108], u64::from(e.mode));
    octal(&mut h[108..116], e.uid);
    octal(&mut h[116..124], e.gid);
    octal(&mut h[124..136], e.size.unwrap_or(e.body.len() as u64));
    octal(&mut h[136..148], e.mtime);
    h[156] = e.kind;
    let n = e.link.len().min(100);
    h[157..157 + n].copy_from_slice(&e.link[..n]);
    h[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut h[329..337], u64::from(e.device.0));
    octal(&mut h[337..345], u64::from(e.device.1));
    checksum(&mut h);
    h
}

pub fn checksum(h: &mut [u8; 512]) {
    h[148..156].fill(b' ');
    let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
    h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn of(entries: impl IntoIterator<Item = Entry>) -> Self {
        entries.into_iter().fold(Self::new(), Tar::add)
    }
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
    pub fn raw(self, e: &Entry) -> Self {
        self.bytes(&header(e)).bytes(&e.body)
    }
    /// A member, with PAX records before it where its names need them.
    pub fn add(mut self, e: Entry) -> Self {
        let mut records: Vec<u8> = e.pax.iter().flat_map(|(k, v)| record(k, v)).collect();
        if e.name.len() > 100 {
            records.extend(record(b"path", &e.name));
        }
        if e.link.len() > 100 {
            records.extend(record(b"linkpath", &e.link));
        }
        if !records.is_empty() {
            self = self.raw(&Entry { body: records, ..entry("pax", b'x') });
        }
        self.raw(&e)
    }
    /// With its end marker.
    pub fn end(self) -> Vec<u8> {
        let mut bytes = self.0;
        bytes.extend_from_slice(&[0; 1024]);
        bytes
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    e.write_all(bytes).unwrap();
    e.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub fn hex(bytes: &[u8]) -> String {
    torpor::model::hex(&Sha256::digest(bytes))
}

/// A layer of an image: stored bytes and diff id.
pub struct Layer {
    pub stored: Vec<u8>,
    pub diff_id: String,
    pub media_type: &'static str,
}

pub fn layer(tar: &[u8], pack: fn(&[u8]) -> Vec<u8>, media_type: &'static str) -> Layer {
    Layer { stored: pack(tar), diff_id: format!("sha256:{}", hex(tar)), media_type }
}

pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The files of an OCI layout.
pub struct Layout(pub Vec<(String, Vec<u8>)>);

pub fn config(layers: &[Layer]) -> serde_json::Value {
    serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {
            "Entrypoint": ["/bin/app"], "Cmd": ["serve"], "Env": ["A=b", "PATH=/bin"], "WorkingDir": "/srv",
            "User": "1000:1000", "StopSignal": "SIGINT", "Labels": {"team": "x"},
        },
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| l.diff_id.clone()).collect::<Vec<_>>()},
    })
}

impl Layout {
    pub fn new(layers: &[Layer]) -> Self {
        Self::with(layers, config(layers), |_| {})
    }
    /// With a configuration and a manifest as they please.
    pub fn with(layers: &[Layer], config: serde_json::Value, change: impl FnOnce(&mut serde_json::Value)) -> Self {
        let mut files = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
        let mut blob = |bytes: Vec<u8>| {
            let (digest, size) = (hex(&bytes), bytes.len());
            let name = format!("blobs/sha256/{digest}");
            if files.iter().all(|(n, _)| *n != name) {
                files.push((name, bytes));
            }
            (format!("sha256:{digest}"), size)
        };
        let (digest, size) = blob(config.to_string().into_bytes());
        let described: Vec<_> = layers
            .iter()
            .map(|l| {
                let (digest, size) = blob(l.stored.clone());
                serde_json::json!({"mediaType": l.media_type, "digest": digest, "size": size})
            })
            .collect();
        let mut manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": size},
            "layers": described,
        });
        change(&mut manifest);
        let (digest, size) = blob(manifest.to_string().into_bytes());
        let index = serde_json::json!({
            "schemaVersion": 2, "manifests": [{"mediaType": MANIFEST, "digest": digest, "size": size}],
        });
        files.push(("index.json".to_owned(), index.to_string().into_bytes()));
        Layout(files)
    }
    pub fn tar(&self) -> Vec<u8> {
        Tar::of(self.0.iter().map(|(n, b)| file(n, b))).end()
    }
    pub fn replace(mut self, name: &str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, b)) => *b = body,
            None => self.0.push((name.to_owned(), body)),
        }
        self
    }
    /// As a tar, with other contents for one of its files.
    pub fn clone_with(&self, at: usize, body: Vec<u8>) -> Vec<u8> {
        Tar::of(self.0.iter().enumerate().map(|(n, (name, b))| file(name, if n == at { &body } else { b }))).end()
    }
    pub fn index(&self) -> serde_json::Value {
        serde_json::from_slice(&self.0.iter().find(|(n, _)| n == "index.json").unwrap().1).unwrap()
    }
}

/// What `docker save` wrote before version 25.
pub fn docker_save(layers: &[Layer], config: &serde_json::Value) -> Vec<u8> {
    let config = config.to_string().into_bytes();
    let name = format!("{}.json", hex(&config));
    let mut tar = Tar::new();
    let mut names = Vec::new();
    for (n, l) in layers.iter().enumerate() {
        let id = hex(format!("layer {n}").as_bytes());
        tar = tar.add(dir(format!("{id}/"))).add(file(format!("{id}/VERSION"), "1.0"));
        tar = tar.add(file(format!("{id}/layer.tar"), &l.stored));
        names.push(format!("{id}/layer.tar"));
    }
    let manifest = serde_json::json!([{"Config": name, "RepoTags": ["x:latest"], "Layers": names}]);
    tar.add(file(&name, &config)).add(file("manifest.json", manifest.to_string())).end()
}

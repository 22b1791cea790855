//! Snapshots as a stranger makes them who can write to the store: with the store's own key, so that the seal is right.

use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

/// A store that is a directory.
pub struct Forge {
    root: PathBuf,
    key: Vec<u8>,
    /// A good manifest's body, with its packs.
    good: Value,
    count: u32,
}

/// One snapshot to be written.
pub struct Forged {
    pub id: String,
    /// The manifest.
    pub body: Value,
    /// Or its text.
    pub text: Option<String>,
    /// What is around it.
    pub sealed: Value,
    /// Or all of it.
    pub raw: Option<Vec<u8>>,
    /// Its packs.
    pub packs: Vec<Vec<u8>>,
    /// Files of this host that stand in for packs.
    pub links: Vec<String>,
    key: Vec<u8>,
}

pub fn mac(key: &[u8], bytes: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(bytes);
    torpor::model::hex(&mac.finalize().into_bytes())
}

impl Forged {
    /// The digest of a run of bytes, as extents have it.
    pub fn digest(&self, bytes: &[u8]) -> String {
        mac(&self.key, bytes)
    }
}

impl Forge {
    /// After a good snapshot of that id.
    pub fn new(root: &Path, id: &str) -> Self {
        let marker: Value = serde_json::from_slice(&std::fs::read(root.join("torpor.json")).unwrap()).unwrap();
        let key = std::fs::read(root.join("v1/keys").join(marker["digestKeyId"].as_str().unwrap())).unwrap();
        let sealed = std::fs::read(root.join(format!("v1/snapshots/{id}/manifest"))).unwrap();
        let sealed: Value = serde_json::from_slice(&sealed).unwrap();
        let good = serde_json::from_str(sealed["body"].as_str().unwrap()).unwrap();
        Forge { root: root.to_owned(), key, good, count: 0 }
    }

    pub fn manifest_path(&self, id: &str) -> PathBuf {
        self.root.join(format!("v1/snapshots/{id}/manifest"))
    }

    /// A copy of the good one under an id of its own.
    pub fn copy(&mut self) -> Forged {
        self.count += 1;
        let id = format!("{:032x}", 0xf00d_0000_u128 + u128::from(self.count));
        let old = self.good["id"].as_str().unwrap();
        let mut packs = Vec::new();
        while let Ok(pack) = std::fs::read(self.root.join(format!("v1/packs/{old}/{}", packs.len()))) {
            packs.push(pack);
        }
        let text = self.good.to_string().replace(old, &id);
        let body = serde_json::from_str(&text).unwrap();
        let sealed = json!({"format": 1, "minReader": 1});
        Forged { id, body, text: None, sealed, raw: None, packs, links: Vec::new(), key: self.key.clone() }
    }

    pub fn write(&self, forged: &Forged) {
        let text = forged.text.clone().unwrap_or_else(|| forged.body.to_string());
        let mut sealed = forged.sealed.clone();
        if sealed.get("mac").is_none() {
            sealed["mac"] = mac(&self.key, text.as_bytes()).into();
        }
        if sealed.get("body").is_none() {
            sealed["body"] = text.into();
        }
        let bytes = forged.raw.clone().unwrap_or_else(|| sealed.to_string().into_bytes());
        let path = self.manifest_path(&forged.id);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        let dir = self.root.join(format!("v1/packs/{}", forged.id));
        std::fs::create_dir_all(&dir).unwrap();
        for (n, pack) in forged.packs.iter().enumerate() {
            std::fs::write(dir.join(n.to_string()), pack).unwrap();
        }
        for (n, file) in forged.links.iter().enumerate() {
            std::os::unix::fs::symlink(file, dir.join(n.to_string())).unwrap();
        }
    }

    pub fn remove(&self, id: &str) {
        let _ = std::fs::remove_dir_all(self.root.join(format!("v1/packs/{id}")));
        let _ = std::fs::remove_dir_all(self.root.join(format!("v1/snapshots/{id}")));
    }
}

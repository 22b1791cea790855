//! Engines: exact runsc builds, copied at first use and known by their digest.
//!
//! Nothing runs from PATH: a package upgrade never changes a live pod, and a snapshot finds the very build it needs.
//! `engines/<sha256>/` holds the binary, what came beside it, and `features.json`; it appears by a rename, whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::host::command::{self, EngineCommand};
use crate::host::files;
use crate::model::{Attempt, Code, Digest, Error, Result};

/// What one engine can do, asked once and kept beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Features {
    /// What it calls its version.
    pub version: String,
    /// `--overlay2` takes a size.
    pub overlay_size: bool,
    /// `tar rootfs-upper` is there.
    pub save_upper: bool,
    /// `restore --background` and `wait --restore` are there.
    pub background_restore: bool,
    /// Checkpoints are written without compression unless asked.
    pub modern_checkpoint: bool,
    /// Refuses its own network stack on kernels from 6.11 (gvisor #10704): its start and restore need a private mount
    /// namespace in which /proc/sys/net/core is empty.
    pub hides_net_core: bool,
}

/// One engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Digest of the binary.
    pub digest: Digest,
    /// The binary.
    pub program: PathBuf,
    /// What it calls its version.
    pub version: String,
    /// What it can do.
    pub features: Features,
}

/// A shared engine.
pub type EngineRef = Arc<Engine>;

/// The engines of one state directory.
#[derive(Debug)]
pub struct Engines {
    dir: PathBuf,
    known: Mutex<BTreeMap<Digest, EngineRef>>,
}

impl Engines {
    /// Those that are there already.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn open(state: &Path) -> Result<Self> {
        let dir = state.join("engines");
        files::create_dir_all(&dir, 0o755)?;
        let engines = Engines { dir, known: Mutex::new(BTreeMap::new()) };
        for name in files::list(&engines.dir)? {
            let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else {
                files::remove_tree_now(&engines.dir.join(name))?; // half made
                continue;
            };
            if let Some(text) = files::read_if_present(&engines.dir.join(&name).join("features.json"))? {
                let features = serde_json::from_str(&text)
                    .attempt(Code::Internal, || format!("read the features of engine {name}"))?;
                engines.know(digest, features);
            }
        }
        Ok(engines)
    }

    fn know(&self, digest: Digest, features: Features) -> EngineRef {
        let program = self.dir.join(digest.hex()).join("runsc");
        let engine = Arc::new(Engine { digest: digest.clone(), program, version: features.version.clone(), features });
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, Arc::clone(&engine));
        engine
    }

    /// The engine of that digest.
    ///
    /// # Errors
    /// [`Code::Incompatible`]: it is not here.
    pub fn get(&self, digest: &Digest) -> Result<EngineRef> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned().ok_or_else(|| {
            Error::new(Code::Incompatible, format!("engine {digest} is not on this host"))
                .hint("start torpord once with that runsc (key `runsc`)")
        })
    }

    /// All engines.
    pub fn list(&self) -> Vec<EngineRef> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Copies a runsc with what belongs to it, and asks it what it can do. One that is here already is not copied, and one whose
    /// files are those of the last time is not read.
    ///
    /// # Errors
    /// It can't be read or run.
    pub async fn import(&self, program: &Path) -> Result<EngineRef> {
        let what = || format!("take {} as an engine", program.display());
        let print = fingerprint(program).attempt(Code::Runtime, what)?;
        let made_of = |engine: &EngineRef| -> bool {
            files::read_if_present(&self.source_of(&engine.digest)).is_ok_and(|s| s.as_deref() == Some(&print))
        };
        if let Some(known) = self.list().into_iter().find(made_of) {
            return Ok(known);
        }
        let engine = self.import_anew(program).await?;
        // Nobody has changed it while it was read.
        if fingerprint(program).is_ok_and(|now| now == print) {
            files::swap(&self.source_of(&engine.digest), print.as_bytes(), 0o644)?;
        }
        Ok(engine)
    }

    /// The file that tells what an engine was made of.
    fn source_of(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex()).join("source")
    }

    async fn import_anew(&self, program: &Path) -> Result<EngineRef> {
        let what = || format!("take {} as an engine", program.display());
        let (from, dir) = (program.to_owned(), self.dir.clone());
        let copied = tokio::task::spawn_blocking(move || copy(&from, &dir)).await.attempt(Code::Internal, what)?;
        let (digest, place) = copied.attempt(Code::Runtime, what)?;
        if let Ok(known) = self.get(&digest) {
            return Ok(known);
        }
        let place = place.unwrap_or_else(|| self.dir.join(digest.hex()));
        let probed = probe(&place.join("runsc")).await;
        let features = match probed {
            Ok(features) => features,
            Err(e) => {
                files::remove_tree(&place).await?;
                return Err(e.context(what()));
            }
        };
        let text = serde_json::to_string(&features).attempt(Code::Internal, what)?;
        files::replace(&place.join("features.json"), text.as_bytes(), 0o644)?;
        let last = self.dir.join(digest.hex());
        if place != last {
            files::rename(&place, &last)?;
        }
        Ok(self.know(digest, features))
    }
}

/// Copies the binary and `gvisor-bin/` beside it into a directory of a passing name. None: it is there already.
fn copy(program: &Path, dir: &Path) -> std::io::Result<(Digest, Option<PathBuf>)> {
    let mut hasher = Sha256::new();
    hash_file(program, &mut hasher)?;
    let names = sidecars(program)?;
    for name in &names {
        hash_file(name, &mut hasher)?;
    }
    let digest = Digest::from_sha256(&hasher.finalize().into());
    if dir.join(digest.hex()).exists() {
        return Ok((digest, None));
    }
    let place = dir.join(format!("new-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&place);
    std::fs::create_dir_all(&place)?;
    put(program, &place.join("runsc"))?;
    if !names.is_empty() {
        std::fs::create_dir(place.join("gvisor-bin"))?;
        for name in &names {
            put(name, &place.join("gvisor-bin").join(name.file_name().unwrap_or_default()))?;
        }
    }
    Ok((digest, Some(place)))
}

/// What lies in `gvisor-bin/` beside it, in order.
fn sidecars(program: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    if let Some(beside) = program.canonicalize()?.parent().map(|p| p.join("gvisor-bin")).filter(|p| p.is_dir()) {
        for entry in std::fs::read_dir(beside)? {
            names.push(entry?.path());
        }
        names.sort();
    }
    Ok(names)
}

fn fingerprint(program: &Path) -> Result<String> {
    let mut all = sidecars(program).attempt(Code::Runtime, || format!("find {}", program.display()))?;
    all.push(program.to_owned());
    files::fingerprint(&all)
}

fn hash_file(path: &Path, hasher: &mut Sha256) -> std::io::Result<()> {
    use std::io::Read;
    let mut file = std::fs::File::open(path)?;
    let mut bytes = vec![0_u8; 1 << 20];
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(()),
            n => hasher.update(&bytes[..n]),
        }
    }
}

fn put(from: &Path, to: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::copy(from, to)?;
    // runsc refuses to run where not everybody may read and execute it.
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o755))?;
    std::fs::File::open(to)?.sync_all()
}

async fn probe(program: &Path) -> Result<Features> {
    let ask = async |args: &[&str]| -> String {
        match command::run(&EngineCommand::new(program, args.iter().copied()), &[]).await {
            Ok(out) => String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned(),
            Err(e) => e.report(), // `help` exits with an error in some versions, and still answers
        }
    };
    let first = command::run(&EngineCommand::new(program, ["--version"]), &[]).await?;
    let text = String::from_utf8_lossy(&first.stdout).into_owned();
    let version = text.lines().find_map(|l| l.strip_prefix("runsc version ")).unwrap_or("").trim().to_owned();
    if version.is_empty() {
        return Err(Error::new(Code::Runtime, format!("{} does not say that it is runsc", program.display())));
    }
    let (flags, restore, tar, checkpoint) = (
        ask(&["flags"]).await,
        ask(&["help", "restore"]).await,
        ask(&["help", "tar"]).await,
        ask(&["help", "checkpoint"]).await,
    );
    Ok(Features {
        overlay_size: flags.contains("size="),
        save_upper: tar.contains("rootfs-upper"),
        background_restore: restore.contains("-background"),
        modern_checkpoint: checkpoint.contains("(default none)"),
        // The fix tests another file of that directory: the binary that lacks its name lacks the fix.
        hides_net_core: !contains(program, b"dev_weight").await? && contains(program, b"rmem_default").await?,
        version,
    })
}

async fn contains(program: &Path, needle: &'static [u8]) -> Result<bool> {
    let path = program.to_owned();
    let found = tokio::task::spawn_blocking(move || -> std::io::Result<bool> {
        let bytes = std::fs::read(path)?;
        Ok(bytes.windows(needle.len()).any(|w| w == needle))
    });
    found
        .await
        .attempt(Code::Internal, || "look into the engine".into())?
        .attempt(Code::Internal, || "read the engine".into())
}

/// The runsc to use when none is configured: the first on PATH.
pub fn find_on_path(path: &str) -> Option<PathBuf> {
    path.split(':').map(|d| Path::new(d).join("runsc")).find(|p| p.is_file())
}

/// Features of this host's processors, sorted: what a snapshot may need.
///
/// # Errors
/// /proc/cpuinfo can't be read.
pub fn cpu_features() -> Result<Vec<String>> {
    let text = files::read(Path::new("/proc/cpuinfo"))?;
    let line = text.lines().find(|l| l.starts_with("flags") || l.starts_with("Features"));
    let mut all: Vec<String> = line
        .and_then(|l| l.split_once(':'))
        .map(|(_, v)| v.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default();
    all.sort();
    all.dedup();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn an_engine_is_read_again_only_if_it_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let program = dir.path().join(name);
            std::fs::write(&program, format!("#!/bin/sh\necho runsc version {name}\n")).unwrap();
            std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
            program
        };
        let (one, two) = (make("one"), make("two"));
        let engines = Engines::open(dir.path()).unwrap();
        let first = engines.import(&one).await.unwrap();
        assert_eq!(engines.import(&one).await.unwrap(), first);
        // By what is recorded of it, not by its bytes.
        std::fs::write(engines.source_of(&first.digest), fingerprint(&two).unwrap()).unwrap();
        assert_eq!(engines.import(&two).await.unwrap(), first);
        std::fs::write(&two, "#!/bin/sh\necho runsc version 222\n").unwrap();
        let second = engines.import(&two).await.unwrap();
        assert_eq!((second.version.as_str(), first.version.as_str()), ("222", "one"));
        let again = Engines::open(dir.path()).unwrap();
        assert_eq!(again.import(&two).await.unwrap(), second);
        // What lies beside it belongs to it.
        std::fs::create_dir(dir.path().join("gvisor-bin")).unwrap();
        std::fs::write(dir.path().join("gvisor-bin/part"), "x").unwrap();
        assert_ne!(again.import(&two).await.unwrap().digest, second.digest);
    }
}

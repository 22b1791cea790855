//! Directories for volumes: what is mounted needs a place, and a pod's root can't be written from outside.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::Layers;
use crate::model::{Attempt, Code, Digest, Error, LayerInfo, Result};

/// What a path is in the topmost layer that has it.
enum Found {
    Directory,
    Nothing,
    Other,
}

impl Layers {
    /// A layer with the directories at which volumes are mounted and which `layers` (lowest first) lack; none if they lack
    /// nothing.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`]: a target, or something above it, is no directory in the image.
    pub async fn add_mountpoints(&self, layers: &[Digest], targets: &[PathBuf]) -> Result<Option<LayerInfo>> {
        let mut missing = BTreeSet::new();
        for target in targets {
            let mut path = PathBuf::new();
            for part in target.components() {
                let Component::Normal(name) = part else { continue };
                path.push(name);
                match self.look(layers, &path) {
                    Found::Directory => {}
                    Found::Nothing => drop(missing.insert(path.clone())),
                    Found::Other => {
                        return Err(Error::invalid(format!(
                            "a volume can't be mounted at {}: /{} is no directory in the image",
                            target.display(),
                            path.display()
                        ))
                        .hint("choose another target"));
                    }
                }
            }
        }
        if missing.is_empty() {
            return Ok(None);
        }
        let tar = pack(&missing).attempt(Code::Internal, || "pack the volumes' directories".into())?;
        self.add_own(tar).await.map(Some)
    }

    fn look(&self, layers: &[Digest], path: &Path) -> Found {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        for digest in layers.iter().rev() {
            match std::fs::symlink_metadata(self.path(digest).join(path)) {
                Ok(m) if m.is_dir() => return Found::Directory,
                Ok(m) if m.file_type().is_char_device() && m.rdev() == 0 => return Found::Nothing,
                Ok(_) => return Found::Other,
                Err(_) => {}
            }
        }
        Found::Nothing
    }
}

fn pack(directories: &BTreeSet<PathBuf>) -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for directory in directories {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, directory, std::io::empty())?;
    }
    builder.into_inner()
}

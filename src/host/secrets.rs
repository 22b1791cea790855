//! Values of pods' secrets that were given with a request: in a file system in memory that is never swapped, for root alone.
//!
//! They outlive torpord and a pod's sleep, and are gone with the host's memory: after a reboot they have to be given again.
//! `<dir>/<pod>/<name>` is one value. After a crash: what was put is whole or not there.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::FsType;

use super::files;
use crate::model::{Attempt, Code, PodId, Result, SecretValues};

/// `RAMFS_MAGIC` of linux/magic.h.
const RAMFS: FsType = FsType(0x8584_58f6);

/// The values of an instance's pods. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Secrets {
    dir: PathBuf,
    /// Whether it becomes a file system of its own when the first value comes.
    own: bool,
    /// Held while values come in.
    putting: Arc<Mutex<()>>,
}

impl Secrets {
    /// In a file system of its own at `dir`, made when the first value comes.
    pub fn new(dir: PathBuf) -> Self {
        Secrets { dir, own: true, putting: Arc::default() }
    }

    /// In a plain directory.
    pub fn plain(dir: PathBuf) -> Self {
        Secrets { own: false, ..Self::new(dir) }
    }

    fn make(&self) -> Result<()> {
        files::create_dir_all(&self.dir, 0o700)?;
        if self.own && !self.is_mounted() {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("torpor-secrets"), &self.dir, Some("ramfs"), flags, Some("mode=700"))
                .attempt(Code::Internal, || format!("mount a file system in memory at {}", self.dir.display()))?;
        }
        Ok(())
    }

    fn is_mounted(&self) -> bool {
        nix::sys::statfs::statfs(&self.dir).is_ok_and(|s| s.filesystem_type() == RAMFS)
    }

    fn pod(&self, pod: &PodId) -> PathBuf {
        self.dir.join(pod.as_str())
    }

    /// Keeps a pod's values; those of other names that are there stay.
    ///
    /// # Errors
    /// They can't be written.
    pub fn put(&self, pod: &PodId, values: &SecretValues) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let _alone = self.putting.lock().unwrap_or_else(PoisonError::into_inner);
        self.make()?;
        let dir = self.pod(pod);
        files::create_dir_all(&dir, 0o700)?;
        for (name, value) in values {
            // No secret's name begins so.
            let new = dir.join(format!(".new-{name}"));
            files::write(&new, value.get(), 0o600)?;
            files::rename(&new, &dir.join(name))?;
        }
        Ok(())
    }

    /// A pod's values.
    ///
    /// # Errors
    /// They can't be read.
    pub fn get(&self, pod: &PodId) -> Result<SecretValues> {
        let dir = self.pod(pod);
        let names = files::list(&dir)?.into_iter().filter(|n| !n.starts_with('.'));
        names.map(|name| Ok((name.clone(), files::read_bytes(&dir.join(name))?.into()))).collect()
    }

    /// Forgets a pod's values. Not there: nothing to do.
    ///
    /// # Errors
    /// They can't be removed.
    pub fn remove(&self, pod: &PodId) -> Result<()> {
        files::remove_tree_now(&self.pod(pod))
    }

    /// Whose values are kept.
    ///
    /// # Errors
    /// They can't be listed.
    pub fn list(&self) -> Result<Vec<String>> {
        files::list(&self.dir)
    }

    /// Takes the file system away, with all that is in it.
    ///
    /// # Errors
    /// It can't be unmounted.
    pub fn close(&self) -> Result<()> {
        if self.is_mounted() {
            umount2(&self.dir, MntFlags::MNT_DETACH)
                .attempt(Code::Internal, || format!("unmount {}", self.dir.display()))?;
        }
        files::remove_tree_now(&self.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_in_memory_until_they_are_forgotten() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("secrets");
        let root = nix::unistd::geteuid().is_root();
        let open = || if root { Secrets::new(dir.clone()) } else { Secrets::plain(dir.clone()) };
        let secrets = open();
        assert!(secrets.list().unwrap().is_empty() && !dir.exists());
        let (one, other) = (PodId::random().unwrap(), PodId::random().unwrap());
        let value = |n: &str, v: &str| (n.to_owned(), v.as_bytes().to_vec().into());
        secrets.put(&one, &[value("a", "1"), value("b", "2")].into()).unwrap();
        secrets.put(&one, &[value("b", "3")].into()).unwrap();
        // Another torpord finds them.
        let secrets = open();
        assert_eq!(secrets.get(&one).unwrap(), [value("a", "1"), value("b", "3")].into());
        assert!(secrets.get(&other).unwrap().is_empty());
        assert_eq!(secrets.list().unwrap(), [one.to_string()]);
        if root {
            assert!(secrets.is_mounted());
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert_eq!(mounts.lines().filter(|l| l.contains(dir.to_str().unwrap())).count(), 1);
        }
        secrets.remove(&one).unwrap();
        assert!(secrets.list().unwrap().is_empty());
        secrets.put(&other, &[value("a", "1")].into()).unwrap();
        secrets.close().unwrap();
        assert!(!dir.exists());
    }
}

//! A directory whose content is replaced: the old is kept until that is over, and can come back.
//!
//! Beside a directory `x` lie, while it is replaced, `.x.torpor-new` (the new content, until it takes the place of the old),
//! `.x.torpor-old` (the old, until all that hangs on it has succeeded) and `.x.torpor-gone` (the old, being removed). After a
//! crash anywhere one of [`Place::put_back`] and [`Place::let_go`] brings it to one whole content, and which of them is the
//! caller's to know.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, fstat, fsync, mkdirat, openat2, renameat, statat};
use rustix::io::Errno;

use super::files;
use crate::model::{Attempt, Code, Error, Result};

/// Where a directory is replaced. The directory that holds it is the same all the time, whatever its path comes to mean.
#[derive(Debug)]
pub struct Place {
    parent: OwnedFd,
    path: PathBuf,
    name: OsString,
}

impl Place {
    /// The place of a directory that may be missing; its parent must be there.
    ///
    /// # Errors
    /// Its parent can't be opened without following links.
    pub fn of(path: &Path) -> Result<Self> {
        let what = || format!("open what holds {}", path.display());
        let parts = path.parent().zip(path.file_name());
        let (parent, name) = parts.ok_or_else(|| Error::invalid(format!("{} has no parent", path.display())))?;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat2(CWD, parent, flags, Mode::empty(), resolve).attempt(Code::Internal, what)?;
        Ok(Place { parent: fd, path: parent.to_owned(), name: name.to_owned() })
    }

    fn beside(&self, what: &str) -> OsString {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(".torpor-");
        name.push(what);
        name
    }

    fn has(&self, name: &OsStr) -> Result<bool> {
        match statat(&self.parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e).attempt(Code::Internal, || self.what("look at")),
        }
    }

    fn what(&self, done: &str) -> String {
        format!("{done} {}", self.path.join(&self.name).display())
    }

    fn remove(&self, name: &OsStr) -> Result<()> {
        files::remove_at(self.parent.as_fd(), name).attempt(Code::Internal, || self.what("remove what is left beside"))
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> Result<()> {
        renameat(&self.parent, from, &self.parent, to).attempt(Code::Internal, || self.what("replace"))
    }

    fn sync(&self) -> Result<()> {
        fsync(&self.parent).attempt(Code::Internal, || self.what("sync what holds"))
    }

    /// An empty directory for the new content. What an earlier replacement left is put right first.
    ///
    /// # Errors
    /// It can't be made; the directory itself is a mount point, and can't be replaced.
    pub fn stage(&self) -> Result<PathBuf> {
        self.put_back()?;
        if let Ok(stat) = statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW)
            && stat.st_dev != fstat(&self.parent).attempt(Code::Internal, || self.what("look at"))?.st_dev
        {
            let text = format!("{} is a mount point and can't be replaced", self.path.join(&self.name).display());
            return Err(Error::new(Code::Unsupported, text).hint("mount what holds it instead"));
        }
        let new = self.beside("new");
        mkdirat(&self.parent, &new, Mode::from_raw_mode(0o700)).attempt(Code::Internal, || self.what("stage"))?;
        Ok(self.path.join(new))
    }

    /// What was staged takes the place of what is there.
    ///
    /// # Errors
    /// It can't: [`Place::put_back`] is to be called.
    pub fn swap(&self) -> Result<()> {
        if self.has(&self.name)? {
            self.rename(&self.name, &self.beside("old"))?;
        }
        self.rename(&self.beside("new"), &self.name)?;
        self.sync()
    }

    /// The old content comes back if it had to go; what was staged is removed.
    ///
    /// # Errors
    /// Something can't be renamed or removed; to be tried again.
    pub fn put_back(&self) -> Result<()> {
        let (new, old) = (self.beside("new"), self.beside("old"));
        if self.has(&old)? {
            self.remove(&new)?;
            if self.has(&self.name)? {
                self.rename(&self.name, &new)?;
            }
            self.rename(&old, &self.name)?;
            self.sync()?;
        }
        self.remove(&new)?;
        self.remove(&self.beside("gone"))
    }

    /// The new content stays, and the old is removed.
    ///
    /// # Errors
    /// Something can't be removed; to be tried again.
    pub fn let_go(&self) -> Result<()> {
        let (old, gone) = (self.beside("old"), self.beside("gone"));
        self.remove(&gone)?;
        if self.has(&old)? {
            // Half removed it must never come back.
            self.rename(&old, &gone)?;
            self.sync()?;
            self.remove(&gone)?;
        }
        self.remove(&self.beside("new"))
    }

    /// Removes the directory with all that lies beside it.
    ///
    /// # Errors
    /// Something can't be removed; to be tried again.
    pub fn clear(&self) -> Result<()> {
        for name in [self.beside("new"), self.beside("old"), self.beside("gone"), self.name.clone()] {
            self.remove(&name)?;
        }
        self.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Trial {
        dir: tempfile::TempDir,
        place: Place,
    }

    impl Trial {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().canonicalize().unwrap().join("x");
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("says"), "old").unwrap();
            Trial { place: Place::of(&path).unwrap(), dir }
        }
        fn stage(&self) {
            let new = self.place.stage().unwrap();
            std::fs::write(new.join("says"), "new").unwrap();
        }
        fn says(&self) -> String {
            std::fs::read_to_string(self.dir.path().join("x/says")).unwrap()
        }
        fn names(&self) -> Vec<String> {
            files::list(self.dir.path()).unwrap()
        }
    }

    #[test]
    fn replaced_and_let_go_or_put_back() {
        let t = Trial::new();
        t.stage();
        t.place.swap().unwrap();
        assert_eq!((t.says().as_str(), t.names().len()), ("new", 2));
        t.place.put_back().unwrap();
        assert_eq!((t.says().as_str(), t.names()), ("old", vec!["x".to_owned()]));
        t.stage();
        t.place.swap().unwrap();
        t.place.let_go().unwrap();
        assert_eq!((t.says().as_str(), t.names()), ("new", vec!["x".to_owned()]));
        t.place.clear().unwrap();
        assert!(t.names().is_empty());
        // There was nothing: then there is nothing to come back.
        t.stage();
        t.place.swap().unwrap();
        assert_eq!(t.says(), "new");
    }

    #[test]
    fn after_a_crash_between_any_two_steps_there_is_one_whole_content() {
        let moved = |t: &Trial, from: &str, to: &str| {
            std::fs::rename(t.dir.path().join(from), t.dir.path().join(to)).unwrap();
        };
        // Between the renames of the swap; between those of the way back.
        let t = Trial::new();
        t.stage();
        moved(&t, "x", ".x.torpor-old");
        t.place.put_back().unwrap();
        assert_eq!((t.says().as_str(), t.names().len()), ("old", 1));
        t.stage();
        t.place.swap().unwrap();
        moved(&t, "x", ".x.torpor-new");
        t.place.put_back().unwrap();
        assert_eq!((t.says().as_str(), t.names().len()), ("old", 1));
        // While the old is being removed: it does not come back, not even for the next replacement.
        t.stage();
        t.place.swap().unwrap();
        moved(&t, ".x.torpor-old", ".x.torpor-gone");
        t.stage();
        assert_eq!(t.says(), "new");
        t.place.let_go().unwrap();
        assert_eq!((t.says().as_str(), t.names().len()), ("new", 1));
    }

    #[test]
    fn links_on_the_way_are_not_followed() {
        let t = Trial::new();
        std::os::unix::fs::symlink(t.dir.path(), t.dir.path().join("link")).unwrap();
        assert!(Place::of(&t.dir.path().canonicalize().unwrap().join("link/x")).is_err());
    }
}

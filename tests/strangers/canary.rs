//! A tree of this host's that no stranger may read or change, and what a process may take.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What stands in every file of the tree, and must stand nowhere else.
pub const SECRET: &str = "canary-7c1e0f";

pub struct Canary(pub PathBuf, Vec<String>);

impl Canary {
    pub fn new(path: PathBuf) -> Self {
        std::fs::create_dir_all(path.join("dir")).unwrap();
        for name in ["file", "dir/file"] {
            std::fs::write(path.join(name), SECRET).unwrap();
        }
        let seen = Self::look(&path);
        Canary(path, seen)
    }
    fn look(dir: &Path) -> Vec<String> {
        ["", "file", "dir", "dir/file"]
            .iter()
            .map(|name| {
                let path = dir.join(name);
                let m = std::fs::symlink_metadata(&path).unwrap();
                let body = std::fs::read(&path).unwrap_or_default();
                let names = std::fs::read_dir(&path).map_or(0, Iterator::count);
                format!(
                    "{name} {} {:o} {} {} {body:?} {names} {:?}",
                    m.ino(),
                    m.mode(),
                    m.uid(),
                    m.nlink(),
                    m.modified()
                )
            })
            .collect()
    }
    pub fn check(&self, what: &str) {
        assert_eq!(Self::look(&self.0), self.1, "{what} changed what lies outside");
    }
    pub fn file(&self) -> String {
        self.0.join("file").display().to_string()
    }
    pub fn dir(&self) -> String {
        self.0.display().to_string()
    }
}

fn status(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|l| l.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Bytes of memory that a process has now.
pub fn resident(pid: u32) -> u64 {
    status(pid, "VmRSS:") << 10
}

/// Bytes that it has had at most since this was last asked.
pub fn peak(pid: u32) -> u64 {
    let most = status(pid, "VmHWM:") << 10;
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    most
}

/// Its open files.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

//! How much memory there is.

use std::path::Path;

use crate::host::files;
use crate::model::{Error, Result};

/// Bytes of the host's memory.
///
/// # Errors
/// The kernel does not tell.
pub fn of_host() -> Result<u64> {
    total(&files::read(Path::new("/proc/meminfo"))?)
        .ok_or_else(|| Error::internal("read the host's memory: /proc/meminfo has no MemTotal"))
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|k| k * 1024)
}

/// The least limit of a cgroup and those above it, below `mount`; none if there is none. `file` holds a limit.
pub fn least_limit(mount: &Path, group: &Path, file: &str) -> Option<u64> {
    // What says "max", or cannot be read, limits nothing.
    group.ancestors().filter_map(|a| files::read(&mount.join(a).join(file)).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        for (at, text) in [("a/b/memory.max", "max\n"), ("a/memory.max", "5000\n"), ("memory.max", "7000\n")] {
            std::fs::write(dir.path().join(at), text).unwrap();
        }
        assert_eq!(least_limit(dir.path(), Path::new("a/b"), "memory.max"), Some(5000));
        assert_eq!(least_limit(dir.path(), Path::new("a/b"), "nosuch"), None);
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       24576 kB\n"), Some(24 << 20));
        assert!(of_host().unwrap() > 1 << 20);
    }
}

//! torpord's own process, as the kernel counts it: what Prometheus calls `process_*`.

use std::path::Path;

use crate::host::files;
use crate::model::{Error, Result};

/// What a process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Seconds of processor time, its own and the kernel's for it.
    pub cpu_seconds: f64,
    /// Bytes of memory that are there.
    pub resident: u64,
    /// Bytes of address space.
    pub virtual_memory: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub open_files: u64,
    /// How many it may have.
    pub most_files: u64,
    /// When it was started, in seconds since 1970.
    pub started: f64,
}

/// This process.
///
/// # Errors
/// The kernel does not tell.
pub fn usage() -> Result<Usage> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    let (ticks, page) = (u64::try_from(ticks).unwrap_or(100), u64::try_from(page).unwrap_or(4096));
    let stat = files::read(Path::new("/proc/self/stat"))?;
    let host = files::read(Path::new("/proc/stat"))?;
    let mut usage = read(&stat, &host, ticks, page)
        .ok_or_else(|| Error::internal("read what torpord uses: /proc/self/stat is not as expected"))?;
    usage.open_files = files::list(Path::new("/proc/self/fd"))?.len() as u64;
    usage.most_files = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .map(|(soft, _)| soft)
        .map_err(|e| Error::internal("read how many files torpord may open").because(e))?;
    Ok(usage)
}

/// Out of the texts of /proc/PID/stat and /proc/stat; see proc(5).
fn read(stat: &str, host: &str, ticks: u64, page: u64) -> Option<Usage> {
    // The name stands in parentheses and may have any character.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
    let boot: u64 = host.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
    #[expect(clippy::cast_precision_loss, reason = "seconds of a life")]
    let seconds = |t: u64| t as f64 / ticks as f64;
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
    let boot = boot as f64;
    Some(Usage {
        cpu_seconds: seconds(field(14)? + field(15)?),
        resident: field(24)? * page,
        virtual_memory: field(23)?,
        threads: field(20)?,
        started: boot + seconds(field(22)?),
        ..Usage::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_name_changes_nothing() {
        let tail = "S 1 2 3 0 -1 4194560 5 0 0 0 150 50 0 0 20 0 7 0 1000 8192 3 18446744073709551615 1 1";
        for name in ["torpord", "a) b (c", ""] {
            let usage = read(&format!("12 ({name}) {tail}"), "cpu 1\nbtime 1700000000\n", 100, 4096).unwrap();
            assert_eq!((usage.cpu_seconds, usage.resident, usage.virtual_memory), (2.0, 3 * 4096, 8192));
            assert_eq!((usage.threads, usage.started), (7, 1_700_000_010.0));
        }
        assert_eq!(read("12 (x) S", "btime 1\n", 100, 4096), None);
    }

    #[test]
    fn this_process_is_told_of() {
        let usage = usage().unwrap();
        assert!(usage.resident > 1 << 16 && usage.open_files > 2 && usage.most_files >= usage.open_files, "{usage:?}");
        let now = jiff::Timestamp::now().as_second();
        #[expect(clippy::cast_possible_truncation, reason = "a second more or less")]
        let age = now - usage.started as i64;
        assert!((-2..24 * 3600).contains(&age), "{usage:?}");
    }
}

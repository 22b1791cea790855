//! cgroups of sandboxes, v1 and v2: made before the sandbox, so that nothing ever runs unlimited.
//!
//! A sandbox's cgroup is `torpor-<tag>/<pod>-<n>` in each hierarchy. runsc is given the path; what it makes in hierarchies
//! that we don't limit is ours to remove too.
//!
//! On v2 that lies at the top, or in the slice that TORPOR_CGROUP names (the unit says `torpor.slice`), never below
//! torpord's own cgroup: a service whose cgroup hands controllers on can't be started again while pods live in it, and a
//! shell from which torpord is started shares its cgroup with others. systemd leaves what it does not know in a slice
//! alone, and can't take away controllers that are handed on further down.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::host::files;
use crate::model::{Attempt, Code, Error, InstanceTag, Result};
use crate::plan::limits::{Limits, shares_of_all};

/// What a sandbox uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of it that are cache which the kernel can take back at once.
    pub cache: u64,
    /// Nanoseconds of processor time.
    pub cpu_ns: u64,
    /// Tasks.
    pub pids: u64,
}

/// cgroups of sandboxes.
#[async_trait]
pub trait Cgroups: Send + Sync {
    /// Makes a sandbox's cgroup with its limits.
    async fn ensure(&self, id: &str, limits: &Limits) -> Result<()>;
    /// Changes the limits of one that is in use.
    async fn limit(&self, id: &str, limits: &Limits) -> Result<()>;
    /// Kills what is left in it and removes it; not there: nothing to do.
    async fn remove(&self, id: &str) -> Result<()>;
    /// What it uses.
    async fn usage(&self, id: &str) -> Result<Usage>;
    /// What all of them use together (on v2 with their shims); processor time of those that are gone, too.
    async fn all_usage(&self) -> Result<Usage>;
    /// Whether the kernel killed something in it for want of memory.
    fn oom_killed(&self, id: &str) -> Result<bool>;
    /// Whether the kernel refused it a task.
    fn pids_refused(&self, id: &str) -> Result<bool>;
    /// Names of those that exist.
    async fn list(&self) -> Result<Vec<String>>;
    /// The path as it stands in a bundle.
    fn path_for_spec(&self, id: &str) -> String;
    /// Bytes of memory that all sandboxes together could have: the host's, or what a cgroup above them is limited to.
    fn memory(&self) -> Result<u64>;
}

/// The kernel's own.
#[derive(Debug, Clone)]
pub struct RealCgroups {
    layout: Layout,
    /// Where sandboxes are made, below each mount point.
    parent: PathBuf,
    /// Where a torpord that was started otherwise has made them.
    elsewhere: Vec<PathBuf>,
}

/// The cgroup of all shims, beside those of sandboxes.
const SHIMS: &str = "shims";

/// The slice of torpor's unit.
const SLICE: &str = "torpor.slice";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Layout {
    /// Controller name and mount point of each hierarchy.
    V1(Vec<(String, PathBuf)>),
    /// The mount point and our own place below it.
    V2(PathBuf),
}

/// Hierarchies that can't be done without.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

fn layout(mountinfo: &str) -> Option<Layout> {
    let mut v1 = Vec::new();
    let mut v2 = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(point), mut right) = (left.split(' ').nth(4), right.split(' ')) else { continue };
        match right.next() {
            Some("cgroup") => {
                let options = right.nth(1).unwrap_or("");
                let names = options.split(',').filter(|o| !matches!(*o, "rw" | "ro") && !o.contains('='));
                v1.extend(names.map(|n| (n.to_owned(), PathBuf::from(point))));
                if let Some(name) = options.split(',').find(|o| o.starts_with("name=")) {
                    v1.push((name.to_owned(), PathBuf::from(point)));
                }
            }
            Some("cgroup2") => v2 = Some(PathBuf::from(point)),
            _ => {}
        }
    }
    if NEEDED.iter().all(|n| v1.iter().any(|(c, _)| c == n)) {
        return Some(Layout::V1(v1));
    }
    v2.map(Layout::V2)
}

impl RealCgroups {
    /// Those of an instance; on v2 below `slice`, if one is given.
    ///
    /// # Errors
    /// The host has no cgroups that can limit processor time, memory and tasks, or they can't be handed on.
    pub fn open(tag: &InstanceTag, slice: Option<&str>) -> Result<Self> {
        let text = files::read(Path::new("/proc/self/mountinfo"))?;
        let layout = layout(&text).ok_or_else(|| {
            Error::new(Code::Unsupported, "this host has no cgroup controllers for cpu, memory and pids")
                .hint("boot it with cgroup v2 (systemd.unified_cgroup_hierarchy=1)")
        })?;
        let (parent, elsewhere) = match &layout {
            Layout::V1(_) => (PathBuf::from(format!("torpor-{tag}")), Vec::new()),
            Layout::V2(_) => places(tag, slice)?,
        };
        let cgroups = RealCgroups { layout, parent, elsewhere };
        if let Layout::V2(mount) = &cgroups.layout {
            cgroups.hand_on(mount)?;
        }
        Ok(cgroups)
    }

    /// Makes the v2 cgroup of all sandboxes, and gives it and those above it the controllers to hand on.
    fn hand_on(&self, mount: &Path) -> Result<()> {
        let mut dir = mount.to_owned();
        files::create_dir_all(&dir.join(&self.parent), 0o755)?;
        let below: Vec<_> = self.parent.components().map(Some).chain([None]).collect();
        for name in below {
            let control = dir.join("cgroup.subtree_control");
            write(&control, "+cpu +memory +pids").map_err(|e| {
                e.hint("inside a container, move its processes out of the top cgroup first, into one below it")
            })?;
            // runsc asks for all there are, and has less right to than we have now.
            for other in files::read(&dir.join("cgroup.controllers"))?.split_whitespace() {
                if let Err(e) = write(&control, &format!("+{other}")) {
                    tracing::debug!(error = %e.report(), "hand a controller on");
                }
            }
            if let Some(name) = name {
                dir.push(name);
            }
        }
        Ok(())
    }

    /// Which version the host has, for people.
    pub fn version(&self) -> &'static str {
        match self.layout {
            Layout::V1(_) => "v1",
            Layout::V2(_) => "v2",
        }
    }

    /// All that may be a sandbox's.
    fn dirs(&self, id: &str) -> Vec<PathBuf> {
        match &self.layout {
            Layout::V1(all) => {
                let mut dirs: Vec<PathBuf> = all.iter().map(|(_, m)| m.join(&self.parent).join(id)).collect();
                dirs.dedup();
                dirs
            }
            Layout::V2(mount) => {
                std::iter::once(&self.parent).chain(&self.elsewhere).map(|p| mount.join(p).join(id)).collect()
            }
        }
    }

    fn dir(&self, controller: &str, id: &str) -> PathBuf {
        match &self.layout {
            Layout::V1(all) => {
                let mount = all.iter().find(|(c, _)| c == controller).map(|(_, m)| m.clone()).unwrap_or_default();
                mount.join(&self.parent).join(id)
            }
            Layout::V2(mount) => {
                let here = mount.join(&self.parent).join(id);
                if here.exists() {
                    return here;
                }
                self.elsewhere.iter().map(|p| mount.join(p).join(id)).find(|d| d.exists()).unwrap_or(here)
            }
        }
    }

    /// On v2: makes the cgroup of the shims, which has no limits.
    ///
    /// # Errors
    /// It can't be made.
    pub fn for_shims(&self) -> Result<Option<PathBuf>> {
        let Layout::V2(mount) = &self.layout else { return Ok(None) };
        let dir = mount.join(&self.parent).join(SHIMS);
        // Anew where nobody is in it: an engine clones a sandbox from here into its own cgroup, and some kernels (6.1.176) kill
        // that at once if somebody has written to `cgroup.kill` here before.
        let _ = std::fs::remove_dir(&dir);
        files::create_dir_all(&dir, 0o755)?;
        Ok(Some(dir))
    }

    /// Removes the instance's own cgroup once no sandbox is in it.
    ///
    /// # Errors
    /// It is still used.
    pub fn remove_parent(&self) -> Result<()> {
        for dir in self.dirs(SHIMS).into_iter().chain(self.dirs("")) {
            match std::fs::remove_dir(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::internal(format!("remove cgroup {}", dir.display())).because(e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// On v2: where an instance's sandboxes are made, and where else they may be.
fn places(tag: &InstanceTag, slice: Option<&str>) -> Result<(PathBuf, Vec<PathBuf>)> {
    let name = format!("torpor-{tag}");
    let slice = slice.map(|s| s.trim_matches('/')).filter(|s| !s.is_empty());
    if slice.is_some_and(|s| s.split('/').any(|c| matches!(c, "" | "." | ".."))) {
        return Err(Error::invalid(format!("TORPOR_CGROUP is {slice:?}, which is no path of a cgroup")));
    }
    let parent = slice.map(PathBuf::from).unwrap_or_default().join(&name);
    let mut elsewhere = vec![PathBuf::from(&name), Path::new(SLICE).join(&name)];
    elsewhere.retain(|p| *p != parent);
    Ok((parent, elsewhere))
}

fn write(path: &Path, value: &str) -> Result<()> {
    std::fs::write(path, value).attempt(Code::Internal, || format!("write {value:?} to {}", path.display()))
}

fn number(path: &Path, key: Option<&str>) -> Result<u64> {
    let text = files::read(path)?;
    let value = match key {
        None => Some(text.trim()),
        Some(key) => text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')),
    };
    value
        .and_then(|v| v.trim().parse().ok())
        .ok_or_else(|| Error::internal(format!("{} has no number {}", path.display(), key.unwrap_or(""))))
}

#[async_trait]
impl Cgroups for RealCgroups {
    async fn ensure(&self, id: &str, limits: &Limits) -> Result<()> {
        match &self.layout {
            Layout::V1(all) => {
                for (controller, mount) in all.iter().filter(|(c, _)| NEEDED.contains(&c.as_str()) || c == "cpuacct") {
                    let dir = mount.join(&self.parent).join(id);
                    files::create_dir_all(&dir, 0o755)?;
                    if controller == "cpu" {
                        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
                        let shares = shares_of_all(processors).to_string();
                        write(&mount.join(&self.parent).join("cpu.shares"), &shares)?;
                    }
                    for (_, file, value) in limits.v1().into_iter().filter(|(c, _, _)| c == controller) {
                        let path = dir.join(file);
                        if file.contains("memsw") && !path.exists() {
                            continue; // a kernel without swap accounting
                        }
                        write(&path, &value)?;
                    }
                }
            }
            Layout::V2(mount) => {
                let top = mount.join(&self.parent);
                if !top.exists() {
                    self.hand_on(mount)?; // systemd removes empty cgroups of a slice that it stops
                }
                let dir = top.join(id);
                files::create_dir_all(&dir, 0o755)?;
                for (file, value) in limits.v2() {
                    if file == "memory.swap.max" && !dir.join(file).exists() {
                        continue;
                    }
                    write(&dir.join(file), &value)?;
                }
            }
        }
        Ok(())
    }

    async fn limit(&self, id: &str, limits: &Limits) -> Result<()> {
        if !self.dir("memory", id).is_dir() {
            return Err(Error::internal(format!("limit the cgroup of {id}: it is not there")));
        }
        if let Layout::V1(_) = &self.layout {
            let swap = self.dir("memory", id).join("memory.memsw.limit_in_bytes");
            // With swap there may never be less than without.
            if swap.exists() && number(&swap, None)? < limits.memory {
                write(&swap, &limits.memory.to_string())?;
            }
        }
        self.ensure(id, limits).await
    }

    async fn remove(&self, id: &str) -> Result<()> {
        let mut first = Ok(());
        for dir in self.dirs(id) {
            let removed = remove_dir(&dir).await;
            first = first.and(removed);
        }
        first
    }

    async fn usage(&self, id: &str) -> Result<Usage> {
        Ok(match &self.layout {
            Layout::V1(_) => Usage {
                memory: number(&self.dir("memory", id).join("memory.usage_in_bytes"), None)?,
                cache: number(&self.dir("memory", id).join("memory.stat"), Some("total_inactive_file"))?,
                cpu_ns: number(&self.dir("cpuacct", id).join("cpuacct.usage"), None)?,
                pids: number(&self.dir("pids", id).join("pids.current"), None)?,
            },
            Layout::V2(_) => {
                let dir = self.dir("", id);
                Usage {
                    memory: number(&dir.join("memory.current"), None)?,
                    cache: number(&dir.join("memory.stat"), Some("inactive_file"))?,
                    cpu_ns: number(&dir.join("cpu.stat"), Some("usage_usec"))? * 1000,
                    pids: number(&dir.join("pids.current"), None)?,
                }
            }
        })
    }

    async fn all_usage(&self) -> Result<Usage> {
        self.usage("").await
    }

    fn oom_killed(&self, id: &str) -> Result<bool> {
        let n = match &self.layout {
            Layout::V1(_) => number(&self.dir("memory", id).join("memory.oom_control"), Some("oom_kill"))?,
            Layout::V2(_) => number(&self.dir("", id).join("memory.events"), Some("oom_kill"))?,
        };
        Ok(n > 0)
    }

    fn pids_refused(&self, id: &str) -> Result<bool> {
        Ok(number(&self.dir("pids", id).join("pids.events"), Some("max"))? > 0)
    }

    async fn list(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for dir in self.dirs("") {
            for name in files::list(&dir)? {
                if dir.join(&name).is_dir() && !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        Ok(names)
    }

    fn path_for_spec(&self, id: &str) -> String {
        format!("/{}/{id}", self.parent.display())
    }

    fn memory(&self) -> Result<u64> {
        let limit = match &self.layout {
            Layout::V1(all) => all
                .iter()
                .find(|(c, _)| c == "memory")
                .and_then(|(_, mount)| crate::host::memory::least_limit(mount, &self.parent, "memory.limit_in_bytes")),
            Layout::V2(mount) => crate::host::memory::least_limit(mount, &self.parent, "memory.max"),
        };
        Ok(crate::host::memory::of_host()?.min(limit.unwrap_or(u64::MAX)))
    }
}

/// Kills what is in a cgroup and removes it with all below it.
async fn remove_dir(dir: &Path) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(5);
    for name in files::list(dir)? {
        if dir.join(&name).is_dir() {
            Box::pin(remove_dir(&dir.join(name))).await?;
        }
    }
    let _ = std::fs::write(dir.join("cgroup.kill"), "1");
    loop {
        match std::fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) if Instant::now() >= end => {
                return Err(Error::internal(format!("remove cgroup {}", dir.display())).because(e));
            }
            Err(_) => {
                let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                for pid in text.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|p| *p > 1) {
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
                }
                // The kernel tells nobody when the last of a v1 cgroup has gone.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_are_recognised() {
        let v1 = "1 0 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  2 0 0:2 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  3 0 0:3 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                  4 0 0:4 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                  5 0 0:5 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let Some(Layout::V1(all)) = layout(v1) else { panic!("not v1") };
        assert!(all.contains(&("cpuacct".into(), "/sys/fs/cgroup/cpu,cpuacct".into())));
        let v2 = "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(layout(v2), Some(Layout::V2("/sys/fs/cgroup".into())));
        assert_eq!(layout(""), None);
    }

    #[test]
    fn sandboxes_live_in_the_slice_and_are_found_where_they_were_made() {
        let tag: InstanceTag = "01abcd".parse().unwrap();
        let (here, elsewhere) = places(&tag, Some("/torpor.slice/")).unwrap();
        assert_eq!(here, Path::new("torpor.slice/torpor-01abcd"));
        assert_eq!(elsewhere, [Path::new("torpor-01abcd")]);
        let (here, elsewhere) = places(&tag, None).unwrap();
        assert_eq!(here, Path::new("torpor-01abcd"));
        assert_eq!(elsewhere, [Path::new("torpor.slice/torpor-01abcd")]);
        assert!(places(&tag, Some("../x")).is_err());
    }
}

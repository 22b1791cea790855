//! What an instance must not have when nothing is asked of it: looked at while it runs, and after it ended.

use std::path::Path;
use std::process::Command;

use crate::daemon::Daemon;
use crate::tally::Tally;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map(|d| d.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

/// What one instance has of pods, beyond `pods` of them.
pub fn of_pods(d: &Daemon, pods: &[String]) -> Vec<String> {
    let run = Path::new("/run/torpor").join(&d.tag);
    let known = |name: &str| pods.iter().any(|p| name.contains(p.as_str()));
    let mut found = Vec::new();
    let mut dirs =
        vec![run.join("pods"), run.join("netns"), run.join("r"), d.dir.join("state/pods"), d.dir.join("state/tmp")];
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        dirs.push(hierarchy.path().join(format!("torpor-{}", d.tag)));
    }
    for dir in dirs {
        for name in names(&dir) {
            let shared = ["router", "null-netns"].iter().any(|s| name.starts_with(s)) || name.contains('.');
            let is_dir = dir.starts_with("/sys") && !dir.join(&name).is_dir();
            if !known(&name) && !shared && !is_dir {
                found.push(dir.join(&name).display().to_string());
            }
        }
    }
    for line in processes(&d.tag) {
        if !known(&line) {
            found.push(line);
        }
    }
    found
}

/// Processes that name the instance's run directory.
pub fn processes(tag: &str) -> Vec<String> {
    let out = Command::new("pgrep").args(["-fa", &format!("/run/torpor/{tag}/(pods|r)[/ ]")]).output().unwrap();
    String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect()
}

/// Raw images, manifests and packs beyond those of `snapshots`.
pub fn of_snapshots(d: &Daemon, snapshots: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for dir in ["state/cache", "state/store/v1/snapshots", "state/store/v1/packs"] {
        let dir = d.dir.join(dir);
        let is_id = |n: &String| n.len() == 32 && n.bytes().all(|b| b.is_ascii_hexdigit());
        // An empty directory is no object: a kill may fall between the removal of the two.
        let holds_some = |n: &String| !names(&dir.join(n)).is_empty();
        let ids = names(&dir).into_iter().filter(is_id).filter(|n| !snapshots.contains(n)).filter(holds_some);
        found.extend(ids.map(|n| dir.join(n).display().to_string()));
    }
    found
}

/// Open descriptors of torpord.
pub fn descriptors(pid: u32) -> usize {
    names(Path::new(&format!("/proc/{pid}/fd"))).len()
}

/// Resident KiB of torpord.
pub fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
}

/// Removes all pods and snapshots; whatever is there then is a leak.
pub async fn empty(d: &Daemon, tally: &Tally) {
    let client = &d.client;
    for pod in client.pods().await.unwrap_or_default() {
        if let Err(e) = client.remove(&pod.id, true).await {
            tally.fail(&format!("remove {}: {e}", pod.name));
        }
    }
    for snapshot in client.snapshots().await.unwrap_or_default() {
        if let Err(e) = client.remove_snapshot(&snapshot.id).await {
            tally.fail(&format!("remove snapshot {}: {e}", snapshot.id));
        }
    }
    // What was killed a moment ago may still be leaving.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let left: Vec<String> = of_pods(d, &[]).into_iter().chain(of_snapshots(d, &[])).collect();
        if left.is_empty() {
            return;
        }
        if std::time::Instant::now() > end {
            left.iter().for_each(|l| tally.leak(l));
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// Ends the instance; whatever bears its tag then is a leak.
pub fn end(mut d: Daemon, tally: &Tally) {
    let rest = d.end_all();
    if let Err(e) = rest.removed {
        tally.fail(&e);
    }
    rest.left.iter().for_each(|l| tally.leak(l));
    if rest.kept > 0 {
        tally.leak(&format!("{} pods' directories", rest.kept));
    }
    let check = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/leak-check");
    match Command::new("sh").arg(check).args(["--tag", &d.tag]).output() {
        Ok(out) if out.status.success() => {}
        Ok(out) => String::from_utf8_lossy(&out.stdout).lines().for_each(|l| tally.leak(l)),
        Err(e) => tally.fail(&format!("leak-check: {e}")),
    }
    if !tally.is_clean() {
        let path = std::env::temp_dir().join(format!("torture-{}.log", d.tag));
        if std::fs::write(&path, rest.log).is_ok() {
            eprintln!("torpord's log is kept as {}", path.display());
        }
    }
}

//! What torpor relies on is damaged or taken away behind its back.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use torpor::api::types::Pod;

use super::Bench;
use crate::engine;

/// runsc's record of the sandbox is empty, rubbish or missing: the pod goes on, and can be stopped and removed.
pub async fn damaged_state(b: &Bench, pod: &Pod, round: u64) {
    for file in engine::state_files(b.tag(), pod) {
        let done = match round % 3 {
            0 => std::fs::write(&file, ""),
            1 => std::fs::write(&file, "{\"id\": 7, rubbish"),
            _ => std::fs::remove_file(&file),
        };
        if let Err(e) = done {
            b.desk.fail(&format!("damage {}: {e}", file.display()));
        }
    }
    b.runs(pod).await;
    let mut count = 0;
    b.desk.counts(pod, &mut count).await;
    if b.desk.client.sleep(&pod.name, &mut |_| ()).await.is_err() {
        b.is_untouched(pod, &mut count).await;
    }
    b.stops(pod).await;
    b.starts_again(pod).await;
}

/// All that names the sandbox's pid names a stranger's process now: it must live.
pub async fn reused_pid(b: &mut Bench, pod: &Pod) {
    let canary = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn();
    let Ok(mut canary) = canary else { return b.desk.fail("no canary") };
    b.d.kill();
    if let Some(shim) = engine::shim(b.tag(), pod) {
        shim.kill();
    }
    let old = pod.sandbox_pid.unwrap_or(0);
    for process in engine::processes(b.tag(), pod) {
        process.kill();
    }
    let new = canary.id().to_string();
    let dir = Path::new("/run/torpor").join(b.tag()).join("pods").join(format!("{}-{}", pod.id, pod.incarnation));
    for file in [dir.join("pid"), dir.join("sandbox")].into_iter().chain(engine::state_files(b.tag(), pod)) {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let mut changed = text.replacen(&old.to_string(), &new, 1);
        if file.extension().is_some() {
            changed = text.replace(&format!("\"pid\":{old}"), &format!("\"pid\":{new}"));
            let gofer = changed.split("\"goferPid\":").nth(1).and_then(|t| t.split(&[',', '}'][..]).next());
            if let Some(gofer) = gofer.map(str::to_owned) {
                changed = changed.replace(&format!("\"goferPid\":{gofer}"), &format!("\"goferPid\":{new}"));
            }
            if changed == text {
                b.desk.fail("runsc's record names its pid in another way");
            }
        }
        if let Err(e) = std::fs::write(&file, changed) {
            b.desk.fail(&format!("change {}: {e}", file.display()));
        }
    }
    b.d.launch();
    b.is_known_dead(pod).await;
    b.starts_again(pod).await;
    b.desk.must("remove", b.desk.client.remove(&pod.name, true)).await;
    if !matches!(canary.try_wait(), Ok(None)) {
        b.desk.fail("a stranger's process that had the sandbox's pid was killed");
    }
    engine::send(i32::try_from(canary.id()).unwrap_or(0), Signal::SIGKILL);
    let _ = canary.wait();
}

/// Its cgroups, its namespace's name or its link are removed.
pub async fn away(b: &Bench, pod: &Pod, round: u64) {
    let mut count = 0;
    b.desk.counts(pod, &mut count).await;
    match round % 3 {
        0 => {
            for dir in cgroups(b.tag(), pod) {
                remove_cgroup(&dir);
            }
            b.is_untouched(pod, &mut count).await;
        }
        1 => {
            let netns = netns(b.tag(), &format!("{}-{}", pod.id, pod.incarnation));
            let _ = nix::mount::umount2(&netns, nix::mount::MntFlags::MNT_DETACH);
            let _ = std::fs::remove_file(&netns);
            b.is_untouched(pod, &mut count).await;
        }
        _ => {
            let link = format!("tp-{}", &pod.id);
            let router = format!("--net={}", netns(b.tag(), "router").display());
            let list = Command::new("nsenter").args([&router, "ip", "-o", "link"]).output();
            let text = list.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
            let name = text
                .lines()
                .filter_map(|l| l.split(": ").nth(1)?.split('@').next())
                .find(|n| n.contains(&pod.id[..8]) || link.starts_with(*n));
            let Some(name) = name else { return b.desk.fail(&format!("its link is not found: {text}")) };
            let gone = Command::new("nsenter").args([&router, "ip", "link", "del", name]).status();
            if !gone.is_ok_and(|s| s.success()) {
                b.desk.fail("its link can't be removed");
            }
            b.runs(pod).await;
        }
    }
    if b.desk.client.sleep(&pod.name, &mut |_| ()).await.is_ok() {
        b.wakes(pod, &mut count).await;
    } else {
        b.runs(pod).await;
    }
    b.stops(pod).await;
    b.starts_again(pod).await;
}

fn netns(tag: &str, name: &str) -> PathBuf {
    Path::new("/run/torpor").join(tag).join("netns").join(name)
}

fn cgroups(tag: &str, pod: &Pod) -> Vec<PathBuf> {
    let name = format!("torpor-{tag}/{}-{}", pod.id, pod.incarnation);
    let all = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    all.map(|e| e.path().join(&name)).filter(|p| p.is_dir()).collect()
}

/// Its processes go to the parent, and then it can be removed.
fn remove_cgroup(dir: &Path) {
    let parent = dir.parent().unwrap_or(dir).join("cgroup.procs");
    for _ in 0..20 {
        for pid in std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = std::fs::write(&parent, pid);
        }
        if std::fs::remove_dir(dir).is_ok() {
            return;
        }
    }
}

//! Volumes whose paths come to mean something else between the look and the mount.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use torpor::api::types::{CreatePod, VolumeSpec};

use crate::canary::{Canary, SECRET};
use crate::daemon::{self, Daemon, script};

fn on(source: &Path, name: &str, command: &str) -> CreatePod {
    let volumes = vec![VolumeSpec { source: source.display().to_string(), target: "/v".into(), read_only: false }];
    CreatePod { volumes, ..script(name, command) }
}

/// Swaps two names without end, as a pod can that has the directory around them.
struct Swapper(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>, Arc<AtomicU64>);

impl Swapper {
    fn start(a: &Path, b: &Path) -> Self {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (a, b, stopped, count) = (a.to_owned(), b.to_owned(), Arc::clone(&stop), Arc::clone(&swaps));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &b, flags).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Swapper(stop, Some(thread), swaps)
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().unwrap().join().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_what_was_looked_at() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    let canary = Canary::new(d.dir.join("canary"));
    d.import("test").await;
    // The directory around the volume is another pod's.
    let shared = d.dir.join("shared");
    for dir in ["sub/deep", "real"] {
        std::fs::create_dir_all(shared.join(dir)).unwrap();
    }
    std::os::unix::fs::symlink(&canary.0, shared.join("evil")).unwrap();
    let swapper = Swapper::start(&shared.join("sub"), &shared.join("evil"));
    let (mut made, mut refused) = (0, 0);
    for n in 0..30 {
        // What lies below the swapped name too: `dir` is there in the canary.
        let source = shared.join(if n % 3 == 0 { "sub/deep" } else { "sub" });
        let name = format!("victim{n}");
        match d.client.create_pod(&on(&source, &name, "cat /v/file; touch /v/pwn; rm -f /v/file; sleep 99")).await {
            Ok(_) => {
                made += 1;
                let seen = d.exec(&name, "ls -a /v; cat /v/file").await;
                assert!(!seen.stdout.contains(SECRET), "{seen:?}");
                d.client.remove(&name, true).await.unwrap();
            }
            Err(e) => {
                refused += 1;
                assert_eq!(daemon::code(&e), "invalid_request", "{e}");
            }
        }
        canary.check(&name);
    }
    let swaps = swapper.2.load(Ordering::Relaxed);
    drop(swapper);
    eprintln!("{made} pods made, {refused} refused, {swaps} swaps");
    assert!(swaps > 1000);
    canary.check("a swapped volume");
    // At rest: a link is never followed, wherever it lies, and that is said.
    if shared.join("sub").is_symlink() {
        std::fs::remove_file(shared.join("sub")).unwrap();
        std::fs::rename(shared.join("evil"), shared.join("sub")).unwrap();
        std::os::unix::fs::symlink(&canary.0, shared.join("evil")).unwrap();
    }
    for (source, why) in [
        (shared.join("evil"), "link"),
        (shared.join("evil/dir"), "link"),
        (canary.0.join("file"), "directory"),
        (Path::new("/proc/self/cwd").to_owned(), "link"),
        (Path::new("/proc/1/root").to_owned(), "link"),
    ] {
        let e = d.client.create_pod(&on(&source, "rest", "sleep 99")).await.unwrap_err();
        assert!(daemon::code(&e) == "invalid_request" && e.to_string().contains(why), "{}: {e}", source.display());
        canary.check(&source.display().to_string());
    }
    d.client.create_pod(&on(&shared.join("sub"), "rest", "sleep 99")).await.unwrap();
    // Nothing stays mounted for it, whatever became of the pods.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&format!("/run/torpor/{}/volumes/", d.tag)), "{mounts}");
}

/// A volume of a pod that sleeps, swapped meanwhile: the pod does not wake onto something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_pods_volume_is_looked_at_again() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    let canary = Canary::new(d.dir.join("canary"));
    d.import("test").await;
    let data = d.dir.join("data");
    std::fs::create_dir(&data).unwrap();
    d.client.create_pod(&on(&data, "web", "echo mine > /v/mine; while :; do sleep 1; done")).await.unwrap();
    d.sleep("web").await;
    std::fs::rename(&data, d.dir.join("away")).unwrap();
    std::os::unix::fs::symlink(&canary.0, &data).unwrap();
    let e = d.client.wake("web", &Default::default(), &mut |_| ()).await.unwrap_err();
    assert!(matches!(daemon::code(&e), "invalid_request" | "incompatible"), "{e}");
    let now = d.client.inspect("web").await.unwrap();
    assert!(matches!(now.state.as_str(), "sleeping" | "failed") && now.snapshot.is_some(), "{now:?}");
    canary.check("a volume that became a link");
    std::fs::remove_file(&data).unwrap();
    std::fs::rename(d.dir.join("away"), &data).unwrap();
    d.wake("web").await;
    assert_eq!(d.exec("web", "cat /v/mine").await.stdout, "mine\n");
}

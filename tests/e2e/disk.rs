//! The state directory's disk is full: a plain error each time, pods and the daemon go on, and all is well again
//! by itself when there is space.

use std::path::PathBuf;

use futures::StreamExt;

use crate::daemon::{self, Daemon, Options, code, counter, get, script};

/// Room for an engine's copy, an image and a few pods.
const DISK: u64 = 400 << 20;

fn with_disk(store: &std::path::Path) -> Daemon {
    // The store is on another disk: what fails is the state directory alone.
    Daemon::with(Options {
        disk: Some(DISK),
        store: Some(format!("file://{}", store.display())),
        // Its pods may have more than there is.
        config: "disk-reserve = 8388608\ndisk-overcommit = 1000\n".into(),
        ..Options::default()
    })
}

/// Fills the state directory's disk until `left` bytes are free. Removed when dropped.
struct Filler(PathBuf);

impl Filler {
    fn leave(d: &Daemon, left: u64) -> Self {
        let path = d.dir.join("state/filler");
        let file = std::fs::File::create(&path).unwrap();
        // Pods write meanwhile: what was free a moment ago may be gone.
        loop {
            let stat = nix::sys::statvfs::statvfs(&d.dir.join("state")).unwrap();
            let free = stat.blocks_available() * stat.fragment_size();
            let bytes = i64::try_from(free.saturating_sub(left)).unwrap();
            if bytes == 0 || nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, bytes).is_ok() {
                break;
            }
        }
        Filler(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_survived() {
    if !daemon::ready() {
        return;
    }
    let store = tempfile::tempdir().unwrap();
    let d = with_disk(store.path());
    d.import("test").await;
    let web = d.counter("web").await;
    let port = web.ports[0].host;
    assert_eq!(get(port, "/"), "1");
    let talk = "n=0; while true; do n=$((n+1)); echo line $n; usleep 20000; done";
    d.client.create_pod(&script("talk", talk)).await.unwrap();
    let asleep = d.counter("asleep").await;
    assert_eq!(get(asleep.ports[0].host, "/"), "1");
    d.sleep("asleep").await;
    for left in [0_u64, 64 << 10, 4 << 20] {
        let pid = d.client.inspect("web").await.unwrap().sandbox_pid;
        let filler = Filler::leave(&d, left);
        // Nothing is done that has no room, and it is said.
        let e = d.client.sleep("web", &mut |_| ()).await.unwrap_err();
        assert_eq!(code(&e), "exhausted", "{left}: {e}");
        if left < 1 << 20 {
            let tar = futures::stream::iter([Ok(bytes::Bytes::from(std::fs::read(daemon::image()).unwrap()))]);
            let e = d.client.import("other", None, tar, &mut |_| ()).await.unwrap_err();
            assert_eq!(code(&e), "exhausted", "{left}: {e}");
        }
        if let Err(e) = d.client.create_pod(&counter("new")).await {
            assert!(matches!(code(&e), "exhausted"), "{left}: {e}");
        } else {
            d.client.remove("new", true).await.unwrap();
        }
        std::fs::remove_dir_all(d.dir.join("state/cache")).unwrap();
        std::fs::create_dir(d.dir.join("state/cache")).unwrap();
        let wake = d.client.wake("asleep", &torpor::api::types::WakePod::default(), &mut |_| ()).await;
        if let Err(e) = &wake {
            assert_eq!(code(e), "exhausted", "{left}: {e}");
            let state = d.client.inspect("asleep").await.unwrap().state;
            assert_eq!(state, "sleeping", "{left}");
        }
        // What runs, runs, also when it writes to its root.
        assert_eq!(d.client.inspect("web").await.unwrap().sandbox_pid, pid, "{left}");
        let before: u64 = get(port, "/").parse().unwrap();
        d.exec("web", "dd if=/dev/zero of=/big bs=64k count=800; rm -f /big; true").await;
        assert_eq!(get(port, "/"), (before + 1).to_string(), "{left}: {}", d.log());
        drop(filler);
        crate::support::tried(5);
        assert_eq!(d.client.inspect("talk").await.unwrap().state, "running", "{left}");
        if wake.is_ok() {
            d.sleep("asleep").await;
        }
        d.sleep("web").await;
        d.wake("web").await;
        assert_eq!(get(port, "/"), (before + 2).to_string(), "{left}");
    }
    d.wake("asleep").await;
    assert_eq!(get(asleep.ports[0].host, "/"), "2");
    // Lines that came while there was no room may be missing, and then the log says so; none is doubled or out of order.
    d.exec("talk", "true").await;
    d.stop("talk").await;
    let lines: Vec<String> = d.client.logs("talk", "").await.unwrap().map(|l| l.unwrap().line).collect().await;
    let numbers: Vec<u64> = lines.iter().filter_map(|l| l.strip_prefix("line ")?.parse().ok()).collect();
    assert!(numbers.windows(2).all(|w| w[0] < w[1]), "{numbers:?}");
    assert!(numbers.len() > 20, "{lines:?}");
}

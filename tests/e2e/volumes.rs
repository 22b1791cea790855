//! Named volumes; what takes room and what of it goes.

use std::path::Path;
use std::process::Command;

use torpor::api::types::{CreatePod, VolumeSpec};

use crate::daemon::{self, Daemon, code, get, script};

fn torpor(d: &Daemon, args: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_torpor"))
        .args(args)
        .env("TORPOR_HOST", format!("unix://{}", d.socket.display()))
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

fn with_volume(name: &str, source: &str, text: &str) -> CreatePod {
    let volume = VolumeSpec { source: source.into(), target: "/data".into(), read_only: false };
    CreatePod { volumes: vec![volume], ..script(name, text) }
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_outlive_pods_and_go_only_when_nobody_uses_them() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let made = d.client.create_volume("data").await.unwrap();
    assert_eq!((made.name.as_str(), made.users.len()), ("data", 0));
    d.client.create_volume("data").await.unwrap();
    for bad in ["../x", "a/b", "", ".hidden", "a b"] {
        assert_eq!(code(&d.client.create_volume(bad).await.unwrap_err()), "invalid_request", "{bad:?}");
    }
    assert_eq!(code(&d.client.inspect_volume("nosuch").await.unwrap_err()), "not_found");
    assert_eq!(code(&d.client.remove_volume("nosuch").await.unwrap_err()), "not_found");
    let write = "dd if=/dev/zero of=/data/file bs=1M count=2; mkdir -p /data/a/b; ln -s / /data/root; sleep 1000";
    d.client.create_pod(&with_volume("web", "data", write)).await.unwrap();
    let own = d.dir.join("state/volumes/data");
    let by_path = CreatePod { start: false, ..with_volume("path", &own.display().to_string(), "true") };
    d.client.create_pod(&by_path).await.unwrap();
    while !own.join("root").is_symlink() {
        d.exec("web", "true").await;
    }
    let shown = d.client.volumes().await.unwrap();
    let mut users = shown[0].users.clone();
    users.sort();
    assert_eq!((shown.len(), users), (1, vec!["path".to_owned(), "web".to_owned()]));
    // The link leads to the host's root: it is not followed.
    assert!((2 << 20..8 << 20).contains(&shown[0].size.unwrap()), "{shown:?}");
    let e = d.client.remove_volume("data").await.unwrap_err();
    assert_eq!(code(&e), "in_use");
    assert!(e.to_string().contains("pod web") && e.to_string().contains("pod path"), "{e}");
    d.client.remove("path", true).await.unwrap();
    let snapshot = d.client.snapshot("web", &mut |_| ()).await.unwrap();
    d.sleep("web").await;
    assert_eq!(code(&d.client.remove_volume("data").await.unwrap_err()), "in_use", "who sleeps needs it");
    d.client.remove("web", true).await.unwrap();
    d.client.create_volume("spare").await.unwrap();
    // A snapshot needs its volumes.
    let (done, said) = torpor(&d, &["volume", "prune"]);
    assert_eq!(done, Some(0), "{said}");
    assert!(said.contains("spare") && own.join("file").exists() && !own.with_file_name("spare").exists(), "{said}");
    d.client.remove_snapshot(&snapshot.id).await.unwrap();
    assert!(torpor(&d, &["volume", "prune", "--filter", "until=24h"]).1.contains("0 B"));
    assert!(own.exists(), "it is too young");
    let (done, said) = torpor(&d, &["volume", "ls"]);
    assert!(done == Some(0) && said.contains("data") && said.contains("MiB"), "{said}");
    assert_eq!(torpor(&d, &["volume", "rm", "data"]), (Some(0), "data\n".into()));
    assert!(!own.exists() && Path::new("/bin/sh").exists());
    assert_eq!(std::fs::read_dir(d.dir.join("state/tmp")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_takes_what_nothing_uses_and_nothing_else() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let work = tempfile::tempdir().unwrap();
    std::fs::write(work.path().join("file"), vec![7; 1 << 20]).unwrap();
    let path = work.path().display().to_string();
    d.client.import_directory("unused", None, &path, &mut |_| ()).await.unwrap();
    let asleep = d.counter("asleep").await;
    assert_eq!(get(asleep.ports[0].host, "/"), "1");
    d.sleep("asleep").await;
    let awake = d.counter("awake").await;
    let snapshot = d.client.snapshot("awake", &mut |_| ()).await.unwrap();
    d.client.create_pod(&script("over", "true")).await.unwrap();
    d.client.wait("over").await.unwrap();
    d.client.create_pod(&with_volume("keeps", "kept", "sleep 1000")).await.unwrap();
    d.client.create_volume("loose").await.unwrap();
    let used = d.client.disk_usage().await.unwrap();
    assert_eq!((used.images.total, used.images.active, used.pods.total, used.pods.active), (2, 1, 4, 2));
    assert!(used.images.reclaimable >= 1 << 20 && used.images.reclaimable < used.images.size, "{used:?}");
    assert_eq!((used.cache.total, used.cache.active, used.volumes.total, used.volumes.active), (2, 1, 2, 1));
    assert_eq!(used.snapshots.as_ref().map(|s| (s.total, s.active)), Some((2, 1)));
    let (done, said) = torpor(&d, &["system", "df"]);
    assert!(done == Some(0) && said.contains("RECLAIMABLE"), "{said}");
    // Nothing is that old.
    let (done, said) = torpor(&d, &["image", "prune", "-a", "-f", "--filter", "until=168h"]);
    assert_eq!((done, said.as_str()), (Some(0), "Total reclaimed space: 0 B\n"));
    let (done, said) = torpor(&d, &["system", "prune", "-a", "--volumes"]);
    assert_eq!(done, Some(0), "{said}");
    for gone in ["over", "unused", "loose", snapshot.id.as_str()] {
        assert!(said.contains(gone), "{gone}: {said}");
    }
    let mut pods: Vec<String> = d.client.pods().await.unwrap().into_iter().map(|p| p.name).collect();
    pods.sort();
    assert_eq!(pods, ["asleep", "awake", "keeps"]);
    let images: Vec<String> = d.client.images().await.unwrap().into_iter().map(|i| i.name).collect();
    assert_eq!(images, ["test:latest"]);
    assert_eq!(d.client.volumes().await.unwrap().len(), 1);
    // All goes on, what was in the store too.
    d.wake("asleep").await;
    assert_eq!(get(asleep.ports[0].host, "/"), "2");
    assert_eq!(get(awake.ports[0].host, "/"), "1");
    let copy = d.client.restore_snapshot(&snapshot.id, Some("copy".into()), &mut |_| ()).await.unwrap();
    assert_eq!(get(copy.ports[0].host, "/"), "1");
    let none = torpor::api::types::system::Prune::default();
    assert_eq!(code(&d.client.prune(&none).await.unwrap_err()), "invalid_request");
    let (done, said) = torpor(&d, &["system", "info"]);
    assert_eq!(done, Some(0), "{said}");
    for shown in ["POD MEMORY", "512.0 MiB", "HEAD-ROOM", "dev.small", "MORE NOW"] {
        assert!(said.contains(shown), "{shown}: {said}");
    }
}

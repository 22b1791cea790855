//! The object store driver: one suite on a directory and on a real S3 server, and a proxy between that does what it should
//! not.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

#[path = "support/s3.rs"]
mod s3;
mod support;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use torpor::host::progress::Progress;
use torpor::host::store::{SnapshotUpload, Store, StoreConfig};
use torpor::model::{
    Code, Digest, FileImage, ImageConfig, LayerInfo, Manifest, PodId, PodRecord, PodSpec, PodState, Resources,
    RootfsMode, SnapshotId,
};

fn store(url: &str) -> Arc<Store> {
    Arc::new(Store::open(&StoreConfig { url: url.into(), allow_http: true }).unwrap())
}

/// A manifest with those files.
fn manifest(id: &SnapshotId, files: Vec<FileImage>, stored: u64) -> Manifest {
    let digest: Digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
    let spec = PodSpec {
        name: "web".parse().unwrap(),
        image: "base".parse().unwrap(),
        command: vec!["x".into()],
        entrypoint: None,
        env: Default::default(),
        resources: Resources { cpu_millis: 1000, memory: 1 << 28, pids: 100, disk: 1 << 30 },
        ports: vec![],
        volumes: vec![],
        working_dir: None,
        user: None,
        hostname: None,
        labels: Default::default(),
        ready: None,
        secrets: vec![],
        health: None,
        restart: Default::default(),
        on_shutdown: Default::default(),
        tty: false,
        auto_remove: false,
        stdin: false,
    };
    let pod = PodRecord {
        id: PodId::random().unwrap(),
        spec,
        state: PodState::Sleeping,
        incarnation: 1,
        address: "10.0.0.3".parse().unwrap(),
        forwards: vec![],
        layers: vec![digest.clone()],
        private_layers: vec![],
        init: digest.clone(),
        image_config: ImageConfig::default(),
        engine: digest.clone(),
        template: 1,
        rootfs_mode: RootfsMode::Sandbox,
        snapshot: None,
        pending: None,
        boot_id: None,
        sandbox_pid: None,
        created_at: jiff::Timestamp::now(),
        started_at: None,
        finished_at: None,
        exit_code: None,
        exit_reason: None,
        last_error: None,
        restarts: Default::default(),
        wake_at_start: false,
    };
    Manifest {
        id: id.clone(),
        created_at: jiff::Timestamp::now(),
        pod,
        layers: vec![LayerInfo { digest: digest.clone(), size: 1, compressed: 1 }],
        architecture: "x86_64".into(),
        page_size: 4096,
        engine_version: "1".into(),
        engine: digest,
        cpu_features: vec![],
        template: 1,
        size: files.iter().map(|f| f.length).sum(),
        files,
        stored,
    }
}

/// Bytes that compress a little, with holes of zeros.
fn content(seed: u32, length: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let mut bytes: Vec<u8> = (0..length)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            (x >> 16) as u8 & 0x3f
        })
        .collect();
    let hole = length / 3;
    bytes[hole..2 * hole].fill(0);
    bytes
}

fn checkpoint(dir: &Path, pages: usize) -> Vec<(&'static str, Vec<u8>)> {
    let files = vec![
        ("checkpoint.img", content(1, 300_001)),
        ("pages_meta.img", content(2, 777)),
        ("pages.img", content(3, pages)),
    ];
    std::fs::create_dir_all(dir).unwrap();
    for (name, bytes) in &files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    files
}

async fn save(store: &Arc<Store>, dir: &Path) -> torpor::model::Result<Manifest> {
    let id = SnapshotId::random().unwrap();
    let upload = SnapshotUpload::begin(store, &id, dir, Progress::default())?;
    let (files, stored) = upload.finish().await?;
    let manifest = manifest(&id, files, stored);
    store.put_manifest(&manifest).await?;
    Ok(manifest)
}

/// What any store must do.
async fn suite(url: &str) {
    let work = tempfile::tempdir().unwrap();
    let s = store(url);
    s.check().await.unwrap();
    // 70 MiB: more than one pack.
    let files = checkpoint(&work.path().join("a"), 70 << 20);
    let saved = save(&s, &work.path().join("a")).await.unwrap();
    assert!(saved.stored < saved.size * 9 / 10 && saved.files.len() == 3);
    // Another daemon on the same store.
    let other = store(url);
    let read = other.manifest(&saved.id).await.unwrap();
    assert_eq!(read, saved);
    assert_eq!(other.list().await.unwrap().len(), 1);
    let out = work.path().join("out");
    other.fetch_snapshot(&read, &out, &Progress::default()).await.unwrap();
    for (name, bytes) in &files {
        assert!(std::fs::read(out.join(name)).unwrap() == *bytes, "{name}");
    }
    // Create-only: the same manifest again is fine, another under its id is not.
    s.put_manifest(&saved).await.unwrap();
    let changed = Manifest { stored: 1, ..saved.clone() };
    assert!(s.put_manifest(&changed).await.is_err());
    assert_eq!(s.manifest(&saved.id).await.unwrap(), saved);
    // Packs without a manifest go by the sweep, others stay.
    let orphan = SnapshotId::random().unwrap();
    checkpoint(&work.path().join("b"), 4096);
    SnapshotUpload::begin(&s, &orphan, &work.path().join("b"), Progress::default()).unwrap().finish().await.unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await; // object stores tell whole seconds
    // One that is old by the clock alone stays: somebody may have set that.
    let first = s.sweep(Duration::ZERO, &BTreeSet::new()).await.unwrap();
    assert_eq!((first.removed, first.unnamed.len()), (0, 1));
    assert_eq!(s.sweep(Duration::from_secs(3600), &first.unnamed).await.unwrap().removed, 0);
    assert_eq!(s.sweep(Duration::ZERO, &first.unnamed).await.unwrap().removed, 1);
    std::fs::remove_dir_all(&out).unwrap();
    other.fetch_snapshot(&read, &out, &Progress::default()).await.unwrap();
    // Layers.
    let blob = work.path().join("blob");
    std::fs::write(&blob, content(5, 20 << 20)).unwrap();
    let digest: Digest = format!("sha256:{}", "b".repeat(64)).parse().unwrap();
    assert!(!s.has_layer(&digest).await.unwrap());
    s.put_layer(&digest, &blob, &Progress::default()).await.unwrap();
    assert!(s.has_layer(&digest).await.unwrap());
    let mut got = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut s.get_layer(&digest).await.unwrap(), &mut got).await.unwrap();
    assert!(got == std::fs::read(&blob).unwrap());
    // Gone is gone, twice too.
    for _ in 0..2 {
        s.delete(&saved.id).await.unwrap();
    }
    assert_eq!(s.manifest(&saved.id).await.unwrap_err().code(), Code::NotFound);
    assert!(s.list().await.unwrap().is_empty());
}

/// One host saves, removes and reads while others sweep all the time, one of which takes all for old that is older than a second.
async fn race(url: &str, rounds: u8) {
    let work = tempfile::tempdir().unwrap();
    let from = work.path().join("from");
    checkpoint(&from, 6 << 20);
    let s = store(url);
    let kept = save(&s, &from).await.unwrap();
    let end = tokio_util::sync::CancellationToken::new();
    let sweeps = [Duration::from_secs(3600), Duration::from_secs(1)].map(|grace| {
        let (other, end) = (store(url), end.clone());
        tokio::spawn(async move {
            // A pack is written soon: what two sweeps see, half a second apart, is nobody's.
            let (mut unnamed, mut sweeps) = (BTreeSet::new(), 0_u32);
            while !end.is_cancelled() {
                unnamed = other.sweep(grace, &unnamed).await.unwrap().unnamed;
                sweeps += 1;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            sweeps
        })
    });
    for round in 0..rounds {
        let saved = save(&s, &from).await.unwrap();
        for (which, manifest) in [("kept", &kept), ("saved", &saved)] {
            let out = work.path().join("out");
            let fetched = s.fetch_snapshot(manifest, &out, &Progress::default()).await;
            assert!(fetched.is_ok(), "round {round}, {which}: {}", fetched.unwrap_err().report());
            std::fs::remove_dir_all(&out).unwrap();
        }
        s.delete(&saved.id).await.unwrap();
    }
    end.cancel();
    for sweep in sweeps {
        assert!(sweep.await.unwrap() > 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sweeps_that_race_with_saves_remove_nothing_that_lives() {
    let dir = tempfile::tempdir().unwrap();
    race(&format!("file://{}", dir.path().display()), 25).await;
    let Some(server) = s3::Server::start() else { return };
    server.set_environment();
    race("s3://bucket/race", 25).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_a_store() {
    let dir = tempfile::tempdir().unwrap();
    suite(&format!("file://{}", dir.path().join("new/store").display())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_bucket_is_a_store() {
    let Some(server) = s3::Server::start() else { return };
    server.set_environment();
    suite("s3://bucket/some/prefix").await;
}

/// Any other store: TORPOR_TEST_STORE is its URL, and its settings are in the environment as for torpord.
#[tokio::test(flavor = "multi_thread")]
async fn the_store_that_is_named_is_a_store() {
    let Ok(url) = std::env::var("TORPOR_TEST_STORE") else {
        support::has("store", false);
        return;
    };
    suite(&url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_sent_while_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let s = store(&format!("file://{}", dir.path().join("store").display()));
    let from = dir.path().join("checkpoint");
    std::fs::create_dir(&from).unwrap();
    let id = SnapshotId::random().unwrap();
    let upload = SnapshotUpload::begin(&s, &id, &from, Progress::default()).unwrap();
    let bytes = content(9, 40 << 20);
    let mut pages = std::fs::File::create(from.join("pages.img")).unwrap();
    for part in bytes.chunks(3 << 20) {
        pages.write_all(part).unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // The first pack is there before the end is known.
    let end = Instant::now() + Duration::from_secs(20);
    let pack = dir.path().join(format!("store/v1/packs/{id}"));
    while !pack.exists() {
        assert!(Instant::now() < end, "nothing was sent before the end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::write(from.join("checkpoint.img"), b"kernel").unwrap();
    std::fs::write(from.join("pages_meta.img"), b"meta").unwrap();
    let (files, _) = upload.finish().await.unwrap();
    let pages = files.iter().find(|f| f.name == "pages.img").unwrap();
    assert_eq!(pages.length, bytes.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_cut_off_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let s = store(&format!("file://{}", dir.path().join("store").display()));
    let from = dir.path().join("checkpoint");
    checkpoint(&from, 4096 * 3 + 100);
    assert_eq!(save(&s, &from).await.unwrap_err().code(), Code::Exhausted);
    std::fs::remove_file(from.join("checkpoint.img")).unwrap();
    assert!(save(&s, &from).await.is_err());
    assert!(s.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_changed_byte_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let s = store(&format!("file://{}", root.display()));
    let from = dir.path().join("checkpoint");
    checkpoint(&from, 3 << 20);
    let saved = save(&s, &from).await.unwrap();
    let manifest = root.join(format!("v1/snapshots/{}/manifest", saved.id));
    let pack = root.join(format!("v1/packs/{}/0", saved.id));
    for file in [&manifest, &pack] {
        let good = std::fs::read(file).unwrap();
        for n in 0..40 {
            let mut bad = good.clone();
            let at = n * (bad.len() - 1) / 39;
            bad[at] ^= 1 << (n % 8);
            std::fs::write(file, &bad).unwrap();
            let out = dir.path().join("out");
            let result =
                async { s.fetch_snapshot(&s.manifest(&saved.id).await?, &out, &Progress::default()).await }.await;
            let e = result.expect_err("a changed byte");
            assert!(
                matches!(e.code(), Code::Damaged | Code::Incompatible),
                "byte {at} of {}: {}",
                file.display(),
                e.report()
            );
            let _ = std::fs::remove_dir_all(&out);
        }
        // Cut off, and gone.
        std::fs::write(file, &good[..good.len() / 2]).unwrap();
        let out = dir.path().join("out");
        let result = async { s.fetch_snapshot(&s.manifest(&saved.id).await?, &out, &Progress::default()).await }.await;
        assert!(matches!(result.unwrap_err().code(), Code::Damaged | Code::StoreUnavailable));
        let _ = std::fs::remove_dir_all(&out);
        std::fs::write(file, &good).unwrap();
    }
    std::fs::remove_file(&pack).unwrap();
    let e = s.fetch_snapshot(&saved, &dir.path().join("out"), &Progress::default()).await.unwrap_err();
    assert_eq!(e.code(), Code::Damaged, "{}", e.report());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_newer_torpor_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let url = format!("file://{}", root.display());
    store(&url).check().await.unwrap();
    let marker = root.join("torpor.json");
    let text = std::fs::read_to_string(&marker).unwrap().replace("\"minReader\":1", "\"minReader\":9");
    std::fs::write(&marker, text).unwrap();
    assert_eq!(store(&url).check().await.unwrap_err().code(), Code::Incompatible);
}

#[test]
fn urls_that_can_not_be_a_store_are_refused_and_never_shown_with_secrets() {
    for bad in ["", "x", "ftp://h/x", "s3://", "file://relative/x", "s3://user:hunter2@bucket/x"] {
        let e =
            Store::open(&StoreConfig { url: bad.into(), allow_http: false }).err().unwrap_or_else(|| panic!("{bad:?}"));
        assert_eq!(e.code(), Code::InvalidRequest, "{bad}");
        assert!(!e.report().contains("hunter2"), "{}", e.report());
    }
}

/// A store behind a proxy that will misbehave, and a checkpoint that was saved in it before.
struct Behind {
    server: s3::Server,
    proxy: s3::Proxy,
    work: tempfile::TempDir,
    from: std::path::PathBuf,
    s: Arc<Store>,
    good: Manifest,
}

impl Behind {
    async fn a_proxy() -> Option<Self> {
        let server = s3::Server::start()?;
        let proxy = s3::Proxy::start(server.port);
        proxy.set_environment();
        let work = tempfile::tempdir().unwrap();
        let from = work.path().join("checkpoint");
        checkpoint(&from, 9 << 20);
        let s = store("s3://bucket/some/prefix");
        let good = save(&s, &from).await.unwrap();
        Some(Behind { server, proxy, work, from, s, good })
    }
}

/// Faults between torpord and the server: each ends in a typed error within a bounded time, and nothing half done is seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_misbehaves_is_survived() {
    let Some(Behind { server: _server, proxy, work, from, s, good }) = Behind::a_proxy().await else { return };
    for fault in [
        s3::Fault::Refuse,
        s3::Fault::Reset(2000),
        s3::Fault::Status(500),
        s3::Fault::Status(503),
        s3::Fault::Status(403),
        s3::Fault::Status(409),
        s3::Fault::Status(412),
        s3::Fault::LateSuccess,
        s3::Fault::CutAnswer(10),
    ] {
        proxy.set(fault);
        let begun = Instant::now();
        let e = save(&s, &from).await.expect_err("a fault");
        assert_eq!(e.code(), Code::StoreUnavailable, "{fault:?}: {}", e.report());
        let read = s.manifest(&good.id).await;
        // What is shorter than the break gets through.
        let short = matches!(fault, s3::Fault::Reset(_));
        assert!(short || read.is_err_and(|e| e.code() == Code::StoreUnavailable), "{fault:?}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{fault:?} took {:?}", begun.elapsed());
        support::tried(1);
        proxy.set(s3::Fault::None);
        assert_eq!(s.list().await.unwrap().len(), 1, "{fault:?} left a visible half");
    }
    // Half of all connections fail: tried again, all gets done.
    proxy.set(s3::Fault::EverySecond);
    let again = save(&s, &from).await.unwrap();
    let out = work.path().join("out");
    s.fetch_snapshot(&again, &out, &Progress::default()).await.unwrap();
    assert!(std::fs::read(out.join("pages.img")).unwrap() == std::fs::read(from.join("pages.img")).unwrap());
}

/// What never ends is given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_says_nothing_or_crawls_is_given_up() {
    let Some(Behind { server: _server, proxy, work, s, good, .. }) = Behind::a_proxy().await else { return };
    for fault in [s3::Fault::Silence, s3::Fault::Crawl] {
        proxy.set(fault);
        let begun = Instant::now();
        let quiet = Progress::default();
        let (other, out) = (work.path().join("other"), work.path().join(format!("{fault:?}")));
        checkpoint(&other, 1 << 20);
        let (saved, fetched) = tokio::join!(save(&s, &other), s.fetch_snapshot(&good, &out, &quiet));
        assert!(fetched.is_err(), "{fault:?}: 9 MiB came");
        for e in [saved.err(), fetched.err()] {
            // A crawling store takes a small object in the end.
            let Some(e) = e else { continue };
            assert_eq!(e.code(), Code::StoreUnavailable, "{fault:?}: {}", e.report());
        }
        assert!(begun.elapsed() < Duration::from_secs(100), "{fault:?} took {:?}", begun.elapsed());
        support::tried(1);
        std::fs::remove_dir_all(&other).unwrap();
    }
}

/// Answers that are lost, cut off or changed: the right bytes, or a plain error.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_lost_or_wrong_are_never_believed() {
    let Some(Behind { server: _server, proxy, work, from, s, good }) = Behind::a_proxy().await else { return };
    for at in [0, 1000, 70_000, 1_000_000] {
        for fault in [s3::Fault::FlipAnswer(at), s3::Fault::CutAnswer(at + 400)] {
            proxy.set(fault);
            support::tried(1);
            let out = work.path().join(format!("{fault:?}"));
            match s.fetch_snapshot(&good, &out, &Progress::default()).await {
                Ok(()) => {
                    assert!(!matches!(fault, s3::Fault::FlipAnswer(_)), "{fault:?} was believed");
                    for name in ["pages.img", "checkpoint.img", "pages_meta.img"] {
                        let same = std::fs::read(out.join(name)).unwrap() == std::fs::read(from.join(name)).unwrap();
                        assert!(same, "{fault:?}: {name}");
                    }
                }
                Err(e) => {
                    let told = matches!(e.code(), Code::Damaged | Code::StoreUnavailable);
                    assert!(told, "{fault:?}: {}", e.report());
                }
            }
        }
    }
    // The manifest was written and its answer lost: the same request, made again, finds its own work.
    proxy.set(s3::Fault::None);
    let mut copy = good.clone();
    copy.id = SnapshotId::random().unwrap();
    proxy.set(s3::Fault::LateOnce);
    if let Err(e) = s.put_manifest(&copy).await {
        assert_eq!(e.code(), Code::StoreUnavailable, "{}", e.report());
        s.put_manifest(&copy).await.unwrap();
    }
    assert_eq!(s.manifest(&copy.id).await.unwrap(), copy);
}

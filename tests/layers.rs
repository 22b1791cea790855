//! Images in, layers out: what is kept, what is refused, and that nothing outside is ever touched.
#![allow(clippy::unwrap_used, reason = "tests")]

mod archives;
#[path = "support/dice.rs"]
mod dice;
#[path = "layers/merge.rs"]
mod merge;
mod support;

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use archives::{
    GZIP, Layout, Tar, ZSTD, config, device, dir, docker_save, entry, file, gzip, layer, link, symlink, zstd,
};
use torpor::host::layers::{ImportSource, Imported, Layers, Limits};
use torpor::host::progress::Progress;
use torpor::host::rootfs::{Rootfs, Roots};
use torpor::model::{Code, Error, LayerInfo, Result};

struct Place {
    _tmp: tempfile::TempDir,
    state: PathBuf,
    layers: Layers,
}

const LIMITS: Limits =
    Limits { layer_bytes: 8 << 20, layer_inodes: 2000, image_bytes: 16 << 20, upload_bytes: 32 << 20 };

fn place_with(limits: Limits) -> Place {
    let tmp = tempfile::tempdir().unwrap();
    let state = tmp.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let layers = Layers::open(&state, env!("CARGO_BIN_EXE_torpord").into(), limits).unwrap();
    Place { _tmp: tmp, state, layers }
}

fn place() -> Place {
    place_with(LIMITS)
}

impl Place {
    async fn import(&self, bytes: impl Into<Vec<u8>>) -> Result<Imported> {
        let source = ImportSource::Stream(Box::new(std::io::Cursor::new(bytes.into())));
        self.layers.import(source, &Progress::default()).await
    }
    async fn one(&self, tar: Tar) -> (LayerInfo, PathBuf) {
        let mut imported = self.import(tar.end()).await.unwrap();
        let info = imported.layers.remove(0);
        let path = self.layers.path(&info.digest);
        (info, path)
    }
    async fn refused(&self, what: &str, bytes: Vec<u8>) -> Error {
        match self.import(bytes).await {
            Ok(_) => panic!("{what} was taken"),
            Err(e) => e,
        }
    }
    /// The thread of an import that was given up cleans up on its own.
    async fn becomes_clean(&self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while std::fs::read_dir(self.state.join("tmp")).unwrap().count() > 0 {
            assert!(std::time::Instant::now() < deadline, "tmp is not cleaned");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.is_clean();
    }
    /// Where its roots are mounted.
    fn run(&self) -> PathBuf {
        self.state.join("run")
    }
    fn rootfs(&self) -> Rootfs {
        std::fs::create_dir(self.run()).unwrap();
        Rootfs::open(&self.run(), self.layers.clone()).unwrap()
    }
    /// Nothing half made is left.
    fn is_clean(&self) {
        assert_eq!(std::fs::read_dir(self.state.join("tmp")).unwrap().count(), 0, "something is left in tmp");
        let layers = std::fs::read_dir(self.state.join("layers")).unwrap().count();
        let blobs = std::fs::read_dir(self.state.join("blobs")).unwrap().count();
        assert_eq!(layers, 2 * blobs);
        assert_eq!(blobs, self.layers.list().unwrap().len());
    }
}

fn is_whiteout(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0_u8; 256];
    let n = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    Some(value[..n].to_vec())
}

fn opaque(path: &Path) -> bool {
    xattr(path, "trusted.overlay.opaque").is_some_and(|v| v == b"y")
}

#[tokio::test]
async fn everything_about_a_file_is_kept() {
    if !support::root() {
        return;
    }
    let place = place();
    let long = "d/".to_owned() + &"n".repeat(200);
    let tar = Tar::of([
        dir("./").mode(0o711).owner(5, 6),
        dir("d").mode(0o1777).owner(1000, 2000),
        file("d/suid", "x").mode(0o6755).owner(1000, 42),
        file("d/big", vec![7; 100_000]).pax("mtime", "1234567890.5"),
        file("d/cap", "c").pax("SCHILY.xattr.security.capability", b"\x01\0\0\x02\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        file("d/attr", "a").pax("SCHILY.xattr.user.x", b"a\nb\0c=d").pax("SCHILY.xattr.security.selinux", "label"),
        link("d/hard", "./d/big"),
        symlink("d/abs", "/etc/passwd").owner(7, 8),
        symlink("lib", "d"),
        file("lib/through", "inside"),
        entry("d/fifo", b'6').mode(0o620).owner(1, 2),
        file(&long, "long"),
        file("new\nline", "n"),
        file("only/parents", "p"),
        file("d/old", "old"),
        file("d/old", "new"),
        entry("owner", b'0').pax("uid", "3000000000").pax("gid", "9"),
    ]);
    let (info, root) = place.one(tar).await;
    let meta = |p: &str| std::fs::symlink_metadata(root.join(p)).unwrap();
    assert_eq!((meta("").mode() & 0o7777, meta("").uid(), meta("").gid()), (0o711, 5, 6));
    assert_eq!((meta("d").mode() & 0o7777, meta("d").uid(), meta("d").mtime()), (0o1777, 1000, 1_000_000));
    assert_eq!((meta("d/suid").mode() & 0o7777, meta("d/suid").uid(), meta("d/suid").gid()), (0o6755, 1000, 42));
    assert_eq!(
        (meta("d/big").mtime(), meta("d/big").mtime_nsec(), meta("d/big").nlink()),
        (1_234_567_890, 500_000_000, 2)
    );
    assert_eq!(meta("d/hard").ino(), meta("d/big").ino());
    assert_eq!(xattr(&root.join("d/cap"), "security.capability").unwrap().len(), 20);
    assert_eq!(xattr(&root.join("d/attr"), "user.x").unwrap(), b"a\nb\0c=d");
    assert_eq!(std::fs::read_link(root.join("d/abs")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!((meta("d/abs").uid(), meta("d/abs").gid(), meta("d/abs").mtime()), (7, 8, 1_000_000));
    assert_eq!(std::fs::read(root.join("d/through")).unwrap(), b"inside");
    assert!(meta("d/fifo").file_type().is_fifo() && meta("d/fifo").mode() & 0o7777 == 0o620);
    assert_eq!((meta("d/fifo").uid(), meta("d/fifo").mtime()), (1, 1_000_000));
    assert_eq!(std::fs::read(root.join(&long)).unwrap(), b"long");
    assert!(root.join("new\nline").exists());
    assert_eq!((meta("only").mode() & 0o7777, meta("only").uid()), (0o755, 0));
    assert_eq!(std::fs::read(root.join("d/old")).unwrap(), b"new");
    assert_eq!((meta("owner").uid(), meta("owner").gid()), (3_000_000_000, 9));
    assert!(info.size >= 100_000 && info.compressed > 0);
    assert_eq!(place.layers.info(&info.digest).unwrap(), info);
    place.is_clean();
}

#[tokio::test]
async fn the_last_of_several_entries_of_one_name_wins() {
    if !support::root() {
        return;
    }
    let place = place();
    let tar = Tar::of([
        file("a", "file"),
        dir("a").mode(0o700),
        file("a/b/c", "deep"),
        file("b", "target"),
        symlink("a", "b"),
        symlink("l", "x"),
        dir("l").mode(0o777),
        dir("x").mode(0o700),
        file("h", "h"),
        link("h", "h"),
        file("again", "1"),
        link("again", "h"),
    ]);
    let (_, root) = place.one(tar).await;
    assert_eq!(std::fs::read(root.join("a")).unwrap(), b"target");
    let l = std::fs::symlink_metadata(root.join("l")).unwrap();
    assert!(l.is_dir() && l.mode() & 0o777 == 0o777);
    assert_eq!(std::fs::metadata(root.join("x")).unwrap().mode() & 0o777, 0o700);
    assert_eq!(std::fs::read(root.join("again")).unwrap(), b"h");
}

#[tokio::test]
async fn sparse_files_of_every_kind() {
    if !support::root() {
        return;
    }
    let place = place();
    let data = vec![b'x'; 512];
    let mut map = b"2\n1024\n512\n4096\n0\n".to_vec();
    map.resize(512, 0);
    let one = file("one", [map, data.clone()].concat())
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", "one-real")
        .pax("GNU.sparse.realsize", "4096");
    let zero_one = file("zero-one", &data).pax("GNU.sparse.size", "4096").pax("GNU.sparse.map", "1024,512,4096,0");
    // The old GNU format: its map stands in the header.
    let old = archives::Entry { body: data.clone(), ..entry("old", b'S') };
    let mut header = archives::header(&old);
    header[257..265].copy_from_slice(b"ustar  \0");
    header[345..512].fill(0);
    for (at, value) in [(386, 1024), (398, 512), (410, 4096), (422, 0), (483, 4096)] {
        header[at..at + 12].copy_from_slice(format!("{value:011o}\0").as_bytes());
    }
    archives::checksum(&mut header);
    let tar = Tar::of([one, zero_one]).bytes(&header).bytes(&data).add(file("after", "x"));
    let (info, root) = place.one(tar).await;
    for name in ["one-real", "zero-one", "old"] {
        let bytes = std::fs::read(root.join(name)).unwrap();
        assert_eq!(bytes.len(), 4096, "{name}");
        assert_eq!(bytes[1024..1536], data[..], "{name}");
        assert!(bytes[..1024].iter().chain(&bytes[1536..]).all(|b| *b == 0), "{name}");
    }
    assert!(root.join("after").exists() && !root.join("one").exists());
    assert_eq!(info.size, 3 * 4096 + 1);
}

#[tokio::test]
async fn whiteouts_hide_lower_layers_and_nothing_of_their_own() {
    if !support::root() {
        return;
    }
    let place = place();
    let lower = Tar::of([
        file("gone", "1"),
        file("dir/a", "1"),
        file("dir/b", "1"),
        file("opq/a", "1"),
        file("again/a", "1"),
        file("both/a", "1"),
        file("char", "1"),
        file("char2", "1"),
        file("runsc/a", "1"),
        file("implied/a", "1"),
        file("kept", "1"),
    ]);
    let upper = Tar::of([
        entry(".wh.gone", b'0'),
        entry("dir/.wh.a", b'0'),
        file("opq/new", "2"),
        entry("opq/.wh..wh..opq", b'0'),
        // Removed, then made anew: what it held before must not shine through.
        entry(".wh.again", b'0'),
        file("again/b", "2"),
        file("both/b", "2"),
        entry(".wh.both", b'0'),
        device("char", b'3', 0, 0),
        link("char2", "char"),
        dir("runsc").pax("SCHILY.xattr.trusted.overlay.opaque", "y"),
        entry(".wh.implied", b'0'),
        dir("implied"),
        entry(".wh..wh.plnk", b'0'),
        entry(".wh.never-there", b'0'),
    ]);
    let (lower, _) = place.one(lower).await;
    let (upper, root) = place.one(upper).await;
    for name in ["gone", "dir/a", "char", "char2", "never-there"] {
        assert!(is_whiteout(&root.join(name)), "{name}");
    }
    for name in ["opq", "again", "both", "runsc", "implied"] {
        assert!(opaque(&root.join(name)), "{name}");
    }
    assert!(!opaque(&root.join("dir")));
    let rootfs = place.rootfs();
    let mount = Mounted(&rootfs, "ab12");
    let path = rootfs.ensure(mount.1, &[lower.digest.clone(), upper.digest.clone()]).await.unwrap();
    let mut seen = Vec::new();
    walk(&path, &path, &mut seen);
    assert_eq!(
        seen,
        ["again", "again/b", "both", "both/b", "dir", "dir/b", "implied", "kept", "opq", "opq/new", "runsc"]
    );
    assert_eq!(rootfs.list().unwrap(), ["ab12"]);
    assert!(std::fs::write(path.join("x"), "x").is_err(), "the root is read-only");
    assert_eq!(rootfs.ensure(mount.1, &[lower.digest, upper.digest]).await.unwrap(), path);
    drop(mount);
    rootfs.remove("ab12").await.unwrap();
    rootfs.remove("ab12").await.unwrap();
    assert!(rootfs.list().unwrap().is_empty());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(place.run().to_str().unwrap()), "a mount is left");
}

/// Unmounted whatever happens.
struct Mounted<'a>(&'a Rootfs, &'a str);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = futures::executor::block_on(self.0.remove(self.1));
    }
}

fn walk(top: &Path, dir: &Path, seen: &mut Vec<String>) {
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    for path in names {
        seen.push(path.strip_prefix(top).unwrap().to_str().unwrap().to_owned());
        if path.is_dir() {
            walk(top, &path, seen);
        }
    }
}

#[tokio::test]
async fn a_layer_that_hides_all_below_it_and_a_root_of_many_layers() {
    if !support::root() {
        return;
    }
    let place = place();
    let rootfs = place.rootfs();
    let (lower, _) = place.one(Tar::of([file("hidden", "1")])).await;
    let (upper, root) = place.one(Tar::of([entry(".wh..wh..opq", b'0'), file("seen", "1")])).await;
    assert!(opaque(&root));
    let mount = Mounted(&rootfs, "aa");
    let path = rootfs.ensure(mount.1, &[lower.digest.clone(), upper.digest.clone()]).await.unwrap();
    let mut seen = Vec::new();
    walk(&path, &path, &mut seen);
    assert_eq!(seen, ["seen"]);
    drop(mount);
    let mut many = Vec::new();
    for n in 0..100 {
        many.push(place.one(Tar::of([file(format!("f{n}"), "1")])).await.0.digest);
    }
    let mount = Mounted(&rootfs, "bb");
    let path = rootfs.ensure(mount.1, &many).await.unwrap();
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 100);
    drop(mount);
    // One that comes again is one.
    let mut too_many = many.clone();
    too_many.extend(many);
    let mount = Mounted(&rootfs, "ee");
    let path = rootfs.ensure(mount.1, &too_many).await.unwrap();
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 100);
    drop(mount);
    for n in 100..121 {
        too_many.push(place.one(Tar::of([file(format!("f{n}"), "1")])).await.0.digest);
    }
    assert_eq!(rootfs.ensure("cc", &too_many).await.unwrap_err().code(), Code::Exhausted);
    assert!(rootfs.ensure("../x", &too_many).await.is_err());
    let missing = torpor::host::layers::digest_of(["missing"].into_iter());
    assert_eq!(rootfs.ensure("dd", &[missing]).await.unwrap_err().code(), Code::Damaged);
    assert!(rootfs.list().unwrap().is_empty());
}

#[tokio::test]
async fn many_small_layers_are_not_larger_than_an_image_may_be() {
    let place = place();
    let layers: Vec<_> =
        (0..4).map(|n: u8| layer(&Tar::of([file(format!("f{n}"), vec![n; 6 << 20])]).end(), gzip, GZIP)).collect();
    let e = place.refused("an image of 24 MiB", Layout::new(&layers).tar()).await;
    assert!(e.code() == Code::TooLarge && e.report().contains("the image is larger"), "{}", e.report());
    place.import(Layout::new(&layers[..2]).tar()).await.unwrap();
}

#[tokio::test]
async fn oci_layouts_and_docker_archives() {
    if !support::root() {
        return;
    }
    let place = place();
    let first = Tar::of([dir("bin"), file("bin/app", "app")]).end();
    let second = Tar::of([file("etc/x", "x")]).end();
    let third = Tar::of([file("third", "x")]).end();
    let layers = || {
        [
            layer(&first, gzip, GZIP),
            layer(&second, zstd, ZSTD),
            layer(&third, <[u8]>::to_vec, "application/vnd.oci.image.layer.v1.tar"),
        ]
    };
    let layout = Layout::new(&layers());
    let imported = place.import(layout.tar()).await.unwrap();
    assert_eq!(imported.layers.len(), 3);
    let c = imported.config.clone().unwrap();
    assert_eq!((c.entrypoint, c.cmd), (vec!["/bin/app".to_owned()], vec!["serve".to_owned()]));
    assert_eq!((c.working_dir.as_str(), c.user.as_str(), c.stop_signal.as_str()), ("/srv", "1000:1000", "SIGINT"));
    assert_eq!((c.env.len(), c.labels["team"].as_str()), (2, "x"));
    // The same once more, compressed as a whole, as a directory, and as docker had it: no layer is made anew.
    let inode = |i: &Imported| std::fs::metadata(place.layers.path(&i.layers[0].digest)).unwrap().ino();
    let before = inode(&imported);
    for bytes in [gzip(&layout.tar()), zstd(&layout.tar()), docker_save(&layers(), &config(&layers()))] {
        let again = place.import(bytes).await.unwrap();
        assert_eq!((&again.layers, inode(&again), &again.config), (&imported.layers, before, &imported.config));
    }
    let on_disk = place.state.join("layout");
    for (name, body) in &layout.0 {
        let path = on_disk.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, body).unwrap();
    }
    let again = place.layers.import(ImportSource::Directory(on_disk), &Progress::default()).await.unwrap();
    assert_eq!(again.layers, imported.layers);
    place.is_clean();
}

#[tokio::test]
async fn an_image_for_this_machine_is_picked() {
    if !support::root() {
        return;
    }
    let place = place();
    let mine = Layout::new(&[layer(&Tar::of([file("mine", "x")]).end(), gzip, GZIP)]);
    let other = Layout::new(&[layer(&Tar::of([file("other", "x")]).end(), gzip, GZIP)]);
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let of = |l: &Layout, os: &str, arch: &str| {
        let mut d = l.index()["manifests"][0].clone();
        d["platform"] = serde_json::json!({"os": os, "architecture": arch});
        d
    };
    let mut nested = serde_json::json!({"schemaVersion": 2, "manifests": [
        of(&other, "linux", "s390x"), of(&other, "unknown", "unknown"), of(&mine, "linux", arch)]});
    let mut files: Vec<_> = mine.0.iter().chain(&other.0).filter(|(n, _)| n.starts_with("blobs/")).cloned().collect();
    files.push(mine.0[0].clone());
    let with = |files: &[(String, Vec<u8>)], depth: usize, top: &serde_json::Value| {
        let (mut files, mut top) = (files.to_vec(), top.clone());
        for _ in 0..depth {
            let bytes = top.to_string().into_bytes();
            let digest = archives::hex(&bytes);
            let size = bytes.len();
            files.push((format!("blobs/sha256/{digest}"), bytes));
            top = serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType":
                "application/vnd.oci.image.index.v1+json", "digest": format!("sha256:{digest}"), "size": size}]});
        }
        files.push(("index.json".into(), top.to_string().into_bytes()));
        let mut seen = std::collections::BTreeSet::new();
        files.retain(|(n, _)| seen.insert(n.clone()));
        Layout(files).tar()
    };
    for depth in [0, 1, 2] {
        let imported = place.import(with(&files, depth, &nested)).await.unwrap();
        assert!(place.layers.path(&imported.layers[0].digest).join("mine").exists());
    }
    assert_eq!(place.refused("nested too deep", with(&files, 9, &nested)).await.code(), Code::BadArchive);
    nested["manifests"].as_array_mut().unwrap().pop();
    assert_eq!(place.refused("another machine's", with(&files, 0, &nested)).await.code(), Code::BadArchive);
    place.is_clean();
}

#[tokio::test]
async fn blobs_go_to_the_store_and_come_back() {
    if !support::root() {
        return;
    }
    let (here, there) = (place(), place());
    let (info, _) = here.one(Tar::of([file("a", vec![1; 50_000]), entry(".wh.b", b'0')])).await;
    let blob = std::fs::read(here.layers.blob(&info.digest)).unwrap();
    let got = there.layers.import_blob(&info.digest, std::io::Cursor::new(blob.clone())).await.unwrap();
    assert_eq!((got.digest.clone(), got.size), (info.digest.clone(), info.size));
    assert!(is_whiteout(&there.layers.path(&info.digest).join("b")));
    // Another layer's bytes, cut off ones, none.
    let (other, _) = here.one(Tar::of([file("c", "c")])).await;
    for bytes in [blob[..blob.len() / 2].to_vec(), blob.clone(), Vec::new(), vec![0; 1024]] {
        let e = there.layers.import_blob(&other.digest, std::io::Cursor::new(bytes)).await.unwrap_err();
        assert_eq!(e.code(), Code::Damaged, "{}", e.report());
        assert!(!there.layers.has(&other.digest));
    }
    there.is_clean();
    let hold = there.layers.hold();
    there.layers.remove(&info.digest).await.unwrap();
    assert!(there.layers.has(&info.digest), "held");
    drop(hold);
    there.layers.remove(&info.digest).await.unwrap();
    there.layers.remove(&info.digest).await.unwrap();
    assert!(!there.layers.has(&info.digest) && there.layers.list().unwrap().is_empty());
    assert_eq!(there.layers.info(&info.digest).unwrap_err().code(), Code::NotFound);
    there.is_clean();
}

#[tokio::test]
async fn a_directory_is_always_the_same_layer() {
    if !support::root() {
        return;
    }
    let place = place();
    let source = place.state.join("source");
    std::fs::create_dir_all(source.join("z/y")).unwrap();
    std::fs::write(source.join("z/f"), "f").unwrap();
    std::fs::hard_link(source.join("z/f"), source.join("a")).unwrap();
    std::os::unix::fs::symlink("/nowhere", source.join("l")).unwrap();
    std::fs::write(source.join("z").join("n".repeat(250)), "n").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    rustix::fs::lsetxattr(source.join("z/f"), "user.k", b"v\nw", rustix::fs::XattrFlags::empty()).unwrap();
    std::os::unix::fs::chown(source.join("z/y"), Some(77), Some(88)).unwrap();
    let nobody = Progress::default();
    let import = || place.layers.import(ImportSource::Directory(source.clone()), &nobody);
    let (one, two) = (import().await.unwrap(), import().await.unwrap());
    assert_eq!(one.layers, two.layers);
    assert!(one.config.is_none());
    let root = place.layers.path(&one.layers[0].digest);
    let mut seen = Vec::new();
    walk(&root, &root, &mut seen);
    let long = format!("z/{}", "n".repeat(250));
    assert_eq!(seen, ["a", "l", "z", "z/f", &long, "z/y"]);
    assert_eq!(xattr(&root.join("a"), "user.k").unwrap(), b"v\nw");
    let y = std::fs::metadata(root.join("z/y")).unwrap();
    assert_eq!((y.uid(), y.gid(), y.mtime()), (77, 88, std::fs::metadata(source.join("z/y")).unwrap().mtime()));
    assert_eq!(std::fs::metadata(root.join("a")).unwrap().nlink(), 2);
    std::fs::write(source.join(".wh.x"), "").unwrap();
    assert!(import().await.is_err());
    for bad in ["relative", "/nonexistent-directory", "/etc/passwd"] {
        assert!(place.layers.import(ImportSource::Directory(bad.into()), &Progress::default()).await.is_err(), "{bad}");
    }
    place.is_clean();
}

#[tokio::test]
async fn init_and_a_saved_root() {
    if !support::root() {
        return;
    }
    let place = place();
    let program = place.state.join("init");
    std::fs::write(&program, "program").unwrap();
    let one = place.layers.add_init(&program).await.unwrap();
    assert_eq!(place.layers.add_init(&program).await.unwrap(), one);
    let root = place.layers.path(&one.digest);
    assert_eq!(std::fs::metadata(root.join(".torpor/init")).unwrap().mode() & 0o7777, 0o555);
    assert_eq!(std::fs::metadata(root.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    assert!(root.join("run/secrets").is_dir());
    let upper = place.state.join("upper.tar");
    std::fs::write(&upper, Tar::of([dir("./"), dir("./etc/"), file("./etc/hosts", "h")]).end()).unwrap();
    assert!(place.layers.save_upper(&upper).await.unwrap().is_none());
    let changed = Tar::of([dir("./"), device("./a", b'3', 0, 0), link("./b", "./a"), file("./c", "c")]).end();
    std::fs::write(&upper, &changed).unwrap();
    let saved = place.layers.save_upper(&upper).await.unwrap().unwrap();
    let root = place.layers.path(&saved.digest);
    assert!(is_whiteout(&root.join("a")) && is_whiteout(&root.join("b")) && root.join("c").exists());
    std::fs::write(&upper, &changed[..changed.len() - 1536]).unwrap();
    assert!(place.layers.save_upper(&upper).await.is_err(), "cut off");
    place.is_clean();
}

#[tokio::test]
async fn what_is_given_up_leaves_nothing_and_what_a_crash_left_goes_at_start() {
    if !support::root() {
        return;
    }
    let place = place();
    let big = Tar::of([file("big", vec![9; 4 << 20])]).end();
    // The source falls silent half-way through: the caller gives up.
    let (mut feed, source) = tokio::io::duplex(1 << 16);
    let nobody = Progress::default();
    let import = place.layers.import(ImportSource::Stream(Box::new(source)), &nobody);
    let given_up = tokio::time::timeout(Duration::from_millis(300), async {
        let write = tokio::io::AsyncWriteExt::write_all(&mut feed, &big[..1 << 20]);
        tokio::join!(import, async { write.await.unwrap() })
    });
    assert!(given_up.await.is_err());
    place.becomes_clean().await;
    // The worker never reads: its caller gives up while it is being fed.
    let stuck = place.state.join("stuck");
    std::fs::write(&stuck, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&stuck, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let layers = Layers::open(&place.state, stuck, LIMITS).unwrap();
    let source = ImportSource::Stream(Box::new(std::io::Cursor::new(big)));
    let given_up = tokio::time::timeout(Duration::from_millis(300), layers.import(source, &nobody));
    assert!(given_up.await.is_err());
    place.becomes_clean().await;
    // A crash: half made things of every kind.
    let (info, _) = place.one(Tar::of([file("a", "a")])).await;
    let hex = "0".repeat(64);
    std::fs::create_dir_all(place.state.join("layers").join(&hex).join("x")).unwrap();
    std::fs::write(place.state.join("blobs").join(format!("{hex}.tar.zst")), "x").unwrap();
    std::fs::create_dir_all(place.state.join("tmp/layer-abc/root")).unwrap();
    std::fs::write(place.state.join("layers").join(format!("{}.json", "1".repeat(64))), "{}").unwrap();
    let again = Layers::open(&place.state, env!("CARGO_BIN_EXE_torpord").into(), LIMITS).unwrap();
    assert_eq!(again.list().unwrap(), [info]);
    place.is_clean();
}

#[tokio::test]
async fn the_same_layer_from_many_sides_at_once() {
    if !support::root() {
        return;
    }
    let place = place();
    let tar = Tar::of((0..50).map(|n| file(format!("f{n}"), vec![n; 1000]))).end();
    let all = futures::future::join_all((0..6).map(|_| place.import(tar.clone()))).await;
    let layers: Vec<_> = all.into_iter().map(|r| r.unwrap().layers).collect();
    assert!(layers.windows(2).all(|w| w[0] == w[1]));
    assert_eq!(place.layers.list().unwrap().len(), 1);
    place.is_clean();
}

/// What the process that unpacks could do if a tar took it over.
#[tokio::test]
async fn the_worker_can_reach_nothing() {
    if !support::root() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let mut worker = std::process::Command::new(env!("CARGO_BIN_EXE_torpord"))
        .args(["unpack-worker", "1000000", "100", "1"])
        .current_dir(tmp.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // It is confined once it has unpacked something.
    let tar = Tar::of([file("a", "x"), file("b", "x")]).end();
    std::io::Write::write_all(worker.stdin.as_mut().unwrap(), &tar[..1024]).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !tmp.path().join("a").exists() {
        assert!(std::time::Instant::now() < deadline, "nothing is unpacked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let of = |what: &str| format!("/proc/{}/{what}", worker.id());
    let status = std::fs::read_to_string(of("status")).unwrap();
    let line = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP
    let kept = format!("{:016x}", 0b11_011_u64 | 1 << 31);
    assert_eq!([line("CapEff:"), line("CapPrm:")], [kept.clone(), kept]);
    for none in ["CapBnd:", "CapInh:", "CapAmb:"] {
        assert_eq!(line(none), "0000000000000000", "{none}");
    }
    assert_eq!(line("NoNewPrivs:"), "1");
    let mounts = std::fs::read_to_string(of("mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    let seen: Vec<_> = std::fs::read_dir(of("root")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(seen, ["a"]);
    for space in ["ns/mnt", "ns/net", "ns/ipc", "ns/uts"] {
        let own = std::fs::read_link(Path::new("/proc/self").join(space)).unwrap();
        assert_ne!(std::fs::read_link(of(space)).unwrap(), own, "{space}");
    }
    let limits = std::fs::read_to_string(of("limits")).unwrap();
    assert!(limits.lines().any(|l| l.starts_with("Max open files") && l.contains(" 64 ")), "{limits}");
    std::io::Write::write_all(worker.stdin.as_mut().unwrap(), &tar[1024..]).unwrap();
    let out = worker.wait_with_output().unwrap();
    assert!(out.status.success());
    assert_eq!(out.stdout, b"2");
}

/// A sandbox that goes whatever happens.
struct Sandbox {
    runsc: PathBuf,
    dir: PathBuf,
    id: String,
}

impl Sandbox {
    fn run(&self, args: &[&str]) -> std::process::ExitStatus {
        std::process::Command::new("timeout")
            .arg("60")
            .arg(&self.runsc)
            .arg("--root")
            .arg(self.dir.join("r"))
            .args(["--network=none", "--ignore-cgroups"])
            .arg(format!("--overlay2=root:dir={}", self.dir.join("d").display()))
            .args(args)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::fs::File::create(self.dir.join("err")).unwrap())
            .status()
            .unwrap()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.run(&["delete", "--force", &self.id]);
        let _ = nix::mount::umount2(&self.dir.join("r/null-netns"), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn what_runsc_writes_of_a_root_is_a_layer() {
    let (true, Some(runsc)) = (support::root(), support::runsc()) else { return };
    let busybox = Path::new("/bin/busybox");
    if !support::has("busybox", busybox.is_file()) {
        return;
    }
    let place = place();
    let dir = place.state.join("sandbox");
    for d in ["rootfs/bin", "rootfs/old/sub", "d", "r"] {
        std::fs::create_dir_all(dir.join(d)).unwrap();
    }
    std::fs::copy(busybox, dir.join("rootfs/bin/busybox")).unwrap();
    for f in ["old/a", "gone1", "gone2", "kept"] {
        std::fs::write(dir.join("rootfs").join(f), "1").unwrap();
    }
    let script = "cd /; b=/bin/busybox; $b rm -r old; $b mkdir old; echo 2 >old/new; $b chmod 4711 old/new; \
                  $b rm gone1 gone2; $b ln -s /x link; $b ln old/new hard; echo x >'new\nline'; $b mkfifo fifo; \
                  $b touch done; exec $b sleep 1000";
    let caps = serde_json::json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"]);
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/busybox", "sh", "-c", script],
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps}},
        "root": {"path": dir.join("rootfs")},
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let id = format!("layers-{}", std::process::id());
    let sandbox = Sandbox { runsc, dir: dir.clone(), id: id.clone() };
    let started = sandbox.run(&["run", "-detach", "-bundle", dir.to_str().unwrap(), &id]);
    assert!(started.success(), "{}", std::fs::read_to_string(dir.join("err")).unwrap());
    let upper = dir.join("upper.tar");
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    let saved = loop {
        let _ = std::fs::remove_file(&upper);
        assert!(sandbox.run(&["tar", "rootfs-upper", "-file", upper.to_str().unwrap(), &id]).success());
        let saved = place.layers.save_upper(&upper).await.unwrap().unwrap();
        if place.layers.path(&saved.digest).join("done").exists() {
            break saved;
        }
        assert!(std::time::Instant::now() < deadline, "the script does not end");
    };
    drop(sandbox);
    let source = ImportSource::Directory(dir.join("rootfs"));
    let below = place.layers.import(source, &Progress::default()).await.unwrap().layers.remove(0);
    let rootfs = Rootfs::open(&dir, place.layers.clone()).unwrap();
    let mount = Mounted(&rootfs, "ef");
    let path = rootfs.ensure(mount.1, &[below.digest, saved.digest.clone()]).await.unwrap();
    let old: Vec<_> = std::fs::read_dir(path.join("old")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(old, ["new"]);
    let new = std::fs::metadata(path.join("old/new")).unwrap();
    assert_eq!((new.mode() & 0o7777, new.nlink()), (0o4711, 2));
    for gone in ["gone1", "gone2", "old/a", "old/sub"] {
        assert!(!path.join(gone).exists(), "{gone}");
    }
    for there in ["kept", "hard", "new\nline", "bin/busybox"] {
        assert!(path.join(there).exists(), "{there}");
    }
    assert!(path.join("fifo").metadata().unwrap().file_type().is_fifo());
    assert_eq!(std::fs::read_link(path.join("link")).unwrap(), Path::new("/x"));
    drop(mount);
}

//! Archives of strangers who mean harm. Each is refused, or taken harmlessly; a tree outside never changes.
#![allow(clippy::unwrap_used, reason = "tests")]

mod archives;
mod support;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use archives::{
    Entry, GZIP, Layout, Tar, config, device, dir, docker_save, entry, file, gzip, header, layer, link, record,
    symlink, zstd,
};
use torpor::host::layers::{ImportSource, Layers, Limits};
use torpor::host::progress::Progress;
use torpor::model::Code;

const LIMITS: Limits = Limits { layer_bytes: 4 << 20, layer_inodes: 500, upload_bytes: 16 << 20 };

/// What must never change.
struct Canary(PathBuf, Vec<String>);

impl Canary {
    fn new(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        std::fs::create_dir(path.join("dir")).unwrap();
        std::fs::write(path.join("file"), "alive").unwrap();
        std::fs::write(path.join("dir/file"), "alive").unwrap();
        let seen = Self::look(&path);
        Canary(path, seen)
    }
    fn look(dir: &Path) -> Vec<String> {
        let mut seen = Vec::new();
        for path in [dir.to_owned(), dir.join("dir"), dir.join("file"), dir.join("dir/file")] {
            let m = std::fs::symlink_metadata(&path).unwrap();
            let body = std::fs::read(&path).unwrap_or_default();
            let count = std::fs::read_dir(&path).map_or(0, Iterator::count);
            seen.push(format!(
                "{path:?} {} {:o} {} {} {} {:?} {body:?} {count}",
                m.ino(),
                m.mode(),
                m.uid(),
                m.gid(),
                m.nlink(),
                m.modified().unwrap()
            ));
        }
        seen
    }
    fn check(&self, what: &str) {
        assert_eq!(Self::look(&self.0), self.1, "{what} changed what lies outside");
    }
}

/// An archive: refused with that code, or taken if there is none.
type Case = (&'static str, Vec<u8>, Option<Code>);

fn bad(what: &'static str, tar: Tar) -> Case {
    (what, tar.end(), Some(Code::BadArchive))
}
fn raw(what: &'static str, bytes: Vec<u8>) -> Case {
    (what, bytes, Some(Code::BadArchive))
}
fn harmless(what: &'static str, tar: Tar) -> Case {
    (what, tar.end(), None)
}

fn paths(canary: &str) -> Vec<Case> {
    let up = "../".repeat(30);
    vec![
        bad("an absolute path", Tar::of([file(format!("{canary}/pwn"), "x")])),
        bad("an absolute directory", Tar::of([dir(canary).mode(0o777)])),
        bad("a climbing path", Tar::of([file(format!("{up}{canary}/pwn"), "x")])),
        bad("a path that climbs in the middle", Tar::of([dir("a"), file("a/../../pwn", "x")])),
        bad("a path of dots", Tar::of([file("..", "x")])),
        bad("a climbing directory", Tar::of([dir("../x")])),
        bad("a climbing whiteout", Tar::of([entry(format!("{up}{canary}/.wh.file"), b'0')])),
        bad("an empty path", Tar::of([file("", "x")])),
        bad("the root as a file", Tar::of([file("./.", "x")])),
        bad("the root as a link", Tar::of([symlink("./", canary)])),
        bad("a name of 256 bytes", Tar::of([file("n".repeat(256), "x")])),
        bad("a path of 5000 bytes", Tar::of([file("n/".repeat(2500) + "f", "x")])),
        bad("a path 300 deep", Tar::of([file("n/".repeat(300) + "f", "x")])),
        bad("a NUL in a PAX path", Tar::of([file("x", "x").pax("path", "a\0b")])),
        bad("a NUL in a target", Tar::of([symlink("x", "t").pax("linkpath", "a\0b")])),
        bad("a target without end", Tar::of([symlink("x", "t".repeat(5000))])),
        bad("a target of nothing", Tar::of([symlink("x", "")])),
        harmless("a newline and escapes in a name", Tar::of([file("a\n\x1b[2Jb", "x")])),
        harmless("a name that is no UTF-8", Tar::of([file(b"\xff\xfe", "x")])),
        bad("a file below a file", Tar::of([file("a", "x"), file("a/b", "x")])),
        bad("a file below a link to nothing", Tar::of([symlink("a", "nowhere"), file("a/b", "x")])),
        bad("a loop of links", Tar::of([symlink("a", "b"), symlink("b", "a"), file("a/x", "x")])),
        bad("a file with a directory's name", Tar::of([file("a/", "x")])),
    ]
}

fn links(canary: &str) -> Vec<Case> {
    let up = "../".repeat(30);
    let relative = format!("{up}{}", &canary[1..]);
    let hex = canary.trim_start_matches('/');
    vec![
        bad("a file through a link (CVE-2026-46703)", Tar::of([symlink("e", canary), file("e/pwn", "x")])),
        bad("a file through a relative link", Tar::of([symlink("e", &relative), file("e/pwn", "x")])),
        bad(
            "a chain of links",
            Tar::of([symlink("a", "b"), symlink("b", "c"), symlink("c", canary), file("a/pwn", "x")]),
        ),
        bad("a link out of a directory", Tar::of([dir("d"), symlink("d/e", &relative), file("d/e/file", "x")])),
        bad("a directory through a link", Tar::of([symlink("e", canary), dir("e/new")])),
        bad("a whiteout through a link", Tar::of([symlink("e", canary), entry("e/.wh.file", b'0')])),
        bad("an opaque mark through a link", Tar::of([symlink("e", canary), entry("e/.wh..wh..opq", b'0')])),
        bad("a link through a link", Tar::of([symlink("e", canary), symlink("e/new", "x")])),
        bad("a pipe through a link", Tar::of([symlink("e", canary), entry("e/new", b'6')])),
        harmless(
            "a directory over a link (CVE-2026-33056)",
            Tar::of([symlink("x", canary), dir("x").mode(0o777).owner(1, 1)]),
        ),
        harmless("a file over a link", Tar::of([symlink("x", format!("{canary}/file")), file("x", "pwn")])),
        harmless("a whiteout of a link", Tar::of([symlink("x", format!("{canary}/file")), entry(".wh.x", b'0')])),
        harmless(
            "a link to the parent (CVE-2021-38511)",
            Tar::of([symlink("p", ".."), dir("p/p/pwn"), file("p/p/pwn/f", "x")]),
        ),
        harmless("links into the layer by absolute paths", Tar::of([dir("d"), symlink("e", "/d"), file("e/f", "x")])),
        harmless("links to proc", Tar::of([symlink("p", "/proc/self/root"), symlink("q", "/proc/1/root/etc")])),
        bad("a file through proc", Tar::of([symlink("p", "/proc/self/root"), file(format!("p/{hex}/pwn"), "x")])),
        bad("a file through an open file", Tar::of([symlink("p", "/proc/self/fd/0"), file("p/x", "x")])),
        bad("a hard link outside", Tar::of([link("h", format!("{canary}/file"))])),
        bad("a climbing hard link", Tar::of([link("h", format!("{relative}/file"))])),
        bad("a hard link through a link", Tar::of([symlink("e", canary), link("h", "e/file"), file("h", "pwn")])),
        bad("a hard link to nothing", Tar::of([link("h", "nothing")])),
        bad("a hard link to a directory", Tar::of([dir("d"), link("h", "d")])),
        bad("a hard link to the root", Tar::of([link("h", "./")])),
        bad("a hard link without a target", Tar::of([link("h", "")])),
        harmless(
            "a hard link to a link, then written",
            Tar::of([symlink("s", format!("{canary}/file")), link("h", "s"), file("h", "pwn")]),
        ),
        harmless("a hard link to itself", Tar::of([file("a", "x"), link("a", "a")])),
        bad("a hard link with data", Tar::of([file("a", "x"), Entry { body: b"data".to_vec(), ..link("h", "a") }])),
    ]
}

fn kinds() -> Vec<Case> {
    vec![
        bad("a character device", Tar::of([device("dev/null", b'3', 1, 3)])),
        bad("a memory device", Tar::of([device("mem", b'3', 1, 1)])),
        bad("a block device", Tar::of([device("sda", b'4', 8, 0)])),
        bad("a block device 0/0", Tar::of([device("sda", b'4', 0, 0)])),
        bad("an entry of unknown type", Tar::of([entry("x", b'Z')])),
        bad("a volume header", Tar::of([entry("x", b'V')])),
        bad("an incremental dump", Tar::of([entry("x", b'D')])),
        bad("a continued file", Tar::of([entry("x", b'M')])),
        bad("a trusted attribute", Tar::of([file("x", "x").pax("SCHILY.xattr.trusted.x", "y")])),
        bad("a redirect of overlayfs", Tar::of([dir("x").pax("SCHILY.xattr.trusted.overlay.redirect", "/etc")])),
        bad("a metacopy of overlayfs", Tar::of([file("x", "").pax("SCHILY.xattr.trusted.overlay.metacopy", "")])),
        bad("an opaque mark on a file", Tar::of([file("x", "").pax("SCHILY.xattr.trusted.overlay.opaque", "y")])),
        bad("an attribute of overlayfs for users", Tar::of([dir("x").pax("SCHILY.xattr.user.overlay.opaque", "y")])),
        bad("an attribute without a name", Tar::of([file("x", "x").pax("SCHILY.xattr.", "y")])),
        bad(
            "65 attributes",
            Tar::of([(0..65).fold(file("x", "x"), |f, n| f.pax(format!("SCHILY.xattr.user.{n}"), "y"))]),
        ),
        bad("an attribute of 100 KiB", Tar::of([file("x", "x").pax("SCHILY.xattr.user.x", vec![b'y'; 100_000])])),
        harmless("attributes of other systems", Tar::of([file("x", "x").pax("SCHILY.xattr.security.ima", "y")])),
        bad("the owner that means nobody", Tar::of([entry("x", b'0').pax("uid", "4294967295")])),
        bad("an owner beyond 32 bits", Tar::of([entry("x", b'0').pax("gid", "4294967296")])),
        bad("a negative owner", Tar::of([entry("x", b'0').pax("uid", "-1")])),
        bad("a time that is none", Tar::of([entry("x", b'0').pax("mtime", "soon")])),
        bad("a time beyond all", Tar::of([entry("x", b'0').pax("mtime", "99999999999999999")])),
    ]
}

fn whiteouts() -> Vec<Case> {
    vec![
        bad("a whiteout of nothing", Tar::of([entry(".wh.", b'0')])),
        bad("a whiteout of the directory", Tar::of([entry(".wh..", b'0')])),
        bad("a whiteout of the parent", Tar::of([entry("a/.wh...", b'0')])),
        bad("a file below a whiteout", Tar::of([file(".wh.a/b", "x")])),
        bad("a file below an opaque mark", Tar::of([file(".wh..wh..opq/b", "x")])),
        bad("a whiteout that is a directory", Tar::of([dir(".wh.a")])),
        bad("a whiteout that is a link", Tar::of([symlink(".wh.a", "x")])),
        bad("a whiteout with contents", Tar::of([file(".wh.a", "x")])),
        bad("an opaque mark that is a link", Tar::of([dir("a"), symlink("a/.wh..wh..opq", "/etc")])),
        harmless("a whiteout, then a file below it", Tar::of([entry(".wh.a", b'0'), file("a/b", "x")])),
        harmless(
            "an opaque mark over a link of the layer",
            Tar::of([dir("d"), symlink("l", "d"), entry("l/.wh..wh..opq", b'0')]),
        ),
        harmless("an opaque directory that becomes a file", Tar::of([entry("a/.wh..wh..opq", b'0'), file("a", "x")])),
    ]
}

fn streams() -> Vec<Case> {
    let good = Tar::of([file("a", vec![1; 5000]), file("b", "b")]).end();
    let packed = gzip(&good);
    let nested = Tar::of([file("smuggled", "x")]).end();
    // TARmageddon: the PAX size says 0 is wrong, the header says it is right, or the other way round.
    let differing = |pax: &str, size: u64| {
        let inner = Entry { body: nested.clone(), ..entry("outer", b'0') };
        Tar::new().raw(&Entry { body: record(b"size", pax.as_bytes()), ..entry("pax", b'x') }).raw(&inner.size(size))
    };
    let two = |kind: u8| {
        let long = Entry { body: b"name\0".to_vec(), ..entry("l", kind) };
        Tar::new().raw(&long).raw(&long).raw(&file("x", "x"))
    };
    let pax = |body: &[u8]| Tar::new().raw(&Entry { body: body.to_vec(), ..entry("pax", b'x') }).raw(&file("x", "x"));
    let mut lone = Tar::of([file("a", "x")]).0;
    lone.extend_from_slice(&[0; 512]);
    lone.extend(Tar::of([file("hidden", "x")]).end());
    let mut behind = good.clone();
    behind.extend_from_slice(b"more");
    let mut checksum = good.clone();
    checksum[0] ^= 1;
    let huge = entry("big", b'0').size(1 << 40);
    vec![
        raw("nothing", Vec::new()),
        raw("rubbish", b"no archive at all".to_vec()),
        raw("much rubbish", vec![0xA5; 100_000]),
        raw("an empty gzip", gzip(b"")),
        raw("an empty zstd", zstd(b"")),
        raw("a gzip cut off", packed[..packed.len() - 9].to_vec()),
        raw("a gzip with a wrong checksum", {
            let mut p = packed.clone();
            let n = p.len();
            p[n - 6] ^= 1;
            p
        }),
        raw("a gzip with more behind it", [&packed[..], b"more"].concat()),
        raw("a zstd cut off", {
            let z = zstd(&good);
            z[..z.len() - 3].to_vec()
        }),
        raw("bzip2", b"BZh91AY&SY".to_vec()),
        raw("xz", b"\xfd7zXZ\0\0".to_vec()),
        raw("a zstd with a window of 2 GiB", vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 1, 0, 0, 0, 0, 0]),
        raw("a tar cut off in a file", good[..2000].to_vec()),
        raw("a tar cut off in a header", good[..300].to_vec()),
        raw("a tar cut off between files", good[..512 + 5120].to_vec()),
        raw("a wrong checksum", checksum),
        raw("data behind the end", behind),
        raw("a lone block of zeros, then more", lone),
        bad("a PAX size below the header's (CVE-2025-62518)", differing("0", nested.len() as u64)),
        bad("a PAX size above the header's", differing(&nested.len().to_string(), 0)),
        bad("a PAX size that is none", differing("x", 0)),
        bad("two long names", two(b'L')),
        bad("two long targets", two(b'K')),
        bad(
            "two PAX headers",
            Tar::new()
                .raw(&Entry { body: record(b"a", b"b"), ..entry("p", b'x') })
                .raw(&Entry { body: record(b"a", b"b"), ..entry("p", b'x') })
                .raw(&file("x", "x")),
        ),
        bad(
            "a long name and a PAX path",
            Tar::new()
                .raw(&Entry { body: b"name\0".to_vec(), ..entry("l", b'L') })
                .raw(&Entry { body: record(b"path", b"other"), ..entry("p", b'x') })
                .raw(&file("x", "x")),
        ),
        bad("a long name without a member", Tar::new().raw(&Entry { body: b"n\0".to_vec(), ..entry("l", b'L') })),
        bad("a PAX record that is none", pax(b"hello")),
        bad("a PAX record too long", pax(b"99 a=b\n")),
        bad("a PAX record twice", pax(&[record(b"path", b"a"), record(b"path", b"b")].concat())),
        bad("a PAX path of nothing", pax(&record(b"path", b""))),
        bad(
            "a global PAX path",
            Tar::new().raw(&Entry { body: record(b"path", b"everything"), ..entry("g", b'g') }).raw(&file("x", "x")),
        ),
        bad("a PAX header of 64 MiB", Tar::new().raw(&entry("pax", b'x').size(64 << 20))),
        bad("a long name of a terabyte", Tar::new().raw(&entry("l", b'L').size(1 << 40))),
        bad(
            "a sparse map that overlaps",
            Tar::of([file("s", vec![1; 1024]).pax("GNU.sparse.size", "4096").pax("GNU.sparse.map", "0,512,256,512")]),
        ),
        bad(
            "a sparse map beyond the file",
            Tar::of([file("s", vec![1; 512]).pax("GNU.sparse.size", "100").pax("GNU.sparse.map", "0,512")]),
        ),
        bad(
            "a sparse map beyond numbers",
            Tar::of([file("s", vec![1; 512])
                .pax("GNU.sparse.size", "4096")
                .pax("GNU.sparse.map", "18446744073709551615,512")]),
        ),
        bad(
            "an unknown sparse format",
            Tar::of([file("s", "x").pax("GNU.sparse.major", "9").pax("GNU.sparse.realsize", "1")]),
        ),
        (
            "a sparse file of a terabyte",
            Tar::of([entry("s", b'0').pax("GNU.sparse.size", "1099511627776").pax("GNU.sparse.map", "0,0")]).end(),
            Some(Code::TooLarge),
        ),
        ("a file that claims a terabyte", Tar::new().bytes(&header(&huge)).end(), Some(Code::TooLarge)),
        ("a bomb of gzip", gzip(&Tar::of([file("zeros", vec![0; 12 << 20])]).end()), Some(Code::TooLarge)),
        ("a bomb of zstd", zstd(&Tar::of([file("zeros", vec![0; 12 << 20])]).end()), Some(Code::TooLarge)),
        ("too many files", Tar::of((0..501).map(|n| file(format!("{n}"), ""))).end(), Some(Code::TooLarge)),
        (
            "too many unnamed directories",
            Tar::of((0..4).map(|n| file(format!("{n}/{}f", "d/".repeat(200)), ""))).end(),
            Some(Code::TooLarge),
        ),
        ("an upload that is too large", vec![0; (16 << 20) + 1], Some(Code::TooLarge)),
    ]
}

fn images() -> Vec<Case> {
    let tar = Tar::of([file("from-image", "x")]).end();
    let one = || [layer(&tar, gzip, GZIP)];
    let good = || Layout::new(&one());
    let name_of = |l: &Layout, n: usize| l.0[n].0.clone();
    let json = |text: &str| text.as_bytes().to_vec();
    let change = |f: fn(&mut serde_json::Value)| Layout::with(&one(), config(&one()), f).tar();
    let with_config = |f: fn(&mut serde_json::Value)| {
        let mut c = config(&one());
        f(&mut c);
        Layout::with(&one(), c, |_| {}).tar()
    };
    let index = |f: fn(&mut serde_json::Value)| {
        let l = good();
        let mut i = l.index();
        f(&mut i);
        l.replace("index.json", i.to_string()).tar()
    };
    let swapped = {
        let l = good();
        let name = name_of(&l, 2);
        let mut other = l.0[2].1.clone();
        other[20] ^= 1;
        l.replace(&name, other)
    };
    let evil = [layer(&Tar::of([file("../pwn", "x")]).end(), gzip, GZIP)];
    let docker = |f: fn(&mut serde_json::Value)| {
        let mut c = config(&one());
        f(&mut c);
        docker_save(&one(), &c)
    };
    let own = |manifest: &str| Tar::of([file("manifest.json", manifest), file("layer.tar", &tar)]).end();
    vec![
        raw("a layer that is not what its digest says", swapped.tar()),
        raw(
            "a diff id that is not the layer's",
            with_config(|c| c["rootfs"]["diff_ids"][0] = format!("sha256:{}", "0".repeat(64)).into()),
        ),
        raw("more layers than diff ids", with_config(|c| c["rootfs"]["diff_ids"] = serde_json::json!([]))),
        raw("a diff id that is a path", with_config(|c| c["rootfs"]["diff_ids"][0] = "sha256:../../x".into())),
        raw(
            "a diff id in capitals",
            with_config(|c| {
                let id = c["rootfs"]["diff_ids"][0].as_str().unwrap().to_uppercase();
                c["rootfs"]["diff_ids"][0] = id.into()
            }),
        ),
        raw("a working directory that climbs", with_config(|c| c["config"]["WorkingDir"] = "../x".into())),
        raw("a NUL in the environment", with_config(|c| c["config"]["Env"] = serde_json::json!(["A=\0"]))),
        raw("a layer digest that is a path", change(|m| m["layers"][0]["digest"] = "sha256:../../etc/passwd".into())),
        raw("a layer of sha512", change(|m| m["layers"][0]["digest"] = format!("sha512:{}", "0".repeat(128)).into())),
        raw(
            "a layer that is not there",
            change(|m| m["layers"][0]["digest"] = format!("sha256:{}", "0".repeat(64)).into()),
        ),
        raw("a layer of another size", change(|m| m["layers"][0]["size"] = 1.into())),
        raw("a manifest that is an index too (CVE-2021-41190)", change(|m| m["manifests"] = serde_json::json!([]))),
        raw(
            "a manifest that calls itself an index",
            change(|m| m["mediaType"] = "application/vnd.oci.image.index.v1+json".into()),
        ),
        raw("no layers", change(|m| m["layers"] = serde_json::json!([]))),
        raw("an index of nothing", index(|i| i["manifests"] = serde_json::json!([]))),
        raw("an index that is no list", index(|i| i["manifests"] = "x".into())),
        raw("an index with layers", index(|i| i["layers"] = serde_json::json!([]))),
        raw(
            "an index for another machine",
            index(|i| i["manifests"][0]["platform"] = serde_json::json!({"os": "windows", "architecture": "amd64"})),
        ),
        raw("a manifest of another size", index(|i| i["manifests"][0]["size"] = 5.into())),
        raw("an index that is no JSON", good().replace("index.json", json("{")).tar()),
        raw("an index of 5 MiB", good().replace("index.json", vec![b' '; 5 << 20]).tar()),
        raw("deep JSON", good().replace("index.json", "[".repeat(100_000)).tar()),
        raw("no index", Tar::of([file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)]).end()),
        raw("an index twice", Tar::of(good().0.iter().chain([&good().0[4]]).map(|(n, b)| file(n, b))).end()),
        raw("a layout cut off", {
            let t = good().tar();
            t[..t.len() - 2048].to_vec()
        }),
        raw("an image with a hostile layer", Layout::new(&evil).tar()),
        raw("docker's archive with a hostile layer", docker_save(&evil, &config(&evil))),
        raw(
            "docker's archive with a wrong diff id",
            docker(|c| c["rootfs"]["diff_ids"][0] = format!("sha256:{}", "0".repeat(64)).into()),
        ),
        raw("docker's archive of nothing", own("[]")),
        raw("docker's archive without its files", own(r#"[{"Config":"x.json","Layers":["y"]}]"#)),
        raw("docker's archive with paths", own(r#"[{"Config":"../../etc/passwd","Layers":["/etc/passwd"]}]"#)),
        raw("docker's archive of two", own(r#"[{"Config":"a","Layers":[]},{"Config":"b","Layers":[]}]"#)),
        raw("docker's configuration that is not its digest", {
            let c = config(&one());
            let name = format!("{}.json", "0".repeat(64));
            let manifest = serde_json::json!([{"Config": name, "Layers": ["layer.tar"]}]).to_string();
            Tar::of([file(&name, c.to_string()), file("layer.tar", &tar), file("manifest.json", manifest)]).end()
        }),
        raw("81 layers", {
            let many: Vec<_> =
                (0..81).map(|n| layer(&Tar::of([file(format!("{n}"), "x")]).end(), gzip, GZIP)).collect();
            Layout::new(&many).tar()
        }),
    ]
}

#[tokio::test]
async fn no_archive_does_harm() {
    if !support::root() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let canary = Canary::new(tmp.path().join("canary"));
    let state = tmp.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let layers = Layers::open(&state, env!("CARGO_BIN_EXE_torpord").into(), LIMITS).unwrap();
    let outside = canary.0.to_str().unwrap();
    let cases: Vec<Case> =
        [paths(outside), links(outside), kinds(), whiteouts(), streams(), images()].into_iter().flatten().collect();
    assert!(cases.len() >= 120, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for (what, bytes, verdict) in cases {
        let source = ImportSource::Stream(Box::new(std::io::Cursor::new(bytes)));
        let result = layers.import(source, &Progress::default()).await;
        let reached = result.as_ref().err().map(torpor::model::Error::code);
        if reached != verdict {
            wrong.push(format!(
                "{what}: {reached:?}, not {verdict:?}: {:?}",
                result.as_ref().map_err(|e| e.report()).err()
            ));
        }
        if let Err(e) = &result {
            let report = e.report();
            assert!(report.len() < 3000 && !report.chars().any(char::is_control), "{what}: {report:?}");
        }
        canary.check(what);
        assert_eq!(std::fs::read_dir(state.join("tmp")).unwrap().count(), 0, "{what} left something in tmp");
        for layer in result.map(|i| i.layers).unwrap_or_default() {
            layers.remove(&layer.digest).await.unwrap();
        }
        assert_eq!(std::fs::read_dir(state.join("layers")).unwrap().count(), 0, "{what} left a layer");
        assert_eq!(std::fs::read_dir(state.join("blobs")).unwrap().count(), 0, "{what} left a blob");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

//! Members that want out: by their paths, their links, their kinds, and by whiteouts.

use crate::archives::{Entry, Tar, device, dir, entry, file, link, symlink};
use crate::{Case, bad, harmless};

pub fn paths(canary: &str) -> Vec<Case> {
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

pub fn links(canary: &str) -> Vec<Case> {
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

pub fn kinds() -> Vec<Case> {
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

pub fn whiteouts() -> Vec<Case> {
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

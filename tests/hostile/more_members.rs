//! More members that want out.

use crate::archives::{Entry, Tar, checksum, device, dir, entry, file, header, link, symlink};
use crate::{Case, bad, harmless, large};

/// A member with a field of its header written by hand, and a right checksum.
pub fn patched(e: &Entry, at: usize, bytes: &[u8]) -> Tar {
    let mut h = header(e);
    h[at..at + bytes.len()].copy_from_slice(bytes);
    checksum(&mut h);
    Tar::new().bytes(&h).bytes(&e.body)
}

fn long(kind: u8, body: impl AsRef<[u8]>) -> Tar {
    Tar::new().raw(&Entry { body: body.as_ref().to_vec(), ..entry("././@LongLink", kind) })
}

pub fn paths(canary: &str) -> Vec<Case> {
    let up = "../".repeat(30);
    vec![
        bad("double slashes that climb", Tar::of([file("a//..//..//pwn", "x")])),
        bad("a dot, then up", Tar::of([file("./../x", "x")])),
        bad("up at the end", Tar::of([dir("a"), dir("a/b/..")])),
        bad("up within a directory's path", Tar::of([dir("a/./b/../c")])),
        bad("a slash", Tar::of([file("/", "x")])),
        bad("two slashes", Tar::of([dir("//")])),
        bad("two slashes and a name", Tar::of([file(format!("/{canary}/pwn"), "x")])),
        bad("a prefix that climbs", patched(&file("pwn", "x"), 345, b"..")),
        bad("a prefix that is absolute", patched(&file("pwn", "x"), 345, b"/tmp")),
        bad("a prefix that climbs in the middle", patched(&file("pwn", "x"), 345, b"a/../..")),
        bad("a long name that climbs", long(b'L', format!("{up}{canary}/pwn\0")).raw(&file("x", "x"))),
        bad("a long name that is absolute", long(b'L', format!("{canary}/pwn\0")).raw(&file("x", "x"))),
        bad(
            "a long name in a header without a magic",
            patched(&Entry { body: b"name\0".to_vec(), ..entry("l", b'L') }, 257, &[0; 8]).raw(&file("x", "x")),
        ),
        bad(
            "PAX records in a header without a magic",
            patched(&Entry { body: b"12 path=../x\n".to_vec(), ..entry("p", b'x') }, 257, b"rubbish!")
                .raw(&file("x", "x")),
        ),
        bad("a long name of nothing", long(b'L', b"\0").raw(&file("x", "x"))),
        bad("a long name of no bytes", long(b'L', b"").raw(&file("x", "x"))),
        bad("a NUL within a long name", long(b'L', b"a\0b\0").raw(&file("x", "x"))),
        harmless("a long name without its NUL", long(b'L', b"name").raw(&file("x", "x"))),
        bad("a long name of a directory as a file", long(b'L', b"d/\0").raw(&file("x", "x"))),
        bad("a PAX path that climbs", Tar::of([file("x", "x").pax("path", "../x")])),
        bad("a PAX path that is absolute", Tar::of([file("x", "x").pax("path", format!("{canary}/pwn"))])),
        bad("a PAX path of a slash", Tar::of([file("x", "x").pax("path", "/")])),
        bad("a PAX path of 70,000 bytes", Tar::of([file("x", "x").pax("path", "p/".repeat(35_000) + "f")])),
        bad("a path 257 deep", Tar::of([file("n/".repeat(256) + "f", "x")])),
        harmless("a path 256 deep", Tar::of([file("n/".repeat(255) + "f", "x")])),
        harmless("a name of 255 bytes", Tar::of([file("n".repeat(255), "x")])),
        bad("a name of 128 wide letters", Tar::of([file("ä".repeat(128), "x")])),
        harmless("backslashes", Tar::of([file("..\\..\\pwn", "x"), file("C:\\pwn", "x")])),
        harmless("dots that are names", Tar::of([file(".../x", "x"), dir("..a"), file("a../..b", "x")])),
        harmless("escaped dots", Tar::of([file("%2e%2e/%2fpwn", "x")])),
        harmless("overlong dots", Tar::of([file(b"\xc0\xae\xc0\xae/\xe0\x80\xaf", "x")])),
        harmless("options as names", Tar::of([file("--checkpoint-action=exec=sh pwn", "x"), file("-rf", "x")])),
        harmless(
            "commands as names",
            Tar::of([file(format!(";$(touch {canary}/pwn)"), "x"), file(format!("`rm -rf {canary}`"), "x")]),
        ),
        harmless("names that differ in case only", Tar::of([dir("A"), symlink("a", canary), file("A/x", "x")])),
        harmless("letters that run backwards", Tar::of([file("\u{202e}gnp.exe\u{200b}", "x")])),
        harmless("a name of spaces", Tar::of([file("   ", "x"), file(" a", "x")])),
        harmless("a NUL in a short name", Tar::of([file(b"a\0../../b", "x")])),
        harmless("a dot at the end of a file's path", Tar::of([file("a/.", "x")])),
        harmless("torpor's own place", Tar::of([dir(".torpor"), file(".torpor/init", "pwn"), dir("run/secrets")])),
        harmless("mounts' places as files", Tar::of([file("proc", "x"), file("sys", "x"), file("dev", "x")])),
        harmless("mounts' places as links", Tar::of([symlink("proc", canary), symlink("dev", canary)])),
        harmless("the resolver's file as a link", Tar::of([dir("etc"), symlink("etc/resolv.conf", canary)])),
        harmless(
            "an executable called tar",
            Tar::of([dir("bin"), file("bin/tar", format!("#!/bin/sh\nrm -r {canary}"))]),
        ),
        bad("the root twice, and nothing in it", Tar::of([dir("./").mode(0o700), dir("./").mode(0o7777).owner(5, 5)])),
    ]
}

pub fn links(canary: &str) -> Vec<Case> {
    let up = "../".repeat(30);
    let inside = &canary[1..];
    let chain = (0..45).map(|n| symlink(format!("l{n}"), format!("l{}", n + 1)));
    vec![
        bad("45 links in a row", Tar::of(chain.chain([dir("l45"), file("l0/x", "x")]))),
        harmless("a link to itself by a dot", Tar::of([symlink("a", "."), file("a/a/a/a/f", "x")])),
        bad("a link to its own name", Tar::of([symlink("a", "a"), file("a/f", "x")])),
        harmless("a link above the root", Tar::of([dir("x"), symlink("e", "../../../../../x"), file("e/f", "x")])),
        harmless(
            "the outside's path within the layer",
            Tar::of([dir(inside), symlink("e", canary), file("e/pwn", "x"), link("h", "e/pwn")]),
        ),
        bad(
            "a directory that becomes a link",
            Tar::of([dir("d"), file("d/f", "x"), symlink("d", canary), file("d/g", "x")]),
        ),
        bad(
            "a directory that becomes a link to the parent of all",
            Tar::of([dir("d"), symlink("d", format!("{up}{inside}")), file("d/file", "pwn")]),
        ),
        harmless(
            "a hard link to a link, then a directory",
            Tar::of([symlink("s", canary), link("h", "s"), dir("h").mode(0o777).owner(1, 1)]),
        ),
        bad("a hard link to what comes later", Tar::of([link("h", "later"), file("later", "x")])),
        harmless("a hard link with a slash at its end", Tar::of([file("a", "x"), link("h", "a/")])),
        harmless("a hard link to a pipe, then written", Tar::of([entry("p", b'6'), link("h", "p"), file("h", "x")])),
        harmless("a pipe that becomes a file", Tar::of([entry("p", b'6'), file("p", "x")])),
        bad("a file below a pipe", Tar::of([entry("p", b'6'), file("p/x", "x")])),
        bad("a directory through a pipe", Tar::of([entry("p", b'6'), dir("p/x")])),
        harmless(
            "a hard link through a link of the layer",
            Tar::of([dir("d"), file("d/f", "x"), symlink("s", "d"), link("h", "s/f")]),
        ),
        bad("a hard link through a link outside, one deeper", Tar::of([symlink("e", canary), link("h", "e/dir/file")])),
        bad("a NUL in a hard link", Tar::of([link("h", "x").pax("linkpath", "a\0b")])),
        bad("a hard link without end", Tar::of([link("h", "t".repeat(5000))])),
        bad(
            "a hard link to an absolute path by a long name",
            long(b'K', format!("{canary}/file\0")).raw(&link("h", "x")),
        ),
        bad("a hard link that climbs by a long name", long(b'K', format!("{up}{inside}/file\0")).raw(&link("h", "x"))),
        bad("a hard link to the parent", Tar::of([link("h", "..")])),
        bad("a hard link to a dot", Tar::of([link("h", ".")])),
        harmless("a hard link to itself by another path", Tar::of([file("a", "x"), link("./a", "./a")])),
        harmless("a set-user-id file twice", Tar::of([file("a", "x").mode(0o6755), link("b", "a")])),
        bad("links through proc's roots", Tar::of([symlink("etc", "/proc/self/root/etc"), file("etc/passwd", "pwn")])),
        bad(
            "links through proc's working directory",
            Tar::of([symlink("c", "/proc/self/cwd"), file("c/../../pwn", "x")]),
        ),
        bad("a link through proc, then a pipe", Tar::of([symlink("c", "/proc/1/cwd"), entry("c/p", b'6')])),
        bad("a file through a link with dots", Tar::of([symlink("e", format!("./{up}./{inside}")), file("e/x", "x")])),
        bad("a link as a parent's name", Tar::of([symlink("..", canary)])),
        bad("a link as a dot", Tar::of([symlink(".", canary)])),
        bad("a link with data", Tar::of([Entry { body: b"data".to_vec(), ..symlink("s", "t") }])),
        bad("a link's target of NULs", Tar::of([symlink("s", "t").pax("linkpath", "\0")])),
        harmless("a long target for what is no link", long(b'K', b"ignored\0").raw(&file("x", "x"))),
        harmless(
            "a link, a directory, a link, a file",
            Tar::of([symlink("x", canary), dir("x"), symlink("x", canary), file("x", "pwn")]),
        ),
        harmless(
            "an attribute on a link",
            Tar::of([symlink("x", format!("{canary}/file")).pax("SCHILY.xattr.user.pwn", "y")]),
        ),
        harmless("an owner of a link", Tar::of([symlink("x", format!("{canary}/file")).owner(7, 7).mode(0o4777)])),
        large(
            "501 links to one file",
            Tar::of([file("a", "x")].into_iter().chain((0..501).map(|n| link(format!("{n}"), "a")))),
        ),
    ]
}

pub fn kinds() -> Vec<Case> {
    let x = || entry("x", b'0');
    let minus = [0xff_u8; 8];
    vec![
        bad("a Solaris list", Tar::of([entry("x", b'A')])),
        bad("a Solaris header", Tar::of([entry("x", b'X')])),
        bad("an old long name", Tar::of([entry("x", b'N')])),
        bad("a kind of nothing with a directory's name", Tar::of([entry("d/", 0)])),
        harmless("a file that should lie in one piece", Tar::of([entry("x", b'7')])),
        bad("a console", Tar::of([device("dev/console", b'3', 5, 1)])),
        bad("a kvm", Tar::of([device("kvm", b'3', 10, 232)])),
        bad("a character device 0/1", Tar::of([device("x", b'3', 0, 1)])),
        bad("a device as the root", Tar::of([device("./", b'3', 0, 0)])),
        bad("a device with a number that is none", patched(&device("x", b'3', 0, 0), 329, b"devmajor")),
        bad("a device with a negative number", patched(&device("x", b'3', 0, 0), 329, &minus)),
        harmless(
            "a device by a record",
            Tar::of([file("x", "x").pax("SCHILY.devmajor", "1").pax("SCHILY.devminor", "1")]),
        ),
        bad("a device with data", Tar::of([Entry { body: vec![0; 9], ..device("x", b'3', 0, 0) }])),
        bad("a pipe with data", Tar::of([Entry { body: vec![0; 9], ..entry("x", b'6') }])),
        bad("a directory with data", Tar::of([Entry { body: vec![0; 9], ..dir("x") }])),
        bad("a directory that claims a terabyte", Tar::of([dir("x").size(1 << 40)])),
        harmless("all permissions there are", Tar::of([dir("d").mode(0o7777), file("d/f", "x").mode(0o7777)])),
        bad("permissions that are none", patched(&x(), 100, b"rwxrwxrw")),
        bad("an owner of letters", patched(&x(), 108, b"root\0\0\0\0")),
        bad("a negative owner in binary", patched(&x(), 108, &minus)),
        large("a negative size in binary", patched(&x(), 124, &[0xff; 12])),
        bad("a size of letters", patched(&x(), 124, b"12345678901x")),
        bad(
            "a time beyond all in binary",
            patched(&x(), 136, &[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ),
        harmless("a time before all time", Tar::of([x().pax("mtime", "-1.5"), file("y", "").pax("mtime", "0")])),
        bad("a time with an exponent", Tar::of([x().pax("mtime", "1e9")])),
        bad("a time of nothing", Tar::of([x().pax("mtime", "")])),
        bad("a time not a number", Tar::of([x().pax("mtime", "NaN")])),
        bad("an owner with a sign", Tar::of([x().pax("uid", "+5")])),
        bad("an owner with spaces", Tar::of([x().pax("uid", " 5")])),
        bad("an owner in hexadecimal", Tar::of([x().pax("gid", "0x0")])),
        bad("an owner of 30 digits", Tar::of([x().pax("gid", "1".repeat(30))])),
        harmless("names of owners", Tar::of([x().pax("uname", "root;touch pwn").pax("gname", "../../x")])),
        bad("capabilities that are none", Tar::of([file("x", "x").pax("SCHILY.xattr.security.capability", "rubbish")])),
        harmless("capabilities on a directory", Tar::of([dir("x").pax("SCHILY.xattr.security.capability", "rubbish")])),
        bad("an attribute with no name of its own", Tar::of([file("x", "x").pax("SCHILY.xattr.user.", "y")])),
        bad("an attribute with a NUL in its name", Tar::of([file("x", "x").pax("SCHILY.xattr.user.a\0b", "y")])),
        bad(
            "an attribute with a name of 300 bytes",
            Tar::of([file("x", "x").pax("SCHILY.xattr.user.".to_owned() + &"n".repeat(300), "y")]),
        ),
        bad("an attribute whose name is no text", Tar::of([file("x", "x").pax(b"SCHILY.xattr.user.\xff", "y")])),
        bad("an origin of overlayfs", Tar::of([dir("x").pax("SCHILY.xattr.trusted.overlay.origin", "y")])),
        bad("an opaque mark of another value", Tar::of([dir("x").pax("SCHILY.xattr.trusted.overlay.opaque", "x")])),
        harmless(
            "access lists",
            Tar::of([file("x", "x")
                .pax("SCHILY.xattr.system.posix_acl_access", "rubbish")
                .pax("SCHILY.acl.access", "u::rwx")]),
        ),
        harmless(
            "attributes as others write them",
            Tar::of([file("x", "x")
                .pax("LIBARCHIVE.xattr.trusted.overlay.opaque", "eQ==")
                .pax("RHT.security.selinux", "x")]),
        ),
    ]
}

pub fn whiteouts() -> Vec<Case> {
    let w = |name: &str| entry(name, b'0');
    vec![
        bad("only what AUFS kept", Tar::of([w(".wh..wh.aufs"), w("a/.wh..wh.orph")])),
        bad("a file below what AUFS kept", Tar::of([file(".wh..wh.plnk/x", "x")])),
        bad("a directory of AUFS", Tar::of([dir(".wh..wh..opqx")])),
        bad("only what is almost an opaque mark", Tar::of([w(".wh..wh..opqx"), w("a/.wh..wh.opq")])),
        bad("a whiteout with a name of 256 bytes", Tar::of([w(&format!(".wh.{}", "n".repeat(256)))])),
        harmless("a whiteout that is a hard link", Tar::of([w(".wh.a"), link(".wh.b", ".wh.a")])),
        bad("a whiteout that is a device", Tar::of([device(".wh.x", b'3', 0, 0)])),
        bad("a whiteout that is a pipe", Tar::of([entry(".wh.x", b'6')])),
        bad("a directory of a whiteout of nothing", Tar::of([file("a/.wh./b", "x")])),
        harmless("whiteouts of torpor's own place", Tar::of([w(".wh..torpor"), w(".wh.proc")])),
        harmless("a whiteout deep down", Tar::of([w("a/b/c/d/.wh.e"), w("a/b/.wh.c")])),
        harmless("a whiteout twice", Tar::of([w(".wh.a"), w(".wh.a"), device("a", b'3', 0, 0)])),
        harmless(
            "a whiteout, then a link, then through it",
            Tar::of([w(".wh.a"), symlink("a", "d"), dir("d"), file("a/x", "x")]),
        ),
        bad("an opaque mark with contents", Tar::of([file("a/.wh..wh..opq", "x")])),
        bad("an opaque mark as a directory", Tar::of([dir("a/.wh..wh..opq/")])),
        bad("only an opaque root", Tar::of([w(".wh..wh..opq")])),
        harmless("an opaque directory that becomes a link", Tar::of([w("a/.wh..wh..opq"), symlink("a", "/")])),
        large("501 whiteouts", Tar::of((0..501).map(|n| w(&format!(".wh.{n}"))))),
        large("501 opaque marks", Tar::of((0..501).map(|n| w(&format!("{n}/.wh..wh..opq"))))),
    ]
}

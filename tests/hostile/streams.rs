//! Bytes that are no archive, or another one to each reader, or far more than they seem.

use torpor::model::Code;

use crate::archives::{Entry, Tar, entry, file, gzip, header, record, zstd};
use crate::{Case, bad, raw};

pub fn streams() -> Vec<Case> {
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

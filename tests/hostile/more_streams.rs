//! More bytes that are no archive, and maps of sparse files that are none.

use torpor::model::Code;

use crate::archives::{Entry, Tar, dir, entry, file, gzip, header, record, zstd};
use crate::more_members::patched;
use crate::{Case, bad, harmless, large, raw};

fn pax(kind: u8, body: impl AsRef<[u8]>) -> Tar {
    Tar::new().raw(&Entry { body: body.as_ref().to_vec(), ..entry("pax", kind) })
}

fn records(n: usize) -> Vec<u8> {
    (0..n).flat_map(|n| record(format!("k{n}").as_bytes(), b"v")).collect()
}

pub fn streams() -> Vec<Case> {
    let good = Tar::of([file("a", vec![1; 5000]), file("b", "b")]).end();
    let one = || file("x", "x");
    let magic = |m: &[u8]| [m, &[0x55; 2000]].concat();
    let gz_named = [&[0x1f, 0x8b, 8, 0x08, 0, 0, 0, 0, 0, 3][..], &vec![b'n'; 200_000]].concat();
    let gz_extra = [&[0x1f, 0x8b, 8, 0x04, 0, 0, 0, 0, 0, 3, 0xff, 0xff][..], &[0; 100]].concat();
    let many_gz: Vec<u8> = good.chunks(512).flat_map(gzip).collect();
    let signed = {
        let mut h = header(&file(b"\xff\xff\xff\xff", ""));
        h[148..156].fill(b' ');
        let sum: i64 = h.iter().map(|b| i64::from(b.cast_signed())).sum();
        h[148..156].copy_from_slice(format!("{:06o}\0 ", u32::try_from(sum).unwrap()).as_bytes());
        Tar::new().bytes(&h)
    };
    vec![
        raw("a zip", magic(b"PK\x03\x04")),
        raw("a 7z", magic(b"7z\xbc\xaf\x27\x1c")),
        raw("an lz4", magic(&[0x04, 0x22, 0x4d, 0x18])),
        raw("an lzip", magic(b"LZIP")),
        raw("a compress", magic(&[0x1f, 0x9d])),
        raw("a squashfs", magic(b"hsqs")),
        raw("an ELF", magic(b"\x7fELF")),
        raw("a script", b"#!/bin/sh\ntouch /pwn\n".repeat(100)),
        raw(
            "a skippable frame of zstd",
            [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &zstd(&good)].concat(),
        ),
        raw("two archives in two frames", [zstd(&good), zstd(&good)].concat()),
        raw("a gzip within a gzip", gzip(&gzip(&good))),
        raw("a zstd within a zstd", zstd(&zstd(&good))),
        raw("a gzip with a name that does not end", gz_named),
        raw("a gzip with fields that do not end", gz_extra),
        raw("a gzip of another method", [&[0x1f, 0x8b, 9][..], &[0; 100]].concat()),
        raw("a gzip of its magic alone", vec![0x1f, 0x8b]),
        raw("a zstd of its magic alone", vec![0x28, 0xb5, 0x2f, 0xfd]),
        raw("a zstd with a dictionary that is not there", vec![0x28, 0xb5, 0x2f, 0xfd, 0x23, 9, 9, 9, 9, 1, 1, 0, 0]),
        raw("one byte", vec![0]),
        raw("511 zeros", vec![0; 511]),
        ("an archive of nothing", vec![0; 1 << 20], Some(Code::BadArchive)),
        ("a gzip of many members", many_gz, None),
        ("zeros behind the end, much of it", gzip(&[good.clone(), vec![0; 8 << 20]].concat()), Some(Code::TooLarge)),
        ("a bomb of empty gzips", gzip(b"").repeat(50_000), Some(Code::BadArchive)),
        harmless("a header without a magic", patched(&one(), 257, &[0; 8])),
        harmless("a header with a magic of its own", patched(&one(), 257, b"pwnage\0\0")),
        bad("a checksum as old programs took it", signed),
        bad(
            "a checksum of letters",
            Tar::new().bytes(&{
                let mut h = header(&one());
                h[148..156].copy_from_slice(b"rubbish\0");
                h
            }),
        ),
        bad("a header twice", Tar::new().bytes(&header(&one())).bytes(&header(&one())).bytes(b"x")),
        bad("a size field of blanks with data behind it", patched(&file("x", vec![7; 600]), 124, b"            ")),
        bad("records for nobody", pax(b'x', records(1))),
        bad("a long target for nobody", Tar::new().raw(&Entry { body: b"t\0".to_vec(), ..entry("l", b'K') })),
        bad("a PAX record without a key", pax(b'x', b"5 =v\n").raw(&one())),
        bad("a PAX record with a sign", pax(b'x', b"+6 a=b\n").raw(&one())),
        bad("a PAX record of length 0", pax(b'x', b"0 a=b\n").raw(&one())),
        bad("a PAX record that ends too early", pax(b'x', b"6 a=bc\n").raw(&one())),
        bad("a PAX record with a length of 20 digits", pax(b'x', b"99999999999999999999 a=b\n").raw(&one())),
        bad("NULs behind PAX records", pax(b'x', [record(b"a", b"b"), vec![0; 9]].concat()).raw(&one())),
        bad("a global owner", pax(b'g', record(b"uid", b"0")).raw(&one())),
        bad("a global size", pax(b'g', record(b"size", b"0")).raw(&one())),
        bad("a global comment that is damaged", pax(b'g', b"rubbish").raw(&one())),
        bad("a global header of 64 MiB", Tar::new().raw(&entry("g", b'g').size(64 << 20))),
        harmless(
            "comments between a long name and its member",
            Tar::new()
                .raw(&Entry { body: b"name\0".to_vec(), ..entry("l", b'L') })
                .raw(&Entry { body: record(b"comment", b"hello"), ..entry("g", b'g') })
                .raw(&one()),
        ),
        harmless("50,000 PAX records", pax(b'x', records(50_000)).raw(&one())),
        large(
            "a PAX header before every file",
            (0..20).fold(Tar::new(), |t, n| {
                t.raw(&Entry { body: records(30_000), ..entry("pax", b'x') }).raw(&file(format!("{n}"), ""))
            }),
        ),
        large(
            "comments without end",
            (0..8000).fold(Tar::new(), |t, _| t.raw(&Entry { body: record(b"comment", b"x"), ..entry("g", b'g') })),
        ),
        harmless(
            "another set of letters",
            Tar::of([one().pax("hdrcharset", "BINARY"), file("y", "").pax("charset", "../x")]),
        ),
        harmless("a line feed in a PAX path", Tar::of([one().pax("path", "a\nb")])),
        large("a PAX size that octal can't hold", Tar::of([entry("x", b'0').size(0).pax("size", "8589934593")])),
        bad("a PAX size of 2^64", Tar::of([entry("x", b'0').pax("size", "18446744073709551616")])),
        large("a PAX size just below 2^64", Tar::of([entry("x", b'0').pax("size", "18446744073709551615")])),
        bad("a PAX size with a sign", Tar::of([entry("x", b'0').pax("size", "-1")])),
        bad("a PAX size of a directory", Tar::of([dir("x").pax("size", "99999999999")])),
        large(
            "one file and a gigabyte of names",
            Tar::of((0..300).map(|n| file(format!("{n}/{}", "d/".repeat(250)) + "f", ""))),
        ),
    ]
}

/// The old GNU format: pieces in the header, the file's size, whether more blocks come.
fn gnu(pieces: &[(&str, &str)], size: &str, more: bool, body: usize) -> Tar {
    let e = Entry { body: vec![1; body], ..entry("s", b'S') };
    let mut fields = [0_u8; 512];
    let field = |to: &mut [u8], text: &str| to[..text.len()].copy_from_slice(text.as_bytes());
    for (n, (offset, length)) in pieces.iter().enumerate() {
        field(&mut fields[386 + 24 * n..398 + 24 * n], offset);
        field(&mut fields[398 + 24 * n..410 + 24 * n], length);
    }
    fields[482] = u8::from(more);
    field(&mut fields[483..495], size);
    let mut h = header(&e);
    h[257..265].copy_from_slice(b"ustar  \0");
    h[345..512].fill(0);
    h[386..495].copy_from_slice(&fields[386..495]);
    crate::archives::checksum(&mut h);
    let tar = Tar::new().bytes(&h);
    if more { tar } else { tar.bytes(&e.body) }
}

/// The PAX format 1.0: the map stands before the data.
fn pax_1(map: &str, size: &str, data: usize) -> Tar {
    let mut body = map.as_bytes().to_vec();
    body.resize(body.len().next_multiple_of(512), 0);
    body.extend(vec![1; data]);
    let f = file("s", body).pax("GNU.sparse.major", "1").pax("GNU.sparse.minor", "0").pax("GNU.sparse.realsize", size);
    Tar::of([f])
}

pub fn sparse() -> Vec<Case> {
    let map = |map: &str, size: &str, data: usize| {
        Tar::of([file("s", vec![1; data]).pax("GNU.sparse.size", size).pax("GNU.sparse.map", map)])
    };
    let endless = (0..2000).fold(gnu(&[("0", "1000")], "1000", true, 512), |t, _| {
        let mut block = [0_u8; 512];
        block[504] = 1;
        t.bytes(&block)
    });
    vec![
        harmless("a sparse file as old GNU wrote it", gnu(&[("0", "1000"), ("4000", "1000")], "10000", false, 1024)),
        harmless("a sparse file as PAX 0.1 has it", map("0,512,4096,512", "8192", 1024)),
        harmless("a sparse file as PAX 1.0 has it", pax_1("2\n0\n512\n4096\n512\n", "8192", 1024)),
        harmless("a sparse file that is all hole", map("1024,0", "1024", 0)),
        bad("an old sparse file with overlapping pieces", gnu(&[("0", "1000"), ("0", "1000")], "10000", false, 1024)),
        bad("an old sparse file that is too short", gnu(&[("0", "1000")], "10", false, 512)),
        bad("an old sparse file with more pieces than bytes", gnu(&[("0", "2000")], "10000", false, 512)),
        bad("an old sparse file of letters", gnu(&[("x", "y")], "10000", false, 512)),
        bad("an old sparse file of a size in letters", gnu(&[("0", "1000")], "size", false, 512)),
        bad("an old sparse file whose map does not end", endless),
        ("an old sparse file of 8 GiB", gnu(&[("0", "1000")], "77777777777", false, 512).end(), Some(Code::TooLarge)),
        bad("a sparse map of an odd number", map("0,512,1024", "4096", 512)),
        bad("a sparse map that runs backwards", map("2048,512,0,512", "4096", 1024)),
        bad("a sparse map of nothing", map("", "4096", 512)),
        bad("a sparse map of less than is stored", map("0,100", "4096", 512)),
        bad("a sparse map of more than is stored", map("0,1024", "4096", 512)),
        bad(
            "a sparse map whose sum is beyond numbers",
            map("0,9223372036854775808,9223372036854775808,9223372036854775808", "18446744073709551615", 512),
        ),
        bad("a sparse size without a map", Tar::of([file("s", "x").pax("GNU.sparse.size", "1")])),
        bad("a sparse map without a size", Tar::of([file("s", "x").pax("GNU.sparse.map", "0,1")])),
        bad("a sparse directory", Tar::of([dir("s").pax("GNU.sparse.size", "0").pax("GNU.sparse.map", "0,0")])),
        bad("a sparse name alone", Tar::of([file("s", "x").pax("GNU.sparse.name", "../pwn")])),
        bad(
            "a sparse name that climbs",
            Tar::of([file("s", "x")
                .pax("GNU.sparse.name", "../pwn")
                .pax("GNU.sparse.size", "1")
                .pax("GNU.sparse.map", "0,1")]),
        ),
        bad(
            "sparse records of the first kind",
            pax(
                b'x',
                [
                    record(b"GNU.sparse.offset", b"0"),
                    record(b"GNU.sparse.numbytes", b"1"),
                    record(b"GNU.sparse.offset", b"2"),
                ]
                .concat(),
            )
            .raw(&file("s", "x")),
        ),
        bad("a map of 10^10 pieces", pax_1("9999999999\n", "8192", 512)),
        bad("a map that is cut off", pax_1("3\n0\n512\n", "8192", 512)),
        bad("a map of letters", pax_1("one\n0\n512\n", "8192", 512)),
        bad("a map without line feeds", pax_1(&"1".repeat(700), "8192", 512)),
        bad(
            "a map of a version to come",
            Tar::of([file("s", "x")
                .pax("GNU.sparse.major", "1")
                .pax("GNU.sparse.minor", "1")
                .pax("GNU.sparse.realsize", "1")]),
        ),
        bad(
            "two kinds of map",
            Tar::of([file("s", "1\n0\n1\n")
                .pax("GNU.sparse.major", "1")
                .pax("GNU.sparse.minor", "0")
                .pax("GNU.sparse.realsize", "1")
                .pax("GNU.sparse.map", "0,1")]),
        ),
        ("a sparse file of 2^63", pax_1("0\n", "9223372036854775808", 0).end(), Some(Code::TooLarge)),
    ]
}

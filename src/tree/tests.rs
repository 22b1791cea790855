use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::header::encode;
use super::*;
use crate::model::Result;

const INSIDE: Put = Put { links: Links::Below, owners: false };

fn packed(path: &Path, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    pack(path, name.as_bytes(), Owner::Kept, false, &mut bytes).unwrap();
    bytes
}

fn fill(dir: &Path, bytes: &[u8], put: Put) -> Result<()> {
    Place::open(dir, put)?.fill(&mut Reader::new(bytes))
}

fn member(path: &str, kind: Kind, body: &[u8]) -> Vec<u8> {
    let size = body.len() as u64;
    let m = Member { path: path.into(), kind, mode: 0o644, uid: 7, gid: 8, mtime: 1_000_000, size };
    let mut bytes = encode(&m);
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

#[test]
fn a_tree_comes_out_as_it_went_in() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let f = from.path().join("t");
    std::fs::create_dir_all(f.join("sub/empty")).unwrap();
    let long = "n".repeat(200);
    let big: Vec<u8> = (0..200_001_u32).map(|n| n as u8).collect();
    for (name, content) in [("a", &b"hello"[..]), ("sub/b", b""), (&long, &big)] {
        std::fs::write(f.join(name), content).unwrap();
    }
    std::fs::set_permissions(f.join("a"), std::fs::Permissions::from_mode(0o750)).unwrap();
    std::fs::set_permissions(f.join("sub"), std::fs::Permissions::from_mode(0o555)).unwrap();
    symlink("../nowhere", f.join("sub/../link")).unwrap();
    std::fs::hard_link(f.join("a"), f.join("hard")).unwrap();
    nix::unistd::mkfifo(&f.join("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o640)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(f.join("socket")).unwrap();
    fill(to.path(), &packed(&f, "copy"), INSIDE).unwrap();
    let t = to.path().join("copy");
    assert_eq!(std::fs::read(t.join("a")).unwrap(), b"hello");
    assert_eq!(std::fs::read(t.join(&long)).unwrap(), big);
    assert_eq!(std::fs::read_link(t.join("link")).unwrap(), Path::new("../nowhere"));
    let meta = |p: &Path| std::fs::symlink_metadata(p).unwrap();
    assert_eq!((meta(&t.join("a")).mode() & 0o7777, meta(&t.join("a")).nlink()), (0o750, 2));
    assert_eq!(meta(&t.join("hard")).ino(), meta(&t.join("a")).ino());
    assert_eq!(meta(&t.join("sub")).mode() & 0o7777, 0o555);
    assert_eq!(meta(&t.join("sub")).mtime(), meta(&f.join("sub")).mtime());
    assert_eq!(meta(&t.join("a")).mtime(), meta(&f.join("a")).mtime());
    assert!(!t.join("socket").exists() && meta(&t.join("pipe")).mode() & 0o777 == 0o640);
    // Once more over it: nothing is half replaced and nothing is left over.
    fill(to.path(), &packed(&f, "copy"), INSIDE).unwrap();
    let names = std::fs::read_dir(&t).unwrap().count();
    assert_eq!(names, std::fs::read_dir(&f).unwrap().count() - 1);
    // What another tar makes and reads.
    let bytes = packed(&f, "copy");
    let file = to.path().join("x.tar");
    std::fs::write(&file, &bytes).unwrap();
    let list = std::process::Command::new("tar").arg("-tf").arg(&file).output().unwrap();
    assert!(list.status.success() && String::from_utf8_lossy(&list.stdout).contains(&format!("copy/{long}\n")));
    for format in ["gnu", "pax", "ustar", "v7"] {
        let made = std::process::Command::new("tar")
            .args([&format!("--format={format}"), "--exclude=nnn*", "-C"])
            .arg(from.path())
            .args(["-cf", "-", "t"])
            .output()
            .unwrap();
        let place = tempfile::tempdir().unwrap();
        let done = fill(place.path(), &made.stdout, INSIDE);
        assert!(format == "v7" || done.is_ok(), "{format}: {done:?}");
        assert_eq!(std::fs::read(place.path().join("t/a")).unwrap(), b"hello", "{format}");
    }
}

#[test]
fn nothing_gets_out_of_the_directory() {
    let code = |bytes: &[u8], put| {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        for d in [&inside, &outside, &inside.join("real")] {
            std::fs::create_dir(d).unwrap();
        }
        symlink("../out", inside.join("escape")).unwrap();
        symlink("real", inside.join("stays")).unwrap();
        symlink("/nowhere/at/all", inside.join("dangling")).unwrap();
        let done = fill(&inside, bytes, put).map_err(|e| e.code());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        assert!(std::fs::read_dir(&inside).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().contains("new")));
        done
    };
    let file = |path: &str| archive(&[member(path, Kind::File, b"x")]);
    let refused = Put { links: Links::Refused, ..INSIDE };
    for path in ["../x", "a/../../x", "/etc/x", "a/..", &"d/".repeat(300), "."] {
        assert_eq!(code(&file(path), INSIDE), Err(Code::BadArchive), "{path}");
    }
    assert_eq!(code(&file("escape/x"), INSIDE), Err(Code::BadArchive));
    assert_eq!(code(&file("dangling/x"), INSIDE), Err(Code::NotFound));
    assert_eq!(code(&file("stays/x"), INSIDE), Ok(()));
    assert_eq!(code(&file("stays/x"), refused), Err(Code::BadArchive));
    // A link that the archive itself brings.
    let trap = |kind| archive(&[member("l", kind, b""), member("l/x", Kind::File, b"x")]);
    assert_eq!(code(&trap(Kind::Symlink(b"../out".to_vec())), INSIDE), Err(Code::BadArchive));
    assert_eq!(code(&trap(Kind::Symlink(b"../out".to_vec())), refused), Err(Code::BadArchive));
    let hard = |to: &str| archive(&[member("l", Kind::Link(to.into()), b"")]);
    for to in ["../out/x", "/etc/passwd", "nosuch", "real", ""] {
        assert_eq!(code(&hard(to), INSIDE), Err(Code::BadArchive), "{to}");
    }
    // A file takes a link's place, not its target's; a directory is not replaced, nor does one replace a file.
    assert_eq!(code(&file("escape"), refused), Ok(()));
    assert_eq!(code(&file("real"), INSIDE), Err(Code::InvalidRequest));
    let clash = archive(&[member("f", Kind::File, b"x"), member("f", Kind::Directory, b"")]);
    assert_eq!(code(&clash, INSIDE), Err(Code::InvalidRequest));
    assert_eq!(code(&archive(&[member("stays", Kind::Directory, b"")]), INSIDE), Ok(()));
    assert_eq!(code(&archive(&[member("escape", Kind::Directory, b"")]), INSIDE), Err(Code::BadArchive));
}

#[test]
fn what_is_no_archive_or_has_what_none_may_have_is_refused() {
    let code = |bytes: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), bytes, INSIDE).map_err(|e| e.code())
    };
    let good = member("a", Kind::File, &[7; 1000]);
    assert_eq!(code(&archive(std::slice::from_ref(&good))), Ok(()));
    assert_eq!((code(b""), code(&good)), (Ok(()), Ok(())), "an end without a mark");
    for bytes in [&b"rubbish"[..], &[b'x'; 2000], &good[..700], &good[..1500], &good[..100]] {
        assert_eq!(code(bytes), Err(Code::BadArchive), "{} bytes", bytes.len());
    }
    let flagged = |flag: u8| {
        let mut bytes = good.clone();
        bytes[156] = flag;
        bytes[148..156].fill(b' ');
        let sum: u32 = bytes[..512].iter().map(|b| u32::from(*b)).sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive(&[bytes])
    };
    for flag in [b'3', b'4', b'S', b'V', b'M', b'?', 255] {
        assert_eq!(code(&flagged(flag)), Err(Code::BadArchive), "{flag}");
    }
    // Headers about headers without end, and long ones.
    let about = flagged(b'L');
    assert_eq!(code(&about[..about.len() - 1024].repeat(20)), Err(Code::BadArchive));
    let mut long = member("x", Kind::File, &vec![b'a'; 100_000]);
    long[156] = b'x';
    long[148..156].fill(b' ');
    let sum: u32 = long[..512].iter().map(|b| u32::from(*b)).sum();
    long[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(code(&archive(&[long])), Err(Code::BadArchive));
    let long = "x".repeat(300);
    assert_eq!(code(&archive(&[member(&long, Kind::File, b"")])), Err(Code::BadArchive), "a name of 300 bytes");
}

proptest! {
    #[test]
    fn any_member_is_read_as_it_was_written(
        path in proptest::collection::vec(1_u8..=255, 1..300), link in proptest::collection::vec(1_u8..=255, 1..300),
        mode in 0_u32..0o10000, uid: u32, gid: u32, mtime in -(1_i64 << 40)..(1_i64 << 40), size in 0_u64..=i64::MAX as u64,
        which in 0_usize..4,
    ) {
        prop_assume!(path.last() != Some(&b'/'));
        let kind = [Kind::File, Kind::Directory, Kind::Symlink(link.clone()), Kind::Link(link)][which].clone();
        let size = if kind == Kind::File { size } else { 0 };
        let mut m = Member { path, kind, mode, uid, gid, mtime, size };
        let bytes = encode(&m);
        if m.kind == Kind::Directory {
            m.path.push(b'/');
        }
        prop_assert_eq!(Reader::new(&bytes[..]).next_member().unwrap(), Some(m));
    }

    #[test]
    fn rubbish_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..3000), at in 0_usize..1500, flag: u8) {
        let dir = tempfile::tempdir().unwrap();
        let _ = fill(dir.path(), &bytes, INSIDE);
        let mut good = archive(&[member("a", Kind::File, &[7; 600])]);
        good[at] = flag;
        good[148..156].fill(b' ');
        let sum: u32 = good[..512].iter().map(|b| u32::from(*b)).sum();
        good[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        good.append(&mut bytes);
        let _ = fill(dir.path(), &good, INSIDE);
    }
}

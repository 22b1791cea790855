//! Members as another reader sees them, and archives that are changed at random.

use std::collections::BTreeMap;
use std::io::Read;

use proptest::prelude::*;

use super::member::{Kind, Member, Members};
use super::{Limits, entry};

fn read(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, String> {
    let mut members = Members::new(bytes, true);
    let mut all = Vec::new();
    while let Some(member) = members.next().map_err(|e| e.text())? {
        let mut body = Vec::new();
        let mut buffer = [0_u8; 100];
        loop {
            match members.read(&mut buffer).map_err(|e| e.text())? {
                0 => break,
                n => body.extend_from_slice(&buffer[..n]),
            }
        }
        all.push((member, body));
    }
    Ok(all)
}

#[derive(Debug, Clone)]
struct Given {
    path: String,
    body: Vec<u8>,
    mode: u32,
    uid: u64,
    mtime: u64,
    xattr: Option<Vec<u8>>,
}

fn given() -> impl Strategy<Value = Given> {
    let path = prop::collection::vec("[a-zäö .=-]{1,60}", 1..6).prop_map(|parts| parts.join("/"));
    let path = path.prop_filter("plain", |p| !p.split('/').any(|n| n == "." || n == ".."));
    let body = prop::collection::vec(any::<u8>(), 0..1500);
    let xattr = prop::option::of(prop::collection::vec(any::<u8>(), 0..80));
    (path, body, 0_u32..0o7777, 0_u64..4_000_000_000, 0_u64..20_000_000_000, xattr)
        .prop_map(|(path, body, mode, uid, mtime, xattr)| Given { path, body, mode, uid, mtime, xattr })
}

fn pack(all: &[Given]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for g in all {
        if let Some(xattr) = &g.xattr {
            builder.append_pax_extensions([("SCHILY.xattr.user.x", xattr.as_slice())]).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(g.mode);
        header.set_uid(g.uid);
        header.set_gid(7);
        header.set_mtime(g.mtime);
        header.set_size(g.body.len() as u64);
        builder.append_data(&mut header, &g.path, &g.body[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_packed_is_read(all in prop::collection::vec(given(), 0..6)) {
        let found = read(&pack(&all)).unwrap();
        prop_assert_eq!(found.len(), all.len());
        for (g, (member, body)) in all.iter().zip(found) {
            prop_assert_eq!(g.path.as_bytes(), &member.path[..]);
            prop_assert_eq!(&g.body, &body);
            prop_assert_eq!((member.mode, u64::from(member.uid), member.gid), (g.mode, g.uid, 7));
            prop_assert_eq!(member.mtime, (i64::try_from(g.mtime).unwrap(), 0));
            prop_assert_eq!(member.kind, Kind::File);
            let xattrs: BTreeMap<_, _> = member.xattrs.into_iter().collect();
            prop_assert_eq!(g.xattr.as_ref(), xattrs.get("user.x"));
        }
    }

    /// Whatever is done to an archive: it is refused, or read as `tar` reads it.
    #[test]
    fn a_changed_archive_is_refused_or_read_as_others_read_it(
        all in prop::collection::vec(given(), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        mend in any::<bool>(),
    ) {
        let mut bytes = pack(&all);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if mend {
                mend_checksum(&mut bytes, at);
            }
        }
        if let Ok(ours) = read(&bytes) {
            let mut theirs = Vec::new();
            for member in tar::Archive::new(&bytes[..]).entries().unwrap() {
                let mut member = member.unwrap();
                let mut body = Vec::new();
                member.read_to_end(&mut body).unwrap();
                theirs.push((member.path_bytes().into_owned(), body));
            }
            let ours: Vec<_> = ours.into_iter().map(|(m, b)| (m.path, b)).collect();
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn any_bytes_end_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        prop_assert!(read(&bytes).is_err());
    }
}

/// Makes the header that `at` lies in valid again, if it is one.
fn mend_checksum(bytes: &mut [u8], at: usize) {
    let start = at / 512 * 512;
    let header = &mut bytes[start..start + 512];
    if &header[257..262] == b"ustar" {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

#[test]
fn the_tree_alone_keeps_every_path_inside() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let (root, outside) = (tmp.path().join("root"), tmp.path().join("outside"));
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(&outside).unwrap();
    // Without the worker's confinement: a link that exists inside the root too, so that the way is not cut short.
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o755);
    header.set_entry_type(tar::EntryType::Directory);
    builder.append_data(&mut header, outside.strip_prefix("/").unwrap(), std::io::empty()).unwrap();
    header.set_entry_type(tar::EntryType::Symlink);
    builder.append_link(&mut header, "e", &outside).unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(1);
    builder.append_data(&mut header, "e/file", &b"x"[..]).unwrap();
    let tar = builder.into_inner().unwrap();
    let dir = std::fs::File::open(&root).unwrap().into();
    let limits = Limits { bytes: 100, inodes: 100, must_end: true };
    entry::unpack(&tar[..], dir, &limits).unwrap();
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert!(root.join(outside.strip_prefix("/").unwrap()).join("file").exists());
}

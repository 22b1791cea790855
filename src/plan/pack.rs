//! How a checkpoint's files lie in packs, and what a manifest may say.
//!
//! A file is cut into runs of [`RUN`] bytes. A run of zeros is an extent without a frame; any other run is one zstd frame in a
//! pack. Packs hold [`PACK`] bytes or a little more. What a manifest says is a stranger's word: [`check_files`] is what makes
//! it safe to act on.

use crate::model::{Code, Error, Extent, FileImage, Result, SnapshotId};

/// Bytes of a file that become one frame.
pub const RUN: u64 = 1 << 20;
/// Bytes of a pack at which the next is begun.
pub const PACK: u64 = 32 << 20;
/// Bytes of one ranged read: neighbouring frames are fetched together.
pub const READ: u64 = 8 << 20;

/// Files that a checkpoint may have.
pub const FILES: [&str; 3] = ["checkpoint.img", "pages_meta.img", "pages.img"];
/// The file that is written while the pod stands still, and read meanwhile.
pub const PAGES: &str = "pages.img";

/// The file that holds what lay in the `n`th volume of a pod, from 0: a tar.
pub fn volume_file(n: usize) -> String {
    format!("volume-{n}.tar")
}

/// Whether a file holds what lay in a volume, and in which.
pub fn volume_of(name: &str) -> Option<usize> {
    let n = name.strip_prefix("volume-")?.strip_suffix(".tar")?.parse().ok()?;
    (n < super::admission::MOST_VOLUMES && volume_file(n) == name).then_some(n)
}

/// Bytes of all files together that a manifest may speak of: 16 TiB, more than any host can restore.
const MOST_BYTES: u64 = 1 << 44;

/// A pack's key below the store's prefix.
pub fn pack_key(id: &SnapshotId, n: u32) -> String {
    format!("v1/packs/{id}/{n}")
}

/// A manifest's key below the store's prefix.
pub fn manifest_key(id: &SnapshotId) -> String {
    format!("v1/snapshots/{id}/manifest")
}

fn is_pack_key(key: &str) -> bool {
    let Some((id, n)) = key.strip_prefix("v1/packs/").and_then(|k| k.split_once('/')) else { return false };
    id.parse::<SnapshotId>().is_ok() && n.len() <= 10 && n.parse::<u32>().is_ok_and(|x| x.to_string() == n)
}

/// Checks that a manifest's files can be fetched: known names, extents that cover each file exactly, sizes within bounds.
///
/// # Errors
/// [`Code::Damaged`], with what is wrong.
pub fn check_files(files: &[FileImage]) -> Result<()> {
    let bad = |what: String| Err(Error::new(Code::Damaged, format!("the manifest is damaged: {what}")));
    let mut all = 0_u64;
    for (n, file) in files.iter().enumerate() {
        let known = FILES.contains(&file.name.as_str()) || volume_of(&file.name).is_some();
        if !known || files[..n].iter().any(|f| f.name == file.name) {
            return bad(format!("a file {:?}", file.name.chars().take(40).collect::<String>()));
        }
        let mut covered = 0_u64;
        for e in &file.extents {
            let hole = e.size == 0;
            let sound = e.length > 0
                && e.length <= RUN
                && e.offset == 0
                && e.size <= 2 * RUN
                && e.frame.checked_add(e.size).is_some()
                && if hole {
                    e.pack.is_empty() && e.digest.is_empty()
                } else {
                    is_pack_key(&e.pack) && e.digest.len() == 64
                };
            if !sound {
                return bad(format!("an extent of {}", file.name));
            }
            covered += e.length;
        }
        all = all.saturating_add(file.length);
        if covered != file.length || all > MOST_BYTES {
            return bad(format!("the length of {}", file.name));
        }
    }
    if !files.iter().any(|f| f.name == FILES[0] && f.length > 0) {
        return bad(format!("no {}", FILES[0]));
    }
    Ok(())
}

/// Frames that lie side by side in one pack and are fetched by one read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The pack's key.
    pub pack: String,
    /// First byte.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
    /// What comes out of it: index of the file, offset in the file, extent.
    pub parts: Vec<(usize, u64, Extent)>,
}

/// The reads that fetch all files, in the order in which the frames lie.
pub fn reads(files: &[FileImage]) -> Vec<Read> {
    let mut all: Vec<(usize, u64, &Extent)> = Vec::new();
    for (n, file) in files.iter().enumerate() {
        let mut at = 0;
        for e in &file.extents {
            if e.size > 0 {
                all.push((n, at, e));
            }
            at += e.length;
        }
    }
    all.sort_by(|a, b| (&a.2.pack, a.2.frame).cmp(&(&b.2.pack, b.2.frame)));
    let mut reads: Vec<Read> = Vec::new();
    for (n, at, e) in all {
        let end = e.frame + e.size;
        match reads.last_mut() {
            Some(r) if r.pack == e.pack && r.end == e.frame && end - r.start <= READ => {
                r.end = end;
                r.parts.push((n, at, e.clone()));
            }
            _ => reads.push(Read { pack: e.pack.clone(), start: e.frame, end, parts: vec![(n, at, e.clone())] }),
        }
    }
    reads
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent(length: u64, frame: u64, size: u64) -> Extent {
        let (pack, digest) = if size == 0 {
            (String::new(), String::new())
        } else {
            (format!("v1/packs/{}/0", "a".repeat(32)), "0".repeat(64))
        };
        Extent { length, pack, frame, size, offset: 0, digest }
    }

    fn file(name: &str, extents: Vec<Extent>) -> FileImage {
        FileImage { name: name.into(), length: extents.iter().map(|e| e.length).sum(), extents }
    }

    #[test]
    fn what_a_stranger_may_not_say() {
        let good = file("checkpoint.img", vec![extent(RUN, 0, 10), extent(5, 0, 0)]);
        check_files(std::slice::from_ref(&good)).unwrap();
        check_files(&[good.clone(), file("volume-63.tar", vec![extent(5, 0, 0)])]).unwrap();
        let mut cases: Vec<Vec<FileImage>> = vec![vec![], vec![good.clone(), good.clone()]];
        for name in ["../checkpoint.img", "/etc/passwd", "x", "", "volume-64.tar", "volume-00.tar", "volume-../1.tar"] {
            cases.push(vec![good.clone(), file(name, vec![])]);
        }
        let mut change = |f: &dyn Fn(&mut FileImage)| {
            let mut x = good.clone();
            f(&mut x);
            cases.push(vec![x]);
        };
        change(&|x| x.length += 1);
        change(&|x| x.length = u64::MAX);
        change(&|x| x.extents[0].length = 0);
        change(&|x| x.extents[0].length = u64::MAX);
        change(&|x| x.extents[0].offset = 1);
        change(&|x| x.extents[0].frame = u64::MAX);
        change(&|x| x.extents[0].size = 4 * RUN);
        change(&|x| x.extents[0].pack = "v1/packs/../../x".into());
        change(&|x| x.extents[0].pack = format!("v1/packs/{}/00", "a".repeat(32)));
        change(&|x| x.extents[0].digest.clear());
        change(&|x| x.extents[1].pack = "x".into());
        for files in cases {
            assert_eq!(check_files(&files).unwrap_err().code(), Code::Damaged, "{files:?}");
        }
    }

    proptest! {
        #[test]
        fn reads_cover_every_frame_once(sizes in proptest::collection::vec(0_u64..2_000_000, 0..200)) {
            let mut frame = 0;
            let mut extents = Vec::new();
            for size in sizes {
                extents.push(extent(RUN, if size == 0 { 0 } else { frame }, size));
                frame += size;
            }
            let files = vec![file("pages.img", extents.clone())];
            let reads = reads(&files);
            let parts: Vec<_> = reads.iter().flat_map(|r| &r.parts).collect();
            prop_assert_eq!(parts.len(), extents.iter().filter(|e| e.size > 0).count());
            for r in &reads {
                prop_assert!(r.end - r.start <= READ || r.parts.len() == 1);
                prop_assert!(r.parts.iter().all(|(_, _, e)| e.frame >= r.start && e.frame + e.size <= r.end));
            }
        }
    }
}

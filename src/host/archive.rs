//! What an upload is: a root file system as one tar, an OCI layout, or what `docker save` writes; compressed or not.
//!
//! All of it is a stranger's. Documents are bounded, digests checked where they are given, nesting limited. Layers are only
//! handed on as streams: unpacking is the worker's.

mod directory;
mod image;
mod json;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

pub use directory::{pack_directory, pack_layers};
pub use image::{Image, ImageLayer};

use crate::host::files;
use crate::host::unpack::member::{Kind, Members, Wrong};
use crate::model::{Attempt, Code, Error, Result};

/// Files of an OCI layout or `docker save` archive.
const MOST_FILES: usize = 10_000;
/// Bytes by which an upload is taken for one or the other.
const HEAD: u64 = 256 * 1024;
/// Bytes of a name in one.
const LONGEST_NAME: usize = 1024;

/// A stream of tar bytes.
pub type Decompressed = Box<dyn Read + Send>;

/// What an upload turned out to be.
pub enum Contents {
    /// One root file system.
    Rootfs(Decompressed),
    /// Layers and a configuration.
    Image(Box<Image>),
}

/// The files of an archive that can be read at any place.
pub(super) struct Index {
    pub(super) file: File,
    pub(super) entries: BTreeMap<String, (u64, u64)>,
}

impl Index {
    /// One entry as a stream.
    fn reader(&self, name: &str) -> Result<std::io::Take<BufReader<File>>> {
        let (offset, size) = *self
            .entries
            .get(name)
            .ok_or_else(|| Error::new(Code::BadArchive, format!("the image lacks {name:?}, which it names itself")))?;
        // Opened anew: a duplicate of a descriptor shares its position with the first.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file));
        let mut file = File::open(path).attempt(Code::Internal, || "read the upload".into())?;
        file.seek(SeekFrom::Start(offset)).attempt(Code::Internal, || "read the upload".into())?;
        Ok(BufReader::new(file).take(size))
    }
}

/// Undoes compression, told by the first bytes.
///
/// # Errors
/// The stream can't be read.
pub fn decompress(reader: Box<dyn Read + Send>) -> Result<Decompressed> {
    let mut reader = reader;
    let mut head = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut head).attempt(Code::BadArchive, || "read the archive".into())?;
    let whole = std::io::Cursor::new(head.clone()).chain(reader);
    Ok(match head.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(BufReader::with_capacity(1 << 16, flate2::read::MultiGzDecoder::new(whole))),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let mut decoder = zstd::Decoder::new(whole).attempt(Code::BadArchive, || "read the zstd stream".into())?;
            // Or a few bytes could demand gigabytes of window.
            decoder.window_log_max(27).attempt(Code::Internal, || "bound the zstd window".into())?;
            Box::new(decoder)
        }
        [b'B', b'Z', b'h', _] | [0xfd, b'7', b'z', b'X'] => {
            return Err(Error::new(Code::BadArchive, "the archive is compressed by bzip2 or xz, which are not read")
                .hint("give a plain tar, .tar.gz or .tar.zst"));
        }
        _ => Box::new(BufReader::with_capacity(1 << 16, whole)),
    })
}

/// Names that stand in an OCI layout or a `docker save` archive, and in no root file system.
fn belongs_to_image(name: &str) -> bool {
    let hex = |s: &str| s.len() == 64 && s.bytes().all(|b| b.is_ascii_hexdigit());
    let first = name.split('/').next().unwrap_or("");
    matches!(first, "blobs" | "oci-layout" | "index.json" | "manifest.json" | "repositories" | "")
        || hex(first)
        || first.strip_suffix(".json").is_some_and(hex)
        || first.strip_suffix(".tar").is_some_and(hex)
}

/// Finds out what an upload is. `tmp`: where an image is decompressed to, `limit` bytes at most, for it is read at any
/// place; a root file system is handed on as it comes.
///
/// # Errors
/// [`Code::BadArchive`]: it is none of what is understood.
pub fn open(stream: Box<dyn Read + Send>, tmp: &Path, limit: u64) -> Result<Contents> {
    let mut tar = decompress(stream)?;
    let what = || "read the archive".to_owned();
    let mut head = Vec::new();
    tar.by_ref().take(HEAD).read_to_end(&mut head).attempt(Code::BadArchive, what)?;
    if head.is_empty() {
        return Err(Error::new(Code::BadArchive, "the image is empty").hint("send a tar, .tar.gz or .tar.zst"));
    }
    let is_candidate = looks_like_image(&head);
    let tar = std::io::Cursor::new(head).chain(tar);
    if !is_candidate {
        return Ok(Contents::Rootfs(Box::new(tar)));
    }
    let mut plain =
        tempfile::tempfile_in(tmp).map_err(|e| files::disk_error(e, Code::Internal, "make a file for the image"))?;
    let copied = std::io::copy(&mut tar.take(limit.saturating_add(1)), &mut plain);
    let copied = copied.map_err(|e| files::disk_error(e, Code::BadArchive, "keep the image"))?;
    if copied > limit {
        return Err(Error::new(Code::TooLarge, format!("the image is larger than {limit} bytes")));
    }
    plain.seek(SeekFrom::Start(0)).attempt(Code::Internal, what)?;
    let index = Index::read(plain, copied)?;
    if index.entries.contains_key("oci-layout") || index.entries.contains_key("manifest.json") {
        return Ok(Contents::Image(Box::new(image::read(index)?)));
    }
    let mut plain = index.file;
    plain.seek(SeekFrom::Start(0)).attempt(Code::Internal, what)?;
    Ok(Contents::Rootfs(Box::new(BufReader::new(plain))))
}

fn damaged(wrong: &Wrong) -> Error {
    Error::new(Code::BadArchive, format!("read the archive: {}", wrong.text()))
}

fn plain_name(path: &[u8]) -> String {
    let name = String::from_utf8_lossy(path);
    name.trim_start_matches("./").trim_end_matches('/').to_owned()
}

/// By the first names in it. What can't be read is left to the worker, which says why.
fn looks_like_image(head: &[u8]) -> bool {
    let mut members = Members::new(head, false);
    for _ in 0..MOST_FILES {
        let Ok(Some(member)) = members.next() else { return false };
        let name = plain_name(&member.path);
        if matches!(name.as_str(), "oci-layout" | "manifest.json") {
            return true;
        }
        if !belongs_to_image(&name) {
            return false;
        }
        // Enough to take it for one: whether it is, its index tells.
        if member.kind == Kind::File {
            return true;
        }
    }
    false
}

impl Index {
    fn read(file: File, length: u64) -> Result<Self> {
        let mut members =
            Members::over_file(file.try_clone().attempt(Code::Internal, || "read the upload".to_owned())?);
        let (mut entries, mut links, mut twice) = (BTreeMap::new(), Vec::new(), None);
        while let Some(member) = members.next().map_err(|e| damaged(&e))? {
            let name = plain_name(&member.path);
            let inside = member.offset.checked_add(member.size).is_some_and(|end| end <= length);
            if !inside || name.len() > LONGEST_NAME || entries.len() + links.len() > MOST_FILES {
                return Err(Error::new(Code::BadArchive, "the image is cut off, or has too many or too long names"));
            }
            match member.kind {
                // A sparse file's bytes do not lie in a row.
                Kind::File if member.pieces.len() == 1 => {
                    let before = entries.insert(name.clone(), (member.offset, member.size));
                    twice = twice.or(before.map(|_| name));
                }
                // Old `docker save` links equal layers to each other.
                Kind::Symlink(target) | Kind::Link(target) => {
                    links.push((name, String::from_utf8_lossy(&target).trim_start_matches("../").to_owned()));
                }
                _ => {}
            }
        }
        if let Some(name) = twice {
            return Err(Error::new(Code::BadArchive, format!("the image has {name:?} twice")));
        }
        for (name, target) in links {
            if let Some(place) = entries.get(&target).copied() {
                entries.entry(name).or_insert(place);
            }
        }
        Ok(Index { file, entries })
    }
}

/// Whether what a sandbox's root holds beyond its image is more than the files that init itself writes.
///
/// # Errors
/// The tar can't be read.
pub fn holds_changes(tar: File) -> Result<bool> {
    let mut members = Members::over_file(tar);
    while let Some(member) = members.next().map_err(|e| damaged(&e))? {
        let of_init = matches!(
            plain_name(&member.path).as_str(),
            "" | "." | "etc" | "run" | "etc/hosts" | "etc/hostname" | "etc/resolv.conf" | ".torpor"
        );
        if !of_init {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The layer that holds init, the same bytes for the same init.
///
/// # Errors
/// It can't be packed.
pub fn init_layer(init: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, mode: u32, size: u64| {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(kind);
        h.set_mode(mode);
        h.set_size(size);
        h.set_mtime(0);
        h.set_uid(0);
        h.set_gid(0);
        h
    };
    // Where things are mounted in every pod, whatever its image has. Topmost: these permissions are what a pod sees.
    let dirs = [
        ("./", 0o755),
        (".torpor/", 0o755),
        ("dev/", 0o755),
        ("etc/", 0o755),
        ("proc/", 0o555),
        ("run/", 0o755),
        ("run/secrets/", 0o700),
        ("sys/", 0o555),
        ("tmp/", 0o1777),
    ];
    for (dir, mode) in dirs {
        builder.append_data(&mut header(tar::EntryType::Directory, mode, 0), dir, std::io::empty())?;
    }
    builder.append_data(&mut header(tar::EntryType::Regular, 0o555, init.len() as u64), ".torpor/init", init)?;
    builder.into_inner()
}

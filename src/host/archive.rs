//! What an upload is: a root file system as one tar, an OCI layout, or what `docker save` writes; compressed or not.
//!
//! All of it is a stranger's. Documents are bounded, digests checked where they are given, nesting limited. Layers are only
//! handed on as streams: unpacking is the worker's.

mod image;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

pub use image::{Image, ImageLayer};

use crate::model::{Attempt, Code, Error, Result};

/// A stream of tar bytes.
pub type Decompressed = Box<dyn Read + Send>;

/// What an upload turned out to be.
pub enum Contents {
    /// One root file system.
    Rootfs(Decompressed),
    /// Layers and a configuration.
    Image(Image),
}

/// The files of an archive that can be read at any place.
pub(super) struct Index {
    pub(super) file: File,
    pub(super) entries: BTreeMap<String, (u64, u64)>,
}

impl Index {
    /// One entry as a stream.
    fn reader(&self, name: &str) -> Result<impl Read + Send + use<>> {
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

/// Finds out what an upload is. `tmp`: where it may be decompressed to, `limit` bytes at most.
///
/// # Errors
/// [`Code::BadArchive`]: it is none of what is understood.
pub fn open(mut spool: File, tmp: &Path, limit: u64) -> Result<Contents> {
    let what = || "read the upload".to_owned();
    let length = spool.metadata().attempt(Code::Internal, what)?.len();
    if length == 0 {
        return Err(Error::new(Code::BadArchive, "the image is empty").hint("send a tar, .tar.gz or .tar.zst"));
    }
    let again = |spool: &mut File| -> Result<Decompressed> {
        spool.seek(SeekFrom::Start(0)).attempt(Code::Internal, what)?;
        decompress(Box::new(spool.try_clone().attempt(Code::Internal, what)?))
    };
    let mut is_image = false;
    let mut archive = tar::Archive::new(again(&mut spool)?);
    let damaged = |e: std::io::Error| Error::new(Code::BadArchive, "read the archive").because(e);
    for (n, entry) in archive.entries().map_err(damaged)?.enumerate() {
        let entry = entry.map_err(damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        if matches!(name.as_str(), "oci-layout" | "manifest.json") {
            is_image = true;
            break;
        }
        if !belongs_to_image(&name) || n > 10_000 {
            break;
        }
    }
    if !is_image {
        return Ok(Contents::Rootfs(again(&mut spool)?));
    }
    // Read at any place, so not compressed.
    let mut plain = tempfile::tempfile_in(tmp).attempt(Code::Internal, what)?;
    let copied = std::io::copy(&mut again(&mut spool)?.take(limit + 1), &mut plain).map_err(damaged)?;
    if copied > limit {
        return Err(Error::new(Code::TooLarge, format!("the image is larger than {limit} bytes")));
    }
    plain.seek(SeekFrom::Start(0)).attempt(Code::Internal, what)?;
    let mut entries = BTreeMap::new();
    let mut links = Vec::new();
    let mut archive = tar::Archive::new(BufReader::new(plain.try_clone().attempt(Code::Internal, what)?));
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        match entry.header().entry_type() {
            tar::EntryType::Regular => drop(entries.insert(name, (entry.raw_file_position(), entry.size()))),
            // Old `docker save` links equal layers to each other.
            tar::EntryType::Symlink | tar::EntryType::Link => {
                links.extend(entry.link_name_bytes().map(|l| (name, String::from_utf8_lossy(&l).into_owned())));
            }
            _ => {}
        }
        if entries.len() > 10_000 {
            return Err(Error::new(Code::BadArchive, "the image has too many files"));
        }
    }
    for (name, target) in links {
        let target = target.trim_start_matches("../");
        if let Some(place) = entries.get(target).copied() {
            entries.insert(name, place);
        }
    }
    Ok(Contents::Image(image::read(Index { file: plain, entries })?))
}

/// Whether what a sandbox's root holds beyond its image is more than the files that init itself writes.
///
/// # Errors
/// The tar can't be read.
pub fn holds_changes(tar: impl Read) -> Result<bool> {
    let damaged = |e: std::io::Error| Error::new(Code::BadArchive, "read the pod's root").because(e);
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let name =
            String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").trim_end_matches('/').to_owned();
        let of_init =
            matches!(name.as_str(), "" | "etc" | "run" | "etc/hosts" | "etc/hostname" | "etc/resolv.conf" | ".torpor");
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
    // Where things are mounted in every pod, whatever its image has.
    for dir in [".torpor/", "dev/", "proc/", "run/", "run/secrets/", "sys/"] {
        builder.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), dir, std::io::empty())?;
    }
    builder.append_data(&mut header(tar::EntryType::Regular, 0o555, init.len() as u64), ".torpor/init", init)?;
    builder.into_inner()
}

/// Packs a directory of this host: always the same tar for the same tree. Sockets are left out; other file systems too.
///
/// # Errors
/// It can't be read.
pub fn pack_directory(dir: &Path, out: File) -> Result<()> {
    let what = || format!("read directory {}", dir.display());
    if !dir.is_absolute() || !dir.is_dir() {
        return Err(
            Error::invalid(format!("{} is no directory of this host", dir.display())).hint("give an absolute path")
        );
    }
    let mut builder = tar::Builder::new(std::io::BufWriter::new(out));
    builder.follow_symlinks(false);
    builder.sparse(false);
    let device = std::fs::symlink_metadata(dir).attempt(Code::InvalidRequest, what)?.dev();
    let mut inodes = BTreeMap::new();
    pack(&mut builder, dir, Path::new(""), device, &mut inodes).attempt(Code::InvalidRequest, what)?;
    let mut out = builder.into_inner().attempt(Code::Internal, what)?;
    out.flush().attempt(Code::Exhausted, what)
}

fn pack<W: Write>(
    builder: &mut tar::Builder<W>,
    dir: &Path,
    below: &Path,
    device: u64,
    inodes: &mut BTreeMap<u64, PathBuf>,
) -> std::io::Result<()> {
    let mut names: Vec<_> = std::fs::read_dir(dir)?.map(|e| e.map(|e| e.file_name())).collect::<Result<_, _>>()?;
    names.sort();
    for name in names {
        let (path, inner) = (dir.join(&name), below.join(&name));
        let meta = std::fs::symlink_metadata(&path)?;
        if meta.file_type().is_socket() || meta.dev() != device {
            continue;
        }
        append_xattrs(builder, &path, &meta)?;
        if meta.is_file() && meta.nlink() > 1 {
            if let Some(first) = inodes.get(&meta.ino()) {
                let mut header = tar::Header::new_gnu();
                header.set_metadata(&meta);
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                builder.append_link(&mut header, &inner, first)?;
                continue;
            }
            inodes.insert(meta.ino(), inner.clone());
        }
        builder.append_path_with_name(&path, &inner)?;
        if meta.is_dir() {
            pack(builder, &path, &inner, device, inodes)?;
        }
    }
    Ok(())
}

/// Extended attributes that layers keep, as PAX records before the entry.
fn append_xattrs<W: Write>(
    builder: &mut tar::Builder<W>,
    path: &Path,
    meta: &std::fs::Metadata,
) -> std::io::Result<()> {
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let mut names = vec![0_u8; 64 * 1024];
    let Ok(n) = rustix::fs::llistxattr(path, &mut names[..]) else { return Ok(()) };
    let mut found = Vec::new();
    for name in names[..n].split(|b| *b == 0).filter_map(|n| std::str::from_utf8(n).ok()) {
        if name.starts_with("user.") || name == "security.capability" {
            let mut value = vec![0_u8; 64 * 1024];
            let n = rustix::fs::lgetxattr(path, name, &mut value[..])?;
            value.truncate(n);
            found.push((format!("SCHILY.xattr.{name}"), value));
        }
    }
    found.sort();
    builder.append_pax_extensions(found.iter().map(|(k, v)| (k.as_str(), v.as_slice())))
}

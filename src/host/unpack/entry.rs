//! One member of the tar after the other becomes a file of the layer.

use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use super::member::{Kind, Member, Members, Wrong, Xattrs, show};
use super::tree::{self, Attributes, Found, Place, Tree, split};
use super::{Limits, OPAQUE, Stop};

const LONGEST_PATH: usize = 4095;
const LONGEST_NAME: usize = 255;
const DEEPEST: usize = 256;
/// Links to one file: less than any file system's own limit.
const MOST_LINKS: u64 = 60_000;
/// Bytes of directories' paths that are remembered until their times are set.
const REMEMBERED: usize = 256 << 20;
const WHITEOUT: &[u8] = b".wh.";
const BLOCK: usize = 64 * 1024;

/// What was unpacked.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    /// Bytes of regular files.
    pub(super) bytes: u64,
    /// Directories that hide what lies below them, the root as an empty path. To be marked by who may.
    pub(super) opaque: Vec<Vec<u8>>,
}

struct Unpacker<'a> {
    tree: Tree,
    limits: &'a Limits,
    done: Unpacked,
    inodes: u64,
    /// Directories and their times: set last, since what is put into them changes them.
    times: Vec<(Vec<u8>, (i64, i64))>,
    remembered: usize,
}

/// Unpacks a tar into a directory.
pub(super) fn unpack(tar: impl io::Read, root: OwnedFd, limits: &Limits) -> Result<Unpacked, Stop> {
    let mut members = Members::new(tar, limits.must_end);
    let tree = Tree::new(root);
    let mut unpacker =
        Unpacker { tree, limits, done: Unpacked::default(), inodes: 0, times: Vec::new(), remembered: 0 };
    loop {
        let member = match members.next() {
            Ok(Some(member)) => member,
            Ok(None) => break,
            Err(wrong) => return Err(Stop::Bad(wrong.text())),
        };
        unpacker.take(&member, &mut members)?;
    }
    unpacker.set_times();
    Ok(unpacker.done)
}

/// The path of a member below the root, without empty parts and dots.
///
/// Refused: absolute, climbing, or longer than file systems take.
fn clean(raw: &[u8]) -> Result<Vec<u8>, String> {
    if raw.is_empty() {
        return Err("an empty path".into());
    }
    if raw.contains(&0) {
        return Err("a NUL byte stands in the path".into());
    }
    if raw.starts_with(b"/") {
        return Err("the path is absolute".into());
    }
    let mut clean: Vec<u8> = Vec::with_capacity(raw.len());
    let mut depth = 0;
    for name in raw.split(|b| *b == b'/').filter(|n| !matches!(*n, b"" | b".")) {
        if name == b".." {
            return Err("the path climbs out of the layer".into());
        }
        if name.len() > LONGEST_NAME {
            return Err("a name in the path is too long".into());
        }
        if depth > 0 {
            clean.push(b'/');
        }
        clean.extend_from_slice(name);
        depth += 1;
    }
    if clean.len() > LONGEST_PATH || depth > DEEPEST {
        return Err("the path is too long or too deep".into());
    }
    Ok(clean)
}

/// The attributes that a layer may have; those of other systems are left out. The flag says that the directory is opaque.
fn kept_xattrs(member: &Member) -> Result<(Xattrs, bool), String> {
    let (mut kept, mut opaque) = (Vec::new(), false);
    for (name, value) in &member.xattrs {
        if name == OPAQUE && value == b"y" && member.kind == Kind::Directory {
            opaque = true; // so does `runsc tar rootfs-upper` write it
        } else if name.starts_with("trusted.") || name.starts_with("user.overlay.") {
            return Err(format!("the attribute {} steers overlayfs", show(name.as_bytes())));
        } else if name.starts_with("user.") || (name == "security.capability" && member.kind == Kind::File) {
            kept.push((name.clone(), value.clone()));
        }
    }
    Ok((kept, opaque))
}

impl Unpacker<'_> {
    fn take<R: io::Read>(&mut self, member: &Member, members: &mut Members<R>) -> Result<(), Stop> {
        let wrong = |why: String| Stop::Bad(format!("{}: {why}", show(&member.path)));
        let at = |e: io::Error| Stop::Io(show(&member.path), e);
        let path = clean(&member.path).map_err(wrong)?;
        self.count()?;
        let (dir, name) = split(&path);
        if dir.split(|b| *b == b'/').any(|n| n.starts_with(WHITEOUT)) {
            return Err(wrong("a file below a whiteout".into()));
        }
        let (xattrs, opaque) = kept_xattrs(member).map_err(wrong)?;
        let attributes = Attributes { uid: member.uid, gid: member.gid, mode: member.mode, mtime: member.mtime };
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if !matches!(member.kind, Kind::File | Kind::Link(_)) || member.size != 0 {
                return Err(wrong("a whiteout that is no empty file".into()));
            }
            return self.whiteout(dir, hidden, member);
        }
        if name.is_empty() {
            if member.kind != Kind::Directory {
                return Err(wrong("the layer's root is no directory".into()));
            }
            self.tree.set_root(&attributes).map_err(at)?;
            if opaque {
                self.done.opaque.push(Vec::new());
            }
            return self.remember(path, member.mtime);
        }
        self.make_parents(dir, member)?;
        let place = self.tree.place(&path).map_err(at)?.ok_or_else(|| wrong("no name".into()))?;
        let found = place.look().map_err(at)?;
        match &member.kind {
            Kind::Directory => {
                if found != Found::Directory {
                    place.clear().and_then(|()| place.make_dir()).map_err(at)?;
                }
                // A whiteout and then a directory: what the lower layers have there stays hidden.
                if opaque || found == Found::Whiteout {
                    self.done.opaque.push(path.clone());
                }
                tree::set(&place.open_dir().map_err(at)?, &attributes, &xattrs).map_err(at)?;
                self.remember(path, member.mtime)
            }
            Kind::File => {
                place.clear().map_err(at)?;
                self.file(&place, member, members, &attributes, &xattrs)
            }
            Kind::Symlink(target) => {
                if target.is_empty() || target.len() > LONGEST_PATH || target.contains(&0) {
                    return Err(wrong("an impossible target of a link".into()));
                }
                place.clear().and_then(|()| place.make_symlink(target)).map_err(at)?;
                place.set_link(&attributes).map_err(at)
            }
            Kind::Link(target) => self.link(&place, found, member, target),
            Kind::Fifo => {
                place.clear().and_then(|()| place.make_fifo()).map_err(at)?;
                place.set_fifo(&attributes).map_err(at)
            }
            Kind::Char(0, 0) => place.clear().and_then(|()| place.make_whiteout()).map_err(at),
            Kind::Char(..) | Kind::Block => {
                Err(wrong("devices are not allowed in a layer (leave /dev out: every pod has its own)".into()))
            }
        }
    }

    fn count(&mut self) -> Result<(), Stop> {
        self.inodes += 1;
        if self.inodes > self.limits.inodes {
            return Err(Stop::Large(format!("more than {} files", self.limits.inodes)));
        }
        Ok(())
    }

    fn remember(&mut self, path: Vec<u8>, mtime: (i64, i64)) -> Result<(), Stop> {
        self.remembered += path.len() + 64;
        if self.remembered > REMEMBERED {
            return Err(Stop::Large("the paths of its directories are too long".into()));
        }
        self.times.push((path, mtime));
        Ok(())
    }

    /// The times of directories; one that was replaced since then has lost its own.
    fn set_times(&mut self) {
        for (path, mtime) in &self.times {
            let _ = match self.tree.place(path) {
                Ok(Some(place)) if matches!(place.look(), Ok(Found::Directory)) => place.set_time(*mtime),
                Ok(None) => self.tree.set_root_time(*mtime),
                _ => Ok(()),
            };
        }
    }

    /// Directories above an entry that the archive does not mention.
    fn make_parents(&mut self, dir: &[u8], member: &Member) -> Result<(), Stop> {
        match self.tree.dir(dir) {
            Ok(_) => return Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {}
            Err(e) => return Err(Stop::Io(show(&member.path), e)),
        }
        let at = |e: io::Error| Stop::Io(show(&member.path), e);
        let ends = dir.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i).chain([dir.len()]);
        for end in ends {
            let path = &dir[..end];
            let Some(place) = self.tree.place(path).map_err(at)? else { continue };
            let found = place.look().map_err(at)?;
            match found {
                Found::Directory => continue,
                Found::Nothing => {}
                Found::Whiteout => {
                    place.clear().map_err(at)?;
                    self.done.opaque.push(path.to_vec());
                }
                // A link to a directory; to nothing, or a file: the entry has no place.
                Found::Other { .. } => match self.tree.dir(path) {
                    Ok(_) => continue,
                    Err(_) => {
                        let why = format!("{}: {} is no directory", show(&member.path), show(path));
                        return Err(Stop::Bad(why));
                    }
                },
            }
            self.count()?;
            place.make_dir().map_err(at)?;
        }
        Ok(())
    }

    /// OCI whiteouts, put as overlayfs has them. They speak of lower layers only: what this one has itself stays.
    fn whiteout(&mut self, dir: &[u8], hidden: &[u8], member: &Member) -> Result<(), Stop> {
        let at = |e: io::Error| Stop::Io(show(&member.path), e);
        if hidden == b".wh..opq" {
            self.make_parents(dir, member)?;
            self.done.opaque.push(dir.to_vec());
            return Ok(());
        }
        if hidden.starts_with(WHITEOUT) {
            return Ok(()); // what AUFS kept for itself
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Stop::Bad(format!("{}: a whiteout of nothing", show(&member.path))));
        }
        self.make_parents(dir, member)?;
        let path = [dir, if dir.is_empty() { b"" } else { b"/" }, hidden].concat();
        let Some(place) = self.tree.place(&path).map_err(at)? else { return Ok(()) };
        match place.look().map_err(at)? {
            Found::Nothing => place.make_whiteout().map_err(at),
            Found::Directory => {
                self.done.opaque.push(path);
                Ok(())
            }
            Found::Whiteout | Found::Other { .. } => Ok(()),
        }
    }

    fn file<R: io::Read>(
        &mut self,
        place: &Place<'_>,
        member: &Member,
        members: &mut Members<R>,
        attributes: &Attributes,
        xattrs: &Xattrs,
    ) -> Result<(), Stop> {
        let at = |e: io::Error| Stop::Io(show(&member.path), e);
        let sum = self.done.bytes.checked_add(member.size).filter(|n| *n <= self.limits.bytes);
        self.done.bytes = sum.ok_or_else(|| {
            Stop::Large(format!("{}: the layer becomes larger than {} bytes", show(&member.path), self.limits.bytes))
        })?;
        let mut file = place.make_file().map_err(at)?;
        let mut buffer = vec![0_u8; BLOCK];
        for (offset, length) in &member.pieces {
            file.seek(SeekFrom::Start(*offset)).map_err(at)?;
            let mut left = *length;
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
                let n = match members.read(&mut buffer[..most]) {
                    Ok(0) => return Err(Stop::Bad(format!("{}: too few bytes", show(&member.path)))),
                    Ok(n) => n,
                    Err(Wrong::Io(e)) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(wrong) => return Err(Stop::Bad(format!("{}: {}", show(&member.path), wrong.text()))),
                };
                file.write_all(&buffer[..n]).map_err(at)?;
                left -= n as u64;
            }
        }
        if member.pieces.len() != 1 || member.pieces[0] != (0, member.size) {
            file.set_len(member.size).map_err(at)?;
        }
        tree::set(&file, attributes, xattrs).map_err(at)?;
        tree::set_time(&file, member.mtime).map_err(at)
    }

    fn link(&mut self, place: &Place<'_>, found: Found, member: &Member, target: &[u8]) -> Result<(), Stop> {
        let wrong = |why: String| Stop::Bad(format!("{}: a link to {}: {why}", show(&member.path), show(target)));
        let at = |e: io::Error| Stop::Io(format!("{}: a link to {}", show(&member.path), show(target)), e);
        let path = clean(target).map_err(wrong)?;
        let target = self.tree.place(&path).map_err(at)?.ok_or_else(|| wrong("the root".into()))?;
        match target.look().map_err(at)? {
            Found::Nothing => Err(wrong("it is not in this layer".into())),
            Found::Directory => Err(wrong("it is a directory".into())),
            // `runsc tar rootfs-upper` writes a second whiteout so.
            Found::Whiteout => place.clear().and_then(|()| place.make_whiteout()).map_err(at),
            Found::Other { links, .. } if links >= MOST_LINKS => Err(Stop::Large("too many links to one file".into())),
            same @ Found::Other { .. } if same == found => Ok(()),
            Found::Other { .. } => place.clear().and_then(|()| place.make_link(&target)).map_err(at),
        }
    }
}

//! The members of a tar, one after the other: read strictly, so that no other reader sees another archive in the same bytes.
//!
//! Why not `tar::Archive`: it takes PAX values with a line feed in them (binary attributes) for damage, and extension headers
//! of any size into memory. Its header fields are used. What two readers could understand differently is refused:
//! duplicate or contradicting records, sizes that disagree, data where none belongs, anything behind the end.

use std::fs::File;
use std::io::{self, BufReader, Read};

use tar::{EntryType, Header};

use super::pax::{self, Records};

/// Bytes of one extension header (long name, PAX records).
const EXTENSION: u64 = 1 << 20;
pub(super) const BLOCK: usize = 512;
/// The largest size that a plain octal field holds.
const OCTAL_MOST: u64 = 0o777_7777_7777;

/// Why an archive is not read on.
#[derive(Debug)]
pub(crate) enum Wrong {
    /// It is damaged, or could be understood in several ways.
    Bad(String),
    /// Its bytes can't be read.
    Io(io::Error),
}

impl Wrong {
    /// In words.
    pub(crate) fn text(&self) -> String {
        match self {
            Wrong::Bad(t) => t.clone(),
            Wrong::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => "the archive is cut off".into(),
            Wrong::Io(e) => e.to_string(),
        }
    }
}

impl From<io::Error> for Wrong {
    fn from(e: io::Error) -> Self {
        Wrong::Io(e)
    }
}

pub(super) fn bad<T>(message: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong::Bad(message.into()))
}

/// A name made fit for a message.
pub(crate) fn show(name: &[u8]) -> String {
    let text: String = name.iter().take(200).copied().flat_map(std::ascii::escape_default).map(char::from).collect();
    if name.len() > 200 { format!("\"{text}…\"") } else { format!("\"{text}\"") }
}

/// Extended attributes: names and values.
pub(crate) type Xattrs = Vec<(String, Vec<u8>)>;

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to that.
    Symlink(Vec<u8>),
    /// A hard link to that member.
    Link(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A character device.
    Char(u32, u32),
    /// A block device.
    Block,
}

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its name as it stands there: not checked.
    pub(crate) path: Vec<u8>,
    /// What it is.
    pub(crate) kind: Kind,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner; never the number that means "nobody asked".
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, i64),
    /// Bytes of the file once it is there.
    pub(crate) size: u64,
    /// Where the stored bytes belong: offset and length. One piece unless the file is sparse.
    pub(crate) pieces: Vec<(u64, u64)>,
    /// Where its bytes begin in the archive.
    pub(crate) offset: u64,
    /// Extended attributes.
    pub(crate) xattrs: Xattrs,
}

/// Reads members.
pub(crate) struct Members<R> {
    tar: R,
    skip: fn(&mut R, u64) -> io::Result<()>,
    /// Bytes taken so far.
    pub(super) position: u64,
    /// Stored bytes of the present member that are not read yet, and the padding behind them.
    pub(super) left: u64,
    padding: u64,
    must_end: bool,
}

impl Members<BufReader<File>> {
    /// Over a file: contents are skipped, not read. Whether they lie within the file is for the caller to see.
    pub(crate) fn over_file(file: File) -> Self {
        let skip = |r: &mut BufReader<File>, n: u64| match i64::try_from(n) {
            Ok(n) => r.seek_relative(n),
            Err(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        Members { skip, ..Members::new(BufReader::new(file), true) }
    }
}

impl<R: Read> Members<R> {
    /// Over a stream. `must_end`: an archive without its end marker was cut off.
    pub(crate) fn new(tar: R, must_end: bool) -> Self {
        Members { tar, skip: read_over, position: 0, left: 0, padding: 0, must_end }
    }

    /// The next member, or none behind the last.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, Wrong> {
        let (mut long_name, mut long_link, mut records) = (None, None, None);
        loop {
            self.pass(self.left + self.padding)?;
            let Some(header) = self.header()? else {
                if long_name.is_some() || long_link.is_some() || records.is_some() {
                    return bad("extension headers describe a member that is not there");
                }
                return Ok(None);
            };
            let size = or_blank(header.entry_size(), &header.as_old().size).map_err(|e| Wrong::Bad(e.to_string()))?;
            let kind = header.entry_type();
            let extends = matches!(
                kind,
                EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader
            );
            // Some readers take such a header for a file.
            if extends && header.as_gnu().is_none() && header.as_ustar().is_none() {
                return bad("an extension header in a header of no known format");
            }
            let slot = match kind {
                EntryType::GNULongName => &mut long_name,
                EntryType::GNULongLink => &mut long_link,
                EntryType::XHeader => &mut records,
                EntryType::XGlobalHeader => {
                    let text = self.extension(size)?;
                    if pax::parse(&text)?.keys().any(|k| *k != b"comment") {
                        return bad("global records other than a comment are not understood");
                    }
                    continue;
                }
                _ => {
                    let records = records.unwrap_or_default();
                    return self.member(&header, size, long_name, long_link, &pax::parse(&records)?).map(Some);
                }
            };
            if slot.is_some() {
                return bad("two extension headers of the same kind describe one member");
            }
            *slot = Some(self.extension(size)?);
        }
    }

    /// Reads stored bytes of the present member; 0 behind the last.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Wrong> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let n = self.tar.read(&mut buffer[..most])?;
        if n == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.left -= n as u64;
        self.position += n as u64;
        Ok(n)
    }

    fn pass(&mut self, bytes: u64) -> Result<(), Wrong> {
        (self.skip)(&mut self.tar, bytes)?;
        self.position = self.position.checked_add(bytes).ok_or_else(|| Wrong::Bad("an impossible size".into()))?;
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// A block; none if the archive ends here.
    pub(super) fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, Wrong> {
        let mut have = 0;
        while have < BLOCK {
            match self.tar.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(false),
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.position += BLOCK as u64;
        Ok(true)
    }

    fn header(&mut self) -> Result<Option<Header>, Wrong> {
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            return if self.must_end { bad("the archive has no end: it was cut off") } else { Ok(None) };
        }
        let bytes = header.as_bytes();
        if bytes.iter().all(|b| *b == 0) {
            self.only_zeros()?;
            return Ok(None);
        }
        let sum: u32 =
            bytes.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
        match header.cksum() {
            Ok(n) if n == sum => Ok(Some(header)),
            _ => bad("this is no tar, or a damaged one: a header's checksum is wrong"),
        }
    }

    /// Behind the end marker there is nothing but padding.
    fn only_zeros(&mut self) -> Result<(), Wrong> {
        let mut bytes = vec![0_u8; 64 * 1024];
        loop {
            let n = self.tar.read(&mut bytes)?;
            if n == 0 {
                return Ok(());
            }
            if bytes[..n].iter().any(|b| *b != 0) {
                return bad("there are data behind the end of the archive");
            }
        }
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Wrong> {
        if size > EXTENSION {
            return bad(format!("an extension header of {size} bytes"));
        }
        self.store(size);
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let mut piece = [0_u8; 4096];
        loop {
            let n = self.read(&mut piece)?;
            if n == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(&piece[..n]);
        }
    }

    fn store(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn member(
        &mut self,
        header: &Header,
        header_size: u64,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        records: &Records<'_>,
    ) -> Result<Member, Wrong> {
        let path = name(long_name, records.get(&b"path"[..]), header.path_bytes().into_owned())?;
        let wrong = |what: &str| Wrong::Bad(format!("{}: {what}", show(&path)));
        let stored = match pax::number(records, b"size").map_err(|()| wrong("an impossible size"))? {
            None => header_size,
            Some(n) if n == header_size || n > OCTAL_MOST => n,
            Some(_) => return Err(wrong("two sizes that disagree")),
        };
        let link = || {
            name(long_link, records.get(&b"linkpath"[..]), header.link_name_bytes().unwrap_or_default().into_owned())
        };
        let device = || match (header.device_major(), header.device_minor()) {
            (Ok(Some(major)), Ok(Some(minor))) => Ok((major, minor)),
            _ => Err(wrong("an impossible device")),
        };
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(link()?),
            EntryType::Link => Kind::Link(link()?),
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char => device().map(|(major, minor)| Kind::Char(major, minor))?,
            EntryType::Block => Kind::Block,
            other => return Err(wrong(&format!("an entry of unknown type {}", show(&[other.as_byte()])))),
        };
        if kind == Kind::File && path.ends_with(b"/") {
            return Err(wrong("a file with the name of a directory"));
        }
        if kind != Kind::File && stored != 0 {
            return Err(wrong("data where none belong"));
        }
        let owner = |key: &[u8], field: io::Result<u64>| {
            let n = match pax::number(records, key) {
                Ok(Some(n)) => Some(n),
                Ok(None) => field.ok(),
                Err(()) => None,
            };
            n.and_then(|n| u32::try_from(n).ok()).filter(|n| *n != u32::MAX).ok_or_else(|| wrong("an impossible owner"))
        };
        let mtime = match records.get(&b"mtime"[..]) {
            Some(text) => pax::time(text),
            None => or_blank(header.mtime(), &header.as_old().mtime)
                .ok()
                .and_then(|s| i64::try_from(s).ok())
                .map(|s| (s, 0)),
        };
        let mut member = Member {
            kind,
            mode: header.mode().map_err(|_| wrong("impossible permissions"))? & 0o7777,
            uid: owner(b"uid", or_blank(header.uid(), &header.as_old().uid))?,
            gid: owner(b"gid", or_blank(header.gid(), &header.as_old().gid))?,
            mtime: mtime.filter(|(s, _)| s.unsigned_abs() < 1 << 40).ok_or_else(|| wrong("an impossible time"))?,
            size: stored,
            pieces: vec![(0, stored)],
            offset: self.position,
            xattrs: pax::xattrs(records).map_err(|e| wrong(&e))?,
            path,
        };
        if header.entry_type() == EntryType::GNUSparse {
            self.gnu_sparse(header, &mut member)?;
        }
        self.store(stored);
        if records.keys().any(|k| k.starts_with(b"GNU.sparse.")) {
            self.pax_sparse(header, records, &mut member)?;
        }
        Ok(member)
    }
}

/// A field that is left blank means 0, as every other reader has it.
fn or_blank(number: io::Result<u64>, field: &[u8]) -> io::Result<u64> {
    if number.is_err() && field.iter().all(|b| matches!(b, 0 | b' ')) { Ok(0) } else { number }
}

fn name(long: Option<Vec<u8>>, record: Option<&&[u8]>, short: Vec<u8>) -> Result<Vec<u8>, Wrong> {
    match (long, record) {
        (Some(_), Some(_)) => bad(format!("{}: a long name twice", show(&short))),
        (Some(mut long), None) => {
            if long.last() == Some(&0) {
                long.pop();
            }
            Ok(long)
        }
        (None, Some([])) => bad(format!("{}: an empty name", show(&short))),
        (None, Some(record)) => Ok(record.to_vec()),
        (None, None) => Ok(short),
    }
}

fn read_over<R: Read>(reader: &mut R, bytes: u64) -> io::Result<()> {
    if io::copy(&mut reader.take(bytes), &mut io::sink())? == bytes {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

//! One header of a tar archive (POSIX.1-1988 ustar with the PAX records of POSIX.1-2001, and GNU's long names and numbers).

use serde::{Deserialize, Serialize};

use super::{bad, show};
use crate::model::Result;

/// Bytes of a header, and what bodies are filled up to.
pub(super) const BLOCK: usize = 512;
/// Bytes of a path.
const LONGEST_PATH: usize = 4096;
/// Directories below each other.
pub(super) const DEEPEST: usize = 256;

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, and what it says.
    Symlink(Vec<u8>),
    /// One more name of a member before it.
    Link(Vec<u8>),
    /// A named pipe.
    Fifo,
}

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its path, as it stands there.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-user-id and the like included.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was changed, in seconds since 1970.
    pub mtime: i64,
    /// Bytes of a file.
    pub size: u64,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stat {
    /// `file`, `directory`, `symlink` or `other`.
    pub kind: String,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// When it was changed, in seconds since 1970.
    pub mtime: i64,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// What a symbolic link says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// The parts of a path that stays below where it begins. `.` and doubled slashes mean nothing.
pub(super) fn parts(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.starts_with(b"/") {
        return Err(bad(format!("the archive has the absolute path {}", show(path))));
    }
    if path.len() > LONGEST_PATH || path.contains(&0) {
        return Err(bad(format!("the archive has the impossible path {}", show(path))));
    }
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".") {
        if part == b".." || part.len() > 255 {
            return Err(bad(format!("the archive has the path {}, which leads out of it", show(path))));
        }
        parts.push(part);
    }
    if parts.len() > DEEPEST {
        return Err(bad(format!("the archive has more than {DEEPEST} directories below each other")));
    }
    Ok(parts)
}

/// Text up to the first NUL.
pub(super) fn text(field: &[u8]) -> Vec<u8> {
    field.iter().copied().take_while(|b| *b != 0).collect()
}

/// An octal number, or GNU's base 256.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let mut value = u64::from(field[0] & 0x7f);
        for byte in &field[1..] {
            value = value.checked_mul(256)?.checked_add(u64::from(*byte))?;
        }
        return Some(value);
    }
    let digits: Vec<u8> = text(field).trim_ascii().to_vec();
    digits.iter().try_fold(0_u64, |n, d| match d {
        b'0'..=b'7' => n.checked_mul(8)?.checked_add(u64::from(d - b'0')),
        _ => None,
    })
}

/// Whether the sum of a header is right.
pub(super) fn sound(block: &[u8; BLOCK]) -> bool {
    let sum = |at: usize| u64::from(if (148..156).contains(&at) { b' ' } else { block[at] });
    number(&block[148..156]) == Some((0..BLOCK).map(sum).sum())
}

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    field[..digits].copy_from_slice(&text.as_bytes()[text.len() - digits..]);
}

/// Whether a number fits so many octal digits.
fn fits(value: u64, digits: u32) -> bool {
    value < 1 << (3 * digits)
}

fn block(name: &[u8], link: &[u8], flag: u8, m: &Member, size: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let cut = |text: &[u8]| text.len().min(100);
    block[..cut(name)].copy_from_slice(&name[..cut(name)]);
    let small = |value: u64, digits| if fits(value, digits) { value } else { 0 };
    octal(&mut block[100..108], u64::from(m.mode & 0o7777));
    octal(&mut block[108..116], small(m.uid.into(), 7));
    octal(&mut block[116..124], small(m.gid.into(), 7));
    octal(&mut block[124..136], small(size, 11));
    octal(&mut block[136..148], small(u64::try_from(m.mtime).unwrap_or(0), 11));
    block[156] = flag;
    block[157..157 + cut(link)].copy_from_slice(&link[..cut(link)]);
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    octal(&mut block[148..155], sum);
    block[154] = 0;
    block
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    // The length counts its own digits.
    let length = (1..).map(|digits| rest + digits).find(|n| n.to_string().len() == n - rest).unwrap_or(rest);
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A member's headers as bytes; its body follows them.
pub(super) fn encode(m: &Member) -> Vec<u8> {
    let (flag, link, size): (u8, &[u8], u64) = match &m.kind {
        Kind::File => (b'0', b"", m.size),
        Kind::Link(to) => (b'1', to, 0),
        Kind::Symlink(to) => (b'2', to, 0),
        Kind::Directory => (b'5', b"", 0),
        Kind::Fifo => (b'6', b"", 0),
    };
    let mut path = m.path.clone();
    if m.kind == Kind::Directory && !path.ends_with(b"/") {
        path.push(b'/');
    }
    let mut records = Vec::new();
    for (key, value, long) in [("path", &path[..], path.len() > 100), ("linkpath", link, link.len() > 100)] {
        if long {
            records.extend(record(key, value));
        }
    }
    for (key, value, digits) in [("size", size, 11), ("uid", m.uid.into(), 7), ("gid", m.gid.into(), 7)] {
        if !fits(value, digits) {
            records.extend(record(key, value.to_string().as_bytes()));
        }
    }
    if u64::try_from(m.mtime).map_or(true, |t| !fits(t, 11)) {
        records.extend(record("mtime", m.mtime.to_string().as_bytes()));
    }
    let mut bytes = Vec::new();
    if !records.is_empty() {
        let length = records.len();
        bytes = block(b"././@PaxHeader", b"", b'x', m, length as u64);
        bytes.extend(records);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    }
    bytes.extend(block(&path, link, flag, m, size));
    bytes
}

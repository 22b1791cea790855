//! An archive, member by member. Its bytes are a stranger's.

use std::io::Read;

use super::header::{BLOCK, Kind, Member, number, sound, text};
use super::{bad, failed, show};
use crate::model::Result;

/// Bytes of a PAX header or a long name.
const LONGEST_EXTENSION: u64 = 64 * 1024;
/// Headers that only say something about the next one, in a row.
const MOST_EXTENSIONS: usize = 8;

/// Reads an archive.
pub struct Reader<R> {
    inner: R,
    /// Bytes of the member's body that were not read yet, and of what fills up its last block.
    left: u64,
    padding: u64,
    over: bool,
    top: Top,
}

/// What becomes of the first part of members' paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Top {
    /// Nothing.
    #[default]
    Kept,
    /// It must be `is`, and is called `to`.
    Called {
        /// What it must be.
        is: Vec<u8>,
        /// What it is called.
        to: Vec<u8>,
    },
    /// All is below a directory of that name.
    Below(Vec<u8>),
}

impl Top {
    fn of(&self, path: Vec<u8>) -> Result<Vec<u8>> {
        match self {
            Top::Kept => Ok(path),
            Top::Called { is, to } => {
                let rest = path.strip_prefix(is.as_slice()).filter(|r| r.is_empty() || r.starts_with(b"/"));
                let rest =
                    rest.ok_or_else(|| bad(format!("the archive has {}, which was not asked for", show(&path))))?;
                Ok([to, rest].concat())
            }
            Top::Below(to) => Ok([to, &b"/"[..], &path].concat()),
        }
    }
}

/// What extensions say about the next member.
#[derive(Default)]
struct Said {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

impl<R: Read> Reader<R> {
    /// Of that stream.
    pub fn new(inner: R) -> Self {
        Reader { inner, left: 0, padding: 0, over: false, top: Top::Kept }
    }

    /// The same, members called otherwise.
    #[must_use]
    pub fn with(self, top: Top) -> Self {
        Reader { top, ..self }
    }

    /// The next member; none at the end. What was not read of the last one's body is passed over.
    ///
    /// # Errors
    /// [`crate::model::Code::BadArchive`], or what the stream itself fails of.
    pub fn next_member(&mut self) -> Result<Option<Member>> {
        self.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut said = Said::default();
        for _ in 0..MOST_EXTENSIONS {
            let Some(block) = self.block()? else { return Ok(None) };
            let size = number(&block[124..136]).filter(|n| *n <= i64::MAX as u64);
            let size = size.ok_or_else(|| bad("the archive has a header with an impossible size"))?;
            match block[156] {
                b'x' => said.take(&self.extension(size)?)?,
                b'L' => said.path = Some(text(&self.extension(size)?)),
                b'K' => said.link = Some(text(&self.extension(size)?)),
                b'g' => drop(self.extension(size)?),
                flag => return self.member(&block, flag, size, said).map(Some),
            }
        }
        Err(bad("the archive has more headers about headers than can be right"))
    }

    /// Reads on in the member's body; 0 at its end.
    ///
    /// # Errors
    /// The archive ends within it.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let n = self.some(&mut into[..most])?;
        if n == 0 {
            return Err(bad("the archive ends in the middle of a file"));
        }
        self.left -= n as u64;
        Ok(n)
    }

    /// Reads what comes after the end, so that whoever writes is not cut off.
    ///
    /// # Errors
    /// The stream fails.
    pub fn drain(&mut self) -> Result<()> {
        let mut bytes = [0; 8192];
        while self.some(&mut bytes)? > 0 {}
        Ok(())
    }

    fn some(&mut self, into: &mut [u8]) -> Result<usize> {
        loop {
            match self.inner.read(into) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                other => return other.map_err(|e| failed(e, || "read the archive".into())),
            }
        }
    }

    /// Fills a buffer; less only at the end of the stream.
    fn fill(&mut self, into: &mut [u8]) -> Result<usize> {
        let mut had = 0;
        while had < into.len() {
            match self.some(&mut into[had..])? {
                0 => break,
                n => had += n,
            }
        }
        Ok(had)
    }

    fn skip(&mut self, mut bytes: u64) -> Result<()> {
        let mut buffer = [0; 8192];
        while bytes > 0 {
            let most = buffer.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            match self.some(&mut buffer[..most])? {
                0 => return Err(bad("the archive ends in the middle of a file")),
                n => bytes -= n as u64,
            }
        }
        Ok(())
    }

    /// The next header; none at the end, which is a block of zeros or the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        if self.over {
            return Ok(None);
        }
        match self.fill(&mut block)? {
            BLOCK if block.iter().all(|b| *b == 0) => self.over = true,
            0 => self.over = true,
            BLOCK if sound(&block) => return Ok(Some(block)),
            BLOCK => return Err(bad("that is no tar archive, or it is damaged: a header's sum is wrong")),
            _ => return Err(bad("the archive ends in the middle of a header")),
        }
        Ok(None)
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > LONGEST_EXTENSION {
            return Err(bad(format!("the archive has a header of {size} bytes")));
        }
        let length = usize::try_from(size).unwrap_or(0);
        let mut bytes = vec![0; length + usize::try_from(padding(size)).unwrap_or(0)];
        if self.fill(&mut bytes)? < bytes.len() {
            return Err(bad("the archive ends in the middle of a header"));
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    fn member(&mut self, block: &[u8; BLOCK], flag: u8, size: u64, said: Said) -> Result<Member> {
        let mut path = text(&block[..100]);
        if &block[257..263] == b"ustar\0" && block[345] != 0 {
            path = [&text(&block[345..500])[..], b"/", &path].concat();
        }
        let path = self.top.of(said.path.unwrap_or(path))?;
        let link = said.link.unwrap_or_else(|| text(&block[157..257]));
        let kind = match flag {
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::Link(self.top.of(link)?),
            b'2' => Kind::Symlink(link),
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'3' | b'4' => return Err(bad(format!("the archive has the device {}", show(&path)))),
            b'S' => {
                let text = format!("the archive has {} with holes", show(&path));
                return Err(bad(text).hint("make it without --sparse"));
            }
            other => return Err(bad(format!("the archive has {} of the unknown kind {other}", show(&path)))),
        };
        let size = said.size.unwrap_or(size);
        // Old archives give directories and links a size, and no body.
        let size = if kind == Kind::File { size } else { 0 };
        (self.left, self.padding) = (size, padding(size));
        let field = |given: Option<u64>, at: std::ops::Range<usize>| given.or_else(|| number(&block[at]));
        let id = |given, at| field(given, at).and_then(|n| u32::try_from(n).ok());
        let wrong = || bad(format!("the header of {} is damaged", show(&path)));
        let mtime = said.mtime.or_else(|| i64::try_from(number(&block[136..148])?).ok());
        Ok(Member {
            mode: u32::try_from(number(&block[100..108]).ok_or_else(wrong)? & 0o7777).unwrap_or(0),
            uid: id(said.uid, 108..116).ok_or_else(wrong)?,
            gid: id(said.gid, 116..124).ok_or_else(wrong)?,
            mtime: mtime.unwrap_or(0),
            size,
            kind,
            path,
        })
    }
}

impl Said {
    /// Takes PAX records: `<length> <key>=<value>\n`.
    fn take(&mut self, mut records: &[u8]) -> Result<()> {
        let wrong = || bad("the archive has a damaged PAX header");
        while !records.is_empty() {
            let space = records.iter().take(10).position(|b| *b == b' ').ok_or_else(wrong)?;
            let length: Option<usize> = std::str::from_utf8(&records[..space]).ok().and_then(|t| t.parse().ok());
            let length = length.filter(|n| *n > space + 1 && *n <= records.len()).ok_or_else(wrong)?;
            let record = records[space + 1..length].strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(wrong)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let text = || std::str::from_utf8(value).ok();
            let number = || text().and_then(|t| t.parse::<u64>().ok()).ok_or_else(wrong);
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number().ok().filter(|n| *n <= i64::MAX as u64).ok_or_else(wrong)?),
                b"uid" => self.uid = Some(number()?),
                b"gid" => self.gid = Some(number()?),
                b"mtime" => self.mtime = text().and_then(|t| t.split('.').next()?.parse().ok()),
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(bad("the archive has a file with holes").hint("make it without --sparse"));
                }
                _ => {}
            }
            records = &records[length..];
        }
        Ok(())
    }
}

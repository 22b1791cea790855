//! Files with holes: where their stored bytes belong, in the three ways that GNU tar has of saying it.

use std::io::Read;

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::member::{BLOCK, Kind, Member, Members, Wrong, show};
use super::pax::{self, Records};

/// Pieces of one sparse file.
const MOST_PIECES: usize = 1 << 20;

impl<R: Read> Members<R> {
    /// The old GNU format: the map stands in the header and in blocks behind it.
    pub(super) fn gnu_sparse(&mut self, header: &Header, member: &mut Member) -> Result<(), Wrong> {
        let damaged = || Wrong::Bad(format!("{}: a damaged map of a sparse file", show(&member.path)));
        let gnu = header.as_gnu().ok_or_else(damaged)?;
        let mut pieces = Vec::new();
        let mut add = |of: &[GnuSparseHeader]| -> Result<(), Wrong> {
            for piece in of.iter().filter(|p| !p.is_empty()) {
                pieces.push((piece.offset().map_err(|_| damaged())?, piece.length().map_err(|_| damaged())?));
            }
            if pieces.len() > MOST_PIECES { Err(damaged()) } else { Ok(()) }
        };
        add(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            if !self.block(block.as_mut_bytes())? {
                return Err(damaged());
            }
            add(block.sparse())?;
            more = block.is_extended();
        }
        let size = gnu.real_size().map_err(|_| damaged())?;
        let stored = member.size;
        (member.offset, member.size, member.pieces) = (self.position, size, pieces);
        check_pieces(member, stored).ok_or_else(damaged)
    }

    /// The PAX formats 0.1 (the map is a record) and 1.0 (the map stands before the data).
    pub(super) fn pax_sparse(
        &mut self,
        header: &Header,
        records: &Records<'_>,
        member: &mut Member,
    ) -> Result<(), Wrong> {
        let shown = show(&member.path);
        let damaged = || Wrong::Bad(format!("{shown}: a damaged or unknown map of a sparse file"));
        let get = |key: &str| records.get(key.as_bytes()).copied();
        let size = get("GNU.sparse.realsize").or(get("GNU.sparse.size")).and_then(pax::decimal).ok_or_else(damaged)?;
        if member.kind != Kind::File || header.entry_type() == EntryType::GNUSparse {
            return Err(damaged());
        }
        let (stored, mut numbers) = (self.left, Vec::new());
        match (get("GNU.sparse.major"), get("GNU.sparse.minor"), get("GNU.sparse.map")) {
            (None, None, Some(map)) => {
                for text in map.split(|b| *b == b',') {
                    numbers.push(pax::decimal(text).ok_or_else(damaged)?);
                }
            }
            (Some(b"1"), Some(b"0"), None) => {
                let count = self.line()?.filter(|n| *n < MOST_PIECES as u64).ok_or_else(damaged)?;
                for _ in 0..2 * count {
                    numbers.push(self.line()?.ok_or_else(damaged)?);
                }
                // The map is padded to whole blocks.
                let used = stored - self.left;
                let mut rest = ((BLOCK as u64 - used % BLOCK as u64) % BLOCK as u64).min(self.left);
                let mut padding = [0_u8; BLOCK];
                while rest > 0 {
                    let most = usize::try_from(rest).unwrap_or(BLOCK).min(BLOCK);
                    rest -= self.read(&mut padding[..most])? as u64;
                }
            }
            _ => return Err(damaged()),
        }
        if numbers.len() % 2 != 0 || numbers.len() / 2 > MOST_PIECES {
            return Err(damaged());
        }
        if let Some(real) = get("GNU.sparse.name") {
            member.path = real.to_vec();
        }
        member.size = size;
        member.offset = self.position;
        member.pieces = numbers.chunks_exact(2).map(|p| (p[0], p[1])).collect();
        check_pieces(member, self.left).ok_or_else(damaged)
    }

    /// A decimal number that ends with a line feed.
    fn line(&mut self) -> Result<Option<u64>, Wrong> {
        let mut text = Vec::new();
        let mut byte = [0_u8];
        while text.len() < 21 {
            if self.read(&mut byte)? == 0 {
                return Ok(None);
            }
            if byte[0] == b'\n' {
                return Ok(pax::decimal(&text));
            }
            text.push(byte[0]);
        }
        Ok(None)
    }
}

/// Pieces lie one behind the other within the file and need exactly what is stored.
fn check_pieces(member: &Member, stored: u64) -> Option<()> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for (offset, length) in &member.pieces {
        if *offset < end {
            return None;
        }
        end = offset.checked_add(*length)?;
        sum = sum.checked_add(*length)?;
    }
    (end <= member.size && sum == stored).then_some(())
}

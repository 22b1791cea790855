//! PAX records: `<length> <key>=<value>\n`, the value any bytes.

use std::collections::BTreeMap;

use super::member::{Wrong, bad, show};

/// Extended attributes of one member.
const MOST_XATTRS: usize = 64;
/// Bytes of one attribute, as the kernel has it.
const XATTR_BYTES: usize = 64 * 1024;

/// The records of one extension header.
pub(super) type Records<'a> = BTreeMap<&'a [u8], &'a [u8]>;

/// Reads records; a key that stands there twice is refused, for readers differ in which one counts.
pub(super) fn parse(mut text: &[u8]) -> Result<Records<'_>, Wrong> {
    let mut records = Records::new();
    while !text.is_empty() {
        let Some((record, rest)) = split(text) else { return bad("a damaged PAX record") };
        let Some(equals) = record.iter().position(|b| *b == b'=').filter(|n| *n > 0) else {
            return bad("a PAX record without a key");
        };
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if records.insert(key, value).is_some() {
            return bad(format!("two PAX records {}", show(key)));
        }
        text = rest;
    }
    Ok(records)
}

fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = text.iter().take(10).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&text[..space])?).ok()?;
    if length <= space + 1 || length > text.len() || text[length - 1] != b'\n' {
        return None;
    }
    Some((&text[space + 1..length - 1], &text[length..]))
}

/// Decimal digits and nothing else.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A record that is a number.
pub(super) fn number(records: &Records<'_>, key: &[u8]) -> Result<Option<u64>, ()> {
    records.get(key).map(|text| decimal(text).ok_or(())).transpose()
}

/// A time as seconds, maybe negative, with a fraction: seconds and nanoseconds.
pub(super) fn time(text: &[u8]) -> Option<(i64, i64)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |t| (true, t));
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0_i64, |n, d| n * 10 + i64::from(d - b'0'));
    Some(match (negative, nanoseconds) {
        (false, n) => (seconds, n),
        (true, 0) => (-seconds, 0),
        (true, n) => (-seconds - 1, 1_000_000_000 - n),
    })
}

/// The extended attributes among records. Which of them a layer may have is not decided here.
pub(super) fn xattrs(records: &Records<'_>) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut found = Vec::new();
    for (key, value) in records {
        let Some(name) = key.strip_prefix(b"SCHILY.xattr.") else { continue };
        let Some(name) = std::str::from_utf8(name).ok().filter(|n| (1..=255).contains(&n.len()) && !n.contains('\0'))
        else {
            return Err(format!("an attribute with the impossible name {}", show(name)));
        };
        if value.len() > XATTR_BYTES || found.len() == MOST_XATTRS {
            return Err("too many or too large attributes".into());
        }
        found.push((name.to_owned(), value.to_vec()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_any_bytes() {
        let text = b"11 a=x\ny\nz\n15 mtime=-1.25\n";
        let records = parse(text).unwrap();
        assert_eq!(records[&b"a"[..]], b"x\ny\nz");
        assert_eq!(time(records[&b"mtime"[..]]), Some((-2, 750_000_000)));
        assert_eq!(time(b"7"), Some((7, 0)));
        assert_eq!(time(b"1.0000000019"), Some((1, 1)));
    }

    #[test]
    fn what_is_damaged_or_double_is_refused() {
        for text in [
            &b"6 a=b\n6 a=c\n"[..],
            b"7 a=b\n",
            b"5 a=b\n",
            b"6 a=b",
            b"+6 a=b\n",
            b"6 abc\n",
            b"5 =b\n",
            b"\n",
            b"99999999999999999999 a=b\n",
            b"0 a=b\n",
            b"2 \n",
        ] {
            assert!(parse(text).is_err(), "{}", show(text));
        }
        for text in [&b""[..], b"-", b".", b"1.x", b"1e3", b" 1", b"99999999999999999999"] {
            assert_eq!(time(text), None, "{}", show(text));
        }
    }
}

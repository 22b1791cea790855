//! One record of a pod's log: a JSON object on a line, written by the shim, read by torpord.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Stream;

/// Bytes of a pod's line before it is split.
pub const LONGEST_LINE: usize = 16 * 1024;
/// Bytes of a record at most: every byte of the line written as an escape, and the rest.
pub const LONGEST_RECORD: usize = 6 * LONGEST_LINE + 1024;

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record<'a> {
    /// Its number: one more than that of the record before, over all files and incarnations of the pod.
    pub n: u64,
    /// When the shim had it.
    pub timestamp: Timestamp,
    /// Which output.
    pub stream: Stream,
    /// The line without its end; bytes that are not UTF-8 are replaced.
    pub line: std::borrow::Cow<'a, str>,
    /// Whether no line end came after it: the line goes on in the next record of its stream.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// Whether it is the shim's own word and no output of the pod.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub notice: bool,
}

/// The number of the record that these bytes begin with, without reading all of it.
pub fn number(record: &[u8]) -> Option<u64> {
    let digits = record.strip_prefix(b"{\"n\":")?;
    let end = digits.iter().take(21).position(|b| *b == b',')?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// The whole records in these bytes, oldest first, with their numbers; what is no record is passed over.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
    bytes[..whole].split_inclusive(|b| *b == b'\n').filter_map(|line| Some((number(line)?, line)))
}

/// Whether a record's bytes are a notice's. A line's own text can't end so: its quotes are escaped.
pub fn is_notice(record: &[u8]) -> bool {
    record.trim_ascii_end().ends_with(b"\"notice\":true}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_without_parsing() {
        let line = r#"x","notice":true}"#;
        let mut record = Record {
            n: 42,
            timestamp: Timestamp::UNIX_EPOCH,
            stream: Stream::Stdout,
            line: line.into(),
            partial: false,
            notice: false,
        };
        let bytes = serde_json::to_vec(&record).unwrap();
        assert_eq!((number(&bytes), is_notice(&bytes)), (Some(42), false));
        record.notice = true;
        let notice = [serde_json::to_vec(&record).unwrap(), b"\n".to_vec()].concat();
        assert!(is_notice(&notice));
        let bytes = [b"{\"torn\n".to_vec(), notice, b"{\"n\":43,".to_vec()].concat();
        assert_eq!(records(&bytes).map(|r| r.0).collect::<Vec<_>>(), [42]);
        for bad in [&b""[..], b"{\"n\":", b"{\"n\":-1,", b"{\"n\":99999999999999999999999,", b"x"] {
            assert_eq!(number(bad), None);
        }
    }

    #[test]
    fn the_longest_line_fits_the_longest_record() {
        let line = "\u{1}".repeat(LONGEST_LINE);
        let stream = Stream::Stdout;
        let record =
            Record { n: u64::MAX, timestamp: Timestamp::MAX, stream, line: line.into(), partial: true, notice: true };
        assert!(serde_json::to_vec(&record).unwrap().len() < LONGEST_RECORD);
    }
}

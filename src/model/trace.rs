//! Who asked for something, as W3C Trace Context has it in a request's `traceparent`.

/// A span of a trace that somebody else began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// The trace's id.
    pub trace: [u8; 16],
    /// The span's.
    pub span: [u8; 8],
}

impl Parent {
    /// Out of a header `version-trace-span-flags`. None: it is not good, and to be taken as if it were not there.
    pub fn read(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let lower = |s: &str| s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        // A later version may have more behind.
        let known = version.len() == 2 && lower(version) && version != "ff" && flags.len() == 2 && lower(flags);
        if !known || (version == "00" && parts.next().is_some()) || !lower(trace) || !lower(span) {
            return None;
        }
        let (trace, span): ([u8; 16], [u8; 8]) = (unhex(trace)?, unhex(span)?);
        (trace != [0; 16] && span != [0; 8]).then_some(Parent { trace, span })
    }
}

/// Bytes of lower-case hexadecimal.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let mut all = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in all.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_good_headers_are_read() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = Parent::read(good).unwrap();
        assert_eq!((parent.trace[0], parent.span[7]), (0x4b, 0xb7));
        assert!(Parent::read(&format!("01{}-more", &good[2..])).is_some());
        for bad in [
            "",
            "00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47ää-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Parent::read(bad), None, "{bad}");
        }
    }
}

//! The keys that leave a program: pressed one after the other, they are not for it.

use std::str::FromStr;

/// Keys in the order in which they are pressed, as docker writes them: `ctrl-p,ctrl-q`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeaveKeys(Vec<u8>);

/// docker's.
impl Default for LeaveKeys {
    fn default() -> Self {
        LeaveKeys(vec![0x10, 0x11])
    }
}

impl FromStr for LeaveKeys {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let key = |key: &str| match key.as_bytes() {
            [one] if one.is_ascii_graphic() => Ok(*one),
            // Letters, and @ [ \ ] ^ _, are 64 above what they are with ctrl.
            [b'c', b't', b'r', b'l', b'-', one @ (b'a'..=b'z' | b'A'..=b'Z' | b'@' | b'['..=b'_')] => {
                Ok(one.to_ascii_uppercase() - 64)
            }
            _ if key.eq_ignore_ascii_case("del") => Ok(0x7f),
            _ => Err(format!("{key:?} is no key: a character, or ctrl- and one of a-z @ [ \\ ] ^ _")),
        };
        Ok(LeaveKeys(text.split(',').map(key).collect::<Result<_, _>>()?))
    }
}

/// Looks for them in what is typed.
#[derive(Debug)]
pub(super) struct Watch {
    keys: LeaveKeys,
    /// How many of them have come and are held back.
    held: usize,
}

impl Watch {
    pub(super) fn new(keys: LeaveKeys) -> Self {
        Watch { keys, held: 0 }
    }

    /// What of these bytes is for the program, and whether it is to be left. Keys that may be the beginning wait for the next.
    pub(super) fn take(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let keys = &self.keys.0;
        let mut passed = Vec::with_capacity(bytes.len() + self.held);
        for byte in bytes {
            let mut come = keys[..self.held].to_vec();
            come.push(*byte);
            // What does not begin as they do is the program's; what follows may begin anew.
            let first = (0..=come.len()).find(|n| keys.starts_with(&come[*n..])).unwrap_or(come.len());
            passed.extend_from_slice(&come[..first]);
            self.held = come.len() - first;
            if self.held == keys.len() {
                return (passed, true);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_leave_are_found_and_all_else_passes() {
        let mut keys = Watch::new(LeaveKeys::default());
        assert_eq!(keys.take(b"ab\x11c"), (b"ab\x11c".to_vec(), false));
        assert_eq!(keys.take(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(keys.take(b"b"), (b"\x10b".to_vec(), false));
        assert_eq!(keys.take(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.take(b"\x11rest"), (Vec::new(), true));
        assert_eq!(Watch::new(LeaveKeys::default()).take(b"x\x10\x11y"), (b"x".to_vec(), true));
        // Others, of which one stands in the middle, too.
        let mut keys = Watch::new("a,b,a,c".parse().unwrap());
        assert_eq!(keys.take(b"abab"), (b"ab".to_vec(), false));
        assert_eq!(keys.take(b"ac!"), (Vec::new(), true));
        assert_eq!(Watch::new("x".parse().unwrap()).take(b"wxy"), (b"w".to_vec(), true));
    }

    #[test]
    fn keys_are_written_as_docker_does() {
        let of = |text: &str| text.parse::<LeaveKeys>().map(|k| k.0);
        assert_eq!(of("ctrl-p,ctrl-q"), Ok(LeaveKeys::default().0));
        assert_eq!(of("ctrl-@,ctrl-[,ctrl-_,ctrl-A,del,~"), Ok(vec![0, 0x1b, 0x1f, 1, 0x7f, b'~']));
        for bad in ["", ",", "ctrl-", "ctrl-1", "ctrl-pq", "ab", "a,", "\u{e4}", " "] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}

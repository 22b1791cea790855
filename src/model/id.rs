//! Names and identifiers: checked once, when made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Error, Result};

/// Lower-case hexadecimal of bytes.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

fn random_hex(bytes: usize) -> Result<String> {
    let mut raw = vec![0_u8; bytes];
    getrandom::fill(&mut raw).map_err(|e| Error::internal(format!("read {bytes} random bytes: {e}")))?;
    Ok(hex(&raw))
}

fn is_hex(s: &str, len: usize) -> bool {
    s.len() == len && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_name(s: &str) -> bool {
    s.len() <= 63
        && s.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

macro_rules! checked {
    ($(#[$doc:meta])* $name:ident, $check:expr, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text of it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = Error;
            fn from_str(s: &str) -> Result<Self> {
                let check: fn(&str) -> bool = $check;
                if check(s) {
                    Ok(Self(s.to_owned()))
                } else {
                    let shown: String = s.chars().take(80).collect();
                    Err(Error::invalid(format!(concat!("{:?} is not ", $what), shown)))
                }
            }
        }
        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(s: String) -> Result<Self> {
                s.parse()
            }
        }
        impl From<$name> for String {
            fn from(v: $name) -> String {
                v.0
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

checked!(
    /// A pod's identifier: 16 lower-case hexadecimal characters, never used twice.
    PodId, |s| is_hex(s, 16), "a pod id (16 hexadecimal characters)"
);
checked!(
    /// A snapshot's identifier: 32 lower-case hexadecimal characters, never used twice.
    SnapshotId, |s| is_hex(s, 32), "a snapshot id (32 hexadecimal characters)"
);
checked!(
    /// What tells one torpord's things on a host from another's: 6 lower-case hexadecimal characters.
    InstanceTag, |s| is_hex(s, 6), "an instance tag (6 hexadecimal characters)"
);
checked!(
    /// A pod's name, as docker allows them: a letter or digit, then letters, digits, `_`, `.`, `-`; 63 characters at most.
    PodName, is_name, "a pod name (a letter or digit, then letters, digits, _ . or -, 63 characters at most)"
);
checked!(
    /// A token's identifier: 12 lower-case hexadecimal characters, never used twice.
    TokenId, |s| is_hex(s, 12), "a token id (12 hexadecimal characters)"
);
checked!(
    /// What people call a token: a letter or digit, then letters, digits, `_`, `.`, `-`; 63 characters at most.
    TokenName, is_name, "a token's name (a letter or digit, then letters, digits, _ . or -, 63 characters at most)"
);
checked!(
    /// A content digest, `sha256:` and 64 lower-case hexadecimal characters.
    Digest, |s| s.strip_prefix("sha256:").is_some_and(|h| is_hex(h, 64)), "a digest (sha256: and 64 hexadecimal characters)"
);

impl PodId {
    /// A new random one.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn random() -> Result<Self> {
        random_hex(8).map(Self)
    }
    /// The first 12 characters, as docker shows.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}
impl SnapshotId {
    /// A new random one.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn random() -> Result<Self> {
        random_hex(16).map(Self)
    }
}
impl TokenId {
    /// A new random one.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn random() -> Result<Self> {
        random_hex(6).map(Self)
    }
}
impl InstanceTag {
    /// A new random one.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn random() -> Result<Self> {
        random_hex(3).map(Self)
    }
}
impl Digest {
    /// From a raw SHA-256.
    pub fn from_sha256(raw: &[u8; 32]) -> Self {
        Digest(format!("sha256:{}", hex(raw)))
    }
    /// The hexadecimal part: safe as a file name.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

/// An image's name: an OCI reference `[host[:port]/]path[:tag]`, the tag `latest` if none is given.
///
/// Grammar: the distribution project's reference grammar, without digests. 255 characters at most.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName {
    repository: String,
    tag: String,
}

impl ImageName {
    /// The part before the tag.
    pub fn repository(&self) -> &str {
        &self.repository
    }
    /// The tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

fn component_ok(c: &str) -> bool {
    // alphanumerics joined by one of . _ __ or any number of -
    let b = c.as_bytes();
    let alnum = |x: u8| x.is_ascii_lowercase() || x.is_ascii_digit();
    if b.is_empty() || !alnum(b[0]) || !alnum(b[b.len() - 1]) {
        return false;
    }
    let mut i = 0;
    while i < b.len() {
        if alnum(b[i]) {
            i += 1;
            continue;
        }
        let start = i;
        while i < b.len() && !alnum(b[i]) {
            i += 1;
        }
        let sep = &c[start..i];
        if !(sep == "." || sep == "_" || sep == "__" || sep.bytes().all(|x| x == b'-')) {
            return false;
        }
    }
    true
}

fn host_ok(h: &str) -> bool {
    let (name, port) = h.split_once(':').map_or((h, None), |(n, p)| (n, Some(p)));
    let labels = name.split('.').all(|l| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    });
    labels && port.is_none_or(|p| p.parse::<u16>().is_ok_and(|n| n > 0) && p.bytes().all(|b| b.is_ascii_digit()))
}

impl FromStr for ImageName {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let shown: String = s.chars().take(80).collect();
        let bad = |why: &str| {
            Err(Error::invalid(format!("{shown:?} is not an image name: {why}"))
                .hint("like base, team/app:v2 or registry.example:5000/app"))
        };
        if s.is_empty() || s.len() > 255 {
            return bad("it must have 1 to 255 characters");
        }
        if s.contains('@') {
            return bad("a digest can't be part of it");
        }
        let (repository, tag) = match s.rfind(':') {
            Some(i) if !s[i + 1..].contains('/') => (&s[..i], &s[i + 1..]),
            _ => (s, "latest"),
        };
        // With its tag, as it is shown and kept: what was taken once must be taken again.
        if repository.len() + 1 + tag.len() > 255 {
            return bad("with its tag it has more than 255 characters");
        }
        let tag_ok = tag.len() <= 128
            && tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if !tag_ok {
            return bad("its tag must be letters, digits, _ . or -, 128 at most");
        }
        let mut parts: Vec<&str> = repository.split('/').collect();
        if parts.len() > 1 && (parts[0].contains('.') || parts[0].contains(':') || parts[0] == "localhost") {
            if !host_ok(parts[0]) {
                return bad("its registry part is no host name");
            }
            parts.remove(0);
        }
        if !parts.iter().all(|p| component_ok(p)) {
            return bad("each part must be lower-case letters and digits, joined by . _ or -");
        }
        Ok(ImageName { repository: repository.to_owned(), tag: tag.to_owned() })
    }
}
impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}
impl TryFrom<String> for ImageName {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}
impl From<ImageName> for String {
    fn from(v: ImageName) -> String {
        v.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_name_is_the_same_when_it_is_read_again() {
        for (length, fits) in [(1, true), (248, true), (249, false), (255, false)] {
            let name = "a".repeat(length).parse::<ImageName>();
            assert_eq!(name.is_ok(), fits, "{length}");
            assert!(name.is_err() || name.as_ref().unwrap().to_string().parse::<ImageName>().unwrap() == name.unwrap());
        }
    }

    #[test]
    fn image_names_follow_the_reference_grammar() {
        for (given, shown) in [
            ("base", "base:latest"),
            ("a/b:v1", "a/b:v1"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("r.example/a__b:T_1", "r.example/a__b:T_1"),
        ] {
            assert_eq!(given.parse::<ImageName>().unwrap().to_string(), shown);
        }
        for bad in ["", "A", "a//b", "../x", "a/../b", "-x", "a:", "a@sha256:0", "a:b:c", "a ", "a/.b", "x:;rm"] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_refuse_paths_and_options() {
        for bad in ["", "-x", "a/b", "..", ".a", "a b", "a\n", &"x".repeat(64)] {
            assert!(bad.parse::<PodName>().is_err(), "{bad:?}");
        }
        assert!("web-1.a_B".parse::<PodName>().is_ok());
    }
}

//! The message that brings secrets into a pod. It is no JSON, and whoever makes or reads it overwrites what it was in: what
//! lies about in init's memory would be in the pod's snapshots.
//!
//! ```text
//! length u32, user
//! for each file: length u32, name; mode u32; length u32, content
//! ```

use zeroize::Zeroizing;

use crate::model::SecretBytes;

/// Files for /run/secrets. They take the place of all that is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecretFiles {
    /// Whose they are: `user[:group]`, names or numbers; empty: root.
    pub user: String,
    /// The files.
    pub files: Vec<SecretFile>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// Its name.
    pub name: String,
    /// Its permissions.
    pub mode: u32,
    /// What stands in it.
    pub content: SecretBytes,
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(bytes)
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    let (head, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(u32::from_le_bytes(*head))
}

impl SecretFiles {
    /// As bytes.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let files = self.files.iter().map(|f| 12 + f.name.len() + f.content.get().len());
        // Of the right size from the beginning: one that grows leaves copies behind.
        let mut out = Zeroizing::new(Vec::with_capacity(4 + self.user.len() + files.sum::<usize>()));
        put(&mut out, self.user.as_bytes());
        for file in &self.files {
            put(&mut out, file.name.as_bytes());
            out.extend_from_slice(&file.mode.to_le_bytes());
            put(&mut out, file.content.get());
        }
        out
    }

    /// What bytes say; none if they say nothing whole.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let user = text(take(&mut rest)?)?;
        let mut files = Vec::new();
        while !rest.is_empty() {
            let name = text(take(&mut rest)?)?;
            let mode = number(&mut rest)?;
            files.push(SecretFile { name, mode, content: take(&mut rest)?.to_vec().into() });
        }
        Some(SecretFiles { user, files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back_and_what_is_cut_off_is_refused() {
        let file = |name: &str, content: &[u8]| SecretFile {
            name: name.into(),
            mode: 0o400,
            content: content.to_vec().into(),
        };
        let all = SecretFiles { user: "ann:staff".into(), files: vec![file("a", b"x\0y"), file("b", b"")] };
        let bytes = all.encode();
        assert_eq!(SecretFiles::parse(&bytes).as_ref(), Some(&all));
        assert_eq!(SecretFiles::parse(&SecretFiles::default().encode()), Some(SecretFiles::default()));
        let whole = SecretFiles { files: vec![file("a", b"x\0y")], ..all };
        for n in (0..bytes.len()).filter(|n| *n != whole.encode().len() && *n != 13) {
            assert_eq!(SecretFiles::parse(&bytes[..n]), None, "{n}");
        }
        assert!(!format!("{:?}", SecretFiles::parse(&bytes)).contains('x'));
    }
}

//! Named limits, and what any limits must lie between.

use super::{Error, Resources, Result};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Memory below which gVisor itself has no room.
const LEAST_MEMORY: u64 = 48 * MIB;
const LEAST_PIDS: u32 = 32;

/// Tiers that are there without being configured. One of torpor.toml with the same name takes the place of one of these.
pub const BUILT_IN: [(&str, Resources); 3] = [
    ("dev.small", Resources { cpu_millis: 500, memory: GIB, pids: 1024, disk: 8 * GIB }),
    ("dev.medium", Resources { cpu_millis: 1000, memory: 2 * GIB, pids: 2048, disk: 16 * GIB }),
    ("dev.large", Resources { cpu_millis: 2000, memory: 4 * GIB, pids: 4096, disk: 32 * GIB }),
];

impl Resources {
    /// Whether a pod can have them at all, on whatever host.
    ///
    /// # Errors
    /// [`crate::model::Code::InvalidRequest`], with what is out of bounds.
    pub fn check(&self) -> Result<()> {
        let out = |what: String, bounds: &str| Err(Error::invalid(format!("{what} can't be given")).hint(bounds));
        if !(10..=1_024_000).contains(&self.cpu_millis) {
            let hint = "0.01 processors at least, 1024 at most";
            return out(format!("{}.{:03} processors", self.cpu_millis / 1000, self.cpu_millis % 1000), hint);
        }
        if !(LEAST_MEMORY..=1 << 44).contains(&self.memory) {
            return out(format!("{} bytes of memory", self.memory), "48m at least, 16t at most");
        }
        if !(LEAST_PIDS..=4_000_000).contains(&self.pids) {
            return out(format!("a limit of {} processes", self.pids), "32 at least, 4000000 at most");
        }
        if !(MIB..=1 << 46).contains(&self.disk) {
            return out(format!("{} bytes of disk", self.disk), "1m at least, 64t at most");
        }
        Ok(())
    }
}

/// Whether a text can name a tier: letters, digits, `.`, `_` and `-`, 63 characters at most.
pub fn is_tier_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// A number of bytes as a person writes it: `512m`, `1.5g`, `2GiB`, `64k`, `4096`.
///
/// # Errors
/// [`crate::model::Code::InvalidRequest`]: it is no size.
pub fn size(text: &str) -> Result<u64> {
    let text = text.trim().to_ascii_lowercase();
    let bad = || {
        let shown: String = text.chars().take(40).collect();
        Error::invalid(format!("{shown:?} is no size")).hint("write it as a number of bytes, or as 512m or 2g")
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().map_err(|_| bad())?;
    let unit: u64 = match text[end..].trim_end_matches("ib").trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => MIB,
        "g" => GIB,
        "t" => 1 << 40,
        _ => return Err(bad()),
    };
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sizes are far below 2^52"
    )]
    Ok((number * unit as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        let b = |s: &str| size(s).ok();
        assert_eq!(
            (b("512m"), b("1.5G"), b("2GiB"), b("64kb"), b("7")),
            (Some(512 << 20), Some(3 << 29), Some(2 << 30), Some(64 << 10), Some(7))
        );
        assert_eq!((b(""), b("m"), b("1x"), b("-1")), (None, None, None, None));
    }

    #[test]
    fn every_tier_that_is_built_in_can_be_given() {
        for (name, resources) in BUILT_IN {
            assert!(is_tier_name(name) && resources.check().is_ok(), "{name}");
        }
        for bad in ["", "a b", "a/b", &"x".repeat(64)] {
            assert!(!is_tier_name(bad), "{bad:?}");
        }
    }
}

//! Whether files are those that were looked at before, told without reading them.

use std::path::Path;

use crate::model::Result;

/// What tells files from others and from what they were: where they lie, how large they are, when each was written and changed
/// last. The time of a change can't be set by whoever changes a file. It is good until the host is booted anew: what was made of
/// the files, and not synced, may be lost by then.
///
/// # Errors
/// One of them is not there.
pub fn fingerprint<P: AsRef<Path>>(paths: &[P]) -> Result<String> {
    let mut text = super::read(Path::new("/proc/sys/kernel/random/boot_id"))?;
    for path in paths {
        let path = path.as_ref();
        text += &format!("{:?} {}\n", super::stamp(path)?, path.display());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_has_another_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        std::fs::write(&one, "1").unwrap();
        std::fs::write(&other, "2").unwrap();
        let of = |path: &Path| fingerprint(&[path]).unwrap();
        let first = of(&one);
        assert_eq!(first, of(&one));
        assert_ne!(first, of(&other));
        // The kernel's clock for files goes on every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(30));
        let written = std::fs::metadata(&one).unwrap().modified().unwrap();
        std::fs::write(&one, "3").unwrap();
        std::fs::File::options().write(true).open(&one).unwrap().set_modified(written).unwrap();
        assert_ne!(first, of(&one), "with its old time of writing");
        assert!(fingerprint(&[&one, &dir.path().join("missing")]).is_err());
    }
}

//! runsc's own record of a sandbox, before runsc acts on it: it kills the pids it reads there, whoever has them by now.

use std::path::Path;

use serde::Deserialize;

use crate::host::files;

#[derive(Deserialize)]
struct Record {
    #[serde(default, rename = "goferPid")]
    gofer: i64,
    #[serde(default)]
    sandbox: Option<Sandbox>,
}

#[derive(Deserialize)]
struct Sandbox {
    #[serde(default)]
    pid: i64,
}

/// Why the engine must not be let loose on what it has recorded of a sandbox; none: all that it names is its own, or gone.
pub(super) fn not_to_be_trusted(record: &Path, root: &Path, id: &str) -> Option<String> {
    let text = match files::read_if_present(record) {
        Ok(Some(text)) => text,
        Ok(None) => return None,
        Err(e) => return Some(e.report()),
    };
    let record: Record = match serde_json::from_str(&text) {
        Ok(record) => record,
        Err(e) => return Some(format!("its record is damaged: {e}")),
    };
    let pids = [record.gofer, record.sandbox.map_or(0, |s| s.pid)];
    pids.into_iter().find(|pid| is_strangers(*pid, root, id)).map(|pid| format!("pid {pid} is another's by now"))
}

/// Whether a living process is none of that sandbox's: theirs have its `--root` and id among their arguments.
fn is_strangers(pid: i64, root: &Path, id: &str) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if line.is_empty() {
        return false; // nobody, or a zombie
    }
    let names = |needle: &[u8]| line.windows(needle.len()).any(|w| w == needle);
    !names(root.as_os_str().as_encoded_bytes()) || !names(id.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_names_a_stranger_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("a-1_sandbox:a-1.state");
        let put = |text: &str| std::fs::write(&record, text).unwrap();
        let trusted = || not_to_be_trusted(&record, dir.path(), "a-1").is_none();
        assert!(trusted());
        put("{}");
        assert!(trusted());
        put(r#"{"goferPid":0,"sandbox":{"pid":4194999}}"#); // more than the kernel gives out
        assert!(trusted());
        let me = std::process::id();
        put(&format!(r#"{{"goferPid":0,"sandbox":{{"pid":{me}}}}}"#));
        assert!(!trusted());
        put(&format!(r#"{{"goferPid":{me},"sandbox":{{"pid":4194999}}}}"#));
        assert!(!trusted());
        put("");
        assert!(!trusted());
        let path = dir.path().display().to_string();
        let mut ours = std::process::Command::new("sh").args(["-c", "sleep 60; :", &path, "a-1"]).spawn().unwrap();
        put(&format!(r#"{{"goferPid":{},"sandbox":null}}"#, ours.id()));
        assert!(trusted());
        ours.kill().unwrap();
        ours.wait().unwrap();
    }
}

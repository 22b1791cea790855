//! A host's state as one tar archive, and back: packed and unpacked by GNU tar, which knows of owners, extended attributes, holes and
//! device nodes what layers have.
//!
//! ```text
//! backup.json       {format, version}: first
//! torpor.db         a copy that was made for it
//! instance, engines/, layers/, blobs/, pods/, volumes/, store/   as they lie in the state directory
//! workspaces/       the directories of the pod agent's pods
//! ```
//!
//! After a crash of a restore: what was unpacked lies in `restore.new`, which the next one removes; the database is put into its place
//! last.

use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::host::files;
use crate::model::{Attempt, Code, Error, Result};

/// What torpord writes and reads.
pub const FORMAT: u32 = 1;
/// What of the state directory is not kept: it is made anew, or belongs to what runs now.
const LEFT_OUT: [&str; 5] = ["lock", "tmp", "bin", "cache", "restore.new"];
const DATABASE: &str = "torpor.db";
/// Above all other names, so that none of a state directory is one of these.
const WORKSPACES: &str = "workspaces";
/// How tar keeps all that there is to know of a file.
const WHOLE: [&str; 4] = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls"];

fn left_out(name: &str) -> bool {
    LEFT_OUT.contains(&name) || name.starts_with(DATABASE)
}

/// Begins to pack: the archive is the child's standard output. `copy` has `backup.json` and `torpor.db`.
///
/// # Errors
/// There is no tar, or the state directory can't be read.
pub fn pack(state: &Path, copy: &Path, workspaces: Option<&Path>) -> Result<Child> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--file=-", "--sparse", "--one-file-system", "--ignore-failed-read", "--sort=name"])
        .args(WHOLE);
    // What changes while it is read, or goes: of what runs, no more than a power loss would leave is kept.
    tar.args(["--warning=no-file-changed", "--warning=no-file-removed", "--warning=no-file-ignored"]);
    tar.arg(format!("--transform=s,^\\./,{WORKSPACES}/,S")).arg(format!("--transform=s,^\\.$,{WORKSPACES},S"));
    // What a sandbox that runs writes to is its own, and as large as its root.
    tar.args(["--anchored", "--exclude=pods/*/upper-*"]);
    tar.arg("-C").arg(copy).args(["backup.json", DATABASE]).arg("-C").arg(state);
    for name in files::list(state)?.into_iter().filter(|n| !left_out(n)) {
        tar.arg(format!("--add-file={name}"));
    }
    if let Some(dir) = workspaces.filter(|d| d.is_dir()) {
        tar.arg("-C").arg(dir).arg("./");
    }
    tar.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    tar.spawn().attempt(Code::Unsupported, || "run tar".into())
}

/// What tar said of its end.
///
/// # Errors
/// The archive is not whole.
pub async fn packed(mut tar: Child) -> Result<()> {
    use tokio::io::AsyncReadExt;
    let mut said = String::new();
    if let Some(stderr) = tar.stderr.take() {
        let _ = stderr.take(4096).read_to_string(&mut said).await;
    }
    let status = tar.wait().await.attempt(Code::Internal, || "wait for tar".into())?;
    // 1: a file changed while it was read.
    if status.code().is_some_and(|c| c <= 1) {
        return Ok(());
    }
    Err(Error::internal(format!("pack the backup: tar ended with {status}: {}", said.trim())))
}

/// Puts an archive into a state directory that has no database, and workspaces into theirs.
///
/// # Errors
/// [`Code::InUse`]: there is a database already. [`Code::BadArchive`]: it is no backup, or of a newer torpord.
pub fn restore(archive: &Path, state: &Path, workspaces: &Path) -> Result<()> {
    let database = state.join(DATABASE);
    if database.exists() {
        return Err(Error::new(Code::InUse, format!("restore into {}: there is state already", state.display()))
            .hint("give an empty --state-dir, or move the present one away"));
    }
    let described = tar(&["--extract", "--to-stdout", "--occurrence=1"], archive, &["backup.json"])?;
    let format = serde_json::from_slice::<serde_json::Value>(&described).ok().and_then(|d| d["format"].as_u64());
    match format {
        Some(f) if f <= u64::from(FORMAT) => {}
        Some(f) => {
            return Err(Error::new(Code::BadArchive, format!("{} is a backup of format {f}", archive.display()))
                .hint("it was made by a newer torpord: use that one"));
        }
        None => return Err(Error::new(Code::BadArchive, format!("{} is no backup", archive.display()))),
    }
    let new = state.join("restore.new");
    files::remove_tree_now(&new)?;
    files::create_dir(&new, 0o700)?;
    let into = format!("--directory={}", new.display());
    let exclude = [format!("--exclude={WORKSPACES}"), format!("--exclude={WORKSPACES}/*")];
    let mut how = vec!["--extract", "--preserve-permissions", "--same-owner", "--anchored", &into];
    how.extend(exclude.iter().map(String::as_str));
    tar(&how, archive, &[])?;
    if !new.join(DATABASE).is_file() {
        return Err(Error::new(Code::BadArchive, format!("{} has no database", archive.display())));
    }
    let listed = tar(&["--list", "--anchored", "--no-recursion"], archive, &[])?;
    if listed.split(|b| *b == b'\n').any(|name| name == format!("{WORKSPACES}/").as_bytes()) {
        files::create_dir_all(workspaces, 0o755)?;
        let into = format!("--directory={}", workspaces.display());
        let how = ["--extract", "--preserve-permissions", "--same-owner", "--strip-components=1", &into];
        tar(&how, archive, &[WORKSPACES])?;
    }
    let put = |name: &str| {
        let to = state.join(name);
        files::remove_tree_now(&to)?;
        std::fs::rename(new.join(name), &to).attempt(Code::Internal, || format!("put {} into its place", to.display()))
    };
    for name in files::list(&new)?.iter().filter(|n| *n != DATABASE && *n != "backup.json") {
        put(name)?;
    }
    nix::unistd::sync();
    put(DATABASE)?;
    nix::unistd::sync();
    files::remove_tree_now(&new)
}

fn tar(how: &[&str], archive: &Path, members: &[&str]) -> Result<Vec<u8>> {
    let mut tar = std::process::Command::new("tar");
    tar.args(how).args(WHOLE).arg("--file").arg(archive).arg("--").args(members);
    let out = tar.stdin(Stdio::null()).output().attempt(Code::Unsupported, || "run tar".into())?;
    if out.status.success() {
        return Ok(out.stdout);
    }
    let said: String = String::from_utf8_lossy(&out.stderr).chars().take(500).collect();
    Err(Error::new(Code::BadArchive, format!("read {}: {}", archive.display(), said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use tokio::io::AsyncReadExt;

    async fn archive(state: &Path, copy: &Path, workspaces: &Path, to: &Path) {
        let mut child = pack(state, copy, Some(workspaces)).unwrap();
        let mut bytes = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut bytes).await.unwrap();
        packed(child).await.unwrap();
        std::fs::write(to, bytes).unwrap();
    }

    #[tokio::test]
    async fn what_was_kept_comes_back_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        for d in ["state/layers/a", "state/tmp", "state/pods/x/upper-1", "copy", "pods/p/src", "new"] {
            std::fs::create_dir_all(at(d)).unwrap();
        }
        for (file, text) in [
            ("state/instance", "01abcd"),
            ("state/torpor.db", "old"),
            ("state/torpor.db-wal", "old"),
            ("state/tmp/junk", "junk"),
            ("state/pods/x/upper-1/file", "runs"),
            ("state/layers/a/file", "layer"),
            ("copy/torpor.db", "copied"),
            ("copy/backup.json", r#"{"format":1}"#),
            ("pods/p/src/main.c", "int main"),
        ] {
            std::fs::write(at(file), text).unwrap();
        }
        std::fs::hard_link(at("pods/p/src/main.c"), at("pods/p/again.c")).unwrap();
        std::os::unix::fs::symlink("./src", at("pods/p/link")).unwrap();
        archive(&at("state"), &at("copy"), &at("pods"), &at("a.tar")).await;

        restore(&at("a.tar"), &at("new"), &at("workspaces")).unwrap();
        let read = |p: &str| std::fs::read_to_string(at(p)).unwrap();
        assert_eq!((read("new/torpor.db").as_str(), read("new/layers/a/file").as_str()), ("copied", "layer"));
        assert_eq!(files::list(&at("new")).unwrap(), ["instance", "layers", "pods", "torpor.db"]);
        assert_eq!(files::list(&at("new/pods/x")).unwrap(), Vec::<String>::new());
        assert_eq!(read("workspaces/p/src/main.c"), "int main");
        assert_eq!(std::fs::metadata(at("workspaces/p/again.c")).unwrap().nlink(), 2);
        assert_eq!(std::fs::read_link(at("workspaces/p/link")).unwrap(), Path::new("./src"));
        // A second time there is state already; and what is no backup, or a newer one, changes nothing.
        assert_eq!(restore(&at("a.tar"), &at("new"), &at("workspaces")).unwrap_err().code(), Code::InUse);
        std::fs::create_dir(at("empty")).unwrap();
        std::fs::write(at("copy/backup.json"), r#"{"format":2}"#).unwrap();
        archive(&at("state"), &at("copy"), &at("pods"), &at("b.tar")).await;
        std::fs::write(at("c.tar"), "no archive").unwrap();
        for bad in ["b.tar", "c.tar"] {
            assert_eq!(restore(&at(bad), &at("empty"), &at("w")).unwrap_err().code(), Code::BadArchive, "{bad}");
            assert_eq!(files::list(&at("empty")).unwrap(), Vec::<String>::new());
        }
    }
}

//! What ssh is told of a pod: a `Host` of its own, and where that is.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::own;
use crate::cli::output::{self, Failure};

/// A pod as a host of ssh's.
#[derive(Debug)]
pub(super) struct Host<'a> {
    /// What ssh is to call it.
    pub(super) name: &'a str,
    pub(super) pod: &'a str,
    /// Its user, as far as that is known.
    pub(super) login: Option<&'a str>,
    /// Program and arguments that speak for it.
    pub(super) proxy: Vec<String>,
    pub(super) known_hosts: &'a Path,
    pub(super) alias: String,
}

/// For the shell that runs it, in a line in which ssh replaces what follows a `%`.
fn quoted(word: &str) -> String {
    output::quoted(word).replace('%', "%%")
}

impl Host<'_> {
    /// The block.
    ///
    /// # Errors
    /// A path that ssh's configuration can't hold.
    pub(super) fn block(&self) -> Result<String, Failure> {
        let known = self.known_hosts.to_str().filter(|p| !p.contains(['"', '\n', '\\']));
        let known =
            known.ok_or_else(|| own(format!("{}: ssh can't be told of that path", self.known_hosts.display())))?;
        let proxy: Vec<String> = self.proxy.iter().map(|w| quoted(w)).collect();
        if self.proxy.iter().any(|w| w.contains('\n')) {
            return Err(own("ssh can't be told of a path with a line's end in it"));
        }
        let user = self.login.map(|l| format!("    User {l}\n")).unwrap_or_default();
        Ok(format!(
            "# pod {} of torpor\nHost {}\n    HostName {}\n{user}    ProxyCommand {}\n    HostKeyAlias {}\n    UserKnownHostsFile \"{}\"\n    \
             StrictHostKeyChecking yes\n    UpdateHostKeys no\n",
            self.pod,
            self.name,
            self.pod,
            proxy.join(" "),
            self.alias,
            known.replace('%', "%%"),
        ))
    }
}

/// Puts a text in the place of a file, or of what a link leads to: the old one or the new one is there, and nothing between.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let failed = |e: std::io::Error| own(format!("write {}: {e}", path.display()));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let _ = std::fs::remove_file(&new);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let kept = std::fs::metadata(&path).map_or(Ok(()), |m| std::fs::set_permissions(&new, m.permissions()));
    written.and(kept).and_then(|()| std::fs::rename(&new, &path)).map_err(|e| {
        let _ = std::fs::remove_file(&new);
        failed(e)
    })
}

/// A configuration that also reads other files, before all else that it says: what stands behind a `Host` counts for that alone.
fn including(text: &str, pattern: &str) -> Option<String> {
    let is = |line: &str| {
        let line = line.trim();
        let rest = line.get(..7).filter(|w| w.eq_ignore_ascii_case("include")).map(|_| line[7..].trim());
        rest.is_some_and(|r| r.trim_start_matches('=').trim().trim_matches('"') == pattern)
    };
    // One behind a Host is none.
    let mut top = text.lines().take_while(|l| {
        let word = l.split_whitespace().next().unwrap_or_default();
        !word.eq_ignore_ascii_case("host") && !word.eq_ignore_ascii_case("match")
    });
    let quoted = if pattern.contains(' ') { format!("\"{pattern}\"") } else { pattern.to_owned() };
    (!top.any(is)).then(|| format!("Include {quoted}\n{}{text}", if text.is_empty() { "" } else { "\n" }))
}

/// Writes the block where `dir` has them, and has ~/.ssh/config read it. Gives the block's file.
pub(super) fn install(host: &Host<'_>, dir: &Path) -> Result<PathBuf, Failure> {
    let failed = |p: &Path, e: std::io::Error| own(format!("make {}: {e}", p.display()));
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|h| h.is_absolute());
    let ssh = home.ok_or_else(|| own("there is no HOME: ~/.ssh/config can't be found"))?.join(".ssh");
    let make = |p: &Path| {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(p).map_err(|e| failed(p, e))
    };
    make(dir)?;
    make(&ssh)?;
    let path = dir.join(format!("{}.conf", host.name));
    let block = host.block()?;
    replace(&path, &block)?;
    let pattern = dir.join("*.conf");
    let pattern = pattern.to_str().filter(|p| !p.contains(['"', '\n']));
    let pattern = pattern.ok_or_else(|| own(format!("{}: ssh can't be told of that path", dir.display())))?;
    let config = ssh.join("config");
    let text = match std::fs::read_to_string(&config) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(own(format!("read {}: {e}", config.display()))),
    };
    if let Some(text) = including(&text, pattern) {
        replace(&config, &text)?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_of_ssh_s() {
        let host = Host {
            name: "devpod",
            pod: "devpod",
            login: Some("ann"),
            proxy: ["/opt/my dir/torpor", "--host", "unix:///run/50%.sock", "ssh-proxy", "devpod"]
                .map(String::from)
                .into(),
            known_hosts: Path::new("/home/ann/k"),
            alias: "torpor-devpod".into(),
        };
        let block = host.block().unwrap();
        assert!(
            block.contains("    ProxyCommand '/opt/my dir/torpor' --host 'unix:///run/50%%.sock' ssh-proxy devpod\n"),
            "{block}"
        );
        assert!(block.starts_with("# pod devpod of torpor\nHost devpod\n") && block.contains("\n    User ann\n"));
        assert!(Host { known_hosts: Path::new("/a\"b"), ..host }.block().is_err());
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }

    #[test]
    fn an_include_is_there_once_and_first() {
        let once = including("Host a\n    User b\n", "/c/*.conf").unwrap();
        assert_eq!(once, "Include /c/*.conf\n\nHost a\n    User b\n");
        assert_eq!(including(&once, "/c/*.conf"), None);
        assert_eq!(including("\n# x\ninclude = \"/c d/*.conf\"\n", "/c d/*.conf"), None);
        assert!(including("Host a\nInclude /c/*.conf\n", "/c/*.conf").is_some());
        assert_eq!(including("", "/c d/*").as_deref(), Some("Include \"/c d/*\"\n"));
    }

    #[test]
    fn a_link_stays_one() {
        let tmp = tempfile::tempdir().unwrap();
        let (real, link) = (tmp.path().join("real"), tmp.path().join("link"));
        std::fs::write(&real, "a").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        replace(&link, "b").unwrap();
        assert!(link.is_symlink() && std::fs::read_to_string(&real).unwrap() == "b");
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 2);
    }
}

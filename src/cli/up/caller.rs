//! Who calls: whose files those are to be that the pod writes.

use std::path::PathBuf;

use super::own;
use crate::cli::output::Failure;

/// Who a pod's programs run as, and so whose its files are on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Caller {
    pub(in crate::cli) uid: u32,
    pub(in crate::cli) gid: u32,
    /// What this user is called in the pod, where the image has no name for the number.
    pub(in crate::cli) login: String,
}

/// What is known of the calling process.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) sudo_uid: Option<String>,
    pub(super) sudo_gid: Option<String>,
    pub(super) sudo_user: Option<String>,
    pub(super) name: Option<String>,
}

impl Process {
    fn this() -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        Process {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            sudo_uid: var("SUDO_UID"),
            sudo_gid: var("SUDO_GID"),
            sudo_user: var("SUDO_USER"),
            name: var("USER").or_else(|| var("LOGNAME")),
        }
    }
}

impl Caller {
    /// The caller: who called sudo, if that was so; or who was named.
    pub(super) fn of(user: Option<&str>) -> Result<Self, Failure> {
        Self::decide(user, &Process::this())
    }

    pub(super) fn decide(user: Option<&str>, process: &Process) -> Result<Self, Failure> {
        let number = |t: &Option<String>| t.as_deref().and_then(|t| t.parse::<u32>().ok());
        if let Some(text) = user {
            let (uid, gid) = text.split_once(':').unwrap_or((text, text));
            let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else {
                return Err(own(format!(
                    "--user {text:?}: write UID or UID:GID, in numbers: whose the files are to be"
                )));
            };
            let name = process.name.as_deref().filter(|_| uid == process.uid);
            return Ok(Caller { uid, gid, login: login(uid, name) });
        }
        Ok(match (process.uid, number(&process.sudo_uid), number(&process.sudo_gid)) {
            (0, Some(uid), Some(gid)) => Caller { uid, gid, login: login(uid, process.sudo_user.as_deref()) },
            (uid, ..) => Caller { uid, gid: process.gid, login: login(uid, process.name.as_deref()) },
        })
    }

    /// As a pod's `user`.
    pub(super) fn user(&self) -> String {
        format!("{}:{}", self.uid, self.gid)
    }
}

/// A name that /etc/passwd of any image can have.
fn login(uid: u32, name: Option<&str>) -> String {
    if uid == 0 {
        return "root".into();
    }
    let fine = |n: &&str| {
        n.len() <= 32
            && n.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
            && *n != "root"
    };
    name.filter(fine).unwrap_or("dev").to_owned()
}

/// A directory of the caller's own for what torpor keeps, by the XDG's rules.
pub(in crate::cli) fn directory(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute(variable).or_else(|| absolute("HOME").map(|h| h.join(below_home))).map(|d| d.join("torpor"))
}

/// Where settings are.
pub(in crate::cli) fn configuration() -> Option<PathBuf> {
    directory("XDG_CONFIG_HOME", ".config")
}

/// Where what is to be kept is.
pub(in crate::cli) fn state() -> Option<PathBuf> {
    directory("XDG_STATE_HOME", ".local/state")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_belong_to_whoever_called() {
        let some = |t: &str| Some(t.to_owned());
        let ann = Process { uid: 1000, gid: 1001, name: some("ann"), ..Process::default() };
        let as_ann = Caller { uid: 1000, gid: 1001, login: "ann".into() };
        assert_eq!(Caller::decide(None, &ann).ok(), Some(as_ann.clone()));
        // What sudo says counts for root alone.
        let liar = Process { sudo_uid: some("0"), sudo_gid: some("0"), ..ann };
        assert_eq!(Caller::decide(None, &liar).ok(), Some(as_ann));
        let sudo = Process {
            sudo_uid: some("7"),
            sudo_gid: some("8"),
            sudo_user: some("Bob Smith"),
            name: some("root"),
            ..Process::default()
        };
        assert_eq!(Caller::decide(None, &sudo).ok(), Some(Caller { uid: 7, gid: 8, login: "dev".into() }));
        let root = Caller::decide(None, &Process::default()).unwrap();
        assert_eq!((root.user().as_str(), root.login.as_str()), ("0:0", "root"));
        assert_eq!(Caller::decide(Some("5"), &Process::default()).unwrap().user(), "5:5");
        assert_eq!(Caller::decide(Some("5:6"), &Process::default()).unwrap().user(), "5:6");
        for bad in ["", "ann", "1:", "-1", "1:2:3"] {
            assert!(Caller::decide(Some(bad), &Process::default()).is_err(), "{bad:?}");
        }
    }
}

//! Which directory a pod gets, where branches and git's worktrees play a part. Only files of the repository are read: nothing of it
//! is run.

use std::path::{Path, PathBuf};

use super::{open_file, own};
use crate::cli::output::Failure;

/// Bytes read of a file of git's.
const MOST: u64 = 64 * 1024;

/// What a pod has at /work.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The directory, all links followed.
    pub(super) directory: String,
    /// The repository to which the directory is a worktree: git finds it at its own path only.
    pub(super) repository: Option<String>,
    /// What the caller should know.
    pub(super) note: Option<String>,
}

fn text(path: PathBuf) -> Result<String, Failure> {
    path.into_os_string().into_string().map_err(|p| own(format!("{}: its name is no UTF-8", Path::new(&p).display())))
}

fn line(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    open_file(path).ok()?.take(MOST).read_to_string(&mut text).ok()?;
    Some(text.trim_end().to_owned()).filter(|t| !t.contains('\n'))
}

fn directory(path: &Path) -> Result<PathBuf, Failure> {
    let found = std::fs::canonicalize(path).map_err(|e| own(format!("{}: {e}", path.display())))?;
    if found.is_dir() { Ok(found) } else { Err(own(format!("{}: no directory", path.display()))) }
}

/// The repository's directory of a worktree that was added. A file in the worktree says where it is; that is a stranger's word,
/// so it must be said there, too, that this is its worktree.
fn added(worktree: &Path) -> Option<(PathBuf, PathBuf)> {
    let said = line(&worktree.join(".git"))?;
    let own = worktree.join(said.strip_prefix("gitdir: ")?).canonicalize().ok()?;
    let back = own.join(line(&own.join("gitdir"))?).canonicalize().ok()?;
    let common = own.join(line(&own.join("commondir"))?).canonicalize().ok()?;
    let mutual = back == worktree.join(".git") && own.parent() == Some(common.join("worktrees").as_path());
    mutual.then_some((own, common))
}

fn branch_of(git: &Path) -> Option<String> {
    line(&git.join("HEAD"))?.strip_prefix("ref: refs/heads/").map(str::to_owned)
}

/// The worktree of a repository that has a branch checked out.
fn worktree_of(common: &Path, branch: &str) -> Option<PathBuf> {
    let has = |git: &Path| branch_of(git).as_deref() == Some(branch);
    if has(common) && common.file_name() == Some(".git".as_ref()) {
        return common.parent().map(Path::to_owned);
    }
    for entry in std::fs::read_dir(common.join("worktrees")).into_iter().flatten().flatten() {
        let git = entry.path();
        if !has(&git) {
            continue;
        }
        let worktree = line(&git.join("gitdir")).and_then(|at| git.join(at).parent()?.canonicalize().ok());
        if let Some(worktree) = worktree
            && added(&worktree).is_some_and(|(_, of)| of == common)
        {
            return Some(worktree);
        }
    }
    None
}

impl Place {
    /// The directory itself; or, for a branch, the worktree of its repository that has that branch, if there is one.
    pub(super) fn of(wanted: &Path, branch: Option<&str>) -> Result<Self, Failure> {
        let mut found = directory(wanted)?;
        let mut note = None;
        if let Some(branch) = branch {
            let main = found.join(".git");
            let git = if main.is_dir() { Some((main.clone(), main)) } else { added(&found) };
            match git {
                Some((own, _)) if branch_of(&own).as_deref() == Some(branch) => {}
                Some((own, common)) => match worktree_of(&common, branch) {
                    Some(worktree) => found = worktree,
                    None => {
                        let now = branch_of(&own).map_or_else(|| "no branch".into(), |b| format!("branch {b}"));
                        note = Some(format!(
                            "{} has {now} checked out, not {branch}: `git worktree add` gives a branch a directory of its own",
                            found.display()
                        ));
                    }
                },
                None => note = Some(format!("{} is no git work tree: it is taken as it is", found.display())),
            }
        }
        let repository = match added(&found) {
            Some((_, common)) if !common.starts_with(&found) => Some(text(common)?),
            _ => None,
        };
        Ok(Place { directory: text(found)?, repository, note })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_has_its_worktree() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().canonicalize().unwrap();
        let git = |dir: &Path, args: &str| {
            let mut git = std::process::Command::new("git");
            git.args(["-c", "user.name=a", "-c", "user.email=a@b.c"]).args(args.split(' ')).current_dir(dir);
            assert!(git.output().unwrap().status.success(), "git {args}");
        };
        let main = root.join("main");
        std::fs::create_dir(&main).unwrap();
        git(&main, "init -q -b trunk");
        git(&main, "commit -q --allow-empty -m one");
        git(&main, "worktree add -q -b feature/x ../x");
        let at = |p: &Path| p.to_str().unwrap().to_owned();
        let (x, common) = (root.join("x"), Some(at(&main.join(".git"))));
        let plain = Place { directory: at(&main), ..Place::default() };
        assert_eq!(Place::of(&main, None).unwrap(), plain);
        assert_eq!(Place::of(&main, Some("trunk")).unwrap(), plain);
        let other = Place { directory: at(&x), repository: common, note: None };
        assert_eq!(Place::of(&x, None).unwrap(), other);
        assert_eq!(Place::of(&main, Some("feature/x")).unwrap(), other);
        assert_eq!(Place::of(&x, Some("trunk")).unwrap(), plain);
        let none = Place::of(&main, Some("nosuch")).unwrap();
        assert!(none.directory == at(&main) && none.note.unwrap().contains("branch trunk"));
        assert!(Place::of(&root, Some("a")).unwrap().note.is_some() && Place::of(&root.join("none"), None).is_err());
        // A directory that only says that it belongs to a repository.
        let liar = root.join("liar");
        std::fs::create_dir(&liar).unwrap();
        for said in [main.join(".git"), main.join(".git/worktrees/x"), "/etc".into()] {
            std::fs::write(liar.join(".git"), format!("gitdir: {}\n", said.display())).unwrap();
            assert_eq!(Place::of(&liar, None).unwrap().repository, None, "{}", said.display());
        }
        std::fs::remove_file(liar.join(".git")).unwrap();
        nix::unistd::mkfifo(&liar.join(".git"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(Place::of(&liar, None).unwrap().repository, None);
    }
}

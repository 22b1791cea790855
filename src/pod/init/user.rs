//! `user[:group]` as docker reads it: names of the pod's own /etc/passwd and /etc/group, or numbers.

use std::os::unix::fs::MetadataExt;
use std::rc::Rc;

use nix::unistd::{Gid, Uid};

pub(super) struct Account {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) groups: Vec<Gid>,
    pub(super) home: String,
    /// Empty: its line names none.
    pub(super) shell: String,
}

/// Bytes read of a passwd or group file: an image's file is a stranger's.
const LIMIT: u64 = 4 << 20;

fn lines(path: &str) -> Vec<Vec<String>> {
    use std::io::Read;
    let mut text = String::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(LIMIT).read_to_string(&mut text);
    }
    text.lines().map(|l| l.split(':').map(str::to_owned).collect()).collect()
}

/// What changes when a file does; none: there is no such file.
type Stamp = Option<(u64, u64, u64, [i64; 4])>;

fn stamp(path: &str) -> Stamp {
    let m = std::fs::metadata(path).ok()?;
    Some((m.dev(), m.ino(), m.size(), [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()]))
}

/// Who was asked for last, as long as the files are what they were: to read them takes longer than all else that is done
/// before a program starts.
#[derive(Default)]
pub(super) struct Accounts {
    last: Option<(String, [Stamp; 2], Rc<Account>)>,
}

impl Accounts {
    /// Who that is.
    pub(super) fn resolve(&mut self, user: &str) -> Result<Rc<Account>, String> {
        let stamps = ["/etc/passwd", "/etc/group"].map(stamp);
        if let Some((name, then, account)) = &self.last
            && name == user
            && *then == stamps
        {
            return Ok(Rc::clone(account));
        }
        let account = Rc::new(resolve_in(user, &lines("/etc/passwd"), &lines("/etc/group"))?);
        self.last = Some((user.to_owned(), stamps, Rc::clone(&account)));
        Ok(account)
    }
}

fn resolve_in(user: &str, passwd: &[Vec<String>], group: &[Vec<String>]) -> Result<Account, String> {
    let (name, group_name) = match user.split_once(':') {
        Some((u, g)) => (u, Some(g).filter(|g| !g.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let field = |row: &[String], n: usize| row.get(n).cloned().unwrap_or_default();
    let row = passwd
        .iter()
        .find(|r| r.first().is_some_and(|n| n == name))
        .or_else(|| passwd.iter().find(|r| name.parse::<u32>().is_ok() && r.get(2).is_some_and(|n| n == name)));
    let uid = match row {
        Some(r) => field(r, 2).parse().map_err(|_| format!("user {name}: its line in /etc/passwd is damaged"))?,
        None => name.parse::<u32>().map_err(|_| format!("user {name}: not in the image's /etc/passwd"))?,
    };
    let default_gid = row.and_then(|r| field(r, 3).parse().ok()).unwrap_or(0);
    let gid = match group_name {
        None => default_gid,
        Some(g) => match group.iter().find(|r| r.first().is_some_and(|n| n == g)) {
            Some(r) => field(r, 2).parse().map_err(|_| format!("group {g}: its line in /etc/group is damaged"))?,
            None => g.parse::<u32>().map_err(|_| format!("group {g}: not in the image's /etc/group"))?,
        },
    };
    let mut groups = vec![Gid::from_raw(gid)];
    if let (Some(r), None) = (row, group_name) {
        let login = field(r, 0);
        let member = |g: &&Vec<String>| field(g, 3).split(',').any(|m| m == login);
        groups.extend(group.iter().filter(member).filter_map(|g| field(g, 2).parse().ok()).map(Gid::from_raw));
    }
    groups.dedup();
    groups.truncate(64);
    let home = row.map(|r| field(r, 5)).filter(|h| !h.is_empty()).unwrap_or_else(|| "/".into());
    let shell = row.map(|r| field(r, 6)).unwrap_or_default();
    Ok(Account { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid), groups, home, shell })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Vec<Vec<String>> {
        text.lines().map(|l| l.split(':').map(str::to_owned).collect()).collect()
    }

    #[test]
    fn names_numbers_and_groups() {
        let passwd = rows("root:x:0:0::/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh");
        let group = rows("root:x:0:\nann:x:1001:\ndocker:x:77:bob,ann\nstaff:x:50:");
        let a =
            |u: &str| resolve_in(u, &passwd, &group).map(|a| (a.uid.as_raw(), a.gid.as_raw(), a.groups.len(), a.home));
        assert_eq!(a(""), Ok((0, 0, 1, "/root".into())));
        assert_eq!(a("ann"), Ok((1000, 1001, 2, "/home/ann".into())));
        assert_eq!(a("1000"), Ok((1000, 1001, 2, "/home/ann".into())));
        assert_eq!(a("ann:staff"), Ok((1000, 50, 1, "/home/ann".into())));
        assert_eq!(a("5:6"), Ok((5, 6, 1, "/".into())));
        assert!(a("eve").is_err() && a("ann:nobody").is_err());
    }
}

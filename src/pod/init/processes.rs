//! Which processes there are in the pod.

use std::collections::BTreeSet;
use std::io::Read;

use nix::unistd::Pid;

use crate::channel::terminal::ProcessInfo;

/// Processes told of at most.
const MOST: usize = 2048;
/// Bytes read of a process's command.
const COMMAND: u64 = 4096;
/// Milliseconds in a tick of /proc: 100 in a second, on every Linux and in gVisor.
const TICK_MS: u64 = 10;
/// Bytes of a page, as /proc counts memory.
const PAGE: u64 = 4096;

/// All of them, by number.
pub(super) fn all() -> Vec<ProcessInfo> {
    let Ok(dir) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<i32> = dir.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids.truncate(MOST);
    pids.into_iter().filter_map(one).collect()
}

/// The process groups of a session.
pub(super) fn groups_of(session: Pid) -> BTreeSet<i32> {
    let Ok(dir) = std::fs::read_dir("/proc") else { return BTreeSet::new() };
    let pids = dir.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let group = |pid: i32| {
        let stat = text(format!("/proc/{pid}/stat"))?;
        let (group, of) = parse_groups(&String::from_utf8_lossy(&stat))?;
        (of == session.as_raw()).then_some(group)
    };
    pids.take(MOST).filter_map(group).collect()
}

/// Process group and session in a line of `stat`.
fn parse_groups(line: &str) -> Option<(i32, i32)> {
    let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace().skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn text(path: String) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(COMMAND).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// None: it is gone.
fn one(pid: i32) -> Option<ProcessInfo> {
    let stat = String::from_utf8_lossy(&text(format!("/proc/{pid}/stat"))?).into_owned();
    let (name, mut info) = parse_stat(&stat)?;
    info.pid = pid;
    if let Some(status) = text(format!("/proc/{pid}/status")) {
        info.uid = parse_uid(&String::from_utf8_lossy(&status)).unwrap_or(0);
    }
    let line = text(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.split(|b| *b == 0).filter(|w| !w.is_empty());
    info.command = words.map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    if info.command.is_empty() {
        info.command = vec![format!("[{name}]")];
    }
    Some(info)
}

/// The name and the numbers of a line of `stat`. The name may hold anything, brackets and spaces too.
fn parse_stat(line: &str) -> Option<(String, ProcessInfo)> {
    let (head, rest) = line.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // By proc(5), the state is field 3.
    let number = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    let info = ProcessInfo {
        pid: 0,
        parent: i32::try_from(number(4)).unwrap_or(0),
        uid: 0,
        state: (*fields.first()?).to_owned(),
        cpu_ms: number(14).saturating_add(number(15)).saturating_mul(TICK_MS),
        memory: number(24).saturating_mul(PAGE),
        threads: u32::try_from(number(20)).unwrap_or(0),
        command: Vec::new(),
    };
    Some((name, info))
}

fn parse_uid(status: &str) -> Option<u32> {
    status.lines().find_map(|l| l.strip_prefix("Uid:")?.split_ascii_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_name_is() {
        let line = "7 (a (b) c) S 1 7 7 0 0 0 0 0 0 0 12 30 0 0 20 0 3 0 55 4096 25 0";
        let (name, info) = parse_stat(line).unwrap();
        assert_eq!((name.as_str(), info.parent, info.state.as_str()), ("a (b) c", 1, "S"));
        assert_eq!(parse_groups(line), Some((7, 7)));
        assert_eq!((info.cpu_ms, info.memory, info.threads), (420, 25 * 4096, 3));
        for bad in ["", "7", "7 (x", "7 x) S", "7 (x)"] {
            assert!(parse_stat(bad).is_none(), "{bad}");
        }
        assert_eq!(parse_uid("Name:\tx\nUid:\t1000\t1000\t1000\t1000\n"), Some(1000));
    }

    #[test]
    fn this_process_is_among_them() {
        let me = i32::try_from(std::process::id()).unwrap();
        let found = all().into_iter().find(|p| p.pid == me).unwrap();
        assert!(found.threads >= 1 && found.memory > 0 && !found.command.is_empty());
    }
}

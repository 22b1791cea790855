//! An engine that does what it is told to do wrong: a script in front of the real runsc, and the processes of an instance.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use torpor::api::types::Pod;

use crate::support;

/// Where faults are ordered, beside the instance's directory: `VERB` or `VERB-POD` with the kind of fault in it.
pub struct Faults {
    dir: tempfile::TempDir,
}

const SCRIPT: &str = r#"#!/bin/sh
faults=@DIR@
real=@REAL@
for a in "$@"; do case $a in -*) ;; *) verb=$a; break ;; esac; done
for a in "$@"; do last=$a; done
kind=
for f in "$faults/$verb" "$faults/$verb-${last%-*}"; do [ -f "$f" ] && kind=$(cat "$f"); done
case $kind in
    fail) echo "made to fail" >&2; exit 1 ;;
    late) "$real" "$@"; echo "made to fail after it was done" >&2; exit 1 ;;
    hang) kill -STOP $$ ;;
    empty:* | odd:* | missing:*)
        to=$(printf '%s\n' "$@" | sed -n '/^--image-path$/{n;p}')
        whole=$(mktemp -d "$faults/whole-XXXXXX")
        set -- "$@" --end--
        while [ "$1" != --end-- ]; do
            if [ "$1" = "$to" ]; then set -- "$@" "$whole"; else set -- "$@" "$1"; fi
            shift
        done
        shift
        "$real" "$@" || exit
        file=$whole/${kind#*:}
        case $kind in
            empty:*) : > "$file" ;;
            odd:*) truncate -s -7 "$file" ;;
            missing:*) rm -f "$file" ;;
        esac
        cp "$whole"/* "$to" && rm -rf "$whole"
        exit 0 ;;
esac
exec "$real" "$@"
"#;

impl Faults {
    /// The place for orders, and the engine that heeds them.
    pub fn new() -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let real = support::runsc().unwrap();
        let text = SCRIPT
            .replace("@DIR@", &dir.path().display().to_string())
            .replace("@REAL@", &real.canonicalize().unwrap().display().to_string());
        let program = dir.path().join("runsc");
        std::fs::write(&program, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        Faults { dir }
    }

    pub fn engine(&self) -> PathBuf {
        self.dir.path().join("runsc")
    }

    /// From now on `verb` goes wrong, for one pod or for all.
    pub fn order(&self, verb: &str, pod: Option<&str>, kind: &str) {
        std::fs::write(self.place(verb, pod), kind).unwrap();
    }

    /// No more.
    pub fn end(&self, verb: &str, pod: Option<&str>) {
        let _ = std::fs::remove_file(self.place(verb, pod));
    }

    fn place(&self, verb: &str, pod: Option<&str>) -> PathBuf {
        self.dir.path().join(pod.map_or_else(|| verb.to_owned(), |p| format!("{verb}-{p}")))
    }
}

/// A process with its arguments.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pub args: Vec<String>,
}

impl Process {
    pub fn kill(&self) {
        send(self.pid, Signal::SIGKILL);
    }
}

/// A signal to a process of the instance under test; one that is gone already is no error.
pub fn send(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Processes of one sandbox of an instance, by their arguments.
pub fn processes(tag: &str, pod: &Pod) -> Vec<Process> {
    let (instance, id) = (format!("/run/torpor/{tag}/"), format!("{}-{}", pod.id, pod.incarnation));
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(raw) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let text = String::from_utf8_lossy(&raw);
        if text.contains(&instance) && text.contains(&id) {
            found.push(Process { pid, args: text.split('\0').map(str::to_owned).collect() });
        }
    }
    found
}

/// The shim.
pub fn shim(tag: &str, pod: &Pod) -> Option<Process> {
    processes(tag, pod).into_iter().find(|p| p.args[0].ends_with("torpor-shim"))
}

/// The gofer.
pub fn gofer(tag: &str, pod: &Pod) -> Option<Process> {
    processes(tag, pod).into_iter().find(|p| p.args[0].contains("gofer") || p.args.iter().any(|a| a == "gofer"))
}

/// The sandbox as such, which may not be in the record yet.
pub fn sandbox(tag: &str, pod: &Pod) -> Option<Process> {
    processes(tag, pod).into_iter().find(|p| p.args[0].contains("sandbox") || p.args.iter().any(|a| a == "boot"))
}

/// The engine's command `verb` of a call while it runs; none if the call was answered without one having been seen.
pub async fn command<T>(tag: &str, pod: &Pod, verb: &str, call: &tokio::task::JoinHandle<T>) -> Option<Process> {
    while !call.is_finished() {
        let found = processes(tag, pod).into_iter().find(|p| p.args.iter().any(|a| a == verb));
        if found.is_some() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    None
}

/// Files in which runsc keeps what it knows of a sandbox.
pub fn state_files(tag: &str, pod: &Pod) -> Vec<PathBuf> {
    let (root, id) = (Path::new("/run/torpor").join(tag).join("r"), format!("{}-{}", pod.id, pod.incarnation));
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    entries
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "state") && p.display().to_string().contains(&id))
        .collect()
}

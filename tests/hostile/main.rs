//! Archives and images of strangers who mean harm. Each is refused, or taken harmlessly; a tree outside never changes; each
//! has its bound in time and memory.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub, missing_docs, reason = "tests")]

#[path = "../archives/mod.rs"]
mod archives;
mod dockers;
mod images;
mod layouts;
mod members;
mod more_members;
mod more_streams;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod worker;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use archives::Tar;
use torpor::host::layers::{ImportSource, Layers, Limits};
use torpor::host::progress::Progress;
use torpor::model::Code;

const LIMITS: Limits =
    Limits { layer_bytes: 4 << 20, layer_inodes: 500, image_bytes: 16 << 20, upload_bytes: 16 << 20 };
/// What one case may take on a machine that has much else to do.
const LONGEST: Duration = Duration::from_secs(20);
/// Bytes by which this process, or a worker, may grow.
const MOST_MEMORY: u64 = 384 << 20;

/// What must never change.
struct Canary(PathBuf, Vec<String>);

impl Canary {
    fn new(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        std::fs::create_dir(path.join("dir")).unwrap();
        std::fs::write(path.join("file"), "alive").unwrap();
        std::fs::write(path.join("dir/file"), "alive").unwrap();
        let seen = Self::look(&path);
        Canary(path, seen)
    }
    fn look(dir: &Path) -> Vec<String> {
        let mut seen = Vec::new();
        for path in [dir.to_owned(), dir.join("dir"), dir.join("file"), dir.join("dir/file")] {
            let m = std::fs::symlink_metadata(&path).unwrap();
            let body = std::fs::read(&path).unwrap_or_default();
            let count = std::fs::read_dir(&path).map_or(0, Iterator::count);
            seen.push(format!(
                "{path:?} {} {:o} {} {} {} {:?} {body:?} {count}",
                m.ino(),
                m.mode(),
                m.uid(),
                m.gid(),
                m.nlink(),
                m.modified().unwrap()
            ));
        }
        seen
    }
    fn check(&self, what: &str) {
        assert_eq!(Self::look(&self.0), self.1, "{what} changed what lies outside");
    }
}

/// An archive: refused with that code, or taken if there is none.
pub type Case = (&'static str, Vec<u8>, Option<Code>);

pub fn bad(what: &'static str, tar: Tar) -> Case {
    (what, tar.end(), Some(Code::BadArchive))
}
pub fn large(what: &'static str, tar: Tar) -> Case {
    (what, tar.end(), Some(Code::TooLarge))
}
pub fn raw(what: &'static str, bytes: Vec<u8>) -> Case {
    (what, bytes, Some(Code::BadArchive))
}
pub fn harmless(what: &'static str, tar: Tar) -> Case {
    (what, tar.end(), None)
}

/// Bytes of memory that this process has had at most since that was last asked.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Bytes of memory that the largest of the processes had that this one has waited for.
fn children_peak() -> u64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).unwrap();
    u64::try_from(usage.max_rss()).unwrap() << 10
}

/// A layer store, and beside it what must not change.
struct Stage {
    _tmp: tempfile::TempDir,
    canary: Canary,
    state: PathBuf,
    layers: std::sync::Arc<Layers>,
}

impl Stage {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let canary = Canary::new(tmp.path().join("canary"));
        let state = tmp.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let layers = Layers::open(&state, env!("CARGO_BIN_EXE_torpord").into(), LIMITS).unwrap();
        Stage { _tmp: tmp, canary, state, layers: std::sync::Arc::new(layers) }
    }

    fn outside(&self) -> &str {
        self.canary.0.to_str().unwrap()
    }

    /// Imports it and removes it again; gives the code with which it was refused, and in words.
    async fn import(&self, what: &str, bytes: Vec<u8>) -> (Option<Code>, String) {
        let (begun, _) = (Instant::now(), peak());
        let before = peak();
        let source = ImportSource::Stream(Box::new(std::io::Cursor::new(bytes)));
        let result = self.layers.import(source, &Progress::default()).await;
        assert!(begun.elapsed() < LONGEST, "{what} took {:?}", begun.elapsed());
        let grown = peak().saturating_sub(before);
        assert!(grown < MOST_MEMORY, "{what} took {grown} bytes of memory");
        assert!(children_peak() < MOST_MEMORY, "{what}: a worker took {} bytes", children_peak());
        let code = result.as_ref().err().map(torpor::model::Error::code);
        let report = result.as_ref().err().map(torpor::model::Error::report).unwrap_or_default();
        assert!(report.len() < 3000 && !report.chars().any(char::is_control), "{what}: {report:?}");
        self.canary.check(what);
        assert_eq!(std::fs::read_dir(self.state.join("tmp")).unwrap().count(), 0, "{what} left something in tmp");
        drop(result);
        // Whole layers of an image that was refused for another stay until the daemon collects what nobody names.
        for layer in self.layers.list().unwrap() {
            self.layers.remove(&layer.digest).await.unwrap();
        }
        assert_eq!(std::fs::read_dir(self.state.join("layers")).unwrap().count(), 0, "{what} left a layer");
        assert_eq!(std::fs::read_dir(self.state.join("blobs")).unwrap().count(), 0, "{what} left a blob");
        (code, report)
    }

    async fn all(&self, cases: Vec<Case>) {
        let mut names: Vec<&str> = cases.iter().map(|c| c.0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases.len(), "two cases of one name");
        support::tried(cases.len());
        let mut wrong = Vec::new();
        for (what, bytes, verdict) in cases {
            let (reached, report) = self.import(what, bytes).await;
            if reached != verdict {
                wrong.push(format!("{what}: {reached:?}, not {verdict:?}: {report}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[tokio::test]
async fn no_archive_does_harm() {
    if !support::root() {
        return;
    }
    let stage = Stage::new();
    let outside = stage.outside();
    let cases: Vec<Case> = [
        members::paths(outside),
        members::links(outside),
        members::kinds(),
        members::whiteouts(),
        streams::streams(),
        more_members::paths(outside),
        more_members::links(outside),
        more_members::kinds(),
        more_members::whiteouts(),
        more_streams::streams(),
        more_streams::sparse(),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(cases.len() >= 350, "{} archives", cases.len());
    stage.all(cases).await;
}

#[tokio::test]
async fn no_image_does_harm() {
    if !support::root() {
        return;
    }
    let stage = Stage::new();
    let outside = stage.outside();
    let cases: Vec<Case> =
        [images::images(), layouts::layouts(outside), dockers::dockers(outside)].into_iter().flatten().collect();
    assert!(cases.len() >= 150, "{} images", cases.len());
    stage.all(cases).await;
}

/// Archives that were right until bytes of them were changed at random: taken or refused, and nothing else.
#[tokio::test]
async fn no_damage_does_harm() {
    if !support::root() {
        return;
    }
    let stage = Stage::new();
    let outside = stage.outside().to_owned();
    let mut seeds: Vec<Vec<u8>> = members::links(&outside).into_iter().map(|c| c.1).take(6).collect();
    seeds.extend(more_streams::sparse().into_iter().map(|c| c.1).take(4));
    seeds.extend(images::images().into_iter().map(|c| c.1).take(4));
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        usize::try_from(x % below as u64).unwrap()
    };
    for n in 0..120 {
        let mut bytes = seeds[n % seeds.len()].clone();
        for _ in 0..=next(6) {
            let at = next(bytes.len());
            match next(4) {
                0 => bytes[at] ^= 1 << next(8),
                1 => bytes[at] = u8::try_from(next(256)).unwrap(),
                2 => bytes.truncate(at.max(1)),
                _ => {
                    let (from, length) = (next(bytes.len()), next(600));
                    let piece = bytes[from..(from + length).min(bytes.len())].to_vec();
                    let end = (at + piece.len()).min(bytes.len());
                    bytes[at..end].copy_from_slice(&piece[..end - at]);
                }
            }
            // A header whose checksum is right again is read on.
            let block = at / 512 * 512;
            if let Some(header) = bytes.get_mut(block..block + 512).and_then(|b| <&mut [u8; 512]>::try_from(b).ok())
                && header[257..262] == *b"ustar"
            {
                archives::checksum(header);
            }
        }
        let (code, report) = stage.import(&format!("damaged archive {n}"), bytes).await;
        assert!(matches!(code, None | Some(Code::BadArchive | Code::TooLarge)), "{n}: {code:?}: {report}");
    }
}

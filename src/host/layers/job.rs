//! One import's work on a thread of its own, and the process that it drives: given up when nobody waits for it any more.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::SCRATCH;
use crate::host::command::quote;
use crate::host::{files, unpack};
use crate::model::{Attempt, Code, Error, Result};

/// An import that takes longer is given up.
const DEADLINE: Duration = Duration::from_secs(2 * 3600);
/// Bytes of a worker's answer: paths of opaque directories.
const ANSWER: u64 = 16 << 20;

/// What the thread looks at between chunks.
#[derive(Debug, Default)]
pub(super) struct Job {
    cancelled: AtomicBool,
    worker: Mutex<Option<OwnedFd>>,
}

struct CancelOnDrop(Arc<Job>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Job {
    /// Does blocking work. Dropped, the work ends soon and cleans up after itself.
    pub(super) async fn run<T: Send + 'static>(work: impl FnOnce(&Job) -> Result<T> + Send + 'static) -> Result<T> {
        let job = Arc::new(Job::default());
        let guard = CancelOnDrop(Arc::clone(&job));
        let mut thread = tokio::task::spawn_blocking(move || work(&job));
        match tokio::time::timeout(DEADLINE, &mut thread).await {
            Ok(done) => done.attempt(Code::Internal, || "import".into())?,
            Err(_) => {
                drop(guard);
                let _ = thread.await;
                Err(Error::new(Code::Timeout, format!("the import took longer than {} s", DEADLINE.as_secs())))
            }
        }
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        if let Some(worker) = &*self.worker() {
            let _ = pidfd_send_signal(worker, Signal::KILL);
        }
    }

    fn worker(&self) -> std::sync::MutexGuard<'_, Option<OwnedFd>> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody still waits for it.
    pub(super) fn go_on(&self) -> Result<()> {
        if self.cancelled.load(Ordering::SeqCst) {
            return Err(Error::new(Code::Cancelled, "the import was given up"));
        }
        Ok(())
    }
}

/// A directory for half made things, removed in the end whatever a stranger put there.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(tmp: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(tmp);
        Ok(Scratch(dir.map_err(|e| write_failed(e, "make a directory for a layer"))?.keep()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = files::remove_tree_now(&self.0) {
            tracing::warn!(error = %e.report(), "remove what an import left: the next start tries again");
        }
    }
}

pub(super) fn write_failed(e: std::io::Error, what: &str) -> Error {
    files::disk_error(e, Code::Internal, what)
}

/// The process that unpacks. What it says is not trusted.
pub(super) struct Worker(Child);

impl Worker {
    pub(super) fn start(program: &Path, root: &Path, limits: &unpack::Limits, job: &Job) -> Result<Self> {
        let what = || format!("start {} to unpack", program.display());
        let child = Command::new(program)
            .arg(unpack::WORKER)
            .args(limits.args())
            .env_clear()
            .current_dir(root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .attempt(Code::Internal, what)?;
        let worker = Worker(child);
        let pid = i32::try_from(worker.0.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Error::internal("a process without an id"))?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).attempt(Code::Internal, what)?;
        *job.worker() = Some(fd);
        // Cancelled meanwhile: nobody would kill it.
        job.go_on()?;
        Ok(worker)
    }

    /// False: it has ended, and its words say why.
    pub(super) fn give(&mut self, bytes: &[u8]) -> bool {
        use std::io::Write;
        self.0.stdin.as_mut().is_some_and(|s| s.write_all(bytes).is_ok())
    }

    /// Waits for its end; gives the bytes that it unpacked.
    pub(super) fn finish(mut self, root: &Path, job: &Job) -> Result<u64> {
        use std::io::Read;
        drop(self.0.stdin.take());
        let (mut said, mut wrong) = (Vec::new(), Vec::new());
        if let Some(out) = self.0.stdout.take() {
            let _ = out.take(ANSWER).read_to_end(&mut said);
        }
        if let Some(err) = self.0.stderr.take() {
            let _ = err.take(64 << 10).read_to_end(&mut wrong);
        }
        let status = self.0.wait().attempt(Code::Internal, || "wait for the process that unpacks".into())?;
        job.go_on()?;
        let text = || format!("unpack the layer: {}", quote(&wrong, 400));
        match status.code() {
            Some(0) => unpack::finish(root, &said),
            Some(unpack::EXIT_FULL) => Err(Error::new(Code::Exhausted, text()).hint(files::disk_hint(Code::Exhausted))),
            Some(unpack::EXIT_DISK) => {
                Err(Error::new(Code::DiskFailed, text()).hint(files::disk_hint(Code::DiskFailed)))
            }
            Some(unpack::EXIT_LARGE) => Err(Error::new(Code::TooLarge, text())),
            Some(unpack::EXIT_BAD) => Err(Error::new(Code::BadArchive, text()).hint("nothing of it was imported")),
            _ => Err(Error::internal(format!("the process that unpacks ended ({status}): {}", quote(&wrong, 400)))),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

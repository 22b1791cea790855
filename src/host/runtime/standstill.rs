//! Pause and resume, which are never cut off half-way.
//!
//! runsc tells the sandbox first and writes its own record afterwards. Killed between the two it leaves a wrong record, and that
//! costs a pod: a sandbox that goes on and is resumed once more ends itself, and one that stands still and is recorded as
//! running is never resumed. So on a slow host the command goes on by itself, whoever has given up waiting for it, and what is
//! asked next of that sandbox waits for it. It is killed only where it has not begun: runsc locks its record before it tells
//! the sandbox and until it has written it, so whoever holds that lock may kill it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::FlockOperation;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::host::command::{self, EngineCommand};
use crate::model::{Attempt, Code, Error, Result};

/// How much longer than a command's own time its end is waited for.
const MORE: Duration = Duration::from_secs(2);

/// The commands that are under way, at most one for each sandbox.
#[derive(Debug, Clone, Default)]
pub(super) struct Standstill(Arc<Mutex<BTreeMap<String, Change>>>);

#[derive(Debug, Clone)]
struct Change {
    verb: &'static str,
    /// Whether it was done, once it has ended.
    done: watch::Receiver<Option<bool>>,
    /// The sandbox is going: it may be killed at any moment.
    give_up: CancellationToken,
}

impl Change {
    /// Whether it was done. None: it has not ended in that time.
    async fn ended(&mut self, within: Duration) -> Option<bool> {
        let ended = tokio::time::timeout(within, self.done.wait_for(Option::is_some)).await.ok()?;
        Some(ended.is_ok_and(|done| *done == Some(true)))
    }
}

/// One's own place among those that are under way, until this is dropped.
struct Place {
    all: Standstill,
    id: String,
    done: watch::Sender<Option<bool>>,
    give_up: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.lock().remove(&self.id);
    }
}

impl Standstill {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Change>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for this change, or the change that has it.
    fn begin(&self, id: &str, verb: &'static str) -> std::result::Result<Place, Change> {
        let mut all = self.lock();
        if let Some(before) = all.get(id) {
            return Err(before.clone());
        }
        let (done, seen) = watch::channel(None);
        let give_up = CancellationToken::new();
        all.insert(id.to_owned(), Change { verb, done: seen, give_up: give_up.clone() });
        Ok(Place { all: self.clone(), id: id.to_owned(), done, give_up })
    }

    /// Runs the command by which a sandbox stands still or goes on; `record_lock`: of the engine's record of it. One that is
    /// under way is waited for first, and if that did the same there is nothing more to do.
    ///
    /// # Errors
    /// [`Code::Timeout`] after the command's time: it was killed before it began, or it goes on by itself. [`Code::Runtime`]: it
    /// failed.
    pub(super) async fn change(
        &self,
        id: &str,
        verb: &'static str,
        command: EngineCommand,
        record_lock: PathBuf,
    ) -> Result<()> {
        let patience = command.timeout + MORE;
        let place = loop {
            let mut before = match self.begin(id, verb) {
                Ok(place) => break place,
                Err(before) => before,
            };
            match before.ended(patience).await {
                None => return Err(goes_on(id, before.verb)),
                Some(true) if before.verb == verb => return Ok(()),
                Some(_) => {}
            }
        };
        let (tell, told) = oneshot::channel();
        // A task of its own: whoever waits for it may be cancelled.
        tokio::spawn(async move {
            let done = command::run_until_held(&command, || hold(&record_lock), &place.give_up).await;
            place.done.send_replace(Some(done.is_ok()));
            drop(place);
            let _ = tell.send(done); // perhaps nobody waits any more
        });
        match tokio::time::timeout(patience, told).await {
            Ok(Ok(done)) => done.attempt(Code::Runtime, || format!("{verb} sandbox {id}")).map(drop),
            Ok(Err(_)) => Err(Error::internal(format!("{verb} sandbox {id}: its end is not known"))),
            Err(_) => Err(goes_on(id, verb)),
        }
    }

    /// An error while it is not settled whether a sandbox stands still.
    pub(super) fn require_settled(&self, id: &str) -> Result<()> {
        self.lock().get(id).map_or(Ok(()), |change| Err(goes_on(id, change.verb)))
    }

    /// The sandbox is about to go: what is under way ends.
    pub(super) async fn give_up(&self, id: &str) {
        let change = self.lock().get(id).cloned();
        if let Some(mut change) = change {
            change.give_up.cancel();
            let _ = change.done.wait_for(Option::is_some).await; // an error: it has ended too
        }
    }
}

fn goes_on(id: &str, verb: &str) -> Error {
    Error::new(Code::Timeout, format!("{verb} sandbox {id}: the engine is at it still"))
        .hint("nothing is lost: it is not cut off, and what is asked next waits for it; look at the host's load")
}

/// The lock of a sandbox's record, if nobody has it. It is as good as had if there is no record.
fn hold(record_lock: &Path) -> Option<Option<File>> {
    match File::open(record_lock) {
        Ok(file) => {
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
            Some(Some(file))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Some(None),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Engine {
        dir: tempfile::TempDir,
        all: Standstill,
    }

    impl Engine {
        fn new() -> Self {
            Engine { dir: tempfile::tempdir().unwrap(), all: Standstill::default() }
        }

        /// `script` has the record's lock as descriptor 9, not locked yet, and writes what it does into `$log`.
        async fn run(&self, verb: &'static str, script: &str, timeout: Duration) -> Result<()> {
            let (lock, log) = (self.dir.path().join("lock"), self.dir.path().join("log"));
            let whole = format!("log={}; exec 9>>{}; echo {verb} >>$log; {script}", log.display(), lock.display());
            let mut command = EngineCommand::new("/bin/sh", ["-c", &whole]);
            command.timeout = timeout;
            self.all.change("one", verb, command, lock).await
        }

        fn log(&self) -> String {
            std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default().replace('\n', " ")
        }
    }

    const SOON: Duration = Duration::from_millis(500);
    const LONG: Duration = Duration::from_secs(60);
    /// Has the lock until somebody makes the file `go`.
    const SLOW: &str = "flock 9; until [ -e ${log%log}go ]; do sleep 0.02; done; echo done >>$log";

    #[tokio::test]
    async fn what_is_slow_is_waited_for_and_never_begun_twice() {
        let engine = Engine::new();
        let e = engine.run("resume", SLOW, SOON).await.unwrap_err();
        assert_eq!(e.code(), Code::Timeout, "{}", e.report());
        assert!(engine.all.require_settled("one").is_err() && engine.all.require_settled("other").is_ok());
        let (again, ()) = tokio::join!(engine.run("resume", "echo twice >>$log", LONG), async {
            std::fs::write(engine.dir.path().join("go"), "").unwrap();
        });
        again.unwrap();
        assert_eq!(engine.log(), "resume done ");
        assert!(engine.all.require_settled("one").is_ok());
        engine.run("resume", "flock 9; echo third >>$log", LONG).await.unwrap();
        assert_eq!(engine.log(), "resume done resume third ");
    }

    /// The lock is free again when a command's time is over, but the command has not ended yet.
    #[tokio::test]
    async fn what_is_done_as_its_time_ends_is_done() {
        let engine = Engine::new();
        let script = "flock 9; echo done >>$log; exec 9>&-; sleep 1";
        engine.run("resume", script, SOON).await.unwrap();
        assert_eq!(engine.log(), "resume done ");
    }

    #[tokio::test]
    async fn a_pause_that_nobody_waits_for_is_over_before_the_resume_begins() {
        let engine = Engine::new();
        // As the limit on how long a pod may stand still does it.
        let cancelled = tokio::time::timeout(SOON, engine.run("pause", SLOW, LONG)).await;
        assert!(cancelled.is_err());
        let (resumed, ()) = tokio::join!(engine.run("resume", "flock 9; echo resumed >>$log", LONG), async {
            tokio::time::sleep(SOON).await;
            assert_eq!(engine.log(), "pause ");
            std::fs::write(engine.dir.path().join("go"), "").unwrap();
        });
        resumed.unwrap();
        assert_eq!(engine.log(), "pause done resume resumed ");
    }

    #[tokio::test]
    async fn what_hangs_before_it_began_is_killed() {
        let engine = Engine::new();
        let e = engine.run("resume", "kill -STOP $$; echo done >>$log", SOON).await.unwrap_err();
        assert!(e.report().contains("was killed"), "{}", e.report());
        engine.run("resume", "flock 9; echo done >>$log", LONG).await.unwrap();
        assert_eq!(engine.log(), "resume resume done ");
        assert!(engine.run("pause", "exit 3", LONG).await.unwrap_err().report().contains("pause sandbox one"));
    }

    #[tokio::test]
    async fn a_sandbox_that_goes_waits_for_nothing() {
        let engine = Engine::new();
        assert!(engine.run("pause", SLOW, SOON).await.is_err());
        tokio::time::timeout(LONG, engine.all.give_up("one")).await.unwrap();
        assert!(engine.all.require_settled("one").is_ok());
        engine.all.give_up("one").await;
        std::fs::write(engine.dir.path().join("go"), "").unwrap();
        engine.run("resume", "flock 9; echo free >>$log", LONG).await.unwrap();
        assert_eq!(engine.log(), "pause resume free ", "the pause was killed");
    }
}

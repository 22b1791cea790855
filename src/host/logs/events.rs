//! What says that there may be more of a log to read.
#![allow(unsafe_code, reason = "tokio's registration of a descriptor")]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// Readers that are told of changes. The kernel gives a user few of what that takes, and others need some too.
const TOLD: usize = 32;
/// How often the others look.
const LOOK: Duration = Duration::from_millis(200);

static TOLD_NOW: AtomicUsize = AtomicUsize::new(0);

/// What says that there may be more to read.
pub(super) enum Events {
    Told(AsyncFd<OwnedFd>, Place),
    Look,
}

/// One of the places of those that are told.
pub(super) struct Place;

impl Place {
    fn take() -> Option<Self> {
        let took = TOLD_NOW.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < TOLD).then_some(n + 1));
        took.ok().map(|_| Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        TOLD_NOW.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Events {
    pub(super) fn of(dir: &Path) -> std::io::Result<Self> {
        let Some(place) = Place::take() else { return Ok(Events::Look) };
        let watch = match inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC) {
            Err(Errno::MFILE | Errno::NFILE) => return Ok(Events::Look),
            other => other?,
        };
        let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF;
        match inotify::add_watch(&watch, dir, events | WatchFlags::ONLYDIR) {
            Err(Errno::NOSPC) => return Ok(Events::Look),
            other => other?,
        };
        // SAFETY: an `OwnedFd` stays open, and the same, for as long as the `AsyncFd` owns it.
        Ok(Events::Told(unsafe { AsyncFd::register(watch) }?, place))
    }

    pub(super) async fn wait(&self) -> Option<()> {
        match self {
            Events::Told(watch, _place) => {
                let mut guard = watch.readable().await.ok()?;
                while rustix::io::read(watch.get_ref(), &mut [0_u8; 4096]).is_ok_and(|n| n > 0) {}
                guard.clear_ready();
            }
            Events::Look => tokio::time::sleep(LOOK).await,
        }
        Some(())
    }
}

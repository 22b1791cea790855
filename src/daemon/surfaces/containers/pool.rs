//! Containers made ahead of need, for clients that keep none themselves. A spare is a pod with a label, in no list and no
//! count; handing it out is one commit, which takes the label away and gives it its name. Where there is no room for both, a
//! container that somebody asks for comes before a spare.
//!
//! After a crash: spares that run are spares again, others are removed and made anew, and so are those of an image that has
//! changed meanwhile, or of other settings.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;

use super::create::{at_free_ports, spare};
use super::{CONTAINERS, SPARE};
use crate::api::types;
use crate::config::listen::Surface;
use crate::config::surfaces;
use crate::daemon::core::Core;
use crate::daemon::core::events::{Begin, Filter, Told};
use crate::daemon::core::list::Which;
use crate::daemon::surfaces::{SURFACE, image};
use crate::model::{Code, PodId, PodName, Result};

/// After a spare that could not be made, so long until the next, then twice as long each time, up to the longest.
const AGAIN: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// The spares of a torpord, for all its listeners.
pub struct Pool {
    core: Arc<Core>,
    settings: surfaces::Containers,
    pool: surfaces::Pool,
    /// Names of those that are being made.
    making: Mutex<BTreeSet<PodName>>,
    /// Tries in a row that failed.
    failures: AtomicUsize,
    /// Containers that are made meanwhile, which spares must not be in the way of.
    guests: AtomicUsize,
    /// One was handed out or made, or could not be, or there are no guests any more.
    changed: tokio::sync::Notify,
}

/// Spares, those of other settings too; lowest host port first.
fn spares(core: &Core) -> Vec<types::Pod> {
    let labels = vec![(SURFACE.into(), Some(CONTAINERS.into())), (SPARE.into(), None)];
    let mut all = core.list_some(&Which { labels, ..Which::default() }).0;
    all.sort_by_key(|pod| pod.ports.first().map(|p| p.host));
    all
}

/// As long as it lives no spare is begun.
struct Guest<'a>(&'a Pool);

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

impl Pool {
    /// Keeps spares ready from now on, until the daemon ends. Without a listener or settings for them it removes those that
    /// earlier settings left.
    pub fn begin(core: &Arc<Core>) -> Option<Arc<Self>> {
        let settings = core.config().containers.clone();
        let served = core.config().listen.iter().any(|l| l.surface == Surface::Containers);
        let Some(pool) = settings.pool.clone().filter(|_| served) else {
            let core = Arc::clone(core);
            tokio::spawn(async move {
                for pod in spares(&core) {
                    remove(&core, &pod).await;
                }
            });
            return None;
        };
        let this = Arc::new(Pool {
            core: Arc::clone(core),
            settings,
            pool,
            making: Mutex::default(),
            failures: AtomicUsize::new(0),
            guests: AtomicUsize::new(0),
            changed: tokio::sync::Notify::new(),
        });
        tokio::spawn(Arc::clone(&this).keep());
        Some(this)
    }

    fn image(&self) -> &str {
        image(&self.settings.images, &self.settings.image)
    }

    fn making(&self) -> MutexGuard<'_, BTreeSet<PodName>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands out a spare under that name if one is ready and as it is wanted. None: there is none.
    ///
    /// # Errors
    /// [`Code::NameTaken`].
    pub(super) async fn take(&self, name: &PodName, wanted: &types::CreatePod) -> Result<Option<types::Pod>> {
        let as_spares = spare(&self.settings, name, self.image(), &self.pool.ports, "");
        let fits = wanted.image == as_spares.image && wanted.ports == as_spares.ports && wanted.volumes.is_empty();
        if !fits {
            return Ok(None);
        }
        let digest = match self.core.inspect_image(self.image()).await {
            Ok(image) => image.id,
            Err(e) if e.code() == Code::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        for pod in spares(&self.core) {
            if !self.is_good(&pod, &digest) {
                continue;
            }
            match self.core.assign_pod(&pod.id, SPARE, name, &wanted.labels).await {
                Ok(taken) => {
                    self.core.metrics().handed_out(true);
                    self.changed.notify_one();
                    return Ok(Some(taken));
                }
                // Somebody else took it, or it has just ended.
                Err(e) if matches!(e.code(), Code::WrongState | Code::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Makes a container that is no spare. As long as there is no room for it, one spare after the other goes.
    pub(super) async fn make_way<F>(&self, make: impl Fn() -> F) -> Result<types::Pod>
    where
        F: Future<Output = Result<types::Pod>>,
    {
        self.guests.fetch_add(1, Ordering::Relaxed);
        let _guest = Guest(self);
        loop {
            match make().await {
                Err(e) if e.code() == Code::Exhausted => {
                    let Some(last) = spares(&self.core).pop() else { return Err(e) };
                    match self.core.delete_labelled(&last.id, SPARE).await {
                        Err(other) if other.code() != Code::NotFound => return Err(other),
                        _ => {}
                    }
                }
                made => {
                    if made.is_ok() {
                        self.core.metrics().handed_out(false);
                    }
                    return made;
                }
            }
        }
    }

    fn is_good(&self, pod: &types::Pod, digest: &str) -> bool {
        let ports: Vec<u16> = pod.ports.iter().map(|p| p.pod).collect();
        pod.state == "running"
            && pod.labels.get(SPARE).is_some_and(|d| d == digest)
            && pod.command == self.settings.command
            && pod.resources.memory == self.settings.memory
            && self.settings.cpus.is_none_or(|c| (pod.resources.cpus - c).abs() < 0.001)
            && ports == self.pool.ports
    }

    /// Looks after the spares whenever something happens to a container, or to an image.
    async fn keep(self: Arc<Self>) {
        let labels = vec![(SURFACE.into(), Some(CONTAINERS.into()))];
        let told = self.core.events(Begin::Now, Filter { labels, ..Filter::default() });
        let mut told = std::pin::pin!(told.filter(|t| std::future::ready(!matches!(t, Told::Nothing(_)))));
        let mut images = self.core.images_changed();
        loop {
            images.borrow_and_update();
            self.look().await;
            tokio::select! {
                () = self.core.shutdown().cancelled() => return,
                () = self.changed.notified() => {}
                next = told.next() => if next.is_none() { return },
                changed = images.changed() => if changed.is_err() { return },
                // One that could not be removed tells nothing.
                () = tokio::time::sleep(LONGEST) => {}
            }
        }
    }

    /// Removes spares that are none any more, and begins to make those that are missing.
    async fn look(self: &Arc<Self>) {
        let digest = match self.core.inspect_image(self.image()).await {
            Ok(image) => Some(image.id),
            Err(e) if e.code() == Code::NotFound => None,
            Err(e) => return tracing::warn!(error = %e.report(), "look for the image of spare containers"),
        };
        // First these: one that is finished a moment later is counted here, and then is told.
        let making = self.making().clone();
        let mut ready = 0;
        for pod in spares(&self.core) {
            if making.iter().any(|name| name.as_str() == pod.name) {
                continue;
            }
            let good = digest.as_ref().is_some_and(|d| self.is_good(&pod, d)) && ready < self.pool.sizes.target;
            if good {
                ready += 1;
            } else {
                remove(&self.core, &pod).await;
            }
        }
        self.core.metrics().pool(ready, making.len(), self.pool.sizes.target);
        let Some(digest) = digest else {
            return tracing::debug!(image = self.image(), "there is no image to make spare containers of");
        };
        if self.guests.load(Ordering::Relaxed) > 0 || self.core.goes_down() {
            return; // the last one tells when it is done
        }
        let failures = self.failures.load(Ordering::Relaxed);
        let mut begin = self.pool.sizes.begin(ready, making.len());
        if failures > 0 {
            begin = begin.min(usize::from(making.is_empty()));
        }
        for _ in 0..begin {
            match PodId::random().and_then(|id| format!("spare-{}", &id.as_str()[..8]).parse::<PodName>()) {
                Ok(name) => {
                    self.making().insert(name.clone());
                    tokio::spawn(Arc::clone(self).make(name, digest.clone(), failures));
                }
                Err(e) => tracing::warn!(error = %e.report(), "name a spare container"),
            }
        }
    }

    async fn make(self: Arc<Self>, name: PodName, digest: String, failures: usize) {
        if failures > 0 {
            let wait = AGAIN.saturating_mul(1 << (failures - 1).min(6)).min(LONGEST);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.core.shutdown().cancelled() => return,
            }
        }
        let wanted = spare(&self.settings, &name, self.image(), &self.pool.ports, &digest);
        match at_free_ports(&self.core, wanted).await {
            Ok(_) => self.failures.store(0, Ordering::Relaxed),
            Err(e) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(error = %e.report(), "make a spare container");
            }
        }
        self.making().remove(&name);
        self.changed.notify_one();
    }
}

async fn remove(core: &Arc<Core>, pod: &types::Pod) {
    // Nobody's yet, or it would not be found; handed out meanwhile, it is somebody's and stays.
    if let Err(e) = core.delete_labelled(&pod.id, SPARE).await
        && e.code() != Code::NotFound
    {
        tracing::warn!(pod = %pod.id, error = %e.report(), "remove a spare container");
    }
}

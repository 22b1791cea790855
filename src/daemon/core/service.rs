//! What the API calls, one function for each route: requests in, answers out. Work that changes something is run to its end
//! even if whoever asked for it goes away.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::sync::watch;

use super::idempotency::Intent;
use super::lifecycle::New;
use super::pod::Pod;
use super::snapshots::Copy;
use super::trace::Operation;
use super::{Core, admit, view};
use crate::api::types;
use crate::host::layers::ImportSource;
use crate::host::logs::{self, LogLine, LogQuery, Raw};
use crate::host::progress::Progress;
use crate::host::shim::ExecOutput;
use crate::model::{Error, PodId, PodRecord, PodState, Result, SecretTarget};

/// The longest grace period.
const LONGEST_GRACE: u64 = 3600;

/// The signal that ends a command, and how long it has for that.
fn ending(signal: Option<&str>, grace_seconds: Option<u64>) -> Result<(Option<i32>, Duration)> {
    let signal = signal.map(admit::signal).transpose()?;
    let seconds = grace_seconds.unwrap_or(10);
    if seconds > LONGEST_GRACE {
        return Err(Error::invalid(format!("graceSeconds may be {LONGEST_GRACE} at most")));
    }
    Ok((signal, Duration::from_secs(seconds)))
}

impl Core {
    /// `POST /v1/pods`.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn create_pod(self: &Arc<Self>, request: types::CreatePod) -> Result<types::Pod> {
        self.create_pod_once(request, None).await
    }

    /// As [`Core::create_pod`], of a request with an Idempotency-Key.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn create_pod_once(
        self: &Arc<Self>,
        request: types::CreatePod,
        intent: Option<Intent>,
    ) -> Result<types::Pod> {
        let (spec, secrets) = self.admit(&request)?;
        self.create_as(New { spec, secrets, start: request.start, follow: request.follow, intent }, &request).await
    }

    /// Makes a pod that may be made so.
    pub(super) async fn create_as(self: &Arc<Self>, mut new: New, request: &types::CreatePod) -> Result<types::Pod> {
        let spec = &mut new.spec;
        let image = self.image(&spec.image).await?;
        spec.health = super::health::wanted(request.health.as_ref(), image.config.healthcheck.as_ref())?;
        crate::plan::admission::check(spec)?;
        if spec.program(&image.config).is_empty() {
            let own =
                if spec.entrypoint.is_some() { "there is nothing to run" } else { "it has no command of its own" };
            return Err(Error::invalid(format!("image {}: {own}", spec.image)).hint("give a command"));
        }
        self.open_volumes(&spec.volumes)?;
        let core = Arc::clone(self);
        Self::to_the_end(async move {
            core.traced(Operation::Create, None, core.create(new, &image)).await.map(|r| core.show_pod(&r))
        })
        .await
    }

    /// `GET /v1/pods/{pod}`.
    ///
    /// # Errors
    /// [`crate::model::Code::NotFound`].
    pub fn inspect_pod(&self, reference: &str) -> Result<types::Pod> {
        Ok(self.show_pod(&self.find(reference)?.record()))
    }

    /// `DELETE /v1/pods/{pod}`.
    ///
    /// # Errors
    /// [`crate::model::Code::WrongState`] for a pod that is not at rest, without force.
    pub async fn delete_pod(self: &Arc<Self>, reference: &str, force: bool) -> Result<()> {
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        Self::to_the_end(async move { core.traced(Operation::Remove, Some(&pod), core.remove(&pod, force)).await })
            .await
    }

    /// `POST /v1/pods/{pod}/start`.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn start_pod(self: &Arc<Self>, reference: &str) -> Result<types::Pod> {
        self.start_pod_with(reference, types::StartPod::default()).await
    }

    /// As [`Core::start_pod`], with values of secrets.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn start_pod_with(self: &Arc<Self>, reference: &str, request: types::StartPod) -> Result<types::Pod> {
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        Self::to_the_end(async move {
            let work = core.start(&pod, &request.secrets);
            core.traced(Operation::Start, Some(&pod), work).await.map(|r| core.show_pod(&r))
        })
        .await
    }

    /// `POST /v1/pods/{pod}/stop`.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn stop_pod(self: &Arc<Self>, reference: &str, request: types::StopPod) -> Result<types::Pod> {
        let (signal, grace) = ending(request.signal.as_deref(), request.grace_seconds)?;
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        Self::to_the_end(async move {
            let work = core.stop(&pod, signal, grace);
            core.traced(Operation::Stop, Some(&pod), work).await.map(|r| core.show_pod(&r))
        })
        .await
    }

    /// `POST /v1/pods/{pod}/restart`.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn restart_pod(self: &Arc<Self>, reference: &str, request: types::RestartPod) -> Result<types::Pod> {
        let (signal, grace) = ending(request.signal.as_deref(), request.grace_seconds)?;
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        Self::to_the_end(async move {
            let work = core.restart(&pod, signal, grace, &request.secrets);
            core.traced(Operation::Restart, Some(&pod), work).await.map(|r| core.show_pod(&r))
        })
        .await
    }

    /// `POST /v1/pods/{pod}/kill`.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn kill_pod(&self, reference: &str, request: &types::KillPod) -> Result<()> {
        let signal = admit::signal(&request.signal)?;
        self.kill(&*self.find(reference)?, signal).await
    }

    /// `POST /v1/pods/{pod}/sleep`.
    ///
    /// # Errors
    /// See the API's document; the pod goes on then.
    pub async fn sleep_pod(self: &Arc<Self>, reference: &str, progress: Progress) -> Result<types::Pod> {
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        Self::to_the_end(async move {
            let work = core.put_to_sleep(&pod, false, &progress);
            core.traced(Operation::Sleep, Some(&pod), work).await.map(|r| core.show_pod(&r))
        })
        .await
    }

    /// `POST /v1/pods/{pod}/wake`.
    ///
    /// # Errors
    /// See the API's document; its snapshot is kept then.
    pub async fn wake_pod(
        self: &Arc<Self>,
        reference: &str,
        request: types::WakePod,
        progress: Progress,
    ) -> Result<types::Pod> {
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        Self::to_the_end(async move {
            let work = core.wake(&pod, &request, &progress);
            core.traced(Operation::Wake, Some(&pod), work).await.map(|r| core.show_pod(&r))
        })
        .await
    }

    /// `POST /v1/pods/{pod}/restore`.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn restore_pod(
        self: &Arc<Self>,
        reference: &str,
        request: types::RestorePod,
        progress: Progress,
    ) -> Result<types::Pod> {
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        let snapshot = self.host.store.find(&request.snapshot).await?;
        Self::to_the_end(async move {
            let work = core.restore_in_place(&pod, &snapshot, &request.secrets, &progress);
            core.traced(Operation::Restore, Some(&pod), work).await.map(|r| core.show_pod(&r))
        })
        .await
    }

    /// `GET /v1/pods/{pod}/wait`.
    ///
    /// # Errors
    /// [`crate::model::Code::WrongState`]: it never ran, or was removed.
    pub async fn wait_pod(&self, reference: &str) -> Result<types::ExitInfo> {
        let pod = match self.find(reference) {
            Ok(pod) => pod,
            Err(e) => return self.departed.get(reference).ok_or(e),
        };
        if pod.state() == PodState::Created {
            return Err(super::pod::wrong_state(&pod.record(), "wait for its end"));
        }
        let (exit_code, reason) = self.wait(&pod).await?;
        Ok(types::ExitInfo { exit_code, exit_reason: view::reason(reason) })
    }

    /// `POST /v1/pods/{pod}/exec`.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn exec_pod(&self, reference: &str, request: types::ExecPod) -> Result<ExecOutput> {
        super::terminals::admit_program(&request.command)?;
        let exec = super::terminals::exec(request.command, &request.env, request.working_dir, request.user, false)?;
        let timeout = request.timeout_ms.map(Duration::from_millis);
        let pod = self.find(reference)?;
        super::terminals::awake(&pod, "run a command in it")?;
        let _permit = pod.wait_stream_permit().await;
        let stdin = request.stdin.unwrap_or_default().into_bytes();
        pod.shim()?.exec(&exec, stdin, timeout).await.map_err(|e| pod.explain(e))
    }

    /// `GET /v1/pods/{pod}/logs`.
    ///
    /// # Errors
    /// [`crate::model::Code::NotFound`].
    pub fn logs(
        &self,
        reference: &str,
        query: LogQuery,
    ) -> Result<impl Stream<Item = Result<Vec<LogLine>>> + Send + use<>> {
        let pod = self.find(reference)?;
        let (dir, ended) = self.log_of(&pod);
        Ok(pod.reader().reads(logs::read(&dir, query, ended)?))
    }

    /// As [`Core::logs`], the records as they lie there, after the one that was `seen`; with them the id of the pod. A record of
    /// another pod, which had the name before, says nothing about this one.
    ///
    /// # Errors
    /// [`crate::model::Code::NotFound`].
    pub fn log_records(
        &self,
        reference: &str,
        seen: Option<&(PodId, u64)>,
        query: LogQuery,
    ) -> Result<(PodId, impl Stream<Item = Result<Raw>> + Send + use<>)> {
        let pod = self.find(reference)?;
        let id = pod.record().id;
        let (dir, ended) = self.log_of(&pod);
        let after = seen.filter(|(of, _)| *of == id).map(|(_, number)| *number);
        let records = logs::read_raw(&dir, LogQuery { after, ..query }, ended)?;
        Ok((id, pod.reader().reads(records)))
    }

    /// Where a pod's log lies, and what tells that no more will come.
    fn log_of(&self, pod: &Pod) -> (PathBuf, watch::Receiver<bool>) {
        let (over, ended) = watch::channel(false);
        let (mut record, shutdown) = (pod.watch(), self.shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = record.wait_for(PodRecord::has_ended) => {}
                () = shutdown.cancelled() => {}
                () = over.closed() => {}
            }
            over.send_replace(true);
        });
        (self.dirs.log(&pod.record().id), ended)
    }

    /// `POST /v1/pods/{pod}/snapshots`.
    ///
    /// # Errors
    /// See the API's document; the pod goes on in any case.
    pub async fn create_snapshot(self: &Arc<Self>, reference: &str, progress: Progress) -> Result<types::Snapshot> {
        self.create_snapshot_once(reference, progress, None).await
    }

    /// As [`Core::create_snapshot`], of a request with an Idempotency-Key.
    ///
    /// # Errors
    /// See the API's document; the pod goes on in any case.
    pub async fn create_snapshot_once(
        self: &Arc<Self>,
        reference: &str,
        progress: Progress,
        intent: Option<Intent>,
    ) -> Result<types::Snapshot> {
        let (core, pod) = (Arc::clone(self), self.find(reference)?);
        Self::to_the_end(async move {
            let work = core.take_snapshot(&pod, &progress, intent.as_ref());
            core.traced(Operation::Snapshot, Some(&pod), work).await.map(|m| view::manifest(&m))
        })
        .await
    }

    /// `GET /v1/snapshots`.
    ///
    /// # Errors
    /// [`crate::model::Code::StoreUnavailable`].
    pub async fn list_snapshots(&self) -> Result<Vec<types::Snapshot>> {
        Ok(self.host.store.list().await?.iter().map(view::snapshot).collect())
    }

    /// `GET /v1/snapshots/{snapshot}`.
    ///
    /// # Errors
    /// [`crate::model::Code::NotFound`], [`crate::model::Code::StoreUnavailable`], [`crate::model::Code::Damaged`].
    pub async fn inspect_snapshot(&self, id: &str) -> Result<types::Snapshot> {
        Ok(view::manifest(&self.host.store.manifest(&self.host.store.find(id).await?).await?))
    }

    /// `DELETE /v1/snapshots/{snapshot}`.
    ///
    /// # Errors
    /// [`crate::model::Code::InUse`]: a pod sleeps in it.
    pub async fn delete_snapshot(self: &Arc<Self>, id: &str) -> Result<()> {
        let (core, id) = (Arc::clone(self), self.host.store.find(id).await?);
        Self::to_the_end(async move { core.remove_snapshot(&id).await }).await
    }

    /// `POST /v1/snapshots/{snapshot}/restore`.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn restore_snapshot(
        self: &Arc<Self>,
        id: &str,
        request: types::RestoreSnapshot,
        progress: Progress,
    ) -> Result<types::Pod> {
        self.restore_snapshot_once(id, request, progress, None).await
    }

    /// As [`Core::restore_snapshot`], of a request with an Idempotency-Key.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn restore_snapshot_once(
        self: &Arc<Self>,
        id: &str,
        request: types::RestoreSnapshot,
        progress: Progress,
        intent: Option<Intent>,
    ) -> Result<types::Pod> {
        let (core, id) = (Arc::clone(self), self.host.store.find(id).await?);
        let name = request.name.map(|n| n.parse()).transpose()?;
        if let Some(name) = &name {
            self.refuse_taken(name)?;
        }
        let (secrets, given) = super::secrets::admit(&request.secrets)?;
        if let Some(s) = secrets.iter().find(|s| matches!(s.target, SecretTarget::Env { .. })) {
            return Err(Error::invalid(format!("secret {} can't be a variable of what runs already", s.name))
                .hint("programs of a copy have the environment that they had: give it as a file"));
        }
        let copy = Copy { name, shown: request.host_directories, intent, secrets, given };
        Self::to_the_end(async move {
            let work = core.restore_new(&id, copy, &progress);
            core.traced(Operation::Copy, None, work).await.map(|r| core.show_pod(&r))
        })
        .await
    }

    /// `POST /v1/images`.
    ///
    /// # Errors
    /// See the API's document; nothing is imported then.
    pub async fn import_image(
        self: &Arc<Self>,
        name: &str,
        base: Option<&str>,
        source: ImportSource,
        progress: &Progress,
    ) -> Result<types::Image> {
        let name = name.parse()?;
        let base = base.map(str::parse).transpose()?;
        self.import(name, base, source, progress).await.map(|i| view::image(&i))
    }

    /// An import from a directory of this host.
    ///
    /// # Errors
    /// As [`Core::import_image`].
    pub async fn import_directory(
        self: &Arc<Self>,
        name: &str,
        base: Option<&str>,
        directory: &str,
        progress: &Progress,
    ) -> Result<types::Image> {
        let path = PathBuf::from(directory);
        if !path.is_absolute() || !path.is_dir() {
            return Err(
                Error::invalid(format!("{directory:?} is no directory of this host")).hint("give an absolute path")
            );
        }
        progress.phase("upload");
        self.import_image(name, base, ImportSource::Directory(path), progress).await
    }

    /// `GET /v1/images`.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn list_images(&self) -> Result<Vec<types::Image>> {
        Ok(self.db.images().await?.iter().map(view::image).collect())
    }

    /// `GET /v1/images/{name}`.
    ///
    /// # Errors
    /// [`crate::model::Code::NotFound`].
    pub async fn inspect_image(&self, name: &str) -> Result<types::Image> {
        Ok(view::image(&self.image(&name.parse()?).await?))
    }

    /// `DELETE /v1/images/{name}`.
    ///
    /// # Errors
    /// [`crate::model::Code::InUse`]: a pod uses it.
    pub async fn delete_image(self: &Arc<Self>, name: &str) -> Result<()> {
        let (core, name) = (Arc::clone(self), name.parse()?);
        Self::to_the_end(async move { core.remove_image(&name).await }).await
    }

    /// `GET /version`.
    pub fn version(&self) -> types::Version {
        let engine = self.engine.as_ref().and_then(|d| self.host.engines.get(d).ok());
        types::Version {
            version: env!("CARGO_PKG_VERSION").into(),
            api_version: "v1".into(),
            instance: self.tag.to_string(),
            engine: engine.map(|e| e.version.clone()),
        }
    }

    /// Ends what goes on in the background. Pods go on.
    pub fn shutdown(&self) -> &tokio_util::sync::CancellationToken {
        &self.shutdown
    }
}

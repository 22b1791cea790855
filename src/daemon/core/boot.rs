//! The one way up: from a committed intent to a sandbox that runs its command, cold or out of a checkpoint.
//!
//! After a crash anywhere here: the record says `starting`, `waking`, `restoring` or `creating` with the incarnation's
//! number; all that may exist bears its name, and the one teardown removes it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::files::Files;
use super::pod::{Pod, Turn};
use super::trace::step;
use super::{Core, teardown};
use crate::channel::terminal::WindowSize;
use crate::channel::{Identity, Launch, Probe};
use crate::host::engine::EngineRef;
use crate::host::network::PodNet;
use crate::host::runtime::CreatePlan;
use crate::host::shim::{Shim, ShimPlan};
use crate::host::volumes::MountedVolume;
use crate::model::{Attempt, Code, Error, PodRecord, PodState, ReadyCheck, Result, SecretValues};
use crate::plan::bundle::{self, BundlePlan, Volume};
use crate::plan::limits::Limits;

/// How long the engine may take for what is not a restore.
const READY_DEFAULT: Duration = Duration::from_secs(60);

/// What a sandbox begins with.
pub(super) enum From {
    /// The pod's command.
    Command,
    /// A checkpoint, whose layers are here.
    Checkpoint {
        /// Its files. Those that are in the store only are fetched while the sandbox is made.
        files: Files,
        /// Whether it is a copy of another pod, which gets a machine id of its own.
        copy: bool,
    },
}

impl From {
    /// Whether all that it needs is on this host.
    pub(super) fn here(&self) -> bool {
        match self {
            From::Command => true,
            From::Checkpoint { files, .. } => files.here(),
        }
    }
}

/// A sandbox that was made and has not begun.
struct Made {
    engine: EngineRef,
    create: CreatePlan,
    shim: Arc<dyn Shim>,
    pid: Option<u32>,
    /// Mounted until the sandbox has begun.
    _volumes: Vec<MountedVolume>,
}

impl Core {
    /// Makes the sandbox of the committed incarnation and runs it. On failure everything of it is gone again.
    pub(super) async fn bring_up(self: &Arc<Self>, turn: &Turn<'_>, from: &mut From) -> Result<()> {
        let record = turn.record();
        match self.try_bring_up(turn, &record, from).await {
            Ok(()) => Ok(()),
            Err(e) => {
                turn.pod().set_shim(None);
                teardown::sandbox(self, &record.runtime_id()).await;
                turn.settle(self, |r| r.sandbox_pid = None).await;
                if let Err(e) = self.publish_forwards().await {
                    tracing::warn!(pod = %record.id, error = %e.report(), "after a failed start");
                }
                Err(e)
            }
        }
    }

    async fn try_bring_up(self: &Arc<Self>, turn: &Turn<'_>, record: &PodRecord, from: &mut From) -> Result<()> {
        let secrets = self.secret_values(&record.id, &record.spec).await?;
        // What goes on where it slept is as it was.
        if matches!(from, From::Command) || record.state != PodState::Waking {
            self.begin_health(turn.pod());
        }
        match from {
            From::Command => {
                let made = self.make_sandbox(turn, record).await?;
                let begin = async {
                    step("runsc start", self.host.runtime.start(&made.engine, &made.create)).await?;
                    self.place_secrets(record, made.shim.as_ref(), &secrets).await?;
                    step("launch", made.shim.launch(&self.launch(record, &secrets))).await
                };
                // Both to their end: see below.
                let (begun, open) = tokio::join!(begin, self.open_to_the_world(turn, &made));
                begun.and(open)?;
                self.wait_ready(record, made.shim.as_ref()).await
            }
            From::Checkpoint { files, copy } => {
                let copy = *copy;
                // Both to their end, even if one fails: a sandbox half made is not to be taken down under its maker.
                let (made, images) =
                    tokio::join!(self.make_sandbox(turn, record), step("fetch", self.bring_files(files)));
                let (made, images) = (made?, images?);
                self.host.network.readdress(&self.pod_net(record)).await?;
                step("runsc restore", self.host.runtime.restore(&made.engine, &made.create, &images)).await?;
                step("identify", made.shim.identify(&self.identity(record, copy)?)).await?;
                self.place_secrets(record, made.shim.as_ref(), &secrets).await?;
                self.open_to_the_world(turn, &made).await?;
                let rest = self.host.runtime.wait_restore(&made.engine, &made.create, &images);
                step("rest of memory", rest).await?;
                self.wait_ready(record, made.shim.as_ref()).await
            }
        }
    }

    /// A sandbox that was made and has not begun.
    async fn make_sandbox(self: &Arc<Self>, turn: &Turn<'_>, record: &PodRecord) -> Result<Made> {
        let id = record.runtime_id();
        let engine = self.host.engines.get(&record.engine)?;
        let net = self.pod_net(record);
        let limits = Limits::of(&record.spec.resources);
        let shim_plan = self.shim_plan(record);
        let dir = self.dirs.sandbox(&id);
        let upper = self.dirs.upper(&id);
        crate::host::files::create_dir(&dir, 0o700)?;
        crate::host::files::create_dir(&upper, 0o700)?;
        let (mut mounted, mut volumes) = (Vec::new(), Vec::new());
        for (n, (open, asked)) in self.open_volumes(&record.spec.volumes)?.iter().zip(&record.spec.volumes).enumerate()
        {
            let mount = open.mount(&self.dirs.mounted_volumes(), &format!("{id}-{n}"))?;
            let (source, target) = (mount.path().to_owned(), asked.target.clone());
            volumes.push(Volume { source, target, read_only: asked.read_only });
            mounted.push(mount);
        }
        let runtime_name = id.to_string();
        let (key, layers) = (self.image_key(record), self.all_layers(record));
        let (netns, root, cgroup, shim) = tokio::join!(
            step("network", self.host.network.attach(&net)),
            step("root", self.host.rootfs.ensure(&key, &layers)),
            step("cgroup", self.host.cgroups.ensure(&runtime_name, &limits)),
            step("shim", self.host.shims.spawn(&shim_plan)),
        );
        // All of them to their end, even if one fails: what is half made can't be taken down.
        let (netns, root, (), shim) = (netns?, root?, cgroup?, shim?);
        turn.pod().set_shim(Some(Arc::clone(&shim)));
        let spec = bundle::build(&BundlePlan {
            template: record.template,
            hostname: hostname(record),
            root,
            cgroups_path: self.host.cgroups.path_for_spec(&runtime_name),
            netns: netns.clone(),
            resources: record.spec.resources,
            volumes,
        })?;
        let text = serde_json::to_vec(&spec).attempt(Code::Internal, || format!("write the bundle of {id}"))?;
        crate::host::files::write(&dir.join("config.json"), &text, 0o600)?;
        let create = self.create_plan(record, netns.clone());
        step("runsc create", shim.create(&self.host.runtime.create_command(&engine, &create))).await?;
        let pid = shim.status().await?.sandbox_pid;
        Ok(Made { engine, create, shim, pid, _volumes: mounted })
    }

    /// What runs in the sandbox is there: its forwards open.
    async fn open_to_the_world(&self, turn: &Turn<'_>, made: &Made) -> Result<()> {
        turn.commit(&self.db, |r| {
            r.sandbox_pid = made.pid;
            r.boot_id = Some(self.boot_id.clone());
        })
        .await?;
        step("forwards", self.publish_forwards()).await
    }

    /// Waits until the application answers as the pod's probe says; without a probe at once.
    pub(super) async fn wait_ready(&self, record: &PodRecord, shim: &dyn Shim) -> Result<()> {
        let Some(ready) = &record.spec.ready else { return Ok(()) };
        let probe = match &ready.check {
            ReadyCheck::Http { port, path } => Probe::Http { port: *port, path: path.clone() },
            ReadyCheck::Tcp { port } => Probe::Tcp { port: *port },
            ReadyCheck::Exec { command } => Probe::Exec { command: command.clone() },
        };
        let limit = if ready.timeout_ms == 0 { READY_DEFAULT } else { Duration::from_millis(ready.timeout_ms) };
        step("ready", shim.probe(&probe, limit)).await.attempt(Code::Timeout, || {
            format!("wait until pod {} is ready ({} ms)", record.spec.name, limit.as_millis())
        })
    }

    /// The command and its surroundings. Goes to init by the channel, never to a file.
    fn launch(&self, record: &PodRecord, secrets: &SecretValues) -> Launch {
        let image = &record.image_config;
        let spec = &record.spec;
        let command = spec.program(image);
        let mut env = image.env.clone();
        let mut own: Vec<String> = spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        own.extend(super::secrets::lines(spec, secrets));
        let name = |line: &str| line.split('=').next().unwrap_or_default().to_owned();
        let named: BTreeSet<String> = own.iter().map(|line| name(line)).collect();
        env.retain(|line| !named.contains(&name(line)));
        env.extend(own);
        let (hosts, resolv_conf) = self.name_files(record);
        Launch {
            command,
            env,
            working_dir: spec.working_dir.clone().or_else(|| some(&image.working_dir)).unwrap_or_else(|| "/".into()),
            user: spec.user.clone().or_else(|| some(&image.user)).unwrap_or_default(),
            hostname: hostname(record),
            hosts,
            resolv_conf,
            tty: spec.tty.then(WindowSize::default),
            stdin: spec.stdin,
        }
    }

    fn identity(&self, record: &PodRecord, copy: bool) -> Result<Identity> {
        let (hosts, resolv_conf) = self.name_files(record);
        let mut entropy = vec![0_u8; 64];
        getrandom::fill(&mut entropy).map_err(|e| Error::internal(format!("read random bytes: {e}")))?;
        let machine_id = if copy {
            let mut raw = [0_u8; 16];
            getrandom::fill(&mut raw).map_err(|e| Error::internal(format!("read random bytes: {e}")))?;
            Some(crate::model::hex(&raw))
        } else {
            None
        };
        Ok(Identity { hostname: hostname(record), hosts, resolv_conf, machine_id, entropy })
    }

    /// The pod's /etc/hosts and /etc/resolv.conf.
    fn name_files(&self, record: &PodRecord) -> (String, String) {
        let name = hostname(record);
        let hosts =
            format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{}\t{name}\n", record.address);
        let resolv = self.resolvers.iter().map(|r| format!("nameserver {r}\n")).collect();
        (hosts, resolv)
    }

    pub(super) fn pod_net(&self, record: &PodRecord) -> PodNet {
        PodNet::new(&self.addressing, &record.runtime_id(), record.address)
    }

    pub(super) fn shim_plan(&self, record: &PodRecord) -> ShimPlan {
        let id = record.runtime_id();
        ShimPlan {
            dir: self.dirs.sandbox(&id),
            log_dir: self.dirs.log(&record.id),
            log_max_bytes: self.config().log_max_bytes,
            log_files: self.config().log_files,
        }
    }

    /// The engine and plan by which a live sandbox is addressed.
    pub(super) fn engine_and_plan(&self, record: &PodRecord) -> Result<(EngineRef, CreatePlan)> {
        let netns = self.dirs.netns(&record.runtime_id());
        Ok((self.host.engines.get(&record.engine)?, self.create_plan(record, netns)))
    }

    fn create_plan(&self, record: &PodRecord, netns: PathBuf) -> CreatePlan {
        let id = record.runtime_id();
        let dir = self.dirs.sandbox(&id);
        CreatePlan {
            id: id.to_string(),
            upper: self.dirs.upper(&id),
            disk: record.spec.resources.disk,
            pid_file: dir.join("pid"),
            bundle: dir,
            netns,
        }
    }

    /// Commits the next incarnation in `state` and brings it up.
    pub(super) async fn next_incarnation(
        self: &Arc<Self>,
        turn: &Turn<'_>,
        state: PodState,
        from: &mut From,
    ) -> Result<()> {
        self.incarnate(turn, state, from, |_| ()).await
    }

    /// As [`Core::next_incarnation`], with what else changes in the record at once.
    pub(super) async fn incarnate(
        self: &Arc<Self>,
        turn: &Turn<'_>,
        state: PodState,
        from: &mut From,
        change: impl FnOnce(&mut PodRecord),
    ) -> Result<()> {
        turn.commit(&self.db, |r| {
            r.state = state;
            r.incarnation += 1;
            r.boot_id = Some(self.boot_id.clone());
            r.sandbox_pid = None;
            change(r);
        })
        .await?;
        self.bring_up(turn, from).await
    }

    /// The last step up: the pod runs, and its end is waited for. What can't be recorded is taken down again.
    pub(super) async fn mark_running(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        turn: &Turn<'_>,
        change: impl FnOnce(&mut PodRecord),
    ) -> Result<PodRecord> {
        let committed = self.commit_running(turn, change).await;
        if committed.is_ok() {
            self.watch_exit(pod);
            self.watch_health(pod);
        } else {
            self.take_down(turn).await;
            turn.settle(self, |r| r.sandbox_pid = None).await;
        }
        committed
    }

    async fn commit_running(&self, turn: &Turn<'_>, change: impl FnOnce(&mut PodRecord)) -> Result<PodRecord> {
        turn.commit(&self.db, |r| {
            r.state = PodState::Running;
            r.started_at = Some(Timestamp::now());
            r.finished_at = None;
            r.exit_code = None;
            r.exit_reason = None;
            r.last_error = None;
            r.restarts.at = None;
            r.restarts.stopped = false;
            r.wake_at_start = false;
            change(r);
        })
        .await
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The pod's host name.
pub(super) fn hostname(record: &PodRecord) -> String {
    record.spec.hostname.clone().unwrap_or_else(|| record.spec.name.as_str().replace(['_', '.'], "-"))
}

//! runsc, called directly: one flag vector for all commands of a sandbox, every command with a deadline.
//!
//! What a command says is quoted, never interpreted: what became of it is observed with `state`.

mod helper;
mod record;
mod standstill;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;

pub use helper::{HELPER, helper_main};

use self::standstill::Standstill;
use crate::host::command::{self, EngineCommand};
use crate::host::engine::{Engine, EngineRef};
use crate::host::files;
use crate::model::{Attempt, Code, Error, Result};

/// One sandbox, as the engine is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatePlan {
    /// Its runtime id.
    pub id: String,
    /// Directory of its `config.json`; logs go there too.
    pub bundle: PathBuf,
    /// Directory of the file behind its writable layer.
    pub upper: PathBuf,
    /// Bytes that its writable layer may take.
    pub disk: u64,
    /// Where its pid is written.
    pub pid_file: PathBuf,
    /// Its network namespace.
    pub netns: PathBuf,
}

/// What the engine says of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RuntimeState {
    /// `creating`, `created`, `running`, `paused` or `stopped`.
    pub status: String,
    /// Pid of the sandbox.
    #[serde(default)]
    pub pid: i32,
}

impl RuntimeState {
    /// Whether it stands still.
    pub fn paused(&self) -> bool {
        self.status == "paused"
    }
}

/// An engine's commands on one sandbox.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// The create command, to be run by the sandbox's shim.
    fn create_command(&self, engine: &EngineRef, plan: &CreatePlan) -> EngineCommand;
    /// Starts what was created.
    async fn start(&self, engine: &EngineRef, plan: &CreatePlan) -> Result<()>;
    /// Makes it stand still. After a timeout it may yet come to that: what is asked next waits for it.
    async fn pause(&self, engine: &EngineRef, plan: &CreatePlan) -> Result<()>;
    /// Lets it go on. After a timeout it may yet come to that: what is asked next waits for it.
    async fn resume(&self, engine: &EngineRef, plan: &CreatePlan) -> Result<()>;
    /// Writes its state into an empty directory; it is left as it was. The caller checks that the files are whole.
    async fn checkpoint(&self, engine: &EngineRef, plan: &CreatePlan, dir: &Path) -> Result<()>;
    /// Fills a created sandbox with a checkpoint's state. The files are needed until [`Runtime::wait_restore`].
    async fn restore(&self, engine: &EngineRef, plan: &CreatePlan, images: &Path) -> Result<()>;
    /// Waits until a restore needs its files no more.
    async fn wait_restore(&self, engine: &EngineRef, plan: &CreatePlan, images: &Path) -> Result<()>;
    /// How it is; none if the engine does not know it.
    async fn state(&self, engine: &EngineRef, id: &str) -> Result<Option<RuntimeState>>;
    /// Ids of all sandboxes that have a record, alive or not, whichever engine made them.
    async fn list(&self) -> Result<Vec<String>>;
    /// Removes it, alive or not; not there: nothing to do.
    async fn delete(&self, engine: &EngineRef, id: &str) -> Result<()>;
    /// Writes what its root holds beyond its image as a tar. False: this engine can't.
    async fn save_upper(&self, engine: &EngineRef, plan: &CreatePlan, file: &Path) -> Result<bool>;
}

/// The real one.
#[derive(Debug, Clone)]
pub struct RunscRuntime {
    root: PathBuf,
    /// torpord's own program, run again as the helper of old engines.
    helper: PathBuf,
    standstill: Standstill,
    /// How long pause and resume are waited for.
    patience: Duration,
}

const QUICK: Duration = Duration::from_secs(30);
/// To make, start and restore a sandbox: nobody is harmed by waiting, and a loaded host takes its time to load the engine.
const MAKE: Duration = Duration::from_secs(60);
/// For what is looked after in another way meanwhile.
const LONG: Duration = Duration::from_secs(3600);

/// Returns when a file has not grown for too long.
async fn stands_still(file: &Path) {
    let mut before = None;
    loop {
        tokio::time::sleep(QUICK).await;
        let now = std::fs::metadata(file).map(|m| m.len()).ok();
        if now == before {
            return;
        }
        before = now;
    }
}

/// What moves so many bytes gets longer: 16 MiB a second is slow for a disk.
fn time_for(bytes: u64) -> Duration {
    MAKE + Duration::from_secs(bytes >> 24)
}

impl RunscRuntime {
    /// Over that `--root`.
    ///
    /// # Errors
    /// It can't be made.
    pub fn new(root: PathBuf, helper: PathBuf) -> Result<Self> {
        files::create_dir_all(&root, 0o700)?;
        Ok(RunscRuntime { root, helper, standstill: Standstill::default(), patience: QUICK })
    }

    /// With another patience than half a minute for pause and resume.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        RunscRuntime { patience, ..self }
    }

    /// The flags that every command of a sandbox gets, the same ones: runsc wants those of create again at restore.
    fn flags(&self, engine: &Engine, plan: &CreatePlan) -> Vec<OsString> {
        let mut overlay = OsString::from("--overlay2=root:dir=");
        overlay.push(&plan.upper); // in the sandbox, so in every checkpoint; backed by a file, so not in memory
        if engine.features.overlay_size {
            overlay.push(format!(",size={}", plan.disk)); // or one pod fills the host's disk
        }
        let mut log = OsString::from("--log=");
        log.push(plan.bundle.join("runsc.log")); // never a pipe: the sandbox would inherit it
        let mut flags = self.common();
        flags.extend([
            log,
            "--log-format=text".into(),
            "--platform=systrap".into(), // needs no KVM
            "--network=sandbox".into(),  // gVisor's own stack: the host's is not reachable
            overlay,
            "--net-disconnect-ok=true".into(), // or an open connection makes a checkpoint fail on 20240729
            "--file-access-mounts=shared".into(), // volumes change under the pod
        ]);
        flags
    }

    fn common(&self) -> Vec<OsString> {
        let mut root = OsString::from("--root=");
        root.push(&self.root);
        vec![root]
    }

    fn command(
        &self,
        engine: &Engine,
        plan: &CreatePlan,
        timeout: Duration,
        args: &[&std::ffi::OsStr],
    ) -> EngineCommand {
        let mut all = self.flags(engine, plan);
        all.extend(args.iter().map(|a| (*a).to_owned()));
        let mut command = EngineCommand::new(&engine.program, all);
        command.timeout = timeout;
        command.log = Some(plan.bundle.join("runsc.log"));
        command
    }

    async fn run(
        &self,
        engine: &Engine,
        plan: &CreatePlan,
        timeout: Duration,
        args: &[&std::ffi::OsStr],
    ) -> Result<()> {
        let command = self.command(engine, plan, timeout, args);
        let verb = args.first().map(|a| a.to_string_lossy().into_owned()).unwrap_or_default();
        command::run(&command, &[]).await.attempt(Code::Runtime, || format!("{verb} sandbox {}", plan.id)).map(drop)
    }

    async fn change(&self, engine: &Engine, plan: &CreatePlan, verb: &'static str) -> Result<()> {
        let command = self.command(engine, plan, self.patience, &[verb.as_ref(), plan.id.as_ref()]);
        self.standstill.change(&plan.id, verb, command, self.record(&plan.id, "lock")).await
    }

    /// A file of runsc's own about a sandbox: all builds call its record `<sandbox>_sandbox:<container>.state`, and have a
    /// `.lock` beside it.
    fn record(&self, id: &str, kind: &str) -> PathBuf {
        self.root.join(format!("{id}_sandbox:{id}.{kind}"))
    }

    /// As [`Self::run`], behind the helper if this engine needs it on this kernel.
    async fn run_in_netns(
        &self,
        engine: &Engine,
        plan: &CreatePlan,
        timeout: Duration,
        args: &[&std::ffi::OsStr],
    ) -> Result<()> {
        if !engine.features.hides_net_core || !net_core_is_per_namespace() {
            return self.run(engine, plan, timeout, args).await;
        }
        let inner = self.command(engine, plan, timeout, args);
        let mut all: Vec<OsString> = vec![HELPER.into(), plan.netns.clone().into(), inner.program.clone().into()];
        all.extend(inner.args.clone());
        let mut command = EngineCommand::new(&self.helper, all);
        (command.timeout, command.log) = (inner.timeout, inner.log);
        let verb = args.first().map(|a| a.to_string_lossy().into_owned()).unwrap_or_default();
        command::run(&command, &[]).await.attempt(Code::Runtime, || format!("{verb} sandbox {}", plan.id)).map(drop)
    }
}

/// Linux made /proc/sys/net/core/rmem_default an entry of each namespace in 6.11.
fn net_core_is_per_namespace() -> bool {
    let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 11)
}

macro_rules! args {
    ($($a:expr),* $(,)?) => { &[$(std::ffi::OsStr::new($a)),*] };
}

#[async_trait]
impl Runtime for RunscRuntime {
    fn create_command(&self, engine: &EngineRef, plan: &CreatePlan) -> EngineCommand {
        let (bundle, pid_file) = (&plan.bundle, &plan.pid_file);
        self.command(engine, plan, MAKE, args!["create", "--bundle", bundle, "--pid-file", pid_file, &plan.id])
    }

    async fn start(&self, engine: &EngineRef, plan: &CreatePlan) -> Result<()> {
        self.run_in_netns(engine, plan, MAKE, args!["start", &plan.id]).await
    }

    async fn pause(&self, engine: &EngineRef, plan: &CreatePlan) -> Result<()> {
        self.change(engine, plan, "pause").await
    }

    async fn resume(&self, engine: &EngineRef, plan: &CreatePlan) -> Result<()> {
        self.change(engine, plan, "resume").await
    }

    async fn checkpoint(&self, engine: &EngineRef, plan: &CreatePlan, dir: &Path) -> Result<()> {
        let args = args!["checkpoint", "--leave-running", "--compression=none", "--image-path", dir, &plan.id];
        self.run(engine, plan, LONG, args).await
    }

    async fn restore(&self, engine: &EngineRef, plan: &CreatePlan, images: &Path) -> Result<()> {
        let (bundle, limit) = (&plan.bundle, time_for(files::tree_bytes(images)?));
        if engine.features.background_restore {
            let args =
                args!["restore", "--background", "--detach", "--bundle", bundle, "--image-path", images, &plan.id];
            self.run_in_netns(engine, plan, limit, args).await
        } else {
            let args = args!["restore", "--detach", "--bundle", bundle, "--image-path", images, &plan.id];
            self.run_in_netns(engine, plan, limit, args).await
        }
    }

    async fn wait_restore(&self, engine: &EngineRef, plan: &CreatePlan, images: &Path) -> Result<()> {
        if !engine.features.background_restore {
            return Ok(());
        }
        let limit = time_for(files::tree_bytes(images)?);
        self.run(engine, plan, limit, args!["wait", "--restore", &plan.id]).await
    }

    async fn state(&self, engine: &EngineRef, id: &str) -> Result<Option<RuntimeState>> {
        self.standstill.require_settled(id)?;
        let mut all = self.common();
        all.extend(["state".into(), id.into()]);
        let command = EngineCommand::new(&engine.program, all);
        match command::run(&command, &[]).await {
            Ok(out) => serde_json::from_slice(&out.stdout)
                .attempt(Code::Runtime, || format!("read the state of sandbox {id}"))
                .map(Some),
            // Whether it does not know the sandbox or could not be asked is told by its own records, not by its words.
            Err(e) if !self.is_known(id) => {
                tracing::debug!(sandbox = id, error = %e.report(), "unknown to its engine");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    async fn list(&self) -> Result<Vec<String>> {
        let mut ids: Vec<String> =
            files::list(&self.root)?.iter().filter_map(|n| Some(n.split_once("_sandbox:")?.0.to_owned())).collect();
        ids.dedup();
        Ok(ids)
    }

    async fn delete(&self, engine: &EngineRef, id: &str) -> Result<()> {
        self.standstill.give_up(id).await;
        if !self.is_known(id) {
            return Ok(());
        }
        if let Some(why) = record::not_to_be_trusted(&self.record(id, "state"), &self.root, id) {
            // It would kill whoever has the pids that it reads there. What lives of the sandbox is ended by its shim and
            // its cgroup.
            tracing::warn!(sandbox = id, why, "the engine is not asked to delete it");
            return self.forget(id).await;
        }
        let mut all = self.common();
        all.extend(["delete".into(), "--force".into(), id.into()]);
        // A delete that is cut off half-way loses the record of what it left.
        let done = command::run_to_the_end(&EngineCommand::new(&engine.program, all)).await;
        self.forget(id).await?;
        done.attempt(Code::Runtime, || format!("delete sandbox {id}")).map(drop)
    }

    async fn save_upper(&self, engine: &EngineRef, plan: &CreatePlan, file: &Path) -> Result<bool> {
        if !engine.features.save_upper {
            return Ok(false);
        }
        files::remove_tree(file).await?;
        // How much it holds is not known, but it must come.
        let args = args!["tar", "rootfs-upper", "-file", file, &plan.id];
        tokio::select! {
            done = self.run(engine, plan, LONG, args) => done?,
            () = stands_still(file) => {
                let text = format!("tar sandbox {}: nothing came for {} s", plan.id, QUICK.as_secs());
                return Err(Error::new(Code::Timeout, text));
            }
        }
        Ok(true)
    }
}

impl RunscRuntime {
    /// Removes the engine's record of a sandbox.
    async fn forget(&self, id: &str) -> Result<()> {
        for name in files::list(&self.root)? {
            if name.starts_with(&format!("{id}_")) || name == format!("runsc-{id}.sock") {
                files::remove_tree(&self.root.join(name)).await?;
            }
        }
        Ok(())
    }

    fn is_known(&self, id: &str) -> bool {
        files::list(&self.root).is_ok_and(|names| names.iter().any(|n| n.contains(id)))
    }

    /// Removes what runsc itself leaves in its `--root` once no sandbox uses it: the shared empty network namespace.
    ///
    /// # Errors
    /// It can't be unmounted or removed.
    pub fn remove_root(&self) -> Result<()> {
        for name in files::list(&self.root)? {
            let path = self.root.join(&name);
            // Two sandboxes that were made at once mount it twice, one over the other.
            loop {
                match nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH) {
                    Ok(()) => {}
                    Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
                    Err(e) => return Err(Error::internal(format!("unmount {}", path.display())).because(e)),
                }
            }
        }
        files::remove_tree_now(&self.root)
    }
}

//! Shims, and init as they see it. What a real shim keeps in files, `sandbox` and `exit.json`, is in files here too.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use torpor::channel::control::{self, ExitRecord, ShimStatus};
use torpor::channel::secrets::SecretFiles;
use torpor::channel::stream::StreamAsk;
use torpor::channel::terminal::{ProcessInfo, TerminalEnd, TerminalInfo};
use torpor::channel::{Exec, Identity, Launch, Probe};
use torpor::host::command::EngineCommand;
use torpor::host::shim::{ExecOutput, Running, Shim, ShimPlan, ShimStream, Shims};
use torpor::model::{Code, Error, Result};

use super::kernel::{Kernel, Sandbox, ShimProcess, State};
use super::runtime::deliver;
use super::{Life, Memory, Status};

pub struct FakeShims {
    pub life: Arc<Life>,
}

/// A way to one shim.
struct FakeShim {
    life: Arc<Life>,
    name: String,
    dir: PathBuf,
}

fn name(plan: &ShimPlan) -> String {
    plan.dir.file_name().unwrap().to_string_lossy().into_owned()
}

/// The pod's command is told a signal.
pub fn hear(sandbox: &mut Sandbox, signal: i32) {
    if sandbox.memory.command.is_some() && sandbox.memory.exit.is_none() {
        sandbox.memory.exit = Some(ExitRecord { signal: Some(signal), ..ExitRecord::default() });
    }
}

fn recorded_exit(dir: &Path) -> Option<ExitRecord> {
    serde_json::from_slice(&std::fs::read(dir.join("exit.json")).ok()?).ok()
}

/// What the shim knows of the end: recorded once, never changed.
fn exit(state: &State, name: &str, dir: &Path) -> Option<ExitRecord> {
    if let Some(known) = recorded_exit(dir) {
        return Some(known);
    }
    let made = dir.join("sandbox").exists();
    let found = match state.sandboxes.get(name) {
        Some(s) if s.status != Status::Stopped => s.memory.exit.clone(),
        _ if made => Some(ExitRecord::unknown()),
        _ => None,
    };
    if let Some(exit) = &found
        && dir.is_dir()
    {
        std::fs::write(dir.join("exit.json"), serde_json::to_vec(exit).unwrap()).unwrap();
    }
    found
}

#[async_trait]
impl Shims for FakeShims {
    async fn spawn(&self, plan: &ShimPlan) -> Result<Arc<dyn Shim>> {
        let name = name(plan);
        let start = |k: &Kernel| {
            if !plan.dir.is_dir() || !plan.log_dir.is_dir() {
                return Err(Error::new(Code::Runtime, format!("start the shim of {}", plan.dir.display())));
            }
            k.change(|s| {
                if s.shims.contains_key(&name) {
                    return Ok(());
                }
                // A new one in the place of one that died asks init what has become of the command.
                let launched = s.sandboxes.get(&name).is_some_and(|x| x.memory.command.is_some());
                let alive = s.sandboxes.get(&name).is_some_and(|x| x.status != Status::Stopped);
                if plan.dir.join("sandbox").exists() && !alive && recorded_exit(&plan.dir).is_none() {
                    let lost = ExitRecord { shim_lost: true, ..ExitRecord::unknown() };
                    std::fs::write(plan.dir.join("exit.json"), serde_json::to_vec(&lost).unwrap()).unwrap();
                }
                let pid = s.pid();
                s.shims.insert(name.clone(), ShimProcess { pid, launched, later: Vec::new(), quiet: false });
                Ok(())
            })
        };
        self.life.effect("start the shim", start).await?;
        Ok(Arc::new(FakeShim { life: Arc::clone(&self.life), name, dir: plan.dir.clone() }))
    }

    async fn connect(&self, plan: &ShimPlan) -> Result<Option<Arc<dyn Shim>>> {
        self.life.ask("connect to the shim").await?;
        let name = name(plan);
        if !self.life.kernel.look().shims.contains_key(&name) {
            return Ok(None);
        }
        Ok(Some(Arc::new(FakeShim { life: Arc::clone(&self.life), name, dir: plan.dir.clone() })))
    }
}

/// What is said to a shim needs one that lives, and mostly a sandbox whose command has not ended.
fn shim<'a>(state: &'a mut State, name: &str) -> Result<&'a mut ShimProcess> {
    let gone = || Error::new(Code::Runtime, "the pod's shim does not answer");
    state.shims.get_mut(name).ok_or_else(gone)
}

fn sandbox<'a>(state: &'a mut State, name: &str, dir: &Path) -> Result<&'a mut Sandbox> {
    shim(state, name)?;
    if exit(state, name, dir).is_some() {
        return Err(Error::new(Code::WrongState, "the pod's command has ended"));
    }
    let none = || Error::new(Code::WrongState, "there is no sandbox");
    state.sandboxes.get_mut(name).ok_or_else(none)
}

impl FakeShim {
    /// Waits until init can hear, or the shim answers that it never will.
    async fn until_heard(&self) -> Result<()> {
        self.life
            .kernel
            .wait(|s| {
                let Some(shim) = s.shims.get(&self.name) else {
                    return Some(Err(Error::new(Code::Runtime, "the pod's shim does not answer")));
                };
                if exit(s, &self.name, &self.dir).is_some() {
                    return Some(Err(Error::new(Code::WrongState, "the pod's command has ended")));
                }
                match s.sandboxes.get(&self.name) {
                    None => Some(Err(Error::new(Code::WrongState, "there is no sandbox"))),
                    Some(x) => (x.status == Status::Running && !shim.quiet).then_some(Ok(())),
                }
            })
            .await
    }

    fn make(&self, state: &mut State, command: &EngineCommand) -> Result<()> {
        shim(state, &self.name)?;
        if state.sandboxes.contains_key(&self.name) || self.dir.join("sandbox").exists() {
            return Err(Error::new(Code::WrongState, "there is, or was, a sandbox already"));
        }
        let failed = |why: &str| Error::new(Code::Runtime, format!("the engine failed: {why}"));
        let [id, bundle, netns, upper] = command.args.as_slice() else { return Err(failed("arguments")) };
        let text = std::fs::read(Path::new(bundle).join("config.json")).map_err(|_| failed("no bundle"))?;
        let spec: serde_json::Value = serde_json::from_slice(&text).map_err(|_| failed("a bad bundle"))?;
        let root = PathBuf::from(spec["root"]["path"].as_str().unwrap_or_default());
        let key = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !state.roots.contains_key(&key) {
            return Err(failed("its root is not mounted"));
        }
        if !state.netns.contains_key(&self.name) {
            return Err(failed("its network namespace does not exist"));
        }
        if !Path::new(upper).is_dir() {
            return Err(failed("no directory for its writable layer"));
        }
        let pid = state.pid();
        std::fs::write(self.dir.join("sandbox"), pid.to_string()).unwrap();
        let made = Sandbox {
            pid,
            status: Status::Created,
            netns: netns.into(),
            root,
            memory: Memory { root: key, ..Memory::default() },
        };
        state.sandboxes.insert(id.to_string_lossy().into_owned(), made);
        Ok(())
    }
}

#[async_trait]
impl Shim for FakeShim {
    async fn status(&self) -> Result<ShimStatus> {
        self.life.ask("status").await?;
        let mut state = self.life.kernel.look();
        let found = shim(&mut state, &self.name)?.clone();
        let alive = state.sandboxes.get(&self.name).filter(|s| s.status != Status::Stopped);
        Ok(ShimStatus {
            shim_pid: found.pid,
            sandbox_pid: alive.map(|s| s.pid),
            init_ready: alive.is_some_and(|s| s.status == Status::Running),
            launched: found.launched,
            exit: exit(&state, &self.name, &self.dir),
        })
    }

    async fn create(&self, command: &EngineCommand) -> Result<()> {
        self.life.effect("create", |k| k.change(|s| self.make(s, command))).await
    }

    async fn launch(&self, launch: &Launch) -> Result<()> {
        let go = |k: &Kernel| {
            k.change(|s| {
                if shim(s, &self.name)?.launched {
                    return Ok(());
                }
                let sandbox = sandbox(s, &self.name, &self.dir)?;
                if launch.command.first().is_some_and(|c| c == "missing") {
                    return Err(Error::new(Code::CommandNotFound, "missing"));
                }
                sandbox.memory.command = Some(launch.command.clone());
                sandbox.memory.hostname.clone_from(&launch.hostname);
                shim(s, &self.name)?.launched = true;
                Ok(())
            })
        };
        self.life.effect("launch", go).await
    }

    /// `add` counts, `write` changes the root, `key` tells a secret, `exit` ends the pod's command.
    async fn exec(&self, exec: &Exec, _stdin: Vec<u8>, timeout: Option<Duration>) -> Result<ExecOutput> {
        self.life.kernel.change(|s| sandbox(s, &self.name, &self.dir).map(drop))?;
        match timeout {
            None => self.until_heard().await?,
            Some(limit) => match tokio::time::timeout(limit, self.until_heard()).await {
                Ok(heard) => heard?,
                Err(_) => return Ok(ExecOutput { timed_out: true, exit_code: 137, ..ExecOutput::default() }),
            },
        }
        let run = |k: &Kernel| {
            k.change(|s| {
                let memory = &mut sandbox(s, &self.name, &self.dir)?.memory;
                match exec.command[0].as_str() {
                    "add" => memory.count += 1,
                    "write" => memory.dirty = true,
                    "exit" => memory.exit = Some(ExitRecord { code: Some(5), ..ExitRecord::default() }),
                    "missing" => return Err(Error::new(Code::CommandNotFound, "missing")),
                    "key" => {
                        let stdout = memory.secrets.get("key").cloned();
                        let exit_code = i32::from(stdout.is_none());
                        return Ok(ExecOutput {
                            exit_code,
                            stdout: stdout.unwrap_or_default(),
                            ..ExecOutput::default()
                        });
                    }
                    _ => {}
                }
                Ok(ExecOutput { stdout: memory.count.to_string().into_bytes(), ..ExecOutput::default() })
            })
        };
        self.life.effect("exec", run).await
    }

    // Its init has no terminals: what they do is tried with the real one.
    async fn open(&self, _what: &StreamAsk) -> Result<ShimStream> {
        Err(Error::new(Code::Unsupported, "the host in memory has no terminals"))
    }

    async fn terminals(&self) -> Result<Vec<TerminalInfo>> {
        self.life.kernel.change(|s| sandbox(s, &self.name, &self.dir).map(|_| Vec::new()))
    }

    async fn remove_terminal(&self, id: &str) -> Result<Option<TerminalEnd>> {
        Err(Error::new(Code::NotFound, format!("there is no terminal {id}")))
    }

    async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        self.life.kernel.change(|s| sandbox(s, &self.name, &self.dir).map(|_| Vec::new()))
    }

    /// A program that says nothing and ends at once, as `exec` knows it.
    async fn begin(&self, exec: &Exec, timeout: Option<Duration>) -> Result<Running> {
        use tokio::io::AsyncWriteExt;
        let done = self.exec(exec, Vec::new(), timeout).await?;
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let (code, timed_out) = (Some(done.exit_code), done.timed_out);
        let ended = control::Answer::Exited { code, signal: None, timed_out, truncated: false };
        let said = [control::encode(control::kind::STDOUT, &done.stdout), control::encode_json(&ended)].concat();
        far.write_all(&said).await.unwrap();
        Ok(Running::new(Box::new(near), Vec::new()))
    }

    async fn signal(&self, signal: i32) -> Result<()> {
        let say = |k: &Kernel| {
            k.change(|s| {
                sandbox(s, &self.name, &self.dir)?;
                shim(s, &self.name)?.later.push(signal);
                deliver(s, &self.name);
                Ok(())
            })
        };
        self.life.effect("signal", say).await
    }

    async fn probe(&self, _probe: &Probe, timeout: Duration) -> Result<()> {
        self.life.ask("probe").await?;
        match tokio::time::timeout(timeout, self.until_heard()).await {
            Ok(heard) => heard,
            Err(_) => Err(Error::new(Code::Timeout, "it did not answer")),
        }
    }

    async fn quiesce(&self) -> Result<()> {
        let say = |k: &Kernel| {
            k.change(|s| {
                let memory = &mut sandbox(s, &self.name, &self.dir)?.memory;
                memory.quiet = true;
                memory.secrets.clear();
                shim(s, &self.name)?.quiet = true;
                Ok(())
            })
        };
        self.life.effect("quiesce", say).await
    }

    async fn resume(&self) -> Result<()> {
        let say = |k: &Kernel| {
            k.change(|s| {
                sandbox(s, &self.name, &self.dir)?;
                shim(s, &self.name)?.quiet = false;
                deliver(s, &self.name);
                Ok(())
            })
        };
        self.life.effect("let init go on", say).await
    }

    async fn identify(&self, identity: &Identity) -> Result<()> {
        let say = |k: &Kernel| {
            k.change(|s| {
                let sandbox = sandbox(s, &self.name, &self.dir)?;
                sandbox.memory.hostname.clone_from(&identity.hostname);
                let launched = sandbox.memory.command.is_some();
                shim(s, &self.name)?.launched = launched;
                Ok(())
            })
        };
        self.life.effect("identify", say).await
    }

    async fn secrets(&self, files: &SecretFiles) -> Result<()> {
        let put = |k: &Kernel| {
            k.change(|s| {
                let memory = &mut sandbox(s, &self.name, &self.dir)?.memory;
                memory.secrets = files.files.iter().map(|f| (f.name.clone(), f.content.get().to_vec())).collect();
                Ok(())
            })
        };
        self.life.effect("give secrets", put).await
    }

    async fn wait(&self) -> Result<ExitRecord> {
        self.life.ask("wait").await?;
        let ended = self.life.kernel.wait(|s| {
            if !s.shims.contains_key(&self.name) {
                return Some(Err(Error::new(Code::Runtime, "the pod's shim does not answer")));
            }
            exit(s, &self.name, &self.dir).map(Ok)
        });
        let ended = ended.await;
        self.life.alive().await;
        ended
    }

    async fn end(&self) -> Result<()> {
        let end = |k: &Kernel| {
            k.change(|s| {
                shim(s, &self.name)?;
                if let Some(sandbox) = s.sandboxes.get_mut(&self.name) {
                    sandbox.status = Status::Stopped;
                }
                s.shims.remove(&self.name);
                Ok(())
            })
        };
        self.life.effect("end the sandbox and its shim", end).await
    }

    async fn shutdown(&self) -> Result<()> {
        let end = |k: &Kernel| {
            k.change(|s| {
                shim(s, &self.name)?;
                if s.sandboxes.get(&self.name).is_some_and(|x| x.status != Status::Stopped) {
                    return Err(Error::new(Code::WrongState, "the sandbox still lives"));
                }
                s.shims.remove(&self.name);
                Ok(())
            })
        };
        self.life.effect("end the shim", end).await
    }
}

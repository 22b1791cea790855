//! An engine whose sandboxes are rows of the kernel. A checkpoint's files hold what the sandbox had in its memory.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use torpor::host::command::EngineCommand;
use torpor::host::engine::EngineRef;
use torpor::host::runtime::{CreatePlan, Runtime, RuntimeState};
use torpor::model::{Code, Error, Result};

use super::kernel::{Kernel, Sandbox, State};
use super::{Life, Memory, Status};

pub struct FakeRuntime {
    pub life: Arc<Life>,
}

fn failed(verb: &str, id: &str, why: impl std::fmt::Display) -> Error {
    Error::new(Code::Runtime, format!("{verb} sandbox {id}: {why}"))
}

/// The sandbox, if it is in one of those states.
fn in_state<'a>(state: &'a mut State, verb: &str, id: &str, wanted: &[Status]) -> Result<&'a mut Sandbox> {
    let sandbox = state.sandboxes.get_mut(id).ok_or_else(|| failed(verb, id, "it does not exist"))?;
    if wanted.contains(&sandbox.status) {
        return Ok(sandbox);
    }
    Err(failed(verb, id, format!("it is {:?}", sandbox.status)))
}

/// Gives a paused sandbox's init what waited for it.
pub fn deliver(state: &mut State, id: &str) {
    let Some(sandbox) = state.sandboxes.get_mut(id) else { return };
    let Some(shim) = state.shims.get_mut(id) else { return };
    if sandbox.status != Status::Running || shim.quiet {
        return;
    }
    sandbox.memory.quiet = false;
    for signal in std::mem::take(&mut shim.later) {
        super::shims::hear(sandbox, signal);
    }
}

fn write(dir: &Path, memory: &Memory) -> Result<()> {
    assert!(memory.secrets.is_empty(), "a file of /run/secrets comes into a snapshot");
    let io = |e: std::io::Error| Error::internal("write a checkpoint").because(e);
    for name in ["checkpoint.img", "pages_meta.img", "pages.img"] {
        if dir.join(name).exists() {
            return Err(Error::new(Code::Runtime, format!("{name} is there already")));
        }
    }
    let text = serde_json::to_vec(memory).unwrap();
    let mut pages = vec![0_u8; 8192];
    pages[4096..4096 + text.len()].copy_from_slice(&text);
    std::fs::write(dir.join("pages.img"), pages).map_err(io)?;
    std::fs::write(dir.join("pages_meta.img"), b"meta").map_err(io)?;
    std::fs::write(dir.join("checkpoint.img"), text).map_err(io)
}

fn read(dir: &Path) -> Result<Memory> {
    let bytes = std::fs::read(dir.join("checkpoint.img")).map_err(|e| Error::internal("no checkpoint").because(e))?;
    let pages = std::fs::read(dir.join("pages.img")).map_err(|e| Error::internal("no pages").because(e))?;
    if pages.len() != 8192 || pages[4096..4096 + bytes.len()] != bytes {
        return Err(Error::internal("the checkpoint is not whole"));
    }
    serde_json::from_slice(&bytes).map_err(|e| Error::internal("a bad checkpoint").because(e))
}

fn to(state: &mut State, verb: &str, id: &str, from: &[Status], status: Status) -> Result<()> {
    in_state(state, verb, id, from)?.status = status;
    deliver(state, id);
    Ok(())
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn create_command(&self, _engine: &EngineRef, plan: &CreatePlan) -> EngineCommand {
        let paths = [&plan.bundle, &plan.netns, &plan.upper].map(|p| p.clone().into_os_string());
        EngineCommand::new("/fake/runsc", [plan.id.clone().into()].into_iter().chain(paths))
    }

    async fn start(&self, _engine: &EngineRef, plan: &CreatePlan) -> Result<()> {
        let start = |k: &Kernel| k.change(|s| to(s, "start", &plan.id, &[Status::Created], Status::Running));
        self.life.effect("start", start).await
    }

    async fn pause(&self, _engine: &EngineRef, plan: &CreatePlan) -> Result<()> {
        let pause = |k: &Kernel| k.change(|s| to(s, "pause", &plan.id, &[Status::Running], Status::Paused));
        self.life.effect("pause", pause).await
    }

    async fn resume(&self, _engine: &EngineRef, plan: &CreatePlan) -> Result<()> {
        let resume = |k: &Kernel| k.change(|s| to(s, "resume", &plan.id, &[Status::Paused], Status::Running));
        self.life.effect("resume", resume).await
    }

    async fn checkpoint(&self, _engine: &EngineRef, plan: &CreatePlan, dir: &Path) -> Result<()> {
        let save = |k: &Kernel| {
            k.change(|s| {
                let sandbox = in_state(s, "checkpoint", &plan.id, &[Status::Running, Status::Paused])?;
                write(dir, &sandbox.memory)
            })
        };
        self.life.effect("checkpoint", save).await
    }

    async fn restore(&self, _engine: &EngineRef, plan: &CreatePlan, images: &Path) -> Result<()> {
        let restore = |k: &Kernel| {
            k.change(|s| {
                if !s.netns.get(&plan.id).is_some_and(|n| n.addressed) {
                    return Err(failed("restore", &plan.id, "its link has no address"));
                }
                let sandbox = in_state(s, "restore", &plan.id, &[Status::Created])?;
                let memory = read(images)?;
                if memory.root != sandbox.memory.root {
                    return Err(failed("restore", &plan.id, "its root is another"));
                }
                sandbox.memory = memory;
                sandbox.status = Status::Running;
                sandbox.memory.quiet = false;
                Ok(())
            })
        };
        self.life.effect("restore", restore).await
    }

    async fn wait_restore(&self, _engine: &EngineRef, plan: &CreatePlan, _images: &Path) -> Result<()> {
        self.life.ask("wait for the restore").await?;
        self.life.kernel.change(|s| in_state(s, "wait", &plan.id, &[Status::Running]).map(drop))
    }

    async fn state(&self, _engine: &EngineRef, id: &str) -> Result<Option<RuntimeState>> {
        self.life.ask("state").await?;
        let state = self.life.kernel.look();
        Ok(state.sandboxes.get(id).map(|s| {
            let status = match s.status {
                Status::Created => "created",
                Status::Running => "running",
                Status::Paused => "paused",
                Status::Stopped => "stopped",
            };
            RuntimeState { status: status.into(), pid: s.pid as i32 }
        }))
    }

    async fn list(&self) -> Result<Vec<String>> {
        self.life.ask("list sandboxes").await?;
        Ok(self.life.kernel.look().sandboxes.keys().cloned().collect())
    }

    async fn delete(&self, _engine: &EngineRef, id: &str) -> Result<()> {
        self.life
            .effect("delete", |k| {
                k.set(|s| {
                    s.sandboxes.remove(id);
                })
            })
            .await
    }

    async fn save_upper(&self, _engine: &EngineRef, plan: &CreatePlan, file: &Path) -> Result<bool> {
        let save = |k: &Kernel| {
            let sandbox = k.change(|s| {
                in_state(s, "tar", &plan.id, &[Status::Running, Status::Paused]).map(|sandbox| sandbox.clone())
            })?;
            let mut tar = tar::Builder::new(std::fs::File::create(file).unwrap());
            if sandbox.memory.dirty {
                let text = sandbox.memory.count.to_string();
                let mut header = tar::Header::new_gnu();
                header.set_size(text.len() as u64);
                header.set_mode(0o644);
                tar.append_data(&mut header, "written", text.as_bytes()).unwrap();
            }
            tar.finish().unwrap();
            Ok(true)
        };
        self.life.effect("save the root", save).await
    }
}

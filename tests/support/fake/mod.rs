//! A host that is not there: drivers over a kernel in memory, which outlives the daemon that uses it.
//!
//! [`Kernel`] is what a host keeps when torpord is killed: sandboxes, shims, cgroups, namespaces, forwards, mounted roots and
//! what is in the bucket. [`Life`] is one torpord on it: every effect and every question of its drivers passes its gate, which
//! counts them and can end that life, refuse, fail late, or do a thing twice. What each driver answers is what the real one
//! does: tests/conformance asks both the same.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "shared by test binaries that each use a part of it"
)]

pub mod kernel;
pub mod net;
pub mod objects;
pub mod runtime;
pub mod shims;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::watch;
use torpor::model::{Code, Error, Result};

pub use kernel::{Kernel, Memory, Status};

/// What goes wrong, and at which effect (or question), counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// This life ends before that effect: nothing of it goes on.
    Crash(usize),
    /// That effect is refused.
    Refuse(usize),
    /// That effect is done, and said to have failed.
    Late(usize),
    /// That effect is done twice.
    Twice(usize),
    /// That question is not answered.
    Mute(usize),
}

/// What is to be done about an effect that passed the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    Once,
    Twice,
    Late,
}

struct Plan {
    fault: Fault,
    effects: Vec<String>,
    questions: Vec<String>,
}

/// One torpord's life on a kernel.
pub struct Life {
    pub kernel: Arc<Kernel>,
    plan: Mutex<Plan>,
    over: watch::Sender<bool>,
}

fn refused(what: &str) -> Error {
    Error::new(Code::Runtime, format!("{what}: the test refuses it"))
}

impl Life {
    pub fn new(kernel: &Arc<Kernel>) -> Arc<Self> {
        let plan = Plan { fault: Fault::None, effects: Vec::new(), questions: Vec::new() };
        Arc::new(Life { kernel: Arc::clone(kernel), plan: Mutex::new(plan), over: watch::Sender::new(false) })
    }

    /// From now on effects are counted anew, and `fault` comes true.
    pub fn arm(&self, fault: Fault) {
        *self.plan.lock().unwrap() = Plan { fault, effects: Vec::new(), questions: Vec::new() };
    }

    /// Names of the effects since [`Life::arm`].
    pub fn effects(&self) -> Vec<String> {
        self.plan.lock().unwrap().effects.clone()
    }

    /// Names of the questions since [`Life::arm`].
    pub fn questions(&self) -> Vec<String> {
        self.plan.lock().unwrap().questions.clone()
    }

    /// Waits until this life has ended.
    pub async fn ended(&self) {
        let _ = self.over.subscribe().wait_for(|o| *o).await;
    }

    async fn alive(&self) {
        if *self.over.borrow() {
            std::future::pending::<()>().await;
        }
    }

    /// Every effect comes here first.
    pub async fn gate(&self, what: &str) -> Result<Go> {
        self.alive().await;
        let fault = {
            let mut plan = self.plan.lock().unwrap();
            plan.effects.push(what.to_owned());
            let at = plan.effects.len() - 1;
            match plan.fault {
                Fault::Crash(k) if k == at => {
                    plan.effects.pop();
                    Some(Fault::Crash(k))
                }
                f @ (Fault::Refuse(k) | Fault::Late(k) | Fault::Twice(k)) if k == at => Some(f),
                _ => None,
            }
        };
        match fault {
            Some(Fault::Crash(_)) => {
                self.over.send_replace(true);
                std::future::pending().await
            }
            Some(Fault::Refuse(_)) => Err(refused(what)),
            Some(Fault::Late(_)) => Ok(Go::Late),
            Some(Fault::Twice(_)) => Ok(Go::Twice),
            _ => Ok(Go::Once),
        }
    }

    /// Every question comes here first.
    pub async fn ask(&self, what: &str) -> Result<()> {
        self.alive().await;
        let mute = {
            let mut plan = self.plan.lock().unwrap();
            plan.questions.push(what.to_owned());
            matches!(plan.fault, Fault::Mute(k) if k == plan.questions.len() - 1)
        };
        if mute { Err(refused(what)) } else { Ok(()) }
    }

    /// An effect on the kernel.
    pub async fn effect<T>(&self, what: &str, mut work: impl FnMut(&Kernel) -> Result<T>) -> Result<T> {
        let go = self.gate(what).await?;
        let first = work(&self.kernel);
        match go {
            Go::Once => first,
            Go::Twice => work(&self.kernel),
            Go::Late => first.and(Err(refused(what))),
        }
    }
}

/// The database's transactions: those that write are effects, others questions.
#[async_trait]
impl torpor::daemon::db::Watch for Life {
    async fn before(&self, what: &'static str) -> Result<()> {
        if what.starts_with("list") || what.starts_with("read") {
            return self.ask(what).await;
        }
        // A transaction that was done is never said to have failed, nor done twice.
        self.gate(what).await.map(drop)
    }
}

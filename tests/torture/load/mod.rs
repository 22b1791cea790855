//! Clients that work while torpord is killed, each with pods of its own and a model of what they must be.
//!
//! A call that was answered is a fact; a call that broke off has happened or has not, wholly. After each kill every client
//! compares what it finds with its model.

mod forks;
mod lives;
mod naps;
mod steady;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use torpor::api::client::{Client, ClientError};
use torpor::api::types::{ExecPod, Pod};

use crate::dice::Dice;
use crate::tally::Tally;

pub use forks::Forks;
pub use lives::Lives;
pub use naps::Naps;
pub use steady::Steady;

/// What became of a call.
pub enum Told<T> {
    /// It was answered.
    Done(T),
    /// torpord refused it.
    Refused,
    /// The answer broke off, or nobody was there.
    Cut,
}

/// One client.
#[async_trait]
pub trait Worker: Send {
    /// One call or two, chosen by dice. False: torpord is gone.
    async fn act(&mut self, dice: &mut Dice) -> bool;
    /// torpord is back: what is there against what must be.
    async fn verify(&mut self);
}

/// What all clients have.
#[derive(Clone)]
pub struct Desk {
    pub client: Client,
    pub tally: Arc<Tally>,
    pub me: &'static str,
}

/// No call takes longer than that with a torpord that lives.
const HUNG: Duration = Duration::from_secs(90);

impl Desk {
    pub fn fail(&self, text: &str) {
        self.tally.fail(&format!("{}: {text}", self.me));
    }

    pub fn lost(&self, text: &str) {
        self.tally.lost_ack(&format!("{}: {text}", self.me));
    }

    /// Waits for a call. A refusal is a failure: each client has its pods to itself.
    pub async fn told<T>(&self, what: &str, call: impl Future<Output = Result<T, ClientError>>) -> Told<T> {
        match tokio::time::timeout(HUNG, call).await {
            Ok(Ok(value)) => Told::Done(value),
            Ok(Err(ClientError::Refused(p))) => {
                self.fail(&format!("{what}: refused ({}): {}", p.code, p.detail));
                Told::Refused
            }
            Ok(Err(_)) => Told::Cut,
            Err(_) => {
                self.fail(&format!("{what}: no answer in {} s", HUNG.as_secs()));
                Told::Cut
            }
        }
    }

    /// As [`Desk::told`] while torpord is known to live: anything but an answer is a failure.
    pub async fn must<T>(&self, what: &str, call: impl Future<Output = Result<T, ClientError>>) -> Option<T> {
        match self.told(what, call).await {
            Told::Done(value) => Some(value),
            Told::Refused => None,
            Told::Cut => {
                self.fail(&format!("{what}: the answer broke off"));
                None
            }
        }
    }

    /// The output of a script in a pod.
    pub async fn shell(&self, pod: &str, script: &str) -> Result<String, ClientError> {
        let exec = ExecPod { command: vec!["sh".into(), "-c".into(), script.into()], ..ExecPod::default() };
        self.client.exec(pod, &exec).await.map(|r| r.stdout)
    }

    /// The pod, if there is one of that name.
    pub async fn look(&self, name: &str) -> Option<Pod> {
        let pods = self.must("list pods", self.client.pods()).await?;
        pods.into_iter().find(|p| p.name == name)
    }

    /// Whether a web server counts on as it should: `count` is what it was asked so far.
    pub async fn counts(&self, pod: &Pod, count: &mut u64) {
        *count += 1;
        let port = pod.ports[0].host;
        let got = tokio::task::spawn_blocking(move || {
            let end = std::time::Instant::now() + Duration::from_secs(10);
            loop {
                let to = (std::net::Ipv4Addr::LOCALHOST, port).into();
                match crate::daemon::try_get(to, "/") {
                    Some(body) => return Some(body),
                    None if std::time::Instant::now() > end => return None,
                    None => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        });
        match got.await.unwrap_or(None).and_then(|n| n.parse::<u64>().ok()) {
            Some(n) if n == *count => {}
            Some(n) => {
                self.fail(&format!("{} counted to {n}, not to {count}: its memory is another one", pod.name));
                *count = n;
            }
            None => self.fail(&format!("{}: port {port} does not answer", pod.name)),
        }
    }
}

/// A pod that counts and talks.
pub fn talker(name: &str) -> torpor::api::types::CreatePod {
    let mut pod = crate::daemon::counter(name);
    pod.command = vec!["sh".into(), "-c".into(), crate::lines::TALK.into()];
    pod
}

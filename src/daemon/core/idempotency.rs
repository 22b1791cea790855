//! Requests with an Idempotency-Key: asked again after a lost answer, they get the first answer and are not done twice.
//!
//! A row in the database before the request has an effect, what it makes before that is made, the answer after it. A request
//! that failed had no effect, and its key is free again. After a crash a row without an answer is settled by what it makes:
//! the pod or the snapshot is there, then that is the answer, or it is not, then the request is done anew. What can't be
//! told, and must not be done twice, is refused.
//!
//! Answers that may hold what is secret (the output of a program) are kept in memory only.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::{Core, view};
use crate::daemon::db::requests::RequestRow;
use crate::host::files;
use crate::model::{Attempt, Code, Error, PodId, PodState, Result, SnapshotId, hex};

/// How long a request waits for the same one that is under way.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of one answer that are kept in the database.
const LARGEST: usize = 4 << 20;
/// Bytes of answers that are kept in memory.
const IN_MEMORY: usize = 64 << 20;

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Its media type, if it has a body.
    pub media: Option<String>,
    /// Its body.
    pub body: String,
}

/// A request as it is told from others.
pub struct Asked<'a> {
    /// Whose key it is, and the key.
    pub key: [&'a str; 2],
    /// All by which it differs from another: method, path, body.
    pub parts: &'a [&'a [u8]],
    /// Whether it must not be done twice even if nobody knows whether it was done.
    pub once: bool,
}

/// What is to be done about a request.
pub enum Begun {
    /// It is new: do it, and finish the ticket.
    New(Ticket),
    /// It was done: that was the answer.
    Done(Answer),
}

/// A request under way. Dropped without an answer, its key is free again.
pub struct Ticket {
    intent: Intent,
    open: bool,
}

/// Where a request says what it is about to make.
#[derive(Clone)]
pub struct Intent {
    core: Arc<Core>,
    key: String,
}

/// What a request makes.
pub(super) enum Makes<'a> {
    /// A pod.
    Pod(&'a PodId),
    /// A snapshot.
    Snapshot(&'a SnapshotId),
}

/// What this process knows of requests.
#[derive(Default)]
pub(super) struct Requests {
    /// By key: what was asked, and who waits for its end.
    busy: Mutex<BTreeMap<String, (String, watch::Sender<()>)>>,
    /// Answers that the database has not.
    kept: Mutex<VecDeque<(String, Answer)>>,
    mac_key: Mutex<Option<[u8; 32]>>,
}

impl Requests {
    fn kept(&self, key: &str) -> Option<Answer> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(k, _)| k == key).map(|(_, a)| a.clone())
    }

    fn keep(&self, key: &str, answer: Answer) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((key.to_owned(), answer));
        while kept.len() > 1 && kept.iter().map(|(_, a)| a.body.len() + 200).sum::<usize>() > IN_MEMORY {
            kept.pop_front();
        }
    }

    fn end(&self, key: &str) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// What becomes of a request whose key is known.
enum Settled {
    Answer(Answer),
    /// It had no effect, or one that does no harm twice.
    Anew,
}

impl Core {
    /// Begins a request with a key, or tells what was answered to it.
    ///
    /// # Errors
    /// [`Code::KeyReused`]: the key was used for another request. [`Code::InProgress`]: the same one is still under way.
    /// [`Code::OutcomeUnknown`]: torpord ended while it was, and it must not be done twice. The database can't be written.
    pub async fn begin_request(self: &Arc<Self>, asked: &Asked<'_>) -> Result<Begun> {
        let (body, epoch) = self.fingerprint(asked.parts)?;
        let key = hex(&Sha256::digest(format!("{}\0{}", asked.key[0], asked.key[1])));
        loop {
            let before = {
                let mut busy = self.requests.busy.lock().unwrap_or_else(PoisonError::into_inner);
                match busy.get(&key) {
                    Some((other, _)) if *other != body => return Err(reused()),
                    Some((_, end)) => Some(end.subscribe()),
                    None => {
                        busy.insert(key.clone(), (body.clone(), watch::Sender::new(())));
                        None
                    }
                }
            };
            if let Some(mut end) = before {
                // It ends when its sender goes.
                let over = async { while end.changed().await.is_ok() {} };
                if tokio::time::timeout(PATIENCE, over).await.is_err() {
                    return Err(Error::new(Code::InProgress, "the same request is still under way")
                        .hint("ask again with the same key"));
                }
                continue;
            }
            let new = RequestRow {
                key: key.clone(),
                begun_ms: Timestamp::now().as_millisecond(),
                body: body.clone(),
                epoch: epoch.clone(),
                once: asked.once,
                makes: None,
                answer: None,
            };
            // From here on whoever goes away leaves the key free.
            let mut ticket = Ticket { intent: Intent { core: Arc::clone(self), key: key.clone() }, open: false };
            let busy = self.requests.busy.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
            let Some(known) = self.db.begin_request(&new, busy).await? else {
                ticket.open = true;
                return Ok(Begun::New(ticket));
            };
            if known.epoch == epoch && known.body != body {
                return Err(reused());
            }
            match self.settle_request(&known).await? {
                Settled::Answer(answer) => return Ok(Begun::Done(answer)),
                Settled::Anew => self.db.forget_request(&key).await?,
            }
        }
    }

    /// What a request came to whose row has been there before.
    async fn settle_request(&self, row: &RequestRow) -> Result<Settled> {
        if let Some(text) = &row.answer {
            let read = serde_json::from_str(text).attempt(Code::Internal, || "read an answer that was kept".into());
            return read.map(Settled::Answer);
        }
        if let Some(answer) = self.requests.kept(&row.key) {
            return Ok(Settled::Answer(answer));
        }
        if row.once {
            return Err(Error::new(
                Code::OutcomeUnknown,
                "the request was begun before, and its answer is not known any more",
            )
            .hint("look what it came to; to do it once more use another key"));
        }
        match row.makes.as_deref().and_then(|m| m.split_once(':')) {
            Some(("pod", id)) => Ok(self.pod_made(&id.parse()?)?.map_or(Settled::Anew, Settled::Answer)),
            Some(("snapshot", id)) => self.snapshot_made(&id.parse()?).await,
            _ => Ok(Settled::Anew),
        }
    }

    fn pod_made(&self, id: &PodId) -> Result<Option<Answer>> {
        let Some(pod) = self.pod(id) else { return Ok(None) };
        let record = pod.record();
        if matches!(record.state, PodState::Creating | PodState::Deleting) {
            return Ok(None);
        }
        json(201, &self.show_pod(&record)).map(Some)
    }

    /// A snapshot whose record still names it is removed when that pod's turn comes.
    async fn snapshot_made(&self, id: &SnapshotId) -> Result<Settled> {
        if self.pods().iter().any(|p| p.look().pending.as_ref() == Some(id)) {
            return Ok(Settled::Anew);
        }
        match self.host.store.manifest(id).await {
            Ok(manifest) => json(201, &view::manifest(&manifest)).map(Settled::Answer),
            Err(e) if e.code() == Code::NotFound => Ok(Settled::Anew),
            Err(e) => Err(e),
        }
    }

    /// After a start, when pods have been recovered: requests that made a pod get their answer before anybody can remove it.
    pub(super) async fn settle_requests(&self) -> Result<()> {
        for row in self.db.unanswered_requests().await? {
            let makes_pod = row.makes.as_deref().and_then(|m| m.strip_prefix("pod:"));
            // Of others it is asked when they come again: the store may be away now.
            let Some(id) = makes_pod else { continue };
            if self.unreadable.iter().any(|(bad, _)| bad == id) {
                continue;
            }
            match self.pod_made(&id.parse()?)? {
                Some(answer) => self.db.answer_request(&row.key, text(&answer)?).await?,
                None => self.db.forget_request(&row.key).await?,
            }
        }
        Ok(())
    }

    /// A MAC of a request, and which key it was made with. The key lies in memory only, for a digest alone would tell who reads
    /// the database what a short secret is; after a reboot it is another one, and bodies of before can't be compared.
    fn fingerprint(&self, parts: &[&[u8]]) -> Result<(String, String)> {
        let key = {
            let mut known = self.requests.mac_key.lock().unwrap_or_else(PoisonError::into_inner);
            match *known {
                Some(key) => key,
                None => *known.insert(mac_key(&self.dirs.run().join("request-key"))?),
            }
        };
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).attempt(Code::Internal, || "make a MAC".into())?;
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        Ok((hex(&mac.finalize().into_bytes()), hex(&Sha256::digest(key)[..8])))
    }
}

fn mac_key(path: &Path) -> Result<[u8; 32]> {
    let known = files::read_if_present(path)?.and_then(|text| {
        let text = text.trim();
        let byte = |n: usize| u8::from_str_radix(text.get(2 * n..2 * n + 2)?, 16).ok();
        (text.len() == 64).then(|| (0..32).map(byte).collect::<Option<Vec<u8>>>())?
    });
    if let Some(key) = known.and_then(|k| k.try_into().ok()) {
        return Ok(key);
    }
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|e| Error::internal(format!("read random bytes: {e}")))?;
    files::write(path, hex(&key).as_bytes(), 0o600)?;
    Ok(key)
}

fn json<T: Serialize>(status: u16, value: &T) -> Result<Answer> {
    let body = serde_json::to_string(value).attempt(Code::Internal, || "write an answer".into())?;
    Ok(Answer { status, media: Some("application/json".into()), body })
}

fn text(answer: &Answer) -> Result<String> {
    serde_json::to_string(answer).attempt(Code::Internal, || "keep an answer".into())
}

fn reused() -> Error {
    Error::new(Code::KeyReused, "the Idempotency-Key was used for another request")
        .hint("use a new key for each request")
}

impl Intent {
    /// Notes what is about to be made. Nothing may be made if that fails.
    pub(super) async fn makes(&self, what: Makes<'_>) -> Result<()> {
        let text = match what {
            Makes::Pod(id) => format!("pod:{id}"),
            Makes::Snapshot(id) => format!("snapshot:{id}"),
        };
        self.core.db.request_makes(&self.key, text).await
    }
}

impl Ticket {
    /// Where the request says what it makes.
    pub fn intent(&self) -> Intent {
        self.intent.clone()
    }

    /// It was done: whoever asks again gets that answer. `private`: it is kept in memory only.
    pub async fn finish(mut self, answer: Answer, private: bool) {
        self.open = false;
        let Intent { core, key } = &self.intent;
        let in_database = match text(&answer) {
            Ok(text) if !private && text.len() <= LARGEST => core.db.answer_request(key, text).await.is_ok(),
            _ => false,
        };
        if !in_database {
            core.requests.keep(key, answer);
        }
    }

    /// It was refused, or failed without an effect: whoever asks again has it done.
    pub async fn abandon(mut self) {
        self.open = false;
        if let Err(e) = self.intent.core.db.forget_request(&self.intent.key).await {
            tracing::warn!(error = %e.report(), "free an Idempotency-Key");
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.open {
            // A fault of ours ended it. Whether it had an effect is told by what it makes.
            tracing::warn!("a request with an Idempotency-Key ended without an answer");
        }
        self.intent.core.requests.end(&self.intent.key);
    }
}

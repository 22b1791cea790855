//! Tokens and tickets: made, looked up, ended.
//!
//! All tokens are held in memory; what changes is committed first. A text that stops being good (revoked, replaced, expired)
//! ends the connections that are open by it. After a crash: what was answered is in the database; tickets are gone.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

use super::Core;
use crate::api::types;
use crate::daemon::db::Db;
use crate::model::token::{self, Caller, Scope, SecretHash, TokenRecord};
use crate::model::{Code, Error, PodId, Result, TokenId, hex};

/// Tokens at once.
const MOST: usize = 1000;
/// Texts of one token that are good at once.
const TEXTS: usize = 8;
/// The longest time that a token's text may be good beside the one that replaced it.
const LONGEST_OVERLAP: u64 = 30 * 24 * 3600;
/// The longest life that may be asked for.
const LONGEST_LIFE: u64 = 10 * 365 * 24 * 3600;
/// How long a ticket is good.
const TICKET: Duration = Duration::from_secs(30);
/// Tickets of one token that wait to be used.
const TICKETS: usize = 64;
/// The clock may be set meanwhile: ends are looked for at least as often.
const LOOK: Duration = Duration::from_secs(10);

/// A random text of 256 bits.
fn secret() -> Result<String> {
    let mut raw = [0_u8; 32];
    getrandom::fill(&mut raw).map_err(|e| Error::internal(format!("read random bytes: {e}")))?;
    Ok(hex(&raw))
}

fn sha256(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// What a good token or ticket gives.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Who it is.
    pub caller: Caller,
    /// Cancelled when the text stops being good.
    pub ended: CancellationToken,
}

/// All of them.
pub(super) struct Tokens {
    /// Held while one is changed.
    turn: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
    /// Told when an end may have come nearer.
    changed: tokio::sync::Notify,
}

#[derive(Default)]
struct Known {
    tokens: BTreeMap<TokenId, Live>,
    /// By hash: what is looked for has 256 random bits, so that no time tells anything about another.
    tickets: HashMap<[u8; 32], Ticket>,
}

struct Live {
    record: TokenRecord,
    /// For each of its texts.
    ends: Vec<CancellationToken>,
    used: Option<Timestamp>,
}

struct Ticket {
    of: Admitted,
    until: tokio::time::Instant,
}

impl Live {
    fn new(record: TokenRecord) -> Self {
        let ends = record.secrets.iter().map(|_| CancellationToken::new()).collect();
        Live { record, ends, used: None }
    }

    /// Takes the new state of it. What was open by a text that is not in it any more ends.
    fn replace(&mut self, record: TokenRecord) {
        let mut ends = Vec::new();
        for text in &record.secrets {
            let before = self.record.secrets.iter().position(|s| s.sha256 == text.sha256);
            ends.push(before.and_then(|n| self.ends.get(n)).cloned().unwrap_or_default());
        }
        for (old, end) in self.record.secrets.iter().zip(&self.ends) {
            if !record.secrets.iter().any(|s| s.sha256 == old.sha256) {
                end.cancel();
            }
        }
        (self.record, self.ends) = (record, ends);
    }

    fn end(&self) {
        self.ends.iter().for_each(CancellationToken::cancel);
    }
}

impl Tokens {
    pub(super) async fn load(db: &Db) -> Result<Self> {
        let (records, bad) = db.tokens().await?;
        for token in bad {
            tracing::error!(%token, "the record of a token can't be read: it is refused");
        }
        let tokens = records.into_iter().map(|r| (r.id.clone(), Live::new(r))).collect();
        let known = Mutex::new(Known { tokens, tickets: HashMap::new() });
        Ok(Tokens { turn: tokio::sync::Mutex::default(), known, changed: tokio::sync::Notify::new() })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose text that is, if it is good now. Takes as long whatever is wrong with it.
    fn check(&self, text: &str, now: Timestamp) -> Option<Admitted> {
        let given = hex(&sha256(text));
        let mut known = self.known();
        let live = token::id_of(text).and_then(|id| known.tokens.get_mut(&id));
        let Some(live) = live else {
            let nothing = [b'x'; 64];
            let _ = std::hint::black_box(given.as_bytes().ct_eq(&nothing));
            return None;
        };
        let mut found = None;
        for (text, end) in live.record.secrets.iter().zip(&live.ends) {
            let same = bool::from(given.as_bytes().ct_eq(text.sha256.as_bytes()));
            if same && live.record.holds(text, now) {
                found = Some(end.clone());
            }
        }
        let ended = found?;
        live.used = Some(now);
        let caller = Caller { grant: live.record.grant(), token: Some(live.record.id.clone()) };
        Some(Admitted { caller, ended })
    }

    /// A ticket for one request.
    fn ticket(&self, of: Admitted, now: tokio::time::Instant) -> Result<String> {
        let text = format!("{}{}", token::TICKET_PREFIX, secret()?);
        let mut known = self.known();
        known.tickets.retain(|_, t| t.until > now && !t.of.ended.is_cancelled());
        if known.tickets.values().filter(|t| t.of.caller.token == of.caller.token).count() >= TICKETS {
            return Err(Error::new(Code::RateLimited, format!("{TICKETS} tickets of this token wait to be used"))
                .hint(format!("one that is not used is good for {} s", TICKET.as_secs())));
        }
        known.tickets.insert(sha256(&text), Ticket { of, until: now + TICKET });
        Ok(text)
    }

    /// Whose ticket that is: it is good no more then.
    fn take_ticket(&self, text: &str, now: tokio::time::Instant) -> Option<Admitted> {
        let ticket = self.known().tickets.remove(&sha256(text))?;
        (ticket.until > now && !ticket.of.ended.is_cancelled()).then_some(ticket.of)
    }

    fn find(&self, reference: &str) -> Result<TokenRecord> {
        let known = self.known();
        let is = |l: &&Live| l.record.id.as_str() == reference || l.record.name.as_str() == reference;
        known.tokens.values().find(is).map(|l| l.record.clone()).ok_or_else(|| {
            let shown: String = reference.chars().take(40).collect();
            Error::new(Code::NotFound, format!("no token {shown:?}"))
                .hint("`torpor token ls` lists them, by id and name")
        })
    }

    /// Ends what is open by texts that are not good any more. Until when the others are.
    fn end_old(&self, now: Timestamp) -> Option<Timestamp> {
        let known = self.known();
        for live in known.tokens.values() {
            for (text, end) in live.record.secrets.iter().zip(&live.ends) {
                if !live.record.holds(text, now) {
                    end.cancel();
                }
            }
        }
        known.tokens.values().filter_map(|l| l.record.next_end(now)).min()
    }
}

fn after(now: Timestamp, seconds: u64, longest: u64, what: &str) -> Result<Timestamp> {
    if seconds > longest {
        return Err(Error::invalid(format!("{what} may be {longest} at most")));
    }
    now.checked_add(Duration::from_secs(seconds)).map_err(|e| Error::invalid(format!("{what}: {e}")))
}

fn show(live: &Live, now: Timestamp) -> types::Token {
    let r = &live.record;
    types::Token {
        id: r.id.to_string(),
        name: r.name.to_string(),
        scope: r.scope.as_str().into(),
        pod: r.pod.as_ref().map(ToString::to_string),
        created_at: r.created_at.to_string(),
        expires_at: r.expires_at.map(|t| t.to_string()),
        expired: r.expires_at.is_some_and(|e| e <= now),
        old_until: r.secrets.iter().filter_map(|s| s.until).filter(|e| *e > now).max().map(|t| t.to_string()),
        last_used_at: live.used.map(|t| t.to_string()),
    }
}

impl Core {
    /// Who shows that token; none: it is not good.
    pub fn admitted(&self, text: &str) -> Option<Admitted> {
        self.tokens.check(text, Timestamp::now())
    }

    /// Who shows that ticket; none: it is not good. It was its only use.
    pub fn admitted_by_ticket(&self, text: &str) -> Option<Admitted> {
        self.tokens.take_ticket(text, tokio::time::Instant::now())
    }

    /// The pod that a name, an id or a unique beginning of an id stands for.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn pod_id(&self, reference: &str) -> Result<PodId> {
        Ok(self.find(reference)?.record().id)
    }

    /// Refuses directories of the host that are not such a caller's to have.
    ///
    /// # Errors
    /// [`Code::Forbidden`].
    pub fn reach<'a>(&self, caller: &Caller, sources: impl Iterator<Item = &'a str>) -> Result<()> {
        let mut of_host = sources.filter(|s| s.starts_with('/'));
        of_host.try_for_each(|s| caller.reach(std::path::Path::new(s), &self.config().token_host_paths))
    }

    /// As [`Core::reach`], for all that a snapshot's pod had.
    ///
    /// # Errors
    /// [`Code::Forbidden`], and if there is no such snapshot.
    pub async fn reach_of_snapshot(&self, caller: &Caller, id: &str) -> Result<()> {
        if caller.grant == token::Grant::Root {
            return Ok(());
        }
        let manifest = self.host.store.manifest(&self.host.store.find(id).await?).await?;
        self.reach(caller, manifest.pod.spec.volumes.iter().map(|v| v.source.as_str()))
    }

    /// `GET /v1/tokens`.
    pub fn list_tokens(&self) -> Vec<types::Token> {
        let now = Timestamp::now();
        let mut all: Vec<_> = self.tokens.known().tokens.values().map(|l| show(l, now)).collect();
        all.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
        all
    }

    /// `POST /v1/tokens`.
    ///
    /// # Errors
    /// See the API's document.
    pub async fn create_token(self: &Arc<Self>, request: types::CreateToken) -> Result<types::NewToken> {
        let core = Arc::clone(self);
        Self::to_the_end(async move { core.make_token(request).await }).await
    }

    async fn make_token(&self, request: types::CreateToken) -> Result<types::NewToken> {
        let (now, id) = (Timestamp::now(), TokenId::random()?);
        let scope: Scope = request.scope.parse()?;
        let pod = match (scope, &request.pod) {
            (Scope::Pod, Some(pod)) => Some(self.pod_id(pod)?),
            (Scope::Pod, None) => return Err(Error::invalid("a token of scope pod needs a pod")),
            (_, Some(_)) => return Err(Error::invalid("only a token of scope pod has a pod")),
            (_, None) => None,
        };
        let life = request.expires_in_seconds;
        if life == Some(0) {
            return Err(Error::invalid("expiresInSeconds is 0: the token would never be good"));
        }
        let name = match request.name {
            Some(name) => name.parse()?,
            None => format!("token-{id}").parse()?,
        };
        let text = format!("{}{id}_{}", token::PREFIX, secret()?);
        let record = TokenRecord {
            id: id.clone(),
            name,
            scope,
            pod,
            created_at: now,
            expires_at: life.map(|s| after(now, s, LONGEST_LIFE, "expiresInSeconds")).transpose()?,
            secrets: vec![SecretHash { sha256: hex(&sha256(&text)), until: None }],
        };
        let _turn = self.tokens.turn.lock().await;
        if self.tokens.known().tokens.len() >= MOST {
            return Err(Error::new(Code::Exhausted, format!("there are {MOST} tokens")).hint("revoke some"));
        }
        self.db.put_token(&record).await?;
        let live = Live::new(record);
        let shown = show(&live, now);
        self.tokens.known().tokens.insert(id, live);
        self.tokens.changed.notify_one();
        Ok(types::NewToken { token: shown, secret: text })
    }

    /// `POST /v1/tokens/{token}/rotate`.
    ///
    /// # Errors
    /// See the API's document; the token is as it was then.
    pub async fn rotate_token(self: &Arc<Self>, reference: &str, overlap: u64) -> Result<types::NewToken> {
        let (core, reference) = (Arc::clone(self), reference.to_owned());
        Self::to_the_end(async move { core.replace_text(&reference, overlap).await }).await
    }

    async fn replace_text(&self, reference: &str, overlap: u64) -> Result<types::NewToken> {
        let now = Timestamp::now();
        let _turn = self.tokens.turn.lock().await;
        let mut record = self.tokens.find(reference)?;
        if record.expires_at.is_some_and(|e| e <= now) {
            return Err(Error::new(Code::WrongState, format!("token {} has expired", record.name))
                .hint("revoke it and make a new one"));
        }
        let end = after(now, overlap, LONGEST_OVERLAP, "overlapSeconds")?;
        for text in &mut record.secrets {
            text.until = Some(text.until.map_or(end, |u| u.min(end)));
        }
        record.secrets.retain(|s| s.until.is_none_or(|u| u > now));
        if record.secrets.len() >= TEXTS {
            let text = format!("{} texts of token {} are good at once", record.secrets.len(), record.name);
            return Err(Error::new(Code::Exhausted, text).hint("rotate it with a shorter overlap, or wait"));
        }
        let text = format!("{}{}_{}", token::PREFIX, record.id, secret()?);
        record.secrets.push(SecretHash { sha256: hex(&sha256(&text)), until: None });
        self.db.put_token(&record).await?;
        let mut known = self.tokens.known();
        let Some(live) = known.tokens.get_mut(&record.id) else {
            return Err(Error::new(Code::NotFound, format!("token {} is gone", record.name)));
        };
        live.replace(record);
        let shown = show(live, now);
        self.tokens.changed.notify_one();
        Ok(types::NewToken { token: shown, secret: text })
    }

    /// `DELETE /v1/tokens/{token}`: at once, for what is open by it too.
    ///
    /// # Errors
    /// [`Code::NotFound`]; if it can't be written down, the token stays good.
    pub async fn revoke_token(self: &Arc<Self>, reference: &str) -> Result<()> {
        let (core, reference) = (Arc::clone(self), reference.to_owned());
        Self::to_the_end(async move {
            let _turn = core.tokens.turn.lock().await;
            let id = core.tokens.find(&reference)?.id;
            core.end_tokens(&[id]).await
        })
        .await
    }

    /// Ends the tokens of a pod that is gone. In the database they went with it.
    pub(super) async fn end_tokens_of(&self, pod: &PodId) {
        let _turn = self.tokens.turn.lock().await;
        self.tokens.known().tokens.retain(|_, live| {
            let stays = live.record.pod.as_ref() != Some(pod);
            if !stays {
                live.end();
            }
            stays
        });
    }

    async fn end_tokens(&self, ids: &[TokenId]) -> Result<()> {
        self.db.remove_tokens(ids).await?;
        let mut known = self.tokens.known();
        for live in ids.iter().filter_map(|id| known.tokens.remove(id)).collect::<Vec<_>>() {
            live.end();
        }
        Ok(())
    }

    /// `POST /v1/tickets`.
    ///
    /// # Errors
    /// Too many wait to be used.
    pub fn ticket(&self, of: Admitted) -> Result<types::Ticket> {
        let ticket = self.tokens.ticket(of, tokio::time::Instant::now())?;
        Ok(types::Ticket { ticket, expires_in_seconds: TICKET.as_secs() })
    }

    /// Ends what is open by tokens whose time is over, until the daemon ends.
    pub async fn end_expired_tokens(self: Arc<Self>) {
        loop {
            let now = Timestamp::now();
            let next = self.tokens.end_old(now);
            let wait = next.and_then(|n| Duration::try_from(n.duration_since(now)).ok()).map_or(LOOK, |d| d.min(LOOK));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.tokens.changed.notified() => {}
                () = self.shutdown.cancelled() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn tokens() -> (Tokens, TokenRecord, [String; 2]) {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::load(&Db::open(&dir.path().join("db")).unwrap()).await.unwrap();
        let id = TokenId::random().unwrap();
        let texts = [0, 1].map(|_| format!("{}{id}_{}", token::PREFIX, secret().unwrap()));
        let hash = |t: &String, until| SecretHash { sha256: hex(&sha256(t)), until };
        let now = Timestamp::now();
        let record = TokenRecord {
            id: id.clone(),
            name: "ci".parse().unwrap(),
            scope: Scope::Pods,
            pod: None,
            created_at: now,
            expires_at: None,
            secrets: vec![hash(&texts[0], Some(now + Duration::from_secs(60))), hash(&texts[1], None)],
        };
        tokens.known().tokens.insert(id, Live::new(record.clone()));
        (tokens, record, texts)
    }

    #[tokio::test]
    async fn texts_are_good_until_their_end_and_what_is_open_by_them_ends() {
        let (tokens, record, [old, new]) = tokens().await;
        let now = Timestamp::now();
        let (a, b) = (tokens.check(&old, now).unwrap(), tokens.check(&new, now).unwrap());
        assert_eq!((&a.caller, a.caller.token.as_ref()), (&b.caller, Some(&record.id)));
        for bad in ["", "torpor_", &new[..new.len() - 1], &new.to_uppercase(), &format!("{new}x"), &secret().unwrap()] {
            assert!(tokens.check(bad, now).is_none(), "{bad}");
        }
        let later = now + Duration::from_secs(61);
        assert!(tokens.check(&old, later).is_none() && tokens.check(&new, later).is_some());
        assert!(tokens.end_old(now).is_some() && !a.ended.is_cancelled());
        assert!(tokens.end_old(later).is_none() && a.ended.is_cancelled() && !b.ended.is_cancelled());
        // One that is replaced at once ends, the other goes on.
        let mut next = record.clone();
        next.secrets.remove(0);
        tokens.known().tokens.get_mut(&record.id).unwrap().replace(next.clone());
        assert!(tokens.check(&old, now).is_none() && !tokens.check(&new, now).unwrap().ended.is_cancelled());
        next.secrets.clear();
        tokens.known().tokens.get_mut(&record.id).unwrap().replace(next);
        assert!(b.ended.is_cancelled() && tokens.check(&new, now).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn tickets_are_good_once_shortly_and_not_without_end() {
        let (tokens, _, [_, text]) = tokens().await;
        let of = tokens.check(&text, Timestamp::now()).unwrap();
        let now = tokio::time::Instant::now();
        let ticket = tokens.ticket(of.clone(), now).unwrap();
        assert!(tokens.check(&ticket, Timestamp::now()).is_none(), "a ticket is no token");
        assert_eq!(tokens.take_ticket(&ticket, now).unwrap().caller, of.caller);
        assert!(tokens.take_ticket(&ticket, now).is_none());
        let late = tokens.ticket(of.clone(), now).unwrap();
        assert!(tokens.take_ticket(&late, now + TICKET).is_none());
        for _ in 0..TICKETS {
            tokens.ticket(of.clone(), now).unwrap();
        }
        assert_eq!(tokens.ticket(of.clone(), now).unwrap_err().code(), Code::RateLimited);
        let fresh = tokens.ticket(of.clone(), now + TICKET).unwrap();
        assert_eq!(tokens.known().tickets.len(), 1);
        of.ended.cancel();
        assert!(tokens.take_ticket(&fresh, now + TICKET).is_none(), "of a token that is revoked");
    }
}

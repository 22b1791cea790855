//! Requests that came with an Idempotency-Key: what was asked, what it is about to make, what was answered.
//!
//! A row is there before the request has an effect. After a crash one without an answer tells by what it makes how far it came.

use rusqlite::{OptionalExtension, params};

use super::{Db, refused};
use crate::model::{Attempt, Code, Error, Result};

/// What came with this table. Nothing of it is needed by who does not know it.
pub(super) const TABLE: &str = "
CREATE TABLE requests (
    key TEXT PRIMARY KEY, begun_ms INTEGER NOT NULL, body TEXT NOT NULL, epoch TEXT NOT NULL, once INTEGER NOT NULL,
    makes TEXT, answer TEXT
) STRICT;
CREATE INDEX requests_by_age ON requests (begun_ms);
";

/// Rows that are kept.
pub const MOST: i64 = 4096;
/// Bytes of answers that are kept.
pub const MOST_BYTES: i64 = 64 << 20;
/// Milliseconds for which a row is kept.
pub const KEPT_MS: i64 = 24 * 3600 * 1000;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRow {
    /// Digest of the key and of whose it is.
    pub key: String,
    /// When it began, in milliseconds since 1970.
    pub begun_ms: i64,
    /// What tells the request from another: a MAC of all of it.
    pub body: String,
    /// Which key that MAC was made with.
    pub epoch: String,
    /// Whether it must not be done twice even if nobody knows whether it was done.
    pub once: bool,
    /// What it makes: `pod:<id>` or `snapshot:<id>`.
    pub makes: Option<String>,
    /// What was answered, as JSON.
    pub answer: Option<String>,
}

const COLUMNS: &str = "key, begun_ms, body, epoch, once, makes, answer";

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<RequestRow> {
    Ok(RequestRow {
        key: r.get(0)?,
        begun_ms: r.get(1)?,
        body: r.get(2)?,
        epoch: r.get(3)?,
        once: r.get(4)?,
        makes: r.get(5)?,
        answer: r.get(6)?,
    })
}

/// Makes room for one more row: what is too old goes, and the oldest where there are too many. Never one that is `busy`.
fn make_room(t: &rusqlite::Transaction<'_>, now_ms: i64, busy: &[String]) -> Result<()> {
    let what = "forget old requests";
    let (mut count, mut bytes): (i64, i64) = t
        .query_row("SELECT count(*), coalesce(sum(octet_length(answer)), 0) FROM requests", [], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
        .map_err(|e| refused(what, e))?;
    let mut oldest = t
        .prepare_cached("SELECT key, begun_ms, coalesce(octet_length(answer), 0) FROM requests ORDER BY begun_ms")
        .map_err(|e| refused(what, e))?;
    let mut rows = oldest.query([]).map_err(|e| refused(what, e))?;
    while let Some(r) = rows.next().map_err(|e| refused(what, e))? {
        let (key, begun, length): (String, i64, i64) =
            (|| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))().map_err(|e| refused(what, e))?;
        // A clock that was set back makes nothing older than it is.
        let old = begun < now_ms - KEPT_MS;
        if !old && count < MOST && bytes <= MOST_BYTES {
            break;
        }
        if busy.contains(&key) {
            continue;
        }
        t.execute("DELETE FROM requests WHERE key = ?1", [key]).map_err(|e| refused(what, e))?;
        (count, bytes) = (count - 1, bytes - length);
    }
    if count >= MOST {
        return Err(Error::new(Code::Exhausted, format!("{MOST} requests with an Idempotency-Key are under way"))
            .hint("wait for some of them"));
    }
    Ok(())
}

impl Db {
    /// Notes that a request begins. If one with that key is known already, that is given instead and nothing is noted.
    ///
    /// # Errors
    /// The database can't be written; [`Code::Exhausted`]: too many are under way.
    pub async fn begin_request(&self, new: &RequestRow, busy: Vec<String>) -> Result<Option<RequestRow>> {
        let new = new.clone();
        self.transact("begin a request", move |t| {
            let what = "begin a request";
            let known = t
                .query_row(&format!("SELECT {COLUMNS} FROM requests WHERE key = ?1"), [&new.key], row)
                .optional()
                .map_err(|e| refused(what, e))?;
            if let Some(known) = known.filter(|k| k.begun_ms >= new.begun_ms - KEPT_MS) {
                return Ok(Some(known));
            }
            make_room(t, new.begun_ms, &busy)?;
            t.execute(
                "INSERT OR REPLACE INTO requests (key, begun_ms, body, epoch, once) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![new.key, new.begun_ms, new.body, new.epoch, new.once],
            )
            .map_err(|e| refused(what, e))?;
            Ok(None)
        })
        .await
    }

    /// Notes what a request is about to make.
    ///
    /// # Errors
    /// The database can't be written: nothing may be made then.
    pub async fn request_makes(&self, key: &str, makes: String) -> Result<()> {
        let key = key.to_owned();
        self.transact("note what a request makes", move |t| {
            t.execute("UPDATE requests SET makes = ?2 WHERE key = ?1", params![key, makes])
                .map(drop)
                .map_err(|e| refused("note what a request makes", e))
        })
        .await
    }

    /// Keeps what was answered.
    ///
    /// # Errors
    /// The database can't be written.
    pub async fn answer_request(&self, key: &str, answer: String) -> Result<()> {
        let key = key.to_owned();
        self.transact("keep an answer", move |t| {
            t.execute("UPDATE requests SET answer = ?2 WHERE key = ?1", params![key, answer])
                .map(drop)
                .map_err(|e| refused("keep an answer", e))
        })
        .await
    }

    /// Forgets a request that had no effect.
    ///
    /// # Errors
    /// The database can't be written.
    pub async fn forget_request(&self, key: &str) -> Result<()> {
        let key = key.to_owned();
        self.transact("forget a request", move |t| {
            t.execute("DELETE FROM requests WHERE key = ?1", [key])
                .map(drop)
                .map_err(|e| refused("forget a request", e))
        })
        .await
    }

    /// Requests without an answer: torpord ended before it was kept.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn unanswered_requests(&self) -> Result<Vec<RequestRow>> {
        self.transact("list requests", |t| {
            let what = "list requests";
            let mut statement = t
                .prepare(&format!("SELECT {COLUMNS} FROM requests WHERE answer IS NULL ORDER BY begun_ms"))
                .map_err(|e| refused(what, e))?;
            let rows = statement.query_map([], row).map_err(|e| refused(what, e))?;
            rows.collect::<rusqlite::Result<_>>().attempt(Code::Internal, || what.into())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(key: &str, begun_ms: i64) -> RequestRow {
        RequestRow {
            key: key.into(),
            begun_ms,
            body: "b".into(),
            epoch: "e".into(),
            once: false,
            makes: None,
            answer: None,
        }
    }

    #[tokio::test]
    async fn a_key_is_known_for_a_day_and_the_oldest_goes_where_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("torpor.db")).unwrap();
        assert_eq!(db.begin_request(&new("a", 1000), vec![]).await.unwrap(), None);
        db.request_makes("a", "pod:1".into()).await.unwrap();
        assert_eq!(db.unanswered_requests().await.unwrap()[0].makes.as_deref(), Some("pod:1"));
        db.answer_request("a", "{}".into()).await.unwrap();
        assert!(db.unanswered_requests().await.unwrap().is_empty());
        let known = db.begin_request(&new("a", 1000 + KEPT_MS), vec![]).await.unwrap().unwrap();
        assert_eq!(known.answer.as_deref(), Some("{}"));
        assert_eq!(db.begin_request(&new("a", 1001 + KEPT_MS), vec![]).await.unwrap(), None);
        db.forget_request("a").await.unwrap();
        let busy = vec!["k0".to_owned()];
        for n in 0..MOST + 2 {
            assert_eq!(db.begin_request(&new(&format!("k{n}"), 10 + n), busy.clone()).await.unwrap(), None);
        }
        assert!(db.begin_request(&new("k0", 20), busy.clone()).await.unwrap().is_some(), "what is under way stays");
        let all = db.unanswered_requests().await.unwrap();
        assert_eq!(all.len() as i64, MOST);
        let busy: Vec<String> = all.into_iter().map(|r| r.key).collect();
        let e = db.begin_request(&new("one more", 20), busy).await.unwrap_err();
        assert_eq!(e.code(), Code::Exhausted);
        // Bytes are bounded, too.
        let large = "x".repeat(usize::try_from(MOST_BYTES).unwrap());
        db.answer_request("k9", large).await.unwrap();
        db.begin_request(&new("z", 30_000), vec![]).await.unwrap();
        assert_eq!(db.begin_request(&new("z1", 30_000), vec![]).await.unwrap(), None);
        assert_eq!(db.begin_request(&new("k9", 30_001), vec![]).await.unwrap().map(|r| r.answer.is_some()), Some(true));
    }
}

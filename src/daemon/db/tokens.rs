//! Tokens in the database: what proves them is there as a hash only.

use rusqlite::params;

use super::{Db, refused};
use crate::model::token::TokenRecord;
use crate::model::{Attempt, Code, Error, Result, TokenId};

pub(super) const TABLE: &str = "
CREATE TABLE tokens (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL) STRICT;
";

/// Tokens of a pod go with it: one that stayed would be listed for ever. A record that is no JSON is nobody's.
pub(super) const REMOVE_OF_POD: &str =
    "DELETE FROM tokens WHERE CASE WHEN json_valid(record) THEN json_extract(record, '$.pod') = ?1 ELSE 0 END";

impl Db {
    /// Every token. One whose record can't be read is left out, and named: its bearer is refused.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn tokens(&self) -> Result<(Vec<TokenRecord>, Vec<String>)> {
        self.transact("list tokens", |t| {
            let mut statement =
                t.prepare("SELECT id, record FROM tokens ORDER BY id").map_err(|e| refused("list tokens", e))?;
            let rows = statement
                .query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))
                .map_err(|e| refused("list tokens", e))?;
            let (mut good, mut bad) = (Vec::new(), Vec::new());
            for row in rows {
                let (id, text) = row.map_err(|e| refused("list tokens", e))?;
                match serde_json::from_str(&text) {
                    Ok(record) => good.push(record),
                    Err(_) => bad.push(id),
                }
            }
            Ok((good, bad))
        })
        .await
    }

    /// Adds a token, or replaces what is kept of it.
    ///
    /// # Errors
    /// [`Code::NameTaken`]: another token is called so. [`Code::NotFound`]: its pod is gone.
    pub async fn put_token(&self, record: &TokenRecord) -> Result<()> {
        let record = record.clone();
        self.transact("save a token", move |t| {
            let text = serde_json::to_string(&record).attempt(Code::Internal, || "write a token's record".into())?;
            let (id, name) = (record.id.as_str(), record.name.as_str());
            let taken: i64 = t
                .query_row("SELECT count(*) FROM tokens WHERE name = ?1 AND id <> ?2", [name, id], |r| r.get(0))
                .map_err(|e| refused("save a token", e))?;
            if taken > 0 {
                return Err(Error::new(Code::NameTaken, format!("a token is called {name} already"))
                    .hint("take another name, or rotate or revoke that one"));
            }
            if let Some(pod) = &record.pod {
                let there: i64 = t
                    .query_row("SELECT count(*) FROM pods WHERE id = ?1", [pod.as_str()], |r| r.get(0))
                    .map_err(|e| refused("save a token", e))?;
                if there == 0 {
                    return Err(Error::new(Code::NotFound, format!("no pod {pod}: it was removed meanwhile")));
                }
            }
            t.execute("INSERT OR REPLACE INTO tokens (id, name, record) VALUES (?1, ?2, ?3)", params![id, name, text])
                .map(drop)
                .map_err(|e| refused("save a token", e))
        })
        .await
    }

    /// Removes tokens. Those that are not there need no removal.
    ///
    /// # Errors
    /// The database can't be written.
    pub async fn remove_tokens(&self, ids: &[TokenId]) -> Result<()> {
        let ids = ids.to_vec();
        self.transact("remove tokens", move |t| {
            for id in &ids {
                t.execute("DELETE FROM tokens WHERE id = ?1", [id.as_str()])
                    .map_err(|e| refused("remove tokens", e))?;
            }
            Ok(())
        })
        .await
    }
}

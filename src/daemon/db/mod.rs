//! The database: intent and record, SQLite in WAL mode with full synchronisation.
//!
//! After a crash: what was committed is there, what was not is not. Nobody else opens the file by path: closing any
//! descriptor of it in this process would drop SQLite's locks.

pub mod requests;
mod tokens;

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::host::files;
use crate::model::{Attempt, Code, Error, Forward, ImageName, ImageRecord, PodId, PodRecord, Result};

/// The schema that this torpord writes.
pub const SCHEMA: i64 = MIGRATIONS.len() as i64;
/// The oldest schema number that may read what this torpord writes.
pub const MIN_READER: i64 = 1;

const SCHEMA_1: &str = "
CREATE TABLE meta (only INTEGER PRIMARY KEY CHECK (only = 1), schema INTEGER NOT NULL, min_reader INTEGER NOT NULL) STRICT;
CREATE TABLE pods (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, address TEXT NOT NULL UNIQUE, record TEXT NOT NULL
) STRICT;
CREATE TABLE ports (
    host INTEGER NOT NULL, protocol TEXT NOT NULL, pod TEXT NOT NULL REFERENCES pods (id) ON DELETE CASCADE,
    PRIMARY KEY (host, protocol)
) STRICT;
CREATE TABLE images (name TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
";

/// How long another program's lock is waited for: a backup takes it for a moment.
const LOCKED: Duration = Duration::from_secs(5);

/// What makes schema n out of schema n - 1. They only add: an older torpord goes on reading.
const MIGRATIONS: [&str; 3] = [SCHEMA_1, tokens::TABLE, requests::TABLE];

/// The open database. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    connection: Arc<Mutex<Connection>>,
    dir: Arc<Path>,
    watch: Option<Arc<dyn Watch>>,
}

/// Sees every transaction before it begins.
#[async_trait]
pub trait Watch: Send + Sync {
    /// `what` is about to be done. It may be refused, and it may be put off for as long as that takes.
    ///
    /// # Errors
    /// The transaction is refused with it: nothing was changed.
    async fn before(&self, what: &'static str) -> Result<()>;
}

impl Db {
    /// Opens or makes it.
    ///
    /// # Errors
    /// Not readable, damaged, or written by a newer torpord that this one must not touch.
    pub fn open(path: &Path) -> Result<Self> {
        let what = || format!("open the database {}", path.display());
        let mut connection = Connection::open(path).attempt(Code::Internal, what)?;
        connection.busy_timeout(LOCKED).attempt(Code::Internal, what)?;
        connection.pragma_update(None, "journal_mode", "WAL").attempt(Code::Internal, what)?;
        connection.pragma_update(None, "synchronous", "FULL").attempt(Code::Internal, what)?;
        connection.pragma_update(None, "foreign_keys", true).attempt(Code::Internal, what)?;
        let check: String =
            connection.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).attempt(Code::Internal, what)?;
        if check != "ok" {
            return Err(Error::new(Code::Damaged, format!("the database {} is damaged: {check}", path.display()))
                .hint("move it aside and restore a backup; the snapshots in the store are whole without it"));
        }
        migrate(&mut connection).attempt(Code::Internal, what)?;
        let dir = path.parent().unwrap_or(Path::new("/")).into();
        Ok(Db { connection: Arc::new(Mutex::new(connection)), dir, watch: None })
    }

    /// The same database, every transaction seen by `watch` first.
    #[must_use]
    pub fn watched(self, watch: Arc<dyn Watch>) -> Self {
        Db { watch: Some(watch), ..self }
    }

    /// Runs one transaction on the blocking pool. It is committed when `work` succeeds.
    async fn transact<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if let Some(watch) = &self.watch {
            watch.before(what).await?;
        }
        let (connection, dir) = (Arc::clone(&self.connection), Arc::clone(&self.dir));
        let ran = tokio::task::spawn_blocking(move || {
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            // It takes the lock at once: one that reads first would not wait for another program that has it.
            let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
            let done = begun.map_err(|e| refused(what, e)).and_then(|transaction| {
                let value = work(&transaction)?;
                transaction.commit().map_err(|e| refused(what, e))?;
                Ok(value)
            });
            done.map_err(|e| if e.code() == Code::DiskFailed { no_room(e, &dir, what) } else { e })
        });
        ran.await.attempt(Code::Internal, || format!("{what} in the database"))?
    }

    /// Writes a copy of it as it is now into a new file. There pods are of another boot: wherever it is used, nothing of what runs
    /// now is there.
    ///
    /// # Errors
    /// The file is there, or can't be written.
    pub async fn copy_to(&self, path: std::path::PathBuf) -> Result<()> {
        const WHAT: &str = "copy the database";
        const OTHER: &str = "UPDATE pods SET record = json_set(record, '$.bootId', 'before the backup')
            WHERE json_valid(record) AND json_extract(record, '$.bootId') IS NOT NULL";
        let connection = Arc::clone(&self.connection);
        let copied = tokio::task::spawn_blocking(move || {
            let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            connection.execute("VACUUM INTO ?1", [path.display().to_string()]).map_err(|e| refused(WHAT, e))?;
            let copy = rusqlite::Connection::open(&path).map_err(|e| refused(WHAT, e))?;
            copy.execute(OTHER, []).map_err(|e| refused(WHAT, e))
        });
        copied.await.attempt(Code::Internal, || WHAT.into())?.map(drop)
    }

    /// Every pod. A record that can't be read is returned as its id and the reason: nothing of it may be touched.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn pods(&self) -> Result<(Vec<PodRecord>, Vec<(String, String)>)> {
        self.transact("list pods", |t| {
            let mut statement =
                t.prepare("SELECT id, record FROM pods ORDER BY id").map_err(|e| refused("list pods", e))?;
            let rows = statement
                .query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))
                .map_err(|e| refused("list pods", e))?;
            let (mut good, mut bad) = (Vec::new(), Vec::new());
            for row in rows {
                let (id, text) = row.map_err(|e| refused("list pods", e))?;
                match serde_json::from_str(&text) {
                    Ok(record) => good.push(record),
                    Err(e) => bad.push((id, e.to_string())),
                }
            }
            Ok((good, bad))
        })
        .await
    }

    /// Adds a pod with its leases, all or nothing.
    ///
    /// # Errors
    /// [`Code::NameTaken`] or [`Code::PortTaken`], and [`Code::Exhausted`] if the address went to another pod meanwhile.
    pub async fn add_pod(&self, record: &PodRecord) -> Result<()> {
        let record = record.clone();
        self.transact("add a pod", move |t| {
            let name = record.spec.name.as_str();
            let taken: Option<String> = t
                .query_row("SELECT id FROM pods WHERE name = ?1", [name], |r| r.get(0))
                .optional()
                .map_err(|e| refused("add a pod", e))?;
            if let Some(other) = taken {
                return Err(Error::new(Code::NameTaken, format!("the name {name} is taken by pod {other}"))
                    .hint("remove that pod or take another name"));
            }
            t.execute(
                "INSERT INTO pods (id, name, address, record) VALUES (?1, ?2, ?3, ?4)",
                params![record.id.as_str(), name, record.address.to_string(), encode(&record)?],
            )
            .map_err(|e| refused("add a pod", e))?;
            put_ports(t, &record)
        })
        .await
    }

    /// Replaces a pod's record.
    ///
    /// # Errors
    /// [`Code::NotFound`] if it is gone.
    pub async fn put_pod(&self, record: &PodRecord) -> Result<()> {
        let record = record.clone();
        self.transact("save a pod", move |t| {
            let changed = t
                .execute(
                    "UPDATE pods SET name = ?2, address = ?3, record = ?4 WHERE id = ?1",
                    params![
                        record.id.as_str(),
                        record.spec.name.as_str(),
                        record.address.to_string(),
                        encode(&record)?
                    ],
                )
                .map_err(|e| refused("save a pod", e))?;
            if changed == 0 {
                return Err(Error::new(Code::NotFound, format!("pod {} is gone", record.id)));
            }
            put_ports(t, &record)
        })
        .await
    }

    /// Removes a pod and gives its leases back. Not there: nothing to do.
    ///
    /// # Errors
    /// The database can't be written.
    pub async fn remove_pod(&self, id: &PodId) -> Result<()> {
        let id = id.to_string();
        self.transact("remove a pod", move |t| {
            t.execute("DELETE FROM pods WHERE id = ?1", [&id])
                .and_then(|_| t.execute(tokens::REMOVE_OF_POD, [&id]))
                .map(drop)
                .map_err(|e| refused("remove a pod", e))
        })
        .await
    }

    /// Every image, by name.
    ///
    /// # Errors
    /// The database can't be read or holds what this torpord can't read.
    pub async fn images(&self) -> Result<Vec<ImageRecord>> {
        self.transact("list images", |t| {
            let mut statement =
                t.prepare("SELECT record FROM images ORDER BY name").map_err(|e| refused("list images", e))?;
            let rows = statement.query_map([], |r| r.get::<_, String>(0)).map_err(|e| refused("list images", e))?;
            rows.map(|row| {
                let text = row.map_err(|e| refused("list images", e))?;
                serde_json::from_str(&text).attempt(Code::Internal, || "read an image's record".into())
            })
            .collect()
        })
        .await
    }

    /// One image.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn image(&self, name: &ImageName) -> Result<Option<ImageRecord>> {
        let name = name.to_string();
        self.transact("read an image", move |t| {
            let text: Option<String> = t
                .query_row("SELECT record FROM images WHERE name = ?1", [&name], |r| r.get(0))
                .optional()
                .map_err(|e| refused("read an image", e))?;
            text.map(|x| {
                serde_json::from_str(&x).attempt(Code::Internal, || format!("read the record of image {name}"))
            })
            .transpose()
        })
        .await
    }

    /// Adds an image or moves its name.
    ///
    /// # Errors
    /// The database can't be written.
    pub async fn put_image(&self, record: &ImageRecord) -> Result<()> {
        let record = record.clone();
        self.transact("save an image", move |t| {
            let text = serde_json::to_string(&record).attempt(Code::Internal, || "write an image's record".into())?;
            t.execute(
                "INSERT OR REPLACE INTO images (name, record) VALUES (?1, ?2)",
                params![record.name.to_string(), text],
            )
            .map(drop)
            .map_err(|e| refused("save an image", e))
        })
        .await
    }

    /// Removes an image's name; false if there was none.
    ///
    /// # Errors
    /// The database can't be written.
    pub async fn remove_image(&self, name: &ImageName) -> Result<bool> {
        let name = name.to_string();
        self.transact("remove an image", move |t| {
            let n =
                t.execute("DELETE FROM images WHERE name = ?1", [name]).map_err(|e| refused("remove an image", e))?;
            Ok(n > 0)
        })
        .await
    }
}

/// Every lease of an address.
pub fn leased_addresses<'a>(pods: impl Iterator<Item = &'a PodRecord>) -> std::collections::BTreeSet<Ipv4Addr> {
    pods.map(|p| p.address).collect()
}

fn put_ports(t: &rusqlite::Transaction<'_>, record: &PodRecord) -> Result<()> {
    t.execute("DELETE FROM ports WHERE pod = ?1", [record.id.as_str()]).map_err(|e| refused("save ports", e))?;
    for Forward { host, protocol, .. } in &record.forwards {
        let protocol = serde_json::to_string(protocol).attempt(Code::Internal, || "write a protocol".into())?;
        let taken: Option<String> = t
            .query_row("SELECT pod FROM ports WHERE host = ?1 AND protocol = ?2", params![host, protocol], |r| r.get(0))
            .optional()
            .map_err(|e| refused("save ports", e))?;
        if let Some(pod) = taken {
            return Err(Error::new(Code::PortTaken, format!("host port {host} is taken by pod {pod}"))
                .hint("ask for another port, or for none to get one of the pool"));
        }
        t.execute(
            "INSERT INTO ports (host, protocol, pod) VALUES (?1, ?2, ?3)",
            params![host, protocol, record.id.as_str()],
        )
        .map_err(|e| refused("save ports", e))?;
    }
    Ok(())
}

fn encode(record: &PodRecord) -> Result<String> {
    serde_json::to_string(record).attempt(Code::Internal, || format!("write the record of pod {}", record.id))
}

fn refused(what: &str, e: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{CannotOpen, DatabaseBusy, DiskFull, ReadOnly, SystemIoFailure};
    let code = match e.sqlite_error_code() {
        Some(DiskFull) => Some(Code::Exhausted),
        Some(SystemIoFailure | ReadOnly | CannotOpen) => Some(Code::DiskFailed),
        // The mutex keeps this process's own users apart.
        Some(DatabaseBusy) => {
            return Error::new(Code::InUse, format!("{what} in the database"))
                .because(e)
                .hint("another program has it open and locked; nothing was changed");
        }
        _ => None,
    };
    let error = Error::new(code.unwrap_or(Code::Internal), format!("{what} in the database")).because(e);
    match code {
        Some(code) => error.hint(files::disk_hint(code)),
        None => error,
    }
}

/// To SQLite a quota that is used up is a disk that fails: whether it is that, a file beside the database tells.
fn no_room(e: Error, dir: &Path, what: &str) -> Error {
    match tempfile::tempfile_in(dir).and_then(|mut f| f.write_all(&[1; 64 << 10]).and_then(|()| f.sync_all())) {
        Err(why) if files::disk_code(&why) == Some(Code::Exhausted) => {
            files::disk_error(why, Code::Internal, format!("{what} in the database"))
        }
        _ => e,
    }
}

fn migrate(connection: &mut Connection) -> Result<()> {
    let transaction = connection.transaction().map_err(|e| refused("migrate", e))?;
    let made: bool = transaction
        .query_row("SELECT count(*) FROM sqlite_master WHERE name = 'meta'", [], |r| r.get::<_, i64>(0))
        .map_err(|e| refused("read the schema", e))?
        > 0;
    let mut schema = 0;
    if made {
        let min_reader: i64;
        (schema, min_reader) = transaction
            .query_row("SELECT schema, min_reader FROM meta", [], |r| Ok((r.get(0)?, r.get(1)?)))
            .map_err(|e| refused("read the schema", e))?;
        if min_reader > SCHEMA {
            return Err(Error::new(
                Code::Incompatible,
                format!("the database has schema {schema}, which needs a torpord that knows schema {min_reader}; this one knows {SCHEMA}"),
            )
            .hint("install the newer torpord again"));
        }
    }
    // One that is newer than this torpord stays as it is.
    let Some(missing) = usize::try_from(schema).ok().and_then(|n| MIGRATIONS.get(n..)) else { return Ok(()) };
    if missing.is_empty() {
        return Ok(());
    }
    for step in missing {
        transaction.execute_batch(step).map_err(|e| refused("make the tables", e))?;
    }
    transaction
        .execute(
            "INSERT OR REPLACE INTO meta (only, schema, min_reader) VALUES (1, ?1, ?2)",
            params![SCHEMA, MIN_READER],
        )
        .map_err(|e| refused("make the tables", e))?;
    transaction.commit().map_err(|e| refused("make the tables", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first torpord left it.
    fn schema_1(path: &Path, min_reader: i64, schema: i64) {
        let old = Connection::open(path).unwrap();
        old.execute_batch(SCHEMA_1).unwrap();
        old.execute("INSERT INTO meta (only, schema, min_reader) VALUES (1, ?1, ?2)", params![schema, min_reader])
            .unwrap();
    }

    #[tokio::test]
    async fn an_older_database_gets_what_it_lacks_and_a_newer_one_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("old");
        schema_1(&old, 1, 1);
        for _ in 0..2 {
            let db = Db::open(&old).unwrap();
            assert!(db.tokens().await.unwrap().0.is_empty() && db.pods().await.unwrap().0.is_empty());
        }
        let read = Connection::open(&old).unwrap();
        let schema: i64 = read.query_row("SELECT schema FROM meta", [], |r| r.get(0)).unwrap();
        assert_eq!(schema, SCHEMA);

        let newer = dir.path().join("newer");
        schema_1(&newer, 1, SCHEMA + 5);
        assert!(Db::open(&newer).unwrap().pods().await.unwrap().0.is_empty());
        let schema: i64 =
            Connection::open(&newer).unwrap().query_row("SELECT schema FROM meta", [], |r| r.get(0)).unwrap();
        assert_eq!(schema, SCHEMA + 5);

        let closed = dir.path().join("closed");
        schema_1(&closed, SCHEMA + 1, SCHEMA + 1);
        assert_eq!(Db::open(&closed).err().unwrap().code(), Code::Incompatible);
    }
}

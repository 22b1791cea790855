//! A backup of what torpord keeps on this host: its database, layers, engines, volumes, pods' workspaces, and the store if it is a
//! directory below the state directory. Pods go on meanwhile: of what they write just then, as much is kept as a power loss would
//! leave. What runs is not in it, but what sleeps is.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio_util::io::ReaderStream;

use super::Core;
use crate::host::{backup, files};
use crate::model::{Error, Result, SnapshotId};

/// Removed with what it holds.
struct Copy(PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(e) = files::remove_tree_now(&self.0) {
            tracing::warn!(error = %e.report(), "remove the copy of the database: the next start does");
        }
    }
}

impl Core {
    /// `GET /v1/system/backup`: a tar archive. One that could not be packed whole ends with an error.
    ///
    /// # Errors
    /// It can't be begun.
    pub async fn backup(self: &Arc<Self>) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
        let copy = Copy(self.dirs.tmp().join(format!("backup-{}", SnapshotId::random()?)));
        files::create_dir(&copy.0, 0o700)?;
        let about = serde_json::json!({ "format": backup::FORMAT, "version": env!("CARGO_PKG_VERSION") });
        files::write(&copy.0.join("backup.json"), about.to_string().as_bytes(), 0o600)?;
        self.db.copy_to(copy.0.join("torpor.db")).await?;
        let mut tar = backup::pack(self.dirs.state(), &copy.0, Some(&self.config().agent.pods))?;
        let out = tar.stdout.take().ok_or_else(|| Error::internal("tar has no output"))?;
        let bytes = ReaderStream::with_capacity(out, 64 << 10)
            .map(|piece| piece.map_err(|e| Error::internal("read what tar packs").because(e)));
        let end = futures::stream::once(async move {
            let packed = backup::packed(tar).await;
            drop(copy);
            packed.map(|()| Bytes::new())
        });
        Ok(bytes.chain(end))
    }
}

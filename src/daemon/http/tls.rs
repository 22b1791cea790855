//! Encryption of a listener, and its certificate's renewal.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::listen::Tls;
use crate::host::files::{self, Stamp};
use crate::model::{Attempt, Code, Error, Result};

/// How often the files are looked at. Renewal swaps links or directories, which is told to nobody who watches the file.
const LOOK: Duration = Duration::from_secs(5);

/// The certificate in use, and where it comes from.
pub(super) struct Certificate {
    files: Tls,
    now: Mutex<Loaded>,
}

#[derive(Clone)]
struct Loaded {
    config: Arc<ServerConfig>,
    stamps: [Option<Stamp>; 2],
}

fn stamps(files: &Tls) -> [Option<Stamp>; 2] {
    [&files.cert, &files.key].map(|p| files::stamp(p).ok())
}

fn load(files: &Tls) -> Result<Loaded> {
    // Before they are read: a change in between is seen at the next look.
    let stamps = stamps(files);
    let bad = |path: &Path, what: &str, why: String| {
        Error::invalid(format!("{} has no {what}: {why}", path.display())).hint("it must be PEM")
    };
    let chain: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(files::read(&files.cert)?.as_bytes()).collect();
    let chain = chain.map_err(|e| bad(&files.cert, "certificate", e.to_string()))?;
    if chain.is_empty() {
        return Err(bad(&files.cert, "certificate", "nothing in it is one".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(files::read(&files.key)?.as_bytes())
        .map_err(|e| bad(&files.key, "private key", e.to_string()))?;
    let what = || format!("use {} with {}", files.cert.display(), files.key.display());
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .attempt(Code::Internal, what)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .attempt(Code::InvalidRequest, what)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Loaded { config: Arc::new(config), stamps })
}

impl Certificate {
    /// Reads both files.
    ///
    /// # Errors
    /// One can't be read, is no PEM, or they don't belong together.
    pub(super) fn open(files: &Tls) -> Result<Self> {
        Ok(Certificate { now: Mutex::new(load(files)?), files: files.clone() })
    }

    /// What new connections are encrypted with.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.now.lock().unwrap_or_else(PoisonError::into_inner).config))
    }

    /// Reads the files anew if they have changed, or if that is asked for. Files that are not good change nothing.
    pub(super) fn renew(&self, asked: bool) {
        let seen = stamps(&self.files);
        let before = self.now.lock().unwrap_or_else(PoisonError::into_inner).stamps;
        if !asked && seen == before {
            return;
        }
        let cert = self.files.cert.display();
        match load(&self.files) {
            Ok(new) => {
                *self.now.lock().unwrap_or_else(PoisonError::into_inner) = new;
                tracing::info!(%cert, "the certificate was read anew");
            }
            Err(e) => {
                // Not told again until they change again.
                self.now.lock().unwrap_or_else(PoisonError::into_inner).stamps = seen;
                tracing::error!(%cert, error = %e.report(), "the new certificate or key is not good: the old ones stay in use");
            }
        }
    }

    /// Looks at the files now and then, without end.
    pub(super) async fn watch(self: Arc<Self>, reload: tokio::sync::watch::Receiver<()>) {
        let mut reload = reload;
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(LOOK) => false,
                told = reload.changed() => match told {
                    Ok(()) => true,
                    Err(_) => return,
                },
            };
            let this = Arc::clone(&self);
            let _ = tokio::task::spawn_blocking(move || this.renew(asked)).await;
        }
    }
}

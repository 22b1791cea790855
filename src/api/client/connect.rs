//! How a torpord is reached: by its Unix socket, by TCP, by TLS, by ssh.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::ssh::Login;
use super::{ClientError, Result, broken};

/// How long a connection to the Unix socket is tried for while the kernel has no room for one more that waits.
const CROWDED: Duration = Duration::from_secs(5);
/// How long a connection to another host, and its handshake, may take.
const FAR: Duration = Duration::from_secs(20);

/// A connection.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Where a torpord is.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// At a Unix socket.
    Unix(PathBuf),
    /// Where somebody may log in.
    Ssh(Login),
    /// At a host and a port.
    Tcp {
        /// `host:port`, as it is connected to and named in the request.
        authority: String,
        /// Encryption.
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    },
}

impl Place {
    /// Reads `unix://PATH`, a plain path, `tcp://HOST:PORT` (`http://` is the same), `https://HOST[:PORT]` or
    /// `ssh://[USER@]HOST[:PORT][/SOCKET]`. `ca_file`: PEM of the
    /// authorities whose certificates are good, in the place of the system's.
    pub(super) fn of(host: &str, ca_file: Option<&Path>) -> Result<Self> {
        let bad = || {
            broken(format!(
                "{host:?} is no host: write unix:///path/of/the/socket, tcp://HOST:PORT, https://HOST:PORT or ssh://USER@HOST"
            ))
        };
        let path = host.strip_prefix("unix://").unwrap_or(host);
        if Path::new(path).is_absolute() {
            return Ok(Place::Unix(path.into()));
        }
        let (scheme, rest) = host.split_once("://").ok_or_else(bad)?;
        if scheme == "ssh" {
            return Login::of(rest).map(Place::Ssh).ok_or_else(bad);
        }
        let authority: hyper::http::uri::Authority = rest.trim_end_matches('/').parse().map_err(|_| bad())?;
        // A password in an address would end up in lists of processes.
        if authority.as_str().contains('@') {
            return Err(bad());
        }
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        match (scheme, authority.port_u16()) {
            ("tcp" | "http", Some(_)) => Ok(Place::Tcp { authority: authority.to_string(), tls: None }),
            ("http", None) => Ok(Place::Tcp { authority: format!("{authority}:80"), tls: None }),
            ("https", port) => {
                let server = ServerName::try_from(name.to_owned()).map_err(|_| bad())?;
                let authority = if port.is_some() { authority.to_string() } else { format!("{authority}:443") };
                Ok(Place::Tcp { authority, tls: Some((Arc::new(trust(ca_file)?), server)) })
            }
            _ => Err(bad()),
        }
    }

    /// What stands in `Host`.
    pub(super) fn authority(&self) -> &str {
        match self {
            Place::Unix(_) | Place::Ssh(_) => "torpor",
            Place::Tcp { authority, .. } => authority,
        }
    }

    /// Connects.
    pub(super) async fn connect(&self) -> Result<Box<dyn Connection>> {
        let unreachable = |cause| ClientError::Unreachable { at: self.to_string(), cause };
        match self {
            Place::Unix(path) => Ok(Box::new(unix(path).await.map_err(unreachable)?)),
            Place::Ssh(login) => Ok(Box::new(login.connect().await.map_err(unreachable)?)),
            Place::Tcp { authority, tls } => {
                let stream = in_time(TcpStream::connect(authority.as_str())).await.map_err(unreachable)?;
                let _ = stream.set_nodelay(true);
                let Some((config, server)) = tls else { return Ok(Box::new(stream)) };
                let shaken = in_time(TlsConnector::from(Arc::clone(config)).connect(server.clone(), stream)).await;
                let shaken = shaken.map_err(|e| ClientError::Untrusted { at: self.to_string(), cause: e })?;
                Ok(Box::new(shaken))
            }
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Unix(path) => write!(f, "{}", path.display()),
            Place::Ssh(login) => write!(f, "{login}"),
            Place::Tcp { authority, tls: None } => write!(f, "tcp://{authority}"),
            Place::Tcp { authority, tls: Some(_) } => write!(f, "https://{authority}"),
        }
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {} s", FAR.as_secs()));
    tokio::time::timeout(FAR, work).await.map_err(|_| late())?
}

/// A connection. While very many others wait for one, the kernel asks to try again.
async fn unix(path: &Path) -> io::Result<UnixStream> {
    let end = tokio::time::Instant::now() + CROWDED;
    loop {
        match UnixStream::connect(path).await {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && tokio::time::Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            other => return other,
        }
    }
}

/// Whose certificates are good.
fn trust(ca_file: Option<&Path>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let bad = |e: &dyn std::fmt::Display| broken(format!("read the authorities of {}: {e}", path.display()));
            let text = std::fs::read(path).map_err(|e| bad(&e))?;
            for cert in CertificateDer::pem_slice_iter(&text) {
                roots.add(cert.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
            }
            if roots.is_empty() {
                return Err(bad(&"there is no certificate in it"));
            }
        }
        None => {
            // Some of a system's may be unreadable: the others are good.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(broken)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_or_refused() {
        let shown = |host| Place::of(host, None).map(|p| p.to_string()).ok();
        for (host, place) in [
            ("unix:///run/x.sock", "/run/x.sock"),
            ("/run/x.sock", "/run/x.sock"),
            ("tcp://127.0.0.1:80", "tcp://127.0.0.1:80"),
            ("http://h.example", "tcp://h.example:80"),
            ("https://h.example", "https://h.example:443"),
            ("https://[::1]:8443/", "https://[::1]:8443"),
            ("ssh://ann@h.example", "ssh://ann@h.example"),
        ] {
            assert_eq!(shown(host).as_deref(), Some(place), "{host}");
        }
        for bad in [
            "",
            "x",
            "tcp://h",
            "tcp://:80:",
            "ftp://h:1",
            "https://",
            "https://u:p@h:1",
            "tcp://h:99999",
            "unix://x",
            "ssh://-h",
        ] {
            assert_eq!(shown(bad), None, "{bad}");
        }
    }
}

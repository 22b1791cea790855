//! Word to the service manager that has started this process, as sd_notify(3) has it.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

/// How long a service manager may take to have room for one more word.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the service manager hears.
#[derive(Debug)]
pub struct Manager(UnixAddr);

impl Manager {
    /// The one that `NOTIFY_SOCKET` names: by a path, or by an abstract name after an `@`.
    pub fn from_environment() -> Option<Self> {
        let given = std::env::var_os("NOTIFY_SOCKET")?;
        let at = match given.as_bytes() {
            [b'@', name @ ..] => UnixAddr::new_abstract(name),
            [b'/', ..] => UnixAddr::new(given.as_os_str()),
            _ => return None,
        };
        at.ok().map(Manager)
    }

    /// Says something, with a descriptor if there is one to be kept.
    ///
    /// # Errors
    /// Nobody hears, or not in time.
    pub fn tell(&self, state: &str, kept: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let raw: Vec<_> = kept.iter().map(AsRawFd::as_raw_fd).collect();
        let control = if raw.is_empty() { Vec::new() } else { vec![ControlMessage::ScmRights(&raw)] };
        sendmsg(
            socket.as_raw_fd(),
            &[IoSlice::new(state.as_bytes())],
            &control,
            MsgFlags::MSG_NOSIGNAL,
            Some(&self.0),
        )?;
        Ok(())
    }
}

/// Says something to the service manager, if there is one.
pub fn say(state: &str) {
    if let Some(manager) = Manager::from_environment()
        && let Err(e) = manager.tell(state, None)
    {
        tracing::debug!(state, error = %e, "tell the service manager");
    }
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    use super::*;

    #[test]
    fn an_abstract_name_is_reached_too() {
        let name = format!("torpor-test-{}", std::process::id());
        let hears = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Manager(UnixAddr::new_abstract(name.as_bytes()).unwrap()).tell("READY=1", None).unwrap();
        let mut said = [0; 20];
        let size = hears.recv(&mut said).unwrap();
        assert_eq!(&said[..size], b"READY=1");
        drop(hears);
        assert!(Manager(UnixAddr::new_abstract(name.as_bytes()).unwrap()).tell("READY=1", None).is_err());
    }
}

//! Sockets that listen on this host, and whose they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

/// Lets this process have as many open files as it may: by hand it is started with a thousand, which are fewer than the connections
/// that are let in.
pub fn allow_many_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Has the kernel ask a silent peer whether it is there, and end the connection if it is not.
///
/// # Errors
/// It is no TCP socket.
pub fn keep_alive(socket: &impl AsFd, silent: Duration) -> std::io::Result<()> {
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, silent)?;
    sockopt::set_tcp_keepintvl(socket, silent / 4)?;
    sockopt::set_tcp_keepcnt(socket, 4)?;
    Ok(())
}

/// The process that listens at an address, such as `nginx (process 123)`, if it can be seen.
pub fn who_listens(address: SocketAddr) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|t| std::fs::read_to_string(t).unwrap_or_default());
    let inodes: Vec<u64> =
        tables.iter().flat_map(|t| listening(t)).filter(|(a, _)| clashes(*a, address)).map(|l| l.1).collect();
    let links: Vec<String> = inodes.iter().map(|i| format!("socket:[{i}]")).collect();
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let open = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let holds = open
            .filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .any(|l| links.iter().any(|x| l.as_os_str() == x.as_str()));
        if holds {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {pid})", name.trim()));
        }
    }
    None
}

/// Whether a socket there keeps another from being here.
fn clashes(there: SocketAddr, here: SocketAddr) -> bool {
    let all = |a: SocketAddr| a.ip().is_unspecified();
    let same = there.ip().to_canonical() == here.ip().to_canonical();
    there.port() == here.port() && (same || all(there) || all(here))
}

/// Addresses and inodes of what listens, from the kernel's table (proc(5)).
fn listening(table: &str) -> Vec<(SocketAddr, u64)> {
    let line = |l: &str| {
        let words: Vec<&str> = l.split_whitespace().collect();
        let (address, port) = words.get(1)?.split_once(':')?;
        // Four bytes at a time, each four in the host's order.
        let word = |n: usize| u32::from_str_radix(address.get(n * 8..n * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
        let ip: IpAddr = match address.len() {
            8 => Ipv4Addr::from(word(0)?).into(),
            32 => {
                let bytes: Vec<u8> = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
                Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()
            }
            _ => return None,
        };
        let listens = *words.get(3)? == "0A";
        let at = SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?);
        listens.then_some((at, words.get(9)?.parse().ok()?))
    };
    table.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_listens_is_named() {
        for at in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let Ok(socket) = std::net::TcpListener::bind(at) else { continue };
            let address = socket.local_addr().unwrap();
            let who = who_listens(address).unwrap();
            assert!(who.ends_with(&format!("(process {})", std::process::id())), "{who}");
            drop(socket);
            assert_eq!(who_listens(address), None);
        }
    }

    #[test]
    fn the_kernel_s_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 x\n\
            \x20  1: 0100007F:1F91 0100007F:0001 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 x\n\
            rubbish\n";
        assert_eq!(listening(table), [("127.0.0.1:8080".parse().unwrap(), 4711)]);
        let clash = |a: &str, b: &str| clashes(a.parse().unwrap(), b.parse().unwrap());
        assert!(clash("0.0.0.0:80", "127.0.0.1:80") && clash("127.0.0.1:80", "[::]:80"));
        assert!(!clash("127.0.0.1:80", "127.0.0.1:81") && !clash("127.0.0.1:80", "127.0.0.2:80"));
    }
}

//! Sockets that the service manager keeps while torpord is away (its file descriptor store, sd_notify(3)): what they are called
//! there, and which of those that come back are served.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};

use crate::model::Protocol;

/// A socket that is kept. Its name says what it is for, in few characters: all names together come back in one environment variable,
/// which Linux bounds (execve(2): 128 KiB).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// A listener of torpord's own.
    Listener(SocketAddr),
    /// A host port of a forward.
    Port(Protocol, SocketAddrV4),
}

impl fmt::Display for Kept {
    /// Its name. A colon may not be in one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, at) = match self {
            Kept::Listener(at) => ("listen", at.to_string()),
            Kept::Port(protocol, at) => (protocol.as_str(), at.to_string()),
        };
        write!(f, "{kind}-{}", at.replace(':', "_"))
    }
}

impl Kept {
    /// What has that name.
    pub fn of(name: &str) -> Option<Self> {
        let (kind, at) = name.split_once('-')?;
        let at = at.replace('_', ":");
        let kept = match kind {
            "listen" => Kept::Listener(at.parse().ok()?),
            _ => Kept::Port(kind.parse().ok()?, at.parse().ok()?),
        };
        (kept.to_string() == name).then_some(kept)
    }

    /// Whether it is that socket.
    fn is(self, seen: Seen) -> bool {
        match self {
            Kept::Listener(at) => seen == Seen::Tcp(at),
            Kept::Port(Protocol::Tcp, at) => seen == Seen::Tcp(at.into()),
            Kept::Port(Protocol::Udp, at) => seen == Seen::Udp(at.into()),
        }
    }

    /// Whether it may stay with torpord's listeners at these addresses. A pod's port may go on only beside them.
    pub fn stays_with(self, listeners: &[SocketAddr]) -> bool {
        match self {
            Kept::Listener(at) => listeners.contains(&at),
            Kept::Port(Protocol::Tcp, at) => listeners.iter().all(|l| l.port() != at.port()),
            Kept::Port(Protocol::Udp, _) => true,
        }
    }
}

/// What the kernel says of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A listening Unix socket.
    Unix,
    /// A TCP socket that listens there.
    Tcp(SocketAddr),
    /// A UDP socket that has that address for itself.
    Udp(SocketAddr),
    /// Anything else, such as one that was given up.
    Other,
}

/// What becomes of descriptors that were handed over, each by its place among them. Those that are not in it are closed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sorted {
    /// The API's own socket, which a socket unit has made.
    pub api: Option<usize>,
    /// Those that may be served again.
    pub kept: BTreeMap<Kept, usize>,
    /// Names to be forgotten. A name is forgotten with all that bear it: one that may be served has to be given again.
    pub forget: BTreeSet<String>,
}

/// Sorts what was handed over. Only what is exactly what its name says is served.
pub fn sort(found: &[(String, Seen)]) -> Sorted {
    let mut sorted = Sorted::default();
    for (at, (name, seen)) in found.iter().enumerate() {
        match Kept::of(name) {
            Some(kept) if kept.is(*seen) && !sorted.kept.contains_key(&kept) => {
                sorted.kept.insert(kept, at);
            }
            None if *seen == Seen::Unix && sorted.api.is_none() => sorted.api = Some(at),
            _ => {
                sorted.forget.insert(name.clone());
            }
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn tcp(text: &str) -> Seen {
        Seen::Tcp(at(text))
    }

    #[test]
    fn a_name_says_what_it_is_for_and_no_other_name_does() {
        let port = |protocol, text: &str| Kept::Port(protocol, text.parse().unwrap());
        for (kept, name) in [
            (Kept::Listener(at("127.0.0.1:8080")), "listen-127.0.0.1_8080"),
            (Kept::Listener(at("[::1]:8443")), "listen-[__1]_8443"),
            (port(Protocol::Tcp, "0.0.0.0:10000"), "tcp-0.0.0.0_10000"),
            (port(Protocol::Udp, "127.0.0.1:53"), "udp-127.0.0.1_53"),
        ] {
            assert_eq!((kept.to_string().as_str(), Kept::of(name)), (name, Some(kept)));
        }
        for name in [
            "torpord.socket",
            "stored",
            "unknown",
            "",
            "tcp",
            "tcp-",
            "tcp-10000",
            "sctp-0.0.0.0_1",
            "tcp-[__1]_80",
            "tcp-0.0.0.0_010000",
            "listen-[0__1]_8443",
            "listen-localhost_80",
            "tcp-0.0.0.0:1",
        ] {
            assert_eq!(Kept::of(name), None, "{name}");
        }
    }

    #[test]
    fn all_names_fit_into_the_environment() {
        let unit = include_str!("../../systemd/torpord.service");
        let most: usize =
            unit.lines().find_map(|l| l.strip_prefix("FileDescriptorStoreMax=")).unwrap().parse().unwrap();
        let longest = Kept::Port(Protocol::Udp, "255.255.255.255:65535".parse().unwrap()).to_string().len() + 1;
        let listener = "listen-[ffff_ffff_ffff_ffff_ffff_ffff_ffff_ffff]_65535".len();
        assert!(most * longest + 100 * listener < 128 * 1024 - "LISTEN_FDNAMES=".len() - 1);
    }

    #[test]
    fn what_is_what_its_name_says_is_served() {
        let found = [
            ("listen-127.0.0.1_80", tcp("127.0.0.1:80")),
            ("torpord.socket", Seen::Unix),
            ("tcp-0.0.0.0_10000", tcp("0.0.0.0:10000")),
            ("udp-0.0.0.0_10000", Seen::Udp(at("0.0.0.0:10000"))),
        ]
        .map(|(name, seen)| (name.to_owned(), seen));
        let sorted = sort(&found);
        assert_eq!((sorted.api, sorted.kept.values().copied().collect::<Vec<_>>()), (Some(1), vec![0, 2, 3]));
        assert!(sorted.forget.is_empty());
        // As before there were names: the one socket that a socket unit makes.
        assert_eq!(sort(&[("unknown".to_owned(), Seen::Unix)]).api, Some(0));
    }

    #[test]
    fn what_is_not_what_its_name_says_is_never_served() {
        for (name, seen) in [
            ("listen-127.0.0.1_80", tcp("127.0.0.1:81")),
            ("listen-127.0.0.1_80", tcp("0.0.0.0:80")),
            ("listen-127.0.0.1_80", Seen::Udp(at("127.0.0.1:80"))),
            ("listen-127.0.0.1_80", Seen::Unix),
            ("tcp-0.0.0.0_80", Seen::Udp(at("0.0.0.0:80"))),
            ("tcp-0.0.0.0_80", tcp("[::]:80")),
            ("tcp-0.0.0.0_80", Seen::Other),
            ("udp-0.0.0.0_80", tcp("0.0.0.0:80")),
            ("stranger", tcp("0.0.0.0:80")),
            ("torpord.socket", Seen::Other),
        ] {
            let sorted = sort(&[(name.to_owned(), seen)]);
            let forget = BTreeSet::from([name.to_owned()]);
            assert_eq!(sorted, Sorted { forget, ..Sorted::default() }, "{name} {seen:?}");
        }
        // Beside a wrong one, and beside itself, the right one is served, and its name is to be cleared of the other.
        let right = ("tcp-0.0.0.0_80".to_owned(), tcp("0.0.0.0:80"));
        for other in [Seen::Other, right.1] {
            for found in [[right.clone(), (right.0.clone(), other)], [(right.0.clone(), other), right.clone()]] {
                let sorted = sort(&found);
                assert_eq!((sorted.kept.len(), sorted.forget.contains(&right.0)), (1, true));
                assert_eq!(found[sorted.kept[&Kept::of(&right.0).unwrap()]].1, right.1);
            }
        }
    }

    #[test]
    fn what_is_not_configured_any_more_goes_and_what_is_gets_its_port() {
        let now = [at("127.0.0.1:8080"), at("[::]:10001")];
        let stays = |name: &str| Kept::of(name).unwrap().stays_with(&now);
        assert!(stays("listen-127.0.0.1_8080") && stays("tcp-0.0.0.0_10000") && stays("udp-0.0.0.0_10001"));
        assert!(!stays("listen-0.0.0.0_8080") && !stays("listen-127.0.0.1_8081") && !stays("tcp-0.0.0.0_10001"));
    }
}

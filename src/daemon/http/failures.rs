//! How often somebody has shown what is no good token: bounded in time, and in what is remembered.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many at once, and then one in so long.
const AT_ONCE: u32 = 10;
const EACH: Duration = Duration::from_secs(6);
/// Peers that are remembered.
const PEERS: usize = 4096;

/// Those who failed.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<IpAddr, Owed>>);

#[derive(Debug, Clone, Copy)]
struct Owed {
    /// When all of it is forgiven.
    until: Instant,
    /// Whether it was too much once since there was nothing.
    told: bool,
}

/// What one household has: an IPv6 customer has a /64 at least, and any address in it.
pub(super) fn household(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// What becomes of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// It is one of few.
    Few,
    /// It is the first of too many: worth a line in the log.
    First(Duration),
    /// There were too many already. What is past the bound is not counted: who goes on asking is heard again all the same.
    Many(Duration),
}

impl Failures {
    /// Notes a failure of that peer.
    pub(super) fn note(&self, peer: IpAddr, now: Instant) -> Failed {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = household(peer);
        let before = table.get(&key).copied().filter(|o| o.until > now).unwrap_or(Owed { until: now, told: false });
        let (most, owed) = (EACH * AT_ONCE, before.until - now + EACH);
        if owed > most {
            return Failed::Many(owed - most);
        }
        if table.len() >= PEERS && !table.contains_key(&key) {
            table.retain(|_, o| o.until > now);
            // All of them are at it now: the one who is nearest to being forgiven is forgotten.
            if table.len() >= PEERS
                && let Some(first) = table.iter().min_by_key(|(_, o)| o.until).map(|(k, _)| *k)
            {
                table.remove(&first);
            }
        }
        let full = owed + EACH > most;
        table.insert(key, Owed { until: now + owed, told: before.told || full });
        match (full, before.told) {
            (false, _) => Failed::Few,
            (true, false) => Failed::First(owed + EACH - most),
            (true, true) => Failed::Many(owed + EACH - most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn too_many_failures_have_to_wait_and_others_don_t() {
        let (failures, now) = (Failures::default(), Instant::now());
        let all: Vec<_> = (0..AT_ONCE + 2).map(|_| failures.note(peer(1), now)).collect();
        assert!(all[..9].iter().all(|f| *f == Failed::Few), "{all:?}");
        assert_eq!(all[9..], [Failed::First(EACH), Failed::Many(EACH), Failed::Many(EACH)]);
        assert_eq!(failures.note(peer(2), now), Failed::Few);
        // One more in so long, however often it was asked meanwhile.
        assert_eq!(failures.note(peer(1), now + EACH / 2), Failed::Many(EACH / 2));
        assert_eq!(failures.note(peer(1), now + EACH), Failed::Many(EACH));
        assert_eq!(failures.note(peer(1), now + EACH * 20), Failed::Few);
    }

    #[test]
    fn a_whole_network_of_ipv6_is_one_peer_and_the_table_has_an_end() {
        let (failures, now) = (Failures::default(), Instant::now());
        for n in 0..AT_ONCE {
            failures.note(format!("2001:db8::{n:x}").parse().unwrap(), now);
        }
        assert!(matches!(failures.note("2001:db8::ffff:1".parse().unwrap(), now), Failed::Many(_)));
        assert_eq!(failures.note("2001:db8:0:1::1".parse().unwrap(), now), Failed::Few);
        assert_eq!(household("::ffff:192.0.2.1".parse().unwrap()), "192.0.2.1".parse::<IpAddr>().unwrap());
        for n in 0..5000 {
            failures.note(peer(n), now);
        }
        assert!(failures.0.lock().unwrap().len() <= PEERS);
        // Who owes most is remembered longest.
        assert!(matches!(failures.note("2001:db8::1".parse().unwrap(), now), Failed::Many(_)));
    }
}

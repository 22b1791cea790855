//! Flows that the kernel keeps in mind: which of them must be forgotten when forwards change.
//!
//! Where a flow leads is decided at its first packet. So a datagram's sender that goes on while its forward goes would be led
//! to where it led before, perhaps to another pod that has the address by then; and one that was heard before its forward came
//! would never get to the pod.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::model::Protocol;
use crate::plan::firewall::ForwardTo;

/// A flow, as the kernel keeps it in mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Transport.
    pub protocol: Protocol,
    /// Where its first packet was sent to.
    pub to: SocketAddrV4,
    /// Who answers: somebody else if the address was translated.
    pub answers: Ipv4Addr,
}

/// Host ports whose flows are to be looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Forwards that lead elsewhere, or nowhere, now.
    gone: BTreeSet<(Protocol, u16)>,
    /// Forwards that have come.
    new: BTreeSet<(Protocol, u16)>,
}

impl Changed {
    /// Between two tables.
    pub fn between(before: &BTreeSet<ForwardTo>, after: &BTreeSet<ForwardTo>) -> Self {
        let port = |f: &ForwardTo| (f.protocol, f.host);
        Changed {
            gone: before.difference(after).map(port).collect(),
            // Who connects by TCP begins anew and is led right.
            new: after.difference(before).map(port).filter(|(p, _)| *p == Protocol::Udp).collect(),
        }
    }

    /// Protocols and host ports of flows that may be stale.
    pub fn ports(&self) -> BTreeSet<(Protocol, u16)> {
        self.gone.union(&self.new).copied().collect()
    }

    /// Whether a flow is to be forgotten. `own`: the addresses of the namespace that keeps it in mind.
    pub fn is_stale(&self, flow: &Flow, own: &[Ipv4Addr]) -> bool {
        let (port, ours) = ((flow.protocol, flow.to.port()), own.contains(flow.to.ip()));
        let translated = flow.answers != *flow.to.ip();
        // What only passes through, at the number of a forward, is nothing of ours.
        ours && if translated { self.gone.contains(&port) } else { self.new.contains(&port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flows_of_forwards_that_changed_are_stale() {
        let pod: Ipv4Addr = "10.90.0.3".parse().unwrap();
        let forward =
            |host, protocol, port| ForwardTo { host, protocol, address: None, target: SocketAddrV4::new(pod, port) };
        let before = [forward(53, Protocol::Udp, 53), forward(80, Protocol::Tcp, 80), forward(7, Protocol::Udp, 7)];
        let after = [forward(54, Protocol::Udp, 53), forward(81, Protocol::Tcp, 80), forward(7, Protocol::Udp, 7)];
        let changed = Changed::between(&before.into(), &after.into());
        assert_eq!(changed.ports(), [(Protocol::Udp, 53), (Protocol::Tcp, 80), (Protocol::Udp, 54)].into());
        let (host, router): (Ipv4Addr, Ipv4Addr) = ("192.0.2.1".parse().unwrap(), "10.90.0.1".parse().unwrap());
        let stale = |protocol, to, port, answers| {
            changed.is_stale(&Flow { protocol, to: SocketAddrV4::new(to, port), answers }, &[host])
        };
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        assert!(stale(udp, host, 53, router) && stale(tcp, host, 80, router), "gone");
        assert!(stale(udp, host, 54, host), "heard before it came");
        assert!(!stale(udp, host, 54, router) && !stale(udp, host, 53, host) && !stale(tcp, host, 81, host));
        assert!(!stale(udp, host, 7, router) && !stale(tcp, host, 53, router), "others");
        let outside = "198.51.100.9".parse().unwrap();
        assert!(!stale(udp, outside, 53, outside) && !stale(udp, outside, 54, outside), "passing through");
        assert_eq!(Changed::between(&before.into(), &before.into()), Changed::default());
    }
}

//! Addresses, names and link parameters of an instance's network.
//!
//! The first two addresses of the pod network are the link between host and router. After it every pod has a /31: the
//! router's end even, the pod's odd. There is no third party on such a link whose address could be taken.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::model::{Error, InstanceTag, Result, RuntimeId};

/// The addressing plan of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addressing {
    cidr: Ipv4Net,
}

/// A link-layer address of ours: locally administered, made of the IPv4 address.
pub fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x74, a, b, c, d]
}

fn nth(cidr: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(cidr.network()).wrapping_add(n))
}

impl Addressing {
    /// Over that network.
    ///
    /// # Errors
    /// It is too small for a pod.
    pub fn new(cidr: Ipv4Net) -> Result<Self> {
        if cidr.prefix_len() > 29 {
            return Err(Error::invalid(format!("the pod network {cidr} has no room for pods")).hint("use a /16 or /20"));
        }
        Ok(Addressing { cidr: cidr.trunc() })
    }

    /// The whole network.
    pub fn cidr(&self) -> Ipv4Net {
        self.cidr
    }

    /// The host's end of the link to the router.
    pub fn host_end(&self) -> Ipv4Addr {
        nth(self.cidr, 0)
    }

    /// The router's end of the link to the host.
    pub fn router_end(&self) -> Ipv4Addr {
        nth(self.cidr, 1)
    }

    /// How many pods it has room for. The last pair is left out: it holds the broadcast address.
    pub fn capacity(&self) -> u32 {
        (1_u32 << (32 - self.cidr.prefix_len())) / 2 - 2
    }

    /// The router's end of the link to the pod of that address.
    pub fn gateway(&self, pod: Ipv4Addr) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(pod) & !1)
    }

    /// The lowest address that no pod has.
    pub fn next_free(&self, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        (1..=self.capacity()).map(|n| nth(self.cidr, 2 * n + 1)).find(|a| !taken.contains(a))
    }
}

/// One pod's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNet {
    /// `<pod>-<incarnation>`: the namespace is called so.
    pub id: String,
    /// The link's name in the router.
    pub link: String,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The router's end.
    pub gateway: Ipv4Addr,
}

impl PodNet {
    /// Of one sandbox.
    pub fn new(addressing: &Addressing, id: &RuntimeId, address: Ipv4Addr) -> Self {
        PodNet { id: id.to_string(), link: pod_link(id), address, gateway: addressing.gateway(address) }
    }
}

impl PodNet {
    /// What it takes to remove one sandbox's network: its names.
    pub fn of_names(id: &RuntimeId) -> Self {
        let none = Ipv4Addr::UNSPECIFIED;
        PodNet { id: id.to_string(), link: pod_link(id), address: none, gateway: none }
    }
}

/// Name of a pod's link in the router. A deleted namespace frees its links later, so two incarnations never share a name;
/// 15 characters are all the kernel takes.
pub fn pod_link(id: &RuntimeId) -> String {
    format!("v{}{:x}", &id.pod.as_str()[..10], id.incarnation % 0x1_0000)
}

/// Name of the host's end of the link to the router.
pub fn uplink(tag: &InstanceTag) -> String {
    format!("tp-{tag}")
}

/// Whether a link is some instance's way to its router.
pub fn is_uplink(name: &str) -> bool {
    name.strip_prefix("tp-").is_some_and(|tag| tag.parse::<InstanceTag>().is_ok())
}

/// Whether two networks have addresses in common; the route of last resort, which leads everywhere, counts for none.
pub fn overlap(pods: Ipv4Net, other: Ipv4Net) -> bool {
    other.prefix_len() > 0 && (pods.contains(&other) || other.contains(&pods))
}

/// Whether a network that has a route already stands in the way of the pods' network. A wider one, such as that of a company,
/// does not: ours is taken out of it. One of another instance does, whichever is wider.
pub fn takes(pods: Ipv4Net, other: Ipv4Net, other_is_an_instance: bool) -> bool {
    overlap(pods, other) && (pods.contains(&other) || other_is_an_instance)
}

/// Name of the router's end of the link to the host.
pub const ROUTER_UPLINK: &str = "up";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn addresses_are_distinct_and_inside(prefix in 20_u8..=29, n in 1_usize..40) {
            let plan = Addressing::new(Ipv4Net::new(Ipv4Addr::new(10, 7, 0, 0), prefix).unwrap()).unwrap();
            let mut taken = BTreeSet::new();
            let mut used = BTreeSet::from([plan.host_end(), plan.router_end()]);
            for _ in 0..n {
                let Some(a) = plan.next_free(&taken) else { break };
                prop_assert!(plan.cidr().contains(&a) && a != plan.cidr().broadcast());
                prop_assert!(used.insert(a) && used.insert(plan.gateway(a)));
                taken.insert(a);
            }
            prop_assert!(taken.len() == n || u32::try_from(taken.len()).unwrap() == plan.capacity());
        }
    }

    #[test]
    fn networks_that_are_taken() {
        let takes = |other: &str, instance| takes("10.90.0.0/16".parse().unwrap(), other.parse().unwrap(), instance);
        assert!(takes("10.90.0.0/16", false) && takes("10.90.7.0/24", false) && takes("10.90.0.0/31", true));
        assert!(takes("10.88.0.0/14", true) && !takes("10.0.0.0/8", false) && !takes("0.0.0.0/0", true));
        assert!(!takes("10.91.0.0/16", true));
        assert!(is_uplink("tp-abcdef") && !is_uplink("tp-") && !is_uplink("tpabcdef") && !is_uplink("eth0"));
    }

    #[test]
    fn link_names_fit_the_kernel() {
        let id = RuntimeId::parse("0123456789abcdef-4294967295").unwrap();
        assert!(pod_link(&id).len() <= 15 && uplink(&"abcdef".parse().unwrap()).len() <= 15);
    }
}

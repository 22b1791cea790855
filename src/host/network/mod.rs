//! Network namespaces, links and firewall of one instance.
//!
//! Every pod's link ends in one router namespace, and one link leads from there to the host. After a crash: namespaces are
//! files in the run directory named after sandboxes, links bear the pod's or the instance's name, chains the tag.

mod conntrack;
mod iptables;
mod links;
pub(in crate::host) mod netns;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::host::files;
use crate::model::{Code, Error, InstanceTag, Result};
use crate::plan::firewall::{self, ForwardTo, HostChains};
use crate::plan::flows::Changed;
pub use crate::plan::network::PodNet;
use crate::plan::network::{self, Addressing};
use iptables::Changes;
use links::{LOOPBACK, Links};

/// The network of an instance.
#[async_trait]
pub trait Network: Send + Sync {
    /// Makes what all pods share, or brings it up to date.
    async fn ensure_router(&self) -> Result<()>;
    /// Puts back what others took away. True: something was missing.
    async fn heal(&self) -> Result<bool>;
    /// Makes a pod's namespace and link; gives the namespace's path.
    async fn attach(&self, pod: &PodNet) -> Result<PathBuf>;
    /// Gives the link its address again, which a sandbox takes off when it starts.
    async fn readdress(&self, pod: &PodNet) -> Result<()>;
    /// What has gone over a pod's link since it was made.
    async fn counters(&self, pod: &PodNet) -> Result<Counters>;
    /// What has gone between all pods and the host, or the world behind it, since the router was made.
    async fn traffic(&self) -> Result<Counters>;
    /// Removes a pod's namespace and link; not there: nothing to do.
    async fn detach(&self, pod: &PodNet) -> Result<()>;
    /// Sets the whole table of forwards in one step.
    async fn set_forwards(&self, forwards: &[ForwardTo]) -> Result<()>;
    /// Names of the pods' namespaces that exist.
    async fn list(&self) -> Result<Vec<String>>;
    /// Removes what all pods share. Only when there are none.
    async fn remove_all(&self) -> Result<()>;
}

/// What has gone over a link, as the pod at its end sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes to the pod.
    pub rx_bytes: u64,
    /// Packets to the pod.
    pub rx_packets: u64,
    /// Bytes of the pod.
    pub tx_bytes: u64,
    /// Packets of the pod.
    pub tx_packets: u64,
}

/// Settings of a network.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// The instance's tag.
    pub tag: InstanceTag,
    /// The run directory.
    pub run_dir: PathBuf,
    /// The addressing plan.
    pub addressing: Addressing,
    /// Name servers that pods may ask.
    pub resolvers: Vec<Ipv4Addr>,
}

/// The kernel's own.
pub struct RealNetwork {
    config: NetworkConfig,
    chains: HostChains,
    uplink: String,
    host: Links,
    router: Mutex<Option<Links>>,
    state: tokio::sync::Mutex<Firewall>,
    host_changes: Changes,
    router_changes: Changes,
}

/// What was last set.
#[derive(Default)]
struct Firewall {
    forwards: BTreeSet<ForwardTo>,
    set: bool,
    own: Vec<Ipv4Addr>,
}

/// How often somebody else's changes are looked for. A forward is back within it.
const WATCH: Duration = Duration::from_secs(3);

impl RealNetwork {
    /// Of an instance. Nothing is made yet.
    ///
    /// # Errors
    /// The kernel can't be talked to.
    pub fn open(config: NetworkConfig) -> Result<Self> {
        files::create_dir_all(&config.run_dir.join("netns"), 0o700)?;
        Ok(RealNetwork {
            chains: HostChains::new(&config.tag),
            uplink: network::uplink(&config.tag),
            host: Links::here()?,
            router: Mutex::new(None),
            state: tokio::sync::Mutex::default(),
            host_changes: Changes::of(None),
            router_changes: Changes::of(Some(&config.run_dir.join("netns/router"))),
            config,
        })
    }

    /// Heals for as long as it is not dropped.
    pub async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(WATCH).await;
            match self.heal().await {
                Ok(false) => {}
                Ok(true) => tracing::warn!("somebody changed the host's firewall or addresses: put right again"),
                Err(e) => tracing::warn!(error = %e.report(), "heal the network"),
            }
        }
    }

    fn netns(&self, name: &str) -> PathBuf {
        self.config.run_dir.join("netns").join(name)
    }

    fn router(&self) -> Result<Links> {
        let router = self.router.lock().unwrap_or_else(PoisonError::into_inner).clone();
        router.ok_or_else(|| Error::internal("the router is not made yet"))
    }

    /// The host's own addresses, which pods must not reach.
    async fn own_addresses(&self) -> Result<Vec<Ipv4Addr>> {
        let mut own = self.host.addresses().await?;
        own.retain(|a| !a.is_loopback());
        own.push(self.config.addressing.host_end());
        own.sort();
        own.dedup();
        Ok(own)
    }

    async fn set_router_rules(&self, own: &[Ipv4Addr], forwards: &BTreeSet<ForwardTo>) -> Result<()> {
        let all: Vec<ForwardTo> = forwards.iter().copied().collect();
        // Where the kernel does not say it tracks nothing yet: the default of a small host.
        let most = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max");
        let most = most.ok().and_then(|t| t.trim().parse().ok()).unwrap_or(65_536);
        let flows = firewall::Flows::of(most);
        let text = firewall::router(&self.config.addressing, own, &self.config.resolvers, flows, &all);
        iptables::restore_in(&self.netns("router"), &text).await
    }

    async fn change_router(&self, state: &Firewall, wanted: &BTreeSet<ForwardTo>) -> Result<()> {
        let (gone, new) = (state.forwards.difference(wanted), wanted.difference(&state.forwards));
        let change = firewall::router_change(&self.config.addressing, gone, new);
        if self.router_changes.make(&change).await.is_err() {
            self.set_router_rules(&state.own, wanted).await?;
        }
        Ok(())
    }

    async fn change_host(&self, state: &Firewall, wanted: &BTreeSet<ForwardTo>) -> Result<()> {
        let (gone, new) = (state.forwards.difference(wanted), wanted.difference(&state.forwards));
        let change = self.chains.change(&self.config.addressing, gone, new);
        if self.host_changes.make(&change).await.is_err() {
            // Somebody took away what was to be changed, or killed who changed it: all of it anew.
            self.set_host_rules(wanted).await?;
        }
        Ok(())
    }

    /// What the kernel keeps in mind of forwards that have changed is forgotten, on the host and in the router.
    async fn forget_flows(&self, changed: Changed, own: &[Ipv4Addr]) {
        if changed != Changed::default() {
            let (router, end) = (self.netns("router"), self.config.addressing.router_end());
            conntrack::forget_here_and_there(changed, own, &router, end).await;
        }
    }

    async fn set_host_rules(&self, forwards: &BTreeSet<ForwardTo>) -> Result<()> {
        let all: Vec<ForwardTo> = forwards.iter().copied().collect();
        iptables::restore(&self.chains.content(&self.config.addressing, &all)).await
    }
}

impl RealNetwork {
    /// What leads elsewhere already would be led to our pods, or theirs to others.
    async fn refuse_a_taken_network(&self) -> Result<()> {
        let ours = self.config.addressing.cidr();
        let routes = self.host.routes().await?;
        // A router has thousands of them: whose they are is asked of few.
        for (to, over) in routes.into_iter().filter(|(to, _)| network::overlap(ours, *to)) {
            let name = match over {
                Some(index) => self.host.name(index).await,
                None => None,
            };
            let name = name.unwrap_or_else(|| "no link".into());
            if network::takes(ours, to, network::is_uplink(&name)) {
                return Err(Error::new(
                    Code::InUse,
                    format!("the pods' network {ours} overlaps {to}, which leads over {name}"),
                )
                .hint(
                    "give another one by --pod-cidr or pod-cidr in torpor.toml; each torpord of a host needs its own",
                ));
            }
        }
        Ok(())
    }

    /// The link from the router to the host, with addresses and routes at both ends. What is there already stays.
    async fn connect(&self, router: &Links) -> Result<()> {
        let a = self.config.addressing;
        let (host_end, router_end) = (a.host_end(), a.router_end());
        if self.host.index(&self.uplink).await?.is_none() {
            let far = netns::open(&self.netns("router"))?;
            let macs = (network::mac(host_end), network::mac(router_end));
            self.host.add_veth(&self.uplink, macs.0, network::ROUTER_UPLINK, macs.1, &far).await?;
        }
        netns::close_ipv6(&self.uplink);
        let inner = router.require(network::ROUTER_UPLINK).await?;
        router.add_address(inner, router_end, 31).await?;
        router.add_neighbour(inner, host_end, network::mac(host_end)).await?;
        router.set_up(inner).await?;
        let outer = self.host.require(&self.uplink).await?;
        self.host.add_address(outer, host_end, 31).await?;
        self.host.add_neighbour(outer, router_end, network::mac(router_end)).await?;
        self.host.set_up(outer).await?;
        router.add_route(None, host_end, inner).await?;
        self.host.add_route(Some(a.cidr()), router_end, outer).await
    }
}

#[async_trait]
impl Network for RealNetwork {
    async fn ensure_router(&self) -> Result<()> {
        if self.host.index(&self.uplink).await?.is_none() {
            self.refuse_a_taken_network().await?; // before anything is made
        }
        netns::write_sysctls(include_str!("../../../netconf/host.sysctl"))?;
        let path = self.netns("router");
        self.router_changes.end().await;
        let made = netns::ensure(&path, include_str!("../../../netconf/router.sysctl")).await?;
        *self.router.lock().unwrap_or_else(PoisonError::into_inner) = Some(made.clone());
        made.set_up(LOOPBACK).await?;
        let mut own = self.own_addresses().await?;
        // Closed before it is connected.
        self.set_router_rules(&own, &self.state.lock().await.forwards).await?;
        self.connect(&made).await?;
        let mut state = self.state.lock().await;
        self.set_host_rules(&state.forwards).await?;
        iptables::ensure_jumps(&self.chains).await?;
        own.sort();
        state.own = own;
        state.set = true;
        Ok(())
    }

    async fn heal(&self) -> Result<bool> {
        let mut state = self.state.lock().await;
        if !state.set {
            return Ok(false);
        }
        let mut healed = false;
        if !self.host.is_up(&self.uplink).await? {
            self.connect(&self.router()?).await?;
            healed = true;
        }
        let own = self.own_addresses().await?;
        if own != state.own {
            self.set_router_rules(&own, &state.forwards).await?;
            state.own = own;
            healed = true;
        }
        if !iptables::is_whole(&self.chains, &self.config.addressing, &state.forwards).await? {
            self.set_host_rules(&state.forwards).await?;
            iptables::ensure_jumps(&self.chains).await?;
            healed = true;
        }
        Ok(healed)
    }

    async fn attach(&self, pod: &PodNet) -> Result<PathBuf> {
        let router = self.router()?;
        let path = self.netns(&pod.id);
        let inside = netns::ensure(&path, include_str!("../../../netconf/pod.sysctl")).await?;
        let (near, far) = (network::mac(pod.gateway), network::mac(pod.address));
        router.add_veth(&pod.link, near, "eth0", far, &netns::open(&path)?).await?;
        let outside_end = async {
            let index = router.require(&pod.link).await?;
            router.add_neighbour(index, pod.address, far).await?;
            router.add_address(index, pod.gateway, 31).await?;
            router.set_up(index).await
        };
        let inside_end = async {
            inside.set_up(LOOPBACK).await?;
            self.address_pod(&inside, pod).await
        };
        let ((), index) = tokio::try_join!(outside_end, inside_end)?;
        // The default route needs the link up at both ends' addresses.
        inside.add_route(None, pod.gateway, index).await?;
        Ok(path)
    }

    async fn readdress(&self, pod: &PodNet) -> Result<()> {
        let inside = netns::links(&self.netns(&pod.id)).await?;
        let index = self.address_pod(&inside, pod).await?;
        inside.add_route(None, pod.gateway, index).await
    }

    async fn counters(&self, pod: &PodNet) -> Result<Counters> {
        self.router()?.counters(&pod.link).await
    }

    async fn traffic(&self) -> Result<Counters> {
        self.host.counters(&self.uplink).await
    }

    async fn detach(&self, pod: &PodNet) -> Result<()> {
        // The link first: a namespace that goes frees it later, and its address and route with it.
        if let Ok(router) = self.router() {
            router.delete(&pod.link).await?;
        }
        netns::remove(&self.netns(&pod.id))
    }

    async fn set_forwards(&self, forwards: &[ForwardTo]) -> Result<()> {
        let wanted: BTreeSet<ForwardTo> = forwards.iter().copied().collect();
        let mut state = self.state.lock().await;
        if state.set && wanted == state.forwards {
            return Ok(());
        }
        if state.set {
            // In any order: one half without the other leads to a closed port.
            let (router, host) = tokio::join!(self.change_router(&state, &wanted), self.change_host(&state, &wanted));
            self.host_changes.prepare();
            self.router_changes.prepare();
            if let Err(e) = router.and(host) {
                // As it was, so that the next change finds what it takes to be there.
                let _ = tokio::join!(
                    self.set_router_rules(&state.own, &state.forwards),
                    self.set_host_rules(&state.forwards)
                );
                return Err(e);
            }
            self.forget_flows(Changed::between(&state.forwards, &wanted), &state.own).await;
        } else {
            self.set_host_rules(&wanted).await?; // the router gets its half when it is made
        }
        state.forwards = wanted;
        Ok(())
    }

    async fn list(&self) -> Result<Vec<String>> {
        let mut names = files::list(&self.config.run_dir.join("netns"))?;
        names.retain(|n| n != "router");
        Ok(names)
    }

    async fn remove_all(&self) -> Result<()> {
        let left = self.list().await?;
        if !left.is_empty() {
            return Err(Error::new(Code::InUse, format!("{} pods still have a network", left.len())));
        }
        let mut state = self.state.lock().await;
        *state = Firewall::default();
        tokio::join!(self.host_changes.end(), self.router_changes.end());
        iptables::remove(&self.chains).await?;
        self.host.delete(&self.uplink).await?;
        *self.router.lock().unwrap_or_else(PoisonError::into_inner) = None;
        netns::remove(&self.netns("router"))
    }
}

impl RealNetwork {
    /// Gives the index of the pod's end.
    async fn address_pod(&self, inside: &Links, pod: &PodNet) -> Result<u32> {
        let index = inside.require("eth0").await?;
        inside.add_address(index, pod.address, 31).await?;
        inside.add_neighbour(index, pod.gateway, network::mac(pod.gateway)).await?;
        inside.set_up(index).await?;
        Ok(index)
    }
}

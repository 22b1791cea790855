//! Links, addresses, routes and neighbours of one namespace, by a netlink socket that was opened inside it.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection};

use crate::model::{Attempt, Code, Error, Result};

/// The index of `lo`: the kernel makes it first in every namespace.
pub(super) const LOOPBACK: u32 = 1;

/// The handle shows the namespace: there is none without one.
#[derive(Clone)]
pub(super) struct Links {
    handle: Handle,
}

/// There already: as good as done.
fn exists_is_fine(result: std::result::Result<(), rtnetlink::Error>) -> std::result::Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -libc::EEXIST => Ok(()),
        other => other,
    }
}

impl Links {
    /// Of the namespace of the calling thread.
    pub(super) fn open() -> std::io::Result<Self> {
        let (connection, handle, _) = new_connection()?;
        tokio::spawn(connection);
        Ok(Links { handle })
    }

    /// Of the host's namespace.
    pub(super) fn here() -> Result<Self> {
        Self::open().attempt(Code::Internal, || "open a netlink socket".into())
    }

    /// The index of a link.
    pub(super) async fn index(&self, name: &str) -> Result<Option<u32>> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        match found.try_next().await {
            Ok(link) => Ok(link.map(|l| l.header.index)),
            Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -libc::ENODEV => Ok(None),
            Err(e) => Err(Error::internal(format!("look for link {name}")).because(e)),
        }
    }

    /// Whether a link is there and up.
    pub(super) async fn is_up(&self, name: &str) -> Result<bool> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        match found.try_next().await {
            Ok(link) => Ok(link.is_some_and(|l| l.header.flags.contains(LinkFlags::Up))),
            Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -libc::ENODEV => Ok(false),
            Err(e) => Err(Error::internal(format!("look at link {name}")).because(e)),
        }
    }

    /// What has gone over a link, seen from its other end.
    pub(super) async fn counters(&self, name: &str) -> Result<super::Counters> {
        let what = || format!("read the counters of link {name}");
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = found.try_next().await.attempt(Code::Internal, what)?;
        let all = link.into_iter().flat_map(|l| l.attributes);
        let mut counted = all.filter_map(|a| match a {
            LinkAttribute::Stats64(s) => Some(super::Counters {
                rx_bytes: s.tx_bytes,
                rx_packets: s.tx_packets,
                tx_bytes: s.rx_bytes,
                tx_packets: s.rx_packets,
            }),
            _ => None,
        });
        counted.next().ok_or_else(|| Error::internal(what()))
    }

    /// The index of a link that must be there.
    pub(super) async fn require(&self, name: &str) -> Result<u32> {
        self.index(name).await?.ok_or_else(|| Error::internal(format!("link {name} is gone")))
    }

    /// A pair in one request, its far end already inside the other namespace under its own name. There already: nothing to do.
    pub(super) async fn add_veth(
        &self,
        name: &str,
        mac: [u8; 6],
        far_name: &str,
        far_mac: [u8; 6],
        far: &impl AsFd,
    ) -> Result<()> {
        let far: BorrowedFd<'_> = far.as_fd();
        let peer = LinkUnspec::new_with_name(far_name).address(far_mac.to_vec()).setns_by_fd(far.as_raw_fd()).build();
        let pair = LinkMessageBuilder::<LinkVeth>::new(name, far_name)
            .address(mac.to_vec())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        exists_is_fine(self.handle.link().add(pair).execute().await)
            .attempt(Code::Internal, || format!("make link {name}"))
    }

    pub(super) async fn set_up(&self, index: u32) -> Result<()> {
        let up = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(up).execute().await.attempt(Code::Internal, || format!("set link {index} up"))
    }

    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        let Some(index) = self.index(name).await? else { return Ok(()) };
        match self.handle.link().del(index).execute().await {
            Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -libc::ENODEV => Ok(()),
            other => other.attempt(Code::Internal, || format!("remove link {name}")),
        }
    }

    pub(super) async fn add_address(&self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let mut request = self.handle.address().add(index, IpAddr::V4(address), prefix);
        // A /31 has no broadcast address; the library would add one.
        request.message_mut().attributes.retain(|a| !matches!(a, AddressAttribute::Broadcast(_)));
        exists_is_fine(request.execute().await).attempt(Code::Internal, || format!("add address {address}/{prefix}"))
    }

    pub(super) async fn add_neighbour(&self, index: u32, address: Ipv4Addr, mac: [u8; 6]) -> Result<()> {
        let request = self.handle.neighbours().add(index, IpAddr::V4(address));
        let request = request.link_layer_address(&mac).state(NeighbourState::Permanent).replace();
        request.execute().await.attempt(Code::Internal, || format!("add neighbour {address}"))
    }

    /// A route by a gateway; without a network the default route.
    pub(super) async fn add_route(&self, to: Option<Ipv4Net>, gateway: Ipv4Addr, index: u32) -> Result<()> {
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index);
        if let Some(net) = to {
            route = route.destination_prefix(net.network(), net.prefix_len());
        }
        exists_is_fine(self.handle.route().add(route.build()).execute().await)
            .attempt(Code::Internal, || format!("add a route by {gateway}"))
    }

    /// IPv4 routes of the main table but the default one, each with the link that it leads over.
    pub(super) async fn routes(&self) -> Result<Vec<(Ipv4Net, Option<u32>)>> {
        let asked = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let all: Vec<_> = self
            .handle
            .route()
            .get(asked)
            .execute()
            .try_collect()
            .await
            .attempt(Code::Internal, || "list the host's routes".into())?;
        let route = |message: rtnetlink::packet_route::route::RouteMessage| {
            let length = message.header.destination_prefix_length;
            let (mut to, mut over) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(a)) => to = Ipv4Net::new(*a, length).ok(),
                    RouteAttribute::Oif(index) => over = Some(*index),
                    _ => {}
                }
            }
            (message.header.table == RouteHeader::RT_TABLE_MAIN).then_some((to?, over))
        };
        Ok(all.into_iter().filter_map(route).collect())
    }

    /// The name of a link.
    pub(super) async fn name(&self, index: u32) -> Option<String> {
        let link = self.handle.link().get().match_index(index).execute().try_next().await.ok()??;
        link.attributes.into_iter().find_map(|a| match a {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })
    }

    /// All IPv4 addresses at which the namespace takes packets: its own, and the first and the last of its networks, where
    /// it hears broadcasts.
    pub(super) async fn addresses(&self) -> Result<Vec<Ipv4Addr>> {
        let what = || "list addresses".to_owned();
        let messages: Vec<_> =
            self.handle.address().get().execute().try_collect().await.attempt(Code::Internal, what)?;
        let mut all = Vec::new();
        for message in messages {
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Local(IpAddr::V4(a)) | AddressAttribute::Broadcast(a) => all.push(*a),
                    // The other end of a point-to-point link, or the address once more.
                    AddressAttribute::Address(IpAddr::V4(a)) => {
                        let local = message.attributes.iter().any(|a| matches!(a, AddressAttribute::Local(_)));
                        all.extend((!local).then_some(*a));
                        if let Ok(net) = Ipv4Net::new(*a, message.header.prefix_len)
                            && net.prefix_len() < 31
                        {
                            all.extend([net.network(), net.broadcast()]);
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(all)
    }
}

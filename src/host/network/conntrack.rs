//! The flows that a namespace's kernel keeps in mind, by its netlink interface for them (linux/netfilter/nfnetlink_conntrack.h).
//! No program is run for it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::netns;
use crate::model::{Attempt, Code, Protocol, Result};
use crate::plan::flows::{Changed, Flow};

/// No answer comes later.
const WAIT: i64 = 5;
/// A kernel that is flooded meanwhile is not asked for longer.
const LONGEST: Duration = Duration::from_secs(10);
/// Ports that are asked for one by one; of more the kernel tells all flows of a protocol.
const ONE_BY_ONE: usize = 16;
/// Bytes of one answer; the kernel makes none longer.
const ANSWER: usize = 64 * 1024;

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;

const NESTED: u16 = 0x8000;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const FILTER: u16 = 25;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;
const IP_SRC: u16 = 1;
const IP_DST: u16 = 2;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_PORT: u32 = 1 << 5;

/// Forgets what is stale in the namespace of the calling thread; tells how many flows that were.
fn forget(changed: &Changed, own: &[Ipv4Addr]) -> std::io::Result<usize> {
    let ports = changed.ports();
    if ports.is_empty() {
        return Ok(0);
    }
    let kernel = Kernel::open()?;
    let one_by_one = ports.len() <= ONE_BY_ONE;
    let asked: BTreeSet<(Protocol, Option<u16>)> =
        ports.into_iter().map(|(protocol, port)| (protocol, one_by_one.then_some(port))).collect();
    let mut stale = Vec::new();
    for (protocol, port) in asked {
        kernel.flows(protocol, port, |flow, tuple| {
            if changed.is_stale(&flow, own) {
                stale.push(tuple.to_vec());
            }
        })?;
    }
    for tuple in &stale {
        kernel.delete(tuple)?;
    }
    Ok(stale.len())
}

/// As [`forget`], here and in the router's namespace. Where that fails, flows of before are led to where they led until they
/// have been quiet for a while.
pub(super) async fn forget_here_and_there(changed: Changed, own: &[Ipv4Addr], router: &Path, end: Ipv4Addr) {
    let (again, own) = (changed.clone(), own.to_vec());
    let here = tokio::task::spawn_blocking(move || forget(&changed, &own));
    let there = async {
        let done = netns::inside(netns::open(router)?, move || forget(&again, &[end])).await;
        done.attempt(Code::Internal, || "forget the router's flows".into())
    };
    let (here, there) = tokio::join!(here, there);
    let here = here.map_err(std::io::Error::other).and_then(|done| done);
    let here = here.attempt(Code::Internal, || "forget the host's flows".into());
    for e in [here, there].into_iter().filter_map(Result::err) {
        tracing::warn!(error = %e.report(), "flows of forwards that have changed");
    }
}

fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + content.len()).unwrap_or(u16::MAX);
    let mut all = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    all.extend_from_slice(content);
    all.resize(all.len().next_multiple_of(4), 0);
    all
}

/// Attributes by their kind, the flags in it left out.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head: [u8; 4] = *bytes.first_chunk()?;
        let (length, kind) = (u16::from_ne_bytes([head[0], head[1]]), u16::from_ne_bytes([head[2], head[3]]));
        let length = usize::from(length);
        let content = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & 0x3fff, content))
    })
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, content)| content)
}

fn address(tuple: &[u8], which: u16) -> Option<Ipv4Addr> {
    let raw: [u8; 4] = find(find(tuple, TUPLE_IP)?, which)?.try_into().ok()?;
    Some(raw.into())
}

/// A flow and the tuple that names it.
fn flow(message: &[u8]) -> Option<(Flow, &[u8])> {
    let (orig, reply) = (find(message, TUPLE_ORIG)?, find(message, TUPLE_REPLY)?);
    let proto = find(orig, TUPLE_PROTO)?;
    let protocol = match find(proto, PROTO_NUM)? {
        [6] => Protocol::Tcp,
        [17] => Protocol::Udp,
        _ => return None,
    };
    let port = u16::from_be_bytes(find(proto, PROTO_DST_PORT)?.try_into().ok()?);
    let to = SocketAddrV4::new(address(orig, IP_DST)?, port);
    Some((Flow { protocol, to, answers: address(reply, IP_SRC)? }, orig))
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

struct Kernel {
    socket: OwnedFd,
}

impl Kernel {
    fn open() -> std::io::Result<Self> {
        let (family, protocol) = (AddressFamily::Netlink, SockProtocol::NetlinkNetFilter);
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        nix::sys::socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(WAIT, 0))?;
        Ok(Kernel { socket })
    }

    fn ask(&self, kind: u16, flags: u16, content: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(20 + content.len()).unwrap_or(u32::MAX);
        let mut message = length.to_ne_bytes().to_vec();
        message.extend([kind.to_ne_bytes(), (REQUEST | flags).to_ne_bytes()].concat());
        message.extend([0; 8]); // sequence and port: one question at a time
        message.extend([libc::AF_INET as u8, 0, 0, 0]);
        message.extend_from_slice(content);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    /// Takes answers up to the last one.
    fn answers(&self, mut each: impl FnMut(&[u8])) -> std::io::Result<()> {
        let begun = Instant::now();
        let mut bytes = vec![0; ANSWER];
        while begun.elapsed() < LONGEST {
            let size = recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::empty())?;
            let mut rest = &bytes[..size];
            while let Some(head) = rest.first_chunk::<16>() {
                let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
                let Some(body) = rest.get(16..length) else { break };
                match u16::from_ne_bytes([head[4], head[5]]) {
                    DONE => return Ok(()),
                    ERROR => {
                        let code = body.first_chunk().map_or(libc::EIO, |c| -i32::from_ne_bytes(*c));
                        return if code == 0 { Ok(()) } else { Err(std::io::Error::from_raw_os_error(code)) };
                    }
                    _ => each(body.get(4..).unwrap_or_default()),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Err(std::io::ErrorKind::TimedOut.into())
    }

    /// Flows of a protocol, to that port if one is given. A kernel that can't choose tells of all flows.
    fn flows(&self, protocol: Protocol, port: Option<u16>, mut each: impl FnMut(Flow, &[u8])) -> std::io::Result<()> {
        let mut proto = attribute(PROTO_NUM, &[number(protocol)]);
        let mut by = BY_PROTOCOL;
        if let Some(port) = port {
            proto.extend(attribute(PROTO_DST_PORT, &port.to_be_bytes()));
            by |= BY_PORT;
        }
        let tuple = attribute(TUPLE_ORIG | NESTED, &attribute(TUPLE_PROTO | NESTED, &proto));
        let flags = [attribute(1, &by.to_ne_bytes()), attribute(2, &0_u32.to_ne_bytes())].concat();
        self.ask(GET, DUMP, &[tuple, attribute(FILTER | NESTED, &flags)].concat())?;
        self.answers(|message| {
            if let Some((flow, tuple)) = flow(message) {
                each(flow, tuple);
            }
        })
    }

    /// One that is gone already: nothing to do.
    fn delete(&self, tuple: &[u8]) -> std::io::Result<()> {
        self.ask(DELETE, ACK, &attribute(TUPLE_ORIG | NESTED, tuple))?;
        match self.answers(|_| ()) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }
}

//! Frames as bytes, for probes that no socket would send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub type Mac = [u8; 6];
pub const BROADCAST: Mac = [0xff; 6];

fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let all: Vec<u8> = parts.concat();
    let mut sum: u32 = 0;
    for pair in all.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(!sum & 0xffff).unwrap().to_be_bytes()
}

pub fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// The payload behind one more tag.
pub fn tagged(tag: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&tag.to_be_bytes()[..], &kind.to_be_bytes(), payload].concat()
}

fn length(n: usize) -> [u8; 2] {
    u16::try_from(n).unwrap().to_be_bytes()
}

/// A datagram to the servers' port, without a checksum: IPv4 needs none.
pub fn udp(port: u16, token: &str) -> Vec<u8> {
    let text = format!("<{token}>");
    [&9000_u16.to_be_bytes()[..], &port.to_be_bytes(), &length(8 + text.len()), &[0, 0], text.as_bytes()].concat()
}

/// `fragment`: flags and offset, as they stand in the header.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let words = u8::try_from(5 + options.len() / 4).unwrap();
    let mut header = vec![0x40 | words, 0];
    header.extend(length(20 + options.len() + payload.len()));
    header.extend([0x12, 0x34]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, 17, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    header.extend(options);
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum);
    [header, payload.to_vec()].concat()
}

/// A route that the packet is to take, as an option: loose (131) or strict (137).
pub fn source_route(kind: u8, via: Ipv4Addr) -> Vec<u8> {
    [&[kind, 7, 4][..], &via.octets(), &[0]].concat()
}

pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    // Where the checksum stands in UDP and in ICMPv6.
    let at = if protocol == 17 { 6 } else { 2 };
    let mut payload = payload.to_vec();
    payload[at..at + 2].copy_from_slice(&[0, 0]);
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 0], &length(payload.len()), &[0, 0, 0, protocol]].concat();
    let sum = checksum(&[&pseudo, &payload]);
    payload[at..at + 2].copy_from_slice(&sum);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length(payload.len()));
    packet.extend([protocol, 255]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// A router advertisement: a default router, and a prefix to make an address of.
pub fn advertisement(prefix: Ipv6Addr) -> Vec<u8> {
    let mut packet = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    packet.extend([3, 4, 64, 0xc0, 0, 0, 0x10, 0, 0, 0, 0x10, 0, 0, 0, 0, 0]);
    packet.extend(prefix.octets());
    packet
}

/// Request (1) or reply (2).
pub fn arp(what: u8, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr)) -> Vec<u8> {
    let header: &[u8] = &[0, 1, 8, 0, 6, 4, 0, what];
    [header, &from.0, &from.1.octets(), &to.0, &to.1.octets()].concat()
}

pub fn v4(address: &str) -> Ipv4Addr {
    match address.parse().unwrap() {
        IpAddr::V4(a) => a,
        IpAddr::V6(_) => panic!("{address}"),
    }
}

pub fn hex(frame: &[u8]) -> String {
    frame.iter().map(|b| format!("{b:02x}")).collect()
}

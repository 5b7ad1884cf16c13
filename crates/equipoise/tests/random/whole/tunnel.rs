//! The outside of packets in tunnels: RFC 2003, RFC 2473, and GUE variant 1; class and congestion bits as RFC 6040 has it.

use std::net::IpAddr;

use equipoise_core::config::Mode;

use super::datagram::Header;
use super::memory::Outer;
use super::shot::Shot;
use crate::bench::HOSTS;
use crate::wire::UDP;

const GUE_PORT: u16 = 6080;

/// Bytes that go before a packet.
pub(crate) fn overhead(mode: Mode, to: IpAddr) -> usize {
    let header = if to.is_ipv6() { 40 } else { 20 };
    match mode {
        Mode::Ipip => header,
        Mode::Gue => header + 8,
        Mode::Nat | Mode::FullNat | Mode::Dsr => 0,
    }
}

/// Source, port and label that a packet has been given, if they are allowed.
pub(crate) fn outer(shot: &Shot, mode: Mode, to: IpAddr, came: &[u8]) -> Result<Outer, String> {
    let short = || "too short for an outer header".to_owned();
    let ip = came.get(shot.network()..).ok_or_else(short)?;
    let bytes = |at: usize, length: usize| ip.get(at..at + length).ok_or_else(short);
    let (source, label): (IpAddr, u32) = if to.is_ipv6() {
        let label = u32::from_be_bytes(bytes(0, 4)?.try_into().unwrap()) & 0xf_ffff;
        (<[u8; 16]>::try_from(bytes(8, 16)?).unwrap().into(), label)
    } else {
        (<[u8; 4]>::try_from(bytes(12, 4)?).unwrap().into(), 0)
    };
    if mode == Mode::Gue {
        let at = if to.is_ipv6() { 40 } else { 20 };
        let port = u16::from_be_bytes(bytes(at, 2)?.try_into().unwrap());
        let own: IpAddr = HOSTS[1][usize::from(to.is_ipv6())].parse().unwrap();
        let right = source == own && port >= 49_152;
        return if right {
            Ok((source, port, label))
        } else {
            Err(format!("is from {source}, {port}"))
        };
    }
    let right = match source {
        IpAddr::V4(ip) => ip.octets()[0] == 198 && ip.octets()[1] & 0xfe == 18,
        IpAddr::V6(ip) => ip.segments()[..4] == [0x100, 0, 0, 0],
    };
    if right { Ok((source, 0, label)) } else { Err(format!("is from {source}")) }
}

/// A packet of this class inside another one.
pub(crate) fn wrap(
    class: u8,
    mode: Mode,
    ((source, port, label), to): (Outer, IpAddr),
    inside: &[u8],
) -> Vec<u8> {
    let header = Header {
        from: source,
        to,
        hops: 64,
        class,
        label,
        identification: 0,
        whole: true,
        options: 0,
        extensions: 0,
    };
    if mode != Mode::Gue {
        return header.carry(if inside[0] >> 4 == 6 { 41 } else { 4 }, None, inside);
    }
    let length = (8 + inside.len() as u16).to_be_bytes();
    let udp = [&port.to_be_bytes()[..], &GUE_PORT.to_be_bytes(), &length, &[0, 0], inside].concat();
    header.carry(UDP, None, &udp)
}

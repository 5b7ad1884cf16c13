//! Where packets of the bench go: clients at `front`, backends at `back`, some of them without a link address.

use std::net::{IpAddr, SocketAddr};

use super::datagram::octets;
use super::shot::{Carries, Shot};
use crate::bench::FAR;

/// What either link carries.
pub(crate) const MTU: usize = 1500;

/// Neighbours beside those that the bench has, and backends with link addresses of their own.
pub(crate) fn neighbours() -> String {
    let mut text = String::new();
    for number in [11, 12, 13, 14] {
        for (ip, byte) in [
            (format!("10.0.0.{number}"), number),
            (
                format!("2001:db8:b::{number}"),
                u32::from_str_radix(&number.to_string(), 16).unwrap(),
            ),
        ] {
            text += &format!("neigh replace {ip} lladdr 02:00:00:00:0b:{byte:02x} dev back\n");
        }
    }
    text + "neigh replace 198.51.100.9 lladdr 02:00:00:00:00:07 dev front\n\
            neigh replace 2001:db8:c::9 lladdr 02:00:00:00:00:07 dev front"
}

/// What becomes of a packet on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Sent,
    NoNeighbour,
    ToFragment,
    TooBig,
    HopLimit,
}

impl Way {
    pub(crate) fn is_answered(self) -> bool {
        matches!(self, Self::TooBig | Self::HopLimit)
    }

    /// Whether a request is left to others as it came.
    pub(crate) fn leaves_as_it_came(self, shot: &Shot) -> bool {
        matches!(self, Self::NoNeighbour | Self::ToFragment) && !shot.is_last()
    }
}

/// The way of a packet that leaves with so many bytes.
pub(crate) fn way(shot: &Shot, to: IpAddr, length: usize, may_be_cut: bool) -> Way {
    // TC asks for neighbours itself, but for frames with tags in them.
    let is_reached = is_known(to) || !shot.is_xdp() && shot.tags.is_empty();
    if length > MTU {
        return if may_be_cut { Way::ToFragment } else { Way::TooBig };
    }
    if !is_reached {
        return Way::NoNeighbour;
    }
    if shot.header.hops <= 1 { Way::HopLimit } else { Way::Sent }
}

pub(crate) fn may_be_cut(shot: &Shot) -> bool {
    !shot.header.is_v6() && !shot.header.whole
}

/// The action on what is sent.
pub(crate) fn sends(shot: &Shot, to: IpAddr) -> i32 {
    match shot.is_xdp() {
        true if is_back(to) == shot.at_back => 3,
        true => 4,
        false => 7,
    }
}

pub(crate) fn is_back(to: IpAddr) -> bool {
    match to {
        IpAddr::V4(ip) => ip.octets()[0] == 10,
        IpAddr::V6(ip) => ip.segments()[2] == 0xb,
    }
}

/// Whether a neighbour's link address is known.
pub(crate) fn is_known(to: IpAddr) -> bool {
    let number = octets(to).pop().unwrap();
    match (is_back(to), to) {
        (true, IpAddr::V4(_)) => (11..=14).contains(&number),
        (true, IpAddr::V6(_)) => (0x11..=0x14).contains(&number),
        (false, _) => number == 7 || number == 9,
    }
}

/// The link address of a neighbour.
pub(crate) fn link(to: IpAddr) -> [u8; 6] {
    if is_back(to) { [2, 0, 0, 0, 0xb, octets(to).pop().unwrap()] } else { FAR }
}

/// Where a rewritten packet comes from; the port of one that has none is 0.
pub(crate) fn source(shot: &Shot, came: &[u8], is_later: bool) -> Option<SocketAddr> {
    let ip = came.get(shot.network()..)?;
    let address: IpAddr = if shot.header.is_v6() {
        <[u8; 16]>::try_from(ip.get(8..24)?).ok()?.into()
    } else {
        <[u8; 4]>::try_from(ip.get(12..16)?).ok()?.into()
    };
    if is_later {
        return Some(SocketAddr::new(address, 0));
    }
    let is_cut = matches!(&shot.carries, Carries::Segment(_, Some(_)));
    let at = shot.header.length() + if is_cut && shot.header.is_v6() { 8 } else { 0 };
    let port = u16::from_be_bytes(ip.get(at..at + 2)?.try_into().ok()?);
    Some(SocketAddr::new(address, port))
}

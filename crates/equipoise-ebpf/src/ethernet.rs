//! The link header: Ethernet and VLAN tags, and where the IP header behind them begins.
//!
//! For all programs, whatever they do with the packet. Looks at nothing but the frame.

use equipoise_common::key::Be16;

use crate::hide::forget;
use crate::packet::Window;

/// Bytes of an Ethernet header without tags.
pub const ETHERNET: usize = 14;
/// Bytes of a VLAN tag.
pub const VLAN: usize = 4;
/// What says that IPv4 follows.
pub const ETHERTYPE_IPV4: Be16 = Be16::new(0x0800);
/// What says that IPv6 follows.
pub const ETHERTYPE_IPV6: Be16 = Be16::new(0x86dd);
/// 802.1Q.
pub const ETHERTYPE_VLAN: Be16 = Be16::new(0x8100);
/// 802.1ad.
pub const ETHERTYPE_SERVICE_VLAN: Be16 = Be16::new(0x88a8);

/// An IP packet inside its frame, at this offset.
pub enum Network {
    /// IPv4.
    V4(usize),
    /// IPv6.
    V6(usize),
}

/// Why there is none.
pub enum NoNetwork {
    /// The frame ends in its link header.
    Short,
    /// It holds something else.
    NotIp,
}

/// Finds the IP header behind up to two VLAN tags.
#[inline(always)]
pub fn network(window: &Window) -> Result<Network, NoNetwork> {
    let ethernet = window.header::<ETHERNET>(0).ok_or(NoNetwork::Short)?;
    let mut ethertype: Be16 = ethernet.load::<Be16, 12>();
    let mut offset = ETHERNET;
    for _ in 0..2 {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_SERVICE_VLAN {
            break;
        }
        let tag = window.header::<VLAN>(offset).ok_or(NoNetwork::Short)?;
        ethertype = tag.load::<Be16, 2>();
        offset += VLAN;
    }
    // However many tags there are: kernel 6.1 would go through what follows for each number. Nothing is known of the address.
    let offset = forget(offset, ethernet.load::<u32, 0>());
    match ethertype {
        ETHERTYPE_IPV4 => Ok(Network::V4(offset)),
        ETHERTYPE_IPV6 => Ok(Network::V6(offset)),
        _ => Err(NoNetwork::NotIp),
    }
}

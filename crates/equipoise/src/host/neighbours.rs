//! Neighbours kept fresh: the stack confirms them when its own traffic is answered, and packets
//! that the programs forward never pass it.
//!
//! `NTF_USE` does what a packet would: a stale entry is probed by unicast, an unknown one is asked
//! for. A neighbour that has moved to another link address is found out by the same probe.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::{Error, Handle};

/// Neighbours asked for in one turn at most, so that a large link is not flooded.
const TURN: usize = 256;

/// One turn; answers how many neighbours the kernel was asked to look for.
pub(super) async fn refresh(
    handle: &Handle,
    interfaces: &BTreeSet<u32>,
    next_hops: &BTreeSet<(u32, IpAddr)>,
) -> Result<usize, Error> {
    let mut known = BTreeMap::new();
    let mut dump = std::pin::pin!(handle.neighbours().get().execute());
    while let Some(message) = dump.try_next().await? {
        if let Some(address) = address(&message) {
            known.insert((message.header.ifindex, address), message.header.state);
        }
    }
    let due = due(&known, interfaces, next_hops);
    for &(interface, address) in &due {
        touch(handle, interface, address).await?;
    }
    Ok(due.len())
}

/// Next hops of backends first: without one the fast path has nowhere to send.
fn due(
    known: &BTreeMap<(u32, IpAddr), NeighbourState>,
    interfaces: &BTreeSet<u32>,
    next_hops: &BTreeSet<(u32, IpAddr)>,
) -> BTreeSet<(u32, IpAddr)> {
    let lost = next_hops.iter().filter(|hop| match known.get(hop) {
        None => true,
        Some(state) => {
            matches!(state, NeighbourState::None | NeighbourState::Failed | NeighbourState::Stale)
        }
    });
    let stale = known
        .iter()
        .filter(|((interface, _), state)| {
            interfaces.contains(interface) && **state == NeighbourState::Stale
        })
        .map(|(key, _)| key);
    let mut due = BTreeSet::new();
    for key in lost.chain(stale) {
        if due.len() == TURN {
            break;
        }
        due.insert(*key);
    }
    due
}

/// Has all of these asked for, whatever is known of them: that is forgotten, since who has gone would not be missed otherwise. What somebody has
/// set by hand stays.
pub(super) async fn ask_anew(
    handle: &Handle,
    asked: &BTreeSet<(u32, IpAddr)>,
) -> Result<(), Error> {
    let mut known = Vec::new();
    let mut dump = std::pin::pin!(handle.neighbours().get().execute());
    while let Some(message) = dump.try_next().await? {
        let is_fixed =
            matches!(message.header.state, NeighbourState::Permanent | NeighbourState::Noarp);
        let hop = address(&message).map(|address| (message.header.ifindex, address));
        if hop.is_some_and(|hop| asked.contains(&hop)) && !is_fixed {
            known.push(message);
        }
    }
    for message in known {
        match handle.neighbours().del(message).execute().await {
            // It has gone meanwhile, or this process may not: then it is as it is.
            Err(Error::NetlinkError(_)) | Ok(()) => {}
            Err(error) => return Err(error),
        }
    }
    for &(interface, address) in asked {
        touch(handle, interface, address).await?;
    }
    Ok(())
}

/// The link address that is known of it, where it is one of Ethernet.
pub(super) fn link_address(message: &NeighbourMessage) -> Option<[u8; 6]> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })
}

async fn touch(handle: &Handle, interface: u32, address: IpAddr) -> Result<(), Error> {
    let request = handle
        .neighbours()
        .add(interface, address)
        // A state of none changes nothing of an entry; permanent ones are never touched, since
        // NTF_USE would take that from them.
        .state(NeighbourState::None)
        .flags(NeighbourFlags::Use)
        .replace();
    match request.execute().await {
        // The interface is gone, down, or takes no neighbours: the next reading tells.
        Err(Error::NetlinkError(_)) | Ok(()) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(IpAddr::V4(*a)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn unknown_failed_and_stale_next_hops_are_asked_for() {
        let known = BTreeMap::from([
            ((2, ip(1)), NeighbourState::Failed),
            ((2, ip(2)), NeighbourState::Reachable),
            ((2, ip(3)), NeighbourState::Permanent),
            ((2, ip(4)), NeighbourState::Stale),
        ]);
        let hops = (1..=5).map(|n| (2, ip(n))).collect();
        let due = due(&known, &BTreeSet::new(), &hops);
        assert_eq!(due, BTreeSet::from([(2, ip(1)), (2, ip(4)), (2, ip(5))]));
    }

    #[test]
    fn stale_neighbours_of_other_interfaces_are_left_alone() {
        let known = BTreeMap::from([
            ((2, ip(1)), NeighbourState::Stale),
            ((3, ip(2)), NeighbourState::Stale),
        ]);
        let due = due(&known, &BTreeSet::from([2]), &BTreeSet::new());
        assert_eq!(due, BTreeSet::from([(2, ip(1))]));
    }

    #[test]
    fn one_turn_is_bounded_and_backends_come_first() {
        let known = (0..2000u32)
            .map(|n| ((2, IpAddr::from([10, 1, (n >> 8) as u8, n as u8])), NeighbourState::Stale))
            .collect();
        let hop = (2, IpAddr::from([192, 0, 2, 1]));
        let due = due(&known, &BTreeSet::from([2]), &BTreeSet::from([hop]));
        assert_eq!(due.len(), TURN);
        assert!(due.contains(&hop));
    }
}

//! More of the machine than a balancer needs to run: what is looked at when it does not run well.
//!
//! Links with their queues and where their other ends are, neighbours with their states, and IPv6 addresses that another host has. Read
//! once, when somebody asks; nothing here is followed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourState;

use super::{HostError, neighbours};

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Links, by index.
    pub links: BTreeMap<u32, Link>,
    /// Neighbours that the kernel knows of, by interface and address.
    pub neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    /// Link addresses of those of them that have one of Ethernet.
    pub link_addresses: BTreeMap<(u32, IpAddr), [u8; 6]>,
    /// Addresses of this host's that are not in use, since another host on the link has them.
    pub duplicates: BTreeSet<IpAddr>,
}

/// A link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether the other end is there.
    pub carrier: bool,
    /// Whether packets are sent to link addresses, which are asked for.
    pub asks_neighbours: bool,
    /// Whether the device that it goes with lies in another network namespace.
    pub peer_elsewhere: bool,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Its link address.
    Known,
    /// Nothing: it has been asked for, and did not answer.
    Failed,
    /// Nothing yet.
    Unknown,
}

/// Reads it all.
///
/// # Errors
///
/// When the kernel does not answer.
pub async fn read() -> Result<Details, HostError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|e| HostError::new("netlink socket", &e))?;
    tokio::spawn(connection);
    let failed = |e: rtnetlink::Error| HostError::new("reading links and neighbours", &e);
    let (neighbours, link_addresses) = known(&handle).await.map_err(failed)?;
    Ok(Details {
        links: links(&handle).await.map_err(failed)?,
        neighbours,
        link_addresses,
        duplicates: duplicates(&handle).await.map_err(failed)?,
    })
}

/// Has somebody on the link asked for each of these anew; who answers is among the neighbours soon after.
///
/// # Errors
///
/// When the kernel does not answer.
pub async fn ask_anew(asked: &BTreeSet<(u32, IpAddr)>) -> Result<(), HostError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|e| HostError::new("netlink socket", &e))?;
    tokio::spawn(connection);
    let failed = |e: rtnetlink::Error| HostError::new("asking for neighbours", &e);
    neighbours::ask_anew(&handle, asked).await.map_err(failed)
}

async fn links(handle: &Handle) -> Result<BTreeMap<u32, Link>, rtnetlink::Error> {
    let mut all = BTreeMap::new();
    let mut links = std::pin::pin!(handle.link().get().execute());
    while let Some(message) = links.try_next().await? {
        all.insert(message.header.index, link(&message));
    }
    Ok(all)
}

fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let elsewhere = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::LinkNetNsId(_));
    Link {
        carrier: flags.contains(LinkFlags::LowerUp),
        asks_neighbours: !flags.intersects(LinkFlags::Noarp | LinkFlags::Loopback),
        peer_elsewhere: message.attributes.iter().any(elsewhere),
    }
}

/// Something of each neighbour that has it.
type OfEach<T> = BTreeMap<(u32, IpAddr), T>;

async fn known(handle: &Handle) -> Result<(OfEach<Neighbour>, OfEach<[u8; 6]>), rtnetlink::Error> {
    let (mut all, mut addresses) = (BTreeMap::new(), BTreeMap::new());
    let mut dump = std::pin::pin!(handle.neighbours().get().execute());
    while let Some(message) = dump.try_next().await? {
        let Some(address) = neighbours::address(&message) else { continue };
        let (hop, state) = ((message.header.ifindex, address), neighbour(message.header.state));
        all.insert(hop, state);
        let link_address = neighbours::link_address(&message);
        addresses.extend(link_address.filter(|_| state == Neighbour::Known).map(|it| (hop, it)));
    }
    Ok((all, addresses))
}

fn neighbour(state: NeighbourState) -> Neighbour {
    match state {
        NeighbourState::Reachable
        | NeighbourState::Stale
        | NeighbourState::Delay
        | NeighbourState::Probe
        | NeighbourState::Noarp
        | NeighbourState::Permanent => Neighbour::Known,
        NeighbourState::Failed => Neighbour::Failed,
        _ => Neighbour::Unknown,
    }
}

async fn duplicates(handle: &Handle) -> Result<BTreeSet<IpAddr>, rtnetlink::Error> {
    let mut all = BTreeSet::new();
    let mut dump = std::pin::pin!(handle.address().get().execute());
    while let Some(message) = dump.try_next().await? {
        all.extend(duplicate(&message));
    }
    Ok(all)
}

fn duplicate(message: &AddressMessage) -> Option<IpAddr> {
    let failed = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Dadfailed));
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    address.filter(|_| message.attributes.iter().any(failed))
}

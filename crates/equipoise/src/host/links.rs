//! Interfaces and their addresses, from two netlink dumps.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};
use rtnetlink::{Error, Handle};

use super::Device;

/// All interfaces, by name.
pub(super) async fn read(handle: &Handle) -> Result<BTreeMap<String, Device>, Error> {
    let mut by_index = BTreeMap::new();
    let mut links = std::pin::pin!(handle.link().get().execute());
    while let Some(link) = links.try_next().await? {
        if let Some((name, device)) = device(&link) {
            by_index.insert(device.index, (name, device));
        }
    }
    let mut addresses = std::pin::pin!(handle.address().get().execute());
    while let Some(message) = addresses.try_next().await? {
        let Some((_, device)) = by_index.get_mut(&message.header.index) else {
            continue;
        };
        if let Some(address) = own_address(&message).filter(|a| !device.addresses.contains(a)) {
            device.addresses.push(address);
            if is_primary(&message) {
                device.primary.push(address);
            }
        }
    }
    Ok(by_index.into_values().collect())
}

fn device(link: &LinkMessage) -> Option<(String, Device)> {
    let mut name = None;
    let mut device = Device {
        index: link.header.index,
        loopback: link.header.flags.contains(LinkFlags::Loopback),
        up: link.header.flags.contains(LinkFlags::Up),
        ..Device::default()
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::Address(bytes) => device.link_address = ethernet(link, bytes),
            LinkAttribute::Link(below) => device.below = Some(*below),
            LinkAttribute::LinkInfo(infos) => device.kind = kind(infos),
            LinkAttribute::Xdp(xdp) => device.xdp_program = program(xdp),
            _ => {}
        }
    }
    Some((name?, device))
}

/// Other kinds of links have addresses of six bytes as well.
fn ethernet(link: &LinkMessage, address: &[u8]) -> Option<[u8; 6]> {
    let kinds = [LinkLayerType::Ether, LinkLayerType::Loopback];
    address.try_into().ok().filter(|_| kinds.contains(&link.header.link_layer_type))
}

fn kind(infos: &[LinkInfo]) -> Option<String> {
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(InfoKind::Other(name)) => Some(name.clone()),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

/// The kernel tells the id of the one program, or of the one that is native where there are two.
fn program(xdp: &[LinkXdp]) -> Option<u32> {
    let attached =
        xdp.iter().any(|x| matches!(x, LinkXdp::Attached(how) if *how != XdpAttached::None));
    let id = xdp.iter().find_map(|x| match x {
        LinkXdp::ProgId(id)
        | LinkXdp::DrvProgId(id)
        | LinkXdp::SkbProgId(id)
        | LinkXdp::HwProgId(id) => Some(*id),
        _ => None,
    });
    id.filter(|_| attached)
}

/// Whether an address came with a subnet, and is the first of it. For IPv6 the flag says that it is temporary.
fn is_primary(message: &AddressMessage) -> bool {
    let header = &message.header;
    match header.family {
        AddressFamily::Inet => {
            header.prefix_len < 32 && !header.flags.contains(AddressHeaderFlags::Secondary)
        }
        _ => header.prefix_len < 128,
    }
}

/// The local address of a message. For a point-to-point link `Address` is the peer's.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => {
                address = Some(*local);
                break;
            }
            AddressAttribute::Address(own) => address = Some(*own),
            _ => {}
        }
    }
    address.filter(|a| match a {
        IpAddr::V4(_) => true,
        IpAddr::V6(a) => !a.is_unicast_link_local(),
    })
}

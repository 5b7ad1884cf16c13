//! The way to an address, as the kernel's routing table answers.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia,
};
use rtnetlink::{Error, Handle, RouteMessageBuilder};

use super::Way;

/// Asks for the way to `target`.
pub(super) async fn way(handle: &Handle, target: IpAddr) -> Result<Way, Error> {
    let bits = if target.is_ipv4() { 32 } else { 128 };
    let query = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(target, bits)
        .map_err(|e| Error::InvalidNla(e.to_string()))?
        .build();
    let mut answers = std::pin::pin!(handle.route().get(query).execute());
    match answers.try_next().await {
        Ok(Some(route)) => Ok(from_route(&route, target)),
        Ok(None) => Ok(Way::Unreachable),
        // ENETUNREACH, EHOSTUNREACH, EACCES (prohibit), EINVAL (blackhole): there is no way.
        Err(Error::NetlinkError(_)) => Ok(Way::Unreachable),
        Err(error) => Err(error),
    }
}

fn from_route(route: &RouteMessage, target: IpAddr) -> Way {
    match route.header.kind {
        RouteType::Local => return Way::Local,
        RouteType::Unicast => {}
        _ => return Way::Unreachable,
    }
    let mut interface = None;
    let mut next_hop = target;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway))
            | RouteAttribute::Via(RouteVia::Inet(gateway)) => next_hop = (*gateway).into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway))
            | RouteAttribute::Via(RouteVia::Inet6(gateway)) => next_hop = (*gateway).into(),
            _ => {}
        }
    }
    interface.map_or(Way::Unreachable, |interface| Way::Via { interface, next_hop })
}

//! The way to an address, as the kernel's routing table answers, and whether it depends on anything else.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType, RouteVia,
};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::{Error, Handle, IpVersion, RouteMessageBuilder};

use super::Way;

/// Asks for the way to `target`.
pub(super) async fn way(handle: &Handle, target: IpAddr) -> Result<Way, Error> {
    let route = answer(handle, query(target)?).await?;
    Ok(route.map_or(Way::Unreachable, |route| from_route(&route, target)))
}

/// Whether the route to `target` is one path, and not several that flows are spread over.
pub(super) async fn has_one_path(handle: &Handle, target: IpAddr) -> Result<bool, Error> {
    let mut query = query(target)?;
    // The route itself, and not the path of it that a packet would take.
    query.header.flags |= RouteFlags::FibMatch;
    let Some(route) = answer(handle, query).await? else { return Ok(true) };
    let has_more = |attribute: &RouteAttribute| {
        // What a next hop object stands for may be several, and may change by itself.
        matches!(attribute, RouteAttribute::MultiPath(_) | RouteAttribute::NhId(_))
    };
    Ok(!route.attributes.iter().any(has_more))
}

fn query(target: IpAddr) -> Result<RouteMessage, Error> {
    let bits = if target.is_ipv4() { 32 } else { 128 };
    let query = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(target, bits)
        .map_err(|e| Error::InvalidNla(e.to_string()))?;
    Ok(query.build())
}

/// What the kernel answers; none where there is no way.
async fn answer(handle: &Handle, query: RouteMessage) -> Result<Option<RouteMessage>, Error> {
    let mut answers = std::pin::pin!(handle.route().get(query).execute());
    match answers.try_next().await {
        Ok(route) => Ok(route),
        // ENETUNREACH, EHOSTUNREACH, EACCES (prohibit), EINVAL (blackhole): there is no way.
        Err(Error::NetlinkError(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether no rule looks at more of a packet than its destination and the interface that it came by.
pub(super) async fn rules_are_plain(handle: &Handle) -> Result<bool, Error> {
    for family in [IpVersion::V4, IpVersion::V6] {
        let mut rules = std::pin::pin!(handle.rule().get(family).execute());
        while let Some(rule) = rules.try_next().await? {
            if !is_plain(&rule) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn is_plain(rule: &RuleMessage) -> bool {
    rule.header.src_len == 0
        && rule.header.tos == 0
        && rule.attributes.iter().all(|attribute| match attribute {
            RuleAttribute::Destination(_)
            | RuleAttribute::Iifname(_)
            | RuleAttribute::L3MDev(_)
            | RuleAttribute::Goto(_)
            | RuleAttribute::Priority(_)
            | RuleAttribute::Table(_)
            | RuleAttribute::Protocol(_)
            | RuleAttribute::SuppressIfGroup(_)
            | RuleAttribute::SuppressPrefixLen(_) => true,
            // Source, ports, marks and the like, and what is not known yet.
            _ => false,
        })
}

fn from_route(route: &RouteMessage, target: IpAddr) -> Way {
    match route.header.kind {
        RouteType::Local => return Way::Local,
        RouteType::Unicast => {}
        _ => return Way::Unreachable,
    }
    let mut interface = None;
    let mut next_hop = target;
    let mut source = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway))
            | RouteAttribute::Via(RouteVia::Inet(gateway)) => next_hop = (*gateway).into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway))
            | RouteAttribute::Via(RouteVia::Inet6(gateway)) => next_hop = (*gateway).into(),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => {
                source = Some((*address).into());
            }
            RouteAttribute::PrefSource(RouteAddress::Inet6(address)) => {
                source = Some((*address).into());
            }
            _ => {}
        }
    }
    interface.map_or(Way::Unreachable, |interface| Way::Via { interface, next_hop, source })
}

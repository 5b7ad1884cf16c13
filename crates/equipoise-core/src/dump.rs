//! The desired state as stable text: for `plan --dump`, and for tests to compare.
//!
//! One line for each entry of a map, in an order that people expect; pools are followed by the
//! share of each backend. Two equal states have equal texts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use equipoise_common::value::Pick;

use crate::config::target;
use crate::diff::{describe_backend, describe_policy, describe_reply, describe_snat, traits};
use crate::facts::Facts;
use crate::plan::{Desired, PoolPlan, ServiceKey, Stream};

/// The text of a desired state; facts give the interfaces their names.
pub fn dump(desired: &Desired, facts: &Facts) -> String {
    let mut text = String::new();
    write(&mut text, desired, facts).expect("a string takes everything");
    text
}

fn write(text: &mut String, desired: &Desired, facts: &Facts) -> fmt::Result {
    write_services(text, desired, facts)?;
    for (id, stream) in &desired.streams {
        write_stream(text, *id, stream)?;
    }
    for (id, pool) in &desired.pools {
        write_pool(text, *id, pool)?;
    }
    let told: BTreeSet<u32> = desired.streams.values().flat_map(|s| &s.told).copied().collect();
    for (id, pool_name, address) in backends(desired) {
        let traits = desired.backends.get(&id).map(|backend| traits(&backend.value));
        let address = target::text(address);
        let told = if told.contains(&id) { ", told who has connected" } else { "" };
        let traits = traits.unwrap_or_default();
        writeln!(text, "backend {id}: {address} of {pool_name}{traits}{told}")?;
    }
    for (id, backend) in desired.backends.iter().filter(|(_, backend)| backend.is_gone()) {
        writeln!(text, "backend {id}: {}", describe_backend(&backend.value))?;
    }
    for (id, policy) in &desired.policies {
        writeln!(text, "policy of service {id}: {}", describe_policy(policy))?;
    }
    for (listed, rule) in &desired.access {
        writeln!(text, "{} {listed}", rule.name())?;
    }
    for (routed, pool) in &desired.routes {
        writeln!(text, "route {routed} -> pool {pool}")?;
    }
    for (key, snat) in &desired.snat {
        writeln!(text, "{}", describe_snat(*key, snat))?;
    }
    for (key, reply) in &desired.replies {
        writeln!(text, "{}", describe_reply(key, reply))?;
    }
    for note in &desired.notes {
        writeln!(text, "note: {note}")?;
    }
    Ok(())
}

fn write_services(text: &mut String, desired: &Desired, facts: &Facts) -> fmt::Result {
    let names: BTreeMap<u32, &str> =
        facts.interfaces.iter().map(|(name, fact)| (fact.index, name.as_str())).collect();
    let mut services: Vec<_> = desired.services.iter().collect();
    let order = |key: &ServiceKey| (key.interface(), key.vip(), key.protocol());
    services.sort_by_key(|&(key, service)| (service.id, order(key)));
    for (key, service) in services {
        let name = desired.pools.get(&service.pool).map_or("", |pool| &pool.service);
        let interface = names.get(&key.interface()).copied().unwrap_or("an unknown interface");
        writeln!(
            text,
            "service {} {name}: {} on {interface} -> pool {}",
            service.id,
            key.place(),
            service.pool
        )?;
    }
    Ok(())
}

/// Where connections are taken up, and the pools of the servers that they name, IPv4 and IPv6.
fn write_stream(text: &mut String, id: u32, stream: &Stream) -> fmt::Result {
    let Stream { name, spots, names, .. } = stream;
    for &(address, first, last) in spots {
        let place = SocketAddr::new(address, first);
        let range = if last == first { String::new() } else { format!("-{last}") };
        writeln!(text, "stream of service {id} {name}: taken up at {place}{range}")?;
    }
    for (server, [v4, v6]) in names {
        writeln!(text, "name {server} of service {id} -> pools {v4} and {v6}")?;
    }
    Ok(())
}

fn write_pool(text: &mut String, id: u32, pool: &PoolPlan) -> fmt::Result {
    let pick = match pool.pick {
        Pick::Hash => "by hash",
        Pick::Random => "at random",
        Pick::Turn => "in turn",
        Pick::Fewest => "by fewest flows",
        Pick::Source { bits } => &format!("by source /{bits}"),
    };
    let PoolPlan { service, family, slots, .. } = pool;
    let from = pool.route.as_ref().map(|route| format!(" from {route}")).unwrap_or_default();
    let streamed = if pool.streamed { ", streamed" } else { "" };
    writeln!(text, "pool {id} {service} {family}{from}: {pick}{streamed}, slots {}", slots.len())?;
    for member in &pool.members {
        let share = 100.0 * pool.share(member);
        writeln!(text, "  {share:6.2} % {} (backend {})", target::text(member.address), member.id)?;
    }
    Ok(())
}

fn backends(desired: &Desired) -> Vec<(u32, &str, SocketAddr)> {
    let mut backends: Vec<_> = desired
        .pools
        .values()
        .flat_map(|pool| {
            pool.members.iter().map(|member| (member.id, &*pool.service, member.address))
        })
        .collect();
    backends.sort_unstable();
    backends
}

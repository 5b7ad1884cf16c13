//! Reading the flow table.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aya::maps::{HashMap, MapData, MapError};
use equipoise_common::key::{Address, FiveTuple, TCP};
use equipoise_common::value::{Flow, flag};

use super::pin::refused;
use super::{FlowRow, KernelError};

/// Calls `each` for every live flow of one family's table; false when it has asked to stop.
pub(super) fn walk<A>(
    table: &HashMap<MapData, FiveTuple<A>, Flow<A>>,
    limit: u32,
    each: &mut dyn FnMut(FlowRow) -> bool,
) -> Result<bool, KernelError>
where
    A: Address + aya::Pod + Into<IpAddr>,
{
    let now = now();
    // Programs change the table while it is walked; the kernel starts again from the first key
    // when the last one has gone, which must not go on for ever.
    for key in table.keys().take(limit as usize) {
        let key = key.map_err(|error| refused("reading the flow table", &error))?;
        let flow = match table.get(&key, 0) {
            Ok(flow) => flow,
            Err(MapError::KeyNotFound) => continue,
            Err(error) => return Err(refused("reading the flow table", &error)),
        };
        if flow.is_reply() {
            continue;
        }
        let answer = FiveTuple {
            source: flow.destination,
            destination: flow.source,
            source_port: flow.destination_port,
            destination_port: flow.source_port,
            protocol: key.protocol,
        };
        let reply = table.get(&answer, 0).ok();
        let row = row(&key, &flow, reply.as_ref(), now);
        if row.idle <= timeout(row.state) && !each(row) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn row<A: Address + Into<IpAddr>>(
    key: &FiveTuple<A>,
    flow: &Flow<A>,
    reply: Option<&Flow<A>>,
    now: u64,
) -> FlowRow {
    let last_seen = flow.last_seen.max(reply.map_or(0, |reply| reply.last_seen));
    FlowRow {
        protocol: key.protocol,
        client: SocketAddr::new(key.source.into(), key.source_port.get()),
        vip: SocketAddr::new(key.destination.into(), key.destination_port.get()),
        backend_address: SocketAddr::new(flow.destination.into(), flow.destination_port.get()),
        service: flow.service,
        backend: flow.backend,
        state: state(key.protocol, flow),
        age: Duration::from_nanos(now.saturating_sub(flow.opened)),
        idle: Duration::from_nanos(now.saturating_sub(last_seen)),
        traffic: [
            flow.packets,
            flow.bytes,
            reply.map_or(0, |reply| reply.packets),
            reply.map_or(0, |reply| reply.bytes),
        ],
    }
}

fn state<A>(protocol: u32, flow: &Flow<A>) -> &'static str {
    const BOTH: u32 = flag::SEEN_ANSWER | flag::SEEN_CLIENT_AGAIN;
    let confirmed = flow.flags & BOTH == BOTH;
    match (protocol, confirmed) {
        (TCP, _) if flow.is_closing() => "closing",
        (TCP, true) => "established",
        (TCP, false) => "opening",
        (_, true) => "two-way",
        (_, false) => "one-way",
    }
}

/// How long a flow in this state is live without a packet. The kernel's table keeps entries until
/// it needs their room; those past their time are no flows any more.
fn timeout(state: &str) -> Duration {
    const MINUTE: u64 = 60;
    Duration::from_secs(match state {
        "opening" => 10,
        // Over the 2 hours of TCP keep-alive, and RFC 5382's 2 hours 4 minutes.
        "established" => 125 * MINUTE,
        "two-way" => 2 * MINUTE,
        _ => 30,
    })
}

/// The clock of the programs: monotonic, at the last kernel tick, nanoseconds.
fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a whole `timespec` to fill; this clock is there since 2.6.32.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

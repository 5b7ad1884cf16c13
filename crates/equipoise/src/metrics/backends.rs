//! Families about services, pools and backends.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::family::{Family, Labels, Making};
use crate::status::health::BackendHealth;
use crate::status::operate::BreakerStatus;
use crate::status::{BackendStatus, Counters, PoolStatus, ServiceState, ServiceStatus, Status};
use equipoise_core::config::target;

const BACKEND: [&str; 3] = ["service", "route", "backend"];
const BY_DIRECTION: [&str; 4] = ["service", "route", "backend", "direction"];
const DIRECTION: [&str; 2] = ["service", "direction"];

/// What services and their backends are and have carried.
pub(super) fn traffic(status: &Status) -> Vec<Family> {
    let mut families: Vec<_> = services(&status.services).into();
    families.extend(pools(&status.services));
    let backends = backends(&status.services);
    families.extend(weights(&backends));
    families.extend(carried(&backends));
    families.extend(passive(&backends));
    families.push(active(&status.services));
    families
}

/// A backend, with what all its rows begin with.
struct Row<'a> {
    labels: Labels,
    backend: &'a BackendStatus,
}

fn backends(services: &[ServiceStatus]) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for ServiceStatus { name, pools, .. } in services {
        for PoolStatus { route, backends, .. } in pools {
            for backend in backends {
                let labels = [name, route, &*target::text(backend.address)];
                rows.push(Row { labels: Labels::of(BACKEND, labels), backend });
            }
        }
    }
    rows
}

fn services(services: &[ServiceStatus]) -> [Family; 5] {
    let up = "Whether new flows of a service find a backend.";
    let mut up = Making::gauge("lb_service_up", up, ["service"]);
    let opened = "Flows that a service has opened.";
    let mut opened = Making::counter("lb_service_new_flows_total", opened, ["service"]);
    let bytes = "IP bytes of a service, in from clients and out to them.";
    let mut bytes = Making::counter("lb_service_bytes_total", bytes, DIRECTION);
    let packets = "Packets of a service, in from clients and out to them.";
    let mut packets = Making::counter("lb_service_packets_total", packets, DIRECTION);
    let refused = "Connections that were taken up for a service and came to no backend.";
    let labels = ["service", "reason"];
    let mut refused_of = Making::counter("lb_service_refused_connections_total", refused, labels);
    for ServiceStatus { name, state, traffic, refused, .. } in services {
        for (reason, &count) in refused {
            refused_of.row([name, reason], count as f64);
        }
        up.flag([name], *state == ServiceState::Up);
        opened.row([name], traffic.new_flows as f64);
        for (direction, [packets_so, bytes_so]) in directions(traffic) {
            packets.row([name, direction], packets_so);
            bytes.row([name, direction], bytes_so);
        }
    }
    [up.finish(), opened.finish(), bytes.finish(), packets.finish(), refused_of.finish()]
}

fn pools(services: &[ServiceStatus]) -> [Family; 2] {
    let algorithm = "How a pool picks backends: 1 for the one that is in the label.";
    let labels = ["service", "route", "algorithm"];
    let mut algorithm = Making::gauge("lb_algorithm", algorithm, labels);
    let panic = "Whether a pool ignores health because too few of its backends are usable.";
    let mut panic = Making::gauge("lb_pool_panic", panic, ["service", "route"]);
    for ServiceStatus { name, pools, .. } in services {
        for pool in pools {
            algorithm.row([name, &pool.route, &pool.algorithm], 1.0);
            panic.flag([name, &pool.route], pool.panic);
        }
    }
    [algorithm.finish(), panic.finish()]
}

fn weights(backends: &[Row<'_>]) -> [Family; 4] {
    let rows = backends.len();
    let configured = "The weight that the configuration gives a backend.";
    let mut configured =
        Making::gauge("lb_backend_weight_configured", configured, BACKEND).of_lines(rows);
    let effective = "The weight in force; 0 only when a backend gets no new flow.";
    let mut effective =
        Making::gauge("lb_backend_weight_effective", effective, BACKEND).of_lines(rows);
    let share = "A backend's part of the new flows of its address family, 0 to 1.";
    let mut share = Making::gauge("lb_backend_share", share, BACKEND).of_lines(rows);
    let draining = "Whether a backend is being taken out gently.";
    let mut draining = Making::gauge("lb_backend_draining", draining, BACKEND).of_lines(rows);
    for Row { labels, backend } in backends {
        configured.of(labels, backend.configured_weight.into());
        effective.of(labels, backend.effective_weight);
        share.of(labels, backend.share);
        draining.of(labels, f64::from(u8::from(backend.draining)));
    }
    [configured.finish(), effective.finish(), share.finish(), draining.finish()]
}

fn carried(backends: &[Row<'_>]) -> [Family; 5] {
    let rows = backends.len();
    let live = "Flows of a backend in the table.";
    let mut live = Making::sum("lb_backend_connections", live, BACKEND).of_lines(rows);
    let opened = "Flows that have been given to a backend.";
    let mut opened = Making::counter("lb_backend_new_flows_total", opened, BACKEND).of_lines(rows);
    let bytes = "IP bytes of a backend, in from clients and out to them.";
    let mut bytes = Making::counter("lb_bytes_total", bytes, BY_DIRECTION).of_lines(rows * 2);
    let packets = "Packets of a backend, in from clients and out to them.";
    let mut packets = Making::counter("lb_packets_total", packets, BY_DIRECTION).of_lines(rows * 2);
    let ports = "New flows of a backend that got another source port, since theirs was taken.";
    let mut ports =
        Making::counter("lb_backend_ports_changed_total", ports, BACKEND).of_lines(rows);
    for Row { labels, backend } in backends {
        live.of(labels, backend.live_flows as f64);
        opened.of(labels, backend.traffic.new_flows as f64);
        ports.of(labels, backend.traffic.ports_changed as f64);
        for (direction, [packets_so, bytes_so]) in directions(&backend.traffic) {
            let labels = labels.and("direction", direction);
            packets.of(&labels, packets_so);
            bytes.of(&labels, bytes_so);
        }
    }
    [live.finish(), opened.finish(), bytes.finish(), packets.finish(), ports.finish()]
}

/// What traffic itself says of backends.
fn passive(backends: &[Row<'_>]) -> [Family; 2] {
    let average =
        "How long a backend takes on average to answer a SYN, seconds; what is old weighs less.";
    let mut average = Making::gauge("lb_backend_handshake_average_seconds", average, BACKEND);
    let failed = "Connections that a backend has refused, not answered, or reset in the middle.";
    let labels = ["service", "route", "backend", "reason"];
    let mut failed = Making::counter("lb_backend_failed_connections_total", failed, labels);
    for Row { labels, backend } in backends {
        let passive = &backend.passive;
        if let Some(ms) = passive.handshake_ms {
            average.of(labels, ms / 1e3);
        }
        for (reason, count) in [
            ("refused", passive.refused),
            ("unanswered", passive.unanswered),
            ("reset", passive.reset),
        ] {
            if count > 0 {
                failed.of(&labels.and("reason", reason), count as f64);
            }
        }
    }
    [average.finish(), failed.finish()]
}

/// Live flows by address, whichever service has them.
fn active(services: &[ServiceStatus]) -> Family {
    let mut flows: BTreeMap<SocketAddr, u64> = BTreeMap::new();
    let pools = services.iter().flat_map(|service| &service.pools);
    for backend in pools.flat_map(|pool| &pool.backends) {
        *flows.entry(backend.address).or_default() += backend.live_flows;
    }
    let help = "Flows to an address and port, of all services.";
    let active = Making::sum("lb_connections_active", help, ["backend"]);
    let mut active = active.of_lines(flows.len());
    for (&address, &count) in &flows {
        active.row([&target::text(address)], count as f64);
    }
    active.finish()
}

/// What checks and operators say.
pub(super) fn health(health: &[BackendHealth]) -> Vec<Family> {
    let healthy =
        "1 for a backend whose checks say that it is healthy; one without checks has no row.";
    let mut healthy = Making::gauge("lb_backend_health", healthy, BACKEND);
    let latency = "How long the last good check took, seconds.";
    let mut latency = Making::gauge("lb_health_check_last_latency_seconds", latency, BACKEND);
    for backend in health {
        let name = target::text(backend.backend);
        let labels = [&*backend.service, &*backend.route, &*name];
        if let Some(check) = &backend.check {
            healthy.flag(labels, backend.health == "healthy");
            if let Some(ms) = check.latency_ms {
                latency.row(labels, ms / 1e3);
            }
        }
    }
    vec![healthy.finish(), latency.finish()]
}

/// How breakers are.
pub(super) fn breakers(breakers: &[BreakerStatus]) -> Vec<Family> {
    let states = "A backend's breaker: 0 closed, 1 half-open, 2 open.";
    let mut states = Making::gauge("lb_circuit_breaker_state", states, BACKEND);
    let rates = "The part of bad outcomes in a breaker's window, 0 to 1.";
    let mut rates = Making::gauge("lb_circuit_breaker_error_rate", rates, BACKEND);
    for breaker in breakers {
        let name = target::text(breaker.backend);
        let labels = [&*breaker.service, &*breaker.route, &*name];
        let number = match &*breaker.state {
            "closed" => 0.0,
            "half-open" => 1.0,
            _ => 2.0,
        };
        states.row(labels, number);
        rates.row(labels, breaker.error_rate);
    }
    vec![states.finish(), rates.finish()]
}

/// Packets and bytes from clients and to them.
fn directions(traffic: &Counters) -> [(&'static str, [f64; 2]); 2] {
    [
        ("in", [traffic.packets_in as f64, traffic.bytes_in as f64]),
        ("out", [traffic.packets_out as f64, traffic.bytes_out as f64]),
    ]
}

//! Families about services, pools and backends.

use std::collections::BTreeMap;

use equipoise_core::config::target;
use prometheus::proto::MetricFamily;

use super::family::Family;
use crate::status::health::BackendHealth;
use crate::status::operate::BreakerStatus;
use crate::status::{BackendStatus, Counters, PoolStatus, ServiceState, ServiceStatus, Status};

const BACKEND: [&str; 3] = ["service", "route", "backend"];
const BY_DIRECTION: [&str; 4] = ["service", "route", "backend", "direction"];
const DIRECTION: [&str; 2] = ["service", "direction"];

/// What services and their backends are and have carried.
pub(super) fn traffic(status: &Status) -> Vec<MetricFamily> {
    let mut families: Vec<_> = services(&status.services).into();
    families.extend(pools(&status.services));
    families.extend(weights(&status.services));
    families.extend(carried(&status.services));
    families.push(active(&status.services));
    families
}

fn services(services: &[ServiceStatus]) -> [MetricFamily; 4] {
    let up = "Whether new flows of a service find a backend.";
    let mut up = Family::gauge("lb_service_up", up, ["service"]);
    let opened = "Flows that a service has opened.";
    let mut opened = Family::counter("lb_service_new_flows_total", opened, ["service"]);
    let bytes = "IP bytes of a service, in from clients and out to them.";
    let mut bytes = Family::counter("lb_service_bytes_total", bytes, DIRECTION);
    let packets = "Packets of a service, in from clients and out to them.";
    let mut packets = Family::counter("lb_service_packets_total", packets, DIRECTION);
    for ServiceStatus { name, state, traffic, .. } in services {
        up.row([name], f64::from(u8::from(*state == ServiceState::Up)));
        opened.row([name], traffic.new_flows as f64);
        for (direction, [packets_so, bytes_so]) in directions(traffic) {
            packets.row([name, direction], packets_so);
            bytes.row([name, direction], bytes_so);
        }
    }
    [up.finish(), opened.finish(), bytes.finish(), packets.finish()]
}

fn pools(services: &[ServiceStatus]) -> [MetricFamily; 2] {
    let algorithm = "How a pool picks backends: 1 for the one that is in the label.";
    let labels = ["service", "route", "algorithm"];
    let mut algorithm = Family::gauge("lb_algorithm", algorithm, labels);
    let panic = "Whether a pool ignores health because too few of its backends are usable.";
    let mut panic = Family::gauge("lb_pool_panic", panic, ["service", "route"]);
    for ServiceStatus { name, pools, .. } in services {
        for pool in pools {
            algorithm.row([name, &pool.route, &pool.algorithm], 1.0);
            panic.row([name, &pool.route], f64::from(u8::from(pool.panic)));
        }
    }
    [algorithm.finish(), panic.finish()]
}

fn weights(services: &[ServiceStatus]) -> [MetricFamily; 4] {
    let configured = "The weight that the configuration gives a backend.";
    let mut configured = Family::gauge("lb_backend_weight_configured", configured, BACKEND);
    let effective = "The weight in force; 0 only when a backend gets no new flow.";
    let mut effective = Family::gauge("lb_backend_weight_effective", effective, BACKEND);
    let share = "A backend's part of the new flows of its address family, 0 to 1.";
    let mut share = Family::gauge("lb_backend_share", share, BACKEND);
    let draining = "Whether a backend is being taken out gently.";
    let mut draining = Family::gauge("lb_backend_draining", draining, BACKEND);
    each(services, &mut |labels, backend| {
        configured.row(labels, backend.configured_weight.into());
        effective.row(labels, backend.effective_weight);
        share.row(labels, backend.share);
        draining.row(labels, f64::from(u8::from(backend.draining)));
    });
    [configured.finish(), effective.finish(), share.finish(), draining.finish()]
}

fn carried(services: &[ServiceStatus]) -> [MetricFamily; 4] {
    let live = "Flows of a backend in the table.";
    let mut live = Family::sum("lb_backend_connections", live, BACKEND);
    let opened = "Flows that have been given to a backend.";
    let mut opened = Family::counter("lb_backend_new_flows_total", opened, BACKEND);
    let bytes = "IP bytes of a backend, in from clients and out to them.";
    let mut bytes = Family::counter("lb_bytes_total", bytes, BY_DIRECTION);
    let packets = "Packets of a backend, in from clients and out to them.";
    let mut packets = Family::counter("lb_packets_total", packets, BY_DIRECTION);
    each(services, &mut |labels, backend| {
        let [service, route, name] = labels;
        live.row(labels, backend.live_flows as f64);
        opened.row(labels, backend.traffic.new_flows as f64);
        for (direction, [packets_so, bytes_so]) in directions(&backend.traffic) {
            packets.row([service, route, name, direction], packets_so);
            bytes.row([service, route, name, direction], bytes_so);
        }
    });
    [live.finish(), opened.finish(), bytes.finish(), packets.finish()]
}

/// Live flows by address, whichever service has them.
fn active(services: &[ServiceStatus]) -> MetricFamily {
    let mut flows: BTreeMap<String, u64> = BTreeMap::new();
    each(services, &mut |[_, _, name], backend| {
        *flows.entry(name.to_owned()).or_default() += backend.live_flows;
    });
    let help = "Flows to an address and port, of all services.";
    let mut active = Family::sum("lb_connections_active", help, ["backend"]);
    flows.iter().for_each(|(name, &count)| active.row([name], count as f64));
    active.finish()
}

/// What checks and operators say.
pub(super) fn health(health: &[BackendHealth]) -> Vec<MetricFamily> {
    let healthy =
        "1 for a backend whose checks say that it is healthy; one without checks has no row.";
    let mut healthy = Family::gauge("lb_backend_health", healthy, BACKEND);
    let latency = "How long the last good check took, seconds.";
    let mut latency = Family::gauge("lb_health_check_last_latency_seconds", latency, BACKEND);
    for backend in health {
        let name = target::text(backend.backend).to_string();
        let labels = [&*backend.service, &*backend.route, &*name];
        if let Some(check) = &backend.check {
            healthy.row(labels, f64::from(u8::from(backend.health == "healthy")));
            if let Some(ms) = check.latency_ms {
                latency.row(labels, ms / 1e3);
            }
        }
    }
    vec![healthy.finish(), latency.finish()]
}

/// How breakers are.
pub(super) fn breakers(breakers: &[BreakerStatus]) -> Vec<MetricFamily> {
    let states = "A backend's breaker: 0 closed, 1 half-open, 2 open.";
    let mut states = Family::gauge("lb_circuit_breaker_state", states, BACKEND);
    let rates = "The part of bad outcomes in a breaker's window, 0 to 1.";
    let mut rates = Family::gauge("lb_circuit_breaker_error_rate", rates, BACKEND);
    for breaker in breakers {
        let name = target::text(breaker.backend).to_string();
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

fn each(services: &[ServiceStatus], look: &mut dyn FnMut([&str; 3], &BackendStatus)) {
    for ServiceStatus { name, pools, .. } in services {
        for PoolStatus { route, backends, .. } in pools {
            for backend in backends {
                let address = target::text(backend.address).to_string();
                look([name, route, &address], backend);
            }
        }
    }
}

/// Packets and bytes from clients and to them.
fn directions(traffic: &Counters) -> [(&'static str, [f64; 2]); 2] {
    [
        ("in", [traffic.packets_in as f64, traffic.bytes_in as f64]),
        ("out", [traffic.packets_out as f64, traffic.bytes_out as f64]),
    ]
}

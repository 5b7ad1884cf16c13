//! Answers to the admin API, out of the state and the data plane's counters.
//!
//! The flow table is read whole for its numbers, so a reading is used again for ten times as long
//! as it took: asking often does not slow the loop down by more than a tenth.

use std::collections::BTreeMap;
use std::time::Duration;

use equipoise_common::flow::count::Pressure;
use equipoise_common::value::Traffic;
use equipoise_common::verdict::Verdict;
use equipoise_core::config::{Affinity, Algorithm, Backend, Protocol, Route};
use equipoise_core::id::DEFAULT_ROUTE;
use equipoise_core::state::{BackendView, PoolView, ServiceView};
use tokio::time::Instant;

use super::streams::Reasons;
use super::{Driver, Source};
use crate::admin::{Command, ProblemDetails};
use crate::dataplane::DataPlane;
use crate::dataplane::kernel::KernelError;
use crate::host::Machine;
use crate::metrics::FlowSummary;
use crate::status::load::{Headroom, Room};
use crate::status::{
    BackendStatus, ConfigStatus, Counters, Decimal, FlowEvents, FlowTable, Health, ListenStatus,
    Observing, PassiveStatus, PoolStatus, ServiceState, ServiceStatus, Status,
};

/// The flow table in numbers.
#[derive(Debug)]
pub(super) struct FlowSample {
    taken: Instant,
    took: Duration,
    opening: u64,
    established: u64,
    closing: u64,
}

/// Everything that is counted.
struct Counted {
    services: BTreeMap<u32, Traffic>,
    backends: BTreeMap<u32, Traffic>,
    live: BTreeMap<u32, u64>,
    passive: BTreeMap<u32, PassiveStatus>,
    flows: BTreeMap<u32, FlowSummary>,
    pressure: BTreeMap<String, u64>,
    verdicts: BTreeMap<String, u64>,
    hooks: BTreeMap<String, BTreeMap<String, u64>>,
    refused: BTreeMap<u32, Reasons>,
    refused_of_all: Reasons,
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    pub(super) fn answer(&mut self, command: Command) {
        // Whoever asked may be gone; nothing is to be done about it.
        match command {
            Command::Counts(reply) => drop(reply.send(self.counts())),
            Command::Status(reply) => drop(reply.send(self.status().map_err(unreadable))),
            Command::Unready(reply) => drop(reply.send(Ok(self.unready()))),
            Command::Flows(filter, page, reply) => drop(reply.send(self.flows(&filter, page))),
            Command::Talkers(request, reply) => drop(reply.send(self.talkers(&request))),
            Command::EndFlows(request, reply) => drop(reply.send(self.end_flows(&request))),
            Command::Limits(service, reply) => {
                drop(reply.send(self.limits(service.as_deref())));
            }
            Command::Denied(reply) => drop(reply.send(Ok(self.denied()))),
            Command::Pools(of, reply) => drop(reply.send(self.pool_shares(&of))),
            Command::Recompute(of, reply) => drop(reply.send(self.recompute(&of))),
            Command::Plan(request, by, reply) => drop(reply.send(self.plan(&request, &by))),
            Command::Explain(request, reply) => self.explain(&request, reply),
            Command::Drain(request, reply) => self.drain(&request, reply),
            Command::Undrain(request, reply) => drop(reply.send(self.undrain(&request))),
            Command::Drains(reply) => drop(reply.send(Ok(self.drains()))),
            Command::Breakers(service, reply) => {
                drop(reply.send(self.breakers(service.as_deref())));
            }
            Command::TurnBreaker(request, reply) => drop(reply.send(self.turn_breaker(&request))),
            Command::Names(reply) => drop(reply.send(Ok(self.names()))),
            Command::RefreshNames(name, reply) => self.refresh_names(&name, reply),
            Command::Health(filter, reply) => drop(reply.send(self.health(&filter))),
            Command::SetHealth(name, word, reply) => {
                drop(reply.send(self.take_word(&name, &word)));
            }
            Command::CheckHealth(name, reply) => self.check_now(&name, reply),
            Command::FlowEvents(filter, reply) => drop(reply.send(self.follow_flows(&filter))),
            Command::Events(after, reply) => drop(reply.send(Ok(self.subscribe(after)))),
            Command::Confirm(reply) => drop(reply.send(self.confirm())),
            Command::History(reply) => drop(reply.send(Ok(self.history()))),
            Command::Changes(reply) => drop(reply.send(Ok(self.runtime_changes()))),
            // Taken before they come here, as that waits for the machine.
            Command::Configure(_, _, reply) => drop(reply),
            Command::Trace(_, reply) => drop(reply),
            // The loop ends with this one and answers it at the very end.
            Command::Upgrade(_, reply) => drop(reply),
            Command::Stop(reply) => drop(reply),
        }
    }

    fn status(&mut self) -> Result<Status, KernelError> {
        self.sample_flows()?;
        let counted = self.count()?;
        let load = self.load();
        let flows = self.flows.as_ref();
        let pressed = |kinds: &[Pressure]| -> u64 {
            kinds.iter().filter_map(|kind| counted.pressure.get(kind.name())).sum()
        };
        let counted_lost = pressed(&[Pressure::EventsLost]);
        let occupancy = self.plane.occupancy();
        let tally = self.events.tally();
        let reasons = self.reasons();
        let [v4, v6] =
            occupancy.by_family.map(|live| Room::of(self.plane.max_flows().into(), live));
        let services = self.state.services();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.clone(),
            pid: std::process::id(),
            uptime_seconds: self.clock.uptime().as_secs(),
            state: if reasons.is_empty() { Health::Ok } else { Health::Degraded },
            reasons,
            notes: self.notes(),
            observing: self
                .state
                .config()
                .settings
                .observe
                .then(|| Observing { agreed: tally.answered[0], other: tally.answered[1] }),
            config: self.config_status(),
            services: services.iter().map(|view| service(view, &counted)).collect(),
            interfaces: self.interfaces.status(),
            flow_table: FlowTable {
                size: self.plane.max_flows().into(),
                to_be_carried: occupancy.to_be_carried,
                carrying: occupancy.is_carrying,
                opening: flows.map_or(0, |f| f.opening),
                established: flows.map_or(0, |f| f.established),
                closing: flows.map_or(0, |f| f.closing),
                live: occupancy.live,
                headroom: Headroom { ipv4: v4, ipv6: v6 },
                memory_bytes: occupancy.memory,
                evicted: pressed(&[Pressure::EvictedUnconfirmed, Pressure::EvictedClosing]),
                refused: pressed(&[
                    Pressure::RefusedFull,
                    Pressure::RefusedService,
                    Pressure::RefusedBackend,
                ]),
                pressure: counted.pressure,
                events: FlowEvents {
                    opened: tally.opened,
                    closed: tally.closed.into_iter().map(|(k, n)| (k.to_owned(), n)).collect(),
                    lost: tally.lost + counted_lost,
                },
            },
            load,
            access_log: self.access_log.status(),
            refused: counted.refused_of_all,
            verdicts: counted.verdicts,
            hooks: counted.hooks,
        })
    }

    fn config_status(&self) -> ConfigStatus {
        let path = match &self.source {
            Source::File(path) => Some(path.display().to_string()),
            Source::Flags => None,
        };
        ConfigStatus {
            path,
            generation: self.generation.number,
            loaded_at: humantime::format_rfc3339_seconds(self.generation.loaded_at).to_string(),
            last_error: self.generation.last_error.clone(),
            watching: self.watch.is_some(),
            confirm_within_seconds: self.unconfirmed.as_ref().map(|unconfirmed| {
                let left = unconfirmed.until.saturating_duration_since(Instant::now());
                left.as_secs_f64()
            }),
            runtime_changes: self.runtime_changes(),
        }
    }

    fn count(&self) -> Result<Counted, KernelError> {
        let planned = self.state.planned();
        let services: Vec<u32> = planned.service_holders.keys().copied().collect();
        let live = planned.backends.iter().filter(|(_, backend)| !backend.is_gone());
        let backends: Vec<u32> = live.map(|(&id, _)| id).collect();
        let mut verdicts: BTreeMap<String, u64> =
            Verdict::ALL.iter().map(|v| (v.name().to_owned(), 0)).collect();
        let mut hooks: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for (hook, verdict, count) in self.plane.verdicts()? {
            *verdicts.entry(verdict.name().to_owned()).or_default() += count;
            if count > 0 {
                hooks
                    .entry(hook.name().to_owned())
                    .or_default()
                    .insert(verdict.name().to_owned(), count);
            }
        }
        let [of_services, of_backends] = self.traffic((&services, &backends))?;
        let (refused, refused_of_all) = self.refused_streams();
        Ok(Counted {
            passive: self.all_passive(),
            flows: self.all_flows(),
            live: backends.iter().map(|&id| (id, self.live_flows(id))).collect(),
            pressure: self
                .plane
                .pressures()?
                .into_iter()
                .map(|(pressure, count)| (pressure.name().to_owned(), count))
                .collect(),
            services: of_services,
            backends: of_backends,
            verdicts,
            hooks,
            refused,
            refused_of_all,
        })
    }

    fn sample_flows(&mut self) -> Result<(), KernelError> {
        if self.flows.as_ref().is_some_and(|f| f.taken.elapsed() < f.took * 10) {
            return Ok(());
        }
        let began = Instant::now();
        let mut sample = FlowSample {
            taken: began,
            took: Duration::ZERO,
            opening: 0,
            established: 0,
            closing: 0,
        };
        self.plane.flows(&mut |row| {
            match row.state {
                "opening" | "one-way" => sample.opening += 1,
                "established" | "two-way" => sample.established += 1,
                _ => sample.closing += 1,
            }
            true
        })?;
        sample.taken = Instant::now();
        sample.took = began.elapsed();
        self.flows = Some(sample);
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "given to map_err")]
pub(super) fn unreadable(error: KernelError) -> ProblemDetails {
    ProblemDetails::failed(error.to_string())
}

fn service(view: &ServiceView<'_>, counted: &Counted) -> ServiceStatus {
    let config = view.service;
    let mut addresses: Vec<_> = view.keys.iter().map(|key| key.vip().ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let up = view.backends().any(|backend| backend.effective_weight.value() > 0.0);
    ServiceStatus {
        name: config.name.clone(),
        listen: ListenStatus {
            interfaces: config.listen.interfaces.clone(),
            address: config.listen.address,
            addresses,
            port: config.listen.port.clone(),
            protocol: protocol(config.listen.protocol).to_owned(),
        },
        state: if up { ServiceState::Up } else { ServiceState::Down },
        traffic: view.id.and_then(|id| counted.services.get(&id)).map(counters).unwrap_or_default(),
        refused: view.id.and_then(|id| counted.refused.get(&id)).cloned().unwrap_or_default(),
        pools: view.pools.iter().map(|view| pool(view, counted)).collect(),
    }
}

fn pool(view: &PoolView<'_>, counted: &Counted) -> PoolStatus {
    let members = view.backends.iter().zip(view.pool.backends);
    PoolStatus {
        route: view.pool.route.map_or(DEFAULT_ROUTE, Route::name).to_owned(),
        algorithm: algorithm(view.pool.algorithm).to_owned(),
        affinity: affinity(view.pool.affinity).map(str::to_owned),
        panic: view.panics,
        backends: members.map(|(view, member)| backend(view, member, counted)).collect(),
    }
}

fn backend(view: &BackendView, member: &Backend, counted: &Counted) -> BackendStatus {
    let live = view.id.and_then(|id| counted.live.get(&id));
    BackendStatus {
        address: view.address,
        names: member.names().map(|named| named.text()).collect(),
        configured_weight: Decimal(view.configured_weight.value()),
        effective_weight: view.effective_weight.value(),
        share: view.share,
        health: view.health.into(),
        breaker: view.breaker.into(),
        draining: view.is_drained,
        live_flows: live.copied().unwrap_or_default(),
        passive: view.id.and_then(|id| counted.passive.get(&id)).copied().unwrap_or_default(),
        flows: view.id.and_then(|id| counted.flows.get(&id)).copied().unwrap_or_default(),
        traffic: view.id.and_then(|id| counted.backends.get(&id)).map(counters).unwrap_or_default(),
    }
}

fn counters(traffic: &Traffic) -> Counters {
    let Traffic { new_flows, packets_in, bytes_in, packets_out, bytes_out, ports_changed } =
        *traffic;
    Counters { new_flows, packets_in, bytes_in, packets_out, bytes_out, ports_changed }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Both => "both",
    }
}

pub(super) fn algorithm(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Maglev => "maglev",
        Algorithm::Random => "random",
        Algorithm::RoundRobin => "round-robin",
        Algorithm::LeastConnections => "least-connections",
        Algorithm::LeastConnectionsWeights => "least-connections-weights",
    }
}

pub(super) fn affinity(affinity: Affinity) -> Option<&'static str> {
    match affinity {
        Affinity::None => None,
        Affinity::SourceIp => Some("source-ip"),
    }
}

//! What the instance counts of itself, beside what the programs count, and families of it.
//!
//! The driver fills it for a scrape: reloads, events, look-ups, how long plans and their steps take, what checks and flows of each backend
//! were like, what is wrong by topic, how full the tables are and what memory the maps take.

use std::collections::BTreeMap;
use std::time::SystemTime;

use equipoise_core::config::target;
use equipoise_core::id::BackendKey;

use super::family::{Family, Labels, Making};
use super::histogram::{BYTES, FlowHistograms, Histogram, SECONDS};

const BACKEND: [&str; 3] = ["service", "route", "backend"];

/// How checks of a backend went.
#[derive(Clone, Debug, PartialEq)]
pub struct Checks {
    /// How long good ones took, seconds.
    pub latency: Histogram,
    /// How many ended how: `success`, or the kind of failure.
    pub outcomes: BTreeMap<String, u64>,
}

impl Default for Checks {
    fn default() -> Self {
        Self { latency: Histogram::new(SECONDS), outcomes: BTreeMap::new() }
    }
}

/// What is counted; names are those of the labels.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Since when is counted; none where that is not known.
    pub since: Option<SystemTime>,
    /// Reloads by what has become of them.
    pub reloads: BTreeMap<String, u64>,
    /// Events by kind.
    pub events: BTreeMap<String, u64>,
    /// Look-ups of names by what has become of them.
    pub look_ups: BTreeMap<String, u64>,
    /// Pushes to a collector by how they ended.
    pub pushes: BTreeMap<String, u64>,
    /// How long it took to decide what is to be in the maps, seconds.
    pub planned: Histogram,
    /// How long it took to make the maps that, seconds.
    pub applied: Histogram,
    /// Checks by backend.
    pub checks: Vec<(BackendKey, Checks)>,
    /// Flows that have closed, by backend.
    pub flows: Vec<(BackendKey, FlowHistograms)>,
    /// Things that are wrong, by topic.
    pub reasons: BTreeMap<&'static str, u64>,
    /// Flows in the tables by address family.
    pub live: BTreeMap<&'static str, u64>,
    /// Memory of maps, bytes, by name.
    pub maps: BTreeMap<String, u64>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            since: None,
            reloads: BTreeMap::new(),
            events: BTreeMap::new(),
            look_ups: BTreeMap::new(),
            pushes: BTreeMap::new(),
            planned: Histogram::new(SECONDS),
            applied: Histogram::new(SECONDS),
            checks: Vec::new(),
            flows: Vec::new(),
            reasons: BTreeMap::new(),
            live: BTreeMap::new(),
            maps: BTreeMap::new(),
        }
    }
}

/// The families of it.
pub(super) fn families(counts: &Counts) -> Vec<Family> {
    let counted = |name, help, label: &'static str, numbers: &BTreeMap<String, u64>| {
        let mut family = Making::counter(name, help, [label]);
        numbers.iter().for_each(|(of, &count)| family.row([of], count as f64));
        family.finish()
    };
    let reloads = "Configurations that were to be taken, by what has become of them.";
    let events = "Events, as `equipoise events` tells them, by kind.";
    let look_ups = "Look-ups of names, by what has become of them.";
    let pushes =
        "Pushes of metrics to a collector, by how they ended: `partial` where it has refused some.";
    let mut families = vec![
        counted("lb_reloads_total", reloads, "result", &counts.reloads),
        counted("lb_events_total", events, "kind", &counts.events),
        counted("lb_dns_lookups_total", look_ups, "result", &counts.look_ups),
        counted("lb_otlp_pushes_total", pushes, "result", &counts.pushes),
        of_all(
            "lb_plan_seconds",
            "How long it took to decide what is to be in the maps.",
            &counts.planned,
        ),
        of_all(
            "lb_apply_seconds",
            "How long it took to make the maps what was decided.",
            &counts.applied,
        ),
    ];
    families.extend(checks(&counts.checks));
    families.extend(flows(&counts.flows));
    families.extend(state(counts));
    families
}

fn of_all(name: &'static str, help: &'static str, histogram: &Histogram) -> Family {
    let mut family = Making::histogram(name, help, []);
    family.values(&Labels::of([], []), histogram);
    family.finish()
}

fn labels(key: &BackendKey) -> Labels {
    Labels::of(BACKEND, [&key.service, key.route_name(), &target::text(key.address)])
}

fn checks(checks: &[(BackendKey, Checks)]) -> [Family; 2] {
    let latency = "How long good checks of a backend took.";
    let mut latency = Making::histogram("lb_health_check_latency_seconds", latency, BACKEND);
    let outcomes = "Checks of a backend, by how they ended: `success`, or the kind of failure.";
    let names = ["service", "route", "backend", "outcome"];
    let mut outcomes = Making::counter("lb_health_checks_total", outcomes, names);
    for (key, of) in checks {
        let labels = labels(key);
        if of.latency.count() > 0 {
            latency.values(&labels, &of.latency);
        }
        for (outcome, &count) in &of.outcomes {
            outcomes.of(&labels.and("outcome", outcome), count as f64);
        }
    }
    [latency.finish(), outcomes.finish()]
}

/// Those of backends that have had none are left out.
fn flows(flows: &[(BackendKey, FlowHistograms)]) -> [Family; 3] {
    let [seconds, sizes] = [SECONDS, BYTES].map(|bounds| flows.len() * (bounds.len() + 3));
    let lifetime = "How long flows of a backend lasted, from opening to the last packet.";
    let mut lifetime =
        Making::histogram("lb_backend_latency_seconds", lifetime, BACKEND).of_lines(seconds);
    let handshake =
        "How long connections to a backend took from the SYN until they were confirmed.";
    let mut handshake =
        Making::histogram("lb_backend_handshake_seconds", handshake, BACKEND).of_lines(seconds);
    let bytes = "IP bytes of flows of a backend, in from clients and out to them.";
    let names = ["service", "route", "backend", "direction"];
    let mut bytes = Making::histogram("lb_backend_flow_bytes", bytes, names).of_lines(sizes * 2);
    for (key, flows) in flows {
        let labels = labels(key);
        if flows.lifetime.count() > 0 {
            lifetime.values(&labels, &flows.lifetime);
            bytes.values(&labels.and("direction", "in"), &flows.bytes_in);
            bytes.values(&labels.and("direction", "out"), &flows.bytes_out);
        }
        if flows.handshake.count() > 0 {
            handshake.values(&labels, &flows.handshake);
        }
    }
    [lifetime.finish(), handshake.finish(), bytes.finish()]
}

fn state(counts: &Counts) -> [Family; 3] {
    let reasons =
        "Things that are not as the configuration wants them, by topic; `status` says them.";
    let mut reasons = Making::gauge("lb_degraded_reason", reasons, ["topic"]);
    counts.reasons.iter().for_each(|(topic, &count)| reasons.row([topic], count as f64));
    let live = "Flows in the table of an address family, exact.";
    let mut live = Making::sum("lb_flow_table_live_by_family", live, ["family"]);
    counts.live.iter().for_each(|(family, &count)| live.row([family], count as f64));
    let maps = "Memory that a map of the programs takes.";
    let mut maps = Making::sum("lb_map_memory_bytes", maps, ["map"]);
    counts.maps.iter().for_each(|(map, &bytes)| maps.row([map], bytes as f64));
    [reasons.finish(), live.finish(), maps.finish()]
}

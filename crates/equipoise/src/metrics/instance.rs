//! Families about the instance as a whole: its configuration, its flow table, its packets, its interfaces.

use prometheus::proto::MetricFamily;

use super::family::Family;
use crate::status::{FlowTable, Health, Status};

/// What every scrape has, whatever else fails.
pub(super) fn always() -> Vec<MetricFamily> {
    let mut up = Family::gauge("lb_up", "1 while the instance answers.", []);
    up.row([], 1.0);
    let mut info = Family::gauge("lb_info", "1, with the version that runs.", ["version"]);
    info.row([env!("CARGO_PKG_VERSION")], 1.0);
    let mut cluster = Family::gauge("lb_cluster_up", "1 in a cluster; there is none.", []);
    cluster.row([], 0.0);
    vec![up.finish(), info.finish(), cluster.finish()]
}

/// Answers that scrapes had to do without.
pub(super) fn failures(failures: &[(&'static str, u64)]) -> MetricFamily {
    let help = "Scrapes that had to do without the families of a source.";
    let mut family = Family::counter("lb_metrics_source_failures_total", help, ["source"]);
    failures.iter().for_each(|&(source, count)| family.row([source], count as f64));
    family.finish()
}

/// All about the instance.
pub(super) fn families(status: &Status) -> Vec<MetricFamily> {
    let mut families = state(status);
    families.extend(flow_table(&status.flow_table));
    families.push(verdicts(status));
    families.push(interfaces(status));
    families
}

fn state(status: &Status) -> Vec<MetricFamily> {
    let one = |name, help, value: f64| {
        let mut family = Family::gauge(name, help, []);
        family.row([], value);
        family.finish()
    };
    let degraded = f64::from(u8::from(status.state == Health::Degraded));
    let refused = f64::from(u8::from(status.config.last_error.is_none()));
    vec![
        one("lb_uptime_seconds", "Since the start.", status.uptime_seconds as f64),
        one("lb_degraded", "Whether something is not as the configuration wants it.", degraded),
        one(
            "lb_degraded_reasons",
            "How many things are not; `status` has them.",
            status.reasons.len() as f64,
        ),
        one(
            "lb_config_generation",
            "Raised with each configuration taken.",
            status.config.generation as f64,
        ),
        one(
            "lb_config_last_reload_successful",
            "Whether the last reload was taken, or found nothing new.",
            refused,
        ),
    ]
}

fn flow_table(table: &FlowTable) -> Vec<MetricFamily> {
    let states = "Flows in the table by state.";
    let mut states = Family::sum("lb_flow_table_flows", states, ["state"]);
    let counts = [table.opening, table.established, table.closing];
    for (state, count) in ["opening", "established", "closing"].into_iter().zip(counts) {
        states.row([state], count as f64);
    }
    let mut live = Family::gauge("lb_flow_table_live", "Flows in the table, exact.", []);
    live.row([], table.live as f64);
    let size = "Flows that the table of each address family holds.";
    let mut size = Family::gauge("lb_flow_table_size", size, []);
    size.row([], table.size as f64);
    let memory = "Memory of the tables of both families.";
    let mut memory = Family::gauge("lb_flow_table_memory_bytes", memory, []);
    memory.row([], table.memory_bytes as f64);
    let pressure = "What became of flows under pressure.";
    let mut pressure = Family::counter("lb_flow_pressure_total", pressure, ["reason"]);
    for (reason, &count) in &table.pressure {
        pressure.row([reason], count as f64);
    }
    let opened = "Flows that have opened, where events are on.";
    let mut opened = Family::counter("lb_flows_opened_total", opened, []);
    opened.row([], table.events.opened as f64);
    let closed = "Flows that have closed, by who or what closed them, where events are on.";
    let mut closed = Family::counter("lb_flows_closed_total", closed, ["reason"]);
    for (reason, &count) in &table.events.closed {
        closed.row([reason], count as f64);
    }
    let mut lost = Family::counter("lb_flow_events_lost_total", "Flow events that were lost.", []);
    lost.row([], table.events.lost as f64);
    vec![
        states.finish(),
        live.finish(),
        size.finish(),
        memory.finish(),
        pressure.finish(),
        opened.finish(),
        closed.finish(),
        lost.finish(),
    ]
}

fn verdicts(status: &Status) -> MetricFamily {
    let help = "Packets by hook, and by the way that they left the programs.";
    let mut family = Family::counter("lb_verdicts_total", help, ["hook", "reason"]);
    for (hook, verdicts) in &status.hooks {
        for (reason, &count) in verdicts {
            family.row([hook, reason], count as f64);
        }
    }
    family.finish()
}

fn interfaces(status: &Status) -> MetricFamily {
    let help = "Whether the programs are attached to an interface, and how.";
    let labels = ["interface", "hook", "mode"];
    let mut family = Family::gauge("lb_interface_attached", help, labels);
    for interface in &status.interfaces {
        let attached = f64::from(u8::from(interface.hook != "none"));
        family.row([&interface.name, &interface.hook, &interface.mode], attached);
    }
    family.finish()
}

//! Families about the instance as a whole: its configuration, its flow table, its packets, its interfaces.

use equipoise_common::value::LAYOUT;

use super::family::{Family, Making};
use crate::status::{FlowTable, Health, Status};

/// What every scrape has, whatever else fails.
pub(super) fn always() -> Vec<Family> {
    let up = Making::gauge("lb_up", "1 while the instance answers.", []).one(1.0);
    let mut info = Making::gauge("lb_info", "1, with the version that runs.", ["version"]);
    info.row([env!("CARGO_PKG_VERSION")], 1.0);
    let build = "1, with what was built: version, processor, and the number of the maps' layout.";
    let mut build = Making::gauge("lb_build_info", build, ["version", "arch", "layout"]);
    build.row([env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, &LAYOUT.to_string()], 1.0);
    let cluster = Making::gauge("lb_cluster_up", "1 in a cluster; there is none.", []).one(0.0);
    vec![up, info.finish(), build.finish(), cluster]
}

/// Answers that scrapes had to do without.
pub(super) fn failures(failures: &[(&'static str, u64)]) -> Family {
    let help = "Scrapes that had to do without the families of a source.";
    let mut family = Making::counter("lb_metrics_source_failures_total", help, ["source"]);
    failures.iter().for_each(|&(source, count)| family.row([source], count as f64));
    family.finish()
}

/// All about the instance.
pub(super) fn families(status: &Status) -> Vec<Family> {
    let mut families = state(status);
    families.extend(flow_table(&status.flow_table));
    families.push(verdicts(status));
    families.push(interfaces(status));
    families.push(limits(status));
    families.extend(access_log(status));
    families
}

fn state(status: &Status) -> Vec<Family> {
    let one = |name, help, value: f64| Making::gauge(name, help, []).one(value);
    let degraded = f64::from(u8::from(status.state == Health::Degraded));
    let taken = f64::from(u8::from(status.config.last_error.is_none()));
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
            taken,
        ),
    ]
}

fn flow_table(table: &FlowTable) -> Vec<Family> {
    let states = "Flows in the table by state.";
    let mut states = Making::sum("lb_flow_table_flows", states, ["state"]);
    let counts = [table.opening, table.established, table.closing];
    for (state, count) in ["opening", "established", "closing"].into_iter().zip(counts) {
        states.row([state], count as f64);
    }
    let live = Making::gauge("lb_flow_table_live", "Flows in the table, exact.", []);
    let size = "Flows that the table of each address family holds.";
    let size = Making::gauge("lb_flow_table_size", size, []);
    let memory = "Memory of the tables of both families.";
    let memory = Making::gauge("lb_flow_table_memory_bytes", memory, []);
    let pressure = "What became of flows under pressure.";
    let mut pressure = Making::counter("lb_flow_pressure_total", pressure, ["reason"]);
    for (reason, &count) in &table.pressure {
        pressure.row([reason], count as f64);
    }
    let opened = "Flows that have opened, where events are on.";
    let opened = Making::counter("lb_flows_opened_total", opened, []);
    let closed = "Flows that have closed, by who or what closed them, where events are on.";
    let mut closed = Making::counter("lb_flows_closed_total", closed, ["reason"]);
    for (reason, &count) in &table.events.closed {
        closed.row([reason], count as f64);
    }
    let lost = Making::counter("lb_flow_events_lost_total", "Flow events that were lost.", []);
    vec![
        states.finish(),
        live.one(table.live as f64),
        size.one(table.size as f64),
        memory.one(table.memory_bytes as f64),
        pressure.finish(),
        opened.one(table.events.opened as f64),
        closed.finish(),
        lost.one(table.events.lost as f64),
    ]
}

fn verdicts(status: &Status) -> Family {
    let help = "Packets by hook, and by the way that they left the programs.";
    let mut family = Making::counter("lb_verdicts_total", help, ["hook", "reason"]);
    for (hook, verdicts) in &status.hooks {
        for (reason, &count) in verdicts {
            family.row([hook, reason], count as f64);
        }
    }
    family.finish()
}

fn interfaces(status: &Status) -> Family {
    let help = "Whether the programs are attached to an interface, and how.";
    let labels = ["interface", "hook", "mode"];
    let mut family = Making::gauge("lb_interface_attached", help, labels);
    for interface in &status.interfaces {
        let labels = [&*interface.name, &interface.hook, &interface.mode];
        family.flag(labels, interface.hook != "none");
    }
    family.finish()
}

/// Verdicts of packets that a limit or a list has turned away.
const LIMITS: [&str; 6] = [
    "flow_limit",
    "source_denied",
    "source_limit",
    "backend_limit",
    "answer_limit",
    "flow_refused",
];

fn limits(status: &Status) -> Family {
    let help = "Packets, and connections taken up, that were turned away by a limit, a list, or for want of room.";
    let mut family = Making::counter("lb_limit_hits_total", help, ["limit"]);
    for limit in LIMITS {
        if let Some(&count) = status.verdicts.get(limit) {
            let taken_up = status.refused.get(limit).copied().unwrap_or_default();
            family.row([limit], (count + taken_up) as f64);
        }
    }
    family.finish()
}

fn access_log(status: &Status) -> [Family; 3] {
    let written = "Lines of the access log, by where they went.";
    let mut written = Making::counter("lb_access_log_lines_total", written, ["output"]);
    let dropped = "Lines of the access log that were lost, by what had no room for them.";
    let mut dropped = Making::counter("lb_access_log_dropped_total", dropped, ["reason"]);
    let size = "How large the file of the access log is.";
    let mut size = Making::gauge("lb_access_log_size_bytes", size, []);
    if let Some(log) = &status.access_log {
        written.row(["file"], log.written.file as f64);
        written.row(["stdout"], log.written.stdout as f64);
        dropped.row(["queue"], log.dropped.queue as f64);
        dropped.row(["file"], log.dropped.file as f64);
        dropped.row(["stdout"], log.dropped.stdout as f64);
        if let Some(bytes) = log.size_bytes {
            size.row([], bytes as f64);
        }
    }
    [written.finish(), dropped.finish(), size.finish()]
}

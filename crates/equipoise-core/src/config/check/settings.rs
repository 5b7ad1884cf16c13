//! The keys of `[settings]`.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use super::health::{self, CheckDraft};
use super::limits::{self, Owner};
use super::policy::duration;
use super::report::{At, Report, shown};
use super::service::interfaces;
use super::{address, admin, breaker, keys, log, metrics, named, otlp, panic};
use crate::config::breaker::Thresholds;
use crate::config::health::Recovery;
use crate::config::{Attach, AttachMode, BackendInterfaces, LeastConnections, OnExit, Settings};

/// A flow takes some 200 bytes of the IPv4 table and 400 of the IPv6 one: what the most takes, few machines have.
pub(super) const MAX_FLOWS: RangeInclusive<u32> = 1..=64_000_000;

pub(super) const ATTACH: [(&str, AttachMode); 4] = [
    ("auto", AttachMode::Auto),
    ("xdp", AttachMode::Xdp),
    ("xdp-generic", AttachMode::XdpGeneric),
    ("tc", AttachMode::Tc),
];

pub(super) const ON_EXIT: [(&str, OnExit); 2] =
    [("detach", OnExit::Detach), ("keep", OnExit::Keep)];

/// Checks the settings; what is not given, or wrong and reported, has its default.
pub(super) fn settings(report: &mut Report<'_>, at: &At<'_>) -> Settings {
    let mut settings = Settings::default();
    let Some(fields) = report.fields(at, &keys::SETTINGS) else { return settings };
    if let Some(at) = fields.get("attach") {
        attach(report, &at, &mut settings.attach);
    }
    if let Some(found) = fields.get("backend-interfaces").and_then(|at| leads(report, &at)) {
        settings.backend_interfaces = found;
    }
    if let Some(found) = fields.get("max-flows").and_then(|at| report.number(&at, &MAX_FLOWS)) {
        settings.max_flows = found;
    }
    if let Some(found) = fields.get("events").and_then(|at| report.boolean(&at)) {
        settings.events = found;
    }
    if let Some(found) = fields.get("observe").and_then(|at| report.boolean(&at)) {
        settings.observe = found;
    }
    if let Some(found) = fields.get("exec-checks").and_then(|at| report.boolean(&at)) {
        settings.exec_checks = found;
        report.exec_checks = found;
    }
    if let Some(at) = fields.get("health-check") {
        report.common_check = health::check(report, &at, &CheckDraft::default());
    }
    report.common_recovery = panic::recovery(report, &fields, Recovery::default());
    report.common_panic = panic::common_panic(report, &fields);
    if let Some(at) = fields.get("breaker") {
        settings.breaker = Some(breaker::breaker(report, &at, Thresholds::default()));
        report.common_breaker = settings.breaker;
    }
    if let Some(at) = fields.get("drain") {
        settings.drain = breaker::drain(report, &at);
    }
    if let Some(at) = fields.get("dns") {
        settings.dns = named::dns(report, &at);
    }
    if let Some(at) = fields.get("limits") {
        settings.limits = limits::limits(report, &at, Owner::Settings);
    }
    if let Some(found) = fields.get("on-exit").and_then(|at| report.choice(&at, &ON_EXIT)) {
        settings.on_exit = found;
    }
    settings.admin = fields.get("admin").map(|at| admin::admin(report, &at));
    settings.metrics = fields.get("metrics").map(|at| metrics::metrics(report, &at));
    if let (Some(admin), Some(metrics)) = (&settings.admin, &settings.metrics)
        && meet(admin.listen, metrics.listen)
        && let Some(at) = fields.get("metrics")
    {
        let message = format!("the admin API listens on {} already", admin.listen);
        report.problem(
            &at.place,
            message,
            "another port, or another address; the API has the metrics, too",
        );
    }
    settings.otlp = fields.get("otlp").and_then(|at| otlp::otlp(report, &at));
    let access_log = fields.get("access-log");
    settings.access_log = access_log.map(|at| log::access_log(report, &at, settings.events));
    if let Some(at) = fields.get("log") {
        settings.log = log::log(report, &at);
    }
    if let Some(at) = fields.get("least-connections") {
        least_connections(report, &at, &mut settings.least_connections);
    }
    settings
}

/// Whether two cannot listen on these at once.
fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = |address: SocketAddr| address.ip().is_unspecified();
    let is_one_family = one.is_ipv4() == other.is_ipv4();
    one.port() == other.port()
        && (one.ip() == other.ip() || is_one_family && (is_any(one) || is_any(other)))
}

fn least_connections(report: &mut Report<'_>, at: &At<'_>, settings: &mut LeastConnections) {
    let Some(fields) = report.fields(at, &keys::LEAST_CONNECTIONS) else { return };
    if let Some(found) = fields.get("update-interval").and_then(|at| duration(report, &at)) {
        settings.update_interval = found;
    }
    if let Some(found) = fields.get("weighted").and_then(|at| report.boolean(&at)) {
        settings.weighted = found;
    }
}

/// One mode for all interfaces, or a table of modes by interface.
fn attach(report: &mut Report<'_>, at: &At<'_>, attach: &mut Attach) {
    if !at.is_table() {
        if let Some(mode) = report.choice(at, &ATTACH) {
            attach.default = mode;
        }
        return;
    }
    let Some(modes) = report.table(at, String::new) else { return };
    for (name, at) in modes.all() {
        if let Err((message, allowed)) = address::interface(name) {
            report.problem(&at.place, message, allowed);
        }
        let Some(mode) = report.choice(&at, &ATTACH) else { continue };
        if name == "default" {
            attach.default = mode;
        } else {
            attach.interfaces.insert(name.to_owned(), mode);
        }
    }
}

/// Where replies are awaited.
fn leads(report: &mut Report<'_>, at: &At<'_>) -> Option<BackendInterfaces> {
    const ALLOWED: &str = "`auto` or a list of interfaces, such as [\"eth1\"]";
    if !at.is_text() {
        return Some(BackendInterfaces::Named(interfaces(report, at, ALLOWED)));
    }
    let text = report.text(at, ALLOWED)?;
    if text != "auto" {
        report.problem(&at.place, format!("{} is not a list", shown(text)), ALLOWED);
        return None;
    }
    Some(BackendInterfaces::Auto)
}

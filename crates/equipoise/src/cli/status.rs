//! `equipoise status`: what is wrong first, then what there is.

use std::fmt::Write;

use super::args::{self, Global, Services};
use super::{Exit, Failure, change, json, table, watch};
use equipoise_core::config::target;

use crate::known::there_are;
use crate::status::load::{Headroom, Level, Load};
use crate::status::{
    BackendStatus, Decimal, FlowTable, Health, PassiveStatus, PoolStatus, ServiceState,
    ServiceStatus, Status,
};

pub(super) async fn status(global: &Global, asked: &args::Status) -> Result<(), Failure> {
    watch::show(asked.watch, async || {
        let status = global.client().status().await?;
        if global.json { json(&status) } else { Ok(shown(&status)) }
    })
    .await
}

/// `equipoise services`: of the status, that part alone.
pub(super) async fn services(global: &Global, asked: &Services) -> Result<(), Failure> {
    watch::show(asked.watch, async || {
        let mut services = global.client().status().await?.services;
        if let Some(name) = &asked.service {
            if services.iter().all(|service| service.name != *name) {
                let message = format!("there is no service {name:?}");
                let known = services.iter().map(|service| &*service.name);
                let help = there_are("services", name, known);
                return Err(Failure::new(Exit::NotFound, message).with_help(help));
            }
            services.retain(|service| service.name == *name);
        }
        if global.json {
            return json(&services);
        }
        let mut text = String::new();
        for service in &services {
            // Writing to a string cannot fail.
            let _: std::fmt::Result = write_service(&mut text, service);
        }
        Ok(text.trim_start().to_owned())
    })
    .await
}

fn shown(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _: std::fmt::Result = write(&mut text, status);
    text
}

fn write(text: &mut String, status: &Status) -> std::fmt::Result {
    let wrong = wrong(status);
    match status.state {
        Health::Degraded => writeln!(text, "DEGRADED")?,
        Health::Ok if !wrong.is_empty() => writeln!(text, "WARNING")?,
        Health::Ok => writeln!(text, "ok")?,
    }
    for wrong in wrong {
        writeln!(text, "  ! {wrong}")?;
    }
    for note in &status.notes {
        writeln!(text, "  note: {note}")?;
    }
    let config = &status.config;
    let path = config.path.as_deref().unwrap_or("from flags");
    let uptime = humantime::format_duration(std::time::Duration::from_secs(status.uptime_seconds));
    let (version, instance, pid) = (&status.version, &status.instance, status.pid);
    writeln!(text, "instance {instance}, version {version}, pid {pid}, up {uptime}")?;
    writeln!(
        text,
        "configuration {path}, generation {}, taken {}",
        config.generation, config.loaded_at
    )?;
    for changed in &config.runtime_changes {
        writeln!(text, "  changed since: {}", change::in_words(changed))?;
    }
    for service in &status.services {
        write_service(text, service)?;
    }
    write_interfaces(text, status)?;
    write_flows(text, &status.flow_table)?;
    write_load(text, &status.load)?;
    write_verdicts(text, status)
}

/// All that somebody should look at: why the state is not ok, and what is wrong although it is.
pub(super) fn wrong(status: &Status) -> Vec<String> {
    let mut wrong = status.reasons.clone();
    if let Some(error) = &status.config.last_error {
        wrong.push(format!("the last reload was refused: {error}"));
    }
    let down = status.services.iter().filter(|service| service.state == ServiceState::Down);
    wrong.extend(down.map(|service| format!("service {} has no backend to choose", service.name)));
    for (service, pool) in pools(status).filter(|(_, pool)| pool.panic) {
        let all = pool.backends.len();
        let usable = pool.backends.iter().filter(|backend| is_usable(backend)).count();
        let route = &pool.route;
        wrong.push(format!(
            "panic {usable}/{all}: pool {route} of {service} has too few usable backends"
        ));
    }
    for (service, pool) in pools(status) {
        let open = pool.backends.iter().filter(|backend| backend.breaker == "open");
        wrong.extend(open.map(|backend| {
            format!("the breaker of {} of {service} is open", target::text(backend.address))
        }));
    }
    wrong.extend(pressure(&status.flow_table));
    wrong
}

/// All pools, each with the name of its service.
fn pools(status: &Status) -> impl Iterator<Item = (&str, &PoolStatus)> {
    status
        .services
        .iter()
        .flat_map(|service| service.pools.iter().map(|pool| (service.name.as_str(), pool)))
}

fn is_usable(backend: &BackendStatus) -> bool {
    backend.health != "unhealthy" && backend.breaker != "open" && !backend.draining
}

/// A table that is nearly full is worth a look before it is.
fn pressure(flows: &FlowTable) -> Option<String> {
    const NEARLY: f64 = 80.0;
    let part = 100.0 * flows.live as f64 / flows.size.max(1) as f64;
    let (live, size) = (flows.live, flows.size);
    (part >= NEARLY).then(|| {
        format!("the flow tables hold {live} flows, {part:.0} % of the {size} of one family")
    })
}

fn write_flows(text: &mut String, flows: &FlowTable) -> std::fmt::Result {
    let part = |count: u64| 100.0 * count as f64 / flows.size.max(1) as f64;
    let megabytes = flows.memory_bytes.div_ceil(1_000_000);
    writeln!(
        text,
        "\nflow table: room for {} of each family, {megabytes} MB; {} opening ({:.1} %), {} established ({:.1} %), \
         {} closing ({:.1} %)",
        flows.size,
        flows.opening,
        part(flows.opening),
        flows.established,
        part(flows.established),
        flows.closing,
        part(flows.closing),
    )?;
    let Headroom { ipv4, ipv6 } = flows.headroom;
    writeln!(
        text,
        "free: {} for IPv4 ({:.1} %), {} for IPv6 ({:.1} %)",
        ipv4.free, ipv4.percent, ipv6.free, ipv6.percent
    )?;
    let pressed: Vec<_> = flows.pressure.iter().filter(|(_, count)| **count > 0).collect();
    if pressed.is_empty() {
        return Ok(());
    }
    let mut table = table(&["PRESSURE", "FLOWS OR PACKETS"]);
    for (name, count) in pressed {
        table.add_row([name.clone(), count.to_string()]);
    }
    writeln!(text, "{table}")
}

fn write_load(text: &mut String, load: &Load) -> std::fmt::Result {
    let head = format!("MOST SINCE {}", load.since);
    let mut table = table(&["LOAD", "NOW", &head, "AT"]);
    let mut row = |name: String, level: &Level| {
        let at = level.peak_at.clone().unwrap_or_else(|| "-".to_owned());
        table.add_row([name, level.now.to_string(), level.peak.to_string(), at]);
    };
    row("new flows/s".to_owned(), &load.new_flows_per_second);
    row("packets/s".to_owned(), &load.packets_per_second);
    row("bytes/s".to_owned(), &load.bytes_per_second);
    row("live flows".to_owned(), &load.live_flows);
    for service in &load.services {
        row(format!("live flows of {}", service.name), &service.live_flows);
    }
    writeln!(text, "\n{table}")
}

fn write_service(text: &mut String, service: &ServiceStatus) -> std::fmt::Result {
    let listen = &service.listen;
    let (name, interfaces) = (&service.name, listen.interfaces.join(", "));
    let addresses: Vec<_> = listen.addresses.iter().map(ToString::to_string).collect();
    let addresses =
        if addresses.is_empty() { "no address".to_owned() } else { addresses.join(", ") };
    writeln!(
        text,
        "\nservice {name}: {addresses} port {}/{} on {interfaces}",
        listen.port, listen.protocol
    )?;
    for pool in &service.pools {
        if service.pools.len() > 1 {
            writeln!(text, " route {}", pool.route)?;
        }
        if let Some(affinity) = &pool.affinity {
            writeln!(text, " affinity {affinity}")?;
        }
        if pool.panic {
            writeln!(text, " ! too few backends are usable")?;
        }
        let mut table = table(&[
            "BACKEND",
            "HEALTH",
            "WEIGHT",
            "SHARE",
            "LIVE",
            "ANSWERS IN",
            "FAILED",
            "NEW",
            "PKTS IN",
            "PKTS OUT",
            "BYTES IN",
            "BYTES OUT",
        ]);
        for backend in &pool.backends {
            table.add_row([
                placed(backend),
                believed(backend),
                weight(backend.effective_weight, backend.configured_weight),
                format!("{:.1} %", backend.share * 100.0),
                backend.live_flows.to_string(),
                answers_in(&backend.passive),
                failed(&backend.passive),
                backend.traffic.new_flows.to_string(),
                backend.traffic.packets_in.to_string(),
                backend.traffic.packets_out.to_string(),
                backend.traffic.bytes_in.to_string(),
                backend.traffic.bytes_out.to_string(),
            ]);
        }
        writeln!(text, "{table}")?;
    }
    Ok(())
}

fn write_interfaces(text: &mut String, status: &Status) -> std::fmt::Result {
    let mut table = table(&["INTERFACE", "HOOK", "MODE", "WHY"]);
    for interface in &status.interfaces {
        table.add_row([&interface.name, &interface.hook, &interface.mode, &interface.reason]);
    }
    writeln!(text, "\n{table}")
}

fn write_verdicts(text: &mut String, status: &Status) -> std::fmt::Result {
    let mut table = table(&["VERDICT", "PACKETS"]);
    let seen: Vec<_> = status.verdicts.iter().filter(|(_, count)| **count > 0).collect();
    if seen.is_empty() {
        return writeln!(text, "\nno packets yet");
    }
    for (name, count) in seen {
        table.add_row([name.clone(), count.to_string()]);
    }
    writeln!(text, "\n{table}")
}

/// How long a backend takes to answer a SYN.
pub(super) fn answers_in(passive: &PassiveStatus) -> String {
    passive.handshake_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"))
}

/// How many connections a backend has refused, not answered, or reset.
fn failed(passive: &PassiveStatus) -> String {
    let PassiveStatus { refused, unanswered, reset, .. } = passive;
    (refused + unanswered + reset).to_string()
}

/// How it is by its checks, and what else keeps new flows from it.
fn believed(backend: &BackendStatus) -> String {
    let mut text = backend.health.to_string();
    if !matches!(&*backend.breaker, "closed" | "none") {
        text.push_str(&format!(", breaker {}", backend.breaker));
    }
    if backend.draining {
        text.push_str(", draining");
    }
    text
}

/// Where a backend is, and what name it comes of.
fn placed(backend: &BackendStatus) -> String {
    let address = target::text(backend.address);
    if backend.names.is_empty() {
        address
    } else {
        format!("{address} ({})", backend.names.join(", "))
    }
}

/// The weight in force, and the configured one where it is another.
pub(super) fn weight(effective: f64, configured: Decimal) -> String {
    // Parts of the weights of names have no end.
    let short = |weight: f64| (weight * 1e4).round() / 1e4;
    if effective == configured.0 {
        short(effective).to_string()
    } else {
        format!("{} of {}", short(effective), short(configured.0))
    }
}

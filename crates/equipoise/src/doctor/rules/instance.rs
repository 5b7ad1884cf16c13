//! What a running instance says of itself, and what its counters say of the way back.

use super::super::{Case, Finding, Level};
use crate::status::{BackendStatus, Health, ServiceStatus, Status};

/// Packets to a backend from which on silence means something.
const ENOUGH: u64 = 10;

pub(super) fn all(case: &Case) -> Vec<Finding> {
    let Some(status) = &case.running else {
        return vec![Finding::ok("instance", "", "no instance runs under this name")];
    };
    let mut findings = state(status);
    for service in &status.services {
        let backends = service.pools.iter().flat_map(|pool| &pool.backends);
        findings.extend(backends.filter_map(|backend| return_path(case, service, backend)));
    }
    findings
}

fn state(status: &Status) -> Vec<Finding> {
    let name = &status.instance;
    let mut findings: Vec<Finding> = match status.state {
        Health::Ok => vec![Finding::ok("instance", name, "it runs, and all is as configured")],
        Health::Degraded => status
            .reasons
            .iter()
            .map(|reason| {
                Finding::ok("instance", name, reason)
                    .because(Level::Problem, "not everything is as configured")
                    .helped("`equipoise status` and the log say more; it tries again by itself")
            })
            .collect(),
    };
    if let Some(error) = &status.config.last_error {
        findings.push(
            Finding::ok("instance", name, format!("the last reload was refused: {error}"))
                .because(Level::Warning, "what runs is not what the file says")
                .helped("`equipoise check` says what is wrong with the file"),
        );
    }
    findings
}

/// Where replies come by this host, packets that go and never come back say that they do not.
fn return_path(case: &Case, service: &ServiceStatus, backend: &BackendStatus) -> Option<Finding> {
    let config =
        case.config.as_ref()?.services.iter().find(|config| config.name == service.name)?;
    if config.delivery.mode.keeps_packets() || service.listen.protocol == "udp" {
        return None;
    }
    let (there, back) = (backend.traffic.packets_in, backend.traffic.packets_out);
    let subject = format!("{} {}", service.name, backend.address);
    let measured = format!("{there} packets went there, {back} came back");
    let finding = Finding::ok("return-path", &subject, measured);
    if there < ENOUGH || back > 0 {
        return Some(finding);
    }
    Some(
        finding
            .because(Level::Problem, "clients get no answer from it: it is down or drops them, or its replies take another way than by this host")
            .helped("let its route to the clients lead by this host, or use `mode = \"full-nat\"`"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::sample::{case, configured, level, only, running};
    use super::*;
    use crate::status::{ListenStatus, PoolStatus};
    use equipoise_core::config::Ports;

    #[test]
    fn without_an_instance_there_is_nothing_wrong() {
        assert_eq!(only(&all(&case()), "instance").level, Level::Ok);
    }

    #[test]
    fn reasons_of_a_degraded_instance_are_problems() {
        let mut case = case();
        let mut status = running(Vec::new());
        case.running = Some(status.clone());
        assert_eq!(level(&all(&case), "instance"), Level::Ok);
        status.state = Health::Degraded;
        status.reasons = vec!["eth0 is not attached".to_owned()];
        case.running = Some(status.clone());
        assert_eq!(only(&all(&case), "instance").measured, "eth0 is not attached");
        status.state = Health::Ok;
        status.config.last_error = Some("bad".to_owned());
        case.running = Some(status);
        assert_eq!(level(&all(&case), "instance"), Level::Warning);
    }

    fn service(protocol: &str, packets: (u64, u64)) -> ServiceStatus {
        let backend = serde_json::json!({
            "address": "10.0.0.1:80", "configured_weight": 1, "effective_weight": 1, "share": 1.0,
            "health": "healthy", "breaker": "closed", "draining": false, "live_flows": 0, "new_flows": 1,
            "packets_in": packets.0, "bytes_in": 0, "packets_out": packets.1, "bytes_out": 0, "ports_changed": 0,
            "passive": { "handshake_ms": null, "refused": 0, "unanswered": 0, "reset": 0 },
        });
        ServiceStatus {
            name: "web".to_owned(),
            listen: ListenStatus {
                interfaces: Vec::new(),
                address: None,
                addresses: Vec::new(),
                port: Ports::All,
                protocol: protocol.to_owned(),
            },
            state: crate::status::ServiceState::Up,
            traffic: crate::status::Counters::default(),
            refused: std::collections::BTreeMap::new(),
            pools: vec![PoolStatus {
                route: "default".to_owned(),
                algorithm: "source-hash".to_owned(),
                affinity: None,
                panic: false,
                backends: vec![serde_json::from_value(backend).unwrap()],
            }],
        }
    }

    #[test]
    fn silence_of_a_backend_is_a_problem_where_its_replies_come_by_this_host() {
        let told = |keys: &str, protocol: &str, packets| {
            let mut case = configured(keys);
            case.running = Some(running(vec![service(protocol, packets)]));
            let all = all(&case);
            all.iter().any(|f| f.rule == "return-path").then(|| level(&all, "return-path"))
        };
        assert_eq!(told("", "tcp", (9, 0)), Some(Level::Ok), "too few to tell");
        assert_eq!(told("", "tcp", (10, 0)), Some(Level::Problem));
        assert_eq!(told("", "tcp", (10, 1)), Some(Level::Ok));
        assert_eq!(told("", "udp", (10, 0)), None, "it may want no answer");
        assert_eq!(told("mode = 'dsr'", "tcp", (10, 0)), None, "replies do not come by here");
    }
}

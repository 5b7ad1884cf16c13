//! The keys of one service, each right in itself.
//!
//! What is right goes into a [`Draft`], whatever else is wrong with the service, so that it can be
//! compared with the others. Knows one service at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use equipoise_common::limit;

use super::affinity::{self, Choosing};
use super::health::{self, CheckDraft};
use super::named::{self, NamedDraft, Whom};
use super::report::{At, Fields, Place, Report, clipped};
use super::route::{self, Above, Kind, RouteDraft};
use super::{address, breaker, delivery, keys, panic, policy, ports, stream};
use crate::config::breaker::Thresholds;
use crate::config::health::{Panic, PanicPolicy, Recovery};
use crate::config::{
    Backend, Delivery, HealthCheck, Listen, Named, Policy, Ports, Protocol, Role, Service, target,
};

/// A service as far as it is right.
pub(super) struct Draft {
    pub(super) place: Place,
    pub(super) name: Option<(String, Place)>,
    pub(super) listen: Option<ListenDraft>,
    pub(super) choosing: Choosing,
    pub(super) backends: Backends,
    /// By source, and then by name.
    pub(super) routes: Vec<RouteDraft>,
    pub(super) delivery: Delivery,
    pub(super) manage_address: bool,
    pub(super) policy: Policy,
    pub(super) recovery: Recovery,
    pub(super) panic: Panic,
    pub(super) breaker: Option<Thresholds>,
}

/// A listen as far as it is right.
pub(super) struct ListenDraft {
    pub(super) place: Place,
    pub(super) interfaces: Vec<String>,
    pub(super) address: Reach,
    pub(super) port: Option<Ports>,
    pub(super) protocol: Option<Protocol>,
}

/// The addresses that a service is reached by.
pub(super) enum Reach {
    /// The interfaces' own.
    Own,
    /// One.
    Exact(IpAddr, Place),
    /// What is given is none.
    Wrong,
}

/// A backend whose address is right.
#[derive(Clone)]
pub(super) struct BackendDraft {
    pub(super) place: Place,
    pub(super) backend: Backend,
}

/// The backends of a pool.
#[derive(Clone, Default)]
pub(super) struct Backends {
    /// By their addresses.
    pub(super) placed: Vec<BackendDraft>,
    /// By a name.
    pub(super) named: Vec<NamedDraft>,
}

impl Backends {
    /// As they are configured.
    pub(super) fn finish(self) -> (Vec<Backend>, Vec<Arc<Named>>) {
        let placed = self.placed.into_iter().map(|draft| draft.backend);
        (placed.collect(), named::finished(self.named))
    }
}

impl Draft {
    /// The backends of all its pools, as far as they are right.
    pub(super) fn all_backends(&self) -> impl Iterator<Item = &BackendDraft> {
        let routed = self.routes.iter().flat_map(|route| &route.backends.placed);
        self.backends.placed.iter().chain(routed)
    }

    /// The key by which this host takes up connections itself, if one does so.
    pub(super) fn streams(&self) -> Option<&'static str> {
        if self.routes.iter().any(RouteDraft::is_by_name) {
            return Some(Kind::Name.key());
        }
        let mut pools =
            std::iter::once(&self.backends).chain(self.routes.iter().map(|route| &route.backends));
        let is_told = |pool: &Backends| {
            pool.placed.iter().any(|draft| draft.backend.proxy_protocol.is_some())
                || pool.named.iter().any(|draft| draft.named.proxy_protocol.is_some())
        };
        pools.any(is_told).then_some("proxy-protocol")
    }

    /// The service, when nothing is missing.
    pub(super) fn finish(self) -> Option<Service> {
        let listen = self.listen?;
        let (backends, named) = self.backends.finish();
        let (by_name, by_source): (Vec<_>, Vec<_>) =
            self.routes.into_iter().partition(RouteDraft::is_by_name);
        Some(Service {
            name: self.name?.0,
            listen: Listen {
                interfaces: listen.interfaces,
                address: match listen.address {
                    Reach::Own => None,
                    Reach::Exact(address, _) => Some(address),
                    Reach::Wrong => return None,
                },
                port: listen.port?,
                protocol: listen.protocol?,
            },
            algorithm: self.choosing.algorithm,
            affinity: self.choosing.affinity,
            affinity_prefix: self.choosing.affinity_prefix,
            backends,
            named,
            routes: by_source.into_iter().map(RouteDraft::finish).collect(),
            name_routes: by_name.into_iter().map(RouteDraft::finish).collect(),
            delivery: self.delivery,
            manage_address: self.manage_address,
            policy: self.policy,
            recovery: self.recovery,
            panic: self.panic,
            breaker: self.breaker,
        })
    }
}

pub(super) const PROTOCOLS: [(&str, Protocol); 3] =
    [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("both", Protocol::Both)];

/// Checks all services, each by itself.
pub(super) fn all(report: &mut Report<'_>, at: &At<'_>) -> Vec<Draft> {
    let Some(items) = report.list(at, "a list of tables: in TOML, `[[service]]` above each") else {
        return Vec::new();
    };
    if items.is_empty() {
        report.problem(&at.place, "there is no service".to_owned(), "at least one service");
    }
    if items.len() > limit::SERVICES as usize {
        let message = format!("{} services are too many", items.len());
        report.problem(&at.place, message, format!("at most {}", limit::SERVICES));
    }
    items.iter().filter_map(|item| service(report, item)).collect()
}

fn service(report: &mut Report<'_>, at: &At<'_>) -> Option<Draft> {
    let fields = report.fields(at, &keys::SERVICE)?;
    let name = report.need(&fields, "name", "a name of its own, such as \"web\"");
    let name = name.and_then(|at| Some((service_name(report, &at)?, at.place)));
    let listen = report.need(
        &fields,
        "listen",
        "where clients connect to, such as { interfaces = [\"eth0\"], port = 80 }",
    );
    let listen = listen.and_then(|at| listen_draft(report, &at));
    let common_check = report.common_check.clone();
    let check = fields.get("health-check").map(|at| health::check(report, &at, &common_check));
    let check = check.unwrap_or(common_check);
    let list = report.need(&fields, "backends", "at least one backend");
    let mut backends = list.map(|at| backend_drafts(report, &at, &check)).unwrap_or_default();
    let choosing = affinity::choosing(report, &fields, Choosing::DEFAULT);
    let common = report.common_recovery;
    let recovery = panic::recovery(report, &fields, common);
    let common = report.common_panic.clone();
    let panic_draft = panic::panic(report, &fields, (&check, &common));
    let common = report.common_breaker;
    let breaker = breaker::of_pool(report, &fields, common);
    let above = Above { choosing, check: &check, recovery, panic: &panic_draft, breaker };
    let routes = route::all(report, &fields, above);
    affinity::note_unused(report, &fields, choosing.affinity, &routes);
    if !routes.iter().any(|route| route.panic.policy == PanicPolicy::Fallback) {
        panic_draft.note_idle(report);
    }
    let panic = panic_draft.finish(report, &mut backends);
    let delivery = delivery::delivery(report, &fields);
    delivery::check_backends(report, delivery.mode, listen.as_ref(), &backends);
    for route in &routes {
        delivery::check_backends(report, delivery.mode, listen.as_ref(), &route.backends);
    }
    let mut manage_address = false;
    if let Some(at) = fields.get("manage-address") {
        manage_address = report.boolean(&at).unwrap_or_default();
        let own = listen.as_ref().is_some_and(|listen| matches!(listen.address, Reach::Own));
        if manage_address && own {
            let message = "there is no `address` in `listen` to manage".to_owned();
            report.problem(&at.place, message, "`address` in `listen`, or `false`");
        }
    }
    let draft = Draft {
        place: at.place.clone(),
        name,
        listen,
        choosing,
        backends,
        routes,
        delivery,
        manage_address,
        policy: policy::policy(report, &fields),
        recovery,
        panic,
        breaker,
    };
    stream::check(report, &fields, &draft);
    Some(draft)
}

fn service_name(report: &mut Report<'_>, at: &At<'_>) -> Option<String> {
    const ALLOWED: &str = "at least one character, and no control characters";
    let name = report.text(at, ALLOWED)?;
    if name.is_empty() {
        report.problem(&at.place, "the name is empty".to_owned(), ALLOWED);
        return None;
    }
    if name.chars().any(char::is_control) {
        let message = format!("{:?} has a control character", clipped(name));
        report.problem(&at.place, message, ALLOWED);
        return None;
    }
    Some(name.to_owned())
}

fn listen_draft(report: &mut Report<'_>, at: &At<'_>) -> Option<ListenDraft> {
    const INTERFACES: &str = "a list of interfaces, such as [\"eth0\"]";
    let fields = report.fields(at, &keys::LISTEN)?;
    let names = report.need(&fields, "interfaces", INTERFACES);
    let interfaces = names.map(|at| interfaces(report, &at, INTERFACES)).unwrap_or_default();
    let address = match fields.get("address") {
        Some(at) => reach(report, &at, &interfaces),
        None => Reach::Own,
    };
    let port = report.need(&fields, "port", ports::ALLOWED);
    let port = port.and_then(|at| ports::ports(report, &at, &address));
    let protocol = match fields.get("protocol") {
        Some(at) => report.choice(&at, &PROTOCOLS),
        None => Some(Protocol::Tcp),
    };
    Some(ListenDraft { place: at.place.clone(), interfaces, address, port, protocol })
}

fn reach(report: &mut Report<'_>, at: &At<'_>, interfaces: &[String]) -> Reach {
    let Some(text) = report.text(at, "an address, such as 203.0.113.10") else {
        return Reach::Wrong;
    };
    let address = match address::vip(text) {
        Ok(address) => address,
        Err((message, allowed)) => {
            report.problem(&at.place, message, allowed);
            return Reach::Wrong;
        }
    };
    // No sender puts a loopback address on a wire, and every receiver drops it as a martian.
    if address.is_loopback() && !interfaces.is_empty() && !interfaces.iter().any(|i| i == "lo") {
        let message = format!("`{address}` is reached by interface `lo` alone");
        report.problem(&at.place, message, "`lo` in `interfaces`, or another address");
    }
    Reach::Exact(address, at.place.clone())
}

/// Names of interfaces, each once; those that are wrong are left out.
pub(super) fn interfaces(report: &mut Report<'_>, at: &At<'_>, allowed: &str) -> Vec<String> {
    let items = report.list(at, allowed).unwrap_or_default();
    if at.is_list() && items.is_empty() {
        report.problem(&at.place, "there is no interface".to_owned(), "at least one interface");
    }
    let mut names = Vec::new();
    let mut seen = BTreeSet::new();
    for at in &items {
        let Some(name) = report.text(at, "the name of an interface") else { continue };
        if let Err((message, allowed)) = address::interface(name) {
            report.problem(&at.place, message, allowed);
        } else if seen.insert(name) {
            names.push(name.to_owned());
        } else {
            let message = format!("interface `{name}` is here a second time");
            report.problem(&at.place, message, "each interface once");
        }
    }
    names
}

/// Backends of a pool, as far as they are right.
///
/// They are checked as `check` says, unless they say so themselves.
pub(super) fn backend_drafts(report: &mut Report<'_>, at: &At<'_>, check: &CheckDraft) -> Backends {
    let items = report.list(at, "a list such as [{ address = \"10.0.0.1:8080\" }]");
    let mut drafts = Backends::default();
    let Some(items) = items else { return drafts };
    if items.is_empty() {
        report.problem(&at.place, "there is no backend".to_owned(), "at least one backend");
    }
    if items.len() > limit::POOL_BACKENDS as usize {
        let message = format!("{} backends are too many", items.len());
        report.problem(&at.place, message, format!("at most {}", limit::POOL_BACKENDS));
    }
    let mut idle = 0;
    let mut checks = Checks { above: check, common: None };
    let mut seen: BTreeMap<String, Place> = BTreeMap::new();
    for at in &items {
        let Some(fields) = report.fields(at, &keys::BACKEND) else { continue };
        let whom = named::whom(report, &fields);
        let weight = match fields.get("weight") {
            Some(at) => report.number(&at, &(0..=u16::MAX)),
            None => Some(1),
        };
        idle += usize::from(weight == Some(0));
        let weight = weight.unwrap_or(1);
        let Some((whom, place)) = whom else { continue };
        let text = match &whom {
            Whom::Address(address) => target::text(*address),
            Whom::Name(named, _) => named.text(),
        };
        if let Some(first) = seen.get(&text) {
            let line = report.line(first);
            let message = format!("backend `{text}` is in this pool already, on line {line}");
            report.problem(&place, message, "each backend once in a pool");
            continue;
        }
        seen.insert(text, place.clone());
        let max_flows = fields.get("max-flows").and_then(|at| policy::max_flows(report, &at));
        let max_flows = max_flows.unwrap_or_default();
        let is_backup = fields.get("backup").and_then(|at| report.boolean(&at));
        let role = if is_backup == Some(true) { Role::Backup } else { Role::Regular };
        let proxy_protocol = fields.get("proxy-protocol");
        let proxy_protocol =
            proxy_protocol.and_then(|at| report.choice(&at, &stream::PROXY_PROTOCOLS));
        match whom {
            Whom::Address(address) => {
                let health_check = checks.of(report, &fields, (&place, address.port()));
                let (rank, origin) = (0, None);
                let backend = Backend {
                    address,
                    weight,
                    max_flows,
                    role,
                    proxy_protocol,
                    health_check,
                    rank,
                    origin,
                };
                drafts.placed.push(BackendDraft { place, backend });
            }
            Whom::Name(named, port) => {
                let health_check = checks.of(report, &fields, (&place, port));
                let named =
                    Named { weight, max_flows, role, proxy_protocol, health_check, ..named };
                drafts.named.push(NamedDraft { place, named });
            }
        }
    }
    if !items.is_empty() && idle == items.len() {
        let message = "all weights are 0, so that no new flow finds a backend".to_owned();
        report.problem(&at.place, message, "at least one weight above 0");
    }
    drafts
}

/// How the backends of a pool are checked.
struct Checks<'a> {
    above: &'a CheckDraft,
    /// One for all that say nothing of it.
    common: Option<Option<Arc<HealthCheck>>>,
}

impl Checks<'_> {
    /// The check of a backend at this port.
    fn of(
        &mut self,
        report: &mut Report<'_>,
        fields: &Fields<'_>,
        (place, port): (&Place, u16),
    ) -> Option<Arc<HealthCheck>> {
        let own = fields.get("health-check").map(|at| health::check(report, &at, self.above));
        match (own, port) {
            (Some(own), port) => own.finish(report, place, port),
            (None, 0) => self.above.finish(report, place, 0),
            (None, port) => {
                self.common.get_or_insert_with(|| self.above.finish(report, place, port)).clone()
            }
        }
    }
}

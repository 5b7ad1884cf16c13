//! A configuration as EDN of another system, as far as it can say it.
//!
//! What it cannot say is written as something that it can; whoever asks for the text reads it back, and sees by the difference which keys those
//! are. So there is no second list of what EDN can say.

use std::sync::Arc;
use std::time::Duration;

use crate::config::admin::{Admin, AdminKey, KeySource};
use crate::config::file::edn;
use crate::config::health::{Codes, HealthCheck, Question};
use crate::config::limits::RateLimit;
use crate::config::log::LineFormat;
use crate::config::{
    Affinity, Algorithm, Backend, Config, Name, Named, ProxyProtocol, Role, Route, Service,
    Settings,
};

pub(in crate::config) fn write(config: &Config) -> String {
    let is_checked = config.services.iter().any(has_checks);
    let services: Vec<_> =
        config.services.iter().map(|service| proxy(service, is_checked)).collect();
    let settings = settings(config, is_checked);
    format!("{{:proxies\n [{}]\n :settings\n {settings}}}\n", services.join("\n  "))
}

/// Whether any backend of a service is checked.
fn has_checks(service: &Service) -> bool {
    let names = service.all_routes().flat_map(|route| &route.named).chain(&service.named);
    service.all_backends().any(|backend| backend.health_check.is_some())
        || names.into_iter().any(|named| named.health_check.is_some())
}

fn proxy(service: &Service, is_checked: bool) -> String {
    let interfaces: Vec<_> = service.listen.interfaces.iter().map(|name| string(name)).collect();
    let port = service.listen.port.only().unwrap_or(1);
    let mut parts = vec![
        format!(
            "{{:name {}",
            string(if service.name.trim().is_empty() { "x" } else { &service.name })
        ),
        format!("   :listen {{:interfaces [{}] :port {port}}}", interfaces.join(" ")),
        format!(
            "   :default-target {}",
            targets(&members(&service.backends, &service.named), is_checked)
        ),
    ];
    let routes = service.routes.iter().enumerate();
    let routes: Vec<_> = routes
        .map(|(at, route)| led(route, &format!(":source {}", source(route, at)), is_checked))
        .collect();
    if !routes.is_empty() {
        parts.push(format!("   :source-routes [{}]", routes.join("\n                   ")));
    }
    let names =
        service.name_routes.iter().flat_map(|route| route.names.iter().map(move |n| (route, n)));
    let routes: Vec<_> = names
        .enumerate()
        .map(|(at, (route, name))| {
            led(route, &format!(":sni-hostname {}", hostname(name, at)), is_checked)
        })
        .collect();
    if !routes.is_empty() {
        parts.push(format!("   :sni-routes [{}]", routes.join("\n                ")));
    }
    if service.affinity == Affinity::SourceIp {
        parts.push("   :session-persistence true".to_owned());
    }
    parts.join("\n") + "}"
}

/// A source; one that cannot be said is a name that no other route of the service has.
fn source(route: &Route, at: usize) -> String {
    match (route.source.written.as_slice(), route.source.prefixes.len(), route.source_names.len()) {
        ([one], 1, 0) if !one.starts_with('@') => string(one),
        ([one], 0, 1) if edn::is_host_name(one) => string(one),
        _ => string(&format!("{at}.invalid")),
    }
}

/// A name; one that cannot be said is one that no other route of the service has.
fn hostname(name: &str, at: usize) -> String {
    if edn::is_hostname(name) { string(name) } else { string(&format!("{at}.invalid")) }
}

/// What those who have a route are led to.
fn led(route: &Route, head: &str, is_checked: bool) -> String {
    let persists =
        if route.affinity == Affinity::SourceIp { " :session-persistence true" } else { "" };
    let targets = targets(&members(&route.backends, &route.named), is_checked);
    let key = if targets.starts_with('[') { "targets" } else { "target" };
    format!("{{{head} :{key} {targets}{persists}}}")
}

/// Who is in a pool, by an address or by a name.
struct Member<'a> {
    /// Where it is, in keys of EDN.
    place: String,
    is_named: bool,
    weight: u16,
    proxy_protocol: Option<ProxyProtocol>,
    health_check: Option<&'a HealthCheck>,
}

impl<'a> Member<'a> {
    fn placed(backend: &'a Backend) -> Self {
        let (ip, port) = (backend.address.ip(), backend.address.port().max(1));
        Self {
            place: format!(":ip \"{ip}\" :port {port}"),
            is_named: false,
            weight: backend.weight,
            proxy_protocol: backend.proxy_protocol,
            health_check: backend.health_check.as_deref(),
        }
    }

    /// There are no SRV records there: their name is written as that of a host, so that the rest can be compared.
    fn named(named: &'a Named) -> Self {
        let (Name::Host(host) | Name::Srv(host)) = &named.name;
        let seconds =
            named.refresh.map_or(edn::REFRESH, |refresh| refresh.as_secs().clamp(1, 3_600));
        let (host, port) = (string(host), named.port.max(1));
        Self {
            place: format!(":host {host} :port {port} :dns-refresh-seconds {seconds}"),
            is_named: true,
            weight: named.weight,
            proxy_protocol: named.proxy_protocol,
            health_check: named.health_check.as_deref(),
        }
    }
}

/// Those of a pool, but for those that step in when it panics, in the order that a configuration is written out in.
fn members<'a>(backends: &'a [Backend], names: &'a [Arc<Named>]) -> Vec<Member<'a>> {
    let backends = backends.iter().filter(|backend| backend.role != Role::Fallback);
    let names = names.iter().filter(|named| named.role != Role::Fallback);
    backends.map(Member::placed).chain(names.map(|named| Member::named(named))).collect()
}

/// Whether a pool can be said: several targets share a hundred.
pub(in crate::config) fn has_shares(backends: &[Backend], names: &[Arc<Named>]) -> bool {
    share(&members(backends, names))
}

fn share(members: &[Member<'_>]) -> bool {
    let mut weights = members.iter().map(|member| u32::from(member.weight));
    let sum: u32 = weights.clone().sum();
    let in_range = weights.all(|weight| (1..=100).contains(&weight));
    in_range && (members.len() == 1 || members.len() <= 8 && sum == 100)
}

/// A map or a list of them; there, a name is taken in a list alone.
fn targets(members: &[Member<'_>], is_checked: bool) -> String {
    let said = if share(members) { members } else { members.get(..1).unwrap_or_default() };
    match said {
        [one] if !one.is_named => target(one, is_checked),
        several => {
            let each: Vec<_> = several.iter().map(|member| target(member, is_checked)).collect();
            format!("[{}]", each.join("\n                    "))
        }
    }
}

fn target(member: &Member<'_>, is_checked: bool) -> String {
    let check = match member.health_check {
        _ if !is_checked => String::new(),
        None => " :health-check {:type :none}".to_owned(),
        Some(check) => format!(" :health-check {}", checked(check)),
    };
    let weight = member.weight.clamp(1, 100);
    let proxy = match member.proxy_protocol {
        Some(ProxyProtocol::V2) => " :proxy-protocol :v2",
        None => "",
    };
    format!("{{{} :weight {weight}{proxy}{check}}}", member.place)
}

fn checked(check: &HealthCheck) -> String {
    let (kind, http) = match &check.question {
        Question::Http(http) => ("http", Some(http)),
        Question::Https(https) => ("https", Some(&https.http)),
        Question::Tcp
        | Question::Grpc(_)
        | Question::Udp(_)
        | Question::Dns(_)
        | Question::Exec(_) => ("tcp", None),
    };
    let http = http.map_or(String::new(), |http| {
        format!(" :path {} :expected-codes [{}]", string(&http.path), codes(&http.expected_codes))
    });
    format!(
        "{{:type :{kind}{http} :interval-ms {} :timeout-ms {} :healthy-threshold {} :unhealthy-threshold {}}}",
        milliseconds(check.interval, 1_000, 300_000),
        milliseconds(check.timeout, 100, 60_000),
        check.healthy_threshold.min(10),
        check.unhealthy_threshold.min(10),
    )
}

fn codes(codes: &Codes) -> String {
    let each: Vec<_> = codes.0.iter().map(|(first, _)| first.to_string()).collect();
    each.join(" ")
}

fn settings(config: &Config, is_checked: bool) -> String {
    let settings = &config.settings;
    let established = config.services.first().map(|s| s.policy.timeouts.tcp_established);
    let seconds = established.unwrap_or_default().as_secs().clamp(1, 604_800);
    let mut parts = vec![
        format!("{{:stats-enabled {}", settings.events),
        format!("  :connection-timeout-sec {seconds}"),
        format!("  :max-connections {}", settings.max_flows),
        format!(
            "  :default-drain-timeout-ms {}",
            milliseconds(settings.drain.timeout, 1_000, 3_600_000)
        ),
        format!("  :health-check-enabled {is_checked}"),
    ];
    let limit = |name: &str, limit: RateLimit| {
        let rate = limit.rate.filter(|&rate| rate > 0)?;
        let burst = limit.burst.map_or(String::new(), |burst| format!(" :burst {burst}"));
        Some(format!(":{name} {{:requests-per-sec {rate}{burst}}}"))
    };
    let source = limit("per-source", settings.limits.per_source.limit);
    let limits: Vec<_> =
        source.into_iter().chain(limit("per-backend", settings.limits.per_backend)).collect();
    if !limits.is_empty() {
        parts.push(format!("  :rate-limits {{{}}}", limits.join(" ")));
    }
    if let Some(breaker) = settings.breaker {
        parts.push(format!(
            "  :circuit-breaker {{:enabled true :error-threshold-pct {} :min-requests {} :open-duration-ms {} :half-open-requests {} :window-size-ms {}}}",
            breaker.error_threshold,
            breaker.min_requests,
            milliseconds(breaker.open_for, 1_000, 600_000),
            breaker.half_open_successes,
            milliseconds(breaker.window, 1_000, 300_000),
        ));
    }
    let follows = |service: &Service| {
        let own = (service.affinity == Affinity::None).then_some(service.algorithm);
        let routes = service.all_routes().filter(|route| route.affinity == Affinity::None);
        own.into_iter()
            .chain(routes.map(|route| route.algorithm))
            .any(|a| a == Algorithm::LeastConnectionsWeights)
    };
    let algorithm =
        if config.services.iter().any(follows) { "least-connections" } else { "weighted-random" };
    parts.push(format!(
        "  :load-balancing {{:algorithm :{algorithm} :weighted {} :update-interval-ms {}}}",
        settings.least_connections.weighted,
        milliseconds(settings.least_connections.update_interval, 100, 10_000),
    ));
    parts.extend(outside(settings));
    parts.join("\n") + "}"
}

/// Metrics and the access log, as far as there are words for them; what is lost is told by who reads it back.
fn outside(settings: &Settings) -> Vec<String> {
    let metrics = settings.metrics.as_ref().map(|metrics| {
        let (port, path) = (metrics.listen.port().max(1_024), string(&metrics.path));
        format!("  :metrics {{:enabled true :port {port} :path {path}}}")
    });
    let log = settings.access_log.as_ref().and_then(|log| {
        let format = match log.format {
            LineFormat::Json => "json",
            LineFormat::Clf => "clf",
        };
        Some(format!(
            "  :access-log {{:enabled true :format :{format} :path {} :max-file-size-mb {} :max-files {}}}",
            string(log.path.as_ref()?.to_str()?),
            log.max_size_mb.min(1_024),
            log.max_files.min(100),
        ))
    });
    let admin = settings.admin.as_ref().map(admin);
    metrics.into_iter().chain(log).chain(admin).collect()
}

/// With its key, which the file that it is made of has as well.
fn admin(admin: &Admin) -> String {
    let key = match admin.keys.as_slice() {
        [AdminKey { secret: KeySource::Key(key), .. }] => {
            format!(" :api-key {}", string(key.text()))
        }
        _ => String::new(),
    };
    let origins: Vec<_> = admin.allowed_origins.iter().map(|origin| string(origin)).collect();
    let origins = match origins.as_slice() {
        [] => String::new(),
        some => format!(" :allowed-origins [{}]", some.join(" ")),
    };
    let port = admin.listen.port().max(1_024);
    format!("  :admin-api {{:enabled true :port {port}{key}{origins}}}")
}

fn milliseconds(duration: Duration, least: u128, most: u128) -> u128 {
    duration.as_millis().clamp(least, most)
}

/// A text as EDN has it.
fn string(text: &str) -> String {
    let mut written = String::with_capacity(text.len() + 2);
    written.push('"');
    for sign in text.chars() {
        match sign {
            '"' => written.push_str("\\\""),
            '\\' => written.push_str("\\\\"),
            '\n' => written.push_str("\\n"),
            '\r' => written.push_str("\\r"),
            '\t' => written.push_str("\\t"),
            sign => written.push(sign),
        }
    }
    written.push('"');
    written
}

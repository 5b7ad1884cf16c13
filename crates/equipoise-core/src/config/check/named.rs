//! Backends and sources that are configured by a name: which texts can be names, and what goes with them.
//!
//! Names are not looked up here: whether there is such a name is no matter of the text.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::address;
use super::keys;
use super::policy::duration_in;
use super::report::{At, Fields, Place, Report, shown};
use crate::config::{Dns, Name, Named, OnFirstFailure, Role};

const ADDRESS: &str = "an address, and a port unless it is the client's";
const HOST: &str = "the name of a host, such as \"api.internal\"";
const SRV: &str = "the name of SRV records, such as \"_http._tcp.api.internal\"";
pub(super) const FIRST: [(&str, OnFirstFailure); 2] =
    [("start", OnFirstFailure::Start), ("refuse", OnFirstFailure::Refuse)];
pub(super) const SHRINK: RangeInclusive<u8> = 0..=100;
pub(super) const PORT: RangeInclusive<u16> = 1..=u16::MAX;
pub(super) const REFRESH: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(86_400);
const REFRESH_ALLOWED: &str = "\"100ms\" to \"1day\", such as \"30s\"";
const RESOLVERS: &str = "a list of addresses, such as [\"10.0.0.53\"] or [\"127.0.0.1:5353\"]";
/// Where resolvers listen.
const DNS_PORT: u16 = 53;
/// More are never asked.
pub(super) const MOST_RESOLVERS: usize = 8;

/// A backend by its name, right in itself.
#[derive(Clone)]
pub(super) struct NamedDraft {
    pub(super) place: Place,
    pub(super) named: Named,
}

/// The names of drafts.
pub(super) fn finished(named: Vec<NamedDraft>) -> Vec<Arc<Named>> {
    named.into_iter().map(|draft| Arc::new(draft.named)).collect()
}

/// What an entry of `backends` is.
pub(super) enum Whom {
    /// One backend.
    Address(SocketAddr),
    /// As many as a name stands for, whose health checks ask at this port.
    Name(Named, u16),
}

/// Which backend, or which ones, an entry of `backends` means, and where it says so.
pub(super) fn whom(report: &mut Report<'_>, fields: &Fields<'_>) -> Option<(Whom, Place)> {
    let host = fields.get("host").map(|at| (host_name(report, &at).map(Name::Host), at.place));
    let srv = fields.get("srv").map(|at| (srv_name(report, &at).map(Name::Srv), at.place));
    let address = fields.get("address").map(|at| (backend_address(report, &at), at.place));
    let port = fields.get("port").and_then(|at| report.number(&at, &PORT)).unwrap_or_default();
    let refresh = fields.get("refresh");
    let refresh = refresh.and_then(|at| duration_in(report, &at, &REFRESH, REFRESH_ALLOWED));
    let named = |name, port| {
        let (max_flows, role, health_check) = (0, Role::Regular, None);
        Named {
            name,
            port,
            weight: 1,
            max_flows,
            role,
            refresh,
            proxy_protocol: None,
            health_check,
        }
    };
    match (address, host, srv) {
        (None, None, None) => {
            report.need(fields, "address", ADDRESS);
            None
        }
        (Some((address, place)), None, None) => {
            without(report, fields, "port", "the port is a part of `address`");
            if let Some(at) = fields.get("refresh") {
                let message = "this has no effect, as an address is not looked up".to_owned();
                report.note(&at.place, message, "`host` or `srv`, or no `refresh`");
            }
            Some((Whom::Address(address?), place))
        }
        (None, Some((name, place)), None) => Some((Whom::Name(named(name?, port), port), place)),
        (None, None, Some((name, place))) => {
            without(report, fields, "port", "SRV records tell ports themselves");
            // Checks ask at some port: it is not known before the answer.
            Some((Whom::Name(named(name?, 0), 1), place))
        }
        (_, host, srv) => {
            let (_, place) = srv.or(host)?;
            let message = "a backend has one of `address`, `host` and `srv`".to_owned();
            report.problem(&place, message, "one of them");
            None
        }
    }
}

fn without(report: &mut Report<'_>, fields: &Fields<'_>, key: &str, why: &str) {
    if let Some(at) = fields.get(key) {
        report.problem(&at.place, why.to_owned(), format!("no `{key}` here"));
    }
}

fn backend_address(report: &mut Report<'_>, at: &At<'_>) -> Option<SocketAddr> {
    let text = report.text(at, "an address and a port, such as \"10.0.0.1:8080\"")?;
    match address::backend(text) {
        Ok(address) => Some(address),
        Err((message, allowed)) if looks_like_a_name(text) => {
            report.problem(&at.place, message, format!("{allowed}; for a name, `host` or `srv`"));
            None
        }
        Err((message, allowed)) => {
            report.problem(&at.place, message, allowed);
            None
        }
    }
}

/// Whether a text is rather meant as a name than as an address.
fn looks_like_a_name(text: &str) -> bool {
    let host = text.split(':').next().unwrap_or_default();
    let last = host.rsplit('.').next().unwrap_or_default();
    is_host(host) && host.contains('.') && last.len() > 1
}

fn host_name(report: &mut Report<'_>, at: &At<'_>) -> Option<Arc<str>> {
    let text = report.text(at, HOST)?;
    if text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok() {
        report.problem(&at.place, format!("`{text}` is an address"), "`address` for it");
        return None;
    }
    if !is_host(text) {
        report.problem(&at.place, format!("{} is no name of a host", shown(text)), HOST);
        return None;
    }
    Some(text.to_ascii_lowercase().into())
}

fn srv_name(report: &mut Report<'_>, at: &At<'_>) -> Option<Arc<str>> {
    let text = report.text(at, SRV)?;
    let is_service =
        text.starts_with('_') && text.split('.').nth(1).is_some_and(|l| l.starts_with('_'));
    if !is_service || !is_host(text) {
        report.problem(&at.place, format!("{} is no name of SRV records", shown(text)), SRV);
        return None;
    }
    Some(text.to_ascii_lowercase().into())
}

/// Whether a text can be the name of a host: labels of letters, digits, `-` and `_`, not all of digits.
pub(super) fn is_host(text: &str) -> bool {
    let bare = text.strip_suffix('.').unwrap_or(text);
    let is_of_names = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(is_of_names)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = bare.rsplit('.').next().unwrap_or_default();
    // A name whose last label is a number is an address that somebody has mistyped.
    bare.len() <= 253
        && bare.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// How names are looked up.
pub(super) fn dns(report: &mut Report<'_>, at: &At<'_>) -> Dns {
    let mut dns = Dns::default();
    let Some(fields) = report.fields(at, &keys::DNS) else { return dns };
    if let Some(at) = fields.get("resolvers") {
        dns.resolvers = resolvers(report, &at).into();
    }
    let mut ttl = |key| {
        let at = fields.get(key)?;
        Some((duration_in(report, &at, &REFRESH, REFRESH_ALLOWED)?, at.place))
    };
    match (ttl("min-ttl"), ttl("max-ttl")) {
        (None, None) => {}
        // The other one is as if it were that where it would be in the way.
        (Some((least, _)), None) => (dns.min_ttl, dns.max_ttl) = (least, dns.max_ttl.max(least)),
        (None, Some((most, _))) => (dns.min_ttl, dns.max_ttl) = (dns.min_ttl.min(most), most),
        (Some((least, _)), Some((most, place))) => {
            (dns.min_ttl, dns.max_ttl) = (least, most);
            if least > most {
                let message = "`min-ttl` is longer than `max-ttl`".to_owned();
                report.problem(&place, message, "a `max-ttl` that is not shorter");
            }
        }
    }
    if let Some(found) = fields.get("max-shrink").and_then(|at| report.number(&at, &SHRINK)) {
        dns.max_shrink = found;
    }
    if let Some(found) = fields.get("on-first-failure").and_then(|at| report.choice(&at, &FIRST)) {
        dns.on_first_failure = found;
    }
    dns
}

fn resolvers(report: &mut Report<'_>, at: &At<'_>) -> Vec<SocketAddr> {
    let items = report.list(at, RESOLVERS).unwrap_or_default();
    if items.len() > MOST_RESOLVERS {
        let message = format!("{} resolvers are too many", items.len());
        report.problem(&at.place, message, format!("at most {MOST_RESOLVERS}"));
    }
    let mut resolvers = Vec::new();
    for at in &items {
        let Some(text) = report.text(at, RESOLVERS) else { continue };
        match address::backend(text) {
            Err((message, _)) => report.problem(&at.place, message, RESOLVERS),
            Ok(mut address) => {
                if address.port() == 0 {
                    address.set_port(DNS_PORT);
                }
                if resolvers.contains(&address) {
                    let message = format!("`{text}` is here a second time");
                    report.problem(&at.place, message, "each resolver once");
                } else {
                    resolvers.push(address);
                }
            }
        }
    }
    resolvers
}

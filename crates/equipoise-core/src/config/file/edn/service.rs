//! Proxies, their targets and routes, to services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::form::Findings;
use super::settings::{Settings, unused};
use super::text::Value as Given;
use super::{At, Fields, check, made, plain, words};
use crate::config::file::{Entry, Node, Value};

/// What holds there of a name that does not say how often it is looked up, in seconds.
pub(in crate::config) const REFRESH: u64 = 30;

pub(super) fn service(at: &At<'_>, settings: &Settings, findings: &mut Findings) -> Node {
    let fields = at.fields();
    let mut entries = Vec::new();
    entries.extend(fields.get("name").map(|at| at.entry("name", plain(at.text()))));
    entries.extend(fields.get("listen").map(|at| listen(&at)));

    let persists = fields.get("session-persistence").filter(At::is_true);
    match &persists {
        Some(at) => entries.push(source_ip(at)),
        None => entries.push(made("algorithm", at.form.span.clone(), algorithm(settings))),
    }
    let timeouts = Value::Table(settings.timeouts.clone());
    entries.push(made("timeouts", at.form.span.clone(), timeouts));
    entries.extend(fields.get("health-check").and_then(|at| checked(&at, settings, findings)));
    if let Some(targets) = fields.get("default-target") {
        let backends = backends(&targets, settings, findings);
        entries.push(targets.entry("backends", backends));
    }
    for kind in [Head::Source, Head::Name] {
        let (theirs, ours) = kind.lists();
        let Some(list) = fields.get(theirs) else { continue };
        let above = (settings, persists.is_some());
        let routes = list.items();
        let routes = routes.iter().filter_map(|at| route((at, kind), above, findings));
        let routes: Vec<_> = routes.collect();
        if !routes.is_empty() {
            entries.push(list.entry(ours, Value::List(routes)));
        }
    }
    Node { span: at.form.span.clone(), value: Value::Table(entries) }
}

fn algorithm(settings: &Settings) -> Value {
    Value::Text(settings.algorithm.to_owned())
}

fn source_ip(at: &At<'_>) -> Entry {
    at.entry("affinity", Value::Text("source-ip".to_owned()))
}

fn listen(at: &At<'_>) -> Entry {
    let fields = at.fields();
    let mut entries = Vec::new();
    if let Some(at) = fields.get("interfaces") {
        let name = |at: &At<'_>| Node { span: at.form.span.clone(), value: plain(at.text()) };
        let items = match at.form.value {
            Given::List(_) => at.items(),
            _ => Vec::new(),
        };
        entries.push(at.entry("interfaces", Value::List(items.iter().map(name).collect())));
    }
    entries.extend(fields.get("port").map(|at| at.same_number("port")));
    // There, a proxy balances whichever of the two comes.
    entries.push(made("protocol", at.form.span.clone(), Value::Text("both".to_owned())));
    at.entry("listen", Value::Table(entries))
}

/// A check, where any are made.
fn checked(at: &At<'_>, settings: &Settings, findings: &mut Findings) -> Option<Entry> {
    if !settings.checks {
        unused(at, findings);
        return None;
    }
    Some(at.entry("health-check", Value::Table(check(at))))
}

/// Targets, one or several, as backends.
fn backends(at: &At<'_>, settings: &Settings, findings: &mut Findings) -> Value {
    let targets = at.items();
    weights(at, &targets, findings);
    Value::List(targets.iter().filter_map(|at| backend(at, settings, findings)).collect())
}

/// Several targets share a hundred; what one alone says of its weight does not matter.
fn weights(at: &At<'_>, targets: &[At<'_>], findings: &mut Findings) {
    if targets.len() < 2 {
        return;
    }
    let weights: Vec<_> =
        targets.iter().map(|at| at.fields().get("weight").map(|at| at.number())).collect();
    let allowed = "weights that sum to 100";
    if weights.iter().any(Option::is_none) {
        let message = "all targets must have explicit weights when there are several";
        findings.fault(at.form, &at.key, message.to_owned(), allowed);
        return;
    }
    let sum: i128 = weights.into_iter().flatten().sum();
    if sum != 100 {
        findings.fault(at.form, &at.key, format!("weights must sum to 100, got {sum}"), allowed);
    }
}

fn backend(at: &At<'_>, settings: &Settings, findings: &mut Findings) -> Option<Node> {
    let fields = at.fields();
    let mut entries = Vec::new();
    match (fields.get("host"), fields.get("ip")) {
        (Some(host), _) => entries.extend(named(&host, &fields)),
        (None, Some(ip)) => entries.push(address(&ip, &fields, findings)?),
        (None, None) => {
            let message = "there is neither `:ip` nor `:host`".to_owned();
            findings.fault(at.form, &at.key, message, "one of them");
            return None;
        }
    }
    entries.push(match fields.get("weight") {
        Some(at) => at.same_number("weight"),
        None => made("weight", at.form.span.clone(), Value::Int(100)),
    });
    entries.extend(fields.get("health-check").and_then(|at| checked(&at, settings, findings)));
    let proxy_protocol = fields.get("proxy-protocol");
    entries.extend(proxy_protocol.map(|at| at.entry("proxy-protocol", plain(at.text()))));
    Some(Node { span: at.form.span.clone(), value: Value::Table(entries) })
}

fn address(ip: &At<'_>, fields: &Fields<'_>, findings: &mut Findings) -> Option<Entry> {
    let Ok(parsed) = ip.text().parse::<IpAddr>() else {
        let message = format!("`{}` is not an address", ip.text());
        findings.fault(ip.form, &ip.key, message, "an address, such as 10.0.0.1 or 2001:db8::1");
        return None;
    };
    let port = fields.get("port")?.number();
    let port = u16::try_from(port).ok()?;
    Some(ip.entry("address", Value::Text(std::net::SocketAddr::new(parsed, port).to_string())))
}

/// A backend by its name.
fn named(host: &At<'_>, fields: &Fields<'_>) -> Vec<Entry> {
    let text = |seconds: i128| Value::Text(words(seconds * 1_000));
    let refresh = match fields.get("dns-refresh-seconds") {
        Some(at) => at.entry("refresh", text(at.number())),
        None => made("refresh", host.form.span.clone(), text(REFRESH.into())),
    };
    let port = fields.get("port").map(|at| at.same_number("port"));
    [host.entry("host", plain(host.text()))].into_iter().chain(port).chain([refresh]).collect()
}

/// What a route leads to: exactly one of two keys says it.
fn pool<'f>(at: &At<'_>, fields: &Fields<'f>, findings: &mut Findings) -> Option<At<'f>> {
    match (fields.get("target"), fields.get("targets")) {
        (Some(one), None) => Some(one),
        (None, Some(several)) => Some(several),
        (None, None) => {
            let message = "there is neither `:target` nor `:targets`".to_owned();
            findings.fault(at.form, &at.key, message, "one of them");
            None
        }
        (Some(_), Some(several)) => {
            let message = "there are both `:target` and `:targets`".to_owned();
            findings.fault(several.form, &several.key, message, "one of them");
            None
        }
    }
}

/// Which clients a route is for.
#[derive(Clone, Copy)]
enum Head {
    Source,
    Name,
}

impl Head {
    /// The keys of their lists, there and here.
    fn lists(self) -> (&'static str, &'static str) {
        match self {
            Self::Source => ("source-routes", "source-route"),
            Self::Name => ("sni-routes", "name-route"),
        }
    }

    /// Says it of a route.
    fn entry(self, fields: &Fields<'_>, findings: &mut Findings) -> Option<Entry> {
        match self {
            Self::Source => source(&fields.get("source")?, findings),
            Self::Name => hostname(&fields.get("sni-hostname")?, findings),
        }
    }
}

fn source(at: &At<'_>, findings: &mut Findings) -> Option<Entry> {
    if let Some(prefix) = prefix(at.text()) {
        return Some(at.entry("source", Value::Text(prefix)));
    }
    if is_host_name(at.text()) {
        return Some(at.entry("source", plain(at.text())));
    }
    let message = format!("`{}` is neither an address nor a prefix", at.text());
    let allowed = "such as 10.0.0.1, 10.0.0.0/8 or 2001:db8::/32";
    findings.fault(at.form, &at.key, message, allowed);
    None
}

fn hostname(at: &At<'_>, findings: &mut Findings) -> Option<Entry> {
    if !is_hostname(at.text()) {
        let message = format!("`{}` is not the name of a server", at.text());
        let allowed = "letters, digits, hyphens and points, from a letter or digit to a letter or digit, such as api.example.com";
        findings.fault(at.form, &at.key, message, allowed);
        return None;
    }
    let name = Node { span: at.form.span.clone(), value: plain(at.text()) };
    Some(at.entry("names", Value::List(vec![name])))
}

/// Whether a text is the name of a server there: not of all that end so.
pub(in crate::config) fn is_hostname(text: &str) -> bool {
    let is_of = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 253
        && text.bytes().all(is_of)
        && is_end(text.bytes().next())
        && is_end(text.bytes().next_back())
}

fn route(
    (at, head): (&At<'_>, Head),
    (settings, service_persists): (&Settings, bool),
    findings: &mut Findings,
) -> Option<Node> {
    let fields = at.fields();
    let targets = pool(at, &fields, findings)?;
    let backends = backends(&targets, settings, findings);
    let mut entries = vec![head.entry(&fields, findings)?];
    let persists = fields.get("session-persistence").filter(At::is_true);
    match persists {
        Some(at) => entries.push(source_ip(&at)),
        None if service_persists => {
            // What a route does not say its service says, and there it is not so.
            let place = at.form.span.clone();
            entries.push(made("affinity", place.clone(), Value::Text("none".to_owned())));
            entries.push(made("algorithm", place, algorithm(settings)));
        }
        None => {}
    }
    entries.push(targets.entry("backends", backends));
    Some(Node { span: at.form.span.clone(), value: Value::Table(entries) })
}

/// An address or a prefix, without bits beyond it.
fn prefix(text: &str) -> Option<String> {
    let Some((address, length)) = text.split_once('/') else {
        return text.parse::<IpAddr>().ok().map(|address| address.to_string());
    };
    let address: IpAddr = address.parse().ok()?;
    let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length: u32 = length.parse().ok().filter(|_| is_number)?;
    let first: IpAddr = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32u32.checked_sub(length)?).unwrap_or_default();
            Ipv4Addr::from(u32::from(v4) & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128u32.checked_sub(length)?).unwrap_or_default();
            Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    };
    Some(format!("{first}/{length}"))
}

/// Labels of letters, digits and inner hyphens, and not all of digits.
pub(in crate::config) fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_of = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty()
            && label.bytes().all(is_of)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.split('.').all(is_label) && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

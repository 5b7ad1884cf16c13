//! Configurations of other load balancers, as far as they can be carried over, and a list of what cannot.
//!
//! Each source is read by a file of its own into drafts; here they become a configuration that passes the check, whatever was in
//! them: what the check refuses is left out and listed like the rest. What the other program says and has no counterpart is
//! listed with its line, never guessed. Where packets come in none of them says; that is asked of the caller.

mod haproxy;
mod ipvs;
mod keepalived;
mod scheduler;
mod words;

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::file::Format;
use super::write::{self, Data};
use super::{Ports, parse, target, variables};

/// A load balancer that configurations come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The text of `ipvsadm -Sn`.
    Ipvs,
    /// A file of keepalived.
    Keepalived,
    /// A file of HAProxy.
    Haproxy,
}

/// What was carried over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The configuration; none where nothing could be carried over.
    pub text: Option<String>,
    /// What could not, in the order of the text.
    pub left_out: Vec<LeftOut>,
}

/// Something that could not be carried over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LeftOut {
    /// Its line, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
    /// Why not, or what is different.
    pub reason: String,
}

/// Carries a configuration over; services are on `interfaces` where the text does not say.
pub fn import(source: Source, text: &str, interfaces: &[String], to: Format) -> Imported {
    let mut notes = Notes::new(text);
    let found = match source {
        Source::Ipvs => ipvs::read(text, &mut notes),
        Source::Keepalived => keepalived::read(text, &mut notes),
        Source::Haproxy => haproxy::read(text, &mut notes),
    };
    let mut drafts: Vec<_> = found.into_iter().filter(|draft| draft.is_whole(&mut notes)).collect();
    name_apart(&mut drafts);
    let text = loop {
        if drafts.is_empty() {
            break None;
        }
        let written = write::json(&file(&drafts, interfaces).ordered());
        let Err(problems) = parse("x.json", &written) else {
            break Some(file(&drafts, interfaces));
        };
        let mut wrong: Vec<_> = problems
            .iter()
            .map(|problem| (place(&problem.key).unwrap_or(drafts.len() - 1), &problem.message))
            .collect();
        wrong.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
        wrong.dedup_by_key(|(index, _)| *index);
        for (index, message) in wrong {
            let draft = drafts.remove(index);
            notes.add(draft.line, format!("this cannot be a service: {message}"));
        }
    };
    let text = text.map(|data| {
        let data = data.ordered();
        match to {
            Format::Toml | Format::Edn => write::toml(&data),
            Format::Json => write::json(&data),
            Format::Yaml => write::yaml(&data),
        }
    });
    notes.left_out.sort();
    notes.left_out.dedup();
    Imported { text, left_out: notes.left_out }
}

/// What is left out, as it is found.
struct Notes<'t> {
    lines: Vec<&'t str>,
    left_out: Vec<LeftOut>,
}

impl<'t> Notes<'t> {
    fn new(text: &'t str) -> Self {
        Self { lines: text.lines().collect(), left_out: Vec::new() }
    }

    fn add(&mut self, line: usize, reason: impl Into<String>) {
        let text = self.lines.get(line.wrapping_sub(1)).unwrap_or(&"").trim().to_owned();
        self.left_out.push(LeftOut { line, text, reason: reason.into() });
    }
}

/// A service on its way.
#[derive(Clone, Debug)]
struct Draft {
    line: usize,
    name: String,
    /// None where the text does not say.
    interfaces: Vec<String>,
    /// None for the interfaces' own.
    address: Option<IpAddr>,
    ports: Ports,
    protocol: &'static str,
    mode: &'static str,
    choosing: Choosing,
    backends: Vec<Server>,
    /// Those that step in when none of the others is usable.
    fallback: Vec<Server>,
    routes: Vec<Route>,
    /// Further keys of the service.
    more: Vec<(&'static str, Data)>,
    /// Whether its checks run commands.
    runs_commands: bool,
}

/// How a backend is picked.
#[derive(Clone, Debug, Default)]
struct Choosing {
    algorithm: Option<&'static str>,
    by_source: bool,
    /// Bits of an address that tell clients apart, v4 and v6.
    prefix: (Option<u8>, Option<u8>),
    /// Whether all weights but 0 are the same.
    unweighted: bool,
}

/// A backend on its way.
#[derive(Clone, Debug)]
struct Server {
    address: IpAddr,
    /// None for the one that the client has sent to.
    port: Option<u16>,
    weight: u16,
    backup: bool,
    max_flows: u32,
    check: Check,
    /// Whether it is told who has connected.
    proxied: bool,
    /// The port that its check asks, where it has none to be sent to.
    asked: Option<u16>,
}

/// Keys of a check; empty for none.
type Check = Vec<(&'static str, Data)>;

/// Clients with backends of their own.
#[derive(Clone, Debug)]
struct Route {
    who: Who,
    choosing: Choosing,
    backends: Vec<Server>,
}

/// Which clients.
#[derive(Clone, Debug)]
enum Who {
    /// Those of these prefixes.
    Sources(Vec<String>),
    /// Those that name one of these servers.
    Names(Vec<String>),
}

/// Backends with checks that know their ports.
struct Pool(Vec<Server>);

impl Pool {
    fn of(servers: &[Server], draft: &Draft) -> Self {
        let whole = |server: &Server| {
            let mut server = server.clone();
            let is_bare = server.port.is_none() && !server.check.is_empty();
            let has =
                |server: &Server, name: &str| server.check.iter().any(|(key, _)| *key == name);
            if is_bare && !has(&server, "port") && !has(&server, "command") {
                let port = server.asked.or(draft.ports.only());
                server.check.extend(port.map(|port| ("port", Data::Int(port.into()))));
            }
            server
        };
        Self(servers.iter().map(whole).collect())
    }

    /// The check of all of them, and them without it; none where they differ.
    fn shared(mut self) -> (Check, Self) {
        let first = self.0.first().map(|server| server.check.clone()).unwrap_or_default();
        if self.0.len() < 2 || self.0.iter().any(|server| server.check != first) {
            return (Vec::new(), self);
        }
        self.0.iter_mut().for_each(|server| server.check.clear());
        (first, self)
    }
}

impl Draft {
    fn new(line: usize, name: String, address: Option<IpAddr>, ports: Ports) -> Self {
        Self {
            line,
            name,
            interfaces: Vec::new(),
            address,
            ports,
            protocol: "tcp",
            mode: "nat",
            choosing: Choosing::default(),
            backends: Vec::new(),
            fallback: Vec::new(),
            routes: Vec::new(),
            more: Vec::new(),
            runs_commands: false,
        }
    }

    /// Whether there is where to send anything.
    fn is_whole(&self, notes: &mut Notes<'_>) -> bool {
        let reason = if self.backends.is_empty() {
            "no backend of it could be carried over"
        } else if self.backends.iter().all(|server| server.weight == 0) {
            "all its backends have weight 0, so that no new connection found one"
        } else {
            return true;
        };
        notes.add(self.line, reason);
        false
    }
}

impl Server {
    fn new(address: IpAddr, port: Option<u16>) -> Self {
        Self {
            address,
            port,
            weight: 1,
            backup: false,
            max_flows: 0,
            check: Vec::new(),
            proxied: false,
            asked: None,
        }
    }
}

/// No two services have one name.
fn name_apart(drafts: &mut [Draft]) {
    let mut seen = std::collections::BTreeSet::new();
    for draft in drafts {
        let name = std::mem::take(&mut draft.name);
        let mut count = 1;
        draft.name = name.clone();
        while !seen.insert(draft.name.clone()) {
            count += 1;
            draft.name = format!("{name}-{count}");
        }
    }
}

/// The service that a key is of.
fn place(key: &str) -> Option<usize> {
    key.strip_prefix("service[")?.split(']').next()?.parse().ok()
}

fn text(text: impl AsRef<str>) -> Data {
    Data::Text(variables::escape(text.as_ref()))
}

fn table(entries: Vec<(&str, Data)>) -> Data {
    Data::Table(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn file(drafts: &[Draft], interfaces: &[String]) -> Data {
    let services = drafts.iter().map(|draft| service(draft, interfaces)).collect();
    let mut entries = vec![("service", Data::List(services))];
    if drafts.iter().any(|draft| draft.runs_commands) {
        entries.push(("settings", table(vec![("exec-checks", Data::Bool(true))])));
    }
    table(entries)
}

fn service(draft: &Draft, interfaces: &[String]) -> Data {
    let names = if draft.interfaces.is_empty() { interfaces } else { &draft.interfaces };
    let mut listen = vec![("interfaces", Data::List(names.iter().map(text).collect()))];
    listen.extend(draft.address.map(|address| ("address", text(address.to_string()))));
    listen.push(("port", ports(&draft.ports)));
    if draft.protocol != "tcp" {
        listen.push(("protocol", text(draft.protocol)));
    }
    let mut entries = vec![("name", text(&draft.name)), ("listen", table(listen))];
    let pool = Pool::of(&draft.backends, draft);
    // What stands here would be added to the checks of routes and of those that step in.
    let is_alone = draft.routes.is_empty() && draft.fallback.is_empty();
    let (check, pool) = if is_alone { pool.shared() } else { (Vec::new(), pool) };
    choosing(&draft.choosing, &mut entries);
    if draft.mode != "nat" {
        entries.push(("mode", text(draft.mode)));
    }
    if !check.is_empty() {
        entries.push(("health-check", table(check)));
    }
    entries.extend(draft.more.iter().cloned());
    entries.push(("backends", backends(&pool, &draft.choosing)));
    if !draft.fallback.is_empty() {
        let fallback = backends(&Pool::of(&draft.fallback, draft), &draft.choosing);
        let panic = vec![("policy", text("fallback")), ("fallback-backends", fallback)];
        entries.push(("panic", table(panic)));
    }
    for (key, is_by_name) in [("source-route", false), ("name-route", true)] {
        let is_of = |own: &&Route| matches!(own.who, Who::Names(_)) == is_by_name;
        let routes: Vec<_> =
            draft.routes.iter().filter(is_of).map(|own| route(own, draft)).collect();
        if !routes.is_empty() {
            entries.push((key, Data::List(routes)));
        }
    }
    table(entries)
}

fn route(route: &Route, draft: &Draft) -> Data {
    let list = |list: &[String]| Data::List(list.iter().map(text).collect());
    let mut entries = vec![match &route.who {
        Who::Sources(sources) => match sources.as_slice() {
            [one] => ("source", text(one)),
            several => ("source", list(several)),
        },
        Who::Names(names) => ("names", list(names)),
    }];
    // What is not said here the service would say.
    let mut own = Choosing {
        algorithm: route.choosing.algorithm.or(Some("maglev")),
        ..route.choosing.clone()
    };
    if route.choosing.by_source {
        own.algorithm = None;
    } else {
        entries.push(("affinity", text("none")));
    }
    choosing(&own, &mut entries);
    let (check, pool) = Pool::of(&route.backends, draft).shared();
    if !check.is_empty() {
        entries.push(("health-check", table(check)));
    }
    entries.push(("backends", backends(&pool, &route.choosing)));
    table(entries)
}

fn choosing(choosing: &Choosing, entries: &mut Vec<(&'static str, Data)>) {
    if !choosing.by_source {
        entries.extend(choosing.algorithm.map(|algorithm| ("algorithm", text(algorithm))));
        return;
    }
    entries.push(("affinity", text("source-ip")));
    let (v4, v6) = choosing.prefix;
    let bits = |name, bits: Option<u8>| Some((name, Data::Int(bits?.into())));
    let prefix: Vec<_> = bits("v4", v4).into_iter().chain(bits("v6", v6)).collect();
    if !prefix.is_empty() {
        entries.push(("affinity-prefix", table(prefix)));
    }
}

fn backends(pool: &Pool, choosing: &Choosing) -> Data {
    let backend = |server: &Server| {
        let address = SocketAddr::new(server.address, server.port.unwrap_or_default());
        let weight = if choosing.unweighted { server.weight.min(1) } else { server.weight };
        let mut entries = vec![("address", text(target::text(address)))];
        if weight != 1 {
            entries.push(("weight", Data::Int(weight.into())));
        }
        if server.backup {
            entries.push(("backup", Data::Bool(true)));
        }
        if server.max_flows > 0 {
            entries.push(("max-flows", Data::Int(server.max_flows.into())));
        }
        if server.proxied {
            entries.push(("proxy-protocol", text("v2")));
        }
        if !server.check.is_empty() {
            entries.push(("health-check", table(server.check.clone())));
        }
        table(entries)
    };
    Data::List(pool.0.iter().map(backend).collect())
}

fn ports(ports: &Ports) -> Data {
    let number = |port: &u16| Data::Int((*port).into());
    match ports {
        Ports::List(list) => match list.as_slice() {
            [port] => number(port),
            list => Data::List(list.iter().map(number).collect()),
        },
        Ports::Range(..) | Ports::All => text(ports.to_string()),
    }
}

//! Frontends of HAProxy: where they listen, whom they let in, and which pool a client gets.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::super::{Data, Draft, Notes, Ports, Route, Who, text};
use super::sni;
use super::{Line, Section, server, time};

/// The services of a frontend, one for each address that it binds.
pub(super) fn services(
    section: &Section,
    backends: &BTreeMap<&str, &Section>,
    used: &mut Vec<String>,
    notes: &mut Notes<'_>,
) -> Vec<Draft> {
    let mut common = Draft::new(section.line, section.name.clone(), None, Ports::All);
    let mut pool = (section.kind == "listen").then_some(section);
    let acls = acls(section, notes);
    if section.kind == "frontend" {
        let name = section.get("default_backend").map(|line| line.word(1).to_owned());
        pool = name.as_deref().and_then(|name| backends.get(name).copied());
        used.extend(name);
    }
    let Some(pool) = pool else {
        notes.add(section.line, "there is no default backend, so that nothing leads anywhere");
        return Vec::new();
    };
    if !pool.is_tcp() {
        notes.add(pool.line, "connections are passed on as they are: HTTP is not read");
        return Vec::new();
    }
    server::pool(pool, &mut common, notes);
    let (mut allow, mut deny) = (Vec::new(), Vec::new());
    for line in &section.lines {
        match (line.word(0), line.word(1)) {
            ("use_backend", name) => {
                used.push(name.to_owned());
                match backends.get(name).filter(|backend| backend.is_tcp()) {
                    Some(backend) => {
                        let found = route((line, backend), &acls, &common.routes, notes);
                        common.routes.extend(found);
                    }
                    None => notes.add(line.number, format!("there is no TCP backend `{name}`")),
                }
            }
            ("tcp-request", "connection" | "content") if line.word(2) == "reject" => {
                match condition(line, 3, &acls) {
                    Some((Who::Sources(list), true)) => deny.extend(list),
                    Some((Who::Sources(list), false)) => allow.extend(list),
                    Some((Who::Names(_), _)) | None => notes.add(line.number, CONDITION),
                }
            }
            ("tcp-request", "inspect-delay") => {}
            ("tcp-request", "content") if sni::waits(line) => {}
            ("tcp-request" | "tcp-response", _) => notes.add(line.number, CONDITION),
            ("maxconn", number) => match number.parse::<u32>() {
                Ok(number) => {
                    common.more.push(("max-flows", Data::Int(number.into())));
                    notes.add(
                        line.number,
                        "connections beyond this are refused (`on-empty`), not queued",
                    );
                }
                Err(_) => notes.add(line.number, "this is no number"),
            },
            ("bind" | "mode" | "default_backend" | "acl", _) => {}
            (name, _) if section.kind == "listen" && server::KNOWN.contains(&name) => {}
            ("option" | "timeout" | "log" | "description" | "default-server", _) => {
                server::option(line, notes);
            }
            (other, _) => notes.add(line.number, format!("`{other}` has no counterpart")),
        }
    }
    let limits: Vec<_> = [("allow", allow), ("deny", deny)]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| (name.to_owned(), Data::List(list.iter().map(text).collect())))
        .collect();
    if !limits.is_empty() {
        common.more.push(("limits", Data::Table(limits)));
    }
    timeouts(section, pool, &mut common);
    let binds = section.lines.iter().filter(|line| line.word(0) == "bind");
    binds.flat_map(|line| bind(line, &common, notes)).collect()
}

const CONDITION: &str = "only conditions on the source address, and for `use_backend` on the server name, one at a time, have a counterpart";

/// Whom acls are for, by their names; several lines of one name add up.
fn acls(section: &Section, notes: &mut Notes<'_>) -> BTreeMap<String, Who> {
    let mut acls: BTreeMap<String, Who> = BTreeMap::new();
    for line in section.lines.iter().filter(|line| line.word(0) == "acl") {
        let found = who(&line.words[2.min(line.words.len())..]);
        match (found, acls.get_mut(line.word(1))) {
            (Some(found), None) => {
                acls.insert(line.word(1).to_owned(), found);
            }
            (Some(Who::Sources(more)), Some(Who::Sources(list)))
            | (Some(Who::Names(more)), Some(Who::Names(list))) => list.extend(more),
            (Some(_), Some(_)) => notes.add(line.number, CONDITION),
            (None, _) if sni::is_hello(&line.words[2.min(line.words.len())..]) => {}
            (None, _) => notes.add(line.number, CONDITION),
        }
    }
    acls
}

/// `src 10.0.0.0/8 192.0.2.1`, `req.ssl_sni -i api.example.com`.
fn who(words: &[String]) -> Option<Who> {
    prefixes(words).map(Who::Sources).or_else(|| sni::names(words).map(Who::Names))
}

fn prefixes(words: &[String]) -> Option<Vec<String>> {
    let (first, rest) = words.split_first()?;
    let is_prefix = |text: &String| {
        let address = text.split('/').next().unwrap_or("");
        address.parse::<IpAddr>().is_ok()
    };
    let is_list = first == "src" && !rest.is_empty() && rest.iter().all(is_prefix);
    is_list.then(|| rest.to_vec())
}

/// Whom a condition is for, and whether it holds for them or for all others.
fn condition(line: &Line, from: usize, acls: &BTreeMap<String, Who>) -> Option<(Who, bool)> {
    let words = line.words.get(from..)?;
    let (keyword, condition) = words.split_first()?;
    let is_if = match keyword.as_str() {
        "if" => true,
        "unless" => false,
        _ => return None,
    };
    match condition {
        [open, inner @ .., close] if open == "{" && close == "}" => Some((who(inner)?, is_if)),
        [name] => match name.strip_prefix('!') {
            Some(name) => Some((acls.get(name)?.clone(), !is_if)),
            None => Some((acls.get(name)?.clone(), is_if)),
        },
        _ => None,
    }
}

fn route(
    (line, backend): (&Line, &Section),
    acls: &BTreeMap<String, Who>,
    before: &[Route],
    notes: &mut Notes<'_>,
) -> Option<Route> {
    let Some((who, true)) = condition(line, 2, acls) else {
        notes.add(line.number, CONDITION);
        return None;
    };
    let who = match who {
        Who::Names(names) => Who::Names(sni::left(&names, before, (line, notes))?),
        Who::Sources(_) if before.iter().any(|route| matches!(route.who, Who::Names(_))) => {
            notes.add(line.number, "sources go before server names here, wherever they stand");
            who
        }
        Who::Sources(_) => who,
    };
    let mut pool = Draft::new(line.number, String::new(), None, Ports::All);
    server::pool(backend, &mut pool, notes);
    if pool.backends.is_empty() {
        notes.add(line.number, "no server of this backend could be carried over");
        return None;
    }
    let Draft { choosing, backends, .. } = pool;
    Some(Route { who, choosing, backends })
}

/// Idle times: HAProxy has one for each side, and a flow here one for both.
fn timeouts(front: &Section, back: &Section, draft: &mut Draft) {
    let of = |section: &Section, name: &str| {
        let text = section.get_two("timeout", name)?.word(2).to_owned();
        humantime::parse_duration(&time(&text)?).ok()
    };
    let longest = of(front, "client").into_iter().chain(of(back, "server")).max();
    if let Some(longest) = longest {
        let words = humantime::format_duration(longest).to_string();
        let table = vec![("tcp-established".to_owned(), text(words))];
        draft.more.push(("timeouts", Data::Table(table)));
    }
}

fn bind(line: &Line, common: &Draft, notes: &mut Notes<'_>) -> Vec<Draft> {
    const TLS: [&str; 3] = ["ssl", "crt", "crt-list"];
    let mut interfaces = Vec::new();
    let mut words = line.words.iter().skip(2);
    while let Some(word) = words.next() {
        match word.as_str() {
            "interface" => interfaces.extend(words.next().cloned()),
            "name" | "maxconn" | "id" | "backlog" | "process" | "thread" => {
                words.next();
            }
            word if TLS.contains(&word) => {
                notes.add(
                    line.number,
                    "connections are passed on as they are: TLS is not ended here",
                );
                return Vec::new();
            }
            "accept-proxy" => {
                notes.add(line.number, "the PROXY protocol is not read");
                return Vec::new();
            }
            "transparent" | "v4v6" | "v6only" | "tfo" | "defer-accept" => {}
            other => notes.add(line.number, format!("`{other}` has no counterpart")),
        }
    }
    let mut drafts = Vec::new();
    for written in line.word(1).split(',') {
        let Some((address, ports)) = place(written) else {
            notes.add(line.number, format!("`{written}` is not an address and a port"));
            continue;
        };
        let mut draft = Draft { address, ports, line: line.number, ..common.clone() };
        draft.interfaces.clone_from(&interfaces);
        drafts.push(draft);
    }
    drafts
}

/// `10.0.0.1:80`, `:80`, `*:80`, `[::]:80`, `:::80`, `ipv4@10.0.0.1:8000-8100`.
fn place(written: &str) -> Option<(Option<IpAddr>, Ports)> {
    let plain = written.strip_prefix("ipv4@").or_else(|| written.strip_prefix("ipv6@"));
    let (address, ports) = plain.unwrap_or(written).rsplit_once(':')?;
    let address = match address.trim_matches(['[', ']']) {
        "" | "*" => None,
        address => {
            let address: IpAddr = address.parse().ok()?;
            Some(address).filter(|address| !address.is_unspecified())
        }
    };
    let ports = match ports.split_once('-') {
        None => Ports::one(ports.parse().ok().filter(|port| *port != 0)?),
        Some(_) => ports.parse().ok()?,
    };
    Some((address, ports))
}

/// The address of a server; none for a name.
pub(super) fn server_address(written: &str) -> Option<(IpAddr, Option<u16>)> {
    let plain = written.strip_prefix("ipv4@").or_else(|| written.strip_prefix("ipv6@"));
    let written = plain.unwrap_or(written);
    if let Ok(address) = written.parse::<SocketAddr>() {
        return Some((address.ip(), Some(address.port()).filter(|port| *port != 0)));
    }
    written.trim_matches(['[', ']']).parse().ok().map(|address| (address, None))
}

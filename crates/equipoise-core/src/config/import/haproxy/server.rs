//! Pools of HAProxy: how a server is picked, how it is checked, and the servers.

use super::super::{Check, Choosing, Data, Draft, Notes, Server, text};
use super::front::server_address;
use super::{Line, Section, time};

/// What is read of a pool.
pub(super) const KNOWN: [&str; 13] = [
    "server",
    "balance",
    "default-server",
    "option",
    "http-check",
    "tcp-check",
    "timeout",
    "stick-table",
    "stick",
    "hash-type",
    "source",
    "server-template",
    "retries",
];

/// Reads a pool into a service.
pub(super) fn pool(section: &Section, draft: &mut Draft, notes: &mut Notes<'_>) {
    draft.mode = "full-nat";
    draft.choosing = section.get("balance").map_or_else(
        || Choosing { algorithm: Some("round-robin"), ..Choosing::default() },
        |line| balance(line, notes),
    );
    let check = check(section, notes);
    let defaults: Vec<_> = section
        .defaults
        .iter()
        .chain(&section.lines)
        .filter(|line| line.word(0) == "default-server")
        .flat_map(|line| line.words.iter().skip(1).cloned())
        .collect();
    for line in &section.lines {
        match (line.word(0), line.word(1)) {
            ("server", _) => {
                let words = defaults.iter().chain(line.words.iter().skip(3)).cloned().collect();
                let line = Line {
                    number: line.number,
                    words: [line.words[..line.words.len().min(3)].to_vec(), words].concat(),
                };
                server(&line, &check, draft, notes);
            }
            ("server-template", _) => notes.add(line.number, BY_NAME),
            ("stick", "on") if line.word(2) == "src" => draft.choosing.by_source = true,
            ("stick-table" | "stick", _) => notes.add(
                line.number,
                "clients are kept together by the hash of their address, not by a table",
            ),
            ("source", _) if line.words.iter().any(|word| word == "usesrc") => draft.mode = "nat",
            ("source", _) => notes.add(
                line.number,
                "set `snat-addresses` for the address that connections come from",
            ),
            ("hash-type", _) => notes.add(line.number, "hashes are consistent here (`maglev`)"),
            ("retries", _) => notes.add(line.number, "a connection is not tried again elsewhere"),
            ("option" | "timeout", _) => option(line, notes),
            (
                "bind" | "mode" | "balance" | "default-server" | "http-check" | "tcp-check"
                | "description",
                _,
            ) => {}
            (other, _) if section.kind == "backend" => {
                notes.add(line.number, format!("`{other}` has no counterpart"));
            }
            _ => {}
        }
    }
}

fn balance(line: &Line, notes: &mut Notes<'_>) -> Choosing {
    let of = |algorithm| Choosing { algorithm: Some(algorithm), ..Choosing::default() };
    match line.word(1) {
        "roundrobin" | "static-rr" => of("round-robin"),
        "leastconn" => of("least-connections"),
        "source" => Choosing { by_source: true, ..Choosing::default() },
        word if word.starts_with("random") => of("random"),
        other => {
            notes.add(
                line.number,
                format!("there is no `balance {other}` here; new connections go by `maglev`"),
            );
            of("maglev")
        }
    }
}

/// Options that change nothing here are let be; others are told.
pub(super) fn option(line: &Line, notes: &mut Notes<'_>) {
    const NOTHING: [&str; 15] = [
        "tcplog",
        "dontlognull",
        "dontlog-normal",
        "log-health-checks",
        "tcpka",
        "clitcpka",
        "srvtcpka",
        "tcp-check",
        "httpchk",
        "splice-auto",
        "splice-request",
        "splice-response",
        "tcp-smart-accept",
        "tcp-smart-connect",
        "redispatch",
    ];
    const TIMES: [&str; 6] = ["client", "server", "connect", "check", "queue", "tunnel"];
    match (line.word(0), line.word(1)) {
        ("option", name) if NOTHING.contains(&name) => {}
        ("timeout", name) if TIMES.contains(&name) => {}
        ("log" | "description" | "default-server", _) => {}
        (first, second) => notes.add(line.number, format!("`{first} {second}` has no counterpart")),
    }
}

/// What the checks of a pool ask.
fn check(section: &Section, notes: &mut Notes<'_>) -> Check {
    let mut keys: Check = Vec::new();
    if let Some(line) = section.get_two("option", "httpchk") {
        keys.push(("type", text("http")));
        let (method, path) = match (line.word(2), line.word(3)) {
            ("", _) => ("OPTIONS", "/"),
            (path, "") => ("OPTIONS", path),
            (method, path) => (method, path),
        };
        keys.push(("method", text(method)));
        keys.push(("path", text(path)));
        keys.push(("expected-codes", Data::List(vec![text("200-399")])));
        if line.words.len() > 4 {
            notes.add(line.number, "name the host by `http-check send`, or by `host` in the check");
        }
    } else {
        keys.push(("type", text("tcp")));
    }
    for line in section.lines.iter().filter(|line| line.word(0) == "http-check") {
        match (line.word(1), line.word(2)) {
            ("send", _) => send(line, &mut keys, notes),
            ("expect", "status") => expect(line, &mut keys),
            ("expect", "string") => set(&mut keys, "expected-body", text(line.word(3))),
            _ => notes.add(line.number, "this has no counterpart in a check"),
        }
    }
    for line in section.lines.iter().filter(|line| line.word(0) == "tcp-check") {
        if line.word(1) != "connect" {
            notes.add(line.number, "the check asks for a connection, and says nothing");
        }
    }
    if let Some(timeout) = section.get_two("timeout", "check").and_then(|line| time(line.word(2))) {
        keys.push(("timeout", text(timeout)));
    }
    keys
}

/// `http-check send meth GET uri /x hdr Host example.com`.
fn send(line: &Line, keys: &mut Check, notes: &mut Notes<'_>) {
    for (name, key) in [("meth", "method"), ("uri", "path")] {
        if let Some(value) = line.after(name) {
            set(keys, key, text(value));
        }
    }
    let mut words = line.words.iter();
    let mut headers = Vec::new();
    while let Some(word) = words.next() {
        if word != "hdr" {
            continue;
        }
        match (words.next(), words.next()) {
            (Some(name), Some(value)) if name.eq_ignore_ascii_case("host") => {
                set(keys, "host", text(value));
            }
            (Some(name), Some(value)) => headers.push((name.clone(), text(value))),
            _ => notes.add(line.number, "a header has no value"),
        }
    }
    if !headers.is_empty() {
        set(keys, "headers", Data::Table(headers));
    }
}

/// `http-check expect status 200-299,404`.
fn expect(line: &Line, keys: &mut Check) {
    let code = |word: &str| match word.parse::<u16>() {
        Ok(code) => Data::Int(code.into()),
        Err(_) => text(word),
    };
    let codes = line.word(3).split(',').map(code).collect();
    set(keys, "expected-codes", Data::List(codes));
}

fn set(keys: &mut Check, name: &'static str, value: Data) {
    keys.retain(|(other, _)| *other != name);
    keys.push((name, value));
}

/// Names are looked up again and again here, which is not what the file says of them.
const BY_NAME: &str = "a backend by name is not carried over: write it as `{ host = \"…\", port = … }`, and it is looked up as it changes";

fn server(line: &Line, check: &Check, draft: &mut Draft, notes: &mut Notes<'_>) {
    let Some((address, port)) = server_address(line.word(2)) else {
        notes.add(line.number, BY_NAME);
        return;
    };
    let mut found = Server::new(address, port);
    let (mut is_checked, mut keys) = (false, check.clone());
    let mut words = line.words.iter().skip(3);
    while let Some(word) = words.next() {
        match word.as_str() {
            "check" => is_checked = true,
            "no-check" => is_checked = false,
            "backup" => found.backup = true,
            "weight" => match words.next().and_then(|weight| weight.parse().ok()) {
                Some(weight) => found.weight = weight,
                None => notes.add(line.number, "this is no weight"),
            },
            "inter" => put(&mut keys, "interval", words.next()),
            "fastinter" => put(&mut keys, "fast-interval", words.next()),
            "rise" => count(&mut keys, "healthy-threshold", words.next()),
            "fall" => count(&mut keys, "unhealthy-threshold", words.next()),
            "port" => count(&mut keys, "port", words.next()),
            "check-ssl" => {
                let is_http =
                    keys.iter().any(|(name, value)| *name == "type" && *value == text("http"));
                if is_http {
                    set(&mut keys, "type", text("https"));
                } else {
                    notes.add(line.number, "the check asks for a connection without TLS");
                }
            }
            "verify" => {
                if words.next().is_some_and(|word| word == "none") {
                    set(&mut keys, "insecure", Data::Bool(true));
                }
            }
            "check-sni" => {
                if let Some(name) = words.next() {
                    set(&mut keys, "server-name", text(name));
                }
            }
            "ca-file" => {
                if let Some(name) = words.next() {
                    set(&mut keys, "ca-file", text(name));
                }
            }
            "maxconn" => {
                found.max_flows = words.next().and_then(|most| most.parse().ok()).unwrap_or(0);
                notes.add(
                    line.number,
                    "connections beyond `maxconn` go to another backend, and do not wait",
                );
            }
            "send-proxy-v2" => found.proxied = true,
            "ssl" | "send-proxy" | "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" => {
                notes.add(line.number, format!("connections are passed on as they are, without `{word}`: this server was left out"));
                return;
            }
            "disabled" => {
                notes.add(line.number, "it gets no new connections (weight 0), as it is disabled");
                found.weight = 0;
            }
            "on-marked-down" => {
                if words.next().is_some_and(|word| word == "shutdown-sessions") {
                    draft.more.retain(|(name, _)| *name != "on-backend-down");
                    draft.more.push(("on-backend-down", text("reset")));
                }
            }
            "slowstart" => {
                let time = words.next().and_then(|word| time(word));
                draft.more.retain(|(name, _)| *name != "recovery");
                let slow = time.map(|time| ("slow-start".to_owned(), text(time)));
                let table = [("mode".to_owned(), text("linear"))].into_iter().chain(slow).collect();
                draft.more.push(("recovery", Data::Table(table)));
            }
            "id" | "init-addr" | "resolvers" | "resolve-prefer" | "maxqueue" | "minconn"
            | "addr" | "cookie" | "downinter" | "track" | "observe" | "error-limit"
            | "on-error" | "pool-max-conn" | "proxy-v2-options" => {
                words.next();
                notes.add(line.number, format!("`{word}` has no counterpart"));
            }
            other => notes.add(line.number, format!("`{other}` has no counterpart")),
        }
    }
    if is_checked {
        let is_https = keys.iter().any(|(name, value)| *name == "type" && *value == text("https"));
        keys.retain(|(name, _)| {
            is_https || !matches!(*name, "insecure" | "server-name" | "ca-file")
        });
        // Those of HAProxy, where nothing is said.
        for (name, value) in [
            ("interval", text("2s")),
            ("healthy-threshold", Data::Int(2)),
            ("unhealthy-threshold", Data::Int(3)),
        ] {
            if !keys.iter().any(|(other, _)| *other == name) {
                keys.push((name, value));
            }
        }
        found.check = keys;
    }
    draft.backends.push(found);
}

fn put(keys: &mut Check, name: &'static str, word: Option<&String>) {
    if let Some(time) = word.and_then(|word| time(word)) {
        set(keys, name, text(time));
    }
}

fn count(keys: &mut Check, name: &'static str, word: Option<&String>) {
    if let Some(count) = word.and_then(|word| word.parse::<u16>().ok()) {
        set(keys, name, Data::Int(count.into()));
    }
}

//! The checks of keepalived's real servers.

use super::super::{Check, Data, Notes, text};
use super::{Block, seconds};

/// Their names.
pub(super) const KINDS: [&str; 11] = [
    "TCP_CHECK",
    "HTTP_GET",
    "SSL_GET",
    "MISC_CHECK",
    "DNS_CHECK",
    "UDP_CHECK",
    "SMTP_CHECK",
    "PING_CHECK",
    "FILE_CHECK",
    "BFD_CHECK",
    "inhibit_on_failure",
];

/// What a virtual server says for all its checks.
#[derive(Default)]
pub(super) struct Common {
    pub(super) interval: Option<String>,
    pub(super) host: Option<String>,
    pub(super) keys: Vec<Vec<String>>,
}

/// The check of a real server, and whether it is a command.
pub(super) fn of(server: &Block, common: &Common, notes: &mut Notes<'_>) -> (Check, bool) {
    let mut kinds =
        server.inner.iter().filter(|inner| inner.word(0).is_some_and(|name| KINDS.contains(&name)));
    let Some(block) = kinds.find(|inner| inner.word(0) != Some("inhibit_on_failure")) else {
        return (Vec::new(), false);
    };
    for more in kinds {
        let reason = match more.word(0) {
            Some("inhibit_on_failure") => continue,
            _ => "a backend has one check; the first was taken",
        };
        notes.add(more.line, reason);
    }
    let kind = match block.word(0).unwrap_or("") {
        "TCP_CHECK" => "tcp",
        "HTTP_GET" => "http",
        "SSL_GET" => "https",
        "MISC_CHECK" => "exec",
        "DNS_CHECK" => "dns",
        "UDP_CHECK" => "udp",
        "SMTP_CHECK" => {
            notes.add(block.line, "SMTP is not spoken: the check asks for a connection");
            "tcp"
        }
        other => {
            notes.add(block.line, format!("there is no check like `{other}`"));
            return (Vec::new(), false);
        }
    };
    let mut keys: Check = vec![("type", text(kind))];
    if kind == "https" {
        keys.push(("insecure", Data::Bool(true)));
    }
    let mut interval = common.interval.clone();
    let mut host = common.host.clone().filter(|_| matches!(kind, "http" | "https"));
    let outer = common.keys.iter().map(|words| Block {
        line: block.line,
        words: words.clone(),
        inner: Vec::new(),
    });
    let outer: Vec<_> = outer.collect();
    for inner in outer.iter().chain(&server.inner).chain(&block.inner) {
        let value = inner.word(1).unwrap_or("");
        match inner.word(0).unwrap_or("") {
            "connect_timeout" | "misc_timeout" => {
                put(&mut keys, "timeout", seconds(value, inner.line, notes));
            }
            "delay_loop" => interval = seconds(value, inner.line, notes).or(interval),
            "connect_port" => {
                if let Ok(port) = value.parse::<u16>() {
                    keys.push(("port", Data::Int(port.into())));
                }
            }
            "retry" | "nb_get_retry" => {
                if let Ok(retries) = value.parse::<u16>() {
                    set(
                        &mut keys,
                        "unhealthy-threshold",
                        Data::Int(i128::from(retries.min(99)) + 1),
                    );
                }
            }
            "delay_before_retry" => {
                put(&mut keys, "fast-interval", seconds(value, inner.line, notes));
            }
            "virtualhost" if matches!(kind, "http" | "https") => host = Some(value.to_owned()),
            "url" if keys.iter().any(|(name, _)| *name == "path") => {
                notes.add(inner.line, "a check asks for one page; the first was taken");
            }
            "url" => url(inner, &mut keys, notes),
            "misc_path" => keys.push(("command", command(inner))),
            "name" if kind == "dns" => keys.push(("query", text(value))),
            "type" if kind == "dns" => keys.push(("query-type", text(value.to_ascii_uppercase()))),
            "weight" | "uthreshold" | "lthreshold" => {}
            name if KINDS.contains(&name) => {}
            name if server.inner.iter().any(|other| std::ptr::eq(other, inner))
                && !name.is_empty() => {}
            other => notes.add(inner.line, format!("`{other}` has no counterpart in a check")),
        }
    }
    put(&mut keys, "interval", interval);
    put(&mut keys, "host", host);
    if kind == "exec" {
        notes.add(block.line, "commands run as the user of the process, and know EQUIPOISE_ADDRESS and EQUIPOISE_PORT");
    }
    (keys, kind == "exec")
}

fn put(keys: &mut Check, name: &'static str, value: Option<String>) {
    if let Some(value) = value {
        set(keys, name, text(value));
    }
}

/// What is nearer wins.
fn set(keys: &mut Check, name: &'static str, value: Data) {
    keys.retain(|(other, _)| *other != name);
    keys.push((name, value));
}

fn url(block: &Block, keys: &mut Check, notes: &mut Notes<'_>) {
    for inner in &block.inner {
        let value = inner.word(1).unwrap_or("");
        match inner.word(0).unwrap_or("") {
            "path" => keys.push(("path", text(value))),
            "virtualhost" => keys.push(("host", text(value))),
            "status_code" => {
                let codes = inner.words.iter().skip(1).map(|code| match code.parse::<u16>() {
                    Ok(code) => Data::Int(code.into()),
                    Err(_) => text(code),
                });
                keys.push(("expected-codes", Data::List(codes.collect())));
            }
            other => notes.add(inner.line, format!("`{other}` has no counterpart in a check")),
        }
    }
    // There, any code of success will do where none is named.
    if !keys.iter().any(|(name, _)| *name == "expected-codes") {
        keys.push(("expected-codes", Data::List(vec![text("200-299")])));
    }
}

/// A path and arguments, in one text or in several words.
fn command(block: &Block) -> Data {
    let words = block.words.iter().skip(1).flat_map(|word| word.split_whitespace());
    Data::List(words.map(text).collect())
}

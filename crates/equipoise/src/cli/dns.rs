//! `equipoise dns`: the names that the running instance looks up, and what they stand for; `dns refresh`: one of them, now;
//! `dns lookup`: any name, here and now, with or without a running instance.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use equipoise_core::config::Name;

use super::args::{Dns, DnsAction, Global, LookUp};
use super::check::load;
use super::{Exit, Failure, json, print, print_json, table, watch};
use crate::driver::{addresses, name_error};
use crate::resolver::look_up;
use crate::status::names::{LookUpAnswer, NameStatus, PlaceStatus};

pub(super) async fn dns(global: &Global, asked: &Dns) -> Result<(), Failure> {
    let resolved =
        asked.resolve.as_ref().map(|name| LookUp { name: name.clone(), resolver: Vec::new() });
    let refreshed = match (&asked.action, &resolved) {
        (None, Some(asked)) | (Some(DnsAction::Lookup(asked)), _) => {
            return look_up_once(global, asked).await;
        }
        (None, None) => None,
        (Some(DnsAction::Refresh { name }), _) => Some(name),
    };
    watch::show(asked.watch, async || {
        let names = match refreshed {
            Some(name) => global.client().refresh_names(name).await?,
            None => global.client().names().await?,
        };
        if global.json { json(&names) } else { Ok(shown(&names)) }
    })
    .await
}

fn shown(names: &[NameStatus]) -> String {
    if names.is_empty() {
        return "no names\n".to_owned();
    }
    let mut table =
        table(&["NAME", "SERVICES", "ADDRESSES", "RESOLVED", "NEXT", "FAILURES", "WHY"]);
    for name in names {
        let services: BTreeSet<_> = name.users.iter().map(|user| user.service.as_str()).collect();
        let services: Vec<_> = services.into_iter().collect();
        table.add_row([
            name.name.clone(),
            services.join(", "),
            listed(&name.addresses),
            name.last_resolved_at.clone().unwrap_or_else(|| "never".to_owned()),
            format!("{:.1}s", name.next_lookup_seconds),
            name.consecutive_failures.to_string(),
            name.error.as_ref().map(|e| format!("{}: {}", e.kind, e.message)).unwrap_or_default(),
        ]);
    }
    format!("{table}\n")
}

/// `[10.0.0.1, 10.0.0.2]`; those that the last answer did not have are marked.
fn listed(places: &[PlaceStatus]) -> String {
    let place = |place: &PlaceStatus| {
        let mark = if place.kept { " (kept)" } else { "" };
        format!("{}{mark}", place.address)
    };
    format!("[{}]", places.iter().map(place).collect::<Vec<_>>().join(", "))
}

async fn look_up_once(global: &Global, asked: &LookUp) -> Result<(), Failure> {
    let text = asked.name.to_ascii_lowercase();
    let name = if text.starts_with('_') { Name::Srv(text.into()) } else { Name::Host(text.into()) };
    let resolvers = resolvers(global, asked)?;
    let mut answer = LookUpAnswer {
        name: name.to_string(),
        kind: name.kind().to_owned(),
        addresses: Vec::new(),
        ttl_seconds: None,
        error: None,
    };
    let is_good = match look_up(&name, &resolvers).await {
        Ok(found) => {
            answer.addresses = addresses(&name, &found.places, &BTreeSet::new());
            answer.ttl_seconds = found.ttl.map(|ttl| ttl.as_secs_f64());
            answer.error = found.lacks.map(|(_, failure)| name_error(&failure));
            true
        }
        Err(failure) => {
            answer.error = Some(name_error(&failure));
            false
        }
    };
    if global.json {
        print_json(&answer)?;
    } else {
        print(&in_words(&answer))?;
    }
    if is_good { Ok(()) } else { Err(Failure::said(Exit::Failed)) }
}

/// Who is asked: whom the command line names, or the file that it names, or else the system's resolvers.
fn resolvers(global: &Global, asked: &LookUp) -> Result<Vec<SocketAddr>, Failure> {
    if !asked.resolver.is_empty() || global.config.is_none() {
        return Ok(asked.resolver.clone());
    }
    Ok(load(global, None)?.config.settings.dns.resolvers.to_vec())
}

fn in_words(answer: &LookUpAnswer) -> String {
    let mut text = String::new();
    for PlaceStatus { address, weight, priority, .. } in &answer.addresses {
        text.push_str(address);
        if answer.kind == "srv" {
            text.push_str(&format!("  priority {priority}, weight {weight}"));
        }
        text.push('\n');
    }
    if let Some(ttl) = answer.ttl_seconds {
        text.push_str(&format!("for {ttl}s\n"));
    }
    if let Some(error) = &answer.error {
        text.push_str(&format!("{}: {}\n", error.kind, error.message));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_in_brackets() {
        let place = |address: &str, kept| {
            let address = address.to_owned();
            PlaceStatus { address, weight: 1, priority: 0, kept }
        };
        let places = [place("10.0.0.1", false), place("10.0.0.2", true)];
        assert_eq!(listed(&places), "[10.0.0.1, 10.0.0.2 (kept)]");
        assert_eq!(listed(&[]), "[]");
    }
}

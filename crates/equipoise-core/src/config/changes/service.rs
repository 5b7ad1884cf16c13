//! Whole services given or left out while the program runs.
//!
//! What is given is a table as a file has one, without variables, and takes the place of the file's service of that name, or comes after
//! all others. One that the file has just so, and one that is left out and is not there, are given up.

use serde_json::Value as Json;

use super::tree::{entry, items, made, text};
use crate::config::file::{Node, Value};
use crate::config::write::Data;

/// What is otherwise about a service as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceChange {
    /// It is this: a table with the keys of a file.
    Given(Json),
    /// It is left out.
    Removed,
}

/// Makes one change; false where it is none.
pub(super) fn lay(root: &mut Node, name: &str, change: &ServiceChange) -> bool {
    let Some(list) = made(root, &["service"], Value::List(Vec::new())) else { return false };
    let span = list.span.clone();
    let Some(services) = items(list) else { return false };
    let at = services.iter().position(|service| text(service, "name") == Some(name));
    match (change, at) {
        (ServiceChange::Removed, None) => false,
        (ServiceChange::Removed, Some(at)) => {
            services.remove(at);
            true
        }
        (ServiceChange::Given(table), at) => {
            let node = node(table, &span);
            match at {
                Some(at) if says(&services[at]) == given(table) => return false,
                Some(at) => services[at] = node,
                None => services.push(node),
            }
            true
        }
    }
}

fn says(node: &Node) -> Option<Data> {
    Data::of(node).map(Data::ordered_service)
}

fn given(table: &Json) -> Option<Data> {
    Data::of_json(table.clone()).map(Data::ordered_service)
}

/// A tree out of JSON, all of it at one place of a text.
fn node(json: &Json, span: &std::ops::Range<usize>) -> Node {
    let value = match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        // As text, so that a message about it shows it: it stands nowhere in the file.
        Json::Number(number) if number.is_f64() => {
            Value::Float(number.as_f64().unwrap_or_default())
        }
        Json::Number(number) => Value::Given(number.to_string()),
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(items) => Value::List(items.iter().map(|item| node(item, span)).collect()),
        Json::Object(entries) => {
            let entries = entries.iter().map(|(name, value)| entry(name, node(value, span)));
            Value::Table(entries.collect())
        }
    };
    Node { span: span.clone(), value }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Changes;
    use super::*;
    use crate::config::{Around, Config, parse_changed};
    use crate::id::BackendKey;

    const FILE: &str = "
        [[service]]
        name = 'web'
        listen = { interfaces = ['eth0'], port = 80 }
        backends = [{ address = '10.0.0.1:80', weight = 3 }]
        [[service]]
        name = 'dns'
        listen = { interfaces = ['eth0'], port = 53, protocol = 'udp' }
        backends = [{ address = '10.0.0.1:80' }]
    ";

    fn web(name: &str, port: u16, weight: u16) -> ServiceChange {
        ServiceChange::Given(json!({
            "backends": [{ "weight": weight, "address": "10.0.0.1:80" }],
            "listen": { "port": port, "interfaces": ["eth0"] },
            "name": name,
        }))
    }

    fn laid(changes: &Changes) -> (Config, Vec<String>) {
        let around = Around::files(&|_| unreachable!());
        let changed = parse_changed(("a.toml", FILE), &around, changes).unwrap();
        let holding = changed.changes.services().map(|(name, _)| name.to_owned()).collect();
        (changed.checked.config, holding)
    }

    #[test]
    fn services_are_given_and_left_out_and_others_stay_in_their_places() {
        let mut changes = Changes::default();
        changes.set_service("web", web("web", 81, 3));
        changes.set_service("new", web("new", 82, 1));
        changes.set_service("dns", ServiceChange::Removed);
        let key = |service: &str| BackendKey {
            service: service.into(),
            route: None,
            address: "10.0.0.1:80".parse().unwrap(),
        };
        changes.set_weight(key("new"), 9);
        let (config, holding) = laid(&changes);
        let names: Vec<_> = config.services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!((names, holding.len()), (vec!["web", "new"], 3));
        assert_eq!(config.services[0].listen.port.to_string(), "81");
        assert_eq!(config.services[1].backends[0].weight, 9, "changes are of what is given, too");
        changes.set_service("new", ServiceChange::Removed);
        assert_eq!(laid(&changes).1, ["web", "dns"], "what came only so is gone");
    }

    #[test]
    fn service_that_the_file_has_just_so_is_given_up() {
        let mut changes = Changes::default();
        changes.set_service("web", web("web", 80, 3));
        changes.set_service("mail", ServiceChange::Removed);
        assert_eq!(laid(&changes).1, Vec::<String>::new());
        changes.set_service("web", web("web", 80, 4));
        assert_eq!(laid(&changes).1, ["web"]);
    }
}

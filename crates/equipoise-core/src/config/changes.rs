//! What is changed while the program runs, laid over what the file says: backends, and beside them rates (`rate`) and denied prefixes
//! (`denial`).
//!
//! A change is of one backend of one pool, and there is one for each at most: another weight, a backend that the file does not have,
//! or one that it has and that is left out. They are laid over the tree before it is checked, so that the whole is checked as a
//! file is. A change holds as long as the file says something else: one that the file says as well, or
//! that is about what the file does not have any more, is given up. Knows no file and no state.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::file::{Node, Value};
use super::ports::target;
use crate::facts::Moment;
use crate::id::{BackendKey, DEFAULT_ROUTE};

mod denial;
mod entry;
mod rate;
mod service;
mod tree;

pub use denial::Denial;
pub use entry::{EntryAt, PoolEntry};
pub use rate::{RateChange, RateKey, RateOf};
pub use service::ServiceChange;

use tree::{field, items, value};

/// A backend that is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBackend {
    /// Its weight.
    pub weight: u16,
    /// Live flows at most; 0 for no limit.
    #[serde(default)]
    pub max_flows: u32,
    /// Whether it is chosen only when no other is usable.
    #[serde(default)]
    pub backup: bool,
}

/// What is otherwise than the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It has this weight.
    Weight(u16),
    /// It is there, and not in the file.
    Added(NewBackend),
    /// It is in the file, and left out.
    Removed,
}

/// Changes by what they are about; at most one of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// By name, in the order in which they came.
    services: Vec<(String, ServiceChange)>,
    backends: BTreeMap<PoolEntry, Change>,
    rates: BTreeMap<RateKey, RateChange>,
    /// Until when, where that is not for good.
    denials: BTreeMap<Denial, Option<Moment>>,
}

impl Changes {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.backends.is_empty()
            && self.rates.is_empty()
            && self.denials.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.services.len() + self.backends.len() + self.rates.len() + self.denials.len()
    }

    /// Those of services as a whole, in the order in which they came.
    pub fn services(&self) -> impl Iterator<Item = (&str, &ServiceChange)> {
        self.services.iter().map(|(name, change)| (name.as_str(), change))
    }

    /// Those of backends, in the order of services, routes, addresses and names.
    pub fn backends(&self) -> impl Iterator<Item = (&PoolEntry, &Change)> {
        self.backends.iter()
    }

    /// Those of rates, in the order of services.
    pub fn rates(&self) -> impl Iterator<Item = (&RateKey, &RateChange)> {
        self.rates.iter()
    }

    /// Prefixes that are denied, and until when, where that is not for good.
    pub fn denials(&self) -> impl Iterator<Item = (&Denial, Option<Moment>)> {
        self.denials.iter().map(|(denial, until)| (denial, *until))
    }

    /// All that the others do not have, in words.
    pub fn missing_in(&self, others: &Self) -> Vec<String> {
        let backends = self.backends.iter().filter(|(key, _)| !others.backends.contains_key(*key));
        let rates = self.rates.iter().filter(|(key, _)| !others.rates.contains_key(*key));
        let denials = self.denials.keys().filter(|key| !others.denials.contains_key(*key));
        let is_missing = |name: &&str| !others.services.iter().any(|(other, _)| other == name);
        let services = self.services.iter().map(|(name, _)| name.as_str()).filter(is_missing);
        let services = services.map(|name| format!("service {name}"));
        let backends = backends.map(|(PoolEntry { service, at, .. }, change)| {
            format!("{} of {service}: {change}", at.text())
        });
        let rates = rates.map(|(key, change)| format!("{key}: {change}"));
        services
            .chain(backends)
            .chain(rates)
            .chain(denials.map(|denial| format!("{denial} denied")))
            .collect()
    }

    /// A service is to be this, or not to be there.
    pub fn set_service(&mut self, name: &str, change: ServiceChange) {
        match self.services.iter_mut().find(|(other, _)| other == name) {
            Some((_, before)) => *before = change,
            None => self.services.push((name.to_owned(), change)),
        }
    }

    /// A service is to have this rate.
    pub fn set_rate(&mut self, key: RateKey, change: RateChange) {
        self.rates.insert(key, change);
    }

    /// Clients of a prefix are not to be let in, until then or for good.
    pub fn deny(&mut self, denial: Denial, until: Option<Moment>) {
        self.denials.insert(denial, until);
    }

    /// They are let in again, as far as these changes go; false where none of them kept them out.
    pub fn allow_again(&mut self, denial: &Denial) -> bool {
        self.denials.remove(denial).is_some()
    }

    /// Drops what is over by now, and says what that was.
    pub fn expire(&mut self, now: Moment) -> Vec<Denial> {
        let is_over = |_: &Denial, until: &mut Option<Moment>| until.is_some_and(|at| at <= now);
        self.denials.extract_if(.., is_over).map(|(denial, _)| denial).collect()
    }

    /// When the next one is over.
    pub fn next_end(&self) -> Option<Moment> {
        self.denials.values().flatten().min().copied()
    }

    /// A backend is to have this weight.
    pub fn set_weight(&mut self, key: impl Into<PoolEntry>, weight: u16) {
        let key = key.into();
        let change = match self.backends.get(&key) {
            Some(Change::Added(new)) => Change::Added(NewBackend { weight, ..*new }),
            Some(Change::Weight(_) | Change::Removed) | None => Change::Weight(weight),
        };
        self.backends.insert(key, change);
    }

    /// A backend is to be there. One that was left out, and is asked for as it was, is as it was: the file says of it what is not
    /// said here.
    pub fn add(&mut self, key: BackendKey, new: NewBackend) {
        let key = key.into();
        let change = match self.backends.get(&key) {
            Some(Change::Removed) => Change::Weight(new.weight),
            Some(Change::Weight(_) | Change::Added(_)) | None => Change::Added(new),
        };
        self.backends.insert(key, change);
    }

    /// A backend is not to be there.
    pub fn remove(&mut self, key: impl Into<PoolEntry>) {
        let key = key.into();
        if let Some(Change::Added(_)) = self.backends.get(&key) {
            self.backends.remove(&key);
        } else {
            self.backends.insert(key, Change::Removed);
        }
    }

    /// Lays them over a tree; answers with those that hold.
    pub(super) fn lay_over(&self, root: &mut Node) -> Self {
        let holds = |(name, change): &&(String, ServiceChange)| service::lay(root, name, change);
        // First: others may be of what is given so.
        let services = self.services.iter().filter(holds).cloned().collect();
        let holds = |(key, change): &(&PoolEntry, &Change)| lay(root, key, **change);
        let holding = self.backends.iter().filter(holds);
        let backends = holding.map(|(key, change)| (key.clone(), *change)).collect();
        let holding = self.rates.iter().filter(|(key, change)| rate::lay(root, key, **change));
        let rates = holding.map(|(key, change)| (key.clone(), *change)).collect();
        let holding = self.denials.iter().filter(|(denial, _)| denial::lay(root, denial));
        let denials = holding.map(|(denial, until)| (denial.clone(), *until)).collect();
        Self { services, backends, rates, denials }
    }
}

impl<K: Into<PoolEntry>> FromIterator<(K, Change)> for Changes {
    fn from_iter<I: IntoIterator<Item = (K, Change)>>(changes: I) -> Self {
        let backends = changes.into_iter().map(|(entry, change)| (entry.into(), change));
        Self { backends: backends.collect(), ..Self::default() }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weight(weight) => write!(f, "weight {weight}"),
            Self::Added(new) => write!(f, "added with weight {}", new.weight),
            Self::Removed => f.write_str("removed"),
        }
    }
}

/// Makes one change; false where it is none.
fn lay(root: &mut Node, key: &PoolEntry, change: Change) -> bool {
    let Some(service) = tree::service(root, &key.service) else { return false };
    match change {
        Change::Weight(weight) => {
            let Some(backend) = find(service, key) else { return false };
            set_weight(backend, weight)
        }
        Change::Added(new) => {
            if find(service, key).is_some() {
                return false;
            }
            let Some(list) = pool(service, key.route.as_deref()) else { return false };
            // What a name stands for is said by its look-ups, and which it is by the file.
            let EntryAt::Address(address) = key.at else { return false };
            add(list, address, new)
        }
        Change::Removed => {
            let own = pool(service, key.route.as_deref());
            own.is_some_and(|list| remove(list, &key.at))
                || fallback(service, key.route.as_deref()).is_some_and(|list| remove(list, &key.at))
        }
    }
}

/// The list of the backends that a route leads to.
fn pool<'a>(service: &'a mut Node, route: Option<&str>) -> Option<&'a mut Node> {
    match route.filter(|name| *name != DEFAULT_ROUTE) {
        None => field(service, "backends"),
        Some(name) => field(route_node(service, name)?, "backends"),
    }
}

/// The route of this name: its first source, or its first server's, whatever the case.
fn route_node<'a>(service: &'a mut Node, name: &str) -> Option<&'a mut Node> {
    let is_name = |text: Option<&str>| text.is_some_and(|text| text.eq_ignore_ascii_case(name));
    let is_first = |value: Option<&Value>| match value {
        Some(Value::List(items)) => is_name(items.first().and_then(|item| item.value.text())),
        Some(value) => is_name(value.text()),
        None => false,
    };
    let kinds = [("source-route", "source"), ("name-route", "names")];
    let (list, at) = kinds.into_iter().find_map(|(list, key)| {
        let routes = items(field(service, list)?)?;
        Some((list, routes.iter().position(|route| is_first(value(route, key)))?))
    })?;
    items(field(service, list)?)?.get_mut(at)
}

/// The list of the backends that step in when the pool that a route leads to panics: its own, or that of its service.
fn fallback<'a>(service: &'a mut Node, route: Option<&str>) -> Option<&'a mut Node> {
    fn list(of: &mut Node) -> Option<&mut Node> {
        field(field(of, "panic")?, "fallback-backends")
    }
    let name = route.filter(|name| *name != DEFAULT_ROUTE);
    let has_own = |name: &&str| route_node(service, name).and_then(list).is_some();
    match name.filter(has_own) {
        Some(name) => route_node(service, name).and_then(list),
        None => list(service),
    }
}

/// The entry of a backend: in its own pool, or among those that step in.
fn find<'a>(service: &'a mut Node, key: &PoolEntry) -> Option<&'a mut Node> {
    let route = key.route.as_deref();
    let is_in_pool = pool(service, route).is_some_and(|list| key.at.position(list).is_some());
    let list = if is_in_pool { pool(service, route)? } else { fallback(service, route)? };
    let at = key.at.position(list)?;
    items(list)?.get_mut(at)
}

fn set_weight(backend: &mut Node, weight: u16) -> bool {
    let value = Value::Int(weight.into());
    if let Some(node) = field(backend, "weight") {
        let is_other = node.value.number() != Some(weight.into());
        node.value = value;
        return is_other;
    }
    let span = backend.span.clone();
    if let Value::Table(entries) = &mut backend.value {
        entries.push(tree::entry("weight", Node { span, value }));
    }
    // As the file says by saying nothing.
    weight != 1
}

fn add(list: &mut Node, address: SocketAddr, new: NewBackend) -> bool {
    // Where anything is wrong with it, the list is what there is to be pointed at.
    let span = list.span.clone();
    let fields = [
        ("address", Value::Text(target::text(address))),
        ("weight", Value::Int(new.weight.into())),
        ("max-flows", Value::Int(new.max_flows.into())),
        ("backup", Value::Bool(new.backup)),
    ];
    let entries = fields.map(|(name, value)| tree::entry(name, Node { span: span.clone(), value }));
    let table = Node { span, value: Value::Table(entries.into()) };
    items(list).is_some_and(|items| {
        items.push(table);
        true
    })
}

fn remove(list: &mut Node, entry: &EntryAt) -> bool {
    let Some(at) = entry.position(list) else { return false };
    items(list).is_some_and(|items| {
        items.remove(at);
        true
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Around, Config, parse, parse_changed};
    use super::*;

    const FILE: &str = "
        [[service]]
        name = 'web'
        listen = { interfaces = ['eth0'], port = 80 }
        backends = [{ address = '10.0.0.1:80', weight = 3 }, { address = '10.0.0.2:80', max-flows = 7 }]
        panic = { policy = 'fallback', fallback-backends = [{ address = '10.0.9.1:80', weight = 4 }] }
        [[service.source-route]]
        source = ['10.1.0.0/16', '10.2.0.0/16']
        backends = [{ address = '10.0.0.1:80' }]
        [[service.source-route]]
        source = '10.3.0.0/16'
        backends = [{ address = '10.0.0.1:80' }]
        [[service]]
        name = 'dns'
        listen = { interfaces = ['eth0'], port = 53, protocol = 'udp' }
        backends = [{ address = '10.0.0.1:80' }]
    ";

    fn of(route: Option<&str>, address: &str) -> BackendKey {
        let (service, route) = ("web".into(), route.map(Into::into));
        BackendKey { service, route, address: address.parse().unwrap() }
    }

    const NEW: NewBackend = NewBackend { weight: 9, max_flows: 0, backup: true };

    /// Weights by address, of each pool of the first service; and how many changes hold.
    fn laid(file: &str, changes: &Changes) -> (Vec<String>, usize) {
        let changed =
            parse_changed(("a.toml", file), &Around::files(&|_| unreachable!()), changes).unwrap();
        (pools(&changed.checked.config), changed.changes.backends().count())
    }

    fn pools(config: &Config) -> Vec<String> {
        let in_words = |pool: super::super::Pool<'_>| {
            let backends = pool.backends.iter();
            let backends: Vec<_> =
                backends.map(|b| format!("{}={}", b.address.ip(), b.weight)).collect();
            backends.join(" ")
        };
        config.services[0].pools().map(in_words).collect()
    }

    #[test]
    fn weights_are_those_asked_for_and_other_pools_keep_theirs() {
        let mut changes = Changes::default();
        changes.set_weight(of(None, "10.0.0.2:80"), 5);
        changes.set_weight(of(Some("10.3.0.0/16"), "10.0.0.1:80"), 6);
        changes.set_weight(of(None, "10.0.9.1:80"), 8);
        let (pools, holding) = laid(FILE, &changes);
        let expected =
            ["10.0.0.1=3 10.0.0.2=5 10.0.9.1=8", "10.0.0.1=1 10.0.9.1=8", "10.0.0.1=6 10.0.9.1=8"];
        assert_eq!((pools, holding), (expected.map(str::to_owned).into(), 3));
    }

    #[test]
    fn what_a_name_stands_for_has_its_weight_together_or_leaves_together() {
        let names = "{ host = 'App.example.com', port = 8080, weight = 3 }, { host = 'app.example.com' }, \
                     { srv = '_http._tcp.example.com' }";
        let file = FILE.replace("{ address = '10.0.0.1:80', weight = 3 }", names);
        let named =
            |text: &str| PoolEntry { service: "web".into(), route: None, at: EntryAt::parse(text) };
        let laid = |changes: &Changes| {
            let around = Around::files(&|_| unreachable!());
            let changed = parse_changed(("a.toml", &file), &around, changes).unwrap();
            let named = &changed.checked.config.services[0].named;
            let weights: Vec<_> = named.iter().map(|named| (named.text(), named.weight)).collect();
            (weights, changed.changes.backends().count())
        };
        let mut changes = Changes::default();
        changes.set_weight(named("APP.example.com:8080"), 7);
        changes.set_weight(named("_http._tcp.example.com"), 5);
        changes.set_weight(named("other.example.com"), 5);
        let weight = |text: &str, weight| (text.to_owned(), weight);
        let of_host = weight("app.example.com:8080", 7);
        let of_port_less = weight("app.example.com", 1);
        let of_records = weight("_http._tcp.example.com", 5);
        assert_eq!(laid(&changes), (vec![of_host.clone(), of_port_less, of_records.clone()], 2));
        changes.remove(named("app.example.com"));
        assert_eq!(laid(&changes), (vec![of_host, of_records], 3));
    }

    #[test]
    fn backends_that_step_in_are_those_of_the_route_where_it_has_its_own() {
        let own = "panic = { fallback-backends = [{ address = '10.0.9.1:80' }, { address = '10.0.9.2:80' }] }";
        let file = FILE.replace("source = '10.3", &format!("{own}\n        source = '10.3"));
        let other = Some("10.3.0.0/16");
        let mut changes = Changes::default();
        changes.set_weight(of(None, "10.0.9.1:80"), 5);
        changes.set_weight(of(other, "10.0.9.1:80"), 6);
        changes.remove(of(other, "10.0.9.2:80"));
        let (pools, holding) = laid(&file, &changes);
        let expected =
            ["10.0.0.1=3 10.0.0.2=1 10.0.9.1=5", "10.0.0.1=1 10.0.9.1=5", "10.0.0.1=1 10.0.9.1=6"];
        assert_eq!((pools, holding), (expected.map(str::to_owned).into(), 3));
    }

    #[test]
    fn routes_by_name_are_found_by_their_first_name_whatever_its_case() {
        let file = format!(
            "{}\n[[service]]\nname = 'other'\nlisten = {{ interfaces = ['eth0'], port = 81 }}\nbackends = [{{ address = '10.0.0.1:80' }}]",
            FILE.replacen(
                "[[service]]\n        name = 'dns'",
                "[[service.source-route]]
                source = 'Office.example.com'
                backends = [{ address = '10.0.0.1:80' }]
                [[service.name-route]]
                names = ['API.example.com', 'b.example.com']
                backends = [{ address = '10.0.0.1:80' }, { address = '10.0.0.2:80' }]
                [[service.name-route]]
                names = ['*.example.com']
                panic = { fallback-backends = [{ address = '10.0.9.2:80' }] }
                backends = [{ address = '10.0.0.1:80' }]
                [[service]]\n        name = 'dns'",
                1
            )
        );
        let (api, any) = (Some("api.example.com"), Some("*.example.com"));
        let mut changes = Changes::default();
        changes.set_weight(of(Some("office.example.com"), "10.0.0.1:80"), 5);
        changes.set_weight(of(api, "10.0.0.1:80"), 6);
        changes.remove(of(api, "10.0.0.2:80"));
        changes.add(of(any, "10.0.0.4:80"), NEW);
        changes.set_weight(of(any, "10.0.9.2:80"), 7);
        // That is not its first.
        changes.set_weight(of(Some("b.example.com"), "10.0.0.1:80"), 8);
        let (pools, holding) = laid(&file, &changes);
        let expected =
            ["10.0.0.1=5 10.0.9.1=4", "10.0.0.1=6 10.0.9.1=4", "10.0.0.1=1 10.0.0.4=9 10.0.9.2=7"];
        assert_eq!((&pools[3..], holding), (expected.map(str::to_owned).as_slice(), 5));
    }

    #[test]
    fn what_variables_say_is_what_the_file_says() {
        let file = FILE.replace("'10.0.0.1:80', weight = 3", "'${FIRST}', weight = '${WEIGHT}'");
        let variables = |name: &str| match name {
            "FIRST" => Some("10.0.0.1:80".to_owned()),
            "WEIGHT" => Some("3".to_owned()),
            _ => None,
        };
        let around = Around { variables: &variables, ..Around::files(&|_| unreachable!()) };
        let holding = |change: &dyn Fn(&mut Changes)| {
            let mut changes = Changes::default();
            change(&mut changes);
            let changed = parse_changed(("a.toml", &file), &around, &changes).unwrap();
            (pools(&changed.checked.config)[0].clone(), changed.changes.backends().count())
        };
        let first = || of(None, "10.0.0.1:80");
        let (rest, file_says) = ("10.0.0.2=1 10.0.9.1=4", 0);
        let other = holding(&|changes| changes.set_weight(first(), 5));
        assert_eq!(other, (format!("10.0.0.1=5 {rest}"), 1));
        let same = holding(&|changes| changes.set_weight(first(), 3));
        assert_eq!(same, (format!("10.0.0.1=3 {rest}"), file_says));
        assert_eq!(holding(&|changes| changes.remove(first())), (rest.to_owned(), 1));
    }

    #[test]
    fn added_backends_are_checked_as_those_of_the_file_and_removed_ones_are_not_there() {
        let mut changes = Changes::default();
        changes.add(of(None, "10.0.0.3:80"), NEW);
        changes.remove(of(None, "10.0.0.1:80"));
        changes.remove(of(None, "10.0.9.1:80"));
        changes.add(of(Some("10.1.0.0/16"), "10.0.0.4:80"), NEW);
        let file = FILE
            .replace("fallback-backends = [", "fallback-backends = [{ address = '10.0.9.2:80' }, ");
        let changed =
            parse_changed(("a.toml", &file), &Around::files(&|_| unreachable!()), &changes)
                .unwrap()
                .checked
                .config;
        let expected = [
            "10.0.0.2=1 10.0.0.3=9 10.0.9.2=1",
            "10.0.0.1=1 10.0.0.4=9 10.0.9.2=1",
            "10.0.0.1=1 10.0.9.2=1",
        ];
        assert_eq!(pools(&changed), expected);
        let backends = &changed.services[0].backends;
        assert_eq!((backends[0].max_flows, backends[1].role), (7, super::super::Role::Backup));
    }

    #[test]
    fn change_is_given_up_when_the_file_says_the_same_or_has_nothing_that_it_is_about() {
        let is_given_up = |file: &str, key: BackendKey, change: Change| {
            let changes = Changes::from_iter([(key, change)]);
            let (changed, holding) = laid(file, &changes);
            let unchanged = pools(&parse("a.toml", file).unwrap().config);
            assert!(holding == 1 || changed == unchanged, "what is given up changes nothing");
            holding == 0
        };
        let first = || of(None, "10.0.0.1:80");
        assert!(is_given_up(FILE, first(), Change::Weight(3)));
        assert!(!is_given_up(FILE, first(), Change::Weight(4)));
        assert!(is_given_up(FILE, of(None, "10.0.0.2:80"), Change::Weight(1)));
        assert!(is_given_up(FILE, of(None, "10.0.0.9:80"), Change::Weight(4)));
        assert!(is_given_up(FILE, of(Some("10.2.0.0/16"), "10.0.0.1:80"), Change::Weight(4)));
        assert!(is_given_up(FILE, first(), Change::Added(NEW)));
        assert!(!is_given_up(FILE, first(), Change::Removed));
        assert!(is_given_up(FILE, of(None, "10.0.0.9:80"), Change::Removed));
        let nobody = BackendKey { service: "mail".into(), ..first() };
        for change in [Change::Weight(4), Change::Added(NEW), Change::Removed] {
            assert!(is_given_up(FILE, nobody.clone(), change));
        }
    }

    #[test]
    fn whole_is_refused_as_a_file_is_with_places_in_it() {
        let refused = |changes: &Changes| {
            let problems =
                parse_changed(("a.toml", FILE), &Around::files(&|_| unreachable!()), changes);
            let [problem] = &problems.unwrap_err()[..] else { panic!("one problem") };
            (problem.key.clone(), problem.line, problem.message.clone())
        };
        let key = || "service[0].backends".to_owned();
        let mut changes = Changes::default();
        changes.set_weight(of(None, "10.0.0.1:80"), 0);
        changes.set_weight(of(None, "10.0.0.2:80"), 0);
        let idle = "all weights are 0, so that no new flow finds a backend".to_owned();
        assert_eq!(refused(&changes), (key(), 5, idle));
        let mut changes = Changes::default();
        changes.remove(of(None, "10.0.0.1:80"));
        changes.remove(of(None, "10.0.0.2:80"));
        assert_eq!(refused(&changes), (key(), 5, "there is no backend".to_owned()));
        let mut changes = Changes::default();
        changes.add(of(None, "255.255.255.255:80"), NEW);
        let (key, line, _) = refused(&changes);
        assert_eq!((&*key, line), ("service[0].backends[2].address", 5));
    }

    #[test]
    fn changes_of_one_backend_become_one() {
        let key = || of(None, "10.0.0.3:80");
        let mut changes = Changes::default();
        changes.add(key(), NEW);
        changes.set_weight(key(), 2);
        let expected = Change::Added(NewBackend { weight: 2, ..NEW });
        assert_eq!(changes.backends().map(|(_, change)| *change).collect::<Vec<_>>(), [expected]);
        changes.remove(key());
        assert!(changes.is_empty(), "as if it had never been there");
        changes.set_weight(key(), 2);
        changes.remove(key());
        changes.add(key(), NEW);
        let expected = Change::Weight(9);
        assert_eq!(changes.backends().map(|(_, change)| *change).collect::<Vec<_>>(), [expected]);
    }
}

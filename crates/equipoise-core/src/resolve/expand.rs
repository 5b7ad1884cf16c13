//! From a configuration with names to one with what they stand for: backends by their addresses, and prefixes of sources.
//!
//! Everything behind works on addresses alone, so that a backend of a name is checked, drained, counted and chosen as any
//! other. What cannot be a backend here is left out and said.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use equipoise_common::limit;

use super::{Places, shares};
use crate::config::{
    Backend, Config, Listen, Mode, Name, Named, Origin, Prefix, Protocol, Role, Service, target,
};
use crate::share::Weight;

/// A configuration with what names stand for.
#[derive(Clone, Debug)]
pub struct Expanded {
    /// The configuration.
    pub config: Config,
    /// What could not be a part of it.
    pub left_out: Vec<LeftOut>,
}

/// A place that a name stands for and that is no backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Of which service.
    pub service: Arc<str>,
    /// The name, as operators name it.
    pub name: String,
    /// The place.
    pub place: SocketAddr,
    /// Why not.
    pub why: Why,
}

/// Why a place is no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Packets would come back: it is a VIP.
    Vip,
    /// It is of another family than the VIP, which the mode cannot bridge.
    Family,
    /// The pool has as many as it may have.
    Full,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, name, place, why } = self;
        let why = match why {
            Why::Vip => "that is a VIP, and packets would come back",
            Why::Family => "it is of another address family than the VIP",
            Why::Full => "the pool has too many backends",
        };
        write!(
            f,
            "service {service}: {name} stands for {}: left out, as {why}",
            target::text(*place)
        )
    }
}

/// Puts what names stand for into a configuration, as far as that is known.
pub fn expand<'a>(config: &Config, places: impl Fn(&Name) -> Option<&'a Places>) -> Expanded {
    let mut expanded = Expanded { config: config.clone(), left_out: Vec::new() };
    let vips: Vec<_> = config.services.iter().map(|service| service.listen.clone()).collect();
    for service in &mut expanded.config.services {
        let known = Known { places: &places, vips: &vips };
        expand_service(service, &known, &mut expanded.left_out);
    }
    expanded
}

struct Known<'a, F> {
    places: &'a F,
    vips: &'a [Listen],
}

fn expand_service<'a, F: Fn(&Name) -> Option<&'a Places>>(
    service: &mut Service,
    known: &Known<'_, F>,
    left_out: &mut Vec<LeftOut>,
) {
    let name: Arc<str> = service.name.as_str().into();
    let (listen, mode) = (service.listen.clone(), service.delivery.mode);
    let own = (&service.named, &mut service.backends);
    let routes = service.routes.iter_mut().chain(&mut service.name_routes);
    let routed = routes.map(|route| (&route.named, &mut route.backends));
    for (named, backends) in std::iter::once(own).chain(routed) {
        let mut pool = Pool::of(backends);
        for named in named {
            let Some(places) = (known.places)(&named.name) else { continue };
            for (place, share, rank) in shares(places, named.weight) {
                let place = named.place(place);
                let why = fits(place, (&listen, mode), known.vips).err();
                let why = why.or_else(|| pool.add(named, (place, share, rank)).err());
                left_out.extend(why.map(|why| {
                    let service = Arc::clone(&name);
                    LeftOut { service, name: named.text(), place, why }
                }));
            }
        }
    }
    expand_sources(service, known);
}

/// Whether packets of a service can go there.
fn fits(place: SocketAddr, (listen, mode): (&Listen, Mode), vips: &[Listen]) -> Result<(), Why> {
    let is_other = listen.address.is_some_and(|vip| vip.is_ipv4() != place.is_ipv4());
    if mode == Mode::Dsr && is_other {
        return Err(Why::Family);
    }
    let comes_back = |vip: &Listen| {
        let shares = listen.protocol == vip.protocol
            || listen.protocol == Protocol::Both
            || vip.protocol == Protocol::Both;
        vip.address == Some(place.ip()) && shares && vip.port.meet(&listen.port.at(place))
    };
    if vips.iter().any(comes_back) { Err(Why::Vip) } else { Ok(()) }
}

/// The backends of a pool, found by their addresses.
struct Pool<'a> {
    backends: &'a mut Vec<Backend>,
    at: BTreeMap<SocketAddr, usize>,
}

impl<'a> Pool<'a> {
    fn of(backends: &'a mut Vec<Backend>) -> Self {
        let at = (0..).zip(&*backends).map(|(at, backend)| (backend.address, at)).collect();
        Self { backends, at }
    }

    /// Adds a place of a name. One that is there already, by its address or by another name, has the weights of both, or
    /// where they are for different times, that for the earlier.
    fn add(
        &mut self,
        named: &Arc<Named>,
        (address, share, rank): (SocketAddr, Weight, u16),
    ) -> Result<(), Why> {
        let (role, rank) = match (named.role, rank) {
            (Role::Regular, 0) => (Role::Regular, 0),
            (Role::Regular, rank) => (Role::Backup, rank - 1),
            (role @ (Role::Backup | Role::Fallback), rank) => (role, rank),
        };
        if let Some(backend) = self.at.get(&address).and_then(|&at| self.backends.get_mut(at)) {
            let weight = match (role, rank).cmp(&(backend.role, backend.rank)) {
                std::cmp::Ordering::Less => share,
                std::cmp::Ordering::Equal => backend.share().plus(share),
                std::cmp::Ordering::Greater => backend.share(),
            };
            (backend.role, backend.rank) = (role, rank).min((backend.role, backend.rank));
            let names = backend.names().cloned().chain([Arc::clone(named)]).collect();
            backend.origin = Some(Arc::new(Origin { names, weight }));
            return Ok(());
        }
        if self.backends.len() >= limit::POOL_BACKENDS as usize {
            return Err(Why::Full);
        }
        self.at.insert(address, self.backends.len());
        self.backends.push(Backend {
            address,
            weight: named.weight,
            max_flows: named.max_flows,
            role,
            proxy_protocol: named.proxy_protocol,
            health_check: named.health_check.clone(),
            rank,
            origin: Some(Arc::new(Origin { names: vec![Arc::clone(named)], weight: share })),
        });
        Ok(())
    }
}

/// Puts the addresses of names among the sources of routes. A prefix that the file has goes before a name's, and the
/// earlier route before the later one.
fn expand_sources<'a, F: Fn(&Name) -> Option<&'a Places>>(
    service: &mut Service,
    known: &Known<'_, F>,
) {
    if service.routes.iter().all(|route| route.source_names.is_empty()) {
        return;
    }
    let written = service.routes.iter().flat_map(|route| &*route.source.prefixes);
    let mut seen: BTreeSet<Prefix> = written.copied().collect();
    for route in service.routes.iter_mut().filter(|route| !route.source_names.is_empty()) {
        let places = route.source_names.iter().filter_map(|name| (known.places)(name));
        let addresses = places.flat_map(Places::keys).map(SocketAddr::ip);
        let new = addresses.map(whole).filter(|prefix| seen.insert(*prefix));
        let mut prefixes: Vec<_> = route.source.prefixes.iter().copied().chain(new).collect();
        prefixes.sort_unstable();
        route.source.prefixes = prefixes.into();
    }
}

/// The prefix of one address.
fn whole(address: IpAddr) -> Prefix {
    Prefix { address, length: if address.is_ipv4() { 32 } else { 128 } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::resolve::Part;

    /// A service with these backends, and the weights, ranks and names of what comes of them.
    fn expanded(lines: &str, known: &[(&str, &[&str])]) -> Expanded {
        let text = format!(
            "[[service]]\nname = 'web'\n\
             listen = {{ interfaces = ['eth0'], address = '203.0.113.10', port = 80 }}\n{lines}"
        );
        let config = parse("a.toml", &text).unwrap().config;
        let place = |place: &&str| {
            let address =
                place.parse().unwrap_or_else(|_| SocketAddr::new(place.parse().unwrap(), 0));
            (address, Part::default())
        };
        let known: BTreeMap<&str, Places> = known
            .iter()
            .map(|(name, places)| (*name, places.iter().map(place).collect()))
            .collect();
        expand(&config, |name| known.get(name.text()))
    }

    fn told(expanded: &Expanded) -> Vec<(String, f64, Role, u16)> {
        let backends = expanded.config.services[0].backends.iter();
        backends.map(|b| (b.address.to_string(), b.share().value(), b.role, b.rank)).collect()
    }

    #[test]
    fn place_of_two_names_has_the_weights_of_both_and_of_the_earlier_time() {
        let lines = "backends = [{ address = '10.0.0.1:80', weight = 5 }, { host = 'a', port = 80, weight = 4 },
            { host = 'b', port = 80, weight = 2 }, { host = 'c', port = 80, backup = true }]";
        let known: &[(&str, &[&str])] = &[
            ("a", &["10.0.0.1", "10.0.0.2"]),
            ("b", &["10.0.0.2"]),
            ("c", &["10.0.0.2", "10.0.0.3"]),
        ];
        let expanded = expanded(lines, known);
        let (regular, backup) = (Role::Regular, Role::Backup);
        assert_eq!(
            told(&expanded),
            [
                ("10.0.0.1:80".to_owned(), 7.0, regular, 0),
                ("10.0.0.2:80".to_owned(), 4.0, regular, 0),
                ("10.0.0.3:80".to_owned(), 0.5, backup, 0),
            ]
        );
        let names = |at: usize| {
            let names = expanded.config.services[0].backends[at].names();
            names.map(|named| named.text()).collect::<Vec<_>>()
        };
        assert_eq!(
            (names(0), names(1)),
            (vec!["a:80".to_owned()], ["a:80", "b:80", "c:80"].map(String::from).to_vec())
        );
    }

    #[test]
    fn backends_of_routes_by_name_are_those_that_names_stand_for_and_told_as_they_are() {
        let lines = "backends = [{ address = '10.0.0.9:80' }]
            [[service.name-route]]
            names = ['a.example.com']
            backends = [{ host = 'a', port = 80, proxy-protocol = 'v2' }, { host = 'b', port = 80 }]";
        let known: &[(&str, &[&str])] = &[("a", &["10.0.0.1", "fd00::1"]), ("b", &["10.0.0.2"])];
        let expanded = expanded(lines, known);
        let backends = expanded.config.services[0].name_routes[0].backends.iter();
        let told = backends.map(|b| (b.address.ip().to_string(), b.proxy_protocol.is_some()));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [("10.0.0.1", true), ("fd00::1", true), ("10.0.0.2", false)]
                .map(|(ip, told)| (ip.to_owned(), told))
        );
    }

    #[test]
    fn what_is_a_vip_or_out_of_reach_is_left_out_and_said() {
        let lines = "mode = 'dsr'\nbackends = [{ host = 'a' }]";
        let known: &[(&str, &[&str])] = &[("a", &["203.0.113.10", "10.0.0.1", "2001:db8::1"])];
        let expanded = expanded(lines, known);
        assert_eq!(told(&expanded).len(), 1);
        let why: Vec<_> = expanded.left_out.iter().map(|out| (out.place.ip(), out.why)).collect();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(why, [(ip("203.0.113.10"), Why::Vip), (ip("2001:db8::1"), Why::Family)]);
        let said = expanded.left_out[0].to_string();
        assert_eq!(
            said,
            "service web: a stands for 203.0.113.10: left out, as that is a VIP, and packets would come back"
        );
    }

    #[test]
    fn place_at_another_port_of_a_vip_is_a_backend() {
        let known: &[(&str, &[&str])] = &[("a", &["203.0.113.10"])];
        let expanded = expanded("backends = [{ host = 'a', port = 81 }]", known);
        assert_eq!((told(&expanded).len(), expanded.left_out), (1, vec![]));
    }

    #[test]
    fn pool_has_as_many_as_it_may_and_no_more() {
        let places: Vec<_> = (0..limit::POOL_BACKENDS + 2)
            .map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes()).to_string())
            .collect();
        let places: Vec<_> = places.iter().map(String::as_str).collect();
        let expanded = expanded("backends = [{ host = 'a', port = 80 }]", &[("a", &places)]);
        assert_eq!(expanded.config.services[0].backends.len(), limit::POOL_BACKENDS as usize);
        assert_eq!(expanded.left_out.iter().map(|out| out.why).collect::<Vec<_>>(), [Why::Full; 2]);
    }

    #[test]
    fn priorities_of_backups_and_of_those_that_step_in_go_on_from_theirs() {
        let lines = "backends = [{ srv = '_a._tcp.x', backup = true }, { address = '10.0.9.9:1' }]\n\
            panic = { policy = 'fallback', fallback-backends = [{ srv = '_b._tcp.x' }] }";
        let text = format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], address = '203.0.113.10', port = 80 }}\n{lines}"
        );
        let config = parse("a.toml", &text).unwrap().config;
        let places = |last: u8| -> Places {
            let part = |priority| Part { weight: 1, priority };
            [5, 7].map(|p| (SocketAddr::from(([10, 0, last, p as u8], 80)), part(p))).into()
        };
        let (a, b) = (places(1), places(2));
        let expanded =
            expand(&config, |name| Some(if name.text().starts_with("_a") { &a } else { &b }));
        let told: Vec<_> =
            told(&expanded).into_iter().map(|(_, _, role, rank)| (role, rank)).collect();
        let (regular, backup, fallback) = (Role::Regular, Role::Backup, Role::Fallback);
        assert_eq!(told, [(regular, 0), (backup, 0), (backup, 1), (fallback, 0), (fallback, 1)]);
    }
}

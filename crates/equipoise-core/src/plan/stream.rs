//! Services whose TCP connections this host takes up itself, as whoever takes them up is told.
//!
//! Pools, weights and slots of such services are like those of any other; a pool that is streamed says so in its entry, by
//! which the packet programs leave its connections to the stack. Does not know who takes them up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use equipoise_common::key::TCP;

use super::pool::PoolDraft;
use super::{Desired, Draft};

/// A service with connections that this host takes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is reached: an address, and the first and the last of its ports there.
    pub spots: BTreeSet<(IpAddr, u16, u16)>,
    /// The pools, by family, of clients whose source has no route; by their ids.
    pub own: [u32; 2],
    /// So, of those that name one of these servers.
    pub names: BTreeMap<String, [u32; 2]>,
    /// Backends that are told who has connected, by their ids.
    pub told: BTreeSet<u32>,
}

/// Places what is streamed.
pub(super) fn place(drafts: &[Draft<'_>], desired: &mut Desired) {
    for draft in drafts.iter().filter(|draft| draft.pools().any(PoolDraft::is_streamed)) {
        let keys = draft.keys.iter().filter(|key| key.protocol() == TCP);
        let spots = keys.map(|key| (key.vip().ip(), key.vip().port(), key.last_port())).collect();
        let mut names = BTreeMap::new();
        for pool in &draft.routed {
            for name in pool.route().into_iter().flat_map(|route| &route.names) {
                names.insert(name.clone(), pool.numbers());
            }
        }
        let is_told = |placed: &&super::Placed<'_>| placed.backend.proxy_protocol.is_some();
        let told = draft.backends().filter(is_told).filter_map(|placed| placed.id);
        let stream = Stream {
            name: Arc::clone(&draft.name),
            spots,
            own: draft.own.numbers(),
            names,
            told: told.map(|(id, _)| id.number).collect(),
        };
        desired.streams.insert(draft.id.number, stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::diff::diff;
    use crate::dump::dump;
    use crate::facts::{Facts, Interface};
    use crate::state::State;

    const ROUTES: &str = "
        [[service.source-route]]
        source = '10.1.0.0/16'
        backends = [{ address = '10.0.0.1:80' }]
        [[service.name-route]]
        names = ['a.example.com', '*.example.com']
        backends = [{ address = '10.0.0.2:80' }, { address = '[fd00::2]:80', proxy-protocol = 'v2' }]
        [[service.name-route]]
        names = ['b.example.com']
        backends = [{ address = '10.0.0.3' }]";

    /// A service on port 80 to 81 of an interface with two addresses, with this protocol, these backends, and more lines of it.
    fn state(protocol: &str, backends: &str, lines: &str) -> State {
        let addresses = ["192.0.2.1", "2001:db8::1"].map(|address| address.parse().unwrap());
        let eth0 = Interface { index: 2, addresses: addresses.into() };
        let interfaces = [("eth0".to_owned(), eth0)].into();
        State::new(config(protocol, backends, lines), Facts { interfaces, ..Facts::default() })
    }

    fn config(protocol: &str, backends: &str, lines: &str) -> crate::config::Config {
        let text = format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], port = '80-81', protocol = '{protocol}' }}\n\
             backends = [{backends}]\n{lines}"
        );
        parse("a.toml", &text).unwrap().config
    }

    const ONE: &str = "{ address = '10.0.0.1:80' }";
    const TOLD: &str =
        "{ address = '10.0.0.1:80' }, { address = '10.0.0.4:80', proxy-protocol = 'v2' }";

    /// The pools that say that they are streamed, by what leads to them.
    fn streamed(desired: &Desired) -> Vec<String> {
        let pools = desired.pools.values().filter(|pool| pool.streamed);
        pools.map(|pool| pool.route.as_deref().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn names_lead_to_pools_of_both_families_and_sources_with_a_route_go_by_packets() {
        let mut state = state("both", ONE, ROUTES);
        state.plan();
        let desired = state.planned();
        let [stream] = desired.streams.values().collect::<Vec<_>>()[..] else { panic!("one") };
        let pools = |route: Option<&str>| {
            let of = |pool: &crate::plan::PoolPlan| pool.route.as_deref() == route;
            let ids: Vec<u32> =
                desired.pools.iter().filter(|(_, pool)| of(pool)).map(|(&id, _)| id).collect();
            <[u32; 2]>::try_from(ids).unwrap()
        };
        let (a, b) = (pools(Some("a.example.com")), pools(Some("b.example.com")));
        let names = [("*.example.com", a), ("a.example.com", a), ("b.example.com", b)];
        assert_eq!(stream.names, names.map(|(name, pools)| (name.to_owned(), pools)).into());
        assert_eq!((stream.own, &*stream.name), (pools(None), "web"));
        let spots = ["192.0.2.1", "2001:db8::1"].map(|ip| (ip.parse().unwrap(), 80, 81));
        assert_eq!(stream.spots, spots.into(), "of TCP alone, each once");
        let told: Vec<_> =
            stream.told.iter().map(|id| desired.backends[id].value.address).collect();
        assert_eq!(told.len(), 1);
        let mut expected =
            vec!["", "", "a.example.com", "a.example.com", "b.example.com", "b.example.com"];
        expected.sort_unstable();
        let mut is = streamed(desired);
        is.sort_unstable();
        assert_eq!(is, expected);
        let text = dump(desired, state.facts());
        for line in [
            "stream of service 0 web: taken up at 192.0.2.1:80-81\n".to_owned(),
            format!("name *.example.com of service 0 -> pools {} and {}\n", a[0], a[1]),
            ", streamed, slots ".to_owned(),
            "[fd00::2]:80 of web, told who has connected\n".to_owned(),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
    }

    #[test]
    fn service_is_streamed_where_somebody_is_told_and_nowhere_else() {
        let streams = |protocol: &str, backends: &str, lines: &str| {
            let mut state = state(protocol, backends, lines);
            let desired = state.plan();
            (desired.streams.len(), streamed(desired))
        };
        assert_eq!(streams("tcp", ONE, ""), (0, vec![]));
        assert_eq!(streams("tcp", TOLD, ""), (1, vec![String::new(); 2]));
        assert_eq!(streams("udp", ONE, ""), (0, vec![]));
        let source = "[[service.source-route]]\nsource = '10.1.0.0/16'\nbackends = ";
        let routed = format!("{source}[{TOLD}]");
        assert_eq!(streams("both", ONE, &routed), (1, vec!["10.1.0.0/16".to_owned(); 2]));
        // A name that stands for nothing yet, and will be told.
        let named = format!("{ONE}, {{ host = 'a.internal', port = 80, proxy-protocol = 'v2' }}");
        assert_eq!(streams("tcp", &named, ""), (1, vec![String::new(); 2]));
    }

    #[test]
    fn where_another_service_goes_first_by_tcp_nothing_is_taken_up() {
        let exact = "\n[[service]]\nname = 'exact'\nbackends = [{ address = '10.0.0.1:80' }]\n\
            listen = { interfaces = ['eth0'], address = '192.0.2.1', port = '80-81' }";
        let mut state = state("both", ONE, &format!("{ROUTES}{exact}"));
        let spots = &state.plan().streams[&0].spots;
        assert_eq!(*spots, [("2001:db8::1".parse().unwrap(), 80, 81)].into());
    }

    #[test]
    fn other_names_are_another_plan_and_no_step() {
        let mut state = state("tcp", ONE, ROUTES);
        let mut applied = crate::diff::Applied::new(1 << 17);
        diff(&applied, state.plan()).steps.iter().for_each(|step| applied.record(step));
        let before = state.planned().clone();
        state.handle_config(config(
            "tcp",
            ONE,
            &ROUTES.replace("'*.example.com'", "'c.example.com'"),
        ));
        let after = state.plan().clone();
        assert_ne!(after.streams, before.streams);
        assert_eq!(Desired { streams: before.streams.clone(), ..after.clone() }, before);
        assert_eq!(diff(&applied, &after).steps, []);
        // Without any, packets go by themselves again.
        state.handle_config(config("tcp", ONE, ""));
        let steps = diff(&applied, state.plan()).steps;
        let words: Vec<_> = steps.iter().map(ToString::to_string).collect();
        assert!(
            words.iter().any(|step| step.starts_with("put pool 0") && !step.contains("streamed")),
            "{words:?}"
        );
        assert!(state.planned().streams.is_empty());
    }
}

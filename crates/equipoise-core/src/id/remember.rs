//! Ids of an earlier process: each holder gets its own again, so that flows, slots and counters go on naming it.

use std::collections::BTreeMap;

use equipoise_common::value::{Backend, Fate, Mode};

use super::numbers::Numbers;
use super::{Departure, Holder, Ids, Limits, Wanted};

/// What an earlier process has given out, as its maps tell it.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// Who holds each service id.
    pub services: BTreeMap<u32, Holder>,
    /// Who holds each pool id.
    pub pools: BTreeMap<u32, Holder>,
    /// Who holds each backend id.
    pub backends: BTreeMap<u32, Holder>,
    /// The backends' entries.
    pub entries: BTreeMap<u32, Backend>,
}

impl Ids {
    /// As an earlier process has left them, for what is wanted now. What is wanted no longer has left meanwhile, and rests.
    pub fn recovered(limits: Limits, remembered: &Remembered, wanted: &[Wanted]) -> Self {
        let mut backends = remembered.backends.clone();
        for &id in remembered.entries.keys() {
            // Flows may name it, whoever it was.
            backends.entry(id).or_insert(Holder(u64::from(id)));
        }
        let mut ids = Self {
            services: Numbers::remembering(limits.services, &remembered.services),
            pools: Numbers::remembering(limits.pools, &remembered.pools),
            backends: Numbers::remembering(limits.backends, &backends),
            ..Self::new(limits)
        };
        for (&id, entry) in &remembered.entries {
            ids.left.insert(id, (entry.place(), Mode::from_number(entry.mode())));
            if entry.generation > 0 || entry.state == Backend::GONE {
                let (generation, service) = (entry.generation, u32::from(entry.service));
                let fate = Fate::from_number(entry.fate);
                ids.departures.insert(id, Departure { generation, fate, service });
            }
        }
        ids.hold(wanted);
        let removals =
            ids.held.values().filter_map(|held| Some((held.service?.number, held.removal)));
        let removals: BTreeMap<u32, Fate> = removals.collect();
        let resting: Vec<u32> = ids.backends.resting().map(|id| id.number).collect();
        for id in resting {
            let Some(entry) = remembered.entries.get(&id) else { continue };
            if entry.state == Backend::LIVE {
                let service = u32::from(entry.service);
                ids.depart(id, removals.get(&service).copied().unwrap_or_default(), service);
            }
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::{Named, WantedPool};
    use super::*;
    use equipoise_common::key::Be16;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn wanted(service: &str, removal: Fate, backends: &[u16]) -> Wanted {
        let backends = backends.iter().map(|&port| address(port)).collect();
        let pools = vec![WantedPool { route: None, backends }];
        Wanted { service: service.into(), pools, removal, mode: Mode::Nat }
    }

    /// As the maps tell of ids, with these generations.
    fn told(ids: &Ids, generation: u16) -> Remembered {
        let mut remembered = Remembered::default();
        for held in ids.held.values() {
            let service = held.service.unwrap();
            remembered.services.insert(service.number, service.holder);
            for pool in held.pools.values() {
                let all = pool.ids.iter().flatten();
                remembered.pools.extend(all.map(|id| (id.number, id.holder)));
                for (address, id) in &pool.backends {
                    remembered.backends.insert(id.number, id.holder);
                    let entry = Backend {
                        address: address.ip().into(),
                        port: Be16::new(address.port()),
                        state: Backend::LIVE,
                        service: service.number as u16,
                        generation,
                        ..Backend::default()
                    };
                    remembered.entries.insert(id.number, entry);
                }
            }
        }
        remembered
    }

    fn numbers(ids: &Ids, service: &str) -> Vec<(u16, u32)> {
        let held = ids.held(service).unwrap();
        let backends = held.pools.values().flat_map(|pool| &pool.backends);
        backends.map(|(address, id)| (address.port(), id.number)).collect()
    }

    fn gone(ids: &Ids) -> Vec<(u16, u16, Fate, u32)> {
        let of = |gone: super::super::Gone| {
            let Departure { generation, fate, service } = gone.departure;
            (gone.address.port(), generation, fate, service)
        };
        let mut all: Vec<_> = ids.gone().map(of).collect();
        all.sort_by_key(|gone| gone.0);
        all
    }

    #[test]
    fn holders_get_their_own_ids_again_whatever_the_order_of_the_file() {
        let mut before = Ids::default();
        before.hold(&[wanted("web", Fate::Keep, &[1, 2, 3]), wanted("dns", Fate::Keep, &[1])]);
        let after = Ids::recovered(
            Limits::default(),
            &told(&before, 0),
            &[wanted("dns", Fate::Keep, &[1, 9]), wanted("web", Fate::Keep, &[3, 2, 1])],
        );
        assert_eq!(numbers(&after, "web"), numbers(&before, "web"));
        assert_eq!(numbers(&after, "dns"), [(1, 3), (9, 4)]);
        let pools = |ids: &Ids| ids.held("web").unwrap().pools[&None].ids;
        assert_eq!(pools(&after), pools(&before));
        assert_eq!((gone(&after), after.resting()), (vec![], None));
    }

    #[test]
    fn who_has_left_meanwhile_is_gone_and_keeps_its_id_while_flows_name_it() {
        let mut before = Ids::default();
        before.hold(&[wanted("web", Fate::Keep, &[1, 2]), wanted("dns", Fate::Keep, &[3])]);
        let wanted_now = [wanted("web", Fate::Reset, &[2, 4])];
        let mut after = Ids::recovered(Limits::default(), &told(&before, 5), &wanted_now);
        // By what its service says now; where that has left too, flows go on.
        assert_eq!(gone(&after), [(1, 6, Fate::Reset, 0), (3, 6, Fate::Keep, 1)]);
        assert_eq!(numbers(&after, "web"), [(2, 1), (4, 3)]);
        let mark = after.resting().unwrap();
        let named = Named { backends: [0].into(), ..Named::default() };
        assert!(after.rested(mark, &named));
        assert_eq!(gone(&after), [(1, 6, Fate::Reset, 0)]);
    }

    #[test]
    fn who_was_gone_before_stays_as_it_was() {
        let mut before = Ids::default();
        before.hold(&[wanted("web", Fate::Keep, &[1, 2])]);
        let mut remembered = told(&before, 0);
        let entry = remembered.entries.get_mut(&0).unwrap();
        (entry.state, entry.generation, entry.fate) = (Backend::GONE, 3, Fate::Reset as u8);
        let mut after =
            Ids::recovered(Limits::default(), &remembered, &[wanted("web", Fate::Keep, &[2])]);
        assert_eq!(gone(&after), [(1, 3, Fate::Reset, 0)]);
        // And comes back as itself.
        after.hold(&[wanted("web", Fate::Keep, &[1, 2])]);
        assert_eq!(numbers(&after, "web"), [(1, 0), (2, 1)]);
        let id = after.held("web").unwrap().pools[&None].backends[&address(1)];
        assert_eq!(after.departure(id).generation, 3);
    }

    #[test]
    fn numbers_that_nobody_is_known_to_hold_are_free_unless_they_have_an_entry() {
        let mut before = Ids::new(Limits { services: 4, pools: 8, backends: 4 });
        before.hold(&[wanted("web", Fate::Keep, &[1, 2, 3, 4])]);
        let mut remembered = told(&before, 0);
        remembered.backends.remove(&0);
        remembered.backends.remove(&1);
        remembered.entries.remove(&1);
        let limits = Limits { services: 4, pools: 8, backends: 4 };
        let after =
            Ids::recovered(limits, &remembered, &[wanted("web", Fate::Keep, &[3, 4, 5, 6])]);
        // 0 may be named by flows; 1 is not.
        assert_eq!(numbers(&after, "web"), [(3, 2), (4, 3), (5, 1)]);
    }
}

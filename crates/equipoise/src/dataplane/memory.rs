//! A data plane in memory: the same maps as the kernel's, with faults on demand.
//!
//! What tests run against in place of the kernel. It holds what the kernel's maps would hold and
//! nothing of how it came about, refuses writes when told to, and knows what a packet in flight
//! could still be reading, so that it can say when a step would have led one astray.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use equipoise_common::key::HostKey;
use equipoise_common::limit;
use equipoise_common::value::{Backend, Kind, Policy, Pool, Reply, Service, Snat, Traffic};
use equipoise_core::diff::{Found, Run, Step};
use equipoise_core::id::Holder;
use equipoise_core::plan::{Listed, Routed, Rule, ServiceKey};

use super::{Maps, StepError};

/// Which steps are refused, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// None.
    #[default]
    Never,
    /// This one alone.
    Once(u64),
    /// Each whose number is a multiple of this one.
    Every(u64),
}

/// Maps in memory.
#[derive(Clone, Debug)]
pub struct Memory {
    contents: Contents,
    slots: Vec<u32>,
    service_traffic: BTreeMap<u32, Traffic>,
    backend_traffic: BTreeMap<u32, Traffic>,
    /// Who holds ids: of services, pools and backends.
    holders: [BTreeMap<u32, Holder>; 3],
    fault: Fault,
    tried: u64,
    /// Runs that packets in flight may be reading although no pool leads there any more.
    given_up: Vec<Run>,
    mistakes: Vec<String>,
}

/// What packets see of the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The service maps.
    pub services: BTreeMap<ServiceKey, Service>,
    /// The pools.
    pub pools: BTreeMap<u32, Pool>,
    /// The backends that are in use, and those that have left and whose flows may be there.
    pub backends: BTreeMap<u32, Backend>,
    /// How services treat their flows.
    pub policies: BTreeMap<u32, Policy>,
    /// The prefixes that are allowed and denied.
    pub access: BTreeMap<Listed, Rule>,
    /// The pools of sources that have a route.
    pub routes: BTreeMap<Routed, u32>,
    /// What replies of no flow become.
    pub replies: BTreeMap<ServiceKey, Reply>,
    /// Addresses of ours that packets to backends may come from.
    pub snat: BTreeMap<u64, Snat>,
    /// Addresses of backends that need help to reach each other.
    pub hairpins: BTreeSet<HostKey>,
}

/// A slot that was never written.
const UNWRITTEN: u32 = u32::MAX;

impl Default for Memory {
    fn default() -> Self {
        Self::new(limit::SLOTS)
    }
}

impl Memory {
    /// Empty maps with a slot array of this length.
    pub fn new(slots: u32) -> Self {
        Self {
            contents: Contents::default(),
            slots: vec![UNWRITTEN; slots as usize],
            service_traffic: BTreeMap::new(),
            backend_traffic: BTreeMap::new(),
            holders: Default::default(),
            fault: Fault::Never,
            tried: 0,
            given_up: Vec::new(),
            mistakes: Vec::new(),
        }
    }

    /// Refuses these steps from now on; the next one is number 1.
    pub fn inject(&mut self, fault: Fault) {
        self.fault = fault;
        self.tried = 0;
    }

    /// Everything but slots and counters.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Steps that have been tried since the last fault was injected.
    pub fn tried(&self) -> u64 {
        self.tried
    }

    /// What another process would find here.
    pub fn found(&self) -> Found {
        let contents = self.contents.clone();
        let pool =
            |(&id, pool): (&u32, &Pool)| (id, (*pool, self.slots(id).unwrap_or_default().into()));
        let [service_holders, pool_holders, backend_holders] = self.holders.clone();
        Found {
            pools: contents.pools.iter().map(pool).collect(),
            services: contents.services,
            backends: contents.backends,
            policies: contents.policies,
            access: contents.access,
            routes: contents.routes,
            replies: contents.replies,
            snat: contents.snat,
            hairpins: contents.hairpins,
            service_holders,
            pool_holders,
            backend_holders,
        }
    }

    /// The slots that packets of a pool pick from.
    pub fn slots(&self, pool: u32) -> Option<&[u32]> {
        self.slots_in(Run::of(self.contents.pools.get(&pool)?))
    }

    /// The counters of a service, to be read or counted up.
    pub fn service_traffic(&mut self, id: u32) -> &mut Traffic {
        self.service_traffic.entry(id).or_default()
    }

    /// The counters of a backend, to be read or counted up.
    pub fn backend_traffic(&mut self, id: u32) -> &mut Traffic {
        self.backend_traffic.entry(id).or_default()
    }

    /// Whether every packet, also one in flight at any earlier step, finds what it is led to.
    ///
    /// # Errors
    ///
    /// The first thing that one would not have found.
    pub fn check_references(&self) -> Result<(), String> {
        if let Some(mistake) = self.mistakes.first() {
            return Err(mistake.clone());
        }
        for (key, service) in &self.contents.services {
            if !self.contents.pools.contains_key(&service.pool) {
                return Err(format!(
                    "service {key} leads to pool {}, which is not there",
                    service.pool
                ));
            }
            if !self.contents.policies.contains_key(&service.id) {
                return Err(format!("service {key} is {}, which has no policy", service.id));
            }
        }
        for (routed, pool) in &self.contents.routes {
            if !self.contents.pools.contains_key(pool) {
                return Err(format!("route {routed} leads to pool {pool}, which is not there"));
            }
        }
        for (key, reply) in &self.contents.replies {
            if !self.is_live(reply.backend) {
                return Err(format!(
                    "replies of {} are of backend {}, which is not live",
                    key.vip(),
                    reply.backend
                ));
            }
        }
        for (id, pool) in &self.contents.pools {
            self.check_run(*id, Run::of(pool))?;
        }
        let mut runs: Vec<Run> = self.live_runs().filter(|run| run.length > 0).collect();
        runs.sort_unstable();
        match runs.windows(2).find(|pair| pair[0].end() > pair[1].offset) {
            Some(pair) => Err(format!("two pools share slots: {} and {}", pair[0], pair[1])),
            None => Ok(()),
        }
    }

    fn check_run(&self, pool: u32, run: Run) -> Result<(), String> {
        let Some(slots) = self.slots_in(run) else {
            return Err(format!("pool {pool} has slots {run}, beyond the array"));
        };
        let named: BTreeSet<u32> = slots.iter().copied().collect();
        match named.iter().find(|&&id| !self.is_live(id)) {
            Some(id) => Err(format!("pool {pool} leads to backend {id}, which is not live")),
            None => Ok(()),
        }
    }

    fn is_live(&self, backend: u32) -> bool {
        let there = self.contents.backends.get(&backend);
        there.is_some_and(|there| there.state == Backend::LIVE)
    }

    fn slots_in(&self, run: Run) -> Option<&[u32]> {
        self.slots.get(run.offset as usize..run.end() as usize)
    }

    fn live_runs(&self) -> impl Iterator<Item = Run> {
        self.contents.pools.values().map(Run::of)
    }

    fn run_read_by_packets(&self, is_it: impl Fn(&Run) -> bool) -> Option<Run> {
        self.live_runs().chain(self.given_up.iter().copied()).find(is_it)
    }

    fn take(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::ResetServiceCounters { id, holder } => {
                within(*id, limit::SERVICES)?;
                self.holders[Kind::Service as usize].insert(*id, *holder);
                self.service_traffic.insert(*id, Traffic::default());
            }
            Step::ResetBackendCounters { id, holder } => {
                within(*id, limit::BACKENDS)?;
                self.holders[Kind::Backend as usize].insert(*id, *holder);
                self.backend_traffic.insert(*id, Traffic::default());
            }
            Step::PutPolicy { id, value } => {
                within(*id, limit::SERVICES)?;
                self.contents.policies.insert(*id, *value);
            }
            Step::PutAccess { listed, rule } => {
                self.contents.access.insert(*listed, *rule);
            }
            Step::RemoveAccess { listed } => {
                self.contents.access.remove(listed).ok_or(io::ErrorKind::NotFound)?;
            }
            Step::PutReply { key, value } => {
                self.contents.replies.insert(*key, *value);
            }
            Step::RemoveReply { key } => {
                self.contents.replies.remove(key).ok_or(io::ErrorKind::NotFound)?;
            }
            Step::PutSnat { key, value } => {
                self.contents.snat.insert(*key, *value);
            }
            Step::RemoveSnat { key } => {
                self.contents.snat.remove(key).ok_or(io::ErrorKind::NotFound)?;
            }
            Step::PutHairpin { key } => {
                self.contents.hairpins.insert(*key);
            }
            Step::RemoveHairpin { key } => {
                if !self.contents.hairpins.remove(key) {
                    return Err(io::ErrorKind::NotFound.into());
                }
            }
            Step::PutBackend { id, value } => {
                within(*id, limit::BACKENDS)?;
                if value.state != Backend::LIVE {
                    self.check_unnamed(*id, "gone");
                }
                self.contents.backends.insert(*id, *value);
            }
            Step::WriteSlots { run, slots } => self.write_slots(*run, slots)?,
            Step::PutPool { id, holder, value } => {
                within(*id, limit::POOLS)?;
                self.holders[Kind::Pool as usize].insert(*id, *holder);
                let old = self.contents.pools.insert(*id, *value);
                self.give_up(old.filter(|old| Run::of(old) != Run::of(value)));
            }
            Step::PutRoute { routed, pool } => {
                self.contents.routes.insert(*routed, *pool);
            }
            Step::RemoveRoute { routed } => {
                self.contents.routes.remove(routed).ok_or(io::ErrorKind::NotFound)?;
            }
            Step::PutService { key, value } => {
                self.contents.services.insert(*key, *value);
            }
            Step::RemoveService { key } => {
                self.contents.services.remove(key).ok_or(io::ErrorKind::NotFound)?;
            }
            Step::RemovePool { id } => {
                let old = self.contents.pools.remove(id).ok_or(io::ErrorKind::NotFound)?;
                self.give_up(Some(old));
            }
            Step::RemoveBackend { id } => self.remove_backend(*id)?,
            Step::Grace => self.given_up.clear(),
        }
        Ok(())
    }

    fn write_slots(&mut self, run: Run, slots: &[u32]) -> io::Result<()> {
        if let Some(read) = self.run_read_by_packets(|read| read.overlaps(run)) {
            self.mistakes.push(format!("slots {run} are written while packets read {read}"));
        }
        let room = self.slots.get_mut(run.offset as usize..run.end() as usize);
        match room {
            Some(room) if room.len() == slots.len() => room.copy_from_slice(slots),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }

    fn give_up(&mut self, pool: Option<Pool>) {
        self.given_up.extend(pool.map(|pool| Run::of(&pool)).filter(|run| run.length > 0));
    }

    /// Notes when packets still find a backend in a slot.
    fn check_unnamed(&mut self, id: u32, what: &str) {
        let names_it = |run: &Run| self.slots_in(*run).is_some_and(|slots| slots.contains(&id));
        if let Some(run) = self.run_read_by_packets(names_it) {
            self.mistakes
                .push(format!("backend {id} is {what} while packets find it in slots {run}"));
        }
    }

    fn remove_backend(&mut self, id: u32) -> io::Result<()> {
        self.check_unnamed(id, "removed");
        self.contents.backends.remove(&id).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }
}

impl Maps for Memory {
    fn apply(&mut self, step: &Step) -> Result<(), StepError> {
        self.tried += 1;
        let is_refused = match self.fault {
            Fault::Never => false,
            Fault::Once(number) => self.tried == number,
            Fault::Every(number) => self.tried.is_multiple_of(number),
        };
        let taken = if is_refused {
            Err(io::Error::from_raw_os_error(libc::ENOMEM))
        } else {
            self.take(step)
        };
        taken.map_err(|source| StepError { step: step.to_string(), source })
    }
}

fn within(id: u32, limit: u32) -> io::Result<()> {
    if id < limit { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use equipoise_common::key::TCP;

    use super::*;

    fn service(pool: u32) -> Step {
        let key = ServiceKey::new(SocketAddr::from(([192, 0, 2, 1], 80)), 2, TCP);
        Step::PutService { key, value: Service { id: 0, pool } }
    }

    fn backend(id: u32) -> Step {
        Step::PutBackend { id, value: Backend { state: Backend::LIVE, ..Backend::default() } }
    }

    fn gone(id: u32) -> Step {
        Step::PutBackend { id, value: Backend { state: Backend::GONE, ..Backend::default() } }
    }

    fn policy() -> Step {
        Step::PutPolicy { id: 0, value: Policy::default() }
    }

    fn slots(offset: u32, slots: &[u32]) -> Step {
        Step::WriteSlots { run: Run { offset, length: slots.len() as u32 }, slots: slots.into() }
    }

    fn pool(offset: u32, length: u32) -> Step {
        let value = Pool { offset, length, ..Pool::default() };
        Step::PutPool { id: 0, holder: Holder::default(), value }
    }

    fn after(steps: &[Step]) -> Result<(), String> {
        let mut memory = Memory::new(8);
        for step in steps {
            memory.apply(step).unwrap();
        }
        memory.check_references()
    }

    #[test]
    fn maps_in_order_have_nothing_to_say() {
        let steps = [
            policy(),
            backend(1),
            slots(0, &[1, 1]),
            pool(0, 2),
            service(0),
            backend(2),
            slots(2, &[2]),
            pool(2, 1),
        ];
        assert_eq!(after(&steps), Ok(()));
        let then = [Step::Grace, gone(1), Step::RemoveBackend { id: 1 }, slots(0, &[2, 2])];
        assert_eq!(after(&[&steps[..], &then].concat()), Ok(()));
    }

    #[test]
    fn reference_to_nothing_is_noticed() {
        assert!(after(&[service(0)]).unwrap_err().contains("pool 0, which is not there"));
        let steps = [backend(1), slots(0, &[1]), pool(0, 1), service(0)];
        assert!(after(&steps).unwrap_err().contains("0, which has no policy"));
        let steps = [slots(0, &[1]), pool(0, 1)];
        assert!(after(&steps).unwrap_err().contains("backend 1, which is not live"));
        let steps = [gone(1), slots(0, &[1]), pool(0, 1)];
        assert!(after(&steps).unwrap_err().contains("backend 1, which is not live"));
        let key = ServiceKey::new(SocketAddr::from(([10, 0, 0, 1], 80)), 0, TCP);
        let reply = Step::PutReply { key, value: Reply { backend: 1, ..Reply::default() } };
        assert_eq!(after(&[backend(1), reply.clone()]), Ok(()));
        assert!(after(&[reply]).unwrap_err().contains("backend 1, which is not live"));
        assert!(after(&[pool(0, 1)]).is_err(), "slots that were never written");
        assert!(after(&[pool(7, 2)]).unwrap_err().contains("beyond the array"));
    }

    #[test]
    fn run_that_packets_read_is_not_written_before_they_are_through() {
        let live = [backend(1), slots(0, &[1, 1]), pool(0, 2)];
        let at_once = [slots(1, &[1])];
        assert!(after(&[&live[..], &at_once].concat()).unwrap_err().contains("while packets read"));
        let too_early = [slots(2, &[1]), pool(2, 1), slots(1, &[1])];
        assert!(
            after(&[&live[..], &too_early].concat()).unwrap_err().contains("while packets read")
        );
    }

    #[test]
    fn backend_that_packets_in_flight_find_is_neither_gone_nor_removed() {
        let steps = [backend(1), slots(0, &[1]), pool(0, 1), pool(0, 0)];
        let removed = [Step::RemoveBackend { id: 1 }];
        let told = after(&[&steps[..], &removed].concat()).unwrap_err();
        assert!(told.contains("backend 1 is removed while"), "{told}");
        let told = after(&[&steps[..], &[gone(1)]].concat()).unwrap_err();
        assert!(told.contains("backend 1 is gone while"), "{told}");
        assert_eq!(after(&[&steps[..], &[Step::Grace, gone(1)]].concat()), Ok(()));
    }

    #[test]
    fn refused_step_changes_nothing() {
        let mut memory = Memory::new(8);
        memory.inject(Fault::Every(2));
        let taken = [1, 2, 3, 4].map(|id| memory.apply(&backend(id)).is_ok());
        assert_eq!(taken, [true, false, true, false]);
        assert_eq!(memory.contents().backends.keys().copied().collect::<Vec<_>>(), [1, 3]);
        memory.inject(Fault::Once(1));
        assert!(memory.apply(&backend(5)).is_err());
        assert!(memory.apply(&backend(5)).is_ok());
    }
}

//! A data plane in memory: the same maps as the kernel's, with faults on demand.
//!
//! What tests run against in place of the kernel. It holds what the kernel's maps would hold and
//! nothing of how it came about, refuses writes when told to, and knows what a packet in flight
//! could still be reading, so that it can say when a step would have led one astray.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use equipoise_common::limit;
use equipoise_common::value::{Backend, Pool, Service, Traffic};
use equipoise_core::diff::{Run, Step};
use equipoise_core::plan::ServiceKey;

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
    /// The backends that are in use.
    pub backends: BTreeMap<u32, Backend>,
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

    /// Services, pools and backends.
    pub fn contents(&self) -> &Contents {
        &self.contents
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
        match named.iter().find(|id| !self.contents.backends.contains_key(id)) {
            Some(id) => Err(format!("pool {pool} leads to backend {id}, which is not there")),
            None => Ok(()),
        }
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
            Step::ResetServiceCounters { id, .. } => {
                within(*id, limit::SERVICES)?;
                self.service_traffic.insert(*id, Traffic::default());
            }
            Step::ResetBackendCounters { id, .. } => {
                within(*id, limit::BACKENDS)?;
                self.backend_traffic.insert(*id, Traffic::default());
            }
            Step::PutBackend { id, value } => {
                within(*id, limit::BACKENDS)?;
                self.contents.backends.insert(*id, *value);
            }
            Step::WriteSlots { run, slots } => self.write_slots(*run, slots)?,
            Step::PutPool { id, value } => {
                within(*id, limit::POOLS)?;
                let old = self.contents.pools.insert(*id, *value);
                self.give_up(old.filter(|old| Run::of(old) != Run::of(value)));
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

    fn remove_backend(&mut self, id: u32) -> io::Result<()> {
        let names_it = |run: &Run| self.slots_in(*run).is_some_and(|slots| slots.contains(&id));
        if let Some(run) = self.run_read_by_packets(names_it) {
            self.mistakes
                .push(format!("backend {id} is removed while packets find it in slots {run}"));
        }
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
        Step::PutBackend { id, value: Backend::default() }
    }

    fn slots(offset: u32, slots: &[u32]) -> Step {
        Step::WriteSlots { run: Run { offset, length: slots.len() as u32 }, slots: slots.into() }
    }

    fn pool(offset: u32, length: u32) -> Step {
        Step::PutPool { id: 0, value: Pool { offset, length, ..Pool::default() } }
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
            backend(1),
            slots(0, &[1, 1]),
            pool(0, 2),
            service(0),
            backend(2),
            slots(2, &[2]),
            pool(2, 1),
        ];
        assert_eq!(after(&steps), Ok(()));
        let then = [Step::Grace, Step::RemoveBackend { id: 1 }, slots(0, &[2, 2])];
        assert_eq!(after(&[&steps[..], &then].concat()), Ok(()));
    }

    #[test]
    fn reference_to_nothing_is_noticed() {
        assert!(after(&[service(0)]).unwrap_err().contains("pool 0, which is not there"));
        let steps = [slots(0, &[1]), pool(0, 1)];
        assert!(after(&steps).unwrap_err().contains("backend 1, which is not there"));
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
    fn backend_that_packets_in_flight_find_is_not_removed() {
        let steps =
            [backend(1), slots(0, &[1]), pool(0, 1), pool(0, 0), Step::RemoveBackend { id: 1 }];
        assert!(after(&steps).unwrap_err().contains("backend 1 is removed while"));
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

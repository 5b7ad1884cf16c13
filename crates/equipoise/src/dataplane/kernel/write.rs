//! Steps written into the maps.

use std::io;
use std::sync::atomic::Ordering;

use aya::maps::lpm_trie::Key as Prefix;
use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use equipoise_common::filter;
use equipoise_common::key::{Address, PortsKey, V4};
use equipoise_common::value::{Backend, Kind, Policy, Pool, Traffic};
use equipoise_core::diff::Step;
use equipoise_core::id::Holder;
use equipoise_core::plan::ServiceKey;

use super::mapped::Mapped;
use super::table::{SLOT, Tables, grace, io_error};

/// One of the writes of a step.
type Write<'a> = dyn Fn(&mut Tables) -> io::Result<()> + 'a;

impl Tables {
    pub(super) fn apply(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::ResetServiceCounters { id, holder } => self.write_all(
                step,
                &[&|tables| reset(&mut tables.service_traffic, *id), &|tables| {
                    tables.hold(Kind::Service, *id, *holder)
                }],
            ),
            Step::ResetBackendCounters { id, holder } => self.write_all(
                step,
                &[
                    &|tables| tables.empty_tokens(*id),
                    &|tables| reset(&mut tables.backend_traffic, *id),
                    &|tables| tables.hold(Kind::Backend, *id, *holder),
                ],
            ),
            Step::PutPolicy { id, value } => self.put_policy(*id, value),
            Step::PutAccess { listed, rule } => self.access.put(listed, *rule),
            Step::RemoveAccess { listed } => self.access.remove(listed),
            Step::PutReply { key, value } => match key {
                ServiceKey::V4(key) => self.replies_v4.insert(key, value, 0).map_err(io_error),
                ServiceKey::V6(key) => self.replies_v6.insert(key, value, 0).map_err(io_error),
                ServiceKey::PortsV4(..) | ServiceKey::PortsV6(..) => Err(no_reply()),
            },
            Step::RemoveReply { key } => match key {
                ServiceKey::V4(key) => self.replies_v4.remove(key).map_err(io_error),
                ServiceKey::V6(key) => self.replies_v6.remove(key).map_err(io_error),
                ServiceKey::PortsV4(..) | ServiceKey::PortsV6(..) => Err(no_reply()),
            },
            Step::PutSnat { key, value } => self.snat.insert(key, value, 0).map_err(io_error),
            Step::RemoveSnat { key } => self.snat.remove(key).map_err(io_error),
            Step::PutHairpin { key } => self.hairpins.insert(key, 0, 0).map_err(io_error),
            Step::RemoveHairpin { key } => self.hairpins.remove(key).map_err(io_error),
            Step::PutBackend { id, value } => self.put_backend(*id, value),
            Step::RemoveBackend { id } => self.put_backend(*id, &Backend::default()),
            Step::WriteSlots { run, slots } => write_slots(&self.slots, run.offset, slots),
            Step::PutPool { id, holder, value } => {
                if self.known_pools.get(id) != Some(&holder.0) {
                    self.hold(Kind::Pool, *id, *holder)?;
                    self.known_pools.insert(*id, holder.0);
                }
                write_pool(&self.pools, *id, value)
            }
            Step::RemovePool { id } => write_pool(&self.pools, *id, &Pool::default()),
            Step::PutRoute { routed, pool } => {
                let (bits, key) = routed.key();
                self.routes.insert(&Prefix::new(bits, key), pool, 0).map_err(io_error)
            }
            Step::RemoveRoute { routed } => {
                let (bits, key) = routed.key();
                self.routes.remove(&Prefix::new(bits, key)).map_err(io_error)
            }
            Step::PutService { key, value } => match key {
                ServiceKey::V4(key) => {
                    self.know(key.address);
                    self.services_v4.insert(key, value, 0)
                }
                ServiceKey::V6(key) => {
                    self.know(key.address);
                    self.services_v6.insert(key, value, 0)
                }
                ServiceKey::PortsV4(key, bits) => {
                    self.know(key.address);
                    self.ports_v4.insert(&prefix(key, *bits), value, 0)
                }
                ServiceKey::PortsV6(key, bits) => {
                    self.know(key.address);
                    self.ports_v6.insert(&prefix(key, *bits), value, 0)
                }
            }
            .map_err(io_error),
            Step::RemoveService { key } => match key {
                ServiceKey::V4(key) => self.services_v4.remove(key),
                ServiceKey::V6(key) => self.services_v6.remove(key),
                ServiceKey::PortsV4(key, bits) => self.ports_v4.remove(&prefix(key, *bits)),
                ServiceKey::PortsV6(key, bits) => self.ports_v6.remove(&prefix(key, *bits)),
            }
            .map_err(io_error),
            Step::Grace => grace(),
        }
    }

    /// The writes of a step that takes several. Where one is refused, the step goes on from there when it is tried again: were
    /// all made anew each time, a kernel that refuses every other write would never let it be done.
    fn write_all(&mut self, step: &Step, writes: &[&Write<'_>]) -> io::Result<()> {
        let begun = self.begun.take().filter(|(begun, _)| begun == step);
        let done = begun.map_or(0, |(_, done)| done);
        for (number, write) in writes.iter().enumerate().skip(done) {
            if let Err(error) = write(self) {
                self.begun = Some((step.clone(), number));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Keeps who holds an id for the next process: before anything names it.
    fn hold(&mut self, kind: Kind, id: u32, holder: Holder) -> io::Result<()> {
        self.holders.insert(kind.key(id), holder.0, 0).map_err(io_error)
    }

    pub(super) fn put_policy(&mut self, id: u32, value: &Policy) -> io::Result<()> {
        self.policies.set(id, value, 0).map_err(io_error)?;
        if let Some(policy) = self.known_policies.get_mut(id as usize) {
            *policy = *value;
        }
        Ok(())
    }

    pub(super) fn put_backend(&mut self, id: u32, value: &Backend) -> io::Result<()> {
        // Its family does not stand in the entry: an IPv4 address takes the first 4 bytes.
        self.know(V4::unpack(value.address));
        self.know(value.address);
        self.backends.set(id, value, 0).map_err(io_error)?;
        if let Some(known) = self.known_backends.get_mut(id as usize) {
            *known = *value;
        }
        Ok(())
    }

    /// Tokens, and how long it takes to answer: of another holder of the id.
    fn empty_tokens(&mut self, id: u32) -> io::Result<()> {
        if let Some(word) = self.handshakes.word(id as usize * size_of::<u64>()) {
            word.store(0, Ordering::Relaxed);
        }
        self.backend_tokens.set(id, [0; 2], 0).map_err(io_error)
    }

    /// From now on packets with this address are looked up.
    fn know<A: Address>(&self, address: A) {
        let (word, bit) = filter::place(address);
        if let Some(word) = self.addresses.word(word as usize * size_of::<u64>()) {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }
}

/// Slots to a run that no packet reads yet.
fn write_slots(slots: &Mapped, offset: u32, ids: &[u32]) -> io::Result<()> {
    for (number, &id) in ids.iter().enumerate() {
        let at = (offset as usize + number) * SLOT;
        let word = slots.half(at).ok_or_else(|| beyond("the slot array"))?;
        word.store(id, Ordering::Relaxed);
    }
    Ok(())
}

/// Offset and length in one store, which is the flip; after everything that was written before.
fn write_pool(pools: &Mapped, id: u32, pool: &Pool) -> io::Result<()> {
    let at = id as usize * size_of::<Pool>();
    let word = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let halves = [word(pool.offset, pool.length), word(pool.epoch, pool.pick)];
    for (number, half) in halves.into_iter().enumerate().rev() {
        let place = pools.word(at + number * size_of::<u64>());
        place.ok_or_else(|| beyond("the pool array"))?.store(half, Ordering::Release);
    }
    Ok(())
}

/// A key of ranges as the map has it.
fn prefix<A: Address + aya::Pod>(key: &PortsKey<A>, bits: u8) -> Prefix<PortsKey<A>> {
    Prefix::new(PortsKey::<A>::bits(bits), *key)
}

fn no_reply() -> io::Error {
    io::Error::other("replies are found by one port, not by the first bits of several")
}

fn beyond(what: &str) -> io::Error {
    io::Error::other(format!("an entry beyond the end of {what}"))
}

fn reset(map: &mut PerCpuArray<MapData, Traffic>, id: u32) -> io::Result<()> {
    let cpus = nr_cpus().map_err(|(_, error)| error)?;
    let zeros = PerCpuValues::try_from(vec![Traffic::default(); cpus])?;
    map.set(id, zeros, 0).map_err(io_error)
}

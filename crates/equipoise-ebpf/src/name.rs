//! The name of a new flow at its backend: the five-tuple that the backend's packets will have.
//!
//! Where packets keep the client's address, the name is that and the client's own source port, or, where another flow has
//! that name, another port. Where they get an address of ours, its ports are tried from one that the flow's hash picks.
//! What stays as it is needs no name but its own.

use equipoise_common::flow::open::New;
use equipoise_common::hash;
use equipoise_common::key::{Be16, HostKey};
use equipoise_common::limit::{PORT_ROUNDS, PORT_TRIES};
use equipoise_common::step::What;
use equipoise_common::value::{Mode, Snat};
use equipoise_common::verdict::Verdict;

use crate::family::Family;
use crate::map::{HAIRPINS, SNAT};
use crate::select::{Chosen, Run};
use crate::slow::Work;
use crate::{filter, report};

/// Backends that a flow looks for a name at.
const BACKENDS: u32 = 2;

/// Finds a backend for the flow in this CPU's work, and a name at it that no other flow has; answers with the
/// backend's limit, or with a verdict as a number in the upper half.
#[inline(always)]
pub fn find<F: Family>(run: &Run) -> u64 {
    let Some(work) = F::work() else { return refused(Verdict::FlowRefused) };
    let mut next = 0;
    for _ in 0..BACKENDS {
        let chosen = match run.with_room(&mut next, work.is_limited[1]) {
            Ok(chosen) => chosen,
            Err(verdict) => return refused(verdict),
        };
        let limit = u64::from(chosen.backend.max_flows);
        work.new.backend = chosen.id;
        work.new.generation = chosen.backend.generation;
        work.new.is_one_sided = Mode::is_one_sided(chosen.backend.mode());
        if work.new.is_one_sided {
            work.new.reply = work.new.request.reversed();
            return limit;
        }
        if !prepare(work, &chosen) {
            return refused(Verdict::NoSourceAddress);
        }
        let is_free = work.sources == 0 && !F::is_taken(&work.new.reply);
        if is_free || rounds::<F>() {
            return limit;
        }
    }
    refused(Verdict::NoSourcePort)
}

#[inline(always)]
fn refused(verdict: Verdict) -> u64 {
    u64::from(verdict as u32) << 32
}

/// The name with the client's own address and port, and where others come from. False if packets to the backend need an
/// address of ours, and there is none.
#[inline(always)]
fn prepare<F: Family>(work: &mut Work<F>, chosen: &Chosen) -> bool {
    let is_full = chosen.backend.mode() == Mode::FullNat as u8;
    let New { request, reply, .. } = &mut work.new;
    reply.source = F::unpack(chosen.backend.address);
    reply.source_port = chosen.port(request.destination_port);
    reply.destination = request.source;
    reply.destination_port = request.source_port;
    work.sources = 0;
    if is_full || work.is_hairpin {
        work.sources = u32::from(chosen.backend.sources);
    }
    !is_full || work.sources != 0
}

#[inline(always)]
fn rounds<F: Family>() -> bool {
    for round in 0..PORT_ROUNDS {
        if F::find_port(round) != 0 {
            return true;
        }
    }
    false
}

/// Tries some ports, other ones in each round, for the flow in this CPU's work. 1 if one is free, and the flow has it.
#[inline(always)]
pub fn find_port<F: Family>(round: u32) -> u32 {
    let Some(work) = F::work() else { return 0 };
    let hash = hash::five_tuple(&work.new.request);
    // The upper half of all ports.
    let (mut first, mut ports) = (0x8000, 0x8000);
    if work.sources != 0 {
        let entry =
            ((hash as u32).wrapping_add(round)).checked_rem(work.sources).unwrap_or_default();
        // SAFETY: entries are replaced whole; a reader of the old one finds what was right just now.
        let Some(snat) = (unsafe { SNAT.get(Snat::key(work.new.backend, entry)) }) else {
            return 0;
        };
        work.new.reply.destination = F::unpack(snat.address);
        (first, ports) = (u32::from(snat.first), u32::from(snat.ports));
    }
    let mut candidate = hash::mix(hash, u64::from(round) + 1);
    for _ in 0..PORT_TRIES {
        let port = first + hash::slot(candidate, ports);
        work.new.reply.destination_port = Be16::new(port as u16);
        if !F::is_taken(&work.new.reply) {
            return 1;
        }
        candidate = hash::mix(candidate, 1);
    }
    0
}

/// Whether the client is a backend itself, whose answers from another one would not come by us unless that one
/// answers an address of ours.
///
/// Not inlined: its stack is wanted only while it runs.
#[inline(never)]
pub fn is_hairpin<F: Family>(client: F) -> bool {
    if !filter::may_be(client) {
        return false;
    }
    let key = HostKey::of(client);
    // SAFETY: the value is not looked at.
    unsafe { HAIRPINS.get(key) }.is_some()
}

/// Tells how a flow's name differs from what the client has sent.
#[inline(always)]
pub fn tell<F: Family>(new: &New<F>) -> bool {
    let port = new.reply.destination_port;
    if new.reply.destination != new.request.source {
        report::step(What::SourceChanged, new.backend, u64::from(port.get()));
        return false;
    }
    let changed = port != new.request.source_port;
    if changed {
        report::step(What::PortChanged, new.backend, u64::from(port.get()));
    }
    changed
}

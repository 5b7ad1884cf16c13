//! The flow table: a forwarding decision, made once and remembered.
//!
//! [`find`] and [`open`] are the seam. Behind it, today, is the kernel's LRU hash, with an entry
//! for each direction, so that a packet of either costs one look-up. Entries of one flow are
//! found from each other: what one direction's packets become, reversed, names the other's.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use equipoise_common::hash;
use equipoise_common::key::{Be16, FiveTuple};
use equipoise_common::limit::PORT_TRIES;
use equipoise_common::step::What;
use equipoise_common::value::{Flow, Service, flag};
use equipoise_common::verdict::Verdict;

use crate::family::Family;
use crate::parse::{Headers, tcp};
use crate::report::{self, Direction};
use crate::select;

/// What a flow makes of a packet.
pub struct Decision<F> {
    /// The five-tuple after rewriting.
    pub to: FiveTuple<F>,
    /// Which way the packet goes.
    pub direction: Direction,
    /// Index into the service counters.
    pub service: u32,
    /// Index into the backends and their counters.
    pub backend: u32,
}

/// The flow that a packet is of, if there is one; the packet is noted in it.
#[inline(always)]
pub fn find<F: Family>(headers: &Headers<F>, decision: &mut Decision<F>) -> bool {
    let Some(entry) = F::flows().get_ptr_mut(&headers.tuple) else {
        report::step(What::FlowMiss, 0, 0);
        return false;
    };
    // SAFETY: an LRU entry may be reused for another flow while we read it; the kernel delays
    // that by an RCU grace period, longer than the program runs.
    let flow = unsafe { &mut *entry };
    report::step(What::FlowHit, flow.backend, u64::from(flow.flags));
    decision.fill(flow);
    if headers.is_syn() && flow.is_closing() && decision.direction == Direction::Request {
        if !report::is_dry() {
            let _ = F::flows().remove(&decision.to.reversed());
            let _ = F::flows().remove(&headers.tuple);
        }
        return false;
    }
    note(flow, headers, decision);
    true
}

/// Whether a packet on its way out has been noted in its flow when it came in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// The stack forwards it.
    Already,
    /// This host has made it.
    NotYet,
}

/// The flow that a packet on its way out is a reply of, if there is one.
#[inline(always)]
pub fn find_reply<F: Family>(headers: &Headers<F>, noted: Noted, reply: &mut Decision<F>) -> bool {
    let Some(entry) = F::flows().get_ptr_mut(&headers.tuple) else {
        return false;
    };
    // SAFETY: as in `find`.
    let flow = unsafe { &mut *entry };
    if !flow.is_reply() {
        return false;
    }
    report::step(What::FlowHit, flow.backend, u64::from(flow.flags));
    reply.fill(flow);
    if noted == Noted::NotYet {
        note(flow, headers, reply);
    }
    true
}

/// Takes back the note of a packet that the next hook on the device will note again.
///
/// Not inlined: its stack is wanted only while it runs.
#[inline(never)]
pub fn leave_to_next_hook<F: Family>(headers: &Headers<F>) {
    if report::is_dry() {
        return;
    }
    if let Some(entry) = F::flows().get_ptr_mut(&headers.tuple) {
        // SAFETY: as in `find`.
        let flow = unsafe { &mut *entry };
        count(&mut flow.packets, headers.size.packets.wrapping_neg());
        count(&mut flow.bytes, headers.size.bytes.wrapping_neg());
    }
}

/// Notes a packet in its flow.
#[inline(always)]
fn note<F: Family>(flow: &mut Flow<F>, headers: &Headers<F>, decision: &Decision<F>) {
    if report::is_dry() {
        return;
    }
    flow.last_seen = now();
    count(&mut flow.packets, headers.size.packets);
    count(&mut flow.bytes, headers.size.bytes);
    let seen = decision.seen(headers);
    if flow.flags & seen == seen {
        return;
    }
    flow.flags |= seen;
    tell_other_half(&decision.to, seen);
}

/// Few packets of a flow tell something new; both halves learn it.
///
/// Not inlined: its stack is wanted only while it runs.
#[inline(never)]
fn tell_other_half<F: Family>(to: &FiveTuple<F>, seen: u32) {
    if let Some(other) = F::flows().get_ptr_mut(&to.reversed()) {
        // SAFETY: as in `find`.
        unsafe { (*other).flags |= seen };
    }
}

/// Makes and remembers a decision for a packet of no flow.
///
/// The flow takes its name at the backend: with the client's own source port, or, where another
/// flow has that name, with other ports in turn, and then so at a second backend.
#[inline(always)]
pub fn open<F: Family>(
    headers: &Headers<F>,
    service: &Service,
    decision: &mut Decision<F>,
) -> Result<(), Verdict> {
    let tuple = &headers.tuple;
    let Some(run) = select::run(service.pool, headers) else {
        return Err(Verdict::NoBackend);
    };
    let Some(flow) = F::scratch() else {
        return Err(Verdict::FlowRefused);
    };
    let now = now();
    // What the backend sends comes back as from the VIP.
    *flow = Flow {
        source: tuple.destination,
        destination: tuple.source,
        source_port: tuple.destination_port,
        destination_port: tuple.source_port,
        flags: flag::REPLY,
        service: service.id,
        backend: 0,
        opened: now,
        last_seen: now,
        packets: 0,
        bytes: 0,
    };
    let mut answer = tuple.reversed();
    // Deterministic candidates, spread by the flow's hash over the upper half of the ports.
    let mut candidate = hash::five_tuple(tuple);
    let mut placed = Placed::Taken;
    for attempt in 0..2 * PORT_TRIES {
        if attempt % PORT_TRIES == 0 {
            let Some(chosen) = run.backend(attempt / PORT_TRIES) else {
                return Err(Verdict::NoBackend);
            };
            answer.source = F::unpack(chosen.backend.address);
            answer.source_port = chosen.backend.port;
            answer.destination_port = tuple.source_port;
            flow.backend = chosen.id;
        } else {
            candidate = hash::mix(candidate, 1);
            answer.destination_port = Be16::new(candidate as u16 | 0x8000);
        }
        placed = place(&answer, flow);
        if placed != Placed::Taken {
            break;
        }
    }
    match placed {
        Placed::Taken => return Err(Verdict::NoSourcePort),
        Placed::Refused => return Err(Verdict::FlowRefused),
        Placed::Done => {}
    }
    flow.source = tuple.source;
    flow.destination = answer.source;
    flow.source_port = answer.destination_port;
    flow.destination_port = answer.source_port;
    flow.flags = 0;
    flow.packets = headers.size.packets;
    flow.bytes = headers.size.bytes;
    decision.fill(flow);
    let port_changed = flow.source_port != tuple.source_port;
    if port_changed {
        report::step(What::PortChanged, flow.backend, u64::from(flow.source_port.get()));
    }
    if report::is_dry() {
        return Ok(());
    }
    if F::flows().insert(tuple, &*flow, u64::from(BPF_NOEXIST)).is_err() {
        return raced(headers, decision, &answer);
    }
    report::new_flow(flow.service, flow.backend, port_changed);
    Ok(())
}

/// Another CPU has opened this flow meanwhile, or the table is out of memory.
#[inline(always)]
fn raced<F: Family>(
    headers: &Headers<F>,
    decision: &mut Decision<F>,
    answer: &FiveTuple<F>,
) -> Result<(), Verdict> {
    let Some(entry) = F::flows().get_ptr(&headers.tuple) else {
        let _ = F::flows().remove(answer);
        return Err(Verdict::FlowRefused);
    };
    // SAFETY: as in `find`.
    decision.fill(unsafe { &*entry });
    if decision.to.reversed() != *answer {
        let _ = F::flows().remove(answer);
    }
    Ok(())
}

/// How taking a name in the table ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Placed {
    Done,
    Taken,
    Refused,
}

/// Puts the entry for a backend's answers under `key`, unless another flow has that name.
#[inline(always)]
fn place<F: Family>(key: &FiveTuple<F>, reply: &Flow<F>) -> Placed {
    if let Some(entry) = F::flows().get_ptr(key) {
        // SAFETY: as in `find`.
        let other = unsafe { &*entry };
        let same = other.source == reply.source
            && other.source_port == reply.source_port
            && other.destination_port == reply.destination_port;
        // Our own from before its other half was evicted, or one that is over.
        if !same && !other.is_closing() {
            return Placed::Taken;
        }
        if report::is_dry() {
            return Placed::Done;
        }
        return match F::flows().insert(key, reply, u64::from(BPF_ANY)) {
            Ok(()) => Placed::Done,
            Err(_) => Placed::Refused,
        };
    }
    if report::is_dry() {
        return Placed::Done;
    }
    /// `EEXIST`: another CPU was quicker.
    const EXISTS: i32 = -17;
    match F::flows().insert(key, reply, u64::from(BPF_NOEXIST)) {
        Ok(()) => Placed::Done,
        Err(EXISTS) => Placed::Taken,
        Err(_) => Placed::Refused,
    }
}

/// Adds to a counter that several CPUs may write.
#[inline(always)]
fn count(counter: &mut u64, by: u64) {
    // The library's atomics are not there for this target.
    // SAFETY: aligned, and a valid `u64` for as long as the entry.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, by) };
}

/// Monotonic clock, nanoseconds, at the last kernel tick: the exact one costs 20 ns on a VM.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: takes nothing.
    unsafe { bpf_ktime_get_coarse_ns() }
}

impl<F: Family> Decision<F> {
    /// What a packet tells of its flow.
    #[inline(always)]
    fn seen(&self, headers: &Headers<F>) -> u32 {
        let fin = headers.tcp_flags & tcp::FIN != 0;
        let mut seen = match (self.direction, fin) {
            (Direction::Request, _) if headers.is_syn() => 0,
            (Direction::Request, false) => flag::SEEN_CLIENT_AGAIN,
            (Direction::Request, true) => flag::SEEN_CLIENT_AGAIN | flag::SEEN_CLIENT_FIN,
            (Direction::Reply, false) => flag::SEEN_ANSWER,
            (Direction::Reply, true) => flag::SEEN_ANSWER | flag::SEEN_BACKEND_FIN,
        };
        if headers.tcp_flags & tcp::RST != 0 {
            seen |= flag::SEEN_RST;
        }
        seen
    }

    /// What is to be filled in.
    #[inline(always)]
    pub fn none(headers: &Headers<F>) -> Self {
        Self { to: headers.tuple, direction: Direction::Request, service: 0, backend: 0 }
    }

    #[inline(always)]
    fn fill(&mut self, flow: &Flow<F>) {
        self.to.source = flow.source;
        self.to.destination = flow.destination;
        self.to.source_port = flow.source_port;
        self.to.destination_port = flow.destination_port;
        self.direction = if flow.is_reply() { Direction::Reply } else { Direction::Request };
        self.service = flow.service;
        self.backend = flow.backend;
    }
}

//! Packets that are decided without being remembered: where the table has no room, another CPU is at work in it, or a RST
//! ends a flow that we do not know. And their replies.

use core::ptr;

use equipoise_common::flow::count::Pressure;
use equipoise_common::flow::find::is_past;
use equipoise_common::key::{Be16, ServiceKey};
use equipoise_common::value::Mode;
use equipoise_common::verdict::Verdict;

use crate::carry::is_lowered;
use crate::family::Family;
use crate::flow::{Decision, now};
use crate::map::STATELESS;
use crate::parse::Headers;
use crate::report::{self, Direction};
use crate::select;
use crate::slow::Work;
use crate::table::policy;

/// Sends a packet where its hash says without remembering it.
///
/// A name that another flow has at the backend cannot be used: the answers would be mixed up. Replies find their way
/// back by [`reply`].
#[inline(never)]
pub fn send<F: Family>(work: &Work<F>, decision: &mut Decision<F>) -> Result<(), Verdict> {
    let (headers, service) = (&work.headers, &work.service);
    let Some(run) = select::hashed(service.pool, headers) else { return Err(Verdict::NoBackend) };
    let Some(chosen) = run.backend(0) else { return Err(Verdict::NoBackend) };
    if chosen.backend.mode() == Mode::FullNat as u8 {
        // Replies to an address of ours that nobody remembers would go nowhere.
        return Err(Verdict::FlowRefused);
    }
    let is_one_sided = Mode::is_one_sided(chosen.backend.mode());
    let mut reply = headers.tuple.reversed();
    reply.source = F::unpack(chosen.backend.address);
    reply.source_port = chosen.port(headers.tuple.destination_port);
    if !is_one_sided && F::is_taken(&reply) {
        return Err(Verdict::NoSourcePort);
    }
    decision.to = if is_one_sided { headers.tuple } else { reply.reversed() };
    decision.apart =
        is_one_sided || policy(service.id).is_some_and(|policy| is_lowered(headers, policy));
    decision.service = service.id;
    decision.backend = chosen.id;
    if report::is_dry() {
        return Ok(());
    }
    if let Some(last) = STATELESS.get_ptr_mut(0) {
        let now = u64::from(now()) + 1;
        // SAFETY: an entry of an array map stays; one word, and any of the CPUs' times will do.
        let last = unsafe { &mut *last };
        if *last != now {
            *last = now;
        }
    }
    Ok(())
}

/// What a packet of no flow becomes if it answers one that was not remembered.
///
/// Looked for only while there has been such a packet in the last minutes, so that packets that are none of
/// ours cost nothing more in peace.
#[inline(always)]
pub fn reply<F: Family>(headers: &Headers<F>, decision: &mut Decision<F>) -> bool {
    /// About two minutes.
    const REMEMBERED: u32 = 1 << 17;
    // SAFETY: an entry of an array map stays; one word.
    let last = STATELESS.get_ptr(0).map_or(0, |last| unsafe { ptr::read_volatile(last) });
    if last == 0 || is_past(last as u32, REMEMBERED, now()) {
        return false;
    }
    translate(headers, decision)
}

#[inline(never)]
fn translate<F: Family>(headers: &Headers<F>, decision: &mut Decision<F>) -> bool {
    let tuple = &headers.tuple;
    let mut key = ServiceKey {
        address: tuple.source,
        interface: 0,
        port: tuple.source_port,
        protocol: tuple.protocol as u16,
    };
    decision.to = *tuple;
    let reply = match F::reply(&key) {
        Some(reply) => {
            decision.to.source_port = reply.port;
            reply
        }
        None => {
            let port = key.port.get();
            key.port = Be16::new(0);
            let Some(reply) = F::reply(&key) else { return false };
            if port < reply.first.get() || port > reply.last.get() {
                return false;
            }
            reply
        }
    };
    decision.to.source = F::unpack(reply.vip);
    // Its way is kept for the next ones, and not for ever.
    decision.now = now();
    decision.direction = Direction::Reply;
    decision.service = reply.service;
    decision.backend = reply.backend;
    report::pressure(Pressure::StatelessReply);
    true
}

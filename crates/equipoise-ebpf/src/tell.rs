//! Telling of flows through the ring buffer.

use equipoise_common::event::Event;
use equipoise_common::flow::count::Pressure;
use equipoise_common::flow::entry::{Facts, both, facts, handshake, key, last_seen, opened, owner};
use equipoise_common::flow::set::End;
use equipoise_common::flow::{State, flag};
use equipoise_common::key::{Address, FiveTuple};
use equipoise_common::value::{Backend, Policy};

use crate::map::EVENTS;
use crate::report;
use crate::table::{backend, policy};
use crate::word::Shared;

/// Tells of a flow that has closed, if its service wants that and it has not been told.
#[inline(always)]
pub fn tell_end<A: Address, const SLOT: usize>(end: &End<'_, Shared, SLOT>) {
    if end.was.state_number() == State::Closing as u32 {
        return;
    }
    let (service, _) = owner(end.request);
    if policy(service).is_some_and(|policy| policy.switches & Policy::EVENTS != 0) {
        tell::<A, SLOT>(end, Event::CLOSED);
    }
}

/// Tells of a flow.
///
/// Not inlined: its stack is wanted only while it runs, and events may be off.
#[inline(never)]
pub fn tell<A: Address, const SLOT: usize>(end: &End<'_, Shared, SLOT>, what: u16) {
    let Some(mut place) = EVENTS.reserve_untyped::<Event>(0) else {
        report::pressure(Pressure::EventsLost);
        return;
    };
    let found: FiveTuple<A> = key(end.request, end.was);
    let facts: Facts<A> = facts(end.request, end.was);
    let traffic = both(end.request, end.reply);
    let seen = last_seen(end.request);
    let opened = opened(end.request);
    let mut duration = seen.wrapping_sub(opened);
    if let Some(reply) = end.reply {
        let other = last_seen(reply).wrapping_sub(opened);
        if other as i32 > duration as i32 {
            duration = other;
        }
    }
    let event: *mut Event = place.as_mut_ptr();
    // SAFETY: the kernel has reserved a whole event for us. It is filled field by field, because it does not fit on the
    // stack, and each field is written.
    let event = unsafe { &mut *event };
    event.client = found.source.pack();
    event.vip = found.destination.pack();
    event.backend_address = facts.to.destination.pack();
    let mut family = if A::IS_V6 { Event::IPV6 | Event::BACKEND_IPV6 } else { 0 };
    if end.was.has(flag::ONE_SIDED)
        && let Some(entry) = backend(facts.backend)
    {
        event.backend_address = entry.address;
        family &= !Event::BACKEND_IPV6;
        if entry.mode & Backend::IS_V6 != 0 {
            family |= Event::BACKEND_IPV6;
        }
    }
    event.client_port = found.source_port;
    event.vip_port = found.destination_port;
    event.backend_port = facts.to.destination_port;
    let again = if end.was.is_sent_again() { Event::SENT_AGAIN } else { 0 };
    event.what = what | family | again;
    event.protocol = found.protocol;
    event.why = end.why as u32;
    event.service = facts.service;
    event.backend = facts.backend;
    event.duration = duration;
    event.state = end.was.state_number();
    event.handshake = u64::from(end.reply.map_or(0, |reply| handshake(reply, end.was)));
    event.packets_in = traffic.packets_in;
    event.bytes_in = traffic.bytes_in;
    event.packets_out = traffic.packets_out;
    event.bytes_out = traffic.bytes_out;
    // User space is woken by the kernel's own rule: when it has read everything before this.
    place.submit(0);
}

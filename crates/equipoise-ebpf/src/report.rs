//! Telling what happened: counters when live, steps when dry.

use core::ptr;

use equipoise_common::flow::count::Pressure;
use equipoise_common::step::{Step, What};
use equipoise_common::value::Traffic;
use equipoise_common::verdict::{Hook, VERDICTS as VERDICTS_OF_A_HOOK, Verdict};

use crate::family::Family;
use crate::flow::Decision;
use crate::map::{BACKEND_TRAFFIC, DRY, PRESSURE, SERVICE_TRAFFIC, STEPS, VERDICTS};
use crate::parse::{Headers, Size};
use crate::trace;

/// True in the twin that only explains.
#[inline(always)]
pub fn is_dry() -> bool {
    DRY.load() != 0
}

/// Counts a packet's way out.
#[inline(always)]
pub fn verdict(hook: Hook, verdict: Verdict) {
    number(hook, verdict as u32);
}

/// Counts it by the number of the verdict.
#[inline(always)]
pub fn number(hook: Hook, verdict: u32) {
    step(What::Verdict, verdict, 0);
    if is_dry() {
        return;
    }
    trace::verdict(verdict);
    if let Some(counter) = VERDICTS.get_ptr_mut(hook as u32 * VERDICTS_OF_A_HOOK + verdict) {
        // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
        unsafe { *counter += 1 };
    }
}

/// Counts what became of a flow under pressure.
#[inline(always)]
pub fn pressure(pressure: Pressure) {
    if is_dry() {
        return;
    }
    if let Some(counter) = PRESSURE.get_ptr_mut(pressure as u32) {
        // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
        unsafe { *counter += 1 };
    }
}

/// Adds a step to the log of a dry run.
#[inline(always)]
pub fn step(what: What, first: u32, second: u64) {
    if !is_dry() {
        return;
    }
    let Some(head) = STEPS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a dry run is one program on one packet; nobody else writes its log.
    let number = unsafe { (*head).first }.wrapping_add(1);
    let Some(entry) = STEPS.get_ptr_mut(number) else {
        return;
    };
    // SAFETY: as above.
    unsafe { *entry = Step { what: what as u32, first, second } };
    // SAFETY: as above.
    unsafe { (*head).first = number };
}

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From a client to a backend.
    Request,
    /// From a backend to a client.
    Reply,
}

/// Counts a packet for its service and its backend.
#[inline(always)]
pub fn packet<F: Family>(headers: &Headers<F>, decision: &Decision<F>) {
    trace::of(decision.service, decision.backend);
    traffic(decision.service, decision.backend, decision.direction, headers.size);
}

#[inline(always)]
fn traffic(service: u32, backend: u32, direction: Direction, size: Size) {
    if is_dry() {
        return;
    }
    for counter in [SERVICE_TRAFFIC.get_ptr_mut(service), BACKEND_TRAFFIC.get_ptr_mut(backend)] {
        let Some(counter) = counter else { continue };
        add(counter, |traffic| match direction {
            Direction::Request => {
                traffic.packets_in += size.packets;
                traffic.bytes_in += size.bytes;
            }
            Direction::Reply => {
                traffic.packets_out += size.packets;
                traffic.bytes_out += size.bytes;
            }
        });
    }
}

/// Counts a new flow for its service and its backend.
#[inline(always)]
pub fn new_flow(service: u32, backend: u32, port_changed: bool) {
    for counter in [SERVICE_TRAFFIC.get_ptr_mut(service), BACKEND_TRAFFIC.get_ptr_mut(backend)] {
        let Some(counter) = counter else { continue };
        add(counter, |traffic| {
            traffic.new_flows += 1;
            traffic.ports_changed += u64::from(port_changed);
        });
    }
}

#[inline(always)]
fn add(counter: *mut Traffic, change: impl FnOnce(&mut Traffic)) {
    // SAFETY: this CPU's own entry of a per-CPU map, and nothing else runs on it meanwhile.
    if let Some(counter) = unsafe { ptr::NonNull::new(counter).map(|mut c| c.as_mut()) } {
        change(counter);
    }
}

//! Flows that are ended from outside, for what they are: of clients that have come to be denied, and by hand.
//!
//! What is to be ended is gathered first and written afterwards, so that the walk goes over tables that it does not change.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use equipoise_common::flow::end::end;
use equipoise_common::flow::set::at;
use equipoise_common::flow::{Meta, Reason, State, flag};
use equipoise_common::key::Address;

use super::flow::{Table, entries, now};
use super::sweep::ties;
use super::{Expiry, Farewell};

/// Ends the flows of one family that are wanted, for this reason.
pub(super) fn cut<A, const SLOT: usize>(
    table: &Table<'_, A>,
    mut wanted: impl FnMut(&[AtomicU64; SLOT], Meta) -> bool,
    (reason, farewell): (Reason, Farewell),
    expiry: &mut Expiry,
) where
    A: Address + Into<IpAddr>,
{
    let mut found = Vec::new();
    entries::<A, SLOT>(table, 0..table.sets, |here, slot, meta| {
        if !meta.has(flag::REPLY) && wanted(slot, meta) {
            found.push(here);
        }
        true
    });
    for here in found {
        let Some(slot) = at::<SLOT, _>(table, here) else { continue };
        let meta = Meta(slot[0].load(Ordering::Acquire));
        // Another flow may have come into its place since; one that is not wanted any more is not ended.
        if !meta.is_live() || meta.has(flag::REPLY) || !wanted(slot, meta) {
            continue;
        }
        let is_connected = matches!(meta.state(), State::Opening | State::Established);
        let is_told = is_connected && farewell == Farewell::Reset;
        let ties = is_told.then(|| ties::<A, SLOT>(table, slot, meta));
        let now = table.clock.unwrap_or_else(now);
        if end::<SLOT, _>(table, here, reason, now) {
            expiry.cut += 1;
            expiry.resets.extend(ties);
        }
    }
    expiry.events.append(&mut table.ended.borrow_mut());
}

/// As [`cut`], by hand, of the flows that are wanted by what is listed of them.
pub(super) fn cut_listed<A, const SLOT: usize>(
    table: &Table<'_, A>,
    wanted: &mut dyn FnMut(&super::FlowRow) -> bool,
    farewell: Farewell,
    expiry: &mut Expiry,
) where
    A: Address + Into<IpAddr>,
{
    let begun = table.clock.unwrap_or_else(now);
    let is_wanted =
        |slot: &[AtomicU64; SLOT], meta| wanted(&super::flow::row(table, slot, meta, begun));
    cut::<A, SLOT>(table, is_wanted, (Reason::ByHand, farewell), expiry);
}

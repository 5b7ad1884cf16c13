//! Going over the flow tables: ending what is past its time, closing what is to be reset.
//!
//! Without a system call and without a lock, while packets go on. Most of its time it waits for memory, so
//! flows are looked at some dozens at a time before anything is written.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use equipoise_common::flow::end::{discard, end};
use equipoise_common::flow::entry::{acknowledged, facts, key, last_seen, owner, sent};
use equipoise_common::flow::find::{is_expired, is_past};
use equipoise_common::flow::set::at;
use equipoise_common::flow::track::close;
use equipoise_common::flow::{Meta, Position, Reason, State, Storage, flag};
use equipoise_common::key::{Address, FiveTuple};
use equipoise_common::value::{Fate, Policy};

use super::flow::{Table, entries, now};
use super::{Expiry, Ties};

/// How long a reply's entry has been silent before it is looked at whether it is alone: about a minute, ticks.
const ORPHANED: u32 = 1 << 16;

/// Sets that are looked at before what has been found there is done: so many that the processor waits for the memory of
/// several flows at once, and so few that it is still there afterwards.
const AT_ONCE: u32 = 16;

/// Sets that are worth a thread: to go over them takes some tens of milliseconds where flows are past their time.
const A_THREAD: u32 = 1 << 15;
/// Threads at most. They wait for the same memory, and packets want processors too.
const THREADS: u32 = 4;

/// What a sweep does with a flow.
#[derive(Clone, Copy)]
enum Due {
    /// It is past its time.
    End,
    /// Its backend has gone, and its service wants it reset.
    Close,
    /// It is a reply's entry that may have lost its request's.
    Discard,
}

/// Ends the flows in these sets that are past their time, and closes those whose backend has gone and
/// whose service wants them reset. What has to be told to their ends is added to `expiry`.
///
/// Many sets are gone over by several threads at once, each its own.
pub(super) fn sweep<A, const SLOT: usize>(
    table: &Table<'_, A>,
    sets: Range<u32>,
    expiry: &mut Expiry,
) where
    A: Address + Into<IpAddr>,
{
    let mut shares = shares(sets, thread::available_parallelism().map_or(1, NonZero::get));
    let Some(own) = shares.pop() else { return };
    let others = thread::scope(|scope| {
        let begun: Vec<_> = shares
            .into_iter()
            .map(|share| {
                let (table, sets) = (table.again(), share.clone());
                let swept = move || {
                    let mut expiry = Expiry::default();
                    sweep_alone::<A, SLOT>(&table, sets, &mut expiry);
                    expiry
                };
                (share, thread::Builder::new().spawn_scoped(scope, swept))
            })
            .collect();
        sweep_alone::<A, SLOT>(table, own, expiry);
        let mut others = Vec::new();
        for (share, begun) in begun {
            match begun {
                Ok(thread) => {
                    others.push(thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
                }
                // The machine has no thread left: it takes longer.
                Err(_) => sweep_alone::<A, SLOT>(table, share, expiry),
            }
        }
        others
    });
    others.into_iter().for_each(|other| expiry.add(other));
}

/// Sets in about equal shares for so many processors, none for no sets.
fn shares(sets: Range<u32>, processors: usize) -> Vec<Range<u32>> {
    let most = u32::try_from(processors).unwrap_or(THREADS).min(THREADS);
    let count = ((sets.end - sets.start) / A_THREAD).clamp(1, most);
    let each = (sets.end - sets.start).div_ceil(count).max(1);
    let firsts = sets.clone().step_by(each as usize);
    firsts.map(|first| first..first.saturating_add(each).min(sets.end)).collect()
}

fn sweep_alone<A, const SLOT: usize>(table: &Table<'_, A>, sets: Range<u32>, expiry: &mut Expiry)
where
    A: Address + Into<IpAddr>,
{
    let mut found = Vec::new();
    let mut first = sets.start;
    while first < sets.end {
        let last = first.saturating_add(AT_ONCE).min(sets.end);
        let begun = table.clock.unwrap_or_else(now);
        entries::<A, SLOT>(table, first..last, |here, slot, meta| {
            if due::<A, SLOT>(table, (here, slot, meta), begun).is_some() {
                // What is to be written is looked at already, and nothing waits for that yet.
                let other = Storage::<SLOT>::set(table, meta.other() >> 4);
                std::hint::black_box(other.map_or(0, |set| set.group(meta.other() >> 2)));
                found.push(here);
            }
            true
        });
        for here in found.drain(..) {
            let Some(slot) = at::<SLOT, _>(table, here) else { continue };
            let meta = Meta(slot[0].load(Ordering::Acquire));
            // A packet may have come since.
            let is_due = |now| due::<A, SLOT>(table, (here, slot, meta), now);
            // Read for each flow: what is given up is stamped with it, and a grace must not begin in the past.
            let now = table.clock.unwrap_or_else(now);
            if let Some(due) = is_due(now).filter(|_| meta.is_live()) {
                carry_out::<A, SLOT>(table, (here, slot, meta), (due, now), expiry);
            }
        }
        first = last;
    }
    expiry.events.append(&mut table.ended.borrow_mut());
}

/// What is to be done with the flow that has this entry.
fn due<A: Address + Into<IpAddr>, const SLOT: usize>(
    table: &Table<'_, A>,
    (here, slot, meta): (Position, &[AtomicU64; SLOT], Meta),
    now: u32,
) -> Option<Due> {
    if meta.has(flag::REPLY) {
        // Its flow is ended by its request's entry. One that has been silent for long may have lost that.
        return is_past(last_seen(slot), ORPHANED, now).then_some(Due::Discard);
    }
    let (service, backend) = owner(slot);
    let timeout = Storage::<SLOT>::timeout(table, service, meta.state_number());
    if is_expired::<SLOT, _>(table, here, slot, timeout, now) {
        return Some(Due::End);
    }
    let is_open = matches!(meta.state(), State::Opening | State::Established);
    let gone = table.backends.get(backend as usize).is_some_and(|entry| {
        entry.generation != meta.generation() && entry.fate == Fate::Reset as u8
    });
    (is_open && gone).then_some(Due::Close)
}

fn carry_out<A: Address + Into<IpAddr>, const SLOT: usize>(
    table: &Table<'_, A>,
    (here, slot, meta): (Position, &[AtomicU64; SLOT], Meta),
    (due, now): (Due, u32),
    expiry: &mut Expiry,
) {
    match due {
        Due::Discard => {
            discard::<SLOT, _>(table, here, now);
        }
        Due::End => {
            let (service, _) = owner(slot);
            let resets = table
                .policies
                .get(service as usize)
                .is_some_and(|policy| policy.switches & Policy::RESET_ON_EXPIRY != 0);
            let ties = (resets && meta.state() == State::Established)
                .then(|| ties::<A, SLOT>(table, slot, meta));
            if end::<SLOT, _>(table, here, Reason::Idle, now) {
                expiry.ended += 1;
                expiry.resets.extend(ties);
            }
        }
        Due::Close => {
            let ties = ties::<A, SLOT>(table, slot, meta);
            if close::<SLOT, _>(table, here, Reason::BackendGone) {
                expiry.closed += 1;
                expiry.resets.push(ties);
            }
        }
    }
}

/// Both ends of a flow as a RST to either needs them.
pub(super) fn ties<A: Address + Into<IpAddr>, const SLOT: usize>(
    table: &Table<'_, A>,
    slot: &[AtomicU64; SLOT],
    meta: Meta,
) -> Ties {
    let found: FiveTuple<A> = key(slot, meta);
    let to = facts::<_, A, SLOT>(slot, meta).to;
    let is_one_sided = meta.has(flag::ONE_SIDED);
    let backend_sent = if is_one_sided {
        // As far as the client has told.
        acknowledged(slot)
    } else {
        at::<SLOT, _>(table, meta.other()).map_or(0, sent)
    };
    let address =
        |address: A, port: equipoise_common::key::Be16| SocketAddr::new(address.into(), port.get());
    Ties {
        client: address(found.source, found.source_port),
        vip: address(found.destination, found.destination_port),
        client_at_backend: address(to.source, to.source_port),
        backend: address(to.destination, to.destination_port),
        client_sent: sent(slot),
        backend_sent,
        is_one_sided,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_shared_out_whole_and_once() {
        for (sets, processors, count) in [
            (0..0, 4, 0),
            (5..6, 4, 1),
            (0..A_THREAD, 4, 1),
            (7..7 + 2 * A_THREAD, 1, 1),
            (7..7 + 2 * A_THREAD, 2, 2),
            (7..8 + 3 * A_THREAD, 64, 3),
            (0..1_000 * A_THREAD + 3, 64, 4),
            (u32::MAX - 3 * A_THREAD..u32::MAX, 2, 2),
        ] {
            let shares = shares(sets.clone(), processors);
            assert_eq!(shares.len(), count, "{sets:?}");
            let end = shares.iter().fold(sets.start, |end, share| {
                assert!(share.start == end && share.end > end, "{sets:?}: {shares:?}");
                share.end
            });
            assert_eq!(end, sets.end);
        }
    }
}

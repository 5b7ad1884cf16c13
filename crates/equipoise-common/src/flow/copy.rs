//! Copying a flow into another table, of whatever size and with whatever secret, and carrying one over.
//!
//! The flow is opened there as any other, so that it is placed and counted by the same text, and is then given what
//! it has lived through. The table that it comes from may be in use. Both may be where packets look into the one
//! that it comes from first: they meet the flow there until it leaves, and then as it was. No limits hold in the other,
//! and nothing gives way: what finds no room is said.

use super::count::Refused;
use super::end::{end, leave};
use super::entry::{At, Meta, Reason, flag, key, owner};
use super::open::{Limits, New, place, reserve, take_back};
use super::set::{Position, Storage, at};
use super::track::{recount, share};
use super::word::Word;

/// What became of a flow that was to be copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copied {
    /// It is in both tables.
    Done,
    /// The other table has a flow that its requests find, which stays as it is.
    Found,
    /// There is no flow with its request's entry here; or it has ended meanwhile.
    Nothing,
    /// The other table does not take it, and nothing of it is there.
    Refused(Refused),
}

/// Copies the flow with its request's entry at `here`. The time, in ticks, is that of slots' grace in the other table;
/// the flow keeps its own times.
pub fn copy<const SLOT: usize, F, T>(from: &F, here: Position, to: &T, now: u32) -> Copied
where
    F: Storage<SLOT>,
    T: Storage<SLOT, Address = F::Address>,
{
    let Some(life) = read(from, here, now) else { return Copied::Nothing };
    match open(to, &life) {
        Ok(_) => Copied::Done,
        Err(other) => other,
    }
}

/// How often a flow that changes meanwhile is copied anew.
const TRIES: u32 = 4;

/// Carries the flow with its request's entry at `here` over: it is copied as by [`copy`], and leaves the table that it comes from, in
/// the state in which it was copied. What has been counted and noted of its packets meanwhile is brought along. Nothing is told of it.
///
/// A flow that is in the other table already ends here, replaced.
pub fn carry<const SLOT: usize, F, T>(from: &F, here: Position, to: &T, now: u32) -> Copied
where
    F: Storage<SLOT>,
    T: Storage<SLOT, Address = F::Address>,
{
    let mut tries = 0;
    while tries < TRIES {
        let Some(life) = read(from, here, now) else { return Copied::Nothing };
        let there = match open(to, &life) {
            Ok(there) => there,
            Err(Copied::Found) => {
                end(from, here, Reason::Replaced, now);
                return Copied::Found;
            }
            Err(other) => return other,
        };
        if leave(from, here, life.meta, now) {
            bring_along(from, [here, life.meta.other()], (to, there), &life);
            return Copied::Done;
        }
        // Nobody has met it there.
        if let Some(request) = at(to, there) {
            leave(to, there, Meta(request[At::<SLOT>::META].load()), now);
        }
        tries += 1;
    }
    Copied::Nothing
}

/// Opens a flow in another table, with all that it has lived through; where that is.
fn open<const SLOT: usize, T: Storage<SLOT>>(
    to: &T,
    life: &Life<T::Address>,
) -> Result<Position, Copied> {
    // Without limits nothing is refused here, and nothing gives way.
    let mut opened = reserve(to, &life.new, &Limits::NONE);
    place(to, &life.new, &mut opened);
    if opened.found || opened.refused != 0 {
        take_back(to, &life.new);
        return Err(Refused::from_number(opened.refused).map_or(Copied::Found, Copied::Refused));
    }
    give(to, opened.at, life);
    Ok(opened.at)
}

/// What a flow that has just left has lived through since it was read is added to what it is given in the other table.
fn bring_along<const SLOT: usize, F, T>(
    from: &F,
    here: [Position; 2],
    (to, there): (&T, Position),
    life: &Life<F::Address>,
) where
    F: Storage<SLOT>,
    T: Storage<SLOT>,
{
    let Some(request) = at(to, there) else { return };
    let other = Meta(request[At::<SLOT>::META].load()).other();
    for ((here, there), given) in here.into_iter().zip([there, other]).zip(life.lived) {
        let (Some(old), Some(new)) = (at(from, here), at(to, there)) else { continue };
        let [_, activity, track, traffic] = lived::<SLOT>();
        let [_, given_activity, given_track, given_traffic] = given;
        // Packets may be counted in the other table by now.
        new[traffic].add(old[traffic].load().wrapping_sub(given_traffic));
        let track_now = old[track].load();
        let carried = (track_now >> 32).wrapping_sub(given_track >> 32);
        new[track].add(carried << 32);
        // What packets have noted there is later than what they have noted here.
        if track_now as u32 != given_track as u32 && new[track].load() as u32 == given_track as u32
        {
            new[track].store_low(track_now as u32);
        }
        new[activity].exchange(given_activity, old[activity].load());
    }
}

/// A flow as its two entries tell it.
struct Life<A> {
    new: New<A>,
    /// The request's meta word.
    meta: Meta,
    /// The words of [`lived`], of the request and of the reply.
    lived: [[u64; 4]; 2],
}

/// Words of an entry that say what has come after its opening, or when that was.
const fn lived<const SLOT: usize>() -> [usize; 4] {
    [At::<SLOT>::KEY_PORTS, At::<SLOT>::ACTIVITY, At::<SLOT>::TRACK, At::<SLOT>::TRAFFIC]
}

fn read<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    here: Position,
    now: u32,
) -> Option<Life<S::Address>> {
    let request = at(table, here)?;
    let first = Meta(request[At::<SLOT>::META].load());
    if first.has(flag::REPLY) {
        return None;
    }
    let reply = at(table, first.other())?;
    let (service, backend) = owner(request);
    let new = New {
        request: key(request, first),
        reply: key(reply, first),
        service,
        backend,
        generation: first.generation(),
        is_one_sided: first.has(flag::ONE_SIDED),
        sent: 0,
        acknowledged: 0,
        packets: 0,
        bytes: 0,
        now,
        begun: 0,
    };
    let lived = [request, reply].map(|slot| lived::<SLOT>().map(|word| slot[word].load()));
    // Once all is read, since the flow may have ended meanwhile, and its slots be another's by now.
    let meta = Meta(request[At::<SLOT>::META].load());
    let is_one = meta.is_live() && meta.sharing(0) == first.sharing(0);
    is_one.then_some(Life { new, meta, lived })
}

/// Gives a flow that has just been opened what it has lived through.
fn give<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    request_at: Position,
    life: &Life<S::Address>,
) {
    let Some(request) = at(table, request_at) else { return };
    let was = Meta(request[At::<SLOT>::META].load());
    let Some(reply) = at(table, was.other()) else { return };
    for (slot, values) in [request, reply].into_iter().zip(life.lived) {
        for (word, value) in lived::<SLOT>().into_iter().zip(values) {
            slot[word].store(value);
        }
    }
    let new = was.sharing(life.meta.flags());
    // No packet comes here, so the exchange cannot fail. Where the flow has closed, that has been told.
    request[At::<SLOT>::META].exchange(was.0, new.0);
    recount(table, request, was, new);
    share(request, reply, [request_at, was.other()]);
}

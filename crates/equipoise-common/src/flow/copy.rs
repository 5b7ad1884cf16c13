//! Copying a flow into another table, of whatever size and with whatever secret.
//!
//! The flow is opened there as any other, so that it is placed and counted by the same text, and is then given what
//! it has lived through. The table that it comes from may be in use, and stays as it is. The one that it goes to
//! must not be reached by packets yet: in the middle of this they would find the flow unconfirmed, and user space
//! that is killed would leave sets locked. No limits hold there, and nothing gives way: what finds no
//! room is said.

use super::count::Refused;
use super::entry::{At, Meta, flag, key, owner};
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
    // Without limits nothing is refused here, and nothing gives way.
    let mut opened = reserve(to, &life.new, &Limits::NONE);
    place(to, &life.new, &mut opened);
    if opened.found || opened.refused != 0 {
        take_back(to, &life.new);
        return Refused::from_number(opened.refused).map_or(Copied::Found, Copied::Refused);
    }
    give(to, opened.at, &life);
    Copied::Done
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

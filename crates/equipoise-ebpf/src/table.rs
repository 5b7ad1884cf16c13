//! Where the flow tables are: maps as the storage of `equipoise_common::flow`, and what is counted and
//! told when a flow ends.

use core::cell::UnsafeCell;
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};
use core::ptr;

use equipoise_common::event::Event;
use equipoise_common::flow::count::{Pressure, Refused};
use equipoise_common::flow::end::{end, evict, worth};
use equipoise_common::flow::entry::{Facts, both, facts, handshake, key, last_seen, opened, owner};
use equipoise_common::flow::find::find_elsewhere;
use equipoise_common::flow::open::{
    Limits, Opened, Wanted, choose, place, release, reserve, usable,
};
use equipoise_common::flow::set::{End, Way};
use equipoise_common::flow::track::{close, greet, settle};
use equipoise_common::flow::{Live, Position, Reason, Set, State, Storage, Word, flag};
use equipoise_common::key::{Address, FiveTuple, V4, V6};
use equipoise_common::value::{Backend, Policy};

use crate::family::Family;
use crate::flow;
use crate::map::{
    BACKENDS, EVENTS, FENCE, FLOWS_V4, FLOWS_V6, HANDSHAKES, LIVE, LIVE_BACKENDS, LIVE_CLOSING,
    LIVE_SERVICES, MAX_FLOWS, MOVING, OTHER_SEED, OTHER_SETS, OTHER_V4, OTHER_V6, POLICIES, SEED,
    SETS, SPARES_CONFIRMED,
};
use crate::name;
use crate::packet::opaque;
use crate::report;
use crate::select::Run;

/// A word in a map that other CPUs and user space reach too.
#[repr(transparent)]
pub struct Shared(UnsafeCell<u64>);

impl Shared {
    /// A word to be put into a map.
    #[inline(always)]
    pub const fn new(value: u64) -> Self {
        Self(UnsafeCell::new(value))
    }
}

// The library's atomics are not there for this target: plain accesses are volatile, the rest intrinsics, which
// become the instructions that the kernel runs as full barriers.
impl Word for Shared {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: aligned, and in a map entry that stays.
        unsafe { ptr::read_volatile(self.0.get()) }
    }

    #[inline(always)]
    fn store(&self, value: u64) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(self.0.get(), value) };
    }

    #[inline(always)]
    fn store_low(&self, value: u32) {
        // The target's byte order is little endian (bpfel), so the lower half comes first.
        // SAFETY: as above.
        unsafe { ptr::write_volatile(self.0.get().cast::<u32>(), value) };
    }

    #[inline(always)]
    fn exchange(&self, current: u64, new: u64) -> u64 {
        const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
        // SAFETY: as above.
        unsafe { atomic_cxchg::<u64, ORDER, ORDER>(self.0.get(), current, new) }.0
    }

    #[inline(always)]
    fn add(&self, by: u64) -> u64 {
        // SAFETY: as above.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(self.0.get(), by) }
    }
}

/// Always 0, in memory that the verifier takes to be changing.
#[unsafe(no_mangle)]
static NOTHING: Unwritten = Unwritten(UnsafeCell::new(0));

struct Unwritten(UnsafeCell<u32>);

// SAFETY: nobody writes it.
unsafe impl Sync for Unwritten {}

/// The IPv4 flows.
pub struct FlowsV4;

/// The IPv6 flows.
pub struct FlowsV6;

/// There is always work; the verifier does not know.
const NO_WORK: Opened = Opened { refused: Refused::Busy as u32, ..Opened::NOTHING };

/// The storage of one family, and the functions of it that are verified by themselves: the kernel does that
/// for functions with a symbol of their own, whose arguments are plain numbers.
macro_rules! storage {
    ($table:ident, $map:ident, $address:ident, $slot:literal, $first:literal,
     [$end:ident, $evict:ident, $turn:ident, $usable:ident, $choose:ident, $reserve:ident, $place:ident,
      $release:ident, $elsewhere:ident,
      $position:ident, $name:ident, $port:ident, $worth:ident, $close:ident, $greet:ident]) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $end(here: u32, why: u32, now: u32) -> u32 {
            u32::from(end(&$table, here, Reason::from_number(why), now))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $evict(set: u32, now: u32) -> u32 {
            evict(&$table, set, now) as u32
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $worth(here: u32, now: u32) -> u64 {
            worth(&$table, here, now)
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $elsewhere(key: *const FiveTuple<$address>, sets: u64, tag: u32) -> u32 {
            // SAFETY: null, or a whole five-tuple: the verifier checks each caller.
            let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
            let (first, second) = (sets as u32, (sets >> 32) as u32);
            find_elsewhere(&$table, key, &Way { first, second, row: 0, tag: tag as u16 })
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $usable(set: u32, preferred: u32, now: u32) -> u32 {
            usable(&$table, set, preferred, now)
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $choose(sets: u64, row: u32, second_is: u32, now: u32) -> u64 {
            let (first, second) = (sets as u32, (sets >> 32) as u32);
            choose(&$table, &Wanted { first, second, row, second_is, now })
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $reserve() -> u64 {
            let Some(work) = <$address as Family>::work() else { return NO_WORK.packed() };
            let [service, backend] = work.limits;
            let limits = Limits { table: MAX_FLOWS.load(), service, backend };
            reserve(&$table, &work.new, &limits).packed()
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $place() -> u64 {
            let Some(work) = <$address as Family>::work() else { return NO_WORK.packed() };
            let mut opened = Opened::NOTHING;
            place(&$table, &work.new, &mut opened);
            opened.packed()
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $release(opened: u64) -> u64 {
            let mut opened = Opened::unpacked(opened);
            if let Some(work) = <$address as Family>::work() {
                release(&$table, &work.new, &mut opened);
            }
            opened.packed()
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $position(key: *const FiveTuple<$address>) -> u32 {
            // SAFETY: null, or a whole five-tuple: the verifier checks each caller.
            let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
            flow::position(&$table, key)
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(offset: u32, length: u32, first: u32) -> u64 {
            name::find::<$address>(&Run { offset, length, first })
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $port(round: u32) -> u32 {
            name::find_port::<$address>(round)
        }

        impl $table {
            /// Changes the state of the flow as the packet says that this CPU's work has.
            #[inline(always)]
            pub fn turn() {
                $greet();
                $turn();
            }

            /// Closes the flow with an entry at `here`; true if it was this call that did it.
            #[inline(always)]
            pub fn close(here: u32, why: Reason) -> bool {
                $close(here, why as u32) != 0
            }

            /// Where a flow is found by this five-tuple, or 0.
            #[inline(always)]
            pub fn position(key: &FiveTuple<$address>) -> u32 {
                $position(key)
            }

            /// Finds a backend and a name for the flow that this CPU's scratch has, as [`crate::name::find`].
            #[inline(always)]
            pub fn name(run: &Run) -> u64 {
                $name(run.offset, run.length, run.first)
            }

            /// Tries some ports for that flow, as [`crate::name::find_port`].
            #[inline(always)]
            pub fn find_port(round: u32) -> u32 {
                $port(round)
            }

            /// Opens the flow that this CPU's work has.
            #[inline(always)]
            pub fn open() -> Opened {
                let reserved = Opened::unpacked($reserve());
                if reserved.refused != 0 {
                    return reserved;
                }
                let placed = Opened::unpacked($place());
                let opened = Opened { evicted: reserved.evicted, ..placed };
                if opened.refused == 0 && !opened.found {
                    return opened;
                }
                Opened::unpacked($release(opened.packed()))
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $greet() -> u32 {
            if let Some(work) = <$address as Family>::work() {
                greet(&$table, work.at, &work.headers.segment);
            }
            0
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $turn() -> u32 {
            if let Some(work) = <$address as Family>::work() {
                settle(&$table, work.at, &work.headers.segment);
            }
            0
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $close(here: u32, why: u32) -> u32 {
            u32::from(close(&$table, here, Reason::from_number(why)))
        }

        impl Storage<$slot> for $table {
            type Word = Shared;
            type Address = $address;

            #[inline(always)]
            fn sets(&self) -> u32 {
                SETS.load()
            }

            #[inline(always)]
            fn seed(&self) -> u64 {
                SEED.load()
            }

            #[inline(always)]
            fn set(&self, index: u32) -> Option<&Set<Shared, $slot>> {
                let set = $map.get_ptr(index)?;
                // Hidden, or the compiler would reckon with the pointer before it is known not to be null.
                let set = opaque(set as usize) as *const Set<Shared, $slot>;
                // SAFETY: an entry of an array map stays, and is all words that are shared.
                Some(unsafe { &*set })
            }

            #[inline(always)]
            fn live(&self, of: Live) -> Option<&Shared> {
                live(of, $first)
            }

            #[inline(always)]
            fn forget(&self, value: u32) -> u32 {
                forget(value)
            }

            #[inline(always)]
            fn end(&self, here: Position, why: Reason, now: u32) -> bool {
                $end(here, why as u32, now) != 0
            }

            #[inline(always)]
            fn evict(&self, set: u32, now: u32) -> u32 {
                $evict(set, now)
            }

            #[inline(always)]
            fn worth(&self, here: Position, now: u32) -> u64 {
                $worth(here, now)
            }

            #[inline(always)]
            fn find_elsewhere(&self, key: &FiveTuple<$address>, way: &Way) -> Position {
                let sets = u64::from(way.second) << 32 | u64::from(way.first);
                $elsewhere(key, sets, u32::from(way.tag))
            }

            #[inline(always)]
            fn usable(&self, set: u32, preferred: u32, now: u32) -> u32 {
                $usable(set, preferred, now)
            }

            #[inline(always)]
            fn choose(&self, wanted: &Wanted) -> u64 {
                let sets = u64::from(wanted.second) << 32 | u64::from(wanted.first);
                $choose(sets, wanted.row, wanted.second_is, wanted.now)
            }

            #[inline(always)]
            fn spares_confirmed(&self) -> bool {
                SPARES_CONFIRMED.load() != 0
            }

            #[inline(always)]
            fn timeout(&self, service: u32, state: u32) -> u32 {
                match policy(service) {
                    Some(policy) => policy.timeouts[(state & 7) as usize],
                    None => 0,
                }
            }

            #[inline(always)]
            fn answered(&self, backend: u32, begun: u32) {
                note_handshake(backend, begun);
            }

            #[inline(always)]
            fn confirmed(&self, begun: u32) -> u32 {
                flow::exact().wrapping_sub(begun) | 1
            }

            #[inline(always)]
            fn ended(&self, end: &End<'_, Shared, $slot>) {
                tell_end::<$address, $slot>(end);
            }
        }
    };
}

storage!(
    FlowsV4,
    FLOWS_V4,
    V4,
    8,
    0,
    [
        flow_end_v4,
        flow_evict_v4,
        flow_turn_v4,
        flow_usable_v4,
        flow_choose_v4,
        flow_reserve_v4,
        flow_place_v4,
        flow_release_v4,
        flow_elsewhere_v4,
        flow_position_v4,
        flow_name_v4,
        flow_port_v4,
        flow_worth_v4,
        flow_close_v4,
        flow_greet_v4
    ]
);
storage!(
    FlowsV6,
    FLOWS_V6,
    V6,
    16,
    16,
    [
        flow_end_v6,
        flow_evict_v6,
        flow_turn_v6,
        flow_usable_v6,
        flow_choose_v6,
        flow_reserve_v6,
        flow_place_v6,
        flow_release_v6,
        flow_elsewhere_v6,
        flow_position_v6,
        flow_name_v6,
        flow_port_v6,
        flow_worth_v6,
        flow_close_v6,
        flow_greet_v6
    ]
);

/// The IPv4 flows that are being carried over to ours.
pub struct OthersV4;

/// The IPv6 flows that are being carried over to ours.
pub struct OthersV6;

/// A table of which no more is asked than whether it has a flow.
macro_rules! others {
    ($table:ident, $map:ident, $address:ident, $slot:literal, [$position:ident, $elsewhere:ident]) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $elsewhere(key: *const FiveTuple<$address>, sets: u64, tag: u32) -> u32 {
            // SAFETY: null, or a whole five-tuple: the verifier checks each caller.
            let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
            let (first, second) = (sets as u32, (sets >> 32) as u32);
            find_elsewhere(&$table, key, &Way { first, second, row: 0, tag: tag as u16 })
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $position(key: *const FiveTuple<$address>) -> u32 {
            // SAFETY: null, or a whole five-tuple: the verifier checks each caller.
            let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
            flow::position(&$table, key)
        }

        impl $table {
            /// Whether a flow is found there by this five-tuple.
            #[inline(always)]
            pub fn has(key: &FiveTuple<$address>) -> bool {
                OTHER_SETS.load() != 0 && $position(key) != 0
            }
        }

        impl Storage<$slot> for $table {
            type Word = Shared;
            type Address = $address;

            #[inline(always)]
            fn sets(&self) -> u32 {
                OTHER_SETS.load()
            }

            #[inline(always)]
            fn seed(&self) -> u64 {
                OTHER_SEED.load()
            }

            #[inline(always)]
            fn set(&self, index: u32) -> Option<&Set<Shared, $slot>> {
                let set = $map.get_ptr(index)?;
                // Hidden, or the compiler would reckon with the pointer before it is known not to be null.
                let set = opaque(set as usize) as *const Set<Shared, $slot>;
                // SAFETY: an entry of an array map stays, and is all words that are shared.
                Some(unsafe { &*set })
            }

            #[inline(always)]
            fn live(&self, _of: Live) -> Option<&Shared> {
                None
            }

            #[inline(always)]
            fn find_elsewhere(&self, key: &FiveTuple<$address>, way: &Way) -> Position {
                let sets = u64::from(way.second) << 32 | u64::from(way.first);
                $elsewhere(key, sets, u32::from(way.tag))
            }

            #[inline(always)]
            fn timeout(&self, _service: u32, _state: u32) -> u32 {
                0
            }

            #[inline(always)]
            fn ended(&self, _end: &End<'_, Shared, $slot>) {}
        }
    };
}

others!(OthersV4, OTHER_V4, V4, 8, [other_position_v4, other_elsewhere_v4]);
others!(OthersV6, OTHER_V6, V6, 16, [other_position_v6, other_elsewhere_v6]);

/// Whether flows are being carried over from our tables to others: what has no flow here is for the programs there.
#[inline(always)]
pub fn is_moving() -> bool {
    // SAFETY: an entry of an array map stays; one word.
    let moving = MOVING.get_ptr(0).map_or(0, |moving| unsafe { ptr::read_volatile(moving) });
    if moving != SEED.load() {
        return false;
    }
    // That a flow has left is seen before it is looked for where it has gone to: this is a full barrier, of a word that is this
    // CPU's own.
    if let Some(word) = FENCE.get_ptr_mut(0) {
        // SAFETY: an entry of an array map stays, and is one shared word.
        unsafe { &*word }.add(0);
    }
    true
}

/// The same value, of which the verifier knows nothing any more.
#[inline(always)]
pub fn forget(value: u32) -> u32 {
    // SAFETY: nobody writes it; that it might change is what the verifier is to think.
    value ^ unsafe { ptr::read_volatile(NOTHING.0.get()) }
}

/// How a service treats its flows.
#[inline(always)]
pub fn policy(service: u32) -> Option<&'static Policy> {
    // SAFETY: an entry of an array map stays; user space writes its words while we read them, each whole.
    POLICIES.get_ptr(service).map(|policy| unsafe { &*policy })
}

/// What is known of a backend.
#[inline(always)]
pub fn backend(id: u32) -> Option<&'static Backend> {
    // SAFETY: an entry of an array map stays; user space writes it as a whole.
    BACKENDS.get_ptr(id).map(|backend| unsafe { &*backend })
}

/// A count of live flows; `first` is where the table's own begin.
#[inline(always)]
pub fn live(of: Live, first: u32) -> Option<&'static Shared> {
    let word = match of {
        Live::Table => LIVE.get_ptr(first),
        Live::Confirmed => LIVE.get_ptr(first + 8),
        Live::Service(id) => LIVE_SERVICES.get_ptr(id),
        Live::Backend(id) => LIVE_BACKENDS.get_ptr(id),
        Live::Closing(id) => LIVE_CLOSING.get_ptr(id),
    };
    // SAFETY: an entry of an array map stays, and is one shared word.
    word.map(|word| unsafe { &*word })
}

/// Has what a backend takes on average to answer a SYN go an eighth of the way to what it has taken now, for one that came at this
/// moment.
///
/// Two CPUs that do this at once lose one of two values, which no average suffers from.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_handshake(backend: u32, begun: u32) -> u32 {
    // SAFETY: an entry of an array map stays, and is one shared word.
    let Some(word) = HANDSHAKES.get_ptr(backend).map(|word| unsafe { &*word }) else { return 0 };
    let taken = u64::from(flow::exact().wrapping_sub(begun)) << 10;
    let before = word.load();
    // Not 0, which is for none.
    word.store(if before == 0 { taken | 1 } else { (before - before / 8 + taken / 8) | 1 });
    1
}

/// Tells of a flow that has closed, if its service wants that and it has not been told.
#[inline(always)]
fn tell_end<A: Address, const SLOT: usize>(end: &End<'_, Shared, SLOT>) {
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

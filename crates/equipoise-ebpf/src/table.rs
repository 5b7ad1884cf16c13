//! Where the flow tables are: maps as the storage of `equipoise_common::flow`.

use core::cell::UnsafeCell;
use core::ptr;

use equipoise_common::flow::count::Refused;
use equipoise_common::flow::end::{end, evict, worth};
use equipoise_common::flow::find::find_elsewhere;
use equipoise_common::flow::open::{
    Limits, Opened, Wanted, choose, place, release, reserve, usable,
};
use equipoise_common::flow::set::{End, Way};
use equipoise_common::flow::track::{close, greet, settle};
use equipoise_common::flow::{Live, Position, Reason, Set, Storage, Word};
use equipoise_common::key::{FiveTuple, V4, V6};
use equipoise_common::value::{Backend, Policy};

use crate::family::Family;
use crate::flow;
use crate::hide::opaque;
use crate::map::{
    BACKENDS, FLOWS_V4, FLOWS_V6, HANDSHAKES, LIVE, LIVE_BACKENDS, LIVE_CLOSING, LIVE_SERVICES,
    MAX_FLOWS, POLICIES, SEED, SETS, SPARES_CONFIRMED,
};
use crate::name;
use crate::select::Run;
use crate::tell::tell_end;
use crate::word::Shared;

pub mod others;

/// Always 0, in memory that the verifier takes to be changing.
#[unsafe(no_mangle)]
static NOTHING: Unwritten = Unwritten(UnsafeCell::new(0));

struct Unwritten(UnsafeCell<u32>);

// SAFETY: nobody writes it.
unsafe impl Sync for Unwritten {}

/// The same value, of which the verifier knows nothing any more.
#[inline(always)]
fn forget_all(value: u32) -> u32 {
    // SAFETY: nobody writes it; that it might change is what the verifier is to think.
    value ^ unsafe { ptr::read_volatile(NOTHING.0.get()) }
}

/// The IPv4 flows.
pub struct FlowsV4;

/// The IPv6 flows.
pub struct FlowsV6;

/// There is always work; the verifier does not know.
const NO_WORK: Opened = Opened { refused: Refused::Busy as u32, ..Opened::NOTHING };

/// Both sets of a way as one argument.
#[inline(always)]
const fn packed(first: u32, second: u32) -> u64 {
    (second as u64) << 32 | first as u64
}

/// As they were, from [`packed`].
#[inline(always)]
const fn unpacked(sets: u64) -> (u32, u32) {
    (sets as u32, (sets >> 32) as u32)
}

/// What is asked in [`Storage::find_elsewhere`], with the key as the verifier checks it.
#[inline(always)]
fn elsewhere<const SLOT: usize, S: Storage<SLOT>>(
    table: &S,
    key: *const FiveTuple<S::Address>,
    (sets, tag): (u64, u32),
) -> u32 {
    // SAFETY: null, or a whole five-tuple: the verifier checks each caller.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    let (first, second) = unpacked(sets);
    find_elsewhere(table, key, &Way { first, second, row: 0, tag: tag as u16 })
}

/// Where a flow is found by this five-tuple, or 0.
#[inline(always)]
fn position<F: Family, const SLOT: usize, S>(table: &S, key: *const FiveTuple<F>) -> u32
where
    S: Storage<SLOT, Address = F>,
{
    // SAFETY: null, or a whole five-tuple: the verifier checks each caller.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    flow::position(table, key)
}

/// A set as it lies in a map.
#[inline(always)]
fn shared<const SLOT: usize>(set: *const Set<Shared, SLOT>) -> &'static Set<Shared, SLOT> {
    // Hidden, or the compiler would reckon with the pointer before it is known not to be null.
    let set = opaque(set as usize) as *const Set<Shared, SLOT>;
    // SAFETY: an entry of an array map stays, and is all words that are shared.
    unsafe { &*set }
}

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
            elsewhere(&$table, key, (sets, tag))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $usable(set: u32, preferred: u32, now: u32) -> u32 {
            usable(&$table, set, preferred, now)
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $choose(sets: u64, row: u32, second_is: u32, now: u32) -> u64 {
            let (first, second) = unpacked(sets);
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
            position(&$table, key)
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
                Some(shared($map.get_ptr(index)?))
            }

            #[inline(always)]
            fn live(&self, of: Live) -> Option<&Shared> {
                live(of, $first)
            }

            #[inline(always)]
            fn forget(&self, value: u32) -> u32 {
                forget_all(value)
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
                $elsewhere(key, packed(way.first, way.second), u32::from(way.tag))
            }

            #[inline(always)]
            fn usable(&self, set: u32, preferred: u32, now: u32) -> u32 {
                $usable(set, preferred, now)
            }

            #[inline(always)]
            fn choose(&self, wanted: &Wanted) -> u64 {
                let sets = packed(wanted.first, wanted.second);
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

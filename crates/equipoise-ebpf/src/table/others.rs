//! Flow tables of another size or layout, which flows are carried over to or from: a packet has its flow there or here.

use core::ptr;

use equipoise_common::flow::set::{End, Way};
use equipoise_common::flow::{Live, Position, Set, Storage, Word};
use equipoise_common::key::{FiveTuple, V4, V6};

use super::{elsewhere, packed, position, shared};
use crate::map::{FENCE, MOVING, OTHER_SEED, OTHER_SETS, OTHER_V4, OTHER_V6, SEED};
use crate::word::Shared;

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
            elsewhere(&$table, key, (sets, tag))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $position(key: *const FiveTuple<$address>) -> u32 {
            position(&$table, key)
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
                Some(shared($map.get_ptr(index)?))
            }

            #[inline(always)]
            fn live(&self, _of: Live) -> Option<&Shared> {
                None
            }

            #[inline(always)]
            fn find_elsewhere(&self, key: &FiveTuple<$address>, way: &Way) -> Position {
                $elsewhere(key, packed(way.first, way.second), u32::from(way.tag))
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

//! Whether a packet can be ours at all, by its addresses.

use equipoise_common::filter::place;
use equipoise_common::key::{Address, FiveTuple};

use crate::map::ADDRESSES;
use crate::report;

/// False for a packet that has no service and no flow: neither of its addresses is a VIP or a backend. True for any that
/// a dry run tells of.
#[inline(always)]
pub fn may_be_ours<A: Address>(tuple: &FiveTuple<A>) -> bool {
    report::is_dry() || is_known(tuple)
}

/// The same where the way on would end in another verdict than this: a dry run tells no more of it then.
#[inline(always)]
pub fn is_known<A: Address>(tuple: &FiveTuple<A>) -> bool {
    may_be(tuple.destination) || may_be(tuple.source)
}

/// Whether an address may be a VIP or a backend.
#[inline(always)]
pub fn may_be<A: Address>(address: A) -> bool {
    let (word, bit) = place(address);
    // SAFETY: an entry of an array map stays; one word, whose bits are only ever set.
    ADDRESSES.get_ptr(word).is_some_and(|word| unsafe { core::ptr::read_volatile(word) } & bit != 0)
}

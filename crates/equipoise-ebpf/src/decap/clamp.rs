//! Packets that open connections of VIPs, on their way out: they tell clients of no larger segments than fit when
//! they are encapsulated.

use aya_ebpf::helpers::generated::bpf_l4_csum_replace;
use equipoise_common::decap::{Place, Verdict};
use equipoise_common::key::{Address, Be16, TCP, V4, V6};

use crate::ethernet::Network;
use crate::hook::{Hook, Tc};
use crate::map::{INTERFACES, VIPS};
use crate::network;
use crate::packet::Window;

const TCP_MIN: usize = 20;
const TCP_MAX: usize = 60;
/// Where the checksum lies.
const CHECKSUM: usize = 16;

type Egress = Tc<true>;

/// Lowers the largest segment that the packet tells of, if it is ours and tells of more than fits.
#[inline(always)]
pub fn clamp(hook: &Egress) -> Result<Verdict, Verdict> {
    match network(hook)? {
        Network::V4(at) => ipv4(hook, at),
        Network::V6(at) => ipv6(hook, at),
    }
}

#[inline(always)]
fn ipv4(hook: &Egress, at: usize) -> Result<Verdict, Verdict> {
    const IPV4: usize = 20;
    const FRAGMENT_OFFSET: u16 = 0x1fff;
    let header = hook.window(at + IPV4).header::<IPV4>(at).ok_or(Verdict::Malformed)?;
    let is_first = header.load::<Be16, 6>().get() & FRAGMENT_OFFSET == 0;
    if u32::from(header.load::<u8, 9>()) != TCP || !is_first {
        return Err(Verdict::Outgoing);
    }
    let source = header.load::<V4, 12>();
    let transport = at + (header.load::<u8, 0>() & 0xf) as usize * 4;
    opening(hook, source, transport)
}

#[inline(always)]
fn ipv6(hook: &Egress, at: usize) -> Result<Verdict, Verdict> {
    const IPV6: usize = 40;
    let header = hook.window(at + IPV6).header::<IPV6>(at).ok_or(Verdict::Malformed)?;
    if u32::from(header.load::<u8, 6>()) != TCP {
        return Err(Verdict::Outgoing);
    }
    let source = header.load::<V6, 8>();
    opening(hook, source, at + IPV6)
}

#[inline(always)]
fn opening<A: Address>(hook: &Egress, source: A, transport: usize) -> Result<Verdict, Verdict> {
    const SYN: u8 = 0x02;
    let window = hook.window(transport + TCP_MIN);
    let header = window.header::<TCP_MIN>(transport).ok_or(Verdict::Malformed)?;
    if header.load::<u8, 13>() & SYN == 0 {
        return Err(Verdict::Outgoing);
    }
    let place = Place::new(source, 0);
    // SAFETY: entries are replaced whole; a reader of the old one finds what was right just now.
    let vip = unsafe { VIPS.get(place) }.ok_or(Verdict::Outgoing)?;
    if vip.is_clamped == 0 {
        return Err(Verdict::Outgoing);
    }
    // SAFETY: as above.
    let interface = unsafe { INTERFACES.get(hook.interface()) }.ok_or(Verdict::Outgoing)?;
    let fits = if A::IS_V6 { interface.mss_v6 } else { interface.mss_v4 };
    let end = transport + (header.load::<u8, 12>() >> 4) as usize * 4;
    let window = hook.window(transport + TCP_MAX);
    let at = segment_option(&window, transport + TCP_MIN, end).ok_or(Verdict::MssFits)?;
    let told = window.header::<2>(at).ok_or(Verdict::Malformed)?;
    let old = told.load::<Be16, 0>();
    if old.get() <= fits {
        return Err(Verdict::MssFits);
    }
    let new = Be16::new(fits);
    told.store::<Be16, 0>(new);
    // At an odd place the number lies across two words of the sum.
    let is_odd = (at - transport) & 1 != 0;
    let word = |number: Be16| u64::from(if is_odd { number.0.swap_bytes() } else { number.0 });
    let field = (transport + CHECKSUM) as u32;
    // SAFETY: the context is the kernel's; the helper checks the offset itself.
    let refused = unsafe { bpf_l4_csum_replace(hook.skb(), field, word(old), word(new), 2) } != 0;
    if refused { Err(Verdict::Failed) } else { Ok(Verdict::MssLowered) }
}

/// The offset of the largest segment in the options of a TCP header that ends at `end`.
#[inline(always)]
fn segment_option(window: &Window, mut at: usize, end: usize) -> Option<usize> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const SEGMENT: u8 = 2;
    /// Larger than any place in a header. A mask makes each turn look alike to the verifier, however the last
    /// ones went.
    const PLACES: usize = 0x7ff;
    for _ in 0..TCP_MAX - TCP_MIN {
        if at >= end {
            return None;
        }
        let kind = window.header::<1>(at)?.load::<u8, 0>();
        if kind == END {
            return None;
        }
        if kind == NOTHING {
            at = (at + 1) & PLACES;
            continue;
        }
        let length = window.header::<2>(at)?.load::<u8, 1>();
        if kind == SEGMENT {
            return (length == 4 && at + 4 <= end).then_some(at + 2);
        }
        if length < 2 {
            return None;
        }
        at = (at + length as usize) & PLACES;
    }
    None
}

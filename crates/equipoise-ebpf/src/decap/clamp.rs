//! Packets that open connections of VIPs, on their way out: they tell clients of no larger segments than fit when
//! they are encapsulated.

use aya_ebpf::helpers::generated::bpf_l4_csum_replace;
use equipoise_common::checksum;
use equipoise_common::decap::{Place, Verdict};
use equipoise_common::key::{Address, Be16, TCP, V4, V6};

use crate::ethernet::Network;
use crate::hook::{Hook, Tc};
use crate::map::{INTERFACES, VIPS};
use crate::mss::{self, TCP_MAX, TCP_MIN};
use crate::network;

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
    let window = hook.window(transport + TCP_MAX);
    let at = mss::offset(&window, transport).ok_or(Verdict::MssFits)?;
    let old = mss::lower(&window, at, fits).ok_or(Verdict::MssFits)?;
    let new = Be16::new(fits);
    let word = |number: Be16| u64::from(checksum::word_at(number.0, at - transport));
    let field = (transport + CHECKSUM) as u32;
    // SAFETY: the context is the kernel's; the helper checks the offset itself.
    let refused = unsafe { bpf_l4_csum_replace(hook.skb(), field, word(old), word(new), 2) } != 0;
    if refused { Err(Verdict::Failed) } else { Ok(Verdict::MssLowered) }
}

//! The inside of an encapsulated packet: whether it is whole, and for a VIP.

use equipoise_common::checksum;
use equipoise_common::decap::{Place, Verdict};
use equipoise_common::key::{Address, Be16, V4, V6};

use crate::hook::Hook;
use crate::map::VIPS;
use crate::outer::Outer;

const IPV4: usize = 20;
const IPV6: usize = 40;

/// What there is to know of an inner packet.
pub struct Inner {
    /// Two bits of congestion notification.
    pub congestion: u8,
}

/// Whether the inner packet is to be taken out.
#[inline(always)]
pub fn check<H: Hook>(hook: &H, outer: &Outer) -> Result<Inner, Verdict> {
    if outer.is_inner_v6 { ipv6(hook, outer) } else { ipv4(hook, outer) }
}

#[inline(always)]
fn ipv4<H: Hook>(hook: &H, outer: &Outer) -> Result<Inner, Verdict> {
    let at = outer.inner;
    let header = hook.window(at + IPV4).header::<IPV4>(at).ok_or(Verdict::InnerMalformed)?;
    let first: u8 = header.load::<u8, 0>();
    let header_length = (first & 0xf) as usize * 4;
    let length = header.load::<Be16, 2>().get() as usize;
    if first >> 4 != 4 || header_length < IPV4 || length < header_length || at + length != outer.end
    {
        return Err(Verdict::InnerMalformed);
    }
    admit(hook, header.load::<V4, 16>())?;
    Ok(Inner { congestion: header.load::<u8, 1>() & 0b11 })
}

#[inline(always)]
fn ipv6<H: Hook>(hook: &H, outer: &Outer) -> Result<Inner, Verdict> {
    let at = outer.inner;
    let header = hook.window(at + IPV6).header::<IPV6>(at).ok_or(Verdict::InnerMalformed)?;
    let length = IPV6 + header.load::<Be16, 4>().get() as usize;
    if header.load::<u8, 0>() >> 4 != 6 {
        return Err(Verdict::InnerMalformed);
    }
    ends(hook, outer, at + length)?;
    admit(hook, header.load::<V6, 24>())?;
    Ok(Inner { congestion: header.load::<u8, 1>() >> 4 & 0b11 })
}

/// Whether the inner packet ends where the outer one does.
#[inline(always)]
fn ends<H: Hook>(hook: &H, outer: &Outer, end: usize) -> Result<(), Verdict> {
    if end == outer.end {
        return Ok(());
    }
    // Several datagrams of GUE in one: each has an inner packet of its own.
    Err(if hook.is_merged() { Verdict::Merged } else { Verdict::InnerMalformed })
}

#[inline(always)]
fn admit<H: Hook, A: Address>(hook: &H, destination: A) -> Result<(), Verdict> {
    let place = Place::new(destination, 0);
    // SAFETY: entries are replaced whole; a reader of the old one finds what was right just now.
    let vip = unsafe { VIPS.get(place) }.ok_or(Verdict::NotVip)?;
    // The kernel goes on calling a merged packet one in a tunnel. Sockets of this host do not mind (TCP, and UDP with
    // and without UDP_GRO, seen on 6.1 and 6.18); a device that had to cut it up again would look for the tunnel's header.
    if hook.is_merged() && vip.is_local == 0 {
        return Err(Verdict::Merged);
    }
    Ok(())
}

/// Makes the packet that has been taken out tell of congestion; none if it has become too short.
#[inline(always)]
pub fn tell<H: Hook>(hook: &H, outer: &Outer, congestion: u8) -> Option<()> {
    let at = outer.network;
    let header = hook.window(at + IPV4).header::<IPV4>(at)?;
    if outer.is_inner_v6 {
        /// In the first word of the header.
        const BITS: u32 = 0b11 << 20;
        let word = u32::from_be(header.load::<u32, 0>());
        let told = word & !BITS | u32::from(congestion) << 20;
        return hook.store_word(at, told.to_be());
    }
    let old = header.load::<u16, 0>();
    let new = (u16::from_be(old) & !0b11 | u16::from(congestion)).to_be();
    let change = checksum::difference(u32::from(old), u32::from(new));
    header.store::<u16, 0>(new);
    header.store::<u16, 10>(checksum::update(header.load::<u16, 10>(), change));
    Some(())
}

//! Where a packet goes next: the kernel's own routes and neighbours, asked by the program.
//!
//! To ask costs more than all the rest of an established packet's way, so each CPU keeps what it was told for a few
//! milliseconds. On the way to a backend for all packets that go there, only where user space says that the answer depends
//! on the backend alone: no rules beside the kernel's own, and one path. On the way to a client for the flow, which has all
//! that rules and paths are chosen by.

use aya_ebpf::bindings::{bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use equipoise_common::key::FiveTuple;
use equipoise_common::limit::{NEXT_HOPS, REPLY_HOPS};
use equipoise_common::step::What;
use equipoise_common::value::Shortcuts;

use crate::family::Family;
use crate::flow::Decision;
use crate::hook::{Hook, Refusal};
use crate::map::{LOOKUP, NEXT_HOP, SHORTCUTS};
use crate::packet::Header;
use crate::parse::Headers;
use crate::report::{self, Direction};

/// `struct bpf_fib_lookup` as words, so that making one is eight stores. It lies in a map, since
/// the stack is too small for it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Lookup {
    /// Address family (8 bits), protocol (8 bits), source port (16 bits).
    family: u8,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
    /// In: IP bytes, 0 for no check. Out: the MTU.
    length: u16,
    interface: u32,
    /// In: TOS or flow label. Out: the route's metric.
    class: u32,
    source: [u32; 4],
    /// Out: the next hop.
    destination: [u32; 4],
    vlan: u32,
    /// Out: our link address, then the next hop's.
    links: [u16; 6],
}

const _: () = assert!(size_of::<Lookup>() == 64);

impl Lookup {
    /// Makes it the question of a packet that comes by this device.
    ///
    /// Word by word: of a value that is assigned, the compiler has the zeros written byte by byte by a function.
    #[inline(always)]
    fn ask_for<F: Family>(&mut self, wanted: &Wanted<F>, interface: u32) {
        let to = &wanted.to;
        let ports = u64::from(to.source_port.0) << 16 | u64::from(to.destination_port.0) << 32;
        let kind = u64::from(F::AF) | u64::from(to.protocol as u8) << 8;
        let pair = |one: u32, other: u32| u64::from(one) | u64::from(other) << 32;
        let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (to.source.fib(), to.destination.fib());
        let words = (&raw mut *self).cast::<u64>();
        // SAFETY: it is eight words long, and ours.
        let put =
            |index: usize, word: u64| unsafe { words.wrapping_add(index).write_volatile(word) };
        put(0, kind | ports | u64::from(wanted.length as u16) << 48);
        put(1, pair(interface, wanted.class));
        put(2, pair(s0, s1));
        put(3, pair(s2, s3));
        put(4, pair(d0, d1));
        put(5, pair(d2, d3));
        put(6, 0);
        put(7, 0);
    }
}

/// A next hop, and for which packets and until when it is one. As long as a cache line.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct NextHop {
    /// Of the packets, as [`equipoise_common::key::Address::words`] has it.
    destination: [u64; 2],
    /// The address to send to.
    address: [u32; 4],
    /// Index of the device that packets come by, with their family and the hook above: TC takes hops that XDP refuses.
    from: u32,
    /// Index of the device to leave by.
    interface: u32,
    /// When it was asked for, ticks.
    since: u32,
    /// Of `address`: an IPv4 route may go by an IPv6 gateway.
    family: u16,
    /// Largest packet that the way carries, IP bytes; 0 where it is not for other packets.
    mtu: u16,
    /// Our link address, then the next hop's.
    links: [u16; 6],
    /// Where the entry of the flow is whose replies these packets are; 0 for packets to a backend. No other flow has that place
    /// before what is kept here is too old ([`equipoise_common::flow::set::GRACE`]).
    flow: u32,
}

impl NextHop {
    /// Bits in which the destination is another one than such packets have; 0 if it is theirs.
    #[inline(always)]
    fn difference<F: Family>(&self, wanted: &Wanted<F>) -> u64 {
        let [one, two] = wanted.to.destination.words();
        (self.destination[0] ^ one) | (self.destination[1] ^ two)
    }
}

const _: () = assert!(size_of::<NextHop>() == 64);
const _: () = assert!(KEPT < equipoise_common::flow::set::GRACE);

/// A way out.
pub struct Hop(&'static NextHop);

/// Whether the next hop's link address is known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// It is in the hop.
    Known,
    /// Somebody has to ask for it.
    Unknown,
}

/// What the routing table says.
pub enum Route {
    /// By this hop.
    Way(Hop),
    /// By one that cannot be taken from this hook.
    Refused(Refusal),
    /// To this host.
    Local,
    /// By a link that does not carry so many bytes.
    TooBig,
    /// Nowhere.
    None,
}

impl Hop {
    /// Index of the device to leave by.
    #[inline(always)]
    pub fn interface(&self) -> u32 {
        self.0.interface
    }

    /// Largest packet that the way carries, IP bytes; 0 where that is not known.
    #[inline(always)]
    pub fn mtu(&self) -> u16 {
        self.0.mtu
    }

    /// Whether it leads straight to this address, and not by a router.
    #[inline(always)]
    pub fn is_to<F: Family>(&self, address: F) -> bool {
        self.0.address == address.fib()
    }

    /// Writes destination and source link addresses.
    #[inline(always)]
    pub fn write_link_addresses(&self, ethernet: Header<12>) {
        let [s0, s1, s2, d0, d1, d2] = self.0.links;
        ethernet.store::<u16, 0>(d0);
        ethernet.store::<u16, 2>(d1);
        ethernet.store::<u16, 4>(d2);
        ethernet.store::<u16, 6>(s0);
        ethernet.store::<u16, 8>(s1);
        ethernet.store::<u16, 10>(s2);
    }

    /// The next hop for the kernel's neighbour output.
    #[inline(always)]
    pub fn neighbour(&self) -> bpf_redir_neigh {
        bpf_redir_neigh {
            nh_family: u32::from(self.0.family),
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: self.0.address },
        }
    }
}

/// What a way is looked for for.
#[derive(Clone, Copy)]
pub struct Wanted<F> {
    /// The packet's five-tuple as it leaves.
    pub to: FiveTuple<F>,
    /// Id of the backend that it goes to, or comes from.
    pub backend: u32,
    /// Where its flow's entry is, if it is a reply; 0 otherwise.
    pub flow: u32,
    /// IP bytes as it leaves.
    pub length: u32,
    /// IPv4 TOS, or the first 32 bits of an IPv6 header.
    pub class: u32,
    /// When it came, ticks.
    pub now: u32,
}

impl<F: Family> Wanted<F> {
    /// For a packet that is rewritten as has been decided.
    #[inline(always)]
    pub fn of(headers: &Headers<F>, decision: &Decision<F>) -> Self {
        Self {
            to: decision.to,
            backend: decision.backend,
            flow: if decision.direction == Direction::Reply { decision.at } else { 0 },
            length: headers.length,
            class: headers.class,
            now: decision.now,
        }
    }

    /// Where its way is kept.
    #[inline(always)]
    fn place(&self) -> u32 {
        if self.flow == 0 {
            return of_backend(self.backend);
        }
        NEXT_HOPS + (self.flow & (REPLY_HOPS - 1))
    }
}

/// Where the way to a backend is kept.
#[inline(always)]
fn of_backend(backend: u32) -> u32 {
    backend & (NEXT_HOPS - 1)
}

/// The place of what is not kept.
pub const ASKED: u32 = NEXT_HOPS + REPLY_HOPS;

/// How long a next hop is not asked for again: about 4 ms, ticks.
const KEPT: u32 = 4;

/// The way that a packet to the same backend, or a reply of the same flow, has just taken, where that is enough to know this one's.
#[inline(always)]
pub fn shortcut<H: Hook, F: Family>(hook: &H, wanted: &Wanted<F>) -> Option<Hop> {
    // A dry run tells what the routing table says now.
    if report::is_dry() || !is_allowed(wanted) {
        return None;
    }
    let Hop(entry) = at(wanted.place())?;
    let difference = entry.difference(wanted) | u64::from(entry.flow ^ wanted.flow);
    let is_other = difference != 0 || entry.from != from::<H, F>(hook);
    let is_old = wanted.now.wrapping_sub(entry.since) > KEPT;
    let fits = wanted.length <= u32::from(entry.mtu);
    if is_other || is_old || !fits { None } else { Some(Hop(entry)) }
}

#[inline(always)]
fn from<H: Hook, F: Family>(hook: &H) -> u32 {
    hook.interface() | (H::HOOK as u32) << 29 | (F::IS_V6 as u32) << 31
}

/// Whether what has been told of such packets holds for others. An IPv4 route may be for one DSCP alone, and a rule for one of
/// IPv6 too.
#[inline(always)]
fn is_allowed<F: Family>(wanted: &Wanted<F>) -> bool {
    const DSCP: u32 = 0xfc;
    const DSCP_V6: u32 = 0x0fc0_0000;
    let is_reply = wanted.flow != 0;
    let dscp = if !F::IS_V6 {
        wanted.class & DSCP
    } else if is_reply {
        u32::from_be(wanted.class) & DSCP_V6
    } else {
        0
    };
    if dscp != 0 {
        return false;
    }
    let least = if is_reply { Shortcuts::Replies } else { Shortcuts::All };
    // SAFETY: an entry of an array map stays; one word.
    SHORTCUTS
        .get_ptr(0)
        .is_some_and(|allowed| unsafe { core::ptr::read_volatile(allowed) } >= least as u64)
}

/// Where packets to this backend have just gone, without asking whether this one may go there too.
#[inline(always)]
pub fn known(backend: u32) -> Option<Hop> {
    at(of_backend(backend))
}

/// What [`ask`] has just told of.
#[inline(always)]
pub fn asked() -> Option<Hop> {
    at(ASKED)
}

#[inline(always)]
fn at(place: u32) -> Option<Hop> {
    let entry = NEXT_HOP.get_ptr(place)?;
    // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
    Some(Hop(unsafe { &*entry }))
}

/// Keeps the way that [`ask`] has just told of, if it is one that other packets to the same backend can take.
#[inline(always)]
pub fn keep<F: Family>(wanted: &Wanted<F>) {
    if report::is_dry() || !is_allowed(wanted) {
        return;
    }
    let Some(asked) = NEXT_HOP.get_ptr(ASKED) else { return };
    let Some(kept) = NEXT_HOP.get_ptr_mut(wanted.place()) else { return };
    // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
    let asked = unsafe { &*asked };
    if asked.difference(wanted) == 0 && asked.since == wanted.now && asked.mtu != 0 {
        // SAFETY: as above.
        unsafe { *kept = *asked };
    }
}

/// Has the next answer tell of so many bytes less than the way carries, which [`ask`] has just found too small.
#[inline(always)]
pub fn shrink(by: u32) {
    if let Some(lookup) = LOOKUP.get_ptr_mut(0) {
        // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
        let length = unsafe { &mut (*lookup).length };
        *length = length.saturating_sub(by as u16);
    }
}

/// What the way carries at most, IP bytes, that [`ask`] has just found too small.
#[inline(always)]
pub fn too_small() -> u16 {
    LOOKUP.get(0).map_or(0, |lookup| lookup.length)
}

/// Asks the routing table for the way of a packet, and keeps it if others can take it too.
#[inline(always)]
pub fn find<H: Hook, F: Family>(hook: &H, wanted: &Wanted<F>) -> Route {
    answer::<H, F, true>(hook, wanted)
}

/// Asks the routing table for the way of a packet.
#[inline(always)]
pub fn ask<H: Hook, F: Family>(hook: &H, wanted: &Wanted<F>) -> Route {
    answer::<H, F, false>(hook, wanted)
}

#[inline(always)]
fn answer<H: Hook, F: Family, const KEEP: bool>(hook: &H, wanted: &Wanted<F>) -> Route {
    const SUCCESS: i64 = 0;
    const LOCAL: i64 = 4;
    const NO_NEIGHBOUR: i64 = 7;
    const TOO_BIG: i64 = 8;
    let Some(scratch) = LOOKUP.get_ptr_mut(0) else {
        return Route::None;
    };
    // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
    let lookup = unsafe { &mut *scratch };
    lookup.ask_for(wanted, hook.interface());
    let size = size_of::<Lookup>() as i32;
    // SAFETY: `lookup` has the layout and size of `struct bpf_fib_lookup` (asserted above).
    let result = unsafe { bpf_fib_lookup(hook.context(), scratch.cast(), size, 0) } as i64;
    report::step(What::Route, result as u32, u64::from(lookup.interface));
    let link = match result {
        SUCCESS => Link::Known,
        NO_NEIGHBOUR => Link::Unknown,
        LOCAL => return Route::Local,
        TOO_BIG => return Route::TooBig,
        _ => return Route::None,
    };
    // The last place is for the latest answer.
    let Some(entry) = NEXT_HOP.get_ptr_mut(ASKED) else { return Route::None };
    // SAFETY: as above.
    let entry: &'static mut NextHop = unsafe { &mut *entry };
    *entry = NextHop {
        destination: wanted.to.destination.words(),
        address: lookup.destination,
        from: from::<H, F>(hook),
        interface: lookup.interface,
        since: wanted.now,
        family: u16::from(lookup.family),
        mtu: 0,
        links: lookup.links,
        flow: wanted.flow,
    };
    if let Err(refusal) = hook.takes(link, entry.interface) {
        return Route::Refused(refusal);
    }
    if link == Link::Known {
        entry.mtu = lookup.length;
        if KEEP {
            keep(wanted);
        }
    }
    Route::Way(Hop(entry))
}

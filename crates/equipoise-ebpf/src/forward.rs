//! Where a packet goes next: the kernel's own routes and neighbours, asked by the program.

use aya_ebpf::bindings::{bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use equipoise_common::key::FiveTuple;
use equipoise_common::step::What;
use equipoise_common::verdict::Verdict;

use crate::family::Family;
use crate::flow::Decision;
use crate::hook::{Hook, Packet, Refusal};
use crate::leave;
use crate::map::LOOKUP;
use crate::packet::Header;
use crate::parse::Headers;
use crate::report::{self, Direction};
use crate::rewrite::{self, Hops};

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

/// A way out.
pub struct Hop(&'static Lookup);

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
    Way(Hop, Link),
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
            // The look-up changes the family when an IPv4 route goes by an IPv6 gateway.
            nh_family: u32::from(self.0.family),
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: self.0.destination },
        }
    }
}

/// Rewrites a packet as its flow says and finds its way.
///
/// What XDP in the driver cannot send it passes as it came, and TC ingress of the same device takes
/// it up: TC can send by any device and resolves neighbours. What TC cannot send is the stack's:
/// requests are rewritten for it; replies stay as they came, since the stack drops an IPv4 packet
/// whose source is an address of this host, and are rewritten when they go out.
#[inline(always)]
pub fn forward<H: Hook, F: Family>(
    hook: &H,
    packet: &Packet,
    headers: &Headers<F>,
    decision: &Decision<F>,
) -> Result<i32, Verdict> {
    let is_request = decision.direction == Direction::Request;
    let pick = |request: Verdict, reply: Verdict| if is_request { request } else { reply };
    let by_stack = match route(hook, headers, &decision.to) {
        Route::Way(_, _) if headers.hop_limit <= 1 => {
            pick(Verdict::RequestHopLimit, Verdict::ReplyHopLimit)
        }
        Route::Way(hop, link) => match hook.takes(link, &hop) {
            Ok(()) => {
                rewrite::apply(hook, packet, headers, &decision.to, Hops::TakeOne)?;
                report::packet(headers, decision);
                let verdict = pick(Verdict::ForwardedRequest, Verdict::ForwardedReply);
                report::verdict(H::HOOK, verdict);
                return Ok(hook.send(&hop));
            }
            Err(Refusal::NoNeighbour) => {
                pick(Verdict::RequestNoNeighbour, Verdict::ReplyNoNeighbour)
            }
            Err(Refusal::NoRedirect) => pick(Verdict::RequestNoRedirect, Verdict::ReplyNoRedirect),
        },
        Route::Local => pick(Verdict::RequestToLocalBackend, Verdict::ReplyToLocalClient),
        Route::TooBig => pick(Verdict::RequestTooBig, Verdict::ReplyTooBig),
        Route::None => pick(Verdict::RequestNoRoute, Verdict::ReplyNoRoute),
    };
    if !H::IS_LAST {
        if !report::is_dry() {
            F::leave(decision.at, headers);
        }
        return Ok(leave::<H>(by_stack));
    }
    let deliver = by_stack == Verdict::ReplyToLocalClient;
    if is_request || deliver {
        rewrite::apply(hook, packet, headers, &decision.to, Hops::Keep)?;
        report::packet(headers, decision);
    }
    if deliver {
        report::verdict(H::HOOK, by_stack);
        return Ok(hook.deliver());
    }
    Ok(leave::<H>(by_stack))
}

/// Asks the routing table for the way of a packet with these headers after rewriting.
#[inline(always)]
pub fn route<H: Hook, F: Family>(hook: &H, headers: &Headers<F>, to: &FiveTuple<F>) -> Route {
    const SUCCESS: i64 = 0;
    const LOCAL: i64 = 4;
    const NO_NEIGHBOUR: i64 = 7;
    const TOO_BIG: i64 = 8;
    let Some(scratch) = LOOKUP.get_ptr_mut(0) else {
        return Route::None;
    };
    // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
    let lookup = unsafe { &mut *scratch };
    *lookup = Lookup {
        family: F::AF,
        protocol: to.protocol as u8,
        source_port: to.source_port.0,
        destination_port: to.destination_port.0,
        // A GSO packet is cut to size later; one packet must fit as it is.
        length: if headers.size.packets > 1 { 0 } else { headers.length as u16 },
        interface: hook.interface(),
        class: headers.class,
        source: to.source.fib(),
        destination: to.destination.fib(),
        vlan: 0,
        links: [0; 6],
    };
    let size = size_of::<Lookup>() as i32;
    // SAFETY: `lookup` has the layout and size of `struct bpf_fib_lookup` (asserted above).
    let result = unsafe { bpf_fib_lookup(hook.context(), scratch.cast(), size, 0) } as i64;
    report::step(What::Route, result as u32, u64::from(lookup.interface));
    match result {
        SUCCESS => Route::Way(Hop(lookup), Link::Known),
        NO_NEIGHBOUR => Route::Way(Hop(lookup), Link::Unknown),
        LOCAL => Route::Local,
        TOO_BIG => Route::TooBig,
        _ => Route::None,
    }
}

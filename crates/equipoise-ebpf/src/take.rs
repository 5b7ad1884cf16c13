//! Connections that this host takes up: which listening socket they go to, whatever the address and port.
//!
//! A program of its own, which the kernel asks for the socket of a packet that is of no connection. It does so too where it looks
//! one up for a packet program ([`crate::service`]), on the same CPU and in the midst of it: so this leaves alone what those have for
//! each CPU. The service is found by the same maps. Its interface is the one that the stack says: for this host's own connections the
//! one that has the address, and for a frame with a tag that of its VLAN.

use core::mem::offset_of;
use core::ptr;

use aya_ebpf::bindings::bpf_sk_lookup;
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use equipoise_common::key::{Be16, PortsKey, ServiceKey, TCP, V4, V6};

use crate::family::Family;
use crate::map::LISTENERS;
use crate::prefix::Prefix;
use crate::{observes, pool, select, service, table};

/// What the kernel is answered: the socket that has been chosen, or else the one that it finds itself.
const PASS: u32 = 1;

/// On this host's network namespace.
#[sk_lookup]
fn equipoise_take(context: SkLookupContext) -> u32 {
    let asked = Asked(context.lookup);
    if observes() || asked.protocol() != TCP {
        return PASS;
    }
    let is_v6 = asked.family() == u32::from(V6::AF);
    let is_ours = if is_v6 {
        is_streamed(&asked, asked.ends_v6())
    } else {
        is_streamed(&asked, asked.ends_v4())
    };
    if is_ours {
        // Where there is no socket, and where another program has chosen one, it is the kernel's to go on.
        let _ = LISTENERS.redirect_sk_lookup(&context, u32::from(is_v6), 0);
    }
    PASS
}

/// Whether a SYN leads to a pool whose connections are taken up.
#[inline(always)]
fn is_streamed<F: Family>(asked: &Asked, [source, address]: [F; 2]) -> bool {
    let (interface, port) = (asked.interface(), Be16::new(asked.port()));
    let protocol = TCP as u16;
    let key = ServiceKey { address, interface, port, protocol };
    let mut ports = Prefix::new(0, PortsKey { address, interface, protocol, port });
    let Some(service) = service::of(&key, &mut ports) else { return false };
    let Some(policy) = table::policy(service.id) else { return false };
    select::is_streamed(pool::of(&service, policy, source))
}

/// What the kernel says of a packet.
struct Asked(*const bpf_sk_lookup);

impl Asked {
    #[inline(always)]
    fn family(&self) -> u32 {
        self.word(offset_of!(bpf_sk_lookup, family))
    }

    #[inline(always)]
    fn protocol(&self) -> u32 {
        self.word(offset_of!(bpf_sk_lookup, protocol))
    }

    /// In host order.
    #[inline(always)]
    fn port(&self) -> u16 {
        self.word(offset_of!(bpf_sk_lookup, local_port)) as u16
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        self.word(offset_of!(bpf_sk_lookup, ingress_ifindex))
    }

    /// Source and destination.
    #[inline(always)]
    fn ends_v4(&self) -> [V4; 2] {
        let places = [offset_of!(bpf_sk_lookup, remote_ip4), offset_of!(bpf_sk_lookup, local_ip4)];
        places.map(|place| V4(self.word(place)))
    }

    /// Source and destination.
    #[inline(always)]
    fn ends_v6(&self) -> [V6; 2] {
        let places = [offset_of!(bpf_sk_lookup, remote_ip6), offset_of!(bpf_sk_lookup, local_ip6)];
        places.map(|place| {
            let word = |number: usize| u64::from(self.word(place + 4 * number));
            // As they follow each other in memory.
            #[cfg(target_endian = "little")]
            let pair = |first, second| word(first) | word(second) << 32;
            #[cfg(target_endian = "big")]
            let pair = |first, second| word(first) << 32 | word(second);
            V6([pair(0, 1), pair(2, 3)])
        })
    }

    /// The word at this place, by itself: the kernel gives no larger ones.
    #[inline(always)]
    fn word(&self, place: usize) -> u32 {
        let word = self.0.cast::<u8>().wrapping_add(place).cast::<u32>();
        // SAFETY: the context is the one that the kernel gave us, and the place is a word's.
        unsafe { ptr::read_volatile(word) }
    }
}

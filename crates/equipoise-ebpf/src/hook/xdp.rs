//! XDP: the frame is the program's own.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
};
use aya_ebpf::programs::XdpContext;
use equipoise_common::checksum;
use equipoise_common::key::UDP;
use equipoise_common::verdict;

use super::{Change, Hook, LOOPBACK, Packet, Refusal, Room, Stage, address_to_loopback};
use crate::flow::Passage;
use crate::map::{REDIRECTS, STAGES_XDP};
use crate::packet::{Window, move_link_header};
use crate::route::{Hop, Link};

/// XDP, in the driver or, for `GENERIC`, in the stack.
///
/// TC cannot take up what generic XDP passes: the copy of a packet that the kernel makes for the
/// program has lost the length of its link header (seen on 6.18), and TC programs see it shifted.
/// So generic XDP is the last of our programs, and leaves to the stack what it cannot send.
pub struct Xdp<const GENERIC: bool>(pub XdpContext);

impl<const GENERIC: bool> Hook for Xdp<GENERIC> {
    const HOOK: verdict::Hook = verdict::Hook::Xdp;
    const IS_LAST: bool = GENERIC;

    #[inline(always)]
    fn packet(&self) -> Packet {
        Packet { window: self.window(), segments: 1, segment_size: 0 }
    }

    #[inline(always)]
    fn pull(&self, _bytes: u32) {
        // The first part of a frame is all that XDP lets programs touch, and holds any headers.
    }

    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: the context is the one that the kernel gave us.
        unsafe { bpf_xdp_get_buff_len(self.0.ctx) as usize }
    }

    #[inline(always)]
    fn window(&self) -> Window {
        Window::new(self.0.data(), self.0.data_end())
    }

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.0.as_ptr()
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        self.0.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn is_for_this_host(&self) -> bool {
        // Drivers of NICs filter by address; where frames for others do arrive, on software
        // devices, TC is the hook.
        true
    }

    #[inline(always)]
    fn passage(&self) -> Passage {
        Passage::In
    }

    #[inline(always)]
    fn priority(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn forget_priority(&self) {}

    #[inline(always)]
    fn takes(&self, link: Link, interface: u32) -> Result<(), Refusal> {
        if link == Link::Unknown {
            return Err(Refusal::NoNeighbour);
        }
        match REDIRECTS.get_ifindex(interface) {
            Some(_) => Ok(()),
            None => Err(Refusal::NoRedirect),
        }
    }

    #[inline(always)]
    fn adjust_checksum(&self, change: &Change) -> bool {
        let Some(header) = self.window().header::<2>(change.field()) else {
            return false;
        };
        let field = header.load::<u16, 0>();
        let sum = change.addresses + change.ports;
        if change.protocol == UDP {
            // 0 is "no checksum" (RFC 768) and stays so.
            if field != 0 {
                header.store::<u16, 0>(checksum::update_udp(field, sum));
            }
        } else {
            header.store::<u16, 0>(checksum::update(field, sum));
        }
        true
    }

    #[inline(always)]
    fn send(&self, hop: &Hop) -> i32 {
        let mut action = xdp_action::XDP_TX;
        if hop.interface() != self.interface() {
            let otherwise = u64::from(xdp_action::XDP_PASS);
            match REDIRECTS.redirect(hop.interface(), otherwise) {
                Ok(redirect) => action = redirect,
                // The device has ceased to take frames since the hop was kept: the stack sends this one, which is
                // still addressed to us.
                Err(pass) => return pass as i32,
            }
        }
        let Some(ethernet) = self.window().header::<12>(0) else {
            return xdp_action::XDP_DROP as i32;
        };
        hop.write_link_addresses(ethernet);
        action as i32
    }

    #[inline(always)]
    fn deliver(&self) -> i32 {
        // Generic XDP transmits by any device; what the loopback device sends it receives.
        if !address_to_loopback(self.window()) {
            return Self::drop();
        }
        // SAFETY: takes plain numbers.
        unsafe { bpf_redirect(LOOPBACK, 0) as i32 }
    }

    #[inline(always)]
    fn truncate(&self, length: u32) -> bool {
        // SAFETY: the context is the one that the kernel gave us; so for the calls below.
        let now = unsafe { bpf_xdp_get_buff_len(self.0.ctx) } as i32;
        // SAFETY: as above.
        unsafe { bpf_xdp_adjust_tail(self.0.ctx, length as i32 - now) == 0 }
    }

    #[inline(always)]
    fn grow(&self, bytes: u32) -> bool {
        // SAFETY: as above.
        unsafe { bpf_xdp_adjust_head(self.0.ctx, -(bytes as i32)) == 0 }
    }

    #[inline(always)]
    fn make_room(&self, room: &Room) -> bool {
        self.grow(room.bytes) && move_link_header(&self.window(), room.network, room.bytes as usize)
    }

    #[inline(always)]
    fn has_partial_checksum(&self, _field: u32) -> bool {
        // XDP owns the frame as it came off the wire.
        false
    }

    #[inline(always)]
    fn bounce(&self) -> i32 {
        xdp_action::XDP_TX as i32
    }

    #[inline(always)]
    fn go_on(&self, stage: Stage) {
        // SAFETY: nothing here has to be dropped.
        unsafe { STAGES_XDP.tail_call(&self.0, stage as u32 * 2 + GENERIC as u32) };
    }

    #[inline(always)]
    fn pass() -> i32 {
        xdp_action::XDP_PASS as i32
    }

    #[inline(always)]
    fn drop() -> i32 {
        xdp_action::XDP_DROP as i32
    }
}

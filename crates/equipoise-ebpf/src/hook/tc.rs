//! TC: the packet buffers are the stack's.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
    BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0,
    BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    bpf_redir_neigh,
};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_skb_adjust_room,
    bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_change_type,
};
use aya_ebpf::programs::TcContext;
use equipoise_common::checksum;
use equipoise_common::key::UDP;
use equipoise_common::verdict;

use super::{Change, Hook, LOOPBACK, Packet, Refusal, Room, Stage, address_to_loopback};
use crate::ethernet::{ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN};
use crate::flow::Passage;
use crate::hide::forget;
use crate::map::STAGES_TC;
use crate::packet::{Window, move_link_header};
use crate::route::{Hop, Link};

/// TC, where packets come in or, for `EGRESS`, go out.
pub struct Tc<const EGRESS: bool>(pub TcContext);

impl<const EGRESS: bool> Tc<EGRESS> {
    #[inline(always)]
    fn field<T: Copy>(&self, pick: impl FnOnce(&aya_ebpf::bindings::__sk_buff) -> T) -> T {
        // SAFETY: the context is the one that the kernel gave us and lives as long as the program.
        pick(unsafe { &*self.0.skb.skb })
    }

    /// Whether a VLAN tag stands in the frame. The kernel takes the outer one out of it, and knows of a frame that it cannot
    /// read neither neighbours nor outer headers.
    #[inline(always)]
    fn has_tag(&self) -> bool {
        let protocol = self.field(|skb| skb.protocol) as u16;
        protocol == ETHERTYPE_VLAN.0 || protocol == ETHERTYPE_SERVICE_VLAN.0
    }
}

impl<const EGRESS: bool> Hook for Tc<EGRESS> {
    const HOOK: verdict::Hook = if EGRESS { verdict::Hook::Egress } else { verdict::Hook::Ingress };
    const IS_LAST: bool = true;

    #[inline(always)]
    fn packet(&self) -> Packet {
        /// Enough for Ethernet, two VLAN tags, any IPv4 header and the start of TCP.
        const HEADERS: u32 = 14 + 8 + 60 + 20;
        self.pull(HEADERS);
        let segment_size = self.field(|skb| skb.gso_size);
        let mut segments = 1;
        if segment_size != 0 {
            segments = self.field(|skb| skb.gso_segs);
            if segments == 0 {
                // So packets come from virtio and tap devices: counted when they are cut, and not before.
                segments = self.0.len().div_ceil(segment_size);
            }
        }
        // Whether it is one or some: kernel 6.1 would go through what follows for each way to know.
        let segments = forget(segments as usize, self.0.len()) as u32;
        Packet { window: self.window(), segments: u64::from(segments), segment_size }
    }

    #[inline(always)]
    fn pull(&self, bytes: u32) {
        let length = self.0.len();
        let wanted = if length < bytes { length } else { bytes };
        if self.0.data() + wanted as usize > self.0.data_end() {
            // What cannot be pulled is found short by the parser.
            let _ = self.0.pull_data(wanted);
        }
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.len() as usize
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
        self.field(|skb| skb.ifindex)
    }

    #[inline(always)]
    fn is_for_this_host(&self) -> bool {
        /// `PACKET_OTHERHOST` of linux/if_packet.h.
        const OTHER_HOST: u32 = 3;
        const HOST: u32 = 0;
        if EGRESS || self.field(|skb| skb.pkt_type) != OTHER_HOST {
            return true;
        }
        // What generic XDP delivers through the loopback device still bears the mark of the device
        // that it came by, whose link address it has lost. Nothing there is another machine's.
        // SAFETY: the context is the kernel's.
        self.interface() == LOOPBACK && unsafe { bpf_skb_change_type(self.0.skb.skb, HOST) } == 0
    }

    #[inline(always)]
    fn passage(&self) -> Passage {
        match (EGRESS, self.field(|skb| skb.ingress_ifindex)) {
            (false, _) => Passage::In,
            (true, 0) => Passage::Out,
            (true, _) => Passage::Through,
        }
    }

    #[inline(always)]
    fn priority(&self) -> u32 {
        if EGRESS { self.field(|skb| skb.priority) } else { 0 }
    }

    #[inline(always)]
    fn forget_priority(&self) {
        // SAFETY: the context is the kernel's, and stays while the program runs.
        let context = unsafe { &mut *self.0.skb.skb };
        // SAFETY: TC programs may write this field.
        unsafe { core::ptr::write_volatile(&raw mut context.priority, 0) };
    }

    #[inline(always)]
    fn takes(&self, link: Link, _interface: u32) -> Result<(), Refusal> {
        // redirect_neigh resolves the neighbour itself, and any device can transmit.
        if link == Link::Unknown && self.has_tag() { Err(Refusal::NoNeighbour) } else { Ok(()) }
    }

    #[inline(always)]
    fn adjust_checksum(&self, change: &Change) -> bool {
        /// `BPF_F_IPV6` (kernel 6.16): the pseudo-header is IPv6's, which matters to checksums
        /// that the device has computed. Older kernels know no such flag and refuse it.
        const BPF_F_IPV6: u64 = 1 << 7;
        let skb = self.0.skb.skb;
        let field = change.field() as u32;
        // A checksum of 0 stays 0, a computed 0 becomes 0xffff.
        let zero = if change.protocol == UDP { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let addresses = u64::from(checksum::fold_wide(change.addresses));
        let ports = u64::from(checksum::fold_wide(change.ports));
        let pseudo = zero | u64::from(BPF_F_PSEUDO_HDR);
        let family = if change.is_v6 { BPF_F_IPV6 } else { 0 };
        // SAFETY: the context is the kernel's; the helper checks the offset itself.
        let mut refused =
            unsafe { bpf_l4_csum_replace(skb, field, 0, addresses, pseudo | family) } != 0;
        if refused && change.is_v6 {
            // SAFETY: as above.
            refused = unsafe { bpf_l4_csum_replace(skb, field, 0, addresses, pseudo) } != 0;
        }
        // SAFETY: as above.
        !refused && unsafe { bpf_l4_csum_replace(skb, field, 0, ports, zero) } == 0
    }

    #[inline(always)]
    fn send(&self, hop: &Hop) -> i32 {
        if self.has_tag() {
            let Some(ethernet) = self.window().header::<12>(0) else { return Self::drop() };
            hop.write_link_addresses(ethernet);
            // SAFETY: takes plain numbers.
            return unsafe { bpf_redirect(hop.interface(), 0) as i32 };
        }
        let mut neighbour = hop.neighbour();
        let size = size_of::<bpf_redir_neigh>() as i32;
        // SAFETY: `neighbour` is a whole `bpf_redir_neigh` on our stack.
        unsafe { bpf_redirect_neigh(hop.interface(), (&raw mut neighbour).cast(), size, 0) as i32 }
    }

    #[inline(always)]
    fn deliver(&self) -> i32 {
        if !address_to_loopback(self.window()) {
            return Self::drop();
        }
        // SAFETY: takes plain numbers.
        unsafe { bpf_redirect(LOOPBACK, u64::from(BPF_F_INGRESS)) as i32 }
    }

    #[inline(always)]
    fn truncate(&self, length: u32) -> bool {
        // SAFETY: the context is the kernel's; the helper checks the length.
        unsafe { bpf_skb_change_tail(self.0.skb.skb, length, 0) == 0 }
    }

    #[inline(always)]
    fn grow(&self, bytes: u32) -> bool {
        // SAFETY: as above.
        unsafe { bpf_skb_change_head(self.0.skb.skb, bytes, 0) == 0 }
    }

    #[inline(always)]
    fn make_room(&self, room: &Room) -> bool {
        if self.has_tag() {
            let bytes = room.bytes;
            return self.field(|skb| skb.gso_size) == 0
                && self.grow(bytes)
                && move_link_header(&self.window(), room.network, bytes as usize);
        }
        // Segments stay as large as they are: whether they fit with the outer headers has been looked at.
        const ALWAYS: u32 = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
        let family =
            if room.is_v6 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 };
        let udp = if room.is_udp { BPF_F_ADJ_ROOM_ENCAP_L4_UDP } else { 0 };
        let flags = u64::from(ALWAYS | family | udp);
        // SAFETY: as above.
        unsafe {
            bpf_skb_adjust_room(self.0.skb.skb, room.bytes as i32, BPF_ADJ_ROOM_MAC, flags) == 0
        }
    }

    #[inline(always)]
    fn has_partial_checksum(&self, field: u32) -> bool {
        // There is no helper that tells. But where the device is to complete a checksum, the kernel leaves its
        // field alone when a part of the payload changes (`inet_proto_csum_replace_by_diff`), and else it does not.
        let skb = self.0.skb.skb;
        let Some(before) = self.window().header::<2>(field as usize) else { return false };
        let old = before.load::<u16, 0>();
        // Not zero, which the helper may take for "no checksum".
        before.store::<u16, 0>(0x1234);
        // SAFETY: as above.
        let refused = unsafe { bpf_l4_csum_replace(skb, field, 0, 0x0100, 0) } != 0;
        let Some(after) = self.window().header::<2>(field as usize) else { return false };
        let changed = after.load::<u16, 0>() != 0x1234;
        after.store::<u16, 0>(old);
        !refused && !changed
    }

    #[inline(always)]
    fn bounce(&self) -> i32 {
        // SAFETY: takes plain numbers.
        unsafe { bpf_redirect(self.interface(), 0) as i32 }
    }

    #[inline(always)]
    fn go_on(&self, stage: Stage) {
        // SAFETY: nothing here has to be dropped.
        unsafe { STAGES_TC.tail_call(&self.0, stage as u32 * 2 + EGRESS as u32) };
    }

    #[inline(always)]
    fn pass() -> i32 {
        // Not TC_ACT_OK: that would end the walk through other software's programs and filters.
        TC_ACT_UNSPEC
    }

    #[inline(always)]
    fn drop() -> i32 {
        TC_ACT_SHOT
    }
}

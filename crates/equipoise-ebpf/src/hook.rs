//! The two kinds of hook that the one packet text runs at, and what differs between them.
//!
//! XDP owns the frame: it changes bytes and checksums itself and sends by redirect. TC works on
//! the stack's packet buffers: checksums may be left to hardware and one buffer may stand for
//! many packets, so the kernel's helpers change them, and `redirect_neigh` sends.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
    BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0,
    BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    bpf_redir_neigh, xdp_action,
};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_skb_adjust_room,
    bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_change_type, bpf_xdp_adjust_head,
    bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
};
use aya_ebpf::programs::{TcContext, XdpContext};
use equipoise_common::checksum;
use equipoise_common::key::{Be16, UDP};
use equipoise_common::verdict;

use crate::ethernet::{ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN};
use crate::flow::Passage;
use crate::map::{REDIRECTS, STAGES_TC, STAGES_XDP};
use crate::packet::{Window, move_link_header};
use crate::route::{Hop, Link};

/// A packet at a hook.
pub struct Packet {
    /// Its bytes that can be touched.
    pub window: Window,
    /// 1, or the segments of a GSO packet.
    pub segments: u64,
    /// Bytes that each segment of a GSO packet carries; 0 where there is one.
    pub segment_size: u32,
}

/// How a transport checksum changes.
pub struct Change {
    /// TCP or UDP.
    pub protocol: u32,
    /// True for IPv6.
    pub is_v6: bool,
    /// Offset of the transport header, bytes.
    pub transport: usize,
    /// Differences of the addresses, which are in the pseudo-header.
    pub addresses: u64,
    /// Differences of the ports.
    pub ports: u64,
}

impl Change {
    #[inline(always)]
    fn field(&self) -> usize {
        const IN_TCP: usize = 16;
        const IN_UDP: usize = 6;
        self.transport + if self.protocol == UDP { IN_UDP } else { IN_TCP }
    }
}

/// Room for outer headers.
pub struct Room {
    /// Offset of the IP header that they go before, bytes.
    pub network: usize,
    /// Their bytes.
    pub bytes: u32,
    /// Whether the outer packet is of IPv6.
    pub is_v6: bool,
    /// Whether there is a UDP header among them.
    pub is_udp: bool,
}

/// What the packet text asks of the place that it runs at.
pub trait Hook {
    /// Which counters.
    const HOOK: verdict::Hook;

    /// The packet as it is now. Earlier windows are void after anything that changes it.
    fn packet(&self) -> Packet;
    /// Sees to it that so many bytes from the start can be touched, as far as they are there. Windows are void after it.
    fn pull(&self, bytes: u32);
    /// Bytes of the whole frame.
    fn length(&self) -> usize;
    /// Its bytes that can be touched, once [`Hook::packet`] has seen to the headers.
    fn window(&self) -> Window;
    /// The kernel's context.
    fn context(&self) -> *mut c_void;
    /// Index of the interface that the packet came by (egress: leaves by).
    fn interface(&self) -> u32;
    /// False for a frame that the link delivered for another machine.
    fn is_for_this_host(&self) -> bool;
    /// How the packet has come here.
    fn passage(&self) -> Passage;
    /// Whether frames can be sent over this link by the device with this index.
    fn takes(&self, link: Link, interface: u32) -> Result<(), Refusal>;
    /// Adjusts the TCP or UDP checksum. False if the kernel refuses. The window is void after it.
    fn adjust_checksum(&self, change: &Change) -> bool;
    /// Sends the rewritten packet; the answer is the program's.
    fn send(&self, hop: &Hop) -> i32;
    /// False where another of our programs sees what this one passes: TC ingress after XDP.
    const IS_LAST: bool;
    /// Hands the rewritten packet to this host as if it came by the loopback device.
    fn deliver(&self) -> i32;
    /// Cuts the frame to so many bytes. False if the kernel refuses. Windows are void after it.
    fn truncate(&self, length: u32) -> bool;
    /// Makes room for so many bytes at the front of the frame. False if the kernel refuses. Windows are void after it.
    fn grow(&self, bytes: u32) -> bool;
    /// Makes room for outer headers before the IP header, behind the link header. False if the kernel refuses. Windows are
    /// void after it.
    fn make_room(&self, room: &Room) -> bool;
    /// Whether the transport checksum at this offset has still to be completed by a device. Windows are
    /// void after it.
    fn has_partial_checksum(&self, field: u32) -> bool;
    /// Sends the frame out by the device that it came by.
    fn bounce(&self) -> i32;
    /// Goes on in the program of a stage; comes back only if that is not there.
    fn go_on(&self, stage: Stage);
    /// Lets the packet go on as it is.
    fn pass() -> i32;
    /// Ends the packet.
    fn drop() -> i32;
}

/// A program that another one goes on in, with a stack and a verification of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// [`crate::slow`].
    Slow = 0,
    /// [`crate::odd`].
    Odd = 1,
    /// [`crate::answer`].
    Answer = 2,
    /// [`crate::carry`].
    Carry = 3,
}

/// Why a route cannot be taken from here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The link address of the next hop is not known.
    NoNeighbour,
    /// The device takes no redirected frames.
    NoRedirect,
}

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

/// TC, where packets come in or, for `EGRESS`, go out.
pub struct Tc<const EGRESS: bool>(pub TcContext);

impl<const EGRESS: bool> Tc<EGRESS> {
    #[inline(always)]
    fn field<T: Copy>(&self, pick: impl FnOnce(&aya_ebpf::bindings::__sk_buff) -> T) -> T {
        // SAFETY: the context is the one that the kernel gave us and lives as long as the program.
        pick(unsafe { &*self.0.skb.skb })
    }
}

impl<const EGRESS: bool> Tc<EGRESS> {
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
        if segment_size == 0 {
            return Packet { window: self.window(), segments: 1, segment_size };
        }
        let mut segments = self.field(|skb| skb.gso_segs);
        if segments == 0 {
            // So packets come from virtio and tap devices: counted when they are cut, and not before.
            segments = self.0.len().div_ceil(segment_size);
        }
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

/// The loopback device is the first of every network namespace.
const LOOPBACK: u32 = 1;

/// Makes the loopback device's own link address the destination; a frame with any other would be
/// taken for another machine's.
#[inline(always)]
fn address_to_loopback(window: Window) -> bool {
    let Some(ethernet) = window.header::<6>(0) else {
        return false;
    };
    ethernet.store::<u32, 0>(0);
    ethernet.store::<u16, 4>(0);
    true
}

/// A port as a word of a checksum.
#[inline(always)]
pub fn port_word(port: Be16) -> u32 {
    u32::from(port.0)
}

//! The two kinds of hook that the one text runs at, and what differs between them: XDP owns the frame and moves its
//! link header itself; at TC the kernel takes the outer header off, and knows of merged packets and of frames
//! for other machines.

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT, TC_ACT_UNSPEC,
    bpf_adj_room_mode, xdp_action,
};
use aya_ebpf::helpers::generated::{
    bpf_skb_adjust_room, bpf_skb_change_proto, bpf_skb_store_bytes, bpf_xdp_adjust_head,
    bpf_xdp_get_buff_len,
};
use aya_ebpf::programs::{TcContext, XdpContext};
use equipoise_common::decap::{Interface, Verdict};
use equipoise_common::key::Be16;
use equipoise_common::verdict;

use crate::ethernet::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, VLAN};
use crate::hide::opaque;
use crate::outer::Outer;
use crate::packet::Window;

/// What the text asks of the place that it runs at.
pub trait Hook {
    /// Which counters.
    const HOOK: verdict::Hook;
    /// Lets the packet go on.
    const PASS: i32;
    /// Ends it.
    const DROP: i32;

    /// The bytes that can be touched: so many, if the frame has them. Earlier windows are void after this.
    fn window(&self, wanted: usize) -> Window;
    /// Bytes of the whole frame.
    fn length(&self) -> usize;
    /// Index of the interface that the packet came by (egress: leaves by).
    fn interface(&self) -> u32;
    /// False for a frame that is for another machine on the link.
    fn is_for_this_host(&self, interface: &Interface) -> bool;
    /// Whether the packet stands for many.
    fn is_merged(&self) -> bool;
    /// Takes everything off between the link header and the inner packet, and makes the link header right for that.
    /// Windows are void after it.
    fn cut(&self, outer: &Outer) -> Result<(), Verdict>;
    /// Puts a word of the IPv6 header that is at `at` now.
    fn store_word(&self, at: usize, word: u32) -> Option<()>;
}

#[inline(always)]
fn ethertype(is_v6: bool) -> Be16 {
    if is_v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }
}

/// XDP, in the driver or in the stack.
pub struct Xdp(pub XdpContext);

impl Hook for Xdp {
    const HOOK: verdict::Hook = verdict::Hook::Xdp;
    const PASS: i32 = xdp_action::XDP_PASS as i32;
    const DROP: i32 = xdp_action::XDP_DROP as i32;

    #[inline(always)]
    fn window(&self, _wanted: usize) -> Window {
        Window::new(self.0.data(), self.0.data_end())
    }

    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: the context is the one that the kernel gave us; so for the calls below.
        unsafe { bpf_xdp_get_buff_len(self.0.ctx) as usize }
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        self.0.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn is_for_this_host(&self, interface: &Interface) -> bool {
        let Some(link) = self.window(ETHERNET).header::<6>(0) else { return false };
        link.load::<u32, 0>() == interface.link_start && link.load::<u16, 4>() == interface.link_end
    }

    #[inline(always)]
    fn is_merged(&self) -> bool {
        // The kernel merges nothing before XDP, in the driver or in the stack.
        false
    }

    #[inline(always)]
    fn cut(&self, outer: &Outer) -> Result<(), Verdict> {
        /// With two tags.
        const LONGEST: usize = ETHERNET + 2 * VLAN;
        // Behind a shorter one there are at least two IP headers.
        let old = self.window(LONGEST).header::<LONGEST>(0).ok_or(Verdict::Refused)?;
        let addresses = (old.load::<u64, 0>(), old.load::<u32, 8>());
        let tags = (old.load::<u32, 12>(), old.load::<u32, 16>());
        let bytes = (outer.inner - outer.network) as i32;
        // SAFETY: as above.
        if unsafe { bpf_xdp_adjust_head(self.0.ctx, bytes) } != 0 {
            return Err(Verdict::Refused);
        }
        let new = self.window(LONGEST).header::<LONGEST>(0).ok_or(Verdict::Failed)?;
        new.store::<u64, 0>(addresses.0);
        new.store::<u32, 8>(addresses.1);
        let kind = ethertype(outer.is_inner_v6);
        if outer.network == ETHERNET {
            new.store::<Be16, 12>(kind);
            return Ok(());
        }
        new.store::<u32, 12>(tags.0);
        if outer.network == ETHERNET + VLAN {
            new.store::<Be16, 16>(kind);
            return Ok(());
        }
        new.store::<u32, 16>(tags.1);
        new.store::<Be16, 20>(kind);
        Ok(())
    }

    #[inline(always)]
    fn store_word(&self, at: usize, word: u32) -> Option<()> {
        self.window(at + 4).header::<4>(at)?.store::<u32, 0>(word);
        Some(())
    }
}

/// TC, where packets come in or, for `EGRESS`, go out.
pub struct Tc<const EGRESS: bool>(pub TcContext);

impl<const EGRESS: bool> Tc<EGRESS> {
    /// The kernel's context.
    #[inline(always)]
    pub fn skb(&self) -> *mut __sk_buff {
        self.0.skb.skb
    }

    #[inline(always)]
    fn field<T: Copy>(&self, pick: impl FnOnce(&__sk_buff) -> T) -> T {
        // SAFETY: the context is the one that the kernel gave us and lives as long as the program.
        pick(unsafe { &*self.skb() })
    }
}

impl<const EGRESS: bool> Hook for Tc<EGRESS> {
    const HOOK: verdict::Hook = if EGRESS { verdict::Hook::Egress } else { verdict::Hook::Ingress };
    // Not TC_ACT_OK: that would end the walk through other software's programs and filters.
    const PASS: i32 = TC_ACT_UNSPEC;
    const DROP: i32 = TC_ACT_SHOT;

    #[inline(always)]
    fn window(&self, wanted: usize) -> Window {
        let length = self.length();
        // As 32 bits: kernel 6.1 learns nothing of it from the comparison.
        let wanted = opaque(wanted as u32 as usize);
        let wanted = if length < wanted { length } else { wanted };
        if self.0.data() + wanted > self.0.data_end() {
            // What cannot be pulled is found short by whoever looks for it.
            let _ = self.0.pull_data(wanted as u32);
        }
        Window::new(self.0.data(), self.0.data_end())
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.len() as usize
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        self.field(|skb| skb.ifindex)
    }

    #[inline(always)]
    fn is_for_this_host(&self, _interface: &Interface) -> bool {
        /// `PACKET_HOST` of linux/if_packet.h.
        const HOST: u32 = 0;
        self.field(|skb| skb.pkt_type) == HOST
    }

    #[inline(always)]
    fn is_merged(&self) -> bool {
        self.field(|skb| skb.gso_size) != 0
    }

    #[inline(always)]
    fn cut(&self, outer: &Outer) -> Result<(), Verdict> {
        /// What IPv6 has more than IPv4.
        const MORE: i32 = 20;
        if outer.network != ETHERNET {
            // The first tag is not in the frame here; the kernel takes a second one for no IP packet.
            return Err(Verdict::Tagged);
        }
        let kind = ethertype(outer.is_inner_v6);
        let mut bytes = (outer.inner - outer.network) as i32;
        if outer.is_inner_v6 != outer.is_v6 {
            // The stack goes by what the packet is called, not by its first bytes. This calls it what it will
            // be, and takes or gives what one family's header has more than the other's. It works on all kernels;
            // that flag of `bpf_skb_adjust_room` which does the same is of 6.3.
            // SAFETY: the context is the kernel's; so for the calls below.
            if unsafe { bpf_skb_change_proto(self.skb(), kind.0, 0) } != 0 {
                return Err(Verdict::Refused);
            }
            bytes += if outer.is_inner_v6 { MORE } else { -MORE };
        }
        // The segments of a merged packet are as long as they were: what goes is not of them.
        let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
        let mode = bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
        // SAFETY: as above.
        let refused = unsafe { bpf_skb_adjust_room(self.skb(), -bytes, mode, flags) } != 0;
        if outer.is_inner_v6 == outer.is_v6 {
            return if refused { Err(Verdict::Refused) } else { Ok(()) };
        }
        if refused {
            return Err(Verdict::Failed);
        }
        let link = self.window(ETHERNET).header::<ETHERNET>(0).ok_or(Verdict::Failed)?;
        link.store::<Be16, 12>(kind);
        Ok(())
    }

    #[inline(always)]
    fn store_word(&self, at: usize, word: u32) -> Option<()> {
        let word = word.to_ne_bytes();
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        // Unlike IPv4's, this header has no checksum that makes up for the change, and a device may have summed
        // up the whole packet.
        // SAFETY: the context is the kernel's; `word` is four bytes on our stack.
        let result =
            unsafe { bpf_skb_store_bytes(self.skb(), at as u32, word.as_ptr().cast(), 4, flags) };
        (result == 0).then_some(())
    }
}

//! The two kinds of hook that the one packet text runs at, and what differs between them.
//!
//! XDP owns the frame: it changes bytes and checksums itself and sends by redirect. TC works on
//! the stack's packet buffers: checksums may be left to hardware and one buffer may stand for
//! many packets, so the kernel's helpers change them, and `redirect_neigh` sends.

use aya_ebpf::cty::c_void;
use equipoise_common::key::{Be16, UDP};
use equipoise_common::verdict;

use crate::flow::Passage;
use crate::packet::Window;
use crate::route::{Hop, Link};

mod tc;
mod xdp;

pub use tc::Tc;
pub use xdp::Xdp;

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
    /// The priority that a packet's socket has given it, on its way out; 0 elsewhere.
    fn priority(&self) -> u32;
    /// Takes it away.
    fn forget_priority(&self);
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
    /// The first program, on the flow tables that flows are carried over to.
    Elsewhere = 4,
}

/// Why a route cannot be taken from here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The link address of the next hop is not known.
    NoNeighbour,
    /// The device takes no redirected frames.
    NoRedirect,
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

//! What differs between IPv4 and IPv6 outside of parsing: maps, header writes, kernel structures.

use aya_ebpf::btf_maps::lpm_trie::Key;
use equipoise_common::flow::Reason;
use equipoise_common::flow::open::Opened;
use equipoise_common::key::{Address, FiveTuple, PortsKey, ServiceKey};
use equipoise_common::value::{Reply, Service};

use crate::answer::pseudo_rest;
use crate::flow::{Decision, Found, Passage};
use crate::fragment::{First, PacketKey};
use crate::hook::Packet;
use crate::icmp::Quote;
use crate::packet::Window;
use crate::parse::Headers;
use crate::select::Run;
use crate::slow::Work;

mod v4;
mod v6;

/// IPv4 or IPv6.
pub trait Family: Address + 'static {
    /// `AF_INET` or `AF_INET6`.
    const AF: u8;

    /// The service with this key.
    fn service(key: &ServiceKey<Self>) -> Option<Service>;
    /// The service that has the port of this key in a range.
    fn service_on_ports(key: &Key<PortsKey<Self>>) -> Option<Service>;
    /// What a reply with this source becomes where no flow says it.
    fn reply(key: &ServiceKey<Self>) -> Option<Reply>;
    /// This CPU's place for what is handed on about a packet.
    fn work() -> Option<&'static mut Work<Self>>;
    /// The flow that a packet is of; the packet is noted in it unless it has been.
    fn look_up(headers: &Headers<Self>, passage: Passage, decision: &mut Decision<Self>) -> Found;
    /// Where a flow is found by this five-tuple, or 0.
    fn position(key: &FiveTuple<Self>) -> u32;
    /// Whether a flow is found by this five-tuple, also where flows are being carried over from.
    fn is_taken(key: &FiveTuple<Self>) -> bool;
    /// Finds a backend and a name at it for the flow that is in this CPU's scratch, as [`crate::name::find`].
    fn name(run: &Run) -> u64;
    /// Tries some ports for that flow, as [`crate::name::find_port`].
    fn find_port(round: u32) -> u32;
    /// Opens the flow that is in this CPU's work.
    fn open() -> Opened;
    /// Ends the flow with an entry at `at`; true if it was this call that did it.
    fn end(at: u32, why: Reason) -> bool;
    /// Closes the flow with an entry at `at`; true if it was this call that did it.
    fn close(at: u32, why: Reason) -> bool;
    /// Changes the state of the flow as the packet says that this CPU's work has.
    fn turn();
    /// Fills in what the entry at `at` says, if there is one.
    fn recall(at: u32, decision: &mut Decision<Self>) -> bool;
    /// Tells of a flow that has just been opened.
    fn tell_opened(at: u32);
    /// Takes the note of a packet back, as [`crate::flow::leave`].
    fn leave(at: u32, headers: &Headers<Self>);
    /// The differences that this address in place of `old` makes to a checksum.
    fn change(self, old: Self) -> u64;
    /// Writes the addresses and, if `hop` says so, one hop less; with the header's own checksum
    /// where there is one. False if the packet has become too short.
    fn write(
        packet: &Packet,
        headers: &Headers<Self>,
        addresses: Addresses<Self>,
        hop: bool,
    ) -> bool;
    /// The address as the words of `struct bpf_fib_lookup`.
    fn fib(self) -> [u32; 4];
    /// The address as a part of a checksum's sum.
    fn sum(self) -> u64;

    /// Bytes of a header without options.
    const HEADER: usize;
    /// The number of its ICMP.
    const ICMP: u32;
    /// ICMP's type of an echo request.
    const ECHO_REQUEST: u8;
    /// ICMP's type of an echo reply.
    const ECHO_REPLY: u8;
    /// Whether ICMP packets of this type are errors, which quote a packet.
    fn is_error(kind: u8) -> bool;
    /// Whether an error of this type and code says that there is no way, or nobody at its end, as far as is known.
    fn tells_of_no_way(kind: u8, code: u8) -> bool;
    /// The packet that is quoted at `network`, if it can be of a flow.
    fn quote(window: &Window, network: usize) -> Option<Quote<Self>>;
    /// Writes the addresses of a quoted header, which differ by `change`; answers with what its own checksum, where there
    /// is one, differs by.
    fn write_quoted(
        window: &Window,
        network: usize,
        to: Addresses<Self>,
        change: u64,
    ) -> Option<u64>;
    /// Type and code of ICMP's port unreachable.
    const PORT_UNREACHABLE: u16;
    /// Type and code of ICMP's time exceeded in transit.
    const HOPS_EXCEEDED: u16;
    /// Type and code of ICMP's packet too big, or fragmentation needed.
    const TOO_BIG: u16;
    /// Makes the header that of an answer with so many IP bytes. False if the packet is too short.
    fn turn_round(window: &Window, headers: &Headers<Self>, length: u16) -> bool;
    /// Writes the header of an ICMP error with so many IP bytes at `network`: it answers a packet with these ends. False if
    /// the packet is too short.
    fn write_header(window: &Window, network: usize, ends: &FiveTuple<Self>, length: u16) -> bool;
    /// What has been made of the first fragment of a packet.
    fn first_fragment(key: &PacketKey<Self>) -> Option<First<Self>>;
    /// Remembers it.
    fn keep_fragment(key: &PacketKey<Self>, first: &First<Self>);
    /// This host's address on an interface.
    fn host(interface: u32) -> Option<Self>;
    /// Whether the packet may be cut on its way.
    fn may_be_cut(packet: &Packet, headers: &Headers<Self>) -> bool;
    /// Sum of the pseudo-header that ICMP's checksum covers.
    fn icmp_pseudo(tuple: &FiveTuple<Self>, length: u16) -> u64;

    /// Sum of a pseudo-header.
    #[inline(always)]
    fn pseudo(tuple: &FiveTuple<Self>, protocol: u8, length: u16) -> u64 {
        tuple.source.sum() + tuple.destination.sum() + pseudo_rest(protocol, length)
    }
}

/// Addresses to write.
#[derive(Clone, Copy)]
pub struct Addresses<F> {
    /// The source.
    pub source: F,
    /// The destination.
    pub destination: F,
}

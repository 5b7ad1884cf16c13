//! What differs between IPv4 and IPv6 outside of parsing: maps, header writes, kernel structures.

use aya_ebpf::btf_maps::lpm_trie::Key;
use equipoise_common::checksum;
use equipoise_common::flow::open::Opened;
use equipoise_common::flow::{Reason, Storage as _};
use equipoise_common::key::{self, Address, Be16, FiveTuple, PortsKey, ServiceKey, V4, V6};
use equipoise_common::value::{Reply, Service};

use crate::answer::{HOPS, pseudo_rest};
use crate::flow::{self, Decision, Found, Passage};
use crate::fragment::{First, PacketKey};
use crate::hook::Packet;
use crate::icmp::{Quote, quoted};
use crate::map::{
    FRAGMENTS_V4, FRAGMENTS_V6, HOSTS, PORTS_V4, PORTS_V6, REPLIES_V4, REPLIES_V6, SERVICES_V4,
    SERVICES_V6, WORK_V4, WORK_V6,
};
use crate::packet::Window;
use crate::parse::{self, Headers};
use crate::report;
use crate::select::Run;
use crate::slow::Work;
use crate::table::{FlowsV4, FlowsV6};

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
    /// Takes the note of a packet back, which the next hook will note again.
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

impl Family for V4 {
    const AF: u8 = 2;

    #[inline(always)]
    fn service(key: &ServiceKey<Self>) -> Option<Service> {
        // SAFETY: entries are replaced by others; a reader of the old one finds what was right just now.
        unsafe { SERVICES_V4.get(key).copied() }
    }

    #[inline(always)]
    fn service_on_ports(key: &Key<PortsKey<Self>>) -> Option<Service> {
        PORTS_V4.get(key).copied()
    }

    #[inline(always)]
    fn reply(key: &ServiceKey<Self>) -> Option<Reply> {
        // SAFETY: entries are replaced whole; a reader of the old one finds what was right just now.
        unsafe { REPLIES_V4.get(key).copied() }
    }

    #[inline(always)]
    fn look_up(headers: &Headers<Self>, passage: Passage, decision: &mut Decision<Self>) -> Found {
        flow::look_up(&FlowsV4, headers, passage, decision)
    }

    #[inline(always)]
    fn position(key: &FiveTuple<Self>) -> u32 {
        FlowsV4::position(key)
    }

    #[inline(always)]
    fn name(run: &Run) -> u64 {
        FlowsV4::name(run)
    }

    #[inline(always)]
    fn find_port(round: u32) -> u32 {
        FlowsV4::find_port(round)
    }

    #[inline(always)]
    fn open() -> Opened {
        FlowsV4::open()
    }

    #[inline(always)]
    fn recall(at: u32, decision: &mut Decision<Self>) -> bool {
        flow::recall(&FlowsV4, at, decision)
    }

    #[inline(always)]
    fn tell_opened(at: u32) {
        flow::tell_opened(&FlowsV4, at);
    }

    #[inline(always)]
    fn leave(at: u32, headers: &Headers<Self>) {
        flow::leave(&FlowsV4, at, headers);
    }

    #[inline(always)]
    fn work() -> Option<&'static mut Work<Self>> {
        // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
        WORK_V4.get_ptr_mut(0).map(|work| unsafe { &mut *work })
    }

    #[inline(always)]
    fn end(at: u32, why: Reason) -> bool {
        !report::is_dry() && FlowsV4.end(at, why, flow::now())
    }

    #[inline(always)]
    fn close(at: u32, why: Reason) -> bool {
        !report::is_dry() && FlowsV4::close(at, why)
    }

    #[inline(always)]
    fn turn() {
        FlowsV4::turn();
    }

    #[inline(always)]
    fn change(self, old: Self) -> u64 {
        checksum::difference(old.0, self.0)
    }

    #[inline(always)]
    fn write(packet: &Packet, headers: &Headers<Self>, to: Addresses<Self>, hop: bool) -> bool {
        let Some(header) = packet.window.header::<20>(usize::from(headers.network)) else {
            return false;
        };
        let mut change = to.source.change(headers.tuple.source)
            + to.destination.change(headers.tuple.destination);
        if hop {
            let old = header.load::<u16, 8>();
            // The hop count is the first byte of its word.
            let new = u16::from_be(old).wrapping_sub(0x0100).to_be();
            change += checksum::difference(u32::from(old), u32::from(new));
            header.store::<u16, 8>(new);
        }
        header.store::<u16, 10>(checksum::update(header.load::<u16, 10>(), change));
        header.store::<V4, 12>(to.source);
        header.store::<V4, 16>(to.destination);
        true
    }

    #[inline(always)]
    fn fib(self) -> [u32; 4] {
        [self.0, 0, 0, 0]
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        u64::from(self.0)
    }

    const HEADER: usize = 20;
    const ICMP: u32 = key::ICMP;
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        const UNREACHABLE: u8 = 3;
        const TIME_EXCEEDED: u8 = 11;
        const PARAMETER_PROBLEM: u8 = 12;
        matches!(kind, UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }

    #[inline(always)]
    fn quote(window: &Window, network: usize) -> Option<Quote<Self>> {
        const OFFSET: u16 = 0x1fff;
        let header = window.header::<20>(network)?;
        let first = header.load::<u8, 0>();
        let length = (first & 0xf) as usize * 4;
        if first >> 4 != 4 || length < 20 || header.load::<Be16, 6>().get() & OFFSET != 0 {
            return None;
        }
        let tuple = FiveTuple {
            source: header.load::<V4, 12>(),
            destination: header.load::<V4, 16>(),
            source_port: Be16(0),
            destination_port: Be16(0),
            protocol: u32::from(header.load::<u8, 9>()),
        };
        quoted(window, tuple, network, network + length)
    }

    #[inline(always)]
    fn write_quoted(
        window: &Window,
        network: usize,
        to: Addresses<Self>,
        change: u64,
    ) -> Option<u64> {
        let header = window.header::<20>(network)?;
        let old = header.load::<u16, 10>();
        let new = checksum::update(old, change);
        header.store::<u16, 10>(new);
        header.store::<V4, 12>(to.source);
        header.store::<V4, 16>(to.destination);
        Some(checksum::difference(u32::from(old), u32::from(new)))
    }

    const PORT_UNREACHABLE: u16 = 0x0303;
    const HOPS_EXCEEDED: u16 = 0x0b00;
    const TOO_BIG: u16 = 0x0304;

    #[inline(always)]
    fn turn_round(window: &Window, headers: &Headers<Self>, length: u16) -> bool {
        let Some(header) = window.header::<20>(usize::from(headers.network)) else {
            return false;
        };
        let old = (header.load::<u16, 2>(), header.load::<u16, 8>());
        let hops = u16::from_be(old.1) & 0xff | u16::from(HOPS) << 8;
        let new = (length.to_be(), hops.to_be());
        let change = checksum::difference(u32::from(old.0), u32::from(new.0))
            + checksum::difference(u32::from(old.1), u32::from(new.1));
        header.store::<u16, 2>(new.0);
        header.store::<u16, 8>(new.1);
        // The addresses change places, which changes no sum.
        header.store::<u16, 10>(checksum::update(header.load::<u16, 10>(), change));
        header.store::<V4, 12>(headers.tuple.destination);
        header.store::<V4, 16>(headers.tuple.source);
        true
    }

    #[inline(always)]
    fn host(interface: u32) -> Option<Self> {
        // SAFETY: entries are replaced whole.
        let host = unsafe { HOSTS.get(interface) }?;
        (host.v4 != Self(0)).then_some(host.v4)
    }

    #[inline(always)]
    fn first_fragment(key: &PacketKey<Self>) -> Option<First<Self>> {
        // SAFETY: entries are replaced whole; of two packets with one identification nobody can tell the fragments.
        unsafe { FRAGMENTS_V4.get(key).copied() }
    }

    #[inline(always)]
    fn keep_fragment(key: &PacketKey<Self>, first: &First<Self>) {
        // Where the kernel has no room at once, those that follow are counted as unknown.
        let _ = FRAGMENTS_V4.insert(key, first, 0);
    }

    #[inline(always)]
    fn may_be_cut(packet: &Packet, headers: &Headers<Self>) -> bool {
        const DO_NOT: u16 = 0x4000;
        let header = packet.window.header::<20>(usize::from(headers.network));
        header.is_some_and(|header| header.load::<Be16, 6>().get() & DO_NOT == 0)
    }

    #[inline(always)]
    fn write_header(window: &Window, network: usize, ends: &FiveTuple<Self>, length: u16) -> bool {
        let Some(header) = window.header::<20>(network) else {
            return false;
        };
        /// Version 4, five words of header, precedence of network control (RFC 1812 section 4.3.2.5).
        const FIRST: u16 = 0x45c0;
        let hops = u16::from(HOPS) << 8 | Self::ICMP as u16;
        let sum = u64::from(FIRST.to_be())
            + u64::from(length.to_be())
            + u64::from(hops.to_be())
            + ends.source.sum()
            + ends.destination.sum();
        header.store::<u16, 0>(FIRST.to_be());
        header.store::<u16, 2>(length.to_be());
        header.store::<u32, 4>(0);
        header.store::<u16, 8>(hops.to_be());
        header.store::<u16, 10>(!checksum::fold(sum));
        header.store::<V4, 12>(ends.destination);
        header.store::<V4, 16>(ends.source);
        true
    }

    #[inline(always)]
    fn icmp_pseudo(_tuple: &FiveTuple<Self>, _length: u16) -> u64 {
        0
    }
}

impl Family for V6 {
    const AF: u8 = 10;

    #[inline(always)]
    fn service(key: &ServiceKey<Self>) -> Option<Service> {
        // SAFETY: as for IPv4.
        unsafe { SERVICES_V6.get(key).copied() }
    }

    #[inline(always)]
    fn service_on_ports(key: &Key<PortsKey<Self>>) -> Option<Service> {
        PORTS_V6.get(key).copied()
    }

    #[inline(always)]
    fn reply(key: &ServiceKey<Self>) -> Option<Reply> {
        // SAFETY: entries are replaced whole; a reader of the old one finds what was right just now.
        unsafe { REPLIES_V6.get(key).copied() }
    }

    #[inline(always)]
    fn look_up(headers: &Headers<Self>, passage: Passage, decision: &mut Decision<Self>) -> Found {
        flow::look_up(&FlowsV6, headers, passage, decision)
    }

    #[inline(always)]
    fn position(key: &FiveTuple<Self>) -> u32 {
        FlowsV6::position(key)
    }

    #[inline(always)]
    fn name(run: &Run) -> u64 {
        FlowsV6::name(run)
    }

    #[inline(always)]
    fn find_port(round: u32) -> u32 {
        FlowsV6::find_port(round)
    }

    #[inline(always)]
    fn open() -> Opened {
        FlowsV6::open()
    }

    #[inline(always)]
    fn recall(at: u32, decision: &mut Decision<Self>) -> bool {
        flow::recall(&FlowsV6, at, decision)
    }

    #[inline(always)]
    fn tell_opened(at: u32) {
        flow::tell_opened(&FlowsV6, at);
    }

    #[inline(always)]
    fn leave(at: u32, headers: &Headers<Self>) {
        flow::leave(&FlowsV6, at, headers);
    }

    #[inline(always)]
    fn work() -> Option<&'static mut Work<Self>> {
        // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
        WORK_V6.get_ptr_mut(0).map(|work| unsafe { &mut *work })
    }

    #[inline(always)]
    fn end(at: u32, why: Reason) -> bool {
        !report::is_dry() && FlowsV6.end(at, why, flow::now())
    }

    #[inline(always)]
    fn close(at: u32, why: Reason) -> bool {
        !report::is_dry() && FlowsV6::close(at, why)
    }

    #[inline(always)]
    fn turn() {
        FlowsV6::turn();
    }

    #[inline(always)]
    fn change(self, old: Self) -> u64 {
        let mut sum = 0;
        for (old, new) in [(old.0[0], self.0[0]), (old.0[1], self.0[1])] {
            sum += checksum::difference(old as u32, new as u32);
            sum += checksum::difference((old >> 32) as u32, (new >> 32) as u32);
        }
        sum
    }

    #[inline(always)]
    fn write(packet: &Packet, headers: &Headers<Self>, to: Addresses<Self>, hop: bool) -> bool {
        let Some(header) = packet.window.header::<40>(usize::from(headers.network)) else {
            return false;
        };
        if hop {
            header.store::<u8, 7>(header.load::<u8, 7>().wrapping_sub(1));
        }
        header.store::<V6, 8>(to.source);
        header.store::<V6, 24>(to.destination);
        true
    }

    #[inline(always)]
    fn fib(self) -> [u32; 4] {
        let [first, second] = self.0;
        [first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32]
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        self.fib().iter().map(|&word| u64::from(word)).sum()
    }

    const HEADER: usize = 40;
    const ICMP: u32 = key::ICMPV6;
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        const UNREACHABLE: u8 = 1;
        const TOO_BIG: u8 = 2;
        const TIME_EXCEEDED: u8 = 3;
        const PARAMETER_PROBLEM: u8 = 4;
        matches!(kind, UNREACHABLE | TOO_BIG | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }

    #[inline(always)]
    fn quote(window: &Window, network: usize) -> Option<Quote<Self>> {
        let header = window.header::<40>(network)?;
        if header.load::<u8, 0>() >> 4 != 6 {
            return None;
        }
        let (next, transport) = parse::quoted_v6(window, &header, network)?;
        let tuple = FiveTuple {
            source: header.load::<V6, 8>(),
            destination: header.load::<V6, 24>(),
            source_port: Be16(0),
            destination_port: Be16(0),
            protocol: u32::from(next),
        };
        quoted(window, tuple, network, transport)
    }

    #[inline(always)]
    fn write_quoted(
        window: &Window,
        network: usize,
        to: Addresses<Self>,
        _change: u64,
    ) -> Option<u64> {
        let header = window.header::<40>(network)?;
        header.store::<V6, 8>(to.source);
        header.store::<V6, 24>(to.destination);
        Some(0)
    }

    const PORT_UNREACHABLE: u16 = 0x0104;
    const HOPS_EXCEEDED: u16 = 0x0300;
    const TOO_BIG: u16 = 0x0200;

    #[inline(always)]
    fn turn_round(window: &Window, headers: &Headers<Self>, length: u16) -> bool {
        let Some(header) = window.header::<40>(usize::from(headers.network)) else {
            return false;
        };
        header.store::<u16, 4>((length - 40).to_be());
        header.store::<u8, 7>(HOPS);
        header.store::<V6, 8>(headers.tuple.destination);
        header.store::<V6, 24>(headers.tuple.source);
        true
    }

    #[inline(always)]
    fn host(interface: u32) -> Option<Self> {
        // SAFETY: entries are replaced whole.
        let host = unsafe { HOSTS.get(interface) }?;
        (host.v6 != Self([0; 2])).then_some(host.v6)
    }

    #[inline(always)]
    fn first_fragment(key: &PacketKey<Self>) -> Option<First<Self>> {
        // SAFETY: entries are replaced whole; of two packets with one identification nobody can tell the fragments.
        unsafe { FRAGMENTS_V6.get(key).copied() }
    }

    #[inline(always)]
    fn keep_fragment(key: &PacketKey<Self>, first: &First<Self>) {
        // Where the kernel has no room at once, those that follow are counted as unknown.
        let _ = FRAGMENTS_V6.insert(key, first, 0);
    }

    #[inline(always)]
    fn may_be_cut(_packet: &Packet, _headers: &Headers<Self>) -> bool {
        false
    }

    #[inline(always)]
    fn write_header(window: &Window, network: usize, ends: &FiveTuple<Self>, length: u16) -> bool {
        let Some(header) = window.header::<40>(network) else {
            return false;
        };
        header.store::<u32, 0>(0x6000_0000_u32.to_be());
        header.store::<u16, 4>((length - 40).to_be());
        header.store::<u8, 6>(Self::ICMP as u8);
        header.store::<u8, 7>(HOPS);
        header.store::<V6, 8>(ends.destination);
        header.store::<V6, 24>(ends.source);
        true
    }

    #[inline(always)]
    fn icmp_pseudo(tuple: &FiveTuple<Self>, length: u16) -> u64 {
        Self::pseudo(tuple, Self::ICMP as u8, length)
    }
}

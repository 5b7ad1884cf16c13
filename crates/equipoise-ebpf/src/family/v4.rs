//! IPv4.

use aya_ebpf::btf_maps::lpm_trie::Key;
use equipoise_common::checksum;
use equipoise_common::flow::open::Opened;
use equipoise_common::flow::{Reason, Storage as _};
use equipoise_common::key::{self, Be16, FiveTuple, PortsKey, ServiceKey, V4};
use equipoise_common::value::{Reply, Service};

use super::{Addresses, Family};
use crate::answer::HOPS;
use crate::flow::{self, Decision, Found, Passage};
use crate::fragment::{First, PacketKey};
use crate::hook::Packet;
use crate::icmp::{Quote, quoted};
use crate::map::{FRAGMENTS_V4, HOSTS, PORTS_V4, REPLIES_V4, SERVICES_V4, WORK_V4};
use crate::packet::Window;
use crate::parse::Headers;
use crate::report;
use crate::select::Run;
use crate::slow::Work;
use crate::table::FlowsV4;
use crate::table::others::OthersV4;

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
    fn is_taken(key: &FiveTuple<Self>) -> bool {
        FlowsV4::position(key) != 0 || OthersV4::has(key)
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
    fn tells_of_no_way(kind: u8, code: u8) -> bool {
        const UNREACHABLE: u8 = 3;
        const NET: u8 = 0;
        const HOST: u8 = 1;
        kind == UNREACHABLE && matches!(code, NET | HOST)
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

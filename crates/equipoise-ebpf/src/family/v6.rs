//! IPv6.

use aya_ebpf::btf_maps::lpm_trie::Key;
use equipoise_common::checksum;
use equipoise_common::flow::open::Opened;
use equipoise_common::flow::{Reason, Storage as _};
use equipoise_common::key::{self, Be16, FiveTuple, PortsKey, ServiceKey, V6};
use equipoise_common::value::{Reply, Service};

use super::{Addresses, Family};
use crate::answer::HOPS;
use crate::flow::{self, Decision, Found, Passage};
use crate::fragment::{First, PacketKey};
use crate::hook::Packet;
use crate::icmp::{Quote, quoted};
use crate::map::{FRAGMENTS_V6, HOSTS, PORTS_V6, REPLIES_V6, SERVICES_V6, WORK_V6};
use crate::packet::Window;
use crate::parse::{self, Headers};
use crate::report;
use crate::select::Run;
use crate::slow::Work;
use crate::table::FlowsV6;
use crate::table::others::OthersV6;

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
    fn is_taken(key: &FiveTuple<Self>) -> bool {
        FlowsV6::position(key) != 0 || OthersV6::has(key)
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
    fn tells_of_no_way(kind: u8, code: u8) -> bool {
        const UNREACHABLE: u8 = 1;
        const NO_ROUTE: u8 = 0;
        const ADDRESS: u8 = 3;
        kind == UNREACHABLE && matches!(code, NO_ROUTE | ADDRESS)
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

//! What differs between IPv4 and IPv6 outside of parsing: maps, header writes, kernel structures.

use aya_ebpf::btf_maps::LruHashMap;
use equipoise_common::checksum;
use equipoise_common::key::{Address, FiveTuple, ServiceKey, V4, V6};
use equipoise_common::limit;
use equipoise_common::value::{Flow, Service};

use crate::hook::Packet;
use crate::map::{FLOWS_V4, FLOWS_V6, SCRATCH_V4, SCRATCH_V6, SERVICES_V4, SERVICES_V6};
use crate::parse::Headers;

/// The flow table of one family.
pub type Flows<F> = LruHashMap<FiveTuple<F>, Flow<F>, { limit::FLOWS as usize }>;

/// IPv4 or IPv6.
pub trait Family: Address + 'static {
    /// `AF_INET` or `AF_INET6`.
    const AF: u8;

    /// The service with this key.
    fn service(key: &ServiceKey<Self>) -> Option<Service>;
    /// The flow table.
    fn flows() -> &'static Flows<Self>;
    /// This CPU's place to put a new flow together.
    fn scratch() -> Option<&'static mut Flow<Self>>;
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
        // SAFETY: entries are replaced whole, and one word long.
        unsafe { SERVICES_V4.get(key).copied() }
    }

    #[inline(always)]
    fn flows() -> &'static Flows<Self> {
        &FLOWS_V4
    }

    #[inline(always)]
    fn scratch() -> Option<&'static mut Flow<Self>> {
        // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
        SCRATCH_V4.get_ptr_mut(0).map(|flow| unsafe { &mut *flow })
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
}

impl Family for V6 {
    const AF: u8 = 10;

    #[inline(always)]
    fn service(key: &ServiceKey<Self>) -> Option<Service> {
        // SAFETY: entries are replaced whole, and one word long.
        unsafe { SERVICES_V6.get(key).copied() }
    }

    #[inline(always)]
    fn flows() -> &'static Flows<Self> {
        &FLOWS_V6
    }

    #[inline(always)]
    fn scratch() -> Option<&'static mut Flow<Self>> {
        // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
        SCRATCH_V6.get_ptr_mut(0).map(|flow| unsafe { &mut *flow })
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
}

//! Programs of the bench alone, built with the feature `bench` and never attached.
//!
//! A test run does not put the packet back between its repeats. So a *wrapper* makes the packet anew for each: it
//! draws a flow, writes that flow's addresses and ports, and goes on in a *subject* by a tail call: the program that
//! is measured, as it is loaded for real packets, or one of those below. The kernel makes a tail call with a constant
//! place a jump, so what two subjects differ by is what they cost. The empty one is what figures are taken over;
//! those that stop half-way tell where the time goes.

use aya_ebpf::btf_maps::{LruHashMap, PerCpuArray, ProgramArray};
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use equipoise_common::draw::Draw;
use equipoise_common::flow::open::New;
use equipoise_common::flow::set::Way;
use equipoise_common::flow::{Storage, Word as _};
use equipoise_common::key::{Address, Be16, FiveTuple, V4, V6};

use crate::action;
use crate::family::Family;
use crate::flow::{self, Decision, Found, Passage};
use crate::forward;
use crate::hide::opaque;
use crate::hook::{Hook, Packet, Tc, Xdp};
use crate::packet::Window;
use crate::parse::{self, Headers, Network};
use crate::rewrite::{self, Hops};
use crate::route::Route;
use crate::table::{FlowsV4, FlowsV6};
use crate::word::Shared;

/// User space: one for each CPU, so that two can run at once.
#[btf_map(name = "BENCH_DRAW")]
pub static DRAW: PerCpuArray<Draw, 1> = PerCpuArray::new();

/// User space: what is measured at XDP.
#[btf_map(name = "BENCH_XDP")]
pub static SUBJECT_XDP: ProgramArray<1> = ProgramArray::new();

/// User space: what is measured at TC ingress.
#[btf_map(name = "BENCH_TC")]
pub static SUBJECT_TC: ProgramArray<1> = ProgramArray::new();

macro_rules! wrappers {
    ($xdp:ident, $tc:ident, $family:ident) => {
        #[xdp(frags)]
        fn $xdp(context: XdpContext) -> u32 {
            let hook = Xdp::<false>(context);
            if make::<$family>(&hook.window()) {
                // SAFETY: nothing here has to be dropped.
                unsafe { SUBJECT_XDP.tail_call(&hook.0, 0) };
            }
            Xdp::<false>::drop() as u32
        }

        #[classifier]
        fn $tc(context: TcContext) -> i32 {
            let hook = Tc::<false>(context);
            if make::<$family>(&hook.window()) {
                // SAFETY: as above.
                unsafe { SUBJECT_TC.tail_call(&hook.0, 0) };
            }
            Tc::<false>::drop()
        }
    };
}

wrappers!(bench_xdp_v4, bench_tc_v4, V4);
wrappers!(bench_xdp_v6, bench_tc_v6, V6);

#[xdp(frags)]
fn bench_empty_xdp(_context: XdpContext) -> u32 {
    Xdp::<false>::pass() as u32
}

#[classifier]
fn bench_empty_tc(_context: TcContext) -> i32 {
    Tc::<false>::pass()
}

macro_rules! parts {
    ($xdp:ident, $tc:ident, $depth:ident) => {
        #[xdp(frags)]
        fn $xdp(context: XdpContext) -> u32 {
            part::<_, $depth>(&Xdp::<false>(context)) as u32
        }

        #[classifier]
        fn $tc(context: TcContext) -> i32 {
            part::<_, $depth>(&Tc::<false>(context))
        }
    };
}

const PARSED: u32 = 0;
const TOUCHED: u32 = 1;
const FOUND: u32 = 2;
const ROUTED: u32 = 3;
const REWRITTEN: u32 = 4;
const OPENED: u32 = 5;
const LRU_FOUND: u32 = 6;
const LRU_OPENED: u32 = 7;
const LRU_CLOSED: u32 = 8;

parts!(bench_parsed_xdp, bench_parsed_tc, PARSED);
parts!(bench_touched_xdp, bench_touched_tc, TOUCHED);
parts!(bench_found_xdp, bench_found_tc, FOUND);
parts!(bench_routed_xdp, bench_routed_tc, ROUTED);
parts!(bench_rewritten_xdp, bench_rewritten_tc, REWRITTEN);
parts!(bench_opened_xdp, bench_opened_tc, OPENED);
parts!(bench_lru_found_xdp, bench_lru_found_tc, LRU_FOUND);
parts!(bench_lru_opened_xdp, bench_lru_opened_tc, LRU_OPENED);
parts!(bench_lru_closed_xdp, bench_lru_closed_tc, LRU_CLOSED);

/// What a flow takes in the kernel's own table, to be compared with ours: a line for each direction.
type Line = [Shared; 8];

/// Program: flows of IPv4 in the kernel's LRU hash.
#[btf_map(name = "BENCH_LRU_V4")]
pub static LRU_V4: LruHashMap<FiveTuple<V4>, Line, 1> = LruHashMap::new();

/// Program: flows of IPv6 in the kernel's LRU hash.
#[btf_map(name = "BENCH_LRU_V6")]
pub static LRU_V6: LruHashMap<FiveTuple<V6>, Line, 1> = LruHashMap::new();

/// Flows as the bench numbers them.
trait Client: Family {
    /// Address of the client of a flow.
    fn client(number: u64) -> Self;
    /// Writes the addresses and a hop limit to a packet of this family.
    fn write_addresses(window: &Window, tuple: &FiveTuple<Self>) -> bool;
    /// Offset of the TCP header.
    const TRANSPORT: usize;
    /// Reads and writes the line where the flow of this key most likely is.
    fn touch(key: &FiveTuple<Self>);
    /// The kernel's LRU hash for its flows.
    fn lru() -> &'static LruHashMap<FiveTuple<Self>, Line, 1>;
}

const ETHERNET: usize = 14;
const HOPS: u8 = 64;

impl Client for V4 {
    const TRANSPORT: usize = ETHERNET + 20;

    #[inline(always)]
    fn touch(key: &FiveTuple<Self>) {
        touch(&FlowsV4, key);
    }

    #[inline(always)]
    fn lru() -> &'static LruHashMap<FiveTuple<Self>, Line, 1> {
        &LRU_V4
    }

    #[inline(always)]
    fn client(number: u64) -> Self {
        // 10.128.0.0/9
        Self((0x0a80_0000 | number as u32 & 0x7f_ffff).to_be())
    }

    #[inline(always)]
    fn write_addresses(window: &Window, tuple: &FiveTuple<Self>) -> bool {
        let Some(header) = window.header::<20>(ETHERNET) else { return false };
        header.store::<u8, 8>(HOPS);
        header.store::<V4, 12>(tuple.source);
        header.store::<V4, 16>(tuple.destination);
        true
    }
}

impl Client for V6 {
    const TRANSPORT: usize = ETHERNET + 40;

    #[inline(always)]
    fn touch(key: &FiveTuple<Self>) {
        touch(&FlowsV6, key);
    }

    #[inline(always)]
    fn lru() -> &'static LruHashMap<FiveTuple<Self>, Line, 1> {
        &LRU_V6
    }

    #[inline(always)]
    fn client(number: u64) -> Self {
        // 2001:db8:1::/64
        Self([0x2001_0db8_0001_0000_u64.to_be(), number.to_be()])
    }

    #[inline(always)]
    fn write_addresses(window: &Window, tuple: &FiveTuple<Self>) -> bool {
        let Some(header) = window.header::<40>(ETHERNET) else { return false };
        header.store::<u8, 7>(HOPS);
        header.store::<V6, 8>(tuple.source);
        header.store::<V6, 24>(tuple.destination);
        true
    }
}

/// Makes the packet one of the next flow. Checksums stay as they are: programs change them without looking.
#[inline(always)]
fn make<F: Client>(window: &Window) -> bool {
    let Some(draw) = DRAW.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
    let draw = unsafe { &mut *draw };
    let number = draw.next_flow();
    let client = FiveTuple {
        source: F::client(number),
        destination: F::unpack(draw.end),
        source_port: Be16::new(1024 | (number >> 23) as u16 & 0x7fff),
        destination_port: Be16(draw.port as u16),
        protocol: 0,
    };
    let tuple = if draw.is_reply == 0 { client } else { client.reversed() };
    if !F::write_addresses(window, &tuple) {
        return false;
    }
    let Some(transport) = window.header::<20>(F::TRANSPORT) else { return false };
    transport.store::<Be16, 0>(tuple.source_port);
    transport.store::<Be16, 2>(tuple.destination_port);
    transport.store::<u32, 4>((draw.sequence as u32).to_be());
    transport.store::<u32, 8>((draw.acknowledgement as u32).to_be());
    draw.sequence += draw.step;
    draw.acknowledgement += draw.step;
    true
}

/// The way of a packet that comes in, up to a part of it.
#[inline(always)]
fn part<H: Hook, const DEPTH: u32>(hook: &H) -> i32 {
    if !hook.is_for_this_host() {
        return H::drop();
    }
    match parse::network(&hook.packet().window) {
        Ok(Network::V4(at)) => ended::<H, V4, DEPTH>(part_ipv4::<H, DEPTH>(hook, at) as i32),
        Ok(Network::V6(at)) => ended::<H, V6, DEPTH>(part_ipv6::<H, DEPTH>(hook, at) as i32),
        Err(_) => H::drop(),
    }
}

// Functions of their own, as those that are measured have them.

#[inline(never)]
fn part_ipv4<H: Hook, const DEPTH: u32>(hook: &H, at: usize) -> u64 {
    let packet = hook.packet();
    let Ok(headers) = parse::ipv4(hook, &packet, at) else { return action(H::drop()) };
    action(go::<H, V4, DEPTH>(hook, &packet, &headers))
}

#[inline(never)]
fn part_ipv6<H: Hook, const DEPTH: u32>(hook: &H, at: usize) -> u64 {
    let packet = hook.packet();
    let Ok(headers) = parse::ipv6(hook, &packet, at) else { return action(H::drop()) };
    action(go::<H, V6, DEPTH>(hook, &packet, &headers))
}

#[inline(always)]
fn go<H: Hook, F: Client, const DEPTH: u32>(
    hook: &H,
    packet: &Packet,
    headers: &Headers<F>,
) -> i32 {
    if DEPTH == PARSED {
        use_headers(headers);
        return H::pass();
    }
    if DEPTH == TOUCHED {
        F::touch(&headers.tuple);
        return H::pass();
    }
    if DEPTH >= OPENED {
        return if in_table::<F, DEPTH>(headers) { H::pass() } else { H::drop() };
    }
    let mut decision = Decision::none(headers);
    if F::look_up(headers, Passage::In, &mut decision) != Found::Flow {
        return H::drop();
    }
    if DEPTH == FOUND {
        use_tuple(&decision.to);
        return H::pass();
    }
    let Route::Way(hop) = forward::way::<_, _, false>(hook, headers, &decision) else {
        return H::drop();
    };
    if DEPTH == ROUTED {
        opaque(hop.interface() as usize);
        return H::pass();
    }
    if rewrite::apply(hook, packet, headers, &decision.to, Hops::TakeOne).is_ok() {
        return H::pass();
    }
    H::drop()
}

/// What is done in a table alone. False where it did not go well.
#[inline(always)]
fn in_table<F: Client, const DEPTH: u32>(headers: &Headers<F>) -> bool {
    let (there, back) = (headers.tuple, headers.tuple.reversed());
    if DEPTH == OPENED {
        return prepare(headers, &there, &back);
    }
    let line = F::lru().get_ptr(&there);
    if DEPTH == LRU_FOUND {
        // SAFETY: the kernel does not take the memory of an entry away while a program runs.
        let Some(line) = line.map(|line| unsafe { &*line }) else { return false };
        let mut word = 0;
        while word < 7 {
            opaque(line[word].load() as usize);
            word += 1;
        }
        line[7].add(headers.size.bytes);
        return true;
    }
    if DEPTH == LRU_CLOSED {
        return F::lru().remove(&there).is_ok() && F::lru().remove(&back).is_ok();
    }
    const NO_OTHER: u64 = 1;
    let fresh = [const { Shared::new(0) }; 8];
    line.is_none()
        && F::lru().insert(&there, &fresh, NO_OTHER).is_ok()
        && F::lru().insert(&back, &fresh, NO_OTHER).is_ok()
}

#[inline(always)]
fn prepare<F: Client>(headers: &Headers<F>, there: &FiveTuple<F>, back: &FiveTuple<F>) -> bool {
    let (Some(draw), Some(work)) = (DRAW.get_ptr_mut(0), F::work()) else { return false };
    // SAFETY: this CPU's own entry, and nothing else runs on it meanwhile.
    let draw = unsafe { &*draw };
    work.new = New {
        request: *there,
        reply: *back,
        service: draw.service as u32,
        backend: draw.backend as u32,
        generation: 0,
        is_one_sided: false,
        sent: headers.segment.sequence,
        acknowledged: 0,
        packets: headers.size.packets,
        bytes: headers.size.bytes,
        now: flow::now(),
        begun: flow::exact(),
    };
    work.limits = [0; 2];
    true
}

/// Opens the flow that has been put together: called from here, as the slow path does, since the kernel lets calls go no deeper than eight.
#[inline(always)]
fn ended<H: Hook, F: Client, const DEPTH: u32>(action: i32) -> i32 {
    if DEPTH != OPENED || action != H::pass() {
        return action;
    }
    let opened = F::open();
    if opened.refused == 0 && !opened.found { action } else { H::drop() }
}

#[inline(always)]
fn touch<const SLOT: usize, S: Storage<SLOT>>(table: &S, key: &FiveTuple<S::Address>) {
    let way = Way::of(key, table.seed(), table.sets());
    if let Some(set) = table.set(way.first) {
        let row = set.row(way.row);
        opaque(row[0].load() as usize);
        row[SLOT - 1].add(0);
    }
}

/// Sees to it that the compiler leaves nothing out of the parser.
#[inline(always)]
fn use_headers<F: Family>(headers: &Headers<F>) {
    use_tuple(&headers.tuple);
    let segment = &headers.segment;
    opaque((segment.sequence ^ segment.acknowledgement ^ segment.length) as usize);
    opaque((headers.size.packets ^ headers.size.bytes) as usize);
    let small = segment.flags ^ headers.hop_limit;
    let offsets = headers.network ^ headers.transport;
    opaque((headers.class ^ headers.length ^ u32::from(small) ^ u32::from(offsets)) as usize);
}

#[inline(always)]
fn use_tuple<A: Address>(tuple: &FiveTuple<A>) {
    for word in tuple.source.words().into_iter().chain(tuple.destination.words()) {
        opaque(word as usize);
    }
    let ports = u32::from(tuple.source_port.0) ^ u32::from(tuple.destination_port.0);
    opaque((ports ^ tuple.protocol) as usize);
}

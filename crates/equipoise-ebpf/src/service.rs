//! Whether a packet of no flow is for a service.

use aya_ebpf::bindings::{bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as TupleV4};
use aya_ebpf::helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp};
use equipoise_common::key::{FiveTuple, PortsKey, ServiceKey, UDP};
use equipoise_common::step::What;
use equipoise_common::value::Service;
use equipoise_common::verdict::Verdict;

use crate::family::Family;
use crate::hook::Hook;
use crate::parse::Headers;
use crate::prefix::Prefix;
use crate::report;

/// The service that a packet of no flow is for.
///
/// The host's own connections may use a service's port as their local port: their packets look
/// the same and are told apart by the socket that waits for them.
///
/// Not inlined: its stack is wanted only while it runs.
#[inline(never)]
pub fn find<H: Hook, F: Family>(hook: &H, headers: &Headers<F>) -> Result<Service, Verdict> {
    let tuple = &headers.tuple;
    // The keys are in this CPU's work: kernel 6.1 counts a function's stack in steps of 32 bytes (6.18 of 16), and this one
    // would take a step too much.
    let Some(work) = F::work() else { return Err(Verdict::NoService) };
    let key = &mut work.key;
    *key = ServiceKey {
        address: tuple.destination,
        interface: hook.interface(),
        port: tuple.destination_port,
        protocol: tuple.protocol as u16,
    };
    let Some(service) = of(key, &mut work.ports) else {
        report::step(What::NoService, key.interface, u64::from(key.port.get()));
        return Err(Verdict::NoService);
    };
    report::step(What::Service, service.id, u64::from(service.pool));
    let may_be_own = headers.is_mid_stream() || tuple.protocol == UDP;
    if may_be_own && has_connected_socket(hook, tuple) {
        return Err(Verdict::LocalSocket);
    }
    Ok(service)
}

/// The service that has this port of an address, by itself or in a range. There is a place for the key of the latter.
#[inline(always)]
pub fn of<F: Family>(key: &ServiceKey<F>, place: &mut Prefix<PortsKey<F>>) -> Option<Service> {
    F::service(key).or_else(|| on_ports(key, place))
}

/// The service that has the port in a range, or all ports.
#[inline(always)]
fn on_ports<F: Family>(key: &ServiceKey<F>, place: &mut Prefix<PortsKey<F>>) -> Option<Service> {
    let &ServiceKey { address, interface, port, protocol } = key;
    let all = PortsKey::<F>::bits(16);
    place.set(all, PortsKey { address, interface, protocol, port });
    F::service_on_ports(place.key())
}

/// Whether a packet is of a connection of this host's own, to where it comes from. A client on this host is connected to
/// the VIP, and not to the backend.
///
/// Not inlined, as [`find`].
#[inline(never)]
pub fn is_own<H: Hook, F: Family>(hook: &H, headers: &Headers<F>) -> bool {
    has_connected_socket(hook, &headers.tuple)
}

/// True if a socket of this host is connected to the packet's source.
#[inline(always)]
fn has_connected_socket<H: Hook, F: Family>(hook: &H, tuple: &FiveTuple<F>) -> bool {
    /// `TCP_LISTEN` of the kernel's `net/tcp_states.h`.
    const LISTEN: u32 = 10;
    /// `BPF_F_CURRENT_NETNS`.
    const THIS_NETWORK: u64 = -1_i32 as u32 as u64;
    // Addresses, then ports: the layout of both families in `struct bpf_sock_tuple`.
    #[repr(C)]
    struct Tuple<F> {
        source: F,
        destination: F,
        ports: u32,
    }
    let wanted = Tuple {
        source: tuple.source,
        destination: tuple.destination,
        ports: u32::from(tuple.source_port.0) | u32::from(tuple.destination_port.0) << 16,
    };
    let size = if F::IS_V6 { size_of::<Tuple<F>>() - 4 } else { size_of::<TupleV4>() } as u32;
    let pointer = (&raw const wanted).cast_mut().cast::<bpf_sock_tuple>();
    let context = hook.context();
    let socket = if tuple.protocol == UDP {
        // SAFETY: `wanted` has the layout that the helper expects for `size`.
        unsafe { bpf_sk_lookup_udp(context, pointer, size, THIS_NETWORK, 0) }
    } else {
        // SAFETY: as above.
        unsafe { bpf_skc_lookup_tcp(context, pointer, size, THIS_NETWORK, 0) }
    };
    if socket.is_null() {
        return false;
    }
    let connected = if tuple.protocol == UDP {
        // An unconnected socket on a service's port takes nothing away from the service.
        // SAFETY: not null, and held until it is released below.
        unsafe { (*socket).dst_port != 0 }
    } else {
        // SAFETY: as above.
        unsafe { (*socket).state != LISTEN }
    };
    // SAFETY: the reference that the look-up took, given back once.
    unsafe { bpf_sk_release(socket.cast()) };
    connected
}

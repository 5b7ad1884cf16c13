//! Changing a packet's addresses and ports, with every checksum that covers them.

use equipoise_common::checksum;
use equipoise_common::key::FiveTuple;
use equipoise_common::step::What;
use equipoise_common::verdict::Verdict;

use crate::family::{Addresses, Family};
use crate::hook::{Change, Hook, Packet, port_word};
use crate::parse::Headers;
use crate::report;

/// Whether the packet is sent on by us, and so loses a hop.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hops {
    /// We forward it.
    TakeOne,
    /// The stack forwards or delivers it, or has already.
    Keep,
}

/// Makes the packet's five-tuple `to`.
#[inline(always)]
pub fn apply<H: Hook, F: Family>(
    hook: &H,
    packet: &Packet,
    headers: &Headers<F>,
    to: &FiveTuple<F>,
    hops: Hops,
) -> Result<(), Verdict> {
    let from = &headers.tuple;
    let addresses = Addresses { source: to.source, destination: to.destination };
    if !F::write(packet, headers, addresses, hops == Hops::TakeOne) {
        return Err(Verdict::RewriteFailed);
    }
    let ports =
        packet.window.header::<4>(usize::from(headers.transport)).ok_or(Verdict::RewriteFailed)?;
    ports.store::<_, 0>(to.source_port);
    ports.store::<_, 2>(to.destination_port);
    let change = Change {
        protocol: from.protocol,
        is_v6: F::IS_V6,
        transport: usize::from(headers.transport),
        addresses: to.source.change(from.source) + to.destination.change(from.destination),
        ports: checksum::difference(port_word(from.source_port), port_word(to.source_port))
            + checksum::difference(
                port_word(from.destination_port),
                port_word(to.destination_port),
            ),
    };
    if !hook.adjust_checksum(&change) {
        return Err(Verdict::RewriteFailed);
    }
    report::step(
        What::Rewritten,
        u32::from(to.destination_port.get()),
        u64::from(to.source_port.get()),
    );
    Ok(())
}

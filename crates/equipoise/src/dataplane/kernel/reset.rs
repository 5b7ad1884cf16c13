//! RSTs to both ends of flows that have been ended from user space.
//!
//! Sent by raw sockets, whole packets with the addresses of the other end, which the kernel routes as any other. An
//! end that takes the sequence number for inexact asks with a challenge acknowledgement (RFC 5961 section 3.2), and
//! the packet program answers that exactly.

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;
use socket2::{Domain, Protocol, Socket, Type};

use super::Ties;
use super::event::warn_once;

const HOPS: u8 = 64;

/// Resets both ends of these flows; of those whose packets stay as they are, the client alone. What cannot be sent is told and left: the ends' next packets are
/// answered with a RST by the packet program.
pub(super) fn send(flows: &[Ties]) {
    let mut sockets = [None, None];
    let (mut sent, mut failed) = (0_u64, 0_u64);
    for ties in flows {
        let to_client = segment(ties.vip, ties.client, ties.backend_sent, ties.client_sent);
        let to_backend =
            segment(ties.client_at_backend, ties.backend, ties.client_sent, ties.backend_sent);
        let both = [(to_client, ties.client), (to_backend, ties.backend)];
        for (packet, to) in both.into_iter().take(if ties.is_one_sided { 1 } else { 2 }) {
            let socket = &mut sockets[usize::from(to.is_ipv6())];
            if socket.is_none() {
                *socket = warn_once("no raw socket for RSTs, which takes CAP_NET_RAW", open(to));
            }
            // A raw socket takes no port.
            let place = SocketAddr::new(to.ip(), 0).into();
            match socket.as_ref().zip(packet).map(|(socket, p)| socket.send_to(&p, &place)) {
                Some(Ok(_)) => sent += 1,
                Some(Err(_)) | None => failed += 1,
            }
        }
    }
    tracing::info!(flows = flows.len(), sent, failed, "reset flows");
}

fn open(to: SocketAddr) -> std::io::Result<Socket> {
    // The protocol number means that packets come with their IP header, in both families.
    let raw = Protocol::from(libc::IPPROTO_RAW);
    let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(raw))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A RST with its IP header; none where the two addresses are of two families.
fn segment(
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    acknowledgement: u32,
) -> Option<Vec<u8>> {
    let builder = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), HOPS),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), HOPS),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    let builder = builder.tcp(from.port(), to.port(), sequence, 0).ack(acknowledgement).rst();
    let mut packet = Vec::with_capacity(builder.size(0));
    builder.write(&mut packet, &[]).ok()?;
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rst_carries_the_numbers_that_its_receiver_expects() {
        for (from, to) in
            [("192.0.2.1:80", "198.51.100.7:4242"), ("[2001:db8::1]:80", "[2001:db8::7]:4242")]
        {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let packet = segment(from, to, 7, 9).unwrap();
            let parsed = etherparse::PacketHeaders::from_ip_slice(&packet).unwrap();
            let tcp = parsed.transport.unwrap().tcp().unwrap();
            assert!(tcp.rst && tcp.ack && !tcp.syn);
            assert_eq!((tcp.source_port, tcp.destination_port), (80, 4242));
            assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (7, 9));
        }
    }
}

//! ICMP: errors that come from elsewhere about packets of flows, errors that arise here, echo requests. Byte for byte.

use std::net::IpAddr;

use equipoise_common::verdict::{Hook, Verdict};
use etherparse::{
    Ethernet2Header, Icmpv4Type, Icmpv6Type, IpHeaders, IpNumber, Ipv4Header, Ipv6Header,
    PacketBuilderStep, icmpv4, icmpv6,
};

use crate::answers::{ETHERNET, TAGS, tagged};
use crate::bench::{HOSTS, Packet, Transport};
use crate::talk::{CONNECTED, EXCHANGED, Side, Talk, bounced, redirect, talks};
use crate::world::{World, services};

use Side::{Backend, Client};

const XDP_PASS: i32 = 2;
const XDP_DROP: i32 = 1;
const TC_UNSPEC: i32 = -1;
const TC_SHOT: i32 = 2;

/// What a packet can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Size(u16),
    Hops,
    Port,
    Parameter,
    /// No trouble: an echo request.
    Echo,
    EchoReply,
}

/// An ICMP packet with this payload, checksums computed from scratch.
pub(crate) struct Message<'a> {
    pub(crate) ends: [IpAddr; 2],
    pub(crate) hops: u8,
    /// Network control for what is made here (RFC 1812 section 4.3.2.5).
    pub(crate) dscp: u8,
    pub(crate) trouble: Trouble,
    pub(crate) payload: &'a [u8],
}

impl Message<'_> {
    pub(crate) fn build(&self, link: PacketBuilderStep<Ethernet2Header>) -> Vec<u8> {
        let mut frame = Vec::new();
        match self.ends {
            [IpAddr::V4(from), IpAddr::V4(to)] => {
                let mut header = Ipv4Header {
                    time_to_live: self.hops,
                    source: from.octets(),
                    destination: to.octets(),
                    protocol: IpNumber::ICMP,
                    ..Default::default()
                };
                header.dont_fragment = false;
                header.dscp = self.dscp.try_into().unwrap();
                let echo = etherparse::IcmpEchoHeader { id: 7, seq: 9 };
                let kind = match self.trouble {
                    Trouble::Size(mtu) => Icmpv4Type::DestinationUnreachable(
                        icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu },
                    ),
                    Trouble::Hops => {
                        Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit)
                    }
                    Trouble::Port => {
                        Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port)
                    }
                    Trouble::Parameter => Icmpv4Type::ParameterProblem(
                        icmpv4::ParameterProblemHeader::PointerIndicatesError(9),
                    ),
                    Trouble::Echo => Icmpv4Type::EchoRequest(echo),
                    Trouble::EchoReply => Icmpv4Type::EchoReply(echo),
                };
                link.ip(IpHeaders::Ipv4(header, Default::default()))
                    .icmpv4(kind)
                    .write(&mut frame, self.payload)
                    .unwrap();
            }
            [IpAddr::V6(from), IpAddr::V6(to)] => {
                let header = Ipv6Header {
                    hop_limit: self.hops,
                    source: from.octets(),
                    destination: to.octets(),
                    next_header: IpNumber::IPV6_ICMP,
                    ..Default::default()
                };
                let echo = etherparse::IcmpEchoHeader { id: 7, seq: 9 };
                let kind = match self.trouble {
                    Trouble::Size(mtu) => Icmpv6Type::PacketTooBig { mtu: mtu.into() },
                    Trouble::Hops => {
                        Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded)
                    }
                    Trouble::Port => {
                        Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port)
                    }
                    Trouble::Parameter => {
                        Icmpv6Type::ParameterProblem(icmpv6::ParameterProblemHeader {
                            code: icmpv6::ParameterProblemCode::UnrecognizedNextHeader,
                            pointer: 6,
                        })
                    }
                    Trouble::Echo => Icmpv6Type::EchoRequest(echo),
                    Trouble::EchoReply => Icmpv6Type::EchoReply(echo),
                };
                link.ip(IpHeaders::Ipv6(header, Default::default()))
                    .icmpv6(kind)
                    .write(&mut frame, self.payload)
                    .unwrap();
            }
            other => panic!("{other:?} are of two families"),
        }
        frame
    }
}

pub(crate) const TROUBLES: [Trouble; 4] =
    [Trouble::Size(1280), Trouble::Hops, Trouble::Port, Trouble::Parameter];

/// A router that is neither end.
fn router(talk: &Talk) -> IpAddr {
    let text = if talk.ends.vip.is_ipv4() { "192.0.2.254" } else { "2001:db8:99::1" };
    text.parse().unwrap()
}

fn header_of(talk: &Talk, packet: Packet) -> usize {
    if talk.ends.vip.is_ipv4() { 20 + packet.options } else { 40 }
}

/// A talk that has begun, TCP or UDP.
fn begun(world: &World, mut talk: Talk, transport: Transport) -> Talk {
    talk.all(world, if transport == Transport::Udp { &EXCHANGED } else { &CONNECTED });
    talk
}

/// Sends an error about a packet of `side`, which comes from the other side's network, and checks what becomes of it.
fn told(world: &World, talk: &Talk, about: (Side, Packet), how: (Trouble, IpAddr, usize)) {
    let ((side, packet), (trouble, from, bytes)) = (about, how);
    let (_, output) = talk.send(world, side, packet);
    let quoted = header_of(talk, packet) + bytes;
    let lost = &output.frame[ETHERNET..][..quoted];
    let written = packet.hops(63).build(world.client_link());
    let written = &written[ETHERNET..][..quoted];
    let (client, vip, backend) =
        (talk.ends.client.ip(), talk.ends.vip.ip(), talk.ends.backend.ip());
    let (device, link, addressed, out, verdict, ends) = match side {
        Client => (
            world.back,
            world.backend_link(),
            client,
            world.front,
            Verdict::ForwardedErrorToClient,
            [vip, client],
        ),
        Backend => (
            world.front,
            world.client_link(),
            vip,
            world.back,
            Verdict::ForwardedErrorToBackend,
            [from, backend],
        ),
    };
    let message = |ends, hops, payload| Message { ends, hops, dscp: 0, trouble, payload };
    let frame = message([from, addressed], 64, lost).build(link);
    for tags in TAGS {
        let sent = world.sent_with(talk.hook, out, tags.len());
        let expected = message(ends, 63, written).build(sent);
        let (got, output) = world.verdict(talk.hook, device, &tagged(&frame, tags));
        let what = format!("{talk:?} {packet:?} {trouble:?} {bytes}");
        assert_eq!((got, output.action), (verdict, redirect(talk.hook)), "{what}");
        assert_eq!(output.frame, tagged(&expected, tags), "{what}");
    }
}

#[test]
fn errors_reach_the_end_that_has_sent_the_packet_with_the_packet_as_it_sent_it() {
    let world = World::new(&services("", 1));
    for (port, transport) in [(9000, Transport::Ack), (9100, Transport::Udp)] {
        for talk in talks(port) {
            let talk = begun(&world, talk, transport);
            for side in Side::BOTH {
                let packet = talk.packet(side, transport);
                let far = if side == Client { talk.ends.backend } else { talk.ends.client };
                for trouble in TROUBLES {
                    for from in [router(&talk), far.ip()] {
                        // The least, up to a TCP checksum and not, and all.
                        for bytes in [8, 16, 18] {
                            told(&world, &talk, (side, packet), (trouble, from, bytes));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn errors_with_ip_options_in_their_quote_are_read() {
    let world = World::new(&services("", 1));
    for talk in talks(9200).into_iter().filter(|talk| talk.ends.vip.is_ipv4()) {
        let talk = begun(&world, talk, Transport::Ack);
        for side in Side::BOTH {
            for words in 1..=10 {
                let packet = talk.packet(side, Transport::Ack).options(words * 4);
                told(&world, &talk, (side, packet), (Trouble::Size(576), router(&talk), 20));
            }
        }
    }
}

#[test]
fn errors_about_packets_of_no_flow_are_passed_as_they_came() {
    let world = World::new(&services("", 1));
    for talk in talks(9300) {
        let packet = talk.packet(Backend, Transport::Ack);
        let quote = packet.build(world.client_link());
        let ends = [router(&talk), talk.ends.backend.ip()];
        for trouble in TROUBLES {
            let message = Message { ends, hops: 64, dscp: 0, trouble, payload: &quote[ETHERNET..] };
            let frame = message.build(world.client_link());
            let (verdict, output) = world.verdict(talk.hook, world.front, &frame);
            let passed = if talk.hook == Hook::Xdp { XDP_PASS } else { TC_UNSPEC };
            let expected = (Verdict::NotTcpUdp, passed);
            assert_eq!((verdict, output.action), expected, "{talk:?} {trouble:?}");
            assert_eq!(output.frame, frame);
        }
    }
}

#[test]
fn an_error_on_its_last_hop_is_not_answered() {
    let world = World::new(&services("", 1));
    for talk in talks(9400) {
        let talk = begun(&world, talk, Transport::Ack);
        let packet = talk.packet(Client, Transport::Ack);
        let (_, output) = talk.send(&world, Client, packet);
        let message = Message {
            ends: [router(&talk), talk.ends.client.ip()],
            hops: 1,
            dscp: 0,
            trouble: Trouble::Hops,
            payload: &output.frame[ETHERNET..],
        };
        let frame = message.build(world.backend_link());
        let (verdict, output) = world.verdict(talk.hook, world.back, &frame);
        let dropped = if talk.hook == Hook::Xdp { XDP_DROP } else { TC_SHOT };
        assert_eq!((verdict, output.action), (Verdict::Unanswerable, dropped));
    }
}

/// Sends a packet of a side, and checks that this host tells its sender of this trouble, quoting what it sent.
fn answered(world: &World, talk: &Talk, about: (Side, Packet), how: (Trouble, Verdict)) {
    const NETWORK_CONTROL: u8 = 48;
    let ((side, packet), (trouble, verdict)) = (about, how);
    let (device, frame) = talk.frame(world, side, packet);
    let is_v4 = talk.ends.vip.is_ipv4();
    let host = HOSTS[side as usize][usize::from(!is_v4)].parse().unwrap();
    let bytes = if packet.transport == Transport::Udp { 8 } else { 20 };
    let quoted = header_of(talk, packet) + bytes;
    let message = Message {
        ends: [host, packet.from.ip()],
        hops: 64,
        dscp: if is_v4 { NETWORK_CONTROL } else { 0 },
        trouble,
        payload: &frame[ETHERNET..][..quoted],
    };
    let expected = message.build(world.sent(Hook::Xdp, device));
    for tags in TAGS {
        let (got, output) = world.verdict(talk.hook, device, &tagged(&frame, tags));
        let what = format!("{talk:?} {packet:?} {trouble:?}");
        assert_eq!((got, output.action), (verdict, bounced(talk.hook)), "{what}");
        assert_eq!(output.frame, tagged(&expected, tags), "{what}");
    }
}

#[test]
fn a_packet_on_its_last_hop_is_answered_with_time_exceeded() {
    let world = World::new(&services("", 1));
    for (port, transport) in [(9500, Transport::Ack), (9600, Transport::Udp)] {
        for talk in talks(port) {
            let talk = begun(&world, talk, transport);
            for hops in [0, 1] {
                for (side, verdict) in
                    [(Client, Verdict::RequestHopLimit), (Backend, Verdict::ReplyHopLimit)]
                {
                    let packet = talk.packet(side, transport).hops(hops);
                    answered(&world, &talk, (side, packet), (Trouble::Hops, verdict));
                }
            }
        }
    }
    // The first packet of a flow, too: so it is traced.
    for talk in talks(9700) {
        for transport in [Transport::Syn, Transport::Udp] {
            let packet = talk.packet(Client, transport).hops(1);
            answered(&world, &talk, (Client, packet), (Trouble::Hops, Verdict::RequestHopLimit));
        }
    }
}

#[test]
fn a_packet_too_big_for_the_next_link_is_answered_with_the_size_of_that() {
    const LARGE: &[u8] = &[7; 1_400];
    let world = World::new(&services("", 1));
    for (port, transport) in [(9800, Transport::Ack), (9900, Transport::Udp)] {
        for talk in talks(port) {
            let talk = begun(&world, talk, transport);
            for (side, to, device, verdict) in [
                (Client, talk.ends.backend, "back", Verdict::RequestTooBig),
                (Backend, talk.ends.client, "front", Verdict::ReplyTooBig),
            ] {
                let route = format!("{} dev {device}", to.ip());
                world.netns.ip(&format!("route add {route} mtu lock 1300")).unwrap();
                let packet = Packet { payload: LARGE, ..talk.packet(side, transport) };
                answered(&world, &talk, (side, packet), (Trouble::Size(1300), verdict));
                world.netns.ip(&format!("route del {route}")).unwrap();
            }
        }
    }
}

#[test]
fn an_echo_request_to_a_vip_that_nobody_has_is_answered() {
    // `front` has the first VIP of IPv4 as an address of its own.
    let world = World::new(&services("", 1));
    for talk in talks(9950) {
        let (client, vip) = (talk.ends.client.ip(), talk.ends.vip.ip());
        let message = |ends, hops, trouble| Message {
            ends,
            hops,
            dscp: 0,
            trouble,
            payload: b"are you there? ",
        };
        let frame = message([client, vip], 17, Trouble::Echo).build(world.client_link());
        let is_own = vip.is_ipv4();
        for tags in TAGS {
            let (verdict, output) = world.verdict(talk.hook, world.front, &tagged(&frame, tags));
            if is_own {
                assert_eq!(verdict, Verdict::NotTcpUdp, "the stack answers for its own");
                assert_eq!(output.frame, tagged(&frame, tags));
                continue;
            }
            let link = world.sent(Hook::Xdp, world.front);
            let expected = message([vip, client], 64, Trouble::EchoReply).build(link);
            assert_eq!((verdict, output.action), (Verdict::Echo, bounced(talk.hook)), "{talk:?}");
            assert_eq!(output.frame, tagged(&expected, tags), "{talk:?}");
        }
    }
}

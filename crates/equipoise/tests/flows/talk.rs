//! A client and a backend that talk through the balancer, packet by packet, with the numbers that real ones have.
//!
//! What is said is checked on its way through: verdict, action, and every byte. What is not to pass is
//! built here, too, for the tests to send.

use std::net::SocketAddr;

use equipoise::dataplane::kernel::Output;
use equipoise_common::verdict::{Hook, Verdict};

use crate::bench::{Ends, PAYLOAD, Packet, Transport, families};
use crate::world::{HOOKS, World};

const XDP_TX: i32 = 3;
const XDP_REDIRECT: i32 = 4;
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const TC_SHOT: i32 = 2;
const TC_REDIRECT: i32 = 7;
const TC_UNSPEC: i32 = -1;

/// First sequence numbers, both about to go round.
pub(crate) const FIRST: [u32; 2] = [0xffff_fff0, 0xffff_ffff];

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Client,
    Backend,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Client, Self::Backend];

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }
}

/// What makes a connection.
pub(crate) const CONNECTED: [(Side, Transport); 3] = [
    (Side::Client, Transport::Syn),
    (Side::Backend, Transport::SynAck),
    (Side::Client, Transport::Bare),
];

/// What makes an exchange of datagrams.
pub(crate) const EXCHANGED: [(Side, Transport); 3] = [
    (Side::Client, Transport::Udp),
    (Side::Backend, Transport::Udp),
    (Side::Client, Transport::Udp),
];

/// A frame at a hook of a device.
pub(crate) type Line = (Hook, u32, Vec<u8>);

/// A connection, or an exchange of datagrams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Talk {
    pub(crate) hook: Hook,
    pub(crate) ends: Ends,
    /// The next sequence numbers of client and backend.
    pub(crate) next: [u32; 2],
}

/// One at each hook for each family, with ports of their own from `port` on.
pub(crate) fn talks(port: u16) -> Vec<Talk> {
    let at = |(number, hook)| families(port + number).map(|ends| Talk::new(hook, ends));
    (0..).zip(HOOKS).flat_map(at).collect()
}

impl Talk {
    pub(crate) fn new(hook: Hook, ends: Ends) -> Self {
        Self { hook, ends, next: FIRST }
    }

    /// What a side would send now, as it leaves it.
    pub(crate) fn packet(&self, side: Side, transport: Transport) -> Packet {
        let Ends { client, vip, backend } = self.ends;
        let (from, to) = if side == Side::Client { (client, vip) } else { (backend, client) };
        let [mine, theirs] = [self.next[side as usize], self.next[side.other() as usize]];
        let payload = match transport {
            Transport::Ack | Transport::Udp => PAYLOAD,
            Transport::Syn
            | Transport::SynAck
            | Transport::Fin
            | Transport::LoneFin
            | Transport::Reset
            | Transport::Refusal
            | Transport::Bare => &[],
        };
        let numbers = if transport == Transport::Syn { [mine, 0] } else { [mine, theirs] };
        Packet { numbers, payload, ..Packet::between([from, to], transport) }
    }

    /// Its bytes as they come in, and the device that they come in by.
    pub(crate) fn frame(&self, world: &World, side: Side, packet: Packet) -> (u32, Vec<u8>) {
        match side {
            Side::Client => (world.front, packet.build(world.client_link())),
            Side::Backend => (world.back, packet.build(world.backend_link())),
        }
    }

    /// Sends a packet of a side; nothing is expected of it.
    pub(crate) fn send(&self, world: &World, side: Side, packet: Packet) -> (Verdict, Output) {
        let (device, frame) = self.frame(world, side, packet);
        world.verdict(self.hook, device, &frame)
    }

    /// Sends a packet of a side, and checks that it gets through as it should.
    pub(crate) fn pass(&self, world: &World, side: Side, packet: Packet) {
        let Ends { client, vip, backend } = self.ends;
        let (verdict, output) = self.send(world, side, packet);
        let (expected, out, [from, to]) = match side {
            Side::Client => (Verdict::ForwardedRequest, world.back, [client, backend]),
            Side::Backend => (Verdict::ForwardedReply, world.front, [vip, client]),
        };
        assert_eq!(
            (verdict, output.action),
            (expected, redirect(self.hook)),
            "{self:?} {packet:?}"
        );
        let sent = Packet { from, to, ..packet }.hops(63).build(world.sent(self.hook, out));
        assert_eq!(output.frame, sent, "{self:?} {packet:?}");
    }

    /// What a side says next, with which the talk goes on.
    pub(crate) fn next(&mut self, side: Side, transport: Transport) -> Packet {
        let packet = self.packet(side, transport);
        let spoken = match transport {
            Transport::Syn | Transport::SynAck | Transport::Fin | Transport::LoneFin => 1,
            Transport::Ack => packet.payload.len() as u32,
            Transport::Udp | Transport::Bare | Transport::Reset | Transport::Refusal => 0,
        };
        let next = &mut self.next[side as usize];
        *next = next.wrapping_add(spoken);
        packet
    }

    /// Says something that gets through.
    pub(crate) fn say(&mut self, world: &World, side: Side, transport: Transport) {
        let packet = self.next(side, transport);
        self.pass(world, side, packet);
    }

    /// Several things in turn, to be sent by [`World::batch`].
    pub(crate) fn script(&mut self, world: &World, lines: &[(Side, Transport)]) -> Vec<Line> {
        let line = |&(side, transport): &(Side, Transport)| {
            let packet = self.next(side, transport);
            let (device, frame) = self.frame(world, side, packet);
            (self.hook, device, frame)
        };
        lines.iter().map(line).collect()
    }

    /// Says several things in turn.
    pub(crate) fn all(&mut self, world: &World, lines: &[(Side, Transport)]) {
        for &(side, transport) in lines {
            self.say(world, side, transport);
        }
    }

    /// A connection is made.
    pub(crate) fn connect(&mut self, world: &World) {
        self.all(world, &CONNECTED);
        assert_eq!(self.state(world), Some("established"));
    }

    /// An exchange of datagrams, until it is taken for one.
    pub(crate) fn exchange(&mut self, world: &World) {
        self.all(world, &EXCHANGED);
        assert_eq!(self.state(world), Some("two-way"));
    }

    /// The state of its flow; none without one.
    pub(crate) fn state(&self, world: &World) -> Option<&'static str> {
        world.state(self.ends.client)
    }

    /// Sends a packet of a side, and checks that a RST comes back: from whom it was sent to, with this sequence
    /// number and acknowledgement.
    pub(crate) fn is_reset(&self, world: &World, side: Side, packet: Packet, expected: Verdict) {
        let (verdict, output) = self.send(world, side, packet);
        let answered = (expected, bounced(self.hook));
        assert_eq!((verdict, output.action), answered, "{self:?} {packet:?}");
        let device = if side == Side::Client { world.front } else { world.back };
        // Turned round in its own frame: what TC sends is not given other link addresses by the stack.
        let answer = reset_to(packet).build(world.sent(Hook::Xdp, device));
        assert_eq!(output.frame, answer, "{self:?} {packet:?}");
    }

    /// Sends a packet of a side, and checks that it ends here.
    pub(crate) fn is_dropped(&self, world: &World, side: Side, packet: Packet, expected: Verdict) {
        let (verdict, output) = self.send(world, side, packet);
        assert_eq!((verdict, output.action), (expected, dropped(self.hook)), "{self:?} {packet:?}");
    }

    /// Sends a packet of a side, and checks that it is left to the stack untouched.
    pub(crate) fn is_passed(&self, world: &World, side: Side, packet: Packet, expected: Verdict) {
        let (device, frame) = self.frame(world, side, packet);
        let (verdict, output) = world.verdict(self.hook, device, &frame);
        assert_eq!((verdict, output.action), (expected, passed(self.hook)), "{self:?} {packet:?}");
        assert_eq!(output.frame, frame, "{self:?} {packet:?}");
    }
}

/// What answers a TCP packet that nobody wants (RFC 9293 section 3.10.7.1).
pub(crate) fn reset_to(packet: Packet) -> Packet {
    let [sequence, acknowledgement] = packet.numbers;
    let is_silent = matches!(packet.transport, Transport::Syn | Transport::LoneFin);
    let (transport, numbers) = if is_silent {
        let length = packet.payload.len() as u32 + 1;
        (Transport::Refusal, [0, sequence.wrapping_add(length)])
    } else {
        (Transport::Reset, [acknowledgement, 0])
    };
    let ends = [packet.to, packet.from];
    Packet { numbers, options: packet.options, ..Packet::between(ends, transport) }
}

pub(crate) fn redirect(hook: Hook) -> i32 {
    if hook == Hook::Xdp { XDP_REDIRECT } else { TC_REDIRECT }
}

pub(crate) fn passed(hook: Hook) -> i32 {
    if hook == Hook::Xdp { XDP_PASS } else { TC_UNSPEC }
}

pub(crate) fn dropped(hook: Hook) -> i32 {
    if hook == Hook::Xdp { XDP_DROP } else { TC_SHOT }
}

/// The action that sends a packet back by the device that it came by.
pub(crate) fn bounced(hook: Hook) -> i32 {
    if hook == Hook::Xdp { XDP_TX } else { TC_REDIRECT }
}

/// Source and destination of a frame that a program has let out.
pub(crate) fn ends_of(frame: &[u8]) -> [SocketAddr; 2] {
    let headers = etherparse::PacketHeaders::from_ethernet_slice(frame).unwrap();
    let ports = match headers.transport.unwrap() {
        etherparse::TransportHeader::Tcp(tcp) => [tcp.source_port, tcp.destination_port],
        etherparse::TransportHeader::Udp(udp) => [udp.source_port, udp.destination_port],
        other => panic!("{other:?}"),
    };
    let [from, to] = match headers.net.unwrap() {
        etherparse::NetHeaders::Ipv4(ip, _) => [ip.source.into(), ip.destination.into()],
        etherparse::NetHeaders::Ipv6(ip, _) => [ip.source.into(), ip.destination.into()],
        other @ etherparse::NetHeaders::Arp(_) => panic!("{other:?}"),
    };
    [SocketAddr::new(from, ports[0]), SocketAddr::new(to, ports[1])]
}

//! Packets as clients, backends, routers and strangers send them: of flows that there are, in any order, and of none.

use std::net::{IpAddr, SocketAddr};

use equipoise::dataplane::kernel::Entry;

use super::balancer::{Balancer, ends, keeps};
use super::datagram::{Header, Piece, Segment};
use super::memory::Flow;
use super::shot::{Carries, Shot};
use crate::wire::{ACK, Dice, FIN, RST, SYN, TCP, UDP};

/// The second has no link address.
const CLIENTS: [[&str; 3]; 2] = [
    ["198.51.100.7", "198.51.100.8", "198.51.100.9"],
    ["2001:db8:c::7", "2001:db8:c::8", "2001:db8:c::9"],
];
/// Nobody that we know.
const STRANGERS: [[&str; 2]; 2] =
    [["198.51.100.77", "10.0.0.77"], ["2001:db8:c::77", "2001:db8:b::77"]];

/// The next packet.
pub(crate) fn shot(seed: u64, balancer: &Balancer) -> Shot {
    let mut dice = Dice(seed);
    let dice = &mut dice;
    let mut at_back = false;
    let (header, carries) = match dice.below(16) {
        0..6 => request(dice, balancer, false),
        6..8 => request(dice, balancer, true),
        8..11 => {
            at_back = true;
            reply(dice, balancer)
        }
        11..14 => error(dice, balancer, &mut at_back),
        14 => echo(dice, balancer),
        _ => stranger(dice, &mut at_back),
    };
    // Now and then at the other interface.
    let at_back = at_back != dice.one_in(40);
    let entry = match dice.below(16) {
        0..5 => Entry::Xdp,
        5..9 => Entry::XdpGeneric,
        9..14 => Entry::Ingress,
        _ => Entry::Egress,
    };
    let tags = dice.pick(&[vec![], vec![], vec![], vec![0x8100], vec![0x88a8, 0x8100]]);
    Shot { seed, entry, at_back, tags, header, carries }
}

fn header(dice: &mut Dice, from: IpAddr, to: IpAddr) -> Header {
    Header {
        from,
        to,
        hops: dice.pick(&[64, 64, 64, 64, 255, 2, 1, 0]),
        class: dice.pick(&[0, 0, 1, 2, 3, 0x10, 0xb8, dice.clone().next() as u8]),
        label: dice.pick(&[0, 0, 0xabcde, 1]),
        identification: dice.below(24) as u32,
        whole: !dice.one_in(3),
        options: if dice.one_in(8) { dice.below(11) as u8 } else { 0 },
        extensions: if dice.one_in(8) { dice.below(4) as u8 } else { 0 },
    }
}

fn segment(dice: &mut Dice, protocol: u8, ports: [u16; 2], flags: u8) -> Segment {
    let is_tcp = protocol == TCP;
    Segment {
        protocol,
        ports,
        flags: if is_tcp { flags } else { 0 },
        numbers: [dice.next() as u32, dice.next() as u32],
        window: dice.next() as u16,
        options: if is_tcp { options(dice, flags) } else { vec![] },
        unsummed: dice.one_in(8),
        data: match dice.below(16) {
            0..6 => dice.below(40),
            6..12 => dice.below(1200),
            12 => 1500,
            _ => 1360 + dice.below(120),
        },
    }
}

fn options(dice: &mut Dice, flags: u8) -> Vec<u8> {
    let mut options = Vec::new();
    if flags & SYN != 0 && !dice.one_in(4) {
        for _ in 0..dice.below(4) {
            options.extend(dice.pick(&[
                &[1][..],
                &[3, 3, 7],
                &[4, 2],
                &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
            ]));
        }
        let asked = dice.pick(&[1460_u16, 1440, 8960, 536, 1200, 65_495, 100]);
        options.extend([2, 4]);
        options.extend(asked.to_be_bytes());
    } else if dice.one_in(4) {
        options.extend([1, 1, 8, 10, 9, 9, 9, 9, 8, 8, 8, 8]);
    }
    let words = options.len().div_ceil(4);
    options.resize(4 * words, 0);
    options
}

/// A part of a packet, or all of it.
fn piece(dice: &mut Dice, segment: &Segment, is_v6: bool) -> Option<Piece> {
    let length = segment.header() + segment.data;
    let first = 64 + 8 * dice.below(12);
    if length <= first {
        // A packet that might have been cut (RFC 6946).
        return is_v6.then_some(Piece { offset: 0, length, more: false });
    }
    let middle = first + 8 * dice.below((length - first).div_ceil(8));
    Some(match dice.below(3) {
        0 => Piece { offset: 0, length: first, more: true },
        1 if middle > first => Piece { offset: first, length: middle - first, more: true },
        _ => Piece { offset: middle, length: length - middle, more: false },
    })
}

fn flow<'a>(dice: &mut Dice, balancer: &'a Balancer) -> Option<&'a Flow> {
    let flows = &balancer.flows;
    // Of the last ones, so that flows are met again.
    let among = flows.len().min(40);
    (among > 0).then(|| &flows[flows.len() - 1 - dice.below(among)])
}

/// From a client to a VIP, or a fragment of that.
fn request(dice: &mut Dice, balancer: &Balancer, is_cut: bool) -> (Header, Carries) {
    let service = dice.pick(&balancer.services);
    let family = usize::from(service.vip.is_ipv6());
    let known = flow(dice, balancer).filter(|_| dice.one_in(2));
    let (protocol, from, to) = match known {
        Some(flow) => (flow.protocol, flow.client, flow.vip),
        None => {
            let client: IpAddr = dice.pick(&CLIENTS[family]).parse().unwrap();
            let client = SocketAddr::new(client, 5000 + dice.below(12) as u16);
            let port = if dice.one_in(12) { 9 } else { dice.pick(&[80, 80, 80, 81, 90, 443]) };
            let protocol =
                if dice.one_in(10) { dice.pick(&[TCP, UDP]) } else { dice.pick(service.protocols) };
            (protocol, client, SocketAddr::new(service.vip, port))
        }
    };
    let flags = if dice.one_in(40) {
        dice.next() as u8
    } else {
        dice.pick(&[SYN, SYN, SYN, ACK, ACK, ACK, FIN | ACK, RST])
    };
    packet(dice, protocol, (from, to), flags, is_cut)
}

fn packet(
    dice: &mut Dice,
    protocol: u8,
    (from, to): (SocketAddr, SocketAddr),
    flags: u8,
    is_cut: bool,
) -> (Header, Carries) {
    let mut header = header(dice, from.ip(), to.ip());
    let segment = segment(dice, protocol, [from.port(), to.port()], flags);
    let piece = if is_cut { piece(dice, &segment, from.is_ipv6()) } else { None };
    header.whole &= piece.is_none();
    (header, Carries::Segment(segment, piece))
}

/// From a backend, to its client as it knows it.
fn reply(dice: &mut Dice, balancer: &Balancer) -> (Header, Carries) {
    let Some(flow) = flow(dice, balancer) else { return request(dice, balancer, false) };
    let ends = match (flow.name, &flow.backends[..]) {
        _ if keeps(balancer.services[flow.service].mode) => (flow.vip, flow.client),
        (Some(name), [backend]) => (*backend, name),
        _ => return request(dice, balancer, false),
    };
    let flags = dice.pick(&[SYN | ACK, SYN | ACK, ACK, ACK, FIN | ACK, RST, RST | ACK]);
    let (protocol, is_cut) = (flow.protocol, dice.one_in(3));
    packet(dice, protocol, ends, flags, is_cut)
}

/// From anybody on the way, about a packet of a flow, or of none.
fn error(dice: &mut Dice, balancer: &Balancer, at_back: &mut bool) -> (Header, Carries) {
    let Some(flow) = flow(dice, balancer).cloned() else { return request(dice, balancer, false) };
    let about_reply = dice.one_in(2);
    let keeps = keeps(balancer.services[flow.service].mode);
    let (from, mut to) = match (about_reply, flow.name, &flow.backends[..]) {
        (true, _, _) if keeps => (flow.vip, flow.client),
        (false, _, _) if keeps => (flow.client, flow.vip),
        (true, Some(_), [_]) => (flow.vip, flow.client),
        (false, Some(name), [backend]) => (name, *backend),
        _ => return request(dice, balancer, false),
    };
    if dice.one_in(8) {
        to.set_port(7);
    }
    *at_back = !about_reply;
    let is_v6 = from.is_ipv6();
    let ours: IpAddr =
        crate::bench::HOSTS[usize::from(*at_back)][usize::from(is_v6)].parse().unwrap();
    let sender =
        if dice.one_in(2) { to.ip() } else { STRANGERS[usize::from(is_v6)][0].parse().unwrap() };
    let sender = if sender == ours { to.ip() } else { sender };
    let mut about = header(dice, from.ip(), to.ip());
    about.extensions = 0;
    let flags = dice.pick(&[SYN, ACK, SYN | ACK]);
    let mut segment = segment(dice, flow.protocol, [from.port(), to.port()], flags);
    segment.data = segment.data.min(400);
    // Half a checksum is not mended.
    let quoted = dice.pick(&[8, 8, 9, 12, 16, 18, 19, 28, 64, 200]);
    let kinds: &[[u8; 2]] = if is_v6 {
        &[[1, 0], [1, 4], [2, 0], [3, 0], [4, 0]]
    } else {
        &[[3, 1], [3, 3], [3, 4], [11, 0], [12, 0]]
    };
    let kind = dice.pick(kinds);
    let word = dice.pick(&[0, 1280, 1400]);
    let header = header(dice, sender, from.ip());
    (header, Carries::Error { kind, word, about, segment, quoted })
}

fn echo(dice: &mut Dice, balancer: &Balancer) -> (Header, Carries) {
    let service = dice.pick(&balancer.services);
    let client = dice.pick(&CLIENTS[usize::from(service.vip.is_ipv6())]).parse().unwrap();
    let mut header = header(dice, client, service.vip);
    let data = dice.below(600);
    let piece = (dice.one_in(4) && data > 100).then(|| {
        let offset = dice.pick(&[0, 64]);
        let length = if offset == 0 { 64 } else { 8 + data - 64 };
        Piece { offset, length, more: offset == 0 }
    });
    header.whole &= piece.is_none();
    (header, Carries::Echo { word: dice.next() as u32, data, piece })
}

/// Between ends that nobody knows.
fn stranger(dice: &mut Dice, at_back: &mut bool) -> (Header, Carries) {
    let family = dice.below(2);
    let mut both = STRANGERS[family].map(|ip| SocketAddr::new(ip.parse().unwrap(), 4000));
    *at_back = dice.one_in(2);
    if *at_back {
        both.reverse();
    }
    let (protocol, is_cut) = (dice.pick(&[TCP, UDP]), dice.one_in(3));
    packet(dice, protocol, (both[0], both[1]), ACK, is_cut)
}

/// For a message: what the packet is.
pub(crate) fn told(shot: &Shot) -> String {
    let Shot { seed, entry, at_back, header, carries, .. } = shot;
    let between = match carries {
        Carries::Segment(segment, _) => Some(ends(header, segment)),
        _ => None,
    };
    format!("seed {seed}, {entry:?}, at back {at_back}, {between:?}\n{header:?}\n{carries:?}")
}

//! Packets at random: valid ones of both families, and what becomes of them when bytes change.

use std::net::{IpAddr, SocketAddr};

use crate::bench::{Bench, FAR};
use crate::wire::{ACK, Dice, FIN, RST, SYN, Spec, TCP, UDP};

/// Services of every kind that the packets meet. All but the last two have a backend of each packet's family.
pub(crate) const CONFIG: &str = r#"
    [[service]]
    name = "web"
    listen = { interfaces = ["front"], address = "203.0.113.10", port = 80, protocol = "both" }
    backends = [{ address = "10.0.0.11:8080" }, { address = "10.0.0.12:8080", weight = 3 }, { address = "10.0.0.13:8081" }]

    [[service]]
    name = "web6"
    listen = { interfaces = ["front"], address = "2001:db8:f::10", port = 80, protocol = "both" }
    on-unknown = "reset"
    backends = [{ address = "[2001:db8:b::11]:8080" }, { address = "[2001:db8:b::12]:8080" }]

    [[service]]
    name = "chance"
    listen = { interfaces = ["front"], address = "203.0.113.11", port = 80, protocol = "both" }
    algorithm = "random"
    on-unknown = "drop"
    backends = [{ address = "10.0.0.11:8080" }, { address = "10.0.0.12:8080" }, { address = "10.0.0.14:80", weight = 0 }]

    [[service]]
    name = "chance6"
    listen = { interfaces = ["front"], address = "2001:db8:f::11", port = 80, protocol = "both" }
    algorithm = "random"
    backends = [{ address = "[2001:db8:b::11]:8080" }, { address = "[2001:db8:b::13]:8080" }]

    [[service]]
    name = "strangers"
    listen = { interfaces = ["front"], address = "203.0.113.12", port = 80, protocol = "both" }
    backends = [{ address = "10.0.0.99:8080" }]

    [[service]]
    name = "here"
    listen = { interfaces = ["front"], address = "203.0.113.13", port = 80, protocol = "both" }
    backends = [{ address = "10.0.0.1:8080" }]

    [[service]]
    name = "empty"
    listen = { interfaces = ["front"], address = "203.0.113.14", port = 80, protocol = "both" }
    backends = [{ address = "[2001:db8:b::11]:9000" }]

    [[service]]
    name = "empty-drop"
    listen = { interfaces = ["front"], address = "203.0.113.15", port = 80, protocol = "both" }
    on-empty = "drop"
    backends = [{ address = "[2001:db8:b::11]:9001" }]

    [[service]]
    name = "empty-pass"
    listen = { interfaces = ["front"], address = "203.0.113.16", port = 80, protocol = "both" }
    on-empty = "pass"
    on-unknown = "reset"
    backends = [{ address = "[2001:db8:b::11]:9002" }]

    [[service]]
    name = "empty6"
    listen = { interfaces = ["front"], address = "2001:db8:f::14", port = 80, protocol = "both" }
    backends = [{ address = "10.0.0.11:9000" }]

    # On the addresses of the interface itself.
    [[service]]
    name = "own"
    listen = { interfaces = ["front"], port = 443, protocol = "tcp" }
    backends = [{ address = "10.0.0.11:8443" }, { address = "[2001:db8:b::11]:8443" }]
"#;

/// Neighbours of the bench beside those that it has.
pub(crate) const NEIGHBOURS: &str = "\
neigh add 10.0.0.12 lladdr 02:00:00:00:00:07 dev back
neigh add 10.0.0.13 lladdr 02:00:00:00:00:07 dev back
neigh add 10.0.0.14 lladdr 02:00:00:00:00:07 dev back
neigh add 2001:db8:b::12 lladdr 02:00:00:00:00:07 dev back
neigh add 2001:db8:b::13 lladdr 02:00:00:00:00:07 dev back";

const CLIENTS: [&str; 4] = ["198.51.100.7", "198.51.100.8", "2001:db8:c::7", "2001:db8:c::8"];
const VIPS: [&str; 14] = [
    "203.0.113.10:80",
    "203.0.113.10:80",
    "203.0.113.11:80",
    "203.0.113.12:80",
    "203.0.113.13:80",
    "203.0.113.14:80",
    "203.0.113.15:80",
    "203.0.113.16:80",
    "198.51.100.1:443",
    "[2001:db8:f::10]:80",
    "[2001:db8:f::10]:80",
    "[2001:db8:f::11]:80",
    "[2001:db8:f::14]:80",
    "[2001:db8:c::1]:443",
];
const BACKENDS: [&str; 9] = [
    "10.0.0.11:8080",
    "10.0.0.12:8080",
    "10.0.0.13:8081",
    "10.0.0.99:8080",
    "10.0.0.11:8443",
    "[2001:db8:b::11]:8080",
    "[2001:db8:b::12]:8080",
    "[2001:db8:b::13]:8080",
    "[2001:db8:b::11]:8443",
];

/// A frame that is whole, and whether it comes in at `back`.
pub(crate) fn spec(dice: &mut Dice, bench: &Bench) -> (Spec, bool) {
    let is_reply = dice.one_in(3);
    let mut end: SocketAddr =
        if is_reply { dice.pick(&BACKENDS) } else { dice.pick(&VIPS) }.parse().unwrap();
    if dice.one_in(16) {
        end.set_port(81);
    }
    let client = loop {
        let ip: IpAddr = dice.pick(&CLIENTS).parse().unwrap();
        if ip.is_ipv4() == end.is_ipv4() {
            break SocketAddr::new(ip, 5000 + dice.below(6) as u16);
        }
    };
    let v6 = end.is_ipv6();
    let (from, to) = if is_reply { (end, client) } else { (client, end) };
    // Now and then at the other interface.
    let at_back = is_reply != dice.one_in(24);
    let own = if at_back { bench.back_link() } else { bench.front_link() };
    let tags = dice.pick(&[vec![], vec![], vec![], vec![0x8100], vec![0x88a8, 0x8100]]);
    let count = if v6 && dice.one_in(4) { dice.below(10) } else { 0 };
    let extensions =
        (0..count).map(|_| (dice.pick(&[0, 43, 60, 60, 60]), dice.pick(&[0, 0, 1, 3]))).collect();
    let protocol = dice.pick(&[TCP, TCP, TCP, UDP, UDP, if v6 { 58 } else { 1 }]);
    let flags = if dice.one_in(40) {
        dice.next() as u8
    } else if is_reply {
        dice.pick(&[SYN | ACK, ACK, ACK, FIN | ACK, RST, RST | ACK])
    } else {
        dice.pick(&[SYN, SYN, SYN, ACK, ACK, FIN | ACK, RST])
    };
    let spec = Spec {
        links: [own, FAR],
        tags,
        from,
        to,
        hops: dice.pick(&[64, 64, 64, 255, 2, 1, 0]),
        options: if dice.one_in(4) { dice.below(11) as u8 } else { 0 },
        extensions,
        protocol,
        flags,
        tcp_options: if dice.one_in(4) { dice.below(11) as u8 } else { 0 },
        numbers: [dice.next() as u32, dice.next() as u32],
        payload: dice.pick(&[0, 1, 10, 37, 200, 1400]),
    };
    (spec, at_back)
}

/// Changes a frame in some place: bits, lengths, header lengths, what follows, tags, or where it ends.
pub(crate) fn mutate(frame: &mut Vec<u8>, dice: &mut Dice) {
    let network = match frame.get(12..14) {
        Some([0x81, 0] | [0x88, 0xa8]) => 18,
        _ => 14,
    };
    let put = |frame: &mut Vec<u8>, at: usize, byte: u8| {
        if let Some(place) = frame.get_mut(at) {
            *place = byte;
        }
    };
    let byte = dice.next() as u8;
    match dice.below(12) {
        // Bits, most of them in the headers.
        0 | 1 => {
            let reach = if dice.one_in(4) { frame.len() } else { frame.len().min(90) };
            for _ in 0..=dice.below(4) {
                let at = dice.below(reach);
                frame[at] ^= 1 << dice.below(8);
            }
        }
        // Cut short, or something behind.
        2 => frame.truncate(14 + dice.below(frame.len().saturating_sub(13).max(1))),
        3 => frame.extend((0..dice.below(64)).map(|n| n as u8)),
        // Lengths of IPv4, IPv6 and UDP, near what they are or anything.
        4 => {
            let at = network + dice.pick(&[2, 4, 24, 44, 32, 52]);
            let near =
                frame.get(at + 1).copied().unwrap_or(0).wrapping_add(dice.pick(&[1, 255, 8, 248]));
            put(frame, at + 1, if dice.one_in(2) { near } else { byte });
            if dice.one_in(4) {
                put(frame, at, byte);
            }
        }
        // Version and header length; the TCP header's.
        5 => put(frame, network, dice.pick(&[0x40, 0x60]) | byte & 15),
        6 => put(frame, network + dice.pick(&[32, 52]), byte & 0xf0),
        // Flags and fragment offset of IPv4; protocol, and next header.
        7 => put(frame, network + dice.pick(&[6, 7]), byte),
        8 => put(
            frame,
            network + dice.pick(&[9, 6]),
            dice.pick(&[0, 1, 6, 17, 43, 44, 50, 51, 58, 59, 60, 135, byte]),
        ),
        // An extension header's next header or length.
        9 => put(
            frame,
            network + 40 + 8 * dice.below(4) + dice.below(2),
            dice.pick(&[0, 6, 17, 43, 44, 60, 255, byte]),
        ),
        // A tag more, or the frame's type.
        10 => {
            let tag = dice.pick(&[[0x81, 0, 0, 7], [0x88, 0xa8, 0, 7]]);
            frame.splice(12..12, tag);
        }
        _ => {
            let kind = dice.pick(&[[8, 0], [0x86, 0xdd], [0x81, 0], [8, 6], [byte, byte]]);
            put(frame, network - 2, kind[0]);
            put(frame, network - 1, kind[1]);
        }
    }
}

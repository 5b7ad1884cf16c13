//! Frames in plain Rust: built, parsed, and their checksums computed, without a line of the product's.

use std::net::{IpAddr, SocketAddr};

use equipoise_common::verdict::Verdict;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// A frame to be built; everything fits together, and every checksum is right.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Destination and source link address.
    pub(crate) links: [[u8; 6]; 2],
    /// Types of VLAN tags, from the outside.
    pub(crate) tags: Vec<u16>,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) hops: u8,
    /// Words of IPv4 options.
    pub(crate) options: u8,
    /// Kind and length field of IPv6 extension headers.
    pub(crate) extensions: Vec<(u8, u8)>,
    pub(crate) protocol: u8,
    pub(crate) flags: u8,
    /// Words of TCP options.
    pub(crate) tcp_options: u8,
    /// Sequence number and acknowledgement.
    pub(crate) numbers: [u32; 2],
    pub(crate) payload: usize,
}

impl Spec {
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut frame = self.links.concat();
        for tag in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 7]);
        }
        let segment = self.segment();
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let header = 20 + 4 * usize::from(self.options);
                frame.extend([8, 0]);
                let at = frame.len();
                frame.extend([0x45 + self.options, 0]);
                frame.extend(((header + segment.len()) as u16).to_be_bytes());
                frame.extend([0, 77, 0x40, 0, self.hops, self.protocol, 0, 0]);
                frame.extend(from.octets());
                frame.extend(to.octets());
                frame.extend(vec![1; header - 20]);
                frame.extend(segment);
                let wanted = !sum_with_gap(&frame[at..at + header], 10);
                set(&mut frame, at + 10, wanted);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                frame.extend([0x86, 0xdd]);
                let kinds = self.extensions.iter().map(|(kind, _)| *kind).chain([self.protocol]);
                let kinds: Vec<_> = kinds.collect();
                let mut rest = Vec::new();
                for (number, &(_, length)) in self.extensions.iter().enumerate() {
                    let start = rest.len();
                    rest.extend([kinds[number + 1], length]);
                    // Padding, as a destination option has it; what a routing header makes of it does not matter.
                    rest.resize(start + 8 * (usize::from(length) + 1), 0);
                }
                rest.extend(segment);
                frame.extend([0x60, 0, 0, 0]);
                frame.extend((rest.len() as u16).to_be_bytes());
                frame.extend([kinds[0], self.hops]);
                frame.extend(from.octets());
                frame.extend(to.octets());
                frame.extend(rest);
            }
            other => panic!("{other:?} are of two families"),
        }
        if let Ok(parsed) = parse(&frame) {
            let at = parsed.transport + if parsed.protocol == TCP { 16 } else { 6 };
            let mut wanted = !transport_sum(&frame, &parsed);
            if parsed.protocol == UDP && wanted == 0 {
                wanted = 0xffff;
            }
            set(&mut frame, at, wanted);
        }
        frame
    }

    /// Transport header and payload, with a checksum of 0.
    fn segment(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.protocol {
            TCP => {
                bytes.extend(self.from.port().to_be_bytes());
                bytes.extend(self.to.port().to_be_bytes());
                bytes.extend(self.numbers[0].to_be_bytes());
                bytes.extend(self.numbers[1].to_be_bytes());
                bytes.extend([(5 + self.tcp_options) << 4, self.flags, 0xfd, 0xe8, 0, 0, 0, 0]);
                bytes.extend(vec![1; 4 * usize::from(self.tcp_options)]);
            }
            UDP => {
                bytes.extend(self.from.port().to_be_bytes());
                bytes.extend(self.to.port().to_be_bytes());
                bytes.extend((8 + self.payload as u16).to_be_bytes());
                bytes.extend([0, 0]);
            }
            // An echo request of either family, or whatever else; nobody looks at it.
            _ => bytes.extend([8, 0, 0, 0, 0, 1, 0, 1]),
        }
        bytes.extend((0..self.payload).map(|n| n as u8 ^ 0x5a));
        bytes
    }
}

/// What a frame says that is whole, consistent, and of TCP or UDP.
#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    pub(crate) network: usize,
    pub(crate) transport: usize,
    /// Where the IP packet ends.
    pub(crate) end: usize,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) protocol: u8,
    pub(crate) hops: u8,
    /// Of TCP.
    pub(crate) flags: u8,
    pub(crate) numbers: [u32; 2],
    /// Where the payload begins.
    pub(crate) data: usize,
}

/// No header is looked for behind this byte.
const FARTHEST: usize = 2047;

/// `length` bytes of a header.
fn header(frame: &[u8], at: usize, length: usize) -> Result<&[u8], Verdict> {
    if at > FARTHEST {
        return Err(Verdict::Malformed);
    }
    frame.get(at..at + length).ok_or(Verdict::Malformed)
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

/// Reads a frame as RFC 791, 8200, 9293 and 768 have it, or says what it is else.
pub(crate) fn parse(frame: &[u8]) -> Result<Parsed, Verdict> {
    let mut kind = word(header(frame, 0, 14)?, 12);
    let mut network = 14;
    for _ in 0..2 {
        if kind == 0x8100 || kind == 0x88a8 {
            kind = word(header(frame, network, 4)?, 2);
            network += 4;
        }
    }
    let (addresses, protocol, hops, transport, end) = match kind {
        0x0800 => ipv4(frame, network)?,
        0x86dd => ipv6(frame, network)?,
        _ => return Err(Verdict::NotIp),
    };
    let mut parsed = Parsed {
        network,
        transport,
        end,
        from: SocketAddr::new(addresses[0], 0),
        to: SocketAddr::new(addresses[1], 0),
        protocol,
        hops,
        flags: 0,
        numbers: [0; 2],
        data: 0,
    };
    let long = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    match protocol {
        TCP => {
            let bytes = header(frame, transport, 20)?;
            let length = usize::from(bytes[12] >> 4) * 4;
            if length < 20 {
                return Err(Verdict::Malformed);
            }
            parsed.flags = bytes[13];
            parsed.numbers = [long(&bytes[4..8]), long(&bytes[8..12])];
            parsed.data = transport + length;
        }
        UDP => {
            let bytes = header(frame, transport, 8)?;
            let length = word(bytes, 4);
            if length < 8 || transport + length > end {
                return Err(Verdict::Malformed);
            }
            parsed.data = transport + 8;
        }
        _ => return Err(Verdict::NotTcpUdp),
    }
    if parsed.data > end {
        return Err(Verdict::Malformed);
    }
    parsed.from.set_port(word(frame, transport) as u16);
    parsed.to.set_port(word(frame, transport + 2) as u16);
    Ok(parsed)
}

type Network = ([IpAddr; 2], u8, u8, usize, usize);

fn ipv4(frame: &[u8], at: usize) -> Result<Network, Verdict> {
    let bytes = header(frame, at, 20)?;
    let own = usize::from(bytes[0] & 15) * 4;
    let length = word(bytes, 2);
    if bytes[0] >> 4 != 4 || own < 20 || length < own || at + length > frame.len() {
        return Err(Verdict::Malformed);
    }
    if word(bytes, 6) & 0x3fff != 0 {
        return Err(Verdict::Fragment);
    }
    let address = |at: usize| -> IpAddr { <[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap().into() };
    Ok(([address(12), address(16)], bytes[9], bytes[8], at + own, at + length))
}

fn ipv6(frame: &[u8], at: usize) -> Result<Network, Verdict> {
    let bytes = header(frame, at, 40)?;
    let end = at + 40 + word(bytes, 4);
    if bytes[0] >> 4 != 6 || end > frame.len() {
        return Err(Verdict::Malformed);
    }
    let mut next = bytes[6];
    let mut place = at + 40;
    let mut walked = 0;
    while [0, 43, 60].contains(&next) {
        if walked == 8 {
            return Err(Verdict::ExtensionHeaders);
        }
        walked += 1;
        let extension = header(frame, place, 8)?;
        next = extension[0];
        place += 8 * (usize::from(extension[1]) + 1);
    }
    if next == 44 {
        return Err(Verdict::Fragment);
    }
    let address =
        |at: usize| -> IpAddr { <[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap().into() };
    Ok(([address(8), address(24)], next, bytes[7], place, end))
}

/// The Internet checksum's sum (RFC 1071), not complemented.
pub(crate) fn sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            total += u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u64::from(low));
        }
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn sum_with_gap(bytes: &[u8], gap: usize) -> u16 {
    sum(&[&bytes[..gap], &bytes[gap + 2..]])
}

fn addresses(parsed: &Parsed) -> Vec<u8> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    [octets(parsed.from.ip()), octets(parsed.to.ip())].concat()
}

/// The sum of pseudo-header, transport header and payload, without the checksum itself.
fn transport_sum(frame: &[u8], parsed: &Parsed) -> u16 {
    let udp = parsed.protocol == UDP;
    let length =
        if udp { word(frame, parsed.transport + 4) } else { parsed.end - parsed.transport };
    let bytes = &frame[parsed.transport..parsed.transport + length];
    let gap = if udp { 6 } else { 16 };
    let pseudo = [[0, parsed.protocol], (length as u16).to_be_bytes()].concat();
    sum(&[&addresses(parsed), &pseudo, &bytes[..gap], &bytes[gap + 2..]])
}

/// Which checksums of a frame are right; IPv6 has none of its own, which is right too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) network: bool,
    pub(crate) transport: bool,
}

pub(crate) fn sums(frame: &[u8], parsed: &Parsed) -> Sums {
    let network = !parsed.from.is_ipv4() || {
        let own = usize::from(frame[parsed.network] & 15) * 4;
        sum(&[&frame[parsed.network..parsed.network + own]]) == 0xffff
    };
    let at = parsed.transport + if parsed.protocol == UDP { 6 } else { 16 };
    let field = word(frame, at) as u16;
    let absent = parsed.protocol == UDP && field == 0 && parsed.from.is_ipv4();
    let total = sum(&[&transport_sum(frame, parsed).to_be_bytes(), &field.to_be_bytes()]);
    // A checksum that comes to 0 is sent as ones with UDP (RFC 768).
    let zero = parsed.protocol == UDP && field == 0;
    Sums { network, transport: absent || total == 0xffff && !zero }
}

pub(crate) fn set(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Numbers at random, the same for the same seed (splitmix64).
#[derive(Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

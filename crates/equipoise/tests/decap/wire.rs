//! Packets and what is put around them, by another library than the product's.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpOptionElement, UdpHeader,
};

/// Protocol numbers of what is inside an IP packet.
pub(crate) const IN_IPV4: u8 = 4;
pub(crate) const IN_IPV6: u8 = 41;
pub(crate) const UDP: u8 = 17;
/// The port of GUE.
pub(crate) const GUE_PORT: u16 = 6080;

/// What is between the two IP headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Nothing.
    Ipip,
    /// UDP, whose first bytes are those of the inner packet.
    Gue,
    /// UDP, and a header of four bytes.
    GueWithHeader,
}

impl How {
    pub(crate) const ALL: [Self; 3] = [Self::Ipip, Self::Gue, Self::GueWithHeader];

    /// The name of its counter.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Gue | Self::GueWithHeader => "gue",
        }
    }
}

/// What is put around a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around {
    pub(crate) how: How,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Two bits of congestion notification.
    pub(crate) congestion: u8,
    /// Bytes of IPv4 options.
    pub(crate) options: usize,
}

impl Around {
    pub(crate) fn new(how: How, source: &str, destination: &str) -> Self {
        let [source, destination] = [source, destination].map(|address| address.parse().unwrap());
        Self { how, source, destination, congestion: 0, options: 0 }
    }

    /// The IP packet with `inner` in it.
    pub(crate) fn put(&self, inner: &[u8]) -> Vec<u8> {
        let is_v6 = inner[0] >> 4 == 6;
        let protocol = if is_v6 { IN_IPV6 } else { IN_IPV4 };
        let inside = match self.how {
            How::Ipip => return self.header(protocol, inner),
            How::Gue => inner.to_vec(),
            How::GueWithHeader => [&[0, protocol, 0, 0], inner].concat(),
        };
        self.header(UDP, &datagram(GUE_PORT, &inside))
    }

    /// The IP packet with these bytes in it.
    pub(crate) fn header(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                let length = payload.len() as u16;
                let mut header =
                    Ipv4Header::new(length, 64, IpNumber(protocol), source, destination).unwrap();
                header.options = vec![1; self.options].as_slice().try_into().unwrap();
                header.set_payload_len(payload.len()).unwrap();
                header.ecn = self.congestion.try_into().unwrap();
                header.header_checksum = header.calc_header_checksum();
                header.write(&mut packet).unwrap();
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: self.congestion,
                    payload_length: payload.len() as u16,
                    next_header: IpNumber(protocol),
                    hop_limit: 64,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                header.write(&mut packet).unwrap();
            }
            _ => panic!("{self:?}"),
        }
        packet.extend_from_slice(payload);
        packet
    }
}

/// A UDP datagram without a checksum.
pub(crate) fn datagram(to: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    let header = UdpHeader {
        source_port: 50_000,
        destination_port: to,
        length: 8 + payload.len() as u16,
        checksum: 0,
    };
    header.write(&mut datagram).unwrap();
    datagram.extend_from_slice(payload);
    datagram
}

/// A packet to be put in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inner {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) is_tcp: bool,
    pub(crate) congestion: u8,
}

impl Inner {
    pub(crate) fn new(from: &str, to: &str) -> Self {
        let [from, to] = [from, to].map(|address| address.parse().unwrap());
        Self { from, to, is_tcp: false, congestion: 0 }
    }

    fn headers(&self) -> IpHeaders {
        let mut headers = ip(self.from.ip(), self.to.ip());
        match &mut headers {
            IpHeaders::Ipv4(header, _) => header.ecn = self.congestion.try_into().unwrap(),
            IpHeaders::Ipv6(header, _) => header.traffic_class = 0x70 | self.congestion,
        }
        headers
    }

    /// The IP packet, with a few bytes of payload.
    pub(crate) fn build(&self) -> Vec<u8> {
        const PAYLOAD: &[u8] = b"what is inside";
        let mut packet = Vec::new();
        let (from, to) = (self.from.port(), self.to.port());
        let step = PacketBuilder::ip(self.headers());
        if self.is_tcp {
            step.tcp(from, to, 1000, 65_000).ack(5000).write(&mut packet, PAYLOAD).unwrap();
        } else {
            step.udp(from, to).write(&mut packet, PAYLOAD).unwrap();
        }
        packet
    }
}

fn ip(from: IpAddr, to: IpAddr) -> IpHeaders {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = Ipv4Header::new(0, 60, IpNumber::UDP, from.octets(), to.octets()).unwrap();
            IpHeaders::Ipv4(header, Default::default())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = Ipv6Header {
                hop_limit: 60,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, Default::default())
        }
        _ => panic!("{from} {to}"),
    }
}

/// A frame with a TCP packet that opens a connection, with these options.
pub(crate) fn opening(
    links: [[u8; 6]; 2],
    (from, to): (SocketAddr, SocketAddr),
    options: &[TcpOptionElement],
) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = PacketBuilder::ethernet2(links[1], links[0]).ip(ip(from.ip(), to.ip()));
    let step = step.tcp(from.port(), to.port(), 7, 65_000).syn().ack(8);
    step.options(options).unwrap().write(&mut frame, &[]).unwrap();
    frame
}

/// A frame: destination, source, and tags in front of the packet.
pub(crate) fn frame(links: [[u8; 6]; 2], tags: &[u16], packet: &[u8]) -> Vec<u8> {
    let mut frame = links.concat();
    for (number, kind) in (7_u16..).zip(tags) {
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.extend_from_slice(&number.to_be_bytes());
    }
    let kind: u16 = if packet[0] >> 4 == 6 { 0x86dd } else { 0x0800 };
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(packet);
    frame
}

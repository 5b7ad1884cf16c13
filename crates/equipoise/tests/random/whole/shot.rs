//! A packet to be sent through the programs, as its parts say it.

use equipoise::dataplane::kernel::Entry;
use equipoise_common::verdict::Hook;

use super::datagram::{Header, ICMP, Piece, Segment, icmp};
use crate::bench::FAR;

#[derive(Clone, Debug)]
pub(crate) struct Shot {
    pub(crate) seed: u64,
    pub(crate) entry: Entry,
    pub(crate) at_back: bool,
    /// Types of VLAN tags, from the outside.
    pub(crate) tags: Vec<u16>,
    pub(crate) header: Header,
    pub(crate) carries: Carries,
}

#[derive(Clone, Debug)]
pub(crate) enum Carries {
    /// TCP or UDP, or a fragment of it.
    Segment(Segment, Option<Piece>),
    /// An ICMP error, with so many bytes of what the quoted packet carries.
    Error { kind: [u8; 2], word: u32, about: Header, segment: Segment, quoted: usize },
    /// An echo request, or a fragment of one.
    Echo { word: u32, data: usize, piece: Option<Piece> },
}

impl Shot {
    pub(crate) fn hook(&self) -> Hook {
        self.entry.hook()
    }

    /// Whether no other program of ours sees what this one leaves.
    pub(crate) fn is_last(&self) -> bool {
        self.entry != Entry::Xdp
    }

    pub(crate) fn is_xdp(&self) -> bool {
        self.hook() == Hook::Xdp
    }

    /// The IP packet.
    pub(crate) fn packet(&self) -> Vec<u8> {
        self.carries.packet(&self.header)
    }

    /// The frame as it comes in.
    pub(crate) fn frame(&self, own: [[u8; 6]; 2]) -> Vec<u8> {
        self.framed([own[usize::from(self.at_back)], FAR], &self.packet())
    }

    /// An IP packet with this frame's tags.
    pub(crate) fn framed(&self, links: [[u8; 6]; 2], packet: &[u8]) -> Vec<u8> {
        let mut frame = links.concat();
        for tag in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 7]);
        }
        frame.extend(if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] });
        frame.extend(packet);
        frame
    }

    /// Bytes before the IP header.
    pub(crate) fn network(&self) -> usize {
        14 + 4 * self.tags.len()
    }
}

impl Carries {
    /// The IP packet with this header.
    pub(crate) fn packet(&self, header: &Header) -> Vec<u8> {
        let number = ICMP[usize::from(header.is_v6())];
        match self {
            Self::Segment(segment, piece) => {
                let whole = segment.between(header.from, header.to);
                let range = piece.map_or(0..whole.len(), |p| p.offset..p.offset + p.length);
                header.carry(segment.protocol, *piece, &whole[range])
            }
            Self::Error { kind, word, about, segment, quoted } => {
                let whole =
                    about.carry(segment.protocol, None, &segment.between(about.from, about.to));
                let rest = &whole[..whole.len().min(about.length() + quoted)];
                header.carry(number, None, &icmp([header.from, header.to], *kind, *word, rest))
            }
            Self::Echo { word, data, piece } => {
                let kind = if header.is_v6() { 128 } else { 8 };
                let rest: Vec<_> = (0..*data).map(|n| n as u8).collect();
                let whole = icmp([header.from, header.to], [kind, 0], *word, &rest);
                let range = piece.map_or(0..whole.len(), |p| p.offset..p.offset + p.length);
                header.carry(number, *piece, &whole[range])
            }
        }
    }
}

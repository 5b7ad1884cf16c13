//! What a sender is told, as RFC 792, 4443 and 9293 have it.

use std::net::IpAddr;

use super::datagram::{Header, ICMP, Piece, Segment, icmp};
use super::outcome::Answer;
use super::shot::{Carries, Shot};
use crate::wire::{ACK, FIN, RST, SYN, TCP};

/// The IP packet that a packet is answered with; `host` is this host's address there.
pub(crate) fn packet(shot: &Shot, answer: Answer, host: IpAddr) -> Vec<u8> {
    let came = &shot.header;
    let back = Header { from: came.to, to: came.from, hops: 64, ..came.clone() };
    let is_v6 = came.is_v6();
    let kinds = if is_v6 { [[1, 4], [3, 0], [2, 0]] } else { [[3, 3], [11, 0], [3, 4]] };
    let (kind, word, from) = match answer {
        Answer::Reset => return reset(shot, &back),
        Answer::Echo => {
            let Carries::Echo { word, data, .. } = shot.carries else { unreachable!("an echo") };
            let kind = if is_v6 { 129 } else { 0 };
            let rest: Vec<_> = (0..data).map(|n| n as u8).collect();
            let message = icmp([back.from, back.to], [kind, 0], word, &rest);
            return back.carry(ICMP[usize::from(is_v6)], None, &message);
        }
        Answer::Unreachable => (kinds[0], 0, came.to),
        Answer::HopLimit => (kinds[1], 0, host),
        Answer::TooBig(most) => (kinds[2], most, host),
    };
    let header = Header {
        from,
        // Network control (RFC 1812 section 4.3.2.5).
        class: if is_v6 { 0 } else { 0xc0 },
        label: 0,
        identification: 0,
        whole: false,
        options: 0,
        extensions: 0,
        ..back
    };
    let whole = shot.packet();
    let Carries::Segment(segment, piece) = &shot.carries else { unreachable!("TCP or UDP") };
    let cut = if is_v6 && piece.is_some() { 8 } else { 0 };
    let transport = if segment.protocol == TCP { 20 } else { 8 };
    let quoted = (came.length() + cut + transport).min(128);
    let message = icmp([header.from, header.to], kind, word, &whole[..quoted]);
    header.carry(ICMP[usize::from(is_v6)], None, &message)
}

/// What its sender takes for an answer to this very segment, out of what of it has come.
fn reset(shot: &Shot, back: &Header) -> Vec<u8> {
    let Carries::Segment(segment, piece) = &shot.carries else { unreachable!("TCP") };
    let Segment { ports, numbers, flags, .. } = segment.clone();
    let data = piece.map_or(segment.data, |Piece { length, .. }| length - segment.header());
    let spoken = data as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let (flags, numbers) = if flags & ACK != 0 {
        (RST, [numbers[1], 0])
    } else {
        (RST | ACK, [0, numbers[0].wrapping_add(spoken)])
    };
    let segment = Segment {
        protocol: TCP,
        ports: [ports[1], ports[0]],
        flags,
        numbers,
        window: 0,
        options: vec![],
        unsummed: false,
        data: 0,
    };
    back.carry(TCP, None, &segment.between(back.from, back.to))
}

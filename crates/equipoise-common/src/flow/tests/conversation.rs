//! Conversations of TCP, played line by line against a table.
//!
//! Sequence numbers in the lines count from each end's first SYN. Each conversation is played with first
//! numbers and clocks that wrap in the middle of it, and for both families.

use super::table::{NO_LIMITS, Name, Numbered, Sender, Table};
use crate::flow::entry::Reason;
use crate::flow::open::New;
use crate::flow::state::State;
use crate::flow::track::{Segment, tcp};
use crate::key::{V4, V6};

pub(super) const SYN: u8 = tcp::SYN;
pub(super) const SYN_ACK: u8 = tcp::SYN | tcp::ACK;
pub(super) const ACK: u8 = tcp::ACK;
pub(super) const FIN: u8 = tcp::FIN | tcp::ACK;
pub(super) const RST: u8 = tcp::RST;
pub(super) const RST_ACK: u8 = tcp::RST | tcp::ACK;

/// A packet, and the state after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    from: Sender,
    segment: Segment,
    then: State,
}

/// From the client: flags, sequence number, acknowledgement, length.
pub(super) const fn c(flags: u8, numbers: [u32; 3], then: State) -> Line {
    line(Sender::Client, flags, numbers, then)
}

/// From the backend.
pub(super) const fn b(flags: u8, numbers: [u32; 3], then: State) -> Line {
    line(Sender::Backend, flags, numbers, then)
}

const fn line(
    from: Sender,
    flags: u8,
    [sequence, acknowledgement, length]: [u32; 3],
    then: State,
) -> Line {
    Line { from, segment: Segment { flags, sequence, acknowledgement, length }, then }
}

/// The numbers of both ends' first SYNs.
const STARTS: [[u32; 2]; 4] =
    [[1_000, 70_000], [u32::MAX, u32::MAX - 1], [u32::MAX - 60, 0], [0x7fff_ffff, 0x7fff_ffb0]];

pub(super) const OPEN: State = State::Opening;
pub(super) const UP: State = State::Established;
pub(super) const OVER: State = State::Closing;

/// The rest of the handshake after the SYN that opens each flow here.
pub(super) const HANDSHAKE: [Line; 2] = [b(SYN_ACK, [0, 1, 1], OPEN), c(ACK, [1, 1, 0], UP)];

/// Plays a conversation after the client's SYN; answers with why it ended.
pub(super) fn play(lines: &[Line]) -> Reason {
    let mut reasons: Vec<Reason> = Vec::new();
    for start in STARTS {
        for clock in [0, u32::MAX - 1] {
            reasons.push(play_from::<V4, 8>(lines, start, clock));
            reasons.push(play_from::<V6, 16>(lines, start, clock));
        }
    }
    assert!(reasons.iter().all(|&reason| reason == reasons[0]), "{reasons:?}");
    reasons[0]
}

fn play_from<A: Numbered, const SLOT: usize>(
    lines: &[Line],
    [client, backend]: [u32; 2],
    clock: u32,
) -> Reason {
    let table = Table::<A, SLOT>::new(4);
    let name = Name::tcp(1);
    let new = New { sent: client.wrapping_add(1), ..name.opening(clock) };
    let here = table.open(&new, &NO_LIMITS).at;
    assert_eq!(table.meta(here).state(), OPEN);
    for (number, line) in lines.iter().enumerate() {
        let (own, other) = match line.from {
            Sender::Client => (client, backend),
            Sender::Backend => (backend, client),
        };
        let mut segment = line.segment;
        segment.sequence = segment.sequence.wrapping_add(own);
        if segment.flags & ACK != 0 {
            segment.acknowledgement = segment.acknowledgement.wrapping_add(other);
        }
        assert!(table.packet(name, line.from, &segment, clock.wrapping_add(number as u32)));
        let state = table.meta(here).state();
        assert_eq!(state, line.then, "after line {number} from {client}, {backend}: {line:?}");
        table.check();
    }
    let ended = table.take_ended();
    assert!(ended.len() <= 1, "told once");
    let why = ended.first().map_or(Reason::None, |ended| ended.why);
    assert_eq!(table.meta(here).state() == OVER, why != Reason::None);
    why
}

/// A conversation after a handshake.
pub(super) fn play_established(lines: &[Line]) -> Reason {
    play(&[&HANDSHAKE, lines].concat())
}

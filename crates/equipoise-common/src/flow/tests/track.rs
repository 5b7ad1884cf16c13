//! What packets make of a flow's state: handshakes, closings and resets, in sequence and not.

use super::conversation::{
    ACK, FIN, HANDSHAKE, OPEN, OVER, RST, RST_ACK, SYN, SYN_ACK, UP, b, c, play, play_established,
};
use super::table::{NO_LIMITS, Name, Numbered, Sender, Table};
use crate::flow::count::Live;
use crate::flow::entry::{Meta, Reason, acknowledged, flag, handshake, last_seen, sent};
use crate::flow::open::New;
use crate::flow::set::at;
use crate::flow::state::State;
use crate::flow::track::{Segment, close, turn};
use crate::key::{V4, V6};

#[test]
fn handshake_confirms() {
    assert_eq!(play(&HANDSHAKE), Reason::None);
}

#[test]
fn first_data_confirms_where_the_bare_acknowledgement_is_lost() {
    play(&[b(SYN_ACK, [0, 1, 1], OPEN), c(ACK, [1, 1, 500], UP)]);
}

#[test]
fn only_the_right_acknowledgement_confirms() {
    for wrong in [0, 2, 1_000, u32::MAX, 1 << 31] {
        play(&[b(SYN_ACK, [0, 1, 1], OPEN), c(ACK, [1, wrong, 0], OPEN), c(ACK, [1, 1, 0], UP)]);
    }
}

#[test]
fn nothing_of_the_client_confirms_before_the_backend_has_answered() {
    // The number that an entry holds before the backend has sent anything is 0, wherever it will start.
    let table = Table::<V4, 8>::new(4);
    let here = table.must_open(Name::tcp(1), 0);
    for acknowledgement in [0, 1, 8_001] {
        let segment = Segment { flags: ACK, sequence: 1, acknowledgement, length: 0 };
        table.packet(Name::tcp(1), Sender::Client, &segment, 0);
        assert_eq!(table.meta(here).state(), OPEN);
    }
    table.confirm(Name::tcp(1), 0);
    play(&[c(ACK, [1, 1, 0], OPEN), c(ACK, [1, 1, 10], OPEN), c(SYN_ACK, [0, 0, 1], OPEN)]);
}

#[test]
fn repeated_syn_and_its_answer_confirm_nothing() {
    play(&[
        c(SYN, [0, 0, 1], OPEN),
        b(SYN_ACK, [0, 1, 1], OPEN),
        c(SYN, [0, 0, 1], OPEN),
        b(SYN_ACK, [0, 1, 1], OPEN),
        c(ACK, [1, 1, 0], UP),
    ]);
}

#[test]
fn answer_to_a_syn_that_was_sent_once_tells_how_long_it_has_taken() {
    let answered = |is_sent_again: bool| {
        let (table, name) = (Table::<V4, 8>::new(4), Name::tcp(1));
        let here = table.open(&New { begun: 77, ..name.opening(0) }, &NO_LIMITS).at;
        if is_sent_again {
            let again = Segment { flags: SYN, sequence: 0, acknowledgement: 0, length: 1 };
            table.packet(name, Sender::Client, &again, 0);
            assert!(table.meta(here).is_sent_again());
        }
        table.packet(name, Sender::Backend, &name.answer(), 0);
        assert!(!table.meta(here).is_sent_again());
        table.packet(name, Sender::Backend, &name.answer(), 0);
        table.packet(name, Sender::Client, &name.confirmation(), 0);
        assert_eq!(table.meta(here).state(), UP);
        let reply = at(&table, table.meta(here).other()).unwrap();
        assert_eq!(handshake(reply, table.meta(here)), 1_077);
        assert_eq!(handshake(reply, Meta::live(State::Opening, 0, 0, 0)), 0);
        table.answers()
    };
    assert_eq!(answered(false), [(Name::tcp(1).backend, 77)]);
    assert_eq!(answered(true), [], "nobody knows which was answered");
}

#[test]
fn refusal_is_no_answer() {
    let (table, name) = (Table::<V4, 8>::new(4), Name::tcp(1));
    let here = table.open(&name.opening(0), &NO_LIMITS).at;
    let refusal = Segment { flags: RST | ACK, sequence: 0, acknowledgement: 1, length: 0 };
    table.packet(name, Sender::Backend, &refusal, 0);
    assert_eq!((table.meta(here).state(), table.answers()), (OVER, vec![]));
}

#[test]
fn flow_picked_up_in_the_middle_is_confirmed_when_the_client_has_all() {
    let table = Table::<V4, 8>::new(4);
    let name = Name::tcp(1);
    let new = New { sent: 500, acknowledged: 900, ..name.opening(0) };
    let here = table.open(&new, &NO_LIMITS).at;
    let lines = [
        (
            Sender::Client,
            Segment { flags: ACK, sequence: 500, acknowledgement: 900, length: 0 },
            OPEN,
        ),
        (
            Sender::Backend,
            Segment { flags: ACK, sequence: 900, acknowledgement: 500, length: 50 },
            OPEN,
        ),
        (
            Sender::Client,
            Segment { flags: ACK, sequence: 500, acknowledgement: 920, length: 0 },
            OPEN,
        ),
        (
            Sender::Client,
            Segment { flags: ACK, sequence: 500, acknowledgement: 950, length: 0 },
            UP,
        ),
    ];
    for (from, segment, then) in lines {
        table.packet(name, from, &segment, 0);
        assert_eq!(table.meta(here).state(), then);
    }
}

#[test]
fn flow_is_over_when_each_end_has_acknowledged_the_others_fin() {
    let client_first = [
        c(FIN, [1, 1, 1], UP),
        b(ACK, [1, 2, 0], UP),
        b(FIN, [1, 2, 1], UP),
        c(ACK, [2, 2, 0], OVER),
    ];
    assert_eq!(play_established(&client_first), Reason::ClientFin);
    let in_three = [c(FIN, [1, 1, 1], UP), b(FIN, [1, 2, 1], UP), c(ACK, [2, 2, 0], OVER)];
    assert_eq!(play_established(&in_three), Reason::ClientFin);
    let backend_first = [
        b(FIN, [1, 1, 1], UP),
        c(ACK, [1, 2, 0], UP),
        c(FIN, [1, 2, 1], UP),
        b(ACK, [2, 2, 0], OVER),
    ];
    assert_eq!(play_established(&backend_first), Reason::BackendFin);
    let in_three = [b(FIN, [1, 1, 1], UP), c(FIN, [1, 2, 1], UP), b(ACK, [2, 2, 0], OVER)];
    assert_eq!(play_established(&in_three), Reason::BackendFin);
}

#[test]
fn both_ends_may_finish_at_once() {
    let lines = [
        c(FIN, [1, 1, 1], UP),
        b(FIN, [1, 1, 1], UP),
        b(ACK, [2, 2, 0], UP),
        c(ACK, [2, 2, 0], OVER),
    ];
    assert_eq!(play_established(&lines), Reason::ClientFin);
}

#[test]
fn fin_with_data_counts_when_all_of_it_is_acknowledged() {
    play_established(&[
        c(FIN, [1, 1, 101], UP),
        b(ACK, [1, 101, 0], UP),
        b(FIN, [1, 101, 1], UP),
        c(ACK, [102, 2, 0], UP),
        b(ACK, [2, 102, 0], OVER),
    ]);
}

#[test]
fn fin_with_the_handshakes_last_acknowledgement_counts() {
    play(&[
        b(SYN_ACK, [0, 1, 1], OPEN),
        c(FIN, [1, 1, 11], UP),
        b(FIN, [1, 12, 1], UP),
        c(ACK, [12, 2, 0], OVER),
    ]);
}

#[test]
fn half_closed_flow_goes_on() {
    let lines = [
        c(FIN, [1, 1, 1], UP),
        b(ACK, [1, 2, 1_400], UP),
        c(ACK, [2, 1_401, 0], UP),
        b(ACK, [1_401, 2, 1_400], UP),
        c(ACK, [2, 2_801, 0], UP),
        b(FIN, [2_801, 2, 1], UP),
        c(ACK, [2, 2_802, 0], OVER),
    ];
    assert_eq!(play_established(&lines), Reason::ClientFin);
    play_established(&[
        b(FIN, [1, 1, 1], UP),
        c(ACK, [1, 2, 100], UP),
        b(ACK, [2, 101, 0], UP),
        c(ACK, [101, 2, 100], UP),
    ]);
}

#[test]
fn fin_out_of_sequence_closes_nothing() {
    for sequence in [u32::MAX, u32::MAX - 10, 7, 1 << 24, 1 << 25, 1 << 31] {
        let lines = [
            c(FIN, [sequence, 1, 1], UP),
            b(FIN, [1, 1, 1], UP),
            c(ACK, [1, 2, 0], UP),
            b(ACK, [2, 1, 0], UP),
        ];
        play_established(&lines);
    }
}

#[test]
fn fin_that_the_other_end_never_acknowledges_closes_nothing() {
    // A stranger's, within the window: the backend goes on acknowledging what its client has sent.
    play_established(&[
        c(FIN, [5_000, 1, 1], UP),
        b(FIN, [1, 1, 1], UP),
        c(ACK, [1, 2, 0], UP),
        b(ACK, [2, 1, 0], UP),
        c(ACK, [1, 2, 100], UP),
        b(ACK, [2, 101, 0], UP),
    ]);
}

#[test]
fn numbers_far_ahead_are_not_believed() {
    for sequence in [(1 << 24) + 1, 1 << 25, 1 << 31, u32::MAX - 1_000] {
        play_established(&[
            c(ACK, [sequence, 1, 100], UP),
            c(RST, [sequence + 100, 0, 0], UP),
            b(ACK, [sequence, 1, 100], UP),
            b(RST, [sequence + 100, 0, 0], UP),
            c(RST, [1, 0, 0], OVER),
        ]);
    }
}

#[test]
fn fin_sent_again_is_the_same_fin() {
    play_established(&[
        c(FIN, [1, 1, 1], UP),
        c(FIN, [1, 1, 1], UP),
        b(ACK, [1, 2, 0], UP),
        b(ACK, [1, 2, 0], UP),
        b(FIN, [1, 2, 1], UP),
        b(FIN, [1, 2, 1], UP),
        c(ACK, [2, 2, 0], OVER),
        c(ACK, [2, 2, 0], OVER),
        b(FIN, [1, 2, 1], OVER),
    ]);
}

#[test]
fn reset_in_sequence_closes_at_once() {
    assert_eq!(play_established(&[c(RST, [1, 0, 0], OVER)]), Reason::ClientReset);
    assert_eq!(play_established(&[b(RST, [1, 0, 0], OVER)]), Reason::BackendReset);
    assert_eq!(play_established(&[b(RST_ACK, [1, 1, 0], OVER)]), Reason::BackendReset);
    // With data under way, from the end of it, and from where the other end is.
    let client_sends = c(ACK, [1, 1, 1_400], UP);
    play_established(&[client_sends, c(RST, [1_401, 0, 0], OVER)]);
    play_established(&[client_sends, c(RST, [1, 0, 0], OVER)]);
    let backend_sends = b(ACK, [1, 1, 1_400], UP);
    play_established(&[backend_sends, b(RST, [1_401, 0, 0], OVER)]);
    play_established(&[backend_sends, b(RST, [1, 0, 0], OVER)]);
    // After its own FIN.
    play_established(&[c(FIN, [1, 1, 1], UP), c(RST, [2, 0, 0], OVER)]);
}

#[test]
fn reset_out_of_sequence_closes_nothing() {
    for sequence in [0, 2, 700, 1_400, 1_402, 1 << 20, 1 << 31, u32::MAX] {
        for flags in [RST, RST_ACK] {
            play_established(&[c(ACK, [1, 1, 1_400], UP), c(flags, [sequence, 1, 0], UP)]);
            play_established(&[b(ACK, [1, 1, 1_400], UP), b(flags, [sequence, 1, 0], UP)]);
        }
    }
}

#[test]
fn reset_that_answers_a_syn_closes_by_its_acknowledgement() {
    assert_eq!(play(&[b(RST_ACK, [0, 1, 0], OVER)]), Reason::BackendReset);
    assert_eq!(play(&[b(RST_ACK, [123_456, 1, 0], OVER)]), Reason::BackendReset);
    for wrong in [2, 77, u32::MAX] {
        play(&[
            b(RST_ACK, [5, wrong, 0], OPEN),
            b(SYN_ACK, [0, 1, 1], OPEN),
            c(ACK, [1, 1, 0], UP),
        ]);
    }
}

#[test]
fn client_gives_up_an_opening_by_a_reset_in_sequence() {
    assert_eq!(play(&[c(RST, [1, 0, 0], OVER)]), Reason::ClientReset);
    play(&[c(RST, [2, 0, 0], OPEN), c(RST, [0, 0, 0], OPEN)]);
    assert_eq!(play(&[HANDSHAKE[0], c(RST, [1, 0, 0], OVER)]), Reason::ClientReset);
}

#[test]
fn backend_that_has_lost_the_connection_is_confirmed_anew() {
    const AGAIN: u32 = 0x4000_0000;
    let lines = [
        c(ACK, [1, 1, 300], UP),
        b(ACK, [1, 301, 200], UP),
        c(SYN, [AGAIN, 0, 1], UP),
        b(SYN_ACK, [AGAIN + 7, AGAIN + 1, 1], OPEN),
        c(ACK, [301, 201, 0], OPEN),
        c(ACK, [AGAIN + 1, AGAIN + 8, 0], UP),
        c(FIN, [AGAIN + 1, AGAIN + 8, 1], UP),
        b(FIN, [AGAIN + 8, AGAIN + 2, 1], UP),
        c(ACK, [AGAIN + 2, AGAIN + 9, 0], OVER),
    ];
    assert_eq!(play_established(&lines), Reason::ClientFin);
}

#[test]
fn client_that_has_lost_the_connection_resets_it_through_the_backends_challenge() {
    let lines = [
        b(ACK, [1, 1, 200], UP),
        c(ACK, [1, 201, 0], UP),
        c(SYN, [0x4000_0000, 0, 1], UP),
        b(ACK, [201, 1, 0], UP),
        c(RST, [1, 0, 0], OVER),
    ];
    assert_eq!(play_established(&lines), Reason::ClientReset);
}

#[test]
fn answer_to_a_syn_sent_again_changes_nothing() {
    play_established(&[
        c(ACK, [1, 1, 100], UP),
        b(SYN_ACK, [0, 1, 1], UP),
        c(ACK, [101, 1, 0], UP),
        b(ACK, [1, 101, 50], UP),
    ]);
}

#[test]
fn probes_of_an_idle_flow_change_nothing() {
    play_established(&[
        c(ACK, [0, 1, 0], UP),
        b(ACK, [1, 1, 0], UP),
        c(ACK, [0, 1, 1], UP),
        b(ACK, [0, 1, 0], UP),
        c(ACK, [1, 1, 0], UP),
        c(RST, [0, 0, 0], UP),
        c(RST, [1, 0, 0], OVER),
    ]);
}

#[test]
fn data_sent_again_takes_nothing_back() {
    play_established(&[
        c(ACK, [1, 1, 100], UP),
        c(ACK, [101, 1, 100], UP),
        c(ACK, [1, 1, 100], UP),
        b(ACK, [1, 201, 0], UP),
        c(RST, [101, 0, 0], UP),
        c(RST, [201, 0, 0], OVER),
    ]);
}

#[test]
fn closed_flow_stays_closed() {
    play_established(&[
        c(RST, [1, 0, 0], OVER),
        b(SYN_ACK, [0, 1, 1], OVER),
        c(ACK, [1, 1, 0], OVER),
        c(SYN, [9, 0, 1], OVER),
        b(RST, [1, 0, 0], OVER),
    ]);
}

#[test]
fn udp_is_confirmed_by_a_packet_of_the_client_after_an_answer() {
    fn test<A: Numbered, const SLOT: usize>() {
        let table = Table::<A, SLOT>::new(4);
        let name = Name::udp(1);
        let here = table.must_open(name, 0);
        let lines = [
            (Sender::Client, State::OneWay),
            (Sender::Client, State::OneWay),
            (Sender::Backend, State::OneWay),
            (Sender::Backend, State::OneWay),
            (Sender::Client, State::TwoWay),
            (Sender::Backend, State::TwoWay),
            (Sender::Client, State::TwoWay),
        ];
        for (from, then) in lines {
            assert!(table.packet(name, from, &Segment::default(), 0));
            assert_eq!(table.meta(here).state(), then);
            table.check();
        }
    }
    test::<V4, 8>();
    test::<V6, 16>();
}

#[test]
fn first_packets_of_udp_confirm_nothing_even_if_they_are_looked_at() {
    let table = Table::<V4, 8>::new(4);
    let here = table.must_open(Name::udp(1), 0);
    turn(&table, here, &Segment::default());
    assert_eq!(table.meta(here).state(), State::OneWay);
}

#[test]
fn both_directions_are_counted_and_timed_apart() {
    let table = Table::<V4, 8>::new(4);
    let here = table.must_confirm(Name::tcp(1), 3);
    let there = table.meta(here).other();
    table.packet(Name::tcp(1), Sender::Client, &Name::tcp(1).confirmation(), 20);
    assert_eq!([here, there].map(|at| table.traffic(at)), [(3, 260), (1, 100)]);
    assert_eq!([here, there].map(|at| last_seen(table.slot(at))), [20, 3]);
    assert_eq!([here, there].map(|at| sent(table.slot(at))), [1, 8_001]);
    assert_eq!([here, there].map(|at| acknowledged(table.slot(at))), [8_001, 1]);
}

#[test]
fn flow_is_closed_from_outside_once() {
    let table = Table::<V4, 8>::new(4);
    let here = table.must_confirm(Name::tcp(1), 0);
    let there = table.meta(here).other();
    assert!(close(&table, there, Reason::BackendGone));
    assert!(!close(&table, here, Reason::BackendGone));
    let meta = table.meta(here);
    assert_eq!((meta.state(), meta.reason()), (OVER, Reason::BackendGone));
    assert_eq!(meta.flags() & flag::ANSWERED, flag::ANSWERED);
    assert_eq!(table.take_ended().len(), 1);
    assert_eq!(table.live_flows(Live::Confirmed), 0);
    table.check();
}

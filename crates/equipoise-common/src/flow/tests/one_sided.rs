//! Flows whose answers go another way: the client alone is heard, and believed.

use super::conversation::{OPEN, OVER, UP};
use super::table::{NO_LIMITS, Name, Sender, Table};
use crate::flow::entry::Reason;
use crate::flow::open::New;
use crate::flow::set::Position;
use crate::flow::state::State;
use crate::flow::track::{Segment, tcp};
use crate::key::V4;

fn open(table: &Table<V4, 8>, name: Name) -> Position {
    table.open(&New { is_one_sided: true, ..name.opening(0) }, &NO_LIMITS).at
}

/// Has the client say this with nothing of the backend heard.
fn say(table: &Table<V4, 8>, name: Name, flags: u8, [sequence, length]: [u32; 2]) {
    let segment = Segment { flags, sequence, acknowledgement: 77_000, length };
    table.packet(name, Sender::Client, &segment, 1);
}

#[test]
fn client_that_acknowledges_something_has_a_connection() {
    let (table, name) = (Table::<V4, 8>::new(4), Name::tcp(1));
    let here = open(&table, name);
    say(&table, name, tcp::SYN, [0, 1]);
    assert_eq!(table.meta(here).state(), OPEN);
    say(&table, name, tcp::ACK, [1, 0]);
    assert_eq!(table.meta(here).state(), UP);
}

#[test]
fn syn_that_is_sent_again_is_known_until_something_is_acknowledged() {
    let (table, name) = (Table::<V4, 8>::new(4), Name::tcp(1));
    let here = open(&table, name);
    // Another connection from the same port is not the first SYN again.
    say(&table, name, tcp::SYN, [5_000, 1]);
    assert!(!table.meta(here).is_sent_again());
    say(&table, name, tcp::SYN, [0, 1]);
    assert!(table.meta(here).is_sent_again());
    say(&table, name, tcp::ACK, [1, 0]);
    assert_eq!(table.meta(here).state(), UP);
    assert!(!table.meta(here).has(crate::flow::flag::SENT_AGAIN));
    assert_eq!(table.answers(), [], "nothing is seen of the backend");
}

#[test]
fn client_that_has_finished_ends_its_flow() {
    let (table, name) = (Table::<V4, 8>::new(4), Name::tcp(1));
    let here = open(&table, name);
    say(&table, name, tcp::ACK, [1, 0]);
    // One out of sequence is a stranger's.
    say(&table, name, tcp::ACK | tcp::FIN, [3 << 24, 1]);
    assert_eq!(table.meta(here).state(), UP);
    say(&table, name, tcp::ACK | tcp::FIN, [1, 1]);
    assert_eq!((table.meta(here).state(), table.meta(here).reason()), (OVER, Reason::ClientFin));
}

#[test]
fn reset_ends_it_at_the_number_that_is_next_alone() {
    let (table, name) = (Table::<V4, 8>::new(4), Name::tcp(1));
    let here = open(&table, name);
    // More than what is believed of a connection with two ends to be under way.
    for step in 0..5 {
        say(&table, name, tcp::ACK, [1 + step * (1 << 23), 1 << 23]);
    }
    say(&table, name, tcp::RST, [2, 0]);
    assert_eq!(table.meta(here).state(), UP);
    say(&table, name, tcp::RST, [1 + 5 * (1 << 23), 0]);
    assert_eq!((table.meta(here).state(), table.meta(here).reason()), (OVER, Reason::ClientReset));
}

#[test]
fn second_datagram_confirms() {
    let (table, name) = (Table::<V4, 8>::new(4), Name::udp(1));
    let here = open(&table, name);
    assert_eq!(table.meta(here).state(), State::OneWay);
    say(&table, name, 0, [0, 0]);
    assert_eq!(table.meta(here).state(), State::TwoWay);
}

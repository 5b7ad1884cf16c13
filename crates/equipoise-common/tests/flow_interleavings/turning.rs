//! Packets of both directions change one flow's state at once.

use std::sync::Arc;

use equipoise_common::flow::end::end;
use equipoise_common::flow::entry::{Reason, flag};
use equipoise_common::flow::state::State;
use equipoise_common::flow::track::{Segment, tcp};
use equipoise_common::key::UDP;

use crate::table::{CONFIRMATION, NOW, Name, Sender, Table};
use crate::{explore, on_another_cpu, plain};

const CLIENT_FIN: Segment =
    Segment { flags: tcp::FIN | tcp::ACK, sequence: 1, acknowledgement: 8_001, length: 1 };
const BACKEND_FIN: Segment =
    Segment { flags: tcp::FIN | tcp::ACK, sequence: 8_001, acknowledgement: 1, length: 1 };
const CLIENT_LAST: Segment =
    Segment { flags: tcp::ACK, sequence: 2, acknowledgement: 8_002, length: 0 };
const BACKEND_LAST: Segment =
    Segment { flags: tcp::ACK, sequence: 8_002, acknowledgement: 2, length: 0 };
const CLIENT_RESET: Segment =
    Segment { flags: tcp::RST, sequence: 1, acknowledgement: 0, length: 0 };

#[test]
fn flow_is_confirmed_once_by_two_packets() {
    for protocol in [plain().protocol, UDP] {
        let name = Name::all()
            .map(|name| Name { protocol, ..name })
            .find(|name| name.leads_to([0, 0], [1, 1], 2))
            .unwrap();
        explore(Some(3), move || {
            let table = Arc::new(Table::new(2, [1, 1]));
            let here = table.must_answer(name);
            let other = on_another_cpu(&table, move |table| {
                table.packet(name, Sender::Client, &CONFIRMATION);
            });
            table.packet(name, Sender::Client, &CONFIRMATION);
            other.join().unwrap();
            assert_eq!(table.check(), 1);
            assert!(table.meta(here).state().is_confirmed());
        });
    }
}

#[test]
fn both_ends_finish_at_once_and_both_entries_agree() {
    let name = plain();
    explore(Some(3), move || {
        let table = Arc::new(Table::new(2, [1, 1]));
        let here = table.must_confirm(name);
        let backend = on_another_cpu(&table, move |table| {
            table.packet(name, Sender::Backend, &BACKEND_FIN);
        });
        table.packet(name, Sender::Client, &CLIENT_FIN);
        backend.join().unwrap();
        assert_eq!(table.check(), 1);
        assert!(table.meta(here).has(flag::CLIENT_FIN | flag::BACKEND_FIN));
        assert_eq!(table.meta(here).state(), State::Established);
    });
}

#[test]
fn last_acknowledgements_at_once_close_a_flow_once() {
    let name = plain();
    explore(Some(3), move || {
        let table = Arc::new(Table::new(2, [1, 1]));
        let here = table.must_confirm(name);
        table.packet(name, Sender::Client, &CLIENT_FIN);
        table.packet(name, Sender::Backend, &BACKEND_FIN);
        let backend = on_another_cpu(&table, move |table| {
            table.packet(name, Sender::Backend, &BACKEND_LAST);
        });
        table.packet(name, Sender::Client, &CLIENT_LAST);
        backend.join().unwrap();
        assert_eq!(table.check(), 1);
        assert_eq!(table.meta(here).state(), State::Closing);
        assert_eq!(table.ended(), [(State::Established, Reason::ClientFin)]);
    });
}

#[test]
fn fins_and_a_reset_at_once_close_a_flow_once() {
    let name = plain();
    explore(Some(1), move || {
        let table = Arc::new(Table::new(3, [1, 1]));
        let here = table.must_confirm(name);
        let packets = [(Sender::Backend, BACKEND_FIN), (Sender::Client, CLIENT_FIN)];
        let others = packets.map(|(from, segment)| {
            on_another_cpu(&table, move |table| {
                table.packet(name, from, &segment);
            })
        });
        table.packet(name, Sender::Client, &CLIENT_RESET);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(table.check(), 1);
        if table.meta(here).state() == State::Closing {
            assert_eq!(table.ended().len(), 1);
        }
    });
}

#[test]
fn flow_that_ends_while_its_packets_turn_it_leaves_nothing() {
    let name = plain();
    for (from, segment) in [(Sender::Client, CLIENT_RESET), (Sender::Backend, BACKEND_FIN)] {
        explore(Some(4), move || {
            let table = Arc::new(Table::new(2, [1, 1]));
            let here = table.must_confirm(name);
            let other = on_another_cpu(&table, move |table| {
                table.packet(name, from, &segment);
            });
            assert!(end(&*table, here, Reason::Idle, NOW));
            other.join().unwrap();
            assert_eq!(table.check(), 0);
        });
    }
}

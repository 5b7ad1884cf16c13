//! How much a table of a given size takes: all that it is made for, at once and for ever.

use equipoise_lab::scale;

use super::table::{NO_LIMITS, Name, Table};
use crate::flow::count::{Live, Refused};
use crate::flow::end::end;
use crate::flow::entry::Reason;
use crate::flow::open::Limits;
use crate::flow::set::{GRACE, sets_for};
use crate::hash::mix;
use crate::key::V4;

/// Flow number so and so of an endless supply.
fn name(number: u64) -> Name {
    let random = mix(0x00ca_9ac1_7700, number);
    Name {
        client: random as u32,
        port: (random >> 32) as u16,
        backend: (random >> 48) as u32 % 7,
        ..Name::tcp(0)
    }
}

#[test]
fn table_takes_as_many_flows_as_it_is_made_for_and_no_more() {
    for flows in [100, 1_000, 10_000, 100_000, 1_000_000] {
        let table = Table::<V4, 8>::new(sets_for(flows));
        let limits = Limits { table: flows, ..NO_LIMITS };
        for number in 0..u64::from(flows) {
            let opened = table.open(&name(number).opening(0), &limits);
            assert_eq!(opened.refused, 0, "flow {number} of {flows}");
            table.confirm(name(number), 0);
        }
        for number in 0..10 {
            let opened = table.open(&name(u64::from(flows) + number).opening(0), &limits);
            assert_eq!((opened.refused, opened.evicted), (Refused::Full as u32, 0));
        }
        assert_eq!(table.live_flows(Live::Table), u64::from(flows));
        table.check();
    }
}

#[test]
fn full_table_takes_new_flows_for_ended_ones_for_ever() {
    for (flows, rounds) in [(100, 300), (1_000, 100), (10_000, 30), (scale(100_000, 1_000_000), 20)]
    {
        let table = Table::<V4, 8>::new(sets_for(flows));
        let mut live: Vec<u64> = (0..u64::from(flows)).collect();
        for &number in &live {
            table.must_open(name(number), 0);
        }
        let mut random = 1;
        for round in 1..=rounds {
            let now = round * (GRACE + 1);
            for _ in 0..flows / 10 {
                random = mix(random, 1);
                let gone = live.swap_remove(random as usize % live.len());
                assert!(end(&table, table.look_up(&name(gone).request()), Reason::Idle, now));
            }
            for new in 0..u64::from(flows / 10) {
                let number = u64::from(round) << 32 | new;
                table.must_open(name(number), now + GRACE + 1);
                live.push(number);
            }
        }
        table.check();
        for number in live {
            assert!(end(&table, table.look_up(&name(number).request()), Reason::Idle, 0));
        }
        table.check();
    }
}

//! Copying all flows into the tables of another kernel: they are the same there, and their packets find them.
//!
//! The second balancer has a namespace of its own with the same addresses, and, unless a test says otherwise, the
//! same configuration: what was begun with the one goes on with the other. Their clocks go alike.

use equipoise::dataplane::kernel::{Copied, FlowRow};

use crate::bench::Transport;
use crate::exact::agree;
use crate::talk::{CONNECTED, EXCHANGED, Line, Side, Talk, talks};
use crate::world::{TIMEOUTS, World, seconds, services};

use Side::{Backend, Client};
use Transport::{Ack, Bare, Fin, Reset, Syn, SynAck, Udp};

/// What is said in turn.
type Said = Vec<(Side, Transport)>;

/// What is said before the copying and after it, and the state that the flow is in at last.
fn conversations() -> Vec<(Said, Said, &'static str)> {
    let connected = |then: &[_]| [&CONNECTED[..], then].concat();
    vec![
        (vec![(Client, Syn)], vec![(Backend, SynAck), (Client, Bare)], "established"),
        (vec![(Client, Syn), (Backend, SynAck)], vec![(Client, Bare)], "established"),
        (connected(&[(Backend, Ack)]), vec![(Client, Ack), (Backend, Ack)], "established"),
        (connected(&[(Client, Fin)]), vec![(Backend, Fin), (Client, Bare)], "closing"),
        (connected(&[(Backend, Fin)]), vec![(Client, Fin), (Backend, Bare)], "closing"),
        (connected(&[(Client, Reset)]), vec![], "closing"),
        (vec![(Client, Udp)], vec![(Backend, Udp), (Client, Udp)], "two-way"),
        (EXCHANGED.to_vec(), vec![(Backend, Udp)], "two-way"),
    ]
}

fn wait(worlds: [&mut World; 2], ticks: u32) {
    for world in worlds {
        world.wait(ticks);
    }
}

fn sorted(mut rows: Vec<FlowRow>) -> Vec<FlowRow> {
    rows.sort_by_key(|row| (row.protocol, row.client, row.vip));
    rows
}

/// Asserts that both have the same flows, and that the counts of both are those of their tables.
fn assert_same(world: &mut World, other: &mut World) {
    assert_eq!(sorted(other.rows()), sorted(world.rows()));
    assert_eq!(sorted(agree(other)), sorted(agree(world)));
    assert_eq!(other.counts(), world.counts());
}

#[test]
fn copied_flows_are_the_same_and_their_packets_find_them() {
    let config = services(TIMEOUTS, 1);
    for sizes in [[1_000, 9_000], [1_000, 100]] {
        let [mut world, mut other] = sizes.map(|most| World::sized(&config, most));
        let mut everyone: Vec<(Talk, Said, &str)> = Vec::new();
        for (number, (before, after, state)) in (0..).zip(conversations()) {
            for mut talk in talks(20_000 + number * 10) {
                talk.all(&world, &before[..1]);
                wait([&mut world, &mut other], 3 + u32::from(number));
                talk.all(&world, &before[1..]);
                everyone.push((talk, after.clone(), state));
            }
        }
        let count = everyone.len() as u64;
        let before = sorted(world.rows());
        let copied = world.kernel.copy_flows(&other.kernel);
        assert_eq!(copied, Copied { copied: count, refused: 0 });
        assert_eq!(sorted(world.rows()), before, "where they were copied from");
        assert_same(&mut world, &mut other);
        assert_eq!(world.kernel.copy_flows(&other.kernel), Copied::default());
        assert_same(&mut world, &mut other);

        for (talk, after, state) in &mut everyone {
            talk.all(&other, after);
            assert_eq!(talk.state(&other), Some(*state), "{talk:?}");
        }
        assert_eq!(agree(&mut other).len() as u64, count);
        assert_eq!(other.traffic().new_flows, 0);
        let closed = other.told().into_iter().filter(|told| told.closed).count();
        assert_eq!(closed, 2 * talks(0).len(), "none is told of that had closed before");
    }
}

/// Opens so many flows.
fn fill(world: &World, port: u16, flows: u16) {
    let everyone = (0..flows / 4).flat_map(|number| talks(port + number * 10));
    let open = |mut talk: Talk| talk.script(world, &[(Client, Syn)]);
    let packets: Vec<Line> = everyone.flat_map(open).collect();
    world.batch(&packets);
    assert_eq!(world.rows().len(), usize::from(flows));
}

#[test]
fn flows_that_find_no_room_are_counted_and_the_others_are_whole() {
    let config = services(TIMEOUTS, 1);
    // Nine sets for each family, with room for 67 flows.
    let [mut world, mut other] = [1_000, 1].map(|most| World::sized(&config, most));
    fill(&world, 30_000, 400);
    let Copied { copied, refused } = world.kernel.copy_flows(&other.kernel);
    assert!(copied > 80 && refused > 260, "{copied} copied, {refused} refused");
    assert_eq!(copied + refused, 400);
    let there = agree(&mut other);
    assert_eq!(there.len() as u64, copied);
    let here = agree(&mut world);
    assert_eq!(here.len(), 400);
    assert!(there.iter().all(|row| here.contains(row)));
    let again = world.kernel.copy_flows(&other.kernel);
    assert_eq!(again, Copied { copied: 0, refused });
    assert_eq!(agree(&mut other), there);
}

#[test]
fn flows_of_services_that_the_other_does_not_know_are_copied_as_well() {
    let config = services(TIMEOUTS, 1);
    let (first, _) = config.split_at(config.rfind("[[service]]").unwrap());
    let [mut world, mut other] = [&config[..], first].map(World::new);
    fill(&world, 40_000, 40);
    let copied = world.kernel.copy_flows(&other.kernel);
    assert_eq!(copied, Copied { copied: 40, refused: 0 });
    assert_eq!(sorted(agree(&mut other)), sorted(agree(&mut world)));
    wait([&mut world, &mut other], 1);
    assert_eq!(other.sweep().ended, 20, "a service without timeouts keeps no flows");
    assert_eq!(agree(&mut other).len(), 20);
}

#[test]
fn flows_past_their_time_are_copied_and_end_there() {
    let config = services(TIMEOUTS, 1);
    let [mut world, mut other] = [1_000, 2_000].map(|most| World::sized(&config, most));
    fill(&world, 50_000, 40);
    wait([&mut world, &mut other], seconds(2));
    assert!(world.rows().is_empty());
    let copied = world.kernel.copy_flows(&other.kernel);
    assert_eq!(copied, Copied { copied: 40, refused: 0 });
    assert!(other.rows().is_empty());
    let swept = other.sweep();
    assert_eq!((swept.ended, swept.events.len()), (40, 40));
    assert!(agree(&mut other).is_empty());
}

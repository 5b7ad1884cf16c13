//! Counts of live flows, after whatever packets in whatever order: what they say is what is in the tables.

use std::collections::{BTreeMap, BTreeSet};

use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::FlowRow;
use equipoise_lab::scale;

use crate::bench::{BACKEND, BACKEND6, Packet, Transport};
use crate::talk::{Line, Side, Talk, talks};
use crate::world::{Dice, TIMEOUTS, World, numbered, seconds, services, with_backends};

use Side::{Backend, Client};

const BACKENDS: u16 = 4;

/// Checks all counts against the tables themselves, and that each flow is in them once.
pub(crate) fn agree(world: &mut World) -> Vec<FlowRow> {
    let rows = world.everything();
    let confirmed = rows.iter().filter(|row| matches!(row.state, "established" | "two-way"));
    assert_eq!(world.counts(), (rows.len() as u64, confirmed.count() as u64));
    let mut backends: BTreeMap<u32, u64> = BTreeMap::new();
    let mut services = BTreeSet::new();
    let mut names = BTreeSet::new();
    for row in &rows {
        *backends.entry(row.backend).or_default() += 1;
        services.insert(row.service);
        let name = (row.protocol, row.client, row.vip);
        assert!(names.insert(name), "{name:?} is there twice");
        assert_eq!(row.service, u32::from(row.client.is_ipv6()), "{row:?}");
        assert!(row.traffic[0] > 0, "{row:?}");
    }
    for id in 0..64 {
        let counted = world.kernel.live_flows(id);
        assert_eq!(counted, backends.get(&id).copied().unwrap_or(0), "backend {id}");
    }
    let named = world.kernel.named();
    assert_eq!(named.services, services);
    assert_eq!(named.backends, backends.into_keys().collect());
    rows
}

/// A packet of a talk as it might come: mostly in order, sometimes not.
pub(crate) fn line(world: &World, dice: &mut Dice, talk: &mut Talk) -> Line {
    const ASK: [Transport; 9] = [
        Transport::Syn,
        Transport::Syn,
        Transport::Bare,
        Transport::Bare,
        Transport::Ack,
        Transport::Fin,
        Transport::Reset,
        Transport::Udp,
        Transport::Udp,
    ];
    const ANSWER: [Transport; 8] = [
        Transport::SynAck,
        Transport::SynAck,
        Transport::Bare,
        Transport::Ack,
        Transport::Fin,
        Transport::Refusal,
        Transport::Udp,
        Transport::Udp,
    ];
    let side = dice.pick(&Side::BOTH);
    let transport = if side == Client { dice.pick(&ASK) } else { dice.pick(&ANSWER) };
    let mut packet = if dice.one_in(8) {
        let packet = talk.packet(side, transport);
        let off = packet.numbers.map(|number| number.wrapping_add(dice.below(3).wrapping_sub(1)));
        Packet { numbers: off, ..packet }
    } else {
        talk.next(side, transport)
    };
    if side == Backend {
        // Whichever it is, it may answer.
        let first = if talk.ends.client.is_ipv4() { BACKEND } else { BACKEND6 };
        packet.from = numbered(first, dice.below(BACKENDS.into()) as u16);
    }
    let (device, frame) = talk.frame(world, side, packet);
    (talk.hook, device, frame)
}

#[test]
fn counts_are_those_of_the_tables_after_any_packets_in_any_order() {
    for (seed, most) in [(1, 1_000), (2, 60)] {
        let mut world = World::sized(&services(TIMEOUTS, BACKENDS), most);
        let mut dice = Dice::new(seed);
        let mut crowded = None;
        let mut everyone: Vec<Talk> =
            (0..75).flat_map(|number| talks(13_000 + number * 10)).collect();
        for batch in 0..scale(60, 1_500) {
            let count = everyone.len() as u32;
            let lines: Vec<Line> = (0..400)
                .map(|_| {
                    let talk = &mut everyone[dice.below(count) as usize];
                    line(&world, &mut dice, talk)
                })
                .collect();
            world.batch(&lines);
            let there = agree(&mut world);
            match dice.below(6) {
                0 => world.wait(seconds(1) + dice.below(seconds(11))),
                1 => {
                    let listed = world.rows().len();
                    world.sweep();
                    assert_eq!(agree(&mut world).len(), listed);
                }
                2 => {
                    // A backend of four leaves, or all are there again.
                    let all: Vec<u16> = (0..BACKENDS).collect();
                    let list = if dice.one_in(2) { &all[..] } else { &all[1..] };
                    let fate = dice.pick(&["keep", "reset"]);
                    let keys = format!("{TIMEOUTS}\non-backend-removed = '{fate}'");
                    world.reconfigure(&with_backends(&keys, list));
                }
                _ => world.wait(dice.below(seconds(1))),
            }
            // Without a pause since the last ones have ended, all slots may be within their grace.
            crowded = there.is_empty().then_some(crowded.map_or(1, |times: u32| times + 1));
            assert!(batch < 10 || crowded.is_none_or(|times| times < 8), "{crowded:?}");
        }
        world.wait(seconds(11));
        world.sweep();
        assert!(agree(&mut world).is_empty());
        assert!(world.traffic().new_flows > 1_000);
    }
}

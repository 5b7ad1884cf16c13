//! A table that has no room: what gives way, what never does, and how the rest gets through without a flow.

use equipoise_common::flow::GRACE;
use equipoise_common::flow::count::Pressure;
use equipoise_common::verdict::{Hook, Verdict};

use crate::bench::{Packet, Transport, families};
use crate::talk::{CONNECTED, EXCHANGED, Side, Talk, ends_of};
use crate::world::{HOOKS, World, seconds, services};

use Side::{Backend, Client};

/// Nothing ends by itself while a test lasts, unless it says so.
const LONG: &str = "timeouts = { tcp-opening = '1h', tcp-closing = '1h', udp-one-way = '1h', \
    udp-two-way = '1h' }";

/// Flows that a table is to hold: so few that sets are often full, and enough for averages to hold.
const SIZES: [u16; 2] = [64, 1_000];

fn long(more: &str) -> String {
    services(&format!("{LONG}\n{more}"), 1)
}

/// Talks of one family at one hook, from these ports.
fn crowd(hook: Hook, family: usize, ports: std::ops::Range<u16>) -> Vec<Talk> {
    ports.map(|port| Talk::new(hook, families(port)[family])).collect()
}

/// Lets each of them say this: connections and, where the port is a multiple of 4, datagrams.
fn all_say(world: &World, talks: &mut [Talk], lines: [&[(Side, Transport)]; 2]) {
    let script = |talk: &mut Talk| {
        let is_datagrams = talk.ends.client.port().is_multiple_of(4);
        talk.script(world, lines[usize::from(is_datagrams)])
    };
    world.batch(&talks.iter_mut().flat_map(script).collect::<Vec<_>>());
}

/// Makes confirmed flows of them.
fn confirm(world: &World, talks: &mut [Talk]) {
    all_say(world, talks, [&CONNECTED, &EXCHANGED]);
}

/// Makes flows of them that are not confirmed.
fn begin(world: &World, talks: &mut [Talk]) {
    all_say(world, talks, [&CONNECTED[..1], &EXCHANGED[..1]]);
}

/// What was tried, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tally {
    opened: u64,
    /// Opened, and made to give way before its time.
    evicted: u64,
    stateless: u64,
    refused: u64,
}

fn tally(world: &World) -> Tally {
    let count = |of: &[Pressure]| of.iter().map(|&pressure| world.pressure(pressure)).sum();
    Tally {
        opened: world.traffic().new_flows,
        evicted: count(&[
            Pressure::EvictedUnconfirmed,
            Pressure::EvictedClosing,
            Pressure::Expired,
        ]),
        stateless: count(&[Pressure::StatelessFull, Pressure::StatelessBusy]),
        refused: count(&[Pressure::RefusedFull]),
    }
}

/// Each of these has its flow, which is confirmed, and gets through.
fn all_live(world: &World, talks: &mut [Talk]) {
    let mut confirmed: Vec<_> = world
        .rows()
        .into_iter()
        .filter(|row| matches!(row.state, "established" | "two-way"))
        .map(|row| row.client)
        .collect();
    confirmed.sort_unstable();
    let mut expected: Vec<_> = talks.iter().map(|talk| talk.ends.client).collect();
    expected.sort_unstable();
    assert_eq!(confirmed, expected);
    let (live, opened) = (world.counts().0, world.traffic().new_flows);
    all_say(world, talks, [&[(Client, Transport::Ack)], &[(Client, Transport::Udp)]]);
    assert_eq!((world.counts().0, world.traffic().new_flows), (live, opened));
}

#[test]
fn a_table_takes_as_many_flows_as_it_is_to_and_the_next_go_by_their_hash() {
    for most in SIZES {
        for hook in HOOKS {
            let world = World::sized(&long("on-full = 'hash'"), most.into());
            let mut everyone = Vec::new();
            for family in 0..2 {
                let mut here = crowd(hook, family, 1024..1024 + most);
                confirm(&world, &mut here);
                let (full, before) = (u64::from(most) * (family as u64 + 1), tally(&world));
                assert_eq!(world.counts(), (full, full));
                assert_eq!((before.opened, before.evicted), (full, 0));

                let packets =
                    [&CONNECTED[..], &[(Client, Transport::Ack), (Backend, Transport::Ack)]];
                let lines = [&packets.concat()[..], &EXCHANGED];
                let (mut requests, mut replies) = (0, 0);
                for (number, mut talk) in (0..).zip(crowd(hook, family, 3000..3020)) {
                    for &(side, transport) in lines[number % 2] {
                        // Checked byte for byte: both ways, as if there were a flow.
                        talk.say(&world, side, transport);
                        *if side == Client { &mut requests } else { &mut replies } += 1;
                    }
                    assert_eq!(talk.state(&world), None);
                }
                let Tally { opened, evicted, stateless, refused } = tally(&world);
                assert_eq!((opened, evicted, refused), (before.opened, 0, 0));
                assert_eq!(stateless - before.stateless, requests);
                assert_eq!(world.pressure(Pressure::StatelessReply), replies * (family as u64 + 1));
                everyone.append(&mut here);
                all_live(&world, &mut everyone);
            }
        }
    }
}

#[test]
fn every_flow_finds_room_and_is_found_until_the_table_has_as_many_as_it_is_to() {
    // So many sets that some would be too small for all that have their first choice there.
    const MOST: u16 = 8_000;
    let mut world = World::sized(&long(""), MOST.into());
    for (family, hook) in [(0, Hook::Xdp), (1, Hook::Ingress)] {
        let mut everyone = crowd(hook, family, 1024..1024 + MOST);
        let live = u64::from(MOST) * (family as u64 + 1);
        let whole = Tally { opened: live, evicted: 0, stateless: 0, refused: 0 };
        // Once to open them, and once more.
        for _ in 0..2 {
            begin(&world, &mut everyone);
            assert_eq!((tally(&world), world.counts()), (whole, (live, 0)));
        }
        world.told();
    }
}

#[test]
fn where_the_service_says_so_what_has_no_room_is_dropped() {
    let most = SIZES[0];
    for hook in HOOKS {
        let world = World::sized(&long("on-full = 'drop'"), most.into());
        for family in 0..2 {
            let mut here = crowd(hook, family, 1024..1024 + most);
            confirm(&world, &mut here);
            let before = tally(&world);
            for (tried, talk) in (1..).zip(crowd(hook, family, 3000..3020)) {
                let transport = [Transport::Syn, Transport::Udp, Transport::Ack][tried % 3];
                let packet = talk.packet(Client, transport);
                talk.is_dropped(&world, Client, packet, Verdict::FlowRefused);
                let refused = before.refused + tried as u64;
                assert_eq!(tally(&world), Tally { refused, ..before });
            }
        }
    }
}

#[test]
fn a_connection_is_not_begun_that_would_not_be_let_go_on() {
    let most = SIZES[0];
    for unknown in ["drop", "reset"] {
        let world = World::sized(&long(&format!("on-unknown = '{unknown}'")), most.into());
        for (family, hook) in [(0, Hook::Xdp), (1, Hook::Ingress)] {
            confirm(&world, &mut crowd(hook, family, 1024..1024 + most));
            let before = tally(&world);
            for (tried, talk) in (1..).zip(crowd(hook, family, 3000..3010)) {
                let syn = talk.packet(Client, Transport::Syn);
                talk.is_dropped(&world, Client, syn, Verdict::FlowRefused);
                let refused = before.refused + tried;
                // Datagrams need nobody to remember them.
                talk.pass(&world, Client, talk.packet(Client, Transport::Udp));
                let stateless = before.stateless + tried;
                assert_eq!(tally(&world), Tally { refused, stateless, ..before });
            }
        }
    }
}

#[test]
fn a_reply_to_what_was_not_remembered_finds_its_way_for_as_long_as_it_may() {
    let mut world = World::sized(&long(""), SIZES[0].into());
    for family in 0..2 {
        confirm(&world, &mut crowd(Hook::Xdp, family, 1024..1024 + SIZES[0]));
    }
    for hook in HOOKS {
        for ends in families(3000) {
            let talk = Talk::new(hook, ends);
            talk.pass(&world, Client, talk.packet(Client, Transport::Syn));
            world.wait(1 << 17);
            talk.pass(&world, Backend, talk.packet(Backend, Transport::SynAck));
            world.wait(2);
            let packet = talk.packet(Backend, Transport::SynAck);
            talk.is_passed(&world, Backend, packet, Verdict::NoService);
        }
    }
}

/// How a flood comes.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// All in a moment: slots that have been given up are not used again.
    AtOnce,
    /// So slowly that they are.
    InTime,
}

/// Parts of a table that is filled with confirmed flows, and then flooded with so many of its size, in hundredths.
const FLOODS: [(u32, u32); 5] = [(0, 100), (25, 150), (50, 300), (90, 150), (100, 100)];

#[test]
fn a_flood_opens_evicts_and_passes_and_all_of_it_is_counted() {
    for most in SIZES {
        let mut world = World::sized(&long(""), most.into());
        for full in ["hash", "drop"] {
            world.reconfigure(&long(&format!("on-full = '{full}'")));
            for pace in [Pace::AtOnce, Pace::InTime] {
                for (family, hook) in [(0, Hook::Xdp), (1, Hook::Ingress)] {
                    for (confirmed, flooded) in FLOODS {
                        let part = |percent| (u32::from(most) * percent / 100) as u16;
                        let friends = crowd(hook, family, 1024..1024 + part(confirmed));
                        let strangers = crowd(hook, family, 20_000..20_000 + part(flooded));
                        flood(&mut world, friends, strangers, pace);
                    }
                }
            }
        }
    }
}

fn flood(world: &mut World, mut friends: Vec<Talk>, mut flood: Vec<Talk>, pace: Pace) {
    let start = tally(world);
    assert_eq!(world.counts(), (0, 0));
    confirm(world, &mut friends);
    let tried = friends.len() as u64 + flood.len() as u64;
    for part in flood.chunks_mut(16) {
        begin(world, part);
        if matches!(pace, Pace::InTime) {
            world.wait(40);
        }
    }
    let end = tally(world);
    let Tally { opened, evicted, stateless, refused } = Tally {
        opened: end.opened - start.opened,
        evicted: end.evicted - start.evicted,
        stateless: end.stateless - start.stateless,
        refused: end.refused - start.refused,
    };
    let what = format!("{pace:?} {} {}", friends.len(), flood.len());
    assert_eq!(opened + stateless + refused, tried, "{what}");
    let (live, confirmed) = world.counts();
    assert_eq!((live, confirmed), (opened - evicted, friends.len() as u64), "{what}");
    assert_eq!(world.rows().len() as u64, live, "{what}");
    all_live(world, &mut friends);
    world.wait(seconds(125 * 60) + 1);
    assert_eq!(world.sweep().ended, live, "{what}");
    assert_eq!(world.counts(), (0, 0));
    world.wait(GRACE + 1);
}

#[test]
fn what_is_past_its_time_and_what_is_over_gives_way_before_what_has_just_begun() {
    const MOST: u16 = 1_000;
    const NEW: u16 = 100;
    for (family, hook) in [(0, Hook::Xdp), (1, Hook::Ingress)] {
        for over in ["expired", "closing"] {
            let keys = LONG.replace("udp-one-way = '1h'", "udp-one-way = '1s'");
            let mut world = World::sized(&services(&keys, 1), MOST.into());
            // Older than the others: by age alone it would be theirs to go.
            let mut begun = crowd(hook, family, 1025..1025 + MOST * 2);
            begun.retain(|talk| talk.ends.client.port() % 4 == 1);
            begin(&world, &mut begun);
            world.wait(seconds(1));
            let rest = crowd(hook, family, 20_000..20_000 + 4 * MOST);
            let is_udp = |talk: &Talk| talk.ends.client.port().is_multiple_of(4);
            let mut rest: Vec<_> =
                rest.into_iter().filter(|talk| is_udp(talk) == (over == "expired")).collect();
            rest.truncate(usize::from(MOST) - begun.len());
            begin(&world, &mut rest);
            if over == "closing" {
                all_say(&world, &mut rest, [&[(Client, Transport::Reset)], &[]]);
            }
            world.wait(seconds(1) + 1);
            assert_eq!(world.counts(), (u64::from(MOST), 0));
            let mut new: Vec<_> = crowd(hook, family, 40_000..40_000 + 2 * NEW);
            new.retain(|talk| talk.ends.client.port() % 2 == 1);
            begin(&world, &mut new);
            let what = if over == "expired" { Pressure::Expired } else { Pressure::EvictedClosing };
            let (first, second) =
                (world.pressure(what), world.pressure(Pressure::EvictedUnconfirmed));
            // Only where a set has none of them is there no choice: of half-filled sets, about one in twenty.
            assert_eq!(first + second, u64::from(NEW), "{over}");
            assert!(second <= 20, "{over}: {second} of {NEW}");
        }
    }
}

#[test]
fn a_client_whose_flow_gave_way_while_it_opened_gets_through_to_the_same_backend() {
    let most = SIZES[0];
    let world = World::sized(&services(LONG, 8), most.into());
    for (family, hook) in [(0, Hook::Xdp), (1, Hook::Ingress)] {
        let mut talks = crowd(hook, family, 1024..1024 + 3 * most);
        let mut first = Vec::new();
        for talk in &mut talks {
            let packet = talk.next(Client, Transport::Syn);
            first.push(ends_of(&talk.send(&world, Client, packet).1.frame)[1]);
        }
        let lost = talks.iter().filter(|talk| talk.state(&world).is_none()).count();
        assert!(lost >= usize::from(most));
        for (talk, first) in talks.iter_mut().zip(first) {
            talk.next[1] = talk.next[1].wrapping_add(1);
            for transport in [Transport::Bare, Transport::Ack] {
                let packet: Packet = talk.next(Client, transport);
                let [_, to] = ends_of(&talk.send(&world, Client, packet).1.frame);
                assert_eq!(to, first);
            }
        }
    }
}

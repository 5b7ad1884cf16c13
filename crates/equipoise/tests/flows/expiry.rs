//! How long flows live without a packet: to the tick, in every state, whoever sends.

use equipoise_common::flow::count::Pressure;
use equipoise_common::verdict::Verdict;

use crate::bench::Transport;
use crate::talk::{CONNECTED, EXCHANGED, Side, Talk, talks};
use crate::world::{TIMEOUTS, World, seconds, services};

use Side::{Backend, Client};

/// A way to a state: what is said to get there, how long it lasts, and what each side says in it that does not
/// change it.
struct Stay {
    state: &'static str,
    way: &'static [(Side, Transport)],
    timeout: u32,
    says: [Transport; 2],
}

const STAYS: [Stay; 7] = [
    Stay {
        state: "opening",
        way: &[(Client, Transport::Syn)],
        timeout: seconds(1),
        says: [Transport::Syn, Transport::SynAck],
    },
    Stay {
        state: "established",
        way: &CONNECTED,
        timeout: seconds(10),
        says: [Transport::Bare, Transport::Ack],
    },
    Stay {
        state: "established",
        way: &[
            CONNECTED[0],
            CONNECTED[1],
            CONNECTED[2],
            (Client, Transport::Fin),
            (Backend, Transport::Bare),
        ],
        timeout: seconds(10),
        says: [Transport::Bare, Transport::Ack],
    },
    Stay {
        state: "established",
        way: &[
            CONNECTED[0],
            CONNECTED[1],
            CONNECTED[2],
            (Backend, Transport::Fin),
            (Client, Transport::Bare),
        ],
        timeout: seconds(10),
        says: [Transport::Ack, Transport::Bare],
    },
    Stay {
        state: "closing",
        way: &[
            CONNECTED[0],
            CONNECTED[1],
            CONNECTED[2],
            (Client, Transport::Fin),
            (Backend, Transport::Fin),
            (Client, Transport::Bare),
        ],
        timeout: seconds(2),
        says: [Transport::Bare, Transport::Bare],
    },
    Stay {
        state: "one-way",
        way: &[(Client, Transport::Udp)],
        timeout: seconds(3),
        says: [Transport::Udp, Transport::Udp],
    },
    Stay {
        state: "two-way",
        way: &EXCHANGED,
        timeout: seconds(5),
        says: [Transport::Udp, Transport::Udp],
    },
];

/// Gets flows of every kind into a state.
fn all_in(world: &World, stay: &Stay, port: u16) -> Vec<Talk> {
    let mut talks = talks(port);
    for talk in &mut talks {
        talk.all(world, stay.way);
        assert_eq!(talk.state(world), Some(stay.state));
    }
    talks
}

#[test]
fn a_flow_lives_for_its_timeout_after_the_last_packet_of_either_side() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    let mut port = 1000;
    for stay in &STAYS {
        for speaker in Side::BOTH {
            port += 10;
            let mut talks = all_in(&world, stay, port);
            for _ in 0..3 {
                world.wait(stay.timeout);
                for talk in &mut talks {
                    assert_eq!(talk.state(&world), Some(stay.state), "{speaker:?} {talk:?}");
                    // Sent again, where it takes a sequence number: that changes no state.
                    let said = stay.says[speaker as usize];
                    let packet = if said == Transport::Syn {
                        anew(talk).packet(speaker, said)
                    } else {
                        talk.packet(speaker, said)
                    };
                    talk.pass(&world, speaker, packet);
                    assert_eq!(talk.state(&world), Some(stay.state), "{speaker:?} {talk:?}");
                }
            }
            let opened = world.traffic().new_flows;
            assert_eq!(world.pressure(Pressure::Expired), 0);
            world.wait(stay.timeout);
            assert_eq!(world.rows().len(), talks.len());
            world.wait(1);
            assert_eq!(world.rows().len(), 0, "{} after {speaker:?}", stay.state);
            assert_eq!(world.sweep().ended, talks.len() as u64);
            assert_eq!(world.traffic().new_flows, opened);
            assert_eq!(world.counts(), (0, 0));
        }
    }
}

/// The same ends, with nothing said.
fn anew(talk: &Talk) -> Talk {
    Talk::new(talk.hook, talk.ends)
}

#[test]
fn the_first_packet_after_the_timeout_opens_a_flow_anew() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    for (number, stay) in (1..).zip(&STAYS) {
        let talks = all_in(&world, stay, 2000 + number * 10);
        world.wait(stay.timeout + 1);
        let (opened, expired) = (world.traffic().new_flows, world.pressure(Pressure::Expired));
        for talk in &talks {
            let (_, opening) = stay.way[0];
            anew(talk).say(&world, Client, opening);
            let row = world.row(talk.ends.client).unwrap();
            let first = if opening == Transport::Udp { "one-way" } else { "opening" };
            assert_eq!((row.state, row.age, row.traffic[0]), (first, Default::default(), 1));
        }
        let four = talks.len() as u64;
        assert_eq!(world.traffic().new_flows, opened + four, "{}", stay.state);
        assert_eq!(world.pressure(Pressure::Expired), expired + four, "{}", stay.state);
        assert_eq!(world.counts(), (four, 0));
        world.wait(seconds(11));
        assert_eq!(world.sweep().ended, four);
    }
}

#[test]
fn a_packet_from_the_middle_after_the_timeout_is_of_no_flow() {
    let mut world = World::new(&services(&format!("{TIMEOUTS}\non-unknown = 'drop'"), 1));
    let mut talks = talks(2100);
    for talk in &mut talks {
        talk.connect(&world);
    }
    world.wait(seconds(10) + 1);
    for (number, talk) in (0..).zip(&talks) {
        // The backend's finds no flow and is for no service; it is not ours to end anything by.
        talk.is_passed(&world, Backend, talk.packet(Backend, Transport::Ack), Verdict::NoService);
        assert_eq!(world.pressure(Pressure::Expired), number);
        let packet = talk.packet(Client, Transport::Ack);
        talk.is_dropped(&world, Client, packet, Verdict::UnknownFlow);
        assert_eq!(world.pressure(Pressure::Expired), number + 1);
    }
    assert_eq!(world.counts(), (0, 0));
    assert_eq!(world.sweep().ended, 0);
}

#[test]
fn a_client_that_comes_back_too_late_is_reset_where_its_service_says_so() {
    let keys = TIMEOUTS.replace(" }", ", reset-on-expiry = true }");
    let mut world = World::new(&services(&keys, 1));
    for (number, transport) in (0..).zip([Transport::Bare, Transport::Ack, Transport::Fin]) {
        let mut talks = talks(2200 + number * 10);
        for talk in &mut talks {
            talk.connect(&world);
        }
        world.wait(seconds(10) + 1);
        for talk in &talks {
            let packet = talk.packet(Client, transport);
            talk.is_reset(&world, Client, packet, Verdict::ResetFlow);
            // There is nothing left of it.
            assert_eq!(world.row(talk.ends.client), None);
        }
        assert_eq!(world.counts(), (0, 0));
        assert_eq!(world.sweep().ended, 0);
    }
    let mut talks = talks(2300);
    for talk in &mut talks {
        talk.connect(&world);
    }
    world.wait(seconds(10) + 1);
    for talk in &talks {
        // No answer to a RST; a SYN is a connection of its own.
        talk.pass(&world, Client, talk.packet(Client, Transport::Reset));
        anew(talk).say(&world, Client, Transport::Syn);
        assert_eq!(talk.state(&world), Some("opening"));
    }
}

#[test]
fn a_sweep_ends_flows_at_their_time_and_tells_both_ends_where_their_service_says_so() {
    let keys = TIMEOUTS.replace(" }", ", reset-on-expiry = true }");
    let mut world = World::new(&services(&keys, 1));
    for (number, stay) in (1..).zip(&STAYS) {
        let talks = all_in(&world, stay, 2400 + number * 10);
        world.wait(stay.timeout);
        let before = world.sweep();
        assert_eq!((before.ended, before.resets.len()), (0, 0), "{}", stay.state);
        world.wait(1);
        let after = world.sweep();
        assert_eq!(after.ended, talks.len() as u64, "{}", stay.state);
        assert_eq!(world.counts(), (0, 0));
        let resets = if stay.state == "established" { talks.len() } else { 0 };
        assert_eq!(after.resets.len(), resets, "{}", stay.state);
        for ties in &after.resets {
            let talk = talks.iter().find(|talk| talk.ends.client == ties.client).unwrap();
            assert_eq!([ties.client_sent, ties.backend_sent], talk.next, "{}", stay.state);
            assert_eq!((ties.vip, ties.backend), (talk.ends.vip, talk.ends.backend));
            assert_eq!(ties.client_at_backend, talk.ends.client);
        }
    }
}

#[test]
fn changed_timeouts_are_those_of_flows_that_are_there() {
    let mut world = World::new(&services(TIMEOUTS, 1));
    let mut talks = talks(2500);
    for talk in &mut talks {
        talk.connect(&world);
    }
    world.wait(seconds(4));
    // Longer: they outlive what they were opened under.
    world.reconfigure(&services("timeouts = { tcp-established = '20s' }", 1));
    world.wait(seconds(15));
    assert_eq!(world.sweep().ended, 0);
    for talk in &mut talks {
        talk.say(&world, Client, Transport::Ack);
    }
    world.wait(seconds(6));
    assert_eq!(world.rows().len(), 4);
    // Shorter: they are over at once, for a packet as for a sweep.
    world.reconfigure(&services("timeouts = { tcp-established = '5s' }\non-unknown = 'drop'", 1));
    assert_eq!(world.rows().len(), 0);
    let packet = talks[0].packet(Client, Transport::Ack);
    talks[0].is_dropped(&world, Client, packet, Verdict::UnknownFlow);
    assert_eq!(world.sweep().ended, 3);
    assert_eq!(world.traffic().new_flows, 4);
}

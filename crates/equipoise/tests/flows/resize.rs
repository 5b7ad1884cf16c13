//! Flow tables of another size: every flow goes on, wherever it is at the moment, and is there once.

use equipoise::dataplane::{DataPlane as _, Moving};
use equipoise_common::verdict::Verdict;
use equipoise_lab::scale;

use crate::bench::{Packet, Transport};
use crate::exact::{agree, line};
use crate::talk::{CONNECTED, EXCHANGED, Line, Side, Talk, talks};
use crate::world::{Dice, TIMEOUTS, World, seconds, services};

use Side::{Backend, Client};
use Transport::{Ack, Bare, Fin, Syn, Udp};

/// Carries everything over, and forgets the old tables.
fn finish(world: &mut World) {
    let is_done = (0..1_000).any(|_| world.kernel.carry(7).unwrap() == Moving::Done);
    assert!(is_done, "{:?}", world.kernel.occupancy());
    conclude(world);
}

/// Nothing hangs on a device here: programs are run from where the kernel has them.
fn conclude(world: &mut World) {
    world.kernel.take_new_tables().unwrap();
    world.kernel.conclude().unwrap();
    assert_eq!(world.kernel.carry(1).unwrap(), Moving::Nothing);
}

#[test]
fn flows_go_on_before_while_and_after_they_are_carried_over() {
    for most in [3_000, 400] {
        let mut world = World::sized(&services(TIMEOUTS, 1), 1_000);
        let [mut old, mut new] = [20_000, 40_000].map(|port| {
            (0..10).flat_map(|number| talks(port + number * 10)).collect::<Vec<Talk>>()
        });
        let (tcp, udp) = old.split_at_mut(20);
        for talk in tcp.iter_mut() {
            talk.all(&world, &CONNECTED);
        }
        for talk in udp.iter_mut() {
            talk.all(&world, &EXCHANGED);
        }
        world.kernel.resize(most).unwrap();
        assert_eq!(world.kernel.max_flows(), most);
        assert_eq!(world.kernel.occupancy().to_be_carried, 40);
        let mut steps = 0;
        loop {
            // One is opened in each step, and all of before say something.
            if let Some(talk) = new.get_mut(steps) {
                talk.all(&world, &CONNECTED);
            }
            steps += 1;
            for talk in tcp.iter_mut() {
                talk.all(&world, &[(Client, Ack), (Backend, Ack)]);
            }
            for talk in udp.iter_mut() {
                talk.all(&world, &[(Client, Udp), (Backend, Udp)]);
            }
            let there = agree(&mut world).len();
            assert_eq!(there, 40 + steps.min(new.len()), "after {steps} steps");
            match world.kernel.carry(4).unwrap() {
                Moving::Going => {}
                Moving::Done => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(steps > 20, "{steps} steps");
        assert_eq!(world.kernel.occupancy().to_be_carried, 0);
        conclude(&mut world);
        assert_eq!(world.traffic().new_flows, 80.min(40 + steps as u64));
        for talk in tcp.iter_mut() {
            talk.all(&world, &[(Client, Fin), (Backend, Fin), (Client, Bare)]);
            assert_eq!(talk.state(&world), Some("closing"));
        }
        for talk in udp.iter_mut() {
            talk.all(&world, &[(Client, Udp), (Backend, Udp)]);
        }
        let closed = world.told().into_iter().filter(|told| told.closed).count();
        assert_eq!(closed, tcp.len(), "being carried over is no end");
        agree(&mut world);
    }
}

#[test]
fn what_flows_have_lived_through_comes_along() {
    let mut world = World::sized(&services(TIMEOUTS, 1), 1_000);
    let mut everyone = talks(21_000);
    for talk in &mut everyone {
        talk.all(&world, &CONNECTED);
        world.wait(seconds(1));
        talk.all(&world, &[(Client, Ack), (Backend, Ack), (Backend, Ack)]);
    }
    let sorted = |world: &World| {
        let mut rows = world.rows();
        rows.sort_by_key(|row| (row.client, row.vip));
        rows
    };
    let before = sorted(&world);
    world.kernel.resize(5_000).unwrap();
    finish(&mut world);
    assert_eq!(sorted(&world), before);
    // A timeout that began in the old tables ends in the new ones.
    world.wait(seconds(11));
    assert_eq!(before.len(), everyone.len());
    assert_eq!(world.sweep().ended, everyone.len() as u64);
    assert!(agree(&mut world).is_empty());
}

#[test]
fn a_flow_that_is_opened_anew_while_others_are_carried_over_is_one() {
    let mut world = World::sized(&services(TIMEOUTS, 1), 1_000);
    let [mut closed, mut idle] = [22_000, 23_000].map(talks);
    for talk in closed.iter_mut().chain(&mut idle) {
        talk.all(&world, &CONNECTED);
    }
    for talk in &mut closed {
        talk.all(&world, &[(Client, Fin), (Backend, Fin), (Client, Bare)]);
    }
    world.wait(seconds(1));
    world.kernel.resize(2_000).unwrap();
    for talk in &mut closed {
        // Its client uses the port once more.
        talk.next = talk.next.map(|number| number.wrapping_add(70_000));
        talk.all(&world, &CONNECTED);
    }
    assert_eq!(agree(&mut world).len(), 8);
    world.wait(seconds(9) + seconds(1) / 2);
    for talk in &mut idle {
        talk.next = talk.next.map(|number| number.wrapping_add(70_000));
        talk.all(&world, &CONNECTED);
    }
    assert_eq!(world.kernel.occupancy().to_be_carried, 0, "their old ones have ended");
    finish(&mut world);
    for talk in closed.iter_mut().chain(&mut idle) {
        talk.all(&world, &[(Client, Ack), (Backend, Ack)]);
    }
    assert_eq!(agree(&mut world).len(), 8);
}

/// Two VIPs, one backend: the second flow of a client's port needs another name there, in whichever table the first one is.
#[test]
fn a_name_that_a_flow_has_in_the_old_tables_is_taken() {
    let config = services(TIMEOUTS, 1);
    let other = config.replace("name = 'web", "name = 'other").replace("port = 80,", "port = 81,");
    assert_ne!(other, config);
    let mut world = World::sized(&format!("{config}{other}"), 1_000);
    for (number, mut talk) in talks(24_000).into_iter().enumerate() {
        talk.all(&world, &CONNECTED);
        world.kernel.resize(1_500 + number as u32).unwrap();
        let mut again = talk;
        again.ends.vip.set_port(81);
        let syn = again.next(Client, Syn);
        let (verdict, output) = again.send(&world, Client, syn);
        assert_eq!(verdict, Verdict::ForwardedRequest);
        let as_it_is = Packet { from: talk.ends.client, to: talk.ends.backend, ..syn };
        let out = world.sent(talk.hook, world.back);
        assert_ne!(output.frame, as_it_is.hops(63).build(out), "it has another port");
        talk.all(&world, &[(Client, Ack), (Backend, Ack)]);
        finish(&mut world);
        talk.all(&world, &[(Client, Ack), (Backend, Ack)]);
    }
}

#[test]
fn flows_that_find_no_room_stay_where_they_are_until_they_do() {
    let mut world = World::sized(&services(TIMEOUTS, 1), 1_000);
    let mut everyone: Vec<Talk> = (0..60).flat_map(|number| talks(25_000 + number * 10)).collect();
    for talk in &mut everyone {
        talk.all(&world, &CONNECTED);
    }
    // Nine sets for each family, with room for 67 flows of the 120.
    world.kernel.resize(1).unwrap();
    for _ in 0..3 {
        let mut last = Moving::Going;
        while last == Moving::Going {
            last = world.kernel.carry(10).unwrap();
        }
        assert_eq!(last, Moving::Waiting);
        let left = world.kernel.occupancy().to_be_carried;
        assert!((60..200).contains(&left), "{left} are left");
        for talk in &mut everyone {
            talk.all(&world, &[(Client, Ack), (Backend, Ack)]);
        }
        assert_eq!(agree(&mut world).len(), 240);
    }
    for talk in &mut everyone[..180] {
        talk.all(&world, &[(Client, Fin), (Backend, Fin), (Client, Bare)]);
    }
    world.wait(seconds(3));
    world.sweep();
    // Slots that have just been given up are not used at once.
    world.wait(seconds(1));
    finish(&mut world);
    for talk in &mut everyone[180..] {
        talk.all(&world, &[(Client, Ack), (Backend, Ack)]);
    }
    assert_eq!(agree(&mut world).len(), 60);
}

#[test]
fn counts_are_those_of_the_tables_whatever_comes_while_flows_are_carried_over() {
    let mut world = World::sized(&services(TIMEOUTS, 4), 300);
    let mut dice = Dice::new(3);
    let mut everyone: Vec<Talk> = (0..50).flat_map(|number| talks(13_000 + number * 10)).collect();
    let mut finished = 0;
    for _ in 0..scale(150, 3_000) {
        let count = everyone.len() as u32;
        let lines: Vec<Line> = (0..150)
            .map(|_| {
                let talk = &mut everyone[dice.below(count) as usize];
                line(&world, &mut dice, talk)
            })
            .collect();
        world.batch(&lines);
        agree(&mut world);
        match world.kernel.carry(1 + dice.below(12)).unwrap() {
            Moving::Nothing => world.kernel.resize(20 + dice.below(900)).unwrap(),
            Moving::Done => {
                conclude(&mut world);
                finished += 1;
            }
            Moving::Going | Moving::Waiting => {}
        }
        agree(&mut world);
        match dice.below(4) {
            0 => {
                world.wait(dice.below(seconds(3)));
                world.sweep();
            }
            _ => world.wait(dice.below(seconds(1))),
        }
    }
    assert!(finished > 3, "{finished} times");
}

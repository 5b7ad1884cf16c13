//! Maps of another layout: every flow goes on, wherever it is at the moment, also after a crash at any moment of it.
//!
//! Those of before are said to be of another layout here, and are as they are in this one: what carries flows over knows no more of them.
//! Tests with traffic have a version whose maps are really others.

use std::mem::swap;

use aya::maps::{Array, Map, MapData};
use equipoise::dataplane::kernel::{Clock, Eviction, Kernel, Options, TcWay};
use equipoise::dataplane::{DataPlane as _, Moving};
use equipoise_common::value::{CARRIAGE, LAYOUT, Layout};

use crate::bench::{Bench, Transport};
use crate::exact::agree;
use crate::talk::{CONNECTED, EXCHANGED, Side, Talk, talks};
use crate::world::{TIMEOUTS, World, services, with_backends};

use Side::{Backend, Client};
use Transport::{Ack, Bare, Fin, Udp};

const OTHER: u64 = LAYOUT + 1;

fn pins(instance: &str) -> String {
    format!("/sys/fs/bpf/equipoise/{instance}")
}

/// What the maps of an instance are said to be like, to be changed.
fn say(instance: &str, change: impl FnOnce(&mut Layout)) -> Layout {
    let map = MapData::from_pin(format!("{}/maps/LAYOUT", pins(instance))).unwrap();
    let mut map: Array<_, Layout> = Map::Array(map).try_into().unwrap();
    let mut layout = map.get(&0, 0).unwrap();
    change(&mut layout);
    map.set(0, layout, 0).unwrap();
    layout
}

/// Names of programs and maps that stand beside others.
fn beside(instance: &str) -> Vec<String> {
    let folders = ["maps", "programs"].map(|folder| format!("{}/{folder}", pins(instance)));
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("NEXT_") || name.contains('-')).collect()
}

/// Connections and exchanges of datagrams.
struct Everyone {
    tcp: Vec<Talk>,
    udp: Vec<Talk>,
}

impl Everyone {
    fn begin(world: &World, port: u16) -> Self {
        let some = |port: u16| (0..5).flat_map(|number| talks(port + number * 10)).collect();
        let mut everyone = Self { tcp: some(port), udp: some(port + 100) };
        everyone.tcp.iter_mut().for_each(|talk| talk.all(world, &CONNECTED));
        everyone.udp.iter_mut().for_each(|talk| talk.all(world, &EXCHANGED));
        everyone
    }

    fn talk(&mut self, world: &World) {
        self.tcp.iter_mut().for_each(|talk| talk.all(world, &[(Client, Ack), (Backend, Ack)]));
        self.udp.iter_mut().for_each(|talk| talk.all(world, &[(Client, Udp), (Backend, Udp)]));
    }

    fn count(&self) -> usize {
        self.tcp.len() + self.udp.len()
    }
}

/// Checks the counts of both tables against what is in them.
fn agreed(world: &mut World, next: &mut Kernel) -> usize {
    swap(&mut *world.kernel, next);
    let count = agree(world).len();
    swap(&mut *world.kernel, next);
    world.wait(0);
    count
}

/// So many parts are carried over, while everybody talks and some begin to.
fn carry(world: &mut World, next: &mut Kernel, everyone: &mut Everyone, new: &mut Vec<Talk>) {
    for step in 0.. {
        // Which of them come first is their hash's; the first new ones are opened in the tables of before, too.
        if step >= 10 && next.occupancy().to_be_carried < everyone.count() as u64 {
            return;
        }
        let port = 30_000 + 10 * new.len() as u16;
        for mut talk in talks(port) {
            talk.all(world, &CONNECTED);
            new.push(talk);
        }
        everyone.talk(world);
        assert_eq!(agreed(world, next), everyone.count() + new.len());
        assert_eq!(next.carry(4).unwrap(), Moving::Going);
    }
}

#[test]
fn flows_go_on_while_maps_of_another_layout_come_and_when_nobody_ends_that() {
    let mut world = World::sized(&services(TIMEOUTS, 1), 1_000);
    // A backend that has been away: its flows know that it has.
    world.reconfigure(&with_backends(TIMEOUTS, &[1]));
    world.reconfigure(&services(TIMEOUTS, 1));
    let mut everyone = Everyone::begin(&world, 20_000);
    let (instance, opened) = (world.instance.clone(), world.traffic().new_flows);
    let mut begun = 0;
    for crashes in [true, false] {
        say(&instance, |layout| layout.tag = OTHER);
        let mut new = Vec::new();
        let mut next = world.after();
        // Nothing has changed for packets so far.
        everyone.talk(&world);
        assert_eq!(next.occupancy().to_be_carried, everyone.count() as u64);
        carry(&mut world, &mut next, &mut everyone, &mut new);
        let said = say(&instance, |_| {});
        assert_eq!((said.tag, said.next_tag), (OTHER, LAYOUT));
        let carried = everyone.count() as u64 - next.occupancy().to_be_carried;
        assert!((1..everyone.count() as u64).contains(&carried), "{carried} are carried over");
        if crashes {
            drop(next);
            next = world.after();
        } else {
            while next.carry(16).unwrap() != Moving::Done {}
            everyone.talk(&world);
            next.take_new_tables().unwrap();
            next.conclude().unwrap();
        }
        swap(&mut *world.kernel, &mut next);
        drop(next);
        world.wait(0);
        assert_eq!(say(&instance, |_| {}).tag, LAYOUT);
        assert_eq!((world.kernel.carry(1).unwrap(), beside(&instance)), (Moving::Nothing, vec![]));
        everyone.talk(&world);
        for talk in &mut new {
            talk.all(&world, &[(Client, Ack), (Backend, Ack), (Client, Fin)]);
            talk.all(&world, &[(Backend, Fin), (Client, Bare)]);
        }
        assert_eq!(agree(&mut world).len(), everyone.count() + new.len());
        world.wait(crate::world::seconds(3));
        everyone.talk(&world);
        world.sweep();
        assert_eq!(agree(&mut world).len(), everyone.count());
        begun += new.len() as u64;
    }
    let new = world.traffic().new_flows - opened;
    assert_eq!(new, begun, "counted on");
}

#[test]
fn flows_that_a_killed_process_has_left_on_the_counts_alone_hold_nothing_up() {
    let mut world = World::sized(&services(TIMEOUTS, 1), 1_000);
    let mut everyone = Everyone::begin(&world, 20_000);
    // One more than there are: it was killed between ending a flow and taking it off.
    let map = MapData::from_pin(format!("{}/maps/LIVE", pins(&world.instance))).unwrap();
    let mut live: Array<_, u64> = Map::Array(map).try_into().unwrap();
    let count = live.get(&0, 0).unwrap();
    live.set(0, count + 1, 0).unwrap();
    world.kernel.resize(2_000).unwrap();
    let is_done = (0..1_000).any(|_| world.kernel.carry(16).unwrap() == Moving::Done);
    assert!(is_done, "{:?}", world.kernel.occupancy());
    everyone.talk(&world);
    world.kernel.take_new_tables().unwrap();
    world.kernel.conclude().unwrap();
    everyone.talk(&world);
    assert_eq!(agree(&mut world).len(), everyone.count());
}

#[test]
fn a_start_beside_maps_of_another_layout_that_comes_to_nothing_leaves_nothing() {
    let mut world = World::sized(&services(TIMEOUTS, 1), 1_000);
    let mut everyone = Everyone::begin(&world, 20_000);
    let instance = world.instance.clone();
    let said = say(&instance, |layout| layout.tag = OTHER);
    // Given up by itself.
    let next = world.after();
    assert!(!beside(&instance).is_empty());
    next.abandon().unwrap();
    assert_eq!((beside(&instance), say(&instance, |_| {})), (vec![], said));
    everyone.talk(&world);
    // Killed before it has begun; and by the next one, too, which has said so and no more.
    drop(world.after());
    let next = world.after();
    everyone.talk(&world);
    say(&instance, |layout| (layout.next_tag, layout.next_sets) = (LAYOUT, 75));
    drop(next);
    let mut next = world.after();
    everyone.talk(&world);
    assert_eq!(agreed(&mut world, &mut next), everyone.count());
    while next.carry(16).unwrap() != Moving::Done {}
    next.take_new_tables().unwrap();
    next.conclude().unwrap();
    swap(&mut *world.kernel, &mut next);
    world.wait(0);
    everyone.talk(&world);
    assert_eq!(agree(&mut world).len(), everyone.count());
}

#[test]
fn flows_that_cannot_be_carried_over_end_no_sooner_than_their_process() {
    let bench = Bench::new();
    let (instance, max_flows) = (&*bench.instance, 50_000);
    let (tc, clock, eviction) = (TcWay::default(), Clock::Set, Eviction::default());
    let options = Options { instance, max_flows, tc, clock, eviction };
    let why_not = || {
        let refused = Kernel::load_beside(&options).err().expect("it is refused");
        assert_eq!(beside(instance), Vec::<String>::new());
        refused.to_string()
    };
    say(instance, |layout| (layout.tag, layout.carriage) = (OTHER, 0));
    let why = why_not();
    let other = format!("flows are carried over by 0 there, and not by {CARRIAGE}");
    assert!(why.contains(&other) && why.contains("all flows end"), "{why}");
    // Another process is in the middle of carrying them over, from one layout to another.
    say(instance, |layout| {
        (layout.carriage, layout.next_tag, layout.next_sets) = (CARRIAGE, OTHER + 1, 8);
    });
    let why = why_not();
    assert!(why.contains("still being carried over"), "{why}");
    // A process that comes when there is none any more takes what is there away.
    say(instance, |layout| {
        (layout.carriage, layout.next_tag, layout.next_sets) = (0, 0, 0);
    });
    let mut kernel = Kernel::load(&options).unwrap();
    assert_eq!(kernel.found().unwrap(), None);
    assert!(kernel.given_up().unwrap().contains(&other), "{:?}", kernel.given_up());
    assert_eq!(say(instance, |_| {}).tag, LAYOUT);
}

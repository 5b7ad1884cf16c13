//! Who comes after: another process, also one of another layout, and one that comes to nothing; and what is left at the end.

use std::mem::swap;

use aya::maps::{Array, Map, MapData};
use equipoise::dataplane::kernel::Kernel;
use equipoise::dataplane::{DataPlane as _, Moving};
use equipoise_common::value::{LAYOUT, Layout};
use equipoise_core::config::AttachMode;

use crate::stage::{Listeners, Stage, config, say};

/// The link's name.
const LINK: &str = "take";
const PROGRAM: &str = "equipoise_take";

fn stage() -> Stage {
    Stage::new(&config("80"), AttachMode::Tc)
}

fn are_taken_up(stage: &Stage, by: &Listeners) {
    for vip in stage.vips(80) {
        let (client, taken) = stage.connected(vip, by);
        say(&client, &taken);
    }
}

/// The other takes the place of the stage's.
fn succeeds(stage: &mut Stage, mut other: Kernel) {
    swap(&mut *stage.bench.kernel, &mut other);
    drop(other);
}

fn links(stage: &Stage) -> Vec<String> {
    let mut links = stage.pinned("links");
    links.retain(|name| !name.ends_with(&format!("-{}", stage.bench.front)));
    links
}

#[test]
fn after_the_end_nothing_is_left_and_connections_go_on() {
    let mut stage = stage();
    assert_eq!(links(&stage), [""; 0], "nobody has asked for it yet");
    let listeners = Listeners::new(&stage);
    stage.listen_by(&listeners);
    assert_eq!(links(&stage), [LINK]);
    assert!(stage.pinned("programs").iter().any(|name| name == PROGRAM));
    let there = stage.vips(80).map(|vip| stage.connected(vip, &listeners));
    let root = format!("/sys/fs/bpf/equipoise/{}", stage.bench.instance);
    assert!(Kernel::remove_left(&stage.bench.instance).unwrap());
    assert!(!std::path::Path::new(&root).exists());
    stage.refuses();
    for (client, taken) in &there {
        say(client, taken);
    }
    // For the stage's own end.
    std::fs::create_dir_all(root).unwrap();
}

#[test]
fn a_successor_takes_new_connections_and_those_that_are_there_stay() {
    let mut stage = stage();
    let first = Listeners::new(&stage);
    stage.listen_by(&first);
    let there = stage.vips(80).map(|vip| stage.connected(vip, &first));
    for turn in 0..2 {
        let mut other = stage.bench.beside();
        stage.attach_other(&mut other);
        // Until it says by whom.
        if turn == 0 {
            are_taken_up(&stage, &first);
        }
        let second = Listeners::new(&stage);
        stage.bench.netns.run(|| second.told(&mut other));
        are_taken_up(&stage, &second);
        stage.bench.netns.run(|| other.conclude().unwrap());
        succeeds(&mut stage, other);
        are_taken_up(&stage, &second);
        assert_eq!(links(&stage), [LINK]);
        let programs = stage.pinned("programs");
        assert!(programs.iter().any(|name| name == PROGRAM), "{programs:?}");
        assert!(programs.iter().all(|name| !name.contains('-')), "{programs:?}");
    }
    assert!(first.are_idle());
    drop(first);
    for (client, taken) in &there {
        say(client, taken);
    }
    // And one that takes nothing up.
    let mut other = stage.bench.beside();
    stage.attach_other(&mut other);
    stage.bench.netns.run(|| other.conclude().unwrap());
    succeeds(&mut stage, other);
    assert_eq!(links(&stage), [""; 0]);
    stage.refuses();
}

#[test]
fn one_that_comes_to_nothing_leaves_all_as_it_was() {
    for listens in [false, true] {
        let mut stage = stage();
        let first = Listeners::new(&stage);
        if listens {
            stage.listen_by(&first);
        }
        let mut other = stage.bench.beside();
        stage.attach_other(&mut other);
        let second = Listeners::new(&stage);
        stage.bench.netns.run(|| second.told(&mut other));
        are_taken_up(&stage, &second);
        stage.bench.netns.run(|| other.abandon().unwrap());
        drop(second);
        assert_eq!(links(&stage), if listens { &[LINK][..] } else { &[] });
        stage.refuses();
        stage.listen_by(&first);
        are_taken_up(&stage, &first);
        let programs = stage.pinned("programs");
        assert!(programs.iter().all(|name| !name.contains('-')), "{programs:?}");
    }
}

#[test]
fn one_that_dies_in_between_gives_all_back() {
    let mut stage = stage();
    let first = Listeners::new(&stage);
    stage.listen_by(&first);
    let mut other = stage.bench.beside();
    stage.attach_other(&mut other);
    let second = Listeners::new(&stage);
    stage.bench.netns.run(|| {
        second.told(&mut other);
        other.conclude().unwrap();
    });
    drop((other, second));
    stage.refuses();
    stage.bench.kernel.reclaim().unwrap();
    stage.attach();
    stage.listen_by(&first);
    are_taken_up(&stage, &first);
    assert_eq!(links(&stage), [LINK]);
}

/// What the maps are said to be like.
fn said_to_be_other(stage: &Stage) {
    let path = format!("/sys/fs/bpf/equipoise/{}/maps/LAYOUT", stage.bench.instance);
    let map = Map::Array(MapData::from_pin(path).unwrap());
    let mut map: Array<_, Layout> = map.try_into().unwrap();
    let layout = map.get(&0, 0).unwrap();
    map.set(0, Layout { tag: LAYOUT + 1, ..layout }, 0).unwrap();
}

#[test]
fn connections_go_on_while_maps_of_another_layout_come() {
    for (listens, comes_to_nothing) in [(true, true), (true, false), (false, false)] {
        let mut stage = stage();
        let first = Listeners::new(&stage);
        if listens {
            stage.listen_by(&first);
        }
        said_to_be_other(&stage);
        let mut other = stage.bench.beside();
        stage.attach_other(&mut other);
        let second = Listeners::new(&stage);
        stage.bench.netns.run(|| second.told(&mut other));
        are_taken_up(&stage, &second);
        if comes_to_nothing {
            stage.bench.netns.run(|| other.abandon().unwrap());
            drop(second);
            // Its own sockets have been in maps of their own.
            are_taken_up(&stage, &first);
            continue;
        }
        stage.bench.netns.run(|| other.conclude().unwrap());
        are_taken_up(&stage, &second);
        while other.carry(64).unwrap() != Moving::Done {}
        are_taken_up(&stage, &second);
        other.take_new_tables().unwrap();
        are_taken_up(&stage, &second);
        succeeds(&mut stage, other);
        stage.attach();
        are_taken_up(&stage, &second);
        assert_eq!(links(&stage), [LINK]);
        let names = [stage.pinned("programs"), stage.pinned("maps")].concat();
        assert!(names.iter().all(|name| !name.contains('-') && !name.starts_with("NEXT_")));
    }
}

#[test]
fn connections_go_on_while_flow_tables_of_another_size_come() {
    let mut stage = stage();
    let listeners = Listeners::new(&stage);
    stage.listen_by(&listeners);
    stage.bench.kernel.resize(3_000).unwrap();
    are_taken_up(&stage, &listeners);
    while stage.bench.kernel.carry(64).unwrap() != Moving::Done {}
    stage.bench.kernel.take_new_tables().unwrap();
    are_taken_up(&stage, &listeners);
    stage.attach();
    are_taken_up(&stage, &listeners);
    assert_eq!(links(&stage), [LINK]);
}

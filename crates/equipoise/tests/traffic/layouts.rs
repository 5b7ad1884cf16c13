//! Maps of another layout under traffic: another version comes after this one, and this one after that, and no connection breaks and none
//! fails to open. By an upgrade, by a start after a process that was killed, and where one is killed in the middle.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use aya::maps::{Array, Map, MapData, MapInfo};
use equipoise_common::value::{LAYOUT, Layout};
use equipoise_lab::topology::{Lab, Options};
use equipoise_lab::wait::wait_for;
use serde_json::Value;

use crate::balanced::{Attach, BINARY, Balancer, DEADLINE, backends, vips};
use crate::resize::names;
use crate::restart::{Servers, Traffic, config, packets};

/// A binary of another version, which is built for this: its maps have another layout.
fn other() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(BINARY).parent().unwrap();
        let mut cargo = equipoise_lab::cargo::cargo(env!("CARGO"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--locked"]);
        cargo.args(["--bin", "equipoise-other", "--features", "other-layout"]);
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        cargo.arg("--target-dir").arg(folder.parent().unwrap());
        assert!(cargo.status().unwrap().success(), "{cargo:?}");
        folder.join("equipoise-other")
    })
}

fn map(balancer: &Balancer, name: &str) -> PathBuf {
    format!("/sys/fs/bpf/equipoise/{}/maps/{name}", balancer.instance).into()
}

/// The first entry of a pinned array.
fn first<V: aya::Pod>(balancer: &Balancer, name: &str) -> V {
    let map = Map::Array(MapData::from_pin(map(balancer, name)).unwrap());
    Array::<_, V>::try_from(map).unwrap().get(&0, 0).unwrap()
}

/// What the pinned maps are said to be like.
fn layout(balancer: &Balancer) -> Layout {
    first(balancer, "LAYOUT")
}

/// Whether the maps are those of this version, and not of the other one.
fn is_ours(balancer: &Balancer) -> bool {
    let is_ours = layout(balancer).tag == LAYOUT;
    let value = MapInfo::from_pin(map(balancer, "BACKENDS")).unwrap().value_size();
    assert_eq!(value, if is_ours { 32 } else { 40 }, "the maps are as they are said to be");
    is_ours
}

/// Waits until the maps of one layout are all there is.
fn wait_for_one_layout(balancer: &Balancer) {
    let waited = wait_for(DEADLINE, "maps of one layout", || {
        let status = balancer.status();
        let is_over = status["flow_table"]["carrying"] == false && status["state"] == "ok";
        is_over.then_some(())
    });
    waited.unwrap_or_else(|error| panic!("{error}: {}", balancer.status()));
    let names = names(balancer);
    assert!(names.iter().all(|name| !name.starts_with("NEXT_") && name != "ANOTHER"), "{names:?}");
}

/// The programs hang on all interfaces as is asked for.
fn assert_hook(balancer: &Balancer, attach: Attach) {
    let status = balancer.status();
    for interface in status["interfaces"].as_array().unwrap() {
        let there = (&interface["hook"], &interface["mode"]);
        assert_eq!(there, (&attach.hook.into(), &attach.mode.into()), "{interface}");
    }
}

pub(crate) fn connections_outlive_an_upgrade_to_maps_of_another_layout_and_back(attach: Attach) {
    let other = other();
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = Servers::start(&lab);
    let text = config(&lab, attach.asked, 20_000);
    let mut balancer = Balancer::start_at(&lab.balancer, &text, attach);
    // Backends that have left and come back are of another generation, which flows remember.
    let [gone, gone6] = lab.backends[2].at(crate::balanced::PORT).map(|at| at.to_string());
    let without = |text: &str| {
        let lines = text.lines().filter(|line| !line.contains(&gone) && !line.contains(&gone6));
        lines.fold(String::new(), |text, line| text + line + "\n")
    };
    balancer.reload(&without(&text));
    balancer.reload(&text);
    let traffic = Traffic::start(&lab);
    let drained = backends(&lab, vips()[0].1)[0].0.to_string();
    assert_eq!(balancer.ask(&["drain", "web", &drained]).0, 0);
    let at_drain = balancer.backend("web", 0)["new_flows"].clone();
    // One that a version before may have had, and none has now.
    let foreign = MapData::from_pin(map(&balancer, "CLOCK")).unwrap();
    foreign.pin(map(&balancer, "ANOTHER")).unwrap();
    let first = balancer.daemon.as_ref().unwrap().pid();
    let (mut counted, mut forwarded) = (0, 0);
    for (binary, ours) in [(other, false), (Path::new(BINARY), true)] {
        let (code, said) = balancer.ask(&["--json", "upgrade", binary.to_str().unwrap()]);
        assert_eq!(code, 0, "{said}");
        let answer: Value = serde_json::from_str(&said).unwrap();
        assert!(answer["to_be_carried"].as_u64().unwrap() > 0, "{answer}");
        // It is answered when all is done.
        let status = balancer.status();
        assert_eq!(status["flow_table"]["carrying"], false, "{status}");
        assert_eq!((&status["state"], &status["pid"]), (&"ok".into(), &answer["pid"]), "{status}");
        wait_for_one_layout(&balancer);
        assert_eq!(is_ours(&balancer), ours);
        assert_hook(&balancer, attach);
        let now = packets(&status);
        assert!(now > counted, "{now} packets after {counted}");
        let verdict = balancer.verdict("forwarded_request");
        assert!(verdict > forwarded, "{verdict} requests after {forwarded}");
        (counted, forwarded) = (now, verdict);
        assert_eq!(balancer.backend("web", 0)["draining"], true);
    }
    assert_eq!(balancer.backend("web", 0)["new_flows"], at_drain, "drained stays drained");
    traffic.end().tell("upgrade to maps of another layout, and back", attach.name());
    assert_eq!(balancer.ask(&["stop"]).0, 0);
    let mut daemon = balancer.daemon.take().unwrap();
    assert!(daemon.wait(DEADLINE).unwrap().success(), "process {first} has ended well");
    assert!(!std::fs::exists(format!("/sys/fs/bpf/equipoise/{}", balancer.instance)).unwrap());
}

pub(crate) fn connections_outlive_processes_killed_while_layouts_change(attach: Attach) {
    let (this, other) = (Path::new(BINARY), other());
    let lab = Lab::new(Options::default()).unwrap();
    let _servers = Servers::start(&lab);
    let text = |size| config(&lab, attach.asked, size);
    let mut balancer = Balancer::start_at(&lab.balancer, &text(20_000), attach);
    let traffic = Traffic::start(&lab);
    let kill = |balancer: &mut Balancer| balancer.daemon.take().unwrap().kill().unwrap();
    let has_begun = |balancer: &Balancer| {
        let begun = || (layout(balancer).next_tag != 0).then_some(());
        wait_for(DEADLINE, "that flows are carried over", begun).unwrap();
    };
    let has_gone_on = |balancer: &Balancer| balancer.log().contains("had begun to carry over");
    let mut gone_on = 0;
    // The other version after this one, and each is killed once it has begun; the next goes on, or takes all back.
    for next in [other, other, this, this, other, this] {
        let before = layout(&balancer);
        kill(&mut balancer);
        balancer.run_by(next);
        if before.next_tag == 0 {
            has_begun(&balancer);
        }
        gone_on += u32::from(has_gone_on(&balancer));
    }
    assert!(gone_on > 0, "each was killed too late");
    wait_for_one_layout(&balancer);
    assert!(is_ours(&balancer));
    assert_hook(&balancer, attach);
    // In the middle of a change of size, too; flows are on their way once the programs know from which tables.
    balancer.write(&text(50_000));
    balancer.signal(libc::SIGHUP);
    let moving = || (first::<u64>(&balancer, "MOVING") != 0).then_some(());
    wait_for(DEADLINE, "that flows are on their way", moving).unwrap();
    kill(&mut balancer);
    balancer.run_by(other);
    wait_for_one_layout(&balancer);
    assert!(!is_ours(&balancer) && has_gone_on(&balancer), "{}", balancer.log());
    assert_eq!(balancer.status()["flow_table"]["size"], 50_000);
    let what = "maps of another layout: run after kill -9, kill -9 in the middle";
    traffic.end().tell(what, attach.name());
    balancer.end();
}

/// Kernels before 6.6 have filters in place of links. The other version's take the places of this one's.
mod at_clsact {
    use crate::balanced::CLSACT;

    #[test]
    fn connections_outlive_an_upgrade_to_maps_of_another_layout_and_back() {
        super::connections_outlive_an_upgrade_to_maps_of_another_layout_and_back(CLSACT);
    }

    #[test]
    fn connections_outlive_processes_killed_while_layouts_change() {
        super::connections_outlive_processes_killed_while_layouts_change(CLSACT);
    }
}

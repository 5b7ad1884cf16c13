//! Interfaces: links, whose programs hang there, queues and offloads.

use equipoise_lab::link::{Checksums, End, Gro, Properties, offload, veth};
use equipoise_lab::xdp::Passing;

use crate::bench::Bench;

#[test]
fn link_that_is_down_is_told() {
    let bench = Bench::new();
    bench.near.ip("link set front down").unwrap();
    let said = bench.doctor();
    assert_eq!(said.wrong("link"), [("problem", "front", "it is down")]);
    assert_eq!(said.exit, 1);
}

#[test]
fn xdp_program_of_somebody_else_is_named_and_left_there() {
    let bench = Bench::new();
    bench.attach("{ default = 'tc', front = 'xdp' }");
    assert_eq!(bench.doctor().wrong("foreign-xdp"), []);
    let program = Passing::on(&bench.near, "front").unwrap();
    let said = bench.doctor();
    let [("problem", "front", measured)] = said.wrong("foreign-xdp")[..] else {
        panic!("{:#}", said.answer)
    };
    assert!(measured.contains("somebody_elses (id "), "{measured}");
    assert_eq!(bench.fix().wrong("foreign-xdp").len(), 1);
    drop(program);
    assert_eq!(bench.doctor().wrong("foreign-xdp"), []);
}

#[test]
fn checksums_left_to_a_veth_under_xdp_are_finished_by_its_sender() {
    let bench = Bench::new();
    let end = |device| End { netns: &bench.near, device, gro: Gro::On };
    let properties = Properties { mtu: 1500, queues: 1, checksums: Checksums::Partial };
    veth(end("x0"), end("x1"), properties).unwrap();
    bench.configure("x0", "", "10.0.0.1:80");
    bench.attach("{ default = 'tc', x0 = 'xdp' }");
    let feature = "tx-checksum-ip-generic";
    assert_eq!(bench.offload_is("x1", feature), "on");
    let said = bench.doctor();
    assert_eq!(
        said.wrong("checksum-offload"),
        [("problem", "x0", "x1, its other end, leaves checksums to the device")]
    );
    let fixed = bench.fix();
    assert!(
        fixed.done().contains(&(
            "ethtool -K x1 tx-checksum-ip-generic off",
            "ethtool -K x1 tx-checksum-ip-generic on"
        )),
        "{:?}",
        fixed.done()
    );
    assert_eq!((fixed.exit, fixed.wrong("checksum-offload")), (0, Vec::new()));
    assert_eq!(bench.offload_is("x1", feature), "off");
}

#[test]
fn device_that_takes_no_redirected_frames_gets_its_other_end_to_receive_by_napi() {
    let bench = Bench::new();
    let end = |device| End { netns: &bench.near, device, gro: Gro::Off };
    let properties = Properties { mtu: 1500, queues: 1, checksums: Checksums::Complete };
    veth(end("x0"), end("x1"), properties).unwrap();
    bench.configure("x0", "", "10.0.0.1:80");
    bench.attach("{ default = 'tc', x0 = 'xdp' }");
    let said = bench.doctor();
    assert!(
        said.wrong("redirect")
            .iter()
            .any(|(level, subject, _)| (*level, *subject) == ("warning", "x0"))
    );
    let fixed = bench.fix();
    assert_eq!(fixed.done(), [("ethtool -K x1 rx-gro on", "ethtool -K x1 rx-gro off")]);
    assert!(fixed.wrong("redirect").iter().all(|(_, subject, _)| *subject != "x0"));
    // What was done is taken back by what was told.
    offload(&bench.near, "x1", &["rx-gro", "off"]).unwrap();
    assert!(bench.doctor().wrong("redirect").iter().any(|(_, subject, _)| *subject == "x0"));
}

//! Interfaces: links, whose programs hang there, queues and offloads.

use std::net::UdpSocket;
use std::thread::available_parallelism;

use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{Eviction, TcWay};
use equipoise_core::config::AttachMode;
use equipoise_lab::link::{Checksums, End, Gro, Properties, offload, veth};
use equipoise_lab::xdp::Passing;

use crate::bare;
use crate::bench::{Bench, end};

#[test]
fn link_that_is_down_is_told() {
    let bench = Bench::new();
    bench.near.ip("link set front down").unwrap();
    let said = bench.doctor();
    assert_eq!(said.wrong("link"), [("problem", "front", "it is down")]);
    assert_eq!(said.exit, 1);
    bench.take(said.help("link"));
    let said = bench.doctor();
    assert_eq!((said.exit, said.wrong("link")), (0, Vec::new()), "{:#}", said.answer);
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

#[test]
fn filter_that_kills_what_goes_to_backends_is_found_and_goes_by_what_is_told() {
    let bench = Bench::new();
    assert_eq!(bench.doctor().wrong("foreign-tc"), []);
    bench.take("tc qdisc add dev back clsact");
    assert_eq!(bench.doctor().wrong("foreign-tc"), [], "nothing hangs there");
    // What it gives is an act of TC: to go on, or to drop (2).
    bench.take("tc filter add dev back egress pref 7 bpf da bytecode '1,6 0 0 4294967295'");
    let told = "somebody else's hang at TC: a `bpf` filter of priority 7 (egress)";
    let said = bench.doctor();
    assert_eq!(said.wrong("foreign-tc"), [("warning", "back", told)]);
    assert_eq!(said.exit, 0, "{:#}", said.answer);
    bench.take("tc filter replace dev back egress pref 7 handle 1 bpf da bytecode '1,6 0 0 2'");
    // That it is dropped is told to nobody.
    let _ = bench.near.run(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", "10.0.0.1:9"));
    let said = bench.doctor();
    let [("problem", "back", measured)] = said.wrong("foreign-tc")[..] else {
        panic!("{:#}", said.answer)
    };
    assert!(measured.starts_with(&format!("{told}; filters have dropped ")), "{measured}");
    assert_eq!(bench.fix().wrong("foreign-tc").len(), 1, "it is somebody's");
    let (command, _) = said.help("foreign-tc").split_once(", if nobody needs it").unwrap();
    assert_eq!(command, "tc filter del dev back egress pref 7");
    bench.take(command);
    let said = bench.doctor();
    assert_eq!((said.exit, said.wrong("foreign-tc")), (0, Vec::new()), "{:#}", said.answer);
}

#[test]
fn filters_that_devices_share_and_those_of_the_older_qdisc_are_found_on_their_side() {
    let bench = Bench::new();
    bench.take(
        "tc qdisc add dev front ingress_block 5 clsact
         tc filter add block 5 pref 3 bpf da bytecode '1,6 0 0 4294967295'
         tc qdisc add dev back ingress
         tc filter add dev back ingress pref 4 bpf da bytecode '1,6 0 0 4294967295'
         tc filter add dev back ingress pref 5 protocol ip u32 match u32 0 0 classid 1:1",
    );
    let told = |priority| {
        format!("somebody else's hang at TC: a `bpf` filter of priority {priority} (ingress)")
    };
    let [back, front] = [told(4) + ", a `u32` filter of priority 5 (ingress)", told(3)];
    let said = bench.doctor();
    assert_eq!(
        said.wrong("foreign-tc"),
        [("warning", "back", back.as_str()), ("warning", "front", front.as_str())]
    );
}

#[test]
fn programs_of_an_instance_are_its_own_where_its_pins_cannot_be_seen() {
    let bench = Bench::new();
    let daemon = bench.start();
    let said = bench.ask_without_pins();
    assert_eq!(said.wrong("bpffs").len(), 1, "no pins can be seen: {:#}", said.answer);
    assert_eq!(said.wrong("foreign-tc"), []);
    bench.take(
        "tc qdisc add dev front clsact
         tc filter add dev front ingress bpf da bytecode '1,6 0 0 4294967295'",
    );
    let said = bench.ask_without_pins();
    let told = "somebody else's hang at TC: a `bpf` filter of priority 49152 (ingress)";
    assert_eq!(said.wrong("foreign-tc"), [("warning", "front", told)]);
    end(daemon);
}

#[test]
fn filters_of_an_instance_are_its_own_where_the_kernel_has_no_links_at_tc() {
    let bench = Bench::new();
    let kernel = bench.near.run(|| {
        let tables = (TcWay::Clsact, Eviction::default());
        let mut kernel = bare::load(&bench.instance, 1000, tables);
        let attachment = kernel.attach(&bare::device(&bench.near, "back"), AttachMode::Tc).unwrap();
        assert_eq!(attachment.mode, "clsact");
        kernel
    });
    assert_eq!(bench.doctor().wrong("foreign-tc"), []);
    bench.take("tc filter add dev back egress pref 7 bpf da bytecode '1,6 0 0 4294967295'");
    let told = "somebody else's hang at TC: a `bpf` filter of priority 7 (egress)";
    assert_eq!(bench.doctor().wrong("foreign-tc"), [("warning", "back", told)]);
    bench.near.run(|| kernel.remove()).unwrap();
}

#[test]
fn queues_that_are_fewer_than_cpus_become_as_many_by_what_is_told() {
    let cpus = available_parallelism().unwrap().get() as u32;
    if cpus == 1 {
        return;
    }
    let bench = Bench::new();
    let end = |device| End { netns: &bench.near, device, gro: Gro::On };
    let properties = Properties { mtu: 1500, queues: cpus, checksums: Checksums::Complete };
    veth(end("x0"), end("x1"), properties).unwrap();
    bench.configure("x0", "", "10.0.0.1:80");
    bench.attach("{ default = 'tc', x0 = 'xdp' }");
    assert_eq!(bench.doctor().wrong("queues"), []);
    bench.take("ethtool -L x0 rx 1");
    let said = bench.doctor();
    let told = format!("1 queues to receive by, of {cpus}, and {cpus} CPUs");
    assert_eq!(said.wrong("queues"), [("notice", "x0", told.as_str())]);
    bench.take(said.help("queues"));
    assert_eq!(bench.doctor().wrong("queues"), []);
}

//! Connections of real clients that this host takes up: by which socket, as whom they see each other, and who comes after.

#[path = "packets/bench.rs"]
#[expect(dead_code, reason = "the packet table uses the rest")]
mod bench;
#[path = "listen/stage.rs"]
mod stage;
#[path = "listen/successors.rs"]
mod successors;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use equipoise::dataplane::DataPlane as _;
use equipoise_common::verdict::Verdict;
use equipoise_core::config::AttachMode;
use equipoise_core::facts::Interface;
use equipoise_lab::wait_until;

use bench::{BACKEND, BACKEND6};
use stage::{Listeners, PATIENCE, Stage, config, say};

const MODES: [AttachMode; 3] = [AttachMode::Tc, AttachMode::Xdp, AttachMode::XdpGeneric];

#[test]
fn connections_are_taken_up_as_the_vips_and_from_the_client() {
    for mode in MODES {
        let mut stage = Stage::new(&config("80"), mode);
        let listeners = Listeners::new(&stage);
        stage.listen_by(&listeners);
        for vip in stage.vips(80) {
            let (client, taken) = stage.connected(vip, &listeners);
            assert_eq!(taken.local_addr().unwrap(), vip, "{mode:?}");
            assert_eq!(taken.peer_addr().unwrap(), client.local_addr().unwrap(), "{mode:?}");
            say(&client, &taken);
            // Nobody has another port.
            let other = stage.connect(SocketAddr::new(vip.ip(), 81)).unwrap_err();
            assert_eq!(other.kind(), ErrorKind::ConnectionRefused, "{mode:?}");
        }
        for verdict in [Verdict::Streamed, Verdict::LocalSocket] {
            assert!(stage.verdicts(verdict) > 0, "{mode:?} {verdict:?}");
        }
        assert_eq!((stage.verdicts(Verdict::ForwardedRequest), stage.bench.flows()), (0, 0));
    }
}

#[test]
fn all_ports_of_a_range_and_no_other_are_taken_up() {
    let mut stage = Stage::new(&config("'8000-8010'"), AttachMode::Tc);
    let listeners = Listeners::new(&stage);
    stage.listen_by(&listeners);
    for port in [8000, 8001, 8007, 8010] {
        for vip in stage.vips(port) {
            let (client, taken) = stage.connected(vip, &listeners);
            assert_eq!(taken.local_addr().unwrap(), vip);
            say(&client, &taken);
        }
    }
    for port in [7999, 8011] {
        for vip in stage.vips(port) {
            assert_eq!(stage.connect(vip).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    }
}

#[test]
fn pools_that_are_not_streamed_have_their_backends_and_what_is_taken_up_stays() {
    for mode in MODES {
        let text = config("80");
        let mut stage = Stage::new(&text, mode);
        let listeners = Listeners::new(&stage);
        stage.listen_by(&listeners);
        let [v4, v6] = stage.vips(80);
        let there = [v4, v6].map(|vip| stage.connected(vip, &listeners));
        stage.bench.reconfigure(&text);
        let before = stage.verdicts(Verdict::LocalSocket);
        for (client, taken) in &there {
            say(client, taken);
        }
        assert!(stage.verdicts(Verdict::LocalSocket) > before, "{mode:?}");
        assert_eq!((stage.verdicts(Verdict::ForwardedRequest), stage.bench.flows()), (0, 0));
        // A new one goes to its backend, which nobody is.
        for vip in [v4, v6] {
            assert_eq!(stage.waits_for(vip).unwrap_err().kind(), ErrorKind::TimedOut);
            // Nor is one taken up that no program of packets has met.
            let own = stage.connect_here(vip).unwrap_err();
            assert_eq!(own.kind(), ErrorKind::ConnectionRefused, "{mode:?}");
        }
        assert!(stage.bench.flows() > 0 && listeners.are_idle());
        // And back.
        stage.stream(&text);
        for vip in [v4, v6] {
            stage.connected(vip, &listeners);
        }
        for (client, taken) in &there {
            say(client, taken);
        }
    }
}

#[test]
fn a_source_with_a_route_of_its_own_is_taken_up_by_that() {
    let mut text = String::new();
    let backends = [(BACKEND, "198.51.100.0/24"), (BACKEND6, "2001:db8:c::/64")];
    for (service, (backend, source)) in config("80").split_inclusive("}]\n").zip(backends) {
        // Its own pool has another backend.
        text += &service.replace(backend, &backend.replace("8080", "8081"));
        text += "[[service.source-route]]\n";
        text += &format!("source = '{source}'\nbackends = [{{ address = '{backend}' }}]\n");
    }
    let mut stage = Stage::new(&text, AttachMode::Tc);
    let listeners = Listeners::new(&stage);
    stage.listen_by(&listeners);
    for vip in stage.vips(80) {
        stage.connected(vip, &listeners);
        let own = stage.connect_here(vip).unwrap_err();
        assert_eq!(own.kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn sockets_that_come_in_place_of_others_get_new_connections_alone() {
    let mut stage = Stage::new(&config("80"), AttachMode::Tc);
    let first = Listeners::new(&stage);
    stage.listen_by(&first);
    let there = stage.vips(80).map(|vip| stage.connected(vip, &first));
    let second = Listeners::new(&stage);
    stage.listen_by(&second);
    for vip in stage.vips(80) {
        let (client, taken) = stage.connected(vip, &second);
        say(&client, &taken);
    }
    assert!(first.are_idle());
    drop(first);
    for (client, taken) in &there {
        say(client, taken);
    }
}

#[test]
fn without_a_socket_connections_go_where_they_would_without_us() {
    let mut stage = Stage::new(&config("80"), AttachMode::Tc);
    let [v4, v6] = stage.vips(80);
    stage.refuses();
    let listeners = Listeners::new(&stage);
    stage.listen_by(&listeners);
    let others = stage.bench.netns.run(|| [v4, v6].map(|vip| TcpListener::bind(vip).unwrap()));
    let others = Listeners::of(others);
    for vip in [v4, v6] {
        stage.connected(vip, &listeners);
    }
    drop(listeners);
    let by_others = |vip| stage.connect(vip).is_ok() && !others.are_idle();
    for vip in [v4, v6] {
        wait_until(PATIENCE, "the sockets of others", || by_others(vip)).unwrap();
    }
    drop(others);
    stage.refuses();
}

#[test]
fn who_only_observes_takes_nothing_up() {
    let mut stage = Stage::new(&config("80"), AttachMode::Tc);
    let listeners = Listeners::new(&stage);
    stage.listen_by(&listeners);
    for observes in [true, false, true] {
        assert!(stage.bench.kernel.observe(observes).unwrap());
        stage.attach();
        for vip in stage.vips(80) {
            if observes {
                assert_eq!(stage.connect(vip).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            } else {
                stage.connected(vip, &listeners);
            }
        }
    }
    assert!(stage.verdicts(Verdict::Streamed) > 0);
}

/// To the kernel they come by the device that has the address.
#[test]
fn this_hosts_own_connections_are_taken_up_where_the_service_has_the_device_of_the_address() {
    let text = config("80");
    let mut stage = Stage::new(&text, AttachMode::Tc);
    let listeners = Listeners::new(&stage);
    stage.listen_by(&listeners);
    let here = |stage: &Stage| {
        for vip in stage.vips(80) {
            let client = stage.connect_here(vip).unwrap();
            let taken = listeners.accept().expect("it has been taken up");
            assert_eq!(taken.local_addr().unwrap(), vip);
            say(&client, &taken);
        }
    };
    let elsewhere = |stage: &Stage| {
        for vip in stage.vips(80) {
            stage.connected(vip, &listeners);
        }
    };
    here(&stage);
    let moved = stage.vips(80).map(|vip| {
        let bits = if vip.is_ipv4() { 32 } else { 128 };
        let ip = vip.ip();
        format!("addr del {ip}/{bits} dev front\naddr add {ip}/{bits} dev lo\n")
    });
    stage.bench.netns.ip(moved.concat().trim_end()).unwrap();
    for vip in stage.vips(80) {
        assert_eq!(stage.connect_here(vip).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    elsewhere(&stage);
    let mut facts = stage.bench.state.facts().clone();
    let lo = Interface { index: 1, addresses: [].into() };
    facts.interfaces.insert("lo".to_owned(), lo);
    stage.bench.state.handle_facts(facts);
    stage.stream(&text.replace("['front']", "['front', 'lo']"));
    here(&stage);
    elsewhere(&stage);
}

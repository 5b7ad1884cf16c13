//! Real TCP and UDP through the real balancer, at every hook.

#[path = "traffic/access_log.rs"]
mod access_log;
#[path = "traffic/asked.rs"]
mod asked;
#[path = "traffic/balanced.rs"]
mod balanced;
#[path = "traffic/bare.rs"]
mod bare;
#[path = "documents/blocks.rs"]
mod blocks;
#[path = "traffic/confined.rs"]
mod confined;
#[path = "traffic/degraded.rs"]
mod degraded;
#[path = "traffic/denied.rs"]
mod denied;
#[path = "traffic/described.rs"]
mod described;
#[path = "traffic/drains.rs"]
mod drains;
#[path = "traffic/explain.rs"]
mod explain;
#[path = "traffic/flaps.rs"]
mod flaps;
#[path = "traffic/flows.rs"]
mod flows;
#[path = "traffic/given.rs"]
mod given;
#[path = "traffic/health.rs"]
mod health;
#[path = "traffic/interfaces.rs"]
mod interfaces;
#[path = "traffic/layouts.rs"]
mod layouts;
#[path = "traffic/lifecycle.rs"]
mod lifecycle;
#[path = "traffic/metrics.rs"]
mod metrics;
#[path = "traffic/modes.rs"]
mod modes;
#[path = "traffic/names.rs"]
mod names;
#[path = "traffic/observed.rs"]
mod observed;
#[path = "traffic/paths.rs"]
mod paths;
#[path = "traffic/recipes.rs"]
mod recipes;
#[path = "traffic/reloads.rs"]
mod reloads;
#[path = "traffic/resize.rs"]
mod resize;
#[path = "traffic/restart.rs"]
mod restart;
#[path = "traffic/routes.rs"]
mod routes;
#[path = "traffic/start.rs"]
mod start;
#[path = "traffic/streams.rs"]
mod streams;
#[path = "traffic/supervised.rs"]
mod supervised;
#[path = "traffic/talkers.rs"]
mod talkers;
#[path = "traffic/top.rs"]
mod top;
#[path = "traffic/traced.rs"]
mod traced;
#[path = "traffic/vip_checks.rs"]
mod vip_checks;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use balanced::{
    Attach, Balanced, Balancer, GENERIC, NATIVE, PORT, TC, service, settings, vips, weights,
};
use equipoise_lab::client::{
    Connect, HttpConnection, UdpAsker, download, http_get, udp_ask, upload,
};
use equipoise_lab::load::Load;
use equipoise_lab::scale;
use equipoise_lab::serve::HttpServer;
use equipoise_lab::spread::{chi_square, chi_square_limit};
use equipoise_lab::topology::{Lab, Layout, Options};

/// The same test at each hook.
macro_rules! at_each_hook {
    ($($test:ident)+) => {
        $(mod $test {
            #[test]
            fn at_native_xdp() { super::$test(super::NATIVE); }
            #[test]
            fn at_generic_xdp() { super::$test(super::GENERIC); }
            #[test]
            fn at_tc() { super::$test(super::TC); }
        })+
    };
}

at_each_hook! {
    every_flow_is_written_as_it_was_seen
    new_connections_follow_the_weights
    a_hundred_megabytes_arrive_whole_each_way
    a_hundred_downloads_at_once_arrive_whole
    udp_is_answered_and_a_socket_keeps_its_backend
    replies_on_another_cpu_find_their_flow
    one_arm_works
    two_vips_share_a_backend_and_a_client_port
    empty_neighbour_tables_lose_nothing
    a_neighbour_that_goes_in_mid_flow_is_found_again
    a_backend_that_changes_its_link_address_is_followed
    clients_and_backends_on_this_host_are_served
    connections_of_this_host_from_a_service_port_go_on
    counters_are_what_was_sent
    a_drained_backend_keeps_its_connections_and_gets_no_new_ones
    a_removed_backend_with_reset_makes_a_reading_client_fail_at_once
    a_removed_backend_that_is_kept_ends_its_downloads_well
    a_udp_client_of_a_removed_backend_is_answered_by_another
    a_port_that_is_used_again_and_again_always_connects
    without_a_control_plane_dead_flows_make_room
    a_load_beyond_its_limit_goes_to_other_backends
    connections_end_well_whichever_end_is_first
    connections_that_backends_end_are_told_so
    a_client_that_comes_to_be_denied_is_cut_off_and_a_busy_one_is_held_back
    what_operators_end_and_deny_ends_at_once_and_comes_back_when_the_time_is_up
    datagrams_in_fragments_are_answered
    a_client_learns_the_size_of_our_own_link
    a_client_learns_the_size_of_a_link_behind_a_router
    a_traceroute_shows_us_and_ends_at_the_vip
    a_range_of_ports_connects_a_thousand_times_in_a_row
    backends_answer_clients_themselves
    packets_in_tunnels_are_answered_by_backends_themselves
    backends_that_know_no_way_to_clients_answer_us
    a_backend_reaches_its_own_vip
    clients_are_led_by_their_address_and_established_ones_stay
    a_backend_that_fails_its_checks_gets_no_new_flows_until_it_passes_them
    flows_of_a_backend_that_is_down_are_treated_as_the_service_says
    pages_and_datagrams_are_checked_past_the_programs
    reloads_under_traffic_break_nothing_and_each_is_in_force
    checks_go_the_way_the_packets_go_and_tell_what_is_broken
    connections_outlive_killed_processes
    connections_outlive_an_upgrade_and_a_rollback
    connections_outlive_tables_of_another_size
    connections_outlive_an_upgrade_to_maps_of_another_layout_and_back
    connections_outlive_processes_killed_while_layouts_change
    connections_outlive_interfaces_that_go_and_come_back
    packets_are_told_of_as_they_came_and_as_they_left
    a_name_leads_to_its_backend_however_it_comes
    backends_are_told_who_has_connected
    connections_that_are_taken_up_outlive_whatever_becomes_of_the_control_plane
}

use access_log::every_flow_is_written_as_it_was_seen;
use denied::{
    a_client_that_comes_to_be_denied_is_cut_off_and_a_busy_one_is_held_back,
    what_operators_end_and_deny_ends_at_once_and_comes_back_when_the_time_is_up,
};
use flaps::connections_outlive_interfaces_that_go_and_come_back;
use flows::{
    a_load_beyond_its_limit_goes_to_other_backends,
    a_port_that_is_used_again_and_again_always_connects,
    a_range_of_ports_connects_a_thousand_times_in_a_row,
    a_removed_backend_that_is_kept_ends_its_downloads_well,
    a_removed_backend_with_reset_makes_a_reading_client_fail_at_once,
    a_udp_client_of_a_removed_backend_is_answered_by_another,
    connections_end_well_whichever_end_is_first, connections_that_backends_end_are_told_so,
    without_a_control_plane_dead_flows_make_room,
};

use drains::a_drained_backend_keeps_its_connections_and_gets_no_new_ones;
use health::{
    a_backend_that_fails_its_checks_gets_no_new_flows_until_it_passes_them,
    flows_of_a_backend_that_is_down_are_treated_as_the_service_says,
    pages_and_datagrams_are_checked_past_the_programs,
};
use layouts::{
    connections_outlive_an_upgrade_to_maps_of_another_layout_and_back,
    connections_outlive_processes_killed_while_layouts_change,
};
use resize::connections_outlive_tables_of_another_size;
use restart::{
    connections_outlive_an_upgrade_and_a_rollback, connections_outlive_killed_processes,
};
use streams::{
    a_name_leads_to_its_backend_however_it_comes, backends_are_told_who_has_connected,
    connections_that_are_taken_up_outlive_whatever_becomes_of_the_control_plane,
};
use traced::packets_are_told_of_as_they_came_and_as_they_left;

use modes::{
    a_backend_reaches_its_own_vip, backends_answer_clients_themselves,
    backends_that_know_no_way_to_clients_answer_us,
    packets_in_tunnels_are_answered_by_backends_themselves,
};
use paths::{
    a_client_learns_the_size_of_a_link_behind_a_router, a_client_learns_the_size_of_our_own_link,
    a_traceroute_shows_us_and_ends_at_the_vip, datagrams_in_fragments_are_answered,
};
use reloads::reloads_under_traffic_break_nothing_and_each_is_in_force;
use routes::clients_are_led_by_their_address_and_established_ones_stay;
use vip_checks::checks_go_the_way_the_packets_go_and_tell_what_is_broken;

fn new_connections_follow_the_weights(attach: Attach) {
    let balanced = Balanced::new(attach, Options::default());
    let count = scale(3000, 30_000);
    for (name, vip) in vips() {
        let tally = Load::of_count(vip, count).run(balanced.client());
        assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
        assert_eq!(tally.answered(), count);
        let chi = chi_square(&tally.by_backend, &weights(&balanced.lab));
        assert!(chi < chi_square_limit(2), "{chi} {:?}", tally.by_backend);
        assert_eq!(balanced.balancer.sum(name, "new_flows"), count);
    }
}

fn a_hundred_megabytes_arrive_whole_each_way(attach: Attach) {
    const LENGTH: u64 = 100_000_000;
    for mtu in [1500, 9000] {
        let balanced = Balanced::new(attach, Options { mtu, ..Options::default() });
        for (number, (_, vip)) in vips().into_iter().enumerate() {
            download(balanced.client(), vip, (LENGTH, number as u64), &Connect::default()).unwrap();
            upload(balanced.client(), vip, (LENGTH, number as u64), &Connect::default()).unwrap();
        }
    }
}

fn a_hundred_downloads_at_once_arrive_whole(attach: Attach) {
    let balanced = Balanced::new(attach, Options::default());
    let (_, vip) = vips()[0];
    let client = balanced.client();
    let mut connections: Vec<_> =
        (0..100).map(|_| HttpConnection::open(client, vip, &Connect::default()).unwrap()).collect();
    std::thread::scope(|scope| {
        for (seed, connection) in connections.iter_mut().enumerate() {
            scope.spawn(move || connection.download(1_000_000, seed as u64).unwrap());
        }
    });
    assert_eq!(balanced.balancer.status()["flow_table"]["established"], 100);
}

fn udp_is_answered_and_a_socket_keeps_its_backend(attach: Attach) {
    let balanced = Balanced::new(attach, Options::default());
    for (_, vip) in vips() {
        let mut names = BTreeSet::new();
        // So many that none of three is left out by chance.
        for _ in 0..100 {
            let asker = UdpAsker::open(balanced.client(), vip, &Connect::default()).unwrap();
            let first = asker.ask(b"one").unwrap();
            for word in [b"two", b"six"] {
                assert_eq!(asker.ask(word).unwrap(), first);
            }
            names.insert(first);
        }
        assert_eq!(names.len(), 3, "{names:?}");
    }
}

fn replies_on_another_cpu_find_their_flow(attach: Attach) {
    let balanced = Balanced::new(attach, Options { queues: 2, ..Options::default() });
    let (_, vip) = vips()[0];
    let load = Load { workers: 16, ..Load::of_count(vip, 2000) };
    let tally = load.run(balanced.client());
    assert_eq!((tally.failed(), tally.answered()), (0, 2000), "{:?}", tally.failures);
    let verdict = |name| balanced.balancer.verdict(name);
    assert_eq!(verdict("no_backend") + verdict("flow_refused") + verdict("no_source_port"), 0);
}

fn one_arm_works(attach: Attach) {
    let balanced = Balanced::new(attach, Options { layout: Layout::OneArm, ..Options::default() });
    for (_, vip) in vips() {
        let tally = Load::of_count(vip, 100).run(balanced.client());
        assert_eq!((tally.failed(), tally.answered()), (0, 100), "{:?}", tally.failures);
        download(balanced.client(), vip, (1_000_000, 1), &Connect::default()).unwrap();
    }
}

fn two_vips_share_a_backend_and_a_client_port(attach: Attach) {
    let second: SocketAddr = "203.0.113.11:80".parse().unwrap();
    let first = vips()[0].1;
    let lab = Lab::new(Options {
        vips: vec![first.ip(), second.ip()],
        backends: 1,
        ..Options::default()
    })
    .unwrap();
    let [at, _] = lab.backends[0].at(PORT);
    let _server = HttpServer::start(&lab.backends[0].netns, "b1", &[at]).unwrap();
    let text = settings(attach.asked)
        + &service("first", first, &[(at, 1)])
        + &service("second", second, &[(at, 1)]);
    let balancer = Balancer::start(&lab.balancer, &text);
    let client = &lab.client().netns;
    for port in 20_000..20_020 {
        let open = |vip| HttpConnection::open(client, vip, &Connect::from_port(port)).unwrap();
        let (mut one, mut other) = (open(first), open(second));
        for seed in 0..3 {
            one.download(10_000, seed).unwrap();
            other.download(10_000, seed + 7).unwrap();
        }
    }
    assert_eq!(balancer.sum("second", "ports_changed"), 20);
}

fn empty_neighbour_tables_lose_nothing(attach: Attach) {
    let balanced = Balanced::new(attach, Options::default());
    for (_, vip) in vips() {
        for _ in 0..5 {
            for device in balanced.lab.balancer_devices() {
                balanced.lab.balancer.ip(&format!("neigh flush dev {device}")).unwrap();
            }
            let answer =
                http_get(balanced.client(), vip, "/", &Connect::within(Duration::from_millis(900)))
                    .unwrap();
            assert_eq!(answer.status, 200);
            assert!(udp_ask(balanced.client(), vip, b"?", &Connect::default()).is_ok());
        }
    }
}

fn a_neighbour_that_goes_in_mid_flow_is_found_again(attach: Attach) {
    let balanced = Balanced::new(attach, Options::default());
    for (_, vip) in vips() {
        let mut connection =
            HttpConnection::open(balanced.client(), vip, &Connect::default()).unwrap();
        for seed in 0..5 {
            connection.download(100_000, seed).unwrap();
            for device in balanced.lab.balancer_devices() {
                balanced.lab.balancer.ip(&format!("neigh flush dev {device}")).unwrap();
            }
        }
    }
}

fn a_backend_that_changes_its_link_address_is_followed(attach: Attach) {
    let balanced = Balanced::new(attach, Options { backends: 1, ..Options::default() });
    let backend = &balanced.lab.backends[0];
    // A neighbour is believed for half a minute otherwise, and the clients wait ever longer before they send again.
    for family in ["ipv4", "ipv6"] {
        let key = format!("net/{family}/neigh/back/base_reachable_time_ms");
        balanced.lab.balancer.sysctl(&key, "1000").unwrap();
    }
    balanced.lab.balancer.ip("neigh flush dev back").unwrap();
    let mut connections: Vec<_> = vips()
        .into_iter()
        .map(|(_, vip)| {
            HttpConnection::open(balanced.client(), vip, &Connect::within(Duration::from_secs(60)))
                .unwrap()
        })
        .collect();
    for connection in &mut connections {
        connection.download(10_000, 1).unwrap();
    }
    // No announcement is made; the balancer has to find out.
    backend.netns.sysctl("net/ipv4/conf/eth0/arp_notify", "0").unwrap();
    backend.netns.ip("link set eth0 address 02:00:00:00:aa:01").unwrap();
    for connection in &mut connections {
        connection.download(10_000, 2).unwrap();
    }
}

fn clients_and_backends_on_this_host_are_served(attach: Attach) {
    let lab = Lab::new(Options::default()).unwrap();
    let here: SocketAddr = "10.0.0.1:8081".parse().unwrap();
    let _here = HttpServer::start(&lab.balancer, "here", &[here]).unwrap();
    let [at, at6] = lab.backends[0].at(PORT);
    let _server = HttpServer::start(&lab.backends[0].netns, "b1", &[at, at6]).unwrap();
    let vip = vips()[0].1;
    let vip6 = vips()[1].1;
    let second: SocketAddr = SocketAddr::new(vip.ip(), 81);
    let text = format!("[settings]\nattach = {{ default = \"{}\", lo = \"tc\" }}\n", attach.asked)
        + &service("away", vip, &[(at, 1)])
        + &service("away6", vip6, &[(at6, 1)])
        + &service("here", second, &[(here, 1)]);
    let text = text.replace("[\"front\"]", "[\"front\", \"lo\"]");
    let _balancer = Balancer::start(&lab.balancer, &text);
    for from in [&lab.client().netns, &lab.balancer] {
        for (to, name) in [(second, "here"), (vip, "b1"), (vip6, "b1")] {
            for seed in 0..3 {
                let answered = download(from, to, (100_000, seed), &Connect::default()).unwrap();
                assert_eq!(answered, name);
            }
        }
    }
}

fn connections_of_this_host_from_a_service_port_go_on(attach: Attach) {
    // The service is on the interface's own addresses; so is the host's own connection, from the
    // very port that the service listens on.
    let lab = Lab::new(Options::default()).unwrap();
    let [at, _] = lab.backends[0].at(PORT);
    let _server = HttpServer::start(&lab.backends[0].netns, "b1", &[at]).unwrap();
    let theirs =
        HttpServer::start(&lab.client().netns, "theirs", &[lab.client().at(PORT)[0]]).unwrap();
    let text = format!(
        "[settings]\nattach = \"{}\"\n[[service]]\nname = \"own\"\n\
         listen = {{ interfaces = [\"front\"], port = 5353, protocol = \"both\" }}\n\
         backends = [{{ address = \"{at}\" }}]\n",
        attach.asked
    );
    let balancer = Balancer::start(&lab.balancer, &text);
    let answered =
        download(&lab.balancer, theirs.addresses()[0], (1_000_000, 1), &Connect::from_port(5353))
            .unwrap();
    assert_eq!(answered, "theirs");
    assert!(balancer.verdict("local_socket") > 0);
    assert_eq!(balancer.sum("own", "new_flows"), 0);
    // And the service itself works.
    let own = SocketAddr::new(equipoise_lab::topology::FRONT_V4.into(), 5353);
    assert_eq!(http_get(&lab.client().netns, own, "/", &Connect::default()).unwrap().backend, "b1");
}

fn counters_are_what_was_sent(attach: Attach) {
    let balanced = Balanced::new(attach, Options { queues: 2, ..Options::default() });
    const SOCKETS: u64 = 50;
    const EACH: u64 = 20;
    let (name, vip) = vips()[0];
    let client = balanced.client();
    std::thread::scope(|scope| {
        // Ports of their own: one that the system chose twice would carry one flow, not two.
        let ports = 10_000..10_000 + SOCKETS as u16;
        for first in [0, 1] {
            let ports = ports.clone();
            scope.spawn(move || {
                for port in ports.skip(first).step_by(2) {
                    let asker = UdpAsker::open(client, vip, &Connect::from_port(port)).unwrap();
                    for _ in 0..EACH {
                        asker.ask(b"0123456789").unwrap();
                    }
                }
            });
        }
    });
    let sum = |key| balanced.balancer.sum(name, key);
    let packets = SOCKETS * EACH;
    assert_eq!(
        (sum("new_flows"), sum("packets_in"), sum("packets_out")),
        (SOCKETS, packets, packets)
    );
    let bytes_in = packets * (20 + 8 + 10);
    // The answer has the backend's name and a colon before it.
    let bytes_out = packets * (20 + 8 + "b1:".len() as u64 + 10);
    assert_eq!((sum("bytes_in"), sum("bytes_out")), (bytes_in, bytes_out));
}

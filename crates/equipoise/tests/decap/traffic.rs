//! Real connections and datagrams through a tunnel of the test's own, and out of it by the real binary.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use equipoise_lab::client::{Connect, HttpConnection, UdpAsker, download, http_get, upload};
use equipoise_lab::link::{Checksums, Gro, offload};
use equipoise_lab::serve::{HttpServer, UdpEcho};
use equipoise_lab::{Netns, wait_until};

use serde_json::Value;

use crate::host::{Attach, DEADLINE, GENERIC, Hosts, Link, NATIVE, Process, TC, arounds, vips};
use crate::wire::{Around, How};

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
    connections_and_datagrams_arrive_from_their_clients_and_are_answered_by_the_vip
    congestion_reaches_the_connection
}

/// Servers on the VIPs, and what runs on their host.
struct Backend {
    hosts: Hosts,
    process: Process,
    servers: Option<(HttpServer, UdpEcho)>,
}

impl Backend {
    fn new(attach: Attach, link: Link) -> Self {
        let hosts = Hosts::new(link);
        let process = Process::with_vips(&hosts, attach);
        let http = HttpServer::start(&hosts.backend, "b1", &vips()).unwrap();
        let udp = UdpEcho::start(&hosts.backend, "b1", &vips()).unwrap();
        Self { hosts, process, servers: Some((http, udp)) }
    }

    /// Ends the servers while they have their addresses, then the process, and gives its last counters.
    fn end(&mut self) -> Value {
        self.servers = None;
        self.process.end()
    }
}

fn connections_and_datagrams_arrive_from_their_clients_and_are_answered_by_the_vip(attach: Attach) {
    let mut backend = Backend::new(attach, Link::default());
    let client = &backend.hosts.client;
    for around in arounds() {
        backend.hosts.tunnel.put(around);
        for vip in vips() {
            // Connected: it takes answers from the VIP alone.
            let asker = UdpAsker::open(client, vip, &Connect::default()).unwrap();
            for word in ["one", "two", "three"] {
                assert_eq!(asker.ask(word.as_bytes()).unwrap(), "b1");
            }
            download(client, vip, (300_000, 1), &Connect::default()).unwrap();
            upload(client, vip, (300_000, 2), &Connect::default()).unwrap();
        }
    }
    let sent = backend.hosts.tunnel.sent();
    let report = backend.end();
    let last = backend.hosts.tunnel.sent();
    let interface = &report["interfaces"][0];
    let [hook, mode] = attach.told;
    assert_eq!(interface["hook"], hook);
    // Before kernel 6.6 there are filters in place of links.
    assert!(interface["mode"] == mode || interface["mode"] == "clsact", "{interface}");
    let at = &report["hooks"][attach.hook];
    assert_eq!(at["ipip"].as_u64(), Some(sent.ipip));
    // The last connection may still have been ending.
    assert!((sent.gue..=last.gue).contains(&at["gue"].as_u64().unwrap()), "{sent:?} {last:?}");
    // The client heard of segments that fit, although its tunnel takes larger ones; with the larger header of GUE
    // that is none of ours, four bytes more.
    assert!((1400..=1504).contains(&sent.longest), "{}", sent.longest);
    assert!(report["hooks"]["tc-egress"]["mss_lowered"].as_u64() >= Some(24), "{report:#}");
    for verdict in ["refused", "failed", "congested", "merged", "inner_malformed"] {
        assert_eq!(report["verdicts"][verdict], 0, "{report:#}");
    }
}

/// A client that can hear of congestion is told, by way of the server's stack.
fn congestion_reaches_the_connection(attach: Attach) {
    const MARKED: u8 = 0b11;
    let mut backend = Backend::new(attach, Link::default());
    for netns in [&backend.hosts.client, &backend.hosts.backend] {
        netns.sysctl("net/ipv4/tcp_ecn", "1").unwrap();
    }
    let client = &backend.hosts.client;
    let marked = || {
        let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
        let mut rows = text.lines().filter_map(|line| line.strip_prefix("IpExt: "));
        let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
        let mut both = names.split(' ').zip(values.split(' '));
        both.find(|(name, _)| *name == "InCEPkts").unwrap().1.parse::<u64>().unwrap()
    };
    let vip = vips()[0];
    let mut connection = HttpConnection::open(client, vip, &Connect::default()).unwrap();
    connection.upload(10_000, 1).unwrap();
    assert_eq!(backend.hosts.backend.run(marked), 0);
    backend.hosts.tunnel.put(Around { congestion: MARKED, ..arounds()[0] });
    // Its data can tell of congestion, its acknowledgements cannot: those are dropped as RFC 6040 says, so this may
    // end well or not.
    drop(connection.upload(10_000, 2));
    assert!(backend.hosts.backend.run(marked) > 0);
    drop(connection);
    assert!(backend.end()["verdicts"]["ipip"].as_u64() > Some(0));
}

/// Has a device wait for more packets that it may merge, as a busy NIC does.
fn merge_on_receipt(netns: &Netns) {
    // The device's folder is only in a /sys that is mounted in its namespace.
    let script = "mount -t sysfs sysfs /sys && cd /sys/class/net/eth0 && \
                  echo 2000000 > gro_flush_timeout && echo 1000 > napi_defer_hard_irqs";
    netns.output("unshare", &["--mount", "sh", "-c", script]).unwrap();
}

#[test]
fn segments_that_merge_are_taken_out_as_one() {
    let mut backend = Backend::new(TC, Link { gro: Gro::On, ..Link::default() });
    let client = &backend.hosts.client;
    merge_on_receipt(&backend.hosts.backend);
    // Of what is inside UDP the kernel merges nothing where UDP has no checksum.
    for around in arounds().into_iter().filter(|around| around.how == How::Ipip) {
        backend.hosts.tunnel.put(around);
        for vip in vips() {
            upload(client, vip, (3_000_000, 2), &Connect::default()).unwrap();
        }
    }
    let sent = backend.hosts.tunnel.sent();
    let report = backend.end();
    let seen = report["hooks"]["tc-ingress"]["ipip"].as_u64().unwrap();
    assert!(seen < sent.ipip / 2, "{seen} of {}: too few were merged", sent.ipip);
    assert_eq!(report["verdicts"]["merged"], 0, "{report:#}");
}

const DATAGRAMS: u8 = 50;
const SENDERS: [&str; 2] = ["198.51.100.7:4000", "[2001:db8:c::7]:4000"];

fn send_datagrams(netns: &Netns, from: &str, to: SocketAddr) {
    let client = netns.run(|| UdpSocket::bind(from)).unwrap();
    for number in 0..DATAGRAMS {
        client.send_to(&[number; 1000], to).unwrap();
    }
}

fn set(socket: &UdpSocket, (level, name): (i32, i32), value: libc::c_int) {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the option is an int of ours whose size is given.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size)
    };
    assert_eq!(result, 0);
}

/// Some servers take merged datagrams; for others the kernel cuts them up again.
#[test]
fn datagrams_that_merge_arrive_whole() {
    let merging = ["rx-gro-list", "rx-udp-gro-forwarding"];
    for (takes_merged, device) in [(1, None), (0, Some(merging[0])), (0, Some(merging[1]))] {
        for around in arounds().into_iter().filter(|around| around.how == How::Ipip) {
            let hosts = Hosts::new(Link { gro: Gro::On, ..Link::default() });
            let mut process = Process::with_vips(&hosts, TC);
            merge_on_receipt(&hosts.backend);
            if let Some(setting) = device {
                offload(&hosts.backend, "eth0", &[setting, "on"]).unwrap();
            }
            hosts.tunnel.put(around);
            for (vip, from) in vips().into_iter().zip(SENDERS) {
                let server = hosts.backend.run(|| UdpSocket::bind(vip)).unwrap();
                server.set_read_timeout(Some(DEADLINE)).unwrap();
                set(&server, (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE), 8_000_000);
                set(&server, (libc::SOL_UDP, libc::UDP_GRO), takes_merged);
                send_datagrams(&hosts.client, from, vip);
                let (mut buffer, mut bytes) = (vec![0; 65_536], Vec::new());
                while bytes.len() < usize::from(DATAGRAMS) * 1000 {
                    let (length, sender) = server.recv_from(&mut buffer).unwrap();
                    assert_eq!(sender, from.parse().unwrap());
                    assert!(takes_merged == 1 || length == 1000, "{length}");
                    bytes.extend_from_slice(&buffer[..length]);
                }
                assert!(
                    bytes
                        .iter()
                        .eq((0..DATAGRAMS).flat_map(|n| [n; 1000]).collect::<Vec<_>>().iter())
                );
            }
            let seen = process.end()["verdicts"]["ipip"].as_u64().unwrap();
            assert!(seen < u64::from(DATAGRAMS), "{seen}: too few were merged");
        }
    }
}

/// They could not be cut up again for whoever they are for.
#[test]
fn what_merges_on_its_way_through_this_host_goes_on_as_it_came() {
    let hosts = Hosts::new(Link { gro: Gro::On, ..Link::default() });
    let mut process = Process::prepare(&hosts);
    process.run(&["--address", "203.0.113.10", "--attach", "tc"]);
    assert!(process.log().contains("no interface has the address"), "{}", process.log());
    merge_on_receipt(&hosts.backend);
    offload(&hosts.backend, "eth0", &["rx-udp-gro-forwarding", "on"]).unwrap();
    send_datagrams(&hosts.client, SENDERS[0], vips()[0]);
    let sent = || hosts.tunnel.sent().ipip == u64::from(DATAGRAMS);
    wait_until(DEADLINE, "all datagrams to be sent", sent).unwrap();
    wait_until(DEADLINE, "the last ones to be merged", || {
        process.ask_counters()["verdicts"]["merged"].as_u64() > Some(0)
    })
    .unwrap();
    process.end();
}

/// Devices are left to finish checksums, and to segment: the default of the kernel.
#[test]
fn default_offloads_work_at_tc() {
    let mut backend = Backend::new(TC, Link { checksums: Checksums::Partial, gro: Gro::On });
    let client = &backend.hosts.client;
    for around in arounds() {
        backend.hosts.tunnel.put(around);
        for vip in vips() {
            download(client, vip, (3_000_000, 1), &Connect::default()).unwrap();
            upload(client, vip, (1_000_000, 2), &Connect::default()).unwrap();
        }
    }
    assert!(backend.end()["verdicts"]["mss_lowered"].as_u64() >= Some(24));
}

#[test]
fn with_clamping_off_nothing_is_looked_at_on_its_way_out() {
    let hosts = Hosts::new(Link::default());
    let mut process = Process::prepare(&hosts);
    process.run(&["-a", "203.0.113.10", "--lo", "--mss-clamp", "off"]);
    let http = HttpServer::start(&hosts.backend, "b1", &vips()[..1]).unwrap();
    http_get(&hosts.client, vips()[0], "/", &Connect::default()).unwrap();
    drop(http);
    let report = process.end();
    assert_eq!(report["hooks"]["tc-egress"], serde_json::json!({}));
    assert!(report["verdicts"]["ipip"].as_u64() > Some(0));
}

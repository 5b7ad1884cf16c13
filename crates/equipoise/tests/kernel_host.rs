//! The machine by netlink, against the running kernel, in namespaces of the test's own.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use equipoise::host::addresses::Managed;
use equipoise::host::forwarding::{Forwarding, Wanted};
use equipoise::host::{Device, Features, Machine, Netlink, Reading, Way};
use equipoise_core::config::{self, Config};
use equipoise_lab::Netns;
use equipoise_lab::link::{Checksums, End, Gro, Properties, offload, veth};

const DEADLINE: Duration = Duration::from_secs(60);

/// A namespace with `near` (10.0.0.254/24, 2001:db8::fe/64), whose peer `far` lies in another one.
struct Link {
    near: Netns,
    far: Netns,
}

impl Link {
    fn new() -> Self {
        let link = Self { near: Netns::new().unwrap(), far: Netns::new().unwrap() };
        let end = |netns, device| End { netns, device, gro: Gro::Off };
        let properties = Properties { mtu: 1500, queues: 1, checksums: Checksums::Complete };
        veth(end(&link.near, "near"), end(&link.far, "far"), properties).unwrap();
        link.near.ip("addr add 10.0.0.254/24 dev near\naddr add 2001:db8::fe/64 dev near").unwrap();
        link.far.ip("addr add 10.0.0.1/24 dev far\naddr add 2001:db8::1/64 dev far").unwrap();
        link
    }

    /// Runs something asynchronous in the near namespace.
    fn run<T: Send>(&self, work: impl AsyncFnOnce(Netlink) -> T + Send) -> T {
        self.near.run(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { work(Netlink::open().unwrap()).await })
        })
    }
}

async fn read(machine: &mut Netlink, targets: &[&str]) -> Reading {
    let targets: BTreeSet<IpAddr> = targets.iter().map(|t| t.parse().unwrap()).collect();
    machine.read(&targets).await.unwrap()
}

async fn device(machine: &mut Netlink, name: &str) -> Device {
    read(machine, &[]).await.devices.remove(name).expect("the device is there")
}

/// Waits until a reading is as wanted, which the machine must say by itself that it may be.
async fn changed_until(machine: &mut Netlink, wanted: impl Fn(&Reading) -> bool) -> Reading {
    let waiting = async {
        loop {
            machine.changed().await;
            let reading = read(machine, &[]).await;
            if wanted(&reading) {
                return reading;
            }
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.expect("news of the change never came")
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn config(text: &str) -> Config {
    config::parse("a.toml", text).unwrap().config
}

#[test]
fn interfaces_are_those_of_the_namespace_with_their_kinds_and_addresses() {
    let link = Link::new();
    link.near.ip("link add br9 type bridge").unwrap();
    let reading = link.run(async |mut machine| read(&mut machine, &[]).await);
    assert_eq!(reading.devices.keys().collect::<Vec<_>>(), ["br9", "lo", "near"]);
    let near = &reading.devices["near"];
    assert_eq!(near.kind.as_deref(), Some("veth"));
    assert_eq!(
        (near.mtu, near.up, near.xdp_program.is_some(), near.loopback),
        (1500, true, false, false)
    );
    assert_eq!(
        near.addresses,
        [ip("10.0.0.254"), ip("2001:db8::fe")],
        "link-local ones are left out"
    );
    assert!(reading.devices["lo"].loopback);
    assert_eq!(reading.devices["br9"].kind.as_deref(), Some("bridge"));
    assert!(!near.native_xdp(), "a veth is no hardware");
}

#[test]
fn ways_are_local_on_the_link_by_a_gateway_or_none() {
    let link = Link::new();
    link.near
        .ip("route add 192.0.2.0/24 via 10.0.0.1\nroute add unreachable 192.0.2.128/25\n\
             route add 2001:db8:1::/64 via 2001:db8::1")
        .unwrap();
    let targets = [
        "10.0.0.254",
        "10.0.0.7",
        "192.0.2.1",
        "192.0.2.200",
        "198.51.100.1",
        "127.0.0.1",
        "2001:db8:1::7",
        "2001:db8::7",
    ];
    let reading = link.run(async |mut machine| read(&mut machine, &targets).await);
    let interface = reading.devices["near"].index;
    // The address of ours that our own packets there would come from goes with the way.
    let via = |next_hop: &str| {
        let source = if next_hop.contains(':') { "2001:db8::fe" } else { "10.0.0.254" };
        Way::Via { interface, next_hop: ip(next_hop), source: Some(ip(source)) }
    };
    assert_eq!(reading.ways[&ip("10.0.0.254")], Way::Local);
    assert_eq!(reading.ways[&ip("127.0.0.1")], Way::Local);
    assert_eq!(reading.ways[&ip("10.0.0.7")], via("10.0.0.7"));
    assert_eq!(reading.ways[&ip("192.0.2.1")], via("10.0.0.1"));
    assert_eq!(reading.ways[&ip("192.0.2.200")], Way::Unreachable);
    assert_eq!(reading.ways[&ip("198.51.100.1")], Way::Unreachable);
    assert_eq!(reading.ways[&ip("2001:db8:1::7")], via("2001:db8::1"));
    assert_eq!(reading.ways[&ip("2001:db8::7")], via("2001:db8::7"));
}

#[test]
fn ways_depend_on_the_address_alone_until_a_rule_or_a_second_path_says_otherwise() {
    let link = Link::new();
    let near = link.near.clone();
    near.ip("route add 192.0.2.0/24 via 10.0.0.1\nroute add 2001:db8:1::/64 via 2001:db8::1")
        .unwrap();
    let targets = ["192.0.2.1", "2001:db8:1::7", "198.51.100.1"];
    link.run(async |mut machine| {
        assert!(read(&mut machine, &targets).await.plain_ways);
        let rules = [
            "from 198.51.100.0/24 table 7",
            "tos 0x10 table 7",
            "ipproto tcp dport 80 table 7",
            "fwmark 3 table 7",
        ];
        for rule in rules {
            near.ip(&format!("rule add {rule}")).unwrap();
            changed_until(&mut machine, |reading| !reading.plain_ways).await;
            near.ip(&format!("rule del {rule}")).unwrap();
            changed_until(&mut machine, |reading| reading.plain_ways).await;
        }
        for rule in ["to 192.0.2.0/24 table 7", "iif near table 7"] {
            near.ip(&format!("rule add {rule}")).unwrap();
            assert!(read(&mut machine, &targets).await.plain_ways, "{rule}");
            near.ip(&format!("rule del {rule}")).unwrap();
        }
        let two = "nexthop via 10.0.0.1 nexthop via 10.0.0.2";
        near.ip(&format!("route replace 192.0.2.0/24 {two}")).unwrap();
        assert!(!read(&mut machine, &targets).await.plain_ways);
        assert!(read(&mut machine, &targets[1..]).await.plain_ways, "nobody goes there");
        near.ip("route replace 192.0.2.0/24 via 10.0.0.1").unwrap();
        assert!(read(&mut machine, &targets).await.plain_ways);
        let two = "nexthop via 2001:db8::1 nexthop via 2001:db8::2";
        near.ip(&format!("route replace 2001:db8:1::/64 {two}")).unwrap();
        assert!(!read(&mut machine, &targets).await.plain_ways);
    });
}

#[test]
fn veth_takes_redirects_once_its_peer_has_napi_and_that_is_news() {
    let link = Link::new();
    let far = link.far.clone();
    link.run(async |mut machine| {
        let before =
            device(&mut machine, "near").await.features.expect("this kernel tells features");
        assert!(before.basic() && !before.ndo_xmit(), "{before:?}");
        offload(&far, "far", &["gro", "on"]).unwrap();
        let redirects = |r: &Reading| r.devices["near"].features.is_some_and(Features::ndo_xmit);
        changed_until(&mut machine, redirects).await;
    });
}

#[test]
fn addresses_links_and_routes_that_come_and_go_are_news() {
    let link = Link::new();
    let near = link.near.clone();
    link.run(async |mut machine| {
        near.ip("addr add 10.0.1.1/24 dev near").unwrap();
        let has = |r: &Reading| r.devices["near"].addresses.contains(&ip("10.0.1.1"));
        changed_until(&mut machine, has).await;
        near.ip("link add br9 type bridge").unwrap();
        changed_until(&mut machine, |r| r.devices.contains_key("br9")).await;
        near.ip("link del br9").unwrap();
        changed_until(&mut machine, |r| !r.devices.contains_key("br9")).await;
    });
}

#[test]
fn managed_address_is_usable_at_once_and_taken_away_again() {
    let link = Link::new();
    link.run(async |mut machine| {
        let text = r#"
            [[service]]
            name = "v4"
            listen = { interfaces = ["near"], address = "203.0.113.10", port = 80 }
            manage-address = true
            backends = [{ address = "10.0.0.1:80" }]
            [[service]]
            name = "v6"
            listen = { interfaces = ["near"], address = "2001:db8:f::10", port = 80 }
            manage-address = true
            backends = [{ address = "[2001:db8::1]:80" }]
            [[service]]
            name = "owned"
            listen = { interfaces = ["near"], address = "10.0.0.254", port = 80 }
            manage-address = true
            backends = [{ address = "10.0.0.1:80" }]
        "#;
        let mut managed = Managed::default();
        let reading = read(&mut machine, &[]).await;
        managed.follow(&mut machine, &config(text), &reading).await.unwrap();
        for vip in ["203.0.113.10:0", "[2001:db8:f::10]:0"] {
            UdpSocket::bind(vip).unwrap_or_else(|e| panic!("{vip}: {e}"));
        }
        let reading = read(&mut machine, &[]).await;
        managed.follow(&mut machine, &config(text), &reading).await.unwrap();
        managed.release(&mut machine).await;
        let left = device(&mut machine, "near").await.addresses;
        assert_eq!(left, [ip("10.0.0.254"), ip("2001:db8::fe")], "what was there before stays");
    });
}

#[test]
fn next_hops_that_are_unknown_are_looked_for() {
    let link = Link::new();
    let near = link.near.clone();
    link.run(async |mut machine| {
        let index = device(&mut machine, "near").await.index;
        let hops = BTreeSet::from([
            (index, ip("10.0.0.1")),
            (index, ip("2001:db8::1")),
            (index, ip("10.0.0.99")),
        ]);
        let asked = machine.refresh_neighbours(&BTreeSet::from([index]), &hops).await.unwrap();
        assert_eq!(asked, 3);
        let known = |address: &str| {
            let shown = near.output("ip", &["neigh", "show", address, "dev", "near"]).unwrap();
            shown.contains("lladdr")
        };
        let end = Instant::now() + DEADLINE;
        while !(known("10.0.0.1") && known("2001:db8::1")) {
            assert!(Instant::now() < end, "the neighbours were not found");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!known("10.0.0.99"), "nobody has that address");
    });
}

#[test]
fn stale_neighbours_are_probed_and_permanent_ones_stay_permanent() {
    let link = Link::new();
    let near = link.near.clone();
    link.run(async |mut machine| {
        near.ip("neigh replace 10.0.0.1 dev near lladdr 02:00:00:00:00:99 nud stale\n\
             neigh replace 10.0.0.7 dev near lladdr 02:00:00:00:00:07 nud permanent")
            .unwrap();
        let index = device(&mut machine, "near").await.index;
        let hops = BTreeSet::from([(index, ip("10.0.0.7"))]);
        let asked = machine.refresh_neighbours(&BTreeSet::from([index]), &hops).await.unwrap();
        assert_eq!(asked, 1);
        let state =
            |address: &str| near.output("ip", &["neigh", "show", address, "dev", "near"]).unwrap();
        assert!(!state("10.0.0.1").contains("STALE"), "{}", state("10.0.0.1"));
        assert!(state("10.0.0.7").contains("PERMANENT"), "{}", state("10.0.0.7"));
        // It has moved to another link address: the probe finds that out.
        let end = Instant::now() + DEADLINE;
        while state("10.0.0.1").contains("02:00:00:00:00:99") {
            assert!(Instant::now() < end, "{}", state("10.0.0.1"));
            machine
                .refresh_neighbours(
                    &BTreeSet::from([index]),
                    &BTreeSet::from([(index, ip("10.0.0.1"))]),
                )
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn forwarding_is_switched_on_where_needed_and_put_back() {
    let link = Link::new();
    let near = link.near.clone();
    near.ip("link add br9 type bridge").unwrap();
    near.sysctl("net/ipv6/conf/near/accept_ra", "1").unwrap();
    near.sysctl("net/ipv6/conf/br9/forwarding", "1").unwrap();
    let settings = [
        "net/ipv4/conf/near/forwarding",
        "net/ipv4/conf/lo/accept_local",
        "net/ipv6/conf/all/forwarding",
        "net/ipv6/conf/near/forwarding",
        "net/ipv6/conf/br9/forwarding",
        "net/ipv6/conf/near/accept_ra",
    ];
    let now = || settings.map(|setting| near.read_sysctl(setting).unwrap().trim().to_owned());
    let before = now();
    assert_eq!(before, ["0", "0", "0", "0", "1", "1"]);
    let text = r#"
        [[service]]
        name = "web"
        listen = { interfaces = ["near", "lo"], port = 80 }
        backends = [{ address = "[2001:db8::1]:80" }]
    "#;
    link.run(async |mut machine| {
        let reading = read(&mut machine, &[]).await;
        let mut forwarding = Forwarding::default();
        let wanted = Wanted::new(&config(text), BTreeSet::from(["near".to_owned()]));
        forwarding.follow(&mut machine, &wanted, &reading).unwrap();
        assert_eq!(now(), ["1", "1", "1", "1", "1", "2"]);
        forwarding.follow(&mut machine, &wanted, &reading).unwrap();
        forwarding.release(&mut machine);
    });
    assert_eq!(now(), before);
}

//! The programs of a backend in a namespace of its own, to run single packets through: real programs and real maps,
//! and no traffic.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use equipoise::dataplane::kernel::decap::{Decap, From, Options, Tables};
use equipoise::dataplane::kernel::{Input, Output, TcWay};
use equipoise_common::decap::{Interface, Place, Verdict, Vip};
use equipoise_common::key::{V4, V6};
use equipoise_common::verdict::Hook;
use equipoise_lab::Netns;
use equipoise_lab::link::{Checksums, End, Gro, Properties, index, mac, veth};
use ipnet::IpNet;

pub(crate) const OWN: &str = "10.0.0.11";
pub(crate) const OWN6: &str = "2001:db8:b::11";
pub(crate) const BALANCER: &str = "198.18.5.6";
pub(crate) const BALANCER6: &str = "100::5:6";
pub(crate) const CLIENT: &str = "198.51.100.7:4000";
pub(crate) const CLIENT6: &str = "[2001:db8:c::7]:4000";
pub(crate) const VIP: &str = "203.0.113.10:80";
pub(crate) const VIP6: &str = "[2001:db8:f::10]:80";
/// An address of no host here, whose connections are left as they are.
pub(crate) const FAR_VIP: &str = "203.0.113.99:80";
/// What fits into a segment, over IPv4 and IPv6.
pub(crate) const SEGMENTS: [u16; 2] = [1412, 1392];

/// Link address of whoever is not the backend.
pub(crate) const FAR: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// The backend.
pub(crate) struct Bench {
    pub(crate) netns: Netns,
    pub(crate) decap: Decap,
    pub(crate) interface: u32,
    pub(crate) link: [u8; 6],
    _far: Netns,
}

pub(crate) fn place(address: &str, interface: u32) -> Place {
    match address.parse().unwrap() {
        IpAddr::V4(address) => Place::new(V4::from(address), interface),
        IpAddr::V6(address) => Place::new(V6::from(address), interface),
    }
}

fn host(address: &str) -> String {
    address.parse::<std::net::SocketAddr>().unwrap().ip().to_string()
}

impl Bench {
    /// That takes packets from anybody.
    pub(crate) fn new() -> Self {
        Self::from(&[])
    }

    /// That takes packets from these prefixes.
    pub(crate) fn from(prefixes: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (netns, far) = (Netns::new().unwrap(), Netns::new().unwrap());
        let end = |netns, gro| End { netns, device: "eth0", gro };
        let properties = Properties { mtu: 1500, queues: 1, checksums: Checksums::Complete };
        veth(end(&netns, Gro::Off), end(&far, Gro::On), properties).unwrap();
        let interface = index(&netns, "eth0").unwrap();
        let link = link_address(&netns);
        let name =
            format!("decap-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let from = if prefixes.is_empty() { From::Anybody } else { From::Sources };
        let options = Options { name: &name, port: 6080, from, tc: TcWay::default() };
        let mut decap = Decap::load(&options).unwrap_or_else(|error| panic!("{error}"));
        decap.apply(&tables(interface, link, prefixes)).unwrap();
        Self { netns, decap, interface, link, _far: far }
    }

    /// Runs a packet at a hook, and answers with the one verdict that it was counted under.
    pub(crate) fn verdict(&self, hook: Hook, frame: &[u8]) -> (Verdict, Output) {
        let before = self.counts();
        let input = Input { frame, interface: self.interface, repeat: 1 };
        let output = self.netns.run(|| self.decap.run(hook, input)).unwrap();
        let after = self.counts();
        let changed: Vec<_> = after.iter().filter(|(key, count)| before[key] != **count).collect();
        let [(&(at, verdict), &count)] = changed[..] else {
            panic!("a packet has one verdict, not {changed:?}");
        };
        assert_eq!((at, count), (hook as u32, before[&(at, verdict)] + 1));
        (Verdict::ALL[verdict as usize], output)
    }

    /// Packets counted at all hooks.
    pub(crate) fn counted(&self) -> u64 {
        self.counts().values().sum()
    }

    fn counts(&self) -> BTreeMap<(u32, u32), u64> {
        let counts = self.decap.verdicts().unwrap();
        counts.into_iter().map(|(h, verdict, count)| ((h as u32, verdict as u32), count)).collect()
    }
}

pub(crate) fn link_address(netns: &Netns) -> [u8; 6] {
    let text = mac(netns, "eth0").unwrap();
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

fn tables(interface: u32, link: [u8; 6], prefixes: &[&str]) -> Tables {
    let vip = |here| Vip { is_local: here, is_clamped: here };
    let source = |prefix: &&str| {
        let prefix: IpNet = prefix.parse().unwrap();
        let of = place(&prefix.network().to_string(), 0).source();
        (Place::SOURCE_BITS + u32::from(prefix.prefix_len()), of)
    };
    Tables {
        interfaces: [(interface, Interface::new(link, SEGMENTS))].into(),
        own: [place(OWN, interface), place(OWN6, interface)].into(),
        vips: [
            (place(&host(VIP), 0), vip(1)),
            (place(&host(VIP6), 0), vip(1)),
            (place(&host(FAR_VIP), 0), vip(0)),
        ]
        .into(),
        sources: prefixes.iter().map(source).collect(),
    }
}

//! A balancer in a namespace of its own, to run single packets through: real programs, real maps
//! filled from a configuration, real routes and neighbours, and no traffic.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};

use equipoise::apply::Applier;
use equipoise::config_file;
use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{Clock, Eviction, Input, Kernel, Options, Output, TcWay};
use equipoise_common::limit;
use equipoise_common::value::Host;
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_core::config::{Backend, Config, ProxyProtocol};
use equipoise_core::diff::Applied;
use equipoise_core::facts::{Facts, Interface};
use equipoise_core::state::State;
use equipoise_lab::Netns;
use equipoise_lab::link::{Checksums, End, Gro, Properties, index, mac, veth};
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};

/// Two VIPs of the first service's pool and of the second's: one backend is in both.
pub(crate) const CONFIG: &str = r#"
    [[service]]
    name = "web"
    listen = { interfaces = ["front"], address = "203.0.113.10", port = 80, protocol = "both" }
    backends = [{ address = "10.0.0.11:8080" }]

    [[service]]
    name = "web6"
    listen = { interfaces = ["front"], address = "2001:db8:f::10", port = 80, protocol = "both" }
    backends = [{ address = "[2001:db8:b::11]:8080" }]

    [[service]]
    name = "other"
    listen = { interfaces = ["front"], address = "203.0.113.11", port = 80, protocol = "both" }
    backends = [{ address = "10.0.0.11:8080" }]

    [[service]]
    name = "strangers"
    listen = { interfaces = ["front"], address = "203.0.113.12", port = 80, protocol = "both" }
    backends = [{ address = "10.0.0.99:8080" }]

    [[service]]
    name = "here"
    listen = { interfaces = ["front"], address = "203.0.113.13", port = 80, protocol = "both" }
    backends = [{ address = "10.0.0.1:8080" }]

    [[service]]
    name = "empty"
    listen = { interfaces = ["front"], address = "203.0.113.14", port = 80, protocol = "both" }
    backends = [{ address = "[2001:db8:b::11]:8080" }]
"#;

pub(crate) const CLIENT: &str = "198.51.100.7";
pub(crate) const CLIENT6: &str = "2001:db8:c::7";
pub(crate) const VIP: &str = "203.0.113.10:80";
pub(crate) const VIP6: &str = "[2001:db8:f::10]:80";
pub(crate) const BACKEND: &str = "10.0.0.11:8080";
pub(crate) const BACKEND6: &str = "[2001:db8:b::11]:8080";

/// Link address of everything that is not the balancer.
pub(crate) const FAR: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// The balancer's own addresses at `front` and at `back`.
pub(crate) const HOSTS: [[&str; 2]; 2] =
    [["198.51.100.1", "2001:db8:c::1"], ["10.0.0.1", "2001:db8:b::1"]];

const ADDRESSES: &str = "\
addr add 198.51.100.1/24 dev front
addr add 2001:db8:c::1/64 dev front nodad
addr add 203.0.113.10/32 dev front
addr add 10.0.0.1/24 dev back
addr add 2001:db8:b::1/64 dev back nodad
neigh add 198.51.100.7 lladdr 02:00:00:00:00:07 dev front
neigh add 2001:db8:c::7 lladdr 02:00:00:00:00:07 dev front
neigh add 10.0.0.11 lladdr 02:00:00:00:00:07 dev back
neigh add 2001:db8:b::11 lladdr 02:00:00:00:00:07 dev back";

/// The balancer.
pub(crate) struct Bench {
    pub(crate) netns: Netns,
    pub(crate) kernel: Loaded,
    pub(crate) front: u32,
    pub(crate) back: u32,
    /// What the maps are filled from.
    pub(crate) state: State,
    /// What is known to be in them.
    pub(crate) applier: Applier,
    pub(crate) instance: String,
    max_flows: u32,
    programs: Programs,
    front_mac: [u8; 6],
    back_mac: [u8; 6],
    /// The other ends of both devices.
    pub(crate) far: Netns,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::of(CONFIG)
    }

    pub(crate) fn of(config: &str) -> Self {
        Self::sized(config, 50_000)
    }

    /// With room for so many flows of each family.
    pub(crate) fn sized(config: &str, max_flows: u32) -> Self {
        Self::timed(config, max_flows, Clock::Set)
    }

    /// With this clock.
    pub(crate) fn timed(config: &str, max_flows: u32, clock: Clock) -> Self {
        Self::made(config, max_flows, clock, Programs::All)
    }

    /// With the programs that devices need alone, once they hang there.
    pub(crate) fn hung(config: &str) -> Self {
        Self::made(config, 50_000, Clock::Set, Programs::OfDevices)
    }

    fn made(config: &str, max_flows: u32, clock: Clock, programs: Programs) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let netns = Netns::new().unwrap();
        let far = Netns::new().unwrap();
        for device in ["front", "back"] {
            let end = |netns, gro| End { netns, device, gro };
            let properties = Properties { mtu: 1500, queues: 1, checksums: Checksums::Complete };
            veth(end(&netns, Gro::Off), end(&far, Gro::On), properties).unwrap();
        }
        netns.ip(ADDRESSES).unwrap();
        for key in ["net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"] {
            netns.sysctl(key, "1").unwrap();
        }
        let front = index(&netns, "front").unwrap();
        let back = index(&netns, "back").unwrap();
        let instance =
            format!("packets-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let kernel = netns.run(|| {
            let mut kernel = loaded(&instance, max_flows, clock, [front, back]);
            programs.load(&mut kernel);
            Loaded(Some(kernel))
        });
        let (front_mac, back_mac) = (link(&netns, "front"), link(&netns, "back"));
        let interface = |index, addresses: &[&str]| Interface {
            index,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        let interfaces = [
            ("front".to_owned(), interface(front, &["203.0.113.10"])),
            ("back".to_owned(), interface(back, &[])),
        ];
        let facts = Facts { interfaces: interfaces.into(), sources: sources(), ..Facts::default() };
        let state = State::new(parsed(config), facts);
        let applier = Applier::default();
        let mut bench = Self {
            netns,
            kernel,
            front,
            back,
            state,
            applier,
            instance,
            max_flows,
            programs,
            front_mac,
            back_mac,
            far,
        };
        bench.converge();
        bench
    }

    /// Another process's kernel after this one's, which stays as it is; what is planned is in its maps, and its devices are concluded.
    pub(crate) fn after(&mut self) -> Kernel {
        let mut kernel = self.beside();
        kernel.conclude().unwrap();
        kernel
    }

    /// The same, but that its devices are not concluded.
    pub(crate) fn beside(&mut self) -> Kernel {
        let (instance, devices) = (self.instance.clone(), [self.front, self.back]);
        let (max_flows, programs) = (self.max_flows, self.programs);
        let mut kernel = self.netns.run(|| {
            let mut kernel = loaded(&instance, max_flows, Clock::Set, devices);
            programs.load(&mut kernel);
            kernel
        });
        self.applier = Applier::default();
        if let Some(found) = kernel.found().unwrap() {
            self.state.take_over(&found);
            self.applier = Applier::new(Applied::found(limit::SLOTS, found));
        }
        self.applier.converge(&mut kernel, self.state.plan()).unwrap();
        kernel
    }

    /// Another configuration, by the same steps as in a reload.
    pub(crate) fn reconfigure(&mut self, config: &str) {
        self.state.handle_config(parsed(config));
        self.converge();
    }

    /// The same, where this host takes up the TCP connections that lead to pools with one of these backends.
    pub(crate) fn stream(&mut self, config: &str, backends: &[SocketAddr]) {
        self.stream_where(config, &|_, _, backend| backends.contains(&backend));
    }

    /// So, told by the name of the service, the route, and the backend.
    pub(crate) fn stream_where(
        &mut self,
        config: &str,
        which: &dyn Fn(&str, Option<&str>, SocketAddr) -> bool,
    ) {
        let mut config = parsed(config);
        for service in &mut config.services {
            let name = service.name.clone();
            let tell = |route: Option<&str>, backend: &mut Backend| {
                let is_told = which(&name, route, backend.address);
                backend.proxy_protocol = is_told.then_some(ProxyProtocol::V2);
            };
            service.backends.iter_mut().for_each(|backend| tell(None, backend));
            for route in &mut service.routes {
                let name = route.name().to_owned();
                route.backends.iter_mut().for_each(|backend| tell(Some(&name), backend));
            }
        }
        self.state.handle_config(config);
        self.converge();
    }

    /// Makes the maps what is planned.
    pub(crate) fn converge(&mut self) {
        let Self { kernel, state, applier, .. } = self;
        applier.converge(&mut **kernel, state.plan()).unwrap();
    }

    /// Runs a packet at a hook of a device.
    pub(crate) fn run(&self, hook: Hook, interface: u32, frame: &[u8]) -> Output {
        let input = Input { frame, interface, repeat: 1 };
        self.netns.run(|| self.kernel.run(hook, input)).unwrap()
    }

    /// Runs a packet, and answers with the one verdict that it was counted under.
    pub(crate) fn verdict(&self, hook: Hook, interface: u32, frame: &[u8]) -> (Verdict, Output) {
        let before = self.verdicts();
        let output = self.run(hook, interface, frame);
        let after = self.verdicts();
        let changed: Vec<_> = after.iter().filter(|(key, count)| before[key] != **count).collect();
        let [(&(at, verdict), &count)] = changed[..] else {
            panic!("a packet has one verdict, not {changed:?}");
        };
        assert_eq!((at, count), (hook as u32, before[&(at, verdict)] + 1));
        (Verdict::ALL[verdict as usize], output)
    }

    fn verdicts(&self) -> BTreeMap<(u32, u32), u64> {
        let counted = self.kernel.verdicts().unwrap();
        counted
            .into_iter()
            .map(|(hook, verdict, count)| ((hook as u32, verdict as u32), count))
            .collect()
    }

    pub(crate) fn flows(&self) -> usize {
        let mut flows = 0;
        self.kernel
            .flows(&mut |_| {
                flows += 1;
                true
            })
            .unwrap();
        flows
    }

    /// Link address of `front`.
    pub(crate) fn front_link(&self) -> [u8; 6] {
        self.front_mac
    }

    /// Link address of `back`.
    pub(crate) fn back_link(&self) -> [u8; 6] {
        self.back_mac
    }

    /// A frame from a client as it comes in at `front`.
    pub(crate) fn client_link(&self) -> PacketBuilderStep<etherparse::Ethernet2Header> {
        PacketBuilder::ethernet2(FAR, self.front_mac)
    }

    /// A frame from a backend as it comes in at `back`.
    pub(crate) fn backend_link(&self) -> PacketBuilderStep<etherparse::Ethernet2Header> {
        PacketBuilder::ethernet2(FAR, self.back_mac)
    }

    /// As [`Bench::sent`], of a frame with so many VLAN tags in it, which the stack would not read.
    pub(crate) fn sent_with(
        &self,
        hook: Hook,
        out: u32,
        tags: usize,
    ) -> PacketBuilderStep<etherparse::Ethernet2Header> {
        self.sent(if tags > 0 { Hook::Xdp } else { hook }, out)
    }

    /// What a hook makes of the link addresses of a frame that it sends: XDP writes them itself,
    /// at TC the stack does so later.
    pub(crate) fn sent(
        &self,
        hook: Hook,
        out: u32,
    ) -> PacketBuilderStep<etherparse::Ethernet2Header> {
        let (inside, outside) = if out == self.front {
            (self.back_mac, self.front_mac)
        } else {
            (self.front_mac, self.back_mac)
        };
        match hook {
            Hook::Xdp => PacketBuilder::ethernet2(outside, FAR),
            Hook::Ingress | Hook::Egress => PacketBuilder::ethernet2(FAR, inside),
        }
    }
}

/// Which programs are loaded at once.
#[derive(Clone, Copy)]
enum Programs {
    /// Those of all hooks.
    All,
    /// None.
    OfDevices,
}

impl Programs {
    fn load(self, kernel: &mut Kernel) {
        match self {
            Self::All => kernel.load_all().unwrap_or_else(|error| panic!("{error}")),
            Self::OfDevices => {}
        }
    }
}

/// Leaves nothing pinned, also when a test fails.
pub(crate) struct Loaded(Option<Kernel>);

impl Deref for Loaded {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        self.0.as_ref().expect("there until it is dropped")
    }
}

impl DerefMut for Loaded {
    fn deref_mut(&mut self) -> &mut Kernel {
        self.0.as_mut().expect("there until it is dropped")
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Some(kernel) = self.0.take() {
            kernel.remove().unwrap();
        }
    }
}

fn loaded(instance: &str, max_flows: u32, clock: Clock, devices: [u32; 2]) -> Kernel {
    let (tc, eviction) = (TcWay::default(), Eviction::default());
    let options = Options { instance, max_flows, tc, clock, eviction };
    let mut kernel = Kernel::load(&options).unwrap_or_else(|error| panic!("{error}"));
    for device in devices {
        kernel.allow_redirect(device, true).unwrap();
    }
    for (device, [v4, v6]) in devices.into_iter().zip(HOSTS) {
        let (v4, v6): (Ipv4Addr, Ipv6Addr) = (v4.parse().unwrap(), v6.parse().unwrap());
        let host = Host { v4: v4.into(), v6: v6.into(), reserved: 0 };
        kernel.answer_from(device, Some(host)).unwrap();
    }
    kernel
}

/// From which of our addresses the backends are reached, but for the one that is ours itself.
fn sources() -> BTreeMap<IpAddr, IpAddr> {
    let [_, [v4, v6]] = HOSTS.map(|addresses| addresses.map(|a| a.parse::<IpAddr>().unwrap()));
    let beyond = |first: &str, number: u16| {
        let first: SocketAddr = first.parse().unwrap();
        match first.ip() {
            IpAddr::V4(ip) => IpAddr::from((u32::from(ip) + u32::from(number)).to_be_bytes()),
            IpAddr::V6(ip) => IpAddr::from((u128::from(ip) + u128::from(number)).to_be_bytes()),
        }
    };
    (0..8).flat_map(|n| [(beyond(BACKEND, n), v4), (beyond(BACKEND6, n), v6)]).collect()
}

pub(crate) fn parsed(text: &str) -> Config {
    let problems = |problems| panic!("{problems:?}\n{text}");
    config_file::parse("packets.toml", text).unwrap_or_else(problems).config
}

fn link(netns: &Netns, device: &str) -> [u8; 6] {
    let text = mac(netns, device).unwrap();
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// What a packet carries.
pub(crate) const PAYLOAD: &[u8] = b"equipoise?";

/// A packet to be built: five-tuple and the few things that differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) hops: u8,
    /// Sequence number of its first byte, and its acknowledgement.
    pub(crate) numbers: [u32; 2],
    /// Bytes of IPv4 options, a multiple of 4.
    pub(crate) options: usize,
    /// What it carries.
    pub(crate) payload: &'static [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Syn,
    SynAck,
    Ack,
    Fin,
    Reset,
    /// A RST that acknowledges a SYN.
    Refusal,
    /// An acknowledgement without a payload.
    Bare,
    /// A FIN without an acknowledgement.
    LoneFin,
}

/// Sequence number and acknowledgement where neither matters.
pub(crate) const NUMBERS: [u32; 2] = [1000, 5000];

impl Packet {
    pub(crate) fn new(from: &str, to: &str, transport: Transport) -> Self {
        Self::between([from.parse().unwrap(), to.parse().unwrap()], transport)
    }

    pub(crate) fn between([from, to]: [SocketAddr; 2], transport: Transport) -> Self {
        let payload = match transport {
            Transport::Bare | Transport::LoneFin | Transport::Reset | Transport::Refusal => &[],
            Transport::Udp
            | Transport::Syn
            | Transport::SynAck
            | Transport::Ack
            | Transport::Fin => PAYLOAD,
        };
        Self { from, to, transport, hops: 64, numbers: NUMBERS, options: 0, payload }
    }

    pub(crate) fn hops(self, hops: u8) -> Self {
        Self { hops, ..self }
    }

    pub(crate) fn options(self, options: usize) -> Self {
        Self { options, ..self }
    }

    /// Its bytes, with every checksum computed from scratch.
    pub(crate) fn build(self, link: PacketBuilderStep<etherparse::Ethernet2Header>) -> Vec<u8> {
        let mut headers = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut header = etherparse::Ipv4Header {
                    time_to_live: self.hops,
                    identification: 77,
                    ..Default::default()
                };
                (header.source, header.destination) = (from.octets(), to.octets());
                header.dont_fragment = true;
                header.options = vec![1; self.options].as_slice().try_into().unwrap();
                IpHeaders::Ipv4(header, Default::default())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut header =
                    etherparse::Ipv6Header { hop_limit: self.hops, ..Default::default() };
                (header.source, header.destination) = (from.octets(), to.octets());
                IpHeaders::Ipv6(header, Default::default())
            }
            other => panic!("{other:?} are of two families"),
        };
        let udp = self.transport == Transport::Udp;
        let number = if udp { etherparse::IpNumber::UDP } else { etherparse::IpNumber::TCP };
        let _ = headers.set_next_headers(number);
        let (from, to) = (self.from.port(), self.to.port());
        let step = link.ip(headers);
        let mut bytes = Vec::new();
        if udp {
            step.udp(from, to).write(&mut bytes, self.payload).unwrap();
            return bytes;
        }
        let [sequence, acknowledgement] = self.numbers;
        let resets = matches!(self.transport, Transport::Reset | Transport::Refusal);
        let step = step.tcp(from, to, sequence, if resets { 0 } else { 65_000 });
        let step = match self.transport {
            Transport::Udp | Transport::Syn => step.syn(),
            Transport::SynAck => step.syn().ack(acknowledgement),
            Transport::Ack | Transport::Bare => step.ack(acknowledgement),
            Transport::Fin => step.fin().ack(acknowledgement),
            Transport::LoneFin => step.fin(),
            Transport::Reset => step.rst(),
            Transport::Refusal => step.rst().ack(acknowledgement),
        };
        step.write(&mut bytes, self.payload).unwrap();
        bytes
    }
}

/// Client (with this port), VIP and backend of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) client: SocketAddr,
    pub(crate) vip: SocketAddr,
    pub(crate) backend: SocketAddr,
}

/// Both families.
pub(crate) fn families(port: u16) -> [Ends; 2] {
    let ends = |client: &str, vip: &str, backend: &str| Ends {
        client: SocketAddr::new(client.parse().unwrap(), port),
        vip: vip.parse().unwrap(),
        backend: backend.parse().unwrap(),
    };
    [ends(CLIENT, VIP, BACKEND), ends(CLIENT6, VIP6, BACKEND6)]
}

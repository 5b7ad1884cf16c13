//! The balancer's namespace with a clock in the tests' hands, and everything about its flows that can be seen
//! from outside: rows, states, counts, pressures, events.
//!
//! Time is in ticks, which is what flows are timed by. It begins long after 0, where a machine's does not.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::thread;

use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{Expiry, FlowRow, Input, Output};
use equipoise_common::event::Event;
use equipoise_common::flow::Reason;
use equipoise_common::flow::count::Pressure;
use equipoise_common::hash::{mix, slot};
use equipoise_common::key::{Address as _, V4};
use equipoise_common::value::Traffic;
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_core::state::ServiceView;

use self::balancer::{Balancer, Counted, SERVICES};
use crate::bench::{BACKEND, BACKEND6, Bench, VIP, VIP6};
use crate::talk::Line;

#[path = "balancer.rs"]
mod balancer;

pub(crate) const HOOKS: [Hook; 2] = [Hook::Xdp, Hook::Ingress];

/// Backends of each family that have a link address.
pub(crate) const BACKENDS: u16 = 8;

/// What each service of [`services`] has, unless a test says otherwise: every timeout another one, and
/// all longer than the time that the table lets a slot rest.
pub(crate) const TIMEOUTS: &str = "timeouts = { tcp-opening = '1s', tcp-established = '10s', \
    tcp-closing = '2s', udp-one-way = '3s', udp-two-way = '5s' }";

/// So many seconds in ticks, rounded up as the product does.
pub(crate) const fn seconds(seconds: u64) -> u32 {
    (seconds * 1_000_000_000).div_ceil(1 << 20) as u32
}

/// A service of each family, `web` and `web6`, with these keys and so many backends each.
pub(crate) fn services(keys: &str, backends: u16) -> String {
    let list: Vec<u16> = (0..backends).collect();
    with_backends(keys, &list)
}

/// The same, with the backends of these numbers.
pub(crate) fn with_backends(keys: &str, backends: &[u16]) -> String {
    let mut text = String::new();
    for (name, vip, first) in [("web", VIP, BACKEND), ("web6", VIP6, BACKEND6)] {
        let vip: SocketAddr = vip.parse().unwrap();
        let list: Vec<_> = backends
            .iter()
            .map(|&number| format!("{{ address = '{}' }}", numbered(first, number)))
            .collect();
        writeln!(
            text,
            "[[service]]\nname = '{name}'\n\
             listen = {{ interfaces = ['front'], address = '{}', port = {}, protocol = 'both' }}\n\
             backends = [{}]\n{keys}",
            vip.ip(),
            vip.port(),
            list.join(", ")
        )
        .unwrap();
    }
    text
}

/// The backend that is so many after `first`.
pub(crate) fn numbered(first: &str, number: u16) -> SocketAddr {
    let first: SocketAddr = first.parse().unwrap();
    let ip = match first.ip() {
        IpAddr::V4(ip) => IpAddr::from((u32::from(ip) + u32::from(number)).to_be_bytes()),
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip) + u128::from(number)).to_be_bytes()),
    };
    SocketAddr::new(ip, first.port())
}

/// What can be read of a closed or opened flow's event, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) closed: bool,
    pub(crate) client: SocketAddr,
    pub(crate) why: Reason,
    pub(crate) event: Event,
}

/// A balancer of a test's own, with nothing in it but a configuration.
pub(crate) struct World {
    /// There until it is dropped.
    balancer: Option<Balancer>,
    /// What had been counted before.
    before: Counted,
}

impl Deref for World {
    type Target = Bench;

    fn deref(&self) -> &Bench {
        &self.balancer().bench
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Bench {
        &mut self.balancer_mut().bench
    }
}

impl World {
    pub(crate) fn new(config: &str) -> Self {
        // Small, since tests list the whole table at every turn.
        Self::sized(config, 1_000)
    }

    /// With room for so many flows of each family.
    pub(crate) fn sized(config: &str, max_flows: u32) -> Self {
        let balancer = Balancer::of(max_flows, config);
        let before = balancer.counted();
        Self { balancer: Some(balancer), before }
    }

    fn balancer(&self) -> &Balancer {
        self.balancer.as_ref().expect("there until it is dropped")
    }

    fn balancer_mut(&mut self) -> &mut Balancer {
        self.balancer.as_mut().expect("there until it is dropped")
    }

    /// Lets so many ticks go by.
    pub(crate) fn wait(&mut self, ticks: u32) {
        self.balancer_mut().wait(ticks);
    }

    /// Has it be so many ticks later, until the next wait.
    pub(crate) fn at(&mut self, ahead: u64) {
        self.balancer_mut().at(ahead);
    }

    pub(crate) fn sweep(&mut self) -> Expiry {
        self.balancer_mut().sweep()
    }

    /// Runs packets one after the other.
    pub(crate) fn batch(&self, packets: &[Line]) -> Vec<Output> {
        self.netns.run(|| {
            packets.iter().map(|(hook, device, frame)| self.here(*hook, *device, frame)).collect()
        })
    }

    /// Runs a packet; for a thread that is in the namespace.
    pub(crate) fn here(&self, hook: Hook, interface: u32, frame: &[u8]) -> Output {
        self.kernel.run(hook, Input { frame, interface, repeat: 1 }).unwrap()
    }

    pub(crate) fn rows(&self) -> Vec<FlowRow> {
        self.balancer().rows()
    }

    /// All flows in the tables: also those that are past their time, and that nobody has ended.
    pub(crate) fn everything(&mut self) -> Vec<FlowRow> {
        self.balancer_mut().everything()
    }

    /// The live flow of a client's port; of a client that has one.
    pub(crate) fn row(&self, client: SocketAddr) -> Option<FlowRow> {
        let mut rows = self.rows();
        rows.retain(|row| row.client == client);
        assert!(rows.len() <= 1, "{rows:?}");
        rows.pop()
    }

    pub(crate) fn state(&self, client: SocketAddr) -> Option<&'static str> {
        self.row(client).map(|row| row.state)
    }

    /// Flows that are counted, and those of them that are confirmed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let occupancy = self.kernel.occupancy();
        (occupancy.live, occupancy.confirmed)
    }

    pub(crate) fn pressures(&self) -> BTreeMap<&'static str, u64> {
        self.balancer().counted().since(&self.before).pressures
    }

    pub(crate) fn pressure(&self, what: Pressure) -> u64 {
        self.pressures().get(what.name()).copied().unwrap_or(0)
    }

    /// What has gone through all services.
    pub(crate) fn traffic(&self) -> Traffic {
        let mut sum = Traffic::default();
        for traffic in self.kernel.service_traffic(&SERVICES).unwrap().into_values() {
            sum += traffic;
        }
        sum
    }

    /// Packets that have left with a verdict, at any hook.
    pub(crate) fn kernel_verdicts(&self, verdict: Verdict) -> u64 {
        let counted = self.balancer().counted().since(&self.before).verdicts;
        counted.iter().filter(|((_, which), _)| *which == verdict as u32).map(|(_, n)| n).sum()
    }

    /// The id of a backend of the configuration in force.
    pub(crate) fn backend_id(&self, address: SocketAddr) -> u32 {
        let services = self.state.services();
        let backend =
            services.iter().flat_map(ServiceView::backends).find(|b| b.address == address);
        backend.and_then(|backend| backend.id).unwrap()
    }

    /// The events that have come since the last time.
    pub(crate) fn told(&mut self) -> Vec<Told> {
        self.balancer_mut().told().into_iter().map(Told::from).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Who knows what a test has left that has failed.
        if let Some(balancer) = self.balancer.take().filter(|_| !thread::panicking()) {
            balancer.give_back();
        }
    }
}

/// Numbers at random, the same in each run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below this one.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        slot(mix(0, self.0), end)
    }

    pub(crate) fn one_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize]
    }
}

impl From<Event> for Told {
    fn from(event: Event) -> Self {
        let closed = match event.what & !(Event::IPV6 | Event::BACKEND_IPV6 | Event::SENT_AGAIN) {
            Event::OPENED => false,
            Event::CLOSED => true,
            other => panic!("{other}"),
        };
        let ip = if event.what & Event::IPV6 == 0 {
            Ipv4Addr::from(V4::unpack(event.client)).into()
        } else {
            Ipv6Addr::from(event.client).into()
        };
        let client = SocketAddr::new(ip, event.client_port.get());
        Self { closed, client, why: Reason::from_number(event.why), event }
    }
}

//! A second balancer in plain Rust, written from what the first one promises: it says of each packet which exit it takes
//! and what its bytes become, and learns from the packet where chance has decided.
//!
//! To extend it: what a packet is says `wire::parse`, what it meets [`Model::expect`], where it goes [`Model::way`].
//! Nothing ends by time here: each round is over before any timeout.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use equipoise_common::hash;
use equipoise_common::key::{Address, Be16, FiveTuple, V4, V6};
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_core::config::{Algorithm, OnEmpty, OnUnknown};

use crate::bench::Bench;
use crate::mutants::Shot;
use crate::wire::{ACK, FIN, Parsed as Packet, RST, SYN, TCP, parse};

#[path = "model/compare.rs"]
mod compare;

/// Ports that take the place of a client's own.
const SPARE_PORTS: u16 = 0x8000;

/// A service, for one address family.
struct Service {
    id: u32,
    vips: Vec<(u8, SocketAddr)>,
    algorithm: Algorithm,
    on_unknown: OnUnknown,
    on_empty: OnEmpty,
    /// The backend in each slot: the published table.
    slots: Vec<SocketAddr>,
    /// All backends, also those without a weight.
    backends: Vec<SocketAddr>,
}

/// A flow: client, VIP, and the backend with the client's port there, as far as these are known.
#[derive(Clone, Debug)]
struct Flow {
    service: usize,
    protocol: u8,
    client: SocketAddr,
    vip: SocketAddr,
    /// Backend, and the client as it sees it.
    at: Option<(SocketAddr, SocketAddr)>,
    /// Where it may be while that is not known.
    candidates: Vec<SocketAddr>,
    /// A FIN or a RST has been seen, so that a SYN may open it anew.
    ending: bool,
}

/// Whether another flow has the name that a new one would have at its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    No,
    Yes,
    Unknown,
}

/// What may become of a packet.
#[derive(Clone, Debug)]
enum Expect {
    /// It leaves as it came.
    Left(Verdict),
    /// Its sender is answered.
    Answered(Verdict),
    /// It becomes a packet between these two, of this service.
    Moved { request: bool, service: usize, ends: [SocketAddr; 2], remembered: bool },
    /// It goes to one of these backends, and is of a flow then.
    Opened { service: usize, candidates: Vec<SocketAddr> },
    /// The model does not know.
    Anything,
}

/// What is done to the bytes of a packet on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Nothing,
    /// Its sender is told why it goes no further.
    Answered,
    /// Rewritten for the stack.
    Rewritten,
    /// Rewritten, one hop less, and sent by `back` or `front`.
    Sent {
        by_back: bool,
    },
}

/// Packets and bytes, to backends and to clients.
pub(crate) type Traffic = [u64; 4];

pub(crate) struct Model {
    services: Vec<Service>,
    flows: Vec<Flow>,
    /// A packet has been decided without being remembered.
    unremembered: bool,
    links: [[u8; 6]; 2],
    /// By service id.
    pub(crate) traffic: BTreeMap<u32, Traffic>,
    /// Packets of which it has said nothing.
    pub(crate) skipped: u64,
}

impl Model {
    /// Of what the bench has been configured with.
    pub(crate) fn new(bench: &mut Bench) -> Self {
        let planned = bench.state.plan().clone();
        let mut services = Vec::new();
        for view in bench.state.services() {
            let pools = planned.pools.values().filter(|pool| *pool.service == *view.service.name);
            let members: Vec<_> =
                pools.flat_map(|pool| pool.members.iter().map(move |m| (pool, m))).collect();
            for is_v4 in [true, false] {
                let mine: Vec<_> =
                    members.iter().filter(|(_, m)| m.address.is_ipv4() == is_v4).collect();
                let address = |id: &u32| mine.iter().find(|(_, m)| m.id == *id).unwrap().1.address;
                let slots = mine.first().map_or(&[][..], |(pool, _)| &pool.slots[..]);
                let keys = view.keys.iter().filter(|key| key.vip().is_ipv4() == is_v4);
                services.push(Service {
                    id: view.id.unwrap(),
                    vips: keys.map(|key| (key.protocol() as u8, key.vip())).collect(),
                    algorithm: view.service.algorithm,
                    on_unknown: view.service.policy.on_unknown,
                    on_empty: view.service.policy.on_empty,
                    slots: slots.iter().map(address).collect(),
                    backends: mine.iter().map(|(_, m)| m.address).collect(),
                });
            }
        }
        let links = [bench.front_link(), bench.back_link()];
        Self {
            services,
            flows: Vec::new(),
            unremembered: false,
            links,
            traffic: BTreeMap::new(),
            skipped: 0,
        }
    }

    /// Compares what has become of a packet with what should have, and learns from it.
    pub(crate) fn check(
        &mut self,
        shot: &Shot,
        verdict: Verdict,
        output: (i32, &[u8]),
    ) -> Result<(), String> {
        let parsed = parse(&shot.frame);
        let may_be = self.expect(shot, &parsed);
        let mut said = Vec::new();
        for mut expect in may_be {
            if let (Expect::Moved { request, ends, .. }, Ok(packet)) = (&expect, &parsed)
                && self.way(shot, packet, (*request, ends[1])).is_none()
            {
                expect = Expect::Anything;
            }
            match self.compare(&expect, (shot, &parsed), verdict, output) {
                Ok(ends) => {
                    if let Ok(parsed) = &parsed {
                        self.learn(&expect, parsed, (verdict, shot.hook), ends);
                    }
                    return Ok(());
                }
                Err(why) => said.push(format!("{expect:?}: {why}")),
            }
        }
        Err(format!("{verdict:?} came, expected {said:#?}"))
    }

    /// Everything that may become of a packet: one thing, unless something is not known.
    fn expect(&self, shot: &Shot, parsed: &Result<Packet, Verdict>) -> Vec<Expect> {
        let own = self.links[usize::from(shot.at_back)];
        let to = &shot.frame[..6];
        if shot.hook == Hook::Ingress && to != own && to[0] & 1 == 0 {
            return vec![Expect::Left(Verdict::OtherHost)];
        }
        let packet = match parsed {
            Ok(packet) => packet,
            Err(verdict) => return vec![Expect::Left(*verdict)],
        };
        if let Some(reply) = self.reply(packet) {
            return vec![reply];
        }
        if shot.hook == Hook::Egress {
            return vec![Expect::Left(Verdict::Outgoing)];
        }
        let Some(flow) = self.request(packet) else { return vec![self.unknown(packet, shot)] };
        let Flow { service, vip: _, at, candidates, ending, .. } = flow.clone();
        let mut may_be = vec![match at {
            Some((backend, name)) => {
                Expect::Moved { request: true, service, ends: [name, backend], remembered: true }
            }
            None => Expect::Opened { service, candidates },
        }];
        if ending && is_syn(packet) {
            may_be.push(self.unknown(packet, shot));
        }
        may_be
    }

    fn request(&self, packet: &Packet) -> Option<&Flow> {
        let is =
            |f: &&Flow| (f.protocol, f.client, f.vip) == (packet.protocol, packet.from, packet.to);
        self.flows.iter().find(is)
    }

    /// What becomes of a packet if it is a reply.
    fn reply(&self, packet: &Packet) -> Option<Expect> {
        let mine = |f: &&Flow| f.protocol == packet.protocol;
        let known = self.flows.iter().filter(mine).find(|f| f.at == Some((packet.from, packet.to)));
        if let Some(Flow { service, vip, client, .. }) = known {
            let ends = [*vip, *client];
            return Some(Expect::Moved {
                request: false,
                service: *service,
                ends,
                remembered: true,
            });
        }
        let may_be = |f: &Flow| {
            let port = packet.to.port();
            f.at.is_none()
                && f.candidates.contains(&packet.from)
                && f.client.ip() == packet.to.ip()
                && (f.client.port() == port || port >= SPARE_PORTS)
        };
        self.flows.iter().filter(mine).any(may_be).then_some(Expect::Anything)
    }

    /// A packet of no flow.
    fn unknown(&self, packet: &Packet, shot: &Shot) -> Expect {
        let serves = |s: &Service| s.vips.contains(&(packet.protocol, packet.to));
        let Some(number) = self.services.iter().position(serves).filter(|_| !shot.at_back) else {
            return self.unremembered_reply(packet).unwrap_or(Expect::Left(Verdict::NoService));
        };
        let service = &self.services[number];
        let is_tcp = packet.protocol == TCP;
        let is_reset = is_tcp && packet.flags & RST != 0;
        if is_tcp && !is_syn(packet) {
            match service.on_unknown {
                OnUnknown::Hash => {}
                OnUnknown::Reset if !is_reset => return Expect::Answered(Verdict::ResetUnknown),
                OnUnknown::Reset | OnUnknown::Drop => return Expect::Left(Verdict::UnknownFlow),
            }
        }
        if service.slots.is_empty() {
            return match service.on_empty {
                OnEmpty::Drop => Expect::Left(Verdict::NoBackend),
                OnEmpty::Pass => Expect::Left(Verdict::NoBackendPassed),
                OnEmpty::Reset if is_reset => Expect::Left(Verdict::Unanswerable),
                OnEmpty::Reset if is_tcp => Expect::Answered(Verdict::ResetNoBackend),
                OnEmpty::Reset => Expect::Answered(Verdict::UnreachableNoBackend),
            };
        }
        let hashed = service.slots[slot(packet, service.slots.len())];
        if is_reset {
            // It goes where the flow would be, and opens none.
            return match self.taken(packet, hashed) {
                Taken::Yes => Expect::Left(Verdict::NoSourcePort),
                Taken::Unknown => Expect::Anything,
                Taken::No => {
                    let ends = [packet.from, hashed];
                    Expect::Moved { request: true, service: number, ends, remembered: false }
                }
            };
        }
        let by_chance = service.algorithm == Algorithm::Random && (!is_tcp || is_syn(packet));
        let mut candidates = if by_chance { service.slots.clone() } else { vec![hashed] };
        candidates.sort_unstable();
        candidates.dedup();
        Expect::Opened { service: number, candidates }
    }

    /// A reply to a packet that was not remembered: its backend must serve one VIP alone.
    fn unremembered_reply(&self, packet: &Packet) -> Option<Expect> {
        if !self.unremembered {
            return None;
        }
        let mut found = None;
        for (number, service) in self.services.iter().enumerate() {
            if !service.backends.contains(&packet.from) {
                continue;
            }
            for (_, vip) in service.vips.iter().filter(|(protocol, _)| *protocol == packet.protocol)
            {
                if found.replace((number, *vip)).is_some() {
                    return None;
                }
            }
        }
        let (service, vip) = found?;
        Some(Expect::Moved { request: false, service, ends: [vip, packet.to], remembered: false })
    }

    /// Whether another flow than the packet's own has its name at a backend.
    fn taken(&self, packet: &Packet, backend: SocketAddr) -> Taken {
        let mut taken = Taken::No;
        for flow in self.flows.iter().filter(|f| f.protocol == packet.protocol) {
            // One that is opened anew has given its name up.
            let own = (flow.client, flow.vip) == (packet.from, packet.to);
            match flow.at {
                Some(at) if at == (backend, packet.from) && !own => return Taken::Yes,
                None if flow.client == packet.from && flow.candidates.contains(&backend) => {
                    taken = Taken::Unknown;
                }
                _ => {}
            }
            if own {
                taken = Taken::Unknown;
            }
        }
        taken
    }

    fn learn(
        &mut self,
        expect: &Expect,
        packet: &Packet,
        at: (Verdict, Hook),
        ends: Option<[SocketAddr; 2]>,
    ) {
        let (verdict, hook) = at;
        let ends_it = packet.protocol == TCP && packet.flags & (FIN | RST) != 0;
        match expect {
            Expect::Left(_) | Expect::Answered(_) => {}
            Expect::Anything => self.skipped += 1,
            Expect::Moved { request, service, remembered, .. } => {
                if ends.is_some() {
                    self.count((*service, *request), packet);
                }
                self.unremembered |= !remembered && *request;
                let mine = |f: &&mut Flow| {
                    f.protocol == packet.protocol
                        && ((f.client, f.vip) == (packet.from, packet.to)
                            || f.at == Some((packet.from, packet.to)))
                };
                if let Some(flow) = self.flows.iter_mut().find(mine) {
                    flow.ending |= ends_it;
                }
            }
            Expect::Opened { service, candidates } => {
                let is_sent = hook != Hook::Xdp || verdict == Verdict::ForwardedRequest;
                if ends.is_some() && is_sent && !verdict.is_answered() {
                    self.count((*service, true), packet);
                }
                let was = self.request(packet).cloned();
                let key = (packet.protocol, packet.from, packet.to);
                self.flows.retain(|f| (f.protocol, f.client, f.vip) != key);
                self.flows.push(Flow {
                    service: *service,
                    protocol: packet.protocol,
                    client: packet.from,
                    vip: packet.to,
                    at: ends.map(|[name, backend]| (backend, name)),
                    candidates: candidates.clone(),
                    ending: ends_it || was.is_some_and(|flow| flow.ending),
                });
            }
        }
    }

    fn count(&mut self, (service, request): (usize, bool), packet: &Packet) {
        let traffic = self.traffic.entry(self.services[service].id).or_default();
        let at = if request { 0 } else { 2 };
        traffic[at] += 1;
        traffic[at + 1] += (packet.end - packet.network) as u64;
    }
}

fn is_syn(packet: &Packet) -> bool {
    packet.protocol == TCP && packet.flags & (SYN | ACK | RST) == SYN
}

/// The published hash: the same packet leads to the same slot everywhere.
fn slot(packet: &Packet, slots: usize) -> usize {
    fn hashed<A: Address>(packet: &Packet, source: A, destination: A) -> u64 {
        hash::five_tuple(&FiveTuple {
            source,
            destination,
            source_port: Be16::new(packet.from.port()),
            destination_port: Be16::new(packet.to.port()),
            protocol: u32::from(packet.protocol),
        })
    }
    let hash = match (packet.from.ip(), packet.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => hashed(packet, V4::from(from), V4::from(to)),
        (IpAddr::V6(from), IpAddr::V6(to)) => hashed(packet, V6::from(from), V6::from(to)),
        _ => unreachable!("both are of one header"),
    };
    hash::slot(hash, slots as u32) as usize
}

//! A second balancer: from what the first one promises it says of each packet what may become of it, byte for byte, and
//! learns from the packet where chance has decided.
//!
//! What is known of flows and of first fragments is here; what a packet looks like when it has gone a way is in `outcome`.
//! Nothing ends by time: each round is over before any timeout.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use equipoise_common::verdict::{Hook, Verdict};
use equipoise_core::config::{Fragments, Mode, OnEmpty, OnUnknown};

use super::datagram::{Header, Piece, Segment};
use super::memory::{First, Flow, Outer, Taken};
use super::outcome::Answer;
use super::services::{Pick, Service};
use super::shot::{Carries, Shot};
use crate::wire::{ACK, RST, SYN, TCP};

/// Where a request goes.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) service: usize,
    pub(crate) backends: Vec<SocketAddr>,
    pub(crate) naming: Naming,
    pub(crate) outer: Option<Outer>,
    /// It is of a flow from now on.
    pub(crate) opens: bool,
}

/// The client's name at the backend.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Naming {
    Known(SocketAddr),
    /// It has one that is not known yet.
    Any,
    /// It gets one.
    New,
}

/// What may become of a packet.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    Left(Verdict),
    Answered(Verdict, Answer),
    Request(Request),
    Reply {
        service: usize,
        ends: [SocketAddr; 2],
    },
    /// An ICMP error goes on: about a reply, or about a request, to these ends, quoting a packet between those.
    Error {
        request: bool,
        ends: [IpAddr; 2],
        quoted: [SocketAddr; 2],
    },
    /// One about a reply that has gone past us goes to its sender as it is.
    Carried {
        service: usize,
        backends: Vec<SocketAddr>,
    },
}

/// Packets and bytes, to backends and to clients.
pub(crate) type Traffic = [u64; 4];

pub(crate) struct Balancer {
    pub(crate) services: Vec<Service>,
    pub(crate) flows: Vec<Flow>,
    pub(crate) firsts: BTreeMap<(IpAddr, IpAddr, u32, u8), First>,
    /// Link addresses of `front` and `back`.
    pub(crate) links: [[u8; 6]; 2],
    pub(crate) traffic: BTreeMap<u32, Traffic>,
}

impl Balancer {
    pub(crate) fn new(services: Vec<Service>, links: [[u8; 6]; 2]) -> Self {
        let (flows, firsts, traffic) = Default::default();
        Self { services, flows, firsts, links, traffic }
    }

    /// Everything that may become of a packet: one thing, unless something is not known.
    pub(crate) fn fates(&self, shot: &Shot) -> Vec<Fate> {
        match &shot.carries {
            Carries::Segment(segment, piece) => self.segment(shot, segment, *piece),
            Carries::Error { about, segment, .. } => vec![self.error(shot, about, segment)],
            Carries::Echo { piece: Some(piece), .. } => {
                let mut fates = vec![Fate::Left(Verdict::Fragment)];
                if shot.hook() == Hook::Egress && piece.offset > 0 {
                    fates.push(Fate::Left(Verdict::Outgoing));
                }
                fates
            }
            Carries::Echo { .. } => {
                let mine = |service: &Service| service.vip == shot.header.to;
                let is_in = shot.hook() != Hook::Egress && !shot.at_back;
                vec![if is_in && self.services.iter().any(mine) {
                    Fate::Answered(Verdict::Echo, Answer::Echo)
                } else {
                    Fate::Left(Verdict::NotTcpUdp)
                }]
            }
        }
    }

    fn segment(&self, shot: &Shot, segment: &Segment, piece: Option<Piece>) -> Vec<Fate> {
        if piece.is_some_and(|piece| piece.offset > 0) {
            return self.later(shot, segment);
        }
        let is_cut = piece.is_some();
        let (from, to) = ends(&shot.header, segment);
        let is_in = shot.hook() != Hook::Egress;
        let refused =
            |service: usize| is_cut && self.services[service].fragments == Fragments::Drop;
        let answers = |f: &&Flow| {
            f.protocol == segment.protocol
                && f.name == Some(to)
                && f.backends == [from]
                && !keeps(self.services[f.service].mode)
        };
        if let Some(flow) = self.flows.iter().find(answers) {
            if refused(flow.service) {
                return vec![Fate::Left(Verdict::FragmentRefused)];
            }
            return vec![Fate::Reply { service: flow.service, ends: [flow.vip, flow.client] }];
        }
        if !is_in {
            let other = is_cut && !self.is_ours(&shot.header);
            return match other {
                true => vec![Fate::Left(Verdict::Fragment), Fate::Left(Verdict::Outgoing)],
                false => vec![Fate::Left(Verdict::Outgoing)],
            };
        }
        let Some(flow) = self.request(segment.protocol, from, to) else {
            return self.unknown(shot, segment, is_cut);
        };
        let mut fates = vec![if refused(flow.service) {
            Fate::Left(Verdict::FragmentRefused)
        } else {
            Fate::Request(Request {
                service: flow.service,
                backends: flow.backends.clone(),
                naming: flow.name.map_or(Naming::Any, Naming::Known),
                outer: flow.outer,
                opens: true,
            })
        }];
        if flow.ending && is_syn(segment) {
            fates.extend(self.unknown(shot, segment, is_cut));
        }
        fates
    }

    /// Whether an address of a packet is one that we have to do with.
    fn is_ours(&self, header: &Header) -> bool {
        let of = |ip: IpAddr| {
            self.services.iter().any(|service| {
                service.vip == ip
                    || service.routes.iter().any(|r| r.backends.iter().any(|(b, _)| b.ip() == ip))
            })
        };
        of(header.from) || of(header.to)
    }

    pub(crate) fn request(&self, protocol: u8, from: SocketAddr, to: SocketAddr) -> Option<&Flow> {
        self.flows.iter().find(|f| (f.protocol, f.client, f.vip) == (protocol, from, to))
    }

    /// The service that a packet to this port is for; without a port, any on its address.
    fn serving(&self, shot: &Shot, to: Option<(u8, u16)>) -> Option<usize> {
        let serves = |s: &Service| {
            s.vip == shot.header.to
                && to.is_none_or(|(protocol, port)| {
                    s.protocols.contains(&protocol) && s.ports.contains(&port)
                })
        };
        self.services.iter().position(serves).filter(|_| !shot.at_back)
    }

    /// A packet of no flow that comes in, or the first fragment of one.
    fn unknown(&self, shot: &Shot, segment: &Segment, is_cut: bool) -> Vec<Fate> {
        let (from, to) = ends(&shot.header, segment);
        let left = |verdict| vec![Fate::Left(verdict)];
        let Some(number) = self.serving(shot, Some((segment.protocol, to.port()))) else {
            let mut fates = left(Verdict::NoService);
            if is_cut && !self.is_ours(&shot.header) {
                fates.extend(left(Verdict::Fragment));
            }
            return fates;
        };
        let service = &self.services[number];
        if is_cut && service.fragments == Fragments::Drop {
            return left(Verdict::FragmentRefused);
        }
        // A RST in fragments is nobody's answer.
        let reset = |verdict| match is_cut {
            true => left(Verdict::Unanswerable),
            false => vec![Fate::Answered(verdict, Answer::Reset)],
        };
        let is_tcp = segment.protocol == TCP;
        if is_tcp && service.route(from.ip()).streamed {
            return left(Verdict::Streamed);
        }
        let is_reset = is_tcp && segment.flags & RST != 0;
        if is_tcp && !is_syn(segment) {
            match service.on_unknown {
                OnUnknown::Hash => {}
                OnUnknown::Reset if !is_reset => return reset(Verdict::ResetUnknown),
                OnUnknown::Reset | OnUnknown::Drop => return left(Verdict::UnknownFlow),
            }
        }
        let Some(hashed) = service.hashed(segment.protocol, from, to) else {
            return match service.on_empty {
                OnEmpty::Drop => left(Verdict::NoBackend),
                OnEmpty::Pass => left(Verdict::NoBackendPassed),
                OnEmpty::Reset if is_reset => left(Verdict::Unanswerable),
                OnEmpty::Reset if is_tcp => reset(Verdict::ResetNoBackend),
                OnEmpty::Reset => {
                    vec![Fate::Answered(Verdict::UnreachableNoBackend, Answer::Unreachable)]
                }
            };
        };
        let at = |backend: SocketAddr| service.at(backend, to.port());
        if is_reset {
            // It goes where the flow would be, and opens none.
            let hashed = at(hashed);
            if service.mode == Mode::FullNat {
                return left(Verdict::FlowRefused);
            }
            let mut fates = Vec::new();
            let taken = self.taken((segment.protocol, from, to), hashed, from);
            if taken != Taken::No && !keeps(service.mode) {
                fates.extend(left(Verdict::NoSourcePort));
            }
            if taken != Taken::Yes || keeps(service.mode) {
                let (naming, opens) = (Naming::Known(from), false);
                let backends = vec![hashed];
                fates.push(Fate::Request(Request {
                    service: number,
                    backends,
                    naming,
                    outer: None,
                    opens,
                }));
            }
            return fates;
        }
        let by_chance = service.pick == Pick::Random && (!is_tcp || is_syn(segment));
        let picked = if by_chance { service.slots(from.ip()).to_vec() } else { vec![hashed] };
        let mut backends: Vec<_> = picked.into_iter().map(at).collect();
        backends.sort_unstable();
        backends.dedup();
        let (naming, opens) =
            (if keeps(service.mode) { Naming::Known(from) } else { Naming::New }, true);
        vec![Fate::Request(Request { service: number, backends, naming, outer: None, opens })]
    }

    /// A fragment that is not the first.
    fn later(&self, shot: &Shot, segment: &Segment) -> Vec<Fate> {
        let header = &shot.header;
        let is_in = shot.hook() != Hook::Egress;
        let left = |verdict| vec![Fate::Left(verdict)];
        let key = (header.from, header.to, header.identification, segment.protocol);
        match self.firsts.get(&key) {
            Some(First::NotOurs) => return left(Verdict::Fragment),
            Some(First::Streamed) => return left(Verdict::Streamed),
            Some(First::Reply { service, ends }) => {
                let ends = ends.map(|ip| SocketAddr::new(ip, 0));
                return vec![Fate::Reply { service: *service, ends }];
            }
            // Requests leave in their own way.
            Some(First::Request { .. }) if !is_in => return left(Verdict::Outgoing),
            Some(First::Request { service, backends, name }) => {
                let naming = name.map_or(Naming::Any, |ip| Naming::Known(SocketAddr::new(ip, 0)));
                let (service, backends) = (*service, backends.clone());
                return vec![Fate::Request(Request {
                    service,
                    backends,
                    naming,
                    outer: None,
                    opens: false,
                })];
            }
            None => {}
        }
        if !is_in {
            let mut fates = left(Verdict::Outgoing);
            if !self.is_ours(header) {
                fates.extend(left(Verdict::Fragment));
            }
            return fates;
        }
        let Some(number) = self.serving(shot, None) else {
            return left(Verdict::Fragment);
        };
        let service = &self.services[number];
        match service.fragments {
            Fragments::Drop => left(Verdict::FragmentRefused),
            Fragments::Track => left(Verdict::FragmentUnknown),
            Fragments::Hash if segment.protocol == TCP && service.route(header.from).streamed => {
                left(Verdict::Streamed)
            }
            Fragments::Hash => {
                // Ports make no difference to its hash.
                let (from, to) = (SocketAddr::new(header.from, 0), SocketAddr::new(header.to, 0));
                let Some(hashed) = service.hashed(segment.protocol, from, to) else {
                    return left(Verdict::NoBackend);
                };
                if service.mode == Mode::FullNat {
                    return left(Verdict::FragmentUnknown);
                }
                let (backends, naming, opens) = (vec![hashed], Naming::Known(from), false);
                vec![Fate::Request(Request {
                    service: number,
                    backends,
                    naming,
                    outer: None,
                    opens,
                })]
            }
        }
    }

    /// An ICMP error about a packet.
    fn error(&self, shot: &Shot, about: &Header, segment: &Segment) -> Fate {
        let (from, to) = ends(about, segment);
        let is_in = shot.hook() != Hook::Egress;
        // About a reply, as the client has got it.
        if let Some(flow) = self.request(segment.protocol, to, from).filter(|_| is_in) {
            let service = flow.service;
            if keeps(self.services[service].mode) {
                return Fate::Carried { service, backends: flow.backends.clone() };
            }
            if let (Some(name), [backend]) = (flow.name, &flow.backends[..]) {
                let ends = [shot.header.from, backend.ip()];
                return Fate::Error { request: true, ends, quoted: [*backend, name] };
            }
        }
        // About a request, as the backend has got it.
        let named = |f: &&Flow| {
            f.protocol == segment.protocol
                && f.name == Some(from)
                && f.backends == [to]
                && !keeps(self.services[f.service].mode)
        };
        if let Some(flow) = self.flows.iter().find(named) {
            let (ends, quoted) = ([flow.vip.ip(), flow.client.ip()], [flow.client, flow.vip]);
            return Fate::Error { request: false, ends, quoted };
        }
        Fate::Left(Verdict::NotTcpUdp)
    }
}

impl Service {
    /// A backend with the port that packets to this one have there.
    pub(crate) fn at(&self, backend: SocketAddr, port: u16) -> SocketAddr {
        let own = if backend.port() == 0 { port } else { backend.port() };
        SocketAddr::new(backend.ip(), own)
    }
}

/// Whether packets stay as they are on their way.
pub(crate) fn keeps(mode: Mode) -> bool {
    matches!(mode, Mode::Dsr | Mode::Ipip | Mode::Gue)
}

pub(crate) fn is_syn(segment: &Segment) -> bool {
    segment.protocol == TCP && segment.flags & (SYN | ACK | RST) == SYN
}

pub(crate) fn ends(header: &Header, segment: &Segment) -> (SocketAddr, SocketAddr) {
    let [from, to] = segment.ports;
    (SocketAddr::new(header.from, from), SocketAddr::new(header.to, to))
}

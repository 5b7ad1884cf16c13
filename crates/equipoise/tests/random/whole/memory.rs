//! What the second balancer remembers: flows, first fragments, and what has been counted.
//!
//! What chance has decided is known from what came out; where that does not tell, everything that it may have been is.

use std::net::{IpAddr, SocketAddr};

use super::balancer::{Balancer, ends, keeps};
use super::datagram::Piece;
use super::outcome::Choice;
use super::shot::{Carries, Shot};
use crate::wire::{FIN, RST, TCP};

/// A flow, as far as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) service: usize,
    pub(crate) protocol: u8,
    pub(crate) client: SocketAddr,
    pub(crate) vip: SocketAddr,
    /// Where it may be; one, once it has been seen.
    pub(crate) backends: Vec<SocketAddr>,
    /// The client as its backend sees it.
    pub(crate) name: Option<SocketAddr>,
    /// Source, port and label of what carries its packets.
    pub(crate) outer: Option<Outer>,
    /// A FIN or a RST has been seen, so that a SYN may open it anew.
    pub(crate) ending: bool,
}

pub(crate) type Outer = (IpAddr, u16, u32);

/// What has been made of a first fragment.
#[derive(Clone, Debug)]
pub(crate) enum First {
    NotOurs,
    /// The stack has it, for a connection that this host takes up.
    Streamed,
    Request {
        service: usize,
        backends: Vec<SocketAddr>,
        name: Option<IpAddr>,
    },
    Reply {
        service: usize,
        ends: [IpAddr; 2],
    },
}

/// Whether a flow has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    No,
    Yes,
    Unknown,
}

impl Balancer {
    /// Whether another flow than this one has a name at a backend.
    pub(crate) fn taken(
        &self,
        (protocol, client, vip): (u8, SocketAddr, SocketAddr),
        backend: SocketAddr,
        name: SocketAddr,
    ) -> Taken {
        let mut taken = Taken::No;
        for flow in self.flows.iter().filter(|f| f.protocol == protocol) {
            if keeps(self.services[flow.service].mode) || !flow.backends.contains(&backend) {
                continue;
            }
            let own = (flow.client, flow.vip) == (client, vip);
            let may_be = flow.name.is_none_or(|is| is == name);
            match flow.name {
                Some(is) if is == name && flow.backends.len() == 1 && !own => return Taken::Yes,
                _ if may_be => taken = Taken::Unknown,
                _ => {}
            }
        }
        taken
    }

    /// What has become of a packet is remembered.
    pub(crate) fn learn(&mut self, shot: &Shot, choices: &[Choice]) {
        let Some(mut choice) = choices.first().cloned() else { return };
        // What it may have become in several ways is not known.
        choice.name = choice.name.filter(|_| choices.iter().all(|other| other.name == choice.name));
        choice.outer =
            choice.outer.filter(|_| choices.iter().all(|other| other.outer == choice.outer));
        if let Some((service, request)) = choice.counts {
            let traffic = self.traffic.entry(self.services[service].id).or_default();
            let at = if request { 0 } else { 2 };
            traffic[at] += 1;
            traffic[at + 1] += shot.packet().len() as u64;
        }
        let Carries::Segment(segment, piece) = &shot.carries else { return };
        let (from, to) = ends(&shot.header, segment);
        let mut backends: Vec<_> = choices.iter().filter_map(|choice| choice.backend).collect();
        backends.sort_unstable();
        backends.dedup();
        if let (Some(first), Some(Piece { offset: 0, .. })) = (&choice.first, piece) {
            let header = &shot.header;
            let key = (header.from, header.to, header.identification, segment.protocol);
            let mut first = first.clone();
            if let First::Request { backends: may_be, name, .. } = &mut first {
                may_be.clone_from(&backends);
                *name = name.filter(|_| choice.name.is_some());
            }
            self.firsts.insert(key, first);
        }
        let ends_it = segment.protocol == TCP && segment.flags & (FIN | RST) != 0;
        let is_whole = piece.is_none_or(|piece| piece.offset == 0);
        if let (Some(service), true) = (choice.opens, is_whole) {
            let was = self.request(segment.protocol, from, to).cloned();
            let same = was.as_ref().filter(|flow| flow.backends == backends);
            self.flows.retain(|f| (f.protocol, f.client, f.vip) != (segment.protocol, from, to));
            self.flows.push(Flow {
                service,
                protocol: segment.protocol,
                client: from,
                vip: to,
                outer: choice.outer.or(same.and_then(|flow| flow.outer)),
                backends,
                name: choice.name,
                ending: ends_it || was.is_some_and(|flow| flow.ending),
            });
        } else if is_whole {
            let answers = |f: &&mut Flow| f.name == Some(to) && f.backends == [from];
            for flow in self.flows.iter_mut().filter(answers) {
                flow.ending |= ends_it;
            }
        }
    }
}

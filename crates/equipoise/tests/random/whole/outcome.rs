//! What a packet is when it has gone the way that it should: verdict, action and every byte.
//!
//! Where the balancer may choose (a source port, the source of a tunnel), the choice is read off what came out, and must
//! be an allowed one.

use std::net::{IpAddr, SocketAddr};

use equipoise_common::verdict::{Hook, Kind, Verdict};
use equipoise_core::config::Mode;

use super::balancer::{Balancer, Fate, Naming, Request, keeps};
use super::datagram::{Header, Segment};
use super::memory::{First, Outer, Taken};
use super::mss::lower;
use super::shot::{Carries, Shot};
use super::{answer, route, tunnel};
use crate::bench::HOSTS;

/// What its sender is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Reset,
    Unreachable,
    HopLimit,
    TooBig(u32),
    Echo,
}

/// What comes out.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) action: i32,
    pub(crate) frame: Vec<u8>,
    pub(crate) choice: Choice,
}

/// What is known then.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    /// Counted for this service, as a request or not.
    pub(crate) counts: Option<(usize, bool)>,
    /// Other fragments follow.
    pub(crate) first: Option<First>,
    /// It is of a flow of this service.
    pub(crate) opens: Option<usize>,
    pub(crate) backend: Option<SocketAddr>,
    pub(crate) name: Option<SocketAddr>,
    pub(crate) outer: Option<Outer>,
}

pub(crate) type Outcomes = Vec<Result<Outcome, String>>;

impl Balancer {
    /// What comes out for a fate: one for each backend that it may go to, or why what came can be none.
    pub(crate) fn outcomes(&self, shot: &Shot, fate: &Fate, came: &[u8]) -> Outcomes {
        match fate {
            Fate::Left(verdict) => {
                let first = match verdict {
                    Verdict::NoService if shot.hook() != Hook::Egress => Some(First::NotOurs),
                    Verdict::Streamed => Some(First::Streamed),
                    _ => None,
                };
                vec![Ok(self.left(shot, *verdict, Choice { first, ..Choice::default() }))]
            }
            Fate::Answered(verdict, answer) => {
                vec![Ok(self.answered(shot, *verdict, *answer, Choice::default()))]
            }
            Fate::Request(request) => {
                let each = |backend: &SocketAddr| {
                    if keeps(self.services[request.service].mode) {
                        self.carried(shot, request, *backend, came)
                    } else {
                        self.translated(shot, request, *backend, came)
                    }
                };
                request.backends.iter().map(each).collect()
            }
            Fate::Reply { service, ends } => {
                let first = First::Reply { service: *service, ends: ends.map(|end| end.ip()) };
                let choice = Choice { first: Some(first), ..Choice::default() };
                let changed = self.changed(shot, *ends, *service);
                vec![Ok(self.gone(shot, changed, choice, Some((*service, false))))]
            }
            Fate::Error { request, ends, quoted } => {
                vec![Ok(self.error_gone(shot, *request, *ends, *quoted))]
            }
            Fate::Carried { service, backends } => {
                let (service, naming) = (*service, Naming::Any);
                let request =
                    Request { service, backends: vec![], naming, outer: None, opens: false };
                backends
                    .iter()
                    .map(|backend| self.carried(shot, &request, *backend, came))
                    .collect()
            }
        }
    }

    /// It goes on, or not, as it has come.
    pub(crate) fn left(&self, shot: &Shot, verdict: Verdict, choice: Choice) -> Outcome {
        let frame = shot.frame(self.links);
        Outcome { verdict, action: leaves(shot, verdict.kind()), frame, choice }
    }

    pub(crate) fn answered(
        &self,
        shot: &Shot,
        verdict: Verdict,
        what: Answer,
        choice: Choice,
    ) -> Outcome {
        let host = HOSTS[usize::from(shot.at_back)][usize::from(shot.header.is_v6())];
        let packet = answer::packet(shot, what, host.parse().unwrap());
        let links = [crate::bench::FAR, self.links[usize::from(shot.at_back)]];
        let action = if shot.is_xdp() { 3 } else { 7 };
        Outcome { verdict, action, frame: shot.framed(links, &packet), choice }
    }

    /// The packet between these ends, with all its hops, and no larger segments asked for than its service has it.
    fn changed(&self, shot: &Shot, ends: [SocketAddr; 2], service: usize) -> (Header, Carries) {
        let Carries::Segment(segment, piece) = &shot.carries else { unreachable!("TCP or UDP") };
        let mut segment = segment.clone();
        if piece.is_none_or(|piece| piece.offset == 0) {
            segment.ports = ends.map(|end| end.port());
            if let super::services::Mss::Bytes(most) = self.services[service].mss {
                lower(&mut segment, most);
            }
        }
        let header = Header { from: ends[0].ip(), to: ends[1].ip(), ..shot.header.clone() };
        (header, Carries::Segment(segment, *piece))
    }

    /// A request that gets other addresses.
    fn translated(
        &self,
        shot: &Shot,
        request: &Request,
        backend: SocketAddr,
        came: &[u8],
    ) -> Result<Outcome, String> {
        let Carries::Segment(segment, piece) = &shot.carries else { unreachable!("TCP or UDP") };
        let is_later = piece.is_some_and(|piece| piece.offset > 0);
        let way = route::way(shot, backend.ip(), shot.packet().len(), route::may_be_cut(shot));
        let is_seen = !way.leaves_as_it_came(shot) && !way.is_answered();
        let name = match request.naming {
            Naming::Known(name) => Some(name),
            _ if !is_seen => None,
            naming => Some(self.named(shot, request, (naming, backend), came)?),
        };
        let first = First::Request {
            service: request.service,
            backends: vec![backend],
            name: name.map(|name| name.ip()),
        };
        let mut choice = Choice {
            counts: None,
            first: Some(first),
            opens: (request.opens && !is_later).then_some(request.service),
            backend: Some(backend),
            name,
            outer: None,
        };
        let key = super::balancer::ends(&shot.header, segment);
        if name.is_none() && matches!(request.naming, Naming::New) {
            let own = self.taken((segment.protocol, key.0, key.1), backend, key.0);
            let is_nat = self.services[request.service].mode == Mode::Nat;
            choice.name =
                (is_nat && own == Taken::No && request.backends.len() == 1).then_some(key.0);
        }
        let ends = [name.unwrap_or(key.0), backend];
        let changed = self.changed(shot, ends, request.service);
        Ok(self.gone(shot, changed, choice, Some((request.service, true))))
    }

    /// A packet that is rewritten goes its way, or not.
    pub(crate) fn gone(
        &self,
        shot: &Shot,
        (mut header, carries): (Header, Carries),
        mut choice: Choice,
        counts: Option<(usize, bool)>,
    ) -> Outcome {
        let request = counts.is_none_or(|(_, request)| request);
        let pick = |one, other| if request { one } else { other };
        let is_answered = match &shot.carries {
            Carries::Segment(_, piece) => piece.is_none_or(|piece| piece.offset == 0),
            Carries::Error { .. } | Carries::Echo { .. } => false,
        };
        if shot.hook() == Hook::Egress {
            choice.counts = counts;
            let frame = shot.framed(self.arrived(shot), &carries.packet(&header));
            let verdict = Verdict::RewrittenReply;
            return Outcome { verdict, action: leaves(shot, verdict.kind()), frame, choice };
        }
        let way = route::way(shot, header.to, shot.packet().len(), route::may_be_cut(shot));
        let by_stack = match way {
            route::Way::Sent => {
                choice.counts = counts;
                header.hops -= 1;
                let links = self.sent(shot, header.to);
                let frame = shot.framed(links, &carries.packet(&header));
                let verdict = pick(Verdict::ForwardedRequest, Verdict::ForwardedReply);
                return Outcome { verdict, action: route::sends(shot, header.to), frame, choice };
            }
            route::Way::NoNeighbour => pick(Verdict::RequestNoNeighbour, Verdict::ReplyNoNeighbour),
            route::Way::ToFragment => pick(Verdict::RequestToFragment, Verdict::ReplyToFragment),
            _ if !is_answered => return self.left(shot, Verdict::Unanswerable, choice),
            route::Way::TooBig => {
                let verdict = pick(Verdict::RequestTooBig, Verdict::ReplyTooBig);
                return self.answered(shot, verdict, Answer::TooBig(route::MTU as u32), choice);
            }
            route::Way::HopLimit => {
                let verdict = pick(Verdict::RequestHopLimit, Verdict::ReplyHopLimit);
                return self.answered(shot, verdict, Answer::HopLimit, choice);
            }
        };
        if !request || !shot.is_last() {
            return self.left(shot, by_stack, choice);
        }
        choice.counts = counts;
        let frame = shot.framed(self.arrived(shot), &carries.packet(&header));
        Outcome { verdict: by_stack, action: leaves(shot, by_stack.kind()), frame, choice }
    }

    /// An ICMP error goes to the end that has sent what it is about.
    fn error_gone(
        &self,
        shot: &Shot,
        request: bool,
        ends: [IpAddr; 2],
        quoted_ends: [SocketAddr; 2],
    ) -> Outcome {
        let Carries::Error { kind, word, about, segment, quoted } = &shot.carries else {
            unreachable!("an error")
        };
        let about = Header { from: quoted_ends[0].ip(), to: quoted_ends[1].ip(), ..about.clone() };
        let segment = Segment { ports: quoted_ends.map(|end| end.port()), ..segment.clone() };
        let (kind, word, quoted) = (*kind, *word, *quoted);
        let carries = Carries::Error { kind, word, about, segment, quoted };
        let header = Header { from: ends[0], to: ends[1], ..shot.header.clone() };
        // As any packet, but that it is no service's, and not answered.
        let counts = Some((0, request));
        let mut outcome = self.gone(shot, (header, carries), Choice::default(), counts);
        outcome.choice.counts = None;
        let no_way = if shot.header.is_v6() { [[1, 0], [1, 3]] } else { [[3, 0], [3, 1]] };
        if outcome.verdict == Verdict::RewrittenReply && no_way.contains(&kind) {
            return self.left(shot, Verdict::WithheldError, outcome.choice);
        }
        outcome.verdict = match outcome.verdict {
            Verdict::ForwardedRequest => Verdict::ForwardedErrorToBackend,
            Verdict::ForwardedReply => Verdict::ForwardedErrorToClient,
            Verdict::RewrittenReply => Verdict::RewrittenError,
            verdict => verdict,
        };
        outcome
    }

    /// A request, or an error, that goes to its backend as it is.
    fn carried(
        &self,
        shot: &Shot,
        request: &Request,
        backend: SocketAddr,
        came: &[u8],
    ) -> Result<Outcome, String> {
        let service = &self.services[request.service];
        let (is_later, is_error) = match &shot.carries {
            Carries::Segment(_, piece) => (piece.is_some_and(|piece| piece.offset > 0), false),
            Carries::Error { .. } | Carries::Echo { .. } => (false, true),
        };
        let name = match request.naming {
            Naming::Known(name) if !is_later => Some(name),
            _ => None,
        };
        let first =
            First::Request { service: request.service, backends: vec![backend], name: None };
        let opens = (request.opens && !is_later).then_some(request.service);
        let mut choice = Choice {
            counts: None,
            first: Some(first),
            opens,
            backend: Some(backend),
            name,
            outer: request.outer,
        };
        let overhead = tunnel::overhead(service.mode, backend.ip());
        let way = route::way(shot, backend.ip(), shot.packet().len() + overhead, false);
        let refused = |verdict, answer, choice| {
            if is_later || is_error {
                return self.left(shot, Verdict::Unanswerable, choice);
            }
            self.answered(shot, verdict, answer, choice)
        };
        let too_late = shot.header.hops <= 1;
        let no_neighbour = match way {
            route::Way::Sent => false,
            route::Way::NoNeighbour if !shot.is_last() => {
                return Ok(self.left(shot, Verdict::RequestNoNeighbour, choice));
            }
            route::Way::NoNeighbour if service.mode == Mode::Dsr => {
                return Ok(self.left(shot, Verdict::RequestUndeliverable, choice));
            }
            // The stack, which sees what is outside, cannot count the hops inside.
            route::Way::NoNeighbour if !too_late => true,
            route::Way::NoNeighbour | route::Way::HopLimit => {
                return Ok(refused(Verdict::RequestHopLimit, Answer::HopLimit, choice));
            }
            route::Way::TooBig | route::Way::ToFragment => {
                let fits = Answer::TooBig((route::MTU - overhead) as u32);
                return Ok(refused(Verdict::RequestTooBig, fits, choice));
            }
        };
        let header = Header { hops: shot.header.hops - 1, ..shot.header.clone() };
        let mut carries = shot.carries.clone();
        if let (Carries::Segment(segment, _), false) = (&mut carries, is_later) {
            match service.mss {
                super::services::Mss::Bytes(most) => lower(segment, most),
                // What a way carries is known with its link address.
                super::services::Mss::Fits if route::is_known(backend.ip()) => {
                    let inside = if shot.header.is_v6() { 60 } else { 40 };
                    lower(segment, (route::MTU - overhead - inside) as u16);
                }
                _ => {}
            }
        }
        choice.counts = (!is_error).then_some((request.service, true));
        let mut packet = carries.packet(&header);
        if service.mode != Mode::Dsr {
            let outer = tunnel::outer(shot, service.mode, backend.ip(), came)?;
            if let (Some(was), false) = (request.outer, is_later)
                && was.0.is_ipv6() == outer.0.is_ipv6()
                && was != outer
            {
                return Err(format!("goes from {outer:?}, where its flow has gone from {was:?}"));
            }
            choice.outer = (!is_later).then_some(outer);
            packet = tunnel::wrap(shot.header.class, service.mode, (outer, backend.ip()), &packet);
        }
        if no_neighbour {
            let verdict = Verdict::RequestNoNeighbour;
            let frame = shot.framed(self.arrived(shot), &packet);
            return Ok(Outcome { verdict, action: leaves(shot, Kind::Stack), frame, choice });
        }
        let verdict =
            if is_error { Verdict::ForwardedErrorToBackend } else { Verdict::ForwardedRequest };
        let frame = shot.framed(self.sent(shot, backend.ip()), &packet);
        Ok(Outcome { verdict, action: route::sends(shot, backend.ip()), frame, choice })
    }

    /// Link addresses of a frame that has been sent: at TC the stack writes them, which does not know frames with tags
    /// in them.
    fn sent(&self, shot: &Shot, to: IpAddr) -> [[u8; 6]; 2] {
        if shot.is_xdp() || !shot.tags.is_empty() {
            return [route::link(to), self.links[usize::from(route::is_back(to))]];
        }
        self.arrived(shot)
    }

    /// Link addresses of the frame as it came.
    fn arrived(&self, shot: &Shot) -> [[u8; 6]; 2] {
        [self.links[usize::from(shot.at_back)], crate::bench::FAR]
    }
}

/// The action on a packet that is not sent from here.
fn leaves(shot: &Shot, kind: Kind) -> i32 {
    match (shot.is_xdp(), kind) {
        (true, Kind::Drop) => 1,
        (true, _) | (false, Kind::Drop) => 2,
        (false, _) => -1,
    }
}

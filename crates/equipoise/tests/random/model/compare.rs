//! Whether a packet has become what the model expects: verdict, action, and every byte but those of checksums, which must
//! be right where they were.

use std::net::{IpAddr, SocketAddr};

use equipoise_common::verdict::{Hook, Kind, Verdict};

use super::{Change, Expect, Model, SPARE_PORTS, Taken};
use crate::bench::FAR;
use crate::mutants::{Fate, Shot, holds};
use crate::wire::{ACK, FIN, Parsed as Packet, RST, SYN, UDP, hex, parse, set, sums};

/// In the byte of an IPv4 header that has it.
const DO_NOT_FRAGMENT: u8 = 0x40;

impl Model {
    /// Where a packet goes that becomes one to `to`, under which verdict, and what is done to it; none where the model
    /// does not know the route.
    pub(super) fn way(
        &self,
        shot: &Shot,
        packet: &Packet,
        (request, to): (bool, SocketAddr),
    ) -> Option<(Verdict, Change)> {
        let pick = |r, other| if request { r } else { other };
        if shot.hook == Hook::Egress {
            return Some((Verdict::RewrittenReply, Change::Rewritten));
        }
        let xdp = shot.hook == Hook::Xdp;
        let by_back = match to.ip() {
            IpAddr::V4(ip) if ip.octets() == [10, 0, 0, 1] => {
                let change = if xdp { Change::Nothing } else { Change::Rewritten };
                return request.then_some((Verdict::RequestToLocalBackend, change));
            }
            // Neither the first address of a network, nor our own, nor the last.
            IpAddr::V4(ip) if !(2..=254).contains(&ip.octets()[3]) => return None,
            IpAddr::V4(ip) if ip.octets()[..3] == [10, 0, 0] => true,
            IpAddr::V4(ip) if ip.octets()[..3] == [198, 51, 100] => false,
            IpAddr::V6(ip) if ip.octets()[8..15] == [0; 7] && ip.octets()[15] < 2 => return None,
            IpAddr::V6(ip) if ip.segments()[..4] == [0x2001, 0xdb8, 0xb, 0] => true,
            IpAddr::V6(ip) if ip.segments()[..4] == [0x2001, 0xdb8, 0xc, 0] => false,
            _ => return None,
        };
        let known = matches!(
            to.ip().to_string().as_str(),
            "198.51.100.7"
                | "2001:db8:c::7"
                | "10.0.0.11"
                | "10.0.0.12"
                | "10.0.0.13"
                | "10.0.0.14"
                | "2001:db8:b::11"
                | "2001:db8:b::12"
                | "2001:db8:b::13"
        );
        // The stack gets requests rewritten; replies it gets as they came.
        let left = if xdp || !request { Change::Nothing } else { Change::Rewritten };
        let may_be_cut =
            packet.from.is_ipv4() && shot.frame[packet.network + 6] & DO_NOT_FRAGMENT == 0;
        Some(if packet.end - packet.network > 1500 && may_be_cut {
            (pick(Verdict::RequestToFragment, Verdict::ReplyToFragment), left)
        } else if packet.end - packet.network > 1500 {
            (pick(Verdict::RequestTooBig, Verdict::ReplyTooBig), Change::Answered)
        } else if (xdp || is_tagged(&shot.frame)) && !known {
            (pick(Verdict::RequestNoNeighbour, Verdict::ReplyNoNeighbour), left)
        } else if packet.hops <= 1 {
            (pick(Verdict::RequestHopLimit, Verdict::ReplyHopLimit), Change::Answered)
        } else {
            (pick(Verdict::ForwardedRequest, Verdict::ForwardedReply), Change::Sent { by_back })
        })
    }

    /// Says whether a packet has become what is expected; gives the ends that it has got.
    pub(super) fn compare(
        &self,
        expect: &Expect,
        (shot, parsed): (&Shot, &Result<Packet, Verdict>),
        verdict: Verdict,
        output: (i32, &[u8]),
    ) -> Result<Option<[SocketAddr; 2]>, String> {
        match expect {
            Expect::Anything => Ok(None),
            Expect::Left(expected) => {
                same("verdict", &verdict.name(), &expected.name())?;
                same("action", &output.0, &left(shot.hook, verdict.kind()))?;
                if output.1 == shot.frame { Ok(None) } else { Err("changed".to_owned()) }
            }
            Expect::Answered(expected) => {
                same("verdict", &verdict.name(), &expected.name())?;
                answers(shot, parsed.as_ref().unwrap(), output)
            }
            Expect::Moved { request, ends, .. } => {
                let packet = parsed.as_ref().unwrap();
                let to = ends[1];
                let Some(way) = self.way(shot, packet, (*request, to)) else { return Ok(None) };
                self.moved((shot, packet), way, *ends, (verdict, output))
            }
            Expect::Opened { candidates, .. } => {
                let packet = parsed.as_ref().unwrap();
                let out = parse(output.1);
                let is_there =
                    |backend: &&SocketAddr| out.as_ref().is_ok_and(|out| **backend == out.to);
                let chosen = candidates.iter().find(is_there);
                let (to, is_told) =
                    chosen.map_or((candidates[0], false), |backend| (*backend, true));
                let Some(way) = self.way(shot, packet, (true, to)) else { return Ok(None) };
                if matches!(way.1, Change::Nothing | Change::Answered) {
                    // It is not seen where it would have gone; where there is no choice that is known all the same.
                    self.moved((shot, packet), way, [packet.from, to], (verdict, output))?;
                    let sure = candidates.len() == 1 && self.taken(packet, to) == Taken::No;
                    return Ok(sure.then_some([packet.from, to]));
                }
                let out = out.map_err(|v| format!("{v:?} came out"))?;
                if !is_told {
                    return Err(format!("went to {}", out.to));
                }
                let own = out.from == packet.from;
                let fits =
                    out.from.ip() == packet.from.ip() && (own || out.from.port() >= SPARE_PORTS);
                let right = match self.taken(packet, to) {
                    Taken::No => own,
                    Taken::Yes => !own,
                    Taken::Unknown => true,
                };
                if !fits || !right {
                    return Err(format!(
                        "comes from {} at {to}, where its name is {:?}",
                        out.from,
                        self.taken(packet, to)
                    ));
                }
                self.moved((shot, packet), way, [out.from, to], (verdict, output))
            }
        }
    }

    /// Says whether a packet has gone this way with these ends.
    fn moved(
        &self,
        (shot, packet): (&Shot, &Packet),
        (expected, change): (Verdict, Change),
        ends: [SocketAddr; 2],
        (verdict, (action, frame)): (Verdict, (i32, &[u8])),
    ) -> Result<Option<[SocketAddr; 2]>, String> {
        same("verdict", &verdict.name(), &expected.name())?;
        let xdp = shot.hook == Hook::Xdp;
        if change == Change::Answered {
            return match holds(shot, action, frame) {
                Ok(Fate::Answered) => Ok(None),
                Ok(_) => Err("no answer".to_owned()),
                Err(what) => Err(what.to_owned()),
            };
        }
        let right = match change {
            Change::Answered => unreachable!("above"),
            Change::Nothing | Change::Rewritten => left(shot.hook, Kind::Stack),
            Change::Sent { by_back } if xdp && by_back == shot.at_back => 3,
            Change::Sent { .. } if xdp => 4,
            Change::Sent { .. } => 7,
        };
        same("action", &action, &right)?;
        if change == Change::Nothing {
            return if frame == shot.frame { Ok(None) } else { Err("changed".to_owned()) };
        }
        let mut wanted = shot.frame.clone();
        write_ends(&mut wanted, packet, ends);
        if let Change::Sent { by_back } = change {
            let at = if packet.from.is_ipv4() { 8 } else { 7 };
            wanted[packet.network + at] -= 1;
            // TC leaves that to the stack, which does not know frames with tags in them.
            if xdp || is_tagged(&shot.frame) {
                wanted[..6].copy_from_slice(&FAR);
                wanted[6..12].copy_from_slice(&self.links[usize::from(by_back)]);
            }
        }
        let mut came = frame.to_vec();
        let out = parse(&came).map_err(|verdict| format!("{verdict:?} came out"))?;
        let (good, now) = (sums(&shot.frame, packet), sums(&came, &out));
        if good.network && !now.network || good.transport && !now.transport {
            return Err(format!("checksums {good:?} became {now:?}"));
        }
        let sum_at = packet.transport + if packet.protocol == UDP { 6 } else { 16 };
        let none = packet.protocol == UDP
            && shot.frame[sum_at..sum_at + 2] == [0, 0]
            && packet.from.is_ipv4();
        if none && came[sum_at..sum_at + 2] != [0, 0] {
            return Err("a checksum where there was none".to_owned());
        }
        for frame in [&mut wanted, &mut came] {
            set(frame, sum_at, 0);
            if packet.from.is_ipv4() {
                set(frame, packet.network + 10, 0);
            }
        }
        same("bytes", &hex(&came), &hex(&wanted))?;
        Ok(Some(ends))
    }
}

/// The action on a packet that is not sent from here.
fn left(hook: Hook, kind: Kind) -> i32 {
    match (hook, kind) {
        (Hook::Xdp, Kind::Drop) => 1,
        (Hook::Xdp, _) => 2,
        (_, Kind::Drop) => 2,
        (_, _) => -1,
    }
}

/// Says whether the sender has got its answer: what the RST says follows from what it answers.
fn answers(
    shot: &Shot,
    packet: &Packet,
    (action, frame): (i32, &[u8]),
) -> Result<Option<[SocketAddr; 2]>, String> {
    if !matches!(holds(shot, action, frame), Ok(Fate::Answered)) {
        return Err("no right answer".to_owned());
    }
    if packet.protocol == UDP {
        return Ok(None);
    }
    let out = parse(frame).map_err(|verdict| format!("{verdict:?} came out"))?;
    let spoken = (packet.end - packet.data) as u32
        + u32::from(packet.flags & SYN != 0)
        + u32::from(packet.flags & FIN != 0);
    let wanted = if packet.flags & ACK != 0 {
        (RST, [packet.numbers[1], 0])
    } else {
        (RST | ACK, [0, packet.numbers[0].wrapping_add(spoken)])
    };
    same("RST", &(out.flags, out.numbers), &wanted)?;
    Ok(None)
}

fn write_ends(frame: &mut [u8], packet: &Packet, [from, to]: [SocketAddr; 2]) {
    let mut put = |at: usize, ip: IpAddr| match ip {
        IpAddr::V4(ip) => frame[at..at + 4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => frame[at..at + 16].copy_from_slice(&ip.octets()),
    };
    let (source, destination) = if from.is_ipv4() { (12, 16) } else { (8, 24) };
    put(packet.network + source, from.ip());
    put(packet.network + destination, to.ip());
    set(frame, packet.transport, from.port());
    set(frame, packet.transport + 2, to.port());
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, came: &T, wanted: &T) -> Result<(), String> {
    if came == wanted { Ok(()) } else { Err(format!("{what}: {came:?} came, {wanted:?} expected")) }
}

/// Whether a frame has a VLAN tag.
fn is_tagged(frame: &[u8]) -> bool {
    matches!(frame[12..14], [0x81, 0] | [0x88, 0xa8])
}

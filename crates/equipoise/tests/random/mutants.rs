//! What must hold of every packet, whatever is in it.

use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{Input, Output};
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_lab::scale;

use crate::bench::Bench;
use crate::traffic::{CONFIG, NEIGHBOURS, mutate, spec};
use crate::wire::{Dice, RST, TCP, hex, parse, sum, sums};

const SEED: u64 = 0x0e91_0153;

/// A packet to be sent, from a number: what is built from it does not depend on what came before.
pub(crate) struct Shot {
    pub(crate) seed: u64,
    pub(crate) hook: Hook,
    pub(crate) at_back: bool,
    pub(crate) frame: Vec<u8>,
}

pub(crate) fn shot(bench: &Bench, seed: u64) -> Shot {
    let mut dice = Dice(seed);
    let hook = dice.pick(&[Hook::Xdp, Hook::Xdp, Hook::Ingress, Hook::Ingress, Hook::Egress]);
    let (spec, at_back) = spec(&mut dice, bench);
    let mut frame = spec.build();
    match dice.below(16) {
        // As it is, so that there are flows.
        0..4 => {}
        4 => {
            let length = 14 + dice.below(200);
            let from = if dice.one_in(2) { 0 } else { 14 };
            frame.resize(length.max(from), 0);
            frame[from..].fill_with(|| dice.next() as u8);
        }
        changes => (0..=changes % 3).for_each(|_| mutate(&mut frame, &mut dice)),
    }
    Shot { seed, hook, at_back, frame }
}

#[test]
fn no_packet_whatever_is_in_it_is_lost_unnamed_or_left_with_a_wrong_checksum() {
    let bench = Bench::of(CONFIG);
    bench.netns.ip(NEIGHBOURS).unwrap();
    let counted = || bench.kernel.verdicts().unwrap().iter().map(|(_, _, n)| n).sum::<u64>();
    let before = counted();
    let count = scale(20_000, 1_000_000);
    let (sent, translated, answered) = bench.netns.run(|| {
        let (mut sent, mut translated, mut answered) = (0_u64, 0_u64, 0_u64);
        for number in 0..count {
            let shot = shot(&bench, SEED + number);
            let interface = if shot.at_back { bench.back } else { bench.front };
            let input = Input { frame: &shot.frame, interface, repeat: 1 };
            let Ok(output) = bench.kernel.run(shot.hook, input) else {
                // The kernel runs no TC program on less than an IP header.
                assert!(
                    shot.hook != Hook::Xdp && shot.frame.len() < 14 + 40,
                    "{}",
                    told(&shot, None)
                );
                continue;
            };
            sent += 1;
            match holds(&shot, output.action, &output.frame) {
                Ok(Fate::Untouched) => {}
                Ok(Fate::Translated) => translated += 1,
                Ok(Fate::Answered) => answered += 1,
                Err(what) => panic!("{what}: {}", told(&shot, Some(&output))),
            }
        }
        (sent, translated, answered)
    });
    assert_eq!(counted() - before, sent, "each packet has one verdict");
    // Else it shows nothing.
    assert!(translated > sent / 20, "{translated} of {sent}");
    assert!(answered > sent / 100, "{answered} of {sent}");
}

pub(crate) fn told(shot: &Shot, output: Option<&Output>) -> String {
    let Shot { seed, hook, at_back, frame } = shot;
    let came =
        output.map(|output| format!("\naction {}, out {}", output.action, hex(&output.frame)));
    format!(
        "seed {seed}, {hook:?}, at back {at_back}\nin {}{}",
        hex(frame),
        came.unwrap_or_default()
    )
}

/// What has become of a packet.
pub(crate) enum Fate {
    Untouched,
    Translated,
    Answered,
}

/// What has become of a packet, or what is wrong with it.
pub(crate) fn holds(shot: &Shot, action: i32, after: &[u8]) -> Result<Fate, &'static str> {
    let (known, bounces): (&[i32], i32) =
        if shot.hook == Hook::Xdp { (&[1, 2, 3, 4], 3) } else { (&[-1, 2, 7], 7) };
    if !known.contains(&action) {
        return Err("the action is none of ours");
    }
    let before = &shot.frame[..];
    if before == after {
        return Ok(Fate::Untouched);
    }
    let was = match parse(before) {
        Ok(was) => was,
        // Fragments and ICMP have tables of their own.
        Err(Verdict::Fragment | Verdict::NotTcpUdp) => return Ok(Fate::Untouched),
        Err(_) => return Err("changed, and no TCP or UDP"),
    };
    // An ICMP error may happen to be as long as what it answers.
    if let Some(is) = parse(after).ok().filter(|_| before.len() == after.len()) {
        let swapped = is.from == was.to && is.to == was.from;
        if !swapped {
            if (is.network, is.transport, is.end) != (was.network, was.transport, was.end) {
                return Err("headers have moved");
            }
            if before[14..was.network] != after[14..is.network]
                || before[was.data..] != after[is.data..]
            {
                return Err("tags or payload have changed");
            }
            let (good, now) = (sums(before, &was), sums(after, &is));
            if good.network && !now.network || good.transport && !now.transport {
                return Err("a checksum was right and is wrong");
            }
            return Ok(Fate::Translated);
        }
    }
    if action != bounces {
        return Err("an answer that is not sent back");
    }
    if let Some(is) = parse(after).ok().filter(|_| was.protocol == TCP) {
        if after.len() != was.transport + 20
            || is.flags & RST == 0
            || is.from != was.to
            || is.to != was.from
        {
            return Err("an answer that is no RST");
        }
        let (good, now) = (sums(before, &was), sums(after, &is));
        // The header is the packet's own, options and all.
        if good.network && !now.network || !now.transport {
            return Err("a RST with a wrong checksum");
        }
        return Ok(Fate::Answered);
    }
    let (header, v6) = if was.from.is_ipv4() { (20, false) } else { (40, true) };
    let carried = if was.protocol == TCP { 20 } else { 8 };
    let quoted = (was.transport + carried - was.network).min(128);
    let icmp = was.network + header;
    if after.len() != icmp + 8 + quoted {
        return Err("an answer of another length");
    }
    // Port unreachable, time exceeded, too big.
    let known: [[u8; 2]; 3] = if v6 { [[1, 4], [3, 0], [2, 0]] } else { [[3, 3], [11, 0], [3, 4]] };
    let kind: [u8; 2] = after[icmp..icmp + 2].try_into().expect("two bytes");
    if !known.contains(&kind) || kind == known[0] && was.protocol == TCP {
        return Err("an answer of another kind");
    }
    if after[icmp + 8..] != before[was.network..was.network + quoted] {
        return Err("what is quoted is not what came");
    }
    let message = &after[icmp..];
    let length = (message.len() as u16).to_be_bytes();
    let pseudo = [&after[was.network + 8..icmp], &[0, 58], &length].concat();
    let total = if v6 { sum(&[&pseudo, message]) } else { sum(&[message]) };
    let header_sum = v6 || sum(&[&after[was.network..icmp]]) == 0xffff;
    if total == 0xffff && header_sum {
        Ok(Fate::Answered)
    } else {
        Err("an ICMP error with a wrong checksum")
    }
}

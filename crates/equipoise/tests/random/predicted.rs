//! Random packets under random configurations: verdict, bytes and counters are what the model says.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::Input;
use equipoise_common::verdict::{COUNTERS, Hook, VERDICTS, Verdict};
use equipoise_core::facts::{Facts, Interface};
use equipoise_lab::scale;

use crate::bench::Bench;
use crate::model::{Model, Traffic};
use crate::mutants::{shot, told};
use crate::traffic::{CONFIG, NEIGHBOURS};
use crate::whole::forget;
use crate::wire::{Dice, parse};

const SEED: u64 = 0x30de_0000;
/// Packets under one configuration.
const PACKETS: u64 = 1_000;

/// The services, each with other policies, weights, algorithm, or without some of its backends.
fn config(dice: &mut Dice) -> String {
    let mut text = String::new();
    for line in CONFIG.lines().map(str::trim) {
        if line.starts_with("algorithm") || line.starts_with("on-") {
            continue;
        }
        let Some(list) = line.strip_prefix("backends = [") else {
            writeln!(text, "{line}").unwrap();
            continue;
        };
        let algorithm = dice.pick(&["maglev", "maglev", "random"]);
        let unknown = dice.pick(&["hash", "hash", "reset", "drop"]);
        let empty = dice.pick(&["reset", "drop", "pass"]);
        writeln!(text, "algorithm = '{algorithm}'\non-unknown = '{unknown}'\non-empty = '{empty}'")
            .unwrap();
        let addresses: Vec<_> = list.split('"').skip(1).step_by(2).collect();
        let first = dice.below(addresses.len());
        text.push_str("backends = [");
        for (number, address) in addresses.iter().enumerate() {
            if number == first || !dice.one_in(4) {
                let weight = if number == first { 1 } else { dice.below(4) };
                write!(text, "{{ address = '{address}', weight = {weight} }}, ").unwrap();
            }
        }
        text.push_str("]\n");
    }
    text
}

fn counters(bench: &Bench) -> Vec<u64> {
    let mut counters = vec![0; COUNTERS as usize];
    for (hook, verdict, count) in bench.kernel.verdicts().unwrap() {
        counters[hook.counter(verdict) as usize] = count;
    }
    counters
}

/// Packets and bytes of each service, by id.
fn traffic(bench: &Bench) -> Vec<(u32, Traffic)> {
    let ids: Vec<_> = bench.state.services().iter().map(|service| service.id.unwrap()).collect();
    let counted = bench.kernel.service_traffic(&ids).unwrap().into_iter();
    counted.map(|(id, t)| (id, [t.packets_in, t.bytes_in, t.packets_out, t.bytes_out])).collect()
}

#[test]
fn packets_fare_as_the_model_says() {
    let mut bench = Bench::of(CONFIG);
    bench.netns.ip(NEIGHBOURS).unwrap();
    let own = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect();
    let front =
        Interface { index: bench.front, addresses: own(&["198.51.100.1", "2001:db8:c::1"]) };
    let back = Interface { index: bench.back, addresses: own(&["10.0.0.1", "2001:db8:b::1"]) };
    let interfaces = [("front".to_owned(), front), ("back".to_owned(), back)].into();
    bench.state.handle_facts(Facts { interfaces, ..Facts::default() });
    let cases = scale(4_000, 200_000);
    let mut skipped = 0;
    for round in 0..cases / PACKETS {
        forget(&mut bench, 300 + 4 * round);
        let text = config(&mut Dice(SEED ^ round));
        bench.reconfigure(&text);
        let mut model = Model::new(&mut bench);
        let first = SEED + round * PACKETS;
        let bench = &bench;
        if let Err(why) = bench.netns.run(|| fare(bench, &mut model, first)) {
            panic!("round {round}: {why}\n{text}");
        }
        skipped += model.skipped;
    }
    assert!(skipped <= cases / 50, "the model says nothing of {skipped} packets");
}

/// Sends the packets of a round, and compares.
fn fare(bench: &Bench, model: &mut Model, first: u64) -> Result<(), String> {
    let before = traffic(bench);
    let mut old = counters(bench);
    for number in 0..PACKETS {
        let shot = shot(bench, first + number);
        // Fragments and ICMP have tables of their own (`flows/fragments.rs`, `flows/errors.rs`).
        if matches!(parse(&shot.frame), Err(Verdict::Fragment | Verdict::NotTcpUdp)) {
            continue;
        }
        let interface = if shot.at_back { bench.back } else { bench.front };
        let input = Input { frame: &shot.frame, interface, repeat: 1 };
        let Ok(output) = bench.kernel.run(shot.hook, input) else {
            // The kernel runs no TC program on less than an IP header.
            assert!(shot.hook != Hook::Xdp && shot.frame.len() < 14 + 40, "{}", told(&shot, None));
            continue;
        };
        let failed =
            |why: String| Err(format!("packet {number}: {why}\n{}", told(&shot, Some(&output))));
        let new = counters(bench);
        let counted: Vec<_> = new.iter().zip(&old).map(|(new, old)| new - old).collect();
        old = new;
        let Some(one) =
            counted.iter().position(|&n| n == 1).filter(|_| counted.iter().sum::<u64>() == 1)
        else {
            return failed(format!("not one verdict: {counted:?}"));
        };
        let verdict = Verdict::ALL[one % VERDICTS as usize];
        if one != shot.hook.counter(verdict) as usize {
            return failed(format!("{verdict:?} is counted at another hook"));
        }
        let skipped = model.skipped;
        if let Err(why) = model.check(&shot, verdict, (output.action, &output.frame)) {
            return failed(why);
        }
        // What the model could not tell it has to be told; that is one packet of one service at most.
        let is_last = number + 1 == PACKETS;
        if model.skipped > skipped || is_last {
            let added = added(&before, &traffic(bench));
            let unforeseen: u64 =
                added.iter().map(|(id, is)| difference(is, model.traffic.get(id))).sum();
            if unforeseen > model.skipped - skipped {
                return failed(format!("traffic {added:?}, expected {:?}", model.traffic));
            }
            model.traffic = added;
        }
    }
    Ok(())
}

fn added(before: &[(u32, Traffic)], now: &[(u32, Traffic)]) -> BTreeMap<u32, Traffic> {
    let since = |(was, is): (&(u32, Traffic), &(u32, Traffic))| {
        (is.0, std::array::from_fn(|at| is.1[at] - was.1[at]))
    };
    before.iter().zip(now).map(since).collect()
}

/// Packets by which one differs from the other; one as well where the bytes alone do.
fn difference(is: &Traffic, expected: Option<&Traffic>) -> u64 {
    let expected = expected.copied().unwrap_or_default();
    let packets = is[0].abs_diff(expected[0]) + is[2].abs_diff(expected[2]);
    packets.max(u64::from(*is != expected))
}

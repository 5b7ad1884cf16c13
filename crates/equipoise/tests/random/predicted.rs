//! Random packets under random configurations: verdict, bytes and counters are what the model says.

use std::fmt::Write as _;
use std::time::Duration;

use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{Input, Part};
use equipoise_common::verdict::{Hook, Verdict};
use equipoise_core::facts::{Facts, Interface};
use equipoise_lab::scale;

use crate::bench::Bench;
use crate::model::{Model, Traffic};
use crate::mutants::{shot, told};
use crate::traffic::{CONFIG, NEIGHBOURS};
use crate::wire::Dice;

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

/// Time goes on until nothing is left of what was.
fn forget(bench: &mut Bench, hours: u64) {
    let Bench { netns, kernel, .. } = bench;
    let mut at = |time| {
        kernel.set_time(time).unwrap();
        netns.run(|| kernel.sweep(Part::All));
    };
    let start = Duration::from_secs(hours * 3600);
    at(start);
    at(start + Duration::from_secs(60));
}

fn counters(bench: &Bench) -> Vec<u64> {
    bench.kernel.verdicts().unwrap().iter().map(|(_, _, count)| *count).collect()
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
    bench.state.handle_facts(Facts { interfaces });
    let cases = scale(4_000, 200_000);
    let mut skipped = 0;
    for round in 0..cases / PACKETS {
        forget(&mut bench, 300 + 4 * round);
        let text = config(&mut Dice(SEED ^ round));
        bench.reconfigure(&text);
        let mut model = Model::new(&mut bench);
        let before = traffic(&bench);
        for number in 0..PACKETS {
            // Some ports are met often enough to have flows.
            let shot = shot(&bench, SEED + round * PACKETS + number);
            let interface = if shot.at_back { bench.back } else { bench.front };
            let old = counters(&bench);
            let input = Input { frame: &shot.frame, interface, repeat: 1 };
            let Ok(output) = bench.netns.run(|| bench.kernel.run(shot.hook, input)) else {
                assert!(
                    shot.hook != Hook::Xdp && shot.frame.len() < 14 + 40,
                    "{}",
                    told(&shot, None)
                );
                continue;
            };
            let counted: Vec<_> =
                counters(&bench).iter().zip(old).map(|(new, old)| new - old).collect();
            let one = counted.iter().position(|&count| count == 1).unwrap();
            assert_eq!(counted.iter().sum::<u64>(), 1, "{}", told(&shot, Some(&output)));
            let verdict = Verdict::ALL[one % Verdict::ALL.len()];
            assert_eq!(one, shot.hook.counter(verdict) as usize, "{}", told(&shot, Some(&output)));
            if let Err(why) = model.check(&shot, verdict, (output.action, &output.frame)) {
                panic!(
                    "packet {number} of round {round}: {why}\n{}\n{text}",
                    told(&shot, Some(&output))
                );
            }
        }
        // One that the model did not foresee may have counted.
        if model.skipped == 0 {
            for ((id, was), (_, is)) in before.iter().zip(traffic(&bench)) {
                let added: Vec<_> = is.iter().zip(was).map(|(is, was)| is - was).collect();
                let expected = model.traffic.get(id).copied().unwrap_or_default();
                assert_eq!(added, expected, "round {round}, service {id}\n{text}");
            }
        }
        skipped += model.skipped;
    }
    assert!(skipped <= cases / 50, "the model says nothing of {skipped} packets");
}

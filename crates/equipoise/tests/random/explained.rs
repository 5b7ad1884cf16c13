//! What `explain` says of a packet is what then becomes of it: the dry twin and the live program, one after the other, on packets at random.

use equipoise::dataplane::kernel::Input;
use equipoise_common::step::{Step, What};
use equipoise_common::verdict::Verdict;
use equipoise_lab::scale;

use crate::bench::Bench;
use crate::mutants::{shot, told};
use crate::traffic::{CONFIG, NEIGHBOURS};

const SEED: u64 = 0x5ee1_7a1e;

#[test]
fn what_is_explained_of_any_packet_is_what_then_becomes_of_it() {
    // What is drawn by chance is drawn anew for the packet, and the explanation says so.
    let bench = Bench::of(&CONFIG.replace("algorithm = \"random\"", "algorithm = \"maglev\""));
    bench.netns.ip(NEIGHBOURS).unwrap();
    let mut twin = bench.netns.run(|| bench.kernel.twin()).unwrap();
    let (mut changed, mut of_flows) = (0_u64, 0_u64);
    let count = scale(4_000, 100_000);
    for number in 0..count {
        let shot = shot(&bench, SEED + number);
        let interface = if shot.at_back { bench.back } else { bench.front };
        let input = || Input { frame: &shot.frame, interface, repeat: 1 };
        let dry = bench.netns.run(|| twin.explain(shot.hook, input()));
        let Ok((dry, steps)) = dry else {
            let wet = bench.netns.run(|| bench.kernel.run(shot.hook, input()));
            assert!(wet.is_err(), "{}", told(&shot, None));
            continue;
        };
        let (verdict, wet) = bench.verdict(shot.hook, interface, &shot.frame);
        let last = steps.last().filter(|step| step.what == What::Verdict as u32).unwrap();
        let explained = Verdict::ALL[last.first as usize];
        let said = || format!("explained as {explained:?}: {}", told(&shot, Some(&wet)));
        // Of errors, so many may go out in a second: a token that is taken for this one may have been the last.
        if verdict == Verdict::AnswerLimit && explained.is_answered() {
            continue;
        }
        assert_eq!(explained, verdict, "{}", said());
        assert_eq!((dry.action, &dry.frame), (wet.action, &wet.frame), "{}", said());
        changed += u64::from(wet.frame != shot.frame);
        let hit = |step: &Step| step.what == What::FlowHit as u32;
        of_flows += u64::from(steps.iter().any(hit));
    }
    // Else it shows nothing.
    assert!(changed > count / 10 && of_flows > count / 100, "{changed}, {of_flows} of {count}");
}

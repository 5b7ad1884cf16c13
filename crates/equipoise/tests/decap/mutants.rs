//! Packets changed at random: whatever comes, it goes on as it came, or what was inside is all that is left.

use equipoise_common::decap::Verdict;
use equipoise_common::verdict::{Hook, Kind};
use equipoise_lab::content::Bytes;
use equipoise_lab::scale;

use crate::bench::{Bench, FAR};
use crate::packets::each;
use crate::wire::frame;
use crate::{INCOMING, drop, pass};

/// Changes a few bytes, and sometimes the length.
fn mutate(frame: &mut Vec<u8>, random: &mut Bytes) {
    let mut drawn = [0; 8];
    random.fill(&mut drawn);
    let [changes, cut, at, ..] = drawn;
    for _ in 0..changes % 4 {
        let mut drawn = [0; 2];
        random.fill(&mut drawn);
        // Headers are worth more than what is in them.
        let at = 12 + usize::from(drawn[0]) % 90;
        if let Some(byte) = frame.get_mut(at) {
            *byte = drawn[1];
        }
    }
    if cut < 30 {
        frame.truncate(60 + usize::from(at) % 60);
    }
}

/// The bytes between the link header and what is left, and those that congestion changes.
fn is_the_inside(came: &[u8], left: &[u8]) -> bool {
    let (came, left) = (&came[14..], &left[14..]);
    let Some(outer) = came.len().checked_sub(left.len()) else { return false };
    let inner = &came[outer..];
    // Type of service, traffic class, and the checksum of the former.
    let free = if left[0] >> 4 == 4 { &[1, 10, 11][..] } else { &[1][..] };
    let same = |at: usize| free.contains(&at) || inner[at] == left[at];
    outer >= 20 && (0..left.len()).all(same)
}

#[test]
fn a_mutant_goes_on_as_it_came_or_its_inside_is_all_that_is_left() {
    let bench = Bench::new();
    let mut random = Bytes::new(6080);
    let mut taken_out = 0_u32;
    let rounds = scale(200, 5000);
    for _ in 0..rounds {
        for (around, inner) in each() {
            let mut came = frame([bench.link, FAR], &[], &around.put(&inner.build()));
            mutate(&mut came, &mut random);
            for hook in INCOMING {
                let (verdict, output) = bench.verdict(hook, &came);
                let action = if verdict.kind() == Kind::Drop { drop(hook) } else { pass(hook) };
                assert_eq!(output.action, action, "{verdict:?} {came:02x?}");
                assert_ne!(verdict, Verdict::Failed, "{came:02x?}");
                match verdict.kind() {
                    Kind::Stack => {
                        assert!(is_the_inside(&came, &output.frame), "{hook:?} {came:02x?}");
                        taken_out += 1;
                    }
                    Kind::Pass => assert_eq!(output.frame, came, "{hook:?} {verdict:?}"),
                    Kind::Forward | Kind::Answer | Kind::Drop => {}
                }
            }
        }
    }
    assert!(taken_out > 20 * rounds / 10, "{taken_out} of {} were taken out", 24 * rounds);
    assert_eq!(bench.counted(), u64::from(24 * rounds));
}

/// Both hooks are one text: what one takes out the other does too.
#[test]
fn hooks_agree_about_mutants() {
    let bench = Bench::new();
    let mut random = Bytes::new(6081);
    for _ in 0..scale(100, 2000) {
        for (around, inner) in each() {
            let mut came = frame([bench.link, FAR], &[], &around.put(&inner.build()));
            mutate(&mut came, &mut random);
            let [xdp, tc] = [Hook::Xdp, Hook::Ingress].map(|hook| bench.verdict(hook, &came));
            // At TC the kernel looks at link types itself.
            if tc.0 != Verdict::Tagged && tc.0 != Verdict::Refused {
                assert_eq!(xdp.0, tc.0, "{came:02x?}");
                if tc.0.kind() != Kind::Drop {
                    assert_eq!(xdp.1.frame, tc.1.frame, "{came:02x?}");
                }
            }
        }
    }
}

//! Whole packets of every kind under random configurations of every kind: verdict, bytes and counters are what a second
//! balancer says, which builds what should come out from scratch.
//!
//! `services` makes up a configuration, `talk` packets, `balancer` says what may become of them, `outcome` what that
//! looks like.

use std::collections::BTreeMap;
use std::time::Duration;

use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{Entry, Input, Part, Runner};
use equipoise_common::verdict::{VERDICTS, Verdict};
use equipoise_lab::scale;

use self::balancer::{Balancer, Traffic};
use self::outcome::{Choice, Outcome};
use self::shot::{Carries, Shot};
use crate::bench::Bench;
use crate::traffic::CONFIG;
use crate::wire::{Dice, hex};

#[path = "whole/answer.rs"]
mod answer;
#[path = "whole/balancer.rs"]
mod balancer;
#[path = "whole/datagram.rs"]
mod datagram;
#[path = "whole/memory.rs"]
mod memory;
#[path = "whole/mss.rs"]
mod mss;
#[path = "whole/name.rs"]
mod name;
#[path = "whole/outcome.rs"]
mod outcome;
#[path = "whole/route.rs"]
mod route;
#[path = "whole/services.rs"]
mod services;
#[path = "whole/shot.rs"]
mod shot;
#[path = "whole/talk.rs"]
mod talk;
#[path = "whole/tunnel.rs"]
mod tunnel;

const SEED: u64 = 0x0b_a1a0_0000;
/// Packets under one configuration.
const PACKETS: u64 = 1_000;

#[test]
fn whole_packets_of_every_kind_fare_as_a_second_balancer_says() {
    let mut bench = Bench::of(CONFIG);
    bench.netns.ip(&route::neighbours()).unwrap();
    let entries = [Entry::Xdp, Entry::XdpGeneric, Entry::Ingress, Entry::Egress];
    let runners = entries.map(|entry| (entry, bench.kernel.runner(entry).unwrap()));
    for round in 0..scale(200_000, 5_000_000) / PACKETS {
        forget(&mut bench, 100 + 4 * round);
        let mut services = services::services(&mut Dice(SEED ^ round));
        let text = services::text(&services);
        bench.reconfigure(&text);
        services::published(&mut services, &mut bench);
        let mut balancer = Balancer::new(services, [bench.front_link(), bench.back_link()]);
        let bench = &bench;
        let mut trial = Trial { bench, runners: &runners, balancer: &mut balancer };
        if let Err(why) = bench.netns.run(|| trial.fare(SEED + round * PACKETS)) {
            panic!("round {round}: {why}\n{text}");
        }
    }
}

struct Trial<'a> {
    bench: &'a Bench,
    runners: &'a [(Entry, Runner)],
    balancer: &'a mut Balancer,
}

impl Trial<'_> {
    /// Sends the packets of a round, and compares.
    fn fare(&mut self, first: u64) -> Result<(), String> {
        let before = self.traffic();
        let mut counted = self.counters();
        for number in 0..PACKETS {
            let shot = talk::shot(first + number, self.balancer);
            let frame = shot.frame(self.balancer.links);
            let interface = if shot.at_back { self.bench.back } else { self.bench.front };
            let (_, runner) = self.runners.iter().find(|(entry, _)| *entry == shot.entry).unwrap();
            let output = runner.run(Input { frame: &frame, interface, repeat: 1 }).unwrap();
            let now = self.counters();
            let verdict = one(&counted, &now);
            counted = now;
            let came = (verdict, output.action, &output.frame[..]);
            let right = self.right(&shot, came).map_err(|why| {
                let (told, known) = (talk::told(&shot), self.known(&shot));
                format!(
                    "packet {number}: {why}\n{told}\nknown {known}\nin  {}\nout {} {}",
                    hex(&frame),
                    output.action,
                    hex(&output.frame)
                )
            })?;
            self.balancer.learn(&shot, &right);
            if number % 50 == 49 {
                let traffic = self.traffic_since(&before);
                let expected: BTreeMap<_, _> = traffic
                    .keys()
                    .map(|id| (*id, self.balancer.traffic.get(id).copied().unwrap_or_default()))
                    .collect();
                if traffic != expected {
                    return Err(format!(
                        "up to packet {number}: {traffic:?}, expected {expected:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// What is known from a packet that has become what it should.
    fn right(
        &self,
        shot: &Shot,
        (verdict, action, frame): (Result<(u32, Verdict), String>, i32, &[u8]),
    ) -> Result<Vec<Choice>, String> {
        let (hook, verdict) = verdict?;
        if hook != shot.hook() as u32 {
            return Err(format!("{verdict:?} is counted at another hook"));
        }
        let (mut right, mut wrong) = (Vec::new(), Vec::new());
        for fate in self.balancer.fates(shot) {
            for outcome in self.balancer.outcomes(shot, &fate, frame) {
                match outcome {
                    Ok(o) if (o.verdict, o.action, &o.frame[..]) == (verdict, action, frame) => {
                        right.push(o.choice);
                    }
                    Ok(Outcome { verdict, action, frame, .. }) => {
                        wrong.push(format!("\n{verdict:?} {action} {}", hex(&frame)));
                    }
                    Err(why) => wrong.push(why),
                }
            }
        }
        if !right.is_empty() {
            return Ok(right);
        }
        Err(format!("{verdict:?} {action} came, expected {}", wrong.join(", or ")))
    }

    fn known(&self, shot: &Shot) -> String {
        let Carries::Segment(segment, _) = &shot.carries else { return String::new() };
        let (from, to) = balancer::ends(&shot.header, segment);
        format!("{:?}", self.balancer.request(segment.protocol, from, to))
    }

    fn counters(&self) -> Vec<u64> {
        self.bench.kernel.verdicts().unwrap().iter().map(|(_, _, count)| *count).collect()
    }

    fn traffic(&self) -> BTreeMap<u32, Traffic> {
        let ids: Vec<_> = self.balancer.services.iter().map(|service| service.id).collect();
        let counted = self.bench.kernel.service_traffic(&ids).unwrap().into_iter();
        counted
            .map(|(id, t)| (id, [t.packets_in, t.bytes_in, t.packets_out, t.bytes_out]))
            .collect()
    }

    fn traffic_since(&self, before: &BTreeMap<u32, Traffic>) -> BTreeMap<u32, Traffic> {
        let since =
            |(id, now): (u32, Traffic)| (id, std::array::from_fn(|n| now[n] - before[&id][n]));
        self.traffic().into_iter().map(since).collect()
    }
}

/// The one verdict that has been counted, and its hook.
fn one(before: &[u64], now: &[u64]) -> Result<(u32, Verdict), String> {
    let changed: Vec<_> = (0..now.len()).filter(|&at| now[at] != before[at]).collect();
    let [at] = changed[..] else { return Err(format!("not one verdict: {changed:?}")) };
    if now[at] != before[at] + 1 {
        return Err("a verdict that is counted more than once".to_owned());
    }
    let verdicts = VERDICTS as usize;
    Ok(((at / verdicts) as u32, Verdict::ALL[at % verdicts]))
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

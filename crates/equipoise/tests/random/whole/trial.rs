//! Packets sent through the real programs, and what comes out compared with what should.
//!
//! To read all counters costs more than to send a packet, so they are read where only they can tell what has become of it,
//! and after some packets to see that each has had its one verdict.

use std::collections::BTreeMap;
use std::ops::Range;

use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{Entry, Input, Output, Runner};
use equipoise_common::verdict::{COUNTERS, VERDICTS, Verdict};

use super::balancer::{Balancer, Traffic, ends};
use super::outcome::Choice;
use super::shot::{Carries, Shot};
use super::talk;
use crate::bench::Bench;
use crate::wire::hex;

/// Packets whose verdicts are counted together.
const TOGETHER: usize = 16;

pub(crate) struct Trial<'a> {
    bench: &'a Bench,
    runners: &'a [(Entry, Runner)],
    balancer: &'a mut Balancer,
    /// What the counters of verdicts should be.
    counted: Vec<u64>,
    /// Packets since they have been read, and their verdicts.
    unread: Vec<(Shot, Verdict)>,
}

impl<'a> Trial<'a> {
    pub(crate) fn new(
        bench: &'a Bench,
        runners: &'a [(Entry, Runner)],
        balancer: &'a mut Balancer,
    ) -> Self {
        Self { bench, runners, balancer, counted: counters(bench), unread: Vec::new() }
    }

    /// Sends packets, and compares.
    pub(crate) fn fare(&mut self, seeds: Range<u64>) -> Result<(), String> {
        let before = self.traffic();
        for (number, seed) in (1..).zip(seeds) {
            let shot = talk::shot(seed, self.balancer);
            let frame = shot.frame(self.balancer.links);
            let interface = if shot.at_back { self.bench.back } else { self.bench.front };
            let (_, runner) = self.runners.iter().find(|(entry, _)| *entry == shot.entry).unwrap();
            let output = runner.run(Input { frame: &frame, interface, repeat: 1 }).unwrap();
            let right = self.right(&shot, &output).map_err(|why| {
                let (told, known) = (talk::told(&shot), self.known(&shot));
                let Output { action, frame: came, .. } = &output;
                let (frame, came) = (hex(&frame), hex(came));
                format!("packet {number}: {why}\n{told}\nknown {known}\nin  {frame}\nout {action} {came}")
            })?;
            self.balancer.learn(&shot, &right);
            if number % 50 == 0 {
                self.settled()?;
                let traffic = self.traffic_since(&before);
                let expected = |id| self.balancer.traffic.get(id).copied().unwrap_or_default();
                let expected: BTreeMap<_, _> =
                    traffic.keys().map(|id| (*id, expected(id))).collect();
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
    fn right(&mut self, shot: &Shot, output: &Output) -> Result<Vec<Choice>, String> {
        let (mut right, mut wrong) = (Vec::new(), Vec::new());
        for fate in self.balancer.fates(shot) {
            for outcome in self.balancer.outcomes(shot, &fate, &output.frame) {
                match outcome {
                    Ok(o) if (o.action, &o.frame) == (output.action, &output.frame) => {
                        right.push((o.verdict, o.choice));
                    }
                    Ok(o) => {
                        wrong.push(format!("\n{:?} {} {}", o.verdict, o.action, hex(&o.frame)));
                    }
                    Err(why) => wrong.push(why),
                }
            }
        }
        let is_sure = right.first().is_some_and(|(one, _)| right.iter().all(|(two, _)| one == two));
        let verdict = if is_sure { right[0].0 } else { self.read(shot)? };
        if is_sure {
            self.counted[shot.hook().counter(verdict) as usize] += 1;
            self.unread.push((shot.clone(), verdict));
            if self.unread.len() == TOGETHER {
                self.settled()?;
            }
        }
        right.retain(|(may_be, _)| *may_be == verdict);
        if !right.is_empty() {
            return Ok(right.into_iter().map(|(_, choice)| choice).collect());
        }
        Err(format!("{verdict:?} {} came, expected {}", output.action, wrong.join(", or ")))
    }

    /// The verdict on the last packet, which the counters alone tell.
    fn read(&mut self, shot: &Shot) -> Result<Verdict, String> {
        let now = counters(self.bench);
        let more = |at: &usize| now[*at] != self.counted[*at];
        let changed: Vec<_> = (0..now.len()).filter(more).collect();
        let right = |at: usize| {
            let verdict = Verdict::ALL[at % VERDICTS as usize];
            let own = at == shot.hook().counter(verdict) as usize;
            (own && now[at] == self.counted[at] + 1).then_some(verdict)
        };
        let verdict = match changed[..] {
            [at] => right(at),
            _ => None,
        };
        let verdict = verdict.ok_or_else(|| self.miscounted(&now))?;
        (self.counted, self.unread) = (now, Vec::new());
        Ok(verdict)
    }

    /// Sees that each packet has had its verdict.
    fn settled(&mut self) -> Result<(), String> {
        let now = counters(self.bench);
        if now != self.counted {
            return Err(self.miscounted(&now));
        }
        self.unread.clear();
        Ok(())
    }

    fn miscounted(&self, now: &[u64]) -> String {
        let differs = |at: &usize| now[*at] != self.counted[*at];
        let named = |at: usize| {
            let verdict = Verdict::ALL[at % VERDICTS as usize];
            format!("{verdict:?} {} times too often", now[at].wrapping_sub(self.counted[at]) as i64)
        };
        let wrong: Vec<_> = (0..now.len()).filter(differs).map(named).collect();
        let told = |(shot, verdict): &(Shot, Verdict)| {
            format!(
                "\n{verdict:?}: {}\n{}",
                talk::told(shot),
                hex(&shot.frame(self.balancer.links))
            )
        };
        let unread: String = self.unread.iter().map(told).collect();
        format!("{}, of the last one or of {unread}", wrong.join(", "))
    }

    fn known(&self, shot: &Shot) -> String {
        let Carries::Segment(segment, _) = &shot.carries else { return String::new() };
        let (from, to) = ends(&shot.header, segment);
        format!("{:?}", self.balancer.request(segment.protocol, from, to))
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

fn counters(bench: &Bench) -> Vec<u64> {
    let mut counters = vec![0; COUNTERS as usize];
    for (hook, verdict, count) in bench.kernel.verdicts().unwrap() {
        counters[hook.counter(verdict) as usize] = count;
    }
    counters
}

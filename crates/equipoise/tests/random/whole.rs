//! Whole packets of every kind under random configurations of every kind: verdict, bytes and counters are what a second
//! balancer says, which builds what should come out from scratch.
//!
//! `services` makes up a configuration, `talk` packets, `balancer` says what may become of them, `outcome` what that
//! looks like, and `trial` compares.

use std::time::Duration;

use equipoise::dataplane::DataPlane as _;
use equipoise::dataplane::kernel::{Entry, Part};
use equipoise_common::verdict::Verdict;
use equipoise_lab::scale;

use self::balancer::Balancer;
use self::trial::Trial;
use crate::bench::Bench;
use crate::traffic::CONFIG;
use crate::wire::Dice;

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
#[path = "whole/trial.rs"]
mod trial;
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
        services::stream(&mut Dice(!(SEED ^ round)), &mut services);
        let text = services::text(&services);
        bench.stream_where(&text, &|service, route, _| {
            services::is_streamed(&services, service, route)
        });
        services::published(&mut services, &mut bench);
        let mut balancer = Balancer::new(services, [bench.front_link(), bench.back_link()]);
        let bench = &bench;
        let first = SEED + round * PACKETS;
        let trial = || Trial::new(bench, &runners, &mut balancer).fare(first..first + PACKETS);
        if let Err(why) = bench.netns.run(trial) {
            panic!("round {round}: {why}\n{text}");
        }
    }
    // Else it shows nothing.
    let counted = bench.kernel.verdicts().unwrap();
    for verdict in OFTEN {
        let times: u64 = counted.iter().filter(|(_, of, _)| *of == verdict).map(|(.., n)| n).sum();
        assert!(times >= 20, "{verdict:?} {times} times");
    }
}

const OFTEN: [Verdict; 31] = [
    Verdict::ForwardedRequest,
    Verdict::ForwardedReply,
    Verdict::RewrittenReply,
    Verdict::ForwardedErrorToBackend,
    Verdict::ForwardedErrorToClient,
    Verdict::RewrittenError,
    Verdict::WithheldError,
    Verdict::RequestNoNeighbour,
    Verdict::RequestToFragment,
    Verdict::ReplyNoNeighbour,
    Verdict::ReplyToFragment,
    Verdict::ResetUnknown,
    Verdict::ResetNoBackend,
    Verdict::UnreachableNoBackend,
    Verdict::RequestTooBig,
    Verdict::ReplyTooBig,
    Verdict::RequestHopLimit,
    Verdict::ReplyHopLimit,
    Verdict::Echo,
    Verdict::NotTcpUdp,
    Verdict::Fragment,
    Verdict::Outgoing,
    Verdict::NoService,
    Verdict::NoBackendPassed,
    Verdict::NoBackend,
    Verdict::UnknownFlow,
    Verdict::FragmentRefused,
    Verdict::FragmentUnknown,
    Verdict::Unanswerable,
    Verdict::RequestUndeliverable,
    Verdict::Streamed,
];

/// Time goes on until nothing is left of what was.
pub(crate) fn forget(bench: &mut Bench, hours: u64) {
    let Bench { netns, kernel, .. } = bench;
    let mut at = |time| {
        kernel.set_time(time).unwrap();
        netns.run(|| kernel.sweep(Part::All));
    };
    let start = Duration::from_secs(hours * 3600);
    at(start);
    at(start + Duration::from_secs(60));
}

//! A balancer that is asked how it is again and again while packets flow: every question is answered, no connection suffers, and a packet
//! costs what it costs when nobody asks.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use equipoise_lab::load::Load;
use equipoise_lab::scale;
use equipoise_lab::topology::Options;

use crate::balanced::{Balanced, TC, vips};

const ASKERS: u64 = 4;
const QUESTION: &[u8] = b"GET /api/v1/status HTTP/1.1\r\nHost: test\r\n\r\n";

/// How often, and for how long, programs have run that are there now, by what the kernel counts of them.
fn runs(programs: &[u32]) -> (u64, Duration) {
    let mut sum = (0, Duration::ZERO);
    for program in loaded_programs().flatten().filter(|program| programs.contains(&program.id())) {
        sum.0 += program.run_count();
        sum.1 += program.run_time();
    }
    sum
}

/// Asks on one connection, so many times in a second, and reads each answer to its end.
fn ask(socket: &str, pause: Duration, until: Instant, answered: &AtomicU64) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut next = Instant::now();
    let mut kept = Vec::new();
    while next < until {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        next += pause;
        stream.write_all(QUESTION).unwrap();
        let length = loop {
            if let Some(end) = kept.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&kept[..end]).to_ascii_lowercase();
                assert!(head.starts_with("http/1.1 200"), "{head}");
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                break end + 4 + length.unwrap().parse::<usize>().unwrap();
            }
            read(&mut stream, &mut kept);
        };
        while kept.len() < length {
            read(&mut stream, &mut kept);
        }
        kept.drain(..length);
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

fn read(stream: &mut UnixStream, into: &mut Vec<u8>) {
    let mut chunk = [0; 65536];
    let count = stream.read(&mut chunk).unwrap();
    assert_ne!(count, 0, "cut off");
    into.extend(&chunk[..count]);
}

#[test]
fn a_thousand_questions_a_second_cost_packets_nothing() {
    let rate = scale(100, 1000);
    let time = Duration::from_secs(scale(3, 10));
    let before: Vec<u32> = loaded_programs().flatten().map(|program| program.id()).collect();
    let balanced = Balanced::new(TC, Options::default());
    // Those that came with this balancer; nobody else's are the same.
    let ids = loaded_programs().flatten().map(|program| program.id());
    let ours: Vec<u32> = ids.filter(|id| !before.contains(id)).collect();
    let _counting = enable_stats(Stats::RunTime).unwrap();
    let (_, vip) = vips()[0];
    let load = Load { workers: 2, ..Load::of_count(vip, u64::MAX) }.start(balanced.client());
    let socket = format!("/run/equipoise/{}.sock", balanced.balancer.instance);
    let cost = |askers: u64| {
        let (count, spent) = runs(&ours);
        let answered = AtomicU64::new(0);
        let until = Instant::now() + time;
        let pause = Duration::from_secs(1) * ASKERS as u32 / rate;
        thread::scope(|scope| {
            for _ in 0..askers {
                scope.spawn(|| ask(&socket, pause, until, &answered));
            }
            thread::sleep(time);
        });
        let after = runs(&ours);
        let (count, spent) = (after.0 - count, after.1 - spent);
        assert!(count > 1000, "{count} packets are not enough to tell");
        (spent.as_nanos() as f64 / count as f64, answered.into_inner())
    };
    // In turn, so that whatever else this machine does is the same for both, and the best of some: what questions cost shows in each
    // of theirs, and what others cost does not.
    let (mut quiet, mut asked) = (f64::INFINITY, f64::INFINITY);
    // The cache is shared with whoever answers; a lock that is waited for, or a copy of a table, would be far beyond this.
    let costs_nothing = |quiet: f64, asked: f64| asked < quiet * 1.5 + 100.0;
    let mut rounds = 0;
    while rounds < 3 || (rounds < 12 && !costs_nothing(quiet, asked)) {
        quiet = quiet.min(cost(0).0);
        let (nanoseconds, answered) = cost(ASKERS);
        let wanted = u64::from(rate) * time.as_secs();
        // A machine that is busy with other tests has no time for all of them.
        assert!(answered >= wanted * scale(2, 9) / 10, "{answered} of {wanted} questions");
        asked = asked.min(nanoseconds);
        rounds += 1;
    }
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
    println!("a run of a program: {quiet:.0} ns; with {rate} questions a second {asked:.0} ns");
    assert!(costs_nothing(quiet, asked), "{asked} ns, and {quiet} ns when nobody asks");
}

//! Token buckets: how many new flows a source or a backend gets, the same source in the packet programs and in tests.
//!
//! A bucket is filled at its rate up to its burst and starts full; a token is one new flow. Tokens are counted in
//! thousandths and time in microseconds; time that has not come to a whole thousandth stays in the bucket, so that
//! nothing is lost at any rate. All that decides is in one word, changed by compare-and-exchange: CPUs that share a
//! bucket share its rate. Knows no maps, no clock, no packets.

use crate::flow::Word;

/// How many tokens come in a second, and how many there are at most.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(any(test, feature = "user"), derive(Debug, PartialOrd, Ord, Hash))]
pub struct Rate {
    /// Tokens a second, [`MAX_RATE`] at most; 0 for no limit.
    pub rate: u32,
    /// Tokens that a full bucket holds, 1 to [`MAX_BURST`].
    pub burst: u32,
}

/// The highest rate that is kept to: its tokens are a microsecond apart.
pub const MAX_RATE: u32 = 1_000_000;
/// The largest burst: two seconds of the highest rate, which in thousandths still has room beside the time.
pub const MAX_BURST: u32 = 2 * MAX_RATE;

/// ICMP errors of a kind that are made in a second, over all CPUs (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f): what
/// Linux allows itself. Each kind has its own, so that nobody who sends many packets whose hops are used up keeps others from
/// the size of their path.
pub const ERRORS: Rate = Rate { rate: 1_000, burst: 1_000 };

/// Kinds of ICMP errors that are made: nobody there, hops used up, too big.
pub const ERROR_KINDS: u32 = 3;

/// A bucket; all zero before its first token is taken.
#[repr(C, align(8))]
pub struct Bucket<W> {
    /// [`USED`], the tokens in thousandths (31 bits), and when they were counted: microseconds, the lower 32 bits.
    state: W,
    /// When a token was last taken, microseconds in full: the time in `state` goes round after 71 minutes.
    seen: W,
}

/// What has become of the wish for a token.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// There was one.
    Yes = 0,
    /// There was none.
    No = 1,
    /// Other CPUs have been quicker each time. As good as none: a limit is not to be exceeded.
    Busy = 2,
}

/// A token has been taken since the bucket was made.
const USED: u64 = 1 << 63;
const TOKENS: u64 = 0x7fff_ffff;
/// A token, in thousandths.
const TOKEN: u64 = 1_000;
/// Time that fills a bucket at most, microseconds.
const MOST: u32 = 10_000_000;
/// The time in `state` is not asked beyond this, microseconds: some 18 minutes.
const STALE: i64 = 1 << 30;
/// How often an exchange that others get in the way of is tried. One of them has got a token each time.
const TRIES: u32 = 16;

impl<W: Word> Bucket<W> {
    /// Of two words that are zero, or were a bucket's before.
    pub const fn new(state: W, seen: W) -> Self {
        Self { state, seen }
    }

    /// Takes a token at this time, in microseconds.
    #[inline(always)]
    pub fn take(&self, rate: Rate, now: u64) -> Taken {
        let mut tries = 0;
        while tries < TRIES {
            let mut was = self.state.load();
            let mut is_stale = self.is_stale(now);
            if is_stale {
                // Both may have been read out of order. What is read after a barrier on the state is not older than it,
                // since it is written before the state.
                was = self.state.add(0);
                is_stale = self.is_stale(now);
            }
            let Some(new) = after(was, rate, Moment { now: now as u32, is_stale }) else {
                return Taken::No;
            };
            self.seen.store(now);
            if self.state.exchange(was, new) == was {
                return Taken::Yes;
            }
            tries += 1;
        }
        Taken::Busy
    }

    /// Whether a token would be there at this time; takes none.
    #[inline(always)]
    pub fn would_take(&self, rate: Rate, now: u64) -> bool {
        let moment = Moment { now: now as u32, is_stale: self.is_stale(now) };
        after(self.state.load(), rate, moment).is_some()
    }

    #[inline(always)]
    fn is_stale(&self, now: u64) -> bool {
        // Another CPU may have read its clock a little later.
        now.wrapping_sub(self.seen.load()) as i64 > STALE
    }
}

/// The state of a bucket from which the first token has been taken.
#[inline(always)]
pub const fn first(rate: Rate, now: u64) -> u64 {
    let burst = if rate.burst == 0 { 1 } else { rate.burst as u64 };
    pack((burst - 1) * TOKEN, now as u32)
}

/// When a bucket is asked.
#[derive(Clone, Copy)]
struct Moment {
    /// Microseconds, lower half.
    now: u32,
    /// Whether it was last asked so long ago that the lower half does not tell.
    is_stale: bool,
}

#[inline(always)]
const fn pack(tokens: u64, at: u32) -> u64 {
    USED | (tokens & TOKENS) << 32 | at as u64
}

/// The state once a token is taken; none where there is no token.
#[inline(always)]
fn after(state: u64, Rate { rate, burst }: Rate, moment: Moment) -> Option<u64> {
    let now = moment.now;
    if state & USED == 0 {
        return Some(first(Rate { rate, burst }, now as u64));
    }
    let counted = state as u32;
    let since = now.wrapping_sub(counted);
    // Another CPU may have read its clock a little later and been here first: no time has passed then.
    let is_before = since as i32 <= 0 && !moment.is_stale;
    let elapsed = if is_before {
        0
    } else if moment.is_stale || since > MOST {
        MOST
    } else {
        since
    };
    let gained = elapsed as u64 * rate as u64;
    let full = burst as u64 * TOKEN;
    let mut tokens = (state >> 32 & TOKENS) + gained / 1_000;
    // Time that is short of a thousandth is left to the next one, unless the bucket is full.
    let rest = (gained % 1_000).checked_div(rate as u64).unwrap_or_default() as u32;
    let mut until = if is_before { counted } else { now.wrapping_sub(rest) };
    if tokens >= full {
        tokens = full;
        until = if is_before { counted } else { now };
    }
    if moment.is_stale && until == counted {
        // The time has gone round to the same microsecond: a state that is the same again would be had by two CPUs.
        until = until.wrapping_sub(1);
    }
    if tokens < TOKEN {
        return None;
    }
    Some(pack(tokens - TOKEN, until))
}

const _: () = {
    assert!(size_of::<Rate>() == 8);
    assert!(size_of::<Bucket<u64>>() == 16);
    assert!(MAX_BURST as u64 * TOKEN <= TOKENS);
};

#[cfg(feature = "user")]
// SAFETY: `repr(C)` words without padding (size asserted above); any bit pattern is a value.
unsafe impl aya::Pod for Rate {}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;

    use proptest::prelude::*;

    use super::*;

    type Words = Bucket<AtomicU64>;

    fn bucket() -> Words {
        Bucket::new(AtomicU64::new(0), AtomicU64::new(0))
    }

    /// A bucket with fractions, as one would write it down: time since the last token that was had, ten seconds
    /// at most, and no rounding.
    struct Plain {
        tokens: f64,
        last: Option<u64>,
    }

    impl Plain {
        fn take(&mut self, rate: Rate, now: u64) -> bool {
            let burst = f64::from(rate.burst);
            let Some(last) = self.last else {
                *self = Self { tokens: burst - 1.0, last: Some(now) };
                return true;
            };
            let elapsed = now.saturating_sub(last).min(10_000_000);
            let tokens = (elapsed as f64 * f64::from(rate.rate) / 1e6 + self.tokens).min(burst);
            if tokens < 1.0 {
                return false;
            }
            *self = Self { tokens: tokens - 1.0, last: Some(now.max(last)) };
            true
        }
    }

    fn had(bucket: &Words, rate: Rate, times: impl Iterator<Item = u64>) -> u64 {
        times.filter(|&now| bucket.take(rate, now) == Taken::Yes).count() as u64
    }

    #[test]
    fn a_new_bucket_has_its_burst_and_no_more() {
        for burst in [1, 2, 200, 20_000] {
            let all = had(&bucket(), Rate { rate: 1, burst }, (0..30_000).map(|_| 5_000_000));
            assert_eq!(all, u64::from(burst));
        }
    }

    #[test]
    fn every_rate_is_kept_to_whatever_the_steps_of_time_are() {
        for rate in [1, 3, 7, 99, 1_000, 30_011, 333_333, 999_999, 1_000_000] {
            for step in [1, 7, 999, 1_001, 4_000, 333_333] {
                // No more than comes between two steps, since it is all had at first.
                let burst = (u64::from(rate) * step as u64 / 1_000_000) as u32 + 2;
                let limit = Rate { rate, burst };
                let bucket = bucket();
                let start = 77_000_000;
                while bucket.take(limit, start) == Taken::Yes {}
                // So long that there are many tokens, and not so many that the test takes long.
                let end = (60_000_000 * 1_000 / u64::from(rate)).clamp(40_000, 60_000_000);
                if end / step as u64 > 100_000 {
                    continue;
                }
                let mut all = 0;
                for now in (0..=end).step_by(step).chain([end]) {
                    while bucket.take(limit, start + now) == Taken::Yes {
                        all += 1;
                    }
                }
                let right = end as f64 * f64::from(rate) / 1e6;
                let off = all as f64 - right;
                assert!(
                    off <= 0.001 && off > -1.0 - right / 500.0,
                    "{rate}/s by {step}: {all} {right}"
                );
            }
        }
    }

    #[test]
    fn silence_fills_for_ten_seconds_at_most_however_long_it_is() {
        // Also where the lower half of the time has gone round and looks as if no time had passed.
        for silence in
            [10_000_000, 11_000_000, 1 << 30, 1 << 31, 1 << 32, (1 << 32) + 5, 3 << 31, 1 << 45]
        {
            let (bucket, rate) = (bucket(), Rate { rate: 5, burst: 1_000 });
            assert_eq!(had(&bucket, rate, (0..2_000).map(|_| 9)), 1_000);
            assert_eq!(had(&bucket, rate, (0..2_000).map(|_| 9 + silence)), 50, "{silence}");
        }
    }

    #[test]
    fn a_clock_that_is_behind_gains_nothing() {
        let (bucket, rate) = (bucket(), Rate { rate: 1_000_000, burst: 1 });
        let times = (0..1_000).map(|at| 1_000_000 + 50 * (at % 2));
        assert_eq!(had(&bucket, rate, times), 2);
    }

    #[test]
    fn a_lower_burst_holds_for_a_bucket_that_had_more() {
        let bucket = bucket();
        assert_eq!(bucket.take(Rate { rate: 1, burst: 500 }, 0), Taken::Yes);
        assert_eq!(had(&bucket, Rate { rate: 1, burst: 3 }, (0..10).map(|_| 0)), 3);
    }

    #[test]
    fn to_ask_takes_nothing() {
        let (bucket, rate) = (bucket(), Rate { rate: 1, burst: 1 });
        assert!(bucket.would_take(rate, 7) && bucket.would_take(rate, 7));
        assert_eq!(bucket.take(rate, 7), Taken::Yes);
        assert!(!bucket.would_take(rate, 7));
    }

    #[test]
    fn cpus_that_share_a_bucket_share_its_rate() {
        const THREADS: u64 = 4;
        const STEPS: u64 = 200_000;
        let (bucket, rate) = (bucket(), Rate { rate: 250_000, burst: 10 });
        let taken = std::thread::scope(|scope| {
            let threads = (0..THREADS).map(|_| scope.spawn(|| had(&bucket, rate, 0..STEPS)));
            let threads: Vec<_> = threads.collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>()
        });
        // Threads may be far apart in their times, which none of them gains by.
        assert!((STEPS / 5..=10 + STEPS / 4).contains(&taken), "{taken}");
    }

    proptest! {
        #[test]
        fn whatever_is_asked_and_when_it_is_as_the_plain_bucket_says(
            rate in 1_u32..=1_000_000,
            burst in 1_u32..=3_000,
            start in 0_u64..1 << 50,
            gaps in prop::collection::vec((0_u64..30_000_000, 1_usize..400), 1..60),
            scale in 0_u32..22,
        ) {
            let limit = Rate { rate, burst };
            let (bucket, mut plain) = (bucket(), Plain { tokens: 0.0, last: None });
            let (mut now, mut taken, mut right) = (start, 0_u64, 0_u64);
            for (gap, asked) in gaps {
                now += gap >> scale;
                for _ in 0..asked {
                    taken += u64::from(bucket.take(limit, now) == Taken::Yes);
                    right += u64::from(plain.take(limit, now));
                    // Never more, and behind by a thousandth of each token at most.
                    prop_assert!(taken <= right);
                    prop_assert!(taken + 1 + right / 900 >= right, "{taken} {right}");
                }
            }
        }
    }
}

//! A token bucket on two CPUs at once, under a model checker: every interleaving, and every value that memory may still
//! show.
//!
//! Words are loaded and stored relaxed; exchanges and additions are full barriers, as in the flow table.

use std::sync::Arc;

use equipoise_common::bucket::{Bucket, Rate, Taken};
use equipoise_common::flow::Word;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;

struct Shared(AtomicU64);

impl Word for Shared {
    fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn store(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn store_low(&self, _value: u32) {
        unreachable!("a bucket is whole words");
    }

    fn exchange(&self, current: u64, new: u64) -> u64 {
        fence(Ordering::SeqCst);
        let was = self.0.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        was.unwrap_or_else(|was| was)
    }

    fn add(&self, by: u64) -> u64 {
        fence(Ordering::SeqCst);
        let was = self.0.fetch_add(by, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        was
    }
}

/// Two CPUs that each want a token at this time, from a bucket as `before` leaves it: exactly so many get one.
fn two_want(rate: Rate, now: u64, before: fn(&Bucket<Shared>, Rate), right: usize) {
    loom::model(move || {
        let word = || Shared(AtomicU64::new(0));
        let bucket = Arc::new(Bucket::new(word(), word()));
        before(&bucket, rate);
        let other = {
            let bucket = Arc::clone(&bucket);
            thread::spawn(move || bucket.take(rate, now) == Taken::Yes)
        };
        let mine = bucket.take(rate, now) == Taken::Yes;
        let had = usize::from(mine) + usize::from(other.join().unwrap());
        assert_eq!(had, right);
    });
}

fn nothing(_: &Bucket<Shared>, _: Rate) {}

/// Takes all that there is, at a time that is not 0.
fn emptied(bucket: &Bucket<Shared>, rate: Rate) {
    while bucket.take(rate, 1_000_000) == Taken::Yes {}
}

#[test]
fn the_last_token_is_had_once() {
    two_want(Rate { rate: 1, burst: 1 }, 1_000_000, nothing, 1);
    two_want(Rate { rate: 1, burst: 2 }, 1_000_000, nothing, 2);
}

#[test]
fn what_has_come_since_is_had_once() {
    let rate = Rate { rate: 1, burst: 2 };
    two_want(rate, 1_400_000, emptied, 0);
    two_want(rate, 2_100_000, emptied, 1);
    two_want(rate, 3_000_000, emptied, 2);
}

#[test]
fn ten_seconds_of_a_long_silence_are_had_once() {
    // So long that the time in the bucket does not tell; the silence fills the one token that there can be.
    two_want(Rate { rate: 1, burst: 1 }, 1 << 40, emptied, 1);
    two_want(Rate { rate: 1, burst: 1 }, (1 << 40) + 1_000_000, emptied, 1);
}

//! Dated outcomes in, states out.

use super::*;
use proptest::prelude::*;

const OK: (u64, u64) = (1, 0);
const BAD: (u64, u64) = (0, 1);

fn at(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

fn breaker() -> Breaker {
    Breaker::new(Thresholds::default(), at(0))
}

/// Opens it at this time.
fn opened(breaker: &mut Breaker, now: Moment) -> Change {
    for _ in 0..9 {
        assert_eq!(breaker.record(BAD, true, now), None);
    }
    breaker.record(BAD, true, now).expect("the tenth opens it")
}

#[test]
fn opens_at_the_threshold_and_with_enough_outcomes_alone() {
    let mut breaker = breaker();
    for _ in 0..5 {
        assert_eq!(breaker.record(OK, true, at(1)), None);
    }
    for _ in 0..4 {
        assert_eq!(breaker.record(BAD, true, at(1)), None, "nine are too few");
    }
    let change = breaker.record(BAD, true, at(1)).expect("5 of 10 are 50 %");
    assert_eq!((change.from, change.to, change.error_rate), (State::Closed, State::Open, 0.5));
    assert_eq!(change.open_until, Some(at(31)));
    assert_eq!(breaker.counts(at(1)), (0, 0));
}

#[test]
fn outcome_that_makes_them_enough_opens_it_also_a_good_one() {
    let mut breaker = breaker();
    for _ in 0..9 {
        assert_eq!(breaker.record(BAD, true, at(1)), None);
    }
    assert_eq!(breaker.record((0, 0), true, at(1)), None, "none is none");
    let change = breaker.record(OK, true, at(1)).expect("9 of 10");
    assert_eq!((change.to, change.error_rate), (State::Open, 0.9));
}

#[test]
fn outcomes_leave_the_window_one_bucket_at_a_time() {
    let mut breaker = breaker();
    breaker.record((0, 4), true, at(0));
    breaker.record((0, 4), true, at(30));
    assert_eq!(breaker.counts(at(59)), (0, 8));
    assert_eq!(breaker.counts(at(60)), (0, 4), "those of the first bucket are a minute old");
    assert_eq!(breaker.counts(at(90)), (0, 0));
    assert_eq!(breaker.record(BAD, true, at(89)), None, "5 of the last minute");
    breaker.record(BAD, true, at(600));
    assert_eq!(breaker.counts(at(600)), (0, 1));
}

#[test]
fn open_ignores_outcomes_and_is_half_open_after_its_time() {
    let mut breaker = breaker();
    opened(&mut breaker, at(10));
    assert_eq!(breaker.record(OK, true, at(20)), None);
    assert_eq!(breaker.record(BAD, true, at(20)), None);
    assert_eq!((breaker.due(), breaker.turn(at(39))), (Some(at(40)), None));
    let change = breaker.turn(at(40)).expect("it is time");
    assert_eq!((change.from, change.to), (State::Open, State::HalfOpen));
    assert_eq!((breaker.due(), breaker.turn(at(41))), (None, None));
}

#[test]
fn half_open_closes_after_successes_and_opens_after_one_failure_for_longer() {
    let mut breaker = breaker();
    opened(&mut breaker, at(0));
    breaker.turn(at(30));
    assert_eq!(breaker.record((2, 0), true, at(31)), None);
    let change = breaker.record(BAD, true, at(32)).expect("one failure");
    assert_eq!((change.to, change.error_rate), (State::Open, 1.0));
    assert_eq!(change.open_until, Some(at(32 + 60)), "twice as long");
    breaker.turn(at(92));
    assert_eq!(breaker.record((2, 0), true, at(93)), None, "it counts anew");
    let change = breaker.record(OK, true, at(93)).expect("three");
    assert_eq!((change.from, change.to), (State::HalfOpen, State::Closed));
    assert_eq!(breaker.counts(at(93)), (0, 0));
}

#[test]
fn having_opened_is_forgotten_when_it_has_been_well_for_long() {
    let mut breaker = breaker();
    opened(&mut breaker, at(0));
    breaker.turn(at(30));
    breaker.record((3, 0), true, at(30));
    assert_eq!(breaker.due(), Some(at(30 + 60 + 30)));
    breaker.turn(at(120));
    assert_eq!((breaker.due(), breaker.state()), (None, State::Closed));
    assert_eq!(opened(&mut breaker, at(121)).open_until, Some(at(151)));
}

#[test]
fn time_open_has_an_end_however_often_it_opens() {
    let mut breaker = breaker();
    let mut now = at(0);
    let mut last = Duration::ZERO;
    for _ in 0..50 {
        let until = breaker.force_open(now).and_then(|change| change.open_until).unwrap();
        last = until - now;
        now = until;
        breaker.turn(now);
    }
    assert_eq!(last, at(300));
}

#[test]
fn half_open_that_may_not_open_stays_so_and_counts_anew() {
    let mut breaker = breaker();
    opened(&mut breaker, at(0));
    breaker.turn(at(30));
    assert_eq!(breaker.record((2, 0), false, at(31)), None);
    assert_eq!(breaker.record((5, 1), false, at(32)), None);
    assert_eq!(breaker.record((2, 0), false, at(33)), None);
    assert_eq!(breaker.state(), State::HalfOpen);
    assert_eq!(breaker.record(OK, false, at(34)).expect("three in a row").to, State::Closed);
}

#[test]
fn one_that_may_not_open_counts_on() {
    let mut breaker = breaker();
    assert_eq!(breaker.record((0, 50), false, at(1)), None);
    assert_eq!((breaker.state(), breaker.counts(at(1))), (State::Closed, (0, 50)));
    assert!(breaker.record(BAD, true, at(2)).is_some(), "as soon as it may");
}

#[test]
fn hands_open_close_and_reset_it_and_say_so_only_if_something_changes() {
    let mut breaker = breaker();
    assert_eq!(breaker.force_close(at(1)), None);
    assert_eq!(breaker.reset(at(1)), None);
    let change = breaker.force_open(at(1)).unwrap();
    assert_eq!((change.error_rate, change.open_until), (1.0, Some(at(31))));
    assert_eq!(breaker.force_open(at(2)), None);
    assert_eq!(breaker.force_close(at(2)).unwrap().to, State::Closed);
    opened(&mut breaker, at(3));
    let change = breaker.reset(at(4)).expect("the data plane has to hear of it");
    assert_eq!((change.from, change.to), (State::Open, State::Closed));
    assert_eq!(breaker.due(), None, "nothing is remembered");
}

#[test]
fn other_thresholds_keep_what_has_been_counted() {
    let mut breaker = breaker();
    breaker.record((0, 5), true, at(1));
    breaker.set(Thresholds { min_requests: 6, ..Thresholds::default() }, at(2));
    assert!(breaker.record(BAD, true, at(2)).is_some());
    let mut breaker = self::breaker();
    breaker.record((0, 5), true, at(1));
    breaker.set(Thresholds { window: at(10), ..Thresholds::default() }, at(2));
    assert_eq!(breaker.counts(at(2)), (0, 0), "another window counts for itself");
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Outcomes(u64, u64, bool),
    Wait(u64),
    Open,
    Close,
    Reset,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..4_u64, 0..4_u64, any::<bool>()).prop_map(|(s, f, may)| Event::Outcomes(s, f, may)),
        4 => (0..40_000_u64).prop_map(Event::Wait),
        1 => Just(Event::Open),
        1 => Just(Event::Close),
        1 => Just(Event::Reset),
    ]
}

proptest! {
    /// Against a list of all outcomes: what counts is between those of nine tenths of a window and of a window.
    #[test]
    fn whatever_comes_the_states_follow_the_rules(events in prop::collection::vec(event(), 0..200)) {
        let thresholds = Thresholds::default();
        let mut breaker = breaker();
        let mut now = Duration::ZERO;
        let mut seen: Vec<(Duration, u64, u64)> = Vec::new();
        for event in events {
            let before = breaker.state();
            let change = match event {
                Event::Outcomes(successes, failures, may_open) => {
                    seen.push((now, successes, failures));
                    let change = breaker.record((successes, failures), may_open, now);
                    if breaker.state() == State::Open && change.is_some() {
                        prop_assert!(may_open && successes + failures > 0);
                    }
                    change
                }
                Event::Wait(ms) => {
                    now += Duration::from_millis(ms);
                    breaker.turn(now)
                }
                Event::Open => breaker.force_open(now),
                Event::Close => breaker.force_close(now),
                Event::Reset => breaker.reset(now),
            };
            if matches!(event, Event::Reset) || change.is_some() {
                seen.clear();
            }
            match change {
                Some(change) => {
                    prop_assert_eq!((change.from, change.to), (before, breaker.state()));
                    prop_assert_ne!(change.from, change.to);
                    prop_assert_eq!(change.open_until.is_some(), change.to == State::Open);
                }
                None => prop_assert_eq!(breaker.state(), before),
            }
            if breaker.state() == State::Closed {
                let (successes, failures) = breaker.counts(now);
                let sum = |within: Duration| {
                    let young = seen.iter().filter(|(at, ..)| now - *at <= within);
                    young.fold((0, 0), |sum, (_, s, f)| (sum.0 + s, sum.1 + f))
                };
                let (least, most) = (sum(thresholds.window * 9 / 10 - Duration::from_nanos(1)), sum(thresholds.window));
                prop_assert!(least.0 <= successes && successes <= most.0);
                prop_assert!(least.1 <= failures && failures <= most.1);
            }
            if let Some(until) = breaker.open_until() {
                prop_assert!(until > now || before == State::Open);
                prop_assert!(until <= breaker.since() + thresholds.open_for * 10);
            }
        }
    }
}

//! Dated answers in, places out.

use super::*;
use proptest::prelude::*;

fn at(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

fn place(number: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number as u8], 8080))
}

fn answer(numbers: impl IntoIterator<Item = u16>) -> Answer {
    let places = numbers.into_iter().map(|number| (place(number), Part::default())).collect();
    Answer { places, ttl: None, lacks: None }
}

fn numbers(places: impl IntoIterator<Item = SocketAddr>) -> Vec<u16> {
    let last = |place: SocketAddr| match place {
        SocketAddr::V4(place) => u16::from(place.ip().octets()[3]),
        SocketAddr::V6(_) => 0,
    };
    places.into_iter().map(last).collect()
}

fn healthy(_: &SocketAddr) -> bool {
    false
}

fn failure(kind: FailureKind) -> Failure {
    Failure { kind, message: kind.name().to_owned() }
}

const SETTINGS: Settings = Settings {
    refresh: None,
    min_ttl: Duration::from_secs(1),
    max_ttl: Duration::from_secs(300),
    max_shrink: 50,
};

/// Between the least and the most chance.
const EVEN: f64 = 0.5;

fn name() -> Resolved {
    Resolved::new(SETTINGS, at(0))
}

#[test]
fn first_answer_is_all_new_and_the_same_again_is_no_change() {
    let mut name = name();
    assert_eq!(name.due(), at(0), "asked at once");
    let changed = name.answer(&answer([2, 1]), healthy, (at(1), EVEN)).unwrap();
    assert_eq!(numbers(changed.added), [1, 2]);
    assert_eq!(name.answer(&answer([1, 2, 1]), healthy, (at(2), EVEN)), None, "order is nothing");
    assert_eq!(name.answered(), Some((at(2), None)));
}

#[test]
fn failures_take_nothing_away_and_are_counted_until_an_answer_comes() {
    let mut name = name();
    name.answer(&answer([1, 2]), healthy, (at(1), EVEN));
    for number in 1..=3 {
        name.fail(failure(FailureKind::UnknownHost), (at(10 * number), EVEN));
        assert_eq!(name.failures().0, number as u32);
        assert_eq!(numbers(name.places().keys().copied()), [1, 2]);
    }
    assert_eq!(name.failures().1.unwrap().kind, FailureKind::UnknownHost);
    assert_eq!(name.answered(), Some((at(1), None)));
    name.answer(&answer([1, 2]), healthy, (at(40), EVEN));
    assert_eq!(name.failures(), (0, None));
}

#[test]
fn answer_without_places_changes_nothing() {
    let mut name = name();
    name.answer(&answer([1]), healthy, (at(1), EVEN));
    assert_eq!(name.answer(&answer([]), healthy, (at(2), EVEN)), None);
    assert_eq!(numbers(name.places().keys().copied()), [1]);
}

#[test]
fn answers_say_how_long_they_hold_within_bounds_unless_the_file_does() {
    let mut name = name();
    let mut next = |ttl, chance| {
        let answer = Answer { ttl, ..answer([1]) };
        name.answer(&answer, healthy, (at(100), chance));
        name.due() - at(100)
    };
    assert_eq!(next(Some(at(30)), EVEN), at(30));
    assert_eq!(next(Some(at(30)), 0.0), at(27));
    assert_eq!(next(Some(at(30)), 1.0), at(33));
    assert_eq!(next(Some(at(0)), EVEN), at(1), "not all the time");
    assert_eq!(next(Some(at(86_400)), EVEN), at(300));
    assert_eq!(next(None, EVEN), at(300));
    name.set(Settings { refresh: Some(at(7)), ..SETTINGS }, at(0));
    name.answer(&Answer { ttl: Some(at(30)), ..answer([1]) }, healthy, (at(100), EVEN));
    assert_eq!(name.due(), at(107));
}

#[test]
fn after_failures_it_is_asked_more_and_more_seldom() {
    let mut name = name();
    let mut waits = Vec::new();
    for _ in 0..12 {
        name.fail(failure(FailureKind::Timeout), (at(0), EVEN));
        waits.push(name.due().as_secs());
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    name.set(Settings { refresh: Some(at(5)), ..SETTINGS }, at(0));
    name.fail(failure(FailureKind::Timeout), (at(0), EVEN));
    assert_eq!(name.due(), at(5), "never more seldom than the file says");
}

#[test]
fn one_answer_makes_what_is_known_smaller_by_half_and_no_more() {
    let mut name = name();
    name.answer(&answer(1..=8), healthy, (at(1), EVEN));
    let mut left = Vec::new();
    for second in 2..6 {
        let changed = name.answer(&answer([9]), healthy, (at(second), EVEN));
        left.push((name.places().len(), changed.map(|changed| changed.kept.len())));
        assert!(name.places().contains_key(&place(9)), "what is new is there at once");
        assert_eq!(name.kept().len(), name.places().len() - 1);
    }
    assert_eq!(left, [(4, Some(3)), (2, Some(1)), (1, Some(0)), (1, None)]);
}

#[test]
fn what_is_replaced_is_not_smaller() {
    let mut name = name();
    name.answer(&answer([1]), healthy, (at(1), EVEN));
    let changed = name.answer(&answer([2]), healthy, (at(2), EVEN)).unwrap();
    assert_eq!((numbers(changed.added), numbers(changed.removed)), (vec![2], vec![1]));
    name.answer(&answer([3, 4, 5]), healthy, (at(3), EVEN));
    name.answer(&answer([6, 7]), healthy, (at(4), EVEN));
    assert_eq!(numbers(name.places().keys().copied()), [6, 7]);
}

#[test]
fn what_is_known_to_be_bad_may_go_at_once() {
    let mut name = name();
    name.answer(&answer(1..=8), healthy, (at(1), EVEN));
    let is_bad = |gone: &SocketAddr| *gone != place(7) && *gone != place(8);
    let changed = name.answer(&answer([1]), is_bad, (at(2), EVEN)).unwrap();
    assert_eq!(numbers(changed.removed), [2, 3, 4, 5, 6, 7]);
    assert_eq!(numbers(changed.kept), [8], "of three that are not bad, two stay");
}

#[test]
fn shrink_guard_can_be_switched_off_and_made_total() {
    for (max_shrink, left) in [(100, vec![9]), (0, vec![2, 9])] {
        let mut name = Resolved::new(Settings { max_shrink, ..SETTINGS }, at(0));
        name.answer(&answer([1, 2]), healthy, (at(1), EVEN));
        name.answer(&answer([9]), healthy, (at(2), EVEN));
        assert_eq!(numbers(name.places().keys().copied()), left);
    }
}

#[test]
fn family_that_could_not_be_asked_for_keeps_its_places_and_says_why() {
    let v6: SocketAddr = "[2001:db8::1]:8080".parse().unwrap();
    let mut name = name();
    let mut both = answer([1]);
    both.places.insert(v6, Part::default());
    name.answer(&both, healthy, (at(1), EVEN));
    let lacks = Some(([Family::V6].into(), failure(FailureKind::Timeout)));
    let changed = name.answer(&Answer { lacks, ..answer([2]) }, healthy, (at(2), EVEN)).unwrap();
    assert_eq!((numbers(changed.removed), changed.kept), (vec![1], [v6].into()));
    assert_eq!(name.failures().0, 0);
    assert_eq!(name.failures().1.unwrap().kind, FailureKind::Timeout);
    name.answer(&answer([2]), healthy, (at(3), EVEN));
    assert_eq!(name.failures(), (0, None));
    assert_eq!(
        numbers(name.places().keys().copied()),
        [2],
        "it says for certain that there is none"
    );
}

#[test]
fn weight_of_a_name_is_divided_exactly() {
    let shares = |count, weight| -> Vec<f64> {
        shares(&answer(1..=count).places, weight)
            .iter()
            .map(|(_, share, _)| share.value())
            .collect()
    };
    assert_eq!(shares(2, 60), [30.0, 30.0]);
    assert_eq!(shares(4, 1), [0.25; 4]);
    assert!(shares(3, 100).iter().all(|share| (share - 100.0 / 3.0).abs() < 1e-4));
    assert!(shares(5, 3).iter().all(|share| (share - 0.6).abs() < 1e-4), "none gets nothing");
    assert_eq!(shares(3, 0), [0.0; 3]);
    assert!(shares(0, 7).is_empty());
}

#[test]
fn priorities_stand_by_and_weights_divide() {
    let part = |weight, priority| Part { weight, priority };
    let told = |places: &[Part], weight| -> Vec<(u32, u16)> {
        let places: Places = (1..).map(place).zip(places.iter().copied()).collect();
        let shares = shares(&places, weight).into_iter();
        shares.map(|(_, share, rank)| ((share.value() * 10.0).round() as u32, rank)).collect()
    };
    let places = [part(60, 10), part(20, 10), part(5, 20), part(5, 20)];
    assert_eq!(told(&places, 80), [(600, 0), (200, 0), (400, 1), (400, 1)]);
    // Who has a weight of 0 is seldom chosen beside who has one, however small, and as often as others that have none.
    assert_eq!(told(&[part(1, 10), part(0, 10)], 101), [(1000, 0), (10, 0)]);
    assert_eq!(told(&[part(0, 10), part(0, 10), part(9, 20)], 10), [(50, 0), (50, 0), (100, 1)]);
    let heavy = [part(u32::MAX, 10), part(0, 10)].into_iter();
    let heavy: Places = (1..).map(place).zip(heavy).collect();
    assert!(shares(&heavy, 1).iter().all(|(_, share, _)| share.parts() > 0), "none gets nothing");
}

proptest! {
    #[test]
    fn whatever_is_answered_what_is_known_follows_the_rules(
        answers in prop::collection::vec((prop::collection::btree_set(1..12_u16, 0..8), any::<u16>()), 1..30),
        max_shrink in 0..=100_u8,
    ) {
        let mut name = Resolved::new(Settings { max_shrink, ..SETTINGS }, at(0));
        for (second, (wanted, bad)) in (1..).zip(answers) {
            let before = name.places().clone();
            let is_bad = |place: &SocketAddr| bad >> numbers([*place])[0] & 1 != 0;
            let changed = name.answer(&answer(wanted.iter().copied()), is_bad, (at(second), EVEN));
            let after = name.places();
            prop_assert_eq!(changed.is_none(), before == *after);
            if wanted.is_empty() {
                prop_assert_eq!(&before, after);
                continue;
            }
            for number in &wanted {
                prop_assert!(after.contains_key(&place(*number)));
            }
            let is_good = |place: &&SocketAddr| wanted.contains(&numbers([**place])[0]) || !is_bad(place);
            let good = before.keys().filter(is_good).count();
            prop_assert!(after.len() >= good - good * usize::from(max_shrink) / 100);
            for place in after.keys() {
                let is_wanted = wanted.contains(&numbers([*place])[0]);
                prop_assert!(is_wanted || before.contains_key(place));
            }
        }
    }
}

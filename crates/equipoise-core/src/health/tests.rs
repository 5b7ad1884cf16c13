//! Health as dated events in and beliefs and effects out.

use super::*;
use crate::config::parse;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn config(lines: &str, backends: &[&str]) -> Config {
    let backends: Vec<_> = backends.iter().map(|b| format!("{{ address = '{b}' }}")).collect();
    let text = format!(
        "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], port = 80 }}\n\
         backends = [{}]\n{lines}",
        backends.join(", ")
    );
    parse("test.toml", &text).unwrap_or_else(|problems| panic!("{problems:?}")).config
}

const EACH_SECOND: &str = "[service.health-check]\ninterval = '1s'\nfast-interval = '1s'";

fn key(address: &str) -> BackendKey {
    BackendKey { service: "web".into(), route: None, address: address.parse().unwrap() }
}

/// Everything to be done by a time.
fn effects(health: &mut Health, now: Duration) -> Vec<(ProbeId, SocketAddr)> {
    std::iter::from_fn(|| health.poll_effect(now))
        .filter_map(|effect| match effect {
            Effect::Probe { probe, address, .. } => Some((probe, address)),
            Effect::Cancel { .. } => None,
        })
        .collect()
}

fn bad() -> Outcome {
    Err(Failure::new(FailureKind::ConnectionRefused, "connection refused"))
}

/// Plays seconds on which `is_good` answers at once; how often each address was asked.
fn play(
    health: &mut Health,
    seconds: std::ops::Range<u64>,
    is_good: impl Fn(u64, SocketAddr) -> bool,
) -> BTreeMap<SocketAddr, usize> {
    let mut asked = BTreeMap::new();
    for tick in seconds.start * 10..seconds.end * 10 {
        let now = Duration::from_millis(tick * 100);
        health.handle_time(now);
        for (probe, address) in effects(health, now) {
            *asked.entry(address).or_default() += 1;
            let outcome = if is_good(tick / 10, address) { Ok(Duration::ZERO) } else { bad() };
            health.handle_outcome(now, probe, outcome);
        }
    }
    asked
}

#[test]
fn one_target_is_checked_once_however_many_pools_share_it() {
    let text = |more: &str| {
        let service = |name: &str, port: u16| {
            format!(
                "[[service]]\nname = '{name}'\nlisten = {{ interfaces = ['eth0'], port = {port} }}\n\
                 backends = [{{ address = '10.0.0.1:80' }}]\n"
            )
        };
        let text = format!(
            "[settings.health-check]\ninterval = '1s'\n{}{}{more}",
            service("a", 80),
            service("b", 81)
        );
        parse("test.toml", &text).unwrap().config
    };
    let mut health = Health::new(1);
    health.handle_config(Duration::ZERO, &text(""));
    let asked = play(&mut health, 0..20, |_, _| false);
    assert_eq!(asked.len(), 1);
    assert!((19..=21).contains(&asked.values().sum::<usize>()), "{asked:?}");
    for name in ["a", "b"] {
        let key = BackendKey { service: name.into(), ..key("10.0.0.1:80") };
        assert!(health.standing(&key).belief.is_down);
    }
    // Another interval is another check.
    health.handle_config(at(20.0), &text("[service.health-check]\ninterval = '2s'"));
    assert_eq!(health.counts().0, 2);
    let b = BackendKey { service: "b".into(), ..key("10.0.0.1:80") };
    assert!(health.standing(&b).belief.is_down, "what is known stays known");
}

#[test]
fn removed_while_a_check_is_under_way_leaves_nothing_and_added_again_is_there_once() {
    let both = config(EACH_SECOND, &["10.0.0.1:80", "10.0.0.2:80"]);
    let mut health = Health::new(7);
    health.handle_config(Duration::ZERO, &both);
    let probes = effects(&mut health, SECOND);
    assert_eq!(probes.len(), 2);
    health.handle_config(SECOND, &config(EACH_SECOND, &["10.0.0.2:80"]));
    let (gone, _) =
        *probes.iter().find(|(_, address)| *address == key("10.0.0.1:80").address).unwrap();
    assert_eq!(health.poll_effect(SECOND), Some(Effect::Cancel { target: gone.target }));
    assert_eq!(health.counts(), (1, 1, 1));
    assert_eq!(health.handle_outcome(SECOND, gone, bad()), None);
    assert_eq!(health.standing(&key("10.0.0.1:80")).name(), "none");
    health.handle_config(SECOND, &both);
    assert_eq!(health.counts(), (2, 2, 1));
    // The old outcome is not taken for the new target's.
    for _ in 0..5 {
        assert_eq!(health.handle_outcome(SECOND, gone, bad()), None);
    }
    assert_eq!(health.standing(&key("10.0.0.1:80")).name(), "unknown");
    let asked = play(&mut health, 2..12, |_, _| true);
    assert!(asked.values().all(|count| (9..=11).contains(count)), "{asked:?}");
}

#[test]
fn phases_are_spread_over_a_period_and_stay_apart() {
    let addresses: Vec<_> =
        (0..1000_u32).map(|n| format!("10.0.{}.{}:80", n / 250, n % 250)).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let mut health = Health::new(3);
    health.handle_config(Duration::ZERO, &config(EACH_SECOND, &addresses));
    for tenth in 0..50 {
        let now = Duration::from_millis(tenth * 100 + 99);
        let probes = effects(&mut health, now);
        assert!((60..=140).contains(&probes.len()), "{tenth}: {}", probes.len());
        for (probe, _) in probes {
            health.handle_outcome(now, probe, Ok(Duration::ZERO));
        }
    }
}

#[test]
fn checks_are_faster_while_a_verdict_may_change() {
    let lines = "[service.health-check]\ninterval = '10s'\nfast-interval = '1s'";
    let mut health = Health::new(5);
    health.handle_config(Duration::ZERO, &config(lines, &["10.0.0.1:80"]));
    let count = |health: &mut Health, from, to, good: bool| -> usize {
        play(health, from..to, |_, _| good).values().sum()
    };
    assert!((2..=3).contains(&count(&mut health, 0, 5, true)), "two make it healthy");
    assert!((9..=11).contains(&count(&mut health, 5, 105, true)));
    let mut fails = 0;
    for second in 105..125 {
        fails += count(&mut health, second, second + 1, false);
        if health.standing(&key("10.0.0.1:80")).belief.is_down {
            assert!(second < 118, "one within ten seconds and two more, a second each");
            break;
        }
    }
    assert_eq!(fails, 3);
}

#[test]
fn who_swallows_checks_is_found_within_threshold_intervals_and_the_timeout() {
    for (threshold, timeout) in [(3, 3), (1, 1), (3, 1), (2, 30), (20, 30), (100, 300)] {
        let lines = format!(
            "[service.health-check]\ninterval = '1s'\ntimeout = '{timeout}s'\nunhealthy-threshold = {threshold}"
        );
        let timeout = timeout * SECOND;
        let mut health = Health::new(5);
        health.handle_config(Duration::ZERO, &config(&lines, &["10.0.0.1:80"]));
        play(&mut health, 0..5, |_, _| true);
        let mut under_way: Vec<(Duration, ProbeId)> = Vec::new();
        let found = (500..).map(|tick| Duration::from_millis(tick * 10)).find(|now| {
            let begun = effects(&mut health, *now);
            under_way.extend(begun.into_iter().map(|(probe, _)| (*now, probe)));
            let is_late = |(began, _): &mut (Duration, ProbeId)| *began + timeout <= *now;
            for (_, probe) in under_way.extract_if(.., is_late).collect::<Vec<_>>() {
                health.handle_outcome(*now, probe, bad());
            }
            assert!(health.counts().2 <= threshold as usize);
            health.standing(&key("10.0.0.1:80")).belief.is_down
        });
        let most = at(5.0) + SECOND * threshold + timeout;
        assert!(found.unwrap() <= most, "{found:?} of {most:?}");
    }
}

#[test]
fn an_older_outcome_than_the_latest_is_not_taken() {
    let lines =
        "[service.health-check]\ninterval = '1s'\nhealthy-threshold = 1\nunhealthy-threshold = 2";
    let mut health = Health::new(5);
    health.handle_config(Duration::ZERO, &config(lines, &["10.0.0.1:80"]));
    let [(first, _)] = effects(&mut health, SECOND)[..] else { panic!("one") };
    let [(second, _)] = effects(&mut health, 2 * SECOND)[..] else { panic!("one") };
    assert!(health.handle_outcome(2 * SECOND, second, bad()).is_none());
    assert!(health.handle_outcome(2 * SECOND, first, Ok(SECOND)).is_none());
    assert_eq!(health.standing(&key("10.0.0.1:80")).name(), "unknown");
    assert_eq!(health.counts().2, 0);
}

#[test]
fn an_operators_word_holds_until_it_is_taken_back_or_runs_out() {
    let mut health = Health::new(5);
    health.handle_config(Duration::ZERO, &config(EACH_SECOND, &["10.0.0.1:80"]));
    let key = key("10.0.0.1:80");
    let word = |is_down, until| Some(Manual { is_down, until });
    assert!(health.handle_manual(Duration::ZERO, &key, word(true, None)));
    play(&mut health, 0..10, |_, _| true);
    assert_eq!(health.standing(&key).name(), "unhealthy");
    assert!(health.standing(&key).belief.is_down);
    assert!(health.handle_manual(at(10.0), &key, None));
    assert_eq!(health.standing(&key).name(), "healthy");
    assert_eq!(health.standing(&key).belief, Belief::default());

    assert!(health.handle_manual(at(10.0), &key, word(false, Some(at(20.0)))));
    play(&mut health, 10..19, |_, _| false);
    assert!(!health.standing(&key).belief.is_down);
    assert_eq!(health.handle_time(at(19.9)), []);
    assert_eq!(health.handle_time(at(20.0)), std::slice::from_ref(&key));
    assert!(health.standing(&key).belief.is_down);

    let nobody = BackendKey { service: "api".into(), ..key.clone() };
    assert!(!health.handle_manual(at(20.0), &nobody, word(true, None)));
    // It goes with its backend.
    health.handle_manual(at(20.0), &key, word(true, None));
    health.handle_config(at(21.0), &config(EACH_SECOND, &["10.0.0.2:80"]));
    health.handle_config(at(22.0), &config(EACH_SECOND, &["10.0.0.1:80"]));
    assert_eq!(health.standing(&key).name(), "unknown");
}

/// Beliefs, if they have changed.
fn changed(health: &mut Health) -> Option<BTreeMap<BackendKey, Belief>> {
    health.take_changed().then(|| health.beliefs().clone())
}

#[test]
fn beliefs_are_told_when_they_have_changed_and_only_then() {
    let mut health = Health::new(5);
    health.handle_config(Duration::ZERO, &config(EACH_SECOND, &["10.0.0.1:80"]));
    assert_eq!(changed(&mut health), Some(BTreeMap::new()));
    play(&mut health, 0..5, |_, _| true);
    assert_eq!(changed(&mut health), None);
    play(&mut health, 5..9, |_, _| false);
    let key = key("10.0.0.1:80");
    assert_eq!(changed(&mut health), Some(BTreeMap::from([(key.clone(), Belief::DOWN)])));
    play(&mut health, 9..12, |_, _| false);
    assert_eq!(changed(&mut health), None);
    play(&mut health, 12..16, |_, _| true);
    assert_eq!(changed(&mut health).unwrap()[&key].recovered, 75);
    play(&mut health, 16..18, |_, _| true);
    assert_eq!(changed(&mut health), Some(BTreeMap::new()));
}

#[test]
fn recovery_by_time_wakes_by_itself() {
    let lines = format!("{EACH_SECOND}\n[service.recovery]\nmode = 'linear'\nslow-start = '20s'");
    let mut health = Health::new(5);
    health.handle_config(Duration::ZERO, &config(&lines, &["10.0.0.1:80"]));
    play(&mut health, 0..5, |_, _| false);
    let mut seen = Vec::new();
    for second in 5..40 {
        play(&mut health, second..second + 1, |_, _| true);
        let wake = health.next_wake().unwrap();
        assert!(wake <= at(second as f64 + 2.1), "{second}: {wake:?}");
        seen.push(health.standing(&key("10.0.0.1:80")).belief.recovered);
    }
    assert!(
        seen.windows(2).all(|pair| pair[1] == 100 || pair[1] <= pair[0] + 5 || pair[0] == 100),
        "{seen:?}"
    );
    assert_eq!(seen.last(), Some(&100));
    assert!(seen.contains(&50));
}

#[test]
fn one_that_is_asked_for_is_checked_at_once() {
    let lines = "[service.health-check]\ninterval = '1h'\nfast-interval = '1h'";
    let mut health = Health::new(5);
    health.handle_config(Duration::ZERO, &config(lines, &["10.0.0.1:80"]));
    assert!(effects(&mut health, SECOND).is_empty());
    let target = health.check_now(SECOND, &key("10.0.0.1:80"));
    let probes = effects(&mut health, SECOND);
    assert_eq!(probes.first().map(|(probe, _)| probe.target), target);
    assert_eq!(health.check_now(SECOND, &key("10.0.0.9:80")), None);
}

#[test]
fn lateness_does_not_add_up() {
    let mut health = Health::new(5);
    health.handle_config(Duration::ZERO, &config(EACH_SECOND, &["10.0.0.1:80"]));
    let mut asked = 0;
    for tick in 1..=300 {
        let now = Duration::from_millis(tick * 300);
        for (probe, _) in effects(&mut health, now) {
            asked += 1;
            health.handle_outcome(now, probe, Ok(Duration::ZERO));
        }
    }
    assert!((89..=91).contains(&asked), "{asked}");
}

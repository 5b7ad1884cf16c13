//! What changes is told as it changes, to whoever follows and to whoever asks later.

use equipoise::admin::client::{EventStream, Told, Wanted};
use equipoise::events::{Event, Kind};
use equipoise::status::change::ReloadRequest;
use equipoise::status::health::Word;
use equipoise::status::operate::{BreakerRequest, UndrainRequest};

use super::*;
use health::{name, word};
use operate::{FIRST, SECOND, drain, of};

pub(super) const FOLLOWED: Wanted = Wanted { follows: true, after: 0 };
const KEPT: Wanted = Wanted { follows: false, after: 0 };

/// The next event, which is to come.
pub(super) async fn next(stream: &mut EventStream) -> Event {
    let told = tokio::time::timeout(DEADLINE, stream.next()).await.expect("an event comes");
    match told.unwrap() {
        Some(Told::Event(event)) => *event,
        other => panic!("{other:?}"),
    }
}

/// The next event of a kind, and whether those before it had their numbers without a gap.
pub(super) async fn next_of(stream: &mut EventStream, kind: Kind) -> Event {
    loop {
        let event = next(stream).await;
        if event.kind == kind {
            return event;
        }
    }
}

pub(super) fn text(part: &Option<String>) -> &str {
    part.as_deref().unwrap_or_default()
}

fn turned(event: &Event) -> (&str, &str, &str) {
    (text(&event.backend), text(&event.from), text(&event.to))
}

#[tokio::test]
async fn each_change_is_told_once_with_what_and_why() {
    let (driver, lab) =
        Lab::start(&format!("{CONFIG}\n[service.breaker]\nopen-for = '1h'\n")).await;
    run(driver, async {
        let mut stream = lab.client.events(FOLLOWED).await.unwrap();
        let started = next(&mut stream).await;
        assert_eq!((started.sequence, started.kind), (1, Kind::Started));
        assert!(started.time.ends_with('Z'), "{}", started.time);

        lab.client.set_health(&name(FIRST), &word(Word::Down, None)).await.unwrap();
        let event = next(&mut stream).await;
        assert_eq!((event.sequence, event.kind), (2, Kind::Health));
        assert_eq!(turned(&event), (FIRST, "none", "unhealthy"));
        assert_eq!((text(&event.service), text(&event.route)), ("web", "default"));
        assert_eq!(text(&event.why), "by hand");

        // Both are down: health is ignored.
        lab.client.set_health(&name(SECOND), &word(Word::Down, None)).await.unwrap();
        assert_eq!(next(&mut stream).await.kind, Kind::Health);
        let event = next(&mut stream).await;
        assert_eq!((event.kind, text(&event.why)), (Kind::PanicBegun, "IPv4 backends"));
        lab.client.set_health(&name(SECOND), &word(Word::Auto, None)).await.unwrap();
        assert_eq!(turned(&next(&mut stream).await), (SECOND, "unhealthy", "none"));
        assert_eq!(next(&mut stream).await.kind, Kind::PanicEnded);

        let turn = BreakerRequest {
            service: "web".to_owned(),
            backend: SECOND.to_owned(),
            route: None,
            action: "open".to_owned(),
        };
        lab.client.turn_breaker(&turn).await.unwrap();
        let event = next_of(&mut stream, Kind::Breaker).await;
        assert_eq!(turned(&event), (SECOND, "closed", "open"));
        lab.client.stop().await.unwrap();
        let event = next_of(&mut stream, Kind::Stopping).await;
        assert_eq!(text(&event.why), "everything is removed");
        assert_eq!(stream.next().await.unwrap(), None, "who follows is not left waiting");
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn checks_are_told_with_what_they_have_found() {
    let ((first, _one), (second, other)) = (health::listen(), health::listen());
    let (driver, lab) = Lab::start(&health::checked(&[first, second])).await;
    run(driver, async {
        let mut stream = lab.client.events(FOLLOWED).await.unwrap();
        let (mut healthy, second) = (BTreeSet::new(), second.to_string());
        while healthy.len() < 2 {
            let event = next_of(&mut stream, Kind::Health).await;
            assert_eq!((text(&event.from), text(&event.to)), ("unknown", "healthy"));
            healthy.insert(event.backend);
        }
        drop(other);
        let event = next(&mut stream).await;
        assert_eq!(turned(&event), (&*second, "healthy", "unhealthy"));
        assert!(text(&event.why).starts_with("connection-refused: "), "{event:?}");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn drains_are_told_when_they_begin_and_end() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let mut stream = lab.client.events(FOLLOWED).await.unwrap();
        lab.flows(0, 1);
        lab.client.drain(&drain(&[FIRST])).await.unwrap();
        assert_eq!(text(&next_of(&mut stream, Kind::DrainBegun).await.backend), FIRST);
        lab.flows(0, 0);
        let event = next(&mut stream).await;
        assert_eq!((event.kind, text(&event.to)), (Kind::DrainEnded, "completed"));
        lab.client.undrain(&UndrainRequest::of(of(FIRST))).await.unwrap();
        let event = next(&mut stream).await;
        assert_eq!((event.kind, text(&event.from)), (Kind::Undrained, "completed"));
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn configurations_and_troubles_are_told() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        let mut stream = lab.client.events(FOLLOWED).await.unwrap();
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Every(1)));
        lab.client.set_weight(&name(FIRST), 9).await.unwrap_err();
        let event = next_of(&mut stream, Kind::ConfigRejected).await;
        assert!(text(&event.why).contains("what ran before runs again"), "{event:?}");
        // Whoever says so is told what the maps say, which is not this test's matter.
        drop(lab.client.set_health(&name(FIRST), &word(Word::Down, None)).await);
        let event = next_of(&mut stream, Kind::Degraded).await;
        assert!(!text(&event.why).is_empty());
        lab.plane.send_modify(|plane| plane.memory.inject(Fault::Never));
        assert_eq!(next_of(&mut stream, Kind::Healed).await.why, event.why);
        lab.client.set_weight(&name(FIRST), 5).await.unwrap();
        let event = next_of(&mut stream, Kind::ConfigApplied).await;
        assert_eq!(text(&event.to), "2");
        assert_eq!(text(&event.why), "weight of 10.0.0.1:8080 of web is 5");
        fs::write(lab.path("a.toml"), "nonsense").unwrap();
        lab.client.reload(&ReloadRequest::default()).await.unwrap_err();
        let event = next(&mut stream).await;
        assert_eq!(event.kind, Kind::ConfigRejected);
        assert!(text(&event.why).contains("a.toml:1:9"), "{event:?}");
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn last_events_are_there_for_who_asks_later_from_any_number_on() {
    let (driver, lab) = Lab::start(CONFIG).await;
    run(driver, async {
        for weight in [7, 8, 9] {
            lab.client.set_weight(&name(FIRST), weight).await.unwrap();
        }
        let all = async |wanted: Wanted| {
            let mut stream = lab.client.events(wanted).await.unwrap();
            let mut numbers = Vec::new();
            while let Some(told) = stream.next().await.unwrap() {
                let Told::Event(event) = told else { panic!("{told:?}") };
                numbers.push(event.sequence);
            }
            numbers
        };
        assert_eq!(all(KEPT).await, [1, 2, 3, 4]);
        assert_eq!(all(Wanted { after: 3, ..KEPT }).await, [4]);
        lab.client.stop().await.unwrap();
    })
    .await
    .unwrap();
}

//! What changes, told as it changes: to the log, to whoever follows, and to whoever asks later for the last of it.
//!
//! Each event has a number of its own, counted from the start of the process. Whoever follows and is too slow loses its own
//! oldest ones and is told how many; nobody waits for anybody. Flows that open and close are not told here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use equipoise_core::config::target;
use equipoise_core::id::BackendKey;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Events that are kept, and that a follower may be behind.
pub const KEPT: usize = 1024;

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The instance runs.
    Started,
    /// It ends.
    Stopping,
    /// A configuration is in force.
    ConfigApplied,
    /// A configuration was not taken.
    ConfigRejected,
    /// What is believed of a backend's health.
    Health,
    /// A breaker.
    Breaker,
    /// A backend gets no new flows.
    DrainBegun,
    /// Nobody waits for that any more: its last flow has ended, or the time was up, or it was cancelled.
    DrainEnded,
    /// A backend gets new flows again.
    Undrained,
    /// Too few backends of a pool are usable.
    PanicBegun,
    /// There are enough again.
    PanicEnded,
    /// A name stands for other addresses.
    NameResolved,
    /// A name cannot be looked up, or not all of it.
    NameFailed,
    /// Another process is to come in place of this one; `to` says how far that is.
    Upgrade,
    /// Something is not as the configuration wants it.
    Degraded,
    /// It is again.
    Healed,
}

impl Kind {
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Stopping => "stopping",
            Self::ConfigApplied => "config_applied",
            Self::ConfigRejected => "config_rejected",
            Self::Health => "health",
            Self::Breaker => "breaker",
            Self::DrainBegun => "drain_begun",
            Self::DrainEnded => "drain_ended",
            Self::Undrained => "undrained",
            Self::PanicBegun => "panic_begun",
            Self::PanicEnded => "panic_ended",
            Self::NameResolved => "name_resolved",
            Self::NameFailed => "name_failed",
            Self::Upgrade => "upgrade",
            Self::Degraded => "degraded",
            Self::Healed => "healed",
        }
    }
}

/// Something that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, from 1 on.
    pub sequence: u64,
    /// When, RFC 3339.
    pub time: String,
    /// What.
    pub kind: Kind,
    /// The service that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The route that leads to the pool that it is about: `default`, or its first source or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The backend that it is about, as a configuration writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// How it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// How it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Event {
    /// Of this kind, about nothing yet.
    pub fn new(kind: Kind) -> Self {
        Self {
            sequence: 0,
            time: String::new(),
            kind,
            service: None,
            route: None,
            backend: None,
            from: None,
            to: None,
            why: None,
        }
    }

    /// About a pool of a service.
    #[must_use]
    pub fn of(self, service: &str, route: &str) -> Self {
        Self { service: Some(service.to_owned()), route: Some(route.to_owned()), ..self }
    }

    /// About a backend of a pool.
    #[must_use]
    pub fn about(self, key: &BackendKey) -> Self {
        let backend = Some(target::text(key.address));
        Self { backend, ..self.of(&key.service, key.route_name()) }
    }

    /// About the backends of a name, as operators name them.
    #[must_use]
    pub fn about_name(self, name: &str) -> Self {
        Self { backend: Some(name.to_owned()), ..self }
    }

    /// It was so.
    #[must_use]
    pub fn from(self, from: &str) -> Self {
        Self { from: Some(from.to_owned()), ..self }
    }

    /// It is so.
    #[must_use]
    pub fn to(self, to: &str) -> Self {
        Self { to: Some(to.to_owned()), ..self }
    }

    /// Because of this.
    #[must_use]
    pub fn because(self, why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..self }
    }

    /// Whether somebody should look.
    fn is_bad(&self) -> bool {
        match self.kind {
            Kind::ConfigRejected | Kind::PanicBegun | Kind::NameFailed | Kind::Degraded => true,
            Kind::Health => self.to.as_deref() == Some("unhealthy"),
            Kind::Breaker => self.to.as_deref() == Some("open"),
            Kind::Upgrade => self.to.as_deref() == Some("failed"),
            Kind::DrainEnded => self.to.as_deref() == Some("timeout"),
            Kind::Started
            | Kind::Stopping
            | Kind::ConfigApplied
            | Kind::DrainBegun
            | Kind::Undrained
            | Kind::PanicEnded
            | Kind::NameResolved
            | Kind::Healed => false,
        }
    }

    fn log(&self) {
        let Self { kind, service, route, backend, from, to, why, .. } = self;
        let (service, route, backend) = (service.as_deref(), route.as_deref(), backend.as_deref());
        let (from, to, why) = (from.as_deref(), to.as_deref(), why.as_deref());
        if self.is_bad() {
            tracing::warn!(service, route, backend, from, to, why, "{}", kind.name());
        } else {
            tracing::info!(service, route, backend, from, to, why, "{}", kind.name());
        }
    }
}

/// Where events are told.
#[derive(Debug)]
pub struct Events {
    last: VecDeque<Arc<Event>>,
    sequence: u64,
    /// How many there were, by kind.
    counts: BTreeMap<String, u64>,
    followers: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        let (followers, _) = broadcast::channel(KEPT);
        Self { last: VecDeque::new(), sequence: 0, counts: BTreeMap::new(), followers }
    }
}

impl Events {
    /// Tells an event, which happens at this time.
    pub fn tell(&mut self, time: String, event: Event) {
        self.sequence += 1;
        *self.counts.entry(event.kind.name().to_owned()).or_default() += 1;
        let event = Arc::new(Event { sequence: self.sequence, time, ..event });
        event.log();
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(Arc::clone(&event));
        // Nobody may follow.
        let _: Result<_, _> = self.followers.send(event);
    }

    /// How many there were, by kind.
    pub fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// Counts on from there.
    pub fn restore(&mut self, before: BTreeMap<String, u64>) {
        for (kind, count) in before {
            *self.counts.entry(kind).or_default() += count;
        }
    }

    /// The events from the one after this number on, as far as they are kept, and those that will come.
    pub fn subscribe(&self, after: u64) -> Subscription {
        // A number that has not been reached is of an earlier process.
        let after = if after > self.sequence { 0 } else { after };
        let kept: VecDeque<_> =
            self.last.iter().filter(|event| event.sequence > after).cloned().collect();
        let first = kept.front().map_or(self.sequence + 1, |event| event.sequence);
        Subscription { lost: first - after - 1, kept, followed: self.followers.subscribe() }
    }
}

/// Events as one follower gets them.
#[derive(Debug)]
pub struct Subscription {
    kept: VecDeque<Arc<Event>>,
    followed: broadcast::Receiver<Arc<Event>>,
    lost: u64,
}

/// What a follower is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// An event.
    Event(Arc<Event>),
    /// So many are lost to this follower.
    Lost(u64),
}

impl Subscription {
    /// What there is already; none when that is all.
    pub fn take_kept(&mut self) -> Option<Told> {
        if self.lost > 0 {
            return Some(Told::Lost(std::mem::take(&mut self.lost)));
        }
        self.kept.pop_front().map(Told::Event)
    }

    /// Waits for the next one; none when the instance has ended.
    pub async fn next(&mut self) -> Option<Told> {
        if let Some(told) = self.take_kept() {
            return Some(told);
        }
        match self.followed.recv().await {
            Ok(event) => Some(Told::Event(event)),
            Err(RecvError::Lagged(lost)) => Some(Told::Lost(lost)),
            Err(RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(events: &mut Events, count: usize) {
        for _ in 0..count {
            events.tell("now".to_owned(), Event::new(Kind::Healed));
        }
    }

    fn number(told: Option<Told>) -> u64 {
        let Some(Told::Event(event)) = told else { panic!("{told:?}") };
        event.sequence
    }

    #[tokio::test]
    async fn follower_gets_what_is_kept_and_then_what_comes_without_a_gap() {
        let mut events = Events::default();
        tell(&mut events, 3);
        let mut follower = events.subscribe(1);
        tell(&mut events, 1);
        for expected in [2, 3, 4] {
            assert_eq!(number(follower.next().await), expected);
        }
        drop(events);
        assert_eq!(follower.next().await, None);
    }

    #[tokio::test]
    async fn slow_follower_loses_its_own_oldest_and_is_told_how_many() {
        let mut events = Events::default();
        let (mut slow, mut quick) = (events.subscribe(0), events.subscribe(0));
        for expected in 1..=KEPT as u64 + 10 {
            tell(&mut events, 1);
            assert_eq!(number(quick.next().await), expected);
        }
        assert_eq!(slow.next().await, Some(Told::Lost(10)));
        assert_eq!(number(slow.next().await), 11);
    }

    #[test]
    fn what_is_not_kept_any_more_is_lost_to_who_comes_late() {
        let mut events = Events::default();
        tell(&mut events, KEPT + 5);
        let mut late = events.subscribe(2);
        assert_eq!(late.take_kept(), Some(Told::Lost(3)));
        assert_eq!(number(late.take_kept()), 6);
        let mut of_before = events.subscribe(1 << 40);
        assert_eq!(of_before.take_kept(), Some(Told::Lost(5)), "numbers of an earlier process");
        let mut up_to_date = events.subscribe(KEPT as u64 + 5);
        assert_eq!(up_to_date.take_kept(), None);
    }
}

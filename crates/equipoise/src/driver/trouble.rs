//! What is not as it should be, and when to try again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What can be wrong. Ordered as it is told: what loses packets first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    /// The maps are not as planned.
    Maps,
    /// An interface is not attached.
    Interface(String),
    /// Packets are not forwarded by the kernel's settings.
    Forwarding,
    /// A managed address is not there.
    Addresses,
    /// The flow tables are not of the size that is wanted.
    Size,
    /// Programs that tell of packets are there, and nobody looks.
    Trace,
    /// Packets are observed that are to be balanced, or the reverse.
    Observe,
    /// The machine could not be read.
    Machine,
    /// Metrics cannot be scraped.
    Metrics,
    /// The admin API is not had on its port as it should be.
    Admin,
    /// Connections are not taken up as they should be.
    Streams,
}

impl Topic {
    /// All names, in the order of the topics.
    pub(super) const NAMES: [&str; 11] = [
        "maps",
        "interface",
        "forwarding",
        "addresses",
        "size",
        "trace",
        "observe",
        "machine",
        "metrics",
        "admin",
        "streams",
    ];

    /// The key of a configuration that it is about; empty where it may be about any.
    pub(super) fn key(&self) -> &'static str {
        match self {
            Self::Size => "settings.max-flows",
            Self::Observe => "settings.observe",
            Self::Metrics => "settings.metrics",
            Self::Admin => "settings.admin",
            Self::Maps | Self::Interface(_) | Self::Forwarding | Self::Addresses => "",
            Self::Trace | Self::Machine | Self::Streams => "",
        }
    }

    /// In a word.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Maps => "maps",
            Self::Interface(_) => "interface",
            Self::Forwarding => "forwarding",
            Self::Addresses => "addresses",
            Self::Size => "size",
            Self::Trace => "trace",
            Self::Observe => "observe",
            Self::Machine => "machine",
            Self::Metrics => "metrics",
            Self::Admin => "admin",
            Self::Streams => "streams",
        }
    }
}

/// Everything that is wrong now.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    reasons: BTreeMap<Topic, String>,
    retry: Option<Retry>,
}

#[derive(Clone, Copy, Debug)]
struct Retry {
    at: Instant,
    delay: Duration,
}

impl Troubles {
    /// Takes note of how something went.
    pub(super) fn note(&mut self, topic: Topic, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => drop(self.reasons.remove(&topic)),
            Err(reason) => drop(self.reasons.insert(topic, reason)),
        }
    }

    /// The interfaces that are not attached, in place of those noted before.
    pub(super) fn note_interfaces(&mut self, failed: &BTreeMap<String, String>) {
        self.reasons.retain(|topic, _| match topic {
            Topic::Interface(name) => failed.contains_key(name),
            Topic::Maps
            | Topic::Forwarding
            | Topic::Addresses
            | Topic::Size
            | Topic::Trace
            | Topic::Observe
            | Topic::Machine
            | Topic::Metrics
            | Topic::Admin
            | Topic::Streams => true,
        });
        for (name, reason) in failed {
            let reason = format!("interface {name} is not attached: {reason}");
            self.reasons.insert(Topic::Interface(name.clone()), reason);
        }
    }

    /// What is wrong.
    pub(super) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.reasons.keys()
    }

    /// Whether something about this is wrong.
    pub(super) fn has(&self, topic: &Topic) -> bool {
        self.reasons.contains_key(topic)
    }

    /// What is wrong about this, in words.
    pub(super) fn reason(&self, topic: &Topic) -> Option<&str> {
        self.reasons.get(topic).map(String::as_str)
    }

    /// In words.
    pub(super) fn reasons(&self) -> impl Iterator<Item = &str> {
        self.reasons.values().map(String::as_str)
    }

    /// When to try again; none while nothing is wrong.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry.map(|retry| retry.at)
    }

    /// To be called after each try: later and later while something stays wrong.
    pub(super) fn schedule(&mut self, now: Instant) {
        if self.reasons.is_empty() {
            self.retry = None;
            return;
        }
        self.retry = Some(match self.retry {
            None => Retry { at: now + FIRST_RETRY, delay: FIRST_RETRY },
            // A turn for another reason does not put the retry off.
            Some(retry) if retry.at > now => retry,
            Some(retry) => {
                let delay = (retry.delay * 2).min(LAST_RETRY);
                Retry { at: now + delay, delay }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_come_later_and_later_and_end_when_all_is_right() {
        let mut troubles = Troubles::default();
        let mut now = Instant::now();
        troubles.note(Topic::Maps, Err("no memory".into()));
        let mut delays = Vec::new();
        for _ in 0..12 {
            troubles.schedule(now);
            let at = troubles.retry_at().unwrap();
            delays.push(at - now);
            now = at;
        }
        assert_eq!(delays[0], FIRST_RETRY);
        assert!(delays.is_sorted());
        assert_eq!(delays.last(), Some(&LAST_RETRY));
        troubles.note(Topic::Maps, Ok(()));
        troubles.schedule(now);
        assert_eq!(troubles.retry_at(), None);
    }

    #[test]
    fn turn_for_another_reason_does_not_put_the_retry_off() {
        let mut troubles = Troubles::default();
        let now = Instant::now();
        troubles.note(Topic::Forwarding, Err("read-only".into()));
        troubles.schedule(now);
        let at = troubles.retry_at();
        troubles.schedule(now + Duration::from_millis(10));
        assert_eq!(troubles.retry_at(), at);
    }

    #[test]
    fn interface_that_is_attached_at_last_is_no_reason_any_more() {
        let mut troubles = Troubles::default();
        troubles.note_interfaces(&BTreeMap::from([("eth0".to_owned(), "busy".to_owned())]));
        assert_eq!(
            troubles.reasons().collect::<Vec<_>>(),
            ["interface eth0 is not attached: busy"]
        );
        troubles.note_interfaces(&BTreeMap::new());
        assert_eq!(troubles.reasons().count(), 0);
    }
}

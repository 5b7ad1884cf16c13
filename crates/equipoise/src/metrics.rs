//! Metrics: what a scrape tells, out of the same answers that the admin API gives.
//!
//! Takes the answers to five questions (how it is, how backends, breakers and names are, what it counts of itself), each of which may fail for itself,
//! and gives families, as text that Prometheus or OpenMetrics scrapers read. Keeps nothing between scrapes but a count of what
//! has failed and of what has left the rows for the rest, and knows neither the driver nor its state. The same families are pushed to a collector where that is wanted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::sync::Mutex;

use crate::admin::{Access, Command, ProblemDetails};
use crate::status::Status;
use crate::status::health::{BackendHealth, HealthFilter};
use crate::status::names::NameStatus;
use crate::status::operate::BreakerStatus;

mod backends;
mod counts;
mod family;
mod histogram;
mod instance;
mod listener;
mod names;
mod push;
mod rest;
mod text;

pub use counts::{Checks, Counts};
pub use family::{Family, Kind};
pub use histogram::{
    BYTES, FlowHistograms, FlowSummary, Histogram, KeptHistogram, SECONDS, Summary,
};
pub use listener::{ListenError, Listener, among_others, router};
pub use push::Pusher;
pub(crate) use push::file_faults;
use rest::Rests;
pub use text::Format;

/// What a scrape is made of.
#[derive(Debug)]
pub struct Sources {
    /// How the instance is.
    pub status: Result<Status, ProblemDetails>,
    /// How its backends are.
    pub health: Result<Vec<BackendHealth>, ProblemDetails>,
    /// How their breakers are.
    pub breakers: Result<Vec<BreakerStatus>, ProblemDetails>,
    /// How its names are.
    pub names: Result<Vec<NameStatus>, ProblemDetails>,
    /// What it counts of itself.
    pub counts: Result<Counts, ProblemDetails>,
}

/// Answers that were not had.
#[derive(Debug, Default)]
pub struct Failures {
    status: AtomicU64,
    health: AtomicU64,
    breakers: AtomicU64,
    names: AtomicU64,
    counts: AtomicU64,
}

impl Failures {
    fn all(&self) -> [(&'static str, &AtomicU64); 5] {
        [
            ("status", &self.status),
            ("health", &self.health),
            ("breakers", &self.breakers),
            ("names", &self.names),
            ("counts", &self.counts),
        ]
    }
}

/// What counters stand at, by their names: for a scrape, and for the next process.
fn counted<const N: usize>(all: [(&'static str, &AtomicU64); N]) -> BTreeMap<String, u64> {
    all.map(|(name, count)| (name.to_owned(), count.load(Ordering::Relaxed))).into()
}

/// Counts on from where a process before has left off.
fn count_on<const N: usize>(all: [(&'static str, &AtomicU64); N], before: &BTreeMap<String, u64>) {
    for (name, count) in all {
        count.fetch_add(before.get(name).copied().unwrap_or_default(), Ordering::Relaxed);
    }
}

/// What there is now.
struct Gathered {
    /// Families that have rows.
    families: Vec<Family>,
    /// Since when is counted; none where that is not known.
    since: Option<SystemTime>,
}

/// What scrapes are answered from.
#[derive(Clone, Debug)]
pub struct Exporter {
    access: Access,
    failures: Arc<Failures>,
    rests: Arc<Mutex<Rests>>,
}

impl Exporter {
    /// One that asks the driver.
    pub fn new(access: Access) -> Self {
        Self { access, failures: Arc::default(), rests: Arc::default() }
    }

    /// How often each source has failed, for the next process.
    pub(crate) fn failures(&self) -> BTreeMap<String, u64> {
        counted(self.failures.all())
    }

    /// Counts on from where the process before has left off.
    pub(crate) fn restore(&self, failures: &BTreeMap<String, u64>) {
        count_on(self.failures.all(), failures);
    }

    /// A scrape, as text in parts.
    pub async fn scrape(&self, format: Format) -> Vec<String> {
        format.write(self.gather().await.families)
    }

    async fn gather(&self) -> Gathered {
        // Held until they are told, so that none is told that has been read before.
        let mut rests = self.rests.lock().await;
        let sources = Sources {
            status: self.access.ask(Command::Status).await,
            health: self.access.ask(|reply| Command::Health(HealthFilter::default(), reply)).await,
            breakers: self.access.ask(|reply| Command::Breakers(None, reply)).await,
            names: self.access.ask(Command::Names).await,
            counts: self.access.ask(Command::Counts).await,
        };
        let mut families = families(&sources, &self.failures);
        families.retain(Family::has_rows);
        families.iter_mut().for_each(|family| rests.hold(family));
        let since = sources.counts.as_ref().ok().and_then(|counts| counts.since);
        Gathered { families, since }
    }

    /// Why new flows had better go elsewhere; none when this balancer takes them.
    pub async fn unready(&self) -> Option<String> {
        self.access.ask(Command::Unready).await.unwrap_or_else(|_| Some("ending".to_owned()))
    }
}

/// Every family that a scrape may have, whatever it has now.
pub fn catalogue() -> Vec<Family> {
    let sources = Sources {
        status: Ok(Status::default()),
        health: Ok(Vec::new()),
        breakers: Ok(Vec::new()),
        names: Ok(Vec::new()),
        counts: Ok(Counts::default()),
    };
    families(&sources, &Failures::default())
}

/// The families of a scrape. What has failed is left out, and counted.
fn families(sources: &Sources, failures: &Failures) -> Vec<Family> {
    let mut families = instance::always();
    match &sources.status {
        Ok(status) => {
            families.extend(instance::families(status));
            families.extend(backends::traffic(status));
        }
        Err(_) => count(&failures.status),
    }
    match &sources.health {
        Ok(health) => families.extend(backends::health(health)),
        Err(_) => count(&failures.health),
    }
    match &sources.breakers {
        Ok(breakers) => families.extend(backends::breakers(breakers)),
        Err(_) => count(&failures.breakers),
    }
    match &sources.names {
        Ok(names) => families.extend(names::families(names)),
        Err(_) => count(&failures.names),
    }
    match &sources.counts {
        Ok(counts) => families.extend(counts::families(counts)),
        Err(_) => count(&failures.counts),
    }
    let failed = failures.all().map(|(source, count)| (source, count.load(Ordering::Relaxed)));
    families.push(instance::failures(&failed));
    families
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

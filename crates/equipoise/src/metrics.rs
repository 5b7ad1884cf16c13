//! Metrics: what a scrape tells, out of the same answers that the admin API gives.
//!
//! Takes the answers to four questions (how it is, how backends, breakers and names are), each of which may fail for itself,
//! and gives families, as text that Prometheus or OpenMetrics scrapers read. Keeps nothing between scrapes but a count of what
//! has failed, and knows neither the driver nor its state.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::proto::MetricFamily;

use crate::admin::{Access, Command, ProblemDetails};
use crate::status::Status;
use crate::status::health::{BackendHealth, HealthFilter};
use crate::status::names::NameStatus;
use crate::status::operate::BreakerStatus;

mod backends;
mod family;
mod instance;
mod listener;
mod names;
mod text;

pub use listener::{ListenError, Listener, router};
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
}

/// Answers that were not had, since the start.
#[derive(Debug, Default)]
pub struct Failures {
    status: AtomicU64,
    health: AtomicU64,
    breakers: AtomicU64,
    names: AtomicU64,
}

impl Failures {
    fn all(&self) -> [(&'static str, u64); 4] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("status", read(&self.status)),
            ("health", read(&self.health)),
            ("breakers", read(&self.breakers)),
            ("names", read(&self.names)),
        ]
    }
}

/// What scrapes are answered from.
#[derive(Clone, Debug)]
pub struct Exporter {
    access: Access,
    failures: Arc<Failures>,
}

impl Exporter {
    /// One that asks the driver.
    pub fn new(access: Access) -> Self {
        Self { access, failures: Arc::default() }
    }

    /// A scrape, as text.
    ///
    /// # Errors
    ///
    /// When a family is not one that may be written; none of ours are.
    pub async fn scrape(&self, format: Format) -> Result<String, prometheus::Error> {
        let sources = Sources {
            status: self.access.ask(Command::Status).await,
            health: self.access.ask(|reply| Command::Health(HealthFilter::default(), reply)).await,
            breakers: self.access.ask(|reply| Command::Breakers(None, reply)).await,
            names: self.access.ask(Command::Names).await,
        };
        format.write(&families(&sources, &self.failures))
    }

    /// Why new flows had better go elsewhere; none when this balancer takes them.
    pub async fn unready(&self) -> Option<&'static str> {
        match self.access.ask(Command::Drains).await {
            Ok(drains) if drains.itself => Some("drained"),
            Ok(_) => None,
            Err(_) => Some("ending"),
        }
    }
}

/// The families of a scrape. What has failed is left out, and counted.
fn families(sources: &Sources, failures: &Failures) -> Vec<MetricFamily> {
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
    families.push(instance::failures(&failures.all()));
    families.retain(|family| !family.get_metric().is_empty());
    families
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

//! Pushes metrics to a collector of OpenTelemetry: all that a scrape has, again and again.
//!
//! Where nothing is to be pushed, there is nothing of it. Where something is, a thread of its own asks the loop as scrapers do, makes
//! requests of the answers and sends them: neither a slow collector nor a large scrape puts the loop off. A push that fails is counted,
//! told in the log where it has not failed so before, and not made again: the next has all that it had.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::SystemTime;

use equipoise_core::config::Otlp;
use opentelemetry_proto::tonic::resource::v1::Resource;
use rustix::thread::CapabilitySet;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

use super::{Exporter, count_on, counted};
use crate::privileges;

mod points;
mod rows;
mod send;

use points::{Times, attribute, requests};
use send::Collector;
pub(crate) use send::faults as file_faults;

/// How pushes have ended, since counting began.
#[derive(Debug, Default)]
struct Pushes {
    success: AtomicU64,
    partial: AtomicU64,
    failure: AtomicU64,
}

impl Pushes {
    fn all(&self) -> [(&'static str, &AtomicU64); 3] {
        [("success", &self.success), ("partial", &self.partial), ("failure", &self.failure)]
    }
}

/// How a push has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// All has been taken.
    Success,
    /// The collector has refused some points.
    Partial,
    /// Not all has come there, for this reason.
    Failure(String),
}

/// What pushes, if anything does.
#[derive(Debug)]
pub struct Pusher {
    exporter: Exporter,
    instance: String,
    pushes: Arc<Pushes>,
    pushing: Option<Pushing>,
}

#[derive(Debug)]
struct Pushing {
    collector: Collector,
    /// Ends the thread when it is dropped.
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Pusher {
    /// Nothing is pushed yet; `instance` is the name of this one.
    pub fn new(exporter: Exporter, instance: String) -> Self {
        Self { exporter, instance, pushes: Arc::default(), pushing: None }
    }

    /// Pushes as the configuration wants it from now on, and not as it wanted it before; resolvers are those of the configuration.
    ///
    /// # Errors
    ///
    /// When there is no thread or no runtime to be had; nothing is pushed then.
    pub async fn follow(
        &mut self,
        wanted: Option<&Otlp>,
        resolvers: &[SocketAddr],
    ) -> io::Result<()> {
        let wanted =
            wanted.map(|otlp| Collector { otlp: otlp.clone(), resolvers: resolvers.to_vec() });
        if self.pushing.as_ref().map(|pushing| &pushing.collector) == wanted.as_ref() {
            return Ok(());
        }
        if let Some(Pushing { end, ended, .. }) = self.pushing.take() {
            drop(end);
            // Its end is that nobody is left who could say so.
            drop(ended.await);
        }
        let Some(collector) = wanted else { return Ok(()) };
        let endpoint = collector.otlp.endpoint.to_string();
        let every = humantime::format_duration(collector.otlp.interval).to_string();
        self.pushing = Some(self.begin(collector)?);
        tracing::info!(endpoint, every, "metrics are to be pushed");
        Ok(())
    }

    fn begin(&self, collector: Collector) -> io::Result<Pushing> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = Work {
            exporter: self.exporter.clone(),
            resource: resource(&self.instance, &collector.otlp),
            collector: collector.clone(),
            pushes: Arc::clone(&self.pushes),
            told: None,
        };
        let (end, is_to_end) = oneshot::channel::<()>();
        let (alive, ended) = oneshot::channel::<()>();
        thread::Builder::new().name("otlp".to_owned()).spawn(move || {
            privileges::keep_only(CapabilitySet::empty());
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = is_to_end => {}
                    () = work.run() => {}
                }
            });
            drop(alive);
        })?;
        Ok(Pushing { collector, end, ended })
    }

    /// How many pushes have ended how; nothing where nothing has ever been pushed and is not to be.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let all = counted(self.pushes.all());
        let is_any = self.pushing.is_some() || all.values().any(|count| *count > 0);
        if is_any { all } else { BTreeMap::new() }
    }

    /// Counts on from what a process before has counted.
    pub fn restore(&self, counts: &BTreeMap<String, u64>) {
        count_on(self.pushes.all(), counts);
    }
}

/// What is told of an instance: what the configuration says goes before what it is told without it.
fn resource(instance: &str, otlp: &Otlp) -> Resource {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut attributes = BTreeMap::from([
        ("service.name", env!("CARGO_PKG_NAME").to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", instance.to_owned()),
        ("host.name", host),
    ]);
    attributes.extend(otlp.attributes.iter().map(|(name, value)| (name.as_str(), value.clone())));
    let attributes = attributes.into_iter().map(|(name, value)| attribute(name, value)).collect();
    Resource { attributes, ..Resource::default() }
}

struct Work {
    exporter: Exporter,
    collector: Collector,
    resource: Resource,
    pushes: Arc<Pushes>,
    /// What the log knows.
    told: Option<Outcome>,
}

impl Work {
    async fn run(mut self) {
        let mut due = interval(self.collector.otlp.interval);
        // One that takes longer than the interval leaves out those that it is in the way of.
        due.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            due.tick().await;
            let outcome = self.push().await;
            let count = match outcome {
                Outcome::Success => &self.pushes.success,
                Outcome::Partial => &self.pushes.partial,
                Outcome::Failure(_) => &self.pushes.failure,
            };
            count.fetch_add(1, Ordering::Relaxed);
            self.tell(outcome);
        }
    }

    async fn push(&self) -> Outcome {
        let gathered = self.exporter.gather().await;
        let times = Times::new(gathered.since, SystemTime::now());
        let mut refused = 0;
        for request in requests(&gathered.families, &self.resource, times) {
            match self.collector.send(&request).await {
                Ok(points) => refused += points,
                Err(reason) => return Outcome::Failure(reason),
            }
        }
        if refused == 0 { Outcome::Success } else { Outcome::Partial }
    }

    /// Tells the log what it does not know.
    fn tell(&mut self, outcome: Outcome) {
        if self.told.as_ref() == Some(&outcome) {
            return;
        }
        let endpoint = self.collector.otlp.endpoint.to_string();
        match &outcome {
            Outcome::Success => tracing::info!(endpoint, "metrics are pushed"),
            Outcome::Partial => {
                tracing::warn!(endpoint, "the collector refuses some of the metrics");
            }
            Outcome::Failure(reason) => {
                tracing::warn!(endpoint, reason, "metrics cannot be pushed");
            }
        }
        self.told = Some(outcome);
    }
}

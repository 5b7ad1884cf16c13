//! What the loop counts of itself, for scrapes; kept for the next process, so that no counter falls.
//!
//! Beside the file of the state is one of counters, written every few seconds where something has been counted, and at the end. It
//! is a help and no more: what cannot be read is begun anew. Where the programs' own counters go, so does it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use equipoise_core::config::target;
use equipoise_core::health::Outcome;
use equipoise_core::id::BackendKey;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Driver;
use super::clock::millis;
use super::events::{Ended, Tally};
use super::load;
use super::trouble::Topic;
use crate::admin::ProblemDetails;
use crate::dataplane::DataPlane;
use crate::host::Machine;
use crate::metrics::{BYTES, Checks, Counts, FlowHistograms, Histogram, KeptHistogram, SECONDS};
use crate::status::access_log::{Dropped, Written};

/// How often what is counted is written.
pub(super) const KEEP: Duration = Duration::from_secs(10);
/// The form of the file.
const VERSION: u32 = 1;

/// What is counted.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    /// Since when; none where a process before has not said so.
    since: Option<SystemTime>,
    pub(super) reloads: BTreeMap<String, u64>,
    pub(super) look_ups: BTreeMap<String, u64>,
    pub(super) planned: Histogram,
    pub(super) applied: Histogram,
    checks: BTreeMap<BackendKey, Checks>,
}

impl Default for Counted {
    fn default() -> Self {
        let [planned, applied] = [(); 2].map(|()| Histogram::new(SECONDS));
        let (reloads, look_ups) = (BTreeMap::new(), BTreeMap::new());
        let since = Some(SystemTime::now());
        Self { since, reloads, look_ups, planned, applied, checks: BTreeMap::new() }
    }
}

/// One more of these.
pub(super) fn count(of: &mut BTreeMap<String, u64>, name: &str) {
    match of.get_mut(name) {
        Some(count) => *count += 1,
        None => drop(of.insert(name.to_owned(), 1)),
    }
}

impl Counted {
    /// A check of these backends has ended.
    pub(super) fn note_check(&mut self, backends: &[BackendKey], outcome: &Outcome) {
        let name = match outcome {
            Ok(_) => "success",
            Err(failure) => failure.kind.name(),
        };
        for key in backends {
            let checks = self.checks.entry(key.clone()).or_default();
            count(&mut checks.outcomes, name);
            if let Ok(took) = outcome {
                checks.latency.observe(took.as_secs_f64());
            }
        }
    }
}

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    version: u32,
    /// Since when this is counted, since the Unix epoch.
    #[serde(default)]
    since_ms: Option<u64>,
    opened: u64,
    closed: BTreeMap<String, u64>,
    lost: u64,
    reloads: BTreeMap<String, u64>,
    look_ups: BTreeMap<String, u64>,
    events: BTreeMap<String, u64>,
    #[serde(default)]
    pushes: BTreeMap<String, u64>,
    /// Sources of metrics that have failed.
    #[serde(default)]
    failures: BTreeMap<String, u64>,
    planned: KeptHistogram,
    applied: KeptHistogram,
    written: Written,
    dropped: Dropped,
    backends: Vec<KeptBackend>,
    /// The most that there was; none where a process before has not looked for it.
    #[serde(default)]
    load: Option<load::Kept>,
    /// What workers that take up connections have moved.
    #[serde(default)]
    streams: Vec<crate::stream::Kept>,
}

/// What is kept of a backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct KeptBackend {
    service: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    backend: String,
    good: u64,
    refused: u64,
    unanswered: u64,
    reset: u64,
    lifetime: KeptHistogram,
    handshake: KeptHistogram,
    bytes_in: KeptHistogram,
    bytes_out: KeptHistogram,
    checked: KeptHistogram,
    checks: BTreeMap<String, u64>,
}

impl KeptBackend {
    fn new(key: &BackendKey, ended: Option<&Ended>, checks: Option<&Checks>) -> Self {
        let (ended, checks) = (ended.cloned().unwrap_or_default(), checks.cloned());
        let checks = checks.unwrap_or_default();
        Self {
            service: key.service.to_string(),
            route: key.route.as_deref().map(str::to_owned),
            backend: target::text(key.address),
            good: ended.good,
            refused: ended.refused,
            unanswered: ended.unanswered,
            reset: ended.reset,
            lifetime: ended.flows.lifetime.kept(),
            handshake: ended.flows.handshake.kept(),
            bytes_in: ended.flows.bytes_in.kept(),
            bytes_out: ended.flows.bytes_out.kept(),
            checked: checks.latency.kept(),
            checks: checks.outcomes,
        }
    }

    fn key(&self) -> Option<BackendKey> {
        let address: SocketAddr = target::parse(&self.backend)?;
        let route = self.route.as_deref().map(Into::into);
        Some(BackendKey { service: self.service.as_str().into(), route, address })
    }

    fn ended(&self) -> Ended {
        Ended {
            good: self.good,
            refused: self.refused,
            unanswered: self.unanswered,
            reset: self.reset,
            flows: FlowHistograms {
                lifetime: Histogram::of_kept(SECONDS, &self.lifetime),
                handshake: Histogram::of_kept(SECONDS, &self.handshake),
                bytes_in: Histogram::of_kept(BYTES, &self.bytes_in),
                bytes_out: Histogram::of_kept(BYTES, &self.bytes_out),
            },
        }
    }
}

/// What an instance that is gone has counted goes, with the programs' own counters; says if there was anything.
pub(super) fn drop_left(state_file: &Path) -> bool {
    fs::remove_file(file(state_file)).is_ok()
}

/// Where it is, beside the state.
fn file(state_file: &Path) -> PathBuf {
    state_file.with_file_name("counters.json")
}

fn read(path: &Path) -> Option<Kept> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "counters of before cannot be read, and begin anew");
            }
            return None;
        }
    };
    let kept = serde_json::from_slice::<Kept>(&text).ok().filter(|kept| kept.version == VERSION);
    if kept.is_none() {
        tracing::warn!(path = %path.display(), "counters of before are not understood, and begin anew");
    }
    kept
}

/// Not forced to the disk: losing it costs a few seconds' counts.
fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let beside = path.with_extension("json.new");
    fs::write(&beside, serde_json::to_vec(kept)?)?;
    fs::rename(&beside, path)
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Counts on from where the process before has left off.
    pub(super) fn take_counts(&mut self) {
        // What the programs count goes on in any case.
        self.counted.since = None;
        let Some(kept) = read(&file(&self.state_file)) else { return };
        let since = kept.since_ms.map(|since| UNIX_EPOCH + Duration::from_millis(since));
        self.counted.since = since;
        let closed = kept.closed.iter().map(|(why, count)| (why.as_str(), *count));
        self.events.restore(&Tally::of((kept.opened, kept.lost), closed));
        self.told.restore(kept.events);
        self.pusher.restore(&kept.pushes);
        self.exporter.restore(&kept.failures);
        self.access_log.restore(kept.written, kept.dropped);
        self.streams.mirror().restore(&kept.streams);
        if let Some(load) = &kept.load {
            self.restore_load(load);
        }
        for backend in &kept.backends {
            let Some(key) = backend.key().filter(|key| self.state.backend_id(key).is_some()) else {
                continue;
            };
            self.passive.insert(key.clone(), backend.ended());
            let latency = Histogram::of_kept(SECONDS, &backend.checked);
            let checks = Checks { latency, outcomes: backend.checks.clone() };
            self.counted.checks.insert(key, checks);
        }
        self.counted.reloads = kept.reloads;
        self.counted.look_ups = kept.look_ups;
        self.counted.planned = Histogram::of_kept(SECONDS, &kept.planned);
        self.counted.applied = Histogram::of_kept(SECONDS, &kept.applied);
    }

    /// Writes what has been counted, now and then.
    pub(super) fn follow_counts(&mut self, now: Instant) {
        if self.due.counts <= now {
            self.due.counts = now + KEEP;
            self.keep_counts();
        }
    }

    /// Writes what has been counted.
    pub(super) fn keep_counts(&mut self) {
        let tally = self.events.tally();
        let (written, dropped) = self.access_log.counts();
        let keys = self.passive.keys().chain(self.counted.checks.keys());
        let keys: std::collections::BTreeSet<_> = keys.collect();
        let backend = |key: &&BackendKey| {
            KeptBackend::new(key, self.passive.get(*key), self.counted.checks.get(*key))
        };
        let kept = Kept {
            version: VERSION,
            since_ms: self
                .counted
                .since
                .map(|since| millis(since.duration_since(UNIX_EPOCH).unwrap_or_default())),
            opened: tally.opened,
            closed: tally.closed.iter().map(|(why, count)| ((*why).to_owned(), *count)).collect(),
            lost: tally.lost,
            reloads: self.counted.reloads.clone(),
            look_ups: self.counted.look_ups.clone(),
            events: self.told.counts().clone(),
            pushes: self.pusher.counts(),
            failures: self.exporter.failures(),
            planned: self.counted.planned.kept(),
            applied: self.counted.applied.kept(),
            written,
            dropped,
            backends: keys.iter().map(backend).collect(),
            load: Some(self.kept_load()),
            streams: self.streams.mirror().kept(),
        };
        let path = file(&self.state_file);
        if let Err(error) = write(&path, &kept) {
            tracing::warn!(path = %path.display(), %error, "counters are not kept for the next process");
        }
    }

    /// The programs' counters go, and these with them.
    pub(super) fn drop_counts(&self) {
        drop_left(&self.state_file);
    }

    /// What is counted of backends that have left is not kept.
    pub(super) fn forget_checks(&mut self) {
        let state = &self.state;
        self.counted.checks.retain(|key, _| state.backend_id(key).is_some());
    }

    /// All that is counted beside what the programs count.
    pub(super) fn counts(&self) -> Result<Counts, ProblemDetails> {
        let occupancy = self.plane.occupancy();
        let [v4, v6] = occupancy.by_family;
        let flows = self.passive.iter().map(|(key, ended)| (key.clone(), ended.flows.clone()));
        let checks = self.counted.checks.iter();
        Ok(Counts {
            since: self.counted.since,
            reloads: self.counted.reloads.clone(),
            events: self.told.counts().clone(),
            look_ups: self.counted.look_ups.clone(),
            pushes: self.pusher.counts(),
            planned: self.counted.planned.clone(),
            applied: self.counted.applied.clone(),
            checks: checks.map(|(key, checks)| (key.clone(), checks.clone())).collect(),
            flows: flows.collect(),
            reasons: self.reasons_by_topic(),
            live: BTreeMap::from([("ipv4", v4), ("ipv6", v6)]),
            maps: self.plane.map_memory(),
        })
    }

    fn reasons_by_topic(&self) -> BTreeMap<&'static str, u64> {
        let mut topics: BTreeMap<&'static str, u64> =
            Topic::NAMES.iter().map(|name| (*name, 0)).collect();
        for topic in self.troubles.topics() {
            *topics.entry(topic.name()).or_default() += 1;
        }
        topics.insert("configuration", self.missing().count() as u64);
        topics.insert("source_ports", self.crowded.len() as u64);
        topics.insert("names", self.name_reasons().count() as u64);
        topics.insert("access_log", self.access_log.failures().len() as u64);
        topics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_comes_back_from_its_file_and_nothing_from_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder.path().join("deep/state.json"));
        assert_eq!(read(&path), None);
        let key = BackendKey {
            service: "web".into(),
            route: Some("10.0.0.0/8".into()),
            address: "[2001:db8::1]:80".parse().unwrap(),
        };
        let mut ended = Ended { refused: 3, ..Ended::default() };
        ended.flows.lifetime.observe(2.0);
        let mut counted = Counted::default();
        counted.note_check(std::slice::from_ref(&key), &Ok(Duration::from_millis(3)));
        let backend = KeptBackend::new(&key, Some(&ended), counted.checks.get(&key));
        assert_eq!((backend.key().as_ref(), backend.ended()), (Some(&key), ended));
        assert_eq!(backend.checks, BTreeMap::from([("success".to_owned(), 1)]));
        let kept = Kept { version: VERSION, opened: 7, backends: vec![backend], ..Kept::default() };
        write(&path, &kept).unwrap();
        assert_eq!(read(&path), Some(kept));
        for text in ["", "{", "{\"version\": 99}"] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path), None, "{text}");
        }
    }
}

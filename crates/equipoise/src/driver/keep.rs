//! What outlives the process: drains, operators' words, backends that they have changed, what checks and breakers have come to, what
//! names stand for, and what has been changed on the machine, in a small file of the instance.
//!
//! Written whole beside the old one and renamed over it, so that a crash leaves one or the other. A file that is lost or
//! cannot be read is said and carried on without: traffic matters more than what was asked for before.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use equipoise_core::breaker;
use equipoise_core::config::breaker::OnTimeout;
use equipoise_core::config::{Change, Changes, EntryAt, Name, PoolEntry, target};
use equipoise_core::drain::{Drain, Request, Status};
use equipoise_core::health::{self, Manual};
use equipoise_core::id::BackendKey;
use equipoise_core::resolve::Places;
use serde::{Deserialize, Serialize};

mod access;
mod facts;

use access::{KeptDenial, KeptRate, KeptService};
use facts::{KeptBreaker, KeptHealth, KeptName};

use super::Driver;
use super::clock::millis;
use super::counts::drop_left;
use crate::dataplane::DataPlane;
use crate::host::Machine;
use crate::host::addresses::Managed;
use crate::host::forwarding::Forwarding;

/// The form of the file.
const VERSION: u32 = 1;

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    version: u32,
    /// Whether this balancer itself is drained.
    #[serde(rename = "self", default)]
    pub(super) itself: bool,
    #[serde(default)]
    drains: Vec<KeptDrain>,
    #[serde(default)]
    words: Vec<KeptWord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    changes: Vec<KeptChange>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    services: Vec<KeptService>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rates: Vec<KeptRate>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    denials: Vec<KeptDenial>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    health: Vec<KeptHealth>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    breakers: Vec<KeptBreaker>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    names: Vec<KeptName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    machine: Option<KeptMachine>,
    /// The number of the configuration that is in force; 0 for the first one, or where none is.
    #[serde(default, skip_serializing_if = "is_zero")]
    generation: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What is otherwise about a backend than the file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeptChange {
    service: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    /// By its address or a name.
    backend: String,
    change: Change,
}

impl KeptChange {
    fn new((entry, change): (&PoolEntry, &Change)) -> Self {
        Self {
            service: entry.service.to_string(),
            route: entry.route.as_deref().map(str::to_owned),
            backend: entry.at.text(),
            change: *change,
        }
    }

    fn read(&self) -> (PoolEntry, Change) {
        let Self { service, route, backend, change } = self;
        let (service, route) = (service.as_str().into(), route.as_deref().map(Into::into));
        (PoolEntry { service, route, at: EntryAt::parse(backend) }, *change)
    }
}

/// What has been changed on the machine, to be taken back at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeptMachine {
    /// Which start of the machine: the next one knows nothing of all this.
    boot: String,
    addresses: Managed,
    settings: Forwarding,
}

/// A backend by its names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeptBackend {
    service: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(with = "target")]
    backend: SocketAddr,
}

impl KeptBackend {
    fn of(key: &BackendKey) -> Self {
        Self {
            service: key.service.to_string(),
            route: key.route.as_deref().map(str::to_owned),
            backend: key.address,
        }
    }

    fn key(&self) -> BackendKey {
        let Self { service, route, backend } = self;
        BackendKey {
            service: service.as_str().into(),
            route: route.as_deref().map(Into::into),
            address: *backend,
        }
    }
}

/// An operator's word about the health of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeptWord {
    #[serde(flatten)]
    of: KeptBackend,
    down: bool,
    /// Until when, since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeptDrain {
    #[serde(flatten)]
    of: KeptBackend,
    /// Since the Unix epoch.
    begun_ms: u64,
    timeout_ms: u64,
    on_timeout: String,
    #[serde(default)]
    forced: bool,
    initial_flows: u64,
    status: String,
}

impl Kept {
    /// What the file has; nothing where there is none.
    pub(super) fn read(path: &Path) -> Self {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the state of before cannot be read");
                return Self::default();
            }
        };
        match serde_json::from_slice::<Self>(&text) {
            Ok(kept) if kept.version <= VERSION => kept,
            Ok(kept) => {
                let version = kept.version;
                tracing::warn!(path = %path.display(), version, "the state of before is of a later version");
                Self::default()
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the state of before is not understood");
                Self::default()
            }
        }
    }

    /// Writes it, so that it is whole whatever happens. Where there is nothing to be kept, there is no file.
    fn write(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        if *self == (Self { version: VERSION, ..Self::default() }) {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // It stays where something else is in it.
            let _: io::Result<()> = fs::remove_dir(directory);
            return Ok(());
        }
        fs::create_dir_all(directory)?;
        let beside = path.with_extension("json.new");
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        let (ours, theirs) = (file.metadata()?, fs::metadata(directory)?);
        if ours.uid() != theirs.uid() {
            // Root clears up after an instance of another user, which has to read it again.
            fchown(&file, Some(theirs.uid()), Some(theirs.gid()))?;
        }
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(directory)?.sync_all()
    }

    /// What is otherwise than the file says.
    pub(super) fn changes(&self) -> Changes {
        let mut changes: Changes = self.changes.iter().map(KeptChange::read).collect();
        for (name, change) in self.services.iter().map(KeptService::read) {
            changes.set_service(name, change);
        }
        for (key, change) in self.rates.iter().map(KeptRate::read) {
            changes.set_rate(key, change);
        }
        for (denial, until) in self.denials.iter().filter_map(KeptDenial::read) {
            changes.deny(denial, until);
        }
        changes
    }

    /// What has been changed on the machine since it was started.
    pub(super) fn machine(&self) -> (Managed, Forwarding) {
        let ours = self.machine.clone().filter(|machine| machine.boot == boot());
        ours.map_or_else(Default::default, |machine| (machine.addresses, machine.settings))
    }

    /// So much has been changed on the machine by now.
    pub(super) fn note_machine(&mut self, addresses: &Managed, settings: &Forwarding) {
        let is_any = !addresses.is_empty() || !settings.is_empty();
        let (addresses, settings) = (addresses.clone(), settings.clone());
        self.machine = is_any.then(|| KeptMachine { boot: boot(), addresses, settings });
    }

    /// Writes it; what stands in the file for longer is said.
    pub(super) fn save(&self, path: &Path) -> bool {
        let written = Self { version: VERSION, ..self.clone() }.write(path);
        written
            .inspect_err(|error| {
                let path = path.display();
                tracing::error!(%path, %error, "what is to outlive this process is not kept");
            })
            .is_ok()
    }

    /// The number of the configuration that comes next: who has seen one of before does not take it for that one. The first one where
    /// nothing of before is in force.
    pub(super) fn take_generation(&mut self, has_inherited: bool) -> u64 {
        if has_inherited || self.generation > 0 {
            self.generation = self.generation.max(1) + 1;
        }
        self.generation.max(1)
    }

    /// Nothing is in force any more.
    pub(super) fn forget_generation(&mut self) {
        self.generation = 0;
    }

    /// What checks had said.
    pub(super) fn health(&self) -> impl Iterator<Item = (BackendKey, health::Lasting)> {
        self.health.iter().filter_map(KeptHealth::read)
    }

    /// Breakers that were not as new.
    pub(super) fn breakers(&self) -> impl Iterator<Item = (BackendKey, breaker::Lasting)> {
        self.breakers.iter().filter_map(KeptBreaker::read)
    }

    /// What names stood for.
    pub(super) fn names(&self) -> impl Iterator<Item = (Name, Places)> {
        self.names.iter().map(KeptName::read)
    }

    /// Names are not to be known to the next process.
    pub(super) fn forget_names(&mut self) {
        self.names.clear();
    }

    /// Operators' words about the health of backends.
    pub(super) fn words(&self) -> impl Iterator<Item = (BackendKey, Manual)> {
        self.words.iter().map(|kept| {
            (
                kept.of.key(),
                Manual { is_down: kept.down, until: kept.until_ms.map(Duration::from_millis) },
            )
        })
    }

    /// The drains.
    pub(super) fn drains(&self) -> impl Iterator<Item = (BackendKey, Drain)> {
        self.drains.iter().map(|kept| {
            let on_timeout = OnTimeout::ALL.iter().find(|(name, _)| *name == kept.on_timeout);
            let request = Request {
                timeout: Duration::from_millis(kept.timeout_ms),
                on_timeout: on_timeout.map(|(_, found)| *found).unwrap_or_default(),
                is_forced: kept.forced,
            };
            let drain = Drain {
                request,
                begun: Duration::from_millis(kept.begun_ms),
                initial_flows: kept.initial_flows,
                flows: kept.initial_flows,
                status: Status::from_name(&kept.status).unwrap_or(Status::Draining),
            };
            (kept.of.key(), drain)
        })
    }
}

/// Where the state of an instance is.
pub fn path(instance: &str) -> PathBuf {
    Path::new("/var/lib/equipoise").join(instance).join("state.json")
}

/// Takes back what a process that is gone has changed on the machine; says if there was anything.
pub async fn release_left<M: Machine>(machine: &mut M, state_file: &Path) -> bool {
    let mut kept = Kept::read(state_file);
    let (mut addresses, mut settings) = kept.machine();
    let is_any = !addresses.is_empty() || !settings.is_empty();
    addresses.release(machine).await;
    settings.release(machine);
    kept.note_machine(&addresses, &settings);
    let had_counts = drop_left(state_file);
    let had_generation = kept.generation > 0;
    kept.forget_generation();
    if is_any || had_counts || had_generation {
        kept.save(state_file);
    }
    is_any
}

fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Keeps what outlives the process, where it has changed.
    pub(super) fn save(&mut self) {
        let drains = self.state.drains().iter().map(|(key, drain)| KeptDrain {
            of: KeptBackend::of(key),
            begun_ms: millis(drain.begun),
            timeout_ms: millis(drain.request.timeout),
            on_timeout: drain.request.on_timeout.name().to_owned(),
            forced: drain.request.is_forced,
            initial_flows: drain.initial_flows,
            status: drain.status.name().to_owned(),
        });
        let drains = drains.collect();
        let words = self.state.words().map(|(key, Manual { is_down, until })| KeptWord {
            of: KeptBackend::of(key),
            down: is_down,
            until_ms: until.map(millis),
        });
        let words = words.collect();
        let changed = &self.written.changes;
        let changes = changed.backends().map(KeptChange::new).collect();
        let services = changed.services();
        let services = services.map(|(name, change)| KeptService::new(name, change)).collect();
        let rates = changed.rates().map(|(key, change)| KeptRate::new(key, *change)).collect();
        let denials = changed.denials().map(|(denial, until)| KeptDenial::new(denial, until));
        let denials = denials.collect();
        let health =
            self.state.lasting_health().map(|(key, lasting)| KeptHealth::new(key, lasting));
        let breakers =
            self.state.lasting_breakers().map(|(key, lasting)| KeptBreaker::new(key, lasting));
        let (health, breakers) = (health.collect(), breakers.collect());
        let names = self.state.names().iter();
        let names = names.filter(|(_, known)| !known.places().is_empty());
        let names = names.map(|(name, known)| KeptName::new(name, known.places())).collect();
        let mut kept = Kept {
            version: VERSION,
            itself: self.is_drained,
            drains,
            words,
            changes,
            services,
            rates,
            denials,
            health,
            breakers,
            names,
            machine: None,
            generation: if self.generation.number > 1 { self.generation.number } else { 0 },
        };
        kept.note_machine(&self.managed, &self.forwarding);
        if kept != self.kept && kept.save(&self.state_file) {
            self.kept = kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use equipoise_core::config::{Denial, NewBackend, RateChange, RateKey, RateOf};
    use tempfile::TempDir;

    fn kept() -> Kept {
        let drain = KeptDrain {
            of: KeptBackend {
                service: "web".to_owned(),
                route: Some("10.0.0.0/8".to_owned()),
                backend: "[2001:db8::1]:80".parse().unwrap(),
            },
            begun_ms: 1_700_000_000_123,
            timeout_ms: 60_000,
            on_timeout: "reset".to_owned(),
            forced: true,
            initial_flows: 7,
            status: "timeout".to_owned(),
        };
        let word = KeptWord {
            of: KeptBackend {
                service: "web".to_owned(),
                route: None,
                backend: "10.0.0.1:80".parse().unwrap(),
            },
            down: true,
            until_ms: Some(1_800_000_000_000),
        };
        let new = NewBackend { weight: 3, max_flows: 4, backup: true };
        let changes = [Change::Weight(7), Change::Added(new), Change::Removed];
        let key = word.of.key().into();
        let changes = changes.map(|change| KeptChange::new((&key, &change))).into();
        let (drains, words) = (vec![drain], vec![word]);
        Kept { version: VERSION, itself: true, drains, words, changes, ..kept_access() }
    }

    fn kept_access() -> Kept {
        let denial = Denial { prefix: "10.0.0.0/8".parse().unwrap(), service: Some("web".into()) };
        let key = RateKey { service: "web".into(), of: RateOf::PerSource };
        let change = RateChange { rate: 3, burst: Some(9) };
        let until = Some(Duration::from_millis(1_800_000_000_123));
        let denials = vec![KeptDenial::new(&denial, until)];
        Kept { rates: vec![KeptRate::new(&key, change)], denials, ..Kept::default() }
    }

    #[test]
    fn changes_are_kept_as_they_are() {
        let changes = kept().changes();
        assert_eq!(changes.len(), 3, "changes of one backend are one");
        let (key, change) = changes.rates().next().unwrap();
        assert_eq!((&*key.service, key.of), ("web", RateOf::PerSource));
        assert_eq!(change.numbers(), Some((3, 9)));
        let (denial, until) = changes.denials().next().unwrap();
        assert_eq!(denial.to_string(), "10.0.0.0/8 at web");
        assert_eq!(until, Some(Duration::from_millis(1_800_000_000_123)));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("deep").join("state.json");
        assert_eq!(Kept::read(&path), Kept::default(), "there is none yet");
        kept().write(&path).unwrap();
        kept().write(&path).unwrap();
        let read = Kept::read(&path);
        assert_eq!(read, kept());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        Kept { version: VERSION, ..Kept::default() }.write(&path).unwrap();
        assert!(!path.parent().unwrap().exists(), "nothing is kept, and nothing is left");
        let (key, drain) = read.drains().next().unwrap();
        assert_eq!((&*key.service, key.route.as_deref()), ("web", Some("10.0.0.0/8")));
        assert_eq!(drain.begun, Duration::from_millis(1_700_000_000_123));
        assert_eq!((drain.status, drain.request.on_timeout), (Status::TimedOut, OnTimeout::Reset));
        assert!(drain.request.is_forced && drain.resets());
        let (key, word) = read.words().next().unwrap();
        assert_eq!((key.route, word.is_down), (None, true));
        assert_eq!(word.until, Some(Duration::from_secs(1_800_000_000)));
    }

    #[test]
    fn what_is_not_understood_is_nothing() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("state.json");
        for text in ["", "{", "[]", "{\"version\": 99}", "\0\0\0"] {
            fs::write(&path, text).unwrap();
            assert_eq!(Kept::read(&path), Kept::default(), "{text:?}");
        }
    }
}

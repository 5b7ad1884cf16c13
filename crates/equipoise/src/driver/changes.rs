//! What operators change while the program runs: each change makes a configuration of its own, out of the file as it was taken and all changes so far.
//!
//! That configuration is checked and taken as one of a file is. What has been changed is kept for the next process, stays over
//! reloads as long as the file says something else, and is dropped by a reload that asks for it.

use equipoise_core::config::{
    Change, Changes, Denial, EntryAt, NewBackend, PoolEntry, RateChange, RateKey, Route,
    ServiceChange, target,
};
use equipoise_core::facts::Moment;
use equipoise_core::id::{BackendKey, DEFAULT_ROUTE};

use super::Driver;
use super::health::in_words;
use crate::admin::{Configure, ProblemDetails};
use crate::config_file::Base;
use crate::dataplane::DataPlane;
use crate::host::Machine;
use crate::known::there_are;
use crate::status::change::{
    AddRequest, ReloadAnswer, ReloadRequest, RuntimeChange, WeightRequest,
};
use crate::status::health::BackendName;
use crate::status::history::Author;
use crate::status::limits::{DenyRequest, RateRequest};

/// What a running configuration is made of.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    /// What the file said, or the flags.
    pub(super) base: Base,
    /// What is otherwise.
    pub(super) changes: Changes,
}

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// Takes another configuration.
    pub(super) async fn configure(
        &mut self,
        what: &Configure,
        by: Author,
    ) -> Result<ReloadAnswer, ProblemDetails> {
        let before = self.snapshot.borrow().config.clone();
        self.supervisor.reloading();
        let taken = match what {
            Configure::Reload(request) => self.reload(request).await,
            Configure::Weight(name, request) => self.set_weight(name, request).await,
            Configure::Add(service, request) => self.add_backend(service, request).await,
            Configure::Remove(name) => self.remove_backend(name).await,
            Configure::Text(base) => self.take_text(base).await,
            Configure::Service(name, table, existing) => {
                self.set_service(name, table, *existing).await
            }
            Configure::WithoutService(name) => self.remove_service(name).await,
            Configure::Rates(service, of, request) => self.set_rates(service, of, *request).await,
            Configure::Deny(prefix, request) => self.deny(*prefix, request).await,
            Configure::AllowAgain(denial) => self.allow_again(denial).await,
            Configure::Expire => self.expire().await,
        };
        self.supervisor.ready(self.generation.number);
        self.remember(by, &asked(what), &before, &taken);
        taken
    }

    /// A text that was given, in place of the one before.
    async fn take_text(&mut self, base: &Base) -> Result<ReloadAnswer, ProblemDetails> {
        let base = base.clone().or_on_exit(self.written.base.on_exit());
        let written = Written { base, changes: self.written.changes.clone() };
        let taken = self.take(written, None).await;
        self.tell_taken(&taken, "it was given");
        taken
    }

    async fn set_weight(
        &mut self,
        name: &BackendName,
        request: &WeightRequest,
    ) -> Result<ReloadAnswer, ProblemDetails> {
        let BackendName { service, backend, .. } = name;
        let keys = self.of_the_file(name)?;
        let mut changes = self.written.changes.clone();
        let weight = request.weight;
        for key in keys {
            changes.set_weight(key, weight);
        }
        self.change(changes, format!("weight of {backend} of {service} is {weight}")).await
    }

    async fn add_backend(
        &mut self,
        service: &str,
        request: &AddRequest,
    ) -> Result<ReloadAnswer, ProblemDetails> {
        let AddRequest { address: backend, weight, route, max_flows, backup } = request;
        let address = target::parse(backend).ok_or_else(|| {
            ProblemDetails::unprocessable(format!("{backend:?} is no address with a port"))
                .with_help("an address and a port are such as 10.0.0.1:8080 or [2001:db8::1]:8080")
        })?;
        let found = self.service(service)?;
        let route = route.as_deref().filter(|route| *route != DEFAULT_ROUTE);
        let is_there = |name: &str| found.all_routes().any(|route| Route::name(route) == name);
        if let Some(name) = route.filter(|name| !is_there(name)) {
            let message = format!("service {service:?} has no route {name:?}");
            let routes = found.all_routes().map(Route::name).chain([DEFAULT_ROUTE]);
            let help = there_are("routes", name, routes);
            return Err(ProblemDetails::not_found(message).with_help(help));
        }
        let key = BackendKey { service: service.into(), route: route.map(Into::into), address };
        if !self.all_backends(|other| *other == key).is_empty() {
            let problem = ProblemDetails::conflict(format!("there is already {}", in_words(&key)));
            let help = format!("`equipoise weight {service} {backend} N` gives it another weight");
            return Err(problem.with_help(help));
        }
        let mut changes = self.written.changes.clone();
        let new = NewBackend { weight: *weight, max_flows: *max_flows, backup: *backup };
        let what = format!("{} is added", in_words(&key));
        changes.add(key, new);
        self.change(changes, what).await
    }

    async fn remove_backend(&mut self, name: &BackendName) -> Result<ReloadAnswer, ProblemDetails> {
        let BackendName { service, backend, .. } = name;
        let keys = self.of_the_file(name)?;
        let mut changes = self.written.changes.clone();
        keys.into_iter().for_each(|key| changes.remove(key));
        self.change(changes, format!("{backend} of {service} is removed")).await
    }

    /// Backends that are meant, as the file has them, or an earlier change: by their address, or all of a name.
    fn of_the_file(&self, name: &BackendName) -> Result<Vec<PoolEntry>, ProblemDetails> {
        let BackendName { service, backend, route } = name;
        let meant = EntryAt::parse(backend);
        let written = self.state.written();
        let keys = BackendKey::all(written).map(|(key, _)| PoolEntry::from(key));
        let of_names = written.services.iter().flat_map(|service| {
            service.pools().flat_map(move |pool| {
                pool.named.iter().map(move |named| PoolEntry {
                    service: service.name.as_str().into(),
                    route: pool.route.map(|route| route.name().into()),
                    at: EntryAt::Name(named.text().into()),
                })
            })
        });
        let is_meant = |entry: &PoolEntry| {
            *entry.service == **service
                && entry.at == meant
                && route.as_deref().is_none_or(|route| route == entry.route_name())
        };
        let found: Vec<_> = keys.chain(of_names).filter(is_meant).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let keys = self.backends(service, backend, route.as_deref())?;
        let mut there = BackendKey::all(self.state.config());
        let of_name = there.find(|(key, _)| keys.contains(key));
        let name = of_name.and_then(|(_, member)| Some(member.backend.names().next()?.text()));
        let message = format!("{backend} of {service} comes of a name");
        let help = format!(
            "what a name stands for is changed together: by {}",
            name.as_deref().unwrap_or("the name")
        );
        Err(ProblemDetails::conflict(message).with_help(help))
    }

    /// What is otherwise than the file says.
    pub(super) fn runtime_changes(&self) -> Vec<RuntimeChange> {
        let changes = &self.written.changes;
        let of_backend = |(key, change): (&PoolEntry, &Change)| {
            let (change, weight) = match change {
                Change::Weight(weight) => ("weight", Some(*weight)),
                Change::Added(new) => ("added", Some(new.weight)),
                Change::Removed => ("removed", None),
            };
            RuntimeChange {
                service: Some(key.service.to_string()),
                route: Some(key.route_name().to_owned()),
                backend: Some(key.at.text()),
                change: change.to_owned(),
                weight,
                ..RuntimeChange::default()
            }
        };
        let of_rate = |(key, change): (&RateKey, &RateChange)| RuntimeChange {
            service: Some(key.service.to_string()),
            change: key.of.name().to_owned(),
            rate: Some(change.rate),
            burst: change.numbers().map(|(_, burst)| burst),
            ..RuntimeChange::default()
        };
        let of_denial = |(denial, until): (&Denial, Option<Moment>)| RuntimeChange {
            service: denial.service.as_deref().map(str::to_owned),
            change: "denied".to_owned(),
            prefix: Some(denial.prefix.to_string()),
            until: until.map(|until| self.clock.written(until)),
            ..RuntimeChange::default()
        };
        let of_service = |(name, change): (&str, &ServiceChange)| RuntimeChange {
            service: Some(name.to_owned()),
            change: match change {
                ServiceChange::Given(_) => "service-given".to_owned(),
                ServiceChange::Removed => "service-removed".to_owned(),
            },
            ..RuntimeChange::default()
        };
        let services = changes.services().map(of_service);
        let backends = changes.backends().map(of_backend);
        let rates = changes.rates().map(of_rate);
        services.chain(backends).chain(rates).chain(changes.denials().map(of_denial)).collect()
    }

    /// Takes these changes in place of those so far; `what` is said of it.
    pub(super) async fn change(
        &mut self,
        changes: Changes,
        what: String,
    ) -> Result<ReloadAnswer, ProblemDetails> {
        let base = self.written.base.clone();
        let written = Written { base, changes };
        let taken = self.take(written, None).await;
        self.tell_taken(&taken, &what);
        taken
    }
}

/// What is asked for, in words.
pub(super) fn asked(what: &Configure) -> String {
    in_a_line(&words_of(what))
}

/// The beginning of what somebody else may have written, as it can be shown on a terminal.
fn in_a_line(text: &str) -> String {
    const MOST: usize = 200;
    let mut shown = String::new();
    for (at, letter) in text.chars().enumerate() {
        match letter {
            _ if at == MOST => {
                shown.push('…');
                break;
            }
            letter if letter.is_control() => shown.extend(letter.escape_default()),
            letter => shown.push(letter),
        }
    }
    shown
}

fn words_of(what: &Configure) -> String {
    let of = |name: &BackendName| format!("{} of {}", name.backend, name.service);
    match what {
        Configure::Reload(ReloadRequest { file: Some(file), .. }) => format!("reload {file}"),
        Configure::Reload(ReloadRequest { file: None, .. }) => "reload".to_owned(),
        Configure::Weight(name, request) => format!("weight {} of {}", request.weight, of(name)),
        Configure::Add(service, request) => format!("add {} to {service}", request.address),
        Configure::Remove(name) => format!("remove {}", of(name)),
        Configure::Text(base) => format!("take {}", base.name),
        Configure::Service(name, ..) => format!("service {name}"),
        Configure::WithoutService(name) => format!("remove service {name}"),
        Configure::Rates(service, rates, request) => {
            let RateRequest { rate, burst } = *request;
            let names: Vec<_> = rates.iter().map(|of| of.name()).collect();
            format!("limit {} of {service}: {}", names.join(", "), RateChange { rate, burst })
        }
        Configure::Deny(prefix, DenyRequest { service, .. }) => {
            let service = service.as_deref().map(Into::into);
            format!("deny {}", Denial { prefix: *prefix, service })
        }
        Configure::AllowAgain(denial) => format!("no longer deny {denial}"),
        Configure::Expire => "the time of denied prefixes is up".to_owned(),
    }
}

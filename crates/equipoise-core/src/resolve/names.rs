//! All names of a configuration: which to look up when, each once however many pools have it.
//!
//! Look-ups have numbers that are never used twice, so that an answer to one that nobody waits for any more finds nothing.
//! A name that leaves takes its time and its look-up under way with it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Answer, Changed, Failure, Places, Resolved, Settings};
use crate::chance::unit;
use crate::config::{Config, Dns, Name};
use crate::facts::Moment;

/// A look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookUpId(pub u64);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A name is to be looked up, and the answer to be told by the id.
    LookUp {
        /// The id.
        id: LookUpId,
        /// The name.
        name: Name,
        /// Who is asked; the system's resolvers where there are none.
        resolvers: Arc<[SocketAddr]>,
    },
    /// Nobody waits for this look-up any more.
    Cancel {
        /// Its id.
        id: LookUpId,
    },
}

/// What an answer, or the want of one, has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Of which name.
    pub name: Name,
    /// What it stands for now that it did not before, or no longer; none where that is the same.
    pub changed: Option<Changed>,
    /// Why there is no answer, or not all of one, where that has not been told of it before.
    pub failure: Option<Failure>,
}

/// Names, and how long from one look-up to the next.
type Wanted = BTreeMap<Name, Option<Duration>>;

/// All names.
#[derive(Clone, Debug, Default)]
pub struct Names {
    dns: Dns,
    seed: u64,
    names: BTreeMap<Name, Looked>,
    /// Names of the configuration; from one look-up to the next.
    wanted: Wanted,
    /// Of one that may be taken next.
    prepared: Wanted,
    /// Of those that may be taken again.
    kept: Wanted,
    due: BTreeSet<(Moment, Name)>,
    in_flight: BTreeMap<LookUpId, Name>,
    cancelled: Vec<LookUpId>,
    last: u64,
    has_changed: bool,
}

#[derive(Clone, Debug)]
struct Looked {
    resolved: Resolved,
    in_flight: Option<LookUpId>,
    /// Whether it has been looked up at all, well or not.
    is_tried: bool,
}

impl Names {
    /// None; the seed decides by how much look-ups are put off.
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Another configuration: what stays keeps what is known of it, what is new is due, and of what leaves nothing is left.
    pub fn handle_config(&mut self, now: Moment, config: &Config) {
        let dns = &config.settings.dns;
        let asks_others = self.dns.resolvers != dns.resolvers;
        self.dns.clone_from(dns);
        self.wanted = wanted([config]);
        self.prepared.clear();
        self.follow(now);
        if asks_others {
            let names: Vec<_> = self.names.keys().cloned().collect();
            names.iter().for_each(|name| self.ask_one(now, name));
        }
    }

    /// A configuration may be taken next: its names are looked up too. True when that is done, well or not.
    pub fn prepare(&mut self, now: Moment, config: &Config) -> bool {
        self.prepared = wanted([config]);
        self.follow(now);
        self.are_prepared()
    }

    /// Whether the names of the configuration that may be taken next have been looked up, well or not.
    pub fn are_prepared(&self) -> bool {
        self.prepared.keys().all(|name| self.names.get(name).is_some_and(|looked| looked.is_tried))
    }

    /// It is not taken.
    pub fn forget_prepared(&mut self, now: Moment) {
        if !self.prepared.is_empty() {
            self.prepared.clear();
            self.follow(now);
        }
    }

    /// These configurations may be taken again: their names go on being looked up.
    pub fn keep<'a>(&mut self, now: Moment, configs: impl IntoIterator<Item = &'a Config>) {
        let kept = wanted(configs);
        if self.kept != kept {
            self.kept = kept;
            self.follow(now);
        }
    }

    /// Has exactly the names that are wanted.
    fn follow(&mut self, now: Moment) {
        let mut wanted = self.kept.clone();
        for (name, refresh) in self.prepared.iter().chain(&self.wanted) {
            wanted.insert(name.clone(), *refresh);
        }
        let gone = self.names.keys().filter(|name| !wanted.contains_key(name));
        for name in gone.cloned().collect::<Vec<_>>() {
            self.end_look_up(&name);
            if let Some(looked) = self.names.remove(&name) {
                self.due.remove(&(looked.resolved.due(), name));
            }
        }
        for (name, refresh) in wanted {
            let settings = Settings::new(&self.dns, refresh);
            let looked = self.names.entry(name.clone()).or_insert_with(|| Looked {
                resolved: Resolved::new(settings, now),
                in_flight: None,
                is_tried: false,
            });
            self.due.remove(&(looked.resolved.due(), name.clone()));
            looked.resolved.set(settings, now);
            if looked.in_flight.is_none() {
                self.due.insert((looked.resolved.due(), name));
            }
        }
    }

    /// What is to be done by now; none when that is all.
    pub fn poll_effect(&mut self, now: Moment) -> Option<Effect> {
        if let Some(id) = self.cancelled.pop() {
            return Some(Effect::Cancel { id });
        }
        let due = self.due.first().filter(|(due, _)| *due <= now)?.clone();
        self.due.remove(&due);
        let (_, name) = due;
        self.last += 1;
        let id = LookUpId(self.last);
        self.names.get_mut(&name)?.in_flight = Some(id);
        self.in_flight.insert(id, name.clone());
        Some(Effect::LookUp { id, name, resolvers: Arc::clone(&self.dns.resolvers) })
    }

    /// What a look-up is of, if its answer is waited for.
    pub fn looked_up(&self, id: LookUpId) -> Option<&Name> {
        self.in_flight.get(&id)
    }

    /// A look-up has ended. Answers that nobody waits for change nothing.
    pub fn handle_answer(
        &mut self,
        now: Moment,
        (id, answer): (LookUpId, Result<Answer, Failure>),
        is_bad: impl Fn(&SocketAddr) -> bool,
    ) -> Option<Told> {
        let name = self.in_flight.remove(&id)?;
        let looked = self.names.get_mut(&name)?;
        looked.in_flight = None;
        looked.is_tried = true;
        let when = (now, unit(self.seed ^ id.0));
        let known = looked.resolved.failures().1.cloned();
        let changed = match answer {
            Ok(answer) => looked.resolved.answer(&answer, is_bad, when),
            Err(failure) => {
                looked.resolved.fail(failure, when);
                None
            }
        };
        self.has_changed |= changed.is_some();
        self.due.insert((looked.resolved.due(), name.clone()));
        let failure = looked
            .resolved
            .failures()
            .1
            .filter(|failure| known.as_ref().is_none_or(|known| known.kind != failure.kind));
        Some(Told { failure: failure.cloned(), name, changed })
    }

    /// Has a name looked up at once, also where a look-up is under way: that may have been answered before what is asked for
    /// came to be. False where there is no such name.
    pub fn ask(&mut self, now: Moment, name: &Name) -> bool {
        let is_there = self.names.contains_key(name);
        if is_there {
            self.ask_one(now, name);
        }
        is_there
    }

    fn ask_one(&mut self, now: Moment, name: &Name) {
        self.end_look_up(name);
        let Some(looked) = self.names.get_mut(name) else { return };
        self.due.remove(&(looked.resolved.due(), name.clone()));
        looked.resolved.ask(now);
        self.due.insert((now, name.clone()));
    }

    fn end_look_up(&mut self, name: &Name) {
        let looked = self.names.get_mut(name);
        if let Some(id) = looked.and_then(|looked| looked.in_flight.take()) {
            self.in_flight.remove(&id);
            self.cancelled.push(id);
        }
    }

    /// When something is to be done.
    pub fn next_wake(&self) -> Option<Moment> {
        if !self.cancelled.is_empty() {
            return Some(Moment::ZERO);
        }
        self.due.first().map(|(due, _)| *due)
    }

    /// What a name stands for, if it is known.
    pub fn places(&self, name: &Name) -> Option<&Places> {
        self.names.get(name).map(|looked| looked.resolved.places())
    }

    /// The names of the configuration, and what is known of each.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Resolved)> {
        let is_of_it = |name: &Name| self.wanted.contains_key(name);
        let names = self.names.iter().filter(move |(name, _)| is_of_it(name));
        names.map(|(name, looked)| (name, &looked.resolved))
    }

    /// Of the configuration that may be taken next, the names that stand for nothing yet, and why.
    pub fn lacking(&self) -> impl Iterator<Item = (&Name, Option<&Failure>)> {
        let names = self.prepared.keys().filter_map(|name| self.names.get_key_value(name));
        let lacking = names.filter(|(_, looked)| looked.resolved.places().is_empty());
        lacking.map(|(name, looked)| (name, looked.resolved.failures().1))
    }

    /// A name stood for this when an earlier process ran; false where there is no such name, or it is known already.
    pub fn restore(&mut self, name: &Name, places: Places) -> bool {
        let is_taken =
            self.names.get_mut(name).is_some_and(|looked| looked.resolved.restore(places));
        self.has_changed |= is_taken;
        is_taken
    }

    /// A name has just been looked up for this: nothing where that has failed. Nobody is to wait for its first answer once more.
    pub fn note_tried(&mut self, name: &Name, places: Places) {
        self.restore(name, places);
        if let Some(looked) = self.names.get_mut(name) {
            looked.is_tried = true;
        }
    }

    /// Whether any stands for something else since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// Whether any does since that was asked last.
    pub fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// Names, times at which one is due, and look-ups under way.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.names.len(), self.due.len(), self.in_flight.len())
    }
}

/// The names of configurations; where they are said to be looked up differently often, the shortest time counts.
fn wanted<'a>(configs: impl IntoIterator<Item = &'a Config>) -> Wanted {
    let mut wanted = Wanted::new();
    for service in configs.into_iter().flat_map(|config| &config.services) {
        for named in service.pools().flat_map(|pool| pool.named) {
            let refresh = wanted.entry(named.name.clone()).or_default();
            *refresh = [*refresh, named.refresh].into_iter().flatten().min();
        }
        for name in service.routes.iter().flat_map(|route| &route.source_names) {
            wanted.entry(name.clone()).or_default();
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::resolve::{FailureKind, Part};

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    fn config(names: &[&str], dns: &str) -> Config {
        let backends: Vec<_> = names.iter().map(|n| format!("{{ {n}, port = 80 }}")).collect();
        let text = format!(
            "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], port = 80 }}\n\
             backends = [{{ address = '10.0.0.9:80' }}, {}]\n[settings.dns]\n{dns}",
            backends.join(", ")
        );
        parse("a.toml", &text).unwrap().config
    }

    fn host(name: &str) -> Name {
        Name::Host(name.into())
    }

    fn answer(last: u8, ttl: u64) -> Result<Answer, Failure> {
        let place = (SocketAddr::from(([10, 0, 0, last], 0)), Part::default());
        Ok(Answer { places: [place].into(), ttl: Some(at(ttl)), lacks: None })
    }

    fn failure(kind: FailureKind) -> Result<Answer, Failure> {
        Err(Failure { kind, message: kind.name().to_owned() })
    }

    /// What is to be looked up by now.
    fn look_ups(names: &mut Names, now: Moment) -> Vec<(LookUpId, String)> {
        let effects = std::iter::from_fn(|| names.poll_effect(now));
        effects
            .filter_map(|effect| match effect {
                Effect::LookUp { id, name, .. } => Some((id, name.to_string())),
                Effect::Cancel { .. } => None,
            })
            .collect()
    }

    fn tell(
        names: &mut Names,
        now: Moment,
        id: LookUpId,
        answer: Result<Answer, Failure>,
    ) -> Option<Told> {
        names.handle_answer(now, (id, answer), |_| false)
    }

    const API: &str = "host = 'api.internal'";
    const WEB: &str = "host = 'web.internal'";

    #[test]
    fn each_name_is_looked_up_once_and_again_when_its_time_is_over() {
        let mut names = Names::new(7);
        names.handle_config(at(0), &config(&[API, WEB], ""));
        let asked = look_ups(&mut names, at(0));
        assert_eq!(
            asked.iter().map(|(_, n)| n.as_str()).collect::<Vec<_>>(),
            ["api.internal", "web.internal"]
        );
        assert_eq!(look_ups(&mut names, at(1000)), [], "not while it is under way");
        assert_eq!(names.counts(), (2, 0, 2));
        let told = tell(&mut names, at(1), asked[0].0, answer(1, 100)).unwrap();
        assert_eq!(told.changed.unwrap().added.len(), 1);
        assert!(names.take_changed() && !names.take_changed());
        let due = names.next_wake().unwrap();
        assert!(due >= at(91) && due <= at(111), "{due:?}: within a tenth of the time");
        assert_eq!(look_ups(&mut names, due - Duration::from_millis(1)), []);
        let again = look_ups(&mut names, due);
        assert_eq!(again[0].1, "api.internal");
        assert_eq!(tell(&mut names, due, again[0].0, answer(1, 100)).unwrap().changed, None);
        assert!(!names.has_changed(), "the same again");
    }

    #[test]
    fn names_that_are_due_at_once_do_not_stay_together() {
        let mut names = Names::new(3);
        let all: Vec<_> = (0..50).map(|n| format!("host = 'n{n}.internal'")).collect();
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        names.handle_config(at(0), &config(&all, ""));
        let asked = look_ups(&mut names, at(0));
        asked.into_iter().for_each(|(id, _)| drop(tell(&mut names, at(0), id, answer(1, 100))));
        assert_eq!(look_ups(&mut names, at(90)), []);
        let half = look_ups(&mut names, at(100)).len();
        assert!((15..=35).contains(&half), "{half}");
        assert_eq!(half + look_ups(&mut names, at(110)).len(), 50);
    }

    #[test]
    fn name_that_leaves_while_it_is_looked_up_leaves_nothing_and_comes_again_as_one() {
        let mut names = Names::new(1);
        names.handle_config(at(0), &config(&[API], ""));
        let [(id, _)] = look_ups(&mut names, at(0))[..] else { panic!() };
        names.handle_config(at(1), &config(&[], ""));
        assert_eq!(names.counts(), (0, 0, 0));
        assert_eq!(names.next_wake(), Some(Moment::ZERO), "it is to be given up");
        assert_eq!(names.poll_effect(at(1)), Some(Effect::Cancel { id }));
        assert_eq!((names.poll_effect(at(1)), names.next_wake()), (None, None));
        assert_eq!(tell(&mut names, at(2), id, answer(1, 1)), None);
        names.handle_config(at(3), &config(&[API, WEB], ""));
        assert_eq!(names.counts(), (2, 2, 0));
        assert_eq!(tell(&mut names, at(3), id, answer(1, 1)), None, "that was another");
        assert_eq!(look_ups(&mut names, at(3)).len(), 2);
        assert_eq!(names.places(&host("api.internal")).unwrap().len(), 0);
    }

    #[test]
    fn what_is_asked_for_begins_anew_also_where_a_look_up_is_under_way() {
        let mut names = Names::new(1);
        names.handle_config(at(0), &config(&[API], ""));
        let first = look_ups(&mut names, at(0))[0].0;
        assert!(names.ask(at(1), &host("api.internal")) && !names.ask(at(1), &host("x")));
        assert_eq!(names.poll_effect(at(1)), Some(Effect::Cancel { id: first }));
        let second = look_ups(&mut names, at(1))[0].0;
        assert_eq!(tell(&mut names, at(2), first, answer(1, 60)), None, "it may be old");
        assert!(tell(&mut names, at(2), second, answer(2, 60)).is_some());
        assert_eq!(names.counts(), (1, 1, 0));
    }

    #[test]
    fn failures_are_told_when_they_are_new() {
        let mut names = Names::new(1);
        names.handle_config(at(0), &config(&[API], ""));
        let mut told = Vec::new();
        let kinds = [FailureKind::Timeout, FailureKind::Timeout, FailureKind::UnknownHost];
        for kind in kinds {
            let now = names.next_wake().unwrap();
            let id = look_ups(&mut names, now)[0].0;
            told.push(tell(&mut names, now, id, failure(kind)).unwrap().failure.map(|f| f.kind));
        }
        assert_eq!(told, [Some(FailureKind::Timeout), None, Some(FailureKind::UnknownHost)]);
        assert_eq!(names.iter().next().unwrap().1.failures().0, 3);
    }

    #[test]
    fn shortest_time_of_all_users_and_other_resolvers_count_at_once() {
        let mut names = Names::new(1);
        let mut config = config(&["host = 'api.internal', refresh = '50s'"], "");
        names.handle_config(at(0), &config);
        let id = look_ups(&mut names, at(0))[0].0;
        tell(&mut names, at(0), id, answer(1, 3));
        assert!(names.next_wake().unwrap() >= at(45));
        let mut other = config.services[0].clone();
        other.named = vec![Arc::new(crate::config::Named {
            refresh: Some(at(5)),
            ..(*other.named[0]).clone()
        })];
        config.services.push(other);
        names.handle_config(at(1), &config);
        assert!(names.next_wake().unwrap() <= at(6));
        config.settings.dns.resolvers = ["10.0.0.53:53".parse().unwrap()].into();
        names.handle_config(at(2), &config);
        assert_eq!(names.next_wake(), Some(at(2)));
        let Some(Effect::LookUp { resolvers, .. }) = names.poll_effect(at(2)) else { panic!() };
        assert_eq!(resolvers.len(), 1);
    }

    #[test]
    fn configuration_that_may_be_taken_is_ready_when_its_names_have_been_looked_up() {
        let mut names = Names::new(1);
        names.handle_config(at(0), &config(&[API], ""));
        let id = look_ups(&mut names, at(0))[0].0;
        tell(&mut names, at(0), id, answer(1, 60));
        assert!(names.prepare(at(1), &config(&[API], "")));
        let next = config(&[API, WEB], "");
        assert!(!names.prepare(at(1), &next) && !names.prepare(at(1), &next));
        let asked = look_ups(&mut names, at(1));
        assert_eq!(asked.len(), 1);
        assert_eq!(names.iter().count(), 1, "it is not a part of what is in force");
        tell(&mut names, at(2), asked[0].0, failure(FailureKind::UnknownHost));
        assert!(names.prepare(at(2), &next));
        assert_eq!(
            names.lacking().map(|(name, _)| name.text()).collect::<Vec<_>>(),
            ["web.internal"]
        );
        names.forget_prepared(at(3));
        assert_eq!(names.counts(), (1, 1, 0));
    }
}

//! Names in the state: what they stand for becomes a part of the configuration in force.
//!
//! Answers are taken as they come; what follows from them is taken when the shell says so, since it may have to look at the
//! machine first. From then on a backend of a name is as any other.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::State;
use crate::config::{Config, Name};
use crate::id::{BackendKey, Wanted};
use crate::resolve::{
    Answer, Effect, Expanded, Failure, LeftOut, LookUpId, Names, Places, Told, expand,
};

impl State {
    /// The names that are looked up.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Places that names stand for and that are no backends.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// Which name to look up now, or which look-up to give up; none when that is all.
    pub fn poll_look_up(&mut self) -> Option<Effect> {
        self.names.poll_effect(self.now)
    }

    /// A look-up has ended; what that tells.
    pub fn handle_answer(&mut self, id: LookUpId, answer: Result<Answer, Failure>) -> Option<Told> {
        let name = self.names.looked_up(id)?.clone();
        let bad = self.bad_places(&name);
        self.names.handle_answer(self.now, (id, answer), |place| bad.contains(place))
    }

    /// Places of a name of which every pool that has them knows that they are down.
    fn bad_places(&self, name: &Name) -> BTreeSet<SocketAddr> {
        let (mut bad, mut good) = (BTreeSet::new(), BTreeSet::new());
        for (key, member) in BackendKey::all(&self.config) {
            for named in member.backend.names().filter(|named| named.name == *name) {
                let is_down = self.health.standing(&key).belief.is_down;
                let mut place = key.address;
                if let Name::Host(_) = named.name {
                    place.set_port(0);
                }
                (if is_down { &mut bad } else { &mut good }).insert(place);
            }
        }
        bad.retain(|place| !good.contains(place));
        bad
    }

    /// Has a name looked up at once; false where there is no such name.
    pub fn look_up_now(&mut self, name: &Name) -> bool {
        self.names.ask(self.now, name)
    }

    /// A configuration may be taken next. True when all of its names have been looked up, well or not.
    pub fn prepare_names(&mut self, config: &Config) -> bool {
        self.names.prepare(self.now, config)
    }

    /// It is not taken.
    pub fn forget_prepared(&mut self) {
        self.names.forget_prepared(self.now);
    }

    /// These configurations may be taken again: what is known of their names is kept, and followed.
    pub fn keep_names<'a>(&mut self, configs: impl IntoIterator<Item = &'a Config>) {
        self.names.keep(self.now, configs);
    }

    /// A name stood for this when an earlier process ran; false where there is no such name, or it is known already.
    pub fn restore_name(&mut self, name: &Name, places: Places) -> bool {
        self.names.restore(name, places)
    }

    /// A name has just been looked up, before all of this was this process's own: as [`crate::resolve::Names::note_tried`].
    pub fn note_looked_up(&mut self, name: &Name, places: Places) {
        self.names.note_tried(name, places);
    }

    /// A configuration with what its names stand for, as far as that is known.
    pub fn expanded(&self, config: &Config) -> Config {
        expand(config, |name| self.names.places(name)).config
    }

    /// Whether names stand for something that the configuration in force does not have yet.
    pub fn has_new_places(&self) -> bool {
        self.names.has_changed()
    }

    /// Takes what names stand for. Drains of backends that have left for good end; answers with those that were not over.
    pub fn take_places(&mut self) -> Vec<BackendKey> {
        self.names.take_changed();
        let (config, left_out) = self.with_places();
        if config == self.config {
            self.left_out = left_out;
            return Vec::new();
        }
        self.put(config, left_out)
    }

    /// Has the configuration as it is written, with what names stand for, in force.
    pub(super) fn resolve(&mut self) -> Vec<BackendKey> {
        self.names.take_changed();
        let (config, left_out) = self.with_places();
        self.put(config, left_out)
    }

    fn put(&mut self, config: Arc<Config>, left_out: Vec<LeftOut>) -> Vec<BackendKey> {
        self.absent.follow(self.now, (&self.config, &config));
        let drains = &self.drains;
        let words: BTreeSet<_> = self.health.words().map(|(key, _)| key.clone()).collect();
        self.absent.limit(|key| drains.is_drained(key) || words.contains(key));
        self.left_out = left_out;
        self.config = config;
        self.ids.hold(&Wanted::all(&self.config));
        self.expect_absent();
        self.health.handle_config(self.now, &self.config);
        self.breakers.handle_config(self.now, &self.config);
        self.stale = true;
        let health = &self.health;
        self.ramps.retain(|key| health.knows(key));
        self.drains.retain(|key| health.knows(key))
    }

    fn with_places(&self) -> (Arc<Config>, Vec<LeftOut>) {
        if self.names.iter().next().is_none() {
            return (Arc::clone(&self.written), Vec::new());
        }
        let places = |name: &Name| self.names.places(name);
        let Expanded { config, left_out } = expand(&self.written, places);
        (Arc::new(config), left_out)
    }

    fn expect_absent(&mut self) {
        let absent: BTreeSet<_> = self.absent.iter().map(|(key, _)| key.clone()).collect();
        self.health.expect(absent.clone());
        self.breakers.expect(absent);
    }

    /// Whether there is a backend, or a name may bring it.
    pub(super) fn may_be(&mut self, key: &BackendKey) -> bool {
        if self.health.knows(key) {
            return true;
        }
        let may_come = self.absent.expect(self.now, key, &self.written);
        if may_come {
            self.health.expect_one(key.clone());
        }
        may_come
    }

    /// Backends that are there, and those that may come back, by the text of a name that they come of; in order.
    pub fn named(&self, text: &str) -> Vec<BackendKey> {
        let there = BackendKey::all(&self.config)
            .filter(|(_, member)| member.backend.names().any(|named| named.text() == text));
        let absent = self.absent.iter().filter(|(_, names)| names.contains(text));
        there.map(|(key, _)| key).chain(absent.map(|(key, _)| key.clone())).collect()
    }

    /// Backends that are not there and may come back.
    pub fn absent(&self) -> impl Iterator<Item = &BackendKey> {
        self.absent.iter().map(|(key, _)| key)
    }
}

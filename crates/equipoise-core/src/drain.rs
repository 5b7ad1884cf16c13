//! Drains: backends that get no new flows until somebody says otherwise, and word of when their flows are over.
//!
//! A drain begins with a request and is over, for who waits, when the last flow has ended or its time is up; the backend stays
//! drained after that, until it is undrained or leaves the configuration. Takes counts of live flows and the time as
//! arguments. What a backend is, is the caller's; what follows for weights is [`crate::weight`]'s.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::breaker::OnTimeout;
use crate::facts::Moment;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// How long flows may take to end.
    pub timeout: Duration,
    /// What becomes of those that are left then.
    pub on_timeout: OnTimeout,
    /// Whether the backend gets no new flow even where nobody else can have it.
    pub is_forced: bool,
}

/// How far a drain has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Flows are left, and so is time.
    Draining,
    /// No flow is left.
    Completed,
    /// Time was up before the last flow had ended.
    TimedOut,
    /// It was undone before, or its backend has left.
    Cancelled,
}

impl Status {
    /// The name in answers and events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Completed => "completed",
            Self::TimedOut => "timeout",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Draining, Self::Completed, Self::TimedOut, Self::Cancelled];
        all.into_iter().find(|status| status.name() == name)
    }

    /// Whether who waits for it has its answer.
    pub const fn is_over(self) -> bool {
        !matches!(self, Self::Draining)
    }
}

/// The drain of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// What was asked for.
    pub request: Request,
    /// When it began.
    pub begun: Moment,
    /// Live flows when it began.
    pub initial_flows: u64,
    /// Live flows when they were last counted.
    pub flows: u64,
    /// How far it has got.
    pub status: Status,
}

impl Drain {
    /// Whether the flows that are left are to be reset.
    pub fn resets(&self) -> bool {
        self.status == Status::TimedOut && self.request.on_timeout == OnTimeout::Reset
    }

    /// When its time is up.
    pub fn deadline(&self) -> Moment {
        self.begun.saturating_add(self.request.timeout)
    }
}

/// How a backend that is undrained gets its share again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// At once.
    #[default]
    AtOnce,
    /// Bit by bit, as its service has backends recover.
    Gradual,
}

/// A backend is drained already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlreadyDrained;

/// All drains, by backend.
#[derive(Clone, Debug)]
pub struct Drains<B> {
    drains: BTreeMap<B, Drain>,
    has_changed: bool,
}

impl<B> Default for Drains<B> {
    fn default() -> Self {
        Self { drains: BTreeMap::new(), has_changed: false }
    }
}

impl<B: Ord + Clone> Drains<B> {
    /// Begins one. How many flows there are is asked for when it is in force: until then there may come more.
    ///
    /// # Errors
    ///
    /// When the backend is drained already.
    pub fn start(
        &mut self,
        backend: B,
        request: Request,
        now: Moment,
    ) -> Result<(), AlreadyDrained> {
        if self.drains.contains_key(&backend) {
            return Err(AlreadyDrained);
        }
        let status = Status::Draining;
        let drain = Drain { request, begun: now, initial_flows: 0, flows: 0, status };
        self.drains.insert(backend, drain);
        self.has_changed = true;
        Ok(())
    }

    /// It is in force, and the backend has so many live flows. Answers if the drain is over with that.
    pub fn in_force(&mut self, backend: &B, flows: u64, now: Moment) -> Option<Status> {
        self.drains.get_mut(backend)?.initial_flows = flows;
        self.count(backend, flows, now)
    }

    /// Takes one up that began before this process, as it was.
    pub fn restore(&mut self, backend: B, drain: Drain) {
        self.drains.insert(backend, drain);
        self.has_changed = true;
    }

    /// Ends one: the backend gets new flows again. Answers with how the drain is over for who waits for it; nothing if there
    /// was none.
    pub fn undrain(&mut self, backend: &B) -> Option<Status> {
        let drain = self.drains.remove(backend)?;
        self.has_changed = true;
        Some(if drain.status.is_over() { drain.status } else { Status::Cancelled })
    }

    /// Ends those of backends that have left the configuration; answers with which were not over.
    pub fn retain(&mut self, mut is_there: impl FnMut(&B) -> bool) -> Vec<B> {
        let mut cancelled = Vec::new();
        let before = self.drains.len();
        self.drains.retain(|backend, drain| {
            let stays = is_there(backend);
            if !stays && !drain.status.is_over() {
                cancelled.push(backend.clone());
            }
            stays
        });
        self.has_changed |= self.drains.len() != before;
        cancelled
    }

    /// A backend has so many live flows. Answers if its drain is over with that, once.
    pub fn count(&mut self, backend: &B, flows: u64, now: Moment) -> Option<Status> {
        let drain = self.drains.get_mut(backend)?;
        drain.flows = flows;
        if drain.status.is_over() {
            return None;
        }
        // The last flow may end at the deadline: that is asked first.
        drain.status = match flows {
            0 => Status::Completed,
            _ if now >= drain.deadline() => Status::TimedOut,
            _ => return None,
        };
        self.has_changed = true;
        Some(drain.status)
    }

    /// Backends whose flows have to be counted, because their drains are not over.
    pub fn waiting(&self) -> impl Iterator<Item = &B> {
        self.drains.iter().filter(|(_, drain)| !drain.status.is_over()).map(|(backend, _)| backend)
    }

    /// Whether a backend gets no new flows.
    pub fn is_drained(&self, backend: &B) -> bool {
        self.drains.contains_key(backend)
    }

    /// Whether any has begun, changed or ended since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// Whether any has since that was asked last.
    pub fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// The drain of a backend.
    pub fn get(&self, backend: &B) -> Option<&Drain> {
        self.drains.get(backend)
    }

    /// All, in order of their backends.
    pub fn iter(&self) -> impl Iterator<Item = (&B, &Drain)> {
        self.drains.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Request =
        Request { timeout: Duration::from_secs(30), on_timeout: OnTimeout::Keep, is_forced: false };

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    /// Begins one, which is in force at once.
    fn begin(drains: &mut Drains<&'static str>, backend: &'static str, flows: u64, now: Moment) {
        drains.start(backend, REQUEST, now).unwrap();
        let over = (flows == 0).then_some(Status::Completed);
        assert_eq!(drains.in_force(&backend, flows, now), over);
    }

    #[test]
    fn drain_is_over_when_the_last_flow_has_ended_and_the_backend_stays_drained() {
        let mut drains = Drains::default();
        begin(&mut drains, "a", 2, at(10));
        assert_eq!(drains.count(&"a", 1, at(11)), None);
        assert_eq!(drains.waiting().collect::<Vec<_>>(), [&"a"]);
        assert_eq!(drains.count(&"a", 0, at(12)), Some(Status::Completed));
        assert_eq!(drains.count(&"a", 0, at(13)), None, "told once");
        assert_eq!(
            drains.count(&"a", 3, at(50)),
            None,
            "flows that fail over do not begin it anew"
        );
        assert!(drains.is_drained(&"a"));
        assert_eq!(drains.waiting().count(), 0);
        let drain = drains.get(&"a").unwrap();
        assert_eq!((drain.initial_flows, drain.flows, drain.begun), (2, 3, at(10)));
    }

    #[test]
    fn time_runs_out_unless_the_last_flow_ends_then() {
        for (flows, expected) in [(1, Status::TimedOut), (0, Status::Completed)] {
            let mut drains = Drains::default();
            begin(&mut drains, "a", 1, at(10));
            assert_eq!(drains.count(&"a", 1, at(39)), None);
            assert_eq!(drains.count(&"a", flows, at(40)), Some(expected));
            assert!(drains.is_drained(&"a"));
        }
    }

    #[test]
    fn backend_without_flows_is_drained_at_once() {
        let mut drains = Drains::default();
        assert_eq!(drains.start("a", REQUEST, at(1)), Ok(()));
        assert!(drains.is_drained(&"a") && drains.waiting().eq([&"a"]));
        assert_eq!(drains.in_force(&"a", 0, at(1)), Some(Status::Completed));
        assert!(drains.is_drained(&"a") && drains.waiting().next().is_none());
        assert_eq!(drains.in_force(&"b", 0, at(1)), None, "nobody has begun it");
    }

    #[test]
    fn second_drain_of_a_backend_is_refused_and_changes_nothing() {
        let mut drains = Drains::default();
        begin(&mut drains, "a", 5, at(1));
        let before = *drains.get(&"a").unwrap();
        let other = Request { on_timeout: OnTimeout::Reset, ..REQUEST };
        assert_eq!(drains.start("a", other, at(2)), Err(AlreadyDrained));
        assert_eq!(*drains.get(&"a").unwrap(), before);
    }

    #[test]
    fn undoing_cancels_what_is_not_over() {
        let mut drains = Drains::default();
        begin(&mut drains, "a", 5, at(1));
        begin(&mut drains, "b", 0, at(1));
        assert_eq!(drains.undrain(&"a"), Some(Status::Cancelled));
        assert_eq!(drains.undrain(&"a"), None);
        assert_eq!(drains.undrain(&"b"), Some(Status::Completed));
        assert_eq!(drains.count(&"a", 0, at(2)), None);
        assert_eq!(drains.iter().count(), 0);
    }

    #[test]
    fn backends_that_leave_take_their_drains_with_them() {
        let mut drains = Drains::default();
        for (backend, flows) in [("a", 1), ("b", 1), ("c", 0)] {
            begin(&mut drains, backend, flows, at(1));
        }
        assert_eq!(drains.retain(|backend| *backend == "a"), ["b"]);
        assert_eq!(drains.iter().map(|(backend, _)| *backend).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn what_is_restored_goes_on() {
        let mut drains = Drains::default();
        begin(&mut drains, "a", 4, at(10));
        let mut after = Drains::default();
        after.restore("a", *drains.get(&"a").unwrap());
        assert_eq!(after.count(&"a", 4, at(39)), None);
        assert_eq!(after.count(&"a", 4, at(40)), Some(Status::TimedOut));
    }
}

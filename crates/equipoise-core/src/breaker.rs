//! A breaker: takes a backend out of a pool while too many of its outcomes are failures.
//!
//! An outcome is a check's result, or what became of a real connection. Closed, it counts them over a window that slides, in
//! buckets of a tenth; too many failures open it, and the backend gets no new flows for a while that grows with
//! repeats. Then it is half-open: a tenth of the share, until so many successes close it, or one failure opens it again, if its
//! pool may have one more open. Time
//! is an argument. Knows no pools: how many of one may be open at a time is [`Breakers`]'s, what follows for
//! weights is [`crate::weight`]'s.

mod pools;
mod window;

pub use pools::{Breakers, Standing, Told};

/// What outlives a process of a breaker: all but what it has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// What it lets through.
    pub state: State,
    /// When that last changed.
    pub since: Moment,
    /// When it is half-open, if it is open.
    pub open_until: Moment,
    /// Successes in a row, while half-open.
    pub successes: u32,
    /// How often it has opened lately.
    pub repeats: u32,
}

use std::time::Duration;

use crate::config::breaker::Thresholds;
use crate::facts::Moment;
use window::Window;

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum State {
    /// Everything.
    #[default]
    Closed,
    /// Nothing.
    Open,
    /// A tenth.
    HalfOpen,
}

impl State {
    /// The name in answers, events and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// A change of state, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// What it was before.
    pub from: State,
    /// What it is now.
    pub to: State,
    /// The part of failures that it opened for, 0 to 1.
    pub error_rate: f64,
    /// When it is half-open, if it is open now.
    pub open_until: Option<Moment>,
}

/// The breaker of one backend in one pool.
#[derive(Clone, Debug)]
pub struct Breaker {
    thresholds: Thresholds,
    state: State,
    window: Window,
    /// When the state last changed.
    since: Moment,
    open_until: Moment,
    /// In a row, while half-open.
    successes: u32,
    /// How often it has opened lately.
    repeats: u32,
}

/// How many times as long as the first time it is open at most.
const MOST_REPEATS: u32 = 10;

impl Breaker {
    /// A closed one that has counted nothing.
    pub fn new(thresholds: Thresholds, now: Moment) -> Self {
        Self {
            thresholds,
            state: State::Closed,
            window: Window::new(thresholds.window, now),
            since: now,
            open_until: Duration::ZERO,
            successes: 0,
            repeats: 0,
        }
    }

    /// What the next process begins with, if that is not a new one.
    pub fn lasting(&self) -> Option<Lasting> {
        let Self { state, since, open_until, successes, repeats, .. } = *self;
        let is_new = state == State::Closed && repeats == 0;
        (!is_new).then_some(Lasting { state, since, open_until, successes, repeats })
    }

    /// Goes on from what an earlier process has left; the time is still to be told.
    pub fn restore(&mut self, lasting: Lasting) {
        let Lasting { state, since, open_until, successes, repeats } = lasting;
        let repeats = repeats.min(MOST_REPEATS);
        *self = Self { state, since, open_until, successes, repeats, ..self.clone() };
    }

    /// Other thresholds: what has been counted stays, unless the window is another.
    pub fn set(&mut self, thresholds: Thresholds, now: Moment) {
        if thresholds.window != self.thresholds.window {
            self.window = Window::new(thresholds.window, now);
        }
        self.thresholds = thresholds;
    }

    /// What it lets through.
    pub fn state(&self) -> State {
        self.state
    }

    /// When its state last changed.
    pub fn since(&self) -> Moment {
        self.since
    }

    /// When it will be half-open, if it is open.
    pub fn open_until(&self) -> Option<Moment> {
        (self.state == State::Open).then_some(self.open_until)
    }

    /// Successes and failures that count at this time.
    pub fn counts(&self, now: Moment) -> (u64, u64) {
        self.window.counts(now)
    }

    /// So many outcomes have come in. Where the pool has as many open breakers as it may, `may_open` is false, and this one
    /// goes on counting, or stays half-open and begins to count its successes anew.
    pub fn record(
        &mut self,
        (successes, failures): (u64, u64),
        may_open: bool,
        now: Moment,
    ) -> Option<Change> {
        if (successes, failures) == (0, 0) {
            return None;
        }
        match self.state {
            State::Open => None,
            State::HalfOpen if failures > 0 && may_open => Some(self.open(1.0, now)),
            State::HalfOpen if failures > 0 => {
                self.successes = 0;
                None
            }
            State::HalfOpen => {
                let more = u32::try_from(successes).unwrap_or(u32::MAX);
                self.successes = self.successes.saturating_add(more);
                (self.successes >= self.thresholds.half_open_successes).then(|| self.close(now))
            }
            State::Closed => {
                self.window.add((successes, failures), now);
                let rate = self.excess(now).filter(|_| may_open)?;
                Some(self.open(rate, now))
            }
        }
    }

    /// Time has come this far.
    pub fn turn(&mut self, now: Moment) -> Option<Change> {
        if self.state == State::Closed && self.repeats > 0 && now >= self.forgotten() {
            self.repeats = 0;
        }
        (self.state == State::Open && now >= self.open_until)
            .then(|| self.become_state(State::HalfOpen, 0.0, now))
    }

    /// When [`Breaker::turn`] has something to do, if ever.
    pub fn due(&self) -> Option<Moment> {
        match self.state {
            State::Open => Some(self.open_until),
            State::Closed if self.repeats > 0 => Some(self.forgotten()),
            State::Closed | State::HalfOpen => None,
        }
    }

    /// Opens it by hand; nothing if it is open.
    pub fn force_open(&mut self, now: Moment) -> Option<Change> {
        (self.state != State::Open).then(|| self.open(1.0, now))
    }

    /// Closes it by hand; nothing if it is closed.
    pub fn force_close(&mut self, now: Moment) -> Option<Change> {
        (self.state != State::Closed).then(|| self.close(now))
    }

    /// As new. A change only if it was not closed.
    pub fn reset(&mut self, now: Moment) -> Option<Change> {
        let change = self.force_close(now);
        *self = Self::new(self.thresholds, now);
        change
    }

    /// The part of failures, if that is too much.
    fn excess(&self, now: Moment) -> Option<f64> {
        let (successes, failures) = self.window.counts(now);
        let all = successes.saturating_add(failures);
        let is_much = u128::from(failures) * 100
            >= u128::from(all) * u128::from(self.thresholds.error_threshold);
        (all > 0 && all >= u64::from(self.thresholds.min_requests) && is_much)
            .then(|| failures as f64 / all as f64)
    }

    /// When having opened no longer counts: it has been closed for as long as it was last open, and a window.
    fn forgotten(&self) -> Moment {
        self.since + self.thresholds.window + self.thresholds.open_for * self.repeats
    }

    fn open(&mut self, error_rate: f64, now: Moment) -> Change {
        self.repeats = (self.repeats + 1).min(MOST_REPEATS);
        self.open_until = now + self.thresholds.open_for * self.repeats;
        self.become_state(State::Open, error_rate, now)
    }

    fn close(&mut self, now: Moment) -> Change {
        self.become_state(State::Closed, 0.0, now)
    }

    fn become_state(&mut self, to: State, error_rate: f64, now: Moment) -> Change {
        let from = self.state;
        self.state = to;
        self.since = now;
        self.successes = 0;
        self.window = Window::new(self.thresholds.window, now);
        Change { from, to, error_rate, open_until: self.open_until() }
    }
}

#[cfg(test)]
mod tests;

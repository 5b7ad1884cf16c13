//! What is known of one backend by one check: counts, a verdict, and how far it has recovered.
//!
//! Unknown at first; so many answers of one kind in a row make it healthy or unhealthy. Who becomes healthy after having been
//! unhealthy recovers: each further good answer, or time, gives more of its share. A bad answer that
//! changes no verdict changes no share either.

use std::time::Duration;

use crate::config::HealthCheck;
use crate::config::health::Recovery;
use crate::recovery::Recovering;

/// What checks say of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet: it counts as usable.
    #[default]
    Unknown,
    /// It answers well.
    Healthy,
    /// It does not.
    Unhealthy,
}

impl Verdict {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// How a check has ended: how long a good answer took, or why there was none.
pub type Outcome = Result<Duration, Failure>;

/// Why a check has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Of which kind it is.
    pub kind: FailureKind,
    /// In words.
    pub message: String,
    /// What is broken, where that could be told.
    pub cause: Option<Cause>,
}

impl Failure {
    /// A failure in words.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), cause: None }
    }
}

/// What is broken, as a check that goes the way the packets go and one that goes straight to the backend tell together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The host does not answer at all.
    HostDown,
    /// It does, and nobody listens.
    PortClosed,
    /// The host answers, and the VIP there does not: it has no such address, or packets do not get there as the mode has it.
    VipOrTunnel,
    /// Somebody listens, and answers badly or not at all.
    Application,
}

impl Cause {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::HostDown => "host-down",
            Self::PortClosed => "port-closed",
            Self::VipOrTunnel => "vip-or-tunnel",
            Self::Application => "application",
        }
    }
}

/// Kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No answer in time.
    Timeout,
    /// Nobody listens.
    ConnectionRefused,
    /// The connection was cut.
    ConnectionReset,
    /// There is no way to it.
    NoRoute,
    /// Something else of the network.
    Io,
    /// TLS could not be agreed on, or the certificate is not believed.
    Tls,
    /// A status that is not expected.
    UnexpectedStatus,
    /// An answer that is not expected.
    UnexpectedAnswer,
    /// The command ended with another code than 0.
    ExitCode,
}

impl FailureKind {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::ConnectionRefused => "connection-refused",
            Self::ConnectionReset => "connection-reset",
            Self::NoRoute => "no-route",
            Self::Io => "io-error",
            Self::Tls => "tls-error",
            Self::UnexpectedStatus => "unexpected-status",
            Self::UnexpectedAnswer => "unexpected-answer",
            Self::ExitCode => "exit-code",
        }
    }
}

/// A backend as one check sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// What is believed.
    pub verdict: Verdict,
    /// Good answers in a row.
    pub successes: u32,
    /// Bad answers in a row.
    pub failures: u32,
    /// When the last check ended.
    pub checked_at: Option<Duration>,
    /// How long the last good answer took.
    pub latency: Option<Duration>,
    /// Why the last check failed; none where it did not.
    pub error: Option<Failure>,
    /// How it gets its share back since it is healthy again.
    recovering: Option<Recovering>,
}

/// What outlives a process of what checks have said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// What was believed.
    pub verdict: Verdict,
    /// How it gets its share back, where it has not all of it.
    pub recovering: Option<Recovering>,
}

impl Record {
    /// What another check of the same backend starts with: the verdict, and nothing counted.
    pub fn heir(&self) -> Self {
        Self { verdict: self.verdict, recovering: self.recovering, ..Self::default() }
    }

    /// What the next process begins with, if that is not what it would anyway: who is down, or has its share again in part.
    pub fn lasting(&self, now: Duration, recovery: Recovery) -> Option<Lasting> {
        let Self { verdict, recovering, .. } = *self;
        let is_recovering = self.recovered(now, recovery) < 100;
        let lasts = verdict == Verdict::Unhealthy || is_recovering;
        lasts.then_some(Lasting { verdict, recovering: recovering.filter(|_| is_recovering) })
    }

    /// Begins with what an earlier process has found out; where a check has ended since, that counts.
    pub fn restore(&mut self, lasting: Lasting) {
        if self.checked_at.is_none() {
            (self.verdict, self.recovering) = (lasting.verdict, lasting.recovering);
        }
    }

    /// Takes an outcome; true if the verdict is another now.
    pub fn take(&mut self, now: Duration, outcome: Outcome, check: &HealthCheck) -> bool {
        self.checked_at = Some(now);
        match outcome {
            Ok(latency) => {
                self.latency = Some(latency);
                self.error = None;
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                self.recover(now, check)
            }
            Err(failure) => {
                self.error = Some(failure);
                self.successes = 0;
                self.failures = self.failures.saturating_add(1);
                let is_new = self.verdict != Verdict::Unhealthy
                    && self.failures >= check.unhealthy_threshold;
                if is_new {
                    self.verdict = Verdict::Unhealthy;
                    self.recovering = None;
                }
                is_new
            }
        }
    }

    fn recover(&mut self, now: Duration, check: &HealthCheck) -> bool {
        let is_new = self.verdict != Verdict::Healthy && self.successes >= check.healthy_threshold;
        if is_new {
            // From unknown, it has had its share all along.
            self.recovering = (self.verdict == Verdict::Unhealthy).then(|| Recovering::since(now));
            self.verdict = Verdict::Healthy;
        } else if let Some(recovering) = &mut self.recovering {
            recovering.note_good();
        }
        is_new
    }

    /// Whether the next outcomes may make another verdict.
    pub fn is_pending(&self) -> bool {
        match self.verdict {
            Verdict::Unknown => true,
            Verdict::Healthy => self.failures > 0,
            Verdict::Unhealthy => self.successes > 0,
        }
    }

    /// Percent of its share that it has again.
    pub fn recovered(&self, now: Duration, recovery: Recovery) -> u8 {
        self.recovering.map_or(100, |recovering| recovering.part(now, recovery))
    }

    /// When time alone gives it more; none where it does not.
    pub fn grows_at(&self, now: Duration, recovery: Recovery) -> Option<Duration> {
        self.recovering?.grows_at(now, recovery)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::health::{Question, RecoveryMode};

    const CHECK: HealthCheck = HealthCheck {
        question: Question::Tcp,
        port: None,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(3),
        fast_interval: Duration::from_secs(2),
        healthy_threshold: 2,
        unhealthy_threshold: 3,
    };

    /// Good and bad answers, a second apart: the verdict after each, and percent of its share.
    fn play(answers: &str, recovery: Recovery) -> Vec<(&'static str, u8)> {
        let mut record = Record::default();
        let take = |(second, answer)| {
            let now = Duration::from_secs(second);
            let outcome = match answer {
                '+' => Ok(Duration::from_millis(1)),
                _ => Err(Failure::new(FailureKind::Timeout, "late")),
            };
            let before = record.verdict;
            assert_eq!(record.take(now, outcome, &CHECK), record.verdict != before);
            (record.verdict.name(), record.recovered(now, recovery))
        };
        (1..).zip(answers.chars()).map(take).collect()
    }

    #[test]
    fn verdicts_need_their_thresholds_in_a_row() {
        let names = |answers| {
            play(answers, Recovery::default()).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let (unknown, healthy, unhealthy) = ("unknown", "healthy", "unhealthy");
        assert_eq!(names("+-++"), [unknown, unknown, unknown, healthy]);
        assert_eq!(names("--+---"), [unknown, unknown, unknown, unknown, unknown, unhealthy]);
        let after = [unknown, healthy, healthy, healthy, healthy, healthy];
        assert_eq!(names("++--+-"), after);
        assert_eq!(names("---+-+")[2..], [unhealthy; 4]);
    }

    #[test]
    fn recovery_is_by_steps_from_unhealthy_and_not_from_unknown() {
        let percent = |answers: &str| {
            play(answers, Recovery::default()).into_iter().map(|(_, p)| p).collect::<Vec<_>>()
        };
        assert_eq!(percent("++++"), [100; 4]);
        assert_eq!(percent("---+++-+++")[4..], [25, 50, 50, 75, 100, 100]);
        // It starts anew when it has been down again.
        assert_eq!(percent("---+++---++")[10..], [25]);
    }

    #[test]
    fn recovery_by_time_is_a_line_and_none_is_none() {
        let linear = Recovery { mode: RecoveryMode::Linear, slow_start: Duration::from_secs(20) };
        let mut record = Record { verdict: Verdict::Unhealthy, ..Record::default() };
        for second in [1, 2] {
            record.take(Duration::from_secs(second), Ok(Duration::ZERO), &CHECK);
        }
        let at = |seconds: f64| record.recovered(Duration::from_secs_f64(seconds), linear);
        assert_eq!([2.0, 3.5, 12.0, 21.9, 22.0, 90.0].map(at), [5, 5, 50, 95, 100, 100]);
        let mut now = Duration::from_secs(2);
        let mut seen = vec![record.recovered(now, linear)];
        while let Some(next) = record.grows_at(now, linear) {
            assert!(next > now);
            now = next;
            seen.push(record.recovered(now, linear));
        }
        assert_eq!(
            seen,
            [5, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 100]
        );
        let none = Recovery { mode: RecoveryMode::None, ..linear };
        assert_eq!(
            (record.recovered(now, none), record.grows_at(Duration::from_secs(2), none)),
            (100, None)
        );
    }
}

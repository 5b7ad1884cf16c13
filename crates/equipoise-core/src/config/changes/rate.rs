//! Rates of services changed while the program runs.
//!
//! Both numbers of a rate are laid over those of the file, so that nothing of the old one is left in the new one; how sources
//! are counted stays as the file says. Whether a change holds goes by what is in force, with what is said for all services.

use std::fmt;
use std::sync::Arc;

use equipoise_common::bucket::MAX_BURST;
use serde::{Deserialize, Serialize};

use super::tree::{down, made, put, service};
use crate::config::file::{Node, Value};

/// What a rate is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RateOf {
    /// Of each source.
    PerSource,
    /// Of each backend.
    PerBackend,
}

impl RateOf {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::PerSource, Self::PerBackend];

    /// The key of a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::PerSource => "per-source",
            Self::PerBackend => "per-backend",
        }
    }
}

/// Which rate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RateKey {
    /// Name of the service.
    pub service: Arc<str>,
    /// What it is of.
    pub of: RateOf,
}

impl fmt::Display for RateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limit {} of {}", self.of.name(), self.service)
    }
}

/// What it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateChange {
    /// New flows in a second; 0 for no limit.
    pub rate: u32,
    /// New flows at once; absent for twice the rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

impl RateChange {
    /// Rate and burst, where there is a limit.
    pub fn numbers(self) -> Option<(u32, u32)> {
        let burst = self.burst.unwrap_or_else(|| self.rate.saturating_mul(2).min(MAX_BURST));
        (self.rate > 0).then_some((self.rate, burst))
    }
}

impl fmt::Display for RateChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.numbers() {
            Some((rate, burst)) => write!(f, "{rate} in a second, {burst} at once"),
            None => f.write_str("none"),
        }
    }
}

/// Makes one change; false where it is none.
pub(super) fn lay(root: &mut Node, key: &RateKey, change: RateChange) -> bool {
    let names = ["limits", key.of.name()];
    let of = |table: Option<&Node>, name| {
        let number = down(table?, &[name])?.value.number();
        number.and_then(|number| u64::try_from(number).ok())
    };
    let common = down(root, &["settings", names[0], names[1]]);
    let (common_rate, common_burst) = (of(common, "rate"), of(common, "burst"));
    let Some(service) = service(root, &key.service) else { return false };
    let own = down(service, &names);
    let rate = of(own, "rate").or(common_rate).filter(|&rate| rate > 0);
    let burst = of(own, "burst").or(common_burst);
    let in_force = rate.map(|rate| (rate, burst.unwrap_or(rate.saturating_mul(2))));
    let wanted = change.numbers();
    if in_force == wanted.map(|(rate, burst)| (rate.into(), burst.into())) {
        return false;
    }
    let Some(table) = made(service, &names, Value::Table(Vec::new())) else { return false };
    put(table, "rate", change.rate.into());
    if let Some((_, burst)) = wanted {
        put(table, "burst", burst.into());
    }
    matches!(table.value, Value::Table(_))
}

#[cfg(test)]
mod tests {
    use super::super::Changes;
    use super::*;
    use crate::config::{Around, Limits, parse_changed};

    /// The rate that is in force with a change, and whether it holds.
    fn laid(limits: (&str, &str), of: RateOf, change: RateChange) -> (Option<(u32, u32)>, bool) {
        let (own, common) = limits;
        let file = format!(
            "[settings]\nlimits = {{ {common} }}\n[[service]]\nname = 'web'\n\
             listen = {{ interfaces = ['eth0'], port = 80 }}\n\
             backends = [{{ address = '10.0.0.1:80' }}]\nlimits = {{ {own} }}\n"
        );
        let mut changes = Changes::default();
        changes.set_rate(RateKey { service: "web".into(), of }, change);
        let around = Around::files(&|_| unreachable!());
        let changed = parse_changed(("a.toml", &file), &around, &changes).unwrap();
        let config = changed.checked.config;
        let own: &Limits = &config.services[0].policy.limits;
        let rates = own.rates(&config.settings.limits);
        let rate = match of {
            RateOf::PerSource => rates.source,
            RateOf::PerBackend => rates.backend,
        };
        (rate, !changed.changes.is_empty())
    }

    #[test]
    fn rate_is_that_asked_for_whatever_the_file_says_and_holds_while_that_is_something_else() {
        use RateOf::{PerBackend, PerSource};
        let to = |rate, burst| RateChange { rate, burst };
        let file =
            ("per-source = { rate = 5, burst = 50 }", "per-backend = { rate = 9, burst = 7 }");
        for (limits, of, change, right) in [
            (("", ""), PerSource, to(4, None), (Some((4, 8)), true)),
            (("", ""), PerBackend, to(4, Some(4)), (Some((4, 4)), true)),
            (("", ""), PerBackend, to(0, None), (None, false)),
            (file, PerSource, to(5, None), (Some((5, 10)), true)),
            (file, PerSource, to(5, Some(50)), (Some((5, 50)), false)),
            (file, PerSource, to(0, None), (None, true)),
            (file, PerBackend, to(9, Some(7)), (Some((9, 7)), false)),
            (file, PerBackend, to(9, None), (Some((9, 18)), true)),
            (file, PerBackend, to(0, None), (None, true)),
            (file, PerBackend, to(1_000_000, None), (Some((1_000_000, 2_000_000)), true)),
        ] {
            assert_eq!(laid(limits, of, change), right, "{limits:?} {of:?} {change}");
        }
    }

    #[test]
    fn what_no_configuration_may_say_is_refused_at_its_key() {
        let file = "[[service]]\nname = 'web'\nlisten = { interfaces = ['eth0'], port = 80 }\n\
                    backends = [{ address = '10.0.0.1:80' }]\n";
        let key = RateKey { service: "web".into(), of: RateOf::PerSource };
        for (change, at) in [
            (RateChange { rate: 1_000_001, burst: Some(1) }, "rate"),
            (RateChange { rate: 1, burst: Some(0) }, "burst"),
        ] {
            let mut changes = Changes::default();
            changes.set_rate(key.clone(), change);
            let around = Around::files(&|_| unreachable!());
            let problems = parse_changed(("a.toml", file), &around, &changes).unwrap_err();
            let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
            assert_eq!(keys, [format!("service[0].limits.per-source.{at}")]);
        }
    }
}

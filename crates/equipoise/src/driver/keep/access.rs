//! Rows of the file about services, rates and denied prefixes.

use std::time::Duration;

use equipoise_core::config::{Denial, RateChange, RateKey, RateOf, ServiceChange};
use equipoise_core::facts::Moment;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::driver::clock::millis;

/// A service that is otherwise than the file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::driver) struct KeptService {
    name: String,
    /// What it is, with the keys of a file; none where it is left out.
    given: Option<Value>,
}

impl KeptService {
    pub(in crate::driver) fn new(name: &str, change: &ServiceChange) -> Self {
        let given = match change {
            ServiceChange::Given(table) => Some(table.clone()),
            ServiceChange::Removed => None,
        };
        Self { name: name.to_owned(), given }
    }

    pub(in crate::driver) fn read(&self) -> (&str, ServiceChange) {
        let change = self.given.clone().map_or(ServiceChange::Removed, ServiceChange::Given);
        (&self.name, change)
    }
}

/// A rate that is otherwise than the file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::driver) struct KeptRate {
    service: String,
    of: RateOf,
    #[serde(flatten)]
    change: RateChange,
}

impl KeptRate {
    pub(in crate::driver) fn new(key: &RateKey, change: RateChange) -> Self {
        Self { service: key.service.to_string(), of: key.of, change }
    }

    pub(in crate::driver) fn read(&self) -> (RateKey, RateChange) {
        (RateKey { service: self.service.as_str().into(), of: self.of }, self.change)
    }
}

/// A prefix that is denied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::driver) struct KeptDenial {
    prefix: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    /// Until when, since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_ms: Option<u64>,
}

impl KeptDenial {
    pub(in crate::driver) fn new(denial: &Denial, until: Option<Moment>) -> Self {
        Self {
            prefix: denial.prefix.to_string(),
            service: denial.service.as_deref().map(str::to_owned),
            until_ms: until.map(millis),
        }
    }

    /// None where it is of no prefix that this version knows.
    pub(in crate::driver) fn read(&self) -> Option<(Denial, Option<Moment>)> {
        let prefix = self.prefix.parse().ok()?;
        let service = self.service.as_deref().map(Into::into);
        Some((Denial { prefix, service }, self.until_ms.map(Duration::from_millis)))
    }
}

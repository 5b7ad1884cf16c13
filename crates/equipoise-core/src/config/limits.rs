//! Limits as they are configured: how many new flows, and from whom.
//!
//! A service's own value wins over that of the settings, key by key; lists of prefixes add up, and the longest prefix
//! of both decides. Knows what is configured, not how it is kept to.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::check::prefix;

/// Limits of a service, or of the settings for all services; what is absent says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Limits {
    /// New flows of each source.
    #[serde(skip_serializing_if = "is_default")]
    pub per_source: SourceLimit,
    /// New flows of each backend.
    #[serde(skip_serializing_if = "is_default")]
    pub per_backend: RateLimit,
    /// Sources that are let in; if there are any, others are not.
    #[serde(skip_serializing_if = "is_default")]
    pub allow: List,
    /// Sources that are not let in, and whose flows are ended.
    #[serde(skip_serializing_if = "is_default")]
    pub deny: List,
}

/// How many new flows in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RateLimit {
    /// In a second; 0 for no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub rate: Option<u32>,
    /// At once; absent for twice the rate.
    #[serde(skip_serializing_if = "is_default")]
    pub burst: Option<u32>,
}

/// How many new flows in a second, and which addresses are one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourceLimit {
    /// How many.
    #[serde(flatten)]
    pub limit: RateLimit,
    /// Addresses with so many first bits in common are one source.
    #[serde(skip_serializing_if = "is_default")]
    pub prefix: SourcePrefix,
}

/// Bits of the prefixes that sources are counted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SourcePrefix {
    /// IPv4: 32 if absent.
    #[serde(skip_serializing_if = "is_default")]
    pub v4: Option<u8>,
    /// IPv6: 64 if absent.
    #[serde(skip_serializing_if = "is_default")]
    pub v6: Option<u8>,
}

/// Prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// As they are written: prefixes, addresses, and names of files after an `@`.
    pub written: Vec<String>,
    /// All that come of it, ordered, each once.
    pub prefixes: Arc<[Prefix]>,
}

impl List {
    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty()
    }
}

impl Serialize for List {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.written.serialize(serializer)
    }
}

/// A prefix of addresses; bits of the address beyond it are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// Its first address.
    pub address: IpAddr,
    /// Bits that count.
    pub length: u8,
}

impl Prefix {
    /// Of so many bits of an address, or of all that it has.
    pub fn of(address: IpAddr, length: u8) -> Self {
        let bits = u32::from(length);
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or_default();
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or_default();
                IpAddr::V6((u128::from(v6) & mask).into())
            }
        };
        Self { address, length: length.min(if address.is_ipv4() { 32 } else { 128 }) }
    }
}

impl FromStr for Prefix {
    type Err = NotAPrefix;

    /// From a prefix, or from an address for the prefix of it alone.
    fn from_str(text: &str) -> Result<Self, NotAPrefix> {
        prefix(text).map_err(|(message, allowed)| NotAPrefix { message, allowed })
    }
}

/// What is wrong with the text of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAPrefix {
    message: String,
    allowed: String,
}

impl std::error::Error for NotAPrefix {}

impl fmt::Display for NotAPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (allowed: {})", self.message, self.allowed)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Limits {
    /// What holds for a service with these limits beside those of the settings.
    pub fn rates(&self, common: &Self) -> Rates {
        let (own_prefix, prefix) = (self.per_source.prefix, common.per_source.prefix);
        Rates {
            source: self.per_source.limit.over(common.per_source.limit),
            backend: self.per_backend.over(common.per_backend),
            prefix_v4: own_prefix.v4.or(prefix.v4).unwrap_or(32),
            prefix_v6: own_prefix.v6.or(prefix.v6).unwrap_or(64),
        }
    }

    /// Whether prefixes are listed.
    pub fn has_list(&self) -> bool {
        !self.allow.prefixes.is_empty() || !self.deny.prefixes.is_empty()
    }
}

impl RateLimit {
    /// Rate and burst with those of the settings where there are none; none without a rate.
    fn over(self, common: Self) -> Option<(u32, u32)> {
        let rate = self.rate.or(common.rate).filter(|&rate| rate > 0)?;
        let burst = self.burst.or(common.burst).unwrap_or(rate.saturating_mul(2));
        Some((rate, burst))
    }
}

/// The limits in force for a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// New flows of each source: in a second, and at once.
    pub source: Option<(u32, u32)>,
    /// New flows of each backend: in a second, and at once.
    pub backend: Option<(u32, u32)>,
    /// Bits of the prefixes that sources of IPv4 are counted by.
    pub prefix_v4: u8,
    /// Bits of the prefixes that sources of IPv6 are counted by.
    pub prefix_v6: u8,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_value_wins_key_by_key() {
        let limit = |rate, burst| RateLimit { rate, burst };
        for (own, common, right) in [
            (limit(None, None), limit(None, None), None),
            (limit(Some(5), None), limit(None, None), Some((5, 10))),
            (limit(None, None), limit(Some(7), None), Some((7, 14))),
            (limit(None, Some(3)), limit(Some(7), Some(9)), Some((7, 3))),
            (limit(Some(5), None), limit(Some(7), Some(9)), Some((5, 9))),
            (limit(Some(0), None), limit(Some(7), Some(9)), None),
        ] {
            assert_eq!(own.over(common), right, "{own:?} {common:?}");
        }
        let prefix = SourcePrefix { v4: Some(24), v6: None };
        let own = Limits {
            per_source: SourceLimit { prefix, ..SourceLimit::default() },
            ..Limits::default()
        };
        let rates = own.rates(&Limits::default());
        assert_eq!((rates.prefix_v4, rates.prefix_v6), (24, 64));
    }
}

//! Who is let in and how often, as the programs have it: the limits of services, and the prefixes of all lists.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use equipoise_common::access::{Access, AccessKey};
use equipoise_common::bucket::Rate;
use equipoise_common::key::{Address as _, V4};
use equipoise_common::value;

use super::{Desired, Draft};
use crate::config::{Limits, List, Prefix, Service, Settings};

/// A prefix in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Whose list: a service's, by id, or that of the settings.
    pub service: Option<u32>,
    /// The prefix.
    pub prefix: Prefix,
}

impl Listed {
    /// As the kernel has it: bits that are compared, and what they are.
    pub fn key(&self) -> (u32, AccessKey) {
        let Prefix { address, length } = self.prefix;
        let scope = AccessKey::scope(self.service, address.is_ipv6());
        let bits = AccessKey::SCOPE_BITS + u32::from(length);
        (bits, AccessKey::new(scope, address.into()))
    }

    /// From how the kernel has it; none for what is no prefix.
    pub fn from_key(bits: u32, key: AccessKey) -> Option<Self> {
        let (service, is_v6) = key.list();
        let length = u8::try_from(bits.checked_sub(AccessKey::SCOPE_BITS)?).ok()?;
        let address = key.address();
        let address: IpAddr = if is_v6 { address.into() } else { V4::unpack(address).into() };
        let is_one = length <= if is_v6 { 128 } else { 32 };
        is_one.then_some(Self { service, prefix: Prefix { address, length } })
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.service {
            Some(service) => write!(f, "{} for service {service}", self.prefix),
            None => write!(f, "{} for all services", self.prefix),
        }
    }
}

/// What a list says of its prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Sources in them are let in.
    Allow,
    /// They are not, and their flows are ended.
    Deny,
}

impl Rule {
    /// The name of the list.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }

    /// From how the kernel has it.
    pub fn from_value(value: Access) -> Self {
        if value.what == Access::DENY { Self::Deny } else { Self::Allow }
    }

    /// As the kernel has it, for a prefix.
    pub fn value(self, listed: &Listed) -> Access {
        let what = match self {
            Self::Allow => Access::ALLOW,
            Self::Deny => Access::DENY,
        };
        Access { bits: listed.prefix.length.into(), what }
    }
}

/// Whether the prefix that decides about this client of a service denies it: the longest, of both lists, and of equal ones that which
/// denies. One of no prefix is not denied here.
pub fn denies(access: &BTreeMap<Listed, Rule>, service: u32, client: IpAddr) -> bool {
    let most = if client.is_ipv4() { 32 } else { 128 };
    let rule = |service, length| {
        access.get(&Listed { service, prefix: Prefix::of(client, length) }).copied()
    };
    let decides = (0..=most).rev().find_map(|length| {
        match (rule(Some(service), length), rule(None, length)) {
            (None, None) => None,
            (own, common) => Some([own, common].contains(&Some(Rule::Deny))),
        }
    });
    decides.unwrap_or_default()
}

/// The limits of a service.
pub(super) fn limits(service: &Service, settings: &Settings) -> value::Limits {
    let (own, common) = (&service.policy.limits, &settings.limits);
    let rates = own.rates(common);
    let rate = |limit: Option<(u32, u32)>| {
        limit.map_or(Rate::default(), |(rate, burst)| Rate { rate, burst })
    };
    let mut lists = 0;
    for (flag, is_set) in [
        (value::Limits::OWN_LIST, own.has_list()),
        (value::Limits::COMMON_LIST, common.has_list()),
        (value::Limits::LISTED_ONLY, [own, common].iter().any(|l| !l.allow.prefixes.is_empty())),
    ] {
        if is_set {
            lists |= flag;
        }
    }
    let (source, backend) = (rate(rates.source), rate(rates.backend));
    // What is not asked for does not differ.
    let (prefix_v4, prefix_v6) =
        if source.rate == 0 { (0, 0) } else { (rates.prefix_v4, rates.prefix_v6) };
    value::Limits { source, backend, prefix_v4, prefix_v6, lists, ..value::Limits::default() }
}

/// Places the prefixes of all lists.
pub(super) fn place(drafts: &[Draft<'_>], settings: &Settings, desired: &mut Desired) {
    add(None, &settings.limits, &mut desired.access);
    for draft in drafts {
        add(Some(draft.id.number), &draft.service.policy.limits, &mut desired.access);
    }
}

fn add(service: Option<u32>, limits: &Limits, access: &mut BTreeMap<Listed, Rule>) {
    let all = |list: &List, rule| {
        let prefixes = list.prefixes.iter();
        prefixes.map(|&prefix| (Listed { service, prefix }, rule)).collect::<Vec<_>>()
    };
    access.extend(all(&limits.allow, Rule::Allow));
    // Last: what is in both is denied.
    access.extend(all(&limits.deny, Rule::Deny));
}

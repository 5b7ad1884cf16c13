//! The keys of `limits`: rates, and lists of prefixes with their files.
//!
//! Files are read by whoever asks for the check. What is wrong in one is told with its line, at the place that names
//! the file.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::Path;

use equipoise_common::bucket::{MAX_BURST, MAX_RATE};
use equipoise_common::limit;

use super::address::Refusal;
use super::report::{At, Fields, Keys, Report, shown};
use crate::config::{Limits, List, Prefix, RateLimit, SourceLimit, SourcePrefix};

const RATE: RangeInclusive<u32> = 0..=MAX_RATE;
const BURST: RangeInclusive<u32> = 1..=MAX_BURST;
const PREFIX_V4: RangeInclusive<u8> = 0..=32;
const PREFIX_V6: RangeInclusive<u8> = 0..=128;

const PREFIX: &str = "a prefix or an address, such as 10.0.0.0/8 or 2001:db8::1";
const ITEM: &str =
    "a prefix such as \"10.0.0.0/8\", an address, or a file such as \"@/etc/equipoise/deny.txt\"";

/// Lines of a file that are wrong and told; there may be very many.
const TOLD: usize = 10;

/// Whose limits they are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A service's; those of the settings are known.
    Service,
    /// The settings'.
    Settings,
}

/// Checks limits; what is wrong and reported is left out.
pub(super) fn limits(report: &mut Report<'_>, at: &At<'_>, owner: Owner) -> Limits {
    let mut limits = Limits::default();
    let Some(fields) = report.fields(at, &Keys::LIMITS) else { return limits };
    let common = report.common_limits.clone();
    if let Some(at) = fields.get("per-source")
        && let Some(fields) = report.fields(&at, &Keys::PER_SOURCE)
    {
        limits.per_source = SourceLimit {
            limit: rate(report, &fields),
            prefix: fields.get("prefix").map(|at| prefix(report, &at)).unwrap_or_default(),
        };
        if owner == Owner::Service {
            need_rate(report, &at, limits.per_source.limit, common.per_source.limit);
        }
    }
    if let Some(at) = fields.get("per-backend")
        && let Some(fields) = report.fields(&at, &Keys::PER_BACKEND)
    {
        limits.per_backend = rate(report, &fields);
        if owner == Owner::Service {
            need_rate(report, &at, limits.per_backend, common.per_backend);
        }
    }
    if let Some(at) = fields.get("deny") {
        limits.deny = list(report, &at);
    }
    if let Some(at) = fields.get("allow") {
        limits.allow = list(report, &at);
        let List { written, prefixes } = &limits.allow;
        // Whether all or none are let in then, nobody could tell.
        if !written.is_empty() && prefixes.is_empty() && !is_wrong(report, &at) {
            let message = "nothing in this list is a prefix".to_owned();
            report.problem(&at.place, message, "at least one prefix, or no list");
        }
    }
    limits
}

fn rate(report: &mut Report<'_>, fields: &Fields<'_>) -> RateLimit {
    RateLimit {
        rate: fields.get("rate").and_then(|at| report.number(&at, &RATE)),
        burst: fields.get("burst").and_then(|at| report.number(&at, &BURST)),
    }
}

/// A table that limits nothing is not what was meant.
fn need_rate(report: &mut Report<'_>, at: &At<'_>, own: RateLimit, common: RateLimit) {
    if own.rate.or(common.rate).is_none() && !is_wrong(report, at) {
        let message = "there is no `rate`, here or in `settings.limits`".to_owned();
        let allowed = format!("`rate`: {} to {} in a second", RATE.start(), RATE.end());
        report.problem(&at.place, message, allowed);
    }
}

/// Whether something in this value has been reported.
fn is_wrong(report: &Report<'_>, at: &At<'_>) -> bool {
    // The latest are those of this value.
    report.problems.last().is_some_and(|problem| problem.key.starts_with(&at.place.key))
}

fn prefix(report: &mut Report<'_>, at: &At<'_>) -> SourcePrefix {
    let Some(fields) = report.fields(at, &Keys::SOURCE_PREFIX) else {
        return SourcePrefix::default();
    };
    SourcePrefix {
        v4: fields.get("v4").and_then(|at| report.number(&at, &PREFIX_V4)),
        v6: fields.get("v6").and_then(|at| report.number(&at, &PREFIX_V6)),
    }
}

fn list(report: &mut Report<'_>, at: &At<'_>) -> List {
    let items = report.list(at, "a list such as [\"10.0.0.0/8\"]").unwrap_or_default();
    let (mut written, mut prefixes) = (Vec::new(), BTreeSet::new());
    for at in &items {
        let Some(text) = report.text(at, ITEM) else { continue };
        written.push(text.to_owned());
        if let Some(path) = text.strip_prefix('@') {
            file(report, at, path, &mut prefixes);
            continue;
        }
        match parse(text) {
            Ok(prefix) => {
                prefixes.insert(prefix);
            }
            Err((message, allowed)) => {
                let allowed = if allowed == PREFIX { ITEM.to_owned() } else { allowed };
                report.problem(&at.place, message, allowed);
            }
        }
    }
    const MOST: usize = limit::CONFIGURED_ACCESS as usize;
    let before = report.listed;
    report.listed += prefixes.len();
    if before <= MOST && report.listed > MOST {
        let message = match prefixes.len() {
            1 => "with this one there are too many".to_owned(),
            more => format!("with these {more} prefixes there are too many"),
        };
        report.problem(&at.place, message, format!("at most {MOST} in all lists together"));
    }
    List { written, prefixes: prefixes.into_iter().collect() }
}

/// A prefix a line; comments begin with `#`.
fn file(report: &mut Report<'_>, at: &At<'_>, path: &str, prefixes: &mut BTreeSet<Prefix>) {
    if !Path::new(path).is_absolute() {
        let message =
            format!("{} does not name a file by its whole path", shown(&format!("@{path}")));
        report.problem(&at.place, message, "a path from `/` on after the `@`");
        return;
    }
    let text = match (report.files)(Path::new(path)) {
        Ok(text) => text,
        Err(reason) => {
            let message = format!("file {path} cannot be read: {reason}");
            report.problem(&at.place, message, "a file with a prefix on each line");
            return;
        }
    };
    let mut wrong = 0;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match parse(line) {
            Ok(prefix) => {
                prefixes.insert(prefix);
            }
            Err((message, allowed)) => {
                wrong += 1;
                if wrong <= TOLD {
                    report.problem(&at.place, format!("{path}, line {number}: {message}"), allowed);
                }
            }
        }
    }
    if wrong > TOLD {
        let message = format!("{path}: {} more lines are wrong", wrong - TOLD);
        report.problem(&at.place, message, PREFIX);
    }
}

/// A prefix, or an address for the prefix of it alone.
fn parse(text: &str) -> Result<Prefix, Refusal> {
    let not_one = || (format!("{} is not a prefix", shown(text)), PREFIX.to_owned());
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| not_one())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length: u8 = match length {
        None => most,
        // Not `+8`, which `parse` takes.
        Some(length) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            length.parse().ok().filter(|&length| length <= most).ok_or_else(|| {
                let message = format!("{} has more bits than an address", shown(text));
                (message, format!("0 to {most} after the `/`"))
            })?
        }
        Some(_) => return Err(not_one()),
    };
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        let message = format!("{} is an IPv4 address in the form of IPv6", shown(text));
        let meant = Prefix { address: v4.into(), length: length.saturating_sub(96) };
        return Err((message, format!("the prefix itself: {meant}")));
    }
    let network = network(address, length);
    if network != address {
        let message = format!("{} has bits set after its first {length}", shown(text));
        let meant = Prefix { address: network, length };
        return Err((message, format!("{meant} for all of them, or {address} for one address")));
    }
    Ok(Prefix { address, length })
}

/// The first address of a prefix.
fn network(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or_default();
            Ipv4Addr::from(u32::from(v4) & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or_default();
            Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    }
}

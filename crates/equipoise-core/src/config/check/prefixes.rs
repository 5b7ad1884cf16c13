//! Lists of prefixes, and the files that they name.
//!
//! Files are read by whoever asks for the check. What is wrong in one is told with its line, at the place that names
//! the file.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::address::Refusal;
use super::report::{At, Place, Report, shown};
use crate::config::Prefix;

const PREFIX: &str = "a prefix or an address, such as 10.0.0.0/8 or 2001:db8::1";
const ITEM: &str =
    "a prefix such as \"10.0.0.0/8\", an address, or a file such as \"@/etc/equipoise/deny.txt\"";

/// Things of one kind that are wrong and told; there may be very many.
pub(super) const TOLD: usize = 10;

/// An item of a list of prefixes.
pub(super) struct Item {
    pub(super) place: Place,
    /// As it is written.
    pub(super) text: String,
    /// All that come of it, each once.
    pub(super) prefixes: BTreeSet<Prefix>,
}

/// Reads an item; what is wrong in it is reported and left out.
pub(super) fn item(report: &mut Report<'_>, at: &At<'_>) -> Option<Item> {
    let text = report.text(at, ITEM)?;
    let mut prefixes = BTreeSet::new();
    if let Some(path) = text.strip_prefix('@') {
        file(report, at, path, &mut prefixes);
    } else {
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
    Some(Item { place: at.place.clone(), text: text.to_owned(), prefixes })
}

/// A prefix a line; comments begin with `#`.
fn file(report: &mut Report<'_>, at: &At<'_>, path: &str, prefixes: &mut BTreeSet<Prefix>) {
    if !Path::new(path).is_absolute() {
        let message =
            format!("{} does not name a file by its whole path", shown(&format!("@{path}")));
        report.problem(&at.place, message, "a path from `/` on after the `@`");
        return;
    }
    let text = match (report.around.files)(Path::new(path)) {
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
                    let is_told = report.around.tells_files || may_be_told(line);
                    let message = if is_told { &*message } else { NOT_TOLD };
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

/// What is said of a line that is not told.
const NOT_TOLD: &str = "what is there is not a prefix, and nothing like one";

/// Whether a line of a file may be told whoever hears it.
fn may_be_told(line: &str) -> bool {
    /// The longest prefix: an address of IPv6 that ends as one of IPv4, and `/128`.
    const LONGEST: usize = 45 + 4;
    let is_like_one = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '/');
    line.len() <= LONGEST && line.contains(['.', ':']) && line.chars().all(is_like_one)
}

/// A prefix, or an address for the prefix of it alone.
pub(in crate::config) fn parse(text: &str) -> Result<Prefix, Refusal> {
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

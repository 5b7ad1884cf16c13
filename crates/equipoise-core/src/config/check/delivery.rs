//! How packets get to the backends of a service: the mode, and what goes with it.

use std::net::IpAddr;

use equipoise_common::limit;

use super::address;
use super::named::NamedDraft;
use super::report::{At, Fields, Report, shown};
use super::service::{BackendDraft, Backends, ListenDraft, Reach};
use crate::config::{Delivery, Mode, MssClamp, Name, target};

pub(super) const MODES: [(&str, Mode); 5] = [
    ("nat", Mode::Nat),
    ("full-nat", Mode::FullNat),
    ("dsr", Mode::Dsr),
    ("ipip", Mode::Ipip),
    ("gue", Mode::Gue),
];

/// The smallest that every host must take (RFC 9293 section 3.7.1), and the largest that fits an IP packet.
pub(super) const MSS: std::ops::RangeInclusive<u16> = 536..=65_495;
const MSS_ALLOWED: &str = "\"auto\", \"off\" or a number of bytes, 536 to 65495";

/// Checks the keys that say it; what is not given, or wrong and reported, has its default.
pub(super) fn delivery(report: &mut Report<'_>, fields: &Fields<'_>) -> Delivery {
    let mode = fields.get("mode").and_then(|at| report.choice(&at, &MODES)).unwrap_or_default();
    let snat_addresses = fields.get("snat-addresses").map(|at| {
        if mode != Mode::FullNat {
            let message = format!("this has no effect in mode `{mode}`");
            report.note(&at.place, message, "`mode = \"full-nat\"`, or no `snat-addresses`");
        }
        addresses(report, &at)
    });
    let mss_clamp = fields.get("mss-clamp").and_then(|at| mss_clamp(report, &at));
    Delivery {
        mode,
        snat_addresses: snat_addresses.unwrap_or_default(),
        mss_clamp: mss_clamp.unwrap_or_default(),
    }
}

fn addresses(report: &mut Report<'_>, at: &At<'_>) -> Vec<IpAddr> {
    let items =
        report.list(at, "a list of addresses, such as [\"192.0.2.10\"]").unwrap_or_default();
    if items.len() > limit::SNAT_ADDRESSES as usize {
        let message = format!("{} addresses are too many", items.len());
        report.problem(&at.place, message, format!("at most {}", limit::SNAT_ADDRESSES));
    }
    let mut addresses = Vec::new();
    for at in &items {
        let Some(text) = report.text(at, "an address, such as 192.0.2.10") else { continue };
        match address::vip(text) {
            Err((message, allowed)) => report.problem(&at.place, message, allowed),
            Ok(address) if addresses.contains(&address) => {
                let message = format!("`{address}` is here a second time");
                report.problem(&at.place, message, "each address once");
            }
            Ok(address) => addresses.push(address),
        }
    }
    addresses
}

fn mss_clamp(report: &mut Report<'_>, at: &At<'_>) -> Option<MssClamp> {
    if !at.is_text() {
        return report.number(at, &MSS).map(MssClamp::Bytes);
    }
    match report.text(at, MSS_ALLOWED)? {
        "auto" => Some(MssClamp::Auto),
        "off" => Some(MssClamp::Off),
        other => {
            report.problem(&at.place, format!("{} is neither", shown(other)), MSS_ALLOWED);
            None
        }
    }
}

/// Backends that packets cannot get to as the mode has it: a packet that stays as it is has the VIP's port, and by link
/// address alone its family, too.
pub(super) fn check_backends(
    report: &mut Report<'_>,
    mode: Mode,
    listen: Option<&ListenDraft>,
    backends: &Backends,
) {
    if !mode.keeps_packets() {
        return;
    }
    let only = listen.and_then(|listen| listen.port.as_ref()?.only());
    let vip = listen.and_then(|listen| match listen.address {
        Reach::Exact(address, _) => Some(address),
        Reach::Own | Reach::Wrong => None,
    });
    for NamedDraft { place, named } in &backends.named {
        let text = named.text();
        let (is_srv, is_other) =
            (matches!(named.name, Name::Srv(_)), named.port != 0 && Some(named.port) != only);
        if is_srv || is_other {
            let message = format!(
                "`{text}` has ports of its own, and in mode `{mode}` packets keep the VIP's"
            );
            report.problem(place, message, "a `host` alone, or with the port of `listen`");
        }
    }
    for BackendDraft { place, backend } in &backends.placed {
        let (text, port) = (target::text(backend.address), backend.address.port());
        if port != 0 && Some(port) != only {
            let message = format!(
                "`{text}` has a port of its own, and in mode `{mode}` packets keep the VIP's"
            );
            report.problem(place, message, "the address alone, or the port of `listen`");
        }
        let is_other = vip.is_some_and(|vip| vip.is_ipv4() != backend.address.is_ipv4());
        if mode == Mode::Dsr && is_other {
            let message = format!(
                "`{text}` is of another address family than the VIP, which mode `dsr` cannot bridge"
            );
            report.problem(
                place,
                message,
                "a backend of the VIP's family, or mode `ipip` or `gue`",
            );
        }
    }
}

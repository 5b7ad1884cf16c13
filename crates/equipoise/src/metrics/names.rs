//! Families about names that are looked up.

use std::collections::BTreeSet;

use super::family::{Family, Making};
use crate::status::names::NameStatus;

const NAME: [&str; 2] = ["service", "hostname"];

/// Whether names are known, by the services that have them.
pub(super) fn families(names: &[NameStatus]) -> [Family; 3] {
    let status = "Whether the last look-up of a name went well.";
    let mut status = Making::gauge("lb_dns_resolution_status", status, NAME);
    let failures = "Look-ups of a name that have failed since the last that went well.";
    let mut failures = Making::gauge("lb_dns_consecutive_failures", failures, NAME);
    let addresses = "Addresses that a name stands for.";
    let mut addresses = Making::gauge("lb_dns_addresses", addresses, NAME);
    for name in names {
        let services: BTreeSet<_> = name.users.iter().map(|user| user.service.as_str()).collect();
        for service in services {
            let labels = [service, name.name.as_str()];
            status.row(labels, f64::from(u8::from(name.consecutive_failures == 0)));
            failures.row(labels, name.consecutive_failures.into());
            addresses.row(labels, name.addresses.len() as f64);
        }
    }
    [status.finish(), failures.finish(), addresses.finish()]
}

//! What another configuration would do to clients: what `plan` tells beside the steps.

use std::collections::BTreeMap;

use equipoise_common::tunnel;
use equipoise_core::config::{Config, Service};
use equipoise_core::effect::effects;
use equipoise_core::plan::Desired;

use super::Driver;
use crate::dataplane::DataPlane;
use crate::host::{Machine, Reading, Way};
use crate::status::{MtuChange, ServiceEffect};

impl<M: Machine, P: DataPlane> Driver<M, P> {
    /// What becomes of the flows of each service for which something is otherwise, with this configuration and its plan.
    pub(super) fn effect(&self, config: &Config, desired: &Desired) -> Vec<ServiceEffect> {
        let before: BTreeMap<&str, &Service> = by_name(self.state.config());
        let after = by_name(config);
        let effects = effects(self.state.planned(), desired);
        let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
        let told = names.filter_map(|name| {
            let (was, is) = (before.get(name), after.get(name));
            let effect = effects.get(*name).cloned().unwrap_or_default();
            let change = match (was, is) {
                (Some(was), Some(is)) if was == is => "none",
                (Some(_), Some(_)) => "changed",
                (Some(_), None) => "removed",
                (None, _) => "added",
            };
            let mtu = mtu_change(was.copied(), is.copied(), &self.reading);
            let live = |id: &u32| self.live_flows(*id);
            let told = ServiceEffect {
                service: (*name).to_owned(),
                change: change.to_owned(),
                moved_percent: effect.moved * 100.0,
                broken_flows: effect.reset.iter().map(live).sum(),
                mtu,
            };
            let is_any = change != "none" || effect.moved > 0.0 || told.mtu.is_some();
            is_any.then_some(told)
        });
        told.collect()
    }
}

fn by_name(config: &Config) -> BTreeMap<&str, &Service> {
    config.services.iter().map(|service| (&*service.name, service)).collect()
}

/// The largest packets of clients that get to the backends whole, where that is otherwise.
fn mtu_change(
    before: Option<&Service>,
    after: Option<&Service>,
    reading: &Reading,
) -> Option<MtuChange> {
    let (before, after) = (budget(before?, reading)?, budget(after?, reading)?);
    (before != after).then_some(MtuChange { before, after })
}

/// What the way to the backend with the least room leaves.
fn budget(service: &Service, reading: &Reading) -> Option<u32> {
    let mode = service.delivery.mode.value() as u8;
    let rooms = service.all_backends().filter_map(|backend| {
        let Way::Via { interface, .. } = reading.ways.get(&backend.address.ip())? else {
            return None;
        };
        let device = reading.devices.values().find(|device| device.index == *interface)?;
        device.mtu.checked_sub(tunnel::overhead(mode, backend.address.is_ipv6()))
    });
    rooms.min()
}

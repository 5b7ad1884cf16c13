//! What the programs have counted.

use std::collections::BTreeMap;

use aya::maps::{MapData, PerCpuArray};
use equipoise_common::flow::count::Pressure;
use equipoise_common::value::Traffic;
use equipoise_common::verdict::{Hook, Verdict};

use super::KernelError;
use super::pin::refused;
use super::table::Tables;

impl Tables {
    pub(super) fn verdicts(&self) -> Result<Vec<(Hook, Verdict, u64)>, KernelError> {
        by_hook(&self.verdicts, Verdict::ALL, Hook::counter)
    }

    pub(super) fn pressures(&self) -> Result<Vec<(Pressure, u64)>, KernelError> {
        let count = |&pressure: &Pressure| {
            Ok((pressure, over_cpus(&self.pressure, pressure as u32, "pressure counters")?))
        };
        Pressure::ALL.iter().map(count).collect()
    }

    pub(super) fn service_traffic(
        &self,
        ids: &[u32],
    ) -> Result<BTreeMap<u32, Traffic>, KernelError> {
        sum(&self.service_traffic, ids)
    }

    pub(super) fn backend_traffic(
        &self,
        ids: &[u32],
    ) -> Result<BTreeMap<u32, Traffic>, KernelError> {
        sum(&self.backend_traffic, ids)
    }
}

/// The counters of these verdicts at each hook; `counter` says where each is.
pub(super) fn by_hook<V: Copy>(
    map: &PerCpuArray<MapData, u64>,
    verdicts: &[V],
    counter: fn(Hook, V) -> u32,
) -> Result<Vec<(Hook, V, u64)>, KernelError> {
    let all = Hook::ALL.iter().flat_map(|&hook| verdicts.iter().map(move |&v| (hook, v)));
    all.map(|(hook, v)| Ok((hook, v, over_cpus(map, counter(hook, v), "verdicts")?))).collect()
}

pub(super) fn over_cpus(
    map: &PerCpuArray<MapData, u64>,
    index: u32,
    what: &str,
) -> Result<u64, KernelError> {
    let cpus = map.get(&index, 0).map_err(|error| refused(&format!("reading {what}"), &error))?;
    Ok(cpus.iter().sum())
}

fn sum(
    map: &PerCpuArray<MapData, Traffic>,
    ids: &[u32],
) -> Result<BTreeMap<u32, Traffic>, KernelError> {
    let mut sums = BTreeMap::new();
    for &id in ids {
        let cpus = map.get(&id, 0).map_err(|error| refused("reading counters", &error))?;
        let mut sum = Traffic::default();
        for &cpu in cpus.iter() {
            sum += cpu;
        }
        sums.insert(id, sum);
    }
    Ok(sums)
}

//! `equipoise pool`: what the backends of a service get, by configuration, by slots and by live flows.

use equipoise_core::config::target;

use super::args::{Global, Pool};
use super::status::weight;
use super::{Failure, json, table, watch};
use crate::status::pool::PoolShares;

pub(super) async fn pool(global: &Global, asked: &Pool) -> Result<(), Failure> {
    let (service, route) = (&asked.service, asked.route.as_deref());
    watch::show(asked.watch, async || {
        let client = global.client();
        let pools = if asked.recompute {
            client.recompute(service, route).await?
        } else {
            client.pools(service, route).await?
        };
        if global.json {
            return json(&pools);
        }
        Ok(pools.iter().map(shown).collect::<Vec<_>>().join("\n"))
    })
    .await
}

fn shown(pool: &PoolShares) -> String {
    let PoolShares { service, route, algorithm, slots, .. } = pool;
    let how = match &pool.affinity {
        Some(affinity) => format!("affinity {affinity}"),
        None => algorithm.clone(),
    };
    let mut text = format!("pool {route} of {service}: {how}, {slots} slots\n");
    if pool.panic {
        text.push_str(" ! too few backends are usable\n");
    }
    if let Some(at) = &pool.recomputed_at {
        text.push_str(&format!(" weights follow live flows, last at {at}\n"));
    }
    let mut rows =
        table(&["BACKEND", "WEIGHT", "SLOTS", "CONFIGURED", "EFFECTIVE", "ACTUAL", "LIVE"]);
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    for backend in &pool.backends {
        rows.add_row([
            target::text(backend.address),
            weight(backend.effective_weight, backend.configured_weight),
            backend.slots.to_string(),
            percent(backend.configured_share),
            percent(backend.effective_share),
            percent(backend.actual_share),
            backend.live_flows.to_string(),
        ]);
    }
    format!("{text}{rows}\n")
}

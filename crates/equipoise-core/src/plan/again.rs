//! Planning anew what changes when backends are believed to be otherwise, and nothing else.
//!
//! One backend that goes down among ten thousand is to cost no more than its pools. What comes out is what [`super::plan`]
//! would give; where more may change than pools and backends, nothing comes out, and everything is to be planned.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::pool::{self, Known};
use super::{Desired, draft};
use crate::config::Config;
use crate::diff::Scope;
use crate::facts::Facts;
use crate::id::BackendKey;
use crate::id::{Ids, RouteName};

/// More pools than this are not worth the trouble.
const MOST: usize = 64;

/// Plans the pools of these backends anew, in place: what they have been planned by must differ by what is believed of these
/// backends alone. Says what may be otherwise now; none where everything is to be planned, and nothing has been done.
pub fn plan_again(
    (config, facts, ids): (&Config, &Facts, &Ids),
    changed: &BTreeSet<BackendKey>,
    desired: &mut Desired,
) -> Option<Scope> {
    let pools: BTreeSet<(&Arc<str>, &RouteName)> =
        changed.iter().map(|key| (&key.service, &key.route)).collect();
    if pools.len() > MOST {
        return None;
    }
    let mut again = Desired::default();
    let known = Known { config, facts, previous: Some(desired) };
    for (name, route) in pools {
        let service = config.services.iter().find(|service| *service.name == **name)?;
        let draft = draft(service, facts, ids, &mut Vec::new())?;
        let pool = draft.pools().find(|pool| pool.route == *route)?;
        pool::place_again(&draft, pool, known, &mut again);
    }
    let is_alike = again.pools.iter().all(|(id, pool)| {
        let before = desired.pools.get(id);
        // Notes tell of those that panic and of those that are empty.
        before.is_some_and(|before| {
            !pool.panics && !before.panics && pool.slots.is_empty() == before.slots.is_empty()
        })
    });
    if !is_alike || again.backends.keys().any(|id| !desired.backends.contains_key(id)) {
        return None;
    }
    let scope = Scope {
        pools: again.pools.keys().copied().collect(),
        backends: again.backends.keys().copied().collect(),
    };
    for (id, mut backend) in again.backends {
        let before = desired.backends.get(&id);
        backend.value.sources = before.map_or(0, |before| before.value.sources);
        desired.backends.insert(id, backend);
    }
    desired.pools.extend(again.pools);
    Some(scope)
}

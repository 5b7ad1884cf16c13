//! What another plan does to clients: how much of the space that new flows come from is led elsewhere, and whose flows end.
//!
//! Both plans are of one history, so that an id means the same backend in both. Pure: compares two desired states.

use std::collections::BTreeMap;
use std::sync::Arc;

use equipoise_common::hash;
use equipoise_common::value::{Backend, Fate, Pick};

use crate::plan::{BackendPlan, Desired, PoolPlan};

/// What becomes of a service's flows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effect {
    /// The part of its new flows that go to another backend than before, 0 to 1, of the pool where that is most. A service
    /// that has just come, or goes, has moved nothing.
    pub moved: f64,
    /// Backends by id whose TCP flows end with a RST.
    pub reset: Vec<u32>,
}

/// Compares two plans, by the names of services that are in either.
pub fn effects(before: &Desired, after: &Desired) -> BTreeMap<Arc<str>, Effect> {
    let mut effects: BTreeMap<Arc<str>, Effect> = BTreeMap::new();
    let pools = before.pools.values().chain(after.pools.values());
    for pool in pools {
        effects.entry(Arc::clone(&pool.service)).or_default();
    }
    for (id, pool) in &after.pools {
        let Some(there) = before.pools.get(id) else { continue };
        if let Some(effect) = effects.get_mut(&pool.service).filter(|_| is_same(there, pool)) {
            effect.moved = effect.moved.max(moved(there, pool));
        }
    }
    for (service, id) in members(before) {
        let is_reset = |plan: &BackendPlan| {
            plan.value.state == Backend::GONE && plan.value.fate == Fate::Reset as u8
        };
        let was = before.backends.get(&id).is_some_and(is_reset);
        let will_be = after.backends.get(&id).is_some_and(is_reset);
        if let Some(effect) = effects.get_mut(&service).filter(|_| will_be && !was) {
            effect.reset.push(id);
        }
    }
    effects
}

fn members(desired: &Desired) -> impl Iterator<Item = (Arc<str>, u32)> {
    let of = |pool: &PoolPlan| -> Vec<(Arc<str>, u32)> {
        pool.members.iter().map(|member| (Arc::clone(&pool.service), member.id)).collect()
    };
    desired.pools.values().flat_map(of)
}

fn is_same(before: &PoolPlan, after: &PoolPlan) -> bool {
    (&before.service, &before.route) == (&after.service, &after.route)
}

/// The part of a pool's new flows that go elsewhere.
fn moved(before: &PoolPlan, after: &PoolPlan) -> f64 {
    /// As fine as the largest tables are.
    const POINTS: u32 = 1 << 16;
    if before.slots.is_empty() || after.slots.is_empty() {
        return if before.slots.is_empty() == after.slots.is_empty() { 0.0 } else { 1.0 };
    }
    if !is_by_hash(before.pick) || before.pick != after.pick {
        return shifted(before, after).max(if before.pick == after.pick { 0.0 } else { 1.0 });
    }
    if Arc::ptr_eq(&before.slots, &after.slots) {
        return 0.0;
    }
    let at = |pool: &PoolPlan, point: u32| {
        let hash = u64::from(point) << 48;
        pool.slots[hash::slot(hash, pool.slots.len() as u32) as usize]
    };
    let other = (0..POINTS).filter(|&point| at(before, point) != at(after, point)).count();
    other as f64 / f64::from(POINTS)
}

fn is_by_hash(pick: Pick) -> bool {
    match pick {
        Pick::Hash | Pick::Source { .. } => true,
        Pick::Random | Pick::Turn | Pick::Fewest => false,
    }
}

/// Where nobody has a place of his own: what some gain, which others lose.
fn shifted(before: &PoolPlan, after: &PoolPlan) -> f64 {
    let share = |pool: &PoolPlan, id: u32| {
        let member = pool.members.iter().find(|member| member.id == id);
        member.map_or(0.0, |member| pool.share(member))
    };
    after.members.iter().map(|m| (share(after, m.id) - share(before, m.id)).max(0.0)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::facts::{Facts, Interface};
    use crate::state::State;

    /// The effect on service `web` when backends (and more lines of it) become others.
    fn effect(before: (&str, &str), after: (&str, &str)) -> Effect {
        let config = |(backends, lines): (&str, &str)| {
            let text = format!(
                "[[service]]\nname = 'web'\nlisten = {{ interfaces = ['eth0'], port = 80 }}\n\
                 backends = [{backends}]\n{lines}"
            );
            parse("test.toml", &text).unwrap().config
        };
        let eth0 = Interface { index: 2, addresses: vec!["192.0.2.1".parse().unwrap()] };
        let interfaces = [("eth0".to_owned(), eth0)].into();
        let mut state = State::new(config(before), Facts { interfaces, ..Facts::default() });
        let before = state.plan().clone();
        state.handle_config(config(after));
        effects(&before, state.plan()).remove("web").unwrap()
    }

    const TWO: &str = "{ address = '10.0.0.1:80' }, { address = '10.0.0.2:80' }";
    const ONE: &str = "{ address = '10.0.0.1:80' }";

    #[test]
    fn what_has_not_changed_moves_nothing() {
        for algorithm in ["", "algorithm = 'random'"] {
            assert_eq!(effect((TWO, algorithm), (TWO, algorithm)), Effect::default());
        }
    }

    #[test]
    fn backend_that_leaves_moves_its_share_and_little_more() {
        let hashed = effect((TWO, ""), (ONE, "")).moved;
        assert!((0.49..0.52).contains(&hashed), "{hashed}");
        let random = "algorithm = 'random'";
        let moved = effect((TWO, random), (ONE, random)).moved;
        assert!((0.49..0.51).contains(&moved), "{moved}");
    }

    #[test]
    fn another_weight_moves_the_difference() {
        let heavier = "{ address = '10.0.0.1:80', weight = 3 }, { address = '10.0.0.2:80' }";
        let moved = effect((TWO, ""), (heavier, "")).moved;
        assert!((0.24..0.30).contains(&moved), "{moved}");
    }

    #[test]
    fn flows_end_only_where_the_service_says_so() {
        assert_eq!(effect((TWO, ""), (ONE, "")).reset, Vec::<u32>::new());
        let resets = "on-backend-removed = 'reset'";
        assert_eq!(effect((TWO, resets), (ONE, resets)).reset, [1]);
    }

    #[test]
    fn another_way_to_pick_moves_everything() {
        assert_eq!(effect((TWO, ""), (TWO, "algorithm = 'random'")).moved, 1.0);
    }
}

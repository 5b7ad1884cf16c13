use std::net::SocketAddr;

use equipoise_common::key::TCP;
use equipoise_common::value::{self, Pick};

use super::*;
use crate::config::Prefix;
use crate::id::{Family, Holder};
use crate::plan::{BackendPlan, PoolPlan, Routed, ServiceKey};

/// Services of one key, one pool and one backend each, with so many slots; all have the id.
fn desired(services: &[(u32, usize)]) -> Desired {
    let mut desired = Desired::default();
    for &(id, slots) in services {
        let slots = vec![id; slots].into();
        let (service, route, family, pick) = ("web".into(), None, Family::V4, Pick::Hash);
        let members = Vec::new();
        let pool = PoolPlan {
            service,
            route,
            family,
            holder: Holder(u64::from(id)),
            pick,
            members,
            panics: false,
            streamed: false,
            slots,
        };
        desired.pools.insert(id, pool);
        desired.services.insert(key(id), value::Service { id, pool: id });
        desired.service_holders.insert(id, Holder(0));
        desired.backends.insert(
            id,
            BackendPlan { value: value::Backend::default(), holder: Holder(0), out: None },
        );
    }
    desired
}

fn key(id: u32) -> ServiceKey {
    ServiceKey::new(SocketAddr::from(([192, 0, 2, 1], id as u16)), 1, TCP)
}

/// Applies all steps and tells those that are of pools and services, and what is unplaced.
fn apply(applied: &mut Applied, desired: &Desired) -> (Vec<String>, Vec<Unplaced>) {
    let Difference { steps, unplaced } = diff(applied, desired);
    steps.iter().for_each(|step| applied.record(step));
    let is_told = |step: &&Step| match step {
        Step::ResetServiceCounters { .. }
        | Step::ResetBackendCounters { .. }
        | Step::PutPolicy { .. }
        | Step::PutAccess { .. }
        | Step::RemoveAccess { .. }
        | Step::PutReply { .. }
        | Step::RemoveReply { .. }
        | Step::PutSnat { .. }
        | Step::RemoveSnat { .. }
        | Step::PutHairpin { .. }
        | Step::RemoveHairpin { .. }
        | Step::PutBackend { .. } => false,
        Step::WriteSlots { .. }
        | Step::PutPool { .. }
        | Step::PutService { .. }
        | Step::RemoveService { .. }
        | Step::RemovePool { .. }
        | Step::PutRoute { .. }
        | Step::RemoveRoute { .. }
        | Step::RemoveBackend { .. }
        | Step::Grace => true,
    };
    (steps.iter().filter(is_told).map(Step::to_string).collect(), unplaced)
}

#[test]
fn short_of_room_runs_that_rest_are_waited_for_and_used() {
    let mut applied = Applied::new(12);
    apply(&mut applied, &desired(&[(1, 4), (2, 4)]));
    let (steps, unplaced) = apply(&mut applied, &desired(&[(1, 3), (2, 3)]));
    assert_eq!(unplaced, []);
    let expected = [
        "write slots 8..11",
        "put pool 1: slots 8..11, hash, epoch 2",
        "wait for packets in flight",
        "write slots 0..3",
        "put pool 2: slots 0..3, hash, epoch 2",
        "wait for packets in flight",
    ];
    assert_eq!(steps, expected);
}

#[test]
fn room_of_what_is_removed_is_used_for_what_waits_for_it() {
    let mut applied = Applied::new(4);
    apply(&mut applied, &desired(&[(1, 3)]));
    let (steps, unplaced) = apply(&mut applied, &desired(&[(2, 4)]));
    assert_eq!(unplaced, []);
    let expected = [
        "remove service 192.0.2.1:1/tcp on interface 1",
        "remove pool 1",
        "wait for packets in flight",
        "write slots 0..4",
        "put pool 2: slots 0..4, hash, epoch 1",
        "put service 192.0.2.1:2/tcp on interface 1: service 2, pool 2",
        "remove backend 1",
    ];
    assert_eq!(steps, expected);
}

#[test]
fn pool_without_room_keeps_its_slots_and_their_backends() {
    let mut applied = Applied::new(4);
    apply(&mut applied, &desired(&[(1, 3)]));
    let mut other = desired(&[(1, 2)]);
    other.backends.insert(7, other.backends[&1]);
    other.backends.remove(&1);
    other.pools.get_mut(&1).unwrap().slots = vec![7, 7].into();
    let (steps, unplaced) = apply(&mut applied, &other);
    assert_eq!(unplaced, [Unplaced { pool: 1, slots: 2 }]);
    assert_eq!(steps, [] as [&str; 0]);
    assert_eq!(applied.pools().next().unwrap().2, [1, 1, 1]);
    assert!(applied.backends().contains_key(&1));
}

#[test]
fn backend_is_gone_only_when_its_slots_are() {
    for (room, expected) in [
        (4, &[][..]),
        (
            8,
            &[
                "write slots 3..5",
                "put pool 1: slots 3..5, hash, epoch 2",
                "wait for packets in flight",
                "put backend 1: 0.0.0.0 of service 0, generation 1, gone",
            ],
        ),
    ] {
        let mut applied = Applied::new(room);
        let mut other = desired(&[(1, 3)]);
        other.backends.insert(7, other.backends[&1]);
        apply(&mut applied, &other);
        let gone = other.backends.get_mut(&1).unwrap();
        (gone.value.state, gone.value.generation) = (value::Backend::GONE, 1);
        other.pools.get_mut(&1).unwrap().slots = vec![7, 7].into();
        let steps = diff(&applied, &other).steps;
        assert_eq!(steps.iter().map(Step::to_string).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn backend_that_left_before_it_was_put_is_not_put() {
    let mut applied = Applied::new(4);
    let mut left = desired(&[(1, 3)]);
    left.backends.insert(7, left.backends[&1]);
    left.backends.get_mut(&7).unwrap().value.state = value::Backend::GONE;
    apply(&mut applied, &left);
    assert_eq!(applied.backends().keys().copied().collect::<Vec<_>>(), [1]);
    assert_eq!(diff(&applied, &left), Difference::default());
}

#[test]
fn service_whose_pool_has_no_room_keeps_leading_where_it_led() {
    let mut applied = Applied::new(4);
    apply(&mut applied, &desired(&[(1, 3)]));
    let mut other = desired(&[(2, 4)]);
    let service = other.services.remove(&key(2)).unwrap();
    other.services.insert(key(1), service);
    let (steps, unplaced) = apply(&mut applied, &other);
    assert_eq!(unplaced, [Unplaced { pool: 2, slots: 4 }]);
    assert_eq!(steps, [] as [&str; 0]);
    assert_eq!(applied.services()[&key(1)].pool, 1);
}

#[test]
fn route_whose_pool_has_no_room_waits_and_shorter_ones_of_its_service_with_it() {
    let routed = |service, prefix: &str| {
        let (address, length) = prefix.split_once('/').unwrap();
        let (address, length) = (address.parse().unwrap(), length.parse().unwrap());
        Routed { service, prefix: Prefix { address, length } }
    };
    let mut applied = Applied::new(4);
    let mut before = desired(&[(1, 1), (2, 1)]);
    before.routes.insert(routed(1, "10.1.0.0/16"), 2);
    apply(&mut applied, &before);
    let mut other = desired(&[(1, 1), (2, 1), (3, 3)]);
    other.routes.insert(routed(1, "10.1.0.0/16"), 3);
    other.routes.insert(routed(1, "10.0.0.0/8"), 1);
    other.routes.insert(routed(2, "10.0.0.0/8"), 1);
    let (steps, unplaced) = apply(&mut applied, &other);
    assert_eq!(unplaced, [Unplaced { pool: 3, slots: 3 }]);
    assert_eq!(steps, ["put route 10.0.0.0/8 of service 2: pool 1"]);
    // What it leads to stays as long as it waits.
    other.pools.remove(&2);
    other.services.remove(&key(2));
    other.routes.remove(&routed(2, "10.0.0.0/8"));
    let (steps, unplaced) = apply(&mut applied, &other);
    assert_eq!(unplaced, [Unplaced { pool: 3, slots: 3 }]);
    let expected = [
        "remove service 192.0.2.1:2/tcp on interface 1",
        "remove route 10.0.0.0/8 of service 2",
        "wait for packets in flight",
    ];
    assert_eq!(steps, expected);
    assert_eq!(applied.routes()[&routed(1, "10.1.0.0/16")], 2);
}

#[test]
fn slots_written_before_a_failure_are_gone_on_with_unless_another_pool_takes_their_place() {
    let mut applied = Applied::new(8);
    let wanted = desired(&[(2, 4)]);
    let until_written =
        |step: &&Step| matches!(step, Step::PutBackend { .. } | Step::WriteSlots { .. });
    diff(&applied, &wanted)
        .steps
        .iter()
        .filter(until_written)
        .for_each(|step| applied.record(step));
    let (steps, _) = apply(&mut applied.clone(), &wanted);
    assert_eq!(steps[0], "put pool 2: slots 0..4, hash, epoch 1");
    let mut both = desired(&[(1, 4)]);
    both.pools.extend(wanted.pools);
    both.backends.extend(wanted.backends);
    let (steps, _) = apply(&mut applied, &both);
    assert_eq!(steps[0], "write slots 0..4");
    assert_eq!(steps[3], "put pool 2: slots 4..8, hash, epoch 1");
    let slots: Vec<_> =
        applied.pools().map(|(_, pool, slots)| (pool.offset, slots.to_vec())).collect();
    assert_eq!(slots, [(0, vec![1; 4]), (4, vec![2; 4])]);
}

#[test]
fn new_holder_of_an_id_counts_from_zero_and_an_old_one_goes_on() {
    let mut applied = Applied::new(4);
    let old = desired(&[(1, 1)]);
    apply(&mut applied, &old);
    apply(&mut applied, &Desired::default());
    let resets = |desired: &Desired| {
        let reset = |step: &&Step| step.to_string().starts_with("reset");
        diff(&applied, desired).steps.iter().filter(reset).count()
    };
    assert_eq!(resets(&old), 0);
    let mut new = old.clone();
    new.service_holders.insert(1, Holder(1));
    new.backends.get_mut(&1).unwrap().holder = Holder(1);
    assert_eq!(resets(&new), 2);
}

//! Scenarios: what happens to an instance, told as text, and what is planned and done about it.
//!
//! A file in `scenario/` is a title and sections, taken in order. Events: `facts` (an interface a
//! line: name, index, addresses), `config` (a configuration in TOML), `flows` (the flow table has
//! been read; a line for each backend id that it names), `fails at N` (the N-th step of the next
//! `steps` is refused), `answers` (how backends answer checks from now on: `good`, `bad` and of which kind and with which words, or
//! `silent` for checks that do not end; the others answer well), `until T` (time passes, and checks and look-ups are made), `check now`
//! (an operator wants a backend checked), `manual` (an operator's word: a service, a backend, `up`, `down` or `auto`, and for how long),
//! `loads` (live flows by backend id), `names` (what names stand for from now on: a name, for how long, and addresses, or those of SRV
//! records with priority and weight; or `fails` and how, or `silent`; names that are not there are not known), `refresh` (an operator wants
//! a name looked up), `drain` (a service, a backend, how long flows may take, and `forced` or nothing; `from ROUTE` behind the
//! service for the pool of a route), `undrain` (so, and `gradual` or nothing), `breaker` (a service, a backend, and `open`, `close` or
//! `reset`), `outcomes` (a service, a backend, how many connections have ended well there, and how many badly), `restart` (another process
//! takes the place of this one, with what outlives it). Answers: `dump` (the
//! desired state), `steps` (what leads there from what has been done so far), `health` (what is believed of each backend),
//! `checks` (what checks have said of each), `breakers`, `drains` (how far each has got), `known` (what is known of names), `told` (what has
//! been told since that was asked last), `ordered` (which checks and look-ups have been since then, and when).
//! `UPDATE_EXPECT=1 cargo test` writes the answers anew.

mod story;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use story::play;

macro_rules! scenarios {
    ($($name:ident)+) => {
        $(#[test] fn $name() { check(stringify!($name)); })+

        #[test]
        fn every_file_is_a_scenario() {
            let names: BTreeSet<String> = [$(stringify!($name)),+].map(String::from).into();
            let files = std::fs::read_dir(folder()).expect("the folder of scenarios");
            let stem = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
            let files = files.filter_map(|file| stem(file.expect("its entries").path()));
            assert_eq!(files.collect::<BTreeSet<_>>(), names);
        }
    };
}

scenarios! {
    address_of_a_name_that_comes_back_is_who_it_was
    address_of_a_name_that_leaves_goes_after_packets_in_flight
    address_that_appears_adds_keys_and_nothing_else
    algorithm_change_keeps_the_slots
    all_backends_down_is_as_if_nothing_were_known
    all_breakers_open_are_as_if_there_were_none
    all_facts_meet_in_one_weight
    answer_that_is_much_smaller_takes_half_unless_health_agrees
    backend_of_two_pools_answers_for_its_service
    backend_that_comes_back_after_its_id_has_rested_is_a_new_one
    backend_that_comes_back_has_its_old_id
    backend_that_comes_back_is_of_another_generation
    backend_that_comes_back_while_a_flow_names_it_has_its_old_id
    backend_that_has_left_stays_until_no_flow_names_it
    backend_that_leaves_goes_after_packets_in_flight
    backend_that_leaves_is_checked_no_more
    backend_that_leaves_takes_its_drain_with_it
    backend_that_leaves_with_a_reset_goes_after_packets_in_flight
    backends_are_unknown_and_usable_until_a_threshold_says_otherwise
    backup_backends_take_over_when_no_other_is_usable
    breaker_counts_over_a_window_that_slides
    breaker_is_of_one_service_and_pool
    breaker_opens_and_closes_by_what_every_check_says
    breaker_that_is_half_open_lets_in_nobody_who_is_down_or_drained
    breaker_turned_by_hand_reaches_the_slots
    check_of_no_kind_is_no_check
    check_that_is_asked_for_is_made_at_once
    checks_are_spread_over_their_interval
    checks_that_change_no_verdict_write_nothing
    connections_that_fail_open_a_breaker_for_longer_each_time
    counts_in_a_row_make_verdicts
    down_backend_is_of_another_generation_and_its_flows_are_told
    drain_flap_and_reload_at_once_leave_it_drained
    drain_is_of_a_port_and_not_of_an_address
    drain_is_told_when_its_last_flow_has_ended_or_its_time_is_up
    drain_of_a_route_leaves_other_pools_alone
    drained_backend_stays_out_whatever_its_health_does
    exact_address_wins_over_own_addresses
    failing_backend_loses_its_slots_and_gets_them_back
    families_of_a_service_are_weighed_apart
    flap_touches_the_pools_that_name_the_backend_and_no_other
    hosts_that_are_sources_lead_all_their_addresses
    http_checks_ask_for_a_page_and_go_by_its_code
    https_checks_go_by_the_certificate_too
    interface_that_does_not_exist_is_a_note_until_it_appears
    last_backend_drained_serves_on_unless_that_is_forced
    last_backend_that_goes_down_keeps_its_flows
    lightest_of_a_pool_keep_their_share
    live_flows_and_health_meet_in_one_weight
    live_flows_count_only_where_that_is_asked_for
    look_up_that_fails_is_told_once_and_changes_nothing
    look_ups_follow_what_answers_say_and_are_spread
    name_beside_a_heavy_backend_keeps_its_share
    name_is_divided_among_its_addresses_beside_others
    name_that_fails_keeps_its_last_addresses
    name_that_is_asked_for_by_hand_is_looked_up_at_once
    name_without_an_address_leaves_its_pool_empty
    new_weight_touches_its_pool_alone
    next_process_goes_on_where_the_last_one_was
    only_so_many_of_a_pool_are_out_by_their_breakers
    order_of_addresses_writes_nothing
    own_addresses_have_the_ports_that_exact_ones_leave
    policy_change_touches_the_policy_alone
    pool_that_panics_asks_backups_and_breakers_all_the_same
    pool_that_panics_by_none_has_no_backend
    pool_that_panics_falls_back_to_other_backends
    port_goes_before_range_before_all
    priorities_of_service_records_stand_by
    recovery_by_time_is_a_line
    recovery_goes_by_quarters_from_unhealthy
    refused_step_is_taken_by_the_next_try
    reload_keeps_what_is_known
    route_leads_its_sources_to_a_pool_of_their_own
    route_recovers_and_panics_as_its_own_tables_say
    route_that_changes_touches_its_own_entries_alone
    route_that_leaves_goes_before_its_pool
    scores_follow_live_flows_of_their_own_backend
    second_service_leaves_the_first_untouched
    service_of_both_families_has_a_pool_for_each
    service_records_of_weight_0_are_seldom_chosen
    service_that_leaves_goes_before_what_it_led_to
    service_without_a_backend_of_a_family_is_a_note
    tables_of_settings_service_route_and_backend_are_merged
    tcp_checks_tell_why_they_have_failed
    two_services_with_one_name_each_follow_it
    undrained_backend_gets_its_share_back_by_quarters
    verdicts_that_change_are_told_once_and_reach_the_slots
    weight_of_zero_keeps_the_backend_and_takes_its_slots
    word_of_an_operator_stands_whatever_checks_say
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenario")
}

fn check(name: &str) {
    let path = folder().join(name).with_extension("txt");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    expect_file![&path].assert_eq(&play(&text));
}

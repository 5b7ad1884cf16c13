//! What people who come from another balancer rely on, by the ids that it is written down under, and what shows that it holds.
//!
//! Health, weights, breakers, drains, names and least connections, and what must not happen in them again. Each id has a scenario, but for
//! the few that are about what is no matter of deciding, and tests by their file and name; a row whose test is not there is a failed test,
//! and so is an id without a row or a scenario. What is of a cluster of balancers has none.

use std::collections::BTreeSet;
use std::path::Path;

/// An id, what it is about, and what shows it: `scenario NAME`, or `FILE TEST` below `crates/`.
struct Row(&'static str, &'static str, &'static [&'static str]);

const ROWS: &[Row] = &[
    Row(
        "HC-1",
        "a TCP check is a connection, and failures have kinds",
        &[
            "scenario tcp_checks_tell_why_they_have_failed",
            "equipoise/tests/probes/plain.rs tcp_is_good_when_somebody_listens",
            "equipoise/tests/probes/plain.rs tcp_that_is_swallowed_is_late",
        ],
    ),
    Row(
        "HC-2",
        "an HTTP check asks, and goes by the code",
        &[
            "scenario http_checks_ask_for_a_page_and_go_by_its_code",
            "equipoise/tests/probes/http.rs http_is_good_when_status_and_body_are_those_expected",
            "equipoise/tests/probes/http.rs redirects_are_followed_when_asked_and_only_within_the_address",
        ],
    ),
    Row(
        "HC-3",
        "an HTTPS check believes nobody without a certificate",
        &[
            "scenario https_checks_go_by_the_certificate_too",
            "equipoise/tests/probes/http.rs https_is_good_when_the_certificate_is_believed",
        ],
    ),
    Row("HC-4", "no check is no check", &["scenario check_of_no_kind_is_no_check"]),
    Row(
        "HC-5",
        "checks can be made once, by hand",
        &["equipoise/tests/commands.rs probe_needs_no_instance_and_says_how_it_went"],
    ),
    Row(
        "HM-1",
        "all are unknown at first",
        &[
            "scenario counts_in_a_row_make_verdicts",
            "scenario backends_are_unknown_and_usable_until_a_threshold_says_otherwise",
        ],
    ),
    Row(
        "HM-2",
        "good checks in a row make a backend healthy",
        &[
            "scenario counts_in_a_row_make_verdicts",
            "equipoise-core/src/health/record.rs verdicts_need_their_thresholds_in_a_row",
        ],
    ),
    Row(
        "HM-3",
        "bad checks in a row make it unhealthy",
        &[
            "scenario counts_in_a_row_make_verdicts",
            "equipoise-core/src/health/record.rs verdicts_need_their_thresholds_in_a_row",
            "scenario failing_backend_loses_its_slots_and_gets_them_back",
        ],
    ),
    Row(
        "HM-4",
        "it recovers by quarters",
        &[
            "scenario route_recovers_and_panics_as_its_own_tables_say",
            "scenario recovery_goes_by_quarters_from_unhealthy",
        ],
    ),
    Row(
        "HM-5",
        "checks are spread over their interval",
        &[
            "scenario checks_are_spread_over_their_interval",
            "equipoise-core/src/health/tests.rs phases_are_spread_over_a_period_and_stay_apart",
            "equipoise-core/src/health/tests.rs lateness_does_not_add_up",
        ],
    ),
    Row(
        "HM-6",
        "a change is told, and is in the maps; no change writes nothing",
        &[
            "scenario verdicts_that_change_are_told_once_and_reach_the_slots",
            "equipoise/tests/whole/events.rs checks_are_told_with_what_they_have_found",
            "scenario checks_that_change_no_verdict_write_nothing",
        ],
    ),
    Row(
        "HM-7",
        "all listeners of a service get the weights",
        &["scenario flap_touches_the_pools_that_name_the_backend_and_no_other"],
    ),
    Row(
        "HM-8",
        "every pool is checked that asks for it",
        &["scenario tables_of_settings_service_route_and_backend_are_merged"],
    ),
    Row(
        "HM-9",
        "a status set by hand",
        &["scenario word_of_an_operator_stands_whatever_checks_say"],
    ),
    Row(
        "HM-10",
        "a check at once",
        &[
            "scenario check_that_is_asked_for_is_made_at_once",
            "equipoise-core/src/health/tests.rs one_that_is_asked_for_is_checked_at_once",
        ],
    ),
    Row(
        "HM-11",
        "what is believed can be asked for",
        &[
            "scenario counts_in_a_row_make_verdicts",
            "equipoise/tests/whole/health.rs operators_word_is_in_force_when_it_is_answered",
        ],
    ),
    Row(
        "HM-12",
        "who leaves is checked no more",
        &[
            "scenario backend_that_leaves_is_checked_no_more",
            "equipoise-core/src/health/tests.rs removed_while_a_check_is_under_way_leaves_nothing_and_added_again_is_there_once",
        ],
    ),
    Row(
        "HM-13",
        "who follows changes bothers nobody else",
        &[
            "scenario verdicts_that_change_are_told_once_and_reach_the_slots",
            "equipoise/src/events.rs slow_follower_loses_its_own_oldest_and_is_told_how_many",
        ],
    ),
    Row(
        "WGT-1",
        "the share of who is down goes to the others in proportion",
        &["scenario failing_backend_loses_its_slots_and_gets_them_back"],
    ),
    Row(
        "WGT-2",
        "rounding loses nothing: each slot is somebody's",
        &[
            "scenario lightest_of_a_pool_keep_their_share",
            "equipoise-core/src/maglev.rs the_lightest_have_one_slot_each_whatever_the_others_weigh",
        ],
    ),
    Row(
        "WGT-3",
        "effective weights are what is left of the configured ones",
        &[
            "scenario failing_backend_loses_its_slots_and_gets_them_back",
            "equipoise-core/src/weight.rs backend_that_is_down_gets_nothing_and_others_keep_their_proportions",
        ],
    ),
    Row(
        "WGT-4",
        "what packets choose by follows the weights",
        &["scenario failing_backend_loses_its_slots_and_gets_them_back"],
    ),
    Row(
        "WGT-5",
        "a recovering backend gets a part of its weight",
        &[
            "scenario recovery_goes_by_quarters_from_unhealthy",
            "equipoise-core/src/weight.rs backend_that_recovers_gets_its_part_and_a_sole_one_all_the_same",
        ],
    ),
    Row(
        "WGT-6",
        "a sole recovering backend gets all; all down, all get what is configured",
        &[
            "equipoise-core/src/weight.rs backend_that_recovers_gets_its_part_and_a_sole_one_all_the_same",
            "scenario all_backends_down_is_as_if_nothing_were_known",
        ],
    ),
    Row(
        "WGT-7",
        "unknown counts as usable",
        &["scenario backends_are_unknown_and_usable_until_a_threshold_says_otherwise"],
    ),
    Row(
        "WGT-8",
        "health and drains count together",
        &["scenario drained_backend_stays_out_whatever_its_health_does"],
    ),
    Row(
        "WGT-9",
        "breakers lie over both",
        &[
            "scenario all_facts_meet_in_one_weight",
            "equipoise-core/src/weight.rs open_breaker_keeps_a_backend_out_and_half_open_gives_a_tenth",
            "scenario all_breakers_open_are_as_if_there_were_none",
        ],
    ),
    Row(
        "WGT-10",
        "all facts meet in one weight",
        &[
            "scenario all_facts_meet_in_one_weight",
            "equipoise-core/tests/health.rs weights_are_those_of_the_model_and_a_heal_restores_exactly_what_was_configured",
        ],
    ),
    Row(
        "CB-1",
        "closed, open, half-open",
        &[
            "scenario connections_that_fail_open_a_breaker_for_longer_each_time",
            "equipoise-core/src/breaker/tests.rs whatever_comes_the_states_follow_the_rules",
        ],
    ),
    Row("CB-2", "closed at first", &["scenario breaker_opens_and_closes_by_what_every_check_says"]),
    Row(
        "CB-3",
        "opens at enough outcomes and enough failures, in a window that slides",
        &[
            "scenario breaker_counts_over_a_window_that_slides",
            "equipoise-core/src/breaker/tests.rs opens_at_the_threshold_and_with_enough_outcomes_alone",
            "equipoise-core/src/breaker/tests.rs outcomes_leave_the_window_one_bucket_at_a_time",
        ],
    ),
    Row(
        "CB-4",
        "open for a time, and told",
        &[
            "scenario connections_that_fail_open_a_breaker_for_longer_each_time",
            "equipoise/tests/whole/events.rs each_change_is_told_once_with_what_and_why",
        ],
    ),
    Row(
        "CB-5",
        "open, nothing counts",
        &[
            "scenario connections_that_fail_open_a_breaker_for_longer_each_time",
            "equipoise-core/src/breaker/tests.rs open_ignores_outcomes_and_is_half_open_after_its_time",
        ],
    ),
    Row(
        "CB-6",
        "half-open after its time",
        &[
            "scenario connections_that_fail_open_a_breaker_for_longer_each_time",
            "equipoise-core/src/breaker/tests.rs open_ignores_outcomes_and_is_half_open_after_its_time",
        ],
    ),
    Row(
        "CB-7",
        "half-open closes after successes and opens after one failure",
        &[
            "scenario connections_that_fail_open_a_breaker_for_longer_each_time",
            "scenario only_so_many_of_a_pool_are_out_by_their_breakers",
            "equipoise-core/src/breaker/tests.rs half_open_closes_after_successes_and_opens_after_one_failure_for_longer",
        ],
    ),
    Row(
        "CB-8",
        "closed, it counts anew",
        &["scenario breaker_opens_and_closes_by_what_every_check_says"],
    ),
    Row(
        "CB-9",
        "outcomes are checks and connections",
        &[
            "scenario breaker_opens_and_closes_by_what_every_check_says",
            "scenario connections_that_fail_open_a_breaker_for_longer_each_time",
            "equipoise/src/driver/events.rs what_becomes_of_connections_says_whether_their_backend_serves",
        ],
    ),
    Row(
        "CB-10",
        "open is nothing, half-open a tenth, all open is none",
        &[
            "scenario breaker_that_is_half_open_lets_in_nobody_who_is_down_or_drained",
            "scenario all_breakers_open_are_as_if_there_were_none",
        ],
    ),
    Row(
        "CB-11",
        "by hand",
        &[
            "scenario breaker_turned_by_hand_reaches_the_slots",
            "equipoise/tests/whole/operate.rs breakers_are_turned_by_hand",
        ],
    ),
    Row(
        "CB-12",
        "breakers can be asked for",
        &[
            "scenario breaker_counts_over_a_window_that_slides",
            "equipoise/tests/whole/operate.rs breakers_are_turned_by_hand",
        ],
    ),
    Row(
        "CB-13",
        "what changes is told, and no follower bothers another",
        &[
            "scenario only_so_many_of_a_pool_are_out_by_their_breakers",
            "equipoise/tests/whole/events.rs each_change_is_told_once_with_what_and_why",
            "equipoise/src/events.rs slow_follower_loses_its_own_oldest_and_is_told_how_many",
        ],
    ),
    Row(
        "CB-14",
        "who comes has one, who leaves takes it with it",
        &[
            "equipoise-core/src/breaker/tests.rs other_thresholds_keep_what_has_been_counted",
            "scenario breaker_is_of_one_service_and_pool",
        ],
    ),
    Row(
        "DR-1",
        "what a drain says of itself",
        &[
            "scenario drain_is_told_when_its_last_flow_has_ended_or_its_time_is_up",
            "equipoise/tests/whole/operate.rs drained_backend_is_in_no_slot_when_that_is_answered_and_comes_back",
        ],
    ),
    Row(
        "DR-2",
        "a backend is named by address and port",
        &[
            "scenario drain_is_of_a_port_and_not_of_an_address",
            "equipoise/tests/whole/operate.rs what_cannot_be_drained_is_said_and_nothing_is_begun",
        ],
    ),
    Row(
        "DR-3",
        "begun, it gets no new flows; twice, or of nobody, is an error",
        &[
            "equipoise/tests/whole/operate.rs what_cannot_be_drained_is_said_and_nothing_is_begun",
            "scenario drained_backend_stays_out_whatever_its_health_does",
        ],
    ),
    Row(
        "DR-4",
        "over when the last flow has ended, else when the time is up",
        &[
            "scenario drain_is_told_when_its_last_flow_has_ended_or_its_time_is_up",
            "equipoise-core/src/drain.rs time_runs_out_unless_the_last_flow_ends_then",
            "scenario drain_is_of_a_port_and_not_of_an_address",
        ],
    ),
    Row(
        "DR-5",
        "flows are counted by address and port",
        &["scenario drain_is_of_a_port_and_not_of_an_address"],
    ),
    Row(
        "DR-6",
        "undrained, who waits is told so",
        &[
            "scenario drain_is_told_when_its_last_flow_has_ended_or_its_time_is_up",
            "equipoise-core/src/drain.rs undoing_cancels_what_is_not_over",
            "equipoise/tests/whole/operate.rs drained_backend_is_in_no_slot_when_that_is_answered_and_comes_back",
        ],
    ),
    Row(
        "DR-7",
        "drains can be asked for",
        &[
            "scenario drain_is_told_when_its_last_flow_has_ended_or_its_time_is_up",
            "equipoise/tests/whole/operate.rs drains_outlive_reload_and_process_and_end_with_their_backend",
        ],
    ),
    Row(
        "DR-8",
        "a drain can be waited for",
        &[
            "scenario drain_is_told_when_its_last_flow_has_ended_or_its_time_is_up",
            "equipoise/tests/whole/operate.rs who_waits_is_answered_when_the_last_flow_has_ended",
            "equipoise/tests/whole/operate.rs flows_that_are_over_are_not_waited_for",
        ],
    ),
    Row(
        "DR-9",
        "who waits hears of the end of the process",
        &[
            "scenario next_process_goes_on_where_the_last_one_was",
            "equipoise/tests/whole/operate.rs drains_outlive_reload_and_process_and_end_with_their_backend",
        ],
    ),
    Row(
        "DR-10",
        "the last one serves on",
        &["scenario last_backend_drained_serves_on_unless_that_is_forced"],
    ),
    Row(
        "DR-12",
        "drains are shown to people",
        &["equipoise/tests/whole/shown.rs commands_that_drain_and_show_say_what_there_is"],
    ),
    Row(
        "DR-13",
        "pools of routes are drained as any",
        &["scenario drain_of_a_route_leaves_other_pools_alone"],
    ),
    Row(
        "LA-1",
        "by configured weights unless live flows are asked for",
        &[
            "scenario live_flows_count_only_where_that_is_asked_for",
            "equipoise-core/src/state.rs weights_follow_live_flows_where_the_service_says_so",
        ],
    ),
    Row(
        "LA-2",
        "scores by live flows",
        &[
            "equipoise-core/src/load.rs shares_are_like_the_scores",
            "scenario scores_follow_live_flows_of_their_own_backend",
        ],
    ),
    Row(
        "LA-3",
        "then health, drains and breakers",
        &["scenario live_flows_and_health_meet_in_one_weight"],
    ),
    Row(
        "LA-4",
        "flows are those of the backend, port and all",
        &["scenario scores_follow_live_flows_of_their_own_backend"],
    ),
    Row(
        "LM-1",
        "again and again, and only what differs is written",
        &[
            "scenario live_flows_count_only_where_that_is_asked_for",
            "equipoise-core/src/state.rs weights_follow_live_flows_where_the_service_says_so",
        ],
    ),
    Row(
        "LM-2",
        "pools of routes as well",
        &[
            "scenario live_flows_count_only_where_that_is_asked_for",
            "equipoise/tests/whole/health.rs failing_check_takes_slots_away_and_passing_it_gives_them_back",
            "equipoise-core/src/state.rs weights_follow_live_flows_where_the_service_says_so",
        ],
    ),
    Row(
        "LM-3",
        "configured and effective weights can be asked for",
        &[
            "scenario live_flows_count_only_where_that_is_asked_for",
            "equipoise/tests/whole_program.rs status_has_the_published_shape_and_counts",
        ],
    ),
    Row(
        "D-18",
        "at the start, and with all down, all get what is configured",
        &[
            "scenario backends_are_unknown_and_usable_until_a_threshold_says_otherwise",
            "scenario all_backends_down_is_as_if_nothing_were_known",
        ],
    ),
    Row(
        "D-19",
        "one writer, who knows all facts",
        &[
            "scenario drained_backend_stays_out_whatever_its_health_does",
            "equipoise-core/tests/health.rs weights_are_those_of_the_model_and_a_heal_restores_exactly_what_was_configured",
        ],
    ),
    Row(
        "D-26",
        "the share of who is drained goes to who is healthy",
        &[
            "scenario last_backend_drained_serves_on_unless_that_is_forced",
            "scenario drained_backend_stays_out_whatever_its_health_does",
        ],
    ),
    Row(
        "D-27",
        "a drain that is over lets nobody in",
        &[
            "scenario drain_flap_and_reload_at_once_leave_it_drained",
            "scenario drained_backend_stays_out_whatever_its_health_does",
        ],
    ),
    Row(
        "D-28",
        "two backends of a host are two",
        &[
            "scenario drain_is_of_a_port_and_not_of_an_address",
            "scenario scores_follow_live_flows_of_their_own_backend",
        ],
    ),
    Row(
        "D-28b",
        "who waits for a drain that is undone is told",
        &[
            "scenario drain_is_told_when_its_last_flow_has_ended_or_its_time_is_up",
            "equipoise/tests/whole/operate.rs who_waits_for_a_drain_that_is_undone_is_told_so",
        ],
    ),
    Row(
        "D-28c",
        "a second drain of one backend is refused, and changes nothing",
        &[
            "scenario drain_is_told_when_its_last_flow_has_ended_or_its_time_is_up",
            "equipoise-core/src/drain.rs second_drain_of_a_backend_is_refused_and_changes_nothing",
        ],
    ),
    Row("D-29", "no check is not the default check", &["scenario check_of_no_kind_is_no_check"]),
    Row(
        "D-30",
        "tables are merged key by key",
        &[
            "scenario route_recovers_and_panics_as_its_own_tables_say",
            "scenario tables_of_settings_service_route_and_backend_are_merged",
            "equipoise-core/tests/health.rs tables_mean_together_what_each_says_nearest",
        ],
    ),
    Row(
        "D-31",
        "every place that a check may be asked for at counts",
        &["scenario tables_of_settings_service_route_and_backend_are_merged"],
    ),
    Row("D-32", "recovery begins", &["scenario recovery_goes_by_quarters_from_unhealthy"]),
    Row(
        "D-33",
        "every check counts for a breaker, and it closes by itself",
        &["scenario breaker_opens_and_closes_by_what_every_check_says"],
    ),
    Row(
        "D-34",
        "an operator's word holds",
        &[
            "scenario next_process_goes_on_where_the_last_one_was",
            "scenario word_of_an_operator_stands_whatever_checks_say",
        ],
    ),
    Row(
        "D-35",
        "no timer is left, and no check puts another off",
        &[
            "scenario backend_that_leaves_is_checked_no_more",
            "scenario checks_are_spread_over_their_interval",
            "equipoise-core/src/health/tests.rs removed_while_a_check_is_under_way_leaves_nothing_and_added_again_is_there_once",
            "equipoise/tests/probes/many.rs slow_checks_put_no_other_off",
        ],
    ),
    Row(
        "D-36",
        "a breaker is of one service and pool",
        &["scenario breaker_is_of_one_service_and_pool"],
    ),
    Row(
        "D-37",
        "a reset reaches the maps, and is told",
        &["scenario breaker_turned_by_hand_reaches_the_slots"],
    ),
    Row(
        "D-38",
        "half-open lets in nobody who is down or drained",
        &[
            "scenario breaker_that_is_half_open_lets_in_nobody_who_is_down_or_drained",
            "scenario all_breakers_open_are_as_if_there_were_none",
        ],
    ),
    Row(
        "D-39",
        "live flows give nothing to who is down",
        &["scenario live_flows_and_health_meet_in_one_weight"],
    ),
    Row(
        "D-90",
        "commands do what their help says",
        &[
            "scenario drained_backend_stays_out_whatever_its_health_does",
            "scenario families_of_a_service_are_weighed_apart",
            "equipoise/tests/whole/changes.rs backend_is_added_and_removed_and_keeps_its_flows_and_others_theirs",
            "equipoise/tests/whole/operate.rs drained_backend_is_in_no_slot_when_that_is_answered_and_comes_back",
        ],
    ),
    Row(
        "DNS-1",
        "a name is all of its addresses, and failures have kinds",
        &[
            "scenario name_is_divided_among_its_addresses_beside_others",
            "scenario look_up_that_fails_is_told_once_and_changes_nothing",
            "equipoise/tests/names.rs host_is_all_of_its_addresses_of_both_families_for_the_shortest_time",
            "equipoise/tests/names.rs name_that_is_not_there_and_name_without_an_address_are_told_apart",
            "equipoise/tests/names.rs server_that_says_nothing_is_waited_for_and_no_longer",
        ],
    ),
    Row(
        "DNS-2",
        "its weight is divided exactly, and nobody gets nothing",
        &[
            "scenario service_records_of_weight_0_are_seldom_chosen",
            "equipoise-core/src/resolve/tests.rs weight_of_a_name_is_divided_exactly",
            "scenario name_beside_a_heavy_backend_keeps_its_share",
        ],
    ),
    Row("DNS-3", "order is nothing", &["scenario order_of_addresses_writes_nothing"]),
    Row(
        "DNS-4",
        "addresses are shown in brackets",
        &["equipoise/src/cli/dns.rs addresses_are_shown_in_brackets"],
    ),
    Row(
        "DNS-5",
        "look-ups have a thread, and end with it",
        &[
            "equipoise/tests/names.rs slow_look_up_puts_no_other_off_and_one_that_is_given_up_does_not_answer",
        ],
    ),
    Row(
        "DNS-6",
        "names are looked up before packets flow, or that is refused",
        &[
            "scenario name_without_an_address_leaves_its_pool_empty",
            "equipoise/tests/whole/names.rs name_is_resolved_before_packets_flow_and_followed_as_it_changes",
            "equipoise/tests/whole/names.rs name_that_is_not_known_at_the_start_is_waited_for_or_refused",
        ],
    ),
    Row(
        "DNS-7",
        "look-ups are spread",
        &[
            "scenario look_ups_follow_what_answers_say_and_are_spread",
            "equipoise-core/src/resolve/names.rs names_that_are_due_at_once_do_not_stay_together",
            "equipoise-core/src/resolve/tests.rs answers_say_how_long_they_hold_within_bounds_unless_the_file_does",
        ],
    ),
    Row(
        "DNS-8",
        "a change is told, and is in the maps; no change writes nothing",
        &[
            "scenario look_up_that_fails_is_told_once_and_changes_nothing",
            "scenario order_of_addresses_writes_nothing",
            "equipoise/tests/whole/names.rs name_is_resolved_before_packets_flow_and_followed_as_it_changes",
            "equipoise/tests/whole/names.rs unchanged_answer_writes_no_map",
        ],
    ),
    Row(
        "DNS-9",
        "what cannot be looked up stays as last known, and that is told",
        &[
            "scenario look_up_that_fails_is_told_once_and_changes_nothing",
            "scenario name_that_fails_keeps_its_last_addresses",
            "equipoise-core/src/resolve/names.rs failures_are_told_when_they_are_new",
        ],
    ),
    Row(
        "DNS-10",
        "a name can be looked up by hand",
        &[
            "scenario name_that_is_asked_for_by_hand_is_looked_up_at_once",
            "equipoise/tests/whole/names.rs name_is_refreshed_when_that_is_asked_for_and_in_force_when_it_is_answered",
        ],
    ),
    Row(
        "DNS-11",
        "a name that leaves takes its timer with it",
        &[
            "scenario name_that_is_asked_for_by_hand_is_looked_up_at_once",
            "equipoise-core/src/resolve/names.rs name_that_leaves_while_it_is_looked_up_leaves_nothing_and_comes_again_as_one",
        ],
    ),
    Row(
        "DNS-12",
        "what is known of names is shown",
        &[
            "scenario look_ups_follow_what_answers_say_and_are_spread",
            "equipoise/tests/whole/names.rs name_is_resolved_before_packets_flow_and_followed_as_it_changes",
        ],
    ),
    Row(
        "DNS-13",
        "changes and failures are events",
        &[
            "scenario look_up_that_fails_is_told_once_and_changes_nothing",
            "equipoise/tests/whole/names.rs what_becomes_of_names_is_told_for_each_pool",
        ],
    ),
    Row(
        "DNS-14",
        "backends of names are as any other, beside others",
        &[
            "scenario name_is_divided_among_its_addresses_beside_others",
            "equipoise/tests/traffic/names.rs a_name_that_changes_moves_new_flows_and_no_established_one",
        ],
    ),
    Row(
        "DNS-15",
        "any name can be looked up, without an instance",
        &["equipoise/tests/commands.rs names_are_looked_up_without_a_running_instance"],
    ),
    Row("D-20", "a name may stand alone", &["scenario two_services_with_one_name_each_follow_it"]),
    Row(
        "D-21",
        "nothing is led nowhere before the first answer",
        &[
            "equipoise/tests/whole/names.rs name_that_is_not_known_at_the_start_is_waited_for_or_refused",
            "scenario name_without_an_address_leaves_its_pool_empty",
        ],
    ),
    Row(
        "D-22",
        "an answer leaves the other backends of the pool alone",
        &["scenario name_is_divided_among_its_addresses_beside_others"],
    ),
    Row(
        "D-23",
        "names are looked up everywhere, and their backends checked and drained",
        &[
            "scenario hosts_that_are_sources_lead_all_their_addresses",
            "scenario address_of_a_name_that_comes_back_is_who_it_was",
            "equipoise/tests/whole/names.rs what_is_said_of_a_backend_by_its_name_or_address_stands_when_it_comes_back",
        ],
    ),
    Row(
        "D-24",
        "two pools with one name each follow it, and no look-up is left",
        &[
            "scenario name_that_is_asked_for_by_hand_is_looked_up_at_once",
            "scenario two_services_with_one_name_each_follow_it",
            "equipoise-core/src/resolve/names.rs name_that_leaves_while_it_is_looked_up_leaves_nothing_and_comes_again_as_one",
        ],
    ),
    Row(
        "D-25",
        "answers hold for as long as they say, and IPv6 is IPv6",
        &[
            "scenario look_ups_follow_what_answers_say_and_are_spread",
            "equipoise-core/src/resolve/tests.rs answers_say_how_long_they_hold_within_bounds_unless_the_file_does",
            "equipoise/tests/names.rs host_is_all_of_its_addresses_of_both_families_for_the_shortest_time",
        ],
    ),
];

/// Ids that have no scenario, since nothing is decided there: commands that need no instance, how answers are printed, and a thread that ends.
const UNDECIDED: [&str; 5] = ["HC-5", "DR-12", "DNS-4", "DNS-5", "DNS-15"];

/// The ids that there are, of these groups.
fn wanted() -> BTreeSet<String> {
    let numbered =
        |group: &str, last: u32| (1..=last).map(|n| format!("{group}-{n}")).collect::<Vec<_>>();
    let groups = [
        ("HC", 5),
        ("HM", 13),
        ("WGT", 10),
        ("CB", 14),
        ("DR", 13),
        ("LA", 4),
        ("LM", 3),
        ("DNS", 15),
    ];
    let mut wanted: BTreeSet<_> =
        groups.into_iter().flat_map(|(group, last)| numbered(group, last)).collect();
    // Drains that other balancers of a cluster have begun.
    wanted.remove("DR-11");
    let traps = ["28b", "28c"].map(str::to_owned);
    let more = (18..=39).chain([90]).map(|number: u32| number.to_string());
    wanted.extend(traps.into_iter().chain(more).map(|number| format!("D-{number}")));
    wanted
}

#[test]
fn every_id_has_a_scenario_and_all_that_rows_name_is_there() {
    let rows: BTreeSet<String> = ROWS.iter().map(|row| row.0.to_owned()).collect();
    assert_eq!(rows, wanted());
    assert_eq!(rows.len(), ROWS.len(), "an id is there twice");
    let core = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut missing = Vec::new();
    for Row(id, what, shown) in ROWS {
        assert!(!shown.is_empty() && !what.is_empty(), "{id}");
        let has_scenario = shown.iter().any(|place| place.starts_with("scenario "));
        assert_eq!(has_scenario, !UNDECIDED.contains(id), "{id}: {what}");
        for place in *shown {
            let (file, name) = place.split_once(' ').expect("a file and a name");
            let is_there = if file == "scenario" {
                core.join("tests/scenario").join(name).with_extension("txt").is_file()
            } else {
                let path = core.parent().expect("the folder of crates").join(file);
                std::fs::read_to_string(path)
                    .is_ok_and(|text| text.contains(&format!("fn {name}(")))
            };
            if !is_there {
                missing.push(format!("{id}: {place}"));
            }
        }
    }
    assert!(missing.is_empty(), "these are not there:\n{}", missing.join("\n"));
}

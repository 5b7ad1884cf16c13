//! The maps of the programs by their names: which are pinned, which there are twice while flows are carried over.

use super::stages::{STAGES_TC, STAGES_XDP};

/// Every map that is pinned, and so shared with the programs that only explain.
pub(super) const MAPS: &[&str] = &[
    "LAYOUT",
    "HOLDERS",
    "SERVICES_V4",
    "SERVICES_V6",
    "PORTS_V4",
    "PORTS_V6",
    "POOLS",
    "SLOTS",
    "TURNS",
    "BACKENDS",
    "SNAT",
    "HAIRPINS",
    "REDIRECTS",
    "ADDRESSES",
    "SHORTCUTS",
    "MOVING",
    "POLICIES",
    "ACCESS",
    "ROUTES",
    "SOURCES",
    "BACKEND_TOKENS",
    "ERROR_TOKENS",
    "REPLIES_V4",
    "REPLIES_V6",
    "FLOWS_V4",
    "FLOWS_V6",
    "LIVE",
    "LIVE_SERVICES",
    "LIVE_BACKENDS",
    "LIVE_CLOSING",
    "HANDSHAKES",
    "PRESSURE",
    "STATELESS",
    "PROBED",
    "HOSTS",
    "LISTENERS",
    "FRAGMENTS_V4",
    "FRAGMENTS_V6",
    "CLOCK",
    "EVENTS",
    "VERDICTS",
    "SERVICE_TRAFFIC",
    "BACKEND_TRAFFIC",
    "STEPS",
    "TRACED",
    "TRACE_WANTED",
];

/// The name of a pin that stands beside another while flows are carried over.
pub(super) fn next(name: &str) -> String {
    format!("{NEXT}{name}")
}

/// What such names begin with.
pub(super) const NEXT: &str = "NEXT_";

/// Maps that there is one of for each size of the flow tables.
pub(super) const OF_A_TABLE: [&str; 3] = ["FLOWS_V4", "FLOWS_V6", "LIVE"];

/// Maps that those of two layouts share while flows are carried over: what programs of both count and look up in the same way
/// ([`CARRIAGE`]).
pub(super) const SHARED: [&str; 18] = [
    "LAYOUT",
    "HOLDERS",
    "MOVING",
    "ADDRESSES",
    "LIVE_SERVICES",
    "LIVE_BACKENDS",
    "LIVE_CLOSING",
    "HANDSHAKES",
    "PRESSURE",
    "STATELESS",
    "PROBED",
    "FRAGMENTS_V4",
    "FRAGMENTS_V6",
    "EVENTS",
    "VERDICTS",
    "SERVICE_TRAFFIC",
    "BACKEND_TRAFFIC",
    "CLOCK",
];

/// Whether it is a map of the stages of programs beside others.
pub(super) fn is_next_stage(map: &str) -> bool {
    map.strip_prefix(NEXT).is_some_and(|name| [STAGES_XDP, STAGES_TC].contains(&name))
}

/// Whether pins have a map of this name that is none of this version's.
pub(super) fn is_foreign(map: &str) -> bool {
    !MAPS.contains(&map) && ![STAGES_XDP, STAGES_TC].contains(&map)
}

/// Whether a map is a flow table, of which the number of flows decides the size.
pub(super) fn is_flow_table(name: &str) -> bool {
    ["FLOWS_V4", "FLOWS_V6"].contains(&name)
}

#[cfg(test)]
mod tests {
    use equipoise_common::value::CARRIAGE;

    use super::*;

    #[test]
    fn what_maps_of_two_layouts_have_alike_is_told() {
        let text = include_str!("../../../../../docs/pins.md");
        let (_, told) = text.split_once("\n## Between two layouts\n").unwrap();
        let others = ["BACKENDS", "POLICIES", STAGES_XDP, STAGES_TC];
        for name in SHARED.iter().chain(&OF_A_TABLE).chain(&others) {
            assert!(told.contains(&format!("`{name}`")), "{name}");
        }
        assert!(SHARED.iter().all(|name| MAPS.contains(name)));
        assert!(told.contains(&format!("`carriage`, {CARRIAGE} by now")));
    }
}

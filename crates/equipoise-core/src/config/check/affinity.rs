//! How a backend is picked for a new flow: the algorithm, or affinity in its place.

use super::keys;
use super::report::{At, Fields, Report};
use super::route::RouteDraft;
use crate::config::{Affinity, AffinityPrefix, Algorithm};

pub(super) const ALGORITHMS: [(&str, Algorithm); 5] = [
    ("maglev", Algorithm::Maglev),
    ("random", Algorithm::Random),
    ("round-robin", Algorithm::RoundRobin),
    ("least-connections", Algorithm::LeastConnections),
    ("least-connections-weights", Algorithm::LeastConnectionsWeights),
];

pub(super) const AFFINITIES: [(&str, Affinity); 2] =
    [("none", Affinity::None), ("source-ip", Affinity::SourceIp)];

/// How a backend is picked.
#[derive(Clone, Copy)]
pub(super) struct Choosing {
    pub(super) algorithm: Algorithm,
    pub(super) affinity: Affinity,
    pub(super) affinity_prefix: AffinityPrefix,
}

impl Choosing {
    /// Where nothing is said.
    pub(super) const DEFAULT: Self = Self {
        algorithm: Algorithm::Maglev,
        affinity: Affinity::None,
        affinity_prefix: AffinityPrefix { v4: 32, v6: 128 },
    };
}

/// Checks the keys that say it; what is not given, or wrong and reported, is as it is `above`.
pub(super) fn choosing(report: &mut Report<'_>, fields: &Fields<'_>, above: Choosing) -> Choosing {
    let algorithm = fields.get("algorithm");
    let affinity = fields.get("affinity").and_then(|at| report.choice(&at, &AFFINITIES));
    let prefix = fields.get("affinity-prefix");
    Choosing {
        algorithm: algorithm
            .as_ref()
            .and_then(|at| report.choice(at, &ALGORITHMS))
            .unwrap_or(above.algorithm),
        affinity: affinity.unwrap_or(above.affinity),
        affinity_prefix: match &prefix {
            Some(at) => prefixes(report, at, above.affinity_prefix),
            None => above.affinity_prefix,
        },
    }
}

/// Notes what is said of a pool and not used: neither there nor by any of these routes, to which a service hands it on.
pub(super) fn note_unused(
    report: &mut Report<'_>,
    fields: &Fields<'_>,
    affinity: Affinity,
    routes: &[RouteDraft],
) {
    let (algorithm, prefix) = (fields.get("algorithm"), fields.get("affinity-prefix"));
    match (affinity, algorithm, prefix) {
        (Affinity::SourceIp, Some(at), _) if !routes.iter().any(|r| r.handed.algorithm) => {
            let message =
                "the algorithm is not used, as `affinity` picks by the source address".to_owned();
            report.note(&at.place, message, "no `algorithm`, or `affinity = \"none\"`");
        }
        (Affinity::None, _, Some(at)) if !routes.iter().any(|r| r.handed.affinity_prefix) => {
            let message = "this has no effect without affinity".to_owned();
            report.note(&at.place, message, "`affinity = \"source-ip\"`, or no `affinity-prefix`");
        }
        (Affinity::SourceIp | Affinity::None, ..) => {}
    }
}

/// What a route uses that its service says.
#[derive(Clone, Copy)]
pub(super) struct Handed {
    algorithm: bool,
    affinity_prefix: bool,
}

impl Handed {
    /// By the keys of a route, and its affinity. A prefix that it says of one family alone is handed on for the other.
    pub(super) fn to(fields: &Fields<'_>, affinity: Affinity) -> Self {
        let has_both = |at: &At<'_>| at.has("v4") && at.has("v6");
        let is_whole = fields.get("affinity-prefix").is_some_and(|at| has_both(&at));
        Self {
            algorithm: affinity == Affinity::None && fields.get("algorithm").is_none(),
            affinity_prefix: affinity == Affinity::SourceIp && !is_whole,
        }
    }
}

fn prefixes(report: &mut Report<'_>, at: &At<'_>, above: AffinityPrefix) -> AffinityPrefix {
    let mut prefix = above;
    let Some(fields) = report.fields(at, &keys::AFFINITY_PREFIX) else { return prefix };
    if let Some(bits) = fields.get("v4").and_then(|at| report.number(&at, &(1..=32))) {
        prefix.v4 = bits;
    }
    if let Some(bits) = fields.get("v6").and_then(|at| report.number(&at, &(1..=128))) {
        prefix.v6 = bits;
    }
    prefix
}

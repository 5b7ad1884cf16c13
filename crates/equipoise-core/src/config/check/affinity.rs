//! How a backend is picked for a new flow: the algorithm, or affinity in its place.

use super::keys;
use super::report::{At, Fields, Report};
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
    let choosing = Choosing {
        algorithm: algorithm
            .as_ref()
            .and_then(|at| report.choice(at, &ALGORITHMS))
            .unwrap_or(above.algorithm),
        affinity: affinity.unwrap_or(above.affinity),
        affinity_prefix: match &prefix {
            Some(at) => prefixes(report, at, above.affinity_prefix),
            None => above.affinity_prefix,
        },
    };
    match (choosing.affinity, algorithm, prefix) {
        (Affinity::SourceIp, Some(at), _) => {
            let message =
                "the algorithm is not used, as `affinity` picks by the source address".to_owned();
            report.note(&at.place, message, "no `algorithm`, or `affinity = \"none\"`");
        }
        (Affinity::None, _, Some(at)) => {
            let message = "this has no effect without affinity".to_owned();
            report.note(&at.place, message, "`affinity = \"source-ip\"`, or no `affinity-prefix`");
        }
        (Affinity::SourceIp | Affinity::None, ..) => {}
    }
    choosing
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

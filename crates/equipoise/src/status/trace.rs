//! Packets as they are told of while somebody looks: which are wanted, and one as an answer has it.

use equipoise_common::verdict::Verdict;
use serde::{Deserialize, Serialize};

/// Which packets are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct TraceFilter {
    /// Those of this service alone.
    pub service: Option<String>,
    /// Those with these verdicts alone, by name or a part of it, with commas between them.
    pub reason: Option<String>,
    /// So many a second at most, on each CPU; 100 unless given.
    #[param(minimum = 1, maximum = 4_294_967_295_u32)]
    pub rate: Option<u32>,
}

impl TraceFilter {
    /// Packets a second on each CPU, unless it is said.
    pub const RATE: u32 = 100;

    /// The verdicts that are wanted; all where none is named.
    ///
    /// # Errors
    ///
    /// The names that are no part of any verdict's, with those that there are.
    pub fn verdicts(&self) -> Result<Vec<Verdict>, String> {
        let Some(reasons) = &self.reason else { return Ok(Verdict::ALL.to_vec()) };
        let mut wanted = Vec::new();
        let mut unknown = Vec::new();
        for reason in reasons.split(',').map(str::trim) {
            let exact = Verdict::ALL.iter().find(|verdict| verdict.name() == reason);
            let found: Vec<Verdict> = match exact {
                Some(verdict) => vec![*verdict],
                None => {
                    let all = Verdict::ALL.iter().copied();
                    all.filter(|verdict| !reason.is_empty() && verdict.name().contains(reason))
                        .collect()
                }
            };
            if found.is_empty() {
                unknown.push(format!("{reason:?}"));
            }
            wanted.extend(found);
        }
        if unknown.is_empty() {
            return Ok(wanted);
        }
        let names: Vec<&str> = Verdict::ALL.iter().map(|verdict| verdict.name()).collect();
        Err(format!("no verdict is called {}; there are {}", unknown.join(", "), names.join(", ")))
    }
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedPacket {
    /// When it left, RFC 3339.
    pub time: String,
    /// The interface that it came by; at `egress`, that it left by.
    pub interface: String,
    /// `xdp`, `ingress` or `egress`.
    pub hook: String,
    /// Its verdict.
    pub verdict: String,
    /// Its service, if it is of one.
    pub service: Option<String>,
    /// Its backend, if it has one.
    pub backend: Option<String>,
    /// Bytes of the frame as it came.
    pub length: u32,
    /// The first 128 of them at most, as hexadecimal digits.
    pub hex: String,
    /// Bytes of the frame as it left.
    pub out_length: u32,
    /// The first 128 of them at most, as hexadecimal digits.
    pub out_hex: String,
    /// Packets that were wanted and are not told of, since the one before on that CPU: too many came.
    pub skipped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(reason: &str) -> Result<Vec<Verdict>, String> {
        TraceFilter { reason: Some(reason.to_owned()), ..TraceFilter::default() }.verdicts()
    }

    #[test]
    fn reasons_are_names_or_parts_of_them_and_others_are_told_with_what_there_is() {
        assert_eq!(TraceFilter::default().verdicts().unwrap().len(), Verdict::ALL.len());
        assert_eq!(verdicts("source_limit").unwrap(), [Verdict::SourceLimit]);
        let limits = verdicts("limit").unwrap();
        assert!(limits.contains(&Verdict::SourceLimit) && limits.contains(&Verdict::BackendLimit));
        assert_eq!(
            verdicts("not_ip, source_limit").unwrap(),
            [Verdict::NotIp, Verdict::SourceLimit]
        );
        let error = verdicts("not_ip,nonsense,").unwrap_err();
        assert!(
            error.starts_with("no verdict is called \"nonsense\", \"\"; there are "),
            "{error}"
        );
        assert!(error.contains("source_limit"));
    }
}

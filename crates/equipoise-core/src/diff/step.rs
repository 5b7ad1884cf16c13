//! One change to the maps: what the data plane is asked to do.
//!
//! A step names what is to be there, not how it is written. The kernel's maps and the maps in
//! memory both take these, one at a time, each whole or not at all.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use equipoise_common::bucket::Rate;
use equipoise_common::flow::State;
use equipoise_common::key::{Address, Be16, HostKey, V4, V6};
use equipoise_common::value::{
    Backend, Fate, Fragments, Limits, OnEmpty, OnFull, OnUnknown, Pick, Policy, Pool, Reply,
    Service, Snat,
};

use super::Run;
use crate::config::target;
use crate::id::Holder;
use crate::plan::{Listed, Routed, Rule, ServiceKey};

/// One change to the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// All counters of this service become 0: the id has a new holder.
    ResetServiceCounters {
        /// The service.
        id: u32,
        /// Who that is: kept for the next process.
        holder: Holder,
    },
    /// All counters of this backend become 0: the id has a new holder.
    ResetBackendCounters {
        /// The backend.
        id: u32,
        /// Who that is: kept for the next process.
        holder: Holder,
    },
    /// How a service treats its flows is set; flows that are there go by it from their next packet on.
    PutPolicy {
        /// The service.
        id: u32,
        /// Its value.
        value: Policy,
    },
    /// A prefix is allowed or denied.
    PutAccess {
        /// The prefix, and in whose list.
        listed: Listed,
        /// Which.
        rule: Rule,
    },
    /// Nothing is said of a prefix any more.
    RemoveAccess {
        /// As in [`Step::PutAccess`].
        listed: Listed,
    },
    /// What a backend's replies of no flow become is set.
    PutReply {
        /// The backend's address, port and protocol, on interface 0.
        key: ServiceKey,
        /// Its value.
        value: Reply,
    },
    /// Its replies of no flow are no longer ours.
    RemoveReply {
        /// As in [`Step::PutReply`].
        key: ServiceKey,
    },
    /// An address of ours that packets to a backend may come from is set.
    PutSnat {
        /// By [`Snat::key`].
        key: u64,
        /// Its value.
        value: Snat,
    },
    /// It is no more.
    RemoveSnat {
        /// As in [`Step::PutSnat`].
        key: u64,
    },
    /// A backend needs help to reach others through a VIP.
    PutHairpin {
        /// Its address.
        key: HostKey,
    },
    /// It needs none any more.
    RemoveHairpin {
        /// As in [`Step::PutHairpin`].
        key: HostKey,
    },
    /// The entry of a backend is set.
    PutBackend {
        /// Its index.
        id: u32,
        /// Its value.
        value: Backend,
    },
    /// Slots are written to a run that no packet reads.
    WriteSlots {
        /// Where to.
        run: Run,
        /// Backend ids, as many as the run is long.
        slots: Arc<[u32]>,
    },
    /// The entry of a pool is set: from here on packets read its run.
    PutPool {
        /// Its key.
        id: u32,
        /// Who holds that: kept for the next process.
        holder: Holder,
        /// Its value.
        value: Pool,
    },
    /// Sources of a prefix get a pool of their own.
    PutRoute {
        /// The prefix, and of which service.
        routed: Routed,
        /// The pool.
        pool: u32,
    },
    /// They have none any more.
    RemoveRoute {
        /// As in [`Step::PutRoute`].
        routed: Routed,
    },
    /// The entry of a service key is set: from here on packets to it are balanced.
    PutService {
        /// Its key.
        key: ServiceKey,
        /// Its value.
        value: Service,
    },
    /// The entry of a service key is removed.
    RemoveService {
        /// Its key.
        key: ServiceKey,
    },
    /// The entry of a pool is removed.
    RemovePool {
        /// Its key.
        id: u32,
    },
    /// The entry of a backend is zeroed.
    RemoveBackend {
        /// Its index.
        id: u32,
    },
    /// Every packet that was in the program when this step began has left it when it ends.
    Grace,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ResetServiceCounters { id, .. } => write!(f, "reset counters of service {id}"),
            Self::ResetBackendCounters { id, .. } => write!(f, "reset counters of backend {id}"),
            Self::PutPolicy { id, value } => {
                write!(f, "put policy of service {id}: {}", describe_policy(value))
            }
            Self::PutAccess { listed, rule } => write!(f, "{} {listed}", rule.name()),
            Self::RemoveAccess { listed } => write!(f, "neither allow nor deny {listed}"),
            Self::PutReply { key, value } => write!(f, "put {}", describe_reply(key, value)),
            Self::RemoveReply { key } => {
                write!(f, "remove {}", replies_of(key))
            }
            Self::PutSnat { key, value } => write!(f, "put {}", describe_snat(*key, value)),
            Self::RemoveSnat { key } => {
                write!(f, "remove source {} of backend {}", *key as u32, key >> 32)
            }
            Self::PutHairpin { key } => write!(f, "{} is a backend", host(key)),
            Self::RemoveHairpin { key } => write!(f, "{} is no backend", host(key)),
            Self::PutBackend { id, value } => {
                write!(f, "put backend {id}: {}", describe_backend(value))
            }
            Self::WriteSlots { run, .. } => write!(f, "write slots {run}"),
            Self::PutPool { id, value, .. } => {
                let (run, epoch) = (Run::of(value), value.epoch);
                write!(f, "put pool {id}: slots {run}, {}, epoch {epoch}", pick(value.pick))
            }
            Self::PutRoute { routed, pool } => write!(f, "put route {routed}: pool {pool}"),
            Self::RemoveRoute { routed } => write!(f, "remove route {routed}"),
            Self::PutService { key, value } => {
                write!(f, "put service {key}: service {}, pool {}", value.id, value.pool)
            }
            Self::RemoveService { key } => write!(f, "remove service {key}"),
            Self::RemovePool { id } => write!(f, "remove pool {id}"),
            Self::RemoveBackend { id } => write!(f, "remove backend {id}"),
            Self::Grace => f.write_str("wait for packets in flight"),
        }
    }
}

/// Address and service of a backend, and its [`traits`].
pub(crate) fn describe_backend(backend: &Backend) -> String {
    let address = target::text(backend.place());
    let service = backend.service;
    format!("{address} of service {service}{}", traits(backend))
}

/// What is not so for every backend from the start.
pub(crate) fn traits(backend: &Backend) -> String {
    const RESET: u8 = Fate::Reset as u8;
    const RESELECT: u8 = Fate::Reselect as u8;
    const MODES: [&str; 5] = ["", ", full NAT", ", by link address", ", in IP", ", in UDP"];
    let Backend { generation, weight, max_flows, .. } = backend;
    let mut text = MODES.get(usize::from(backend.mode())).copied().unwrap_or_default().to_owned();
    if *generation > 0 {
        text.push_str(&format!(", generation {generation}"));
    }
    if *weight > 0 {
        text.push_str(&format!(", weight {weight}"));
    }
    if *max_flows > 0 {
        text.push_str(&format!(", at most {max_flows} flows"));
    }
    if backend.state == Backend::GONE {
        text.push_str(", gone");
    }
    text.push_str(match backend.fate {
        RESET => ", earlier flows are reset",
        RESELECT => ", earlier flows choose anew",
        _ => "",
    });
    text
}

/// What packets to a backend may come from.
pub(crate) fn describe_snat(key: u64, value: &Snat) -> String {
    let source = address(value.address, Be16::new(0)).ip();
    if key as u32 == Snat::CHECKED_VIP {
        return format!("VIP that backend {} is checked at: {source}", key >> 32);
    }
    let last = u32::from(value.first) + u32::from(value.ports) - 1;
    let (backend, first) = (key >> 32, value.first);
    format!("source {} of backend {backend}: {source}, ports {first}-{last}", key as u32)
}

fn host(key: &HostKey) -> IpAddr {
    if key.is_v6 == 0 { V4::unpack(key.address).into() } else { key.address.into() }
}

/// Timeouts in the order of [`State::LIVE`], then what is not the default.
pub(crate) fn describe_policy(policy: &Policy) -> String {
    const UNKNOWN: [(u8, &str); 2] =
        [(OnUnknown::Reset as u8, "reset"), (OnUnknown::Drop as u8, "drop")];
    const EMPTY: [(u8, &str); 2] = [(OnEmpty::Drop as u8, "drop"), (OnEmpty::Pass as u8, "pass")];
    const FULL: [(u8, &str); 1] = [(OnFull::Drop as u8, "drop")];
    const HASH: u8 = Fragments::Hash as u8;
    const DROP: u8 = Fragments::Drop as u8;
    let timeout = |state: &State| {
        let timeout = rounded(policy.timeouts[*state as usize]);
        format!("{} {}", state.name(), humantime::format_duration(timeout))
    };
    let mut parts: Vec<String> = State::LIVE.iter().map(timeout).collect();
    for (name, value, words) in [
        ("unknown", policy.on_unknown, &UNKNOWN[..]),
        ("empty", policy.on_empty, &EMPTY),
        ("full", policy.on_full, &FULL),
    ] {
        let word = words.iter().find(|(number, _)| *number == value);
        parts.extend(word.map(|(_, word)| format!("on {name} {word}")));
    }
    match policy.fragments {
        HASH => parts.push("fragments by hash".to_owned()),
        DROP => parts.push("no fragments".to_owned()),
        _ => {}
    }
    if policy.switches & Policy::ROUTES != 0 {
        parts.push("routes by source".to_owned());
    }
    match policy.mss {
        Policy::MSS_ANY => {}
        Policy::MSS_FITS => parts.push("MSS that fits".to_owned()),
        bytes => parts.push(format!("MSS {bytes} at most")),
    }
    if policy.max_flows > 0 {
        parts.push(format!("at most {} flows", policy.max_flows));
    }
    if policy.switches & Policy::RESET_ON_EXPIRY != 0 {
        parts.push("reset on expiry".to_owned());
    }
    if policy.switches & Policy::EVENTS == 0 {
        parts.push("no events".to_owned());
    }
    parts.extend(describe_limits(&policy.limits));
    parts.join(", ")
}

/// What is limited.
fn describe_limits(limits: &Limits) -> Vec<String> {
    let mut parts = Vec::new();
    let Rate { rate, burst } = limits.source;
    if rate > 0 {
        let Limits { prefix_v4, prefix_v6, .. } = limits;
        let of = format!("each /{prefix_v4} of IPv4 and /{prefix_v6} of IPv6");
        parts.push(format!("{rate} new flows a second of {of}, {burst} at once"));
    }
    let Rate { rate, burst } = limits.backend;
    if rate > 0 {
        parts.push(format!("{rate} new flows a second for each backend, {burst} at once"));
    }
    for (flag, what) in [
        (Limits::OWN_LIST, "prefixes of its own are listed"),
        (Limits::COMMON_LIST, "prefixes are listed for all services"),
        (Limits::LISTED_ONLY, "others are denied"),
    ] {
        if limits.lists & flag != 0 {
            parts.push(what.to_owned());
        }
    }
    parts
}

/// What a backend's replies of no flow go out from.
pub(crate) fn describe_reply(key: &ServiceKey, value: &Reply) -> String {
    let vip = target::text(address(value.vip, value.port));
    if key.vip().port() != 0 {
        return format!("{}: from {vip}", replies_of(key));
    }
    let (first, last) = (value.first, value.last);
    format!("{}: ports {first}-{last} from {vip}", replies_of(key))
}

fn replies_of(key: &ServiceKey) -> String {
    format!("replies of {}/{}", target::text(key.vip()), key.protocol_name())
}

/// Of the milliseconds that come to so many ticks, one or two, those that people write.
fn rounded(ticks: u32) -> Duration {
    let milliseconds = |ticks: u32| (u64::from(ticks) << 20) / 1_000_000;
    let last = milliseconds(ticks);
    let mut all = milliseconds(ticks.saturating_sub(1)) + 1..=last;
    Duration::from_millis(all.find(|all| all.is_multiple_of(10)).unwrap_or(last))
}

/// Entries do not say their family; no IPv6 host has an address of zeros after the first 32 bits.
fn address(packed: V6, port: Be16) -> SocketAddr {
    let narrow = V4::unpack(packed);
    let address = if narrow.pack() == packed { IpAddr::from(narrow) } else { packed.into() };
    SocketAddr::new(address, port.get())
}

fn pick(number: u32) -> String {
    let picked = match Pick::from_number(number) {
        Pick::Hash => "hash".to_owned(),
        Pick::Random => "random".to_owned(),
        Pick::Turn => "in turn".to_owned(),
        Pick::Fewest => "fewest flows".to_owned(),
        Pick::Source { bits } => format!("source /{bits}"),
    };
    if number & Pool::STREAMED != 0 { picked + ", streamed" } else { picked }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_told_as_they_were_written() {
        for milliseconds in [100, 110, 500, 1_000, 10_000, 30_000, 120_000, 7_500_000, 604_800_000]
        {
            let written = Duration::from_millis(milliseconds);
            let ticks = written.as_nanos().div_ceil(1 << 20) as u32;
            assert_eq!(rounded(ticks), written);
        }
        assert_eq!(rounded(0), Duration::ZERO);
    }
}

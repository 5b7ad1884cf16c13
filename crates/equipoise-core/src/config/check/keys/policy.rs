//! The keys that say how flows are treated: timeouts and limits.

use super::{Absent, Key, Kind, PREFIXES, Table, duration, number};
use crate::config::check::{limits, policy};

/// How long flows live without a packet.
pub(in crate::config) static TIMEOUTS: Table = Table {
    home: "`timeouts`",
    doc: "How long flows live without a packet in either direction.",
    keys: &[
        Key {
            name: "tcp-opening",
            kind: duration(&policy::TIMEOUT),
            absent: Absent::Value("\"10s\""),
            doc: "TCP, until the client has acknowledged the backend's SYN.",
        },
        Key {
            name: "tcp-established",
            kind: duration(&policy::TIMEOUT),
            absent: Absent::Value("\"2h 5m\""),
            doc: "TCP, from then on.",
        },
        Key {
            name: "tcp-closing",
            kind: duration(&policy::TIMEOUT),
            absent: Absent::Value("\"30s\""),
            doc: "TCP, after both ends have finished or one has reset.",
        },
        Key {
            name: "udp-one-way",
            kind: duration(&policy::TIMEOUT),
            absent: Absent::Value("\"30s\""),
            doc: "UDP, until the client has sent again after an answer.",
        },
        Key {
            name: "udp-two-way",
            kind: duration(&policy::TIMEOUT),
            absent: Absent::Value("\"2m\""),
            doc: "UDP, from then on.",
        },
        Key {
            name: "reset-on-expiry",
            kind: Kind::Boolean,
            absent: Absent::Value("false"),
            doc: "`true` sends a RST to both ends of an established TCP flow that was silent for too long.",
        },
    ],
};

/// Who may open flows, and how many.
pub(in crate::config) static LIMITS: Table = Table {
    home: "`limits`",
    doc: "Who may open flows, and how many. Those of a service win over those of `settings`, key by key; lists add up.",
    keys: &[
        Key {
            name: "per-source",
            kind: Kind::Table(&PER_SOURCE),
            absent: Absent::Words("no limit"),
            doc: "New flows of each source.",
        },
        Key {
            name: "per-backend",
            kind: Kind::Table(&PER_BACKEND),
            absent: Absent::Words("no limit"),
            doc: "New flows of each backend.",
        },
        Key {
            name: "allow",
            kind: Kind::List(&PREFIXES),
            absent: Absent::Value("[]"),
            doc: "Sources that are let in; if there are any, others are not. 131072 prefixes in all lists.",
        },
        Key {
            name: "deny",
            kind: Kind::List(&PREFIXES),
            absent: Absent::Value("[]"),
            doc: "Sources that are not let in, and whose flows are ended. The longest prefix decides, and a tie denies.",
        },
    ],
};

/// New flows of each source.
pub(in crate::config) static PER_SOURCE: Table = Table {
    home: "`per-source`",
    doc: "New flows of each source.",
    keys: &[
        RATE,
        BURST,
        Key {
            name: "prefix",
            kind: Kind::Table(&SOURCE_PREFIX),
            absent: Absent::Words("{ v4 = 32, v6 = 64 }"),
            doc: "Addresses with so many first bits in common are one source.",
        },
    ],
};

/// New flows of each backend.
pub(in crate::config) static PER_BACKEND: Table =
    Table { home: "`per-backend`", doc: "New flows of each backend.", keys: &[RATE, BURST] };

/// Which addresses are one source.
pub(in crate::config) static SOURCE_PREFIX: Table = Table {
    home: "`prefix`",
    doc: "First bits of an address that tell one source from another.",
    keys: &[
        Key {
            name: "v4",
            kind: number!(limits::PREFIX_V4),
            absent: Absent::Words("32"),
            doc: "Of an IPv4 address.",
        },
        Key {
            name: "v6",
            kind: number!(limits::PREFIX_V6),
            absent: Absent::Words("64"),
            doc: "Of an IPv6 address.",
        },
    ],
};

const RATE: Key = Key {
    name: "rate",
    kind: number!(limits::RATE),
    absent: Absent::Words("that of `settings`; none there: no limit"),
    doc: "In a second; 0 for no limit.",
};

const BURST: Key = Key {
    name: "burst",
    kind: number!(limits::BURST),
    absent: Absent::Words("that of `settings`; none there: twice the rate"),
    doc: "At once.",
};

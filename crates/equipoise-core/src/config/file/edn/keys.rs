//! The keys of EDN files, in the words of the system that they are of: what each takes, what holds without it, and what it becomes here.
//!
//! The one list of them: types and ranges are checked by it, and `docs/edn.md` is made of it.

/// A map of the file.
#[derive(Debug)]
pub struct Table {
    /// Where it stands.
    pub home: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// A key.
#[derive(Debug)]
pub struct Key {
    /// Its name, without the colon.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What holds without it, as it is written.
    pub default: &'static str,
    /// What it becomes.
    pub becomes: &'static str,
}

/// What a key takes.
#[derive(Debug)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A whole number, from the one to the other.
    Number(i64, i64),
    /// One of these keywords; a text of the same letters will do.
    Word(&'static [&'static str]),
    /// A text that is not blank.
    Text,
    /// A text that begins with `/`.
    Path,
    /// A text of so many characters, or `nil`.
    Secret(usize),
    /// A list of whole numbers, at least one.
    Numbers,
    /// A list of texts, or `nil`.
    Texts,
    /// A map.
    Map(&'static Table),
    /// A list of maps, from so many to so many.
    Maps(&'static Table, usize, usize),
    /// A map, or a list of them.
    OneOrMore(&'static Table),
}

impl Table {
    /// The key of a name.
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The maps in it.
    pub fn inner(&self) -> impl Iterator<Item = &'static Self> {
        self.keys.iter().filter_map(|key| match key.kind {
            Kind::Map(table) | Kind::Maps(table, ..) | Kind::OneOrMore(table) => Some(table),
            _ => None,
        })
    }
}

const fn key(name: &'static str, kind: Kind, default: &'static str, becomes: &'static str) -> Key {
    Key { name, kind, default, becomes }
}

const NEEDED: &str = "required";
const NOT_SERVED: &str = "not served yet";

/// The file.
pub static FILE: Table = Table {
    home: "the file",
    keys: &[
        key("proxies", Kind::Maps(&PROXY, 1, usize::MAX), NEEDED, "`service`"),
        key("settings", Kind::Map(&SETTINGS), "{}", "`settings`"),
    ],
};

pub(super) static PROXY: Table = Table {
    home: "an entry of `proxies`",
    keys: &[
        key("name", Kind::Text, NEEDED, "`service.name`; no two may have one name"),
        key(
            "listen",
            Kind::Map(&LISTEN),
            NEEDED,
            "`service.listen`, on the interfaces' own addresses, `protocol = \"both\"`",
        ),
        key("default-target", Kind::OneOrMore(&TARGET), NEEDED, "`service.backends`"),
        key(
            "source-routes",
            Kind::Maps(&SOURCE_ROUTE, 0, usize::MAX),
            "[]",
            "`service.source-route`",
        ),
        key("sni-routes", Kind::Maps(&SNI_ROUTE, 0, usize::MAX), "[]", "`service.name-route`"),
        key("session-persistence", Kind::Boolean, "false", "`service.affinity = \"source-ip\"`"),
        key("health-check", Kind::Map(&CHECK), "none", "`service.health-check`"),
    ],
};

pub(super) static LISTEN: Table = Table {
    home: "`listen`",
    keys: &[
        key(
            "interfaces",
            Kind::Texts,
            NEEDED,
            "`listen.interfaces`; any name that the kernel takes",
        ),
        key("port", Kind::Number(1, 65_535), NEEDED, "`listen.port`, TCP and UDP"),
    ],
};

pub(super) static TARGET: Table = Table {
    home: "a target",
    keys: &[
        key("ip", Kind::Text, "`ip` or `host` is required", "`address`, IPv4 or IPv6"),
        key("host", Kind::Text, "none", "`host`"),
        key("port", Kind::Number(1, 65_535), NEEDED, "the port of `address`"),
        key(
            "weight",
            Kind::Number(1, 100),
            "100; required and 100 in sum with several targets",
            "`weight`",
        ),
        key("health-check", Kind::Map(&CHECK), "none", "`health-check`"),
        key("proxy-protocol", Kind::Word(&["v2"]), "none", "`proxy-protocol`"),
        key("dns-refresh-seconds", Kind::Number(1, 3_600), "30", "`refresh`, with `host`"),
    ],
};

pub(super) static SOURCE_ROUTE: Table = Table {
    home: "an entry of `source-routes`",
    keys: &[
        key(
            "source",
            Kind::Text,
            NEEDED,
            "`source`: an address, a prefix, whose bits beyond it are taken away, or the name of a host, which stands for all its addresses as they change",
        ),
        TARGET_OF_ROUTE,
        TARGETS_OF_ROUTE,
        key("session-persistence", Kind::Boolean, "false", "`affinity`"),
    ],
};

pub(super) static SNI_ROUTE: Table = Table {
    home: "an entry of `sni-routes`",
    keys: &[
        key(
            "sni-hostname",
            Kind::Text,
            NEEDED,
            "`names`, of this one alone: letters, digits, hyphens and points, in lower case",
        ),
        TARGET_OF_ROUTE,
        TARGETS_OF_ROUTE,
        key("session-persistence", Kind::Boolean, "false", "`affinity`"),
    ],
};

const TARGET_OF_ROUTE: Key =
    key("target", Kind::Map(&TARGET), "`target` or `targets` is required", "`backends`");
const TARGETS_OF_ROUTE: Key =
    key("targets", Kind::Maps(&TARGET, 1, 8), "`target` or `targets` is required", "`backends`");

pub(super) static CHECK: Table = Table {
    home: "`health-check`",
    keys: &[
        key(
            "type",
            Kind::Word(&["tcp", "http", "https", "none"]),
            ":tcp",
            "`type`; `:http` and `:https` with `follow-redirects = true`",
        ),
        key("path", Kind::Path, "\"/health\"", "`path`"),
        key("interval-ms", Kind::Number(1_000, 300_000), "10000", "`interval`"),
        key("timeout-ms", Kind::Number(100, 60_000), "3000", "`timeout`"),
        key("healthy-threshold", Kind::Number(1, 10), "2", "`healthy-threshold`"),
        key("unhealthy-threshold", Kind::Number(1, 10), "3", "`unhealthy-threshold`"),
        key("expected-codes", Kind::Numbers, "[200 201 202 204]", "`expected-codes`"),
    ],
};

pub(super) static SETTINGS: Table = Table {
    home: "`settings`",
    keys: &[
        key("stats-enabled", Kind::Boolean, "false", "`settings.events`"),
        key(
            "connection-timeout-sec",
            Kind::Number(1, 604_800),
            "300",
            "`timeouts.tcp-established` and `.udp-two-way` of each service, and the others where they are longer",
        ),
        key("max-connections", Kind::Number(1, 64_000_000), "100000", "`settings.max-flows`"),
        key(
            "health-check-enabled",
            Kind::Boolean,
            "false",
            "`true`: `settings.health-check`; `false`: no checks",
        ),
        key(
            "health-check-defaults",
            Kind::Map(&CHECK),
            "as there",
            "`settings.health-check`, to which the others are added key by key",
        ),
        key(
            "default-drain-timeout-ms",
            Kind::Number(1_000, 3_600_000),
            "30000",
            "`settings.drain.timeout`",
        ),
        key(
            "drain-check-interval-ms",
            Kind::Number(100, 60_000),
            "1000",
            "nothing: a drain is over when its last flow is",
        ),
        key("rate-limits", Kind::Map(&RATES), "none", "`settings.limits`"),
        key("metrics", Kind::Map(&METRICS), "none", "`settings.metrics`"),
        key("circuit-breaker", Kind::Map(&BREAKER), "none", "`settings.breaker`"),
        key(
            "load-balancing",
            Kind::Map(&BALANCING),
            "none",
            "`algorithm` of each service, `settings.least-connections`",
        ),
        key(
            "access-log",
            Kind::Map(&LOG),
            "none",
            "`settings.access-log`, with `stdout = true` and `opened = true`; and `settings.events = true`",
        ),
        key("admin-api", Kind::Map(&ADMIN), "none", "`settings.admin`"),
        key("cluster", Kind::Map(&CLUSTER), "none", NOT_SERVED),
    ],
};

pub(super) static RATES: Table = Table {
    home: "`rate-limits`",
    keys: &[
        key("per-source", Kind::Map(&RATE), "none", "`limits.per-source`"),
        key("per-backend", Kind::Map(&RATE), "none", "`limits.per-backend`"),
    ],
};

pub(super) static RATE: Table = Table {
    home: "`per-source` and `per-backend`",
    keys: &[
        key("requests-per-sec", Kind::Number(1, 1_000_000), NEEDED, "`rate`: new flows"),
        key("burst", Kind::Number(1, 2_000_000), "twice the rate", "`burst`"),
    ],
};

pub(super) static METRICS: Table = Table {
    home: "`metrics`",
    keys: &[
        key("enabled", Kind::Boolean, "false", "`true`: `settings.metrics`"),
        key("port", Kind::Number(1_024, 65_535), "9090", "`listen`, on all addresses"),
        key("path", Kind::Path, "\"/metrics\"", "`path`, where it is one for metrics"),
    ],
};

pub(super) static BREAKER: Table = Table {
    home: "`circuit-breaker`",
    keys: &[
        key(
            "enabled",
            Kind::Boolean,
            "false",
            "`true`: `settings.breaker`, with `max-ejected = 100`",
        ),
        key("error-threshold-pct", Kind::Number(1, 100), "50", "`error-threshold`"),
        key("min-requests", Kind::Number(1, 10_000), "10", "`min-requests`"),
        key("open-duration-ms", Kind::Number(1_000, 600_000), "30000", "`open-for`"),
        key("half-open-requests", Kind::Number(1, 100), "3", "`half-open-successes`"),
        key("window-size-ms", Kind::Number(1_000, 300_000), "60000", "`window`"),
    ],
};

pub(super) static BALANCING: Table = Table {
    home: "`load-balancing`",
    keys: &[
        key(
            "algorithm",
            Kind::Word(ALGORITHMS),
            ":weighted-random",
            "`algorithm` of each service: `random`, `least-connections-weights`",
        ),
        key("lb-algorithm", Kind::Word(ALGORITHMS), "none", "the same, and wins"),
        key("weighted", Kind::Boolean, "true", "`settings.least-connections.weighted`"),
        key("lb-weighted", Kind::Boolean, "none", "the same, and wins"),
        key(
            "update-interval-ms",
            Kind::Number(100, 10_000),
            "1000",
            "`settings.least-connections.update-interval`",
        ),
        key("lb-update-interval-ms", Kind::Number(100, 10_000), "none", "the same, and wins"),
    ],
};

const ALGORITHMS: &[&str] = &["weighted-random", "least-connections"];

pub(super) static LOG: Table = Table {
    home: "`access-log`",
    keys: &[
        key("enabled", Kind::Boolean, "false", "`true`: `settings.access-log`"),
        key("format", Kind::Word(&["json", "clf"]), ":json", "`format`"),
        key("access-log-format", Kind::Word(&["json", "clf"]), "none", "the same, and wins"),
        key(
            "path",
            Kind::Text,
            "\"logs/access.log\"",
            "`path`; one that is not whole is below `/var/log/equipoise`",
        ),
        key("max-file-size-mb", Kind::Number(1, 1_024), "100", "`max-size-mb`"),
        key("max-files", Kind::Number(1, 100), "10", "`max-files`"),
        key(
            "buffer-size",
            Kind::Number(100, 100_000),
            "10000",
            "nothing: the queue has a size of its own",
        ),
    ],
};

pub(super) static ADMIN: Table = Table {
    home: "`admin-api`",
    keys: &[
        key("enabled", Kind::Boolean, "false", "`true`: `settings.admin`, by its own paths"),
        key(
            "port",
            Kind::Number(1_024, 65_535),
            "8081",
            "`listen`, on 127.0.0.1 alone and with a warning: all addresses take TLS",
        ),
        key(
            "api-key",
            Kind::Secret(8),
            "nil",
            "`keys`, of the name `api-key`, with `scope = \"write\"`; of fewer than 16 characters it is a warning, and nobody listens",
        ),
        key(
            "allowed-origins",
            Kind::Texts,
            "nil",
            "`allowed-origins`; what is not the origin of a page is a warning",
        ),
    ],
};

pub(super) static CLUSTER: Table = Table {
    home: "`cluster`",
    keys: &[
        key("enabled", Kind::Boolean, "false", NOT_SERVED),
        key("node-id", Kind::Text, "\"auto\"", NOT_SERVED),
        key("bind-address", Kind::Text, "\"0.0.0.0\"", NOT_SERVED),
        key("bind-port", Kind::Number(1, 65_535), "7946", NOT_SERVED),
        key("seeds", Kind::Texts, "[]", NOT_SERVED),
        key("gossip-interval-ms", Kind::Number(50, 10_000), "200", NOT_SERVED),
        key("gossip-fanout", Kind::Number(1, 10), "2", NOT_SERVED),
        key("push-pull-interval-ms", Kind::Number(1_000, 60_000), "10000", NOT_SERVED),
        key("ping-interval-ms", Kind::Number(100, 30_000), "1000", NOT_SERVED),
        key("ping-timeout-ms", Kind::Number(50, 10_000), "500", NOT_SERVED),
        key("ping-req-count", Kind::Number(1, 10), "3", NOT_SERVED),
        key("suspicion-mult", Kind::Number(1, 10), "3", NOT_SERVED),
        key("sync-health", Kind::Boolean, "true", NOT_SERVED),
        key("sync-circuit-breaker", Kind::Boolean, "true", NOT_SERVED),
        key("sync-drain", Kind::Boolean, "true", NOT_SERVED),
        key("sync-conntrack", Kind::Boolean, "true", NOT_SERVED),
    ],
};

//! The keys of a service, of where it listens, of its backends and routes.

use equipoise_common::limit;

use super::health::{BREAKER, HEALTH_CHECK, PANIC, RECOVERY};
use super::policy::{LIMITS, TIMEOUTS};
use super::{Absent, Form, INTERFACES, Key, Kind, List, Table, duration, number, word};
use crate::config::check::{affinity, delivery, named, policy, service, stream};

/// A service.
pub(in crate::config) static SERVICE: Table = Table {
    home: "`service`",
    doc: "What clients connect to, and where it leads.",
    keys: &[
        Key {
            name: "name",
            kind: Kind::Text(&NAME),
            absent: Absent::Required,
            doc: "What it is called; no two services have one name.",
        },
        Key {
            name: "listen",
            kind: Kind::Table(&LISTEN),
            absent: Absent::Required,
            doc: "Where clients connect to.",
        },
        Key {
            name: "manage-address",
            kind: Kind::Boolean,
            absent: Absent::Value("false"),
            doc: "`true` puts `listen.address` on the first interface at start, unless one has it, and takes it away at stop.",
        },
        ALGORITHM,
        AFFINITY,
        PREFIX,
        Key {
            name: "mode",
            kind: word!(delivery::MODES),
            absent: Absent::Value("\"nat\""),
            doc: "How packets get to the backends, and what they look like there.",
        },
        Key {
            name: "snat-addresses",
            kind: Kind::List(&ADDRESSES),
            absent: Absent::Value("[]"),
            doc: "The addresses that packets come from with `full-nat`; none: the egress interface's own.",
        },
        Key {
            name: "mss-clamp",
            kind: Kind::Either(&[Kind::Word(&["auto", "off"]), number!(delivery::MSS)]),
            absent: Absent::Value("\"auto\""),
            doc: "The largest TCP segment that ends may ask each other for, in bytes: `\"auto\"` is what fits through a tunnel, and else what they like.",
        },
        Key {
            name: "on-backend-down",
            kind: word!(policy::DOWN),
            absent: Absent::Value("\"keep\""),
            doc: "TCP flows of a backend that is down. UDP flows always choose anew.",
        },
        Key {
            name: "on-backend-removed",
            kind: word!(policy::REMOVED),
            absent: Absent::Value("\"keep\""),
            doc: "TCP flows of a backend that has left the file. UDP flows always choose anew.",
        },
        Key {
            name: "on-unknown",
            kind: word!(policy::UNKNOWN),
            absent: Absent::Value("\"hash\""),
            doc: "TCP packets of no flow that open none.",
        },
        Key {
            name: "on-empty",
            kind: word!(policy::EMPTY),
            absent: Absent::Value("\"reset\""),
            doc: "New flows for which there is no backend: `\"reset\"` is a RST, and for UDP a port unreachable.",
        },
        Key {
            name: "on-full",
            kind: word!(policy::FULL),
            absent: Absent::Value("\"hash\""),
            doc: "New flows for which the flow table has no room.",
        },
        Key {
            name: "fragments",
            kind: word!(policy::FRAGMENTS),
            absent: Absent::Value("\"track\""),
            doc: "Fragments: they follow the first of their packet, or flows are picked by the client's address alone, or they are dropped.",
        },
        Key {
            name: "max-flows",
            kind: number!(policy::MAX_FLOWS),
            absent: Absent::Value("0"),
            doc: "Live flows of the service, 0 for no limit of its own: beyond it, `on-empty`.",
        },
        Key {
            name: "timeouts",
            kind: Kind::Table(&TIMEOUTS),
            absent: Absent::Value("{}"),
            doc: "How long flows live without a packet.",
        },
        Key {
            name: "limits",
            kind: Kind::Table(&LIMITS),
            absent: Absent::Words("those of `settings`"),
            doc: "Who may open flows, and how many.",
        },
        CHECK,
        RECOVERS,
        PANICS,
        BREAKS,
        Key {
            name: "backends",
            kind: Kind::List(&BACKENDS),
            absent: Absent::Required,
            doc: "Where packets go: each address once, not all of weight 0.",
        },
        Key {
            name: "source-route",
            kind: Kind::List(&ROUTES),
            absent: Absent::Value("[]"),
            doc: "Clients with backends of their own: the longest prefix decides. With those by name 4096 in all services.",
        },
        Key {
            name: "name-route",
            kind: Kind::List(&NAME_ROUTES),
            absent: Absent::Value("[]"),
            doc: "Servers with backends of their own, for clients whose source has no route and whose TLS connection names one: this host takes up \
                  the TCP connections of the service that have no route by source, reads the name and goes on from here. In mode `nat` or `full-nat`.",
        },
    ],
};

/// Where a service listens.
pub(in crate::config) static LISTEN: Table = Table {
    home: "`listen`",
    doc: "Where clients connect to.",
    keys: &[
        Key {
            name: "interfaces",
            kind: Kind::List(&INTERFACES),
            absent: Absent::Required,
            doc: "Where packets come in, each once. They must exist at start.",
        },
        Key {
            name: "address",
            kind: Kind::Text(&ADDRESS),
            absent: Absent::Words(
                "the interfaces' own addresses, both families, followed as they change",
            ),
            doc: "The VIP: one unicast address. Link-local addresses of IPv6 (`fe80::/10`) are not among an interface's own.",
        },
        Key {
            name: "port",
            kind: Kind::Either(&[
                Kind::Number(1, 65_535),
                Kind::List(&PORTS),
                Kind::Text(&PORT_RANGE),
            ]),
            absent: Absent::Required,
            doc: "The ports. `\"all\"` needs `address`, and none that the machine itself is known by.",
        },
        Key {
            name: "protocol",
            kind: word!(service::PROTOCOLS),
            absent: Absent::Value("\"tcp\""),
            doc: "Which protocols are balanced.",
        },
    ],
};

/// A backend.
pub(in crate::config) static BACKEND: Table = Table {
    home: "an entry of `backends`",
    doc: "Where packets go.",
    keys: &[
        Key {
            name: "address",
            kind: Kind::Text(&BACKEND_ADDRESS),
            absent: Absent::Words("`host` or `srv` in its place"),
            doc: "Address and port; an address alone keeps the port that the client has sent to. No VIP of ours.",
        },
        Key {
            name: "host",
            kind: Kind::Text(&HOST),
            absent: Absent::Words("`address` or `srv` in its place"),
            doc: "In place of `address`: a backend for each address of this host, looked up again and again.",
        },
        Key {
            name: "srv",
            kind: Kind::Text(&SRV),
            absent: Absent::Words("`address` or `host` in its place"),
            doc: "In place of `address`: a backend for each address and port of these SRV records, with their weights; those of later priorities \
                  stand by. Not where packets keep the port of the VIP.",
        },
        Key {
            name: "port",
            kind: number!(named::PORT),
            absent: Absent::Words("the port that the client has sent to"),
            doc: "With `host`: the port of its backends.",
        },
        Key {
            name: "refresh",
            kind: duration(&named::REFRESH),
            absent: Absent::Words("as long as answers say, within `settings.dns`"),
            doc: "With `host` or `srv`: how often it is looked up, 10 percent more or less.",
        },
        Key {
            name: "weight",
            kind: Kind::Number(0, u16::MAX as u64),
            absent: Absent::Value("1"),
            doc: "Its share of new flows, which a name divides among its addresses; 0 keeps its flows and gets no new ones.",
        },
        Key {
            name: "backup",
            kind: Kind::Boolean,
            absent: Absent::Value("false"),
            doc: "`true`: chosen only when no other is usable.",
        },
        Key {
            name: "max-flows",
            kind: number!(policy::MAX_FLOWS),
            absent: Absent::Value("0"),
            doc: "Live flows, 0 for no limit: the next new flow goes to another backend.",
        },
        Key {
            name: "proxy-protocol",
            kind: word!(stream::PROXY_PROTOCOLS),
            absent: Absent::Words("it is told nothing"),
            doc: "The backend is told who has connected, by this header before the first byte of each TCP connection: this host takes up those of \
                  its pool and goes on from here. In mode `nat` or `full-nat`.",
        },
        CHECK,
    ],
};

/// The keys of a route: what leads to it, and what it has like its service.
const fn of_route(head: Key) -> [Key; 9] {
    [
        head,
        Key { absent: OF_SERVICE, ..ALGORITHM },
        Key { absent: OF_SERVICE, ..AFFINITY },
        Key { absent: OF_SERVICE, ..PREFIX },
        CHECK,
        Key { absent: OF_SERVICE, ..RECOVERS },
        Key { absent: OF_SERVICE, ..PANICS },
        Key { absent: OF_SERVICE, ..BREAKS },
        Key {
            name: "backends",
            kind: Kind::List(&BACKENDS),
            absent: Absent::Required,
            doc: "Where their packets go.",
        },
    ]
}

/// A route by source.
pub(in crate::config) static SOURCE_ROUTE: Table = Table {
    home: "an entry of `source-route`",
    doc: "Clients with backends of their own. What it does not say, its service says.",
    keys: &of_route(Key {
        name: "source",
        kind: Kind::Either(&[Kind::Text(&SOURCE), Kind::List(&SOURCES)]),
        absent: Absent::Required,
        doc: "Which clients: each prefix once in a service; 131072 in all. A name is all of its addresses, followed as they change.",
    }),
};

/// A route by the name of a server.
pub(in crate::config) static NAME_ROUTE: Table = Table {
    home: "an entry of `name-route`",
    doc: "Servers with backends of their own. What it does not say, its service says.",
    keys: &of_route(Key {
        name: "names",
        kind: Kind::List(&NAMES),
        absent: Absent::Required,
        doc: "Which names in TLS (SNI), whatever the case: each once in a service. `*.` and a name is all that end so, and the longest decides.",
    }),
};

/// How much of an address tells clients from each other.
pub(in crate::config) static AFFINITY_PREFIX: Table = Table {
    home: "`affinity-prefix`",
    doc: "Bits of an address that tell one client from another, where they are kept together.",
    keys: &[
        Key {
            name: "v4",
            kind: Kind::Number(1, 32),
            absent: Absent::Words("32, or as above"),
            doc: "Of an IPv4 address.",
        },
        Key {
            name: "v6",
            kind: Kind::Number(1, 128),
            absent: Absent::Words("128, or as above"),
            doc: "Of an IPv6 address.",
        },
    ],
};

const OF_SERVICE: Absent = Absent::Words("the service's");

const ALGORITHM: Key = Key {
    name: "algorithm",
    kind: word!(affinity::ALGORITHMS),
    absent: Absent::Value("\"maglev\""),
    doc: "How a backend is picked for a new flow: by the hash of the five-tuple, at random, in turn, of two at random the one with fewer live \
          flows for its weight, or at random by weights that are computed anew from live flows.",
};

const AFFINITY: Key = Key {
    name: "affinity",
    kind: word!(affinity::AFFINITIES),
    absent: Absent::Value("\"none\""),
    doc: "`\"source-ip\"`: all flows of a client's address go to one backend, picked by its hash in place of `algorithm`.",
};

const PREFIX: Key = Key {
    name: "affinity-prefix",
    kind: Kind::Table(&AFFINITY_PREFIX),
    absent: Absent::Value("{ v4 = 32, v6 = 128 }"),
    doc: "How much of a client's address tells it from others.",
};

const CHECK: Key = Key {
    name: "health-check",
    kind: Kind::Table(&HEALTH_CHECK),
    absent: Absent::Words("that of the table around it; none anywhere: no checks"),
    doc: "How backends are checked. Merged key by key from `settings` to the backend: the nearest wins.",
};

const RECOVERS: Key = Key {
    name: "recovery",
    kind: Kind::Table(&RECOVERY),
    absent: Absent::Words("that of `settings`"),
    doc: "How a backend that has become healthy gets its share again.",
};

const PANICS: Key = Key {
    name: "panic",
    kind: Kind::Table(&PANIC),
    absent: Absent::Words("that of `settings`"),
    doc: "What becomes of a pool of which too few backends are usable.",
};

const BREAKS: Key = Key {
    name: "breaker",
    kind: Kind::Table(&BREAKER),
    absent: Absent::Words("that of `settings`; none there: no breaker"),
    doc: "Takes backends out for their failures.",
};

static NAME: Form = Form {
    words: "at least one character, and no control characters",
    examples: &["web", "a name with spaces, \"quotes\" and ünïcode 名前"],
};
static ADDRESS: Form = Form {
    words: "an IPv4 or IPv6 address without a port",
    examples: &["203.0.113.10", "2001:db8::10"],
};
static BACKEND_ADDRESS: Form = Form {
    words: "`IPv4:PORT`, `[IPv6]:PORT`, or an address alone",
    examples: &["10.0.0.1:8080", "[2001:db8:1::1]:8080", "10.0.0.2", "2001:db8:1::2"],
};
static HOST: Form = Form { words: "the name of a host", examples: &["api.internal", "db"] };
static SRV: Form =
    Form { words: "the name of SRV records", examples: &["_http._tcp.api.internal"] };
static SOURCE: Form = Form {
    words: "a prefix, an address, the name of a host, or after an `@` the whole path of a file with one a line",
    examples: &["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "office.example.com"],
};
static SOURCES: List = List { of: Kind::Text(&SOURCE), least: 0, most: None };
static PORT_RANGE: Form =
    Form { words: "a range such as `8000-8100`, or `all`", examples: &["8000-8100"] };
static ADDRESSES: List =
    List { of: Kind::Text(&ADDRESS), least: 0, most: Some(limit::SNAT_ADDRESSES) };
static PORTS: List = List { of: Kind::Number(1, 65_535), least: 1, most: None };
static BACKENDS: List =
    List { of: Kind::Table(&BACKEND), least: 1, most: Some(limit::POOL_BACKENDS) };
static SERVER_NAME: Form = Form {
    words: "the name of a server, or `*.` and a name for all that end so",
    examples: &["api.example.com", "*.example.com"],
};
static NAMES: List = List { of: Kind::Text(&SERVER_NAME), least: 1, most: None };
static NAME_ROUTES: List = List { of: Kind::Table(&NAME_ROUTE), least: 0, most: None };
static ROUTES: List = List { of: Kind::Table(&SOURCE_ROUTE), least: 0, most: None };

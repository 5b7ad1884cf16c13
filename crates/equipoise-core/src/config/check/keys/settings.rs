//! The keys of the settings.

use super::admin::ADMIN;
use super::health::{BREAKER, DRAIN, HEALTH_CHECK, PANIC, RECOVERY};
use super::otlp::OTLP;
use super::policy::LIMITS;
use super::{
    Absent, Form, INTERFACES, Key, Kind, List, NAME_OF_INTERFACE, Names, Table, duration, number,
    word,
};
use crate::config::check::{log, named, policy, settings};

/// Everything that is not of one service.
pub(in crate::config) static SETTINGS: Table = Table {
    home: "`settings`",
    doc: "Everything that is not of one service.",
    keys: &[
        Key {
            name: "attach",
            kind: Kind::Either(&[word!(settings::ATTACH), Kind::Names(&MODES)]),
            absent: Absent::Value("\"auto\""),
            doc: "Which hook the programs take: for all interfaces, or for each by its name and `default` for the rest.",
        },
        Key {
            name: "backend-interfaces",
            kind: Kind::Either(&[Kind::Word(&["auto"]), Kind::List(&INTERFACES)]),
            absent: Absent::Value("\"auto\""),
            doc: "Where replies come in; `\"auto\"`: by the routes to the backends, followed as they change.",
        },
        Key {
            name: "max-flows",
            kind: number!(settings::MAX_FLOWS),
            absent: Absent::Value("1000000"),
            doc: "Flows that the flow table holds, for each address family. Where it changes, flows are carried over.",
        },
        Key {
            name: "on-exit",
            kind: word!(settings::ON_EXIT),
            absent: Absent::Value("\"detach\""),
            doc: "What a signal that ends the process does: `\"keep\"` lets packets flow on without it.",
        },
        Key {
            name: "events",
            kind: Kind::Boolean,
            absent: Absent::Value("true"),
            doc: "Whether flows that open and close are told.",
        },
        Key {
            name: "exec-checks",
            kind: Kind::Boolean,
            absent: Absent::Value("false"),
            doc: "`true` lets health checks of type `exec` run their commands.",
        },
        Key {
            name: "observe",
            kind: Kind::Boolean,
            absent: Absent::Value("false"),
            doc: "`true`: packets are decided about and counted, and go on as they have come; beside another load balancer.",
        },
        Key {
            name: "health-check",
            kind: Kind::Table(&HEALTH_CHECK),
            absent: Absent::Words("no checks"),
            doc: "How backends are checked where nothing nearer says otherwise.",
        },
        Key {
            name: "recovery",
            kind: Kind::Table(&RECOVERY),
            absent: Absent::Value("{}"),
            doc: "How backends that have become healthy get their shares again where nothing nearer says otherwise.",
        },
        Key {
            name: "panic",
            kind: Kind::Table(&PANIC),
            absent: Absent::Value("{}"),
            doc: "What becomes of pools of which too few backends are usable where nothing nearer says otherwise.",
        },
        Key {
            name: "breaker",
            kind: Kind::Table(&BREAKER),
            absent: Absent::Words("no breaker"),
            doc: "Takes backends of all services out for their failures.",
        },
        Key {
            name: "drain",
            kind: Kind::Table(&DRAIN),
            absent: Absent::Value("{}"),
            doc: "How drains go where nothing else is asked for.",
        },
        Key {
            name: "limits",
            kind: Kind::Table(&LIMITS),
            absent: Absent::Words("no limits"),
            doc: "Who may open flows, and how many, for all services.",
        },
        Key {
            name: "metrics",
            kind: Kind::Table(&METRICS),
            absent: Absent::Words("nothing listens"),
            doc: "A listener for who scrapes metrics.",
        },
        Key {
            name: "otlp",
            kind: Kind::Table(&OTLP),
            absent: Absent::Words("nothing is pushed"),
            doc: "A collector that metrics are pushed to.",
        },
        Key {
            name: "admin",
            kind: Kind::Table(&ADMIN),
            absent: Absent::Words("nothing listens beside the socket"),
            doc: "A listener for the admin API.",
        },
        Key {
            name: "access-log",
            kind: Kind::Table(&ACCESS_LOG),
            absent: Absent::Words("flows are not written"),
            doc: "Writes a line for each flow that has closed.",
        },
        Key {
            name: "log",
            kind: Kind::Table(&LOG),
            absent: Absent::Value("{}"),
            doc: "How what happens is logged.",
        },
        Key {
            name: "dns",
            kind: Kind::Table(&DNS),
            absent: Absent::Value("{}"),
            doc: "How the names of backends and sources are looked up.",
        },
        Key {
            name: "least-connections",
            kind: Kind::Table(&LEAST_CONNECTIONS),
            absent: Absent::Value("{}"),
            doc: "How weights follow live flows.",
        },
    ],
};

static LISTEN: Form =
    Form { words: "an address and a port", examples: &["127.0.0.1:9090", "[::1]:9100"] };

static PATH: Form =
    Form { words: "a path that begins with `/`", examples: &["/metrics", "/lb/metrics"] };

/// Where metrics are to be had.
pub(in crate::config) static METRICS: Table = Table {
    home: "`metrics`",
    doc: "A listener for who scrapes metrics, and for who asks whether this balancer is alive and ready.",
    keys: &[
        Key {
            name: "listen",
            kind: Kind::Text(&LISTEN),
            absent: Absent::Value("\"0.0.0.0:9090\""),
            doc: "Its address and port.",
        },
        Key {
            name: "path",
            kind: Kind::Text(&PATH),
            absent: Absent::Value("\"/metrics\""),
            doc: "The path that is scraped; `/health` and `/ready` are beside it.",
        },
    ],
};

static FILE: Form = Form {
    words: "the whole path of a file",
    examples: &["/var/log/equipoise/access.log", "/srv/flows.log"],
};

/// Where flows that have closed are written.
pub(in crate::config) static ACCESS_LOG: Table = Table {
    home: "`access-log`",
    doc: "A log of flows: a line for each that has closed, written beside the packets' way, which never waits for it. [reference](logs.md)",
    keys: &[
        Key {
            name: "format",
            kind: word!(log::LINE_FORMATS),
            absent: Absent::Value("\"json\""),
            doc: "How a flow is written: an object of JSON, or the common log format of web servers, as far as it fits.",
        },
        Key {
            name: "path",
            kind: Kind::Text(&FILE),
            absent: Absent::Words("no file; needed without `stdout`"),
            doc: "The file. Its folder is made where it is missing. SIGUSR1 has it opened anew.",
        },
        Key {
            name: "stdout",
            kind: Kind::Boolean,
            absent: Absent::Value("false"),
            doc: "Whether standard output gets each line, too.",
        },
        Key {
            name: "max-size-mb",
            kind: number!(log::MAX_SIZE),
            absent: Absent::Value("100"),
            doc: "How large the file grows, in units of 1048576 bytes, before it is put aside as `NAME.1`, the one of before as `NAME.2`, and so on.",
        },
        Key {
            name: "max-files",
            kind: number!(log::MAX_FILES),
            absent: Absent::Value("10"),
            doc: "Files put aside that are kept.",
        },
        Key {
            name: "sample",
            kind: Kind::Decimal(*log::SAMPLE.start(), *log::SAMPLE.end()),
            absent: Absent::Value("1.0"),
            doc: "The part of flows that get a line, each by chance.",
        },
        Key {
            name: "opened",
            kind: Kind::Boolean,
            absent: Absent::Value("false"),
            doc: "Whether a flow gets a line when it opens, too; chosen by the same chance, so that with a `sample` both lines of a flow are there, or none.",
        },
    ],
};

/// How what happens is logged.
pub(in crate::config) static LOG: Table = Table {
    home: "`log`",
    doc: "How what happens is logged. The variable `EQUIPOISE_LOG` and `-v` go before the level. [reference](logs.md)",
    keys: &[
        Key {
            name: "level",
            kind: word!(log::LEVELS),
            absent: Absent::Value("\"info\""),
            doc: "What is worth a line: this and what is worse.",
        },
        Key {
            name: "format",
            kind: word!(log::LOG_FORMATS),
            absent: Absent::Words(
                "`\"journald\"` where standard error is systemd's journal, else `\"text\"`",
            ),
            doc: "Lines for people, objects of JSON, or records of the journal with fields of their own.",
        },
    ],
};

static RESOLVERS: List =
    List { of: Kind::Text(&RESOLVER), least: 0, most: Some(named::MOST_RESOLVERS as u32) };
static RESOLVER: Form = Form {
    words: "an address, with a port unless it is 53",
    examples: &["10.0.0.53", "127.0.0.1:5353", "2001:db8::53"],
};

/// How names are looked up.
pub(in crate::config) static DNS: Table = Table {
    home: "`dns`",
    doc: "How the names of backends and sources are looked up. The last good answer stays until a better one comes.",
    keys: &[
        Key {
            name: "resolvers",
            kind: Kind::List(&RESOLVERS),
            absent: Absent::Value("[]"),
            doc: "Who is asked, for names as they are written; none: the system's resolvers, hosts file and search domains.",
        },
        Key {
            name: "min-ttl",
            kind: duration(&named::REFRESH),
            absent: Absent::Value("\"1s\""),
            doc: "The shortest time that an answer is believed, whatever it says.",
        },
        Key {
            name: "max-ttl",
            kind: duration(&named::REFRESH),
            absent: Absent::Value("\"5m\""),
            doc: "The longest.",
        },
        Key {
            name: "max-shrink",
            kind: number!(named::SHRINK),
            absent: Absent::Value("50"),
            doc: "By how many percent one answer may make the number of addresses smaller; those that are down do not count.",
        },
        Key {
            name: "on-first-failure",
            kind: word!(named::FIRST),
            absent: Absent::Value("\"start\""),
            doc: "What becomes of a configuration with a name that has never been looked up with success: `\"start\"` takes it, with no address for the name yet.",
        },
    ],
};

/// How weights follow live flows.
pub(in crate::config) static LEAST_CONNECTIONS: Table = Table {
    home: "`least-connections`",
    doc: "For `algorithm = \"least-connections-weights\"`: how weights follow live flows.",
    keys: &[
        Key {
            name: "update-interval",
            kind: duration(&policy::TIMEOUT),
            absent: Absent::Value("\"1s\""),
            doc: "How often they are computed anew.",
        },
        Key {
            name: "weighted",
            kind: Kind::Boolean,
            absent: Absent::Value("true"),
            doc: "Whether weight / (1 + flows) counts, or 1 / (1 + flows).",
        },
    ],
};

static MODES: Names = Names { name: &NAME_OF_INTERFACE, of: word!(settings::ATTACH) };
